//! What can go wrong in a plugin, and the errno for each of it.

use std::io;

use outboard_wire::error::{FrameError, Violation};
use thiserror::Error;

/// Why a call of this library failed.
///
/// Every case has a one-sentence message and a number from `errno.h`, see [`Error::errno`].
///
/// ```
/// use outboard_plugin::Error;
///
/// let error = Error::Refused { what: "reserve port 0x3f8..0x400".into(), errno: 1 };
/// assert_eq!(error.to_string(), "the VMM refused to reserve port 0x3f8..0x400: EPERM (Operation not permitted)");
/// assert_eq!(error.errno(), 1);
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment names no socket.
    #[error("neither OUTBOARD_SOCKET nor CROSVM_SOCKET is set: a plugin is started by `outboard run --plugin`")]
    NotConnected,
    /// The environment variable holds no descriptor number.
    #[error("{variable} is {value:?}, which is not a file descriptor number")]
    SocketNumber {
        /// The variable's name.
        variable: &'static str,
        /// What it holds.
        value: String,
    },
    /// This process has taken the inherited socket before.
    #[error("this process is connected already; Connection::new_connection makes another connection")]
    AlreadyConnected,
    /// The inherited descriptor is no control socket.
    #[error("file descriptor {number} is no control socket: {source}")]
    Socket {
        /// Number of the descriptor.
        number: i32,
        /// What the kernel says.
        source: io::Error,
    },
    /// VMM and plugin were built for different protocols.
    #[error("this plugin speaks protocol {ours}, the VMM speaks {theirs}")]
    Version {
        /// Version and layout of this library.
        ours: String,
        /// What is known of the VMM's.
        theirs: String,
    },
    /// The VMM closed the connection.
    #[error("the VMM closed the connection")]
    Closed,
    /// The VM has ended, and with it what was asked for.
    #[error("the VM has shut down")]
    Shutdown,
    /// The VMM refused a request. This never ends the VM.
    #[error("the VMM refused to {what}: {}", errno_text(*.errno))]
    Refused {
        /// The request, as a verb and what it was about.
        what: String,
        /// Positive number from `errno.h`.
        errno: i32,
    },
    /// KVM took only the first of several MSRs.
    #[error("KVM refused to set MSR {index:#x}, after {taken} others were set")]
    MsrRefused {
        /// MSRs that were set.
        taken: usize,
        /// The first one that was not.
        index: u32,
    },
    /// The vCPU does not stand still: there is no event that waits for an answer.
    #[error("vCPU {0} has no event that waits for an answer")]
    NotStopped(u32),
    /// The vCPU's last event was not answered yet.
    #[error("the last event of vCPU {0} waits for its answer")]
    StillStopped(u32),
    /// [`Vcpu::arm`](crate::Vcpu::arm) was called before [`Vcpu::event_fd`](crate::Vcpu::event_fd).
    #[error("vCPU {0} has no eventfd to arm")]
    NoEventFd(u32),
    /// There is no vCPU with this number.
    #[error("there is no vCPU {id}, the VM has {count}")]
    NoVcpu {
        /// Number asked for.
        id: u32,
        /// Number of vCPUs.
        count: u32,
    },
    /// The vCPU is in use elsewhere in this process.
    #[error("vCPU {0} is taken already")]
    VcpuTaken(u32),
    /// An argument that no VMM would accept.
    #[error("{0}")]
    Argument(&'static str),
    /// More list entries than one request carries.
    #[error("{got} {what} exceed the limit of {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// Number given.
        got: usize,
        /// Number that is allowed.
        limit: usize,
    },
    /// An access past the end of guest memory.
    #[error("{length} bytes at offset {offset:#x} do not lie within {size:#x} bytes of guest memory")]
    OutOfBounds {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: usize,
        /// Bytes of the memory.
        size: u64,
    },
    /// The VMM's message is no frame.
    #[error("the VMM broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The VMM's message is a frame, but not the reply that is due.
    #[error("the VMM broke the protocol: {0}")]
    Reply(&'static str),
    /// The VMM's lines make no sense.
    #[error("the VMM {0}")]
    Violation(#[from] Violation),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    /// The positive number from `errno.h` that says the same, for C callers and exit codes.
    ///
    /// ```
    /// use outboard_plugin::Error;
    ///
    /// assert_eq!(Error::NotConnected.errno(), 107); // ENOTCONN
    /// assert_eq!(Error::NotStopped(0).errno(), 71); // EPROTO
    /// ```
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotConnected => libc::ENOTCONN,
            Error::AlreadyConnected => libc::EISCONN,
            Error::SocketNumber { .. } | Error::Argument(_) | Error::MsrRefused { .. } => libc::EINVAL,
            Error::Version { .. } => libc::EPROTONOSUPPORT,
            Error::Closed => libc::EPIPE,
            Error::Shutdown => libc::ESHUTDOWN,
            Error::Refused { errno, .. } => *errno,
            Error::NotStopped(_) | Error::StillStopped(_) => libc::EPROTO,
            Error::NoEventFd(_) => libc::EBADF,
            Error::NoVcpu { .. } => libc::ENOENT,
            Error::VcpuTaken(_) => libc::EBUSY,
            Error::TooMany { .. } => libc::E2BIG,
            Error::OutOfBounds { .. } => libc::EFAULT,
            Error::Frame(_) | Error::Reply(_) | Error::Violation(_) => libc::EPROTO,
            Error::Socket { source, .. } | Error::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }

    /// Says what was asked for, in place of the request's name.
    pub(crate) fn about(self, say: impl FnOnce() -> String) -> Error {
        match self {
            Error::Refused { errno, .. } => Error::Refused { what: say(), errno },
            other => other,
        }
    }

    /// Wraps a failed system call.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

/// `EPERM (Operation not permitted)`.
fn errno_text(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ENODATA => "ENODATA",
        libc::EPROTO => "EPROTO",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ENXIO => "ENXIO",
        _ => return io::Error::from_raw_os_error(errno).to_string(),
    };
    let full = io::Error::from_raw_os_error(errno).to_string();
    let sentence = full.split(" (os error").next().unwrap_or_default();
    format!("{name} ({sentence})")
}
