//! Event counters, see eventfd(2).

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check, check_long};

/// A 64-bit counter in the kernel that is readable while it is not zero. Closed on exec, never blocks.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at zero.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when descriptors run out.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call has just returned this descriptor and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds one. A counter that is full is signalled already, so that counts as success.
    ///
    /// # Errors
    /// Those of write(2), none of which a valid eventfd gives.
    pub fn signal(&self) -> Result<(), Errno> {
        let one = 1u64;
        // SAFETY: the eight bytes are readable for the call.
        let ret = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
        match check_long(ret as i64) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Sets the counter to zero and returns what it was; zero if it was not signalled.
    ///
    /// # Errors
    /// Those of read(2), none of which a valid eventfd gives.
    pub fn drain(&self) -> Result<u64, Errno> {
        let mut count = 0u64;
        // SAFETY: the eight bytes are writable for the call.
        let ret = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
        match check_long(ret as i64) {
            Ok(_) => Ok(count),
            Err(Errno::EAGAIN) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    /// A second descriptor for the same counter.
    ///
    /// # Errors
    /// `EMFILE` when descriptors run out.
    pub fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self(self.0.try_clone()?))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_drains() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.drain(), Ok(0));
        event.signal().unwrap();
        event.try_clone().unwrap().signal().unwrap();
        assert_eq!(event.drain(), Ok(2));
        assert_eq!(event.drain(), Ok(0));
    }
}
