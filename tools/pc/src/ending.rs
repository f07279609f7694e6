//! How the machine ends or begins anew: whoever finds a reason says so here, and the main thread acts on the first.
//!
//! A reset goes through four steps, so that no vCPU runs on before it: a device asks for it and its vCPU holds where it is;
//! the main thread has all vCPUs paused; they arrive, and the main thread resets the devices; they set their registers and
//! begin anew.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why the machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset by this device, of a machine that does not begin anew.
    Reset(&'static str),
    /// The guest printed what was waited for.
    Printed,
    /// The time is over, in seconds.
    Timeout(u64),
    /// The user left by the escape key.
    Left,
    /// The VMM ends the VM.
    Shutdown,
    /// Something failed: a sentence.
    Failed(String),
}

/// Exit status when something failed here.
pub const FAILED: u8 = 1;
/// Exit status when the time is over, that of timeout(1).
pub const TIMED_OUT: u8 = 124;

impl End {
    /// The exit status that goes with it. That of debug-exit is `(value << 1) | 1` as with other machines that have the
    /// device, in the 8 bits that a status has.
    pub fn status(&self) -> u8 {
        match self {
            End::DebugExit(value) => (value << 1) as u8 | 1,
            End::PowerOff | End::Reset(_) | End::Printed | End::Left | End::Shutdown => 0,
            End::Timeout(_) => TIMED_OUT,
            End::Failed(_) => FAILED,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::DebugExit(value) => write!(out, "the guest wrote {value:#x} to the debug-exit port"),
            End::PowerOff => out.write_str("the guest switched the machine off"),
            End::Reset(device) => write!(out, "the guest reset the machine by the {device}"),
            End::Printed => out.write_str("the guest printed what was waited for"),
            End::Timeout(seconds) => write!(out, "the machine did not end within {seconds} seconds"),
            End::Left => out.write_str("left by the escape key"),
            End::Shutdown => out.write_str("the VM was shut down"),
            End::Failed(why) => out.write_str(why),
        }
    }
}

/// What the main thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The machine ends.
    End(End),
    /// It shall be reset, says this device.
    Reset(&'static str),
}

/// How far a reset is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// There is none.
    #[default]
    Running,
    /// A device asked for it.
    Wanted(&'static str),
    /// The vCPUs are being paused.
    Pausing,
}

#[derive(Debug, Default)]
struct Progress {
    end: Option<End>,
    step: Step,
    /// vCPUs that have paused for this reset.
    arrived: u32,
    /// Resets so far.
    resets: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The guest shall not run on behind its access: the machine ends, or a reset is wanted.
    holds: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// A reset is the end.
    no_reboot: bool,
}

/// Tells of the end and of resets; clones tell of the same ones.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<State>);

