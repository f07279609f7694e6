//! What KVM keeps of the machine, as it comes out of reset: taken before the guest runs, put back at each reset.

use outboard_plugin::kvm_bindings::{
    kvm_debugregs, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pic_state, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use outboard_plugin::{Connection, Error, Registers};

/// MSRs that a reset changes (Intel SDM volume 3, table 9-1), of those that KVM keeps: system calls, memory types, the
/// deadline timer and debugging. The time stamp counter runs on, by which the machine's clock goes.
const MSRS: [u32; 34] = [
    0x174,
    0x175,
    0x176, // SYSENTER
    0x1a0, // MISC_ENABLE
    0x1d9, // DEBUGCTL
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f, // MTRRs
    0x277, // PAT
    0x2ff, // MTRRs
    0x6e0, // TSC_DEADLINE
    0xda0, // XSS
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084, // SYSCALL
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103, // FS, GS, TSC_AUX
    0x48,        // SPEC_CTRL
];

/// The MSRs to keep, of those that KVM says it has.
pub fn msrs(known: &[u32]) -> Vec<u32> {
    MSRS.into_iter().filter(|msr| known.contains(msr)).collect()
}

/// All that a reset puts back.
pub struct Snapshot {
    regs: kvm_regs,
    sregs: kvm_sregs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

impl Snapshot {
    /// The state of a vCPU that has not run, with these MSRs as far as this one has them.
    ///
    /// # Errors
    /// What the VMM says.
    pub fn take(vcpu: &mut Registers, msrs: &[u32]) -> Result<Snapshot, Error> {
        let mut entries: Vec<_> =
            msrs.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        // KVM stops at the first MSR that this processor does not have: that one is left out.
        let mut read = 0;
        while read < entries.len() {
            read += vcpu.get_msrs(&mut entries[read..])?;
            if read < entries.len() {
                entries.remove(read);
            }
        }
        Ok(Snapshot {
            regs: vcpu.regs()?,
            sregs: vcpu.sregs()?,
            debug: vcpu.debugregs()?,
            events: vcpu.vcpu_events()?,
            xcrs: vcpu.xcrs()?,
            xsave: vcpu.xsave()?,
            lapic: vcpu.lapic()?,
            mp_state: vcpu.mp_state()?,
            msrs: entries,
        })
    }

    /// Puts the state back into the vCPU, which stands still.
    ///
    /// # Errors
    /// What the VMM says.
    pub fn put_back(&self, vcpu: &mut Registers) -> Result<(), Error> {
        // The local APIC lies where the base in the segment registers' file says, and its deadline wants its timer's mode.
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_regs(&self.regs)?;
        vcpu.set_debugregs(&self.debug)?;
        vcpu.set_xcrs(&self.xcrs)?;
        vcpu.set_xsave(&self.xsave)?;
        vcpu.set_lapic(&self.lapic)?;
        vcpu.set_msrs(&self.msrs)?;
        vcpu.set_vcpu_events(&self.events)?;
        vcpu.set_mp_state(&self.mp_state)
    }
}

/// The interrupt controllers and the timer that all vCPUs share, as they are after a reset.
pub struct Chips {
    pics: [kvm_pic_state; 2],
    ioapic: kvm_ioapic_state,
    timer: kvm_pit_state2,
}

impl Chips {
    /// Their state before a vCPU runs.
    ///
    /// # Errors
    /// What the VMM says.
    pub fn of(vm: &mut Connection) -> Result<Chips, Error> {
        Ok(Chips { pics: [vm.pic(true)?, vm.pic(false)?], ioapic: vm.ioapic()?, timer: vm.pit()? })
    }

    /// Puts their state back, while no vCPU runs.
    ///
    /// # Errors
    /// What the VMM says.
    pub fn put_back(&self, vm: &mut Connection) -> Result<(), Error> {
        for (pic, primary) in self.pics.iter().zip([true, false]) {
            vm.set_pic(primary, pic)?;
        }
        vm.set_ioapic(&self.ioapic)?;
        vm.set_pit(&self.timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msrs_that_kvm_does_not_have_are_left_out() {
        assert_eq!(msrs(&[0x10, 0x277, 0x174]), [0x174, 0x277]);
    }
}
