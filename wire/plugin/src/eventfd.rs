//! Event counters of the kernel (eventfd(2)).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use outboard_wire::futex::signal_eventfd;

use crate::error::Error;
use crate::sys;

/// An eventfd that this process owns.
///
/// ```no_run
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// let mut vm = outboard_plugin::connect()?;
/// let shutdown = vm.shutdown_event()?;
/// shutdown.wait()?; // until the VMM says that the plugin should exit
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// Adds one to the counter, which makes the eventfd readable. A full counter stays as it is.
    pub fn signal(&self) {
        signal_eventfd(self.file.as_fd());
    }

    /// Sleeps until the counter is not zero, and takes its value, which leaves zero.
    ///
    /// # Errors
    /// [`Error::Io`], in practice never.
    pub fn wait(&self) -> Result<u64, Error> {
        loop {
            sys::readable(self.file.as_fd(), -1).map_err(Error::io("wait for an eventfd"))?;
            match self.drain()? {
                0 => {}
                count => return Ok(count),
            }
        }
    }

    /// Takes the counter's value, which leaves zero, without sleeping; 0 if it was not signalled.
    ///
    /// # Errors
    /// [`Error::Io`], in practice never.
    pub fn drain(&self) -> Result<u64, Error> {
        // Whether the VMM made it non-blocking is its own affair, so ask first.
        if !sys::readable(self.file.as_fd(), 0).map_err(Error::io("look at an eventfd"))? {
            return Ok(0);
        }
        let mut count = [0; 8];
        match (&self.file).read(&mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(Error::io("read an eventfd")(error)),
        }
    }
}

impl From<OwnedFd> for EventFd {
    fn from(fd: OwnedFd) -> EventFd {
        EventFd { file: File::from(fd) }
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> OwnedFd {
        event.file.into()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
