//! Exits that are no accesses: which of them the plugin is told of, with what, and what its answer means to KVM.

use crate::kvm::{Exit, HypervExit, RunPage};
use outboard_wire::control::{
    EXIT_DEBUG, EXIT_EMULATION_FAILURE, EXIT_HALT, EXIT_HYPERCALL, EXIT_IOAPIC_EOI, EXIT_MSR_RANGES, EXIT_MSR_UNKNOWN,
    EXIT_SYSTEM,
};
use outboard_wire::details::Details;
use outboard_wire::line::{Answer, FILE_REGS, FILE_SREGS, event_kind};

/// What KVM itself gives a guest whose hypercall it does not have: `KVM_ENOSYS` of linux/kvm_para.h, negated.
const NO_SUCH_HYPERCALL: u64 = -1000i64 as u64;

/// What the vCPU thread does about an exit that is no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the plugin and wait for its answer.
    Tell,
    /// Nobody wants to be told any more of what the guest asks for: it is refused to the guest.
    Refuse,
    /// Nothing to do.
    RunOn,
    /// The guest ended.
    End,
}

/// Decides on an exit that is no access; `subscribed` are the plugin's `EXIT_*` bits.
#[cold]
pub fn decide(exit: &Exit, subscribed: u32) -> Action {
    let wanted = match exit {
        // The guest has them only if the plugin gave it Hyper-V.
        Exit::Hyperv(HypervExit::Hcall { .. } | HypervExit::Synic { .. }) => return Action::Tell,
        Exit::X86Rdmsr { .. } | Exit::X86Wrmsr { .. } => EXIT_MSR_RANGES | EXIT_MSR_UNKNOWN,
        Exit::Intr | Exit::IrqWindowOpen => return Action::RunOn,
        Exit::Hlt => EXIT_HALT,
        Exit::Hypercall { .. } => EXIT_HYPERCALL,
        Exit::Debug { .. } => EXIT_DEBUG,
        Exit::IoapicEoi { .. } => EXIT_IOAPIC_EOI,
        Exit::SystemEvent { .. } => EXIT_SYSTEM,
        Exit::InternalError(error) if error.is_emulation_failure() => EXIT_EMULATION_FAILURE,
        _ => return Action::End,
    };
    match exit {
        _ if subscribed & wanted != 0 => Action::Tell,
        // These happen only after a subscription, and may have been on their way when it ended.
        Exit::X86Rdmsr { .. } | Exit::X86Wrmsr { .. } | Exit::Hypercall { .. } => Action::Refuse,
        _ => Action::End,
    }
}

/// The event kind of an exit and the words that go with it.
pub fn describe(exit: &Exit) -> Option<(u8, Details)> {
    Some(match *exit {
        Exit::Hyperv(HypervExit::Hcall { input, params }) => {
            (event_kind::HYPERV_CALL, Details::new(&[input, params[0], params[1]]))
        }
        Exit::Hyperv(HypervExit::Synic { msr, control, evt_page, msg_page }) => {
            (event_kind::HYPERV_SYNIC, Details::new(&[msr.into(), control, evt_page, msg_page]))
        }
        Exit::X86Rdmsr { reason, index } => (event_kind::READ_MSR, Details::new(&[index.into(), reason.into()])),
        Exit::X86Wrmsr { reason, index, data } => {
            (event_kind::WRITE_MSR, Details::new(&[index.into(), reason.into(), data]))
        }
        Exit::Hlt => (event_kind::HALT, Details::default()),
        Exit::Hypercall { nr, args: [a, b, c, d, e, f], flags } => {
            (event_kind::HYPERCALL, Details::new(&[nr, a, b, c, d, e, f, flags]))
        }
        Exit::Debug { exception, pc, dr6, dr7 } => (event_kind::DEBUG, Details::new(&[exception.into(), pc, dr6, dr7])),
        Exit::IoapicEoi { vector } => (event_kind::IOAPIC_EOI, Details::new(&[vector.into()])),
        Exit::SystemEvent { kind, ndata, data } => {
            let mut words = [0; 17];
            words[0] = kind.into();
            words[1..].copy_from_slice(&data);
            (event_kind::SYSTEM, Details::new(&words[..1 + (ndata as usize).min(data.len())]))
        }
        Exit::InternalError(error) if error.is_emulation_failure() => {
            let code = error.instruction().unwrap_or_default();
            let mut bytes = [0; 16];
            bytes[..code.len()].copy_from_slice(code);
            let [low, high] = bytemuck::cast(bytes);
            (event_kind::EMULATION_FAILURE, Details::new(&[code.len() as u64, low, high]))
        }
        _ => return None,
    })
}

/// Register files that travel with an exit, wanted or not: who carries an instruction out needs them in any case.
pub fn files(exit: &Exit) -> u8 {
    if matches!(exit, Exit::InternalError(_)) { FILE_REGS | FILE_SREGS } else { 0 }
}

/// True if the plugin's answer ends the guest: it cannot carry out the instruction either.
pub fn gives_up(exit: &Exit, answer: &Answer) -> bool {
    matches!(exit, Exit::InternalError(_)) && answer.count != 0
}

/// Gives the plugin's answer to KVM: `data` is a result, `count` other than 0 a fault of the guest.
pub fn answer(page: &mut RunPage, exit: &Exit, answer: &Answer) {
    match exit {
        Exit::Hyperv(HypervExit::Hcall { .. }) => page.set_hyperv_result(answer.data),
        Exit::Hypercall { .. } => page.set_hypercall_result(answer.data),
        Exit::X86Rdmsr { .. } => {
            page.set_msr_data(answer.data);
            page.set_msr_error(answer.count != 0);
        }
        Exit::X86Wrmsr { .. } => page.set_msr_error(answer.count != 0),
        _ => {}
    }
}

/// Refuses to the guest what nobody serves any more.
pub fn refuse(page: &mut RunPage, exit: &Exit) {
    answer(page, exit, &Answer { data: NO_SUCH_HYPERCALL, count: 1, ..Answer::default() });
}

#[cfg(test)]
#[path = "exits_tests.rs"]
mod tests;
