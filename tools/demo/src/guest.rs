//! The guest: a program in 64-bit code that does each kind of exit a few hundred times.
//!
//! It is position-independent, uses no stack and nothing but moves, arithmetic, jumps and port instructions: some hosts
//! emulate privileged code and know no more than that. Constants come from [`crate::map`].

#![allow(unsafe_code)]

use core::arch::global_asm;
use core::slice;

use crate::map::{BEEP_PORT, DONE_PORT, MMIO_READ, MMIO_WRITE, ROUNDS, UART};

global_asm!(
    ".section .rodata.outboard_demo_guest, \"a\"",
    ".globl outboard_demo_guest",
    ".globl outboard_demo_guest_end",
    "outboard_demo_guest:",
    // A greeting, the way a driver does it: wait for the transmitter before each byte.
    "lea rsi, [rip + 20f]",
    "2: mov bl, byte ptr [rsi]",
    "test bl, bl",
    "jz 4f",
    "mov edx, {uart} + 5",
    "3: in al, dx",
    "test al, 0x20",
    "jz 3b",
    "mov edx, {uart}",
    "mov al, bl",
    "out dx, al",
    "inc rsi",
    "jmp 2b",
    // A device register is read and another one written; the plugin compares.
    "4: mov ecx, {rounds}",
    "mov ebx, {mmio_read}",
    "mov edi, {mmio_write}",
    "5: mov eax, dword ptr [rbx]",
    "mov dword ptr [rdi], eax",
    "dec ecx",
    "jnz 5b",
    // Posted writes: the guest does not wait for the plugin.
    "mov ecx, {rounds}",
    "mov edx, {beep}",
    "6: mov eax, ecx",
    "out dx, al",
    "dec ecx",
    "jnz 6b",
    // One instruction, many bytes.
    "lea rsi, [rip + 21f]",
    "lea rcx, [rip + 22f]",
    "sub ecx, esi",
    "mov edx, {uart}",
    "cld",
    "rep outsb",
    // Done.
    "mov eax, {rounds}",
    "mov edx, {done}",
    "out dx, eax",
    "7: jmp 7b",
    "20: .asciz \"A guest in 64-bit mode says hello.\\n\"",
    "21: .ascii \"This line came through one string instruction.\\ndone\\n\"",
    "22:",
    "outboard_demo_guest_end:",
    ".previous",
    uart = const UART,
    rounds = const ROUNDS,
    mmio_read = const MMIO_READ,
    mmio_write = const MMIO_WRITE,
    beep = const BEEP_PORT,
    done = const DONE_PORT,
);

unsafe extern "C" {
    static outboard_demo_guest: u8;
    static outboard_demo_guest_end: u8;
}

/// The guest's code and data, to be copied anywhere.
pub fn image() -> &'static [u8] {
    let (start, end) = (&raw const outboard_demo_guest, &raw const outboard_demo_guest_end);
    // SAFETY: both labels lie in one read-only section, the second behind the first, and what lies between them is
    // initialised and never written.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}
