//! The machine as the control thread sees it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::controllers::{Controllers, IrqChip};
use super::memory::Memory;
use super::ranges::{RangeKind, Space};
use super::rules::{Hint, HintDetail, Rules, RulesCell};
use super::wiring::Wiring;
use super::written::WrittenMemory;
use crate::kvm::{KvmError, System, Vcpu, Vm};
use crate::sys::errno::Errno;
use outboard_wire::control::{
    CreateIoEvent, CreateIrqEvent, CreateMemory, IrqLine, RANGE_POSTED, RANGE_POSTED_WRITES, RANGE_SYNCHRONOUS,
    ReserveRange, SPACE_MMIO, SPACE_PORT, SetHint, SetUnclaimed,
};
use outboard_wire::limits::MAX_HINT_DETAILS;
use outboard_wire::line::{FILE_DEBUGREGS, FILE_SREGS};
use outboard_wire::stats::cell::FURTHER;

/// Three pages that KVM needs for real mode on Intel hosts without unrestricted guest (api.rst, `KVM_SET_TSS_ADDR`): just
/// below the last 256 KiB of the first 4 GiB, where firmware images end and nothing else lies.
const TSS_ADDRESS: u64 = 0xfffb_d000;

/// One page for the same purpose (api.rst, `KVM_SET_IDENTITY_MAP_ADDR`), below the three.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Where memory of the VMM's own may be: below those pages, below the IOAPIC, and behind what plugins use.
const OWN_MEMORY: [u64; 3] = [0xfffb_0000, 0xfeb0_0000, 0xf_0000_0000];

/// A VM and what the plugin built into it.
pub struct Machine {
    pub(super) system: System,
    pub(super) vm: Vm,
    pub(super) controllers: Controllers,
    /// Number of vCPUs that the VM shall have.
    vcpus: u32,
    /// vCPUs that were made and not handed out.
    made: Vec<Vcpu>,
    memory: Memory,
    wiring: Wiring,
    pub(super) rules: Rules,
    shared_rules: Arc<RulesCell>,
}

impl Machine {
    /// Makes a VM with these interrupt controllers. Its vCPUs come later, see [`Machine::make_vcpus`].
    ///
    /// # Errors
    /// The KVM call that failed.
    pub fn new(system: System, vcpus: u32, irqchip: IrqChip) -> Result<Machine, KvmError> {
        let vm = system.create_vm()?;
        vm.set_identity_map_addr(IDENTITY_MAP_ADDRESS)?;
        vm.set_tss_addr(TSS_ADDRESS)?;
        let controllers = Controllers::new(&vm, irqchip)?;
        let (memory, wiring, rules) = (Memory::default(), Wiring::default(), Rules::default());
        let made = Vec::with_capacity(vcpus as usize);
        Ok(Machine { system, vm, controllers, vcpus, made, memory, wiring, rules, shared_rules: Arc::default() })
    }

    /// Makes the vCPUs and hands them out. This comes as late as the start, because KVM lets the identity map and the TSC
    /// frequency be chosen only while there is none.
    ///
    /// # Errors
    /// The KVM call that failed; a further call goes on where this one stopped.
    pub fn make_vcpus(&mut self) -> Result<Vec<Vcpu>, KvmError> {
        self.controllers.make(&self.vm)?;
        for id in self.made.len() as u32..self.vcpus {
            self.made.push(self.vm.create_vcpu(id)?);
        }
        Ok(core::mem::take(&mut self.made))
    }

    /// Begins to watch what the guest writes to its memory. Before the first slot is made.
    pub fn watch_memory(&mut self) -> Arc<WrittenMemory> {
        let written = Arc::new(WrittenMemory::new(self.vm.dirty_logs()));
        self.memory.watch(Arc::clone(&written));
        written
    }

    /// The rules as the vCPU threads see them.
    pub fn shared_rules(&self) -> &Arc<RulesCell> {
        &self.shared_rules
    }

