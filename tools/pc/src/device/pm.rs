//! The power management block of a PIIX4: ACPI's fixed registers and its timer.

use crate::bus::Device;
use crate::clock::Clock;
use crate::ending::{End, Ending};

/// Bytes of the block (PIIX4 datasheet, section 7.2).
pub const LENGTH: u64 = 0x40;
/// Event registers: status, and two bytes behind it which events interrupt.
pub const EVENTS: u64 = 0;
/// The control register.
pub const CONTROL: u64 = 4;
/// The timer.
pub const TIMER: u64 = 8;
/// Frequency of the timer in Hz (ACPI specification, 4.8.2.1).
const FREQUENCY: u128 = 3_579_545;
/// The timer has 24 bits.
const TIMER_MASK: u128 = 0xff_ffff;
/// The machine is in ACPI mode, from the beginning: there is no legacy mode to come from.
const SCI_ENABLED: u16 = 1;
const SLEEP: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;
/// The type that `\_S5` names.
pub const SOFT_OFF: u8 = 0;

/// The power management block.
pub struct PowerManagement {
    ending: Ending,
    clock: Clock,
    /// The TSC at the access that is served.
    tsc: u64,
    /// Which events interrupt: none ever happens.
    enabled: u16,
    control: u16,
}

impl PowerManagement {
    /// The block of this machine, with a timer that goes by its clock.
    pub fn new(ending: Ending, clock: Clock) -> PowerManagement {
        PowerManagement { ending, clock, tsc: 0, enabled: 0, control: SCI_ENABLED }
    }

    fn register(&self, at: u64) -> u8 {
        let [enabled, control] = [self.enabled.to_le_bytes(), self.control.to_le_bytes()];
        match at {
            2 | 3 => enabled[at as usize - 2],
            4 | 5 => control[at as usize - 4],
            _ => 0,
        }
    }
}

impl Device for PowerManagement {
    fn moment(&mut self, tsc: u64) {
        self.tsc = tsc;
    }

    fn reset(&mut self) {
        (self.enabled, self.control) = (0, SCI_ENABLED);
    }

    fn read(&mut self, offset: u64, width: usize) -> u64 {
        if offset == TIMER {
            let ticks = self.clock.at(self.tsc).as_nanos() * FREQUENCY / 1_000_000_000;
            return (ticks & TIMER_MASK) as u64;
        }
        (0..width as u64).fold(0, |value, at| value | u64::from(self.register(offset + at)) << (8 * at))
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        match (offset, width) {
            (EVENTS, 4) => self.enabled = (value >> 16) as u16,
            (2, 2) => self.enabled = value as u16,
            (CONTROL, _) => {
                let value = value as u16;
                if value & SLEEP != 0 && (value & SLEEP_TYPE) >> 10 == u16::from(SOFT_OFF) {
                    self.ending.end(End::PowerOff);
                }
                self.control = value & !SLEEP | SCI_ENABLED;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block by a clock of a tick a millisecond.
    fn block(ending: &Ending) -> PowerManagement {
        let clock = Clock::new(1);
        clock.begin(0);
        PowerManagement::new(ending.clone(), clock)
    }

    #[test]
    fn the_timer_has_24_bits_and_its_frequency() {
        let mut block = block(&Ending::default());
        block.moment(1000);
        assert_eq!(block.read(TIMER, 4), 3_579_545);
        block.moment(5000);
        assert_eq!(block.read(TIMER, 4), 5 * 3_579_545 - (1 << 24));
    }

    #[test]
    fn soft_off_ends_the_machine_and_other_sleep_does_not() {
        let ending = Ending::default();
        let mut block = block(&ending);
        assert_eq!(block.read(CONTROL, 2), 1);
        block.write(CONTROL, 2, 1 << 13 | 1 << 10);
        assert!(!ending.ended());
        block.write(CONTROL, 2, 1 << 13);
        assert_eq!(ending.reason(), Some(End::PowerOff));
    }

    #[test]
    fn events_are_enabled_by_either_width() {
        let mut block = block(&Ending::default());
        block.write(2, 2, 0x0120);
        assert_eq!(block.read(0, 4), 0x0120_0000);
        block.write(0, 4, 0x0020_ffff);
        assert_eq!(block.read(2, 2), 0x20);
        block.reset();
        assert_eq!(block.read(2, 2), 0);
    }
}
