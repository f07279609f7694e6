//! Reads a trace. Total: whatever the bytes are, the result is a trace or a sentence.

use zerocopy::FromBytes;

use super::{FLAG_FROM_START, HEADER, Header, MAGIC, PAYLOAD, RECORD, Record, VERSION, area, kind};
use crate::limits::MAX_VCPUS;

/// Why bytes are no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// They do not begin as one.
    #[error("it is no trace of outboard")]
    Foreign,
    /// Another version.
    #[error("it is a trace of version {0}, this program reads version {VERSION}; use the one of the same release")]
    Version(u32),
    /// A number in the header cannot be.
    #[error("its header is damaged: {0} is {1}")]
    Header(&'static str, u64),
    /// A record cannot be.
    #[error("it is damaged at record {record}, byte {byte}: {what}")]
    Record {
        /// Number of the record, from 0.
        record: usize,
        /// Offset in the file.
        byte: usize,
        /// What is wrong.
        what: String,
    },
}

/// A head record and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The head.
    pub head: Record,
    /// Where the record stands in the file, from 0.
    pub number: usize,
    data: Vec<(u8, Vec<u8>)>,
}

impl Group {
    /// The data of an area; empty if there is none.
    pub fn data(&self, area: u8) -> &[u8] {
        self.data.iter().find(|(known, _)| *known == area).map_or(&[], |(_, data)| data)
    }

    /// Ticks from the guest's exit to its next entry.
    pub fn whole(&self) -> u64 {
        self.head.entered.saturating_sub(self.head.exit)
    }

    /// Ticks from the event's publication to its answer; 0 if there was no event.
    pub fn plugin(&self) -> u64 {
        if self.head.published == 0 { 0 } else { self.head.answered.saturating_sub(self.head.published) }
    }
}

/// A trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its header.
    pub header: Header,
    /// Its groups as they stand in the file: in order for each vCPU, and by pieces of time among them.
    pub groups: Vec<Group>,
    /// Whether it was ended in order; else the end is missing.
    pub complete: bool,
    /// Groups that were lost for want of room.
    pub lost: u64,
}

impl Trace {
    /// Reads the bytes of a file. A trace that was cut off is read as far as it goes.
    ///
    /// # Errors
    /// A [`TraceError`].
    pub fn read(bytes: &[u8]) -> Result<Trace, TraceError> {
        let header = header(bytes)?;
        let mut trace = Trace { header, groups: Vec::new(), complete: false, lost: 0 };
        let mut records = bytes[HEADER..].chunks_exact(RECORD).enumerate();
        while let Some((number, bytes)) = records.next() {
            let head = Record::read_from_bytes(bytes).map_err(|_| damaged(number, "it is too short".to_owned()))?;
            check(&head, header.vcpus).map_err(|what| damaged(number, what))?;
            if trace.complete {
                return Err(damaged(number, "it stands behind the end".to_owned()));
            }
            if head.kind == kind::END {
                trace.complete = true;
                trace.lost = trace.lost.max(head.event.data);
                continue;
            }
            let mut group = Group { head, number, data: Vec::new() };
            for _ in 0..head.payload {
                let Some((number, bytes)) = records.next() else { return Ok(trace) };
                group.add(bytes).map_err(|what| damaged(number, what))?;
            }
            trace.lost = trace.lost.saturating_add(head.lost.into());
            trace.groups.push(group);
        }
        Ok(trace)
    }

    /// Whether it begins before the plugin started.
    pub fn is_from_start(&self) -> bool {
        self.header.flags & FLAG_FROM_START != 0
    }

    /// The name of the VM.
    pub fn name(&self) -> String {
        text(&self.header.name)
    }

    /// The path of the plugin.
    pub fn path(&self) -> String {
        text(&self.header.path)
    }

    /// The groups by the time of their exits.
    pub fn by_time(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.iter().collect();
        groups.sort_by_key(|group| group.head.exit);
        groups
    }
}

impl Group {
    fn add(&mut self, bytes: &[u8]) -> Result<(), String> {
        let length = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        if bytes[0] != kind::PAYLOAD || length > PAYLOAD || !(area::EVENT_STRING..=area::MEMORY).contains(&bytes[1]) {
            return Err(format!("its data has kind {}, area {} and {length} bytes", bytes[0], bytes[1]));
        }
        let data = &bytes[8..8 + length];
        match self.data.iter_mut().find(|(area, _)| *area == bytes[1]) {
            Some((_, all)) => all.extend(data),
            None => self.data.push((bytes[1], data.to_vec())),
        }
        Ok(())
    }
}

fn damaged(record: usize, what: String) -> TraceError {
    TraceError::Record { record, byte: HEADER + record * RECORD, what }
}

fn check(head: &Record, vcpus: u32) -> Result<(), String> {
    let control = matches!(head.kind, kind::CONTROL | kind::END | kind::MEMORY);
    match head.kind {
        kind::PAYLOAD => Err("its data has no head".to_owned()),
        kind::EXCHANGE..=kind::MEMORY if control == (head.vcpu == super::CONTROL) => {
            if control || u32::from(head.vcpu) < vcpus {
                Ok(())
            } else {
                Err(format!("there is no vCPU {}", head.vcpu))
            }
        }
        _ => Err(format!("kind {} of vCPU {} does not exist", head.kind, head.vcpu)),
    }
}

fn header(bytes: &[u8]) -> Result<Header, TraceError> {
    let magic = bytes.get(..8) == Some(&MAGIC);
    let (true, Ok((header, _))) = (magic, Header::read_from_prefix(bytes)) else {
        return Err(if magic { TraceError::Header("its length", bytes.len() as u64) } else { TraceError::Foreign });
    };
    if header.version != VERSION {
        return Err(TraceError::Version(header.version));
    }
    for (name, value, good) in [
        ("the size of a record", header.record.into(), header.record as usize == RECORD),
        ("the number of vCPUs", header.vcpus.into(), (1..=MAX_VCPUS).contains(&(header.vcpus as usize))),
        ("the frequency of the TSC", header.tsc_khz, header.tsc_khz > 0),
    ] {
        if !good {
            return Err(TraceError::Header(name, value));
        }
    }
    Ok(header)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
