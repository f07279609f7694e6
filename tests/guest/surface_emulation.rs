//! Instructions that KVM cannot emulate, on the real KVM.
//!
//! The guests count bits in an address without memory: where the processor runs the guest, KVM has to emulate that access
//! and does not know the instruction; where KVM emulates all of the guest it does not know it either.

use outboard_plugin::{Connection, Event, Exit, Exited, Exits, Files, Space, Vcpu};

use crate::common::guest::real_mode;
use crate::common::machine::{CODE, begin_with, connect, next_pause, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_refused_instruction_arrives_with_bytes_and_registers),
    case!(a_thousand_refused_instructions_are_carried_out),
    case!(segments_that_the_plugin_sets_hold_from_the_next_instruction),
    case!(a_pause_sees_the_registers_behind_the_instruction),
    case!(an_instruction_that_is_carried_out_in_vain_comes_again),
    case!(whatever_kvm_makes_of_popcnt_the_guest_counts_right),
    case!(an_instruction_that_the_plugin_gives_up).around(names_the_bytes),
    case!(an_event_that_the_plugin_drops).around(names_the_bytes),
    case!(an_instruction_that_nobody_asked_for).around(names_the_failure),
    case!(an_instruction_that_nobody_asks_for_any_more).around(names_the_failure),
];

/// `popcnt ax, [bx]` in real mode.
const POPCNT: [u8; 4] = [0xf3, 0x0f, 0xb8, 0x07];
/// An address in segment 0x2000, behind the machine's memory.
const SEGMENT: u16 = 0x2000;

real_mode!(counts_bits_where_nothing_is:
    "mov ax, 0x2000",
    "mov ds, ax",
    "2: popcnt ax, [bx]",
    "out 0x10, ax",
    "mov al, es:[0]",
    "out 0x11, al",
    "inc bx",
    "jmp 2b",
);

/// Where the instruction lies.
const AT: u64 = CODE as u64 + 5;

fn machine(exits: Exits) -> Result<(Connection, Vcpu, outboard_plugin::GuestMemory), Box<dyn std::error::Error>> {
    let (mut vm, memory) = connect(counts_bits_where_nothing_is())?;
    memory.write(0, &[0xaa])?;
    memory.write(0x4000, &[0xbb])?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.subscribe(exits, &[])?;
    vm.start()?;
    let vcpu = begin_with(&vm, 0, |regs| regs.rbx = 0x100)?;
    Ok((vm, vcpu, memory))
}

/// The next event, which has to be the refused instruction.
#[track_caller]
fn failure(vcpu: &mut Vcpu) -> Result<Exited<'_>, outboard_plugin::Error> {
    match vcpu.wait()? {
        Event::Exit(exited) => {
            let Exit::EmulationFailure { count, bytes } = exited.exit() else { panic!("{exited:?}") };
            assert!(usize::from(count) >= POPCNT.len(), "{count} bytes");
            assert_eq!(bytes[..POPCNT.len()], POPCNT);
            Ok(exited)
        }
        other => panic!("{other:?} instead of an instruction that KVM cannot emulate"),
    }
}

/// Carries the instruction out: this many bits were set.
fn complete(mut exited: Exited<'_>, bits: u64) -> Tested {
    let mut regs = exited.regs()?;
    regs.rax = bits;
    regs.rip += POPCNT.len() as u64;
    exited.set_regs(&regs)?;
    exited.accept();
    Ok(())
}

fn a_refused_instruction_arrives_with_bytes_and_registers() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    let mut exited = failure(&mut vcpu)?;
    assert!(exited.files().contains(Files::REGS | Files::SREGS), "{:?}", exited.files());
    let (regs, sregs) = (exited.regs()?, exited.sregs()?);
    assert_eq!((regs.rip, regs.rbx), (AT, 0x100));
    assert_eq!((sregs.ds.selector, sregs.ds.base), (SEGMENT, u64::from(SEGMENT) << 4));
    complete(exited, 7)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 7);
    assert_eq!(written(&mut vcpu, 0x11)?, 0xaa);
    Ok(())
}

fn a_thousand_refused_instructions_are_carried_out() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    for bits in 0..1000 {
        let mut exited = failure(&mut vcpu)?;
        assert_eq!(exited.regs()?.rbx, 0x100 + bits);
        complete(exited, bits)?;
        assert_eq!(written(&mut vcpu, 0x10)?, bits);
        assert_eq!(written(&mut vcpu, 0x11)?, 0xaa);
    }
    Ok(())
}

