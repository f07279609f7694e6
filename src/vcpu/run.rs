//! The loop of a vCPU thread.

use core::convert::Infallible;
use core::sync::atomic::Ordering;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::action::{Action, decide};
use super::control::Control;
use super::ended::Ended;
use super::exchange::{Exchange, Moment, guest_end};
use super::exits;
use super::registers::Registers;
use super::seam::{Point, Seam};
use super::spread::Spread;
use super::stats::Stats;
use super::tracer::Tracer;
use crate::kvm::{Access, Vcpu};
use crate::machine::rules::{Hint, RulesView};
use crate::sys::{Errno, affinity, signal};
use outboard_wire::clock;
use outboard_wire::limits::MAX_STRING;
use outboard_wire::line::{Event, event_kind};
use outboard_wire::page::BlockRef;
use outboard_wire::stats::VcpuStats;
use outboard_wire::stats::cell::{self, Cell};
use outboard_wire::vmm_end::VmmEnd;

/// A vCPU that is not made yet: all of its [`Runner`] but itself. When it is dropped, the plugin is told of the end.
pub struct Waiting {
    exchange: Exchange,
    rules: RulesView,
    roams: bool,
}

impl Waiting {
    /// `sync_caps` is the value of `KVM_CAP_SYNC_REGS`; `stats` is where the vCPU counts, `tracer` what
    /// it writes traces with.
    pub fn new(
        end: VmmEnd,
        control: Arc<Control>,
        rules: RulesView,
        sync_caps: i32,
        stats: BlockRef<VcpuStats>,
        tracer: Tracer,
    ) -> Waiting {
        let (registers, stats) = (Registers::new(sync_caps), Stats::new(stats));
        let exchange = Exchange { end, control, registers, stats, tracer, seam: Seam::default() };
        Waiting { exchange, rules, roams: false }
    }

    /// Lets the thread move among its CPUs to get out of the plugin's way.
    pub fn roaming(mut self) -> Waiting {
        self.roams = true;
        self
    }

    /// The runner for the vCPU, now that there is one.
    pub fn with(self, vcpu: Vcpu) -> Runner {
        let Waiting { exchange, rules, roams } = self;
        Runner { exchange, vcpu, rules, spread: Spread::default(), roams, access_open: false }
    }
}

/// Everything that a vCPU's thread owns.
pub struct Runner {
    /// Dropped first, so that the plugin learns of the end before the vCPU is taken down.
    exchange: Exchange,
    vcpu: Vcpu,
    rules: RulesView,
    spread: Spread,
    /// The thread may choose among its CPUs.
    roams: bool,
    /// An access was handed out that KVM completes only when it is entered again.
    access_open: bool,
}

impl Runner {
    /// Number of the vCPU.
    pub fn id(&self) -> u32 {
        self.vcpu.id()
    }

    /// Lets the calling thread use the vCPU and `others`, and no other descriptor, see [`Vcpu::keep_only`].
    ///
    /// # Errors
    /// Those of [`Vcpu::keep_only`].
    pub fn keep_only(&self, others: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.vcpu.keep_only(others)
    }

    /// Runs the guest until it ends or is stopped. Called once, on the thread that shall run it; the plugin is told of the
    /// end when the runner is dropped.
    pub fn run(&mut self) -> Ended {
        let kicked = self.vcpu.page().kick_scope();
        let thread = signal::gettid();
        self.exchange.control.set_thread(Some(thread));
        self.exchange.stats.set_thread(thread.0);
        let Err(ended) = self.run_guest();
        self.exchange.control.set_thread(None);
        self.exchange.stats.set_thread(0);
        drop(kicked);
        self.exchange.stats.settle_with(self.exchange.end.counts());
        ended
    }

    fn run_guest(&mut self) -> Result<Infallible, Ended> {
        let (tsc, cpu) = clock::now_and_cpu();
        let init = Event { kind: event_kind::INIT, tsc, cpu, ..Event::default() };
        self.exchange.converse(&mut self.vcpu, &init, false)?;
        let drilled = self.exchange.control.enter_drill(&self.vcpu);
        drilled.map_err(|error| Ended::Run { vcpu: self.id(), errno: error.errno })?;
        self.exchange.stats.note_asked(0, 0);
        let mut entered = clock::now();
        self.exchange.tracer.entered(entered);
        loop {
            let exit_at_once = self.look_at_requests()?;
            let hinted = self.rules.current().hint.as_ref().map_or(0, Hint::all_files);
            self.exchange.registers.prepare_run(&mut self.vcpu, hinted);
            if exit_at_once {
                self.vcpu.page().immediate_exit().store(1, Ordering::SeqCst);
            }
            self.exchange.seam.reach(Point::BeforeRun, &self.exchange.control);
            let result = self.vcpu.run();
            let (tsc, cpu) = clock::now_and_cpu();
            self.exchange.seam.reach(Point::AfterRun, &self.exchange.control);
            match result {
                Ok(()) => {
                    self.exchange.stats.note_inside(tsc.wrapping_sub(entered));
                    entered = self.handle_exit(Moment { tsc, cpu })?;
                }
                Err(Errno::EINTR) => {
                    // KVM completes an open access before it looks at signals and `immediate_exit`.
                    self.access_open = false;
                    self.exchange.stats.interrupted();
                    entered = tsc;
                }
                // A vCPU that waited for its start-up IPI was woken; it has to be entered again.
                Err(Errno::EAGAIN) => entered = tsc,
                Err(Errno::ENOSPC) => return Err(Ended::NoMemory { vcpu: self.vcpu.id() }),
                Err(errno) => return Err(Ended::Run { vcpu: self.vcpu.id(), errno }),
            }
        }
    }

