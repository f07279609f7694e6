//! Every system call of a whole run fails once.
//!
//! A run is: start, jail, requests of all kinds, a guest with all kinds of accesses, a trace and a management socket, and
//! the end. It is done again and again, and each time the next call fails, or is interrupted by a signal.

use outboard_plugin::{Event, GuestMemory, IrqRoute, IrqTarget, Region, Space};

use crate::common::cage::Cage;
use crate::common::guest::real_mode;
use crate::common::machine::{connect, enter};
use crate::common::suite::{Case, Tested, case};
use crate::sweep::{LOST, REFUSED, leave, sweep};
use crate::trace::{How, Who};

pub const CASES: &[Case] = &[
    case!(main_thread).around(|case| sweep(case, Who::Main, How::Fails, 250)).only(CAGES),
    case!(other_threads).around(|case| sweep(case, Who::Thread, How::Fails, 25)).only(CAGES),
    case!(child).around(|case| sweep(case, Who::Child, How::Fails, 50)).only(CAGES),
    case!(main_thread_without_memory).around(|case| sweep(case, Who::Main, How::LacksMemory, 8)).only(CAGES),
    case!(other_threads_without_memory).around(|case| sweep(case, Who::Thread, How::LacksMemory, 4)).only(CAGES),
    case!(main_thread_interrupted).around(|case| sweep(case, Who::Main, How::IsInterrupted, 50)).only(CAGES),
    case!(other_threads_interrupted).around(|case| sweep(case, Who::Thread, How::IsInterrupted, 10)).only(CAGES),
];

pub const CAGES: &[Cage] = &[Cage::Caged, Cage::Uncaged];

real_mode!(does_everything:
    "in ax, 0x10",
    "out 0x11, ax",
    "out 0x12, ax",
    "mov si, 0x2000",
    "mov cx, 4",
    "mov dx, 0x13",
    "cld",
    "rep outsb",
    "out 0x14, al",
    "2: in ax, 0x15",
    "jmp 2b",
);

fn main_thread() -> Tested {
    everything(false)
}

fn other_threads() -> Tested {
    everything(false)
}

fn main_thread_without_memory() -> Tested {
    everything(false)
}

fn other_threads_without_memory() -> Tested {
    everything(false)
}

fn main_thread_interrupted() -> Tested {
    everything(false)
}

fn other_threads_interrupted() -> Tested {
    everything(false)
}

fn child() -> Tested {
    everything(false)
}

/// What a plugin half that waits to be told says when it is ready for that.
pub const READY: &str = "ready";

/// The plugin half of all: a refusal and the loss of the VMM end it, with a status for each. It ends by itself, or waits
/// until the VMM tells it to.
pub fn everything(until_told: bool) -> Tested {
    is_as_confined_as_it_should_be();
    let Err(error) = requests_and_guest(until_told) else { return Ok(()) };
    let lost =
        matches!(error.downcast_ref(), Some(outboard_plugin::Error::Closed | outboard_plugin::Error::NotConnected));
    leave(&error, if lost { LOST } else { REFUSED })
}

/// A step of the jail that failed must not let the plugin run in what is left of it.
fn is_as_confined_as_it_should_be() {
    // The jail does without one, aloud, where it cannot be mounted.
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().to_owned()
    };
    // Two descriptors beyond the standard streams: the control socket, and that of this very look.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("a /proc")
        .map(|entry| entry.expect("an entry").file_name().to_str().expect("digits").parse().expect("digits"))
        .collect();
    assert!(open.iter().all(|fd| *fd <= 4), "descriptors {open:?}");
    if std::env::var_os("OUTBOARD_TEST_CAGED").is_none() {
        return;
    }
    assert_eq!(std::process::id(), 1, "process 1 of its own namespace");
    for (name, value) in
        [("NoNewPrivs:", "1"), ("Seccomp:", "2"), ("CapBnd:", "0000000000000000"), ("CapEff:", "0000000000000000")]
    {
        assert_eq!(field(name), value, "{name}");
    }
    assert!(field("Uid:").split_whitespace().all(|uid| uid == "65534"), "{}", field("Uid:"));
    assert!(!std::path::Path::new("/etc/passwd").exists(), "an empty root");
    assert!(std::fs::write("/here", "").is_err(), "a read-only root");
}

fn requests_and_guest(until_told: bool) -> Tested {
    let (mut vm, _memory) = connect(does_everything())?;
    for port in [0x10, 0x11, 0x13, 0x15] {
        vm.reserve(Space::Port, port..port + 1)?;
    }
    vm.reserve_posted(Space::Port, 0x12..0x13)?;
    let bell = vm.create_io_event(Space::Port, 0x14, 1, None)?;
    let irq = vm.create_irq_event(5, true)?;
    let slot = GuestMemory::new(0x1000)?;
    let slot =
        vm.create_memory(&slot, &Region { start: 0x20_0000, length: 0x1000, dirty_log: true, ..Region::default() })?;
    let routes: Vec<_> =
        (0..100).map(|gsi| IrqRoute { gsi, target: IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 } }).collect();
    vm.set_irq_routes(&routes)?;
    vm.msr_indices()?;
    let clock = vm.clock()?;
    vm.set_clock(&clock)?;
    let mut second = vm.new_connection()?;
    second.check_extension(0)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    match vcpu.wait()? {
        Event::Init(mut init) => enter(&mut init, |_| {})?,
        _ => return Err(Box::new(outboard_plugin::Error::Closed)),
    }
    second.dirty_log(&slot)?;
    drop(second);
    let mut paused = false;
    loop {
        match vcpu.wait()? {
            Event::Read(read) if read.address() == 0x15 && !paused => vm.pause_vcpus([0], 1)?,
            Event::Read(read) if read.address() == 0x15 && !until_told => break,
            Event::Paused(mut stopped) => {
                let (regs, xsave) = (stopped.regs()?, stopped.xsave()?);
                stopped.set_regs(&regs)?;
                stopped.set_xsave(&xsave)?;
                paused = true;
                if until_told {
                    println!("{READY}");
                }
            }
            Event::Shutdown if paused && until_told => break,
            Event::Shutdown => return Err(Box::new(outboard_plugin::Error::Closed)),
            _ => {}
        }
    }
    assert_eq!(bell.fd().drain()?, 1);
    vm.destroy_io_event(&bell)?;
    vm.destroy_irq_event(&irq)?;
    Ok(vm.destroy_memory(&slot)?)
}
