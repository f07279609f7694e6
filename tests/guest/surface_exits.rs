//! Exits that a plugin asks for: MSRs, breakpoints, hypercalls, and what is refused.

use outboard_plugin::kvm_bindings::kvm_guest_debug;
use outboard_plugin::{Connection, Error, Event, Exit, Exits, MsrRange, Space, Vcpu};
use outboard_wire::control::{self as wire, Subscribe};

use crate::common::guest::real_mode;
use crate::common::machine::{CODE, begin, begin_with, connect, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(msrs_of_a_range_reach_the_plugin),
    case!(only_the_accesses_asked_for_reach_the_plugin),
    case!(msrs_that_kvm_does_not_know_reach_who_asks),
    case!(a_refused_access_is_a_fault_of_the_guest),
    case!(an_access_that_nobody_asked_for_is_a_fault_of_the_guest),
    case!(single_steps_reach_who_asks),
    case!(breakpoints_that_nobody_asked_for_end_the_vm).around(breakpoint),
    case!(what_kvm_has_can_be_asked_for_and_given_back),
    case!(wrong_subscriptions_are_refused),
    case!(a_refused_subscription_changes_nothing),
];

/// IA32_SYSENTER_CS, and a number that no processor has.
const KNOWN: u32 = 0x174;
const UNKNOWN: u32 = 0x1234_5678;

real_mode!(reads_and_writes_an_msr:
    // ecx: the MSR
    "mov word ptr [0x34], 0x1100", // vector 13: general protection
    "mov word ptr [0x36], 0",
    "2: rdmsr",
    "out 0x10, eax",
    "mov eax, edx",
    "out 0x10, eax",
    "mov eax, 0x55",
    "mov edx, 0x66",
    "wrmsr",
    "mov eax, 0x77",
    "out 0x10, eax",
    "jmp 2b",
    ".org guest_reads_and_writes_an_msr + 0x100",
    "mov eax, 0xdead",
    "out 0x11, eax",
    "pop ax",
    "add ax, 2", // behind RDMSR or WRMSR
    "push ax",
    "iret",
);

fn range(first: u32, read: bool, write: bool) -> MsrRange {
    MsrRange { first, count: 1, read, write }
}

/// A guest that reads and writes this MSR for ever.
fn msr_guest(
    msr: u32,
    subscribe: impl FnOnce(&mut Connection) -> Result<(), Error>,
) -> Result<(Connection, Vcpu, outboard_plugin::GuestMemory), Box<dyn std::error::Error>> {
    let (mut vm, memory) = connect(reads_and_writes_an_msr())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    subscribe(&mut vm)?;
    vm.start()?;
    let vcpu = begin_with(&vm, 0, |regs| regs.rcx = msr.into())?;
    Ok((vm, vcpu, memory))
}

#[track_caller]
fn reads(vcpu: &mut Vcpu, msr: u32, reason: u32, value: u64) -> Tested {
    match vcpu.wait()? {
        Event::Exit(exited) => {
            assert_eq!(exited.exit(), Exit::ReadMsr { index: msr, reason });
            exited.answer(value);
        }
        other => panic!("{other:?} instead of a read of the MSR"),
    }
    assert_eq!(written(vcpu, 0x10)?, value & 0xffff_ffff);
    assert_eq!(written(vcpu, 0x10)?, value >> 32);
    Ok(())
}

#[track_caller]
fn writes(vcpu: &mut Vcpu, msr: u32, reason: u32) -> Tested {
    match vcpu.wait()? {
        Event::Exit(exited) => {
            assert_eq!(exited.exit(), Exit::WriteMsr { index: msr, reason, data: 0x66_0000_0055 });
            exited.accept();
        }
        other => panic!("{other:?} instead of a write of the MSR"),
    }
    assert_eq!(written(vcpu, 0x10)?, 0x77);
    Ok(())
}

const FILTER: u32 = 4;
const REFUSED: u32 = 2;

