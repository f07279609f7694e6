//! Pipes, and waiting for what comes through one. All of it may be called between clone and exec.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check, check_long};

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

/// Whether the other end of a pipe or socket has no descriptor left that refers to it (`POLLERR`/`POLLHUP`).
///
/// # Errors
/// `poll(2)`'s; `EINTR` if a signal came.
pub fn peer_is_gone(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    check(unsafe { libc::poll(&mut poll, 1, 0) })?;
    Ok(poll.revents & (libc::POLLERR | libc::POLLHUP) != 0)
}

/// Whether a descriptor becomes readable, or comes to its end, within a time. That of a process does when it has ended (`pidfd_open(2)`).
///
/// # Errors
/// `poll(2)`'s; `EINTR` if a signal came.
pub fn readable_within(fd: BorrowedFd<'_>, milliseconds: i32) -> Result<bool, Errno> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as the count says.
    check(unsafe { libc::poll(&mut poll, 1, milliseconds) })?;
    Ok(poll.revents != 0)
}
