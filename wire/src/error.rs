//! What can be wrong with bytes that the other process wrote.

use thiserror::Error;

/// A breach of the wire protocol by the peer.
///
/// The VMM ends a plugin that commits one and prints the sentence; a plugin's SDK returns it as an error.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// The answer's sequence number belongs to no event that is waiting for an answer.
    #[error("answered event {got} while event {expected} was waiting for an answer")]
    Sequence {
        /// Sequence number of the event that was published last.
        expected: u32,
        /// Sequence number that the answer names.
        got: u32,
    },
    /// The answer's kind is none of those that PROTOCOL.md lists.
    #[error("sent answer kind {0}, which does not exist")]
    AnswerKind(u8),
    /// A resume or command carries flags or register files that do not exist or do not fit the event.
    #[error("sent flags {flags:#x} with register files {files:#x}, which do not fit an answer of kind {kind}")]
    AnswerFlags {
        /// Kind of the answer.
        kind: u8,
        /// Flag bits as they came.
        flags: u8,
        /// Register file bits as they came.
        files: u8,
    },
    /// The data of a read is longer or shorter than what the guest reads.
    #[error("answered a read of {expected} bytes with {got}")]
    AnswerLength {
        /// Bytes that the guest reads.
        expected: u32,
        /// Bytes that the answer claims to hold.
        got: u32,
    },
    /// The consumer position of the posted-write ring lies outside of what was published.
    #[error("claims to have taken posted write {got}, but only {published} were published and {taken} taken before")]
    PostedPosition {
        /// Position that the peer claims.
        got: u32,
        /// Last position that was taken before.
        taken: u32,
        /// Last position that was published.
        published: u32,
    },
    /// The event kind is none of those that PROTOCOL.md lists.
    #[error("sent event kind {0}, which does not exist")]
    EventKind(u8),
    /// The length of an event exceeds its area.
    #[error("sent {got} bytes where at most {limit} fit")]
    Length {
        /// Bytes claimed.
        got: u32,
        /// Bytes that fit.
        limit: u32,
    },
}

/// Why a control message is refused before its request is looked at.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("a control message of {0} bytes is shorter than its 32-byte header")]
    Short(usize),
    /// The message did not fit into the receiver's buffer.
    #[error("a control message is longer than the {limit} bytes that one may have", limit = crate::limits::MAX_FRAME)]
    Long,
    /// More file descriptors came than a message may carry.
    #[error(
        "a control message carries more than the {limit} file descriptors that one may have",
        limit = crate::limits::MAX_FDS
    )]
    TooManyFds,
    /// The first four bytes are not the magic number.
    #[error("a control message starts with {0:#010x}, which is not the magic number")]
    Magic(u32),
    /// The message is of another protocol version.
    #[error(
        "a control message is of protocol version {got}, this side speaks {ours}",
        ours = crate::limits::VERSION_MAJOR
    )]
    Version {
        /// Major version in the message.
        got: u16,
    },
    /// A reserved field is not zero.
    #[error("a control message has a reserved field that is not zero")]
    Reserved,
    /// The body's length field does not match the bytes that came.
    #[error("a control message announces a body of {announced} bytes and carries {carried}")]
    Length {
        /// Body length in the header.
        announced: u32,
        /// Bytes behind the header.
        carried: usize,
    },
    /// The number of file descriptors in the header does not match those that came.
    #[error("a control message announces {announced} file descriptors and carries {carried}")]
    Fds {
        /// Count in the header.
        announced: u16,
        /// Descriptors that came.
        carried: usize,
    },
    /// The sequence number is not the one that follows the last.
    #[error("a control message has sequence number {got}, {expected} was due")]
    Sequence {
        /// Number that was due.
        expected: u32,
        /// Number that came.
        got: u32,
    },
}
