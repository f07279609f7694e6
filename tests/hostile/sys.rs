//! The system calls that these tests need beyond the standard library.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The control socket of this plugin, taken over from the environment.
pub fn control_socket() -> OwnedFd {
    let number: RawFd = std::env::var("OUTBOARD_SOCKET").expect("a plugin").parse().expect("a number");
    // SAFETY: the VMM made this descriptor for this process, and only one function of it takes it over, once.
    unsafe { outboard_wire::socket::adopt(number) }.expect("a control socket")
}

/// Sends a message with any number of descriptors.
pub fn send_with_fds(socket: BorrowedFd<'_>, message: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut control = vec![0u64; 2 + fds.len().div_ceil(2)];
    let mut iov = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: `control` has room for the header and all descriptors, is aligned to 8 bytes, and CMSG_DATA lies right
    // behind the header. `header` points at it and at `iov`; both outlive the call.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = libc::CMSG_LEN(size_of_val(fds) as u32) as usize;
        let first = libc::CMSG_FIRSTHDR(&header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = header.msg_controllen;
        std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(first).cast::<RawFd>(), fds.len());
        libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Adds seals to a memfd.
pub fn add_seals(fd: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    // SAFETY: F_ADD_SEALS takes no pointer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })
}

/// Makes mapped pages writable, which is what the mapping must not allow.
pub fn make_writable(place: *mut u8, length: usize) -> io::Result<()> {
    // SAFETY: more rights for pages of this process change nothing that Rust relies on.
    check(unsafe { libc::mprotect(place.cast(), length, libc::PROT_READ | libc::PROT_WRITE) })
}

/// Frees the pages of a file.
pub fn punch_hole(fd: BorrowedFd<'_>, length: i64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, 0, length) })
}

/// A process that this one can watch and kill, whatever becomes of its number.
pub struct Process(OwnedFd);

impl Process {
    /// The process with this number now; `None` if there is none.
    pub fn of(pid: i32) -> Option<Process> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        (fd >= 0).then(|| Process(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Kills it. One that has ended already is no error.
    pub fn kill(&self) {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo the kernel fills one in itself.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, no_info, 0) };
    }

    /// Waits until it has ended, a zombie or gone. False if that takes longer.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut entry = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = libc::timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            // SAFETY: `entry` is the one entry that the count announces, `timeout` is readable, and no mask is given.
            let ready = unsafe { libc::ppoll(&mut entry, 1, &timeout, std::ptr::null()) };
            if ready > 0 {
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

/// Sends a signal to one thread of a process.
pub fn signal_thread(pid: i32, thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, signal) } as i32)
}

/// Sends a signal to a process group.
pub fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::kill(-group, signal) })
}

/// Dies of a signal whose default action is that.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: the default action replaces whatever handler there is, and the signal is one's own.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    unreachable!("signal {signal} does not end a process");
}

/// Dies of a fault of its own.
pub fn segfault() -> ! {
    // SAFETY: nothing is mapped at address 0, so the process ends here.
    unsafe { core::arch::asm!("mov byte ptr [{0}], 0", in(reg) 0u64, options(noreturn)) }
}

/// Closes standard output and standard error, also for the standard library.
pub fn close_output() {
    // SAFETY: both are replaced by another open file, so no number that the library uses becomes free.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::dup2(null, 1);
        libc::dup2(null, 2);
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