    /// `KVM_CHECK_EXTENSION`; unknown numbers give 0.
    pub fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension(capability).unwrap_or(0)
    }

    /// Makes a memory slot; see [`CreateMemory`].
    ///
    /// # Errors
    /// As listed there.
    pub fn create_memory(&mut self, request: &CreateMemory, fd: &OwnedFd) -> Result<u32, Errno> {
        self.memory.create(&self.vm, request, fd)
    }

    /// Gives the guest memory of the VMM's own, where neither the plugin nor KVM has any.
    ///
    /// # Errors
    /// As [`Memory::create_own`].
    pub fn create_own_memory(&mut self, bytes: impl Fn(u64) -> Vec<u8>) -> Result<u64, Errno> {
        self.memory.create_own(&self.vm, &OWN_MEMORY, bytes)
    }

    /// Takes a memory slot away.
    ///
    /// # Errors
    /// `ENOENT` if there is none with this number.
    pub fn destroy_memory(&mut self, id: u32) -> Result<(), Errno> {
        self.memory.destroy(&self.vm, id)
    }

    /// The dirty log of a slot and its number of pages; see [`Memory::dirty_log`].
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot or it keeps no log.
    pub fn dirty_log(&self, id: u32) -> Result<(Vec<u64>, u64), Errno> {
        self.memory.dirty_log(&self.vm, id)
    }

    /// Reserves or releases a range; see [`ReserveRange`]. Returns its place in the counters.
    ///
    /// # Errors
    /// As listed there.
    pub fn reserve_range(&mut self, request: &ReserveRange) -> Result<u16, Errno> {
        let space = space(request.space)?;
        let kind = match request.kind {
            RANGE_SYNCHRONOUS => RangeKind::Synchronous,
            RANGE_POSTED => RangeKind::Posted,
            RANGE_POSTED_WRITES => RangeKind::PostedWrites,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let place = |rules: &Rules| rules.ranges.find(space, request.start).map_or(FURTHER, |(_, place)| place);
        let before = place(&self.rules);
        match request.length {
            0 => self.rules.ranges.release(space, request.start, kind)?,
            length => self.rules.ranges.reserve(space, request.start, length, kind)?,
        }
        self.publish();
        Ok(if request.length == 0 { before } else { place(&self.rules) })
    }

    /// Decides what reads outside of every range give; see [`SetUnclaimed`].
    ///
    /// # Errors
    /// `EINVAL` for a byte other than 0x00 and 0xff.
    pub fn set_unclaimed(&mut self, request: &SetUnclaimed) -> Result<(), Errno> {
        self.rules.unclaimed = match request.byte {
            0 => 0,
            0xff => 0xff,
            _ => return Err(Errno(libc::EINVAL)),
        };
        self.publish();
        Ok(())
    }

    /// Sets or clears the register hint; see [`SetHint`].
    ///
    /// # Errors
    /// `EINVAL` as listed there.
    pub fn set_hint(&mut self, request: &SetHint) -> Result<(), Errno> {
        self.rules.hint = hint(request)?;
        self.publish();
        Ok(())
    }

    /// Sets the level of a GSI.
    ///
    /// # Errors
    /// `EINVAL` for a level other than 0 and 1; what KVM says.
    pub fn set_irq_line(&mut self, request: &IrqLine) -> Result<(), Errno> {
        if request.level > 1 {
            return Err(Errno(libc::EINVAL));
        }
        self.vm_with_controllers()?.set_irq_line(request.gsi, request.level == 1).map_err(|error| error.errno)
    }

    /// Makes an irq event; see [`Wiring::create_irq`].
    ///
    /// # Errors
    /// As listed there.
    pub fn create_irq_event(&mut self, request: &CreateIrqEvent) -> Result<(u32, Vec<OwnedFd>), Errno> {
        self.vm_with_controllers()?;
        self.wiring.create_irq(&self.vm, request)
    }

    /// Takes an irq event away.
    ///
    /// # Errors
    /// `ENOENT` if there is none with this number.
    pub fn destroy_irq_event(&mut self, id: u32) -> Result<(), Errno> {
        self.wiring.destroy_irq(&self.vm, id)
    }

    /// Makes an io event; see [`Wiring::create_io`].
    ///
    /// # Errors
    /// As listed there.
    pub fn create_io_event(&mut self, request: &CreateIoEvent) -> Result<(u32, OwnedFd), Errno> {
        self.wiring.create_io(&self.vm, request)
    }

    /// Takes an io event away.
    ///
    /// # Errors
    /// `ENOENT` if there is none with this number.
    pub fn destroy_io_event(&mut self, id: u32) -> Result<(), Errno> {
        self.wiring.destroy_io(&self.vm, id)
    }

    /// The VM, with its interrupt controllers made.
    pub(super) fn vm_with_controllers(&mut self) -> Result<&Vm, Errno> {
        self.controllers.make(&self.vm).map_err(|error| error.errno)?;
        Ok(&self.vm)
    }

    pub(super) fn publish(&self) {
        self.shared_rules.publish(self.rules.clone());
    }
}

