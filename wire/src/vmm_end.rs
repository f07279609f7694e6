//! The VMM's end of a vCPU's exchange.
//!
//! Everything the plugin writes is an allegation here: sequence numbers and ring positions are compared with private
//! copies, and what does not fit is a [`Violation`]. Nothing the plugin does can make this code loop, panic or read out of
//! bounds; it can only stay silent, and then the caller's stop word ends the wait.

use crate::sync::{AtomicU32, Ordering, fence};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use crate::block::{ToPlugin, ToVmm};
use crate::clock::{self, CPU_UNKNOWN};
use crate::error::Violation;
use crate::futex;
use crate::limits::POSTED_SLOTS;
use crate::line::{Answer, Event, WAIT_EVENTFD, WAIT_FUTEX, WAIT_MODE};
use crate::page::BlockRef;
use crate::posted::PostedWrite;
use crate::spin::{POLLS, SpinLimit, Spinner, WaitCounts, Waited};

/// Why a wait for the plugin ended without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The stop word was set.
    Stopped,
    /// The plugin broke the protocol.
    Violation(Violation),
}

/// Looks at what the plugin wrote: `None` to go on waiting.
trait Ready<T>: Fn(&ToVmm) -> Option<Result<T, Violation>> {}
impl<T, F: Fn(&ToVmm) -> Option<Result<T, Violation>>> Ready<T> for F {}

/// The end that publishes events and waits for answers. It belongs to the vCPU's thread.
#[derive(Debug)]
pub struct VmmEnd {
    to_plugin: BlockRef<ToPlugin>,
    to_vmm: BlockRef<ToVmm>,
    /// Number of the event published last.
    seq: u32,
    /// Posted writes published.
    posted: u32,
    /// Posted writes that the plugin had taken when it was last asked.
    taken: u32,
    /// The plugin's `waiting` word that was answered with a wake last.
    woken: u32,
    ticket: u32,
    peer_cpu: u32,
    closed: bool,
    spinner: Spinner,
    limit: Arc<SpinLimit>,
    eventfd: Arc<OnceLock<OwnedFd>>,
    counts: WaitCounts,
}

impl VmmEnd {
    /// An end over fresh blocks, whose bytes are all zero.
    ///
    /// `eventfd` is filled when the plugin asks for one; it is signalled when the plugin waits in that way.
    pub fn new(
        to_plugin: BlockRef<ToPlugin>,
        to_vmm: BlockRef<ToVmm>,
        spinner: Spinner,
        limit: Arc<SpinLimit>,
        eventfd: Arc<OnceLock<OwnedFd>>,
    ) -> VmmEnd {
        VmmEnd {
            to_plugin,
            to_vmm,
            seq: 0,
            posted: 0,
            taken: 0,
            woken: 0,
            ticket: 0,
            peer_cpu: CPU_UNKNOWN,
            closed: false,
            spinner,
            limit,
            eventfd,
            counts: WaitCounts::default(),
        }
    }

    /// The block that this end writes: string data, register files and bulk data go there before [`VmmEnd::publish`].
    #[inline]
    pub fn to_plugin(&self) -> &ToPlugin {
        &self.to_plugin
    }

    /// The block that the plugin writes: data of an answer lies there after [`VmmEnd::wait_answer`].
    #[inline]
    pub fn to_vmm(&self) -> &ToVmm {
        &self.to_vmm
    }

    /// The CPU that the plugin's thread was on when it was last heard of, or [`CPU_UNKNOWN`].
    #[inline]
    pub fn peer_cpu(&self) -> u32 {
        self.peer_cpu
    }

    /// How often the slow paths were taken so far.
    #[inline]
    pub fn counts(&self) -> &WaitCounts {
        &self.counts
    }

    /// Publishes the next event; its `posted` field is filled in here. Does not wait.
    #[inline]
    pub fn publish(&mut self, event: &Event) {
        self.seq = self.seq.wrapping_add(1);
        self.to_plugin.event.publish(self.seq, &Event { posted: self.posted, ..*event });
    }

    /// Waits for the answer to the event published last. `cpu` is the CPU that this thread is on, as far as known.
    ///
    /// # Errors
    /// [`Ended::Stopped`] once `stop` is not zero (the one who sets it also signals this thread, until it sees the effect),
    /// [`Ended::Violation`] if the plugin answers another event.
    #[inline]
    pub fn wait_answer(&mut self, cpu: u32, stop: &AtomicU32) -> Result<Answer, Ended> {
        self.wait_answer_since(clock::now(), cpu, stop)
    }

    /// The same for a caller that has read the clock already, when it published.
    ///
    /// # Errors
    /// As [`VmmEnd::wait_answer`].
    #[inline]
    pub fn wait_answer_since(&mut self, start: u64, cpu: u32, stop: &AtomicU32) -> Result<Answer, Ended> {
        let expected = self.seq;
        let ready = move |block: &ToVmm| match block.answer.seq.load(Ordering::Acquire) {
            got if got == expected => Some(Ok(block.answer.read())),
            got if got == expected.wrapping_sub(1) => None,
            got => Some(Err(Violation::Sequence { expected, got })),
        };
        let answer = self.wait_until(start, cpu, stop, ready)?;
        self.peer_cpu = answer.cpu;
        Ok(answer)
    }

    /// Publishes a posted write. Waits only while the ring is full.
    ///
    /// # Errors
    /// As [`VmmEnd::wait_answer`], while the ring is full.
    #[inline]
    pub fn post(&mut self, write: &PostedWrite, cpu: u32, stop: &AtomicU32) -> Result<(), Ended> {
        if self.posted.wrapping_sub(self.taken) as usize >= POSTED_SLOTS {
            self.wait_space(cpu, stop)?;
        }
        self.posted = self.posted.wrapping_add(1);
        self.to_plugin.posted[self.posted as usize % POSTED_SLOTS].publish(self.posted, write);
        // The slot's sequence word was swapped in with sequential consistency, so this look at the plugin's waiting word
        // cannot miss a plugin that looked at the slot before it.
        self.wake_peer();
        Ok(())
    }

