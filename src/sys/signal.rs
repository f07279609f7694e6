//! Signals: handlers, masks, descriptors to read them from, and sending one to a thread.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use super::errno::{Errno, check, check_long};

/// Signals of the kernel on x86-64 (`_NSIG`), numbered from 1.
const SIGNALS: i32 = 64;

/// A thread's number as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tid(pub i32);

/// The signal that gets a vCPU thread out of the kernel: the first real-time signal that the C library
/// leaves to programs.
pub fn kick_signal() -> c_int {
    libc::SIGRTMIN()
}

/// The calling thread.
pub fn gettid() -> Tid {
    // SAFETY: the call has no precondition and cannot fail.
    Tid(unsafe { libc::gettid() })
}

/// Sends a signal to one thread of this process, see tgkill(2).
///
/// # Errors
/// `ESRCH` if the thread is gone, `EAGAIN` if the queue of real-time signals is full.
pub fn tgkill(thread: Tid, signum: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is passed. That the process is this one keeps a reused number from hitting others.
    let ret = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.0, signum) };
    check_long(ret).map(drop)
}

/// Installs a handler without `SA_RESTART`, so that the signal ends a waiting system call with `EINTR`.
///
/// # Safety
/// The handler may do only what signal-safety(7) allows, and must leave `errno` as it was.
///
/// # Errors
/// `EINVAL` for a number that is not a signal or cannot be caught.
pub unsafe fn install_handler(signum: c_int, handler: extern "C" fn(c_int)) -> Result<(), Errno> {
    // SAFETY: the caller vouches for what the handler does.
    unsafe { set_action(signum, handler as *const () as libc::sighandler_t) }
}

/// # Safety
/// `action` is `SIG_IGN`, `SIG_DFL` or a handler that is safe to run between any two instructions.
unsafe fn set_action(signum: c_int, action: libc::sighandler_t) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid sigaction: no flags, an empty mask.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = action;
    // SAFETY: the structure is readable for the call; the caller vouches for the action.
    check(unsafe { libc::sigaction(signum, &raw const new, null_mut()) }).map(drop)
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
    set_mask(&SignalSet::of(&[])?).map(drop)
}

/// Gives one signal its default disposition.
///
/// # Errors
/// `EINVAL` for a signal whose disposition cannot be changed.
pub fn set_default_action(signo: i32) -> Result<(), Errno> {
    // The kernel's struct sigaction: handler (SIG_DFL is 0), flags, restorer, mask. Called directly, because libc's
    // wrapper refuses the signals 32 and 33, and these too may have been inherited as ignored.
    let action = [0u64; 4];
    let (none, mask_size): (*mut u64, usize) = (null_mut(), (SIGNALS / 8) as usize);
    // SAFETY: `action` is of the layout and size that rt_sigaction(2) reads on x86-64; a null pointer asks for nothing.
    check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signo, action.as_ptr(), none, mask_size) } as i32).map(drop)
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// The set of these signals.
    ///
    /// # Errors
    /// `EINVAL` for a number that is not a signal.
    pub fn of(signals: &[c_int]) -> Result<Self, Errno> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is writable, and initialised as a whole by this call.
        let mut set = unsafe {
            check(libc::sigemptyset(set.as_mut_ptr()))?;
            set.assume_init()
        };
        for &signum in signals {
            // SAFETY: the set is initialised.
            check(unsafe { libc::sigaddset(&raw mut set, signum) })?;
        }
        Ok(Self(set))
    }

    /// The set of all signals.
    pub fn all() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is writable, and initialised as a whole by this call, which cannot fail.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// Whether the signal is in the set.
    pub fn contains(&self, signum: c_int) -> bool {
        // SAFETY: the set is initialised; a number that is no signal gives -1.
        unsafe { libc::sigismember(&raw const self.0, signum) == 1 }
    }
}

fn change_mask(how: c_int, set: &SignalSet) -> Result<SignalSet, Errno> {
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: one set is readable, the other writable, for the call.
    match unsafe { libc::pthread_sigmask(how, &raw const set.0, old.as_mut_ptr()) } {
        // SAFETY: the call has succeeded and so has written the previous mask.
        0 => Ok(SignalSet(unsafe { old.assume_init() })),
        // This one returns its error instead of setting errno.
        error => Err(Errno(error)),
    }
}

/// Blocks these signals for the calling thread, and the threads it will create, beside those blocked
/// already. Returns the mask as it was.
///
/// # Errors
/// None that can happen.
pub fn block(set: &SignalSet) -> Result<SignalSet, Errno> {
    change_mask(libc::SIG_BLOCK, set)
}

/// Replaces the calling thread's mask, for instance by one that [`block`] returned.
///
/// # Errors
/// None that can happen.
pub fn set_mask(set: &SignalSet) -> Result<SignalSet, Errno> {
    change_mask(libc::SIG_SETMASK, set)
}

/// One signal read from a [`SignalFd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// Which signal.
    pub signum: c_int,
    /// The process that sent it; for `SIGCHLD` the child. 0 if the kernel sent it.
    pub pid: u32,
    /// For `SIGCHLD` the exit status or the signal that ended the child.
    pub status: i32,
}

/// Signals as something to read, see signalfd(2). Closed on exec, never blocks.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// A descriptor that is readable while one of these signals is pending. They have to be blocked in
    /// every thread, else they are delivered in the usual way.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when descriptors run out.
    pub fn new(set: &SignalSet) -> Result<Self, Errno> {
        // SAFETY: the set is readable for the call.
        let fd = check(unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the call has just returned this descriptor and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes one pending signal; `None` if there is none.
    ///
    /// # Errors
    /// Those of read(2), none of which a valid signalfd gives.
    pub fn read(&self) -> Result<Option<SignalInfo>, Errno> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the structure is writable for its size.
        let ret = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        match check_long(ret as i64) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        // SAFETY: a signalfd returns whole structures only.
        let info = unsafe { info.assume_init() };
        Ok(Some(SignalInfo { signum: info.ssi_signo as c_int, pid: info.ssi_pid, status: info.ssi_status }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_signal_is_read_from_its_descriptor() {
        std::thread::spawn(|| {
            let set = SignalSet::of(&[libc::SIGUSR1]).unwrap();
            assert!(set.contains(libc::SIGUSR1) && !set.contains(libc::SIGUSR2));
            let before = block(&set).unwrap();
            assert!(!before.contains(libc::SIGUSR1));
            let signals = SignalFd::new(&set).unwrap();
            assert_eq!(signals.read(), Ok(None));
            tgkill(gettid(), libc::SIGUSR1).unwrap();
            let info = signals.read().unwrap().unwrap();
            assert_eq!((info.signum, info.pid), (libc::SIGUSR1, std::process::id()));
            assert_eq!(signals.read(), Ok(None));
            assert!(set_mask(&before).unwrap().contains(libc::SIGUSR1));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_handler_runs_in_the_thread_meant() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn count(_: c_int) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: adding to an atomic is safe in a handler and leaves errno alone.
        unsafe { install_handler(libc::SIGUSR2, count) }.unwrap();
        tgkill(gettid(), libc::SIGUSR2).unwrap();
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn refusals() {
        assert_eq!(SignalSet::of(&[1000]).err(), Some(Errno::EINVAL));
        assert_eq!(tgkill(Tid(i32::MAX), 0), Err(Errno::ESRCH));
    }
}
