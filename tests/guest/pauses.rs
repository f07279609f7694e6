//! Pauses: every one asked for arrives, wherever the vCPU is.

use outboard_plugin::{Connection, Error, Event, Space, Vcpu};

use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{CODE, MMIO, begin, begin_long_mode, connect, enter, next_pause, next_read};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(ten_thousand_pauses_of_a_guest_that_makes_accesses),
    case!(ten_thousand_pauses_of_a_guest_that_computes),
    case!(pauses_of_a_guest_that_sleeps),
    case!(a_pause_waits_for_the_access_in_flight),
    case!(a_pause_of_a_paused_vcpu_comes_after_it),
    case!(a_pause_before_the_first_resume_comes_after_it),
    case!(a_pause_goes_to_the_vcpus_named).options(&["--cpus", "3"]),
    case!(a_pause_storm_from_two_connections_ends).options(&["--cpus", "2"]),
];

const PAUSES: u64 = 10_000;

long_mode!(all_kinds_of_accesses:
    "2: out 0x10, al",
    "in al, 0x10",
    "mov [rbx], rax",
    "mov rax, [rbx]",
    "out 0x50, al", // posted
    "mov [rbx + 8], eax", // posted
    "out 0x80, al", // unclaimed
    "in al, 0x80",
    "mov rsi, 0x4000",
    "mov ecx, 3",
    "mov edx, 0x10",
    "rep outsb",
    "inc r15",
    "jmp 2b",
);

fn ten_thousand_pauses_of_a_guest_that_makes_accesses() -> Tested {
    let (mut vm, memory) = connect(all_kinds_of_accesses())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Mmio, MMIO..MMIO + 8)?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.reserve_posted(Space::Mmio, MMIO + 8..MMIO + 12)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| regs.rbx = MMIO)?;
    pause_one_by_one(&mut vm, &mut vcpu, PAUSES)
}

real_mode!(computes_without_exits: "2: inc eax", "jmp 2b");

fn ten_thousand_pauses_of_a_guest_that_computes() -> Tested {
    let (mut vm, _memory) = connect(computes_without_exits())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    pause_one_by_one(&mut vm, &mut vcpu, PAUSES)
}

real_mode!(sleeps: "2: hlt", "jmp 2b");

fn pauses_of_a_guest_that_sleeps() -> Tested {
    let (mut vm, _memory) = connect(sleeps())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    pause_one_by_one(&mut vm, &mut vcpu, 1000)
}

/// Asks for a pause and serves the guest until it comes, so often.
fn pause_one_by_one(vm: &mut Connection, vcpu: &mut Vcpu, count: u64) -> Tested {
    for number in 0..count {
        let cookie = number << 32 | 0xfeed;
        vm.pause_vcpus([0], cookie)?;
        assert_eq!(serve_until_paused(vcpu)?, cookie);
    }
    Ok(())
}

/// Serves accesses until a pause comes; returns its cookie.
fn serve_until_paused(vcpu: &mut Vcpu) -> Result<u64, Error> {
    loop {
        match vcpu.wait()? {
            Event::Read(_) | Event::Write(_) | Event::Posted(_) => {}
            Event::Paused(paused) => return Ok(paused.cookie()),
            other => panic!("{other:?} instead of an access or a pause"),
        }
    }
}

real_mode!(reads_a_port_and_memory:
    "2: in eax, dx", // 3 bytes with its prefix
    "mov ecx, [bx]", // 4 bytes with its prefix
    "jmp 2b",
);

fn a_pause_waits_for_the_access_in_flight() -> Tested {
    let (mut vm, _memory) = connect(reads_a_port_and_memory())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Mmio, 0x10_0000..0x10_1000)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    enter(&mut init, |regs| regs.rdx = 0x10)?;
    let mut sregs = init.sregs()?;
    (sregs.ds.selector, sregs.ds.base) = (0xffff, 0x10_0000);
    init.set_sregs(&sregs)?;
    drop(init);
    let code = u64::from(CODE);
    for value in 1..200 {
        let read = next_read(&mut vcpu)?;
        assert_eq!(read.space(), Space::Port);
        vm.pause_vcpus([0], value)?;
        read.answer_u64(value);
        let mut paused = next_pause(&mut vcpu)?;
        let regs = paused.regs()?;
        assert_eq!((paused.cookie(), regs.rax, regs.rip), (value, value, code + 2), "the port read is complete");
        drop(paused);
        let read = next_read(&mut vcpu)?;
        assert_eq!(read.space(), Space::Mmio);
        vm.pause_vcpus([0], !value)?;
        read.answer_u64(value << 8);
        let mut paused = next_pause(&mut vcpu)?;
        let regs = paused.regs()?;
        assert_eq!(
            (paused.cookie(), regs.rcx, regs.rip),
            (!value, value << 8, code + 5),
            "the memory read is complete"
        );
    }
    Ok(())
}

