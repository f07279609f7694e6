//! Seccomp filters: `seccomp(2)`, the listener that a filter can have (`seccomp_unotify(2)`), and system calls that carry a
//! secret for a filter in the argument that they do not have.

#![allow(unsafe_code)]

use std::ffi::{c_uint, c_ulong};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::errno::{Errno, check, check_long};
use super::process::exit_now;

/// One instruction of classic BPF: `struct sock_filter` (`linux/filter.h`), eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// For a conditional jump, how many instructions are skipped if the condition holds.
    pub yes: u8,
    /// How many if it does not.
    pub no: u8,
    /// The operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// Which tasks a filter is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The calling thread.
    Thread,
    /// All threads of the process (`SECCOMP_FILTER_FLAG_TSYNC`).
    Process,
}

/// Gives up new privileges by `execve` for good (`PR_SET_NO_NEW_PRIVS`), without which an unprivileged thread may not load a
/// filter. Async-signal-safe.
///
/// # Errors
/// None on Linux 3.5 and later.
pub fn set_no_new_privs() -> Result<(), Errno> {
    let (on, none): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, none, none, none) }).map(drop)
}

/// Loads a filter, which nothing takes away again. With `logged` the kernel's log tells of all that is refused, as the
/// sysctl `kernel.seccomp.actions_logged` has it (`SECCOMP_FILTER_FLAG_LOG`); what kills is logged in any case.
/// Async-signal-safe.
///
/// # Errors
/// `EINVAL` for a program that the kernel does not take, `EACCES` without [`set_no_new_privs`] and without `CAP_SYS_ADMIN`,
/// `ENOMEM` where filters are too long together, `ESRCH` if another thread cannot take the filter.
pub fn load(program: &[Instruction], scope: Scope, logged: bool) -> Result<(), Errno> {
    let log = if logged { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    set_filter(program, flags(scope) | log).map(drop)
}

/// The same with a listener for the calls that the filter answers [`Notify`](`libc::SECCOMP_RET_USER_NOTIF`) to. It is
/// closed by `execve`. Async-signal-safe.
///
/// # Errors
/// As [`load`]; `EBUSY` if a filter of this process has a listener already.
pub fn load_with_listener(program: &[Instruction], scope: Scope) -> Result<OwnedFd, Errno> {
    let fd = set_filter(program, flags(scope) | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: the call has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// With the second flag a thread that cannot take the filter is `ESRCH`; without it its id is returned.
fn flags(scope: Scope) -> c_ulong {
    match scope {
        Scope::Thread => 0,
        Scope::Process => libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    }
}

fn set_filter(program: &[Instruction], flags: c_ulong) -> Result<RawFd, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let mode: c_uint = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program is of the length said, in the kernel's layout, and only read.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    check_long(ret).map(|fd| fd as RawFd)
}

/// A number that nobody can guess (`getrandom(2)`).
///
/// # Errors
/// `ENOSYS` before Linux 3.17.
pub fn secret() -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    // SAFETY: writes as many bytes as are said.
    check_long(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } as i64)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Sends a message of up to 16 bytes and perhaps a descriptor by `sendmmsg(2)`, with `secret` in the argument register that
/// the call does not have. Async-signal-safe.
///
/// # Errors
/// `sendmmsg`'s; `EMSGSIZE` for a longer message.
pub fn send_with(secret: u64, socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    if bytes.len() > 16 {
        return Err(Errno::EMSGSIZE);
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // A cmsghdr and one descriptor, in words for its alignment: length, level and type, the number.
    let rights = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
    let mut control = [20, rights, fd.map_or(0, |fd| fd.as_raw_fd() as u64)];
    let (control_at, control_len) = if fd.is_some() { (control.as_mut_ptr(), 20) } else { (ptr::null_mut(), 0) };
    let msg_hdr = libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut part,
        msg_iovlen: 1,
        msg_control: control_at.cast(),
        msg_controllen: control_len,
        msg_flags: 0,
    };
    let mut message = libc::mmsghdr { msg_hdr, msg_len: 0 };
    let (socket, flags, none) = (socket.as_raw_fd(), libc::MSG_NOSIGNAL, 0_u64);
    // SAFETY: one message, whose parts live in this frame and are of the lengths said; the last two are only registers.
    check_long(unsafe { libc::syscall(libc::SYS_sendmmsg, socket, &raw mut message, 1, flags, none, secret) }).map(drop)
}

/// Ends the process by `exit_group(2)` with `secret` in the last argument register, and by `_exit` if a filter refuses even
/// that. Async-signal-safe.
pub fn exit_with(secret: u64, status: i32) -> ! {
    let none = 0_u64;
    // SAFETY: takes numbers; does not return if it succeeds.
    unsafe { libc::syscall(libc::SYS_exit_group, status, none, none, none, none, secret) };
    exit_now(status)
}

/// A system call that waits for the listener, or what there is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A thread waits in a call.
    Call {
        /// Number of the thread in our pid namespace; 0 if it is not visible there.
        tid: u32,
        /// The `struct seccomp_data`: number and architecture, instruction pointer, arguments.
        data: [u64; 8],
    },
    /// A thread waited and was taken out of the call by a signal.
    Withdrawn,
    /// No process has the filter any more.
    Ended,
}

/// The end of a filter that hears of refused calls. While it is open, threads wait in them; when it is closed, they get
/// `ENOSYS`.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes what [`load_with_listener`] gave.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener(fd)
    }

    /// What has made the listener readable. Does not wait.
    ///
    /// # Errors
    /// `ENOTTY` if this is no listener.
    pub fn hear(&self) -> Result<Heard, Errno> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as the count says.
        while let Err(errno) = check(unsafe { libc::poll(&raw mut poll, 1, 0) }) {
            // Also without a wait: a signal came first.
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        if poll.revents & libc::POLLIN == 0 {
            return Ok(if poll.revents & libc::POLLHUP != 0 { Heard::Ended } else { Heard::Withdrawn });
        }
        // Zeros, as the kernel wants it, and room for a longer structure of a later one.
        let mut words = [0_u64; 64];
        // SAFETY: the buffer is longer than the structure, and aligned for it.
        match check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, words.as_mut_ptr()) }) {
            Ok(_) => {}
            Err(Errno::ENOENT) => return Ok(Heard::Withdrawn),
            Err(errno) => return Err(errno),
        }
        // struct seccomp_notif: u64 id; u32 pid; u32 flags; struct seccomp_data.
        let mut data = [0; 8];
        data.copy_from_slice(&words[2..10]);
        Ok(Heard::Call { tid: words[1] as u32, data })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