fn segments_that_the_plugin_sets_hold_from_the_next_instruction() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    for at_once in [true, false] {
        let mut exited = failure(&mut vcpu)?;
        let mut sregs = exited.sregs()?;
        (sregs.es.selector, sregs.es.base) = if at_once { (0x400, 0x4000) } else { (0, 0) };
        if at_once {
            exited.set_sregs(&sregs)?;
        } else {
            exited.set_sregs_on_resume(&sregs)?;
        }
        complete(exited, 1)?;
        assert_eq!(written(&mut vcpu, 0x10)?, 1);
        assert_eq!(written(&mut vcpu, 0x11)?, if at_once { 0xbb } else { 0xaa });
    }
    Ok(())
}

fn a_pause_sees_the_registers_behind_the_instruction() -> Tested {
    let (mut vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    let exited = failure(&mut vcpu)?;
    vm.pause_vcpus([0], 9)?;
    complete(exited, 3)?;
    let mut paused = next_pause(&mut vcpu)?;
    let regs = paused.regs()?;
    assert_eq!((paused.cookie(), regs.rax, regs.rip), (9, 3, AT + POPCNT.len() as u64));
    drop(paused);
    assert_eq!(written(&mut vcpu, 0x10)?, 3);
    Ok(())
}

fn an_instruction_that_is_carried_out_in_vain_comes_again() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    for _ in 0..3 {
        let mut exited = failure(&mut vcpu)?;
        assert_eq!(exited.regs()?.rip, AT);
        exited.accept();
    }
    complete(failure(&mut vcpu)?, 2)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 2);
    Ok(())
}

real_mode!(counts_bits_of_a_register:
    "2: popcnt ax, bx",
    "out 0x10, ax",
    "inc bx",
    "jmp 2b",
);

fn whatever_kvm_makes_of_popcnt_the_guest_counts_right() -> Tested {
    let (mut vm, _memory) = connect(counts_bits_of_a_register())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.subscribe(Exits::EMULATION_FAILURES, &[])?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |_| {})?;
    let (mut value, mut told) = (0u64, 0u64);
    while value < 100 {
        match vcpu.wait()? {
            Event::Exit(mut exited) => {
                let bits = exited.regs()?.rbx.count_ones();
                complete(exited, bits.into())?;
                told += 1;
            }
            Event::Write(write) => {
                assert_eq!(write.value(), u64::from(value.count_ones()));
                value += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // A KVM that lets the processor count tells of nothing, one that emulates tells of each.
    assert!(told == 0 || told == value, "{told} of {value}");
    Ok(())
}

#[track_caller]
fn expect_the_end(vcpu: &mut Vcpu) -> Tested {
    match vcpu.wait()? {
        Event::Shutdown => Ok(()),
        other => panic!("{other:?} instead of the end"),
    }
}

fn an_instruction_that_the_plugin_gives_up() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    complete(failure(&mut vcpu)?, 2)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 2);
    written(&mut vcpu, 0x11)?;
    failure(&mut vcpu)?.fault();
    expect_the_end(&mut vcpu)
}

fn an_event_that_the_plugin_drops() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    drop(failure(&mut vcpu)?);
    expect_the_end(&mut vcpu)
}

/// The words of the sentence, whether the bytes are those of an instruction alone or of what follows it too.
fn names_the_bytes(case: &Case) -> Tested {
    case.program().start().ended().expect(74).complained(&[
        "the guest ended in an exit that nobody serves: vCPU 0 left the guest with KVM_EXIT_INTERNAL_ERROR, suberror 1 \
         (KVM cannot emulate an instruction: f3 0f b8 07",
        &format!("at address {AT:#x}\n"),
    ]);
    Ok(())
}

fn an_instruction_that_nobody_asked_for() -> Tested {
    let (_vm, mut vcpu, _memory) = machine(Exits::NONE)?;
    expect_the_end(&mut vcpu)
}

fn an_instruction_that_nobody_asks_for_any_more() -> Tested {
    let (mut vm, mut vcpu, _memory) = machine(Exits::EMULATION_FAILURES)?;
    let exited = failure(&mut vcpu)?;
    vm.subscribe(Exits::NONE, &[])?;
    complete(exited, 2)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 2);
    written(&mut vcpu, 0x11)?;
    expect_the_end(&mut vcpu)
}

fn names_the_failure(case: &Case) -> Tested {
    case.program().start().ended().expect(74).complained(&[
        "the guest ended in an exit that nobody serves: vCPU 0 left the guest with KVM_EXIT_INTERNAL_ERROR, suberror 1 \
         (KVM cannot emulate an instruction",
    ]);
    Ok(())
}
