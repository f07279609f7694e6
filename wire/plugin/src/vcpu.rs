//! A vCPU as the plugin drives it.

use core::borrow::BorrowMut;
use std::sync::Arc;

use outboard_wire::control::VcpuEventFd;
use outboard_wire::plugin_end;

use crate::connection::{Connection, one};
use crate::error::Error;
use crate::event::{Event, Exited, Paused, RawEvent, Read, Write};
use crate::eventfd::EventFd;
use crate::machine::Machine;
use crate::registers::Registers;
use crate::stopped::Stopped;

/// One vCPU: delivers its events and takes the answers. It may be sent to another thread; different vCPUs may be driven by
/// different threads at the same time, or several by one, see [`wait_any`].
///
/// Waiting spins as long as the VMM's spin policy finds that to pay and then sleeps. Between two events nothing allocates,
/// locks or calls the kernel while the VMM spins.
///
/// ```no_run
/// use outboard_plugin::Event;
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// let mut vcpu = vm.vcpu(0)?;
/// loop {
///     match vcpu.wait()? {
///         Event::Read(read) => read.answer_u64(0xff),
///         Event::Write(write) => println!("{:#x} <- {:#x}", write.address(), write.value()),
///         Event::Shutdown => return Ok(()),
///         _ => {} // dropping an event resumes the vCPU
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Vcpu {
    /// Only dropping takes it out.
    state: Option<Registers>,
    has_eventfd: bool,
    machine: Arc<Machine>,
}

impl Connection {
    /// Takes vCPU number `id`. It can be taken once; dropping the [`Vcpu`] gives it back.
    ///
    /// # Errors
    /// [`Error::NoVcpu`] past the last one, [`Error::VcpuTaken`] while somebody has it.
    pub fn vcpu(&self, id: u32) -> Result<Vcpu, Error> {
        let machine = Arc::clone(self.machine());
        Ok(Vcpu { state: Some(machine.take(id)?), has_eventfd: false, machine })
    }
}

impl Vcpu {
    #[inline]
    fn state(&mut self) -> &mut Registers {
        match &mut self.state {
            Some(state) => state,
            None => unreachable!("only dropping takes the state"),
        }
    }

    /// Number of the vCPU.
    pub fn id(&self) -> u32 {
        self.state.as_ref().map_or(0, Registers::id)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`Error::Violation`] if the VMM broke the protocol; [`Error::StillStopped`] if the last event was leaked
    /// ([`std::mem::forget`]) or came from [`Vcpu::next_event`] and was not resumed.
    #[inline]
    pub fn wait(&mut self) -> Result<Event<'_>, Error> {
        let state = self.state();
        let raw = state.next_event()?;
        Ok(dress(state, raw))
    }

    /// The next event if it is there already.
    ///
    /// # Errors
    /// As [`Vcpu::wait`].
    #[inline]
    pub fn try_wait(&mut self) -> Result<Option<Event<'_>>, Error> {
        let state = self.state();
        let raw = state.try_next_event()?;
        Ok(raw.map(|raw| dress(state, raw)))
    }

    /// Waits for the next event, without borrowing the vCPU for as long as it stands still: what language bindings and
    /// event loops need that keep events elsewhere. Whoever calls this calls [`Vcpu::resume`] for each event but
    /// [`RawEvent::Posted`] and [`RawEvent::Shutdown`].
    ///
    /// # Errors
    /// As [`Vcpu::wait`].
    ///
    /// ```no_run
    /// use outboard_plugin::RawEvent;
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// # let mut vm = outboard_plugin::connect()?;
    /// # let mut vcpu = vm.vcpu(0)?;
    /// loop {
    ///     match vcpu.next_event()? {
    ///         RawEvent::Read(_) => vcpu.data_mut().fill(0xff),
    ///         RawEvent::Posted(_) => continue,
    ///         RawEvent::Shutdown => return Ok(()),
    ///         _ => {}
    ///     }
    ///     vcpu.resume()?;
    /// }
    /// # }
    /// ```
    #[inline]
    pub fn next_event(&mut self) -> Result<RawEvent, Error> {
        self.state().next_event()
    }

    /// As [`Vcpu::next_event`], if the event is there already.
    ///
    /// # Errors
    /// As [`Vcpu::wait`].
    #[inline]
    pub fn try_next_event(&mut self) -> Result<Option<RawEvent>, Error> {
        self.state().try_next_event()
    }

    /// The data of the event taken last: what the guest wrote, or for a read the bytes of the answer as they are now. The
    /// place stays the same until the vCPU is dropped.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.state.as_ref().map_or(&[], Registers::data)
    }

    /// The data of the event taken last; of a read, this is what [`Vcpu::resume`] answers.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.state().data_mut()
    }

    /// Register access between [`Vcpu::next_event`] and [`Vcpu::resume`].
    #[inline]
    pub fn registers(&mut self) -> &mut Registers {
        self.state()
    }

    /// Answers the event of [`Vcpu::next_event`]: the vCPU runs on.
    ///
    /// # Errors
    /// [`Error::NotStopped`] if no event waits for an answer.
    #[inline]
    pub fn resume(&mut self) -> Result<(), Error> {
        let state = self.state();
        if state.resume() { Ok(()) } else { Err(Error::NotStopped(state.id())) }
    }

    /// The eventfd that tells a foreign event loop of this vCPU's events, once it was armed. Every call returns a new
    /// descriptor for the same one.
    ///
    /// The loop is: [`arm`](Vcpu::arm); if that says true, poll the eventfd (with everything else that the loop serves) and
    /// [`drain`](EventFd::drain) it; then take events with [`try_wait`](Vcpu::try_wait) until there is none, and begin
    /// again. Taking an event disarms. Posted writes count as events.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Closed`].
    ///
    /// ```no_run
    /// # fn poll(_: &outboard_plugin::EventFd) {}
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let mut vcpu = vm.vcpu(0)?;
    /// let events = vcpu.event_fd(&mut vm)?;
    /// loop {
    ///     if vcpu.arm()? {
    ///         poll(&events); // poll(2), epoll(7) or whatever the loop is made of
    ///         events.drain()?;
    ///     }
    ///     while let Some(event) = vcpu.try_wait()? {
    ///         println!("{event:?}");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn event_fd(&mut self, connection: &mut Connection) -> Result<EventFd, Error> {
        let (_, fds) = connection.call(&VcpuEventFd { vcpu: self.id() }, &[])?;
        let event = EventFd::from(one(fds)?);
        self.has_eventfd = true;
        Ok(event)
    }

    /// Announces that this thread will sleep on [`Vcpu::event_fd`]: the VMM signals it for the next event. False means that
    /// something is there already and nothing was announced. The next wait or try disarms.
    ///
    /// # Errors
    /// [`Error::NoEventFd`] without a call of [`Vcpu::event_fd`] before, [`Error::StillStopped`] if the last event was not
    /// answered.
    pub fn arm(&mut self) -> Result<bool, Error> {
        if !self.has_eventfd {
            return Err(Error::NoEventFd(self.id()));
        }
        self.state().arm()
    }
}

