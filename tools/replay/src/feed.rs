//! Feeds the events of one vCPU, in their order, and looks at the answers.

use std::sync::atomic::AtomicU32;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compare::{Ignored, Said, difference};
use super::memory::{Changes, GuestMemory};
use outboard_wire::clock::{self, CPU_UNKNOWN};
use outboard_wire::line::{
    Answer, Event, FILE_DEBUGREGS, FILE_REGS, FILE_SREGS, FLAG_MMIO, FLAG_STRING, answer_kind, event_kind,
};
use outboard_wire::posted::PostedWrite;
use outboard_wire::trace::read::{Group, Trace};
use outboard_wire::trace::{area, kind};
use outboard_wire::vmm_end::{Ended, VmmEnd};
use outboard_wire::words;

/// Register files that ride along: bit and bytes.
const FILES: [(u8, usize); 3] = [(FILE_REGS, 144), (FILE_SREGS, 312), (FILE_DEBUGREGS, 128)];

/// How feeding ended, other than well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// An answer differs: number of the record, and how.
    Differs(usize, String),
    /// The plugin broke the protocol at a record.
    Violation(usize, String),
    /// The stop word was set while a record waited.
    Stopped(usize),
}

/// How far all vCPUs are, so that none is ahead of what it saw when it was recorded.
#[derive(Debug, Default)]
pub struct Progress {
    done: Mutex<Vec<usize>>,
    moved: Condvar,
}

impl Progress {
    /// For so many vCPUs.
    pub fn new(vcpus: usize) -> Progress {
        Progress { done: Mutex::new(vec![0; vcpus]), moved: Condvar::new() }
    }

    /// Groups that were answered, all vCPUs together.
    pub fn total(&self) -> usize {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).iter().sum()
    }

    fn step(&self, vcpu: usize) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)[vcpu] += 1;
        self.moved.notify_all();
    }

    /// Waits until each vCPU has answered at least so many groups. Returns false if it was stopped first.
    fn wait(&self, needs: &[usize], stop: &AtomicU32) -> bool {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while done.iter().zip(needs).any(|(done, needs)| done < needs) {
            if stop.load(std::sync::atomic::Ordering::Acquire) != 0 {
                return false;
            }
            let waited = self.moved.wait_timeout(done, Duration::from_millis(50));
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// One group to feed.
pub struct Step<'a> {
    pub group: &'a Group,
    /// Commands that come before its answer.
    commands: Vec<&'a Group>,
    /// Groups of each vCPU that were answered before this one came.
    needs: Vec<usize>,
}

/// The steps of each vCPU.
pub fn steps(trace: &Trace) -> Vec<Vec<Step<'_>>> {
    let vcpus = trace.header.vcpus as usize;
    let mut commands: Vec<Vec<&Group>> = vec![Vec::new(); vcpus];
    let mut all: Vec<Vec<Step<'_>>> = (0..vcpus).map(|_| Vec::new()).collect();
    for group in &trace.groups {
        let vcpu = usize::from(group.head.vcpu);
        match group.head.kind {
            kind::COMMAND => commands[vcpu].push(group),
            kind::EXCHANGE | kind::POSTED => {
                let commands = std::mem::take(&mut commands[vcpu]);
                all[vcpu].push(Step { group, commands, needs: Vec::new() });
            }
            _ => {}
        }
    }
    if vcpus > 1 {
        let ends: Vec<Vec<u64>> = all.iter().map(|steps| steps.iter().map(|step| end(step.group)).collect()).collect();
        for (vcpu, steps) in all.iter_mut().enumerate() {
            for step in steps {
                let came = step.group.head.exit;
                // A vCPU's own order needs no waiting.
                let before = |(other, ends): (usize, &Vec<u64>)| match other == vcpu {
                    true => 0,
                    false => ends.partition_point(|end| *end < came),
                };
                step.needs = ends.iter().enumerate().map(before).collect();
            }
        }
    }
    all
}

fn end(group: &Group) -> u64 {
    if group.head.kind == kind::POSTED { group.head.exit } else { group.head.answered }
}

/// Feeds one vCPU.
pub struct Feeder<'a> {
    pub end: VmmEnd,
    pub vcpu: usize,
    pub progress: &'a Progress,
    pub stop: &'a AtomicU32,
    /// When the replay began, and the TSC of the trace that this stands for, if the recorded pace is kept.
    pub pace: Option<(Instant, u64, u64)>,
    /// Reads that are not compared.
    pub ignored: &'a [Ignored],
    /// The guest's memory, and what the guest wrote there.
    pub memory: (&'a GuestMemory, &'a Changes<'a>),
}

