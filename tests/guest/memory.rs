//! Memory slots: what the guest sees of them, and what is refused.

use std::os::fd::{AsFd, OwnedFd};

use outboard::sys::Errno;
use outboard::sys::memfd::{self, Seals};
use outboard_plugin::{Connection, Error, Event, GuestMemory, MemorySlot, Region, Space};
use outboard_wire::control::CreateMemory;

use crate::common::guest::long_mode;
use crate::common::machine::{MEMORY, begin_long_mode, connect, map_gib, next_write, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(slots_show_parts_of_one_memfd),
    case!(a_write_to_a_read_only_slot_is_an_mmio_write),
    case!(a_read_only_slot_keeps_a_dirty_log_too),
    case!(the_dirty_log_has_exactly_the_pages_written),
    case!(the_dirty_log_of_sixteen_gib_is_whole),
    case!(a_destroyed_slot_is_mmio),
    case!(wrong_offsets_and_lengths_are_refused),
    case!(memory_that_can_shrink_is_refused),
    case!(what_is_no_memory_is_refused),
    case!(overlapping_slots_are_refused),
    case!(slots_that_do_not_exist_are_refused),
];

const PAGE: u64 = 4096;
/// Behind the memory of [`connect`].
const SECOND: u64 = 0x20_0000;

long_mode!(copies:
    "2: mov rax, [rsi]",
    "mov [rdi], rax",
    "out 0x10, eax",
    "jmp 2b",
);

fn slots_show_parts_of_one_memfd() -> Tested {
    let (mut vm, memory) = connect(copies())?;
    let file = GuestMemory::new(16 * PAGE as usize)?;
    file.write_obj(5 * PAGE + 8, &0x1122_3344_5566_7788u64)?;
    vm.create_memory(&file, &Region { offset: 4 * PAGE, length: 4 * PAGE, start: SECOND, ..Region::default() })?;
    vm.create_memory(&file, &Region { offset: PAGE, length: PAGE, start: SECOND + 8 * PAGE, ..Region::default() })?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| {
        (regs.rsi, regs.rdi) = (SECOND + PAGE + 8, SECOND + 8 * PAGE + 16);
    })?;
    assert_eq!(written(&mut vcpu, 0x10)?, 0x5566_7788);
    assert_eq!(file.read_obj::<u64>(PAGE + 16)?, 0x1122_3344_5566_7788);
    // The plugin's writes reach the guest as they are.
    let stopped = next_write(&mut vcpu)?;
    file.write_obj(5 * PAGE + 8, &7u64)?;
    drop(stopped);
    assert_eq!(written(&mut vcpu, 0x10)?, 7);
    assert_eq!(file.read_obj::<u64>(PAGE + 16)?, 7);
    Ok(())
}

fn a_write_to_a_read_only_slot_is_an_mmio_write() -> Tested {
    let (mut vm, memory) = connect(copies())?;
    let rom = GuestMemory::new(PAGE as usize)?;
    rom.write_obj(0, &0x1234u64)?;
    vm.create_memory(&rom, &Region { length: PAGE, start: SECOND, read_only: true, ..Region::default() })?;
    vm.reserve(Space::Mmio, SECOND..SECOND + PAGE)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| (regs.rsi, regs.rdi) = (SECOND, SECOND + 0x100))?;
    let write = next_write(&mut vcpu)?;
    assert_eq!((write.space(), write.address(), write.value()), (Space::Mmio, SECOND + 0x100, 0x1234));
    assert_eq!(write.data().len(), 8);
    drop(write);
    assert_eq!(written(&mut vcpu, 0x10)?, 0x1234, "reads do not leave the guest");
    assert_eq!(rom.read_obj::<u64>(0x100)?, 0, "the memory is as it was");
    Ok(())
}

/// What the guest writes to such a slot is not in its log, because it is not in the memory either.
fn a_read_only_slot_keeps_a_dirty_log_too() -> Tested {
    let (mut vm, memory) = connect(copies())?;
    let rom = GuestMemory::new(9 * PAGE as usize)?;
    let region = Region { length: rom.len(), start: SECOND, read_only: true, dirty_log: true, ..Region::default() };
    let slot = vm.create_memory(&rom, &region)?;
    vm.reserve(Space::Mmio, SECOND..SECOND + rom.len())?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| (regs.rsi, regs.rdi) = (SECOND, SECOND + PAGE))?;
    assert_eq!(next_write(&mut vcpu)?.address(), SECOND + PAGE);
    assert_eq!(vm.dirty_log(&slot)?, [0, 0]);
    Ok(())
}

