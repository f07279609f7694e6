//! What plugins do with descriptors, objects, pauses and wakes: too many of them, of the wrong kind, and without end.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use outboard::sys::eventfd::EventFd;
use outboard::sys::memfd::{self, Seals};
use outboard::sys::pipe::pipe;
use outboard_plugin::{Connection, Error, Event, GuestMemory, RawEvent, Space, Vcpu};
use outboard_wire::block::STRIDE;
use outboard_wire::control::{
    CheckExtension, CreateIrqEvent, CreateMemory, DestroyIrqEvent, Kind, ObjectId, ROUTE_MSI, Route, SetRoutes, Start,
};
use outboard_wire::limits::{INLINE_ROUTES, MAX_ROUTES};
use outboard_wire::line::{Answer, event_kind};
use zerocopy::{FromBytes, IntoBytes};

use crate::around::{PROTOCOL, ends, run, start, start_program, verdict};
use crate::common::cage::Cage;
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, refused};
use crate::common::suite::{Case, Tested, case};
use crate::raw::{Bench, Raw, resume, wake};
use crate::sys;

pub const CASES: &[Case] = &[
    ends!(no_wrong_kind_of_descriptor_is_memory, 0),
    ends!(no_wrong_kind_of_descriptor_is_a_table, 0),
    ends!(a_table_that_shrinks_while_it_is_read, 0),
    ends!(memory_that_is_punched_and_written_under_the_guest, 0),
    ends!(sixteen_thousand_objects_and_no_more, 0),
    case!(runs_the_vmm_out_of_descriptors).around(with_few_descriptors).only(&[Cage::Caged, Cage::Uncaged]),
    case!(sends_descriptors_that_the_vmm_has_no_room_for)
        .around(with_few_descriptors)
        .only(&[Cage::Caged, Cage::Uncaged]),
    ends!(pauses_in_a_storm_from_sixteen_threads, 0),
    ends!(signals_every_eventfd_without_end, 0),
    ends!(floods_many_connections_while_the_guest_runs, 0),
    case!(goes_on_after_the_end).around(is_killed_after_its_second),
    case!(takes_pages_from_to_vmm_under_the_guest).around(is_a_breach_of_zeros),
];

const PAGE: usize = 0x1000;

real_mode!(reads_and_writes:
    "2: in ax, 0x10",
    "out 0x11, ax",
    "jmp 2b",
);

/// A guest that runs.
fn running() -> Result<(Connection, Vcpu, GuestMemory), Error> {
    let (mut vm, memory) = connect(reads_and_writes())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let vcpu = begin(&vm, 0)?;
    Ok((vm, vcpu, memory))
}

