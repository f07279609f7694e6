//! The loop of a vCPU thread.

use core::convert::Infallible;
use core::sync::atomic::Ordering;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::action::{self, Action, decide};
use super::control::Control;
use super::ended::{Ended, GuestEnd};
use super::exits;
use super::registers::Registers;
use super::seam::{Point, Seam};
use super::spread::Spread;
use super::stats::Stats;
use super::tracer::Tracer;
use crate::kvm::{Access, Exit, Space, Vcpu};
use crate::machine::rules::{Hint, RulesView};
use crate::sys::{Errno, affinity, signal};
use outboard_wire::clock;
use outboard_wire::error::Violation;
use outboard_wire::limits::MAX_STRING;
use outboard_wire::line::{Answer, Event, FILES, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::page::BlockRef;
use outboard_wire::posted::PostedWrite;
use outboard_wire::stats::VcpuStats;
use outboard_wire::stats::cell::{self, Cell};
use outboard_wire::vmm_end::{self, VmmEnd};
use outboard_wire::words;

/// A vCPU that is not made yet: all of its [`Runner`] but itself. When it is dropped, the plugin is told of the end.
pub struct Waiting {
    end: VmmEnd,
    control: Arc<Control>,
    rules: RulesView,
    registers: Registers,
    stats: Stats,
    tracer: Tracer,
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
        Waiting { end, control, rules, registers, stats, tracer, roams: false }
    }

    /// Lets the thread move among its CPUs to get out of the plugin's way.
    pub fn roaming(mut self) -> Waiting {
        self.roams = true;
        self
    }

    /// The runner for the vCPU, now that there is one.
    pub fn with(self, vcpu: Vcpu) -> Runner {
        let Waiting { end, control, rules, registers, stats, tracer, roams } = self;
        let (seam, spread, access_open) = (Seam::default(), Spread::default(), false);
        Runner { end, vcpu, control, rules, registers, stats, tracer, seam, spread, roams, access_open }
    }
}

/// Everything that a vCPU's thread owns.
pub struct Runner {
    /// Dropped first, so that the plugin learns of the end before the vCPU is taken down.
    end: VmmEnd,
    vcpu: Vcpu,
    control: Arc<Control>,
    rules: RulesView,
    registers: Registers,
    stats: Stats,
    tracer: Tracer,
    seam: Seam,
    spread: Spread,
    /// The thread may choose among its CPUs.
    roams: bool,
    /// An access was handed out that KVM completes only when it is entered again.
    access_open: bool,
}

