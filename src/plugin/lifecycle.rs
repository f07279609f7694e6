//! The life of the plugin process as a state machine: pure, so that every order of events can be tested.
//!
//! The caller feeds it what happens and does what it says. The first thing that ends the run is kept as its cause, and
//! with the end of the process it makes the [`Outcome`]: the VMM's exit status and one sentence.

use std::fmt;

use crate::sys::process::ExitStatus;

/// How long a plugin may take to end after the shutdown event, in milliseconds.
pub const SHUTDOWN_DEADLINE_MS: u64 = 1000;

/// The VMM's own exit statuses. The plugin's takes their place when it ended by itself and nothing was wrong.
pub mod status {
    /// The plugin died of a signal, outstayed its second, or made a system call that its filter does not allow.
    pub const PLUGIN_FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 35;
    /// The VMM itself failed: a system call that should not fail did (`EX_SOFTWARE` of `sysexits.h`).
    pub const INTERNAL: u8 = 70;
    /// The host lacks something: `/dev/kvm`, a permission, io_uring.
    pub const HOST: u8 = 71;
    /// The plugin broke the protocol.
    pub const PROTOCOL: u8 = 73;
    /// The guest ended in an exit that nobody serves.
    pub const GUEST: u8 = 74;
    /// Added to the signal that ended the run, as shells do.
    pub const SIGNAL_BASE: u8 = 128;
}

/// Where the plugin process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Spawned, not connected yet.
    Starting,
    /// Connected.
    Running,
    /// The shutdown event has been signalled and the deadline runs.
    ShuttingDown,
    /// `SIGKILL` has been sent.
    Killed,
    /// The process has ended.
    Gone(ExitStatus),
}

/// What ends a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The plugin ended by itself.
    PluginEnded,
    /// The plugin has closed its last connection.
    Disconnected,
    /// The guest has shut down or reset: a triple fault, a system event.
    GuestShutDown(String),
    /// The guest ended in an exit that nobody serves.
    GuestUnserved(String),
    /// `SIGINT`, `SIGTERM` or `SIGHUP` for the VMM.
    Signal(i32),
    /// The plugin broke the protocol.
    Violation(String),
    /// The plugin made a system call that its filter does not allow.
    Forbidden(String),
    /// A system call of the VMM failed that should not.
    HostFailure(String),
}

impl Cause {
    /// Whether nothing is wrong yet: a fault that comes to light after such an end takes its place.
    fn is_clean(&self) -> bool {
        matches!(self, Cause::PluginEnded | Cause::Disconnected | Cause::GuestShutDown(_))
    }
}

/// What happens to the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The plugin has made its connection.
    Connected,
    /// The process has ended and was reaped.
    ProcessEnded(ExitStatus),
    /// `SIGINT`, `SIGTERM` or `SIGHUP`, by number.
    Signal(i32),
    /// The guest has shut down in an orderly way; how, in words.
    GuestShutDown(String),
    /// The guest ended in an exit that nobody serves; which, in words.
    GuestUnserved(String),
    /// The plugin broke the protocol; how, in words.
    Violation(String),
    /// The plugin made a system call that its filter does not allow; which, in words.
    Forbidden(String),
    /// The plugin speaks another version of the protocol; which, in words. It is given time to say so, too.
    Mismatch(String),
    /// The VMM failed; at what, in words.
    HostFailure(String),
    /// The timer of [`Action::ArmDeadline`] has run out.
    DeadlinePassed,
    /// The plugin's last connection is closed while its process lives.
    ConnectionClosed,
}

/// What the caller has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Signal the plugin's shutdown event.
    SignalShutdownEvent,
    /// Stop all vCPUs for good, and wake whoever waits for one.
    StopVcpus,
    /// Come back with [`Input::DeadlinePassed`] after [`SHUTDOWN_DEADLINE_MS`].
    ArmDeadline,
    /// Send `SIGKILL` to the plugin.
    Kill,
    /// The process is gone: leave the event loop.
    Finish,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    state: State,
    cause: Option<Cause>,
    /// Signals received: the second one kills.
    signals: u32,
    outstayed: bool,
    stopped: bool,
}

impl Default for Lifecycle {
    fn default() -> Lifecycle {
        Lifecycle::new()
    }
}

impl Lifecycle {
    /// The life of a process that has just been spawned.
    pub fn new() -> Lifecycle {
        Lifecycle { state: State::Starting, cause: None, signals: 0, outstayed: false, stopped: false }
    }

    /// Where the process stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in what has happened and says what to do.
    pub fn step(&mut self, input: Input) -> Vec<Action> {
        if matches!(self.state, State::Gone(_)) {
            return Vec::new();
        }
        match input {
            Input::Connected => {
                if self.state == State::Starting {
                    self.state = State::Running;
                }
                Vec::new()
            }
            Input::ProcessEnded(status) => self.end(status),
            Input::Signal(signo) => {
                self.signals += 1;
                if self.signals > 1 { self.kill(Cause::Signal(signo)) } else { self.shut_down(Cause::Signal(signo)) }
            }
            Input::GuestShutDown(reason) => self.shut_down(Cause::GuestShutDown(reason)),
            Input::GuestUnserved(reason) => self.shut_down(Cause::GuestUnserved(reason)),
            Input::HostFailure(reason) => self.shut_down(Cause::HostFailure(reason)),
            Input::ConnectionClosed => self.shut_down(Cause::Disconnected),
            Input::Mismatch(reason) => self.shut_down(Cause::Violation(reason)),
            Input::Violation(reason) => self.kill(Cause::Violation(reason)),
            Input::Forbidden(reason) => self.kill(Cause::Forbidden(reason)),
            Input::DeadlinePassed => {
                if self.state != State::ShuttingDown {
                    return Vec::new();
                }
                self.outstayed = true;
                self.state = State::Killed;
                vec![Action::Kill]
            }
        }
    }