/// Serves so many reads and the writes that follow, whatever pauses come between.
fn serve(vcpu: &mut Vcpu, rounds: u64) -> Tested {
    let mut round = 0;
    while round < rounds {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(round),
            Event::Write(write) => {
                assert_eq!(write.value(), round & 0xffff);
                round += 1;
            }
            Event::Paused(_) => {}
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

/// One of every kind of file that a plugin can have, which is no sealed memfd.
fn wrong_kinds() -> Vec<(&'static str, OwnedFd)> {
    let open = |path| OwnedFd::from(File::open(path).expect("it is in every jail"));
    let (reader, writer) = pipe().expect("a pipe");
    let (one, other) = UnixStream::pair().expect("sockets");
    let plain = memfd::create(c"plain").expect("a memfd");
    memfd::set_size(plain.as_fd(), 1 << 20).expect("room");
    vec![
        ("a pipe's end to read", reader),
        ("a pipe's end to write", writer),
        ("a directory", open("/")),
        ("a device", open("/dev/null")),
        ("a device of zeros", open("/dev/zero")),
        ("a program", open("/proc/self/exe")),
        ("a file of /proc", open("/proc/self/status")),
        ("a socket", one.into()),
        ("another socket", other.into()),
        ("an eventfd", EventFd::new().expect("an eventfd").into()),
        ("a memfd without a seal", plain),
        ("a memfd without a size", sealed(0)),
    ]
}

fn sealed(size: u64) -> OwnedFd {
    let file = memfd::create(c"sealed").expect("a memfd");
    memfd::set_size(file.as_fd(), size).expect("room");
    memfd::add_seals(file.as_fd(), Seals::SHRINK).expect("seals");
    file
}

fn no_wrong_kind_of_descriptor_is_memory() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    for (what, fd) in wrong_kinds() {
        for flags in 0..4 {
            let slot = CreateMemory { offset: 0, length: PAGE as u64, start: 0x10_0000, flags, reserved: 0 };
            let status = raw.call(&slot, &[fd.as_fd()]).status;
            assert!([-libc::EINVAL, -libc::EPERM].contains(&status), "{what}: status {status}");
        }
    }
    // The control socket itself, and both files of the lines.
    let own = raw.socket.try_clone()?;
    let slot = CreateMemory { offset: 0, length: PAGE as u64, start: 0x10_0000, flags: 0, reserved: 0 };
    assert!(raw.call(&slot, &[own.as_fd()]).status < 0);
    raw.must(&Start {}, &[]);
    Ok(())
}

/// A table of so many routes in a file.
fn long_table(raw: &mut Raw, file: &OwnedFd, count: u32) -> i32 {
    let request = SetRoutes { count, reserved: 0, routes: [Route::default(); INLINE_ROUTES] };
    raw.call(&request, &[file.as_fd()]).status
}

fn no_wrong_kind_of_descriptor_is_a_table() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    for (what, fd) in wrong_kinds().into_iter().filter(|(what, _)| *what != "a memfd without a seal") {
        let status = long_table(&mut raw, &fd, MAX_ROUTES as u32);
        assert!(status < 0, "{what}: status {status}");
    }
    for count in [MAX_ROUTES as u32 + 1, 1 << 31, u32::MAX] {
        assert!(long_table(&mut raw, &sealed(1 << 20), count) < 0, "{count} routes");
    }
    raw.must(&Start {}, &[]);
    Ok(())
}

/// Nothing says that a table has to be sealed: it is copied once, and its end may come early.
fn a_table_that_shrinks_while_it_is_read() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let file = memfd::create(c"table")?;
    let table = vec![Route { gsi: 5, kind: ROUTE_MSI, address: 0xfee0_0000, data: 0x40, reserved: 0 }; MAX_ROUTES];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = File::from(file.try_clone().expect("a descriptor"));
            while !stop.load(Ordering::Relaxed) {
                let _ = writer.set_len(0).and_then(|()| std::io::Seek::rewind(&mut writer));
                writer.write_all(table.as_bytes()).expect("room in memory");
            }
        });
        for _ in 0..500 {
            // Taken, or refused; of zeros, of half of it, of all.
            assert!(long_table(&mut raw, &file, MAX_ROUTES as u32) <= 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    raw.must(&CheckExtension { capability: 0 }, &[]);
    Ok(())
}

fn memory_that_is_punched_and_written_under_the_guest() -> Tested {
    let (mut vm, mut vcpu, memory) = running()?;
    let stop = AtomicBool::new(false);
    let code = reads_and_writes();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // All but the guest's code, which the same bytes are written over.
                sys::punch_hole(memory.as_fd(), PAGE as i64).expect("the plugin's own file");
                memory.write(0x8000, &[0x55; PAGE]).expect("room");
                memory.write(0x1000, code).expect("room");
            }
        });
        let served = serve(&mut vcpu, 2000);
        stop.store(true, Ordering::Relaxed);
        served
    })?;
    vm.check_extension(0)?;
    Ok(())
}