fn msrs_of_a_range_reach_the_plugin() -> Tested {
    let (_vm, mut vcpu, _memory) = msr_guest(KNOWN, |vm| vm.subscribe(Exits::NONE, &[range(KNOWN, true, true)]))?;
    for value in [0x1234, 0x0807_0605_0403_0201, u64::MAX] {
        reads(&mut vcpu, KNOWN, FILTER, value)?;
        writes(&mut vcpu, KNOWN, FILTER)?;
    }
    Ok(())
}

fn only_the_accesses_asked_for_reach_the_plugin() -> Tested {
    let (mut vm, mut vcpu, _memory) = msr_guest(KNOWN, |vm| {
        let far = MsrRange { first: 0xc000_0000, count: 12288, read: true, write: true };
        vm.subscribe(Exits::NONE, &[far, range(KNOWN, true, false)])
    })?;
    reads(&mut vcpu, KNOWN, FILTER, 9)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 0x77, "the write went to KVM");
    vm.subscribe(Exits::NONE, &[range(KNOWN, false, true)])?;
    // One read may have happened before; then the ranges are the new ones.
    loop {
        match vcpu.wait()? {
            Event::Exit(exited) => match exited.exit() {
                Exit::WriteMsr { .. } => {
                    exited.accept();
                    break;
                }
                _ => exited.answer(9),
            },
            Event::Write(_) => {}
            other => panic!("{other:?}"),
        }
    }
    vm.subscribe(Exits::NONE, &[])?;
    let mut quiet = 0;
    while quiet < 20 {
        match vcpu.wait()? {
            Event::Exit(exited) if quiet < 4 => exited.accept(),
            Event::Write(write) if write.address() == 0x10 => quiet += 1,
            Event::Write(_) if quiet < 4 => {}
            other => panic!("{other:?} although nobody asks any more"),
        }
    }
    Ok(())
}

fn msrs_that_kvm_does_not_know_reach_who_asks() -> Tested {
    let (_vm, mut vcpu, _memory) = msr_guest(UNKNOWN, |vm| vm.subscribe(Exits::UNKNOWN_MSRS, &[]))?;
    for value in [7, u64::MAX] {
        reads(&mut vcpu, UNKNOWN, REFUSED, value)?;
        writes(&mut vcpu, UNKNOWN, REFUSED)?;
    }
    Ok(())
}

fn a_refused_access_is_a_fault_of_the_guest() -> Tested {
    let (_vm, mut vcpu, _memory) = msr_guest(KNOWN, |vm| vm.subscribe(Exits::NONE, &[range(KNOWN, true, true)]))?;
    for explicit in [true, false] {
        for step in 0..2 {
            match vcpu.wait()? {
                Event::Exit(exited) if explicit => exited.fault(),
                Event::Exit(exited) => drop(exited),
                other => panic!("{other:?} instead of an access to the MSR"),
            }
            assert_eq!(written(&mut vcpu, 0x11)?, 0xdead, "the handler of general protection");
            for _ in 0..[2, 1][step] {
                written(&mut vcpu, 0x10)?;
            }
        }
    }
    Ok(())
}

fn an_access_that_nobody_asked_for_is_a_fault_of_the_guest() -> Tested {
    let (_vm, mut vcpu, _memory) = msr_guest(UNKNOWN, |vm| {
        vm.subscribe(Exits::UNKNOWN_MSRS, &[])?;
        vm.subscribe(Exits::NONE, &[])
    })?;
    assert_eq!(written(&mut vcpu, 0x11)?, 0xdead);
    Ok(())
}

real_mode!(steps: "nop", "nop", "nop", "mov al, 1", "out 0x10, al", "2: jmp 2b");

