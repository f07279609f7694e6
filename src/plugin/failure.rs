//! Operations of the event loop that fail, and timers that end before their time: whose failure it is.
//!
//! What a peer did ends its connection at most. What only a signal did is begun again. Anything else is a failure of the
//! VMM, which ends the run in order and says so; what its end still needs is begun again too.

use std::time::{Duration, Instant};

use super::source;
use crate::event::Operation;
use crate::sys::Errno;

/// An operation that failed, and what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The plugin does not listen any more, which does not mean that it has said nothing; or a signal came first.
    ReadOn,
    /// The connection is of no use any more, by what the plugin did with its connections.
    Disconnect,
    /// The VMM lost a request or a reply: the one that waits for it must not wait for ever.
    Lost(String),
    /// A wait by a descriptor has ended with nothing to be heard: without a sentence if a signal came first.
    Watch(Option<String>),
    /// A timer has ended before its time: likewise.
    Timer(Option<String>),
}

impl Failure {
    /// Judges a failure by its source. None for a client of the management sockets, which is dropped.
    pub(super) fn of(source: u32, operation: Operation, errno: Errno) -> Option<Failure> {
        let said = |what: &str| format!("{what} failed: {errno}");
        let unless_interrupted = |what: &str| (errno != Errno::EINTR).then(|| said(what));
        Some(match (source, operation, errno.0) {
            (source::CLIENTS.., ..) => return None,
            (source::SIGNALS, ..) => Failure::Watch(unless_interrupted("the wait for signals")),
            (source::PROCESS, ..) => Failure::Watch(unless_interrupted("the wait for the plugin's end")),
            (source::VCPUS, ..) => Failure::Watch(unless_interrupted("the wait for the vCPU threads")),
            (source::LISTENER, ..) => Failure::Watch(unless_interrupted("the wait for refused system calls")),
            (source::LISTENERS.., ..) => Failure::Watch(unless_interrupted("the wait for management clients")),
            (source::DEADLINE, ..) => Failure::Timer(unless_interrupted("the timer of the plugin's last second")),
            (source::GRACE | source::LAST_WORDS, ..) => {
                Failure::Timer(unless_interrupted("the timer of the plugin's end"))
            }
            // ECONNRESET comes once, ahead of what the plugin said, if it left something unread.
            (_, Operation::Send, libc::EPIPE | libc::ECONNRESET)
            | (_, Operation::Recv, libc::ECONNRESET | libc::EINTR) => Failure::ReadOn,
            // Too many descriptors are on their way to a plugin that does not take them.
            (_, Operation::Send, libc::ETOOMANYREFS) => Failure::Disconnect,
            (_, Operation::Send, _) => Failure::Lost(said("sending a reply to the plugin")),
            _ => Failure::Lost(said("receiving a request of the plugin")),
        })
    }
}

/// When the timers run out.
#[derive(Debug, Default)]
pub(super) struct Timers(Vec<(u32, Instant)>);

impl Timers {
    /// Notes a timer of this source.
    pub(super) fn arm(&mut self, source: u32, due: Instant) {
        self.0.retain(|(other, _)| *other != source);
        self.0.push((source, due));
    }

    /// What is left of the time of this source's timer.
    pub(super) fn rest(&self, source: u32, now: Instant) -> Duration {
        let due = self.0.iter().find(|(other, _)| *other == source);
        due.map_or(Duration::ZERO, |(_, due)| due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_and_a_signal_are_no_failures_of_the_vmm() {
        let of = |source, operation, errno| Failure::of(source, operation, Errno(errno));
        for (operation, errno) in [
            (Operation::Send, libc::EPIPE),
            (Operation::Send, libc::ECONNRESET),
            (Operation::Recv, libc::ECONNRESET),
            (Operation::Recv, libc::EINTR),
        ] {
            assert_eq!(of(0, operation, errno), Some(Failure::ReadOn), "{operation:?} {errno}");
        }
        assert_eq!(of(0, Operation::Send, libc::ETOOMANYREFS), Some(Failure::Disconnect));
        // A reply that was not sent cannot be sent again: what it held is gone.
        assert!(matches!(of(0, Operation::Send, libc::EINTR), Some(Failure::Lost(_))));
        assert_eq!(of(source::CLIENTS, Operation::Recv, libc::ENOMEM), None);
        for source in [source::SIGNALS, source::PROCESS, source::VCPUS, source::LISTENER, source::LISTENERS + 1] {
            assert_eq!(of(source, Operation::Readable, libc::EINTR), Some(Failure::Watch(None)));
            let failure = of(source, Operation::Readable, libc::ENOMEM);
            assert!(matches!(failure, Some(Failure::Watch(Some(said))) if said.contains("ENOMEM")));
        }
        for source in [source::DEADLINE, source::GRACE, source::LAST_WORDS] {
            assert_eq!(of(source, Operation::Timer, libc::EINTR), Some(Failure::Timer(None)));
            assert!(matches!(of(source, Operation::Timer, libc::ECANCELED), Some(Failure::Timer(Some(_)))));
        }
    }

    #[test]
    fn what_is_left_of_a_time_is_known() {
        let (mut timers, now, second) = (Timers::default(), Instant::now(), Duration::from_secs(1));
        timers.arm(1, now + second);
        timers.arm(2, now);
        assert_eq!(timers.rest(1, now), second);
        assert_eq!(timers.rest(1, now + second / 4), second * 3 / 4);
        assert_eq!((timers.rest(1, now + 2 * second), timers.rest(2, now)), (Duration::ZERO, Duration::ZERO));
        timers.arm(1, now + 2 * second);
        assert_eq!(timers.rest(1, now), 2 * second);
    }
}
