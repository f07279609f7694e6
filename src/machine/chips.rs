//! KVM's own devices as the plugin sees them: their state as bytes, and what has to be chosen before there are vCPUs.

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_TSC_STABLE};

use super::Machine;
use crate::kvm::{KvmError, Vm};
use crate::sys::errno::Errno;
use outboard_wire::control::{
    CHIP_CLOCK, CHIP_IOAPIC, CHIP_PIC_PRIMARY, CHIP_PIC_SECONDARY, CHIP_PIT, CHIP_STATE, ChipState, SetChip,
};
use outboard_wire::kvm_abi::{Clock, Ioapic, Pic, Pit};

/// Flags of the clock that KVM reports and refuses to be told.
const CLOCK_REPORTED: u32 = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_HOST_TSC;

impl Machine {
    /// The state of one of KVM's devices; see [`outboard_wire::control::GetChip`].
    ///
    /// # Errors
    /// As listed there.
    pub fn chip(&mut self, chip: u32) -> Result<ChipState, Errno> {
        let vm = self.vm_with(chip)?;
        let state = match chip {
            CHIP_PIC_PRIMARY | CHIP_PIC_SECONDARY => vm.pic(chip == CHIP_PIC_PRIMARY).map(|pic| state_of(&Pic(pic))),
            CHIP_IOAPIC => vm.ioapic().map(|ioapic| state_of(&Ioapic(ioapic))),
            CHIP_PIT => vm.pit2().map(|pit| state_of(&Pit(pit))),
            CHIP_CLOCK => vm.clock().map(|clock| state_of(&Clock(clock))),
            _ => return Err(Errno::EINVAL),
        };
        state.map_err(errno)
    }

    /// Sets the state of one of KVM's devices; see [`SetChip`].
    ///
    /// # Errors
    /// As listed there.
    pub fn set_chip(&mut self, request: &SetChip) -> Result<(), Errno> {
        let SetChip { chip, reserved: 0, state } = request else { return Err(Errno::EINVAL) };
        let vm = self.vm_with(*chip)?;
        match *chip {
            CHIP_PIC_PRIMARY | CHIP_PIC_SECONDARY => vm.set_pic(*chip == CHIP_PIC_PRIMARY, &from_state::<Pic>(state).0),
            CHIP_IOAPIC => vm.set_ioapic(&from_state::<Ioapic>(state).0),
            CHIP_PIT => vm.set_pit2(&from_state::<Pit>(state).0),
            CHIP_CLOCK => {
                let Clock(mut clock) = from_state(state);
                clock.flags &= !CLOCK_REPORTED;
                vm.set_clock(&clock)
            }
            _ => return Err(Errno::EINVAL),
        }
        .map_err(errno)
    }

    /// The VM, with this device made.
    fn vm_with(&mut self, chip: u32) -> Result<&Vm, Errno> {
        if chip == CHIP_CLOCK { Ok(&self.vm) } else { self.vm_with_controllers() }
    }

    /// Moves the page of `KVM_SET_IDENTITY_MAP_ADDR`.
    ///
    /// # Errors
    /// `EINVAL` once there are vCPUs.
    pub fn set_identity_map(&self, address: u64) -> Result<(), Errno> {
        self.vm.set_identity_map_addr(address).map_err(errno)
    }

    /// The TSC frequency in kHz that vCPUs start with.
    ///
    /// # Errors
    /// What KVM says.
    pub fn tsc_khz(&self) -> Result<u32, Errno> {
        self.vm.tsc_khz().map_err(errno)
    }

    /// Sets the TSC frequency in kHz that vCPUs start with.
    ///
    /// # Errors
    /// `EINVAL` once there are vCPUs, and from 2^31 kHz on: a KVM that does not scale the TSC takes that, and
    /// `KVM_GET_TSC_KHZ`, whose result is an `int`, could only give it back as what looks like an error. And what KVM says.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), Errno> {
        i32::try_from(khz).map_err(|_| Errno::EINVAL)?;
        self.vm.set_tsc_khz(khz).map_err(errno)
    }
}

fn state_of<T: Pod>(value: &T) -> ChipState {
    const { assert!(size_of::<T>() <= CHIP_STATE) };
    let mut state = [0; CHIP_STATE];
    state[..size_of::<T>()].copy_from_slice(bytes_of(value));
    ChipState { state }
}

fn from_state<T: Pod>(state: &[u8; CHIP_STATE]) -> T {
    const { assert!(size_of::<T>() <= CHIP_STATE) };
    pod_read_unaligned(&state[..size_of::<T>()])
}

fn errno(error: KvmError) -> Errno {
    error.errno
}
