//! Files that tools read: traces in every format that they are shown in, and counters.
//!
//! An even first byte: the rest is a trace. An odd one: the rest is a trace behind a sound header. 255: it is a file of counters.

use std::fs::File;
use std::io::Write;

use outboard_trace::Format;
use outboard_wire::stats::read::Snapshot;
use outboard_wire::trace::read::Trace;
use outboard_wire::trace::{HEADER, Header, MAGIC, RECORD, VERSION};
use zerocopy::{FromZeros, IntoBytes};

use crate::assert_sentence;

/// The target.
pub fn trace(data: &[u8]) {
    match data.split_first() {
        None => {}
        Some((255, bytes)) => counters(bytes),
        Some((choice, bytes)) if choice % 2 == 1 => shown(&behind_header(*choice, bytes)),
        Some((_, bytes)) => shown(bytes),
    }
}

fn behind_header(choice: u8, records: &[u8]) -> Vec<u8> {
    let mut header = Header::new_zeroed();
    header.magic = MAGIC;
    header.version = VERSION;
    header.record = RECORD as u32;
    header.vcpus = 1 + u32::from(choice >> 6);
    header.tsc_khz = 2_000_000;
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(HEADER, 0);
    bytes.extend_from_slice(records);
    bytes
}

fn shown(bytes: &[u8]) {
    let trace = match Trace::read(bytes) {
        Ok(trace) => trace,
        Err(error) => return assert_sentence(&error.to_string()),
    };
    assert!(trace.groups.len() <= bytes.len() / RECORD);
    let groups = trace.by_time();
    assert_eq!(groups.len(), trace.groups.len());
    assert_sentence(&format!("{} {}.", trace.name(), trace.path()));
    groups.iter().for_each(|group| assert_sentence(&outboard_trace::describe(&trace, group)));
    for format in [Format::Text, Format::Chrome, Format::Folded, Format::Csv] {
        outboard_trace::write(&trace, &groups, format, &mut std::io::sink()).expect("nothing is written anywhere");
    }
}

fn counters(bytes: &[u8]) {
    let memfd = outboard::sys::memfd::create(c"outboard-fuzz").expect("a memfd");
    let mut file = File::from(memfd);
    file.write_all(bytes).expect("room");
    match Snapshot::read(&file) {
        Err(error) => assert_sentence(&error.to_string()),
        Ok(snapshot) => {
            assert_eq!(snapshot.vcpus.len(), snapshot.vm.vcpus);
            for vcpu in &snapshot.vcpus {
                for (cell, counts) in &vcpu.cells {
                    assert_sentence(snapshot.name(*cell));
                    let _ = (snapshot.range(*cell), counts.clone().since(counts));
                }
            }
        }
    }
}
