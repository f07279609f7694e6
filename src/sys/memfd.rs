//! Memory files: anonymous shared memory behind a descriptor, and the seals that say what nobody may do
//! to it any more. See memfd_create(2) and the file sealing part of fcntl(2).

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check};

/// A set of seals. Once added, a seal stays for the life of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seals(u32);

impl Seals {
    /// No seal.
    pub const NONE: Seals = Seals(0);
    /// No further seals can be added.
    pub const SEAL: Seals = Seals(libc::F_SEAL_SEAL as u32);
    /// The file cannot become smaller, so a mapping of it cannot raise `SIGBUS`.
    pub const SHRINK: Seals = Seals(libc::F_SEAL_SHRINK as u32);
    /// The file cannot become larger.
    pub const GROW: Seals = Seals(libc::F_SEAL_GROW as u32);
    /// The contents cannot change; refused with `EBUSY` while a writable shared mapping exists.
    pub const WRITE: Seals = Seals(libc::F_SEAL_WRITE as u32);
    /// No new writable mapping and no write call; mappings that exist keep writing. Linux 5.1.
    pub const FUTURE_WRITE: Seals = Seals(libc::F_SEAL_FUTURE_WRITE as u32);

    /// The set as the kernel's `F_SEAL_*` bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every seal of `other` is in this set.
    pub const fn contains(self, other: Seals) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Seals {
    type Output = Seals;

    fn bitor(self, other: Seals) -> Seals {
        Seals(self.0 | other.0)
    }
}

/// Creates an empty memory file that may be sealed and is closed on exec. The name is for people only: it
/// shows in `/proc/*/fd` and `/proc/*/maps`.
///
/// # Errors
/// `EMFILE` or `ENFILE` when descriptors run out, `EINVAL` for a name longer than 249 bytes.
pub fn create(name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is a valid C string for the duration of the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) })?;
    // SAFETY: the call has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the size in bytes; new bytes read as zero.
///
/// # Errors
/// `EPERM` if a seal forbids it, `EINVAL` for a size beyond `i64::MAX` or a descriptor that is not a file.
pub fn set_size(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    let bytes = i64::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    // SAFETY: no memory is passed. A file that shrinks under a mapping makes access to it raise SIGBUS,
    // which is why mappings are made only of files that are sealed against it.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), bytes) }).map(drop)
}

/// Adds seals to those the file has.
///
/// # Errors
/// `EPERM` if the file is sealed with [`Seals::SEAL`] or the descriptor is read-only, `EBUSY` for
/// [`Seals::WRITE`] with a writable mapping, `EINVAL` if the file cannot be sealed at all.
pub fn add_seals(fd: BorrowedFd<'_>, seals: Seals) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals.bits()) }).map(drop)
}

/// The seals the file has.
///
/// # Errors
/// `EINVAL` if it is not a file in memory.
pub fn seals(fd: BorrowedFd<'_>) -> Result<Seals, Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }).map(|bits| Seals(bits as u32))
}

/// Whether this is a file in memory: a memfd, or a file on tmpfs, which the kernel treats alike.
pub fn is_memory_file(fd: BorrowedFd<'_>) -> bool {
    seals(fd).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn seals_hold() {
        let fd = create(c"test").unwrap();
        let fd = fd.as_fd();
        set_size(fd, 8192).unwrap();
        assert_eq!(file::size(fd), Ok(8192));
        assert_eq!(seals(fd), Ok(Seals::NONE));

        add_seals(fd, Seals::SHRINK | Seals::GROW).unwrap();
        assert_eq!(set_size(fd, 4096), Err(Errno::EPERM));
        assert_eq!(set_size(fd, 16384), Err(Errno::EPERM));
        assert!(seals(fd).unwrap().contains(Seals::SHRINK));
        assert!(!seals(fd).unwrap().contains(Seals::SHRINK | Seals::SEAL));

        add_seals(fd, Seals::SEAL | Seals::FUTURE_WRITE).unwrap();
        assert_eq!(add_seals(fd, Seals::WRITE), Err(Errno::EPERM));
    }

    #[test]
    fn only_memory_files_have_seals() {
        assert!(is_memory_file(create(c"test").unwrap().as_fd()));
        let other = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_memory_file(other.as_fd()));
        assert_eq!(set_size(other.as_fd(), u64::MAX), Err(Errno::EINVAL));
    }
}
