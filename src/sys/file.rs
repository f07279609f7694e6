//! Small questions about files and descriptors.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::errno::{Errno, check};
use super::process;

fn stat(fd: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the structure is writable for the call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat fills the whole structure when it succeeds.
    Ok(unsafe { stat.assume_init() })
}

/// The size of the file in bytes, see fstat(2).
///
/// # Errors
/// Those of fstat(2).
pub fn size(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    stat(fd).map(|stat| stat.st_size.max(0) as u64)
}

/// Whether two descriptors are of the same file: the same inode of the same device.
///
/// # Errors
/// Those of fstat(2).
pub fn same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (a, b) = (stat(a)?, stat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Removes what a path names if it is this device and inode, see lstat(2) and unlink(2). Between the look and the removal
/// somebody may put another file there.
///
/// # Errors
/// `ENOENT` if it is gone or another file; those of both calls.
pub fn remove_if_same(path: &CStr, (device, inode): (u64, u64)) -> Result<(), Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a C string, and a structure that is writable for the call.
    check(unsafe { libc::lstat(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: lstat fills the whole structure when it succeeds.
    let stat = unsafe { stat.assume_init() };
    if (stat.st_dev, stat.st_ino) != (device, inode) {
        return Err(Errno::ENOENT);
    }
    // SAFETY: a C string.
    check(unsafe { libc::unlink(path.as_ptr()) }).map(drop)
}

/// Checks that the calling user may execute the file, see access(2). The file may change before it is
/// executed: this is for a good message early, not for safety.
///
/// # Errors
/// `ENOENT`, `EACCES` and the others of access(2); `EINVAL` for a path that contains a zero byte.
pub fn check_executable(path: &Path) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path is a valid C string for the duration of the call.
    check(unsafe { libc::access(path.as_ptr(), libc::X_OK) }).map(drop)
}

/// The access mode and status flags (`O_RDWR`, `O_NONBLOCK`, ...), see `F_GETFL` in fcntl(2).
///
/// # Errors
/// Those of fcntl(2).
pub fn status_flags(fd: BorrowedFd<'_>) -> Result<c_int, Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// Switches `O_NONBLOCK` on or off. The flag belongs to the open file, so every duplicate sees it.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    let flags = status_flags(fd)? & !libc::O_NONBLOCK;
    let flags = if on { flags | libc::O_NONBLOCK } else { flags };
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// Puts an open file in the place of standard error, for this process and those that it starts (`dup3(2)`). Returns what was
/// there before.
///
/// # Errors
/// `EMFILE`; those of `dup3`.
pub fn replace_stderr(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let before = process::dup_from(std::io::stderr().as_fd(), libc::STDERR_FILENO + 1)?;
    // SAFETY: takes numbers. Number 2 belongs to standard error and stays open without a gap.
    check(unsafe { libc::dup3(file.as_raw_fd(), libc::STDERR_FILENO, 0) })?;
    Ok(before)
}

/// Whether the descriptor is closed on exec.
///
/// # Errors
/// Those of fcntl(2).
pub fn is_close_on_exec(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }).map(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Sets or clears close-on-exec. A descriptor meant for a child is cleared in the child, after the fork,
/// so that no other child inherits it.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_close_on_exec(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn answers() {
        let null = File::open("/dev/null").unwrap();
        let zero = File::open("/dev/zero").unwrap();
        assert_eq!(size(null.as_fd()), Ok(0));
        assert_eq!(same_file(null.as_fd(), null.try_clone().unwrap().as_fd()), Ok(true));
        assert_eq!(same_file(null.as_fd(), zero.as_fd()), Ok(false));
        assert_eq!(check_executable(Path::new("/bin/sh")), Ok(()));
        assert_eq!(check_executable(Path::new("/no such file")), Err(Errno::ENOENT));
    }

    #[test]
    fn flags() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        assert_eq!(status_flags(fd).unwrap() & libc::O_ACCMODE, libc::O_RDONLY);
        set_nonblocking(fd, true).unwrap();
        assert_ne!(status_flags(fd).unwrap() & libc::O_NONBLOCK, 0);
        set_nonblocking(fd, false).unwrap();
        assert_eq!(status_flags(fd).unwrap() & libc::O_NONBLOCK, 0);
        assert_eq!(is_close_on_exec(fd), Ok(true));
        set_close_on_exec(fd, false).unwrap();
        assert_eq!(is_close_on_exec(fd), Ok(false));
    }
}
