//! What plugins do to their control sockets.

use std::io::{BufRead, ErrorKind, stdin};
use std::os::unix::net::UnixDatagram;
use std::thread;

use outboard_plugin::{Connection, Event, Space};
use outboard_wire::control::{CheckExtension, Kind, NewConnection, ShutdownEvent};
use outboard_wire::frame::Header;
use outboard_wire::limits::MAX_CONNECTIONS;
use zerocopy::IntoBytes;

use crate::around::{ends, start, start_program, verdict};
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::suite::{Case, Tested, case};
use crate::raw::{Raw, wait_for_death};

pub const CASES: &[Case] = &[
    ends!(closes_before_hello, 1, "the plugin closed its last connection and did not end within a second"),
    ends!(closes_before_start, 1, "the plugin closed its last connection and did not end within a second"),
    ends!(closes_before_start_and_obeys, 6, "the plugin closed its last connection and ended with status 6"),
    ends!(sends_an_empty_message, 1, "the plugin closed its last connection"),
    ends!(closes_in_the_middle_of_a_request, 1, "the plugin closed its last connection"),
    case!(closes_after_start).around(the_vm_goes_on),
    ends!(opens_connections_to_the_limit_again_and_again, 0),
    ends!(floods_requests_and_reads_no_reply, 0),
    case!(floods_for_ever).around(a_flood_does_not_keep_signals_out),
    ends!(every_connection_is_of_its_own, 0),
];

real_mode!(counts:
    "mov cx, 1000",
    "3: in ax, 0x10",
    "out 0x11, ax",
    "loop 3b",
    "out 0x12, ax",
    "hlt",
);

fn closes_before_hello() -> Tested {
    drop(Raw::connect());
    wait_for_death()
}

fn closes_before_start() -> Tested {
    drop(connect(counts())?);
    wait_for_death()
}

fn closes_before_start_and_obeys() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    let shutdown = vm.shutdown_event()?;
    drop(vm);
    shutdown.wait()?;
    std::process::exit(6)
}

/// An empty message cannot be told from the end of the connection.
fn sends_an_empty_message() -> Tested {
    let (raw, ..) = Raw::greeted();
    raw.send(&[]);
    wait_for_death()
}

fn closes_in_the_middle_of_a_request() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    raw.request(Kind::ShutdownEvent as u16, &[], &[]);
    drop(raw);
    wait_for_death()
}

/// Serves [`counts`] to its end.
fn serve_counts(vm: &Connection) -> Tested {
    let mut vcpu = begin(vm, 0)?;
    serve(&mut vcpu)
}

fn serve(vcpu: &mut outboard_plugin::Vcpu) -> Tested {
    let mut reads = 0;
    loop {
        match vcpu.wait()? {
            Event::Read(read) => {
                read.answer_u64(reads);
                reads += 1;
            }
            Event::Write(write) if write.address() == 0x11 => assert_eq!(write.value(), reads - 1),
            Event::Write(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reads, 1000);
    Ok(())
}

fn closes_after_start() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    drop(vm);
    // Until the VMM has noticed, and has decided that it does not matter.
    stdin().lock().read_line(&mut String::new())?;
    serve(&mut vcpu)
}

fn the_vm_goes_on(case: &Case) -> Tested {
    let mut marked = start_program(case.program().args(["-v"]));
    marked.running.complains("outboard: info: the plugin closed its last connection; the VM goes on");
    marked.running.tell("go on");
    marked.ended().expect(0).complained(&["outboard: the plugin ended with status 0\n"]);
    Ok(())
}

fn opens_connections_to_the_limit_again_and_again() -> Tested {
    let (mut vm, _memory) = connect(counts())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    for round in 0..4 {
        let mut all = Vec::new();
        let errno = loop {
            match vm.new_connection() {
                Ok(connection) => all.push(connection),
                Err(error) => break error.errno(),
            }
        };
        assert_eq!(errno, libc::EMFILE);
        // Those of an earlier round may still be closing.
        assert!(if round == 0 { all.len() == MAX_CONNECTIONS - 1 } else { !all.is_empty() }, "{}", all.len());
        for connection in &mut all {
            connection.check_extension(0)?;
        }
        drop(all);
        // The VMM notices the end of a connection in its own time; a place is free when it has.
        while vm.new_connection().is_err() {}
    }
    vm.start()?;
    serve_counts(&vm)
}

/// Sends requests until the socket takes no more, beginning with this sequence number; returns the last one it took.
fn flood(socket: &UnixDatagram, first: u32) -> u32 {
    let mut sequence = first;
    loop {
        let header = Header::request(Kind::CheckExtension as u16, sequence, 4, 0);
        match socket.send(&[header.as_bytes(), &[0; 4]].concat()) {
            Ok(_) => sequence += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sequence - 1,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A further connection that does not block.
fn further(raw: &mut Raw) -> UnixDatagram {
    let fd = raw.call(&NewConnection {}, &[]).fds.pop().expect("a connection");
    let socket = UnixDatagram::from(fd);
    socket.set_nonblocking(true).expect("a socket");
    socket
}

/// Fills its own socket and that of the VMM: the other connections do not notice, and no request is lost.
fn floods_requests_and_reads_no_reply() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let flooded = further(&mut raw);
    let mut sent = flood(&flooded, 1);
    // The VMM goes on serving until its replies find no room either; then nothing more is taken.
    loop {
        for _ in 0..100 {
            raw.must(&CheckExtension { capability: 0 }, &[]);
        }
        let more = flood(&flooded, sent + 1);
        if more == sent {
            break;
        }
        sent = more;
    }
    assert!(sent > 10, "{sent} requests");
    raw.must(&CheckExtension { capability: 0 }, &[]);
    flooded.set_nonblocking(false)?;
    let mut reader = Raw::over(flooded.into());
    for _ in 0..sent {
        reader.sequence += 1;
        assert_eq!(reader.reply().status, 0);
    }
    reader.must(&CheckExtension { capability: 0 }, &[]);
    Ok(())
}

fn floods_for_ever() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    raw.call(&ShutdownEvent {}, &[]);
    let all: Vec<UnixDatagram> = (0..8).map(|_| further(&mut raw)).collect();
    for socket in &all {
        socket.set_nonblocking(false)?;
    }
    println!("ready");
    let senders: Vec<_> = all.into_iter().map(|socket| thread::spawn(move || flood(&socket, 1))).collect();
    for sender in senders {
        sender.join().expect("a flood without end");
    }
    Ok(())
}

fn a_flood_does_not_keep_signals_out(case: &Case) -> Tested {
    let mut marked = start(case);
    marked.running.says("ready");
    marked.running.signal("TERM");
    verdict(&marked.ended(), 143, &["ended by SIGTERM; the plugin did not end within a second"]);
    Ok(())
}

/// The sequence numbers of each connection begin with one, and its end concerns nobody else.
fn every_connection_is_of_its_own() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let mut second = Raw::over(raw.call(&NewConnection {}, &[]).fds.pop().expect("a connection"));
    let mut third = Raw::over(second.call(&NewConnection {}, &[]).fds.pop().expect("a connection"));
    drop(raw);
    third.must(&CheckExtension { capability: 0 }, &[]);
    drop(second);
    third.must(&CheckExtension { capability: 0 }, &[]);
    Ok(())
}
