//! Mounts by descriptor: `fsopen(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)` (all there since
//! Linux 5.12), and `pivot_root(2)`.
//!
//! None of these allocates or takes a lock, so a child half may call them between clone and exec.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_long};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::errno::{Errno, check, check_long};

/// What a mount does not let through (`mount_setattr(2)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Nothing can be written below it.
    pub read_only: bool,
    /// Set-user-ID bits and file capabilities do nothing.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Nothing can be executed, or mapped for execution.
    pub no_exec: bool,
}

impl Attributes {
    fn bits(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.read_only, libc::MOUNT_ATTR_RDONLY)
            | bit(self.no_suid, libc::MOUNT_ATTR_NOSUID)
            | bit(self.no_dev, libc::MOUNT_ATTR_NODEV)
            | bit(self.no_exec, libc::MOUNT_ATTR_NOEXEC)
    }
}

// Values of linux/mount.h and linux/fcntl.h that libc does not have for this target.
const FSOPEN_CLOEXEC: c_long = 1;
const FSMOUNT_CLOEXEC: c_long = 1;
const FSCONFIG_SET_STRING: c_long = 1;
const FSCONFIG_CMD_CREATE: c_long = 6;
const OPEN_TREE_CLONE: c_long = 1;
const OPEN_TREE_CLOEXEC: c_long = libc::O_CLOEXEC as c_long;
const AT_RECURSIVE: c_long = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_long = 4;
const MOVE_MOUNT_T_EMPTY_PATH: c_long = 0x40;

/// A call whose result is a new close-on-exec descriptor.
fn descriptor(result: c_long) -> Result<OwnedFd, Errno> {
    let number = check_long(result)? as RawFd;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A new instance of a file system, mounted nowhere yet: its type, `KEY=value` options, and what the mount lets through.
///
/// # Errors
/// `ENODEV` if the kernel lacks the file system, `EINVAL` for an option it does not know, `EPERM` without
/// `CAP_SYS_ADMIN` in the user namespace of the mount namespace.
pub fn new_file_system(kind: &CStr, options: &[(&CStr, &CStr)], attributes: Attributes) -> Result<OwnedFd, Errno> {
    // SAFETY: a C string and flags.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let fd = context.as_raw_fd();
    for (key, value) in options {
        let (key, value) = (key.as_ptr(), value.as_ptr());
        // SAFETY: two C strings; the last argument is not used by this command.
        check_long(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, key, value, 0) })?;
    }
    let null: *const u8 = ptr::null();
    // SAFETY: this command takes neither key nor value.
    check_long(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // SAFETY: takes numbers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes.bits()) })
}

/// A copy of the mount at `path` (relative to `at`, if there is one), mounted nowhere yet, with the file or folder at the
/// path as its root; with everything that is mounted below it, if `recursive`.
///
/// # Errors
/// Those of a path look-up; `EPERM` as above; `EINVAL` where a part of the tree must not be shown without the rest.
pub fn clone_tree(at: Option<BorrowedFd<'_>>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let at = at.map_or(libc::AT_FDCWD, |at| at.as_raw_fd());
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: a descriptor, a C string and flags.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) })
}

/// Attaches a mount at `path`, relative to `at`. Symbolic links on the way are followed.
///
/// # Errors
/// Those of a path look-up; `EINVAL` for a mount that cannot be moved there.
pub fn attach(mount: BorrowedFd<'_>, at: Option<BorrowedFd<'_>>, path: &CStr) -> Result<(), Errno> {
    let at = at.map_or(libc::AT_FDCWD, |at| at.as_raw_fd());
    let (from, flags) = (mount.as_raw_fd(), MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: two descriptors, two C strings and flags.
    check_long(unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), at, path.as_ptr(), flags) }).map(drop)
}

/// Attaches a mount at the place that `at` is open on.
///
/// # Errors
/// As [`attach`].
pub fn attach_at(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<(), Errno> {
    let (from, to, empty) = (mount.as_raw_fd(), at.as_raw_fd(), c"".as_ptr());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: two descriptors, two C strings and flags.
    check_long(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(drop)
}

/// Adds attributes to a mount, or to all of its tree if `recursive`. None is taken away.
///
/// # Errors
/// `EBUSY` if something is open for writing below what is to be read-only; `ENOSYS` before Linux 5.12.
pub fn restrict(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: attributes.bits(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH as c_long | if recursive { AT_RECURSIVE } else { 0 };
    let (fd, empty, size) = (mount.as_raw_fd(), c"".as_ptr(), size_of::<libc::mount_attr>());
    // SAFETY: a C string, and a structure of the size that is said.
    check_long(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, &raw const attr, size) }).map(drop)
}

/// Makes a folder with mode 0755, relative to `at`. One that is there already is no error.
///
/// # Errors
/// Those of `mkdirat(2)`.
pub fn make_folder(at: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    // SAFETY: a descriptor and a C string.
    made(unsafe { libc::mkdirat(at.as_raw_fd(), path.as_ptr(), 0o755) })
}

/// Makes an empty file with mode 0444, relative to `at`. One that is there already is no error.
///
/// # Errors
/// Those of `mknodat(2)`.
pub fn make_file(at: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    // SAFETY: a descriptor and a C string; a regular file has no device number.
    made(unsafe { libc::mknodat(at.as_raw_fd(), path.as_ptr(), libc::S_IFREG | 0o444, 0) })
}

fn made(result: c_int) -> Result<(), Errno> {
    match check(result) {
        Err(Errno::EEXIST) => Ok(()),
        result => result.map(drop),
    }
}

/// Opens what is at `path` with `root` as the root of the look-up, so that no symbolic link leads out of it, and without
/// the magic links of /proc (`openat2(2)`, `O_PATH`).
///
/// # Errors
/// Those of a path look-up.
pub fn open_within(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: a C struct for which zeros are a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let (fd, size) = (root.as_raw_fd(), size_of::<libc::open_how>());
    // SAFETY: a C string, and a structure of the size that is said.
    descriptor(unsafe { libc::syscall(libc::SYS_openat2, fd, path.as_ptr(), &raw const how, size) })
}

/// Makes the mount that `root` is open on the root of this mount namespace, and lets go of the former one with all that is
/// mounted below it. The working folder is the new root then.
///
/// # Errors
/// `EINVAL` if the current root is not a mount, as the first root of the kernel (`initramfs`) is not.
pub fn change_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let here = c".".as_ptr();
    // SAFETY: takes a number.
    check(unsafe { libc::fchdir(root.as_raw_fd()) })?;
    // With "." for both, the former root ends up on top of the new one (pivot_root(2)), and goes with the next call.
    // SAFETY: two C strings.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: a C string and flags.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    // SAFETY: a C string.
    check(unsafe { libc::chdir(c"/".as_ptr()) }).map(drop)
}
