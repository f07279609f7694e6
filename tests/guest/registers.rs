//! Register files: set and got back, at every kind of stop.

use outboard_plugin::kvm_bindings::{kvm_cpuid_entry2, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs};
use outboard_plugin::{Error, Event, Registers, Space, Vcpu};

use crate::common::guest::real_mode;
use crate::common::machine::{CODE, begin, connect, enter, next_pause, next_write, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(general_registers_come_back_as_set),
    case!(segment_and_control_registers_come_back_as_set),
    case!(debug_registers_come_back_as_set),
    case!(the_fpu_comes_back_as_set),
    case!(msrs_come_back_as_set),
    case!(an_unknown_msr_gives_a_short_count),
    case!(mp_state_comes_back_as_set).options(&["--cpus", "2"]),
    case!(cpuid_tells_the_guest_what_was_set),
    case!(registers_set_at_an_access_are_the_guests),
    case!(registers_set_at_a_pause_are_the_guests),
    case!(a_get_after_a_set_sees_what_kvm_made_of_it),
    case!(what_kvm_refuses_is_reported_and_changes_nothing),
    case!(a_vcpu_that_does_not_stand_still_has_no_registers),
];

const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const EFER: u32 = 0xc000_0080;
const UNKNOWN: u32 = 0x1234_5678;

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..kvm_msr_entry::default() }
}

real_mode!(halts: "2: hlt", "jmp 2b");

/// Calls `test` with a vCPU that stands at its INIT.
fn at_init(test: impl FnOnce(&mut Registers) -> Tested) -> Tested {
    let (mut vm, _memory) = connect(halts())?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    match vcpu.wait()? {
        Event::Init(mut init) => {
            test(&mut init)?;
            // The vCPU runs on when this is over, whatever the test did to it.
            Ok(enter(&mut init, |_| {})?)
        }
        other => panic!("the first event is {other:?}"),
    }
}

fn general_registers_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        let regs = kvm_regs {
            rax: 1 << 63 | 1,
            rbx: 1 << 62 | 2,
            rcx: 3,
            rdx: 4,
            rsi: 5,
            rdi: 6,
            rsp: 7,
            rbp: 8,
            r8: 9,
            r9: 10,
            r10: 11,
            r11: 12,
            r12: 13,
            r13: 14,
            r14: 15,
            r15: u64::MAX,
            rip: CODE.into(),
            rflags: 2 | 1 << 10, // DF
        };
        vcpu.set_regs(&regs)?;
        assert_eq!(vcpu.regs()?, regs);
        Ok(())
    })
}

fn segment_and_control_registers_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut sregs = vcpu.sregs()?;
        assert_eq!((sregs.cs.selector, sregs.cs.base), (0xf000, 0xffff_0000), "as a processor comes out of reset");
        (sregs.ds.selector, sregs.ds.base, sregs.cr2) = (0x1234, 0x1_2340, 0xdead_beef);
        (sregs.gdt.base, sregs.gdt.limit) = (0x6000, 0x17);
        vcpu.set_sregs(&sregs)?;
        assert_eq!(vcpu.sregs()?, sregs);
        (sregs.es.selector, sregs.es.base, sregs.idt.limit) = (0x4321, 0x4_3210, 0x3ff);
        vcpu.set_sregs_on_resume(&sregs)?;
        assert_eq!(vcpu.sregs()?, sregs);
        Ok(())
    })
}

fn debug_registers_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut debugregs = vcpu.debugregs()?;
        debugregs.db = [0x1000, 0x2000, 0x3000, 0x4000];
        vcpu.set_debugregs(&debugregs)?;
        assert_eq!(vcpu.debugregs()?, debugregs);
        debugregs.db = [4, 3, 2, 1];
        vcpu.set_debugregs_on_resume(&debugregs)?;
        assert_eq!(vcpu.debugregs()?.db, [4, 3, 2, 1]);
        Ok(())
    })
}

fn the_fpu_comes_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut fpu = vcpu.fpu()?;
        fpu.fcw = 0x27f;
        fpu.xmm[3] = *b"sixteen bytes xm";
        fpu.fpr[1][..10].copy_from_slice(b"ten bytes!");
        vcpu.set_fpu(&fpu)?;
        let got = vcpu.fpu()?;
        assert_eq!((got.fcw, got.xmm, got.fpr[1]), (fpu.fcw, fpu.xmm, fpu.fpr[1]));
        Ok(())
    })
}