impl Feeder<'_> {
    /// Feeds all steps; `note` hears how many ticks each answer took.
    ///
    /// # Errors
    /// How it ended early.
    pub fn feed<'s>(&mut self, steps: &'s [Step<'s>], mut note: impl FnMut(&'s Group, u64)) -> Result<(), Broken> {
        for step in steps {
            if !self.progress.wait(&step.needs, self.stop) {
                return Err(Broken::Stopped(step.group.number));
            }
            self.keep_pace(step.group.head.exit);
            self.restore(step.group)?;
            if step.group.head.kind == kind::POSTED {
                self.post(step.group)?;
            } else {
                note(step.group, self.exchange(step)?);
            }
            self.progress.step(self.vcpu);
        }
        Ok(())
    }

    /// Brings the guest's memory to what it was when the plugin was told.
    fn restore(&self, group: &Group) -> Result<(), Broken> {
        let (memory, changes) = self.memory;
        let told = if group.head.kind == kind::POSTED { group.head.entered } else { group.head.published };
        let failed = |error| Broken::Violation(group.number, format!("has memory that cannot be restored: {error}"));
        changes.write_until(told, memory).map_err(failed)
    }

    fn keep_pace(&self, exit: u64) {
        let Some((began, first, khz)) = self.pace else { return };
        let due = began + Duration::from_nanos(clock::to_ns(exit.saturating_sub(first), khz));
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            // A sleep is not exact to tens of microseconds; the rest is spun.
            match left.checked_sub(Duration::from_micros(100)) {
                Some(long) => std::thread::sleep(long),
                None => std::hint::spin_loop(),
            }
        }
    }

    fn post(&mut self, group: &Group) -> Result<(), Broken> {
        let event = &group.head.event;
        let write = PostedWrite {
            mmio: event.flags & FLAG_MMIO != 0,
            length: event.length.min(8) as u8,
            address: event.address,
            data: event.data,
            tsc: group.head.exit,
            cpu: CPU_UNKNOWN,
        };
        self.end.post(&write, CPU_UNKNOWN, self.stop).map_err(|ended| broken(group, ended))
    }

    /// Feeds an event; returns the ticks to its answer.
    fn exchange(&mut self, step: &Step<'_>) -> Result<u64, Broken> {
        let head = &step.group.head;
        let event = Event { tsc: head.exit, cpu: CPU_UNKNOWN, ..Event::from(&head.event) };
        let block = self.end.to_plugin();
        if event.flags & FLAG_STRING != 0 && event.kind == event_kind::WRITE {
            put(&block.string, step.group.data(area::EVENT_STRING));
        }
        let mut files = step.group.data(area::EVENT_FILES);
        for ((bit, length), words) in
            FILES.into_iter().zip([&block.files.regs[..], &block.files.sregs, &block.files.debugregs])
        {
            if event.files & bit != 0 {
                let (this, rest) = files.split_at(length.min(files.len()));
                put(words, this);
                files = rest;
            }
        }
        let mut published = clock::now();
        self.end.publish(&event);
        let mut ticks = 0;
        for command in &step.commands {
            let answer = self.answer(step.group)?;
            ticks += clock::now() - published;
            self.compare(command, &answer, command.data(area::COMMAND), &[])?;
            put(&self.end.to_plugin().bulk, command.data(area::REPLY));
            published = clock::now();
            self.end.publish(&Event { tsc: published, cpu: CPU_UNKNOWN, ..Event::from(&command.head.event) });
        }
        let answer = self.answer(step.group)?;
        ticks += clock::now() - published;
        self.compare(step.group, &answer, step.group.data(area::ANSWER_STRING), step.group.data(area::ANSWER_FILES))?;
        Ok(ticks)
    }

    fn answer(&mut self, group: &Group) -> Result<Answer, Broken> {
        let answer = self.end.wait_answer(CPU_UNKNOWN, self.stop).or_else(|ended| match ended {
            // A plugin that answers and ends in one go has answered.
            Ended::Stopped => self.end.wait_answer(CPU_UNKNOWN, self.stop),
            Ended::Violation(_) => Err(ended),
        });
        answer.map_err(|ended| broken(group, ended))
    }

    fn compare(&self, group: &Group, answer: &Answer, data: &[u8], files: &[u8]) -> Result<(), Broken> {
        let block = self.end.to_vmm();
        let length = answer.length as usize;
        let said = Said {
            answer: *answer,
            data: match answer.kind {
                answer_kind::RESUME if answer.flags & FLAG_STRING != 0 => get(&block.string, length),
                answer_kind::SET => get(&block.bulk, length),
                _ => Vec::new(),
            },
            files: FILES
                .into_iter()
                .zip([&block.files.regs[..], &block.files.sregs, &block.files.debugregs])
                .filter(|((bit, _), _)| answer.files & bit != 0)
                .flat_map(|((_, length), words)| get(words, length))
                .collect(),
        };
        let event = &group.head.event;
        let skip = answer.kind == answer_kind::RESUME && event.kind == event_kind::READ;
        if skip && self.ignored.iter().any(|ignored| ignored.holds(event)) {
            return Ok(());
        }
        match difference(group, &said, data, files) {
            Some(how) => Err(Broken::Differs(group.number, how)),
            None => Ok(()),
        }
    }
}

fn broken(group: &Group, ended: Ended) -> Broken {
    match ended {
        Ended::Stopped => Broken::Stopped(group.number),
        Ended::Violation(violation) => Broken::Violation(group.number, violation.to_string()),
    }
}

/// Copies as much as there is room for: a trace may claim anything.
fn put(words: &[std::sync::atomic::AtomicU64], bytes: &[u8]) {
    words::store(words, &bytes[..bytes.len().min(words.len() * 8)]);
}

fn get(words: &[std::sync::atomic::AtomicU64], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.min(words.len() * 8)];
    words::load(words, &mut bytes);
    bytes
}
