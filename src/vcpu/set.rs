//! All vCPUs of a VM: waiting for their start, running, or ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::ended::Ended;
use super::run::{Runner, Waiting};
use crate::kvm::{Held, Vcpu};
use crate::sys::eventfd::EventFd;
use crate::sys::seccomp::{self, Instruction, Scope};
use crate::sys::{Errno, affinity};

/// How often a stop is repeated until all threads have ended: a signal that comes between a thread's look at its stop word
/// and its futex call is lost (timing point 5).
const REPEAT_STOP: Duration = Duration::from_millis(1);

/// What each vCPU thread sends when it ends. Every thread does: a panic aborts the process (`Cargo.toml`).
#[derive(Debug)]
struct Report {
    vcpu: u32,
    ended: Ended,
}

/// A vCPU as the control thread sees it.
#[derive(Debug)]
pub struct Seat {
    /// How to pause and stop it.
    pub control: Arc<Control>,
    /// The eventfd that the plugin may wait on; made when the plugin asks for it or the vCPU starts.
    pub eventfd: Arc<OnceLock<OwnedFd>>,
}

impl Seat {
    fn doorbell(&self) -> Result<&OwnedFd, Errno> {
        if let Some(fd) = self.eventfd.get() {
            return Ok(fd);
        }
        let fresh = EventFd::new()?.into();
        Ok(self.eventfd.get_or_init(|| fresh))
    }
}

/// What a vCPU thread takes along.
struct Body {
    runner: Runner,
    cpus: Option<Vec<usize>>,
    filter: Option<Arc<[Instruction]>>,
    sender: Sender<Report>,
    notice: Arc<EventFd>,
    doorbell: Arc<OnceLock<OwnedFd>>,
}

impl Body {
    fn run(mut self) {
        let vcpu = self.runner.id();
        if let Some(cpus) = &self.cpus
            && let Err(errno) = affinity::allow(cpus)
        {
            log::warn!("vCPU {vcpu} cannot be kept on CPUs {cpus:?}: {errno}");
        }
        let ended = match self.confine() {
            Ok(()) => self.runner.run(),
            Err((step, errno)) => Ended::Unconfined { vcpu, step, errno },
        };
        // The receiver outlives the threads; were it gone, nobody would want to know.
        let _ = self.sender.send(Report { vcpu, ended });
        let _ = self.notice.signal();
        // Only now, with `self`: a plugin that learns of the end may exit at once, and the reason shall be known before.
    }

    /// Gives up what running the guest does not take.
    fn confine(&self) -> Result<(), (&'static str, Errno)> {
        let stderr = std::io::stderr();
        let doorbell = self.doorbell.get().map(AsFd::as_fd);
        let others: Vec<_> = [stderr.as_fd(), self.notice.as_fd()].into_iter().chain(doorbell).collect();
        self.runner.keep_only(&others).map_err(|errno| ("give its descriptors up", errno))?;
        let Some(filter) = &self.filter else { return Ok(()) };
        seccomp::load(filter, Scope::Thread, false).map_err(|errno| ("load its seccomp filter", errno))
    }
}

/// The vCPUs of a VM.
pub struct VcpuSet {
    seats: Vec<Seat>,
    /// vCPUs that wait for the start.
    waiting: Vec<Waiting>,
    /// The threads, which have tables of descriptors of their own, and what keeps the vCPUs open in this one's.
    threads: Vec<Option<(JoinHandle<()>, Held)>>,
    started: bool,
    reports: Receiver<Report>,
    sender: Sender<Report>,
    notice: Arc<EventFd>,
}

impl VcpuSet {
    /// vCPUs that have not started, each with its seat.
    ///
    /// # Errors
    /// `EMFILE` if there is no descriptor for the notice of ended threads.
    pub fn new(vcpus: Vec<(Waiting, Seat)>) -> Result<VcpuSet, Errno> {
        let (sender, reports) = mpsc::channel();
        let (waiting, seats) = vcpus.into_iter().unzip();
        let (threads, notice) = (Vec::new(), Arc::new(EventFd::new()?));
        Ok(VcpuSet { seats, waiting, threads, started: false, reports, sender, notice })
    }

