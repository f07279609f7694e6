//! The run page: `struct kvm_run`, which KVM and the thread that runs a vCPU share.
//!
//! The kernel writes to it only within `KVM_RUN`, which takes the [`Vcpu`](super::Vcpu) exclusively, so
//! references into it are valid between two runs. One byte is different: `immediate_exit`, which a signal
//! handler or another thread may set at any time. It is only ever accessed as an atomic, and no reference
//! covers it.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;
use std::fmt;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

use kvm_bindings::{kvm_regs, kvm_run, kvm_sregs, kvm_vcpu_events};
use memmap2::{MmapOptions, MmapRaw};

use super::access::Access;
use super::decode::decode;
use super::exit::{Exit, Payload};
use crate::sys::{Errno, signal};

/// The mapped run page of a vCPU, with the data area behind it.
pub struct RunPage {
    /// Shared with the [`KickHandle`]s, which may outlive the page.
    map: Arc<MmapRaw>,
    /// The start of `map`.
    run: NonNull<kvm_run>,
}

// SAFETY: the pointer is into a mapping that the page owns a share of, and that can be accessed from any
// thread. Reading takes `&self` and writing `&mut self`, but for the atomic byte.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

/// A pointer to a field of the run page, for use in an unsafe block. The page points to a mapping that holds
/// a kvm_run (checked in `RunPage::new`) and that lives as long as the page; no reference is made here.
macro_rules! field {
    ($page:expr, $($path:tt)+) => {
        &raw mut (*$page.run.as_ptr()).$($path)+
    };
}

/// Reads a field of the run page.
macro_rules! get {
    ($page:expr, $($path:tt)+) => {
        // SAFETY: the field lies in the mapping, is aligned, and is an integer, valid whatever its bits.
        unsafe { (field!($page, $($path)+)).read() }
    };
}

/// Writes a field of the run page.
macro_rules! set {
    ($page:expr, $value:expr, $($path:tt)+) => {
        // SAFETY: the field lies in the mapping and is aligned. The page is borrowed exclusively, so there
        // are no references to the field.
        unsafe { (field!($page, $($path)+)).write($value) }
    };
}

impl RunPage {
    /// Maps the run page of a vCPU; `bytes` is what `KVM_GET_VCPU_MMAP_SIZE` gives.
    pub(super) fn map(vcpu: BorrowedFd<'_>, bytes: usize) -> Result<Self, Errno> {
        Self::new(MmapOptions::new().len(bytes).map_raw(vcpu.as_raw_fd())?)
    }

    /// A page of the same layout that belongs to no vCPU and is all zeros: to try code on exits that the
    /// host cannot produce, with [`set_exit`](Self::set_exit).
    ///
    /// # Errors
    /// `ENOMEM`, and `EINVAL` for fewer bytes than a `kvm_run` has.
    pub fn detached(bytes: usize) -> Result<Self, Errno> {
        Self::new(MmapOptions::new().len(bytes).map_anon()?.into())
    }

    fn new(map: MmapRaw) -> Result<Self, Errno> {
        if map.len() < size_of::<kvm_run>() {
            return Err(Errno::EINVAL);
        }
        let run = NonNull::new(map.as_mut_ptr().cast()).ok_or(Errno::EFAULT)?;
        Ok(Self { map: Arc::new(map), run })
    }

    /// Why the vCPU stopped, decoded anew with each call.
    #[inline]
    pub fn exit(&self) -> Exit {
        // SAFETY: the union lies in the mapping, is aligned for u64 and 256 bytes long (asserted below).
        // Nobody writes to it while the page is borrowed.
        let payload = unsafe { &*(field!(self, __bindgen_anon_1)).cast::<Payload>() };
        decode(self.exit_reason(), payload)
    }

    /// The access that the vCPU stopped for, if it is one; decoded anew with each call.
    #[inline]
    pub fn access(&self) -> Option<Access> {
        // SAFETY: as in `exit`.
        let payload = unsafe { &*(field!(self, __bindgen_anon_1)).cast::<Payload>() };
        Access::decode(self.exit_reason(), payload)
    }

    /// The data of an access. Empty if the access is not one that this page has given.
    #[inline]
    pub fn data(&self, access: &Access) -> &[u8] {
        let Some((offset, len)) = access.data_range(self.map.len()) else { return &[] };
        // SAFETY: the range is within the mapping (`data_range`) and covers no atomic byte: it lies in the union or behind
        // the kvm_run, where nobody writes while the page is borrowed.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(offset), len) }
    }

