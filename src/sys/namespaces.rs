//! Namespaces (`namespaces(7)`), and what is set in one.

#![allow(unsafe_code)]

use std::ffi::CStr;

use super::errno::{Errno, check};

/// The namespaces that [`clone_process`](super::process::clone_process) can put the child into (`namespaces(7)`).
pub const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Puts the calling thread into new namespaces, a set of [`NAMESPACE_FLAGS`] (`unshare(2)`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` if the user's limit of such namespaces is reached.
pub fn unshare(namespaces: u64) -> Result<(), Errno> {
    // SAFETY: takes a number.
    check(unsafe { libc::unshare(namespaces as libc::c_int) }).map(drop)
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
    check(unsafe { libc::setdomainname(c"".as_ptr(), 0) }).map(drop)
}