fn single_steps_reach_who_asks() -> Tested {
    const ENABLE: u32 = 1;
    const SINGLE_STEP: u32 = 2;
    let (mut vm, _memory) = connect(steps())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.subscribe(Exits::DEBUG, &[])?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    crate::common::machine::enter(&mut init, |_| {})?;
    init.set_guest_debug(&kvm_guest_debug { control: ENABLE | SINGLE_STEP, ..Default::default() })?;
    drop(init);
    for step in 1..=3 {
        match vcpu.wait()? {
            Event::Exit(mut exited) => {
                let Exit::Debug { exception, pc, .. } = exited.exit() else { panic!("{exited:?}") };
                assert_eq!((exception, pc), (1, u64::from(CODE) + step));
                if step == 3 {
                    exited.set_guest_debug(&kvm_guest_debug::default())?;
                }
            }
            other => panic!("{other:?} instead of a step"),
        }
    }
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok(())
}

fn breakpoints_that_nobody_asked_for_end_the_vm() -> Tested {
    let (mut vm, _memory) = connect(steps())?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    crate::common::machine::enter(&mut init, |_| {})?;
    init.set_guest_debug(&kvm_guest_debug { control: 3, ..Default::default() })?;
    drop(init);
    match vcpu.wait()? {
        Event::Shutdown => Ok(()),
        other => panic!("{other:?} instead of the end"),
    }
}

fn breakpoint(case: &Case) -> Tested {
    case.program().start().ended().complained(&["KVM_EXIT_DEBUG"]);
    Ok(())
}

fn what_kvm_has_can_be_asked_for_and_given_back() -> Tested {
    const EXIT_HYPERCALL: u32 = 201;
    let mut vm = outboard_plugin::connect()?;
    let all = Exits::UNKNOWN_MSRS | Exits::DEBUG | Exits::SYSTEM;
    for _ in 0..3 {
        vm.subscribe(all, &[range(KNOWN, true, true); 16])?;
        vm.subscribe(Exits::NONE, &[])?;
        match vm.check_extension(EXIT_HYPERCALL)? {
            0 => refused(vm.subscribe(Exits::HYPERCALL, &[]), libc::EOPNOTSUPP),
            _ => vm.subscribe(all | Exits::HYPERCALL, &[])?,
        }
    }
    Ok(())
}

fn wrong_subscriptions_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let right = range(KNOWN, true, true);
    vm.subscribe(Exits::NONE, &[right; 16])?;
    let many = vm.subscribe(Exits::NONE, &[right; 17]);
    assert!(matches!(many, Err(Error::TooMany { got: 17, limit: 16, .. })));
    for wrong in [
        MsrRange { count: 0, ..right },
        MsrRange { count: 12289, ..right },
        MsrRange { first: u32::MAX, count: 2, ..right },
        MsrRange { read: false, write: false, ..right },
    ] {
        refused(vm.subscribe(Exits::NONE, &[right, wrong]), libc::EINVAL);
    }
    let mut raw = |exits, count| {
        let request = Subscribe { exits, count, ranges: [wire::MsrRange::default(); 16] };
        refused(vm.call(&request, &[]).map(drop), libc::EINVAL);
    };
    raw(wire::EXITS + 1, 0);
    raw(1 << 31, 0);
    raw(wire::EXIT_MSR_RANGES, 0);
    raw(wire::EXIT_MSR_RANGES, 17);
    raw(wire::EXIT_DEBUG, 1);
    Ok(())
}

fn a_refused_subscription_changes_nothing() -> Tested {
    let (mut vm, mut vcpu, _memory) = msr_guest(KNOWN, |vm| vm.subscribe(Exits::NONE, &[range(KNOWN, true, true)]))?;
    reads(&mut vcpu, KNOWN, FILTER, 5)?;
    refused(vm.subscribe(Exits::HALT, &[]), libc::EOPNOTSUPP);
    refused(vm.subscribe(Exits::NONE, &[MsrRange { count: 0, ..range(KNOWN, true, true) }]), libc::EINVAL);
    writes(&mut vcpu, KNOWN, FILTER)?;
    reads(&mut vcpu, KNOWN, FILTER, 6)?;
    begin(&vm, 0).map(drop).unwrap_err();
    Ok(())
}
