//! The plugin's side of a vCPU's lines, by hand: sound answers, and any bytes at all.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytemuck::{Zeroable, bytes_of, bytes_of_mut};
use outboard_wire::block::{ToPlugin, ToVmm};
use outboard_wire::kvm_abi::{File, MpState, Regs, Sregs};
use outboard_wire::line::{Answer, Event, FILE_REGS, FILE_SREGS, answer_kind, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::words;

use crate::input::Input;

/// Bytes of guest memory, at address 0.
pub const MEMORY: usize = 0x1_0000;
/// Where the guest starts.
pub const CODE: u16 = 0x1000;

/// A guest that leaves in many ways: ports of the ranges 0x10 (synchronous) and 0x30 (posted) by byte, word and string,
/// addresses without memory, a halt, and again from the start.
pub const GUEST: &[u8] = &[
    0xe4, 0x10, // in al, 0x10
    0xe6, 0x11, // out 0x11, al
    0xe6, 0x30, // out 0x30, al: posted
    0xe5, 0x12, // in ax, 0x12
    0xe7, 0x32, // out 0x32, ax: posted
    0xba, 0x14, 0x00, // mov dx, 0x14
    0xb9, 0x10, 0x00, // mov cx, 16
    0xbe, 0x00, 0x20, // mov si, 0x2000
    0xf3, 0x6e, // rep outsb
    0xb9, 0x10, 0x00, // mov cx, 16
    0xbf, 0x00, 0x30, // mov di, 0x3000
    0xf3, 0x6c, // rep insb
    0xa2, 0x00, 0x20, // mov [0x2000], al
    0xf4, // hlt
    0xeb, 0xdb, // jmp to the start
];

/// What was heard.
pub enum Heard {
    /// An event that waits for an answer.
    Event(Event),
    /// The VM has ended.
    End,
    /// Nothing, in the time given.
    Nothing,
    /// Lines that make no sense, which the VMM never writes.
    Violation,
}

/// The lines of one vCPU.
pub struct Lines {
    end: PluginEnd,
    raw: BlockRef<ToVmm>,
    blocks: Arc<Blocks<ToVmm>>,
    index: usize,
    /// An event waits for its answer.
    pub waiting: bool,
}

impl Lines {
    /// Maps the blocks of `vcpus` vCPUs, as the reply to a hello brings them, and takes those of vCPU `index`.
    pub fn map(fds: &[OwnedFd], vcpus: usize, index: usize) -> Option<Lines> {
        let [down, up] = fds else { return None };
        let down = Arc::new(Blocks::<ToPlugin>::map(down.as_fd(), vcpus, Access::Read).ok()?);
        let blocks = Arc::new(Blocks::<ToVmm>::map(up.as_fd(), vcpus, Access::Write).ok()?);
        let raw = BlockRef::new(&blocks, index)?;
        let limit = Arc::new(SpinLimit::unlimited());
        let end = PluginEnd::new(
            BlockRef::new(&down, index)?,
            BlockRef::new(&blocks, index)?,
            Spinner::new(SpinMode::Off, 1),
            limit,
        );
        Some(Lines { end, raw, blocks, index, waiting: false })
    }

    /// Another view of what this side writes, for a thread that changes it.
    pub fn view(&self) -> Option<BlockRef<ToVmm>> {
        BlockRef::new(&self.blocks, self.index)
    }

    /// Looks for the next event for so long; posted writes are taken on the way.
    pub fn next(&mut self, limit: Duration) -> Heard {
        let start = Instant::now();
        loop {
            match self.end.try_next() {
                Ok(Some(Incoming::Posted(_))) => {}
                Ok(Some(Incoming::Event(event))) if event.kind == event_kind::SHUTDOWN => return Heard::End,
                Ok(Some(Incoming::Event(event))) => {
                    self.waiting = true;
                    return Heard::Event(event);
                }
                Ok(None) if start.elapsed() > limit => return Heard::Nothing,
                Ok(None) => std::thread::sleep(Duration::from_micros(20)),
                Err(_) => return Heard::Violation,
            }
        }
    }

    /// Answers.
    pub fn answer(&mut self, answer: &Answer) {
        self.waiting = false;
        self.end.answer(answer);
    }

    /// Lays bytes where the data of commands goes.
    pub fn bulk(&self, bytes: &[u8]) {
        words::store(&self.raw.bulk, &bytes[..bytes.len().min(size_of_val(&self.raw.bulk))]);
    }

    /// Gets a file and leaves its bytes in the block; the event at hand is the reply then. False if the VM has ended.
    fn get(&mut self, file: File, patience: Duration) -> bool {
        self.answer(&Answer { kind: answer_kind::GET, file: file as u32, count: 1, ..Answer::default() });
        matches!(self.next(patience), Heard::Event(_))
    }

    fn set(&mut self, file: File, bytes: &[u8], patience: Duration) -> bool {
        self.bulk(bytes);
        let length = bytes.len() as u32;
        self.answer(&Answer { kind: answer_kind::SET, file: file as u32, count: 1, length, ..Answer::default() });
        matches!(self.next(patience), Heard::Event(_))
    }

    /// Starts the guest at [`CODE`] in real mode, with so much time for each answer of the VMM. False if the VM has ended, or
    /// if no answer comes, as when the lines were mapped anew in the middle of an exchange.
    pub fn enter(&mut self, patience: Duration) -> bool {
        // Refused where there are no local APICs, which is as good.
        let runnable = MpState(kvm_bindings::kvm_mp_state { mp_state: 0 });
        if !self.set(File::MpState, bytes_of(&runnable), patience) || !self.get(File::Sregs, patience) {
            return false;
        }
        let mut sregs = Sregs::zeroed();
        words::load(&self.end.to_plugin().bulk, bytes_of_mut(&mut sregs));
        (sregs.0.cs.base, sregs.0.cs.selector) = (0, 0);
        let mut regs = Regs::zeroed();
        (regs.0.rip, regs.0.rflags, regs.0.rsp) = (CODE.into(), 2, 0x8000);
        words::store(&self.raw.files.sregs, bytes_of(&sregs));
        words::store(&self.raw.files.regs, bytes_of(&regs));
        self.answer(&Answer { kind: answer_kind::RESUME, files: FILE_REGS | FILE_SREGS, ..Answer::default() });
        true
    }

    /// Stores a word of the block, by its place.
    pub fn poke(&self, place: u16, value: u64) {
        poke(&self.raw, place, value);
    }
}

/// How long a VMM that owes an answer is waited for before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Changes a word of what a plugin writes: one of the answer line and the progress line, or one of the areas.
pub fn poke(block: &ToVmm, place: u16, value: u64) {
    let (line, narrow) = (&block.answer, value as u32);
    let area = |words: &[AtomicU64]| words[usize::from(place >> 4) % words.len()].store(value, Ordering::Relaxed);
    match place % 16 {
        0 => line.seq.store(narrow, Ordering::Release),
        1 => line.doorbell.store(narrow, Ordering::Release),
        2 => line.waiting.store(narrow, Ordering::Release),
        3 => line.head.store(narrow, Ordering::Relaxed),
        4 => line.length.store(narrow, Ordering::Relaxed),
        5 => line.file.store(narrow, Ordering::Relaxed),
        6 => line.count.store(value, Ordering::Relaxed),
        7 => line.data.store(value, Ordering::Relaxed),
        8 => line.cpu.store(narrow, Ordering::Relaxed),
        9 => block.progress.taken.store(narrow, Ordering::Release),
        10 => area(&block.files.regs),
        11 => area(&block.files.sregs),
        12 => area(&block.files.debugregs),
        13 => area(&block.string),
        _ => area(&block.bulk),
    }
}

/// A sound answer to an event, with data from the input.
pub fn answer_to(event: &Event, input: &mut Input<'_>) -> Answer {
    Answer { kind: answer_kind::RESUME, length: event.length, data: input.u64(), ..Answer::default() }
}

/// Any answer.
pub fn any_answer(input: &mut Input<'_>) -> Answer {
    let [kind, flags, files, want] = input.array();
    let (length, file, count, data) = (input.u32(), input.u32(), input.u64(), input.u64());
    Answer { kind, flags, files, want, length, file, count, data, cpu: 0 }
}

/// A command for a file that exists, or nearly: its length and number of entries fit unless the input says otherwise. The
/// data of a set comes from the input.
pub fn command(set: bool, lines: &Lines, input: &mut Input<'_>) -> Answer {
    let number = input.byte();
    let file = File::ALL.get(usize::from(number) % (File::ALL.len() + 1)).copied();
    let astray = number >= 0xf0;
    let entries = file.map_or(1, File::max_entries);
    let count = if astray { input.u64() } else { u64::from(input.byte()) % (entries as u64 + 1) };
    let length = match file {
        Some(file) if !astray && entries == 1 => file.entry_size() as u32,
        Some(file) if !astray => count as u32 * file.entry_size() as u32,
        _ => input.u32(),
    };
    let kind = if set { answer_kind::SET } else { answer_kind::GET };
    if set || entries > 1 {
        lines.bulk(&input.bytes((length as usize).min(0x4000)));
    }
    Answer { kind, file: file.map_or(number.into(), |file| file as u32), length, count, ..Answer::default() }
}
