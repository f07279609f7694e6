//! Events as they come, and their answers.
//!
//! All of this is inlined into the plugin's loop by force: an event that is passed on through memory from function to
//! function costs more than what is done with it.

use outboard_wire::details::Details;
use outboard_wire::error::Violation;
use outboard_wire::limits::MAX_STRING;
use outboard_wire::line::{self, Answer, Event, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::words;

use super::{Carries, Registers};
use crate::error::Error;
use crate::event::{Access, PostedWrite, RawEvent};
use crate::exit::Exit;
use crate::space::{Files, Space};

impl Registers {
    #[inline(always)]
    pub(crate) fn next_event(&mut self) -> Result<RawEvent, Error> {
        self.ready()?;
        let incoming = self.end.wait()?;
        self.accept(incoming)
    }

    #[inline(always)]
    pub(crate) fn try_next_event(&mut self) -> Result<Option<RawEvent>, Error> {
        self.ready()?;
        match self.end.try_next()? {
            Some(incoming) => self.accept(incoming).map(Some),
            None => Ok(None),
        }
    }

    /// Refuses to wait while an event waits for its answer, and takes an announced sleep back.
    #[inline(always)]
    fn ready(&mut self) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::StillStopped(self.id));
        }
        if self.armed {
            self.armed = false;
            self.end.awake();
        }
        Ok(())
    }

    #[inline(always)]
    fn accept(&mut self, incoming: Incoming) -> Result<RawEvent, Error> {
        match incoming {
            Incoming::Event(event) => self.accept_event(&event),
            Incoming::Posted(write) => {
                let data = write.data.to_le_bytes();
                self.buffer[..8].copy_from_slice(&data);
                self.length = usize::from(write.length);
                self.exit_tsc = write.tsc;
                Ok(RawEvent::Posted(PostedWrite::from_wire(&write)))
            }
        }
    }

    #[inline(always)]
    fn accept_event(&mut self, event: &Event) -> Result<RawEvent, Error> {
        self.length = 0;
        self.carries = Carries::Nothing;
        self.accessing = !matches!(event.kind, event_kind::INIT | event_kind::PAUSED);
        self.here = Files::from_bits(event.files);
        self.exit_tsc = event.tsc;
        let raw = match event.kind {
            event_kind::READ => {
                self.carries = Carries::Data;
                self.length = event.length as usize;
                self.buffer[..8].fill(0);
                if self.length > 8 {
                    self.buffer[..self.length].fill(0);
                }
                RawEvent::Read(access(event))
            }
            event_kind::WRITE => {
                self.length = event.length as usize;
                self.buffer[..8].copy_from_slice(&event.data.to_le_bytes());
                if self.length > 8 {
                    words::load(&self.end.to_plugin().string, &mut self.buffer[..self.length]);
                }
                RawEvent::Write(access(event))
            }
            event_kind::INIT => RawEvent::Init,
            event_kind::PAUSED => RawEvent::Paused { cookie: event.address },
            event_kind::SHUTDOWN => return Ok(RawEvent::Shutdown),
            _ => self.accept_exit(event)?,
        };
        self.stopped = true;
        Ok(raw)
    }

    #[cold]
    #[inline(never)]
    fn accept_exit(&mut self, event: &Event) -> Result<RawEvent, Error> {
        let details = Details::take(event, &self.end.to_plugin().string);
        let exit = Exit::from_wire(event.kind, &details).ok_or(Violation::EventKind(event.kind))?;
        let answer = exit.default_answer();
        if let Some(result) = answer.result {
            self.length = 8;
            self.buffer[..8].copy_from_slice(&result.to_le_bytes());
        }
        self.carries = Carries::Result { fault: answer.fault };
        self.exit = Some(exit);
        Ok(RawEvent::Exit)
    }

    /// The data of the event: what the guest wrote, or what it is about to read.
    #[inline(always)]
    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[..self.length.min(MAX_STRING)]
    }

    #[inline(always)]
    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length.min(MAX_STRING)]
    }

    /// Answers the event, if there is one that waits: the vCPU runs on. True if there was one.
    #[inline(always)]
    pub(crate) fn resume(&mut self) -> bool {
        if !self.stopped {
            return false;
        }
        let mut answer = Answer {
            kind: answer_kind::RESUME,
            files: self.deferred.bits(),
            want: self.want.unwrap_or_else(|| self.habit.resume()).bits(),
            ..Answer::default()
        };
        match self.carries {
            Carries::Nothing => {}
            Carries::Data => {
                answer.length = self.length as u32;
                if self.length > 8 {
                    answer.flags = FLAG_STRING;
                    words::store(&self.end.to_vmm().string, &self.buffer[..self.length]);
                } else {
                    answer.data = words::low_bytes(self.data());
                }
            }
            Carries::Result { fault } => {
                answer.data = words::low_bytes(self.data());
                answer.count = fault.into();
                self.exit = None;
            }
        }
        self.stopped = false;
        self.here = Files::NONE;
        self.deferred = Files::NONE;
        self.end.answer(&answer);
        true
    }

    /// Announces that the thread sleeps on the eventfd. False: something is there already.
    pub(crate) fn arm(&mut self) -> Result<bool, Error> {
        self.ready()?;
        self.armed = self.end.announce_eventfd();
        Ok(self.armed)
    }

    /// For waiting on several vCPUs.
    pub(crate) fn end(&mut self) -> &mut PluginEnd {
        &mut self.end
    }
}

#[inline(always)]
fn access(event: &Event) -> Access {
    let space = if event.flags & line::FLAG_MMIO != 0 { Space::Mmio } else { Space::Port };
    Access { space, address: event.address, length: event.length, width: event.width }
}
