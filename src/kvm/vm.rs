//! One VM: its memory slots, interrupt controllers, timers and event descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use kvm_bindings::*;
use memmap2::MmapRaw;

use super::error::{KvmError, Object};
use super::vcpu::Vcpu;
use crate::sys::Errno;
use crate::sys::ioctl::{self, KernelData, NoArg, Read, TableBuf, Value, Write};
use crate::sys::kvm_data;
use crate::sys::kvm_requests::*;
use crate::sys::kvm_vm_fd::VmFd;

/// The guest writes that an ioeventfd takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEvent {
    /// Port number or guest physical address.
    pub address: u64,
    /// Whether `address` is a port.
    pub port_io: bool,
    /// Bytes of the access: 1, 2, 4 or 8; 0 for a write of any length.
    pub len: u32,
    /// Only writes of this value, or of every value.
    pub datamatch: Option<u64>,
}

/// A VM. Its vCPUs keep what they need of it alive, so that it may be dropped before them.
pub struct Vm {
    fd: Arc<VmFd>,
    vcpu_mmap_size: usize,
}

/// The dirty logs of a VM.
pub struct DirtyLogs(Arc<VmFd>);

impl DirtyLogs {
    /// As [`Vm::dirty_log`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, slot: u32, bitmap: &mut [u64]) -> Result<(), KvmError> {
        let done = self.0.dirty_log(slot, bitmap);
        done.map_err(KvmError::of(KVM_GET_DIRTY_LOG.name(), Object::Slot(slot)))
    }
}

impl Vm {
    /// Creates a VM on the KVM device; `vcpu_mmap_size` is what the device says about its vCPUs.
    pub(super) fn new(kvm: BorrowedFd<'_>, vcpu_mmap_size: usize) -> Result<Self, KvmError> {
        let fd = VmFd::create(kvm).map_err(KvmError::of(KVM_CREATE_VM.name(), Object::System))?;
        Ok(Self { fd, vcpu_mmap_size })
    }

    /// What this capability (`KVM_CAP_*`) is worth for this VM: 0 if it is missing or its number unknown.
    ///
    /// # Errors
    /// None that can happen.
    pub fn check_extension(&self, cap: u32) -> Result<i32, KvmError> {
        self.value(KVM_CHECK_EXTENSION, cap.into())
    }

    /// Switches a capability of the VM on.
    ///
    /// # Errors
    /// `EINVAL` for one that cannot be switched on, or not with these arguments.
    pub fn enable_cap(&self, cap: u32, flags: u32, args: [u64; 4]) -> Result<(), KvmError> {
        self.fd.enable_cap(cap, flags, args).map_err(KvmError::of(KVM_ENABLE_CAP.name(), Object::Vm))
    }

