//! The vCPUs of the process: their handles, and who uses which at this moment.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

use outboard_plugin::{Connection, Registers};

use crate::call::Errno;
use crate::driver::Driver;

/// What C sees behind a vCPU: nothing.
#[repr(C)]
pub struct CrosvmVcpu {
    nothing: [u8; 0],
}

/// Handles of vCPUs are this plus their number, built as the others in `handle`.
const HANDLES: usize = 1 << 63 | 15 << 48;

/// All vCPUs of the VM, from the first connection on until the process ends: no connection that is destroyed takes a vCPU
/// away from the thread that drives it.
static VCPUS: OnceLock<Box<[Place]>> = OnceLock::new();

/// Nobody uses the vCPU at this moment.
const FREE: u8 = 0;
/// A thread waits for its next event.
pub const WAITING: u8 = 1;
/// A thread does anything else with it.
pub const BUSY: u8 = 2;

/// A vCPU and who uses it. Places of different vCPUs do not share cache lines, nor the pair that is fetched together.
#[repr(align(128))]
struct Place {
    user: AtomicU8,
    driver: UnsafeCell<Driver>,
}

// SAFETY: `driver` is reached through `Driving` only, of which `Place::take` makes one at a time; `Driver` is `Send`.
unsafe impl Sync for Place {}

/// The only access to a vCPU while it lives.
pub struct Driving<'a> {
    place: &'a Place,
}

impl Place {
    /// The vCPU for one call. While another thread waits for its event, there is none that a request could be about.
    #[inline(always)]
    fn take(&self, user: u8) -> Result<Driving<'_>, Errno> {
        match self.user.compare_exchange(FREE, user, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Driving { place: self }),
            Err(WAITING) if user != WAITING => Err(Errno::PROTOCOL),
            Err(_) => Err(Errno(libc::EBUSY)),
        }
    }
}

impl Deref for Driving<'_> {
    type Target = Driver;

    #[inline(always)]
    fn deref(&self) -> &Driver {
        // SAFETY: `Place::take` makes a `Driving` only when there is none, so this is the only way to the driver now.
        unsafe { &*self.place.driver.get() }
    }
}

impl DerefMut for Driving<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Driver {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { &mut *self.place.driver.get() }
    }
}

impl Drop for Driving<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.place.user.store(FREE, Ordering::Release);
    }
}

/// Takes all vCPUs of a new machine.
pub fn publish(connection: &Connection) -> Result<(), Errno> {
    let place = |id| {
        let driver = Driver::new(connection.vcpu(id)?);
        Ok(Place { user: AtomicU8::new(FREE), driver: UnsafeCell::new(driver) })
    };
    let places: Result<Box<[Place]>, outboard_plugin::Error> = (0..connection.vcpu_count()).map(place).collect();
    // A process connects once, which `crosvm_connect` keeps.
    VCPUS.set(places?).map_err(|_| Errno(libc::EISCONN))
}

/// The vCPU of a handle, for one call that is about it in this way: [`WAITING`] or [`BUSY`].
#[inline(always)]
pub fn driving<'a>(vcpu: *const CrosvmVcpu, user: u8) -> Result<Driving<'a>, Errno> {
    let places = VCPUS.get().ok_or(Errno::INVALID)?;
    places.get(vcpu.addr().wrapping_sub(HANDLES)).ok_or(Errno::INVALID)?.take(user)
}

/// The handle of a vCPU.
pub fn handle(id: u32) -> Result<*mut CrosvmVcpu, Errno> {
    let count = VCPUS.get().map_or(0, |places| places.len());
    if id as usize >= count {
        return Err(Errno(libc::ENOENT));
    }
    Ok(core::ptr::without_provenance_mut(HANDLES + id as usize))
}

/// Runs a register request on the vCPU of a handle.
pub fn with<T>(
    vcpu: *const CrosvmVcpu,
    request: impl FnOnce(&mut Registers) -> Result<T, outboard_plugin::Error>,
) -> Result<T, Errno> {
    Ok(request(driving(vcpu, BUSY)?.registers()?)?)
}