    /// Why the run ended and how the plugin did, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        let State::Gone(status) = self.state else { return None };
        Some(Outcome { cause: self.cause.clone()?, status, outstayed: self.outstayed })
    }

    /// Asks the plugin to end, unless that has been done.
    fn shut_down(&mut self, cause: Cause) -> Vec<Action> {
        self.note(cause);
        if !matches!(self.state, State::Starting | State::Running) {
            return Vec::new();
        }
        self.state = State::ShuttingDown;
        let mut actions = self.stop();
        actions.extend([Action::SignalShutdownEvent, Action::ArmDeadline]);
        actions
    }

    /// Ends the plugin, unless that has been done.
    fn kill(&mut self, cause: Cause) -> Vec<Action> {
        self.note(cause);
        if self.state == State::Killed {
            return Vec::new();
        }
        self.state = State::Killed;
        let mut actions = self.stop();
        actions.push(Action::Kill);
        actions
    }

    fn end(&mut self, status: ExitStatus) -> Vec<Action> {
        self.note(Cause::PluginEnded);
        self.state = State::Gone(status);
        let mut actions = self.stop();
        actions.push(Action::Finish);
        actions
    }

    fn stop(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.stopped, true) { Vec::new() } else { vec![Action::StopVcpus] }
    }

    /// Keeps the first cause; a fault takes the place of an end at which nothing was wrong.
    fn note(&mut self, cause: Cause) {
        let fault = matches!(
            cause,
            Cause::Violation(_) | Cause::Forbidden(_) | Cause::HostFailure(_) | Cause::GuestUnserved(_)
        );
        match &self.cause {
            None => self.cause = Some(cause),
            Some(first) if first.is_clean() && fault => self.cause = Some(cause),
            Some(_) => {}
        }
    }
}

/// How a run ended. It displays as one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What ended it first.
    pub cause: Cause,
    /// How the plugin process ended.
    pub status: ExitStatus,
    /// Whether the plugin had to be killed because its deadline passed.
    pub outstayed: bool,
}

impl Outcome {
    /// The VMM's exit status ([`status`]).
    pub fn exit_status(&self) -> u8 {
        match &self.cause {
            Cause::HostFailure(_) => status::INTERNAL,
            Cause::Violation(_) => status::PROTOCOL,
            Cause::Forbidden(_) => status::PLUGIN_FAILED,
            Cause::GuestUnserved(_) => status::GUEST,
            Cause::Signal(_) if self.status == ExitStatus::Exited(0) && !self.outstayed => 0,
            Cause::Signal(signo) => status::SIGNAL_BASE.saturating_add(u8::try_from(*signo).unwrap_or(u8::MAX)),
            Cause::PluginEnded | Cause::Disconnected | Cause::GuestShutDown(_) => self.plugin_status(),
        }
    }

    /// True if the plugin ended by itself, with a status of its own.
    pub fn is_plugins_own(&self) -> bool {
        let exited = matches!(self.status, ExitStatus::Exited(_)) && !self.outstayed;
        exited && matches!(self.cause, Cause::PluginEnded | Cause::Disconnected | Cause::GuestShutDown(_))
    }

    fn plugin_status(&self) -> u8 {
        match self.status {
            ExitStatus::Exited(status) if !self.outstayed => status,
            _ => status::PLUGIN_FAILED,
        }
    }

    /// How the plugin ended, as the rest of a sentence about it.
    fn plugin_end(&self) -> String {
        match self.status {
            _ if self.outstayed => "did not end within a second of the shutdown event and was killed".to_string(),
            ExitStatus::Exited(status) => format!("ended with status {status}"),
            ExitStatus::Signaled { signo: libc::SIGSYS, .. } => {
                "was ended by signal 31: it made a system call that its seccomp policy does not allow".to_string()
            }
            ExitStatus::Signaled { signo, core: false } => format!("was ended by signal {signo}"),
            ExitStatus::Signaled { signo, core: true } => format!("was ended by signal {signo} and dumped core"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.plugin_end();
        match &self.cause {
            Cause::PluginEnded => write!(f, "the plugin {end}"),
            Cause::Disconnected => write!(f, "the plugin closed its last connection and {end}"),
            Cause::GuestShutDown(reason) => write!(f, "the guest shut down ({reason}); the plugin {end}"),
            Cause::GuestUnserved(reason) => write!(f, "the guest ended in an exit that nobody serves: {reason}"),
            Cause::Signal(signo) => write!(f, "ended by {}; the plugin {end}", signal_name(*signo)),
            Cause::Violation(reason) => write!(f, "the plugin broke the protocol: {reason}"),
            Cause::Forbidden(reason) => write!(f, "the plugin was killed: it {reason}"),
            Cause::HostFailure(reason) => write!(f, "the VMM failed: {reason}"),
        }
    }
}

fn signal_name(signo: i32) -> String {
    match signo {
        libc::SIGINT => "SIGINT".to_string(),
        libc::SIGTERM => "SIGTERM".to_string(),
        libc::SIGHUP => "SIGHUP".to_string(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
