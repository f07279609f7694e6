//! PCI configuration space by mechanism 1, with the functions that firmware looks for on a PC of the i440FX kind: the host
//! bridge, the ISA bridge and power management.
//!
//! Identities and defaults are those of the Intel 440FX (datasheet 290549), 82371SB (PIIX3) and 82371AB (PIIX4) parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bus::Device;
use crate::ending::Ending;

/// Number of the slot with the ISA bridge and its functions.
const SOUTH: u8 = 1;
/// Subsystem by which firmware knows that this is no real board (SeaBIOS, `src/fw/paravirt.c`).
const SUBSYSTEM: [u8; 4] = [0xf4, 0x1a, 0x00, 0x11];

/// Register of the first of seven that say which parts of the last 384 KiB of the first MiB are RAM. All of them are, so
/// that these only remember what is written.
const PAM: u8 = 0x59;
/// Power management: where its ports are, and whether they are.
const PM_BASE: u8 = 0x40;
const PM_MISC: u8 = 0x80;
/// Power management, device activity B: a write to the port of the APM raises an SMI. Set from the beginning, because it
/// tells firmware that there is no system management mode to be set up.
const PM_ACTIVITY_B: u8 = 0x58;
const APMC_ENABLED: [u8; 4] = [0, 0, 0, 2];

/// One function's configuration space.
struct Function {
    /// Device number and function number within it.
    place: (u8, u8),
    bytes: [u8; 256],
    /// Bits that the guest can change.
    writable: [u8; 256],
}

impl Function {
    fn new(place: (u8, u8), vendor: u16, device: u16, class: [u8; 3]) -> Function {
        let mut function = Function { place, bytes: [0; 256], writable: [0; 256] };
        function.set(0, &vendor.to_le_bytes());
        function.set(2, &device.to_le_bytes());
        function.set(8, &[2, class[2], class[1], class[0]]);
        function.set(0x2c, &SUBSYSTEM);
        // Command, interrupt line.
        function.may_change(4, &[0x47, 0x01]);
        function.may_change(0x3c, &[0xff]);
        function
    }

    fn set(&mut self, at: u8, bytes: &[u8]) {
        self.bytes[usize::from(at)..usize::from(at) + bytes.len()].copy_from_slice(bytes);
    }

    fn may_change(&mut self, at: u8, mask: &[u8]) {
        self.writable[usize::from(at)..usize::from(at) + mask.len()].copy_from_slice(mask);
    }

    fn word(&self, at: u8) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|index| self.bytes[usize::from(at) + index]))
    }
}

fn functions() -> [Function; 3] {
    let mut host = Function::new((0, 0), 0x8086, 0x1237, [6, 0, 0]);
    host.may_change(PAM, &[0xff; 7]);
    host.may_change(0x72, &[0xff]); // system management RAM
    let mut isa = Function::new((SOUTH, 0), 0x8086, 0x7000, [6, 1, 0]);
    isa.set(0x0e, &[0x80]); // more functions follow
    isa.may_change(0x4c, &[0xff; 4]);
    isa.set(0x60, &[0x80; 4]); // interrupts of PCI: not routed
    isa.may_change(0x60, &[0x8f; 4]);
    isa.may_change(0x80, &[0xff; 4]);
    let mut power = Function::new((SOUTH, 3), 0x8086, 0x7113, [6, 0x80, 0]);
    power.set(PM_BASE, &[1, 0, 0, 0]);
    power.may_change(PM_BASE, &[0xc0, 0xff]);
    power.set(PM_ACTIVITY_B, &APMC_ENABLED);
    power.may_change(PM_ACTIVITY_B, &[0xff; 8]);
    power.may_change(PM_MISC, &[0x01]);
    power.set(0x90, &[1, 0, 0, 0]); // ports of the SMBus, without a bus behind them
    power.may_change(0x90, &[0xf0, 0xff]);
    power.may_change(0xd2, &[0x0f]);
    [host, isa, power]
}

/// The ports 0xcf8 to 0xcff.
pub struct Pci {
    ending: Ending,
    address: u32,
    functions: [Function; 3],
    /// First port of power management, 0 while it is off.
    pm_base: Arc<AtomicU64>,
    /// The reset control register in the middle of these ports.
    reset: u8,
    /// Where power management is after a reset, if that is not the firmware's to say.
    place: Option<u16>,
}

/// Address register bit: accesses to the data register go to configuration space.
const ENABLE: u32 = 1 << 31;
/// The data register's ports begin here.
const DATA: u64 = 4;
/// The reset control register (PIIX3 datasheet, section 2.3.3.2), and the bit that resets when it rises.
const RESET_CONTROL: u64 = 1;
const RESET: u8 = 4;

impl Pci {
    /// Configuration space of a machine; `pm_base` follows where the guest puts the ports of power management.
    pub fn new(ending: Ending, pm_base: Arc<AtomicU64>) -> Pci {
        Pci { ending, address: 0, functions: functions(), pm_base, reset: 0, place: None }
    }

    /// Puts the ports of power management to `base`, as firmware would.
    pub fn place_power_management(&mut self, base: u16) {
        self.place = Some(base);
        let [low, high] = base.to_le_bytes();
        self.functions[2].set(PM_BASE, &[low | 1, high]);
        self.functions[2].set(PM_MISC, &[1]);
        self.settle();
    }

