//! Interrupts: by the line, by an irq event, and with resample. The guest takes them in real mode through KVM's own 8259.

use outboard_plugin::{Connection, Error, Event, Space, Vcpu};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_line_that_rises_interrupts),
    case!(an_irq_event_interrupts_each_time),
    case!(resample_tells_the_end_of_an_interrupt),
    case!(a_destroyed_irq_event_does_nothing),
    case!(wrong_irq_events_are_refused),
];

real_mode!(takes_interrupts:
    "cli",
    "mov al, 0x11", // 8259: edge triggered, with a slave, ICW4 follows
    "out 0x20, al",
    "mov al, 0x20", // IRQ 0 is interrupt 0x20
    "out 0x21, al",
    "mov al, 4",
    "out 0x21, al",
    "mov al, 1",
    "out 0x21, al",
    "mov al, 0x9f", // all masked but 5 and 6
    "out 0x21, al",
    "sti",
    "out 0x12, al", // ready
    "2: hlt",
    "jmp 2b",
);

real_mode!(handler_of_5:
    "mov al, 5",
    "out 0x10, al",
    "mov al, 0x20", // end of interrupt
    "out 0x20, al",
    "out 0x11, al",
    "iret",
);

real_mode!(handler_of_6:
    "mov al, 6",
    "out 0x10, al",
    "mov al, 0x20",
    "out 0x20, al",
    "out 0x11, al",
    "iret",
);

/// The machine, with a guest that waits for interrupts 5 and 6.
fn ready() -> Result<(Connection, Vcpu), Error> {
    let (mut vm, memory) = connect(takes_interrupts())?;
    for (irq, handler, at) in [(5, handler_of_5(), 0x2000), (6, handler_of_6(), 0x2100)] {
        memory.write(at, handler)?;
        memory.write_obj((0x20 + irq) * 4, &(at as u32))?; // segment 0
    }
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    written(&mut vcpu, 0x12)?;
    Ok((vm, vcpu))
}

/// Waits until the guest has handled an interrupt; returns which.
fn handled(vcpu: &mut Vcpu) -> Result<u64, Error> {
    let irq = written(vcpu, 0x10)?;
    written(vcpu, 0x11)?;
    Ok(irq)
}

fn a_line_that_rises_interrupts() -> Tested {
    let (mut vm, mut vcpu) = ready()?;
    for round in 0..100 {
        let irq = 5 + round % 2;
        vm.set_irq(irq, true)?;
        assert_eq!(handled(&mut vcpu)?, u64::from(irq));
        vm.set_irq(irq, false)?;
    }
    Ok(())
}

fn an_irq_event_interrupts_each_time() -> Tested {
    let (mut vm, mut vcpu) = ready()?;
    let events = [vm.create_irq_event(5, false)?, vm.create_irq_event(6, false)?];
    assert!(events[0].resample_fd().is_none());
    for round in 0..100 {
        let which = round % 2;
        events[which].trigger();
        assert_eq!(handled(&mut vcpu)?, 5 + which as u64);
    }
    Ok(())
}

fn resample_tells_the_end_of_an_interrupt() -> Tested {
    let (mut vm, mut vcpu) = ready()?;
    let event = vm.create_irq_event(5, true)?;
    let resample = event.resample_fd().expect("it was asked for");
    for _ in 0..100 {
        event.trigger();
        match vcpu.wait()? {
            Event::Write(write) => {
                assert_eq!((write.address(), write.value()), (0x10, 5));
                assert_eq!(resample.drain()?, 0, "the guest has not ended the interrupt yet");
            }
            other => panic!("{other:?} instead of the handler's report"),
        }
        written(&mut vcpu, 0x11)?; // this comes after the end of the interrupt
        assert_eq!(resample.wait()?, 1);
    }
    Ok(())
}

fn a_destroyed_irq_event_does_nothing() -> Tested {
    let (mut vm, mut vcpu) = ready()?;
    let (gone, stays) = (vm.create_irq_event(5, false)?, vm.create_irq_event(6, false)?);
    gone.trigger();
    assert_eq!(handled(&mut vcpu)?, 5);
    vm.destroy_irq_event(&gone)?;
    refused(vm.destroy_irq_event(&gone), libc::ENOENT);
    for _ in 0..10 {
        gone.trigger();
        stays.trigger();
        assert_eq!(handled(&mut vcpu)?, 6);
    }
    Ok(())
}

fn wrong_irq_events_are_refused() -> Tested {
    use outboard_wire::control::CreateIrqEvent;
    let mut vm = outboard_plugin::connect()?;
    let asked: Result<_, Error> = vm.call(&CreateIrqEvent { gsi: 5, flags: 0x80 }, &[]);
    refused(asked.map(drop), libc::EINVAL);
    for _ in 0..10 {
        let event = vm.create_irq_event(5, true)?;
        vm.destroy_irq_event(&event)?;
    }
    Ok(())
}
