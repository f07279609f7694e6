//! Messages of a packet socket: the bytes, and the descriptors that travel beside them (`unix(7)`, `SCM_RIGHTS`).
//!
//! A [`Message`] owns all the memory that `sendmsg(2)` and `recvmsg(2)` need, so that it can be handed to the
//! kernel for as long as an operation lasts. Its capacity is fixed when it is made.

#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::errno::{Errno, check_long};

/// Bytes of a `struct cmsghdr` on x86-64: `size_t cmsg_len; int cmsg_level; int cmsg_type`.
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();
const _: () = assert!(CMSG_HEADER == 16 && CMSG_HEADER.is_multiple_of(size_of::<u64>()));

/// What cannot be put into a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// More bytes than the message has room for.
    #[error("a message of {len} bytes does not fit: {max} is the most")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes there is room for.
        max: usize,
    },
    /// More descriptors than the message has room for.
    #[error("a message cannot carry {count} descriptors: {max} is the most")]
    TooManyFds {
        /// Descriptors given.
        count: usize,
        /// Descriptors there is room for.
        max: usize,
    },
}

/// One message and the descriptors it carries, in memory of its own.
#[derive(Debug)]
pub struct Message {
    bytes: Box<[u8]>,
    len: usize,
    /// Room for one `SCM_RIGHTS` control message; words, because a `cmsghdr` is aligned to eight bytes.
    control: Box<[u64]>,
    max_fds: usize,
    fds: Vec<OwnedFd>,
    truncated: bool,
    fds_truncated: bool,
}

impl Message {
    /// An empty message with room for `max_bytes` bytes and `max_fds` descriptors.
    pub fn with_capacity(max_bytes: usize, max_fds: usize) -> Message {
        let words = (CMSG_HEADER + max_fds * size_of::<RawFd>()).div_ceil(size_of::<u64>());
        Message {
            bytes: vec![0; max_bytes].into_boxed_slice(),
            len: 0,
            control: vec![0; words].into_boxed_slice(),
            max_fds,
            fds: Vec::new(),
            truncated: false,
            fds_truncated: false,
        }
    }

    /// The bytes sent or received.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// The descriptors that came along and have not been taken yet. Received ones are close-on-exec.
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// Takes the descriptors out of the message; the ones left in it are closed with it.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Whether the sender's message was longer than the room here (`MSG_TRUNC`): the rest of it is lost.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Whether more descriptors were sent than there was room for (`MSG_CTRUNC`): the kernel closed the rest.
    pub fn fds_truncated(&self) -> bool {
        self.fds_truncated
    }

    /// Empties the message: bytes, flags, and the descriptors, which are closed.
    pub fn clear(&mut self) {
        self.len = 0;
        self.fds.clear();
        self.truncated = false;
        self.fds_truncated = false;
    }

    /// Makes this a message of `bytes` that carries `fds`.
    ///
    /// # Errors
    /// [`MessageError`] if they exceed the capacity; the message is then empty and `fds` are closed.
    pub fn set(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), MessageError> {
        self.clear();
        if fds.len() > self.max_fds {
            return Err(MessageError::TooManyFds { count: fds.len(), max: self.max_fds });
        }
        let max = self.bytes.len();
        let room = self.bytes.get_mut(..bytes.len()).ok_or(MessageError::TooLong { len: bytes.len(), max })?;
        room.copy_from_slice(bytes);
        self.len = bytes.len();
        self.fds = fds;
        Ok(())
    }

