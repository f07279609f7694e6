//! The guest: real-mode code that leaves by every kind of exit, round after round.
//!
//! Keep it to plain moves, port and memory accesses and short jumps: some hosts emulate such code instruction by
//! instruction. Where they refuse the one that counts bits, the plugin carries it out.

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::slice;

/// Where the code lies and starts.
pub const CODE: u16 = 0x1000;
/// Bytes of memory at address 0.
pub const MEMORY: usize = 0x1_0000;
/// A port that is read, one that takes what was read, one whose writes are posted.
pub const READ: u64 = 0x10;
/// Takes what was read.
pub const WRITE: u64 = 0x11;
/// Takes posted writes.
pub const POSTED: u64 = 0x12;
/// Takes 8 bytes of one instruction, each by itself on hosts that emulate it.
pub const STRING_OUT: u64 = 0x13;
/// Gives 64 bytes to one instruction.
pub const STRING_IN: u64 = 0x14;
/// A doorbell, when there is one.
pub const DOORBELL: u64 = 0x15;
/// The handlers of the two interrupts post their vectors here.
pub const HANDLER: u64 = 0x17;
/// Device registers in the memory space.
pub const MMIO: u64 = 0x2_0000;
/// Where a memory slot comes and goes.
pub const SLOT: u64 = 0x3_0000;
/// IA32_SYSENTER_CS, which the guest reads and writes.
pub const MSR: u32 = 0x174;
/// The vector of edges, whose handler is at 0x1200.
pub const EDGE: u32 = 0x40;
/// The vector of levels, whose handler is at 0x1280.
pub const LEVEL: u32 = 0x41;
/// Bytes of the instruction that counts bits.
pub const POPCNT: u64 = 4;

global_asm!(
    ".pushsection .rodata.outboard_soak_guest, \"a\", @progbits",
    ".globl outboard_soak_guest",
    ".globl outboard_soak_guest_end",
    "outboard_soak_guest:",
    ".code16",
    "mov word ptr [0x04], 0x1300",
    "mov word ptr [0x06], 0",
    "mov word ptr [0x100], 0x1200",
    "mov word ptr [0x102], 0",
    "mov word ptr [0x104], 0x1280",
    "mov word ptr [0x106], 0",
    "sti",
    "2: in eax, 0x10",
    "out 0x11, eax",
    "mov bl, 8",
    "3: out 0x12, al",
    "dec bl",
    "jnz 3b",
    "out 0x15, al",
    // Nobody has this one.
    "in al, 0x16",
    "cld",
    "mov si, 0x2000",
    "mov cx, 8",
    "mov dx, 0x13",
    "rep outsb",
    "mov di, 0x3000",
    "mov cx, 64",
    "mov dx, 0x14",
    "rep insb",
    // A device register is read, another one written.
    "mov ax, 0x2000",
    "mov ds, ax",
    "mov eax, [0]",
    "mov [8], eax",
    // Memory, or nothing.
    "mov ax, 0x3000",
    "mov ds, ax",
    "mov al, [0x10]",
    "mov [0x10], al",
    "mov [0x1010], al",
    "xor ax, ax",
    "mov ds, ax",
    "mov ecx, 0x174",
    "rdmsr",
    "wrmsr",
    "mov bx, 0x2000",
    "popcnt ax, [bx]",
    "jmp 2b",
    ".org outboard_soak_guest + 0x200",
    "push eax",
    "mov al, 0x40",
    "jmp 4f",
    ".org outboard_soak_guest + 0x280",
    "push eax",
    "mov al, 0x41",
    "4: out 0x17, al",
    "push ecx",
    "push edx",
    // The end of the interrupt, to an x2APIC.
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop edx",
    "pop ecx",
    "pop eax",
    "iret",
    // The trap of a single step. Some hosts deliver an interrupt within a step though it is to be blocked, which puts the
    // processor's trap flag onto the stack, and IRET brings it back: it is taken out of the flags here.
    ".org outboard_soak_guest + 0x300",
    "push bp",
    "mov bp, sp",
    "and word ptr [bp + 6], 0xfeff",
    "pop bp",
    "iret",
    ".code64",
    "outboard_soak_guest_end:",
    ".popsection",
);

/// The guest's code.
pub fn image() -> &'static [u8] {
    unsafe extern "C" {
        static outboard_soak_guest: u8;
        static outboard_soak_guest_end: u8;
    }
    let (start, end) = (&raw const outboard_soak_guest, &raw const outboard_soak_guest_end);
    // SAFETY: both labels lie in one read-only section, in this order, with initialized bytes between them.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}
