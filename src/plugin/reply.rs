//! What a request is answered with.

use std::os::fd::OwnedFd;

/// A reply: the bytes of its body and its descriptors.
#[derive(Debug, Default)]
pub struct Reply {
    /// Body.
    pub body: Vec<u8>,
    /// Descriptors, closed here once they are sent.
    pub fds: Vec<OwnedFd>,
}
