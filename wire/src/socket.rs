//! Messages with file descriptors on the control socket (unix(7), `SCM_RIGHTS`).
//!
//! The plugin's side calls [`send`] and [`receive`], which block. The VMM's completion loop has its own way to wait.

#![allow(unsafe_code)]

use core::{mem, ptr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::limits::MAX_FDS;

/// Room for the control message of [`MAX_FDS`] descriptors.
const CONTROL: usize = {
    // SAFETY: CMSG_SPACE only computes.
    unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) as usize }
};

/// A buffer for control messages with the alignment that `struct cmsghdr` needs.
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Sends one message with descriptors, which stay open here.
///
/// # Errors
/// `EPIPE` if the other side is gone, `InvalidInput` for more than [`MAX_FDS`] descriptors, else what sendmsg(2) says.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut control = Control([0; CONTROL]);
    let mut iov = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let mut header = empty_header(&mut iov);
    if !raw.is_empty() {
        let bytes = size_of_val(raw.as_slice()) as u32;
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. `control` has room for MAX_FDS descriptors, of which there are no
        // more, so CMSG_FIRSTHDR points into it and the copy stays inside.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes) as usize;
            ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), libc::CMSG_DATA(first), bytes as usize);
        }
    }
    loop {
        // SAFETY: `header` points at `iov` and `control`, which outlive the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
        match sent {
            0.. => return Ok(()),
            _ => retry_interrupted()?,
        }
    }
}

/// Receives one message into `buffer`; returns its length and the descriptors that came with it, close-on-exec.
///
/// Length 0 means that the other side closed the connection.
///
/// # Errors
/// `InvalidData` if the message or its descriptors did not fit; what fitted is closed. Else what recvmsg(2) says.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL]);
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = empty_header(&mut iov);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    let length = loop {
        // SAFETY: `header` points at `iov`, whose buffer is ours to write, and at `control`; both outlive the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
        match received {
            0.. => break received as usize,
            _ => retry_interrupted()?,
        }
    };
    // SAFETY: the kernel has filled `header` and `control`, and nobody took the descriptors out yet.
    let fds = unsafe { take_fds(&header) };
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a control message is longer than its buffer"));
    }
    Ok((length, fds))
}

/// Takes the descriptors out of a received message header.
///
/// # Safety
/// `header` was filled by a successful recvmsg, its control buffer is alive, and its descriptors were not taken before.
pub unsafe fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller vouches for the header; CMSG_* walk its control buffer within the length that the kernel wrote.
    // Each descriptor in an SCM_RIGHTS message was installed for this process and belongs to nobody else.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*message).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                fds.extend((0..count).map(|at| OwnedFd::from_raw_fd(data.add(at).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    fds
}

/// Takes over a descriptor that this process inherited under a number, after checking that it is a connected
/// `AF_UNIX`/`SOCK_SEQPACKET` socket, and makes it close-on-exec.
///
/// # Errors
/// `EBADF` or `ENOTSOCK` as the kernel says, `InvalidInput` for a socket of another kind.
///
/// # Safety
/// Nobody else in this process uses or closes the descriptor.
pub unsafe fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `kind` and `length` are valid places for the result.
    let asked =
        unsafe { libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &mut length) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    if kind != libc::SOCK_SEQPACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a SOCK_SEQPACKET socket"));
    }
    // SAFETY: F_SETFD takes no pointer.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the caller vouches that nobody else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A connected pair of close-on-exec `AF_UNIX`/`SOCK_SEQPACKET` sockets.
///
/// # Errors
/// What socketpair(2) says, `EMFILE` above all.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors were made just now and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn empty_header(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data for which zero bytes are valid (no name, no control message).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = iov;
    header.msg_iovlen = 1;
    header
}

fn retry_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

// Miri has no sockets of this kind.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_and_descriptors_travel() {
        let (ours, theirs) = pair().unwrap();
        let (passed, kept) = pair().unwrap();
        send(ours.as_fd(), b"hello", &[passed.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let (length, fds) = receive(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"hello"[..], 1));
        send(fds[0].as_fd(), b"x", &[]).unwrap();
        assert_eq!(receive(kept.as_fd(), &mut buffer).unwrap().0, 1);
    }

    #[test]
    fn a_closed_peer_is_an_empty_message_and_then_epipe() {
        let (ours, theirs) = pair().unwrap();
        drop(theirs);
        assert_eq!(receive(ours.as_fd(), &mut [0; 4]).unwrap().0, 0);
        assert_eq!(send(ours.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_that_does_not_fit_is_refused() {
        let (ours, theirs) = pair().unwrap();
        send(ours.as_fd(), b"12345", &[]).unwrap();
        assert_eq!(receive(theirs.as_fd(), &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
