//! Register files that ride along with events: because the plugin wants them, or by the hint.

use outboard_plugin::kvm_bindings::{kvm_regs, kvm_sregs};
use outboard_plugin::{Error, Event, Files, Hint, HintDetail, Registers, Space, Vcpu};

use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{MMIO, begin, begin_long_mode, connect, next_pause, next_write, refused};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(wanted_registers_equal_those_got_by_command),
    case!(wanted_registers_come_with_pauses_too),
    case!(a_set_replaces_what_came_along),
    case!(registers_set_at_one_pause_are_those_of_the_next),
    case!(the_hint_brings_registers_to_one_access_only),
    case!(the_first_detail_that_matches_decides),
    case!(registers_asked_for_time_and_again_ride_along_by_habit),
    case!(wrong_hints_are_refused),
];

long_mode!(all_kinds:
    "2: inc r15",
    "out 0x10, al",
    "in al, 0x10",
    "mov [rbx], al",
    "mov al, [rbx]",
    "jmp 2b",
);

/// The stopped vCPU of an access.
fn at_access<T>(vcpu: &mut Vcpu, look: impl FnOnce(&mut Registers) -> Result<T, Error>) -> Result<T, Error> {
    match vcpu.wait()? {
        Event::Read(mut read) => look(&mut read),
        Event::Write(mut write) => look(&mut write),
        other => panic!("{other:?} instead of an access"),
    }
}

/// Asserts that the files came along, and that they are what a command gets.
fn came_along(vcpu: &mut Registers, files: Files) -> Result<u64, Error> {
    assert_eq!(vcpu.files(), files);
    let (regs, sregs, debugregs) = (vcpu.regs()?, vcpu.sregs()?, vcpu.debugregs()?);
    // After any set nothing counts as come along, so all is got by command.
    let state = vcpu.mp_state()?;
    vcpu.set_mp_state(&state)?;
    assert_eq!(vcpu.files(), Files::NONE);
    assert_eq!(vcpu.regs()?, regs);
    assert_eq!(vcpu.sregs()?, sregs);
    assert_eq!(vcpu.debugregs()?, debugregs);
    Ok(regs.r15)
}

fn wanted_registers_equal_those_got_by_command() -> Tested {
    let (mut vm, memory) = connect(all_kinds())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Mmio, MMIO..MMIO + 8)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| regs.rbx = MMIO)?;
    let mut wanted = Files::NONE;
    for round in 1..=10 {
        for next in [Files::REGS, Files::SREGS, Files::REGS | Files::SREGS | Files::DEBUGREGS, Files::NONE] {
            let rounds = at_access(&mut vcpu, |vcpu| {
                let rounds = came_along(vcpu, wanted)?;
                vcpu.want_registers(next);
                Ok(rounds)
            })?;
            assert_eq!(rounds, round, "the registers are those of this access");
            wanted = next;
        }
    }
    Ok(())
}

real_mode!(computes_for_ever: "2: inc ebx", "jmp 2b");

fn wanted_registers_come_with_pauses_too() -> Tested {
    let (mut vm, _memory) = connect(computes_for_ever())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    vm.pause_vcpus([0], 1)?;
    next_pause(&mut vcpu)?.want_registers(Files::REGS | Files::SREGS);
    for cookie in 2..20 {
        vm.pause_vcpus([0], cookie)?;
        let mut paused = next_pause(&mut vcpu)?;
        came_along(&mut paused, Files::REGS | Files::SREGS)?;
    }
    Ok(())
}

fn a_set_replaces_what_came_along() -> Tested {
    let (mut vm, _memory) = connect(three_writes_and_a_read())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    at_access(&mut vcpu, |vcpu| {
        vcpu.want_registers(Files::REGS | Files::SREGS);
        Ok(())
    })?;
    for value in 1..100 {
        let mut stopped = match vcpu.wait()? {
            Event::Write(write) => write,
            Event::Read(_) => continue,
            other => panic!("{other:?} instead of an access"),
        };
        assert_eq!(stopped.files(), Files::REGS | Files::SREGS);
        let (regs, sregs) = (stopped.regs()?, stopped.sregs()?);
        stopped.set_sregs(&kvm_sregs { cr2: value, ..sregs })?;
        assert_eq!(stopped.sregs()?.cr2, value);
        stopped.set_regs(&kvm_regs { rbx: value, ..regs })?;
        assert_eq!(stopped.regs()?.rbx, value);
    }
    Ok(())
}

