//! Processes: `clone3(2)` with a pidfd, their ends, and what one asks for itself.
//!
//! The wrappers that a child half uses between clone and exec neither allocate nor take locks
//! (`signal-safety(7)`): the process that was cloned may have had other threads, whose locks stay locked for ever.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::errno::{Errno, check};
use super::namespaces::NAMESPACE_FLAGS;
use super::signal::{self, SignalSet};

/// A child process: its number, and a descriptor that cannot come to mean another process.
#[derive(Debug)]
pub struct Child {
    /// The process id, in our pid namespace. It may be reused once the child has been waited for.
    pub pid: i32,
    /// Becomes readable when the process has ended (`pidfd_open(2)`). Close-on-exec.
    pub pidfd: OwnedFd,
}

/// How a process ended (`waitid(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called `exit`.
    Exited(u8),
    /// A signal ended it.
    Signaled {
        /// The signal.
        signo: i32,
        /// Whether it dumped core.
        core: bool,
    },
}

/// The proof that the code at hand runs in a child made by [`clone_process`]. There the descriptors are copies whose
/// owners will never be dropped, as the child leaves by `execve` or `_exit`; so they may be closed and replaced by number.
#[derive(Debug)]
pub struct InChild(());

/// Clones this process as `fork` does, with a pidfd, and runs `child` in the copy, which ends with the status that it
/// returns (or 127 if it panics). `namespaces` is a set of [`NAMESPACE_FLAGS`].
///
/// `child` runs in a copy of the memory, with a copy of the descriptors and with one thread, the calling one. It must
/// keep to async-signal-safe calls: what allocates or takes a lock may wait for ever for a thread that is not there.
/// All signals are blocked in it, so that no handler of ours runs there.
///
/// # Errors
/// `EINVAL` for other flags; those of `clone3(2)`.
pub fn clone_process(namespaces: u64, child: impl FnOnce(&InChild) -> i32) -> Result<Child, Errno> {
    if namespaces & !NAMESPACE_FLAGS != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let mut pidfd: RawFd = -1;
    let args = libc::clone_args {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    let before = signal::set_mask(&SignalSet::all())?;
    // SAFETY: `args` is a valid clone_args of the size given and `pidfd` has room for the number. Without CLONE_VM the
    // child has memory of its own, so with no stack given it goes on with its copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        let _no_return = ExitOnDrop;
        exit_now(child(&InChild(())));
    }
    let failed = Errno::last();
    // It was blocked by the same call, so this fails no more than that did.
    let _ = signal::set_mask(&before);
    if pid < 0 {
        return Err(failed);
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so this is a new descriptor that nobody else owns.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Keeps a panic of the child half from unwinding into the copy of the parent's stack.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit_now(127);
    }
}

/// `_exit(2)`: ends the process at once; no destructor and no exit handler runs.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Asks without blocking whether the child has ended, and reaps it if so (`waitid(2)`, `P_PIDFD`).
///
/// # Errors
/// `ECHILD` if it has been reaped already, or is no child of ours.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>, Errno> {
    waitid(pidfd, libc::WNOHANG)
}

/// Waits for the end of the child and reaps it.
///
/// # Errors
/// As [`try_wait`].
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<ExitStatus, Errno> {
    loop {
        if let Some(status) = waitid(pidfd, 0)? {
            return Ok(status);
        }
    }
}

/// `waitid(2)`, again when a signal came first.
fn waitid(pidfd: BorrowedFd<'_>, flags: i32) -> Result<Option<ExitStatus>, Errno> {
    // SAFETY: a siginfo_t is a C struct for which zeros are a value; waitid fills it in, and for an exited child the
    // fields read below are the valid ones of its union (sigaction(2)).
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let id = pidfd.as_raw_fd() as libc::id_t;
        while libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED | libc::__WALL | flags) != 0 {
            match Errno::last() {
                Errno::EINTR => {}
                errno => return Err(errno),
            }
        }
        if info.si_pid() == 0 {
            return Ok(None);
        }
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => ExitStatus::Exited(info.si_status() as u8),
            code => ExitStatus::Signaled { signo: info.si_status(), core: code == libc::CLD_DUMPED },
        }))
    }
}

/// Sends a signal to exactly this process (`pidfd_send_signal(2)`).
///
/// # Errors
/// `ESRCH` if it has ended and been reaped.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signo: i32) -> Result<(), Errno> {
    let none: *const libc::siginfo_t = ptr::null();
    // SAFETY: takes numbers and a null siginfo, which stands for that of kill(2).
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, none, 0) } as i32).map(drop)
}

/// Names the calling thread, up to 15 bytes of it (`PR_SET_NAME`); a process is called as its first thread.
pub fn set_name(name: &CStr) {
    // SAFETY: a C string, of which the kernel reads 16 bytes at most and stops at the zero. It cannot fail for one.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, 0, 0, 0) };
}

/// `getpid(2)`.
pub fn getpid() -> i32 {
    // SAFETY: no arguments, no failure.
    unsafe { libc::getpid() }
}

/// Asks for `signo` when the *thread* that made this process ends (`PR_SET_PDEATHSIG`). 0 takes
/// the request back. It is lost, too, when the process changes its user or group, and when it executes a set-user-ID
/// program or one with file capabilities.
///
/// # Errors
/// `EINVAL` for what is no signal.
pub fn set_parent_death_signal(signo: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signo as libc::c_ulong, 0, 0, 0) }).map(drop)
}

/// Makes the process the leader of a new session, without a controlling terminal (`setsid(2)`).
///
/// # Errors
/// `EPERM` if it leads a process group already.
pub fn new_session() -> Result<(), Errno> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_clone_ends_with_what_its_half_returns() {
        let child = clone_process(0, |_| 7).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()), Ok(ExitStatus::Exited(7)));
        assert_eq!(try_wait(child.pidfd.as_fd()), Err(Errno(libc::ECHILD)));
        assert_eq!(pidfd_send_signal(child.pidfd.as_fd(), 0), Err(Errno(libc::ESRCH)));
    }

    #[test]
    fn the_parent_keeps_its_signal_mask() {
        let none = SignalSet::of(&[]).unwrap();
        let before = signal::block(&none).unwrap();
        let child = clone_process(0, |_| 0).unwrap();
        let after = signal::block(&none).unwrap();
        wait(child.pidfd.as_fd()).unwrap();
        for signum in [libc::SIGINT, libc::SIGCHLD, signal::kick_signal()] {
            assert_eq!(before.contains(signum), after.contains(signum), "signal {signum}");
        }
    }

    #[test]
    fn memory_is_never_shared() {
        assert_eq!(clone_process(libc::CLONE_VM as u64, |_| 0).unwrap_err(), Errno(libc::EINVAL));
    }
}
