//! The diagnostic port 0x80: firmware writes a number there at each of its steps, which a card with two digits shows, and
//! software writes to it to let a microsecond pass.

use crate::bus::ByteDevice;

/// The port: reads as it was written.
#[derive(Debug, Default)]
pub struct PostCode {
    last: u8,
}

impl ByteDevice for PostCode {
    fn read(&mut self, _: u64) -> u8 {
        self.last
    }

    fn write(&mut self, _: u64, value: u8) {
        self.last = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_last_number() {
        let mut port = PostCode::default();
        port.write(0, 0x55);
        port.write(0, 0xaa);
        assert_eq!(port.read(0), 0xaa);
    }
}
