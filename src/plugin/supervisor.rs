//! The main thread: it sets the VM up, starts the plugin, waits for what happens and sees to the end of everything.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::Connections;
use super::failure::{Failure, Timers};
use super::lifecycle::{Action, Input, Lifecycle, Outcome, SHUTDOWN_DEADLINE_MS, State};
use super::manage::Manage;
use super::process::PluginProcess;
use super::recorder::TraceFile;
use super::requests::Host;
use super::settings::Settings;
use super::setup::{self, StartError};
use super::socket_file::SocketFile;
use super::source::{self, token};
use super::start;
use crate::event::{Completion, EventLoop, Limits, Token};
use crate::jail::filter;
use crate::jail::vmm;
use crate::kvm::System;
use crate::sys::process::ExitStatus;
use crate::sys::signal::{SignalFd, SignalSet, block};
use crate::vcpu::ended::Ended;
use outboard_wire::limits::{MAX_CONNECTIONS, MAX_FDS, MAX_FRAME};
use outboard_wire::stats::read::Snapshot;
use outboard_wire::stats::state;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Why it ended, and how the plugin did.
    pub outcome: Outcome,
    /// Counts of all vCPUs.
    pub stats: Snapshot,
    /// The KVM device, which the VMM may not be able to open again.
    pub kvm: Arc<System>,
    /// TSC frequency, to turn the counts' ticks into time.
    pub tsc_khz: u64,
    /// From the plugin's start to its end.
    pub elapsed: Duration,
}

/// Time between the end of the last connection and the conclusion that the plugin closed it on purpose: a process that
/// exits closes its sockets a moment before its end can be seen.
const GRACE: Duration = Duration::from_millis(100);

/// How long a plugin that has ended is listened to. All that it sent is there already and comes with the next turns of the
/// loop; this is for the case that somebody else holds its sockets open.
const LAST_WORDS: Duration = Duration::from_millis(10);

pub(super) struct Supervisor {
    pub(super) events: EventLoop,
    lifecycle: Lifecycle,
    process: PluginProcess,
    process_fd: Arc<OwnedFd>,
    /// How the process ended, while what it sent before is still being read.
    pub(super) ended: Option<ExitStatus>,
    /// Hears of system calls that the plugin's filter does not allow.
    listener_fd: Option<Arc<OwnedFd>>,
    signals: SignalFd,
    signals_fd: Arc<OwnedFd>,
    vcpus_fd: Arc<OwnedFd>,
    pub(super) connections: Connections,
    timers: Timers,
    pub(super) manage: Manage,
    /// The client whose trace is being recorded.
    pub(super) trace_owner: Option<Token>,
    pub(super) host: Host,
}

/// Runs a VM with a plugin until both have ended.
///
/// Blocks SIGINT, SIGTERM and SIGHUP for the calling thread and those it starts, and serves them itself. Call it on the
/// main thread: the plugin is killed by the kernel when the thread that started it ends.
///
/// # Errors
/// A [`StartError`] if the run could not begin; then nothing is left behind.
pub fn run(settings: &Settings) -> Result<Report, StartError> {
    let signal_set =
        SignalSet::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).map_err(StartError::call("sigaddset"))?;
    block(&signal_set).map_err(StartError::call("sigprocmask"))?;
    let signals = SignalFd::new(&signal_set).map_err(StartError::call("signalfd"))?;
    let limits = Limits { max_frame: MAX_FRAME, max_fds: MAX_FDS, in_flight: 2 * MAX_CONNECTIONS as u32 + 48 };
    let events = EventLoop::new(limits).map_err(StartError::Events)?;
    let open_files = start::raise_open_files().map_err(StartError::call("setrlimit"))?;
    let ready = setup::check(settings)?;
    let kvm = Arc::new(ready.system.try_clone().map_err(StartError::call("fcntl(F_DUPFD_CLOEXEC)"))?);
    let trace = settings.trace.as_deref().map(TraceFile::create).transpose()?;
    let socket = settings.socket.as_deref().map(SocketFile::make).transpose()?;
    let started = Instant::now();
    let (plan, control) = start::spawn_plan(settings, open_files)?;
    // The child half works while this thread makes the VM. It was cloned before there is one: a clone of a process that
    // has a VM costs more, and keeps the VM open.
    let starting = start::begin(&plan, settings)?;
    let mut host = setup::host(settings, ready)?;
    let manage = Manage::new(host.stats.number(), socket);
    let manage = manage.map_err(|error| StartError::call("fcntl(F_SETFL)")(error.into()))?;
    let process = starting.finish().map_err(StartError::Spawn)?;
    // With it goes this process's copy of the plugin's end of the socket.
    drop(plan);
    host.vcpu_filter = vmm::enter(settings.cage).map_err(StartError::Cage)?;
    // Its thread has to have the rights that are left; the plugin's first request is served after this.
    if let Some(file) = trace {
        let vm = host.stats.vm();
        host.recorder.start(file, &vm, 0, true)?;
    }
    let mut supervisor = Supervisor {
        process_fd: duplicate(process.pidfd())?,
        signals_fd: duplicate(signals.as_fd())?,
        vcpus_fd: duplicate(host.vcpus.notice())?,
        events,
        lifecycle: Lifecycle::new(),
        process,
        ended: None,
        listener_fd: None,
        signals,
        connections: Connections::default(),
        timers: Timers::default(),
        manage,
        trace_owner: None,
        host,
    };
    let tsc_khz = supervisor.host.welcome.tsc_khz;
    let served = supervisor.serve(control);
    if served.is_err() {
        // What they end with does not matter any more, but that they have ended does.
        supervisor.host.vcpus.stop();
    }
    supervisor.end_trace();
    supervisor.host.stats.set_state(state::ENDED);
    let outcome = served?;
    let stats = supervisor.host.stats.snapshot();
    Ok(Report { outcome, stats, kvm, tsc_khz, elapsed: started.elapsed() })
}

fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> Result<Arc<OwnedFd>, StartError> {
    fd.try_clone_to_owned().map(Arc::new).map_err(|error| StartError::call("fcntl(F_DUPFD_CLOEXEC)")(error.into()))
}

impl Supervisor {
    fn serve(&mut self, control: OwnedFd) -> Result<Outcome, StartError> {
        let connection = self.connections.add(control, false).map_err(StartError::call("the first connection"))?;
        self.events.recv(&connection.socket, connection.token).map_err(StartError::Events)?;
        if let Some(listener) = self.process.listener() {
            self.listener_fd = Some(duplicate(listener.as_fd())?);
        }
        for source in source::SIGNALS..source::CLIENTS {
            self.watch(source)?;
        }
        let mut completions = Vec::new();
        loop {
            if let Some(outcome) = self.lifecycle.outcome() {
                return Ok(outcome);
            }
            self.events.wait(&mut completions).map_err(StartError::Events)?;
            for completion in completions.drain(..) {
                self.handle(completion)?;
            }
        }
    }

    /// Waits for what is to be heard of a source by its descriptor. There are sources without one.
    pub(super) fn watch(&mut self, source: u32) -> Result<(), StartError> {
        let fd = match source {
            source::SIGNALS => Some(&self.signals_fd),
            source::PROCESS => Some(&self.process_fd),
            source::VCPUS => Some(&self.vcpus_fd),
            source::LISTENER => self.listener_fd.as_ref(),
            source::LISTENERS.. => self.manage.listeners().nth((source - source::LISTENERS) as usize),
            _ => None,
        };
        fd.map_or(Ok(()), |fd| self.events.poll_readable(fd, token(source)).map_err(StartError::Events))
    }

    fn handle(&mut self, Completion { token, event }: Completion) -> Result<(), StartError> {
        if let Some((operation, errno)) = event.failure()
            && let Some(failure) = Failure::of(token.source, operation, errno)
        {
            return self.failed(token, failure);
        }
        match token.source {
            source::SIGNALS | source::PROCESS | source::VCPUS => self.look(token.source),
            source::DEADLINE | source::GRACE | source::LAST_WORDS => self.timed(token.source),
            source::LISTENER => self.call_refused(),
            source::LISTENERS.. => self.managed(token, event),
            _ => self.connection(token, event),
        }
    }

    /// Looks at signals, at the plugin's process or at the vCPU threads, of which there may be something to be heard, and
    /// waits for more.
    fn look(&mut self, source: u32) -> Result<(), StartError> {
        match source {
            source::SIGNALS => {
                while let Ok(Some(signal)) = self.signals.read() {
                    self.step(Input::Signal(signal.signum))?;
                }
            }
            source::PROCESS => {
                if let Some(status) = self.process.try_wait().map_err(StartError::call("waitid"))? {
                    // The plugin hears of a guest's end at the same time as this thread, and may be faster: what the vCPUs
                    // ended with comes first.
                    self.stop_vcpus()?;
                    self.ended = Some(status);
                    self.arm(source::LAST_WORDS, LAST_WORDS)?;
                    return self.no_more_words(self.connections.is_empty());
                }
            }
            _ => {
                let ended = self.host.vcpus.take_ended();
                self.vcpus_ended(ended)?;
            }
        }
        self.watch(source)
    }

    /// The plugin's filter has stopped a call, or there is nobody left who has the filter.
    fn call_refused(&mut self) -> Result<(), StartError> {
        let Some(listener) = self.process.listener() else { return Ok(()) };
        match filter::hear(listener).map_err(StartError::call("reading the listener of the seccomp filter"))? {
            Some(refused) => self.step(Input::Forbidden(refused.to_string())),
            None => Ok(()),
        }
    }