    /// Adds a vCPU. Interrupt controllers have to be there before the first.
    ///
    /// # Errors
    /// `EEXIST` for a number in use, `EINVAL` for one too large; and that of the mapping of its run page,
    /// under the name `mmap`.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, KvmError> {
        let object = Object::Vcpu(id);
        let fd = self.fd.create_vcpu(id).map_err(KvmError::of(KVM_CREATE_VCPU.name(), object))?;
        Vcpu::new(fd, id, self.vcpu_mmap_size).map_err(KvmError::of("mmap", object))
    }

    /// Backs `bytes` bytes of guest memory at `guest_addr` with those of a mapping from `offset` on. All
    /// three are multiples of 4096. `flags` are `KVM_MEM_LOG_DIRTY_PAGES` and `KVM_MEM_READONLY`. The VM
    /// keeps the mapping until the slot is removed; of a slot that exists, only address and flags change.
    ///
    /// # Errors
    /// `EINVAL` if the range is empty, not within the mapping or not made of whole pages, and for a slot
    /// number too large; `EEXIST` if the guest addresses overlap another slot's.
    pub fn set_memory_slot(
        &self,
        slot: u32,
        flags: u32,
        guest_addr: u64,
        mapping: Arc<MmapRaw>,
        offset: u64,
        bytes: u64,
    ) -> Result<(), KvmError> {
        let done = self.fd.set_slot(slot, flags, guest_addr, mapping, offset, bytes);
        done.map_err(KvmError::of(KVM_SET_USER_MEMORY_REGION.name(), Object::Slot(slot)))
    }

    /// Takes a slot's memory from the guest, and lets go of its mapping.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot.
    pub fn remove_memory_slot(&self, slot: u32) -> Result<(), KvmError> {
        let done = self.fd.remove_slot(slot);
        done.map_err(KvmError::of(KVM_SET_USER_MEMORY_REGION.name(), Object::Slot(slot)))
    }

    /// Reads and clears which pages of a slot the guest has written: bit n is page n of 4096 bytes.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot or it was not set with `KVM_MEM_LOG_DIRTY_PAGES`, `EINVAL` if the
    /// bitmap is shorter than the slot.
    pub fn dirty_log(&self, slot: u32, bitmap: &mut [u64]) -> Result<(), KvmError> {
        let done = self.fd.dirty_log(slot, bitmap);
        done.map_err(KvmError::of(KVM_GET_DIRTY_LOG.name(), Object::Slot(slot)))
    }

    /// What reads the dirty logs of this VM from other threads too.
    pub fn dirty_logs(&self) -> DirtyLogs {
        DirtyLogs(Arc::clone(&self.fd))
    }

    /// Gives KVM three pages of guest addresses below 4 GiB that Intel's real mode needs. No memory slot
    /// and no device may be there.
    ///
    /// # Errors
    /// `EINVAL` for an address beyond 4 GiB.
    pub fn set_tss_addr(&self, guest_addr: u64) -> Result<(), KvmError> {
        self.value(KVM_SET_TSS_ADDR, guest_addr).map(drop)
    }

    /// Gives KVM one more such page. Before the first vCPU.
    ///
    /// # Errors
    /// `EINVAL` once there is a vCPU.
    pub fn set_identity_map_addr(&self, guest_addr: u64) -> Result<(), KvmError> {
        self.write(KVM_SET_IDENTITY_MAP_ADDR, &guest_addr, Object::Address(guest_addr))
    }

    /// Creates PICs and IOAPIC in the kernel, and local APICs for the vCPUs to come.
    ///
    /// # Errors
    /// `EEXIST` if there are some, `EINVAL` once there is a vCPU.
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        self.no_arg(KVM_CREATE_IRQCHIP).map(drop)
    }

    /// Creates the i8254 timer in the kernel. `flags` are 0 or `KVM_PIT_SPEAKER_DUMMY`.
    ///
    /// # Errors
    /// `EEXIST` if there is one, `ENOENT` without interrupt controllers.
    pub fn create_pit2(&self, flags: u32) -> Result<(), KvmError> {
        self.write(KVM_CREATE_PIT2, &kvm_pit_config { flags, ..Default::default() }, Object::Vm)
    }

    /// Sets the level of an interrupt line.
    ///
    /// # Errors
    /// `ENXIO` without interrupt controllers.
    pub fn set_irq_line(&self, gsi: u32, active: bool) -> Result<(), KvmError> {
        let mut level = kvm_irq_level { level: active.into(), ..Default::default() };
        level.__bindgen_anon_1.irq = gsi;
        self.write(KVM_IRQ_LINE, &level, Object::Gsi(gsi))
    }

    /// Delivers a message-signalled interrupt. False if the guest has blocked it, or no vCPU has that address.
    ///
    /// # Errors
    /// `EINVAL` without interrupt controllers.
    pub fn signal_msi(&self, address: u64, data: u32) -> Result<bool, KvmError> {
        let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
        let msi = kvm_msi { address_lo, address_hi, data, ..Default::default() };
        // What KVM returns for "no vCPU was meant" is -1, and so looks like EPERM.
        let delivered = match ioctl::write(self.as_fd(), KVM_SIGNAL_MSI, &msi) {
            Err(Errno::EPERM) => Ok(0),
            other => other,
        };
        delivered.map(|count| count > 0).map_err(KvmError::of(KVM_SIGNAL_MSI.name(), Object::Address(address)))
    }

    /// Replaces the table that says what each GSI is.
    ///
    /// # Errors
    /// `EINVAL` for an entry that makes no sense, or for more than 4096 of them.
    pub fn set_gsi_routing(&self, entries: &[kvm_irq_routing_entry]) -> Result<(), KvmError> {
        let mut table = TableBuf::from_entries(entries);
        let done = ioctl::table(self.as_fd(), KVM_SET_GSI_ROUTING, &mut table);
        done.map(drop).map_err(KvmError::of(KVM_SET_GSI_ROUTING.name(), Object::Vm))
    }

    /// Lets an eventfd raise a GSI. With `resample` the line is a level: it stays active until the guest
    /// ends the interrupt, which `resample` then signals. KVM keeps the files open by itself.
    ///
    /// # Errors
    /// `EBUSY` if the eventfd has a GSI already, `EINVAL` for a descriptor that is no eventfd, or without
    /// interrupt controllers.
    pub fn assign_irqfd(
        &self,
        gsi: u32,
        event: BorrowedFd<'_>,
        resample: Option<BorrowedFd<'_>>,
    ) -> Result<(), KvmError> {
        let mut irqfd = kvm_irqfd { gsi, fd: event.as_raw_fd() as u32, ..Default::default() };
        if let Some(resample) = resample {
            irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
            irqfd.resamplefd = resample.as_raw_fd() as u32;
        }
        self.write(KVM_IRQFD, &irqfd, Object::Gsi(gsi))
    }

    /// Undoes [`assign_irqfd`](Self::assign_irqfd). Succeeds if there is nothing to undo.
    ///
    /// # Errors
    /// `EINVAL` for a descriptor that is no eventfd.
    pub fn deassign_irqfd(&self, gsi: u32, event: BorrowedFd<'_>) -> Result<(), KvmError> {
        let fd = event.as_raw_fd() as u32;
        let irqfd = kvm_irqfd { gsi, fd, flags: KVM_IRQFD_FLAG_DEASSIGN, ..Default::default() };
        self.write(KVM_IRQFD, &irqfd, Object::Gsi(gsi))
    }

    /// Lets guest writes signal an eventfd in place of an exit.
    ///
    /// # Errors
    /// `EEXIST` if there is one for such writes, `EINVAL` for a length KVM does not take, `ENOSPC` for too
    /// many of them.
    pub fn assign_ioevent(&self, at: &IoEvent, event: BorrowedFd<'_>) -> Result<(), KvmError> {
        self.write(KVM_IOEVENTFD, &ioeventfd(at, event, 0), Object::Address(at.address))
    }

    /// Undoes [`assign_ioevent`](Self::assign_ioevent), given the same arguments.
    ///
    /// # Errors
    /// `ENOENT` if there is none like that.
    pub fn deassign_ioevent(&self, at: &IoEvent, event: BorrowedFd<'_>) -> Result<(), KvmError> {
        let deassign = 1 << kvm_ioeventfd_flag_nr_deassign;
        self.write(KVM_IOEVENTFD, &ioeventfd(at, event, deassign), Object::Address(at.address))
    }

    /// The state of the first (`primary`) or second i8259.
    ///
    /// # Errors
    /// `ENXIO` without interrupt controllers.
    pub fn pic(&self, primary: bool) -> Result<kvm_pic_state, KvmError> {
        self.irqchip(pic_id(primary)).map(|chip| kvm_data::pic_state(&chip))
    }

    /// Sets the state of the first (`primary`) or second i8259.
    ///
    /// # Errors
    /// `ENXIO` without interrupt controllers.
    pub fn set_pic(&self, primary: bool, state: &kvm_pic_state) -> Result<(), KvmError> {
        let mut chip = kvm_irqchip { chip_id: pic_id(primary), ..Default::default() };
        chip.chip.pic = *state;
        self.write(KVM_SET_IRQCHIP, &chip, Object::Vm)
    }

    /// The state of the IOAPIC.
    ///
    /// # Errors
    /// `ENXIO` without interrupt controllers.
    pub fn ioapic(&self) -> Result<kvm_ioapic_state, KvmError> {
        self.irqchip(KVM_IRQCHIP_IOAPIC).map(|chip| kvm_data::ioapic_state(&chip))
    }

    /// Sets the state of the IOAPIC.
    ///
    /// # Errors
    /// `ENXIO` without interrupt controllers.
    pub fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<(), KvmError> {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        chip.chip.ioapic = *state;
        self.write(KVM_SET_IRQCHIP, &chip, Object::Vm)
    }

    /// The state of the i8254.
    ///
    /// # Errors
    /// `ENXIO` if there is none.
    pub fn pit2(&self) -> Result<kvm_pit_state2, KvmError> {
        self.read(KVM_GET_PIT2)
    }

    /// Sets the state of the i8254.
    ///
    /// # Errors
    /// `ENXIO` if there is none.
    pub fn set_pit2(&self, state: &kvm_pit_state2) -> Result<(), KvmError> {
        self.write(KVM_SET_PIT2, state, Object::Vm)
    }

    /// The guest's paravirtual clock, in nanoseconds.
    ///
    /// # Errors
    /// None that can happen.
    pub fn clock(&self) -> Result<kvm_clock_data, KvmError> {
        self.read(KVM_GET_CLOCK)
    }

    /// Sets the guest's paravirtual clock.
    ///
    /// # Errors
    /// `EINVAL` for flags other than `KVM_CLOCK_REALTIME`, so that those which [`clock`](Self::clock)
    /// returns have to be cleared.
    pub fn set_clock(&self, clock: &kvm_clock_data) -> Result<(), KvmError> {
        self.write(KVM_SET_CLOCK, clock, Object::Vm)
    }

    /// The TSC frequency in kHz that the vCPUs to come start with.
    ///
    /// # Errors
    /// Where KVM has no `KVM_CAP_VM_TSC_CONTROL`: `EINVAL` or `ENOTTY`.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.no_arg(KVM_GET_TSC_KHZ).map(|khz| khz as u32)
    }

    /// Sets the TSC frequency in kHz that the vCPUs to come start with.
    ///
    /// # Errors
    /// `EINVAL` once there is a vCPU, and for a frequency that the hardware cannot give; `ENOTTY` before Linux 5.16.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), KvmError> {
        self.value(KVM_SET_TSC_KHZ, khz.into()).map(drop)
    }

    /// Takes MSRs from the guest; see [`VmFd::filter_msrs`].
    ///
    /// # Errors
    /// As listed there.
    pub fn filter_msrs(&self, ranges: &[(u32, u32, u32)]) -> Result<(), KvmError> {
        self.fd.filter_msrs(ranges).map_err(KvmError::of(KVM_X86_SET_MSR_FILTER.name(), Object::Vm))
    }

    fn irqchip(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        let done = ioctl::update(self.as_fd(), KVM_GET_IRQCHIP, &mut chip);
        done.map(|_| chip).map_err(KvmError::of(KVM_GET_IRQCHIP.name(), Object::Vm))
    }

    fn no_arg(&self, request: NoArg) -> Result<i32, KvmError> {
        ioctl::no_arg(self.as_fd(), request).map_err(KvmError::of(request.name(), Object::Vm))
    }

    fn value(&self, request: Value, value: u64) -> Result<i32, KvmError> {
        ioctl::value(self.as_fd(), request, value).map_err(KvmError::of(request.name(), Object::Vm))
    }

    fn read<T: KernelData>(&self, request: Read<T>) -> Result<T, KvmError> {
        ioctl::read(self.as_fd(), request).map_err(KvmError::of(request.name(), Object::Vm))
    }

    fn write<T: KernelData>(&self, request: Write<T>, data: &T, object: Object) -> Result<(), KvmError> {
        let done: Result<i32, Errno> = ioctl::write(self.as_fd(), request, data);
        done.map(drop).map_err(KvmError::of(request.name(), object))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn pic_id(primary: bool) -> u32 {
    if primary { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE }
}

fn ioeventfd(at: &IoEvent, event: BorrowedFd<'_>, mut flags: u32) -> kvm_ioeventfd {
    if at.port_io {
        flags |= 1 << kvm_ioeventfd_flag_nr_pio;
    }
    if at.datamatch.is_some() {
        flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
    }
    let (addr, len, fd) = (at.address, at.len, event.as_raw_fd());
    kvm_ioeventfd { addr, len, fd, flags, datamatch: at.datamatch.unwrap_or(0), ..Default::default() }
}
