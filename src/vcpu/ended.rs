//! Why a vCPU thread ended, in sentences.

use core::fmt;

use crate::kvm::{Exit, HypervExit};
use crate::sys::errno::Errno;
use outboard_wire::error::Violation;

/// Why a vCPU thread ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The guest shut itself down: a triple fault, or a shutdown through the processor.
    GuestShutdown(GuestEnd),
    /// The guest left for a reason that nobody serves.
    GuestFailed(GuestEnd),
    /// The plugin broke the protocol of this vCPU.
    Violation {
        /// Number of the vCPU.
        vcpu: u32,
        /// What it did.
        violation: Violation,
    },
    /// The thread could not confine itself.
    Unconfined {
        /// Number of the vCPU.
        vcpu: u32,
        /// What it could not do, as in "could not ...".
        step: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The plugin let a vCPU run in a VM that never had memory, which KVM has no room to begin with: it allows itself page
    /// tables in proportion to the memory (`make_mmu_pages_available`), and says `ENOSPC`.
    NoMemory {
        /// Number of the vCPU.
        vcpu: u32,
    },
    /// `KVM_RUN` itself failed.
    Run {
        /// Number of the vCPU.
        vcpu: u32,
        /// Why.
        errno: Errno,
    },
}

/// The exit that ended a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestEnd {
    /// Number of the vCPU.
    pub vcpu: u32,
    /// The exit.
    pub exit: Box<Exit>,
    /// The instruction pointer, if KVM would tell.
    pub rip: Option<u64>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Stopped => f.write_str("the vCPU was stopped"),
            Ended::GuestShutdown(end) | Ended::GuestFailed(end) => end.fmt(f),
            Ended::Violation { vcpu, violation } => write!(f, "on vCPU {vcpu} the plugin {violation}"),
            Ended::Unconfined { vcpu, step, errno } => {
                write!(f, "the thread of vCPU {vcpu} could not {step}: {errno}")
            }
            Ended::NoMemory { vcpu } => {
                write!(
                    f,
                    "vCPU {vcpu} was resumed in a VM without memory, where no guest can run; give it memory first"
                )
            }
            Ended::Run { vcpu, errno } => write!(f, "KVM_RUN of vCPU {vcpu} failed: {errno}"),
        }
    }
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {} left the guest with {}", self.vcpu, self.exit.name())?;
        match *self.exit {
            Exit::Shutdown => f.write_str(" (a triple fault, or the guest shut down)")?,
            Exit::Hlt => f.write_str(" (the guest halted, and no interrupt controller of KVM can wake it)")?,
            Exit::InternalError(error) => {
                write!(f, ", suberror {}", error.suberror)?;
                if error.is_emulation_failure() {
                    f.write_str(" (KVM cannot emulate an instruction")?;
                    if let Some(bytes) = error.instruction() {
                        f.write_str(":")?;
                        bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                    }
                    f.write_str(")")?;
                }
            }
            Exit::FailEntry { hardware_reason, cpu } => {
                write!(f, ", hardware reason {hardware_reason:#x} on CPU {cpu} (the state of the vCPU is not valid)")?;
            }
            Exit::Unknown { hardware_reason } => write!(f, ", hardware reason {hardware_reason:#x}")?,
            Exit::Exception { exception, error_code } => {
                write!(f, ", exception {exception}, error code {error_code:#x}")?;
            }
            Exit::SystemEvent { kind, .. } => write!(f, ", event {kind}")?,
            Exit::MemoryFault { flags, gpa, size } => {
                write!(f, ", flags {flags:#x}, address {gpa:#x}, {size} bytes")?;
            }
            Exit::X86Rdmsr { index, .. } | Exit::X86Wrmsr { index, .. } => write!(f, ", MSR {index:#x}")?,
            Exit::Hypercall { nr, .. } => write!(f, ", hypercall {nr}")?,
            Exit::Hyperv(HypervExit::Hcall { input, .. }) => write!(f, ", Hyper-V hypercall {input:#x}")?,
            Exit::Hyperv(HypervExit::Synic { msr, .. }) => write!(f, ", Hyper-V MSR {msr:#x}")?,
            Exit::Other(reason) => write!(f, " {reason}, which this version does not know")?,
            _ => {}
        }
        match self.rip {
            Some(rip) => write!(f, " at address {rip:#x}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::InternalError;

    #[test]
    fn a_sentence_names_vcpu_reason_suberror_and_address() {
        let mut data = [0; 16];
        data[0] = 1;
        data[1] = u64::from_le_bytes([2, 0x0f, 0x01, 0, 0, 0, 0, 0]);
        let error = InternalError { suberror: 1, ndata: 4, data };
        let end = GuestEnd { vcpu: 3, exit: Box::new(Exit::InternalError(error)), rip: Some(0xfff0) };
        let expected = "vCPU 3 left the guest with KVM_EXIT_INTERNAL_ERROR, suberror 1 \
                        (KVM cannot emulate an instruction: 0f 01) at address 0xfff0";
        assert_eq!(Ended::GuestFailed(end).to_string(), expected);
    }

    #[test]
    fn the_other_ends_have_sentences_too() {
        let end = |exit| GuestEnd { vcpu: 0, exit: Box::new(exit), rip: None }.to_string();
        assert!(end(Exit::Shutdown).contains("triple fault"));
        assert!(end(Exit::FailEntry { hardware_reason: 0x8000_0021, cpu: 1 }).contains("0x80000021"));
        assert!(end(Exit::Other(99)).contains("99"));
        assert!(Ended::NoMemory { vcpu: 2 }.to_string().starts_with("vCPU 2 was resumed in a VM without memory"));
        let violation = Violation::Sequence { expected: 1, got: 9 };
        let said = Ended::Violation { vcpu: 1, violation }.to_string();
        assert_eq!(said, "on vCPU 1 the plugin answered event 9 while event 1 was waiting for an answer");
    }
}
