//! What a vCPU's thread and the plugin say to each other: events, their answers, and the commands between them.

use std::sync::Arc;

use super::action;
use super::control::Control;
use super::ended::{Ended, GuestEnd};
use super::exits;
use super::registers::Registers;
use super::seam::{Point, Seam};
use super::stats::Stats;
use super::tracer::Tracer;
use crate::kvm::{Access, Exit, Space, Vcpu};
use outboard_wire::clock;
use outboard_wire::error::Violation;
use outboard_wire::line::{Answer, Event, FILES, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::posted::PostedWrite;
use outboard_wire::stats::cell;
use outboard_wire::vmm_end::{self, VmmEnd};
use outboard_wire::words;

/// When and where the guest left.
#[derive(Clone, Copy)]
pub struct Moment {
    /// The TSC then.
    pub tsc: u64,
    /// The CPU.
    pub cpu: u32,
}

/// A vCPU's end of the exchange, and what goes through it: registers, counters, traces.
pub struct Exchange {
    /// The lines. Dropped first, so that the plugin learns of the end before anything else is taken down.
    pub end: VmmEnd,
    /// What others ask of the thread; a stop ends every wait here.
    pub control: Arc<Control>,
    /// Which files go along, and how they are read and set.
    pub registers: Registers,
    /// The counters.
    pub stats: Stats,
    /// The traces.
    pub tracer: Tracer,
    /// Where a test steps in.
    pub seam: Seam,
}

impl Exchange {
    /// Tells the plugin of a pause that it asked for, if there is one, and serves it until it resumes the vCPU.
    ///
    /// # Errors
    /// Those of a wait for the plugin.
    #[cold]
    pub fn pause(&mut self, vcpu: &mut Vcpu) -> Result<(), Ended> {
        let Some(cookie) = self.control.take_pause() else { return Ok(()) };
        let (tsc, cpu) = clock::now_and_cpu();
        let files = self.registers.attach(vcpu, self.registers.wanted(), &self.end.to_plugin().files);
        let paused = Event { kind: event_kind::PAUSED, address: cookie, files, tsc, cpu, ..Event::default() };
        self.converse(vcpu, &paused, false)?;
        let now = clock::now();
        self.tracer.entered(now);
        self.stats.note(cell::PAUSE, tsc, now);
        Ok(())
    }

    /// Delivers an access of up to 8 bytes, with these register files.
    ///
    /// # Errors
    /// Those of a wait for the plugin, and an answer that does not fit.
    #[inline]
    pub fn deliver(&mut self, vcpu: &mut Vcpu, access: &Access, files: u8, at: Moment) -> Result<(), Ended> {
        let mut event = action::event(access, at.tsc, at.cpu);
        if access.is_write {
            event.data = words::low_bytes(vcpu.page().data(access));
        }
        if files != 0 {
            event.files = self.attach(vcpu, files);
        }
        let answer = self.converse(vcpu, &event, true)?;
        if event.files != 0 {
            self.end.to_plugin().files.own(event.files);
        }
        if !access.is_write {
            check_length(vcpu, access, &answer)?;
            words::put_low_bytes(vcpu.page_mut().data_mut(access), answer.data);
        }
        Ok(())
    }

    /// Delivers string I/O.
    ///
    /// # Errors
    /// As [`Exchange::deliver`].
    #[cold]
    #[inline(never)]
    pub fn deliver_string(&mut self, vcpu: &mut Vcpu, access: &Access, files: u8, at: Moment) -> Result<(), Ended> {
        let mut event = action::event(access, at.tsc, at.cpu);
        event.flags |= FLAG_STRING;
        if access.is_write {
            words::store(&self.end.to_plugin().string, vcpu.page().data(access));
        }
        event.files = self.attach(vcpu, files);
        let answer = self.converse(vcpu, &event, true)?;
        if !access.is_write {
            check_length(vcpu, access, &answer)?;
            words::load(&self.end.to_vmm().string, vcpu.page_mut().data_mut(access));
        }
        Ok(())
    }

    /// Copies register files to where the plugin finds them; returns those that are there.
    #[inline(never)]
    fn attach(&mut self, vcpu: &Vcpu, files: u8) -> u8 {
        let attached = self.registers.attach(vcpu, files, &self.end.to_plugin().files);
        self.end.to_plugin().files.push(attached);
        attached
    }

    /// Tells the plugin of an exit that is no access, and gives its answer to KVM. Returns the kind of event.
    ///
    /// # Errors
    /// Those of a wait for the plugin, and the exit itself if the plugin gives it up.
    pub fn tell(&mut self, vcpu: &mut Vcpu, exit: &Exit, at: Moment) -> Result<u8, Ended> {
        let (kind, details) = exits::describe(exit).ok_or_else(|| guest_end(vcpu, *exit))?;
        let mut event = Event { kind, tsc: at.tsc, cpu: at.cpu, ..Event::default() };
        details.put(&mut event, &self.end.to_plugin().string);
        let files = self.registers.wanted() | exits::files(exit);
        event.files = self.registers.attach(vcpu, files, &self.end.to_plugin().files);
        let answer = self.converse(vcpu, &event, true)?;
        if exits::gives_up(exit, &answer) {
            return Err(guest_end(vcpu, *exit));
        }
        exits::answer(vcpu.page_mut(), exit, &answer);
        Ok(kind)
    }

    /// Posts a write, item by item: a string write is as many writes as it has items.
    ///
    /// # Errors
    /// Those of a wait for the plugin, when the ring is full.
    #[inline]
    pub fn post(&mut self, vcpu: &Vcpu, access: &Access, at: Moment) -> Result<(), Ended> {
        if self.control.tracing() {
            self.tracer.memory();
        }
        for item in vcpu.page().data(access).chunks(usize::from(access.width.max(1))) {
            let write = PostedWrite {
                mmio: access.space == Space::Mmio,
                length: item.len() as u8,
                address: access.address,
                data: words::low_bytes(item),
                tsc: at.tsc,
                cpu: at.cpu,
            };
            let posted = self.end.post(&write, at.cpu, self.control.stop_word());
            posted.map_err(|ended| ended_wait(vcpu.id(), ended))?;
        }
        Ok(())
    }

    /// Publishes an event and serves the plugin's commands until it resumes the vCPU. `reentering` means that `KVM_RUN`
    /// follows in any case.
    ///
    /// # Errors
    /// Those of a wait for the plugin, and an answer that is none.
    #[inline]
    pub fn converse(&mut self, vcpu: &mut Vcpu, event: &Event, reentering: bool) -> Result<Answer, Ended> {
        if self.control.tracing() {
            self.tracer.memory();
        }
        self.end.publish(event);
        let published = clock::now();
        self.seam.reach(Point::Published, &self.control);
        // The plugin is at work now, so counting the exit before this one costs nobody time.
        self.stats.settle_with(self.end.counts());
        let mut answer = self.wait_answer(vcpu, published, event.cpu)?;
        let Answer { kind, flags, files, want, .. } = answer;
        if kind != answer_kind::RESUME || (flags | files) != 0 || want != self.registers.wanted() {
            answer = self.converse_on(vcpu, answer, reentering)?;
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
    fn converse_on(&mut self, vcpu: &mut Vcpu, mut answer: Answer, reentering: bool) -> Result<Answer, Ended> {
        loop {
            let Answer { kind, flags, files, want, .. } = answer;
            match kind {
                answer_kind::RESUME if flags & !FLAG_STRING == 0 && (files | want) & !FILES == 0 => {
                    let resumed = self.registers.resume(vcpu, &answer, &self.end.to_vmm().files, reentering);
                    if let Err(error) = resumed {
                        log::warn!("the plugin resumed a vCPU with registers that KVM refuses: {error}");
                    }
                    return Ok(answer);
                }
                answer_kind::GET | answer_kind::SET if flags == 0 && files == 0 => {
                    let came = clock::now();
                    let mut reply = self.registers.command(vcpu, &answer, &self.end);
                    (reply.tsc, reply.cpu) = clock::now_and_cpu();
                    if self.control.tracing() {
                        self.tracer.command(&answer, &reply, came, &self.end);
                    }
                    self.end.publish(&reply);
                    answer = self.wait_answer(vcpu, reply.tsc, reply.cpu)?;
                }
                answer_kind::RESUME | answer_kind::GET | answer_kind::SET => {
                    let violation = Violation::AnswerFlags { kind, flags, files: files | want };
                    return Err(violated(vcpu, violation));
                }
                _ => return Err(violated(vcpu, Violation::AnswerKind(kind))),
            }
        }
    }

    #[inline]
    fn wait_answer(&mut self, vcpu: &Vcpu, since: u64, cpu: u32) -> Result<Answer, Ended> {
        let answer = self.end.wait_answer_since(since, cpu, self.control.stop_word());
        answer.map_err(|ended| ended_wait(vcpu.id(), ended))
    }
}

#[inline]
fn check_length(vcpu: &Vcpu, access: &Access, answer: &Answer) -> Result<(), Ended> {
    if answer.length != access.length {
        let violation = Violation::AnswerLength { expected: access.length, got: answer.length };
        return Err(violated(vcpu, violation));
    }
    Ok(())
}

fn violated(vcpu: &Vcpu, violation: Violation) -> Ended {
    Ended::Violation { vcpu: vcpu.id(), violation }
}

/// The end of a guest that left for a reason that nobody serves.
#[cold]
pub fn guest_end(vcpu: &Vcpu, exit: Exit) -> Ended {
    let rip = vcpu.regs().ok().map(|regs| regs.rip);
    let end = GuestEnd { vcpu: vcpu.id(), exit: Box::new(exit), rip };
    if exit == Exit::Shutdown { Ended::GuestShutdown(end) } else { Ended::GuestFailed(end) }
}

fn ended_wait(vcpu: u32, ended: vmm_end::Ended) -> Ended {
    match ended {
        vmm_end::Ended::Stopped => Ended::Stopped,
        vmm_end::Ended::Violation(violation) => Ended::Violation { vcpu, violation },
    }
}
