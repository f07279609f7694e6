//! Requests that are refused, each by its errno. None of them ends the VM.

use outboard_plugin::{Connection, Error, Event, Space};
use outboard_wire::control::{RANGE_POSTED, RANGE_SYNCHRONOUS, ReserveRange, SPACE_MMIO, SPACE_PORT};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(ranges_that_overlap_are_refused),
    case!(ranges_past_the_end_are_refused),
    case!(unknown_spaces_and_kinds_are_refused),
    case!(ranges_that_do_not_exist_cannot_be_released),
    case!(a_second_start_is_refused),
    case!(vcpus_past_the_last_do_not_exist).options(&["--cpus", "3"]),
    case!(check_extension_asks_kvm),
    case!(the_vm_runs_on_after_refusals),
];

real_mode!(reports: "2: out 0x10, al", "jmp 2b");

fn ranges_that_overlap_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for space in [Space::Port, Space::Mmio] {
        vm.reserve(space, 0x100..0x110)?;
        vm.reserve_posted(space, 0x200..0x201)?;
        for range in [0x100..0x110, 0x10f..0x111, 0xff..0x101, 0x105..0x106, 0..0x1000, 0x200..0x201, 0x1ff..0x202] {
            refused(vm.reserve(space, range.clone()), libc::EPERM);
            refused(vm.reserve_posted(space, range), libc::EPERM);
        }
        vm.reserve(space, 0x110..0x200)?;
        vm.reserve_posted(space, 0xff..0x100)?;
    }
    Ok(())
}

fn reserve(vm: &mut Connection, space: u32, kind: u32, start: u64, length: u64) -> Result<(), Error> {
    vm.call(&ReserveRange { space, kind, start, length }, &[]).map(drop)
}

fn ranges_past_the_end_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for kind in [RANGE_SYNCHRONOUS, RANGE_POSTED] {
        refused(reserve(&mut vm, SPACE_MMIO, kind, u64::MAX, 1), libc::EINVAL); // the last byte
        refused(reserve(&mut vm, SPACE_MMIO, kind, u64::MAX - 9, 10), libc::EINVAL);
        refused(reserve(&mut vm, SPACE_MMIO, kind, u64::MAX, 2), libc::EINVAL);
        refused(reserve(&mut vm, SPACE_MMIO, kind, 2, u64::MAX), libc::EINVAL);
    }
    reserve(&mut vm, SPACE_MMIO, RANGE_SYNCHRONOUS, u64::MAX - 10, 10)?;
    Ok(())
}

fn unknown_spaces_and_kinds_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for (space, kind) in [(2, RANGE_SYNCHRONOUS), (u32::MAX, RANGE_POSTED), (SPACE_PORT, 3), (SPACE_MMIO, u32::MAX)] {
        refused(reserve(&mut vm, space, kind, 0x100, 1), libc::EINVAL);
        refused(reserve(&mut vm, space, kind, 0x100, 0), libc::EINVAL);
    }
    Ok(())
}

fn ranges_that_do_not_exist_cannot_be_released() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    vm.reserve(Space::Port, 0x100..0x110)?;
    refused(vm.release(Space::Port, 0x101), libc::ENOENT);
    refused(vm.release(Space::Mmio, 0x100), libc::ENOENT);
    refused(vm.release_posted(Space::Port, 0x100), libc::ENOENT);
    vm.release(Space::Port, 0x100)?;
    refused(vm.release(Space::Port, 0x100), libc::ENOENT);
    vm.reserve(Space::Port, 0x108..0x109)?;
    Ok(())
}

fn a_second_start_is_refused() -> Tested {
    let (mut vm, _memory) = connect(reports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    let mut other = vm.new_connection()?;
    vm.start()?;
    refused(vm.start(), libc::EINVAL);
    refused(other.start(), libc::EINVAL);
    let mut vcpu = begin(&vm, 0)?;
    written(&mut vcpu, 0x10)?;
    refused(vm.start(), libc::EINVAL);
    Ok(())
}

fn vcpus_past_the_last_do_not_exist() -> Tested {
    let vm = outboard_plugin::connect()?;
    assert_eq!(vm.vcpu_count(), 3);
    let last = vm.vcpu(2)?;
    for id in [3, 64, u32::MAX] {
        assert_eq!(vm.vcpu(id).unwrap_err().errno(), libc::ENOENT);
    }
    assert_eq!(vm.vcpu(2).unwrap_err().errno(), libc::EBUSY, "it is taken");
    drop(last);
    vm.vcpu(2)?;
    Ok(())
}

fn check_extension_asks_kvm() -> Tested {
    const USER_MEMORY: u32 = 3;
    const NR_MEMSLOTS: u32 = 10;
    let mut vm = outboard_plugin::connect()?;
    assert_eq!(vm.check_extension(USER_MEMORY)?, 1);
    assert!(vm.check_extension(NR_MEMSLOTS)? > 1, "the value travels, not only a yes");
    assert_eq!(vm.check_extension(0xffff)?, 0);
    assert_eq!(vm.check_extension(u32::MAX)?, 0);
    Ok(())
}

fn the_vm_runs_on_after_refusals() -> Tested {
    let (mut vm, _memory) = connect(reports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for _ in 0..100 {
        refused(vm.reserve(Space::Port, 0x10..0x11), libc::EPERM);
        refused(vm.start(), libc::EINVAL);
        refused(vm.create_io_event(Space::Port, 0x10, 3, None), libc::EINVAL);
        match vcpu.wait()? {
            Event::Write(write) => assert_eq!(write.address(), 0x10),
            other => panic!("{other:?} instead of a write"),
        }
    }
    Ok(())
}
