//! One vCPU: running it, and reading and writing its registers.

use std::os::fd::{AsFd, BorrowedFd};

use kvm_bindings::*;

use super::error::{KvmError, Object};
use super::run::RunPage;
use crate::sys::Errno;
use crate::sys::descriptors;
use crate::sys::ioctl::{self, KernelData, NoArg, Read, Table, TableBuf, Write};
use crate::sys::kvm_requests::*;
use crate::sys::kvm_vm_fd::{Held, VcpuFd};

/// A vCPU. Its calls belong on one thread at a time: KVM lets others wait until [`run`](Self::run)
/// returns.
///
/// The descriptor is not handed out, so that nobody runs the vCPU, and with it changes the run page, while
/// that page is borrowed.
pub struct Vcpu {
    fd: VcpuFd,
    id: u32,
    page: RunPage,
}

impl Vcpu {
    /// Maps the run page of a vCPU; `mmap_size` is the size in bytes that the KVM device gives for it.
    pub(super) fn new(fd: VcpuFd, id: u32, mmap_size: usize) -> Result<Self, Errno> {
        let page = RunPage::map(fd.as_fd(), mmap_size)?;
        Ok(Self { fd, id, page })
    }

    /// The number the vCPU was created with.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Gives the calling thread a table of descriptors of its own with this vCPU's and `others` in it and nothing else.
    ///
    /// The thread that runs the guest needs no more, so whoever took it over would get hold of no more. And requests on
    /// descriptors of a table that no other thread shares need not count their users, which saves 30 to 45 ns at each
    /// `KVM_RUN` (measured, see README). The vCPU must be held ([`hold`](Self::hold)) by a thread with the old table.
    ///
    /// # Errors
    /// Those of [`descriptors::keep_only`].
    pub fn keep_only(&self, others: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        descriptors::keep_only(&[&[self.as_fd()], others].concat())
    }

    /// Keeps the vCPU's descriptor open as long as the result lives.
    pub fn hold(&self) -> Held {
        self.fd.hold()
    }

    /// Runs the guest until it exits; [`RunPage::exit`] then says why. Neither allocates nor formats.
    ///
    /// # Errors
    /// `EINTR` if a signal was pending or `immediate_exit` set; what the page says then is from before.
    /// `EAGAIN` if the vCPU waited to be started and was woken: run it again. `EFAULT` if the guest
    /// reached memory that cannot be mapped, see [`Exit::MemoryFault`](super::Exit::MemoryFault). Anything
    /// else is a broken vCPU.
    #[inline]
    pub fn run(&mut self) -> Result<(), Errno> {
        ioctl::no_arg(self.fd.as_fd(), KVM_RUN).map(drop)
    }

    /// The run page, to read.
    #[inline]
    pub fn page(&self) -> &RunPage {
        &self.page
    }

    /// The run page, to answer an exit with.
    #[inline]
    pub fn page_mut(&mut self) -> &mut RunPage {
        &mut self.page
    }

    /// Switches a capability of the vCPU on.
    ///
    /// # Errors
    /// `EINVAL` for one that cannot be switched on, or not with these arguments.
    pub fn enable_cap(&self, cap: u32, flags: u32, args: [u64; 4]) -> Result<(), KvmError> {
        self.fd.enable_cap(cap, flags, args).map_err(self.of(KVM_ENABLE_CAP.name()))
    }

