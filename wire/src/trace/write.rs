//! Makes groups of records, and counts those that find no room.

use std::sync::{Arc, OnceLock};

use zerocopy::{FromBytes, IntoBytes};

use super::ring::Ring;
use super::{PAYLOAD, RECORD, Record, kind};

/// The writer of one thread. The ring is made when a trace begins.
#[derive(Debug)]
pub struct Writer {
    ring: Arc<OnceLock<Ring>>,
    vcpu: u16,
    sequence: u32,
    lost: u32,
    /// Groups lost since the thread began.
    lost_in_all: u64,
    group: Vec<[u64; RECORD / 8]>,
}

impl Writer {
    /// A writer for this vCPU, or [`super::CONTROL`].
    pub fn new(ring: Arc<OnceLock<Ring>>, vcpu: u16) -> Writer {
        Writer { ring, vcpu, sequence: 0, lost: 0, lost_in_all: 0, group: Vec::new() }
    }

    /// Begins a group with this head.
    pub fn begin(&mut self, head: Record) {
        self.group.clear();
        self.put(&head);
    }

    /// Adds data to the group.
    pub fn payload(&mut self, area: u8, bytes: &[u8]) {
        for chunk in bytes.chunks(PAYLOAD) {
            let mut record = [0u8; RECORD];
            let head = [kind::PAYLOAD, area];
            record[..2].copy_from_slice(&head);
            record[2..4].copy_from_slice(&self.vcpu.to_le_bytes());
            record[4..6].copy_from_slice(&(chunk.len() as u16).to_le_bytes());
            record[8..8 + chunk.len()].copy_from_slice(chunk);
            self.group.push(words(&record));
        }
    }

    /// The head of the group that was begun, to be completed.
    pub fn head(&mut self, change: impl FnOnce(&mut Record)) {
        let Some(first) = self.group.first_mut() else { return };
        let Ok(mut record) = Record::read_from_bytes(first.as_bytes()) else { return };
        change(&mut record);
        *first = words(record.as_bytes());
    }

    /// True while a group was begun and not written.
    pub fn is_open(&self) -> bool {
        !self.group.is_empty()
    }

    /// Appends the group to bytes that go to the file past the ring.
    pub fn end_into(&mut self, out: &mut Vec<u8>) {
        self.number();
        self.group.iter().for_each(|record| out.extend_from_slice(record.as_bytes()));
        self.group.clear();
    }

    /// Writes the group. Without room it is counted as lost, and the next one says so.
    pub fn end(&mut self) {
        if self.group.is_empty() {
            return;
        }
        self.number();
        let written = self.ring.get().is_some_and(|ring| ring.push(&self.group));
        if written {
            self.lost = 0;
        } else {
            self.lost = self.lost.saturating_add(1);
            self.lost_in_all += 1;
        }
        self.group.clear();
    }

    /// Groups lost since the thread began.
    pub fn lost(&self) -> u64 {
        self.lost_in_all
    }

    /// Completes the head.
    fn number(&mut self) {
        let (payload, vcpu) = (self.group.len().saturating_sub(1), self.vcpu);
        self.sequence = self.sequence.wrapping_add(1);
        let (sequence, lost) = (self.sequence, self.lost);
        self.head(|head| {
            (head.vcpu, head.payload, head.sequence, head.lost) = (vcpu, payload as u16, sequence, lost);
        });
    }

    fn put(&mut self, record: &Record) {
        self.group.push(words(record.as_bytes()));
    }
}

fn words(bytes: &[u8]) -> [u64; RECORD / 8] {
    core::array::from_fn(|at| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at * 8 + byte])))
}
