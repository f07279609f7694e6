//! The plugin's end of a vCPU's exchange.

use crate::sync::{Ordering, fence};
use std::io;
use std::sync::Arc;

use crate::block::{ToPlugin, ToVmm};
use crate::clock::{self, CPU_UNKNOWN};
use crate::error::Violation;
use crate::futex;
use crate::limits::{MAX_STRING, POSTED_SLOTS};
use crate::line::{Answer, Event, LAST_EVENT_KIND, WAIT_EVENTFD, WAIT_FUTEX, WAIT_MODE, event_kind};
use crate::page::BlockRef;
use crate::posted::PostedWrite;
use crate::spin::{POLLS, SpinLimit, Spinner, Waited};

/// What comes from the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A write that needs no answer.
    Posted(PostedWrite),
    /// An event. Unless it is [`event_kind::SHUTDOWN`], the vCPU stands still until it is answered.
    Event(Event),
}

/// The last event. The other fields of its line belong to the event before it.
const SHUTDOWN: Event = Event {
    kind: event_kind::SHUTDOWN,
    flags: 0,
    width: 0,
    files: 0,
    length: 0,
    posted: 0,
    address: 0,
    data: 0,
    tsc: 0,
    cpu: 0,
    status: 0,
    count: 0,
};

/// The end that waits for events and answers them. It belongs to one thread at a time.
#[derive(Debug)]
pub struct PluginEnd {
    to_plugin: BlockRef<ToPlugin>,
    to_vmm: BlockRef<ToVmm>,
    /// Number of the event taken last.
    seq: u32,
    /// Posted writes taken.
    taken: u32,
    /// The VMM's `waiting` word that was answered with a wake last.
    woken: u32,
    ticket: u32,
    cpu: u32,
    peer_cpu: u32,
    closed: bool,
    /// `FILE_*` bits of the files that the last answer set: their lines are at the VMM.
    lent: u8,
    spinner: Spinner,
    limit: Arc<SpinLimit>,
}

impl PluginEnd {
    /// An end over fresh blocks.
    pub fn new(
        to_plugin: BlockRef<ToPlugin>,
        to_vmm: BlockRef<ToVmm>,
        spinner: Spinner,
        limit: Arc<SpinLimit>,
    ) -> PluginEnd {
        PluginEnd {
            to_plugin,
            to_vmm,
            seq: 0,
            taken: 0,
            woken: 0,
            ticket: 0,
            cpu: CPU_UNKNOWN,
            peer_cpu: CPU_UNKNOWN,
            closed: false,
            lent: 0,
            spinner,
            limit,
        }
    }

    /// The block that the VMM writes: string data, register files and bulk data of the event at hand.
    #[inline]
    pub fn to_plugin(&self) -> &ToPlugin {
        &self.to_plugin
    }

    /// The block that this end writes, before [`PluginEnd::answer`].
    #[inline]
    pub fn to_vmm(&self) -> &ToVmm {
        &self.to_vmm
    }

    /// Takes what is there, without waiting. After the SHUTDOWN event it returns that one again each time.
    ///
    /// # Errors
    /// A [`Violation`] if the VMM's bytes make no sense, which a VMM of this version never does.
    #[inline]
    pub fn try_next(&mut self) -> Result<Option<Incoming>, Violation> {
        if self.closed {
            return Ok(Some(Incoming::Event(SHUTDOWN)));
        }
        if let Some(write) = self.take_posted() {
            return Ok(Some(Incoming::Posted(write)));
        }
        let seq = self.to_plugin.event.seq.load(Ordering::Acquire);
        if seq == self.seq {
            return Ok(None);
        }
        let event = self.to_plugin.event.read();
        let shutdown = event.kind == event_kind::SHUTDOWN;
        if shutdown || event.posted != self.taken {
            // A posted write and then this event may have been published between the two looks above.
            if let Some(write) = self.take_posted() {
                return Ok(Some(Incoming::Posted(write)));
            }
        }
        if !shutdown && event.posted != self.taken {
            return Err(Violation::PostedPosition { got: event.posted, taken: self.taken, published: self.taken });
        }
        self.take_event(seq, event).map(Some)
    }

