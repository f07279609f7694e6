//! Clients of a local socket: taking them, and who they are.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::errno::{Errno, check};

/// Takes the next client that waits at a listening socket, close-on-exec (accept4(2)).
///
/// # Errors
/// `EAGAIN` if there is none and the socket does not block, else what accept4(2) says.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: null pointers say that nobody wants to know the client's address.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC) };
    let fd = check(fd)?;
    // SAFETY: the call has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the peer of a connected `AF_UNIX` socket had this process's effective user when it connected, or was root
/// (unix(7), `SO_PEERCRED`).
///
/// # Errors
/// What getsockopt(2) says.
pub fn may_manage(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let peer = credentials(socket)?;
    // SAFETY: no arguments, no failure.
    let own = unsafe { libc::geteuid() };
    Ok(peer.uid == own || peer.uid == 0)
}

/// Whether the process that made the peer of a connected `AF_UNIX` socket is there: the kernel may keep a socket open for a
/// moment after its last owner has ended. True for one in another pid namespace.
///
/// # Errors
/// What getsockopt(2) says.
pub fn is_alive(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let pid = credentials(socket)?.pid;
    // SAFETY: signal 0 is none; the call only says whether there is such a process.
    Ok(pid <= 0 || check(unsafe { libc::kill(pid, 0) }) != Err(Errno(libc::ESRCH)))
}

fn credentials(socket: BorrowedFd<'_>) -> Result<libc::ucred, Errno> {
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
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_client_is_taken_and_then_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(may_manage(accept(listener.as_fd()).unwrap().as_fd()), Ok(true));
        assert_eq!(accept(listener.as_fd()).unwrap_err(), Errno::EAGAIN);
    }

    #[test]
    fn this_process_may_manage_itself() {
        let (socket, _other) = UnixStream::pair().unwrap();
        assert_eq!((may_manage(socket.as_fd()), is_alive(socket.as_fd())), (Ok(true), Ok(true)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(may_manage(file.as_fd()), Err(Errno::ENOTSOCK));
    }
}