    fn stop_vcpus(&mut self) -> Result<(), StartError> {
        let ended = self.host.vcpus.stop();
        self.vcpus_ended(ended)
    }

    fn vcpus_ended(&mut self, ended: Vec<Ended>) -> Result<(), StartError> {
        ended.into_iter().try_for_each(|ended| self.vcpu_ended(ended))
    }

    fn vcpu_ended(&mut self, ended: Ended) -> Result<(), StartError> {
        let said = ended.to_string();
        match ended {
            Ended::Stopped => Ok(()),
            Ended::GuestShutdown(_) => self.step(Input::GuestShutDown(said)),
            // A plugin that tidies up takes the memory away while the guest still runs. What the guest meets then is the
            // plugin's doing, and its own status says whether all is well.
            Ended::GuestFailed(_) if self.host.memory_taken => self.step(Input::GuestShutDown(said)),
            Ended::GuestFailed(_) | Ended::NoMemory { .. } => self.step(Input::GuestUnserved(said)),
            Ended::Violation { .. } => self.step(Input::Violation(said)),
            Ended::Run { .. } | Ended::Unconfined { .. } => self.step(Input::HostFailure(said)),
        }
    }

    pub(super) fn step(&mut self, input: Input) -> Result<(), StartError> {
        log::debug!("{:?}: {input:?}", self.lifecycle.state());
        for action in self.lifecycle.step(input) {
            match action {
                Action::SignalShutdownEvent => {
                    self.host.shutdown.signal().map_err(StartError::call("signalling the shutdown event"))?;
                }
                Action::StopVcpus => self.stop_vcpus()?,
                Action::ArmDeadline => self.arm(source::DEADLINE, Duration::from_millis(SHUTDOWN_DEADLINE_MS))?,
                Action::Kill => self.process.kill().map_err(StartError::call("killing the plugin"))?,
                Action::Finish => {}
            }
        }
        Ok(())
    }

    /// Does what is to be done about a failed operation.
    fn failed(&mut self, token: Token, failure: Failure) -> Result<(), StartError> {
        match failure {
            Failure::ReadOn => self.replied(token),
            Failure::Disconnect => self.disconnected(token),
            Failure::Lost(said) => {
                self.step(Input::HostFailure(said))?;
                self.disconnected(token)
            }
            Failure::Watch(said) => {
                self.admit(said)?;
                match token.source {
                    // A wait that always fails must not keep the end from being seen.
                    source::SIGNALS | source::PROCESS | source::VCPUS => self.look(token.source),
                    _ => self.watch(token.source),
                }
            }
            Failure::Timer(said) => {
                self.admit(said)?;
                self.go_on_timing(token.source)
            }
        }
    }

    /// A failure of the VMM, where there is something to be said of it.
    fn admit(&mut self, said: Option<String>) -> Result<(), StartError> {
        said.map_or(Ok(()), |said| self.step(Input::HostFailure(said)))
    }

    /// Comes back with this source when the time is up.
    fn arm(&mut self, source: u32, after: Duration) -> Result<(), StartError> {
        self.timers.arm(source, Instant::now() + after);
        self.events.timer(after, token(source)).map_err(StartError::Events)
    }

    /// The time of a timer is up.
    fn timed(&mut self, source: u32) -> Result<(), StartError> {
        match source {
            source::DEADLINE => self.step(Input::DeadlinePassed),
            source::GRACE => self.grace_passed(),
            _ => self.no_more_words(true),
        }
    }

    /// A timer ended too early: the rest of its time follows. A timer that fails again and again ends with its time.
    fn go_on_timing(&mut self, source: u32) -> Result<(), StartError> {
        let rest = self.timers.rest(source, Instant::now());
        if rest.is_zero() {
            return self.timed(source);
        }
        self.events.timer(rest, token(source)).map_err(StartError::Events)
    }

    pub(super) fn disconnected(&mut self, token: Token) -> Result<(), StartError> {
        self.connections.remove(token);
        let alive = matches!(self.lifecycle.state(), State::Starting | State::Running);
        if self.connections.is_empty() && alive {
            self.arm(source::GRACE, GRACE)?;
        }
        self.no_more_words(self.connections.is_empty())
    }

    /// Concludes a run whose plugin has ended, once all is read that it sent: a plugin that breaks the protocol and exits in
    /// the same moment broke the protocol.
    fn no_more_words(&mut self, all_read: bool) -> Result<(), StartError> {
        match self.ended {
            Some(status) if all_read => self.step(Input::ProcessEnded(status)),
            _ => Ok(()),
        }
    }

    /// The last connection has been closed for a while, and the plugin still lives.
    fn grace_passed(&mut self) -> Result<(), StartError> {
        if self.host.vcpus.started() {
            log::info!("the plugin closed its last connection; the VM goes on");
            return Ok(());
        }
        self.step(Input::ConnectionClosed)
    }
}
