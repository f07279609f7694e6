//! A system call as a seccomp filter sees it, and what the filter may answer.

use std::fmt;

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`): the machine (62), 64 bits, little endian.
pub const ARCH_X86_64: u32 = 0xc000_003e;

/// The bit in the numbers of x32's system calls (`__X32_SYSCALL_BIT`, `asm/unistd.h`).
pub const X32_BIT: u32 = 0x4000_0000;

/// Bytes of `struct seccomp_data` (`linux/seccomp.h`): number, architecture, instruction pointer, six arguments.
pub const DATA_SIZE: u32 = 64;

/// The highest error number that a filter can make a call return (`MAX_ERRNO`, `linux/err.h`).
pub const MAX_ERRNO: u16 = 4095;

/// A system call: the `struct seccomp_data` that a filter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The number, of the architecture's table.
    pub number: u32,
    /// The architecture, an `AUDIT_ARCH_` number.
    pub arch: u32,
    /// Where the call was made.
    pub instruction_pointer: u64,
    /// All six argument registers, whatever the call makes of them.
    pub args: [u64; 6],
}

impl Call {
    /// A call of this architecture, from nowhere in particular.
    pub fn new(number: u32, args: [u64; 6]) -> Call {
        Call { number, arch: ARCH_X86_64, instruction_pointer: 0, args }
    }

    /// The 32-bit word at a byte offset of `struct seccomp_data`: 0 the number, 4 the architecture, 8 and 12 the
    /// instruction pointer, then low and high half of each argument. `None` past the end or between words.
    pub fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match offset {
            _ if !offset.is_multiple_of(4) => None,
            0 => Some(self.number),
            4 => Some(self.arch),
            8 | 12 => Some(half(self.instruction_pointer)),
            _ => self.args.get((offset as usize - 16) / 8).map(|arg| half(*arg)),
        }
    }
}

/// What a filter answers (`SECCOMP_RET_...`, seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The process dies of `SIGSYS`.
    KillProcess,
    /// The thread dies of `SIGSYS`.
    KillThread,
    /// The thread gets `SIGSYS`, which it may catch.
    Trap(u16),
    /// The call does not happen and returns this error number; above [`MAX_ERRNO`] the kernel returns that.
    Errno(u16),
    /// The call does not happen until whoever holds the filter's listener has answered; without one it returns `ENOSYS`.
    Notify,
    /// A tracer decides; without one the call returns `ENOSYS`.
    Trace(u16),
    /// The call happens, and the kernel's audit log tells of it.
    Log,
    /// The call happens.
    Allow,
}

impl Action {
    /// The value that the filter returns.
    pub fn value(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap(data) => 0x0003_0000 | u32::from(data),
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Notify => 0x7fc0_0000,
            Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }

    /// What the kernel makes of a value that a filter returns: an unknown action kills the process.
    pub fn of(value: u32) -> Action {
        let data = value as u16;
        match value & 0xffff_0000 {
            0 => Action::KillThread,
            0x0003_0000 => Action::Trap(data),
            0x0005_0000 => Action::Errno(data),
            0x7fc0_0000 => Action::Notify,
            0x7ff0_0000 => Action::Trace(data),
            0x7ffc_0000 => Action::Log,
            0x7fff_0000 => Action::Allow,
            _ => Action::KillProcess,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::KillProcess => f.write_str("kill the process"),
            Action::KillThread => f.write_str("kill the thread"),
            Action::Trap(data) => write!(f, "trap {data}"),
            Action::Errno(errno) => write!(f, "return {}", crate::sys::Errno((*errno).into())),
            Action::Notify => f.write_str("ask the listener"),
            Action::Trace(data) => write!(f, "trace {data}"),
            Action::Log => f.write_str("allow and log"),
            Action::Allow => f.write_str("allow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_survive_the_way_there_and_back() {
        use Action::{Allow, Errno, KillProcess, KillThread, Log, Notify, Trace, Trap};
        for action in [KillProcess, KillThread, Trap(7), Errno(0), Errno(13), Notify, Trace(9), Log, Allow] {
            assert_eq!(Action::of(action.value()), action);
        }
        assert_eq!(Action::of(0x1234_0000), KillProcess);
    }

    #[test]
    fn words_lie_where_the_kernel_has_them() {
        let args = [1, 2, 3, 4, 5, 0x6666_6666_7777_7777];
        let call = Call { instruction_pointer: 0x8888_8888_9999_9999, ..Call::new(3, args) };
        assert_eq!((call.word(0), call.word(4)), (Some(3), Some(ARCH_X86_64)));
        assert_eq!((call.word(8), call.word(12)), (Some(0x9999_9999), Some(0x8888_8888)));
        assert_eq!((call.word(16), call.word(20), call.word(24)), (Some(1), Some(0), Some(2)));
        assert_eq!((call.word(56), call.word(60)), (Some(0x7777_7777), Some(0x6666_6666)));
        assert_eq!((call.word(DATA_SIZE), call.word(2), call.word(u32::MAX)), (None, None, None));
    }
}
