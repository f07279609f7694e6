//! `--irqchip`: what each choice has, and what is refused because it is missing.

use outboard_plugin::kvm_bindings::{kvm_regs, kvm_vcpu_events};
use outboard_plugin::{Connection, Error, Event, Exit, Exits, IrqRoute, IrqTarget, Space, Vcpu};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_split_irqchip_has_local_apics_only).options(&["--irqchip", "split"]),
    case!(without_an_irqchip_there_is_none).options(&["--irqchip", "none"]),
    case!(the_kernel_has_all_of_it).options(&["--irqchip", "kernel"]),
    case!(a_plugin_interrupts_a_guest_without_irqchip).options(&["--irqchip", "none"]),
    case!(halts_reach_who_asks).options(&["--irqchip", "none"]),
    case!(a_halt_that_nobody_asked_for_ends_the_vm).options(&["--irqchip", "none"]).around(halted),
    case!(halts_cannot_be_had_with_local_apics),
    case!(the_end_of_an_interrupt_reaches_who_asks).options(&["--irqchip", "split"]),
    case!(a_wrong_word_is_refused).around(wrong_word),
];

fn chips_are_missing(vm: &mut Connection) -> Tested {
    for primary in [true, false] {
        refused(vm.pic(primary).map(drop), libc::ENXIO);
        refused(vm.set_pic(primary, &Default::default()), libc::ENXIO);
    }
    refused(vm.ioapic().map(drop), libc::ENXIO);
    refused(vm.pit().map(drop), libc::ENXIO);
    refused(vm.set_pit(&Default::default()), libc::ENXIO);
    let clock = vm.clock()?;
    Ok(vm.set_clock(&clock)?)
}

real_mode!(says_it_runs: "mov al, 1", "out 0x10, al", "hlt");

fn a_split_irqchip_has_local_apics_only() -> Tested {
    let (mut vm, _memory) = connect(says_it_runs())?;
    chips_are_missing(&mut vm)?;
    vm.set_irq_routes(&[IrqRoute { gsi: 5, target: IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 } }])?;
    let pin = IrqRoute { gsi: 5, target: IrqTarget::Chip { chip: 2, pin: 5 } };
    refused(vm.set_irq_routes(&[pin]), libc::EINVAL);
    let event = vm.create_irq_event(5, false)?;
    vm.destroy_irq_event(&event)?;
    refused(vm.subscribe(Exits::HALT, &[]), libc::EOPNOTSUPP);
    vm.subscribe(Exits::IOAPIC_EOI, &[])?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    let lapic = init.lapic()?;
    init.set_lapic(&lapic)?;
    crate::common::machine::enter(&mut init, |_| {})?;
    drop(init);
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok(())
}

real_mode!(says_it_runs_and_runs_on: "mov al, 1", "out 0x10, al", "2: jmp 2b");

fn without_an_irqchip_there_is_none() -> Tested {
    let (mut vm, _memory) = connect(says_it_runs_and_runs_on())?;
    chips_are_missing(&mut vm)?;
    refused(vm.set_irq(4, true), libc::ENXIO);
    refused(vm.signal_msi(0xfee0_0000, 0x40).map(drop), libc::EINVAL);
    refused(vm.create_irq_event(4, false).map(drop), libc::EINVAL);
    refused(vm.set_irq_routes(&[]), libc::EINVAL);
    refused(vm.subscribe(Exits::IOAPIC_EOI, &[]), libc::EOPNOTSUPP);
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    refused(init.lapic().map(drop), libc::EINVAL);
    crate::common::machine::enter_without_apic(&mut init)?;
    drop(init);
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok(())
}

fn the_kernel_has_all_of_it() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    vm.pic(true)?;
    vm.ioapic()?;
    vm.pit()?;
    for exits in [Exits::HALT, Exits::IOAPIC_EOI, Exits::HALT | Exits::SYSTEM] {
        refused(vm.subscribe(exits, &[]), libc::EOPNOTSUPP);
    }
    vm.subscribe(Exits::SYSTEM, &[])?;
    Ok(())
}

real_mode!(halts_and_counts:
    "mov word ptr [0x100], 0x1100", // vector 0x40
    "mov word ptr [0x102], 0",
    "xor bx, bx",
    "2: sti",
    "hlt",
    "inc bx",
    "mov ax, bx",
    "out 0x10, ax",
    "jmp 2b",
    ".org guest_halts_and_counts + 0x100",
    "mov ax, 0x40",
    "out 0x10, ax",
    "iret",
);

/// Starts vCPU 0 in a VM in which nobody emulates its APIC.
fn begin_without_apic(vm: &Connection) -> Result<Vcpu, Error> {
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    crate::common::machine::enter_without_apic(&mut init)?;
    drop(init);
    Ok(vcpu)
}

fn a_plugin_interrupts_a_guest_without_irqchip() -> Tested {
    let (mut vm, _memory) = connect(halts_and_counts())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.subscribe(Exits::HALT, &[])?;
    vm.start()?;
    let mut vcpu = begin_without_apic(&vm)?;
    for count in 1..=3 {
        let Event::Exit(mut halt) = vcpu.wait()? else { panic!("the guest halts") };
        assert_eq!(halt.exit(), Exit::Halt);
        let mut events: kvm_vcpu_events = halt.vcpu_events()?;
        (events.interrupt.injected, events.interrupt.nr) = (1, 0x40);
        halt.set_vcpu_events(&events)?;
        drop(halt);
        assert_eq!(written(&mut vcpu, 0x10)?, 0x40, "the handler");
        assert_eq!(written(&mut vcpu, 0x10)?, count, "behind the halt");
    }
    Ok(())
}

