//! Exits that are no accesses, against a VMM made of test code: every kind, whatever KVM can produce.

mod fake;

use std::thread;

use fake::{Fake, fake_vcpus};
use outboard_plugin::{Event, Exit, Exited, RawEvent};
use outboard_wire::details::Details;
use outboard_wire::line::{self, Answer, LAST_EVENT_KIND, answer_kind, event_kind};

/// Delivers an exit of this kind and these words, and returns the answer to what `plugin` makes of it.
fn exchange(kind: u8, words: &[u64], plugin: impl FnOnce(Exited<'_>)) -> Answer {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    let details = Details::new(words);
    let vmm = thread::spawn(move || {
        let mut event = line::Event { kind, ..line::Event::default() };
        details.put(&mut event, &vcpus[0].end.to_plugin().string);
        vcpus[0].resumed(event)
    });
    let Event::Exit(exited) = vcpu.wait().unwrap() else { panic!("kind {kind} is an exit") };
    plugin(exited);
    let answer = vmm.join().unwrap();
    assert_eq!((answer.kind, answer.length, answer.flags), (answer_kind::RESUME, 0, 0));
    answer
}

#[track_caller]
fn is(kind: u8, words: &[u64], exit: Exit) -> Answer {
    exchange(kind, words, |exited| assert_eq!(exited.exit(), exit))
}

#[test]
fn every_kind_has_its_exit() {
    is(event_kind::HYPERV_CALL, &[1, 2, 3], Exit::HypervCall { input: 1, params: [2, 3] });
    let synic = Exit::HypervSynic { msr: 1, control: 2, event_page: 3, message_page: 4 };
    is(event_kind::HYPERV_SYNIC, &[1, 2, 3, 4], synic);
    is(event_kind::READ_MSR, &[1, 2], Exit::ReadMsr { index: 1, reason: 2 });
    is(event_kind::WRITE_MSR, &[1, 2, 3], Exit::WriteMsr { index: 1, reason: 2, data: 3 });
    is(event_kind::HALT, &[], Exit::Halt);
    let hypercall = Exit::Hypercall { number: 1, args: [2, 3, 4, 5, 6, 7], flags: 8 };
    is(event_kind::HYPERCALL, &[1, 2, 3, 4, 5, 6, 7, 8], hypercall);
    is(event_kind::DEBUG, &[1, 2, 3, 4], Exit::Debug { exception: 1, pc: 2, dr6: 3, dr7: 4 });
    is(event_kind::IOAPIC_EOI, &[0x41], Exit::IoapicEoi { vector: 0x41 });
    let mut data = [0; 16];
    is(event_kind::SYSTEM, &[3], Exit::System { kind: 3, count: 0, data });
    (data[0], data[15]) = (7, 9);
    let mut words = vec![3];
    words.extend(data);
    is(event_kind::SYSTEM, &words, Exit::System { kind: 3, count: 16, data });
    let mut bytes = [0; 15];
    is(event_kind::EMULATION_FAILURE, &[0, 0, 0], Exit::EmulationFailure { count: 0, bytes });
    (bytes[0], bytes[7], bytes[8], bytes[14]) = (1, 8, 9, 15);
    let words = [15, 0x0800_0000_0000_0001, 0xff0f_0000_0000_0009];
    is(event_kind::EMULATION_FAILURE, &words, Exit::EmulationFailure { count: 15, bytes });
    let words = [u64::MAX, words[1], words[2]];
    is(event_kind::EMULATION_FAILURE, &words, Exit::EmulationFailure { count: 15, bytes });
}

#[test]
fn results_and_faults_travel() {
    let hypercall = [1, 2, 3, 4, 5, 6, 7, 8];
    for (kind, words) in [(event_kind::HYPERV_CALL, &hypercall[..3]), (event_kind::HYPERCALL, &hypercall)] {
        let answer = exchange(kind, words, |exited| exited.answer(u64::MAX - 1));
        assert_eq!((answer.data, answer.count), (u64::MAX - 1, 0));
        assert_eq!(exchange(kind, words, |exited| exited.fault()).count, 0, "a hypercall cannot fault");
    }
    let answer = exchange(event_kind::READ_MSR, &[1, 2], |exited| exited.answer(7));
    assert_eq!((answer.data, answer.count), (7, 0));
    assert_eq!(exchange(event_kind::READ_MSR, &[1, 2], |exited| exited.fault()).count, 1);
    assert_eq!(exchange(event_kind::WRITE_MSR, &[1, 2, 3], |exited| exited.accept()).count, 0);
    assert_eq!(exchange(event_kind::WRITE_MSR, &[1, 2, 3], |exited| exited.fault()).count, 1);
    assert_eq!(exchange(event_kind::EMULATION_FAILURE, &[1, 0xcc, 0], |exited| exited.accept()).count, 0);
    assert_eq!(exchange(event_kind::EMULATION_FAILURE, &[1, 0xcc, 0], |exited| exited.fault()).count, 1);
}

#[test]
fn what_is_not_answered_is_refused() {
    let dropped = |kind, words: &[u64]| {
        let answer = exchange(kind, words, |exited| drop(exited));
        (answer.data as i64, answer.count)
    };
    assert_eq!(dropped(event_kind::HYPERV_CALL, &[1, 2, 3]), (0, 0));
    assert_eq!(dropped(event_kind::HYPERCALL, &[1]), (-1000, 0));
    assert_eq!(dropped(event_kind::READ_MSR, &[1, 2]), (0, 1));
    assert_eq!(dropped(event_kind::WRITE_MSR, &[1, 2, 3]), (0, 1));
    assert_eq!(dropped(event_kind::HALT, &[]), (0, 0));
    assert_eq!(dropped(event_kind::EMULATION_FAILURE, &[1, 0xcc, 0]), (0, 1));
}

#[test]
fn raw_events_carry_their_result_in_the_data() {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    let vmm = thread::spawn(move || {
        let call = line::Event { kind: event_kind::HYPERV_CALL, length: 24, address: 5, ..line::Event::default() };
        let first = vcpus[0].resumed(call);
        (first, vcpus[0].resumed(line::Event { kind: event_kind::WRITE, length: 1, data: 3, ..line::Event::default() }))
    });
    assert_eq!(vcpu.next_event().unwrap(), RawEvent::Exit);
    assert_eq!(vcpu.registers().exit(), Some(Exit::HypervCall { input: 5, params: [0, 0] }));
    assert_eq!(vcpu.data(), [0; 8]);
    vcpu.data_mut().copy_from_slice(&9u64.to_le_bytes());
    vcpu.resume().unwrap();
    assert!(matches!(vcpu.next_event().unwrap(), RawEvent::Write(_)));
    assert_eq!(vcpu.registers().exit(), None);
    vcpu.registers().set_result(77);
    vcpu.registers().set_fault(true);
    vcpu.resume().unwrap();
    let (call, write) = vmm.join().unwrap();
    assert_eq!((call.data, call.count), (9, 0));
    assert_eq!((write.data, write.count), (0, 0));
}

#[test]
fn kinds_past_the_last_are_violations() {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    vcpus[0].end.publish(&line::Event { kind: LAST_EVENT_KIND + 1, ..line::Event::default() });
    assert_eq!(vcpu.wait().unwrap_err().errno(), 71); // EPROTO
}
