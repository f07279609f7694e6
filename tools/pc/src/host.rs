//! What the machine asks of whoever runs it. A plugin asks the VMM over its connection; a program that runs the VM itself
//! does it directly.

use std::ops::Range;
use std::sync::Arc;

use outboard_plugin::kvm_bindings::kvm_pit_state2;
use outboard_plugin::{Connection, Error, EventFd, GuestMemory, Region, Space};

/// Raises an interrupt line once: an edge.
pub type Irq = Arc<dyn Fn() + Send + Sync>;

/// How the accesses to a range reach the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The vCPU waits for each.
    Synchronous,
    /// The vCPU waits for reads only.
    PostedWrites,
}

/// Whoever runs the VM.
pub trait Host {
    /// Gives the guest memory.
    ///
    /// # Errors
    /// The host refuses; all other methods likewise.
    fn add_memory(&mut self, memory: &GuestMemory, region: &Region) -> Result<(), Error>;

    /// Asks for the accesses to a range of addresses.
    ///
    /// # Errors
    /// As above.
    fn reserve(&mut self, space: Space, range: Range<u64>, access: Access) -> Result<(), Error>;

    /// Makes an interrupt line that works from any thread.
    ///
    /// # Errors
    /// As above.
    fn irq(&mut self, gsi: u32) -> Result<Irq, Error>;

    /// Makes an eventfd that is signalled when the guest writes these 4 bytes to an address, in place of an access.
    ///
    /// # Errors
    /// As above.
    fn doorbell(&mut self, address: u64, value: u32) -> Result<EventFd, Error>;

    /// Gives access to the timer that the host keeps.
    ///
    /// # Errors
    /// As above.
    fn timer(&mut self) -> Result<Box<dyn Timer>, Error>;
}

/// The i8254 of the host.
pub trait Timer: Send {
    /// Its state.
    ///
    /// # Errors
    /// The host refuses.
    fn state(&mut self) -> Result<kvm_pit_state2, Error>;

    /// Replaces its state.
    ///
    /// # Errors
    /// The host refuses.
    fn set_state(&mut self, state: &kvm_pit_state2) -> Result<(), Error>;
}

impl Host for Connection {
    fn add_memory(&mut self, memory: &GuestMemory, region: &Region) -> Result<(), Error> {
        self.create_memory(memory, region).map(drop)
    }

    fn reserve(&mut self, space: Space, range: Range<u64>, access: Access) -> Result<(), Error> {
        match access {
            Access::Synchronous => Connection::reserve(self, space, range),
            Access::PostedWrites => self.reserve_posted_writes(space, range),
        }
    }

    fn irq(&mut self, gsi: u32) -> Result<Irq, Error> {
        let event = self.create_irq_event(gsi, false)?;
        Ok(Arc::new(move || event.trigger()))
    }

    fn doorbell(&mut self, address: u64, value: u32) -> Result<EventFd, Error> {
        self.create_io_event(Space::Mmio, address, 4, Some(value.into())).map(|event| event.into_fd())
    }

    fn timer(&mut self) -> Result<Box<dyn Timer>, Error> {
        Ok(Box::new(self.new_connection()?))
    }
}

impl Timer for Connection {
    fn state(&mut self) -> Result<kvm_pit_state2, Error> {
        self.pit()
    }

    fn set_state(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
        self.set_pit(state)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Nobody: takes note of what it is asked for.
    #[derive(Debug, Default)]
    pub(crate) struct NoHost {
        pub(crate) slots: Vec<Region>,
        pub(crate) ranges: Vec<(Space, Range<u64>, Access)>,
    }

    impl Host for NoHost {
        fn add_memory(&mut self, _: &GuestMemory, region: &Region) -> Result<(), Error> {
            self.slots.push(*region);
            Ok(())
        }

        fn reserve(&mut self, space: Space, range: Range<u64>, access: Access) -> Result<(), Error> {
            self.ranges.push((space, range, access));
            Ok(())
        }

        fn irq(&mut self, _: u32) -> Result<Irq, Error> {
            Ok(Arc::new(|| ()))
        }

        fn doorbell(&mut self, _: u64, _: u32) -> Result<EventFd, Error> {
            Err(Error::NotConnected)
        }

        fn timer(&mut self) -> Result<Box<dyn Timer>, Error> {
            Err(Error::NotConnected)
        }
    }

    /// An interrupt line and how often it was raised.
    pub(crate) fn counted() -> (Irq, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let own = Arc::clone(&count);
        let raise = move || {
            own.fetch_add(1, Ordering::Relaxed);
        };
        (Arc::new(raise), count)
    }
}
