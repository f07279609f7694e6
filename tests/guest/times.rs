//! When the guest left: the TSC that comes with each event.

use outboard_plugin::{Event, Exits, MsrRange, Space, tsc};

use crate::common::guest::real_mode;
use crate::common::machine::{connect, enter};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[case!(every_event_says_when_the_guest_left)];

/// `IA32_MISC_ENABLE`, one that KVM knows.
const MSR: u32 = 0x1a0;

real_mode!(leaves_in_many_ways:
    "mov ecx, 0x1a0",
    "2: out 0x30, al",
    "out 0x10, al",
    "in al, 0x10",
    "rdmsr",
    "jmp 2b",
);

fn every_event_says_when_the_guest_left() -> Tested {
    const KINDS: [&str; 6] = ["init", "posted", "write", "read", "exit", "paused"];
    const ROUNDS: usize = 20;
    let (mut vm, _memory) = connect(leaves_in_many_ways())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    vm.subscribe(Exits::NONE, &[MsrRange { first: MSR, count: 1, read: true, write: false }])?;
    let mut last = tsc();
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let mut seen = [0; KINDS.len()];
    while seen.iter().skip(1).any(|count| *count < ROUNDS) {
        let (kind, left) = match vcpu.wait()? {
            Event::Init(mut init) => {
                enter(&mut init, |_| {})?;
                (0, init.exit_tsc())
            }
            Event::Posted(write) => (1, write.tsc),
            Event::Write(write) => {
                vm.pause_vcpus([0], 1)?;
                (2, write.exit_tsc())
            }
            Event::Read(read) => (3, read.exit_tsc()),
            Event::Exit(exited) => {
                let left = exited.exit_tsc();
                exited.answer(0);
                (4, left)
            }
            Event::Paused(paused) => (5, paused.exit_tsc()),
            other => panic!("{other:?} in place of what the guest does"),
        };
        seen[kind] += 1;
        let now = tsc();
        assert!(last < left && left < now, "{} left at {left}, after {last} and before {now}", KINDS[kind]);
        last = left;
    }
    assert_eq!(seen[0], 1);
    Ok(())
}
