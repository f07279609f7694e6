//! The state of a vCPU that stands still.

use core::ffi::c_int;

use outboard_plugin::Files;
use outboard_plugin::kvm_bindings::{
    kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};

use crate::call::call;
use crate::place::{CrosvmVcpu, with};
use crate::pointer;

/// Exports the pair of functions that gets and sets one struct. In the setter, the SDK's `set` may be any expression of
/// the registers and the value.
macro_rules! state {
    ($what:literal, $type:ty, $get:ident, $set:ident, |$registers:ident| $from:expr, |$target:ident, $value:ident| $to:expr) => {
        #[doc = concat!("Gets ", $what, ".")]
        ///
        /// # Safety
        /// `to` is null or valid for writes of the struct.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $get(vcpu: *mut CrosvmVcpu, to: *mut $type) -> c_int {
            call!($get, {
                // SAFETY: as the caller vouches.
                let to = unsafe { pointer::place(to)? };
                to.write(with(vcpu, |$registers| $from)?);
                Ok(())
            })
        }

        #[doc = concat!("Sets ", $what, ".")]
        ///
        /// # Safety
        /// `from` is null or valid for reads of the struct.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $set(vcpu: *mut CrosvmVcpu, from: *const $type) -> c_int {
            call!($set, {
                // SAFETY: as the caller vouches; the struct consists of numbers.
                let $value = &unsafe { pointer::read(from)? };
                with(vcpu, |$target| $to)
            })
        }
    };
}

// Segment and debug registers that travelled with the event travel back with the resume; else they are set at once, so
// that a refusal of KVM is seen.
state!(
    "the general registers",
    kvm_regs,
    crosvm_vcpu_get_regs,
    crosvm_vcpu_set_regs,
    |registers| registers.regs(),
    |registers, value| registers.set_regs(value)
);
state!(
    "the segment and control registers",
    kvm_sregs,
    crosvm_vcpu_get_sregs,
    crosvm_vcpu_set_sregs,
    |registers| registers.sregs(),
    |registers, value| {
        if registers.files().contains(Files::SREGS) {
            registers.set_sregs_on_resume(value)
        } else {
            registers.set_sregs(value)
        }
    }
);
state!(
    "the debug registers",
    kvm_debugregs,
    crosvm_vcpu_get_debugregs,
    crosvm_vcpu_set_debugregs,
    |registers| registers.debugregs(),
    |registers, value| {
        if registers.files().contains(Files::DEBUGREGS) {
            registers.set_debugregs_on_resume(value)
        } else {
            registers.set_debugregs(value)
        }
    }
);
state!(
    "the x87 and SSE state",
    kvm_fpu,
    crosvm_vcpu_get_fpu,
    crosvm_vcpu_set_fpu,
    |registers| registers.fpu(),
    |registers, value| registers.set_fpu(value)
);
state!(
    "whether the vCPU is runnable, halted or waits for a start",
    kvm_mp_state,
    crosvm_vcpu_get_mp_state,
    crosvm_vcpu_set_mp_state,
    |registers| registers.mp_state(),
    |registers, value| registers.set_mp_state(value)
);
state!(
    "the extended control registers",
    kvm_xcrs,
    crosvm_vcpu_get_xcrs,
    crosvm_vcpu_set_xcrs,
    |registers| registers.xcrs(),
    |registers, value| registers.set_xcrs(value)
);
state!(
    "the local APIC",
    kvm_lapic_state,
    crosvm_vcpu_get_lapic_state,
    crosvm_vcpu_set_lapic_state,
    |registers| registers.lapic(),
    |registers, value| registers.set_lapic(value)
);
state!(
    "exceptions and interrupts on their way",
    kvm_vcpu_events,
    crosvm_vcpu_get_vcpu_events,
    crosvm_vcpu_set_vcpu_events,
    |registers| registers.vcpu_events(),
    |registers, value| registers.set_vcpu_events(value)
);

/// Fills in `data` of each entry for its `index`, up to the first MSR that KVM does not know.
///
/// # Safety
/// `entries` is null or valid for reads and writes of `count` entries; `out_count` is null or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_vcpu_get_msrs(
    vcpu: *mut CrosvmVcpu,
    count: u32,
    entries: *mut kvm_msr_entry,
    out_count: *mut u32,
) -> c_int {
    call!(crosvm_vcpu_get_msrs, {
        // SAFETY: as the caller vouches; an entry consists of numbers.
        let (entries, out_count) = unsafe { (pointer::list_mut(entries, count)?, pointer::place(out_count)?) };
        let read = with(vcpu, |registers| registers.get_msrs(entries))?;
        // Not more than `count`.
        out_count.write(read as u32);
        Ok(())
    })
}

/// Sets MSRs in order; `-EINVAL` if KVM did not take all of them.
///
/// # Safety
/// `entries` is null or valid for reads of `count` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_vcpu_set_msrs(
    vcpu: *mut CrosvmVcpu,
    count: u32,
    entries: *const kvm_msr_entry,
) -> c_int {
    call!(crosvm_vcpu_set_msrs, {
        // SAFETY: as the caller vouches; an entry consists of numbers.
        let entries = unsafe { pointer::list(entries, count)? };
        with(vcpu, |registers| registers.set_msrs(entries))
    })
}

/// Sets what CPUID tells the guest.
///
/// # Safety
/// `entries` is null or valid for reads of `count` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_vcpu_set_cpuid(
    vcpu: *mut CrosvmVcpu,
    count: u32,
    entries: *const kvm_cpuid_entry2,
) -> c_int {
    call!(crosvm_vcpu_set_cpuid, {
        // SAFETY: as the caller vouches; an entry consists of numbers.
        let entries = unsafe { pointer::list(entries, count)? };
        with(vcpu, |registers| registers.set_cpuid(entries))
    })
}

/// Enables a capability of the vCPU.
///
/// # Safety
/// `args` is null or valid for reads of four numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_vcpu_enable_capability(
    vcpu: *mut CrosvmVcpu,
    capability: u32,
    flags: u32,
    args: *const [u64; 4],
) -> c_int {
    call!(crosvm_vcpu_enable_capability, {
        // SAFETY: as the caller vouches; any bytes are numbers.
        let args = unsafe { pointer::read(args)? };
        with(vcpu, |registers| registers.enable_capability(capability, flags, args))
    })
}
