//! A VM's descriptor together with the memory that KVM accesses on its behalf.
//!
//! These requests carry addresses, so their soundness is not a matter of types alone. KVM reaches guest
//! memory through the page tables of this process: were a mapping undone while a slot refers to it, the
//! guest would read and write whatever is mapped there next. A [`VmFd`] therefore owns the mappings of its
//! slots, and lives as long as any vCPU that could run on them.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_MSR_FILTER_DEFAULT_ALLOW, KVM_MSR_FILTER_MAX_BITMAP_SIZE, kvm_dirty_log,
    kvm_enable_cap, kvm_msr_filter, kvm_msr_filter_range, kvm_userspace_memory_region,
};
use memmap2::MmapRaw;

use super::PAGE;
use super::errno::Errno;
use super::ioctl;
use super::kvm_requests::{
    KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_ENABLE_CAP, KVM_GET_DIRTY_LOG, KVM_SET_USER_MEMORY_REGION,
    KVM_X86_SET_MSR_FILTER,
};

/// Guest memory as one slot sees it.
struct Slot {
    /// Kept for as long as the slot refers to it.
    _mapping: Arc<MmapRaw>,
    bytes: u64,
}

/// The descriptor of a VM, and the mappings behind its memory slots.
pub struct VmFd {
    fd: OwnedFd,
    /// By slot number, whose upper half is the address space. Locked across the call that changes a slot,
    /// so that the table and the kernel agree.
    slots: Mutex<BTreeMap<u32, Slot>>,
}

/// The descriptor of a vCPU, which keeps the memory of its VM mapped.
pub struct VcpuFd {
    /// That of `owner`, where the way to the guest finds it without another look at memory.
    number: RawFd,
    owner: Arc<OwnedFd>,
    _vm: Arc<VmFd>,
}

/// A part in a vCPU's descriptor, see [`VcpuFd::hold`].
#[derive(Debug)]
pub struct Held {
    _owner: Arc<OwnedFd>,
}

impl VmFd {
    /// Creates a VM on `/dev/kvm`.
    ///
    /// # Errors
    /// Those of `KVM_CREATE_VM`, but for `EINTR`: then it is tried again.
    pub fn create(kvm: BorrowedFd<'_>) -> Result<Arc<Self>, Errno> {
        // KVM starts a thread of its own there, which any signal interrupts: a timer's, or the end of a stop by job control.
        let fd = loop {
            match ioctl::new_fd(kvm, KVM_CREATE_VM, 0) {
                Err(Errno::EINTR) => {}
                made => break made?,
            }
        };
        Ok(Arc::new(Self { fd, slots: Mutex::default() }))
    }

    /// Adds the vCPU of this number.
    ///
    /// # Errors
    /// Those of `KVM_CREATE_VCPU`: `EEXIST` for a number in use, `EINVAL` for one too large.
    pub fn create_vcpu(self: &Arc<Self>, id: u32) -> Result<VcpuFd, Errno> {
        let owner = Arc::new(ioctl::new_fd(self.fd.as_fd(), KVM_CREATE_VCPU, id.into())?);
        Ok(VcpuFd { number: owner.as_raw_fd(), owner, _vm: Arc::clone(self) })
    }

