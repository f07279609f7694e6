//! What surrounds every exported function: errors become negative numbers, and time is taken if somebody asked for it.

use core::ffi::c_int;

use crate::stats::{self, Stat};

/// A number of `errno.h`, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// A null or wrong handle, or an argument that cannot be.
    pub const INVALID: Errno = Errno(libc::EINVAL);
    /// Not at this point of the conversation.
    pub const PROTOCOL: Errno = Errno(libc::EPROTO);
}

impl From<outboard_plugin::Error> for Errno {
    #[cold]
    fn from(error: outboard_plugin::Error) -> Errno {
        Errno(error.errno())
    }
}

/// What a function returns on success: 0, or a descriptor.
pub trait Success {
    fn status(self) -> c_int;
}

impl Success for () {
    #[inline(always)]
    fn status(self) -> c_int {
        0
    }
}

/// A descriptor for the caller.
pub struct Fd(pub c_int);

impl Success for Fd {
    fn status(self) -> c_int {
        self.0
    }
}

/// Runs the body of an exported function.
#[inline(always)]
pub fn run<T: Success>(stat: &'static Stat, body: impl FnOnce() -> Result<T, Errno>) -> c_int {
    let begin = stats::begin();
    let status = match body() {
        Ok(success) => success.status(),
        // Zero would say that all went well, whatever the VMM thinks of its own errno.
        Err(Errno(errno)) => -errno.max(1),
    };
    if let Some(begin) = begin {
        stat.record(begin);
    }
    status
}

/// The body of an exported function with its name: `call!(crosvm_start, { ... })`. The body may use `?` and ends with
/// `Ok`.
macro_rules! call {
    ($name:ident, $body:block) => {{
        static STAT: $crate::stats::Stat = $crate::stats::Stat::new(stringify!($name));
        $crate::call::run(&STAT, || $body)
    }};
}
pub(crate) use call;