fn halts_reach_who_asks() -> Tested {
    let (mut vm, _memory) = connect(halts_and_counts())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.subscribe(Exits::HALT, &[])?;
    vm.start()?;
    let mut vcpu = begin_without_apic(&vm)?;
    for count in 1..=100 {
        let Event::Exit(mut halt) = vcpu.wait()? else { panic!("the guest halts") };
        assert_eq!(halt.exit(), Exit::Halt);
        // Registers of the halt, and a change that the guest sees.
        let regs = halt.regs()?;
        assert_eq!(regs.rbx, count - 1);
        halt.set_regs(&kvm_regs { rdi: count, ..regs })?;
        if count % 10 == 0 {
            vm.pause_vcpus([0], count)?;
            drop(halt);
            let Event::Paused(mut paused) = vcpu.wait()? else { panic!("the pause comes when the halt is answered") };
            let regs = paused.regs()?;
            assert_eq!((paused.cookie(), regs.rbx, regs.rdi), (count, count - 1, count));
        } else {
            drop(halt);
        }
        assert_eq!(written(&mut vcpu, 0x10)?, count);
    }
    Ok(())
}

fn a_halt_that_nobody_asked_for_ends_the_vm() -> Tested {
    let (mut vm, _memory) = connect(says_it_runs())?;
    vm.subscribe(Exits::HALT, &[])?;
    vm.subscribe(Exits::NONE, &[])?;
    vm.start()?;
    let mut vcpu = begin_without_apic(&vm)?;
    match vcpu.wait()? {
        Event::Shutdown => Ok(()),
        other => panic!("{other:?} instead of the end"),
    }
}

fn halted(case: &Case) -> Tested {
    case.program().start().ended().complained(&["KVM_EXIT_HLT", "the guest halted"]);
    Ok(())
}

fn halts_cannot_be_had_with_local_apics() -> Tested {
    let (mut vm, _memory) = connect(says_it_runs())?;
    refused(vm.subscribe(Exits::HALT, &[]), libc::EOPNOTSUPP);
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    refused(vm.subscribe(Exits::HALT, &[]), libc::EOPNOTSUPP);
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok(())
}

real_mode!(ends_its_interrupt:
    "mov word ptr [0x100], 0x1100", // vector 0x40
    "mov word ptr [0x102], 0",
    "mov al, 1",
    "out 0x10, al",
    "sti",
    "2: jmp 2b",
    ".org guest_ends_its_interrupt + 0x100",
    "mov al, 0x40",
    "out 0x10, al",
    "mov ecx, 0x80b", // EOI of an x2APIC
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "mov al, 2",
    "out 0x10, al",
    "iret",
);

fn the_end_of_an_interrupt_reaches_who_asks() -> Tested {
    const LEVEL: u32 = 1 << 15 | 1 << 14;
    let (mut vm, _memory) = connect(ends_its_interrupt())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.subscribe(Exits::IOAPIC_EOI, &[])?;
    let leaves = vm.supported_cpuid()?;
    let route = IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 | LEVEL };
    vm.set_irq_routes(&[IrqRoute { gsi: 5, target: route }])?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    init.set_cpuid(&leaves)?;
    let mut sregs = init.sregs()?;
    sregs.apic_base |= 1 << 10; // x2APIC
    init.set_sregs(&sregs)?;
    let mut lapic = init.lapic()?;
    (lapic.regs[0xf0], lapic.regs[0xf1]) = (-1, 1);
    init.set_lapic(&lapic)?;
    crate::common::machine::enter(&mut init, |_| {})?;
    drop(init);
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    for _ in 0..3 {
        assert!(vm.signal_msi(0xfee0_0000, 0x40 | LEVEL)?);
        // On some hosts KVM itself ends an interrupt when it delivers it (PVM; the guest's own EOI then finds nothing in
        // service), and the exit comes before or behind the handler's first write, as the scheduler has it.
        let (mut handled, mut ended) = (0, 0);
        while handled + ended < 2 {
            match vcpu.wait()? {
                Event::Write(write) => {
                    assert_eq!(write.value(), 0x40);
                    handled += 1;
                }
                Event::Exit(eoi) => {
                    assert_eq!(eoi.exit(), Exit::IoapicEoi { vector: 0x40 });
                    ended += 1;
                }
                other => panic!("{other:?} instead of the interrupt or its end"),
            }
        }
        assert_eq!((handled, ended), (1, 1));
        assert_eq!(written(&mut vcpu, 0x10)?, 2);
    }
    Ok(())
}

fn a_wrong_word_is_refused() -> Tested {
    unreachable!("the program does not start")
}

fn wrong_word(_: &Case) -> Tested {
    let mut program = crate::common::program::Program::run();
    program.args(["--plugin", "/bin/true", "--irqchip", "some"]);
    program.start().ended().expect(35).complained(&["give kernel, split or none"]);
    Ok(())
}
