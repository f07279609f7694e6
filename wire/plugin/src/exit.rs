//! Exits that are no accesses: what they bring, and what the guest gets without an answer.

use outboard_wire::details::Details;
use outboard_wire::line::event_kind;

/// Why a vCPU stopped, other than for an access to a range.
///
/// Those of Hyper-V come to every plugin whose guest has Hyper-V by its CPUID, the others to those that ask for them by
/// [`Connection::subscribe`](crate::Connection::subscribe).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// A Hyper-V hypercall; the result is what the guest finds in RAX, 0 without an answer.
    HypervCall {
        /// The hypercall's input value.
        input: u64,
        /// Its two parameters.
        params: [u64; 2],
    },
    /// The guest changed its Hyper-V interrupt controller.
    HypervSynic {
        /// The MSR that it wrote.
        msr: u32,
        /// `SCONTROL`.
        control: u64,
        /// `SIEFP`, where event flags are.
        event_page: u64,
        /// `SIMP`, where messages are.
        message_page: u64,
    },
    /// The guest reads an MSR. Without an answer it gets a general protection fault.
    ReadMsr {
        /// The MSR.
        index: u32,
        /// `KVM_MSR_EXIT_REASON_*`: 4 it is in a range that was asked for, 1 and 2 KVM refuses it.
        reason: u32,
    },
    /// The guest writes an MSR. Without an answer it gets a general protection fault.
    WriteMsr {
        /// The MSR.
        index: u32,
        /// As with [`Exit::ReadMsr`].
        reason: u32,
        /// The value.
        data: u64,
    },
    /// The guest halted, in a VM without KVM's local APICs. It runs on behind its HLT when the event is answered.
    Halt,
    /// A hypercall that KVM hands on; the result is what the guest finds in RAX, -1000 (`KVM_ENOSYS`) without an answer.
    Hypercall {
        /// Which.
        number: u64,
        /// Its arguments; four of them mean something today.
        args: [u64; 6],
        /// `KVM_EXIT_HYPERCALL_*`.
        flags: u64,
    },
    /// A breakpoint or single step of [`Registers::set_guest_debug`](crate::Registers::set_guest_debug).
    Debug {
        /// Vector of the exception: 1 or 3.
        exception: u32,
        /// Linear address of the instruction.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    },
    /// The guest ended an interrupt that the plugin's IOAPIC raised.
    IoapicEoi {
        /// Its vector.
        vector: u8,
    },
    /// The VM as a whole shall do something.
    System {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
        /// Words of `data` that mean something.
        count: u32,
        /// What they mean depends on `kind`.
        data: [u64; 16],
    },
    /// KVM cannot emulate an instruction. General, segment and control registers ride along, as they were before it. A plugin
    /// that carries the instruction out sets the registers, the instruction pointer among them, and
    /// [accepts](crate::Exited::accept) it; without an answer the VM ends.
    EmulationFailure {
        /// Number of bytes that KVM read at the instruction pointer: up to 15, which may be less or more than one
        /// instruction, and 0 where KVM does not say.
        count: u8,
        /// The bytes, the others zero.
        bytes: [u8; 15],
    },
}

/// What the answer to an exit begins with, if nobody changes it.
pub(crate) struct Unanswered {
    /// The answer carries a result.
    pub(crate) result: Option<u64>,
    /// The guest gets a general protection fault, or the VM ends.
    pub(crate) fault: bool,
}

impl Exit {
    /// The exit of an event kind; `None` for kinds that are none.
    pub(crate) fn from_wire(kind: u8, details: &Details) -> Option<Exit> {
        let [a, b, c, d, e, f, g, h, ..] = *details.words();
        Some(match kind {
            event_kind::HYPERV_CALL => Exit::HypervCall { input: a, params: [b, c] },
            event_kind::HYPERV_SYNIC => Exit::HypervSynic { msr: a as u32, control: b, event_page: c, message_page: d },
            event_kind::READ_MSR => Exit::ReadMsr { index: a as u32, reason: b as u32 },
            event_kind::WRITE_MSR => Exit::WriteMsr { index: a as u32, reason: b as u32, data: c },
            event_kind::HALT => Exit::Halt,
            event_kind::HYPERCALL => Exit::Hypercall { number: a, args: [b, c, d, e, f, g], flags: h },
            event_kind::DEBUG => Exit::Debug { exception: a as u32, pc: b, dr6: c, dr7: d },
            event_kind::IOAPIC_EOI => Exit::IoapicEoi { vector: a as u8 },
            event_kind::SYSTEM => {
                let mut data = [0; 16];
                data.copy_from_slice(&details.words()[1..]);
                Exit::System { kind: a as u32, count: details.count().saturating_sub(1) as u32, data }
            }
            event_kind::EMULATION_FAILURE => {
                let mut bytes = [0; 15];
                bytes.copy_from_slice(&bytemuck::bytes_of(&[b, c])[..15]);
                Exit::EmulationFailure { count: a.min(15) as u8, bytes }
            }
            _ => return None,
        })
    }

    pub(crate) fn default_answer(&self) -> Unanswered {
        match self {
            Exit::HypervCall { .. } => Unanswered { result: Some(0), fault: false },
            Exit::Hypercall { .. } => Unanswered { result: Some(-1000i64 as u64), fault: false },
            Exit::ReadMsr { .. } => Unanswered { result: Some(0), fault: true },
            Exit::WriteMsr { .. } | Exit::EmulationFailure { .. } => Unanswered { result: None, fault: true },
            _ => Unanswered { result: None, fault: false },
        }
    }
}