    /// What CPUID gives to the guest.
    ///
    /// # Errors
    /// Those of the request.
    pub fn cpuid2(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_CPUID2).map_err(self.of(KVM_GET_CPUID2.name()))
    }

    /// Sets what CPUID gives to the guest. Before the vCPU first runs.
    ///
    /// # Errors
    /// `E2BIG` for more than 256 entries, `EINVAL` for a change after the vCPU has run.
    pub fn set_cpuid2(&self, entries: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
        self.table(KVM_SET_CPUID2, &mut TableBuf::from_entries(entries)).map(drop)
    }

    /// The CPUID leaves with which a guest can be offered the Hyper-V interface.
    ///
    /// # Errors
    /// `EINVAL` or `ENOTTY` where KVM has none.
    pub fn supported_hv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        ioctl::read_table(self.as_fd(), KVM_GET_SUPPORTED_HV_CPUID).map_err(self.of(KVM_GET_SUPPORTED_HV_CPUID.name()))
    }

    /// Reads the MSRs that the entries name, in order, up to the first that KVM refuses. Returns how many
    /// were read.
    ///
    /// # Errors
    /// `E2BIG` for more than KVM takes at once, which is at least 256.
    pub fn msrs(&self, entries: &mut [kvm_msr_entry]) -> Result<usize, KvmError> {
        let mut table = TableBuf::from_entries(entries);
        let count = self.table(KVM_GET_MSRS, &mut table)?.min(entries.len());
        entries[..count].copy_from_slice(&table.entries()[..count]);
        Ok(count)
    }

    /// Writes MSRs, in order, up to the first that KVM refuses. Returns how many were written.
    ///
    /// # Errors
    /// `E2BIG` for more than KVM takes at once, which is at least 256.
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<usize, KvmError> {
        self.table(KVM_SET_MSRS, &mut TableBuf::from_entries(entries))
    }

    /// The guest's TSC frequency in kHz.
    ///
    /// # Errors
    /// `EIO` where it is not known.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.no_arg(KVM_GET_TSC_KHZ).map(|khz| khz as u32)
    }

    /// Sets the guest's TSC frequency.
    ///
    /// # Errors
    /// `EINVAL` if neither the hardware scales the TSC nor the frequency is the host's.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), KvmError> {
        let done = ioctl::value(self.as_fd(), KVM_SET_TSC_KHZ, khz.into());
        done.map(drop).map_err(self.of(KVM_SET_TSC_KHZ.name()))
    }

    /// Queues an external interrupt, where there are no interrupt controllers in the kernel.
    ///
    /// # Errors
    /// `ENXIO` if there are, `EEXIST` if one is queued already, `EINVAL` for a vector beyond 255.
    pub fn interrupt(&self, vector: u32) -> Result<(), KvmError> {
        self.write(KVM_INTERRUPT, &kvm_interrupt { irq: vector })
    }

    /// Sets breakpoints and single steps, which give [`Exit::Debug`](super::Exit::Debug).
    ///
    /// # Errors
    /// `EBUSY` to inject an exception while one is pending.
    pub fn set_guest_debug(&self, debug: &kvm_guest_debug) -> Result<(), KvmError> {
        self.write(KVM_SET_GUEST_DEBUG, debug)
    }

    /// Translates a linear address with the vCPU's page tables.
    ///
    /// # Errors
    /// None for an address that is not mapped: that is `valid` = 0 in the answer.
    pub fn translate(&self, linear_address: u64) -> Result<kvm_translation, KvmError> {
        let mut translation = kvm_translation { linear_address, ..Default::default() };
        let done = ioctl::update(self.as_fd(), KVM_TRANSLATE, &mut translation);
        done.map(|_| translation).map_err(self.of(KVM_TRANSLATE.name()))
    }

    fn no_arg(&self, request: NoArg) -> Result<i32, KvmError> {
        ioctl::no_arg(self.as_fd(), request).map_err(self.of(request.name()))
    }

    fn read<T: KernelData>(&self, request: Read<T>) -> Result<T, KvmError> {
        ioctl::read(self.as_fd(), request).map_err(self.of(request.name()))
    }

    fn write<T: KernelData>(&self, request: Write<T>, data: &T) -> Result<(), KvmError> {
        ioctl::write(self.as_fd(), request, data).map(drop).map_err(self.of(request.name()))
    }

    fn table<H, E: KernelData>(&self, request: Table<H, E>, table: &mut TableBuf<H, E>) -> Result<usize, KvmError> {
        let count = ioctl::table(self.as_fd(), request, table);
        count.map(|count| count as usize).map_err(self.of(request.name()))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn of(&self, call: &'static str) -> impl FnOnce(Errno) -> KvmError {
        KvmError::of(call, Object::Vcpu(self.id))
    }
}

/// Gives [`Vcpu`] a reader and a writer for each part of its state.
macro_rules! state {
    ($($what:literal, $get:ident, $set:ident: $state:ty, $read:ident, $write:ident;)*) => {
        impl Vcpu {$(
            #[doc = concat!("Reads ", $what, " with `", stringify!($read), "`.")]
            ///
            /// # Errors
            /// Those of the request.
            pub fn $get(&self) -> Result<$state, KvmError> {
                self.read($read)
            }

            #[doc = concat!("Writes ", $what, " with `", stringify!($write), "`.")]
            ///
            /// # Errors
            /// `EINVAL` for a state that no processor can be in; others of the request.
            pub fn $set(&self, state: &$state) -> Result<(), KvmError> {
                self.write($write, state)
            }
        )*}
    };
}

state! {
    "the general registers", regs, set_regs: kvm_regs, KVM_GET_REGS, KVM_SET_REGS;
    "segments and control registers", sregs, set_sregs: kvm_sregs, KVM_GET_SREGS, KVM_SET_SREGS;
    "the debug registers", debugregs, set_debugregs: kvm_debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS;
    "the x87 and SSE registers", fpu, set_fpu: kvm_fpu, KVM_GET_FPU, KVM_SET_FPU;
    "XCR0", xcrs, set_xcrs: kvm_xcrs, KVM_GET_XCRS, KVM_SET_XCRS;
    "the first 4096 bytes of the XSAVE area", xsave, set_xsave: kvm_xsave, KVM_GET_XSAVE, KVM_SET_XSAVE;
    "the local APIC's registers", lapic, set_lapic: kvm_lapic_state, KVM_GET_LAPIC, KVM_SET_LAPIC;
    "whether the vCPU runs or waits", mp_state, set_mp_state: kvm_mp_state, KVM_GET_MP_STATE, KVM_SET_MP_STATE;
    "pending events", vcpu_events, set_vcpu_events: kvm_vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS;
}
