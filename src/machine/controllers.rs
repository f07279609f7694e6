//! The interrupt controllers and the timer that KVM emulates, made as late as possible.
//!
//! Making them registers their ports with KVM, and some kernels do that by starting a grace period that the next change of
//! a memory slot waits for: 5 to 6 ms, on Linux 6.18 with a tick of 4 ms, of the 7 that pass until a plugin's first event.
//! Plugins give memory first, so the devices are made when a request needs them, or at the start of the VM.

use crate::kvm::{KvmError, Vm};
use kvm_bindings::KVM_CAP_SPLIT_IRQCHIP;

/// Pins of the IOAPIC that a VM without one in KVM is said to have: as many as KVM's own has.
const SPLIT_PINS: u64 = 24;

/// Which interrupt controllers KVM emulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IrqChip {
    /// All: local APICs, IOAPIC and PICs, and the timer i8254 too.
    #[default]
    Kernel,
    /// The local APICs (`KVM_CAP_SPLIT_IRQCHIP`); the plugin has IOAPIC, PICs and timer.
    Split,
    /// None.
    None,
}

/// The controllers of one VM.
#[derive(Debug)]
pub(super) struct Controllers {
    which: IrqChip,
    /// How many of KVM's two devices there are: first the controllers, then the timer.
    made: u8,
}

impl Controllers {
    /// The controllers of a new VM. Only [`Controllers::make`] makes those of [`IrqChip::Kernel`].
    ///
    /// # Errors
    /// The KVM call that failed.
    pub(super) fn new(vm: &Vm, which: IrqChip) -> Result<Controllers, KvmError> {
        if which == IrqChip::Split {
            vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, 0, [SPLIT_PINS, 0, 0, 0])?;
        }
        Ok(Controllers { which, made: 0 })
    }

    /// Which they are.
    pub(super) fn which(&self) -> IrqChip {
        self.which
    }

    /// Makes what is not there yet. It has to be there before a vCPU, a route, an interrupt, and before anybody asks for
    /// its state.
    ///
    /// # Errors
    /// The KVM call that failed; a further call goes on where this one stopped.
    pub(super) fn make(&mut self, vm: &Vm) -> Result<(), KvmError> {
        if self.which != IrqChip::Kernel {
            return Ok(());
        }
        if self.made == 0 {
            vm.create_irqchip()?;
            self.made = 1;
        }
        if self.made == 1 {
            vm.create_pit2(0)?;
            self.made = 2;
        }
        Ok(())
    }
}
