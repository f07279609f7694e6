//! How the machine ends: whoever finds a reason says so here, and the main thread acts on the first.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why the machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset by this device.
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

#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    end: Mutex<Option<End>>,
    changed: Condvar,
}

/// Tells of the end; clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<State>);

impl Ending {
    /// Ends the machine, unless it ends already for another reason.
    pub fn end(&self, end: End) {
        let mut place = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert(end);
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// True once the machine ends: no guest code shall run any more.
    #[inline]
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    /// Waits for the end, at most this long.
    pub fn wait(&self, timeout: Option<Duration>) -> Option<End> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut place = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = &*place {
                return Some(end.clone());
            }
            place = match deadline {
                None => self.0.changed.wait(place).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.0.changed.wait_timeout(place, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let ending = Ending::default();
        assert_eq!(ending.wait(Some(Duration::ZERO)), None);
        assert!(!ending.ended());
        ending.clone().end(End::DebugExit(16));
        ending.end(End::PowerOff);
        assert!(ending.ended());
        assert_eq!(ending.wait(None), Some(End::DebugExit(16)));
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