    /// The data of an access, to answer a read.
    #[inline]
    pub fn data_mut(&mut self, access: &Access) -> &mut [u8] {
        let Some((offset, len)) = access.data_range(self.map.len()) else { return &mut [] };
        // SAFETY: as in `data`; the page is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.map.as_mut_ptr().add(offset), len) }
    }

    /// The number of the exit, see [`exit::name`](super::exit::name).
    #[inline]
    pub fn exit_reason(&self) -> u32 {
        get!(self, exit_reason)
    }

    /// Writes an exit as the kernel would. On the page of a vCPU, the next run overwrites it.
    pub fn set_exit(&mut self, reason: u32, payload: &Payload) {
        set!(self, reason, exit_reason);
        // SAFETY: as in `exit`, with the page borrowed exclusively.
        unsafe { (field!(self, __bindgen_anon_1)).cast::<Payload>().write(*payload) }
    }

    /// The details of the exit as raw words, with the answers that were given.
    pub fn payload(&self) -> Payload {
        // SAFETY: as in `exit`.
        unsafe { (field!(self, __bindgen_anon_1)).cast::<Payload>().read() }
    }

    /// Answers [`Exit::Hypercall`]: what the guest finds in RAX.
    pub fn set_hypercall_result(&mut self, result: u64) {
        set!(self, result, __bindgen_anon_1.hypercall.ret);
    }

    /// Answers [`Exit::Hyperv`] with a hypercall: what the guest finds in RAX.
    pub fn set_hyperv_result(&mut self, result: u64) {
        set!(self, result, __bindgen_anon_1.hyperv.u.hcall.result);
    }

    /// Answers [`Exit::X86Rdmsr`] with a value.
    pub fn set_msr_data(&mut self, data: u64) {
        set!(self, data, __bindgen_anon_1.msr.data);
    }

    /// Answers [`Exit::X86Rdmsr`] or [`Exit::X86Wrmsr`]: whether the access fails, with a general
    /// protection fault.
    pub fn set_msr_error(&mut self, error: bool) {
        set!(self, error.into(), __bindgen_anon_1.msr.error);
    }

    /// Asks for [`Exit::IrqWindowOpen`] as soon as the guest takes interrupts, or no longer.
    pub fn request_interrupt_window(&mut self, on: bool) {
        set!(self, on.into(), request_interrupt_window);
    }

    /// Whether an interrupt can be injected now. Like the fields below, as of the last exit.
    pub fn ready_for_interrupt_injection(&self) -> bool {
        get!(self, ready_for_interrupt_injection) != 0
    }

    /// Whether RFLAGS.IF was set.
    pub fn if_flag(&self) -> bool {
        get!(self, if_flag) != 0
    }

    /// `KVM_RUN_X86_*`: whether the guest was in system management mode, locked the bus or ran a guest.
    pub fn flags(&self) -> u16 {
        get!(self, flags)
    }

    /// CR8.
    pub fn cr8(&self) -> u64 {
        get!(self, cr8)
    }

    /// The MSR `IA32_APIC_BASE`.
    pub fn apic_base(&self) -> u64 {
        get!(self, apic_base)
    }

    /// Which register files (`KVM_SYNC_X86_*`) KVM copies here at every exit from now on.
    pub fn set_valid_regs(&mut self, mask: u64) {
        set!(self, mask, kvm_valid_regs);
    }

    /// Which register files KVM copies here at every exit.
    pub fn valid_regs(&self) -> u64 {
        get!(self, kvm_valid_regs)
    }

    /// Which register files KVM will take from here at the next run; it clears them when it has.
    pub fn dirty_regs(&self) -> u64 {
        get!(self, kvm_dirty_regs)
    }

    /// Has KVM take these register files (`KVM_SYNC_X86_*`) from here at the next run, beside those marked
    /// already.
    pub fn mark_dirty_regs(&mut self, mask: u64) {
        let mask = self.dirty_regs() | mask;
        set!(self, mask, kvm_dirty_regs);
    }

    /// The general registers, as of the last exit if they are among the valid ones.
    #[inline]
    pub fn regs(&self) -> &kvm_regs {
        // SAFETY: the field lies in the mapping, is aligned, consists of integers, and nobody writes to it
        // while the page is borrowed.
        unsafe { &*field!(self, s.regs.regs) }
    }

    /// The general registers, to change them and then mark them as dirty.
    #[inline]
    pub fn regs_mut(&mut self) -> &mut kvm_regs {
        // SAFETY: as in `regs`; the page is borrowed exclusively.
        unsafe { &mut *field!(self, s.regs.regs) }
    }