    /// Writes the control message for the descriptors to be sent, and returns what `sendmsg` takes: the vector,
    /// to be stored at `vector`, and the header that points there.
    ///
    /// Both point into this message: it must stay untouched until the kernel is done with them.
    pub(super) fn send_header(&mut self, vector: *mut libc::iovec) -> (libc::iovec, libc::msghdr) {
        let control_len = if self.fds.is_empty() { 0 } else { self.encode_rights() };
        let bytes = libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: self.len };
        (bytes, header(vector, &mut self.control, control_len))
    }

    /// Empties the message and returns what `recvmsg` takes, in the way of [`send_header`](Self::send_header).
    pub(super) fn recv_header(&mut self, vector: *mut libc::iovec) -> (libc::iovec, libc::msghdr) {
        self.clear();
        self.control.fill(0);
        // Exactly CMSG_LEN(max): with the padding of CMSG_SPACE an odd maximum would let one more in.
        let control_len = if self.max_fds == 0 { 0 } else { CMSG_HEADER + self.max_fds * size_of::<RawFd>() };
        let bytes = libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: self.bytes.len() };
        (bytes, header(vector, &mut self.control, control_len))
    }

    /// Takes over what the kernel wrote: `len` bytes, the flags, and the descriptors in the control message.
    ///
    /// # Safety
    /// `header` was made by [`recv_header`](Self::recv_header) of this message, and a `recvmsg` with it has just
    /// succeeded with `len`. It is called once for that: the descriptors get their one owner here.
    pub(super) unsafe fn received(&mut self, header: &libc::msghdr, len: usize) {
        self.len = len.min(self.bytes.len());
        self.truncated = header.msg_flags & libc::MSG_TRUNC != 0;
        self.fds_truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
        for raw in decode_rights(&self.control, header.msg_controllen) {
            // SAFETY: the kernel has just installed this descriptor for us and told nobody else; the caller
            // promises that this message is decoded once, so it gets one owner.
            self.fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }

    /// Fills the control memory with one `SCM_RIGHTS` message for `self.fds`; returns its `CMSG_LEN`.
    fn encode_rights(&mut self) -> usize {
        let len = CMSG_HEADER + self.fds.len() * size_of::<RawFd>();
        let control: &mut [u8] = bytemuck::cast_slice_mut(&mut self.control);
        control[..8].copy_from_slice(&len.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        for (room, fd) in control[CMSG_HEADER..].chunks_exact_mut(size_of::<RawFd>()).zip(&self.fds) {
            room.copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
        }
        len
    }
}

/// Receives a message into `into` if one is there (`recvmsg(2)`, `MSG_DONTWAIT`). False if there is none, and none that is
/// not empty.
///
/// # Errors
/// `recvmsg`'s.
pub fn receive_now(socket: BorrowedFd<'_>, into: &mut Message) -> Result<bool, Errno> {
    let mut room = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let vector = &raw mut room;
    let (filled, mut header) = into.recv_header(vector);
    // SAFETY: the place of a local that nobody else uses.
    unsafe { vector.write(filled) };
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let received = loop {
        // SAFETY: the header points to `room` and into the message, both of which stay where they are.
        match check_long(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) } as i64) {
            Err(Errno::EINTR) => {}
            received => break received,
        }
    };
    match received {
        Ok(len) => {
            // SAFETY: the call has just succeeded with this header, which `into` made.
            unsafe { into.received(&header, len as usize) };
            Ok(len > 0)
        }
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The header of a message with one vector, no address, and `control_len` bytes of control memory.
fn header(vector: *mut libc::iovec, control: &mut [u64], control_len: usize) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vector,
        msg_iovlen: 1,
        msg_control: if control_len == 0 { std::ptr::null_mut() } else { control.as_mut_ptr().cast() },
        msg_controllen: control_len,
        msg_flags: 0,
    }
}

/// The descriptor numbers in the `SCM_RIGHTS` messages among the first `len` bytes of `control` (`cmsg(3)`).
fn decode_rights(control: &[u64], len: usize) -> Vec<RawFd> {
    let control: &[u8] = bytemuck::cast_slice(control);
    let mut rest = &control[..len.min(control.len())];
    let mut fds = Vec::new();
    while let (Some(len), Some(level), Some(kind)) = (word(rest), int(rest, 8), int(rest, 12)) {
        let Some(data) = rest.get(CMSG_HEADER..len) else { break };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            fds.extend(data.chunks_exact(size_of::<RawFd>()).filter_map(|number| int(number, 0)));
        }
        rest = rest.get(len.next_multiple_of(size_of::<u64>())..).unwrap_or(&[]);
    }
    fds
}

fn word(bytes: &[u8]) -> Option<usize> {
    Some(usize::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Sockets for tests here and in the modules above.
#[cfg(test)]
pub(crate) mod testing {
    use std::os::fd::{FromRawFd, OwnedFd};

    /// `socketpair(2)` of the kind that the control path uses.
    pub(crate) fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
        let mut fds = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: `fds` has room for the two numbers; on success both are new and have no other owner.
        unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_survive_the_way_there_and_back() {
        let mut message = Message::with_capacity(8, 3);
        let fds: Vec<OwnedFd> = (0..3).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        message.set(b"abc", fds).unwrap();
        let len = message.encode_rights();
        assert_eq!(decode_rights(&message.control, len), numbers);
        assert!(decode_rights(&message.control, 0).is_empty());
        assert!(decode_rights(&message.control, len - 1).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut message = Message::with_capacity(2, 0);
        assert_eq!(message.set(b"abc", vec![]), Err(MessageError::TooLong { len: 3, max: 2 }));
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        assert_eq!(message.set(b"", vec![fd]), Err(MessageError::TooManyFds { count: 1, max: 0 }));
        assert_eq!(message.bytes(), b"");
    }
}
