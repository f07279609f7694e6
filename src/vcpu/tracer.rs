//! What a vCPU thread writes into a trace while one is recorded. Cold: nothing here runs otherwise.

use std::sync::{Arc, OnceLock};

use super::witness::Witness;
use crate::kvm::{Access, Space};
use outboard_wire::block::Files;
use outboard_wire::line::{
    Answer, Event, FILE_DEBUGREGS, FILE_REGS, FILE_SREGS, FLAG_MMIO, FLAG_STRING, answer_kind, event_kind,
};
use outboard_wire::trace::ring::Ring;
use outboard_wire::trace::write::Writer;
use outboard_wire::trace::{EventPart, Record, area, kind};
use outboard_wire::vmm_end::VmmEnd;
use outboard_wire::words;

/// The trace of one vCPU.
#[derive(Debug)]
pub struct Tracer {
    groups: Writer,
    /// Where it waits until the guest's memory is recorded, if that is wanted.
    witness: Option<Arc<Witness>>,
}

impl Tracer {
    /// A tracer that writes to this ring once it is there; with a witness in traces with memory.
    pub fn new(ring: Arc<OnceLock<Ring>>, vcpu: u32, witness: Option<Arc<Witness>>) -> Tracer {
        Tracer { groups: Writer::new(ring, vcpu as u16), witness }
    }

    /// Called before the plugin hears of anything: what the guest has written is recorded first.
    #[cold]
    #[inline(never)]
    pub fn memory(&self) {
        if let Some(witness) = &self.witness {
            witness.ask();
        }
    }

    /// Groups that were lost for want of room.
    pub fn lost(&self) -> u64 {
        self.groups.lost()
    }

    /// Begins the group of an event that was answered. The guest's entry completes it.
    pub fn exchange(&mut self, event: &Event, answer: &Answer, published: u64, answered: u64, end: &VmmEnd) {
        self.groups.end();
        self.groups.begin(Record {
            kind: kind::EXCHANGE,
            exit: event.tsc,
            published,
            answered,
            event: event.into(),
            answer: answer.into(),
            ..Record::default()
        });
        let length = event.length as usize;
        if event.flags & FLAG_STRING != 0 && event.kind == event_kind::WRITE {
            self.words(area::EVENT_STRING, &end.to_plugin().string, length);
        }
        if answer.flags & FLAG_STRING != 0 {
            self.words(area::ANSWER_STRING, &end.to_vmm().string, length);
        }
        self.files(area::EVENT_FILES, event.files, &end.to_plugin().files);
        self.files(area::ANSWER_FILES, answer.files, &end.to_vmm().files);
    }

    /// Writes the group of a command.
    pub fn command(&mut self, command: &Answer, reply: &Event, answered: u64, end: &VmmEnd) {
        self.groups.end();
        self.groups.begin(Record {
            kind: kind::COMMAND,
            exit: answered,
            entered: reply.tsc,
            event: reply.into(),
            answer: command.into(),
            ..Record::default()
        });
        if command.kind == answer_kind::SET {
            self.words(area::COMMAND, &end.to_vmm().bulk, command.length as usize);
        }
        self.words(area::REPLY, &end.to_plugin().bulk, reply.length as usize);
        self.groups.end();
    }

    /// Completes the group of an event, if there is one. Returns whether there was.
    pub fn entered(&mut self, tsc: u64) -> bool {
        let open = self.groups.is_open();
        self.groups.head(|head| head.entered = tsc);
        self.groups.end();
        open
    }

    /// Writes the group of an exit that the plugin was not asked about, or one group for each posted item.
    pub fn unasked(&mut self, access: Option<&Access>, data: &[u8], posted: bool, exit: u64, entered: u64) {
        let kind = if posted { kind::POSTED } else { kind::UNASKED };
        let record = Record { kind, exit, entered, ..Record::default() };
        let Some(access) = access else {
            self.groups.begin(record);
            return self.groups.end();
        };
        let part = |length: usize, data: u64| EventPart {
            kind: if access.is_write { event_kind::WRITE } else { event_kind::READ },
            flags: if access.space == Space::Mmio { FLAG_MMIO } else { 0 },
            width: access.width,
            length: length as u32,
            address: access.address,
            data,
            ..EventPart::default()
        };
        if posted {
            for item in data.chunks(usize::from(access.width.max(1))) {
                self.groups.begin(Record { event: part(item.len(), words::low_bytes(item)), ..record });
                self.groups.end();
            }
        } else {
            let value = if data.len() <= 8 { words::low_bytes(data) } else { 0 };
            self.groups.begin(Record { event: part(access.length as usize, value), ..record });
            self.groups.end();
        }
    }

    fn words(&mut self, area: u8, words: &[core::sync::atomic::AtomicU64], length: usize) {
        let mut bytes = vec![0; length.min(words.len() * 8)];
        words::load(words, &mut bytes);
        self.groups.payload(area, &bytes);
    }

    fn files(&mut self, area: u8, bits: u8, files: &Files) {
        let mut all = Vec::new();
        for (bit, words, length) in [
            (FILE_REGS, &files.regs[..], 144),
            (FILE_SREGS, &files.sregs[..], 312),
            (FILE_DEBUGREGS, &files.debugregs[..], 128),
        ] {
            if bits & bit != 0 {
                let mut bytes = vec![0; length];
                words::load(words, &mut bytes);
                all.extend(bytes);
            }
        }
        self.groups.payload(area, &all);
    }
}
