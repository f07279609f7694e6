//! Which of KVM's structures are plain data, and safe access to those whose unions are in the way.

#![allow(unsafe_code)]

use kvm_bindings::*;

use super::ioctl::KernelData;

/// Declares structures of the kernel whose fields are integers, or arrays, structures and unions of them.
macro_rules! kernel_data {
    ($($structure:ty,)*) => {$(
        // SAFETY: integers all the way down, none of them an address: see the structure in linux/kvm.h.
        unsafe impl KernelData for $structure {}
    )*};
}

kernel_data! {
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_guest_debug, kvm_interrupt, kvm_ioeventfd,
    kvm_irq_level, kvm_irq_routing_entry, kvm_irqchip, kvm_irqfd, kvm_lapic_state, kvm_mp_state, kvm_msi,
    kvm_msr_entry, kvm_pit_config, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_translation, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
}

/// The state of an i8259, from an `irqchip` read for `KVM_IRQCHIP_PIC_MASTER` or `KVM_IRQCHIP_PIC_SLAVE`.
pub fn pic_state(irqchip: &kvm_irqchip) -> kvm_pic_state {
    // SAFETY: every member of the union is integers, so any of them is valid whichever was written.
    unsafe { irqchip.chip.pic }
}

/// The state of the IOAPIC, from an `irqchip` read for `KVM_IRQCHIP_IOAPIC`.
pub fn ioapic_state(irqchip: &kvm_irqchip) -> kvm_ioapic_state {
    // SAFETY: as in `pic_state`.
    unsafe { irqchip.chip.ioapic }
}