long_mode!(writes_three_pages:
    "2: mov [rdi], rax", // page 0
    "mov [rdi + 0x3ff8], rax", // page 3, its last word
    "mov [rdi + 0x20000], rax", // page 32
    "out 0x10, al",
    "mov [rdi + 0x24000], rax", // page 36, the last one
    "out 0x10, al",
    "out 0x10, al",
    "jmp 2b",
);

fn the_dirty_log_has_exactly_the_pages_written() -> Tested {
    let (mut vm, memory) = connect(writes_three_pages())?;
    let ram = GuestMemory::new(37 * PAGE as usize)?;
    let region = Region { length: ram.len(), start: SECOND, dirty_log: true, ..Region::default() };
    let slot = vm.create_memory(&ram, &region)?;
    assert_eq!(slot.bitmap_len(), 5);
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| regs.rdi = SECOND)?;
    for _ in 0..2 {
        for log in [[0b1001, 0, 0, 0, 1], [0, 0, 0, 0, 0x10], [0; 5]] {
            let stopped = next_write(&mut vcpu)?;
            assert_eq!(vm.dirty_log(&slot)?, log);
            assert_eq!(vm.dirty_log(&slot)?, [0; 5], "a page is reported once");
            drop(stopped);
        }
    }
    Ok(())
}

long_mode!(writes_first_and_last:
    "mov [rsi], rax",
    "mov [rdi], rax",
    "out 0x10, al",
    "hlt",
);

fn the_dirty_log_of_sixteen_gib_is_whole() -> Tested {
    const GIB: u64 = 1 << 30;
    const START: u64 = 4 * GIB;
    const LENGTH: u64 = 16 * GIB;
    let (mut vm, memory) = connect(writes_first_and_last())?;
    let ram = GuestMemory::new(LENGTH as usize)?;
    let region = Region { length: LENGTH, start: START, dirty_log: true, ..Region::default() };
    let slot = vm.create_memory(&ram, &region)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    map_gib(&memory, START / GIB, 0xd000)?;
    map_gib(&memory, (START + LENGTH) / GIB - 1, 0xe000)?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| {
        (regs.rax, regs.rsi, regs.rdi) = (u64::MAX, START, START + LENGTH - 8);
    })?;
    let stopped = next_write(&mut vcpu)?;
    let log = vm.dirty_log(&slot)?;
    assert_eq!(log.len() as u64, LENGTH / PAGE / 8);
    let dirty: Vec<_> = log.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
    assert_eq!(dirty, [(0, &1), (log.len() - 1, &0x80)]);
    drop(stopped);
    assert_eq!(ram.read_obj::<u64>(LENGTH - 8)?, u64::MAX);
    Ok(())
}

fn a_destroyed_slot_is_mmio() -> Tested {
    let (mut vm, memory) = connect(copies())?;
    let ram = GuestMemory::new(PAGE as usize)?;
    let slot = vm.create_memory(&ram, &Region { length: PAGE, start: SECOND, ..Region::default() })?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Mmio, SECOND..SECOND + PAGE)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| (regs.rsi, regs.rdi) = (SECOND, SECOND + 8))?;
    let stopped = next_write(&mut vcpu)?;
    assert_eq!(stopped.space(), Space::Port);
    vm.destroy_memory(&slot)?;
    drop(stopped);
    match vcpu.wait()? {
        Event::Read(read) => {
            assert_eq!((read.space(), read.address()), (Space::Mmio, SECOND));
            read.answer_u64(0x99);
        }
        other => panic!("{other:?} instead of a read"),
    }
    assert_eq!(written(&mut vcpu, SECOND + 8)?, 0x99);
    assert_eq!(ram.read_obj::<u64>(8)?, 0);
    Ok(())
}

