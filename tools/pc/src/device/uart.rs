//! The 16550 serial port: the registers are those of the crate `vm-superio`, and input that its FIFO has no room for waits
//! here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::ByteDevice;
use crate::host::Irq;

/// The interrupt line in the library's terms.
struct Line(Irq);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

/// A serial port.
pub struct Uart {
    serial: Serial<Line, NoEvents, Box<dyn Write + Send>>,
    /// Input behind what is in the FIFO.
    waiting: VecDeque<u8>,
}

impl Uart {
    /// A serial port that raises `irq` and writes to `out`.
    pub fn new(irq: Irq, out: Box<dyn Write + Send>) -> Uart {
        Uart { serial: Serial::new(Line(irq), out), waiting: VecDeque::new() }
    }

    /// Bytes for the guest, as if they came over the line.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        self.refill();
    }

    /// Bytes that the guest has not read, but for those in the FIFO.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Moves waiting input to the FIFO. In loopback mode the line is cut off, and it goes on waiting.
    fn refill(&mut self) {
        while !self.waiting.is_empty() && self.serial.fifo_capacity() > 0 {
            let (next, _) = self.waiting.as_slices();
            match self.serial.enqueue_raw_bytes(next) {
                Ok(taken) if taken > 0 => drop(self.waiting.drain(..taken)),
                _ => return,
            }
        }
    }
}

/// Registers and what they are after a reset: the divisor of 9600 baud behind the access bit, then interrupts, line, modem
/// control and scratch (vm-superio, `SerialState::default`).
const RESET: [(u8, u8); 8] = [(3, 0x80), (0, 12), (1, 0), (3, 3), (1, 0), (2, 0), (4, 8), (7, 0)];

impl ByteDevice for Uart {
    /// Input that waits stays: the line does not know of the reset.
    fn reset(&mut self) {
        for (register, value) in RESET {
            self.write(register.into(), value);
        }
    }

    fn read(&mut self, register: u64) -> u8 {
        let value = self.serial.read(register as u8);
        self.refill();
        value
    }

    fn write(&mut self, register: u64, value: u8) {
        // Output that finds no reader is the terminal's matter; a serial line has no way to tell the guest.
        let _ = self.serial.write(register as u8, value);
        self.refill();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::host::tests::counted;

    #[test]
    fn input_of_any_length_arrives_in_order() {
        let (irq, raised) = counted();
        let mut uart = Uart::new(irq, Box::new(std::io::sink()));
        uart.write(1, 1);
        let text: Vec<u8> = (0..1000).map(|at: u32| at as u8).collect();
        uart.receive(&text);
        assert!(raised.load(Ordering::Relaxed) > 0);
        let mut got = Vec::new();
        while uart.read(5) & 1 != 0 {
            got.push(uart.read(0));
        }
        assert_eq!(got, text);
        assert_eq!(uart.waiting(), 0);
    }

    #[test]
    fn a_reset_puts_the_registers_back() {
        let (irq, _) = counted();
        let mut uart = Uart::new(irq, Box::new(std::io::sink()));
        let registers = |uart: &mut Uart| {
            let plain = [1, 3, 4, 7].map(|register| uart.read(register));
            uart.write(3, 0x83);
            let divisor = [uart.read(0), uart.read(1)];
            uart.write(3, plain[1]);
            (plain, divisor)
        };
        let fresh = registers(&mut uart);
        for (register, value) in [(3, 0x83), (0, 1), (1, 2), (3, 7), (1, 5), (4, 0x13), (7, 0x55)] {
            uart.write(register, value);
        }
        assert_ne!(registers(&mut uart), fresh);
        uart.reset();
        assert_eq!(registers(&mut uart), fresh);
    }

    #[test]
    fn input_waits_while_the_line_loops_back() {
        let (irq, _) = counted();
        let mut uart = Uart::new(irq, Box::new(std::io::sink()));
        uart.write(4, 0x10);
        uart.receive(b"x");
        assert_eq!(uart.read(5) & 1, 0);
        uart.write(4, 0);
        assert_eq!((uart.read(5) & 1, uart.read(0)), (1, b'x'));
    }
}
