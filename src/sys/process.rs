//! Processes: `clone3(2)` with a pidfd, `execve(2)`, and what a child does to itself before that.
//!
//! The wrappers that a child half uses between clone and exec neither allocate nor take locks
//! (`signal-safety(7)`): the process that was cloned may have had other threads, whose locks stay locked for ever.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::errno::{Errno, check_long};

/// The namespaces that [`clone_process`] can put the child into (`namespaces(7)`).
pub const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Signals of the kernel on x86-64 (`_NSIG`), numbered from 1.
const SIGNALS: i32 = 64;

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
    let before = block_all_signals()?;
    // SAFETY: `args` is a valid clone_args of the size given and `pidfd` has room for the number. Without CLONE_VM the
    // child has memory of its own, so with no stack given it goes on with its copy of this one.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        let _no_return = ExitOnDrop;
        exit_now(child(&InChild(())));
    }
    let failed = Errno::last();
    // It was blocked by the same call, so this fails no more than that did.
    let _ = set_signal_mask(&before);
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
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, none, 0) } as i32)
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
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signo as libc::c_ulong, 0, 0, 0) })
}

/// Makes this process the one that orphans among its descendants fall to (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// None on Linux 3.4 and later.
pub fn set_child_subreaper() -> Result<(), Errno> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong, 0, 0, 0) })
}

/// Whether the other end of a pipe or socket has no descriptor left that refers to it (`POLLERR`/`POLLHUP`).
///
/// # Errors
/// `poll(2)`'s; `EINTR` if a signal came.
pub fn peer_is_gone(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    check(unsafe { libc::poll(&mut poll, 1, 0) }.min(0))?;
    Ok(poll.revents & (libc::POLLERR | libc::POLLHUP) != 0)
}

/// Puts the calling thread into new namespaces, a set of [`NAMESPACE_FLAGS`] (`unshare(2)`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` if the user's limit of such namespaces is reached.
pub fn unshare(namespaces: u64) -> Result<(), Errno> {
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(namespaces as libc::c_int) })
}

/// Makes the process the leader of a new session, without a controlling terminal (`setsid(2)`).
///
/// # Errors
/// `EPERM` if it leads a process group already.
pub fn new_session() -> Result<(), Errno> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }.min(0))
}

/// Sets host and domain name of the UTS namespace (`uts_namespaces(7)`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the namespace, `EINVAL` if the name is longer than 64 bytes.
pub fn set_host_name(name: &CStr) -> Result<(), Errno> {
    let length = name.to_bytes().len();
    // SAFETY: a pointer to as many bytes as are said.
    check(unsafe { libc::sethostname(name.as_ptr(), length) })?;
    // SAFETY: an empty name.
    check(unsafe { libc::setdomainname(c"".as_ptr(), 0) })
}

/// Writes to a file that is there, by one `write(2)`.
///
/// # Errors
/// Those of `open(2)` and `write(2)`.
pub fn write_to(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    // SAFETY: a C string and flags.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd.min(0))?;
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a pointer to as many bytes as are said.
    let written = unsafe { libc::write(fd.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    if written < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Waits for one byte (`read(2)`); `false` at the end of the pipe. Signals are blocked in a child half.
///
/// # Errors
/// `read`'s.
pub fn read_byte(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut byte = 0u8;
    // SAFETY: room for the one byte.
    match unsafe { libc::read(fd.as_raw_fd(), (&raw mut byte).cast(), 1) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::last()),
    }
}

/// Whether a descriptor becomes readable, or comes to its end, within a time. That of a process does when it has ended (`pidfd_open(2)`).
///
/// # Errors
/// `poll(2)`'s; `EINTR` if a signal came.
pub fn readable_within(fd: BorrowedFd<'_>, milliseconds: i32) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    check(unsafe { libc::poll(&mut poll, 1, milliseconds) }.min(0))?;
    Ok(poll.revents != 0)
}

/// Blocks all signals for this thread and returns the mask there was.
///
/// # Errors
/// None are documented (`sigprocmask(2)`).
pub fn block_all_signals() -> Result<libc::sigset_t, Errno> {
    // SAFETY: both sets are C structs for which zeros are a value, and stay valid during the calls.
    unsafe {
        let (mut full, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut full);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &full, &mut before) {
            0 => Ok(before),
            errno => Err(Errno(errno)),
        }
    }
}

fn set_signal_mask(mask: &libc::sigset_t) -> Result<(), Errno> {
    // SAFETY: a valid set, and no room for the former one.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Errno(errno)),
    }
}