    /// Backs guest memory from `guest_addr` on with `bytes` bytes of a mapping, from `offset` on, and
    /// keeps the mapping until the slot is replaced, removed, or gone with the VM. `flags` are `KVM_MEM_*`;
    /// `KVM_MEM_GUEST_MEMFD` belongs to another request and is refused by KVM.
    ///
    /// # Errors
    /// `EINVAL` if the range is not within the mapping, is empty or is not made of whole pages, and for
    /// another size than the slot has; `EEXIST` if it overlaps another slot.
    pub fn set_slot(
        &self,
        slot: u32,
        flags: u32,
        guest_addr: u64,
        mapping: Arc<MmapRaw>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(bytes).ok_or(Errno::EINVAL)?;
        if bytes == 0 || end > mapping.len() as u64 {
            return Err(Errno::EINVAL);
        }
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: guest_addr,
            memory_size: bytes,
            userspace_addr: mapping.as_ptr() as u64 + offset,
        };
        let mut slots = self.lock();
        // SAFETY: the range is within the mapping, which the table below keeps for as long as the slot
        // exists. Nobody has references into an MmapRaw, so guest writes are not seen as broken promises.
        unsafe { ioctl::pointing(self.fd.as_fd(), KVM_SET_USER_MEMORY_REGION, &region) }?;
        // Only now may the mapping of a slot that was replaced go.
        slots.insert(slot, Slot { _mapping: mapping, bytes });
        Ok(())
    }

    /// Removes a slot and lets go of its mapping.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot.
    pub fn remove_slot(&self, slot: u32) -> Result<(), Errno> {
        let mut slots = self.lock();
        if !slots.contains_key(&slot) {
            return Err(Errno::ENOENT);
        }
        let region = kvm_userspace_memory_region { slot, ..Default::default() };
        // SAFETY: a size of zero removes the slot, and the other fields are not looked at.
        unsafe { ioctl::pointing(self.fd.as_fd(), KVM_SET_USER_MEMORY_REGION, &region) }?;
        slots.remove(&slot);
        Ok(())
    }

    /// Copies which pages of a slot were written since the last call: bit n of the words is page n. The
    /// words beyond those that the slot needs stay as they are.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot or it does not log, `EINVAL` if the bitmap is too short.
    pub fn dirty_log(&self, slot: u32, bitmap: &mut [u64]) -> Result<(), Errno> {
        let slots = self.lock();
        let bytes = slots.get(&slot).ok_or(Errno::ENOENT)?.bytes;
        if (bitmap.len() as u64) < (bytes / PAGE).div_ceil(u64::BITS.into()) {
            return Err(Errno::EINVAL);
        }
        let mut log = kvm_dirty_log { slot, ..Default::default() };
        log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
        // SAFETY: KVM writes one bit for each page of the slot, rounded up to words of 64 bits. The bitmap
        // holds as many, and the lock keeps the slot from changing its size.
        unsafe { ioctl::pointing(self.fd.as_fd(), KVM_GET_DIRTY_LOG, &log) }.map(drop)
    }

    /// Switches a capability of the VM on.
    ///
    /// # Errors
    /// Those of [`VcpuFd::enable_cap`].
    pub fn enable_cap(&self, cap: u32, flags: u32, args: [u64; 4]) -> Result<(), Errno> {
        enable_cap(self.as_fd(), cap, flags, args)
    }

    /// Takes these MSRs from the guest: the first of each, how many, and which accesses (`KVM_MSR_FILTER_READ` and
    /// `KVM_MSR_FILTER_WRITE`). They replace those taken before. At most 16 ranges of 12288.
    ///
    /// # Errors
    /// `EINVAL` for more, longer or empty ranges, and for other accesses.
    pub fn filter_msrs(&self, ranges: &[(u32, u32, u32)]) -> Result<(), Errno> {
        const BYTES: usize = KVM_MSR_FILTER_MAX_BITMAP_SIZE as usize;
        /// Bits of MSRs that the guest may access: none.
        static NONE: [u8; BYTES] = [0; BYTES];
        let mut filter = kvm_msr_filter { flags: KVM_MSR_FILTER_DEFAULT_ALLOW, ..Default::default() };
        if ranges.len() > filter.ranges.len() {
            return Err(Errno::EINVAL);
        }
        for (to, &(base, nmsrs, flags)) in filter.ranges.iter_mut().zip(ranges) {
            if nmsrs == 0 || nmsrs as usize > NONE.len() * 8 {
                return Err(Errno::EINVAL);
            }
            *to = kvm_msr_filter_range { flags, nmsrs, base, bitmap: NONE.as_ptr().cast_mut() };
        }
        // SAFETY: KVM copies one bit for each MSR of a range, rounded up to words of 64 bits, and writes nothing. The
        // bitmap is at least as long: its length is a multiple of 8 bytes, and no range exceeds it (checked above).
        unsafe { ioctl::pointing(self.fd.as_fd(), KVM_X86_SET_MSR_FILTER, &filter) }.map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Slot>> {
        // Each change of the table is one insert or remove after the kernel has agreed, so a panic of
        // another thread cannot have left it half done.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For every other request on the VM. vCPUs come from [`VmFd::create_vcpu`] alone: one made from this
/// descriptor would not keep the memory mapped. `kvm::vm`, which makes the requests, keeps to that.
impl AsFd for VmFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl VcpuFd {
    /// Keeps the descriptor open as long as the result lives. It cannot be used by that.
    pub fn hold(&self) -> Held {
        Held { _owner: Arc::clone(&self.owner) }
    }

    /// Switches a capability of the vCPU on.
    ///
    /// # Errors
    /// `EINVAL` for a capability that is not known here or cannot be switched on, for arguments it does
    /// not take, and for `KVM_CAP_HYPERV_ENLIGHTENED_VMCS`, whose argument is an address.
    pub fn enable_cap(&self, cap: u32, flags: u32, args: [u64; 4]) -> Result<(), Errno> {
        enable_cap(self.as_fd(), cap, flags, args)
    }
}

impl AsFd for VcpuFd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `owner` has this number and keeps it open as long as this value lives.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }
}

fn enable_cap(fd: BorrowedFd<'_>, cap: u32, flags: u32, args: [u64; 4]) -> Result<(), Errno> {
    if cap == KVM_CAP_HYPERV_ENLIGHTENED_VMCS {
        return Err(Errno::EINVAL);
    }
    let request = kvm_enable_cap { cap, flags, args, ..Default::default() };
    // SAFETY: of the capabilities that x86 can switch on, api.rst gives an address to the one refused
    // above alone; the others take numbers, masks and descriptors.
    unsafe { ioctl::pointing(fd, KVM_ENABLE_CAP, &request) }.map(drop)
}
