//! Interrupts and doorbells that KVM serves without waking this process: irqfds and ioeventfds.

use std::os::fd::{AsFd, OwnedFd};

use super::ids::Objects;
use crate::kvm::{IoEvent, Vm};
use crate::sys::errno::Errno;
use crate::sys::eventfd::EventFd;
use outboard_wire::control::{
    CreateIoEvent, CreateIrqEvent, IO_EVENT_DATAMATCH, IRQ_EVENT_RESAMPLE, SPACE_MMIO, SPACE_PORT,
};

#[derive(Debug)]
struct IrqEvent {
    gsi: u32,
    event: EventFd,
    /// Kept open, because KVM signals it when the guest ends the interrupt.
    _resample: Option<EventFd>,
}

#[derive(Debug)]
struct BoundIoEvent {
    at: IoEvent,
    event: EventFd,
}

/// The irq and io events of a VM.
#[derive(Debug, Default)]
pub struct Wiring {
    irqs: Objects<IrqEvent>,
    ios: Objects<BoundIoEvent>,
}

impl Wiring {
    /// Makes an irqfd; returns its number and the descriptors for the plugin: the event and, if asked for, the resample
    /// event.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, and what KVM says.
    pub fn create_irq(&mut self, vm: &Vm, request: &CreateIrqEvent) -> Result<(u32, Vec<OwnedFd>), Errno> {
        if request.flags & !IRQ_EVENT_RESAMPLE != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let id = self.irqs.next_id()?;
        let event = EventFd::new()?;
        let resample = if request.flags & IRQ_EVENT_RESAMPLE != 0 { Some(EventFd::new()?) } else { None };
        let mut fds = vec![event.try_clone()?.into()];
        if let Some(resample) = &resample {
            fds.push(resample.try_clone()?.into());
        }
        vm.assign_irqfd(request.gsi, event.as_fd(), resample.as_ref().map(AsFd::as_fd)).map_err(|error| error.errno)?;
        self.irqs.insert(id, IrqEvent { gsi: request.gsi, event, _resample: resample });
        Ok((id, fds))
    }

    /// Takes an irqfd away.
    ///
    /// # Errors
    /// `ENOENT` if there is none with this number.
    pub fn destroy_irq(&mut self, vm: &Vm, id: u32) -> Result<(), Errno> {
        let irq = self.irqs.remove(id)?;
        vm.deassign_irqfd(irq.gsi, irq.event.as_fd()).map_err(|error| error.errno)
    }

    /// Makes an ioeventfd; returns its number and the descriptor for the plugin.
    ///
    /// # Errors
    /// As [`CreateIoEvent`] lists them, and what KVM says.
    pub fn create_io(&mut self, vm: &Vm, request: &CreateIoEvent) -> Result<(u32, OwnedFd), Errno> {
        let at = io_event(request)?;
        let id = self.ios.next_id()?;
        let event = EventFd::new()?;
        let fd = event.try_clone()?.into();
        vm.assign_ioevent(&at, event.as_fd()).map_err(|error| error.errno)?;
        self.ios.insert(id, BoundIoEvent { at, event });
        Ok((id, fd))
    }

    /// Takes an ioeventfd away.
    ///
    /// # Errors
    /// `ENOENT` if there is none with this number.
    pub fn destroy_io(&mut self, vm: &Vm, id: u32) -> Result<(), Errno> {
        let io = self.ios.remove(id)?;
        vm.deassign_ioevent(&io.at, io.event.as_fd()).map_err(|error| error.errno)
    }
}

/// Checks a request and turns it into KVM's terms.
fn io_event(request: &CreateIoEvent) -> Result<IoEvent, Errno> {
    let invalid = Err(Errno(libc::EINVAL));
    let datamatch = request.flags & IO_EVENT_DATAMATCH != 0;
    if request.flags & !IO_EVENT_DATAMATCH != 0 || request.reserved != 0 {
        return invalid;
    }
    if !matches!(request.length, 0 | 1 | 2 | 4 | 8) || (request.length == 0 && datamatch) {
        return invalid;
    }
    let last = u64::from(request.length.max(1)) - 1;
    let limit = match request.space {
        SPACE_PORT => 0xffff,
        SPACE_MMIO => u64::MAX,
        _ => return invalid,
    };
    if request.address.checked_add(last).is_none_or(|end| end > limit) {
        return invalid;
    }
    // KVM compares the value with as many bytes as the event has; the rest is nobody's business.
    let mask = if request.length == 8 { u64::MAX } else { (1 << (8 * request.length)) - 1 };
    Ok(IoEvent {
        address: request.address,
        len: request.length,
        port_io: request.space == SPACE_PORT,
        datamatch: datamatch.then_some(request.datamatch & mask),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(space: u32, length: u32, address: u64, flags: u32) -> CreateIoEvent {
        CreateIoEvent { space, length, address, datamatch: 0x1_0000_0002, flags, reserved: 0 }
    }

    #[test]
    fn lengths_spaces_and_flags_are_checked() {
        let errno = |request| io_event(&request).unwrap_err().0;
        for length in [3, 5, 16, u32::MAX] {
            assert_eq!(errno(request(SPACE_MMIO, length, 0, 0)), libc::EINVAL);
        }
        assert_eq!(errno(request(SPACE_MMIO, 0, 0, IO_EVENT_DATAMATCH)), libc::EINVAL);
        assert_eq!(errno(request(2, 4, 0, 0)), libc::EINVAL);
        assert_eq!(errno(request(SPACE_MMIO, 4, 0, 2)), libc::EINVAL);
        assert_eq!(errno(request(SPACE_PORT, 4, 0xfffd, 0)), libc::EINVAL);
        assert_eq!(errno(request(SPACE_MMIO, 4, u64::MAX - 2, 0)), libc::EINVAL);
        for length in [0, 1, 2, 4, 8] {
            assert!(io_event(&request(SPACE_PORT, length, 0x10, 0)).is_ok());
        }
    }

    #[test]
    fn the_compared_value_is_cut_to_the_length() {
        let event = io_event(&request(SPACE_MMIO, 4, 0, IO_EVENT_DATAMATCH)).unwrap();
        assert_eq!(event.datamatch, Some(2));
        let event = io_event(&request(SPACE_MMIO, 8, 0, IO_EVENT_DATAMATCH)).unwrap();
        assert_eq!(event.datamatch, Some(0x1_0000_0002));
    }
}