impl Drop for Vcpu {
    /// Gives the vCPU back, so that it can be taken again. It keeps its state: an event of [`Vcpu::next_event`] still
    /// waits for its answer.
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            self.machine.give_back(state);
        }
    }
}

/// Ties an event to its vCPU.
#[inline]
fn dress(state: &mut Registers, raw: RawEvent) -> Event<'_> {
    match raw {
        RawEvent::Init => Event::Init(Stopped::new(state)),
        RawEvent::Read(access) => Event::Read(Read::new(state, access)),
        RawEvent::Write(access) => Event::Write(Write::new(state, access)),
        RawEvent::Posted(write) => Event::Posted(write),
        RawEvent::Paused { cookie } => Event::Paused(Paused::new(state, cookie)),
        RawEvent::Exit => exited(state),
        RawEvent::Shutdown => Event::Shutdown,
    }
}

#[cold]
fn exited(state: &mut Registers) -> Event<'_> {
    match state.exit() {
        Some(exit) => Event::Exit(Exited::new(state, exit)),
        None => unreachable!("such an event comes with its exit"),
    }
}

/// Waits until one of several vCPUs has an event, and returns its index. One thread can serve up to 128 vCPUs in this way.
///
/// The search begins at `first` and wraps around, so that a busy vCPU does not starve the ones behind it when `first` is
/// the index after the one served last. A vCPU that has delivered [`Event::Shutdown`] is always ready.
///
/// # Errors
/// [`Error::Io`] with `EINVAL` for no vCPU or more than 128, with `ENOSYS` where sleeping on several needs a newer
/// kernel (Linux before 5.16).
///
/// ```no_run
/// use outboard_plugin::{Event, Vcpu, wait_any};
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// let mut vm = outboard_plugin::connect()?;
/// let mut vcpus = (0..vm.vcpu_count()).map(|id| vm.vcpu(id)).collect::<Result<Vec<Vcpu>, _>>()?;
/// vm.start()?;
/// let mut next = 0;
/// loop {
///     let ready = wait_any(&mut vcpus, next)?;
///     next = ready + 1;
///     match vcpus[ready].try_wait()? {
///         Some(Event::Shutdown) => return Ok(()),
///         Some(event) => println!("vCPU {ready}: {event:?}"),
///         None => {}
///     }
/// }
/// # }
/// ```
pub fn wait_any<V: BorrowMut<Vcpu>>(vcpus: &mut [V], first: usize) -> Result<usize, Error> {
    let found = plugin_end::wait_any_of(vcpus, first, |vcpu| vcpu.borrow_mut().state().end());
    found.map_err(|error| Error::Io {
        what: "wait for several vCPUs",
        source: match error.kind() {
            std::io::ErrorKind::InvalidInput => std::io::Error::from_raw_os_error(libc::EINVAL),
            std::io::ErrorKind::Unsupported => std::io::Error::from_raw_os_error(libc::ENOSYS),
            _ => error,
        },
    })
}