/// Gives every signal its default disposition and then unblocks all: what a new program expects to find. (Rust's
/// runtime ignores `SIGPIPE`, and an ignored signal stays ignored over `execve`.)
///
/// # Errors
/// None are documented for these arguments.
pub fn reset_signals() -> Result<(), Errno> {
    for signo in 1..=SIGNALS {
        match set_default_action(signo) {
            // SIGKILL and SIGSTOP always have it.
            Ok(()) | Err(Errno(libc::EINVAL)) => {}
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: a C struct for which zeros are a value: the empty set.
    set_signal_mask(&unsafe { std::mem::zeroed() })
}

/// Gives one signal its default disposition.
///
/// # Errors
/// `EINVAL` for a signal whose disposition cannot be changed.
pub fn set_default_action(signo: i32) -> Result<(), Errno> {
    // The kernel's struct sigaction: handler (SIG_DFL is 0), flags, restorer, mask. Called directly, because libc's
    // wrapper refuses the signals 32 and 33, and these too may have been inherited as ignored.
    let action = [0u64; 4];
    let (none, mask_size): (*mut u64, usize) = (ptr::null_mut(), (SIGNALS / 8) as usize);
    // SAFETY: `action` is of the layout and size that rt_sigaction(2) reads on x86-64; a null pointer asks for nothing.
    check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signo, action.as_ptr(), none, mask_size) } as i32)
}

/// Makes `target` a duplicate of `source` that stays open over `execve`, closing what `target` was (`dup3(2)`).
///
/// # Errors
/// `EINVAL` if both are the same number; `dup3`'s.
pub fn place_fd(_: &InChild, source: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    // SAFETY: takes numbers. `InChild` says that no owner relies on `target` any more.
    check(unsafe { libc::dup3(source.as_raw_fd(), target, 0) }.min(0))
}

/// Marks every descriptor from `first` on close-on-exec (`close_range(2)`, `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
///
/// # Errors
/// `EINVAL` or `ENOSYS` on older kernels.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: takes numbers; no descriptor is closed, so no owner is hurt.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } as i32)
}

/// A close-on-exec duplicate with a number of at least `least` (`F_DUPFD_CLOEXEC`).
///
/// # Errors
/// `EMFILE` if there is none.
pub fn dup_from(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check(new.min(0))?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// A pipe, close-on-exec: the reading end and the writing end.
///
/// # Errors
/// `pipe2(2)`'s.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [-1; 2];
    // SAFETY: room for two numbers.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// `write(2)` of a record that is short enough for a pipe to take it whole; again when a signal came first.
///
/// # Errors
/// `write(2)`'s.
pub fn write_record(fd: BorrowedFd<'_>, record: &[u8]) -> Result<(), Errno> {
    loop {
        // SAFETY: a pointer to as many bytes as are said.
        match check_long(unsafe { libc::write(fd.as_raw_fd(), record.as_ptr().cast(), record.len()) } as i64) {
            Err(Errno::EINTR) => {}
            written => return written.map(drop),
        }
    }
}

/// Closes the child's copy of a descriptor (`close(2)`).
pub fn close_copy(_: &InChild, fd: BorrowedFd<'_>) {
    // SAFETY: takes a number. `InChild` says that its owner is never dropped here.
    let _ = unsafe { libc::close(fd.as_raw_fd()) };
}

/// All that `execve(2)` needs, laid out before the clone so that the child need not allocate.
#[derive(Debug)]
pub struct ExecImage {
    program: CString,
    argv: PointerArray,
    envp: PointerArray,
}

impl ExecImage {
    /// Prepares `program` with its arguments (the first is its name, by custom) and its environment (`KEY=value`).
    pub fn new(program: CString, argv: Vec<CString>, envp: Vec<CString>) -> ExecImage {
        ExecImage { program, argv: PointerArray::new(argv), envp: PointerArray::new(envp) }
    }

    /// The path of the program.
    pub fn program(&self) -> &CStr {
        &self.program
    }

    /// Becomes the program, with `secret` in the last argument register, which `execve` does not look at but a seccomp
    /// filter may. Returns only if that fails.
    pub fn exec_with(&self, secret: u64) -> Errno {
        let (program, argv, envp) = (self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
        let none = 0_u64;
        // SAFETY: as in `exec`; the others are only registers.
        unsafe { libc::syscall(libc::SYS_execve, program, argv, envp, none, none, secret) };
        Errno::last()
    }

    /// Becomes the program. Returns only if that fails.
    pub fn exec(&self) -> Errno {
        // SAFETY: a C string, and two null-terminated arrays of C strings that `self` owns.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        Errno::last()
    }
}

/// A null-terminated array of C strings.
#[derive(Debug)]
struct PointerArray {
    pointers: Vec<*const c_char>,
    /// What the pointers point to; never changed.
    _strings: Vec<CString>,
}

impl PointerArray {
    fn new(strings: Vec<CString>) -> PointerArray {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        PointerArray { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn check(result: i32) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
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
        let before = block_all_signals().unwrap();
        set_signal_mask(&before).unwrap();
        let child = clone_process(0, |_| 0).unwrap();
        let after = block_all_signals().unwrap();
        set_signal_mask(&after).unwrap();
        wait(child.pidfd.as_fd()).unwrap();
        // SAFETY: two valid sets and a signal number.
        let member = |set: &libc::sigset_t| unsafe { libc::sigismember(set, libc::SIGINT) };
        assert_eq!(member(&before), member(&after));
    }

    #[test]
    fn memory_is_never_shared() {
        assert_eq!(clone_process(libc::CLONE_VM as u64, |_| 0).unwrap_err(), Errno(libc::EINVAL));
    }
}
