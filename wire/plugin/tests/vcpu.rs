//! A vCPU's events against a VMM made of test code.

mod fake;

use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fake::{Fake, FakeVcpu, fake, fake_vcpus, read, write};
use outboard_plugin::{Error, Event, EventFd, PostedWrite, RawEvent, Space, Vcpu, wait_any};
use outboard_wire::line::{self, Answer, FLAG_MMIO, FLAG_STRING, event_kind};
use outboard_wire::{socket, words};

/// Runs the VMM's side of vCPU 0 in a thread, then ends the VM, and the plugin's side here until it is told.
fn exchange(vmm: impl FnOnce(&mut FakeVcpu) + Send + 'static, mut plugin: impl FnMut(Event<'_>)) {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    let vmm = thread::spawn(move || {
        vmm(&mut vcpus[0]);
        vcpus[0].end.close();
    });
    loop {
        match vcpu.wait().unwrap() {
            Event::Shutdown => break,
            event => plugin(event),
        }
    }
    assert!(matches!(vcpu.wait().unwrap(), Event::Shutdown), "the end stays the end");
    vmm.join().unwrap();
}

#[test]
fn reads_and_writes_of_every_width() {
    let vmm = |vcpu: &mut FakeVcpu| {
        vcpu.init();
        for length in [1, 2, 4, 8] {
            let answer = vcpu.resumed(read(0x3f8, length));
            let mask = u64::MAX >> (64 - 8 * length);
            let expected = Answer { data: 0x8877_6655_4433_2211 & mask, length, ..answer };
            assert_eq!((answer, answer.flags), (expected, 0));
            let event = Event { flags: FLAG_MMIO, ..write(0xd000, length, 0x1122 & mask) };
            let answer = vcpu.resumed(event);
            assert_eq!((answer.length, answer.data, answer.flags), (0, 0, 0));
        }
    };
    use line::Event;
    let mut seen = Vec::new();
    exchange(vmm, |event| match event {
        outboard_plugin::Event::Read(read) => {
            assert_eq!((read.space(), read.address()), (Space::Port, 0x3f8));
            read.answer_u64(0x8877_6655_4433_2211);
        }
        outboard_plugin::Event::Write(write) => {
            assert_eq!((write.space(), write.address()), (Space::Mmio, 0xd000));
            seen.push((write.data().len(), write.value()));
        }
        outboard_plugin::Event::Init(init) => init.resume(),
        other => panic!("{other:?}"),
    });
    assert_eq!(seen, [(1, 0x22), (2, 0x1122), (4, 0x1122), (8, 0x1122)]);
}