fn msrs_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        vcpu.set_msrs(&[msr(SYSENTER_ESP, 0x1111), msr(SYSENTER_EIP, 0x2222)])?;
        let mut msrs = [msr(SYSENTER_EIP, 0), msr(SYSENTER_ESP, 0)];
        assert_eq!(vcpu.get_msrs(&mut msrs)?, 2);
        assert_eq!((msrs[0].data, msrs[1].data), (0x2222, 0x1111));
        // More than KVM takes in one call.
        let mut many = [msr(SYSENTER_EIP, 0); 600];
        assert_eq!(vcpu.get_msrs(&mut many)?, 600);
        assert!(many.iter().all(|msr| msr.data == 0x2222));
        Ok(())
    })
}

fn an_unknown_msr_gives_a_short_count() -> Tested {
    at_init(|vcpu| {
        let mut msrs = [msr(SYSENTER_ESP, 9), msr(UNKNOWN, 9), msr(SYSENTER_EIP, 9)];
        assert_eq!(vcpu.get_msrs(&mut msrs)?, 1);
        assert_eq!((msrs[0].data, msrs[1].data, msrs[2].data), (0, 9, 9));
        let set = vcpu.set_msrs(&[msr(SYSENTER_ESP, 5), msr(UNKNOWN, 6), msr(SYSENTER_EIP, 7)]);
        assert!(matches!(set, Err(Error::MsrRefused { taken: 1, index: UNKNOWN })), "{set:?}");
        let mut msrs = [msr(SYSENTER_ESP, 0), msr(SYSENTER_EIP, 0)];
        vcpu.get_msrs(&mut msrs)?;
        assert_eq!((msrs[0].data, msrs[1].data), (5, 0));
        Ok(())
    })
}

fn mp_state_comes_back_as_set() -> Tested {
    const RUNNABLE: u32 = 0;
    const UNINITIALIZED: u32 = 1;
    const HALTED: u32 = 3;
    let (mut vm, _memory) = connect(halts())?;
    vm.start()?;
    for (id, at_first) in [(0, RUNNABLE), (1, UNINITIALIZED)] {
        let mut vcpu = vm.vcpu(id)?;
        let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
        assert_eq!(init.mp_state()?.mp_state, at_first);
        init.set_mp_state(&kvm_mp_state { mp_state: HALTED })?;
        assert_eq!(init.mp_state()?.mp_state, HALTED);
    }
    Ok(())
}

real_mode!(asks_cpuid:
    "mov eax, 0x40000010",
    "xor ecx, ecx",
    "cpuid",
    "mov esi, edx",
    "out 0x10, eax",
    "mov eax, ebx",
    "out 0x10, eax",
    "mov eax, ecx",
    "out 0x10, eax",
    "mov eax, esi",
    "out 0x10, eax",
    "hlt",
);

fn cpuid_tells_the_guest_what_was_set() -> Tested {
    let (mut vm, _memory) = connect(asks_cpuid())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    let leaf = |function, eax| kvm_cpuid_entry2 { function, eax, ..kvm_cpuid_entry2::default() };
    let ours = kvm_cpuid_entry2 { ebx: 0xbbbb, ecx: 0xcccc, edx: 0xdddd, ..leaf(0x4000_0010, 0xaaaa) };
    init.set_cpuid(&[leaf(0, 1), leaf(1, 0x600), leaf(0x4000_0000, 0x4000_0010), ours])?;
    enter(&mut init, |_| {})?;
    drop(init);
    for value in [0xaaaa, 0xbbbb, 0xcccc, 0xdddd] {
        assert_eq!(written(&mut vcpu, 0x10)?, value);
    }
    Ok(())
}

real_mode!(shows_bx:
    "2: mov dx, 0x10",
    "out dx, ax",
    "mov ax, bx",
    "mov dx, 0x11",
    "out dx, ax",
    "in ax, dx",
    "mov ax, bx",
    "out dx, ax",
    "jmp 2b",
);

