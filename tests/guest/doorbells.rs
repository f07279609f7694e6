//! Io events: the eventfd fires and no exit comes, for exactly the writes that were named.

use outboard_plugin::{Connection, Error, RawEvent, Space, Vcpu};

use crate::common::guest::long_mode;
use crate::common::machine::{MMIO, begin_long_mode, connect, refused};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(exactly_the_named_writes_fire_without_an_exit),
    case!(a_doorbell_outside_of_every_range_fires_too),
    case!(several_matches_at_one_address),
    case!(wrong_io_events_are_refused),
];

const PORT: u64 = 0x30;

long_mode!(rings_in_every_way:
    "2: mov eax, ecx",
    "out 0x30, al",
    "out 0x30, ax",
    "out 0x30, eax",
    "mov [rbx], al",
    "mov [rbx], ax",
    "mov [rbx], eax",
    "mov [rbx], rax",
    "in al, 0x10", // the plugin looks, and says which value comes next
    "movzx ecx, al",
    "jmp 2b",
);

/// Every way in which the guest writes the value of a round.
const WAYS: [(Space, u32); 7] = [
    (Space::Port, 1),
    (Space::Port, 2),
    (Space::Port, 4),
    (Space::Mmio, 1),
    (Space::Mmio, 2),
    (Space::Mmio, 4),
    (Space::Mmio, 8),
];

/// The machine, with the guest standing between two rounds.
fn rings(claimed: bool) -> Result<(Connection, Vcpu), Box<dyn std::error::Error>> {
    let (mut vm, memory) = connect(rings_in_every_way())?;
    if claimed {
        vm.reserve(Space::Port, PORT..PORT + 1)?;
        vm.reserve(Space::Mmio, MMIO..MMIO + 1)?;
    }
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin_long_mode(&vm, 0, &memory, |regs| regs.rbx = MMIO)?;
    ways_that_exit(&mut vcpu)?;
    Ok((vm, vcpu))
}

/// The writes of the round that runs, up to its end, where the vCPU then stands.
fn ways_that_exit(vcpu: &mut Vcpu) -> Result<Vec<(Space, u32)>, Error> {
    let mut ways = Vec::new();
    loop {
        match vcpu.next_event()? {
            RawEvent::Write(access) => ways.push((access.space, access.length)),
            RawEvent::Read(_) => return Ok(ways),
            other => panic!("{other:?} instead of an access"),
        }
        vcpu.resume()?;
    }
}

/// Runs a round with this value.
fn round(vcpu: &mut Vcpu, value: u8) -> Result<Vec<(Space, u32)>, Error> {
    vcpu.data_mut()[0] = value;
    vcpu.resume()?;
    ways_that_exit(vcpu)
}

fn exactly_the_named_writes_fire_without_an_exit() -> Tested {
    let (mut vm, mut vcpu) = rings(true)?;
    for (space, address) in [(Space::Port, PORT), (Space::Mmio, MMIO)] {
        for (length, datamatch) in [
            (0, None),
            (1, None),
            (2, None),
            (4, None),
            (8, None),
            (1, Some(3)),
            (2, Some(3)),
            (4, Some(3)),
            (8, Some(3)),
        ] {
            let event = vm.create_io_event(space, address, length, datamatch)?;
            for value in [2, 3, 4, 3] {
                let named = |way: &(Space, u32)| {
                    way.0 == space
                        && (length == 0 || way.1 == length)
                        && datamatch.is_none_or(|datamatch| datamatch == u64::from(value))
                };
                let (fired, exits): (Vec<_>, Vec<_>) = WAYS.into_iter().partition(named);
                let what = format!("{space} {length} bytes, {datamatch:?}, the guest wrote {value}");
                assert_eq!(round(&mut vcpu, value)?, exits, "{what}");
                assert_eq!(event.fd().drain()?, fired.len() as u64, "{what}");
            }
            vm.destroy_io_event(&event)?;
            assert_eq!(round(&mut vcpu, 3)?, WAYS, "after its end all writes exit");
            assert_eq!(event.fd().drain()?, 0);
        }
    }
    Ok(())
}

fn a_doorbell_outside_of_every_range_fires_too() -> Tested {
    let (mut vm, mut vcpu) = rings(false)?;
    let port = vm.create_io_event(Space::Port, PORT, 1, None)?;
    let mmio = vm.create_io_event(Space::Mmio, MMIO, 4, Some(9))?;
    for value in [9, 8, 9] {
        assert_eq!(round(&mut vcpu, value)?, []);
        assert_eq!(port.fd().drain()?, 1);
        assert_eq!(mmio.fd().drain()?, u64::from(value == 9));
    }
    Ok(())
}

fn several_matches_at_one_address() -> Tested {
    let (mut vm, mut vcpu) = rings(true)?;
    let bells = [1, 2, 3].map(|value| vm.create_io_event(Space::Mmio, MMIO, 4, Some(value)));
    let bells = bells.into_iter().collect::<Result<Vec<_>, _>>()?;
    for value in [3, 1, 2, 4, 1] {
        let exits = round(&mut vcpu, value)?;
        assert_eq!(exits.contains(&(Space::Mmio, 4)), value == 4);
        for (bell, of) in bells.iter().zip(1..) {
            assert_eq!(bell.fd().drain()?, u64::from(value == of), "the bell of {of} after {value}");
        }
    }
    Ok(())
}

fn wrong_io_events_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for length in [3, 5, 16, u32::MAX] {
        refused(vm.create_io_event(Space::Mmio, MMIO, length, None), libc::EINVAL);
    }
    refused(vm.create_io_event(Space::Mmio, MMIO, 0, Some(1)), libc::EINVAL);
    refused(vm.create_io_event(Space::Port, 0x1_0000, 1, None), libc::EINVAL);
    let event = vm.create_io_event(Space::Mmio, MMIO, 4, Some(1))?;
    refused(vm.create_io_event(Space::Mmio, MMIO, 4, Some(1)), libc::EEXIST);
    vm.destroy_io_event(&event)?;
    refused(vm.destroy_io_event(&event), libc::ENOENT);
    vm.create_io_event(Space::Mmio, MMIO, 4, Some(1))?;
    Ok(())
}