    #[inline]
    fn take_event(&mut self, seq: u32, event: Event) -> Result<Incoming, Violation> {
        if event.kind == event_kind::SHUTDOWN {
            self.closed = true;
            return Ok(Incoming::Event(SHUTDOWN));
        }
        let expected = self.seq.wrapping_add(1);
        if seq != expected {
            return Err(Violation::Sequence { expected, got: seq });
        }
        if event.kind == 0 || event.kind > LAST_EVENT_KIND {
            return Err(Violation::EventKind(event.kind));
        }
        if event.kind != event_kind::REPLY && event.length as usize > MAX_STRING {
            return Err(Violation::Length { got: event.length, limit: MAX_STRING as u32 });
        }
        self.seq = seq;
        self.peer_cpu = event.cpu;
        Ok(Incoming::Event(event))
    }

    #[inline]
    fn take_posted(&mut self) -> Option<PostedWrite> {
        let next = self.taken.wrapping_add(1);
        let write = self.to_plugin.posted[next as usize % POSTED_SLOTS].take(next)?;
        self.taken = next;
        self.peer_cpu = write.cpu;
        self.to_vmm.progress.taken.store(next, Ordering::Release);
        if (next as usize).is_multiple_of(POSTED_SLOTS / 4) {
            // A vCPU that waits for space passes here at least once before the ring is empty.
            fence(Ordering::SeqCst);
            self.wake_peer();
        }
        Some(write)
    }

    /// True if [`PluginEnd::try_next`] has something to return.
    #[inline]
    pub fn pending(&self) -> bool {
        let next = self.taken.wrapping_add(1);
        self.closed
            || self.to_plugin.event.seq.load(Ordering::Acquire) != self.seq
            || self.to_plugin.posted[next as usize % POSTED_SLOTS].seq.load(Ordering::Acquire) == next
    }

    /// Waits for the next event or posted write: spins as long as that pays, then sleeps.
    ///
    /// # Errors
    /// As [`PluginEnd::try_next`].
    #[inline]
    pub fn wait(&mut self) -> Result<Incoming, Violation> {
        if let Some(incoming) = self.try_next()? {
            return Ok(incoming);
        }
        let (start, cpu) = clock::now_and_cpu();
        self.cpu = cpu;
        let budget = self.spinner.budget(cpu, self.peer_cpu);
        let spin = budget > 0 && self.limit.enter();
        if spin {
            let looked = self.spin(start, budget);
            self.limit.leave();
            if let Some(incoming) = self.try_next()? {
                self.spinner.record(Waited::Spinning, looked.wrapping_sub(start));
                return Ok(incoming);
            }
        }
        let incoming = self.sleep();
        if spin {
            self.spinner.record(Waited::Sleeping, clock::now() - start);
        }
        incoming
    }

    /// Polls until something is there or the budget is used up. Returns when the clock was read last.
    #[inline]
    fn spin(&mut self, start: u64, budget: u64) -> u64 {
        let mut looked = start;
        while looked.wrapping_sub(start) <= budget {
            if (0..POLLS).any(|_| self.pending()) {
                break;
            }
            looked = clock::now();
            if self.lent != 0 && looked.wrapping_sub(start) > self.spinner.soon() {
                // The VMM has read them by now; the next answer finds the lines here.
                self.to_vmm.files.own(self.lent);
                self.lent = 0;
            }
        }
        looked
    }

    #[cold]
    fn sleep(&mut self) -> Result<Incoming, Violation> {
        loop {
            // Read before the announcement: a wake after it changes the word that the sleep compares.
            let bell = self.bell();
            if self.announce(WAIT_FUTEX) {
                futex::wait(&self.to_plugin.event.doorbell, bell);
                self.awake();
            }
            if let Some(incoming) = self.try_next()? {
                return Ok(incoming);
            }
        }
    }

    /// Answers the event taken last.
    #[inline]
    pub fn answer(&mut self, answer: &Answer) {
        if answer.files != 0 {
            self.to_vmm.files.push(answer.files);
        }
        self.to_vmm.answer.publish(self.seq, &Answer { cpu: self.cpu, ..*answer });
        self.lent = answer.files;
        // The VMM's thread polls this line, so the answer is on its way already; the fence only makes sure that a VMM that
        // went to sleep just before is seen.
        fence(Ordering::SeqCst);
        self.wake_peer();
    }

    /// Announces that this thread will sleep on the vCPU's eventfd, and returns whether it may: false means that something
    /// came in the meantime and nothing was announced. After waking, [`PluginEnd::awake`] comes first.
    pub fn announce_eventfd(&mut self) -> bool {
        self.announce(WAIT_EVENTFD)
    }

