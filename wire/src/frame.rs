//! The header that every control message starts with.
//!
//! One message on the control socket is one frame: this header, then a body whose layout the kind decides
//! ([`crate::control`]). The receiver copies the message into private memory first and looks only at the copy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::FrameError;
use crate::limits::{HEADER, MAX_BODY, VERSION_MAJOR};

/// `OBRD` in memory order, the first four bytes of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"OBRD");

/// The 32-byte frame header, little endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// Major protocol version of the sender.
    pub version: u16,
    /// Request kind ([`crate::control::Kind`]); a reply repeats the kind of its request.
    pub kind: u16,
    /// Bit 0: this is a reply. All other bits are zero.
    pub flags: u32,
    /// Number of the request on its connection, from 1; a reply repeats it.
    pub sequence: u32,
    /// Bytes of the body behind this header.
    pub body_len: u32,
    /// File descriptors in the message's `SCM_RIGHTS`.
    pub fd_count: u16,
    /// Zero.
    pub reserved: u16,
    /// Replies: 0, or a negative errno; then the body is empty and no descriptor travels. Requests: zero.
    pub status: i32,
    /// Zero.
    pub reserved2: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER && align_of::<Header>() == 4);

/// Set in [`Header::flags`] of every reply.
pub const FLAG_REPLY: u32 = 1;

impl Header {
    /// The header of a request.
    pub fn request(kind: u16, sequence: u32, body_len: usize, fd_count: usize) -> Header {
        debug_assert!(body_len <= MAX_BODY);
        Header {
            magic: MAGIC,
            version: VERSION_MAJOR,
            kind,
            sequence,
            body_len: body_len as u32,
            fd_count: fd_count as u16,
            ..Header::default()
        }
    }

    /// The header of the reply to the request `kind` with number `sequence`; `status` is 0 or a negative errno.
    pub fn reply(kind: u16, sequence: u32, status: i32, body_len: usize, fd_count: usize) -> Header {
        Header { flags: FLAG_REPLY, status, ..Header::request(kind, sequence, body_len, fd_count) }
    }
}

/// Splits a received message into header and body, and checks everything that does not depend on the kind.
///
/// `fds` is the number of descriptors that came with the message. The caller has made sure that the message was not
/// truncated by the kernel (`MSG_TRUNC`, `MSG_CTRUNC`).
///
/// # Errors
/// The first [`FrameError`] found, in the order magic, version, reserved fields, lengths, descriptors. The version
/// comes before the rest, so that a peer of another version is told so whatever else changed.
pub fn parse(message: &[u8], fds: usize) -> Result<(Header, &[u8]), FrameError> {
    let (header, body) = Header::read_from_prefix(message).map_err(|_| FrameError::Short(message.len()))?;
    if header.magic != MAGIC {
        return Err(FrameError::Magic(header.magic));
    }
    if header.version != VERSION_MAJOR {
        return Err(FrameError::Version { got: header.version });
    }
    if header.reserved != 0 || header.reserved2 != 0 || header.flags & !FLAG_REPLY != 0 {
        return Err(FrameError::Reserved);
    }
    if header.flags & FLAG_REPLY == 0 && header.status != 0 {
        return Err(FrameError::Reserved);
    }
    if header.body_len as usize != body.len() {
        return Err(FrameError::Length { announced: header.body_len, carried: body.len() });
    }
    if usize::from(header.fd_count) != fds {
        return Err(FrameError::Fds { announced: header.fd_count, carried: fds });
    }
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Vec<u8> {
        let mut bytes = Header::request(9, 1, 2, 0).as_bytes().to_vec();
        bytes.extend([0xaa, 0xbb]);
        bytes
    }

    #[test]
    fn golden_bytes_of_a_request_header() {
        let golden = [
            b'O', b'B', b'R', b'D', 1, 0, 9, 0, 0, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(Header::request(9, 0x0102_0304, 5, 1).as_bytes(), golden);
    }

    #[test]
    fn golden_bytes_of_a_reply_header() {
        let golden = [
            b'O', b'B', b'R', b'D', 1, 0, 9, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xea, 0xff, 0xff, 0xff,
            0, 0, 0, 0,
        ];
        assert_eq!(Header::reply(9, 7, -22, 0, 0).as_bytes(), golden);
    }

    #[test]
    fn a_whole_message_is_split() {
        let bytes = message();
        let (header, body) = parse(&bytes, 0).unwrap();
        assert_eq!((header.kind, header.sequence, body), (9, 1, &[0xaa, 0xbb][..]));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = message();
            bytes[at] = value;
            parse(&bytes, 0).unwrap_err()
        };
        assert!(matches!(with(0, 0), FrameError::Magic(_)));
        assert_eq!(with(4, 2), FrameError::Version { got: 2 });
        assert_eq!(with(8, 2), FrameError::Reserved);
        assert_eq!(with(16, 3), FrameError::Length { announced: 3, carried: 2 });
        assert_eq!(with(20, 1), FrameError::Fds { announced: 1, carried: 0 });
        assert_eq!(with(22, 1), FrameError::Reserved);
        assert_eq!(with(24, 1), FrameError::Reserved);
        assert_eq!(with(28, 1), FrameError::Reserved);
        assert_eq!(parse(&[0; 31], 0), Err(FrameError::Short(31)));
        assert_eq!(parse(&[], 0), Err(FrameError::Short(0)));
    }
}
