//! Several connections, and none.

use std::io::BufRead;

use outboard_plugin::{Connection, Event, Space};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, next_pause, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(every_connection_serves_the_same_vm),
    case!(start_on_a_second_connection),
    case!(connections_from_several_threads),
    case!(the_vm_goes_on_without_a_connection).around(a_line_tells_that_the_grace_is_over),
    case!(a_connection_closed_leaves_the_others),
    case!(connections_are_limited_and_come_back),
];

real_mode!(counts: "2: out 0x10, eax", "inc eax", "jmp 2b");

fn every_connection_serves_the_same_vm() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    let mut second = vm.new_connection()?;
    let mut third = second.new_connection()?;
    second.reserve(Space::Port, 0x10..0x11)?;
    refused(third.reserve(Space::Port, 0x10..0x11), libc::EPERM);
    third.release(Space::Port, 0x10)?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    // A connection made after the start works too.
    let mut fourth = third.new_connection()?;
    let mut vcpu = begin(&second, 0)?;
    for (cookie, connection) in [&mut vm, &mut second, &mut third, &mut fourth].into_iter().enumerate() {
        connection.pause_vcpus([0], cookie as u64)?;
        loop {
            match vcpu.wait()? {
                Event::Write(_) => {}
                Event::Paused(paused) => break assert_eq!(paused.cookie(), cookie as u64),
                other => panic!("{other:?} instead of a write or a pause"),
            }
        }
    }
    Ok(())
}

fn start_on_a_second_connection() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.new_connection()?.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for value in 0..10 {
        assert_eq!(written(&mut vcpu, 0x10)?, value);
    }
    Ok(())
}

fn connections_from_several_threads() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    let connections = (0..8).map(|_| vm.new_connection()).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        for (number, mut connection) in connections.into_iter().enumerate() {
            scope.spawn(move || {
                let start = 0x1000 * number as u64;
                for _ in 0..200 {
                    connection.reserve(Space::Mmio, start..start + 0x1000).expect("nobody else reserves this");
                    connection.release(Space::Mmio, start).expect("nobody else releases this");
                }
            });
        }
    });
    vm.reserve(Space::Mmio, 0..0x8000)?;
    Ok(())
}

fn the_vm_goes_on_without_a_connection() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 0);
    drop(vm);
    std::io::stdin().lock().read_line(&mut String::new())?;
    for value in 1..100 {
        assert_eq!(written(&mut vcpu, 0x10)?, value);
    }
    Ok(())
}

fn a_line_tells_that_the_grace_is_over(case: &Case) -> Tested {
    let mut program = case.program();
    program.args(["-v"]);
    let mut running = program.start();
    running.complains("outboard: info: the plugin closed its last connection; the VM goes on");
    running.tell("go on");
    running.ended().expect(0);
    Ok(())
}

fn a_connection_closed_leaves_the_others() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    for _ in 0..300 {
        let mut passing = vm.new_connection()?;
        passing.reserve(Space::Port, 0x10..0x11)?;
        drop(passing);
        vm.release(Space::Port, 0x10)?; // what a connection reserved outlives it
    }
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    vm.pause_vcpus([0], 5)?;
    assert_eq!(next_pause(&mut vcpu)?.cookie(), 5);
    Ok(())
}

fn connections_are_limited_and_come_back() -> Tested {
    const LIMIT: usize = outboard_wire::limits::MAX_CONNECTIONS;
    let mut vm = outboard_plugin::connect()?;
    let mut others: Vec<Connection> = Vec::new();
    while others.len() < LIMIT - 1 {
        others.push(vm.new_connection()?);
    }
    refused(vm.new_connection(), libc::EMFILE);
    others.iter_mut().try_for_each(|connection| connection.check_extension(3).map(drop))?;
    drop(others);
    // The VMM learns of the ends one by one; a connection that takes their place is had as soon as it has.
    loop {
        match vm.new_connection() {
            Ok(mut connection) => return Ok(connection.check_extension(3).map(drop)?),
            Err(error) => assert_eq!(error.errno(), libc::EMFILE),
        }
    }
}