#[test]
fn a_forgotten_read_gives_zeros_and_a_short_answer_is_filled_up() {
    let vmm = |vcpu: &mut FakeVcpu| {
        assert_eq!(vcpu.resumed(read(1, 4)).data, 0x0201);
        assert_eq!(vcpu.resumed(read(2, 4)).data, 0, "nothing is left from the answer before");
        assert_eq!(vcpu.resumed(read(3, 2)).data, 0x0201, "a long answer is cut");
    };
    exchange(vmm, |event| match event {
        Event::Read(read) if read.address() == 1 => read.answer(&[1, 2]),
        Event::Read(read) if read.address() == 3 => read.answer(&[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        _ => {}
    });
}

#[test]
fn string_io_of_a_thousand_bytes_both_ways() {
    let vmm = |vcpu: &mut FakeVcpu| {
        let bytes: Vec<u8> = (0..1000).map(|at| (at % 251) as u8).collect();
        words::store(&vcpu.end.to_plugin().string, &bytes);
        let flags = FLAG_STRING;
        vcpu.resumed(line::Event { flags, width: 2, ..write(0x1f0, 1000, 0) });
        for width in [1, 2, 4] {
            let answer = vcpu.resumed(line::Event { flags, width, ..read(0x1f0, 1000) });
            assert_eq!((answer.length, answer.flags), (1000, FLAG_STRING));
            let mut back = vec![0; 1000];
            words::load(&vcpu.end.to_vmm().string, &mut back);
            let expected: Vec<u8> = (0..1000 / u32::from(width))
                .flat_map(|item| item.to_le_bytes().into_iter().take(width.into()))
                .collect();
            assert_eq!(back, expected);
        }
    };
    exchange(vmm, |event| match event {
        Event::Write(write) => {
            assert_eq!((write.data().len(), write.items().count()), (1000, 500));
            assert_eq!(write.items().nth(1), Some(0x0302));
            assert!(write.data().iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
        }
        Event::Read(read) => {
            let mut next = 0;
            read.answer_items(|| {
                next += 1;
                next - 1
            });
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn widths_that_cannot_be_do_no_harm() {
    let vmm = |vcpu: &mut FakeVcpu| {
        for (width, length) in [(0, 0), (0, 9), (255, 4), (3, 8)] {
            vcpu.resumed(line::Event { width, ..read(0x10, length) });
            vcpu.resumed(line::Event { width, ..write(0x10, length, 5) });
        }
    };
    exchange(vmm, |event| match event {
        Event::Read(read) => read.answer_u64(1),
        Event::Write(write) => drop(write.items().count() as u64 + write.value()),
        other => panic!("{other:?}"),
    });
}

#[test]
fn posted_writes_come_in_order_and_before_the_event_behind_them() {
    let vmm = |vcpu: &mut FakeVcpu| {
        for round in 0..500 {
            for step in 0..round % 5 {
                vcpu.post(round * 10 + step);
            }
            vcpu.resumed(write(0x80, 4, round));
        }
    };
    let (mut posted, mut expected) = (Vec::new(), Vec::new());
    exchange(vmm, |event| match event {
        Event::Posted(write) => posted.push(write.data),
        Event::Write(write) => {
            let round = write.value();
            expected.extend((0..round % 5).map(|step| round * 10 + step));
            assert_eq!(posted, expected);
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_pause_carries_its_cookie() {
    let vmm = |vcpu: &mut FakeVcpu| {
        let pause = line::Event { kind: event_kind::PAUSED, address: 0xdead_beef_1234, ..line::Event::default() };
        vcpu.resumed(pause);
    };
    exchange(vmm, |event| match event {
        Event::Paused(paused) => assert_eq!(paused.cookie(), 0xdead_beef_1234),
        other => panic!("{other:?}"),
    });
}

#[test]
fn the_raw_events_are_resumed_by_hand() {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    assert_eq!(vcpu.resume().unwrap_err().errno(), libc::EPROTO);
    assert_eq!(vcpu.registers().regs().unwrap_err().errno(), libc::EPROTO);
    assert_eq!(vcpu.try_next_event().unwrap(), None);
    let vmm = thread::spawn(move || {
        vcpus[0].init();
        vcpus[0].post(7);
        assert_eq!(vcpus[0].resumed(read(0x60, 2)).data, 0xffff);
        vcpus[0].end.close();
    });
    assert_eq!(vcpu.next_event().unwrap(), RawEvent::Init);
    assert_eq!(vcpu.next_event().unwrap_err().errno(), libc::EPROTO, "not before the resume");
    drop(vcpu);
    let mut vcpu = connection.vcpu(0).unwrap();
    vcpu.resume().unwrap();
    let posted = PostedWrite { space: Space::Port, address: 0xe9, length: 4, data: 7, tsc: 0 };
    assert_eq!((vcpu.next_event().unwrap(), vcpu.data()), (RawEvent::Posted(posted), &[7, 0, 0, 0][..]));
    assert!(vcpu.resume().is_err(), "a posted write is not resumed");
    assert!(matches!(vcpu.next_event().unwrap(), RawEvent::Read(access) if access.length == 2));
    assert_eq!(vcpu.data_mut(), [0, 0]);
    vcpu.data_mut().fill(0xff);
    vcpu.resume().unwrap();
    assert_eq!(vcpu.next_event().unwrap(), RawEvent::Shutdown);
    vmm.join().unwrap();
}

#[test]
fn an_event_that_does_not_exist_is_an_error() {
    for (kind, length) in [(99, 0), (event_kind::REPLY, 0), (event_kind::READ, 5000)] {
        let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
        let mut vcpu = connection.vcpu(0).unwrap();
        vcpus[0].end.publish(&line::Event { kind, length, ..line::Event::default() });
        let error = vcpu.wait().unwrap_err();
        assert!(matches!(error, Error::Violation(_)), "{error}");
    }
}

#[test]
fn one_thread_serves_several_vcpus_in_turn() {
    let Fake { connection, vcpus, .. } = fake_vcpus(4);
    let vmms: Vec<_> = vcpus
        .into_iter()
        .map(|mut vcpu| {
            thread::spawn(move || {
                for data in 0..300 {
                    assert_eq!(vcpu.resumed(read(data, 8)).data, data + 1);
                }
                vcpu.end.close();
            })
        })
        .collect();
    let mut vcpus: Vec<Vcpu> = (0..4).map(|id| connection.vcpu(id).unwrap()).collect();
    let mut next = 0;
    while !vcpus.is_empty() {
        let ready = wait_any(&mut vcpus, next).unwrap();
        next = ready + 1;
        let ended = match vcpus[ready].try_wait().unwrap() {
            Some(Event::Read(read)) => {
                let address = read.address();
                read.answer_u64(address + 1);
                false
            }
            Some(Event::Shutdown) => true,
            other => panic!("{other:?}"),
        };
        if ended {
            vcpus.remove(ready);
        }
    }
    vmms.into_iter().for_each(|vmm| vmm.join().unwrap());
    assert_eq!(wait_any::<Vcpu>(&mut [], 0).unwrap_err().errno(), libc::EINVAL);
    let mut refs = [&mut connection.vcpu(0).unwrap()];
    assert_eq!(wait_any(&mut refs, 7).unwrap(), 0, "a closed vCPU is ready");
}

#[test]
fn the_search_begins_where_it_is_told() {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(3);
    vcpus.iter_mut().for_each(|vcpu| vcpu.end.publish(&read(0, 1)));
    let mut vcpus: Vec<Vcpu> = (0..3).map(|id| connection.vcpu(id).unwrap()).collect();
    for (first, found) in [(0, 0), (1, 1), (2, 2), (3, 0), (usize::MAX, 0)] {
        assert_eq!(wait_any(&mut vcpus, first).unwrap(), found);
    }
}

/// An EventFd over a socket pair would do for the plugin's side, but the VMM signals with eight bytes, so both ends of a
/// pair behave like an eventfd here: the VMM's end is written, the plugin's end read.
fn eventfd_loop(vcpu: &mut Vcpu, events: &EventFd) -> u64 {
    let mut answered = 0;
    loop {
        if vcpu.arm().unwrap() {
            events.wait().unwrap();
        }
        while let Some(event) = vcpu.try_wait().unwrap() {
            match event {
                Event::Read(read) => {
                    read.answer_u64(3);
                    answered += 1;
                }
                Event::Posted(_) => answered += 1000,
                Event::Shutdown => return answered,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_foreign_event_loop_waits_on_the_eventfd() {
    let (kept, given) = socket::pair().unwrap();
    let copy = given.as_fd().try_clone_to_owned().unwrap();
    let mut fake = fake(1, move |_| (0, Vec::new(), vec![copy.as_fd().try_clone_to_owned().unwrap()]));
    let mut vmm = fake.vcpus.remove(0);
    vmm.eventfd.set(kept).unwrap();
    let mut vcpu = fake.connection.vcpu(0).unwrap();
    assert_eq!(vcpu.arm().unwrap_err().errno(), libc::EBADF);
    let events = vcpu.event_fd(&mut fake.connection).unwrap();
    let vmm = thread::spawn(move || {
        for round in 0..200 {
            assert_eq!(vmm.resumed(read(1, 1)).data, 3);
            if round % 50 == 0 {
                thread::sleep(Duration::from_millis(2));
                vmm.post(round);
            }
        }
        vmm.end.close();
    });
    assert_eq!(eventfd_loop(&mut vcpu, &events), 200 + 4 * 1000);
    vmm.join().unwrap();
    drop(given);
}

#[test]
fn a_shutdown_wakes_a_sleeping_wait_and_a_stopped_vcpu() {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(2);
    let (sender, receiver) = mpsc::channel();
    let mut first = connection.vcpu(0).unwrap();
    let sleeper = thread::spawn(move || {
        assert!(matches!(first.wait().unwrap(), Event::Shutdown));
        sender.send(()).unwrap();
    });
    thread::sleep(Duration::from_millis(20));
    vcpus[0].end.close();
    receiver.recv_timeout(Duration::from_secs(10)).unwrap();
    sleeper.join().unwrap();

    let mut second = connection.vcpu(1).unwrap();
    vcpus[1].end.publish(&read(0, 1));
    let Event::Read(mut read) = second.wait().unwrap() else { panic!() };
    vcpus[1].end.close();
    let error = read.fpu().unwrap_err();
    assert!(matches!(error, Error::Shutdown), "{error}");
    read.answer_u64(0);
    assert!(matches!(second.wait().unwrap(), Event::Shutdown));
}
