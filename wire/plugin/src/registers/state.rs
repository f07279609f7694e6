//! Register files that plugins ask for seldom: extended state, local APIC, pending events, capabilities.

use kvm_bindings::{kvm_enable_cap, kvm_guest_debug, kvm_lapic_state, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use outboard_wire::kvm_abi::{self as abi, File};

use super::{Carries, Registers};
use crate::error::Error;
use crate::exit::Exit;

impl Registers {
    /// The extended control registers, XCR0 above all.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn xcrs(&mut self) -> Result<kvm_xcrs, Error> {
        Ok(self.get_file::<abi::Xcrs>(File::Xcrs)?.0)
    }

    /// Sets the extended control registers now.
    ///
    /// # Errors
    /// As [`Registers::regs`]; `EINVAL` for a value that the CPUID of this vCPU does not allow.
    pub fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<(), Error> {
        self.set_file(File::Xcrs, &abi::Xcrs(*xcrs))
    }

    /// The local APIC's page of registers.
    ///
    /// # Errors
    /// As [`Registers::regs`]; `EINVAL` where KVM has no local APICs.
    pub fn lapic(&mut self) -> Result<kvm_lapic_state, Error> {
        Ok(self.get_file::<abi::Lapic>(File::Lapic)?.0)
    }

    /// Sets the local APIC's page of registers now.
    ///
    /// # Errors
    /// As [`Registers::lapic`].
    pub fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<(), Error> {
        self.set_file(File::Lapic, &abi::Lapic(*lapic))
    }

    /// Exceptions, interrupts and NMIs that are pending or in service. General registers that were set in this stop are
    /// sent ahead, because to set them drops a pending exception.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn vcpu_events(&mut self) -> Result<kvm_vcpu_events, Error> {
        self.send_regs_ahead()?;
        Ok(self.get_file::<abi::VcpuEvents>(File::VcpuEvents)?.0)
    }

    /// Sets what [`Registers::vcpu_events`] gets, now. General registers that are set afterwards drop a pending exception
    /// again.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<(), Error> {
        self.send_regs_ahead()?;
        self.set_file(File::VcpuEvents, &abi::VcpuEvents(*events))
    }

    /// The processor's extended state as `XSAVE` writes it, in the standard form: 4096 bytes, which is all of it but AMX.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn xsave(&mut self) -> Result<kvm_xsave, Error> {
        let abi::Xsave(region) = self.get_file(File::Xsave)?;
        Ok(kvm_xsave { region, ..kvm_xsave::default() })
    }

    /// Sets what [`Registers::xsave`] gets, now.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<(), Error> {
        self.set_file(File::Xsave, &abi::Xsave(xsave.region))
    }

    /// Sets breakpoints and single steps, now: those give [`Exit::Debug`] to a plugin that asked for
    /// [`Exits::DEBUG`](crate::Exits::DEBUG), and end the VM of any other. All zero takes them away.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<(), Error> {
        self.set_file(File::GuestDebug, &abi::GuestDebug(*debug))
    }

    /// Why the vCPU stands still, if the event that waits for its answer is a [`RawEvent::Exit`](crate::RawEvent::Exit).
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Sets the result of a hypercall or the value of an MSR that the guest reads, for the resume.
    pub fn set_result(&mut self, result: u64) {
        if let (Carries::Result { fault }, 8) = (&mut self.carries, self.length) {
            *fault = false;
            self.buffer[..8].copy_from_slice(&result.to_le_bytes());
        }
    }

    /// Decides whether the guest's access to an MSR gives it a general protection fault, and whether an instruction that KVM
    /// cannot emulate ends the VM, for the resume. It does unless the exit is answered.
    pub fn set_fault(&mut self, refused: bool) {
        if let (
            Carries::Result { fault },
            Some(Exit::ReadMsr { .. } | Exit::WriteMsr { .. } | Exit::EmulationFailure { .. }),
        ) = (&mut self.carries, self.exit)
        {
            *fault = refused;
        }
    }

    /// Switches a capability of this vCPU on, now: `KVM_CAP_HYPERV_SYNIC` or `KVM_CAP_HYPERV_SYNIC2`.
    ///
    /// # Errors
    /// As [`Registers::regs`]; `EINVAL` for another capability, for flags or arguments that are not zero, and where KVM
    /// does not have it.
    pub fn enable_capability(&mut self, capability: u32, flags: u32, args: [u64; 4]) -> Result<(), Error> {
        let request = kvm_enable_cap { cap: capability, flags, args, ..kvm_enable_cap::default() };
        self.set_file(File::Capability, &abi::Capability(request))
    }
}
