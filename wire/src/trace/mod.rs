//! Traces: what happened between a VMM and its plugin, exit by exit, in records of fixed size.
//!
//! Each vCPU thread, and the control thread, writes groups of records into a [`ring::Ring`] of its own; a thread of the VMM
//! drains the rings into a file. A group is a head record and as many payload records as its data needs. `TRACE.md` beside
//! this crate is the normative text of the file.

pub mod read;
pub mod ring;
pub mod write;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::line::{Answer, Event};

/// The first bytes of a trace.
pub const MAGIC: [u8; 8] = *b"OUTBTRAC";

/// Version of the format. A reader of another version refuses the file.
pub const VERSION: u32 = 1;

/// Bytes of a record.
pub const RECORD: usize = 128;

/// Data bytes of a payload record.
pub const PAYLOAD: usize = 120;

/// Bytes of the header; records follow.
pub const HEADER: usize = 512;

/// In place of a vCPU's number: the control thread.
pub const CONTROL: u16 = u16::MAX;

/// What a record is.
pub mod kind {
    /// An event and the answer that resumed the vCPU.
    pub const EXCHANGE: u8 = 1;
    /// A posted write.
    pub const POSTED: u8 = 2;
    /// A command of the plugin and its reply; it belongs to the next exchange of its vCPU.
    pub const COMMAND: u8 = 3;
    /// An exit that the plugin was not asked about.
    pub const UNASKED: u8 = 4;
    /// Data of the head record before it.
    pub const PAYLOAD: u8 = 5;
    /// A control request and its reply.
    pub const CONTROL: u8 = 6;
    /// The last record of a trace that was ended in order; `data` is the number of records lost in all.
    pub const END: u8 = 7;
    /// Bytes of guest memory that the guest has written: `file` of the answer is the slot, `address` where they lie for the
    /// guest, `data` of the event their offset in the slot.
    pub const MEMORY: u8 = 8;
}

/// What the data of payload records is.
pub mod area {
    /// String data of a write.
    pub const EVENT_STRING: u8 = 1;
    /// String data that a read was answered with.
    pub const ANSWER_STRING: u8 = 2;
    /// Register files that rode along, in the order of their bits.
    pub const EVENT_FILES: u8 = 3;
    /// Register files that a resume set, likewise.
    pub const ANSWER_FILES: u8 = 4;
    /// Bulk data of a set command.
    pub const COMMAND: u8 = 5;
    /// Bulk data of a reply.
    pub const REPLY: u8 = 6;
    /// Body of a control request.
    pub const REQUEST_BODY: u8 = 7;
    /// Body of its reply.
    pub const REPLY_BODY: u8 = 8;
    /// Contents of the file that came with the reply.
    pub const REPLY_FILE: u8 = 9;
    /// Contents of guest memory.
    pub const MEMORY: u8 = 10;
}

/// Set in [`Header::flags`]: the trace begins before the plugin started, so it can be replayed.
pub const FLAG_FROM_START: u32 = 1;

/// Set in [`Header::flags`]: the trace holds what the guest wrote to its memory.
pub const FLAG_MEMORY: u32 = 2;

/// The header of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// [`RECORD`].
    pub record: u32,
    /// vCPUs of the VM.
    pub vcpus: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u64,
    /// TSC when the trace began.
    pub start_tsc: u64,
    /// Nanoseconds since 1970 at that moment.
    pub start_time: u64,
    /// Process id of the VMM.
    pub pid: u32,
    /// CPUs that VMM and plugin may use together.
    pub cpus: u32,
    /// Name of the VM, UTF-8, filled up with zeros.
    pub name: [u8; 64],
    /// Path of the plugin, likewise.
    pub path: [u8; 256],
    /// Zero.
    pub reserved: [u8; 136],
}

/// A record. Times are TSC ticks; fields that a kind does not use are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// One of [`kind`].
    pub kind: u8,
    /// Payload records: one of [`area`].
    pub area: u8,
    /// Number of the vCPU, or [`CONTROL`].
    pub vcpu: u16,
    /// Head records: number of payload records that follow. Payload records: bytes of data.
    pub payload: u16,
    /// Zero.
    pub reserved: u16,
    /// Number of the group among those of its thread, from 1, modulo 2^32.
    pub sequence: u32,
    /// Groups of this thread that were lost for want of room since the one before.
    pub lost: u32,
    /// The guest left, or the command or request came.
    pub exit: u64,
    /// The event was published; 0 if there was none.
    pub published: u64,
    /// The answer was seen.
    pub answered: u64,
    /// The guest was about to be entered again, or the reply was sent.
    pub entered: u64,
    /// The event, or the reply to a command.
    pub event: EventPart,
    /// The answer, or the command.
    pub answer: AnswerPart,
}

/// The fields of an event in a record, as section 5.1 of `PROTOCOL.md` names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields of line::Event")]
pub struct EventPart {
    pub kind: u8,
    pub flags: u8,
    pub width: u8,
    pub files: u8,
    pub length: u32,
    pub address: u64,
    pub data: u64,
    pub count: u64,
    pub status: i32,
    pub posted: u32,
}

/// The fields of an answer in a record, as section 5.2 names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields of line::Answer")]
pub struct AnswerPart {
    pub kind: u8,
    pub flags: u8,
    pub files: u8,
    pub want: u8,
    pub length: u32,
    pub file: u32,
    pub cpu: u32,
    pub count: u64,
    pub data: u64,
    pub reserved: u64,
}

const _: () = assert!(size_of::<Record>() == RECORD && size_of::<Header>() == HEADER);

impl From<&Event> for EventPart {
    fn from(event: &Event) -> EventPart {
        let Event { kind, flags, width, files, length, posted, address, data, status, count, .. } = *event;
        EventPart { kind, flags, width, files, length, address, data, count, status, posted }
    }
}

impl From<&EventPart> for Event {
    fn from(part: &EventPart) -> Event {
        let EventPart { kind, flags, width, files, length, address, data, count, status, posted } = *part;
        Event { kind, flags, width, files, length, posted, address, data, status, count, ..Event::default() }
    }
}

impl From<&Answer> for AnswerPart {
    fn from(answer: &Answer) -> AnswerPart {
        let Answer { kind, flags, files, want, length, file, count, data, cpu } = *answer;
        AnswerPart { kind, flags, files, want, length, file, cpu, count, data, reserved: 0 }
    }
}
