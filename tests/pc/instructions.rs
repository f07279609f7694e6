//! Instructions that some hosts' KVM refuses: a guest finds them carried out, whoever did it.
//!
//! Each guest ends the machine by the debug-exit port, with 1 if all went well, else with the number of the step that did not.

use crate::Case;
use crate::common::guest::{assembled, long_mode, real_mode};
use crate::dialogue::{Dialogue, pc};

pub const CASES: &[Case] = &[
    ("refused_instructions_of_real_mode", &[], || ends_well(in_real_mode(), &["--format", "0x7c00"])),
    ("refused_instructions_of_protected_mode", &[], || ends_well(in_protected_mode(), &["--format", "0x200000"])),
    ("refused_instructions_of_64_bit_mode", &[], || ends_well(&elf(in_64_bit_mode()), &["--format", "linux"])),
    ("what_nobody_can_carry_out_is_named", &[], what_nobody_can_carry_out_is_named),
];

/// Where the 64-bit guest lies.
const LONG: u64 = 0x20_0000;

real_mode!(in_real_mode:
    "xor ax, ax",
    "mov ds, ax",
    "mov ss, ax",
    "mov sp, 0x7000",
    "mov word ptr ds:[3 * 4], 0x7d00",
    "mov word ptr ds:[3 * 4 + 2], 0",
    "mov word ptr ds:[0x21 * 4], 0x7d00",
    "mov word ptr ds:[0x21 * 4 + 2], 0",
    "xor cx, cx",
    "int3",
    "int 0x21",
    "mov al, 2",
    "cmp cx, 2",
    "jne 9f",
    "mov dx, 0x1234",
    "popcnt bx, dx",
    "mov al, 3",
    "cmp bx, 5",
    "jne 9f",
    "fninit",
    "fwait",
    "mov al, 1",
    "9: out 0xf4, al",
    "jmp 9b",
    ".org 0x100",
    "inc cx",
    "iret",
);

macro_rules! protected_mode {
    ($name:ident: $($line:literal),+ $(,)?) => {
        assembled!($name, ".code32", $($line),+);
    };
}

protected_mode!(in_protected_mode:
    "mov esp, 0x280000",
    // The handler lies behind a call that jumps over it, which leaves its address on the stack.
    "call 2f",
    "inc ecx",
    "iretd",
    // A 32-bit interrupt gate for everybody.
    "2: pop eax",
    "mov edx, eax",
    "and eax, 0xffff",
    "or eax, 0x100000",
    "and edx, 0xffff0000",
    "or edx, 0xee00",
    "mov edi, 0x290000",
    "mov [edi + 3 * 8], eax",
    "mov [edi + 3 * 8 + 4], edx",
    "mov [edi + 0x30 * 8], eax",
    "mov [edi + 0x30 * 8 + 4], edx",
    "mov word ptr [esp - 8], 0x7ff",
    "mov [esp - 6], edi",
    "lidt [esp - 8]",
    "xor ecx, ecx",
    "int3",
    "int 0x30",
    "mov al, 2",
    "cmp ecx, 2",
    "jne 9f",
    "mov al, 3",
    "cmp esp, 0x280000",
    "jne 9f",
    "mov edx, 0x12345678",
    "popcnt esi, edx",
    "mov al, 4",
    "cmp esi, 13",
    "jne 9f",
    "fninit",
    "fwait",
    "mov al, 1",
    "9: out 0xf4, al",
    "jmp 9b",
);

