//! Traces: what is written is read back, and no bytes whatever make the reader panic.

#![cfg(not(loom))]

use std::sync::{Arc, OnceLock};

use outboard_wire::trace::read::{Trace, TraceError};
use outboard_wire::trace::ring::{Ring, SLOTS};
use outboard_wire::trace::write::Writer;
use outboard_wire::trace::{CONTROL, EventPart, HEADER, Header, MAGIC, RECORD, Record, VERSION, area, kind};
#[cfg(not(miri))]
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn header() -> Header {
    Header {
        magic: MAGIC,
        version: VERSION,
        record: RECORD as u32,
        vcpus: 2,
        flags: 1,
        tsc_khz: 2_000_000,
        start_tsc: 10,
        start_time: 20,
        pid: 30,
        cpus: 2,
        name: [0; 64],
        path: [0; 256],
        reserved: [0; 136],
    }
}

/// A trace of a few groups with data, ended in order.
fn trace() -> Vec<u8> {
    let ring: Arc<OnceLock<Ring>> = Arc::default();
    ring.get_or_init(Ring::default);
    let mut writer = Writer::new(Arc::clone(&ring), 1);
    for length in [0, 8, 120, 121, 4096] {
        writer.begin(Record { kind: kind::EXCHANGE, exit: length, ..Record::default() });
        writer.payload(area::EVENT_STRING, &vec![length as u8; length as usize]);
        writer.payload(area::ANSWER_FILES, &[1, 2, 3]);
        writer.head(|head| head.entered = 7);
        writer.end();
    }
    let mut bytes = header().as_bytes().to_vec();
    ring.get().expect("a ring").drain(&mut bytes);
    let end = Record { kind: kind::END, vcpu: CONTROL, event: EventPart::default(), ..Record::default() };
    bytes.extend(end.as_bytes());
    bytes
}

#[test]
fn what_is_written_is_read_back() {
    let trace = Trace::read(&trace()).expect("a trace");
    assert!(trace.complete && trace.is_from_start() && trace.lost == 0);
    let lengths: Vec<usize> = trace.groups.iter().map(|group| group.data(area::EVENT_STRING).len()).collect();
    assert_eq!(lengths, [0, 8, 120, 121, 4096]);
    for (number, group) in (1..).zip(&trace.groups) {
        assert_eq!((group.head.vcpu, group.head.sequence, group.head.entered), (1, number, 7));
        assert_eq!(group.data(area::ANSWER_FILES), [1, 2, 3]);
    }
}

#[test]
fn a_full_ring_loses_whole_groups_and_says_how_many() {
    let ring: Arc<OnceLock<Ring>> = Arc::default();
    ring.get_or_init(Ring::default);
    let mut writer = Writer::new(Arc::clone(&ring), 0);
    let put = |writer: &mut Writer| {
        writer.begin(Record { kind: kind::POSTED, ..Record::default() });
        writer.end();
    };
    (0..SLOTS + 5).for_each(|_| put(&mut writer));
    assert_eq!(writer.lost(), 5);
    let mut bytes = header().as_bytes().to_vec();
    ring.get().expect("a ring").drain(&mut bytes);
    put(&mut writer);
    ring.get().expect("a ring").drain(&mut bytes);
    let trace = Trace::read(&bytes).expect("a trace");
    assert_eq!((trace.groups.len(), trace.lost, trace.complete), (SLOTS + 1, 5, false));
    assert_eq!(trace.groups.last().expect("a group").head.sequence as usize, SLOTS + 6);
}

#[test]
fn every_prefix_is_read_or_refused() {
    let bytes = trace();
    let step = if cfg!(miri) { 1009 } else { 1 };
    for length in (0..bytes.len()).step_by(step) {
        match Trace::read(&bytes[..length]) {
            Ok(trace) => assert!(length >= HEADER && !trace.complete, "{length}"),
            Err(error) => assert!(length < HEADER, "{length}: {error}"),
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = trace();
        bytes[at] = value;
        Trace::read(&bytes).expect_err("it was damaged")
    };
    assert_eq!(with(0, 0), TraceError::Foreign);
    assert_eq!(with(8, 9), TraceError::Version(9));
    assert_eq!(with(12, 64), TraceError::Header("the size of a record", 64));
    assert_eq!(with(16, 0), TraceError::Header("the number of vCPUs", 0));
    assert!(matches!(with(HEADER, 99), TraceError::Record { record: 0, byte: HEADER, .. }));
    assert!(matches!(with(HEADER, kind::PAYLOAD), TraceError::Record { record: 0, .. }));
    assert!(matches!(with(HEADER + 2, 7), TraceError::Record { record: 0, .. }));
}

// Miri has tried the same paths above, and takes minutes for a case.
#[cfg(not(miri))]
proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(tail in proptest::collection::vec(any::<u8>(), 0..2048), whole: bool) {
        let mut bytes = if whole { header().as_bytes().to_vec() } else { Vec::new() };
        bytes.extend(tail);
        let _ = Trace::read(&bytes);
    }

    #[test]
    fn no_change_makes_the_reader_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = trace();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(trace) = Trace::read(&bytes) {
            prop_assert!(trace.by_time().len() == trace.groups.len());
        }
    }
}
