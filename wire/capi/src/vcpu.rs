//! vCPUs: waiting for events and letting the guest run on. This is the path that every exit takes.

use core::ffi::{c_int, c_void};

use crate::abi::VcpuEvent;
use crate::call::call;
use crate::connection::{self, Crosvm};
use crate::place::{self, BUSY, CrosvmVcpu, WAITING, driving};
use crate::pointer;

/// The handle of a vCPU, the same each time and on every connection.
///
/// # Safety
/// `out` is null or valid for writes of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_get_vcpu(crosvm: *mut Crosvm, cpu_id: u32, out: *mut *mut CrosvmVcpu) -> c_int {
    call!(crosvm_get_vcpu, {
        // SAFETY: as the caller vouches.
        let out = unsafe { pointer::place(out)? };
        connection::check(crosvm)?;
        out.write(place::handle(cpu_id)?);
        Ok(())
    })
}

/// Waits for the next event.
///
/// # Safety
/// `event` is null or valid for writes of an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_vcpu_wait(vcpu: *mut CrosvmVcpu, event: *mut VcpuEvent) -> c_int {
    call!(crosvm_vcpu_wait, {
        // SAFETY: as the caller vouches.
        let event = unsafe { pointer::place(event)? };
        event.write(driving(vcpu, WAITING)?.next()?);
        Ok(())
    })
}

/// Answers the event: the vCPU runs on.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_vcpu_resume(vcpu: *mut CrosvmVcpu) -> c_int {
    call!(crosvm_vcpu_resume, { driving(vcpu, BUSY)?.resume() })
}

/// Asks vCPUs to pause, one per bit of the mask. Numbers past the last one are ignored.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_pause_vcpus(crosvm: *mut Crosvm, cpu_mask: u64, user: *mut c_void) -> c_int {
    call!(crosvm_pause_vcpus, {
        let vcpus = (0..u64::BITS).filter(|vcpu| cpu_mask >> vcpu & 1 != 0);
        connection::with(crosvm, |connection| connection.pause_vcpus(vcpus, user.expose_provenance() as u64))
    })
}