    /// Tells the plugin that the VM ended: the last event, without answer. Dropping an end does the same, so that whatever
    /// becomes of a vCPU, the plugin's wait for it returns.
    pub fn close(&mut self) {
        if core::mem::replace(&mut self.closed, true) {
            return;
        }
        self.seq = self.seq.wrapping_add(1);
        self.to_plugin.event.publish_shutdown(self.seq);
        fence(Ordering::SeqCst);
        self.wake_peer();
    }

    #[cold]
    fn wait_space(&mut self, cpu: u32, stop: &AtomicU32) -> Result<(), Ended> {
        let (taken, published) = (self.taken, self.posted);
        let ready = move |block: &ToVmm| {
            let got = block.progress.taken.load(Ordering::Acquire);
            if got.wrapping_sub(taken) > published.wrapping_sub(taken) {
                return Some(Err(Violation::PostedPosition { got, taken, published }));
            }
            ((published.wrapping_sub(got) as usize) < POSTED_SLOTS).then_some(Ok(got))
        };
        if ready(&self.to_vmm).is_none() {
            self.counts.ring_full += 1;
        }
        self.taken = self.wait_until(clock::now(), cpu, stop, ready)?;
        Ok(())
    }

    #[inline]
    fn wait_until<T>(&mut self, start: u64, cpu: u32, stop: &AtomicU32, ready: impl Ready<T>) -> Result<T, Ended> {
        let budget = self.spinner.budget(cpu, self.peer_cpu);
        let spin = budget > 0 && self.limit.enter();
        if spin {
            let (result, looked) = self.spin(start, budget, stop, &ready);
            self.limit.leave();
            if let Some(result) = result {
                self.counts.spun += 1;
                self.spinner.record(Waited::Spinning, looked.wrapping_sub(start));
                return result;
            }
        }
        let result = self.sleep(stop, &ready);
        self.counts.slept += 1;
        if spin {
            self.spinner.record(Waited::Sleeping, clock::now() - start);
        }
        result
    }

    /// Polls until there is a result or the budget is used up. Returns when the clock was read last, too.
    #[inline]
    fn spin<T>(
        &mut self,
        start: u64,
        budget: u64,
        stop: &AtomicU32,
        ready: &impl Ready<T>,
    ) -> (Option<Result<T, Ended>>, u64) {
        let mut looked = start;
        loop {
            for _ in 0..POLLS {
                if let Some(result) = ready(&self.to_vmm) {
                    return (Some(result.map_err(Ended::Violation)), looked);
                }
            }
            // A sleeping plugin shows itself in the line that is polled anyway. This look may come too early, but the
            // next turn's does not, and before this thread sleeps there is a fence.
            if self.to_vmm.answer.waiting.load(Ordering::Relaxed) != self.woken {
                self.wake_peer();
            }
            if stop.load(Ordering::Relaxed) != 0 {
                return (Some(Err(Ended::Stopped)), looked);
            }
            looked = clock::now();
            if looked.wrapping_sub(start) > budget {
                return (None, looked);
            }
        }
    }

    #[cold]
    fn sleep<T>(&mut self, stop: &AtomicU32, ready: &impl Ready<T>) -> Result<T, Ended> {
        // A plugin that sleeps on this CPU may run as soon as it is woken. It then finds nobody announced whom it had to wake,
        // and its answer is here before this thread has to sleep. That a plugin is never missed is for the loop to see to.
        self.wake_peer();
        if let Some(result) = ready(&self.to_vmm) {
            return result.map_err(Ended::Violation);
        }
        loop {
            let bell = self.to_vmm.answer.doorbell.load(Ordering::Acquire);
            self.ticket = self.ticket.wrapping_add(WAIT_MODE + 1);
            self.to_plugin.event.waiting.store(self.ticket | WAIT_FUTEX, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let mut result = ready(&self.to_vmm);
            if result.is_none() {
                self.wake_peer();
                if stop.load(Ordering::Acquire) == 0 {
                    futex::wait(&self.to_vmm.answer.doorbell, bell);
                    result = ready(&self.to_vmm);
                }
            }
            self.to_plugin.event.waiting.store(0, Ordering::Relaxed);
            if let Some(result) = result {
                return result.map_err(Ended::Violation);
            }
            if stop.load(Ordering::Acquire) != 0 {
                return Err(Ended::Stopped);
            }
        }
    }

    /// Wakes the plugin if it sleeps and was not woken from this sleep yet.
    #[inline]
    fn wake_peer(&mut self) {
        let waiting = self.to_vmm.answer.waiting.load(Ordering::SeqCst);
        if waiting != 0 && waiting != self.woken {
            self.ring_doorbell(waiting);
        }
    }

    #[cold]
    fn ring_doorbell(&mut self, waiting: u32) {
        self.woken = waiting;
        self.peer_cpu = self.to_vmm.answer.cpu.load(Ordering::Relaxed);
        self.counts.wakes += 1;
        match waiting & WAIT_MODE {
            WAIT_EVENTFD => {
                if let Some(fd) = self.eventfd.get() {
                    futex::signal_eventfd(fd.as_fd());
                }
            }
            _ => {
                let bell = &self.to_plugin.event.doorbell;
                bell.store(bell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
                futex::wake(bell);
            }
        }
    }
}

impl Drop for VmmEnd {
    fn drop(&mut self) {
        self.close();
    }
}
