//! Landlock: rules by which a process restricts itself (`landlock(7)`), on top of what file modes say.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_long};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::errno::{Errno, check_long};

/// Rights over files below a place (linux/landlock.h).
pub mod access {
    /// Execute a file.
    pub const EXECUTE: u64 = 1 << 0;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// List a folder.
    pub const READ_DIR: u64 = 1 << 3;
    /// Truncate a file; since version 3.
    pub const TRUNCATE: u64 = 1 << 14;
    /// `ioctl(2)` on a device that is opened; since version 5.
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// All that version 1 knows.
    pub const ALL_OF_1: u64 = (1 << 13) - 1;
    /// Link and rename across folders; since version 2.
    pub const REFER: u64 = 1 << 13;
}

/// Binding and connecting TCP sockets; since version 4.
const NETWORK: u64 = 0b11;
/// Abstract Unix sockets and signals beyond the domain; since version 6.
const SCOPES: u64 = 0b11;

/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: c_long = 1;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: c_long = 1;

/// struct landlock_ruleset_attr. Older kernels know a shorter one, and take this if what they do not know is zero.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// struct landlock_path_beneath_attr.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: RawFd,
}

/// The version of Landlock that the kernel has; 0 if it has none, or it is switched off.
pub fn version() -> u32 {
    let none: *const RulesetAttr = ptr::null();
    // SAFETY: a null pointer and size 0 are what this flag asks for.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// The rights over files that a version knows.
pub fn known_access(version: u32) -> u64 {
    let since = |least: u32, right: u64| if version >= least { right } else { 0 };
    since(1, access::ALL_OF_1) | since(2, access::REFER) | since(3, access::TRUNCATE) | since(5, access::IOCTL_DEV)
}

/// A set of rules that forbids everything that this version knows: all rights over files, TCP, and signals and abstract
/// sockets that leave the process's own domain.
///
/// # Errors
/// `EOPNOTSUPP` if Landlock is switched off, `ENOSYS` if the kernel has none.
pub fn new_ruleset(version: u32) -> Result<OwnedFd, Errno> {
    let attr = RulesetAttr {
        handled_access_fs: known_access(version),
        handled_access_net: if version >= 4 { NETWORK } else { 0 },
        scoped: if version >= 6 { SCOPES } else { 0 },
    };
    // SAFETY: a structure of the size that is said.
    let fd = check_long(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0)
    })?;
    // SAFETY: the kernel just made this descriptor for us; it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows rights at and below a path. For a file, leave out the rights over folders.
///
/// # Errors
/// Those of opening the path; `EINVAL` for rights that the set does not handle or that a file cannot have.
pub fn allow(ruleset: BorrowedFd<'_>, path: &CStr, allowed_access: u64) -> Result<(), Errno> {
    // SAFETY: a C string and flags.
    let fd = check_long(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }.into())?;
    // SAFETY: the kernel just made this descriptor for us.
    let place = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attr = PathBeneathAttr { allowed_access, parent_fd: place.as_raw_fd() };
    let set = ruleset.as_raw_fd();
    // SAFETY: the structure that this kind of rule has.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_add_rule, set, PATH_BENEATH, &raw const attr, 0) }).map(drop)
}

/// Puts the calling thread under the rules, for good, and what it becomes or starts.
///
/// # Errors
/// `EPERM` without `PR_SET_NO_NEW_PRIVS`; `E2BIG` below 16 others.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes numbers.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_thread_restricts_itself() {
        let version = version();
        if version == 0 {
            assert_eq!(new_ruleset(1).map(drop).unwrap_err().0, libc::EOPNOTSUPP.min(libc::ENOSYS));
            return;
        }
        let body = || {
            let rules = new_ruleset(version).unwrap();
            allow(rules.as_fd(), c"/proc", access::READ_FILE | access::READ_DIR).unwrap();
            super::super::creds::set_no_new_privileges().unwrap();
            restrict_self(rules.as_fd()).unwrap();
            assert!(std::fs::read("/proc/self/status").is_ok());
            let refused = std::fs::read("/etc/passwd").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        };
        std::thread::scope(|scope| scope.spawn(body).join().expect("it does not panic"));
    }
}
