//! System control port A, 0x92: the fast reset and the gate of address line 20.

use crate::bus::ByteDevice;
use crate::ending::Ending;

const RESET: u8 = 1;
const A20: u8 = 2;

/// Port 0x92. The gate of address line 20 is a bit that reads as it was written: the line is always on, as on machines
/// without the old processors' bus.
pub struct SystemControl {
    ending: Ending,
    value: u8,
}

impl SystemControl {
    /// Resets this machine.
    pub fn new(ending: Ending) -> SystemControl {
        SystemControl { ending, value: A20 }
    }
}

impl ByteDevice for SystemControl {
    fn read(&mut self, _: u64) -> u8 {
        self.value
    }

    fn write(&mut self, _: u64, value: u8) {
        if value & RESET != 0 && self.value & RESET == 0 {
            self.ending.reset("fast reset of port 0x92");
        }
        self.value = value;
    }

    fn reset(&mut self) {
        self.value = A20;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_bit_resets() {
        let ending = Ending::default();
        let mut port = SystemControl::new(ending.clone());
        assert_eq!(port.read(0), A20);
        port.write(0, 0);
        assert_eq!(port.read(0), 0);
        assert!(!ending.resets());
        port.write(0, A20 | RESET);
        assert!(ending.resets());
        port.reset();
        assert_eq!(port.read(0), A20);
    }
}
