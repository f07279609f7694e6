//! Nothing grows in the VMM while a plugin makes and destroys whatever there is.

use std::io::{BufRead, stdin};
use std::time::{Duration, Instant};

use outboard_plugin::{GuestMemory, Region, Space};

use crate::around::{start, verdict};
use crate::common::machine::connect;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[case!(makes_and_destroys_everything).around(stays_flat)];

/// Objects of each kind in a round.
const OBJECTS: u64 = 250;
/// Connections in a round, ten at a time.
const CONNECTIONS: usize = 250;
/// Rounds; what the first one allocates for good does not count.
const ROUNDS: usize = 4;

fn makes_and_destroys_everything() -> Tested {
    let (mut vm, _memory) = connect(&[0xf4])?;
    let memory = GuestMemory::new(0x1000)?;
    for round in 0..ROUNDS {
        for number in 0..OBJECTS {
            let region = Region { length: 0x1000, start: 0x10_0000, dirty_log: number % 2 == 0, ..Region::default() };
            let slot = vm.create_memory(&memory, &region)?;
            if number % 2 == 0 {
                vm.dirty_log(&slot)?;
            }
            vm.destroy_memory(&slot)?;
            let irq = vm.create_irq_event(5, number % 2 == 0)?;
            vm.destroy_irq_event(&irq)?;
            let io = vm.create_io_event(Space::Port, 0x100 + number, 2, Some(number))?;
            vm.destroy_io_event(&io)?;
            vm.reserve(Space::Mmio, 0x20_0000..0x20_1000)?;
            vm.release(Space::Mmio, 0x20_0000)?;
            // What is refused takes nothing either.
            assert!(vm.create_memory(&memory, &Region { start: 0, ..region }).is_err());
            assert!(vm.create_io_event(Space::Port, 0x100, 3, None).is_err());
            vm.vcpu(0)?.event_fd(&mut vm)?;
            vm.shutdown_event()?;
        }
        for _ in 0..CONNECTIONS / 10 {
            let mut ten: Vec<_> = (0..10).map(|_| vm.new_connection()).collect::<Result<_, _>>()?;
            for connection in &mut ten {
                connection.check_extension(0)?;
            }
        }
        println!("round {round}");
        stdin().lock().read_line(&mut String::new())?;
    }
    Ok(())
}

/// Open descriptors, mappings and threads of a process.
fn holdings(pid: i32) -> [usize; 3] {
    let entries = |what| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("the VMM lives").count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the VMM lives");
    [entries("fd"), maps.lines().count(), entries("task")]
}

fn stays_flat(case: &Case) -> Tested {
    let mut marked = start(case);
    let pid = marked.running.pid();
    let mut first = None;
    for round in 0..ROUNDS {
        assert_eq!(marked.running.says("round "), round.to_string());
        let first = first.get_or_insert_with(|| settled(pid));
        // The ends of the connections may still be on their way.
        let deadline = Instant::now() + Duration::from_secs(10);
        while holdings(pid).iter().zip(&*first).any(|(now, before)| now > before) {
            assert!(Instant::now() < deadline, "round {round}: {:?}, at first {first:?}", holdings(pid));
        }
        marked.running.tell("go on");
    }
    verdict(&marked.ended(), 0, &[]);
    Ok(())
}

/// Sockets of a VMM with one connection: that, and the one on which it listens for tools.
const SOCKETS: usize = 2;

/// The holdings once all connections but the first are closed: sockets there are two then.
fn settled(pid: i32) -> [usize; 3] {
    let sockets = || {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("the VMM lives")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while sockets() > SOCKETS {
        assert!(Instant::now() < deadline, "{} sockets are open", sockets());
    }
    holdings(pid)
}
