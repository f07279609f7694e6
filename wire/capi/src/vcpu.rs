//! vCPUs: waiting for events and letting the guest run on. This is the path that every exit takes.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

use outboard_plugin::{Access, Connection, Exit, PostedWrite, RawEvent, Registers, Space, Vcpu};

use crate::abi::{self, IoAccess, VcpuEvent};
use crate::call::{Errno, call};
use crate::connection::{self, Crosvm};
use crate::pointer;

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
const WAITING: u8 = 1;
/// A thread does anything else with it.
const BUSY: u8 = 2;

/// A vCPU and who uses it. Places of different vCPUs do not share cache lines, nor the pair that is fetched together.
#[repr(align(128))]
struct Place {
    user: AtomicU8,
    driver: UnsafeCell<Driver>,
}

// SAFETY: `driver` is reached through `Driving` only, of which `Place::take` makes one at a time; `Driver` is `Send`.
unsafe impl Sync for Place {}

/// The only access to a vCPU while it lives.
struct Driving<'a> {
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
        let driver = Driver { vcpu: connection.vcpu(id)?, items: None };
        Ok(Place { user: AtomicU8::new(FREE), driver: UnsafeCell::new(driver) })
    };
    let places: Result<Box<[Place]>, outboard_plugin::Error> = (0..connection.vcpu_count()).map(place).collect();
    // A process connects once, which `crosvm_connect` keeps.
    VCPUS.set(places?).map_err(|_| Errno(libc::EISCONN))
}

#[inline(always)]
fn driving<'a>(vcpu: *const CrosvmVcpu, user: u8) -> Result<Driving<'a>, Errno> {
    let places = VCPUS.get().ok_or(Errno::INVALID)?;
    places.get(vcpu.addr().wrapping_sub(HANDLES)).ok_or(Errno::INVALID)?.take(user)
}

/// Runs a register request on the vCPU of a handle.
pub fn with<T>(
    vcpu: *const CrosvmVcpu,
    request: impl FnOnce(&mut Registers) -> Result<T, outboard_plugin::Error>,
) -> Result<T, Errno> {
    let mut driver = driving(vcpu, BUSY)?;
    if driver.items.is_some_and(|items| items.answered) {
        return Err(Errno::PROTOCOL);
    }
    Ok(request(driver.vcpu.registers())?)
}

/// A vCPU as the SDK has it, and what is left to deliver of a string access.
struct Driver {
    vcpu: Vcpu,
    items: Option<Items>,
}

/// String port I/O: one event of the VMM that the plugin gets item by item, each as the access that the guest made. A
/// plugin that knows registers of up to eight bytes needs to know no more.
#[derive(Clone, Copy)]
struct Items {
    access: Access,
    is_write: bool,
    /// Where the item lies that the plugin has or gets next.
    offset: u32,
    /// The item before it was resumed, and the one at `offset` is not delivered yet.
    answered: bool,
}

impl Driver {
    #[inline(always)]
    fn next(&mut self) -> Result<VcpuEvent, Errno> {
        if self.items.is_some() {
            return self.next_item();
        }
        match self.vcpu.next_event()? {
            RawEvent::Read(access) => Ok(self.accessed(access, false)),
            RawEvent::Write(access) => Ok(self.accessed(access, true)),
            RawEvent::Posted(write) => Ok(self.posted(&write)),
            RawEvent::Init => Ok(VcpuEvent::new(abi::EVENT_INIT)),
            RawEvent::Paused { cookie } => {
                let mut event = VcpuEvent::new(abi::EVENT_PAUSED);
                event.of.user = core::ptr::with_exposed_provenance_mut::<c_void>(cookie as usize);
                Ok(event)
            }
            RawEvent::Shutdown => Err(Errno(libc::ESHUTDOWN)),
            _ => self.exit(),
        }
    }

    #[inline(always)]
    fn accessed(&mut self, access: Access, is_write: bool) -> VcpuEvent {
        let width = u32::from(access.width);
        if width != 0 && width < access.length {
            self.items = Some(Items { access, is_write, offset: 0, answered: false });
            return self.event(access, 0, width, is_write);
        }
        self.event(access, 0, access.length, is_write)
    }

    /// The event of `length` bytes of the access, from `offset` on.
    #[inline(always)]
    fn event(&mut self, access: Access, offset: u32, length: u32, is_write: bool) -> VcpuEvent {
        let rest = self.vcpu.data_mut().get_mut(offset as usize..).unwrap_or_default();
        let length = length.min(rest.len() as u32);
        let io_access = IoAccess {
            address_space: space_number(access.space),
            padding: [0; 4],
            address: access.address,
            data: rest.as_mut_ptr(),
            length,
            is_write: is_write.into(),
            no_resume: 0,
            reserved: [0; 2],
        };
        let mut event = VcpuEvent::new(abi::EVENT_IO_ACCESS);
        event.of.io_access = io_access;
        event
    }

    /// The events of Hyper-V, which are the only other ones that come without being asked for.
    #[cold]
    fn exit(&mut self) -> Result<VcpuEvent, Errno> {
        let (kind, words) = match self.vcpu.registers().exit() {
            Some(Exit::HypervCall { input, params }) => {
                let result = self.vcpu.data_mut().as_mut_ptr().expose_provenance() as u64;
                (abi::EVENT_HYPERV_HCALL, [input, result, params[0], params[1]])
            }
            Some(Exit::HypervSynic { msr, control, event_page, message_page }) => {
                (abi::EVENT_HYPERV_SYNIC, [msr.into(), control, event_page, message_page])
            }
            _ => return Err(Errno::PROTOCOL),
        };
        let mut event = VcpuEvent::new(kind);
        let [a, b, c, d] = words;
        event.of.reserved = [a, b, c, d, 0, 0, 0, 0];
        Ok(event)
    }

    fn posted(&mut self, write: &PostedWrite) -> VcpuEvent {
        let (space, address) = (write.space, write.address);
        let access = Access { space, address, length: write.length.into(), width: write.length };
        let mut event = self.event(access, 0, access.length, true);
        event.of.io_access.no_resume = 1;
        event
    }

    #[cold]
    fn next_item(&mut self) -> Result<VcpuEvent, Errno> {
        let Some(items) = self.items.as_mut().filter(|items| items.answered) else { return Err(Errno::PROTOCOL) };
        items.answered = false;
        let items = *items;
        Ok(self.event(items.access, items.offset, items.access.width.into(), items.is_write))
    }

    #[inline(always)]
    fn resume(&mut self) -> Result<(), Errno> {
        if self.items.is_some() && self.answer_item()? {
            return Ok(());
        }
        Ok(self.vcpu.resume()?)
    }

    /// Steps to the next item; false if this was the last one and the vCPU runs on.
    #[cold]
    fn answer_item(&mut self) -> Result<bool, Errno> {
        let Some(items) = &mut self.items else { return Ok(false) };
        if items.answered {
            return Err(Errno::PROTOCOL);
        }
        items.offset += u32::from(items.access.width);
        items.answered = true;
        let more = items.offset < items.access.length;
        if !more {
            self.items = None;
        }
        Ok(more)
    }
}

#[inline(always)]
fn space_number(space: Space) -> u32 {
    match space {
        Space::Port => abi::ADDRESS_SPACE_IOPORT,
        Space::Mmio => abi::ADDRESS_SPACE_MMIO,
    }
}

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
        let count = VCPUS.get().map_or(0, |places| places.len());
        if cpu_id as usize >= count {
            return Err(Errno(libc::ENOENT));
        }
        out.write(core::ptr::without_provenance_mut(HANDLES + cpu_id as usize));
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
