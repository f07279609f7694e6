//! Small questions about files and descriptors.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check};

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

/// Writes to a file that is there, by one `write(2)`.
///
/// # Errors
/// Those of `open(2)` and `write(2)`.
pub fn write_to(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    // SAFETY: a C string and flags.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a pointer to as many bytes as are said.
    let written = unsafe { libc::write(fd.as_raw_fd(), text.as_ptr().cast(), text.len()) };
    if written < 0 { Err(Errno::last()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn answers() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(size(null.as_fd()), Ok(0));
    }
}
