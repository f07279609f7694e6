//! Register files beyond the common ones: extended state, local APIC, pending events, capabilities.

use outboard_plugin::kvm_bindings::{kvm_regs, kvm_vcpu_events, kvm_xcrs};
use outboard_plugin::{Event, Registers, Space};

use crate::common::guest::real_mode;
use crate::common::machine::{connect, enter, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(xcrs_come_back_as_set),
    case!(xsave_is_the_fpu_and_more),
    case!(the_lapic_comes_back_as_set),
    case!(pending_events_come_back_as_set),
    case!(a_pending_exception_is_taken_although_registers_were_set_before_it),
    case!(capabilities_are_refused_but_two),
];

real_mode!(stands: "2: hlt", "jmp 2b");

fn at_init(test: impl FnOnce(&mut Registers) -> Tested) -> Tested {
    let (mut vm, _memory) = connect(stands())?;
    let leaves = vm.supported_cpuid()?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    init.set_cpuid(&leaves)?;
    test(&mut init)?;
    Ok(enter(&mut init, |_| {})?)
}

fn xcrs_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut xcrs = vcpu.xcrs()?;
        assert_eq!((xcrs.nr_xcrs, xcrs.xcrs[0].xcr), (1, 0));
        xcrs.xcrs[0].value = 3; // x87 and SSE
        vcpu.set_xcrs(&xcrs)?;
        assert_eq!(vcpu.xcrs()?.xcrs[0].value, 3);
        xcrs.xcrs[0].value = 2; // SSE without x87 is no state
        refused(vcpu.set_xcrs(&xcrs), libc::EINVAL);
        refused(vcpu.set_xcrs(&kvm_xcrs { nr_xcrs: 17, ..xcrs }), libc::EINVAL);
        assert_eq!(vcpu.xcrs()?.xcrs[0].value, 3);
        Ok(())
    })
}

fn xsave_is_the_fpu_and_more() -> Tested {
    at_init(|vcpu| {
        let mut xsave = vcpu.xsave()?;
        // XMM3 lies 160 + 3 * 16 bytes behind the start, as FXSAVE puts it (Intel SDM volume 1, 10.5.1).
        xsave.region[52] = 0x0102_0304;
        xsave.region[128] |= 3; // XSTATE_BV: x87 and SSE are not in their initial state
        vcpu.set_xsave(&xsave)?;
        let mut fpu = vcpu.fpu()?;
        assert_eq!(fpu.xmm[3][..4], [4, 3, 2, 1]);
        fpu.xmm[3] = *b"sixteen bytes xm";
        vcpu.set_fpu(&fpu)?;
        let xsave = vcpu.xsave()?;
        assert_eq!(bytemuck::cast_slice::<u32, u8>(&xsave.region[52..56]), b"sixteen bytes xm");
        Ok(())
    })
}

fn the_lapic_comes_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut lapic = vcpu.lapic()?;
        lapic.regs[0x80] = 0x20; // task priority
        vcpu.set_lapic(&lapic)?;
        assert_eq!(vcpu.lapic()?.regs[0x80], 0x20);
        Ok(())
    })
}

fn pending_events_come_back_as_set() -> Tested {
    at_init(|vcpu| {
        let mut events = vcpu.vcpu_events()?;
        assert_eq!((events.exception.injected, events.nmi.masked), (0, 0));
        events.nmi.masked = 1;
        vcpu.set_vcpu_events(&events)?;
        assert_eq!(vcpu.vcpu_events()?.nmi.masked, 1);
        refused(vcpu.set_vcpu_events(&kvm_vcpu_events { flags: 1 << 31, ..events }), libc::EINVAL);
        Ok(())
    })
}

real_mode!(takes_breakpoints:
    "mov al, 1",
    "out 0x10, al",
    "mov al, bl",
    "out 0x10, al",
    "2: hlt",
    "jmp 2b",
    // From the beginning of this guest: others may stand before it in the section.
    ".org guest_takes_breakpoints + 0x100",
    "mov al, 0x33",
    "out 0x10, al",
    "iret",
);

fn a_pending_exception_is_taken_although_registers_were_set_before_it() -> Tested {
    const OVERFLOW: u8 = 4;
    let (mut vm, memory) = connect(takes_breakpoints())?;
    memory.write(u64::from(OVERFLOW) * 4, &[0x00, 0x11, 0, 0])?; // 0:0x1100
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    enter(&mut init, |_| {})?;
    drop(init);
    let Event::Write(mut write) = vcpu.wait()? else { panic!("the guest says that it runs") };
    let regs = write.regs()?;
    write.set_regs(&kvm_regs { rbx: 0x55, ..regs })?;
    let mut events = write.vcpu_events()?;
    (events.exception.injected, events.exception.nr) = (1, OVERFLOW);
    write.set_vcpu_events(&events)?;
    drop(write);
    assert_eq!(written(&mut vcpu, 0x10)?, 0x33, "the handler runs first");
    let after = written(&mut vcpu, 0x10)?;
    assert!(after == 0x33 || after == 0x55, "the handler changed al, not bl: {after:#x}");
    Ok(())
}

fn capabilities_are_refused_but_two() -> Tested {
    const HYPERV_SYNIC: [u32; 2] = [123, 148];
    let (mut vm, _memory) = connect(stands())?;
    let has =
        |vm: &mut outboard_plugin::Connection, cap| Ok::<_, outboard_plugin::Error>(vm.check_extension(cap)? != 0);
    let offered = [has(&mut vm, HYPERV_SYNIC[0])?, has(&mut vm, HYPERV_SYNIC[1])?];
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    for (cap, offered) in HYPERV_SYNIC.into_iter().zip(offered) {
        refused(init.enable_capability(cap, 1, [0; 4]), libc::EINVAL);
        refused(init.enable_capability(cap, 0, [0, 0, 0, 1]), libc::EINVAL);
        match offered {
            true => init.enable_capability(cap, 0, [0; 4])?,
            false => refused(init.enable_capability(cap, 0, [0; 4]), libc::EINVAL),
        }
    }
    for cap in [0, 121, 163, 188, u32::MAX] {
        refused(init.enable_capability(cap, 0, [0; 4]), libc::EINVAL);
    }
    Ok(enter(&mut init, |_| {})?)
}