    /// Readable when a vCPU thread has ended; see [`VcpuSet::take_ended`].
    pub fn notice(&self) -> BorrowedFd<'_> {
        self.notice.as_fd()
    }

    /// Number of vCPUs.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// True for a VM without vCPUs, which there is not.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// True once [`VcpuSet::start`] was called.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Starts one thread for each of these vCPUs, named `vcpu0` and so on; there are as many as were announced. `cpus`
    /// gives the CPUs that a vCPU may run on, if that was asked for; `filter` is loaded by each thread before the guest runs.
    ///
    /// # Errors
    /// `EINVAL` on a second start; `EAGAIN` if a thread cannot be made, `EMFILE` if an eventfd cannot; then those made are stopped.
    pub fn start(
        &mut self,
        vcpus: Vec<Vcpu>,
        cpus: impl Fn(u32) -> Option<Vec<usize>>,
        filter: Option<Arc<[Instruction]>>,
    ) -> Result<(), Errno> {
        if core::mem::replace(&mut self.started, true) {
            return Err(Errno::EINVAL);
        }
        let mut started = Ok(());
        for ((waiting, vcpu), seat) in self.waiting.drain(..).zip(vcpus).zip(&self.seats) {
            let (cpus, filter) = (cpus(vcpu.id()), filter.clone());
            let held = vcpu.hold();
            let thread = seat.doorbell().and_then(|_| {
                let (sender, notice, doorbell) =
                    (self.sender.clone(), Arc::clone(&self.notice), Arc::clone(&seat.eventfd));
                let body = Body { runner: waiting.with(vcpu), cpus, filter, sender, notice, doorbell };
                let name = format!("vcpu{}", body.runner.id());
                std::thread::Builder::new().name(name).spawn(move || body.run()).map_err(Errno::from)
            });
            match thread {
                Ok(thread) => self.threads.push(Some((thread, held))),
                Err(errno) => {
                    started = Err(errno);
                    break;
                }
            }
        }
        if started.is_err() {
            self.stop();
        }
        started
    }

    /// Gives each vCPU of the mask a PAUSED event.
    pub fn pause(&self, mask: &[u64], cookie: u64) {
        for (index, seat) in self.seats.iter().enumerate() {
            if mask.get(index / 64).is_some_and(|word| word & 1 << (index % 64) != 0) {
                seat.control.pause(cookie);
            }
        }
    }

    /// How to reach each vCPU thread.
    pub fn controls(&self) -> Vec<Arc<Control>> {
        self.seats.iter().map(|seat| Arc::clone(&seat.control)).collect()
    }

    /// Lets all vCPUs stand still, each from the end of the access at hand, or run on.
    pub fn hold(&self, on: bool) {
        self.seats.iter().for_each(|seat| seat.control.hold(on));
    }

    /// The eventfd of a vCPU, made at the first call.
    ///
    /// # Errors
    /// `ENOENT` past the last vCPU; `EMFILE`.
    pub fn event_fd(&self, vcpu: u32) -> Result<OwnedFd, Errno> {
        let seat = self.seats.get(vcpu as usize).ok_or(Errno::ENOENT)?;
        seat.doorbell()?.try_clone().map_err(Errno::from)
    }

    /// Why vCPUs ended since the last call; each reason names its vCPU where that matters.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        let _ = self.notice.drain();
        let mut all = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            all.push(self.take(report));
        }
        all
    }

    /// Stops all vCPUs and waits until their threads have ended and the plugin was told. What they ended with is returned.
    pub fn stop(&mut self) -> Vec<Ended> {
        self.started = true;
        self.waiting.clear();
        let mut all = Vec::new();
        while self.threads.iter().any(Option::is_some) {
            for (seat, _) in self.seats.iter().zip(&self.threads).filter(|(_, thread)| thread.is_some()) {
                seat.control.stop();
            }
            match self.reports.recv_timeout(REPEAT_STOP) {
                Ok(report) => all.push(self.take(report)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        all
    }

    fn take(&mut self, report: Report) -> Ended {
        if let Some((thread, _held)) = self.threads.get_mut(report.vcpu as usize).and_then(Option::take) {
            let _ = thread.join();
        }
        report.ended
    }
}
