//! The two ATA channels of a PC, with nothing connected.
//!
//! A host pulls data line 7 of a channel down and the others up, so that the busy bit of a status that nobody drives is
//! clear (ATA/ATAPI-6, section 4.2.1): software sees at once that no device is there, instead of one that stays busy.

use crate::bus::ByteDevice;

/// What an empty channel reads as.
const NOBODY: u8 = 0x7f;

/// The ports of both channels: commands, and the alternate status.
pub const PORTS: [core::ops::Range<u64>; 4] = [0x1f0..0x1f8, 0x3f6..0x3f7, 0x170..0x178, 0x376..0x377];

/// An empty channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyChannel;

impl ByteDevice for EmptyChannel {
    fn read(&mut self, _: u64) -> u8 {
        NOBODY
    }

    fn write(&mut self, _: u64, _: u8) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_busy() {
        let mut channel = EmptyChannel;
        channel.write(7, 0xec);
        assert_eq!(channel.read(7) & 0x80, 0);
    }
}