/// To the limit of each kind, and what was made works.
fn sixteen_thousand_objects_and_no_more() -> Tested {
    let (mut vm, _memory) = connect(reads_and_writes())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    // Each costs this process a descriptor too, if it is kept.
    let mut made = 0;
    let errno = loop {
        match vm.create_irq_event(5, false) {
            Ok(event) => {
                drop(event);
                made += 1;
            }
            Err(error) => break error.errno(),
        }
    };
    assert!(
        errno == libc::ENOSPC && made == 16_384 || errno == libc::EMFILE && made >= 500,
        "errno {errno} after {made} irq events"
    );
    println!("{made} irq events, errno {errno}");
    // What cannot be had is refused; what needs nothing goes on.
    refused(vm.create_irq_event(5, false).map(drop), errno);
    vm.check_extension(0)?;
    vm.set_irq(5, false)?;
    vm.start()?;
    serve(&mut begin(&vm, 0)?, 100)
}

/// Takes until there is none left, twice.
fn runs_the_vmm_out_of_descriptors() -> Tested {
    let (mut vm, _memory) = connect(reads_and_writes())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for _ in 0..2 {
        let mut bells = Vec::new();
        let errno = loop {
            match vm.create_io_event(Space::Port, 0x100 + bells.len() as u64, 1, None) {
                Ok(bell) => bells.push(bell),
                Err(error) => break error.errno(),
            }
        };
        assert_eq!(errno, libc::EMFILE, "after {} doorbells", bells.len());
        assert!(bells.len() > 5, "{} doorbells", bells.len());
        // What takes as many is refused now, and the guest runs.
        refused(vm.new_connection().map(drop), libc::EMFILE);
        refused(vm.create_irq_event(5, false).map(drop), libc::EMFILE);
        serve(&mut vcpu, 100)?;
        for bell in &bells {
            vm.destroy_io_event(bell)?;
        }
        vm.msr_indices()?;
        drop(vm.new_connection()?);
    }
    Ok(())
}

/// What the kernel had to drop from a message is no fault of the plugin, and what came of it is not kept.
fn sends_descriptors_that_the_vmm_has_no_room_for() -> Tested {
    let (mut raw, _hello, _fds) = Raw::greeted();
    let event = |gsi| CreateIrqEvent { gsi, flags: 0 };
    let mut made = Vec::new();
    loop {
        let reply = raw.call(&event(5), &[]);
        if reply.status != 0 {
            assert_eq!(reply.status, -libc::EMFILE, "after {} irq events", made.len());
            break;
        }
        made.push(ObjectId::read_from_bytes(&reply.body).expect("an id"));
    }
    assert!(made.len() > 5, "{} irq events", made.len());
    let slot = CreateMemory { offset: 0, length: 4096, start: 0, flags: 0, reserved: 0 };
    let four = [0, 1, 2, 0];
    for _ in 0..100 {
        raw.request(Kind::CreateMemory as u16, slot.as_bytes(), &four);
        assert_eq!(raw.reply().status, -libc::EMFILE);
    }
    // What needs none goes on, and with room again the same message is what it is: one of too many descriptors.
    raw.must(&CheckExtension { capability: 0 }, &[]);
    for id in made {
        raw.must(&DestroyIrqEvent { id: id.id }, &[]);
    }
    raw.request(Kind::CreateMemory as u16, slot.as_bytes(), &four);
    assert_eq!(raw.reply().status, -libc::EINVAL);
    raw.must(&event(5), &[]);
    Ok(())
}

fn with_few_descriptors(case: &Case) -> Tested {
    let mut program = case.program();
    // The plugin gets the soft limit back that the user had.
    program.through_a_shell("ulimit -S -n 64; ulimit -H -n 64");
    verdict(&start_program(&mut program).ended(), 0, &[]);
    Ok(())
}

fn pauses_in_a_storm_from_sixteen_threads() -> Tested {
    let (mut vm, mut vcpu, _memory) = running()?;
    let storms = (0..16).map(|_| vm.new_connection()).collect::<Result<Vec<_>, _>>()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Tested {
        for mut vm in storms {
            let over = &over;
            scope.spawn(move || {
                for cookie in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    vm.pause_vcpus([0, 1, 1023], cookie).expect("a pause is never refused");
                }
            });
        }
        let served = serve(&mut vcpu, 500);
        over.store(true, Ordering::Relaxed);
        served
    })?;
    serve(&mut vcpu, 100)
}