/// When and where the guest left.
#[derive(Clone, Copy)]
struct Moment {
    tsc: u64,
    cpu: u32,
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
        self.control.set_thread(Some(thread));
        self.stats.set_thread(thread.0);
        let Err(ended) = self.run_guest();
        self.control.set_thread(None);
        self.stats.set_thread(0);
        drop(kicked);
        self.stats.settle_with(self.end.counts());
        ended
    }

    fn run_guest(&mut self) -> Result<Infallible, Ended> {
        let (tsc, cpu) = clock::now_and_cpu();
        let init = Event { kind: event_kind::INIT, tsc, cpu, ..Event::default() };
        self.converse(&init, false)?;
        let drilled = self.control.enter_drill(&self.vcpu);
        drilled.map_err(|error| Ended::Run { vcpu: self.id(), errno: error.errno })?;
        self.stats.note_asked(0, 0);
        let mut entered = clock::now();
        self.tracer.entered(entered);
        loop {
            let exit_at_once = self.look_at_requests()?;
            let hinted = self.rules.current().hint.as_ref().map_or(0, Hint::all_files);
            self.registers.prepare_run(&mut self.vcpu, hinted);
            if exit_at_once {
                self.vcpu.page().immediate_exit().store(1, Ordering::SeqCst);
            }
            self.seam.reach(Point::BeforeRun, &self.control);
            let result = self.vcpu.run();
            let (tsc, cpu) = clock::now_and_cpu();
            self.seam.reach(Point::AfterRun, &self.control);
            match result {
                Ok(()) => {
                    self.stats.note_inside(tsc.wrapping_sub(entered));
                    entered = self.handle_exit(Moment { tsc, cpu })?;
                }
                Err(Errno::EINTR) => {
                    // KVM completes an open access before it looks at signals and `immediate_exit`.
                    self.access_open = false;
                    self.stats.interrupted();
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
            self.seam.reach(Point::BeforeLook, &self.control);
            // Timing points 1 and 2: cleared before the look, so that a kick from here on is not lost.
            // Only this thread's own signal handler sets it, so a look before the store loses nothing and saves a locked
            // instruction on the way back to the guest.
            let immediate_exit = self.vcpu.page().immediate_exit();
            if immediate_exit.load(Ordering::SeqCst) != 0 {
                immediate_exit.store(0, Ordering::SeqCst);
            }
            if self.control.stopping() {
                return Err(Ended::Stopped);
            }
            if !self.control.pausing() {
                if !self.control.held() {
                    return Ok(false);
                }
                self.control.stand_still();
                continue;
            }
            if self.access_open {
                return Ok(true);
            }
            self.pause()?;
        }
    }

    #[cold]
    fn pause(&mut self) -> Result<(), Ended> {
        let Some(cookie) = self.control.take_pause() else { return Ok(()) };
        let (tsc, cpu) = clock::now_and_cpu();
        let files = self.registers.attach(&self.vcpu, self.registers.wanted(), &self.end.to_plugin().files);
        let paused = Event { kind: event_kind::PAUSED, address: cookie, files, tsc, cpu, ..Event::default() };
        self.converse(&paused, false)?;
        let now = clock::now();
        self.tracer.entered(now);
        self.stats.note(cell::PAUSE, tsc, now);
        Ok(())
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
        if self.spread.observe(at.cpu, self.end.peer_cpu()) {
            self.leave_cpu(at.cpu);
        }
        let now = clock::now();
        self.stats.note(cell, at.tsc, now);
        if self.control.tracing() {
            self.trace_exit(cell, at.tsc, now);
        }
        Ok(now)
    }

    /// Completes the trace of an exit.
    #[cold]
    #[inline(never)]
    fn trace_exit(&mut self, cell: Cell, exit: u64, entered: u64) {
        if !self.tracer.entered(entered) {
            let page = self.vcpu.page();
            let access = page.access();
            let data = access.as_ref().map_or(&[][..], |access| page.data(access));
            self.tracer.unasked(access.as_ref(), data, cell != cell::UNCLAIMED, exit, entered);
        }
        self.stats.set_dropped(self.tracer.lost());
    }

    /// Serves an access.
    #[inline]
    fn serve(&mut self, access: &Access, at: Moment) -> Result<Cell, Ended> {
        let rules = self.rules.current();
        match decide(access, rules) {
            Action::Deliver(place) => {
                let mut files = self.registers.wanted();
                if let Some(hint) = &rules.hint
                    && hint.hits(access.space, access.address, access.is_write)
                {
                    let compared = self.registers.compared(&self.vcpu);
                    files |= compared.map_or(0, |registers| hint.files(registers));
                }
                if access.length > 8 {
                    self.deliver_string(access, files, at)?;
                } else {
                    self.deliver(access, files, at)?;
                }
                Ok(Cell::of_range(place, access.is_write, access.length > u32::from(access.width)))
            }
            Action::Post(place) => {
                self.post(access, at)?;
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
                return self.tell(&exit, self.registers.wanted(), at).map(|kind| Some(Cell::of_event(kind)));
            }
            exits::Action::Refuse => exits::refuse(self.vcpu.page_mut(), &exit),
            exits::Action::RunOn => return Ok(None),
            exits::Action::End => return Err(self.guest_end(exit)),
        }
        Ok(Some(cell::REFUSED))
    }

    /// Delivers an access of up to 8 bytes.
    #[inline]
    fn deliver(&mut self, access: &Access, files: u8, at: Moment) -> Result<(), Ended> {
        let mut event = action::event(access, at.tsc, at.cpu);
        if access.is_write {
            event.data = words::low_bytes(self.vcpu.page().data(access));
        }
        if files != 0 {
            event.files = self.attach(files);
        }
        let answer = self.converse(&event, true)?;
        if event.files != 0 {
            self.end.to_plugin().files.own(event.files);
        }
        if !access.is_write {
            self.check_length(access, &answer)?;
            words::put_low_bytes(self.vcpu.page_mut().data_mut(access), answer.data);
        }
        Ok(())
    }

    /// Delivers string I/O.
    #[cold]
    #[inline(never)]
    fn deliver_string(&mut self, access: &Access, files: u8, at: Moment) -> Result<(), Ended> {
        let mut event = action::event(access, at.tsc, at.cpu);
        event.flags |= FLAG_STRING;
        if access.is_write {
            words::store(&self.end.to_plugin().string, self.vcpu.page().data(access));
        }
        event.files = self.attach(files);
        let answer = self.converse(&event, true)?;
        if !access.is_write {
            self.check_length(access, &answer)?;
            words::load(&self.end.to_vmm().string, self.vcpu.page_mut().data_mut(access));
        }
        Ok(())
    }

    /// Copies register files to where the plugin finds them; returns those that are there.
    #[inline(never)]
    fn attach(&mut self, files: u8) -> u8 {
        let attached = self.registers.attach(&self.vcpu, files, &self.end.to_plugin().files);
        self.end.to_plugin().files.push(attached);
        attached
    }

    #[inline]
    fn check_length(&self, access: &Access, answer: &Answer) -> Result<(), Ended> {
        if answer.length != access.length {
            let violation = Violation::AnswerLength { expected: access.length, got: answer.length };
            return Err(self.violated(violation));
        }
        Ok(())
    }

    /// Tells the plugin of an exit that is no access, and gives its answer to KVM. Returns the kind of event.
    fn tell(&mut self, exit: &Exit, files: u8, at: Moment) -> Result<u8, Ended> {
        let (kind, details) = exits::describe(exit).ok_or_else(|| self.guest_end(*exit))?;
        let mut event = Event { kind, tsc: at.tsc, cpu: at.cpu, ..Event::default() };
        details.put(&mut event, &self.end.to_plugin().string);
        let files = files | exits::files(exit);
        event.files = self.registers.attach(&self.vcpu, files, &self.end.to_plugin().files);
        let answer = self.converse(&event, true)?;
        if exits::gives_up(exit, &answer) {
            return Err(self.guest_end(*exit));
        }
        exits::answer(self.vcpu.page_mut(), exit, &answer);
        Ok(kind)
    }

    /// Posts a write, item by item: a string write is as many writes as it has items.
    #[inline]
    fn post(&mut self, access: &Access, at: Moment) -> Result<(), Ended> {
        if self.control.tracing() {
            self.tracer.memory();
        }
        for item in self.vcpu.page().data(access).chunks(usize::from(access.width.max(1))) {
            let write = PostedWrite {
                mmio: access.space == Space::Mmio,
                length: item.len() as u8,
                address: access.address,
                data: words::low_bytes(item),
                tsc: at.tsc,
                cpu: at.cpu,
            };
            let posted = self.end.post(&write, at.cpu, self.control.stop_word());
            posted.map_err(|ended| ended_wait(self.vcpu.id(), ended))?;
        }
        Ok(())
    }

    /// Publishes an event and serves the plugin's commands until it resumes the vCPU. `reentering` means that `KVM_RUN`
    /// follows in any case.
    #[inline]
    fn converse(&mut self, event: &Event, reentering: bool) -> Result<Answer, Ended> {
        if self.control.tracing() {
            self.tracer.memory();
        }
        self.end.publish(event);
        let published = clock::now();
        self.seam.reach(Point::Published, &self.control);
        // The plugin is at work now, so counting the exit before this one costs nobody time.
        self.stats.settle_with(self.end.counts());
        let mut answer = self.wait_answer(published, event.cpu)?;
        let Answer { kind, flags, files, want, .. } = answer;
        if kind != answer_kind::RESUME || (flags | files) != 0 || want != self.registers.wanted() {
            answer = self.converse_on(answer, reentering)?;
        }
        let answered = clock::now();
        self.stats.note_asked(published, answered);
        if self.control.tracing() {
            self.trace_exchange(event, &answer, published, answered);
        }
        Ok(answer)
    }

    /// Begins the trace of an exchange.
    #[cold]
    #[inline(never)]
    fn trace_exchange(&mut self, event: &Event, answer: &Answer, published: u64, answered: u64) {
        self.tracer.exchange(event, answer, published, answered, &self.end);
    }

    /// Goes on with an answer that is more than a resume.
    #[inline(never)]
    fn converse_on(&mut self, mut answer: Answer, reentering: bool) -> Result<Answer, Ended> {
        loop {
            let Answer { kind, flags, files, want, .. } = answer;
            match kind {
                answer_kind::RESUME if flags & !FLAG_STRING == 0 && (files | want) & !FILES == 0 => {
                    let resumed = self.registers.resume(&mut self.vcpu, &answer, &self.end.to_vmm().files, reentering);
                    if let Err(error) = resumed {
                        log::warn!("the plugin resumed a vCPU with registers that KVM refuses: {error}");
                    }
                    return Ok(answer);
                }
                answer_kind::GET | answer_kind::SET if flags == 0 && files == 0 => {
                    let came = clock::now();
                    let mut reply = self.registers.command(&mut self.vcpu, &answer, &self.end);
                    (reply.tsc, reply.cpu) = clock::now_and_cpu();
                    if self.control.tracing() {
                        self.tracer.command(&answer, &reply, came, &self.end);
                    }
                    self.end.publish(&reply);
                    answer = self.wait_answer(reply.tsc, reply.cpu)?;
                }
                answer_kind::RESUME | answer_kind::GET | answer_kind::SET => {
                    return Err(self.violated(Violation::AnswerFlags { kind, flags, files: files | want }));
                }
                _ => return Err(self.violated(Violation::AnswerKind(kind))),
            }
        }
    }

    #[inline]
    fn wait_answer(&mut self, since: u64, cpu: u32) -> Result<Answer, Ended> {
        let answer = self.end.wait_answer_since(since, cpu, self.control.stop_word());
        answer.map_err(|ended| ended_wait(self.vcpu.id(), ended))
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

    fn violated(&self, violation: Violation) -> Ended {
        Ended::Violation { vcpu: self.vcpu.id(), violation }
    }

    #[cold]
    fn guest_end(&self, exit: Exit) -> Ended {
        let rip = self.vcpu.regs().ok().map(|regs| regs.rip);
        let end = GuestEnd { vcpu: self.vcpu.id(), exit: Box::new(exit), rip };
        if exit == Exit::Shutdown { Ended::GuestShutdown(end) } else { Ended::GuestFailed(end) }
    }
}

fn ended_wait(vcpu: u32, ended: vmm_end::Ended) -> Ended {
    match ended {
        vmm_end::Ended::Stopped => Ended::Stopped,
        vmm_end::Ended::Violation(violation) => Ended::Violation { vcpu, violation },
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
