//! Posted writes: the vCPU runs on, and nothing is lost or overtaken.

use outboard_plugin::{Event, Space};

use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{MMIO, begin, begin_long_mode, begin_with, connect, next_posted, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_million_arrive_in_order_with_every_value).options(&["--cpus", "2"]),
    case!(ports_and_memory_and_synchronous_exits_keep_their_order),
    case!(a_full_ring_makes_the_guest_wait_and_loses_nothing),
    case!(reads_of_a_posted_range_do_not_reach_the_plugin),
    case!(writes_alone_can_be_posted_and_reads_come_behind_them),
    case!(a_posted_write_does_not_wait_for_the_plugin),
];

real_mode!(counts_for_ever:
    "2: out dx, eax",
    "inc eax",
    "jmp 2b",
);

fn a_million_arrive_in_order_with_every_value() -> Tested {
    const EACH: u64 = 500_000;
    let (mut vm, _memory) = connect(counts_for_ever())?;
    vm.reserve_posted(Space::Port, 0x50..0x54)?;
    vm.start()?;
    std::thread::scope(|scope| {
        for id in 0..2 {
            let vm = &vm;
            scope.spawn(move || {
                let port = 0x50 + u64::from(id) * 2;
                let mut vcpu = begin_with(vm, id, |regs| regs.rdx = port).expect("the vCPU begins");
                for value in 0..EACH {
                    let write = next_posted(&mut vcpu).expect("a posted write");
                    assert_eq!((write.address, write.length, write.data), (port, 4, value));
                }
            });
        }
    });
    Ok(())
}

long_mode!(mixed:
    "2: out 0x50, eax",
    "mov [rbx], eax",
    "mov [rbx + 8], rax",
    "out 0x10, eax",
    "out 0x50, al",
    "mov ecx, [rbx + 0x10]",
    "inc eax",
    "jmp 2b",
);

fn ports_and_memory_and_synchronous_exits_keep_their_order() -> Tested {
    let (mut vm, memory) = connect(mixed())?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.reserve_posted(Space::Mmio, MMIO..MMIO + 0x10)?;
    vm.reserve(Space::Mmio, MMIO + 0x10..MMIO + 0x14)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| regs.rbx = MMIO)?;
    for value in 0..2000 {
        for (space, address, length) in [(Space::Port, 0x50, 4), (Space::Mmio, MMIO, 4), (Space::Mmio, MMIO + 8, 8)] {
            let write = next_posted(&mut vcpu)?;
            assert_eq!((write.space, write.address, write.length, write.data), (space, address, length, value));
        }
        assert_eq!(written(&mut vcpu, 0x10)?, value);
        let write = next_posted(&mut vcpu)?;
        assert_eq!((write.space, write.address, write.length, write.data), (Space::Port, 0x50, 1, value & 0xff));
        match vcpu.wait()? {
            Event::Read(read) => assert_eq!(read.address(), MMIO + 0x10),
            other => panic!("{other:?} instead of a read"),
        }
    }
    Ok(())
}

real_mode!(counts_in_memory:
    "2: inc eax",
    "mov [0x4000], eax",
    "out dx, eax",
    "jmp 2b",
);

fn a_full_ring_makes_the_guest_wait_and_loses_nothing() -> Tested {
    const SLOTS: u32 = outboard_wire::limits::POSTED_SLOTS as u32;
    let (mut vm, memory) = connect(counts_in_memory())?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| regs.rdx = 0x50)?;
    // The guest counts each write before it makes it: the first one for which there is no slot is counted too.
    while memory.read_obj::<u32>(0x4000)? <= SLOTS {
        std::thread::yield_now();
    }
    for value in 1..=u64::from(4 * SLOTS) {
        assert_eq!(next_posted(&mut vcpu)?.data, value);
        let count = memory.read_obj::<u32>(0x4000)?;
        // Slots are given back when the next write is asked for, so the guest may be this far ahead and no further.
        assert!(u64::from(count) <= value + u64::from(SLOTS) + 1, "{count} writes while {value} were taken");
    }
    Ok(())
}

real_mode!(reads_what_it_posted:
    "mov al, 0x77",
    "out 0x50, al",
    "in al, 0x50",
    "out 0x10, al",
    "hlt",
);

fn reads_of_a_posted_range_do_not_reach_the_plugin() -> Tested {
    let (mut vm, _memory) = connect(reads_what_it_posted())?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(next_posted(&mut vcpu)?.data, 0x77);
    assert_eq!(written(&mut vcpu, 0x10)?, 0, "an unclaimed read gives zero");
    Ok(())
}

fn writes_alone_can_be_posted_and_reads_come_behind_them() -> Tested {
    let (mut vm, _memory) = connect(reads_what_it_posted())?;
    vm.reserve_posted_writes(Space::Port, 0x50..0x51)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(next_posted(&mut vcpu)?.data, 0x77);
    match vcpu.wait()? {
        Event::Read(read) if read.address() == 0x50 => read.answer_u64(0x42),
        other => panic!("{other:?} instead of a read"),
    }
    assert_eq!(written(&mut vcpu, 0x10)? & 0xff, 0x42);
    assert!(vm.release_posted(Space::Port, 0x50).is_err(), "it is of another kind");
    vm.release_posted_writes(Space::Port, 0x50)?;
    Ok(())
}

real_mode!(posts_then_marks_memory:
    "out 0x50, al",
    "mov byte ptr [0x4000], 1",
    "hlt",
);

fn a_posted_write_does_not_wait_for_the_plugin() -> Tested {
    let (mut vm, memory) = connect(posts_then_marks_memory())?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    // Nobody takes the write before the guest has run on.
    while memory.read_obj::<u8>(0x4000)? == 0 {
        std::thread::yield_now();
    }
    assert_eq!(next_posted(&mut vcpu)?.address, 0x50);
    Ok(())
}
