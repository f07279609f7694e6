//! Compares what this crate and kvm-bindings say about KVM's interface with what the C compiler makes of
//! `<linux/kvm.h>`: request numbers, sizes of structures, exit reasons.
//!
//! What the installed header does not have yet is skipped, counted and printed.

#[path = "common/in_c.rs"]
mod in_c;

use std::mem::{offset_of, size_of};

use in_c::{Check, compare};
use kvm_bindings::*;
use outboard::kvm::exit;
use outboard::sys::kvm_requests;

macro_rules! sizes {
    ($($structure:ident)*) => {[$(Check {
        expression: concat!("sizeof(struct ", stringify!($structure), ")").into(),
        expected: size_of::<$structure>() as u64,
        needs: None,
    },)*]};
}

macro_rules! offsets {
    ($($rust:expr, $c:literal;)*) => {[$(Check {
        expression: concat!("offsetof(struct ", $c, ")").into(),
        expected: $rust as u64,
        needs: None,
    },)*]};
}

fn checks() -> Vec<Check> {
    let mut checks: Vec<Check> = kvm_requests::NUMBERS.iter().map(Check::constant).collect();
    checks.extend(exit::REASONS.iter().map(|&(number, name)| Check::constant(&(name, number.into()))));
    checks.extend(CONSTANTS.iter().map(Check::constant));
    checks.extend(sizes! {
        kvm_clock_data kvm_cpuid2 kvm_cpuid_entry2 kvm_debug_exit_arch kvm_debugregs kvm_dirty_log kvm_enable_cap
        kvm_fpu kvm_guest_debug kvm_hyperv_exit kvm_interrupt kvm_ioapic_state kvm_ioeventfd kvm_irq_level
        kvm_irq_routing kvm_irq_routing_entry kvm_irqchip kvm_irqfd kvm_lapic_state kvm_mp_state kvm_msi
        kvm_msr_entry kvm_msr_list kvm_msrs kvm_pic_state kvm_pit_config kvm_pit_state2 kvm_regs kvm_run kvm_sregs
        kvm_sync_regs kvm_translation kvm_userspace_memory_region kvm_vcpu_events kvm_xcrs kvm_xen_exit kvm_xsave
    });
    checks.extend(offsets! {
        offset_of!(kvm_run, immediate_exit), "kvm_run, immediate_exit";
        offset_of!(kvm_run, exit_reason), "kvm_run, exit_reason";
        offset_of!(kvm_run, flags), "kvm_run, flags";
        offset_of!(kvm_run, cr8), "kvm_run, cr8";
        offset_of!(kvm_run, apic_base), "kvm_run, apic_base";
        offset_of!(kvm_run, __bindgen_anon_1), "kvm_run, hw";
        offset_of!(kvm_run, kvm_valid_regs), "kvm_run, kvm_valid_regs";
        offset_of!(kvm_run, kvm_dirty_regs), "kvm_run, kvm_dirty_regs";
        offset_of!(kvm_run, s), "kvm_run, s";
        offset_of!(kvm_run, __bindgen_anon_1) + exit::PAYLOAD_WORDS * 8, "kvm_run, kvm_valid_regs";
        offset_of!(kvm_sync_regs, sregs), "kvm_sync_regs, sregs";
        offset_of!(kvm_sync_regs, events), "kvm_sync_regs, events";
        offset_of!(kvm_hyperv_exit, u), "kvm_hyperv_exit, u";
        offset_of!(kvm_xen_exit, u), "kvm_xen_exit, u";
    });
    checks
}

macro_rules! constants {
    ($($name:ident)*) => {&[$((stringify!($name), $name as u64),)*]};
}

/// Constants of kvm-bindings that the handles or the decoder use.
const CONSTANTS: &[(&str, u64)] = constants! {
    KVM_API_VERSION KVM_CAP_SYNC_REGS KVM_CAP_HYPERV_ENLIGHTENED_VMCS KVM_SYNC_X86_REGS KVM_SYNC_X86_SREGS
    KVM_SYNC_X86_EVENTS KVM_EXIT_IO_IN KVM_EXIT_IO_OUT KVM_EXIT_HYPERV_SYNIC KVM_EXIT_HYPERV_HCALL
    KVM_EXIT_HYPERV_SYNDBG KVM_INTERNAL_ERROR_EMULATION KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    KVM_IRQCHIP_PIC_MASTER KVM_IRQCHIP_PIC_SLAVE KVM_IRQCHIP_IOAPIC KVM_IRQFD_FLAG_DEASSIGN
    KVM_IRQFD_FLAG_RESAMPLE KVM_MEM_LOG_DIRTY_PAGES KVM_MEM_READONLY KVM_PIT_SPEAKER_DUMMY
};

#[test]
fn matches_the_c_header() {
    let skipped = compare(&["linux/kvm.h", "stddef.h"], &checks());
    // A header old enough to lack more than this is not worth comparing with.
    assert!(skipped < 8, "{skipped} were skipped");
}
