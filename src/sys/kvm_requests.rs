//! The KVM requests this crate makes, as linux/kvm.h numbers them. What each does is described in the
//! kernel's Documentation/virt/kvm/api.rst under its name.
//!
//! A test compares every number with the C header.

#![allow(unsafe_code)]

use kvm_bindings::*;

use super::ioctl::{NewFd, NoArg, Pointing, Read, ReadWrite, Table, Value, Write};
use super::ioctl::{io, ior, iow, iowr};

/// The type of every KVM request: `KVMIO` of linux/kvm.h. No other driver has these numbers, see the
/// kernel's ioctl-number.rst; nitro_enclaves shares the type, and none of the numbers below.
const KVMIO: u8 = 0xae;

/// Declares requests, and lists their numbers in [`NUMBERS`].
macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $number:expr;)*) => {
        $(
            $(#[$doc])*
            // SAFETY: linux/kvm.h and api.rst give the request this number, this kind and this argument;
            // the size is part of the number, and the number is compared with the header by a test.
            pub const $name: $kind = unsafe { <$kind>::new($number, stringify!($name)) };
        )*

        /// Name and number of every request declared here.
        pub const NUMBERS: &[(&str, u64)] = &[$((stringify!($name), $name.number()),)*];
    };
}

// On /dev/kvm.
requests! {
    /// The version of the interface, 12 since Linux 2.6.22.
    KVM_GET_API_VERSION: NoArg = io(KVMIO, 0x00);
    /// Creates a VM of the type given, 0 on x86.
    KVM_CREATE_VM: NewFd = io(KVMIO, 0x01);
    /// The MSRs that a guest can have; `E2BIG` leaves their number in the table.
    KVM_GET_MSR_INDEX_LIST: Table<kvm_msr_list, u32> = iowr::<kvm_msr_list>(KVMIO, 0x02);
    /// What a capability number gives: 0 for no, and what else depends on it. Also on a VM.
    KVM_CHECK_EXTENSION: Value = io(KVMIO, 0x03);
    /// The size in bytes of what is mapped from a vCPU.
    KVM_GET_VCPU_MMAP_SIZE: NoArg = io(KVMIO, 0x04);
    /// The CPUID leaves that hardware and KVM support.
    KVM_GET_SUPPORTED_CPUID: Table<kvm_cpuid2, kvm_cpuid_entry2> = iowr::<kvm_cpuid2>(KVMIO, 0x05);
    /// The CPUID leaves that KVM emulates.
    KVM_GET_EMULATED_CPUID: Table<kvm_cpuid2, kvm_cpuid_entry2> = iowr::<kvm_cpuid2>(KVMIO, 0x09);
    /// The MSRs that describe features of the host.
    KVM_GET_MSR_FEATURE_INDEX_LIST: Table<kvm_msr_list, u32> = iowr::<kvm_msr_list>(KVMIO, 0x0a);

    // On a VM.

    /// Adds the vCPU of the number given.
    KVM_CREATE_VCPU: NewFd = io(KVMIO, 0x41);
    /// Copies the bitmap of dirty pages of a slot to an address.
    KVM_GET_DIRTY_LOG: Pointing<kvm_dirty_log> = iow::<kvm_dirty_log>(KVMIO, 0x42);
    /// Maps memory of this process at an address into the guest.
    KVM_SET_USER_MEMORY_REGION: Pointing<kvm_userspace_memory_region> =
        iow::<kvm_userspace_memory_region>(KVMIO, 0x46);
    /// Where KVM may put three pages that Intel's real mode needs.
    KVM_SET_TSS_ADDR: Value = io(KVMIO, 0x47);
    /// Where KVM may put one page that Intel's real mode needs.
    KVM_SET_IDENTITY_MAP_ADDR: Write<u64> = iow::<u64>(KVMIO, 0x48);
    /// Creates PIC, IOAPIC and, for the vCPUs to come, local APICs.
    KVM_CREATE_IRQCHIP: NoArg = io(KVMIO, 0x60);
    /// Sets the level of a GSI.
    KVM_IRQ_LINE: Write<kvm_irq_level> = iow::<kvm_irq_level>(KVMIO, 0x61);
    /// Reads the state of one interrupt controller; the number of which is an input.
    KVM_GET_IRQCHIP: ReadWrite<kvm_irqchip> = iowr::<kvm_irqchip>(KVMIO, 0x62);
    /// Writes the state of one interrupt controller. The number says "read", and the kernel writes nothing.
    KVM_SET_IRQCHIP: Write<kvm_irqchip> = ior::<kvm_irqchip>(KVMIO, 0x63);
    /// Replaces the table of GSIs.
    KVM_SET_GSI_ROUTING: Table<kvm_irq_routing, kvm_irq_routing_entry> = iow::<kvm_irq_routing>(KVMIO, 0x6a);
    /// Ties a GSI to an eventfd.
    KVM_IRQFD: Write<kvm_irqfd> = iow::<kvm_irqfd>(KVMIO, 0x76);
    /// Creates the i8254 timer.
    KVM_CREATE_PIT2: Write<kvm_pit_config> = iow::<kvm_pit_config>(KVMIO, 0x77);
    /// Ties guest writes at an address to an eventfd.
    KVM_IOEVENTFD: Write<kvm_ioeventfd> = iow::<kvm_ioeventfd>(KVMIO, 0x79);
    /// Writes the paravirtual clock, in nanoseconds.
    KVM_SET_CLOCK: Write<kvm_clock_data> = iow::<kvm_clock_data>(KVMIO, 0x7b);
    /// Reads the paravirtual clock, in nanoseconds.
    KVM_GET_CLOCK: Read<kvm_clock_data> = ior::<kvm_clock_data>(KVMIO, 0x7c);
    /// Reads the state of the i8254 timer.
    KVM_GET_PIT2: Read<kvm_pit_state2> = ior::<kvm_pit_state2>(KVMIO, 0x9f);
    /// Writes the state of the i8254 timer.
    KVM_SET_PIT2: Write<kvm_pit_state2> = iow::<kvm_pit_state2>(KVMIO, 0xa0);
    /// Switches a capability on, for a VM or a vCPU. The arguments of some are addresses.
    KVM_ENABLE_CAP: Pointing<kvm_enable_cap> = iow::<kvm_enable_cap>(KVMIO, 0xa3);
    /// Delivers a message-signalled interrupt.
    KVM_SIGNAL_MSI: Write<kvm_msi> = iow::<kvm_msi>(KVMIO, 0xa5);
    /// Which MSRs a guest cannot access by itself.
    KVM_X86_SET_MSR_FILTER: Pointing<kvm_msr_filter> = iow::<kvm_msr_filter>(KVMIO, 0xc6);

    // On a vCPU.

    /// Runs the guest.
    KVM_RUN: NoArg = io(KVMIO, 0x80);
    /// Reads the general registers.
    KVM_GET_REGS: Read<kvm_regs> = ior::<kvm_regs>(KVMIO, 0x81);
    /// Writes the general registers.
    KVM_SET_REGS: Write<kvm_regs> = iow::<kvm_regs>(KVMIO, 0x82);
    /// Reads segments, control registers, EFER and the APIC base.
    KVM_GET_SREGS: Read<kvm_sregs> = ior::<kvm_sregs>(KVMIO, 0x83);
    /// Writes segments, control registers, EFER and the APIC base.
    KVM_SET_SREGS: Write<kvm_sregs> = iow::<kvm_sregs>(KVMIO, 0x84);
    /// Translates a linear address.
    KVM_TRANSLATE: ReadWrite<kvm_translation> = iowr::<kvm_translation>(KVMIO, 0x85);
    /// Queues an external interrupt; only without interrupt controllers in the kernel.
    KVM_INTERRUPT: Write<kvm_interrupt> = iow::<kvm_interrupt>(KVMIO, 0x86);
    /// Reads the MSRs that the table names; the result is how many it got through.
    KVM_GET_MSRS: Table<kvm_msrs, kvm_msr_entry> = iowr::<kvm_msrs>(KVMIO, 0x88);
    /// Writes the MSRs that the table names; the result is how many it got through.
    KVM_SET_MSRS: Table<kvm_msrs, kvm_msr_entry> = iow::<kvm_msrs>(KVMIO, 0x89);
    /// Reads the x87 and SSE registers.
    KVM_GET_FPU: Read<kvm_fpu> = ior::<kvm_fpu>(KVMIO, 0x8c);
    /// Writes the x87 and SSE registers.
    KVM_SET_FPU: Write<kvm_fpu> = iow::<kvm_fpu>(KVMIO, 0x8d);
    /// Reads the page of local APIC registers.
    KVM_GET_LAPIC: Read<kvm_lapic_state> = ior::<kvm_lapic_state>(KVMIO, 0x8e);
    /// Writes the page of local APIC registers.
    KVM_SET_LAPIC: Write<kvm_lapic_state> = iow::<kvm_lapic_state>(KVMIO, 0x8f);
    /// Writes what CPUID gives.
    KVM_SET_CPUID2: Table<kvm_cpuid2, kvm_cpuid_entry2> = iow::<kvm_cpuid2>(KVMIO, 0x90);
    /// Reads what CPUID gives; `E2BIG` leaves the number of entries in the table.
    KVM_GET_CPUID2: Table<kvm_cpuid2, kvm_cpuid_entry2> = iowr::<kvm_cpuid2>(KVMIO, 0x91);
    /// Reads whether the vCPU runs, is halted or waits for its start.
    KVM_GET_MP_STATE: Read<kvm_mp_state> = ior::<kvm_mp_state>(KVMIO, 0x98);
    /// Writes whether the vCPU runs, is halted or waits for its start.
    KVM_SET_MP_STATE: Write<kvm_mp_state> = iow::<kvm_mp_state>(KVMIO, 0x99);
    /// Single steps and breakpoints.
    KVM_SET_GUEST_DEBUG: Write<kvm_guest_debug> = iow::<kvm_guest_debug>(KVMIO, 0x9b);
    /// Reads exceptions, interrupts and NMIs that are pending or in service.
    KVM_GET_VCPU_EVENTS: Read<kvm_vcpu_events> = ior::<kvm_vcpu_events>(KVMIO, 0x9f);
    /// Writes exceptions, interrupts and NMIs that are pending or in service.
    KVM_SET_VCPU_EVENTS: Write<kvm_vcpu_events> = iow::<kvm_vcpu_events>(KVMIO, 0xa0);
    /// Reads DR0-DR3, DR6 and DR7.
    KVM_GET_DEBUGREGS: Read<kvm_debugregs> = ior::<kvm_debugregs>(KVMIO, 0xa1);
    /// Writes DR0-DR3, DR6 and DR7.
    KVM_SET_DEBUGREGS: Write<kvm_debugregs> = iow::<kvm_debugregs>(KVMIO, 0xa2);
    /// Sets the guest's TSC frequency in kHz.
    KVM_SET_TSC_KHZ: Value = io(KVMIO, 0xa2);
    /// The guest's TSC frequency in kHz, as the result.
    KVM_GET_TSC_KHZ: NoArg = io(KVMIO, 0xa3);
    /// Reads the first 4096 bytes of the XSAVE area, which is all of it without AMX.
    KVM_GET_XSAVE: Read<kvm_xsave> = ior::<kvm_xsave>(KVMIO, 0xa4);
    /// Writes the XSAVE area. KVM would read more than 4096 bytes if the process had asked for AMX in
    /// guests by `ARCH_REQ_XCOMP_GUEST_PERM`, which this crate does not.
    KVM_SET_XSAVE: Write<kvm_xsave> = iow::<kvm_xsave>(KVMIO, 0xa5);
    /// Reads XCR0.
    KVM_GET_XCRS: Read<kvm_xcrs> = ior::<kvm_xcrs>(KVMIO, 0xa6);
    /// Writes XCR0.
    KVM_SET_XCRS: Write<kvm_xcrs> = iow::<kvm_xcrs>(KVMIO, 0xa7);
    /// The CPUID leaves of the Hyper-V interface. Also on /dev/kvm since Linux 5.11.
    KVM_GET_SUPPORTED_HV_CPUID: Table<kvm_cpuid2, kvm_cpuid_entry2> = iowr::<kvm_cpuid2>(KVMIO, 0xc1);
}
