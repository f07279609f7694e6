//! The error number of a failed system call.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_long};
use std::fmt;
use std::io;

/// An error number as errno(3) lists them: positive, and never 0 where a call has failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

/// Names the error numbers once; gives a constant for each and the table behind [`Errno::name`].
macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`, see errno(3).")]
                pub const $name: Errno = Errno(libc::$name);
            )*

            /// The symbolic name, such as `"ENOENT"`, or `None` for a number this table does not know.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY
    EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK
    EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP ENODATA ETIME EPROTO EBADMSG EOVERFLOW
    ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT EADDRINUSE
    EADDRNOTAVAIL ENETDOWN ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED EALREADY
    EINPROGRESS EDQUOT ECANCELED
}

impl Errno {
    /// The calling thread's `errno`. Meaningful only right after a call that has failed.
    pub fn last() -> Self {
        // SAFETY: the function has no precondition; its pointer is valid for the calling thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

/// Turns the return value of a system call into a result: -1 is the thread's `errno`.
///
/// # Errors
/// The call's error number.
pub fn check(ret: c_int) -> Result<c_int, Errno> {
    if ret == -1 { Err(Errno::last()) } else { Ok(ret) }
}

/// [`check`] for the calls that return a `long` or a `ssize_t`.
///
/// # Errors
/// The call's error number.
pub fn check_long(ret: c_long) -> Result<c_long, Errno> {
    if ret == -1 { Err(Errno::last()) } else { Ok(ret) }
}

impl fmt::Display for Errno {
    /// "ENOENT (No such file or directory)", or "errno 4095 (...)" for a number without a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 128];
        // SAFETY: the buffer is writable for the length given. This is the POSIX variant, which always
        // writes into it.
        unsafe { libc::strerror_r(self.0, text.as_mut_ptr().cast(), text.len()) };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy();
        match self.name() {
            Some(name) => write!(f, "{name} ({text})"),
            None => write!(f, "errno {} ({text})", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl From<io::Error> for Errno {
    /// An error that did not come from a system call has no number and becomes `EIO`.
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Errno::EIO, Errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_name_and_text() {
        assert_eq!(Errno::ENOENT.to_string(), "ENOENT (No such file or directory)");
        assert_eq!(format!("{:?}", Errno::EEXIST), "EEXIST");
        assert!(Errno(4095).to_string().starts_with("errno 4095 ("));
    }

    #[test]
    fn converts_both_ways() {
        assert_eq!(Errno::from(io::Error::from(Errno::EPIPE)), Errno::EPIPE);
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::EIO);
    }

    #[test]
    fn check_reads_errno() {
        // SAFETY: closing a descriptor number that cannot be open has no effect.
        assert_eq!(check(unsafe { libc::close(-1) }), Err(Errno::EBADF));
        assert_eq!(check(7), Ok(7));
        assert_eq!(check_long(8), Ok(8));
    }
}