    /// Takes the announcement back: this thread looks at its lines again.
    pub fn awake(&mut self) {
        self.to_vmm.answer.waiting.store(0, Ordering::Relaxed);
    }

    fn bell(&self) -> u32 {
        self.to_plugin.event.doorbell.load(Ordering::Acquire)
    }

    fn announce(&mut self, mode: u32) -> bool {
        self.ticket = self.ticket.wrapping_add(WAIT_MODE + 1);
        self.to_vmm.answer.cpu.store(self.cpu, Ordering::Relaxed);
        self.to_vmm.answer.waiting.store(self.ticket | mode, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.pending() {
            self.awake();
            return false;
        }
        true
    }

    #[inline]
    fn wake_peer(&mut self) {
        let waiting = self.to_plugin.event.waiting.load(Ordering::SeqCst);
        if waiting != 0 && waiting != self.woken {
            self.ring_doorbell(waiting);
        }
    }

    #[cold]
    fn ring_doorbell(&mut self, waiting: u32) {
        self.woken = waiting;
        let bell = &self.to_vmm.answer.doorbell;
        bell.store(bell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        futex::wake(bell);
    }
}

/// Waits until at least one of several ends has something; returns its index. One thread serves all of them.
///
/// # Errors
/// `InvalidInput` for an empty list or more than [`futex::MAX_WAIT_ANY`] ends; `Unsupported` on kernels before 5.16.
pub fn wait_any(ends: &mut [&mut PluginEnd]) -> io::Result<usize> {
    wait_any_of(ends, 0, |end| end)
}

/// As [`wait_any`] for values that hold an end each. The search begins at `first` and wraps around, so that a busy end
/// does not starve the others.
///
/// # Errors
/// As [`wait_any`].
pub fn wait_any_of<T>(items: &mut [T], first: usize, end: impl Fn(&mut T) -> &mut PluginEnd) -> io::Result<usize> {
    if items.is_empty() || items.len() > futex::MAX_WAIT_ANY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "one thread can wait for 1 to 128 vCPUs"));
    }
    let (start, cpu) = clock::now_and_cpu();
    let mut budget = 0;
    for item in &mut *items {
        let end = end(item);
        end.cpu = cpu;
        budget = budget.max(end.spinner.budget(cpu, end.peer_cpu));
    }
    let limit = Arc::clone(&end(&mut items[0]).limit);
    let spin = budget > 0 && limit.enter();
    let mut found = pending_of(items, first, &end);
    while spin && found.is_none() && clock::now().wrapping_sub(start) <= budget {
        found = pending_of(items, first, &end);
    }
    if spin {
        limit.leave();
    }
    let how = if found.is_some() { Waited::Spinning } else { Waited::Sleeping };
    let found = match found {
        Some(index) => index,
        None => sleep_any(items, first, &end)?,
    };
    if spin {
        end(&mut items[found]).spinner.record(how, clock::now() - start);
    }
    Ok(found)
}

fn pending_of<T>(items: &mut [T], first: usize, end: &impl Fn(&mut T) -> &mut PluginEnd) -> Option<usize> {
    let count = items.len();
    (0..count).map(|step| (first % count + step) % count).find(|index| end(&mut items[*index]).pending())
}

fn sleep_any<T>(items: &mut [T], first: usize, end: &impl Fn(&mut T) -> &mut PluginEnd) -> io::Result<usize> {
    loop {
        // The bells are read before the announcement: a wake after it changes the word that the sleep compares.
        let bells: Vec<u32> = items.iter_mut().map(|item| end(item).bell()).collect();
        let mut slept = Ok(());
        if items.iter_mut().all(|item| end(item).announce(WAIT_FUTEX)) {
            let ends = items.iter_mut().map(|item| &*end(item));
            let words: Vec<_> = ends.zip(&bells).map(|(end, bell)| (&end.to_plugin.event.doorbell, *bell)).collect();
            slept = futex::wait_any(&words);
        }
        for item in items.iter_mut() {
            end(item).awake();
        }
        match slept {
            Err(libc::ENOSYS) => {
                let say = "waiting for several vCPUs in one thread needs futex_waitv, Linux 5.16 or later";
                return Err(io::Error::new(io::ErrorKind::Unsupported, say));
            }
            Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Ok(()) => {}
        }
        if let Some(index) = pending_of(items, first, end) {
            return Ok(index);
        }
    }
}
