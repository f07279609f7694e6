//! The part of a trace that is the guest's memory: a thread that looks at it while a vCPU thread waits.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine::written::{Change, WrittenMemory};
use crate::sys::Errno;
use crate::vcpu::witness::Witness;
use outboard_wire::clock;
use outboard_wire::trace::write::Writer;
use outboard_wire::trace::{AnswerPart, CONTROL, EventPart, Record, area, kind};

/// Bytes that may wait for a slow disk. Then the guest waits, because a trace without all of its memory is of no use.
const MOST: usize = 64 << 20;

/// Records for the file, past the rings: they are never lost.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// Takes what there is.
    pub(super) fn take(&self) -> Vec<u8> {
        core::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether there is room for more.
    fn put(&self, bytes: &mut Vec<u8>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(bytes);
        all.len() < MOST
    }
}

/// What a recorder needs to record memory.
pub(super) type Memory = (Arc<WrittenMemory>, Arc<Witness>);

/// The thread.
pub(super) struct MemoryTrace {
    witness: Arc<Witness>,
    thread: JoinHandle<Result<(), Errno>>,
}

impl MemoryTrace {
    /// Starts it; records go to `buffer`, which somebody drains until it has ended.
    pub(super) fn start((written, witness): &Memory, buffer: &Buffer) -> io::Result<MemoryTrace> {
        witness.open(true);
        let (written, witness, buffer) = (Arc::clone(written), Arc::clone(witness), buffer.clone());
        let served = Arc::clone(&witness);
        let thread = std::thread::Builder::new().name("trace-memory".to_owned()).spawn(move || {
            let (mut done, mut writer, mut bytes) = (Ok(()), Writer::new(Arc::default(), CONTROL), Vec::new());
            served.serve(|| {
                let now = clock::now();
                match written.take() {
                    Ok(changes) => changes.iter().for_each(|change| put(&mut writer, change, now, &mut bytes)),
                    Err(errno) => done = Err(errno),
                }
                while !buffer.put(&mut bytes) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            done
        });
        if thread.is_err() {
            witness.open(false);
        }
        Ok(MemoryTrace { witness, thread: thread? })
    }

    /// Ends it, and lets whoever waits for it go on.
    ///
    /// # Errors
    /// Why some of the memory is missing.
    pub(super) fn stop(self) -> Result<(), Errno> {
        self.witness.open(false);
        self.thread.join().unwrap_or(Err(Errno::EINVAL))
    }
}

fn put(writer: &mut Writer, change: &Change, now: u64, out: &mut Vec<u8>) {
    let length = change.bytes.len() as u32;
    let event = EventPart { address: change.address, data: change.offset, length, ..EventPart::default() };
    let answer = AnswerPart { file: change.slot, ..AnswerPart::default() };
    writer.begin(Record { kind: kind::MEMORY, exit: now, entered: now, event, answer, ..Record::default() });
    writer.payload(area::MEMORY, &change.bytes);
    writer.end_into(out);
}