long_mode!(in_64_bit_mode:
    "mov rsp, 0x280000",
    "lea r15, [rip + 8f]",
    "lea r14, [rip + 7f]",
    "mov edi, 0x290000",
    // Two handlers: one that counts, for 3 and 0x30; one that steps over UD2, for 6.
    "mov rax, r15",
    "mov esi, 3",
    "call 6f",
    "mov rax, r15",
    "mov esi, 0x30",
    "call 6f",
    "mov rax, r14",
    "mov esi, 6",
    "call 6f",
    "mov word ptr [rsp - 16], 0xfff",
    "mov [rsp - 14], rdi",
    "lidt [rsp - 16]",
    "xor ecx, ecx",
    "int3",
    "int 0x30",
    "ud2",
    "mov al, 2",
    "cmp ecx, 12",
    "jne 9f",
    "mov al, 3",
    "cmp rsp, 0x280000",
    "jne 9f",
    "mov rdx, 0x123456789abcdef0",
    "popcnt rsi, rdx",
    "mov al, 4",
    "cmp rsi, 32",
    "jne 9f",
    // Sixteen bytes: what is expected is found and replaced, then it is not found.
    "mov edi, 0x2a0000",
    "mov qword ptr [rdi], 1",
    "mov qword ptr [rdi + 8], 2",
    "mov eax, 1",
    "mov edx, 2",
    "mov ebx, 3",
    "mov ecx, 4",
    "lock cmpxchg16b [rdi]",
    "mov r8b, 5",
    "jne 10f",
    "cmp qword ptr [rdi + 8], 4",
    "jne 10f",
    "lock cmpxchg16b [rdi]",
    "mov r8b, 6",
    "je 10f",
    "cmp rax, 3",
    "jne 10f",
    "cmp rdx, 4",
    "jne 10f",
    // Without a shadow stack the register stays.
    "mov esi, 5",
    ".byte 0xf3, 0x48, 0x0f, 0x1e, 0xce", // rdsspq rsi
    "mov r8b, 7",
    "cmp rsi, 5",
    "jne 10f",
    "fninit",
    "fwait",
    // Features that a processor may lack, by leaf 7 and leaf 1.
    "mov eax, 7",
    "xor ecx, ecx",
    "cpuid",
    "mov r12d, ebx",
    "bt r12d, 20",
    "jnc 11f",
    "stac",
    "pushfq",
    "pop rax",
    "clac",
    "pushfq",
    "pop rdx",
    "xor rax, rdx",
    "mov r8b, 8",
    "cmp rax, 0x40000",
    "jne 10f",
    "11: bt r12d, 10",
    "jnc 12f",
    "mov edi, 0x2a0000",
    "mov qword ptr [rdi], 0",
    "mov qword ptr [rdi + 8], 0",
    "mov eax, 2",
    "invpcid rax, [rdi]",
    "12: mov eax, 1",
    "cpuid",
    "bt ecx, 26",
    "jnc 13f",
    "mov rax, cr4",
    "or rax, 0x40000",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xgetbv",
    "mov r8b, 9",
    "test al, 1",
    "je 10f",
    // x87 state there and back: the control word that is saved comes back.
    "mov word ptr [rsp - 8], 0x27f",
    "fldcw [rsp - 8]",
    "mov edi, 0x2b0000",
    "mov eax, 1",
    "xor edx, edx",
    "xsave [rdi]",
    "fninit",
    "mov eax, 1",
    "xrstor [rdi]",
    "fnstcw [rsp - 8]",
    "mov r8b, 10",
    "cmp word ptr [rsp - 8], 0x27f",
    "jne 10f",
    "13: mov r8b, 1",
    "10: mov al, r8b",
    "9: out 0xf4, al",
    "jmp 9b",
    // Puts an interrupt gate for handler RAX to vector ESI of the table at RDI.
    "6: shl esi, 4",
    "mov word ptr [rdi + rsi], ax",
    "mov dword ptr [rdi + rsi + 2], 0x10",
    "mov byte ptr [rdi + rsi + 5], 0xee",
    "shr rax, 16",
    "mov word ptr [rdi + rsi + 6], ax",
    "shr rax, 16",
    "mov [rdi + rsi + 8], rax",
    "ret",
    "7: add ecx, 10",
    "add qword ptr [rsp], 2",
    "iretq",
    "8: inc ecx",
    "iretq",
);

/// An executable of one segment that begins at its first byte.
fn elf(code: &[u8]) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [LONG, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    out.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [120, LONG, LONG, code.len() as u64, code.len() as u64, 8] {
        out.extend(word.to_le_bytes());
    }
    out.extend(code);
    out
}

/// Runs a guest from a file; its status, and what was said.
fn run(image: &[u8], words: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest");
    std::fs::write(&path, image).expect("a file");
    let words = [&["--kernel", path.to_str().expect("a plain name")], words].concat();
    let (status, _, said) = Dialogue::by_pipes(pc(&words)).ended();
    (status.code(), said)
}

fn ends_well(image: &[u8], words: &[&str]) {
    let (status, said) = run(image, words);
    assert_eq!(status, Some(1 << 1 | 1), "step {:?}: {said}", status.map(|status| status >> 1));
}

fn what_nobody_can_carry_out_is_named() {
    // SSE on an address without memory: wherever the guest runs, KVM has to emulate it and does not know it, and the machine
    // finds no memory either.
    long_mode!(adds_where_nothing_is:
        "mov rax, cr4",
        "or eax, 0x200", // OSFXSR, without which SSE is undefined
        "mov cr4, rax",
        "mov eax, 0xd0000000",
        "paddq xmm1, [rax]",
        "2: jmp 2b",
    );
    let (status, said) = run(&elf(adds_where_nothing_is()), &["--format", "linux"]);
    assert!(matches!(status, Some(1 | 74)), "{status:?}: {said}");
    let named = "cannot carry out the instruction paddq xmm1,[rax] (66 0f d4 08) at address 0x200010, which KVM refuses: \
                 there is no memory at its physical address 0xd0000000";
    assert!(said.contains(named), "{said}");
}
