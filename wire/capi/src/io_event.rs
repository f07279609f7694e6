//! Doorbells: writes of the guest that signal an eventfd.

use core::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use outboard_plugin::IoEvent;

use crate::abi;
use crate::call::{Errno, Fd, call};
use crate::connection::{self, Crosvm, destroy};
use crate::handle::{Opaque, Table};
use crate::pointer;

static EVENTS: Table<IoEvent> = Table::new(4);

/// `struct crosvm_io`.
pub type CrosvmIo = Opaque<IoEvent>;

/// Makes a doorbell.
///
/// # Safety
/// `datamatch` is null or valid for reads of `length` bytes; `out` is null or valid for writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_create_io_event(
    crosvm: *mut Crosvm,
    space: u32,
    address: u64,
    length: u32,
    datamatch: *const u8,
    out: *mut *mut CrosvmIo,
) -> c_int {
    call!(crosvm_create_io_event, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        let space = abi::space(space)?;
        if !matches!(length, 0 | 1 | 2 | 4 | 8) {
            return Err(Errno::INVALID);
        }
        // With length 0 any value rings, so there is nothing to compare.
        let value = if length == 0 || datamatch.is_null() {
            None
        } else {
            // SAFETY: not null, and the caller vouches for `length` bytes; bytes have no alignment.
            Some(value_of(unsafe { pointer::list(datamatch, length)? }))
        };
        let event = connection::with(crosvm, |connection| connection.create_io_event(space, address, length, value))?;
        out.write(EVENTS.add(event));
        Ok(())
    })
}

/// The value of up to eight bytes, lowest first.
fn value_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Takes a doorbell away and closes its descriptor.
///
/// # Safety
/// `io` is null or valid for reads and writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_destroy_io_event(crosvm: *mut Crosvm, io: *mut *mut CrosvmIo) -> c_int {
    call!(crosvm_destroy_io_event, {
        let end = |handle| {
            let event = EVENTS.get(handle)?;
            connection::with(crosvm, |connection| connection.destroy_io_event(&event))?;
            EVENTS.remove(handle);
            Ok(())
        };
        // SAFETY: as the caller vouches.
        unsafe { destroy(io, end) }
    })
}

/// The eventfd that is signalled; it belongs to the handle.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_io_event_fd(io: *mut CrosvmIo) -> c_int {
    call!(crosvm_io_event_fd, { Ok(Fd(EVENTS.get(io)?.fd().as_fd().as_raw_fd())) })
}