fn a_pause_of_a_paused_vcpu_comes_after_it() -> Tested {
    let (mut vm, _memory) = connect(computes_without_exits())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for round in 0..200 {
        vm.pause_vcpus([0], 10 * round)?;
        let paused = next_pause(&mut vcpu)?;
        assert_eq!(paused.cookie(), 10 * round);
        for later in 1..4 {
            vm.pause_vcpus([0], 10 * round + later)?;
        }
        drop(paused);
        // Those asked for while it was paused are one pause, with the last cookie.
        assert_eq!(next_pause(&mut vcpu)?.cookie(), 10 * round + 3);
    }
    Ok(())
}

fn a_pause_before_the_first_resume_comes_after_it() -> Tested {
    let (mut vm, _memory) = connect(computes_without_exits())?;
    vm.pause_vcpus([0], 1)?;
    vm.pause_vcpus([0], 2)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut paused = next_pause(&mut vcpu)?;
    assert_eq!(paused.cookie(), 2);
    assert_eq!(paused.regs()?.rip, u64::from(CODE), "before the first instruction");
    Ok(())
}

fn a_pause_goes_to_the_vcpus_named() -> Tested {
    let (mut vm, _memory) = connect(computes_without_exits())?;
    vm.start()?;
    let mut vcpus = (0..3).map(|id| begin(&vm, id)).collect::<Result<Vec<_>, _>>()?;
    for round in 0..50 {
        // Numbers past the last vCPU are ignored.
        vm.pause_vcpus([0, 2, 3, 63, 64, 1023, 5000], 1000 + round)?;
        vm.pause_vcpus([1], 2000 + round)?;
        for (vcpu, base) in vcpus.iter_mut().zip([1000, 2000, 1000]) {
            assert_eq!(next_pause(vcpu)?.cookie(), base + round);
        }
    }
    Ok(())
}

fn a_pause_storm_from_two_connections_ends() -> Tested {
    const STORM: u64 = 2000;
    const LAST: u64 = u64::MAX;
    let (mut vm, memory) = connect(all_kinds_of_accesses())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.start()?;
    let mut vcpus = [
        begin_long_mode(&vm, 0, &memory, |regs| regs.rbx = MMIO)?,
        begin_long_mode(&vm, 1, &memory, |regs| regs.rbx = MMIO)?,
    ];
    let other = vm.new_connection()?;
    std::thread::scope(|scope| -> Tested {
        let storms = [vm, other].map(|mut vm| {
            scope.spawn(move || {
                (0..STORM).try_for_each(|cookie| vm.pause_vcpus([0, 1], cookie)).expect("pauses are asked for");
                vm
            })
        });
        let servers = vcpus.each_mut().map(|vcpu| {
            scope.spawn(move || {
                for pauses in 1.. {
                    match serve_until_paused(vcpu).expect("accesses and a pause") {
                        LAST => return pauses,
                        cookie => assert!(cookie < STORM),
                    }
                }
                unreachable!("the counter has no end")
            })
        });
        let [mut vm, _other] = storms.map(|storm| storm.join().expect("the storm passes"));
        // Pauses replace each other, but the last one is never lost.
        vm.pause_vcpus([0, 1], LAST)?;
        for server in servers {
            assert!(server.join().expect("the server ends") > 1);
        }
        Ok(())
    })?;
    for vcpu in &mut vcpus {
        let event = vcpu.wait()?;
        assert!(matches!(event, Event::Read(_) | Event::Write(_) | Event::Posted(_)), "{event:?} after the last pause");
    }
    Ok(())
}