fn space(number: u32) -> Result<Space, Errno> {
    match number {
        SPACE_PORT => Ok(Space::Port),
        SPACE_MMIO => Ok(Space::Mmio),
        _ => Err(Errno(libc::EINVAL)),
    }
}

fn hint(request: &SetHint) -> Result<Option<Hint>, Errno> {
    let invalid = Err(Errno(libc::EINVAL));
    let hint = &request.hint;
    match request.count {
        0 => return Ok(None),
        1 if request.reserved == 0 && hint.reserved == 0 => {}
        _ => return invalid,
    }
    if hint.address == 0 || hint.on_write > 1 || hint.details as usize > MAX_HINT_DETAILS {
        return invalid;
    }
    let mut details = Vec::with_capacity(hint.details as usize);
    for detail in &request.details[..hint.details as usize] {
        if detail.matching > 0xf || detail.files & !u32::from(FILE_SREGS | FILE_DEBUGREGS) != 0 {
            return invalid;
        }
        let value = |at: usize| (detail.matching & 1 << at != 0).then_some(detail.values[at]);
        details.push(HintDetail { values: [value(0), value(1), value(2), value(3)], files: detail.files as u8 });
    }
    Ok(Some(Hint { space: space(hint.space)?, address: hint.address, on_write: hint.on_write == 1, details }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_wire::control;

    fn request() -> SetHint {
        let hint = control::Hint { space: 0, on_write: 1, address: 0x510, details: 1, reserved: 0 };
        let mut details = [control::HintDetail::default(); MAX_HINT_DETAILS];
        details[0] = control::HintDetail { matching: 0b1001, files: 2, values: [5, 6, 7, 8] };
        SetHint { count: 1, reserved: 0, hint, details }
    }

    #[test]
    fn a_hint_is_translated() {
        let expected = Hint {
            space: Space::Port,
            address: 0x510,
            on_write: true,
            details: vec![HintDetail { values: [Some(5), None, None, Some(8)], files: FILE_SREGS }],
        };
        assert_eq!(hint(&request()), Ok(Some(expected)));
        assert_eq!(hint(&SetHint { count: 0, ..request() }), Ok(None));
    }

    #[test]
    fn every_wrong_field_of_a_hint_is_refused() {
        let refused = |change: fn(&mut SetHint)| {
            let mut request = request();
            change(&mut request);
            assert_eq!(hint(&request), Err(Errno(libc::EINVAL)));
        };
        refused(|request| request.count = 2);
        refused(|request| request.reserved = 1);
        refused(|request| request.hint.reserved = 1);
        refused(|request| request.hint.address = 0);
        refused(|request| request.hint.on_write = 2);
        refused(|request| request.hint.space = 2);
        refused(|request| request.hint.details = 33);
        refused(|request| request.details[0].matching = 16);
        refused(|request| request.details[0].files = 1);
    }
}
