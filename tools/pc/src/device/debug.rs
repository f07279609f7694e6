//! Ports for firmware and tests to speak through: the debug console and debug-exit.

use std::io::Write;

use crate::bus::{ByteDevice, Device};
use crate::ending::{End, Ending};

/// A port that prints what is written to it. It reads as 0xe9, by which firmware knows that it is there (SeaBIOS,
/// `src/hw/serialio.c`, `qemu_debug_preinit`).
pub struct DebugConsole {
    out: Box<dyn Write + Send>,
}

impl DebugConsole {
    /// A console that writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> DebugConsole {
        DebugConsole { out }
    }
}

impl ByteDevice for DebugConsole {
    fn read(&mut self, _: u64) -> u8 {
        0xe9
    }

    fn write(&mut self, _: u64, value: u8) {
        // As with a real port, nobody may be listening.
        let _ = self.out.write_all(&[value]);
    }
}

/// Ends the machine with a status when it is written to.
pub struct DebugExit {
    ending: Ending,
}

impl DebugExit {
    /// Ends this machine.
    pub fn new(ending: Ending) -> DebugExit {
        DebugExit { ending }
    }
}

impl Device for DebugExit {
    fn read(&mut self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&mut self, _: u64, _: usize, value: u64) {
        self.ending.end(End::DebugExit(value as u32));
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_write_ends_the_machine() {
        let ending = Ending::default();
        let mut port = DebugExit::new(ending.clone());
        assert_eq!(port.read(0, 4), 0);
        assert!(!ending.ended());
        port.write(0, 4, 21);
        assert_eq!(ending.reason().unwrap().status(), 43);
    }

    #[test]
    fn the_console_says_that_it_is_there() {
        let mut console = DebugConsole::new(Box::new(std::io::sink()));
        console.write(0, b'x');
        assert_eq!(console.read(0), 0xe9);
    }
}