    /// Segments and control registers, as of the last exit if they are among the valid ones.
    #[inline]
    pub fn sregs(&self) -> &kvm_sregs {
        // SAFETY: as in `regs`.
        unsafe { &*field!(self, s.regs.sregs) }
    }

    /// Pending events, as of the last exit if they are among the valid ones.
    #[inline]
    pub fn events(&self) -> &kvm_vcpu_events {
        // SAFETY: as in `regs`.
        unsafe { &*field!(self, s.regs.events) }
    }

    /// While this is not zero, [`Vcpu::run`](super::Vcpu::run) fails with `EINTR` before it enters the
    /// guest, but after it has completed the access that the last exit was about.
    #[inline]
    pub fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte lies in the mapping and every access to it, here and in the kernel, is atomic.
        unsafe { AtomicU8::from_ptr(field!(self, immediate_exit)) }
    }

    /// A handle with which other threads keep the vCPU from entering the guest.
    pub fn kick_handle(&self) -> KickHandle {
        KickHandle(Arc::clone(&self.map))
    }

    /// Registers the page with the calling thread: until the scope ends, the kick signal sets the page's
    /// `immediate_exit` whenever it arrives in this thread. A thread runs one vCPU: a second scope takes the
    /// place of the first. See [`install_kick_handler`].
    pub fn kick_scope(&self) -> KickScope {
        let scope = KickScope { kicked: self.kick_handle(), _this_thread: PhantomData };
        KICKED.set(scope.kicked.byte());
        scope
    }
}

const _: () = {
    assert!(size_of::<Payload>() == size_of::<kvm_bindings::kvm_run__bindgen_ty_1>());
    assert!(std::mem::offset_of!(kvm_run, __bindgen_anon_1).is_multiple_of(8));
};

impl fmt::Debug for RunPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunPage").field("exit", &self.exit()).finish_non_exhaustive()
    }
}

/// Access to `immediate_exit` of one vCPU, from any thread and for as long as the handle lives.
///
/// To stop a vCPU: say so in a flag of its own, [`set`](Self::set) this, and send the kick signal in case
/// it is in the guest or in a wait. The vCPU's thread [`clear`](Self::clear)s this before it looks at the
/// flag.
#[derive(Clone, Debug)]
pub struct KickHandle(Arc<MmapRaw>);

impl KickHandle {
    /// Keeps the vCPU from entering the guest.
    pub fn set(&self) {
        self.byte().store(1, Ordering::SeqCst);
    }

    /// Lets it enter again.
    pub fn clear(&self) {
        self.byte().store(0, Ordering::SeqCst);
    }

    /// Whether it is kept from entering.
    pub fn is_set(&self) -> bool {
        self.byte().load(Ordering::SeqCst) != 0
    }

    fn byte(&self) -> &AtomicU8 {
        let run: *mut kvm_run = self.0.as_mut_ptr().cast();
        // SAFETY: the mapping holds a kvm_run, and the handle owns a share of it. Every access to this byte
        // is atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*run).immediate_exit) }
    }
}

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, or null. Initialised at compile time and never
    /// dropped, so that a signal handler may read it.
    static KICKED: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// For as long as it lives, the kick signal stops the vCPU in the thread that made it. Not `Send`.
#[must_use = "the registration ends when this is dropped"]
pub struct KickScope {
    /// Keeps alive what the registered pointer points to.
    kicked: KickHandle,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for KickScope {
    fn drop(&mut self) {
        if ptr::eq(KICKED.get(), self.kicked.byte()) {
            KICKED.set(ptr::null());
        }
        // A signal that arrives from here on has to see that, before the mapping can go.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Installs the handler of [`signal::kick_signal`], for all threads: it sets `immediate_exit` of the vCPU
/// that has a [`KickScope`] in the thread it arrives in, and ends any waiting system call with `EINTR`.
///
/// # Errors
/// None that can happen.
pub fn install_kick_handler() -> Result<(), Errno> {
    // SAFETY: the handler reads a thread-local that needs no initialisation and stores to an atomic.
    unsafe { signal::install_handler(signal::kick_signal(), on_kick) }
}

extern "C" fn on_kick(_signum: c_int) {
    let kicked = KICKED.get();
    if !kicked.is_null() {
        // SAFETY: a scope in this thread keeps the mapping, and unregisters before it lets go of it.
        unsafe { &*kicked }.store(1, Ordering::SeqCst);
    }
}
