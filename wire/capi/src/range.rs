//! Reserved ranges.

use core::ffi::c_int;

use outboard_plugin::Connection;

use crate::abi;
use crate::call::{Errno, call};
use crate::connection::{self, Crosvm};

/// Reserves a range whose accesses stop the vCPU, or releases the one that starts at `start` if the length is 0.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_reserve_range(crosvm: *mut Crosvm, space: u32, start: u64, length: u64) -> c_int {
    call!(crosvm_reserve_range, {
        let (space, end) = (abi::space(space)?, end_of(start, length)?);
        connection::with(crosvm, |connection| match length {
            0 => connection.release(space, start),
            _ => connection.reserve(space, start..end),
        })
    })
}

/// The same for a range whose writes are posted.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_reserve_async_write_range(crosvm: *mut Crosvm, space: u32, start: u64, length: u64) -> c_int {
    call!(crosvm_reserve_async_write_range, {
        let (space, end) = (abi::space(space)?, end_of(start, length)?);
        connection::with(crosvm, |connection: &mut Connection| match length {
            0 => connection.release_posted(space, start),
            _ => connection.reserve_posted(space, start..end),
        })
    })
}

fn end_of(start: u64, length: u64) -> Result<u64, Errno> {
    start.checked_add(length).ok_or(Errno::INVALID)
}