fn wrong_offsets_and_lengths_are_refused() -> Tested {
    let (mut vm, _memory) = connect(copies())?;
    let file = GuestMemory::new(4 * PAGE as usize)?;
    let mut refuses = |offset: u64, length: u64, start: u64, errno| {
        refused(vm.create_memory(&file, &Region { offset, length, start, ..Region::default() }), errno);
    };
    refuses(1, PAGE, SECOND, libc::EINVAL);
    refuses(0, PAGE + 1, SECOND, libc::EINVAL);
    refuses(0, PAGE, SECOND + 1, libc::EINVAL);
    refuses(0, 0, SECOND, libc::EINVAL);
    refuses(0, 5 * PAGE, SECOND, libc::EINVAL);
    refuses(4 * PAGE, PAGE, SECOND, libc::EINVAL);
    refuses(u64::MAX - PAGE + 1, PAGE, SECOND, libc::EOVERFLOW);
    refuses(0, PAGE, u64::MAX - PAGE + 1, libc::EOVERFLOW);
    let unknown_flag = CreateMemory { offset: 0, length: PAGE, start: SECOND, flags: 4, reserved: 0 };
    refused(vm.call(&unknown_flag, &[file.as_fd()]), libc::EINVAL);
    vm.create_memory(&file, &Region { length: PAGE, start: SECOND, ..Region::default() })?;
    Ok(())
}

/// Tries one page of `file` in an address range of its own.
fn page_of(vm: &mut Connection, file: &impl AsFd) -> Result<MemorySlot, Error> {
    vm.create_memory(file, &Region { length: PAGE, start: SECOND, ..Region::default() })
}

/// A memfd of one page with these seals only.
fn sealed(seals: &[Seals]) -> Result<OwnedFd, Errno> {
    let file = memfd::create(c"test")?;
    memfd::set_size(file.as_fd(), PAGE)?;
    seals.iter().try_for_each(|seals| memfd::add_seals(file.as_fd(), *seals))?;
    Ok(file)
}

fn memory_that_can_shrink_is_refused() -> Tested {
    let (mut vm, _memory) = connect(copies())?;
    refused(page_of(&mut vm, &sealed(&[])?), libc::EPERM);
    refused(page_of(&mut vm, &sealed(&[Seals::GROW])?), libc::EPERM);
    page_of(&mut vm, &sealed(&[Seals::SHRINK])?)?;
    Ok(())
}

fn what_is_no_memory_is_refused() -> Tested {
    let (mut vm, _memory) = connect(copies())?;
    let request = CreateMemory { offset: 0, length: PAGE, start: SECOND, flags: 0, reserved: 0 };
    refused(vm.call(&request, &[]), libc::EBADF);
    let file = sealed(&[Seals::SHRINK])?;
    refused(vm.call(&request, &[file.as_fd(), file.as_fd()]), libc::EINVAL);
    refused(page_of(&mut vm, &std::fs::File::open("/dev/zero")?), libc::EINVAL);
    refused(page_of(&mut vm, &std::fs::File::open("/proc/self/exe")?), libc::EINVAL);
    Ok(())
}

fn overlapping_slots_are_refused() -> Tested {
    let (mut vm, _memory) = connect(copies())?;
    let file = GuestMemory::new(4 * PAGE as usize)?;
    let mut put = |start, length| vm.create_memory(&file, &Region { start, length, ..Region::default() });
    let slot = put(SECOND, 2 * PAGE)?;
    for (start, length) in [
        (SECOND, PAGE),
        (SECOND + PAGE, PAGE),
        (SECOND - PAGE, 2 * PAGE),
        (SECOND - PAGE, 4 * PAGE),
        (MEMORY as u64 - PAGE, PAGE),
    ] {
        refused(put(start, length), libc::EEXIST);
    }
    put(SECOND - PAGE, PAGE)?;
    put(SECOND + 2 * PAGE, PAGE)?;
    vm.destroy_memory(&slot)?;
    vm.create_memory(&file, &Region { start: SECOND, length: PAGE, ..Region::default() })?;
    Ok(())
}

fn slots_that_do_not_exist_are_refused() -> Tested {
    let (mut vm, _memory) = connect(copies())?;
    let file = GuestMemory::new(PAGE as usize)?;
    let slot = page_of(&mut vm, &file)?;
    refused(vm.dirty_log(&slot), libc::ENOENT); // it keeps no log
    vm.destroy_memory(&slot)?;
    refused(vm.dirty_log(&slot), libc::ENOENT);
    refused(vm.destroy_memory(&slot), libc::ENOENT);
    Ok(())
}