fn signals_every_eventfd_without_end() -> Tested {
    let (mut vm, mut vcpu, _memory) = running()?;
    let own = vcpu.event_fd(&mut vm)?;
    let (shutdown, irq) = (vm.shutdown_event()?, vm.create_irq_event(5, true)?);
    let bell = vm.create_io_event(Space::Port, 0x20, 1, None)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Tested {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                own.signal();
                shutdown.signal();
                irq.trigger();
                irq.resample_fd().expect("one that is resampled").signal();
                bell.fd().signal();
            }
        });
        let served = serve(&mut vcpu, 2000);
        over.store(true, Ordering::Relaxed);
        served
    })?;
    vm.destroy_irq_event(&irq)?;
    serve(&mut vcpu, 100)
}

fn floods_many_connections_while_the_guest_runs() -> Tested {
    let (mut vm, mut vcpu, _memory) = running()?;
    let floods = (0..32).map(|_| vm.new_connection()).collect::<Result<Vec<_>, _>>()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Tested {
        for mut vm in floods {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    vm.check_extension(0).expect("each is answered");
                    vm.release(Space::Port, 0x999).expect_err("nothing is reserved there");
                }
            });
        }
        // The connection that behaves is served among the others.
        let served = (0..100).try_for_each(|_| vm.check_extension(0).map(drop)).map_err(Into::into);
        let served = served.and_then(|()| serve(&mut vcpu, 500));
        over.store(true, Ordering::Relaxed);
        served
    })
}

/// The VM is over, and the plugin goes on as if it were not: answers, bells, requests.
fn goes_on_after_the_end() -> Tested {
    let (mut vm, mut vcpu, _memory) = running()?;
    serve(&mut vcpu, 100)?;
    println!("ready");
    loop {
        match vcpu.next_event()? {
            RawEvent::Shutdown => break,
            _ => vcpu.resume()?,
        }
    }
    thread::spawn(move || {
        loop {
            // Refused, closed or answered: all the same.
            let _ = vm.pause_vcpus([0], 1);
            let _ = vm.create_irq_event(5, false);
        }
    });
    loop {
        let _ = vcpu.resume();
        let _ = vcpu.try_next_event();
    }
}

fn is_killed_after_its_second(case: &Case) -> Tested {
    let mut marked = start(case);
    marked.running.says("ready");
    marked.running.signal("TERM");
    verdict(&marked.ended(), 143, &["ended by SIGTERM; the plugin did not end within a second"]);
    Ok(())
}

/// The answers turn to zeros again and again, at any moment.
fn takes_pages_from_to_vmm_under_the_guest() -> Tested {
    let (mut bench, event) = Bench::running(reads_and_writes());
    let file = bench.file.try_clone()?;
    let raw = bench.another_view();
    thread::spawn(move || {
        loop {
            sys::punch_hole(file.as_fd(), STRIDE as i64).expect("the plugin's own file");
            // The announcement that this plugin sleeps turned to zero, too, and the VMM may have gone to sleep on it: nobody
            // else would wake either.
            wake(&raw);
        }
    });
    bench.answer_read(&event, 1);
    loop {
        let event = bench.event();
        match event.kind {
            event_kind::READ => bench.answer_read(&event, 1),
            _ => bench.end.answer(&resume(Answer::default())),
        }
    }
}

/// The zeros may come before the VMM looks at the number of an answer, or between that and any of its other words.
fn is_a_breach_of_zeros(case: &Case) -> Tested {
    let done = run(case);
    verdict(&done, PROTOCOL, &["the plugin broke the protocol: on vCPU 0 the plugin "]);
    let zeros = ["answered event 0 while event ", "sent answer kind 0, ", "answered a read of 2 bytes with 0"];
    assert!(zeros.iter().any(|zero| done.stderr.contains(zero)), "{}", done.stderr);
    Ok(())
}
