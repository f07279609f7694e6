//! What can go wrong with the loop itself.

use std::fmt;

use crate::sys::errno::Errno;
use crate::sys::message::MessageError;
use crate::sys::uring::{SetupError, StartError};

/// Why the loop cannot be made, or cannot do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The host refuses io_uring.
    #[error("{0}")]
    Refused(Refusal),
    /// The kernel's io_uring is too old.
    #[error("this kernel's io_uring cannot suppress completions: Linux 5.17 or later is needed")]
    TooOld,
    /// Too many operations in flight.
    #[error("{limit} operations are in flight already: the limit of the event loop")]
    Full {
        /// The limit.
        limit: u32,
    },
    /// A message exceeds the limits.
    #[error(transparent)]
    Message(MessageError),
    /// A wait with nothing in flight would never end.
    #[error("the event loop has nothing to wait for")]
    Idle,
    /// `io_uring_enter(2)` failed.
    #[error("io_uring_enter failed: {0}")]
    Enter(Errno),
}

impl EventError {
    /// Whether the host lacks something that its owner can provide, as opposed to a failure of ours.
    pub fn is_host_lack(&self) -> bool {
        matches!(self, EventError::Refused(_) | EventError::TooOld)
    }

    pub(super) fn from_setup(error: SetupError) -> EventError {
        match error {
            SetupError::Refused(errno) => EventError::Refused(Refusal { errno, disabled: read_disabled() }),
            SetupError::TooOld => EventError::TooOld,
        }
    }

    pub(super) fn from_start(error: StartError, limit: u32) -> EventError {
        match error {
            StartError::Full => EventError::Full { limit },
            StartError::Enter(errno) => EventError::Enter(errno),
        }
    }
}

/// A refused `io_uring_setup(2)`, and the switch that may have caused it. Displays as one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the call returned.
    pub errno: Errno,
    /// The sysctl `kernel.io_uring_disabled` (Linux 6.6), if it could be read: 0 allows all, 1 only members of
    /// `kernel.io_uring_group` and holders of `CAP_SYS_ADMIN`, 2 nobody.
    pub disabled: Option<u8>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = self.errno;
        match (errno.0, self.disabled) {
            (libc::EPERM, Some(switch @ 1..)) => write!(
                f,
                "io_uring is switched off on this host (sysctl kernel.io_uring_disabled is {switch}): \
                 set it to 0 as root with `sysctl kernel.io_uring_disabled=0`"
            ),
            (libc::EPERM | libc::EACCES, _) => write!(
                f,
                "io_uring is refused ({errno}), most likely by a container's seccomp profile: \
                 allow io_uring_setup, io_uring_enter and io_uring_register in it"
            ),
            (libc::ENOSYS, _) => write!(
                f,
                "io_uring is missing ({errno}): run a kernel built with CONFIG_IO_URING, \
                 or allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
            ),
            (libc::ENOMEM, _) => {
                write!(f, "io_uring cannot be set up ({errno}): raise the limit of locked memory (`ulimit -l`)")
            }
            (libc::EMFILE | libc::ENFILE, _) => {
                write!(f, "io_uring cannot be set up ({errno}): raise the limit of open files (`ulimit -n`)")
            }
            _ => write!(f, "io_uring cannot be set up: io_uring_setup failed: {errno}"),
        }
    }
}

fn read_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let sentence = |errno, disabled| Refusal { errno: Errno(errno), disabled }.to_string();
        assert!(sentence(libc::EPERM, Some(2)).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(sentence(libc::EPERM, Some(0)).contains("seccomp profile"));
        assert!(sentence(libc::EPERM, None).contains("seccomp profile"));
        assert!(sentence(libc::ENOSYS, None).contains("CONFIG_IO_URING"));
        assert!(EventError::Refused(Refusal { errno: Errno(libc::EPERM), disabled: None }).is_host_lack());
        assert!(!EventError::Idle.is_host_lack());
    }
}