    /// Serves pauses and stops. Returns true if KVM shall only complete the open access and come back: a pause waits for
    /// that, so that the plugin sees the registers as they are after the access.
    #[inline]
    fn look_at_requests(&mut self) -> Result<bool, Ended> {
        loop {
            self.exchange.seam.reach(Point::BeforeLook, &self.exchange.control);
            // Timing points 1 and 2: cleared before the look, so that a kick from here on is not lost.
            // Only this thread's own signal handler sets it, so a look before the store loses nothing and saves a locked
            // instruction on the way back to the guest.
            let immediate_exit = self.vcpu.page().immediate_exit();
            if immediate_exit.load(Ordering::SeqCst) != 0 {
                immediate_exit.store(0, Ordering::SeqCst);
            }
            if self.exchange.control.stopping() {
                return Err(Ended::Stopped);
            }
            if !self.exchange.control.pausing() {
                if !self.exchange.control.held() {
                    return Ok(false);
                }
                self.exchange.control.stand_still();
                continue;
            }
            if self.access_open {
                return Ok(true);
            }
            self.exchange.pause(&mut self.vcpu)?;
        }
    }

    /// Does what the exit asks for; returns the TSC at its end.
    ///
    /// From here to the plugin and back, what an access needs is kept together in few pages of code, and everything else is
    /// called out of line: a return from the guest finds caches, translations and branch targets cold, and each page or
    /// jump table on the way takes as long as a tenth of the exchange.
    #[inline]
    fn handle_exit(&mut self, at: Moment) -> Result<u64, Ended> {
        let cell = match self.vcpu.page().access() {
            Some(access) if access.length as usize <= MAX_STRING => self.serve(&access, at)?,
            // KVM hands out a page at most (api.rst, KVM_EXIT_IO); more would be a KVM that this version does not know.
            _ => match self.serve_other(at)? {
                Some(cell) => cell,
                None => return Ok(clock::now()),
            },
        };
        self.access_open = true;
        if self.spread.observe(at.cpu, self.exchange.end.peer_cpu()) {
            self.leave_cpu(at.cpu);
        }
        let now = clock::now();
        self.exchange.stats.note(cell, at.tsc, now);
        if self.exchange.control.tracing() {
            self.trace_exit(cell, at.tsc, now);
        }
        Ok(now)
    }

    /// Completes the trace of an exit.
    #[cold]
    #[inline(never)]
    fn trace_exit(&mut self, cell: Cell, exit: u64, entered: u64) {
        if !self.exchange.tracer.entered(entered) {
            let page = self.vcpu.page();
            let access = page.access();
            let data = access.as_ref().map_or(&[][..], |access| page.data(access));
            self.exchange.tracer.unasked(access.as_ref(), data, cell != cell::UNCLAIMED, exit, entered);
        }
        self.exchange.stats.set_dropped(self.exchange.tracer.lost());
    }

    /// Serves an access.
    #[inline]
    fn serve(&mut self, access: &Access, at: Moment) -> Result<Cell, Ended> {
        let rules = self.rules.current();
        match decide(access, rules) {
            Action::Deliver(place) => {
                let mut files = self.exchange.registers.wanted();
                if let Some(hint) = &rules.hint
                    && hint.hits(access.space, access.address, access.is_write)
                {
                    let compared = self.exchange.registers.compared(&self.vcpu);
                    files |= compared.map_or(0, |registers| hint.files(registers));
                }
                if access.length > 8 {
                    self.exchange.deliver_string(&mut self.vcpu, access, files, at)?;
                } else {
                    self.exchange.deliver(&mut self.vcpu, access, files, at)?;
                }
                Ok(Cell::of_range(place, access.is_write, access.length > u32::from(access.width)))
            }
            Action::Post(place) => {
                self.exchange.post(&self.vcpu, access, at)?;
                Ok(Cell::of_range(place, true, false))
            }
            Action::Unclaimed(byte) => {
                if !access.is_write {
                    self.vcpu.page_mut().data_mut(access).fill(byte);
                }
                Ok(cell::UNCLAIMED)
            }
        }
    }

    /// Serves an exit that is no access. `None` if there is nothing to do.
    #[cold]
    #[inline(never)]
    fn serve_other(&mut self, at: Moment) -> Result<Option<Cell>, Ended> {
        let exit = self.vcpu.page().exit();
        match exits::decide(&exit, self.rules.current().subscribed) {
            exits::Action::Tell => {
                return self.exchange.tell(&mut self.vcpu, &exit, at).map(|kind| Some(Cell::of_event(kind)));
            }
            exits::Action::Refuse => exits::refuse(self.vcpu.page_mut(), &exit),
            exits::Action::RunOn => return Ok(None),
            exits::Action::End => return Err(guest_end(&self.vcpu, exit)),
        }
        Ok(Some(cell::REFUSED))
    }

    /// Moves this thread to another CPU, if it may use another one.
    #[cold]
    fn leave_cpu(&self, cpu: u32) {
        if !self.roams {
            return;
        }
        // Asked anew each time: somebody outside may have given the thread other CPUs.
        let cpus = affinity::allowed().unwrap_or_default();
        let others: Vec<usize> = cpus.iter().copied().filter(|other| *other != cpu as usize).collect();
        if !others.is_empty() && affinity::allow(&others).is_ok() {
            // The move has happened; from here on the scheduler is free again.
            let _ = affinity::allow(&cpus);
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
