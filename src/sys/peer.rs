//! Who is at the other end of a local socket.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use super::errno::{Errno, check};

/// Whether the peer of a connected `AF_UNIX` socket had this process's effective user when it connected, or was root
/// (unix(7), `SO_PEERCRED`).
///
/// # Errors
/// What getsockopt(2) says.
pub fn may_manage(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `length` are valid places for the result, which has the size given.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    // SAFETY: no arguments, no failure.
    let own = unsafe { libc::geteuid() };
    Ok(peer.uid == own || peer.uid == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn this_process_may_manage_itself() {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert_eq!(may_manage(socket.as_fd()), Ok(true));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(may_manage(file.as_fd()), Err(Errno::ENOTSOCK));
    }
}
