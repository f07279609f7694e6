//! Memory that two processes share.

#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use outboard_wire::block::STRIDE;

/// A memfd for the blocks of one vCPU, all zeros, sealed as the wire wants it.
pub fn blocks() -> OwnedFd {
    // SAFETY: plain calls with a valid name; the descriptor is new and ours.
    unsafe {
        let fd = libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0, "memfd_create failed");
        assert_eq!(libc::ftruncate(fd, STRIDE as i64), 0);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), 0);
        OwnedFd::from_raw_fd(fd)
    }
}
