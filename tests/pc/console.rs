//! The virtio console, driven by a guest of ours and, for whoever asks for it, by Linux.

use crate::Case;
use crate::common::guest::assembled;
use crate::dialogue::{Dialogue, pc};

pub const CASES: &[Case] = &[("a_guest_speaks_over_the_virtio_console", &[], a_guest_speaks_over_the_virtio_console)];

assembled!(
    /// Drives the device at 0xfeb00000 as the virtio specification says: prints a line, and then gives back what it receives,
    /// until that ends with a full stop. Queue 0 is at 0x290000, queue 1 at 0x291000, each with its descriptors, 0x100 behind
    /// them what the guest gives, 0x200 behind them what the device gives back. Every request is descriptor 0.
    speaks,
    ".code32",
    "mov esp, 0x280000",
    "mov ebx, 0xfeb00000",
    // Status: reset, then there is a driver; features: version 1; they are settled.
    "mov dword ptr [ebx + 0x70], 0",
    "mov dword ptr [ebx + 0x70], 3",
    "mov dword ptr [ebx + 0x24], 1",
    "mov dword ptr [ebx + 0x20], 1",
    "mov dword ptr [ebx + 0x70], 11",
    // Each queue: eight entries, its three addresses, ready.
    "xor ecx, ecx",
    "mov edi, 0x290000",
    "2: mov [ebx + 0x30], ecx",
    "mov dword ptr [ebx + 0x38], 8",
    "mov [ebx + 0x80], edi",
    "lea eax, [edi + 0x100]",
    "mov [ebx + 0x90], eax",
    "lea eax, [edi + 0x200]",
    "mov [ebx + 0xa0], eax",
    "mov dword ptr [ebx + 0x44], 1",
    "add edi, 0x1000",
    "inc ecx",
    "cmp ecx, 2",
    "jne 2b",
    "mov dword ptr [ebx + 0x70], 15",
    "mov eax, 0x200200",
    "mov edx, 15",
    "call 7f",
    // A buffer of 64 bytes at 0x292000 that the device may write.
    "3: mov dword ptr ds:[0x290000], 0x292000",
    "mov dword ptr ds:[0x290008], 64",
    "mov dword ptr ds:[0x29000c], 2",
    "inc word ptr ds:[0x290102]",
    "mov dword ptr [ebx + 0x50], 0",
    "mov ax, ds:[0x290102]",
    "4: pause",
    "cmp ax, ds:[0x290202]",
    "jne 4b",
    "movzx ecx, ax",
    "dec ecx",
    "and ecx, 7",
    "mov edx, [ecx * 8 + 0x290208]",
    "mov eax, 0x292000",
    "call 7f",
    "cmp byte ptr [edx + 0x291fff], 0x2e",
    "jne 3b",
    "mov al, 1",
    "5: out 0xf4, al",
    "jmp 5b",
    // Sends EDX bytes from EAX on.
    "7: mov ds:[0x291000], eax",
    "mov ds:[0x291008], edx",
    "inc word ptr ds:[0x291102]",
    "mov dword ptr [ebx + 0x50], 1",
    "mov ax, ds:[0x291102]",
    "8: pause",
    "cmp ax, ds:[0x291202]",
    "jne 8b",
    "ret",
    ".org 0x200",
    ".ascii \"A line of ours.\""
);

fn a_guest_speaks_over_the_virtio_console() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest");
    std::fs::write(&path, speaks()).expect("a file");
    let path = path.to_str().expect("a plain name");
    let mut run = Dialogue::by_pipes(pc(&["--kernel", path, "--format", "0x200000", "--console", "virtio"]));
    run.until("A line of ours.");
    run.types("hello");
    run.until("hello");
    // More than a buffer holds comes in pieces.
    let long = "0123456789abcdef".repeat(64);
    run.types(&long);
    run.until(&long);
    run.types("that is all.");
    run.until("that is all.");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(1 << 1 | 1), "{said}");
}
