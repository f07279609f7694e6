//! Boot sectors and other guests of the tests.

use crate::common::guest::real_mode;

real_mode!(
    /// Prints a line through the BIOS and the serial port, writes to the second sector of its disk, reads it back, and
    /// ends the machine with what became of that: 1, or 2 if the disk could not be written.
    boot_sector:
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov sp, 0x7c00",
    "mov si, 0x7d00",
    "mov dx, 0x3f8",
    "2: lodsb",
    "test al, al",
    "jz 3f",
    "out dx, al",
    "jmp 2b",
    // Extended write (INT 13h, AH = 43h) of one sector; the BIOS gave the disk's number in DL, which is the first disk.
    "3: mov dl, 0x80",
    "mov si, 0x7d80",
    "mov ax, 0x4300",
    "int 0x13",
    "mov bl, 2",
    "jc 4f",
    // Read it to another place and compare the first word.
    "mov word ptr ds:[0x7d84], 0x9000",
    "mov dl, 0x80",
    "mov si, 0x7d80",
    "mov ah, 0x42",
    "int 0x13",
    "mov bl, 3",
    "jc 4f",
    "mov ax, ds:[0x9000]",
    "cmp ax, ds:[0x7c00]",
    "jne 4f",
    "mov bl, 1",
    "4: mov al, bl",
    "out 0xf4, al",
    "5: jmp 5b",
    ".org 0x100",
    ".asciz \"A boot sector of ours.\\r\\n\"",
    // Disk address packet: size, sectors, where to (offset, segment), first sector.
    ".org 0x180",
    ".byte 16, 0",
    ".word 1",
    ".word 0x7c00, 0",
    ".quad 1",
    ".org 510",
    ".word 0xaa55",
);

/// The boot sector, at the beginning of a disk of a MiB: the BIOS counts in cylinders, and a disk has one at least.
pub fn disk_image() -> Vec<u8> {
    let mut image = boot_sector().to_vec();
    image.resize(1 << 20, 0);
    image
}