fn registers_set_at_an_access_are_the_guests() -> Tested {
    let (mut vm, _memory) = connect(shows_bx())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for value in [0x1234, 0x8000, 0xffff] {
        let mut write = next_write(&mut vcpu)?;
        assert_eq!(write.address(), 0x10);
        let regs = write.regs()?;
        write.set_regs(&kvm_regs { rbx: value, ..regs })?;
        drop(write);
        assert_eq!(written(&mut vcpu, 0x11)?, value);
        match vcpu.wait()? {
            Event::Read(mut read) => {
                let regs = read.regs()?;
                read.set_regs(&kvm_regs { rbx: value - 1, ..regs })?;
            }
            other => panic!("{other:?} instead of a read"),
        }
        assert_eq!(written(&mut vcpu, 0x11)?, value - 1);
    }
    Ok(())
}

real_mode!(loops_then_shows_bx:
    "2: jmp 2b",
    "mov ax, bx", // 2 bytes further; reached only by a change of ip
    "out 0x11, ax",
    "jmp 2b",
);

fn registers_set_at_a_pause_are_the_guests() -> Tested {
    let (mut vm, _memory) = connect(loops_then_shows_bx())?;
    vm.reserve(Space::Port, 0x11..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for value in [0x1234, 0x8000, 0xffff] {
        vm.pause_vcpus([0], value)?;
        let mut paused = next_pause(&mut vcpu)?;
        let regs = paused.regs()?;
        paused.set_regs(&kvm_regs { rbx: value, rip: u64::from(CODE) + 2, ..regs })?;
        drop(paused);
        assert_eq!(written(&mut vcpu, 0x11)?, value);
    }
    Ok(())
}

fn a_get_after_a_set_sees_what_kvm_made_of_it() -> Tested {
    at_init(|vcpu| {
        let regs = vcpu.regs()?;
        vcpu.set_regs(&kvm_regs { rflags: 0, rbx: 5, ..regs })?;
        let got = vcpu.regs()?;
        assert_eq!((got.rflags, got.rbx), (2, 5), "bit 1 of the flags is always set");
        // Another file than the one that was set: EFER is in sregs and an MSR.
        let mut sregs = vcpu.sregs()?;
        sregs.efer = 1;
        vcpu.set_sregs_on_resume(&sregs)?;
        let mut efer = [msr(EFER, 0)];
        vcpu.get_msrs(&mut efer)?;
        assert_eq!(efer[0].data, 1);
        vcpu.set_msrs(&[msr(EFER, 0)])?;
        assert_eq!(vcpu.sregs()?.efer, 0);
        Ok(())
    })
}

fn what_kvm_refuses_is_reported_and_changes_nothing() -> Tested {
    let (mut vm, _memory) = connect(shows_bx())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut write = next_write(&mut vcpu)?;
    let sregs = write.sregs()?;
    let paging_without_protection = sregs.cr0 & !1 | 1 << 31;
    let wrong = kvm_sregs { cr0: paging_without_protection, ..sregs };
    refused(write.set_sregs(&wrong), libc::EINVAL);
    assert_eq!(write.sregs()?, sregs);
    refused(write.set_mp_state(&kvm_mp_state { mp_state: 77 }), libc::EINVAL);
    drop(write);
    assert_eq!(written(&mut vcpu, 0x11)?, 0, "the guest runs on");
    Ok(())
}

fn a_vcpu_that_does_not_stand_still_has_no_registers() -> Tested {
    let (mut vm, _memory) = connect(shows_bx())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    let mut vcpu = vm.vcpu(0)?;
    let refuses = |vcpu: &mut Vcpu| {
        assert_eq!(vcpu.registers().regs().unwrap_err().errno(), libc::EPROTO);
        assert_eq!(vcpu.registers().set_regs(&kvm_regs::default()).unwrap_err().errno(), libc::EPROTO);
        assert_eq!(vcpu.registers().get_msrs(&mut []).unwrap_err().errno(), libc::EPROTO);
        assert_eq!(vcpu.resume().unwrap_err().errno(), libc::EPROTO);
    };
    refuses(&mut vcpu);
    vm.start()?;
    refuses(&mut vcpu);
    vcpu.next_event()?;
    assert_eq!(vcpu.next_event().unwrap_err().errno(), libc::EPROTO, "the last event is not answered");
    enter(vcpu.registers(), |_| {})?;
    vcpu.resume()?;
    refuses(&mut vcpu);
    assert_eq!(written(&mut vcpu, 0x10)?, 0);
    Ok(())
}
