//! Port and memory accesses of every width, and those that nobody claims.

use outboard_plugin::{Event, Space};

use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{
    MMIO, begin, begin_long_mode, begin_with, connect, next_read, next_write, refused, written,
};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(port_accesses_of_every_width),
    case!(memory_accesses_of_every_width),
    case!(a_read_not_answered_gives_zero),
    case!(unclaimed_ports_read_as_told),
    case!(unclaimed_memory_reads_as_told),
    case!(an_access_counts_by_its_first_address),
    case!(a_released_range_is_unclaimed),
];

real_mode!(ports:
    "mov dx, 0x10",
    "in al, dx",
    "out dx, al",
    "in ax, dx",
    "out dx, ax",
    "in eax, dx",
    "out dx, eax",
    "hlt",
);

fn port_accesses_of_every_width() -> Tested {
    let (mut vm, _memory) = connect(ports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for width in [1, 2, 4] {
        reads_then_writes_back(&mut vcpu, Space::Port, 0x10, width)?;
    }
    Ok(())
}

fn reads_then_writes_back(vcpu: &mut outboard_plugin::Vcpu, space: Space, address: u64, width: usize) -> Tested {
    let value = 0x8877_6655_4433_2211 & (u64::MAX >> (64 - 8 * width));
    let read = next_read(vcpu)?;
    assert_eq!((read.space(), read.address(), read.length()), (space, address, width));
    read.answer_u64(value);
    let write = next_write(vcpu)?;
    assert_eq!((write.space(), write.address(), write.data().len()), (space, address, width));
    assert_eq!(write.value(), value);
    Ok(())
}

long_mode!(memory:
    "mov al, [rbx]",
    "mov [rbx], al",
    "mov ax, [rbx + 2]",
    "mov [rbx + 2], ax",
    "mov eax, [rbx + 4]",
    "mov [rbx + 4], eax",
    "mov rax, [rbx + 8]",
    "mov [rbx + 8], rax",
    "hlt",
);

fn memory_accesses_of_every_width() -> Tested {
    let (mut vm, ram) = connect(memory())?;
    vm.reserve(Space::Mmio, MMIO..MMIO + 16)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &ram, |regs| regs.rbx = MMIO)?;
    for (offset, width) in [(0, 1), (2, 2), (4, 4), (8, 8)] {
        reads_then_writes_back(&mut vcpu, Space::Mmio, MMIO + offset, width)?;
    }
    Ok(())
}

fn a_read_not_answered_gives_zero() -> Tested {
    let (mut vm, _memory) = connect(ports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| regs.rax = 0xffff_ffff)?;
    for _ in 0..3 {
        drop(next_read(&mut vcpu)?);
        assert_eq!(written(&mut vcpu, 0x10)?, 0);
    }
    Ok(())
}

real_mode!(unclaimed_ports:
    "2: mov dx, 0x80",
    "mov eax, 0x12345678",
    "out dx, eax", // dropped
    "in eax, dx",
    "out 0x10, eax",
    "mov eax, 0x12345678",
    "in al, dx",
    "out 0x10, eax",
    "jmp 2b",
);

fn unclaimed_ports_read_as_told() -> Tested {
    let (mut vm, _memory) = connect(unclaimed_ports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 0);
    // Told while the guest stands still, so that the next read goes by it.
    let stopped = next_write(&mut vcpu)?;
    assert_eq!(stopped.value(), 0x1234_5600);
    vm.set_unclaimed(0xff)?;
    drop(stopped);
    assert_eq!(written(&mut vcpu, 0x10)?, 0xffff_ffff);
    assert_eq!(written(&mut vcpu, 0x10)?, 0x1234_56ff);
    for byte in [1, 0x7f, 0xfe] {
        refused(vm.set_unclaimed(byte), libc::EINVAL);
    }
    Ok(())
}

long_mode!(unclaimed_memory:
    "2: mov [rbx], rax", // dropped
    "mov rax, [rbx]",
    "out 0x10, eax",
    "shr rax, 32",
    "out 0x10, eax",
    "jmp 2b",
);

fn unclaimed_memory_reads_as_told() -> Tested {
    let (mut vm, ram) = connect(unclaimed_memory())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &ram, |regs| (regs.rbx, regs.rax) = (MMIO, 0x1234_5678_9abc_def0))?;
    assert_eq!(written(&mut vcpu, 0x10)?, 0);
    let stopped = next_write(&mut vcpu)?;
    assert_eq!(stopped.value(), 0);
    vm.set_unclaimed(0xff)?;
    drop(stopped);
    assert_eq!(written(&mut vcpu, 0x10)?, 0xffff_ffff);
    assert_eq!(written(&mut vcpu, 0x10)?, 0xffff_ffff);
    Ok(())
}

long_mode!(across_the_ends:
    "mov dx, 0x2f", // starts before the range and ends within: not ours
    "in eax, dx",
    "mov dx, 0x32", // starts at the last address of the range and crosses its end: ours
    "in eax, dx",
    "out dx, eax",
    "mov rax, [rbx - 4]",
    "mov rax, [rbx + 7]",
    "mov [rbx + 7], rax",
    "hlt",
);

fn an_access_counts_by_its_first_address() -> Tested {
    let (mut vm, ram) = connect(across_the_ends())?;
    vm.reserve(Space::Port, 0x30..0x33)?;
    vm.reserve(Space::Mmio, MMIO + 0x100..MMIO + 0x108)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &ram, |regs| regs.rbx = MMIO + 0x100)?;
    reads_then_writes_back(&mut vcpu, Space::Port, 0x32, 4)?;
    reads_then_writes_back(&mut vcpu, Space::Mmio, MMIO + 0x107, 8)
}

real_mode!(two_ports:
    "2: mov al, 1",
    "out 0x30, al",
    "mov al, 2",
    "out 0x10, al",
    "jmp 2b",
);

fn a_released_range_is_unclaimed() -> Tested {
    let (mut vm, _memory) = connect(two_ports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Port, 0x30..0x31)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(written(&mut vcpu, 0x30)?, 1);
    let stopped = next_write(&mut vcpu)?;
    assert_eq!(stopped.address(), 0x10);
    vm.release(Space::Port, 0x30)?;
    drop(stopped);
    for _ in 0..3 {
        assert_eq!(written(&mut vcpu, 0x10)?, 2);
    }
    let stopped = next_write(&mut vcpu)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    drop(stopped);
    match vcpu.wait()? {
        Event::Posted(write) => assert_eq!((write.address, write.data), (0x30, 1)),
        other => panic!("{other:?} instead of a posted write"),
    }
    Ok(())
}