    /// The function that the address register chooses, and the register in it.
    fn chosen(&mut self) -> Option<(&mut Function, u8)> {
        let (bus, slot, function) = (self.address >> 16 & 0xff, self.address >> 11 & 0x1f, self.address >> 8 & 7);
        let place = (slot as u8, function as u8);
        let found = self.functions.iter_mut().find(|function| function.place == place);
        found.filter(|_| self.address & ENABLE != 0 && bus == 0).map(|function| (function, (self.address & 0xfc) as u8))
    }

    fn settle(&mut self) {
        let power = &self.functions[2];
        let base = if power.bytes[usize::from(PM_MISC)] & 1 != 0 { power.word(PM_BASE) & 0xffc0 } else { 0 };
        self.pm_base.store(base.into(), Ordering::Relaxed);
    }
}

impl Device for Pci {
    fn read(&mut self, offset: u64, width: usize) -> u64 {
        match (offset, width) {
            (0, 4) => self.address.into(),
            (RESET_CONTROL, 1) => self.reset.into(),
            (..DATA, _) => u64::MAX,
            _ => match self.chosen() {
                Some((function, register)) => u64::from(function.word(register)) >> (8 * (offset - DATA)),
                None => u64::MAX,
            },
        }
    }

    fn reset(&mut self) {
        (self.address, self.functions, self.reset) = (0, functions(), 0);
        match self.place {
            Some(base) => self.place_power_management(base),
            None => self.settle(),
        }
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        match (offset, width) {
            (0, 4) => self.address = value as u32,
            (RESET_CONTROL, 1) => {
                let rises = value as u8 & !self.reset & RESET != 0;
                self.reset = value as u8;
                if rises {
                    self.ending.reset("reset control register 0xcf9");
                }
            }
            (..DATA, _) => {}
            _ => {
                let first = (offset - DATA) as usize;
                if let Some((function, register)) = self.chosen() {
                    for at in first..(first + width).min(4) {
                        let place = usize::from(register) + at;
                        let (byte, mask) = ((value >> (8 * (at - first))) as u8, function.writable[place]);
                        function.bytes[place] = function.bytes[place] & !mask | byte & mask;
                    }
                    self.settle();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pci() -> (Pci, Arc<AtomicU64>, Ending) {
        let (base, ending) = (Arc::new(AtomicU64::new(0)), Ending::default());
        (Pci::new(ending.clone(), Arc::clone(&base)), base, ending)
    }

    fn choose(pci: &mut Pci, slot: u32, function: u32, register: u32) {
        pci.write(0, 4, u64::from(ENABLE | slot << 11 | function << 8 | register));
    }

    #[test]
    fn the_functions_are_those_of_an_i440fx() {
        let (mut pci, ..) = pci();
        for (slot, function, id) in [(0, 0, 0x1237_8086), (1, 0, 0x7000_8086), (1, 3, 0x7113_8086)] {
            choose(&mut pci, slot, function, 0);
            assert_eq!(pci.read(4, 4) & 0xffff_ffff, id);
            assert_eq!(pci.read(6, 2) & 0xffff, id >> 16);
        }
        for (slot, function) in [(0, 1), (2, 0), (31, 7)] {
            choose(&mut pci, slot, function, 0);
            assert_eq!(pci.read(4, 4), u64::MAX);
        }
    }

    #[test]
    fn only_what_can_change_changes() {
        let (mut pci, ..) = pci();
        choose(&mut pci, 0, 0, 0);
        pci.write(4, 4, 0);
        assert_eq!(pci.read(4, 4) & 0xffff, 0x8086);
        choose(&mut pci, 0, 0, 0x58);
        pci.write(5, 1, 0x30);
        assert_eq!(pci.read(4, 4), 0x3000);
        assert_eq!(pci.read(5, 1) & 0xff, 0x30);
    }

    #[test]
    fn power_management_is_where_the_guest_puts_it() {
        let (mut pci, base, _) = pci();
        choose(&mut pci, 1, 3, 0x40);
        pci.write(4, 4, 0x601);
        assert_eq!(base.load(Ordering::Relaxed), 0);
        choose(&mut pci, 1, 3, 0x80);
        pci.write(4, 1, 1);
        assert_eq!(base.load(Ordering::Relaxed), 0x600);
        choose(&mut pci, 1, 3, 0x40);
        pci.write(4, 4, 0xe401);
        assert_eq!(base.load(Ordering::Relaxed), 0xe400);
        pci.reset();
        assert_eq!(base.load(Ordering::Relaxed), 0);
        pci.place_power_management(0x600);
        pci.reset();
        assert_eq!(base.load(Ordering::Relaxed), 0x600);
    }

    #[test]
    fn nothing_answers_without_the_enable_bit_or_on_another_bus() {
        let (mut pci, ..) = pci();
        pci.write(0, 4, 0);
        assert_eq!(pci.read(4, 4), u64::MAX);
        pci.write(0, 4, u64::from(ENABLE | 1 << 16));
        assert_eq!(pci.read(4, 4), u64::MAX);
    }

    #[test]
    fn the_reset_bit_resets_when_it_rises() {
        let (mut pci, _, ending) = pci();
        pci.write(1, 1, 2);
        assert!(!ending.resets());
        pci.write(1, 1, 6);
        assert!(ending.resets());
    }
}
