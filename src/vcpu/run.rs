//! The loop of a vCPU thread.

use core::convert::Infallible;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use super::action::{Access, Action, decide};
use super::control::Control;
use super::ended::{Ended, GuestEnd};
use super::exits;
use super::registers::Registers;
use super::spread::Spread;
use super::stats::{Kind, Stats};
use crate::kvm::{Exit, Vcpu};
use crate::machine::ranges::Space;
use crate::machine::rules::{Hint, RulesView};
use crate::sys::{Errno, affinity, signal};
use outboard_wire::clock;
use outboard_wire::error::Violation;
use outboard_wire::limits::MAX_STRING;
use outboard_wire::line::{Answer, Event, FILES, FLAG_MMIO, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::posted::PostedWrite;
use outboard_wire::vmm_end::{self, VmmEnd};
use outboard_wire::words;

/// A vCPU that is not made yet: all of its [`Runner`] but itself. When it is dropped, the plugin is told of the end.
pub struct Waiting {
    end: VmmEnd,
    control: Arc<Control>,
    rules: RulesView,
    registers: Registers,
    roams: bool,
}

impl Waiting {
    /// `sync_caps` is the value of `KVM_CAP_SYNC_REGS`.
    pub fn new(end: VmmEnd, control: Arc<Control>, rules: RulesView, sync_caps: i32) -> Waiting {
        Waiting { end, control, rules, registers: Registers::new(sync_caps), roams: false }
    }

    /// Lets the thread move among its CPUs to get out of the plugin's way.
    pub fn roaming(mut self) -> Waiting {
        self.roams = true;
        self
    }

    /// The runner for the vCPU, now that there is one.
    pub fn with(self, vcpu: Vcpu) -> Runner {
        let Waiting { end, control, rules, registers, roams } = self;
        let (stats, spread, access_open) = (Stats::default(), Spread::default(), false);
        Runner { end, vcpu, control, rules, registers, stats, spread, roams, access_open }
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

    /// Runs the guest until it ends or is stopped. Called once, on the thread that shall run it; the plugin is told of the
    /// end when the runner is dropped.
    pub fn run(&mut self) -> (Ended, Stats) {
        let kicked = self.vcpu.page().kick_scope();
        self.control.set_thread(Some(signal::gettid()));
        let Err(ended) = self.run_guest();
        self.control.set_thread(None);
        drop(kicked);
        self.stats.settle();
        self.stats.waits = self.end.counts();
        (ended, core::mem::take(&mut self.stats))
    }

    fn run_guest(&mut self) -> Result<Infallible, Ended> {
        let (tsc, cpu) = clock::now_and_cpu();
        let init = Event { kind: event_kind::INIT, tsc, cpu, ..Event::default() };
        self.converse(&init, false)?;
        let mut entered = clock::now();
        loop {
            let exit_at_once = self.look_at_requests()?;
            let hinted = self.rules.current().hint.as_ref().map_or(0, Hint::all_files);
            self.registers.prepare_run(&mut self.vcpu, hinted);
            if exit_at_once {
                self.vcpu.page().immediate_exit().store(1, Ordering::SeqCst);
            }
            let result = self.vcpu.run();
            let (tsc, cpu) = clock::now_and_cpu();
            match result {
                Ok(()) => {
                    self.stats.note_inside(tsc.wrapping_sub(entered));
                    entered = self.handle_exit(Moment { tsc, cpu })?;
                }
                Err(Errno::EINTR) => {
                    // KVM completes an open access before it looks at signals and `immediate_exit`.
                    self.access_open = false;
                    self.stats.interrupted += 1;
                    entered = tsc;
                }
                // A vCPU that waited for its start-up IPI was woken; it has to be entered again.
                Err(Errno::EAGAIN) => entered = tsc,
                Err(errno) => return Err(Ended::Run { vcpu: self.vcpu.id(), errno }),
            }
        }
    }

    /// Serves pauses and stops. Returns true if KVM shall only complete the open access and come back: a pause waits for
    /// that, so that the plugin sees the registers as they are after the access.
    #[inline]
    fn look_at_requests(&mut self) -> Result<bool, Ended> {
        loop {
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
                return Ok(false);
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
        self.stats.note(Kind::Pause, clock::now() - tsc);
        Ok(())
    }

    /// Does what the exit asks for; returns the TSC at its end.
    #[inline]
    fn handle_exit(&mut self, at: Moment) -> Result<u64, Ended> {
        let exit = self.vcpu.page().exit();
        let rules = self.rules.current();
        let kind = match decide(&exit, rules) {
            Action::Deliver(access) => {
                let mut files = self.registers.wanted();
                if let Some(hint) = &rules.hint
                    && hint.hits(access.space, access.address, access.is_write)
                {
                    let compared = self.registers.compared(&self.vcpu);
                    files |= compared.map_or(0, |registers| hint.files(registers));
                }
                self.deliver(&exit, &access, files, at)?;
                Kind::delivered(&access)
            }
            Action::Post(access) => {
                self.post(&exit, &access, at)?;
                Kind::posted(&access)
            }
            Action::Unclaimed(access, byte) => {
                if !access.is_write {
                    self.data_in(&exit).fill(byte);
                }
                Kind::Unclaimed
            }
            Action::Tell => {
                let files = self.registers.wanted();
                self.tell(&exit, files, at)?;
                Kind::Other
            }
            Action::Refuse => {
                exits::refuse(self.vcpu.page_mut(), &exit);
                Kind::Other
            }
            Action::RunOn => return Ok(clock::now()),
            Action::End => return Err(self.guest_end(exit)),
        };
        self.access_open = true;
        if self.spread.observe(at.cpu, self.end.peer_cpu()) {
            self.leave_cpu(at.cpu);
        }
        let now = clock::now();
        self.stats.note(kind, now.wrapping_sub(at.tsc));
        Ok(now)
    }

    #[inline]
    fn deliver(&mut self, exit: &Exit, access: &Access, files: u8, at: Moment) -> Result<(), Ended> {
        let long = access.length > 8;
        let mut event = Event {
            kind: if access.is_write { event_kind::WRITE } else { event_kind::READ },
            flags: space_flag(access) | if long { FLAG_STRING } else { 0 },
            width: access.width,
            length: access.length,
            address: access.address,
            tsc: at.tsc,
            cpu: at.cpu,
            ..Event::default()
        };
        if access.is_write {
            let data = data_out(&self.vcpu, exit);
            if long {
                words::store(&self.end.to_plugin().string, data);
            } else {
                event.data = words::low_bytes(data);
            }
        }
        if files != 0 {
            event.files = self.registers.attach(&self.vcpu, files, &self.end.to_plugin().files);
            self.end.to_plugin().files.push(event.files);
        }
        let answer = self.converse(&event, true)?;
        if event.files != 0 {
            self.end.to_plugin().files.own(event.files);
        }
        if !access.is_write {
            self.take_data(exit, access, &answer)?;
        }
        Ok(())
    }

    /// Tells the plugin of an exit that is no access, and gives its answer to KVM.
    fn tell(&mut self, exit: &Exit, files: u8, at: Moment) -> Result<(), Ended> {
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
        Ok(())
    }

    /// Copies the data of an answered read to where KVM expects it.
    #[inline]
    fn take_data(&mut self, exit: &Exit, access: &Access, answer: &Answer) -> Result<(), Ended> {
        if answer.length != access.length {
            let violation = Violation::AnswerLength { expected: access.length, got: answer.length };
            return Err(self.violated(violation));
        }
        if access.length > 8 {
            let mut data = [0; MAX_STRING];
            let data = &mut data[..access.length as usize];
            words::load(&self.end.to_vmm().string, data);
            self.data_in(exit).copy_from(data);
        } else {
            self.data_in(exit).copy_from(&answer.data.to_le_bytes()[..access.length as usize]);
        }
        Ok(())
    }

    /// Posts a write, item by item: a string write is as many writes as it has items.
    #[inline]
    fn post(&mut self, exit: &Exit, access: &Access, at: Moment) -> Result<(), Ended> {
        for item in data_out(&self.vcpu, exit).chunks(usize::from(access.width.max(1))) {
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
        self.end.publish(event);
        // The plugin is at work now, so counting the exit before this one costs nobody time.
        self.stats.settle();
        let mut cpu = event.cpu;
        loop {
            let answer = self.end.wait_answer(cpu, self.control.stop_word());
            let answer = answer.map_err(|ended| ended_wait(self.vcpu.id(), ended))?;
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
                    let mut reply = self.registers.command(&mut self.vcpu, &answer, &self.end);
                    (reply.tsc, cpu) = clock::now_and_cpu();
                    reply.cpu = cpu;
                    self.end.publish(&reply);
                }
                answer_kind::RESUME | answer_kind::GET | answer_kind::SET => {
                    return Err(self.violated(Violation::AnswerFlags { kind, flags, files: files | want }));
                }
                _ => return Err(self.violated(Violation::AnswerKind(kind))),
            }
        }
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

    /// Where the data of a read goes.
    fn data_in<'run>(&'run mut self, exit: &'run Exit) -> DataIn<'run> {
        DataIn { vcpu: &mut self.vcpu, exit }
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

/// The place in the run page where KVM takes the data of a read from.
struct DataIn<'run> {
    vcpu: &'run mut Vcpu,
    exit: &'run Exit,
}

impl DataIn<'_> {
    #[inline]
    fn copy_from(self, data: &[u8]) {
        match self.exit {
            Exit::Io(io) => {
                let place = self.vcpu.page_mut().io_data_mut(io);
                let length = place.len().min(data.len());
                place[..length].copy_from_slice(&data[..length]);
            }
            Exit::Mmio(_) => self.vcpu.page_mut().set_mmio_data(words::low_bytes(data).to_le_bytes()),
            _ => {}
        }
    }

    fn fill(self, byte: u8) {
        match self.exit {
            Exit::Io(io) => self.vcpu.page_mut().io_data_mut(io).fill(byte),
            Exit::Mmio(_) => self.vcpu.page_mut().set_mmio_data([byte; 8]),
            _ => {}
        }
    }
}

/// The data of a write.
#[inline]
fn data_out<'run>(vcpu: &'run Vcpu, exit: &'run Exit) -> &'run [u8] {
    match exit {
        Exit::Io(io) => vcpu.page().io_data(io),
        Exit::Mmio(mmio) => &mmio.data[..(mmio.len as usize).min(8)],
        _ => &[],
    }
}

fn space_flag(access: &Access) -> u8 {
    if access.space == Space::Mmio { FLAG_MMIO } else { 0 }
}

fn ended_wait(vcpu: u32, ended: vmm_end::Ended) -> Ended {
    match ended {
        vmm_end::Ended::Stopped => Ended::Stopped,
        vmm_end::Ended::Violation(violation) => Ended::Violation { vcpu, violation },
    }
}
