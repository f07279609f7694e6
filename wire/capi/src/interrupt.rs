//! Interrupt lines, and eventfds that raise them.

use core::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use outboard_plugin::IrqEvent;

use crate::call::{Errno, Fd, call};
use crate::connection::{self, Crosvm, destroy};
use crate::handle::{Opaque, Table};
use crate::pointer;

static EVENTS: Table<IrqEvent> = Table::new(3);

/// `struct crosvm_irq`.
pub type CrosvmIrq = Opaque<IrqEvent>;

/// Sets the level of a line.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_set_irq(crosvm: *mut Crosvm, irq_id: u32, active: bool) -> c_int {
    call!(crosvm_set_irq, { connection::with(crosvm, |connection| connection.set_irq(irq_id, active)) })
}

/// Makes an eventfd that raises a line, and one that says when the guest has ended the interrupt.
///
/// # Safety
/// `out` is null or valid for writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_create_irq_event(crosvm: *mut Crosvm, irq_id: u32, out: *mut *mut CrosvmIrq) -> c_int {
    call!(crosvm_create_irq_event, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        out.write(EVENTS.add(connection::with(crosvm, |connection| connection.create_irq_event(irq_id, true))?));
        Ok(())
    })
}

/// Takes an irq event away and closes its descriptors.
///
/// # Safety
/// `irq` is null or valid for reads and writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_destroy_irq_event(crosvm: *mut Crosvm, irq: *mut *mut CrosvmIrq) -> c_int {
    call!(crosvm_destroy_irq_event, {
        let end = |handle| {
            let event = EVENTS.get(handle)?;
            connection::with(crosvm, |connection| connection.destroy_irq_event(&event))?;
            EVENTS.remove(handle);
            Ok(())
        };
        // SAFETY: as the caller vouches.
        unsafe { destroy(irq, end) }
    })
}

/// The eventfd that raises the line; it belongs to the handle.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_irq_event_get_fd(irq: *const CrosvmIrq) -> c_int {
    call!(crosvm_irq_event_get_fd, { Ok(Fd(EVENTS.get(irq)?.fd().as_fd().as_raw_fd())) })
}

/// The eventfd that is signalled when the guest has ended the interrupt; it belongs to the handle.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_irq_event_get_resample_fd(irq: *const CrosvmIrq) -> c_int {
    call!(crosvm_irq_event_get_resample_fd, {
        let event = EVENTS.get(irq)?;
        let resample = event.resample_fd().ok_or(Errno::INVALID)?;
        Ok(Fd(resample.as_fd().as_raw_fd()))
    })
}
