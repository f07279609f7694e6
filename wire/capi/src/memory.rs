//! Memory slots and their dirty logs.

use core::ffi::c_int;
use std::os::fd::BorrowedFd;

use outboard_plugin::{MemorySlot, Region};

use crate::call::{Errno, call};
use crate::connection::{self, Crosvm, destroy};
use crate::handle::{Opaque, Table};
use crate::pointer;

static SLOTS: Table<MemorySlot> = Table::new(2);

/// `struct crosvm_memory`.
pub type CrosvmMemory = Opaque<MemorySlot>;

/// Gives the guest a part of a sealed memfd.
///
/// # Safety
/// `out` is null or valid for writes of a pointer; nobody closes `fd` during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_create_memory(
    crosvm: *mut Crosvm,
    fd: c_int,
    offset: u64,
    length: u64,
    start: u64,
    read_only: bool,
    dirty_log: bool,
    out: *mut *mut CrosvmMemory,
) -> c_int {
    call!(crosvm_create_memory, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        connection::check(crosvm)?;
        // SAFETY: F_GETFD takes no pointer.
        if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(Errno(libc::EBADF));
        }
        // SAFETY: the descriptor is open, and the caller vouches that it stays so during the call.
        let memory = unsafe { BorrowedFd::borrow_raw(fd) };
        let region = Region { offset, length, start, read_only, dirty_log };
        let slot = connection::with(crosvm, |connection| connection.create_memory(&memory, &region))?;
        out.write(SLOTS.add(slot));
        Ok(())
    })
}

/// Takes a slot out of the guest.
///
/// # Safety
/// `memory` is null or valid for reads and writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_destroy_memory(crosvm: *mut Crosvm, memory: *mut *mut CrosvmMemory) -> c_int {
    call!(crosvm_destroy_memory, {
        let end = |handle| {
            let slot = SLOTS.get(handle)?;
            connection::with(crosvm, |connection| connection.destroy_memory(&slot))?;
            SLOTS.remove(handle);
            Ok(())
        };
        // SAFETY: as the caller vouches.
        unsafe { destroy(memory, end) }
    })
}

/// Writes one bit per page that the guest wrote since the last call, in ceil(pages / 8) bytes.
///
/// # Safety
/// `log` is null or valid for writes of ceil(pages / 8) bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_memory_get_dirty_log(
    crosvm: *mut Crosvm,
    memory: *mut CrosvmMemory,
    log: *mut u8,
) -> c_int {
    call!(crosvm_memory_get_dirty_log, {
        let slot = SLOTS.get(memory)?;
        if log.is_null() {
            return Err(Errno::INVALID);
        }
        let bitmap = connection::with(crosvm, |connection| connection.dirty_log(&slot))?;
        // SAFETY: not null, and the SDK's bitmap has exactly the length that the caller vouches for.
        unsafe { log.copy_from_nonoverlapping(bitmap.as_ptr(), bitmap.len()) };
        Ok(())
    })
}
