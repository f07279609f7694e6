//! The place of everything in a vCPU's two blocks.
//!
//! `to_plugin` and `to_vmm` are arrays of such blocks, one per vCPU, in two memfds. Each block is 32 KiB; the pages of a
//! vCPU that never uses its string or bulk area are never touched and take no memory. What is polled together lies in one
//! line of 64 bytes; lines with different purposes lie 128 bytes apart, because the hardware fetches them in pairs.
//!
//! | offset | to_plugin (VMM writes) | to_vmm (plugin writes) |
//! |---|---|---|
//! | 0x0000 | event line | answer line |
//! | 0x0080 | - | progress line |
//! | 0x0400 | general registers | general registers |
//! | 0x0500 | segment and control registers | the same |
//! | 0x0680 | debug registers | the same |
//! | 0x1000 | posted-write ring, 256 slots of 32 bytes | - |
//! | 0x3000 | string data, 4 KiB | string data, 4 KiB |
//! | 0x4000 | bulk area, 16 KiB | bulk area, 16 KiB |

use crate::sync::{AtomicU32, AtomicU64, Reserved};
use core::mem::offset_of;

use crate::limits::{MAX_BULK, MAX_STRING, POSTED_SLOTS};
use crate::line::{AnswerLine, EventLine, FILE_DEBUGREGS, FILE_REGS, FILE_SREGS};
use crate::posted::Slot;
use crate::prefetch;

/// Bytes from one vCPU's block to the next.
pub const STRIDE: usize = 0x8000;

/// What [`crate::control::Hello`] compares: changes with every change of a block's layout.
///
/// The number is the FNV-1a hash of the offsets in the table above, so that a change cannot be forgotten.
pub const LAYOUT: u32 = fingerprint();

#[cfg(loom)]
#[path = "model/zeros.rs"]
mod zeros;

/// What the VMM writes for one vCPU.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ToPlugin {
    /// The event line.
    pub event: EventLine,
    reserved: Reserved<AtomicU64, 120>,
    /// Register files that ride along with an event.
    pub files: Files,
    /// Posted writes.
    pub posted: [Slot; POSTED_SLOTS],
    /// Data of string writes longer than 8 bytes.
    pub string: [AtomicU64; MAX_STRING / 8],
    /// Data of replies to commands.
    pub bulk: [AtomicU64; MAX_BULK / 8],
}

/// What the plugin writes for one vCPU.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ToVmm {
    /// The answer line.
    pub answer: AnswerLine,
    reserved: Reserved<AtomicU64, 8>,
    /// How far the plugin has read.
    pub progress: ProgressLine,
    reserved2: Reserved<AtomicU64, 104>,
    /// Register files that a resume sets.
    pub files: Files,
    reserved3: Reserved<AtomicU64, 1024>,
    /// Data of string reads longer than 8 bytes.
    pub string: [AtomicU64; MAX_STRING / 8],
    /// Data of commands.
    pub bulk: [AtomicU64; MAX_BULK / 8],
}

/// Places of the register files that ride along, from offset 0x400 to the end of the page.
#[derive(Debug)]
#[repr(C)]
pub struct Files {
    /// `struct kvm_regs`, 144 bytes.
    pub regs: [AtomicU64; 18],
    reserved: Reserved<AtomicU64, 14>,
    /// `struct kvm_sregs`, 312 bytes.
    pub sregs: [AtomicU64; 39],
    reserved2: Reserved<AtomicU64, 9>,
    /// `struct kvm_debugregs`, 128 bytes.
    pub debugregs: [AtomicU64; 16],
    reserved3: Reserved<AtomicU64, 288>,
}

impl Files {
    /// Sends the lines of these files (`FILE_*` bits) on their way to the side that will read them.
    #[inline]
    pub fn push(&self, files: u8) {
        self.each(files, prefetch::push);
    }

    /// Gets the lines of these files back from the side that has read them, ahead of writing them again.
    #[inline]
    pub fn own(&self, files: u8) {
        self.each(files, prefetch::own);
    }

    #[inline]
    fn each(&self, files: u8, hint: impl Fn(&[AtomicU64])) {
        for (file, words) in
            [(FILE_REGS, &self.regs[..]), (FILE_SREGS, &self.sregs[..]), (FILE_DEBUGREGS, &self.debugregs[..])]
        {
            if files & file != 0 {
                hint(words);
            }
        }
    }
}

/// A line of its own for the plugin's position in the posted-write ring, so that taking a write does not disturb the
/// answer line that the VMM polls.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ProgressLine {
    /// Posted writes taken so far, modulo 2^32.
    pub taken: AtomicU32,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<ToPlugin>() == STRIDE && size_of::<ToVmm>() == STRIDE);
    assert!(align_of::<ToPlugin>() == 4096 && align_of::<ToVmm>() == 4096);
    assert!(offset_of!(ToPlugin, event) == 0 && offset_of!(ToVmm, answer) == 0);
    assert!(offset_of!(ToVmm, progress) == 0x80);
    assert!(offset_of!(ToPlugin, files) == 0x400 && offset_of!(ToVmm, files) == 0x400);
    assert!(offset_of!(Files, sregs) == 0x100 && offset_of!(Files, debugregs) == 0x280);
    assert!(offset_of!(ToPlugin, posted) == 0x1000);
    assert!(offset_of!(ToPlugin, string) == 0x3000 && offset_of!(ToVmm, string) == 0x3000);
    assert!(offset_of!(ToPlugin, bulk) == 0x4000 && offset_of!(ToVmm, bulk) == 0x4000);
};

const fn fingerprint() -> u32 {
    let parts = [
        STRIDE,
        size_of::<EventLine>(),
        size_of::<AnswerLine>(),
        size_of::<Slot>(),
        POSTED_SLOTS,
        offset_of!(ToVmm, progress),
        offset_of!(ToPlugin, files),
        offset_of!(Files, sregs),
        offset_of!(Files, debugregs),
        offset_of!(ToPlugin, posted),
        offset_of!(ToPlugin, string),
        offset_of!(ToPlugin, bulk),
    ];
    let mut hash = 0x811c_9dc5u32;
    let mut part = 0;
    while part < parts.len() {
        let bytes = (parts[part] as u32).to_le_bytes();
        let mut byte = 0;
        while byte < bytes.len() {
            hash = (hash ^ bytes[byte] as u32).wrapping_mul(0x0100_0193);
            byte += 1;
        }
        part += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_layout_number_is_the_documented_one() {
        assert_eq!(super::LAYOUT, 0x2f8e_a273, "PROTOCOL.md names the number; a new layout needs a new one there");
    }
}