impl Ending {
    /// One of a machine that a reset ends, if `no_reboot` says so.
    pub fn new(no_reboot: bool) -> Ending {
        Ending(Arc::new(State { no_reboot, ..State::default() }))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_on<'a>(&'a self, progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        self.0.changed.wait(progress).unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the machine, unless it ends already for another reason.
    pub fn end(&self, end: End) {
        self.progress().end.get_or_insert(end);
        self.0.holds.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Resets the machine, or ends it if that is what a reset does. One that is under way already is the same one.
    pub fn reset(&self, device: &'static str) {
        if self.0.no_reboot {
            return self.end(End::Reset(device));
        }
        let mut progress = self.progress();
        if progress.step == Step::Running {
            progress.step = Step::Wanted(device);
            self.0.holds.store(true, Ordering::Release);
            self.0.changed.notify_all();
        }
    }

    /// True once the machine ends.
    pub fn ended(&self) -> bool {
        self.0.holds.load(Ordering::Acquire) && self.progress().end.is_some()
    }

    /// The end, if it has come.
    pub fn reason(&self) -> Option<End> {
        self.progress().end.clone()
    }

    /// Waits for the end or a reset, until `deadline` at most.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<Next> {
        let mut progress = self.progress();
        loop {
            if let Some(end) = &progress.end {
                return Some(Next::End(end.clone()));
            }
            if let Step::Wanted(device) = progress.step {
                return Some(Next::Reset(device));
            }
            progress = match deadline {
                None => self.wait_on(progress),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.0.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Waits for the end alone, at most this long.
    pub fn ends_within(&self, time: Duration) -> bool {
        let progress = self.progress();
        let goes_on = |progress: &mut Progress| progress.end.is_none();
        let waited = self.0.changed.wait_timeout_while(progress, time, goes_on);
        waited.unwrap_or_else(PoisonError::into_inner).0.end.is_some()
    }

    /// Keeps a vCPU where it is, behind a write that resets or switches off and has nothing behind it: for ever if the
    /// machine ends, and until it is being paused if it is reset.
    #[inline]
    pub fn hold(&self) {
        if self.0.holds.load(Ordering::Acquire) {
            self.hold_now();
        }
    }

    #[cold]
    fn hold_now(&self) {
        let mut progress = self.progress();
        while progress.end.is_some() || matches!(progress.step, Step::Wanted(_)) {
            progress = self.wait_on(progress);
        }
    }

    /// All vCPUs are being paused: those that hold go on to that.
    pub fn pausing(&self) {
        let mut progress = self.progress();
        progress.step = Step::Pausing;
        self.0.holds.store(progress.end.is_some(), Ordering::Release);
        self.0.changed.notify_all();
    }

    /// A vCPU has paused for the reset: waits until the devices are reset. It does not come back if the machine ends.
    pub fn arrive(&self) {
        let mut progress = self.progress();
        progress.arrived += 1;
        let resets = progress.resets;
        self.0.changed.notify_all();
        while progress.resets == resets {
            progress = self.wait_on(progress);
        }
    }

    /// Waits until so many vCPUs have arrived; false if the machine ends before.
    pub fn all_arrived(&self, vcpus: u32) -> bool {
        let mut progress = self.progress();
        while progress.arrived < vcpus && progress.end.is_none() {
            progress = self.wait_on(progress);
        }
        progress.end.is_none()
    }

    /// The devices are reset: the vCPUs begin anew.
    pub fn begin_anew(&self) {
        let mut progress = self.progress();
        *progress = Progress { end: progress.end.take(), resets: progress.resets + 1, ..Progress::default() };
        self.0.changed.notify_all();
    }

    /// A reset is wanted that has not begun.
    #[cfg(test)]
    pub fn resets(&self) -> bool {
        matches!(self.progress().step, Step::Wanted(_))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let ending = Ending::default();
        assert_eq!(ending.wait(Some(Instant::now())), None);
        assert!(!ending.ended() && !ending.ends_within(Duration::ZERO));
        ending.clone().end(End::DebugExit(16));
        ending.end(End::PowerOff);
        assert!(ending.ended() && ending.ends_within(Duration::ZERO));
        assert_eq!(ending.wait(None), Some(Next::End(End::DebugExit(16))));
    }

    #[test]
    fn a_reset_is_the_end_where_nothing_shall_begin_anew() {
        let ending = Ending::new(true);
        ending.reset("button");
        assert_eq!(ending.reason(), Some(End::Reset("button")));
    }

    #[test]
    fn vcpus_begin_anew_when_all_have_come_and_the_devices_are_reset() {
        let (ending, reset, before) =
            (Ending::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        ending.reset("button");
        ending.reset("other button");
        assert_eq!(ending.wait(None), Some(Next::Reset("button")));
        let vcpu = |asks: bool| {
            let (ending, reset, before) = (ending.clone(), Arc::clone(&reset), Arc::clone(&before));
            std::thread::spawn(move || {
                if asks {
                    ending.hold();
                }
                before.fetch_add(1, Ordering::SeqCst);
                ending.arrive();
                assert!(reset.load(Ordering::SeqCst));
            })
        };
        let vcpus = [vcpu(true), vcpu(false)];
        ending.pausing();
        assert!(ending.all_arrived(2));
        assert_eq!(before.load(Ordering::SeqCst), 2);
        reset.store(true, Ordering::SeqCst);
        ending.begin_anew();
        vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
        assert_eq!((ending.wait(Some(Instant::now())), ending.ended()), (None, false));
        ending.hold();
        ending.reset("button");
        assert!(ending.resets(), "another time");
        ending.end(End::Left);
        assert!(!ending.all_arrived(2));
    }

    #[test]
    fn statuses() {
        assert_eq!(End::DebugExit(0).status(), 1);
        assert_eq!(End::DebugExit(0x10).status(), 33);
        assert_eq!(End::DebugExit(0xffff_ffff).status(), 0xff);
        assert_eq!(End::Timeout(3).status(), 124);
        assert_eq!(End::PowerOff.status(), 0);
    }
}