fn registers_set_at_one_pause_are_those_of_the_next() -> Tested {
    let (mut vm, _memory) = connect(computes_for_ever())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    vm.pause_vcpus([0], 0)?;
    next_pause(&mut vcpu)?.want_registers(Files::REGS | Files::SREGS);
    for value in (1..2000).step_by(2) {
        vm.pause_vcpus([0], value)?;
        let mut paused = next_pause(&mut vcpu)?;
        let (regs, sregs) = (paused.regs()?, paused.sregs()?);
        paused.set_regs(&kvm_regs { r12: value, ..regs })?;
        paused.set_sregs_on_resume(&kvm_sregs { cr2: value, ..sregs })?;
        vm.pause_vcpus([0], value + 1)?;
        drop(paused);
        let mut paused = next_pause(&mut vcpu)?;
        assert_eq!(paused.cookie(), value + 1);
        assert_eq!((paused.regs()?.r12, paused.sregs()?.cr2), (value, value));
    }
    Ok(())
}

real_mode!(three_writes_and_a_read:
    "2: out 0x10, al",
    "out 0x11, al",
    "in al, 0x10",
    "inc al",
    "out 0x12, al",
    "jmp 2b",
);

/// Which files came along with each access of a round.
fn round(vcpu: &mut Vcpu) -> Result<[Files; 4], Error> {
    let mut all = [Files::NONE; 4];
    for files in &mut all {
        *files = at_access(vcpu, |vcpu| {
            let files = vcpu.files();
            vcpu.want_registers(Files::NONE); // the hint alone decides, not the library's habit
            came_along(vcpu, files)?;
            Ok(files)
        })?;
    }
    Ok(all)
}

fn hint(on_write: bool, details: Vec<HintDetail>) -> Hint {
    Hint { space: Space::Port, address: 0x10, on_write, details }
}

fn the_hint_brings_registers_to_one_access_only() -> Tested {
    const NONE: Files = Files::NONE;
    let (mut vm, _memory) = connect(three_writes_and_a_read())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    // Set while the guest does not run yet, or stands at an access that the hint does not name.
    vm.set_hint(Some(&hint(true, vec![])))?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for _ in 0..3 {
        assert_eq!(round(&mut vcpu)?, [Files::REGS, NONE, NONE, NONE]);
    }
    vm.set_hint(Some(&hint(false, vec![])))?;
    round(&mut vcpu)?; // which access the change meets is open
    for _ in 0..3 {
        assert_eq!(round(&mut vcpu)?, [NONE, NONE, Files::REGS, NONE]);
    }
    vm.set_hint(None)?;
    round(&mut vcpu)?;
    assert_eq!(round(&mut vcpu)?, [NONE; 4]);
    Ok(())
}

real_mode!(writes_five_values:
    "2: mov ecx, 5",
    "3: mov eax, ecx",
    "out 0x10, al",
    "dec ecx",
    "jnz 3b",
    "jmp 2b",
);

fn the_first_detail_that_matches_decides() -> Tested {
    let (mut vm, _memory) = connect(writes_five_values())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    let details = vec![
        HintDetail { registers: [Some(3), None, Some(3), None], files: Files::SREGS },
        HintDetail { registers: [Some(3), None, None, None], files: Files::DEBUGREGS }, // comes too late
        HintDetail { registers: [Some(2), Some(9), None, None], files: Files::DEBUGREGS }, // rbx is 0
        HintDetail { registers: [Some(1), None, None, Some(0)], files: Files::SREGS | Files::DEBUGREGS },
    ];
    vm.set_hint(Some(&hint(true, details)))?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for _ in 0..3 {
        for (value, files) in [
            (5, Files::REGS),
            (4, Files::REGS),
            (3, Files::REGS | Files::SREGS),
            (2, Files::REGS),
            (1, Files::REGS | Files::SREGS | Files::DEBUGREGS),
        ] {
            let mut write = next_write(&mut vcpu)?;
            assert_eq!((write.value(), write.regs()?.rax), (value, value));
            write.want_registers(Files::NONE); // as above
            came_along(&mut write, files)?;
        }
    }
    Ok(())
}

/// Reads a register at every access, then for a long time at none.
fn registers_asked_for_time_and_again_ride_along_by_habit() -> Tested {
    let (mut vm, _memory) = connect(three_writes_and_a_read())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for access in 0..8 {
        at_access(&mut vcpu, |vcpu| {
            assert_eq!(vcpu.files(), if access == 0 { Files::NONE } else { Files::REGS });
            vcpu.regs()
        })?;
    }
    let mut last = Files::REGS;
    for _ in 0..200 {
        last = at_access(&mut vcpu, |vcpu| Ok(vcpu.files()))?;
    }
    assert_eq!(last, Files::NONE, "nobody asks any more");
    Ok(())
}

fn wrong_hints_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let right = hint(true, vec![HintDetail::default(); 32]);
    vm.set_hint(Some(&right))?;
    refused(vm.set_hint(Some(&Hint { address: 0, ..right.clone() })), libc::EINVAL);
    let too_many = Hint { details: vec![HintDetail::default(); 33], ..right };
    assert_eq!(vm.set_hint(Some(&too_many)).unwrap_err().errno(), libc::EINVAL);
    Ok(())
}
