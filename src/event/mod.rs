//! The completion loop of the control path: sockets, pollable descriptors and timers in one io_uring.
//!
//! Single-threaded and owned by the thread that made it. Every operation that was started ends in exactly one
//! [`Completion`], with the [`Token`] it was started with, also when it is cancelled. What is in flight belongs to the
//! loop: a caller may forget a connection at any time, and tells a late completion by the token's generation.
//!
//! A turn of a request-reply conversation is [`EventLoop::send_then_recv`] and [`EventLoop::wait`]: one
//! `io_uring_enter(2)` sends the reply, arms the next receive and waits for it.

mod error;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::sys::errno::Errno;
pub use crate::sys::message::{Message, MessageError};
use crate::sys::uring::{Finished, Op, Ring};
pub use error::EventError;

/// What an operation belongs to, in the caller's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Who: say, the index of a connection.
    pub source: u32,
    /// Which holder of that index, so that a completion of a closed connection is not taken for its successor's.
    pub generation: u32,
}

/// Sizes of an [`EventLoop`], fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message, in bytes; a longer one is received truncated, and not sent.
    pub max_frame: usize,
    /// The most descriptors in one message; at most 253 (`SCM_MAX_FD`).
    pub max_fds: usize,
    /// Operations in flight at a time, 1 to 4096.
    pub in_flight: u32,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// The token it was started with.
    pub token: Token,
    /// What happened.
    pub event: Event,
}

/// What an operation came to.
#[derive(Debug)]
pub enum Event {
    /// A message has arrived. [`EventLoop::recycle`] takes it back for the next one.
    Received(Message),
    /// The peer has closed its end. (An empty message looks the same, and is none of ours; its descriptors are closed.)
    Closed,
    /// The message of [`EventLoop::send`] has been sent. A [`send_then_recv`](EventLoop::send_then_recv) does not say so.
    Sent,
    /// The descriptor is readable, hung up or in error.
    Readable,
    /// The time is up.
    Elapsed,
    /// The operation was cancelled.
    Cancelled(Operation),
    /// The operation failed.
    Failed {
        /// Which: for a [`send_then_recv`](EventLoop::send_then_recv) the half that failed, and if it was the send then
        /// nothing was received.
        operation: Operation,
        /// Why.
        errno: Errno,
    },
}

impl Event {
    /// Which operation ended without having done what it is for, and why. [`Event::Cancelled`] is `ECANCELED`.
    pub fn failure(&self) -> Option<(Operation, Errno)> {
        match self {
            Event::Failed { operation, errno } => Some((*operation, *errno)),
            Event::Cancelled(operation) => Some((*operation, Errno(libc::ECANCELED))),
            _ => None,
        }
    }
}

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A receive, alone or after a send.
    Recv,
    /// A send, alone or before a receive.
    Send,
    /// A wait for readability.
    Readable,
    /// A timer.
    Timer,
}

/// The loop. Dropping it cancels what is in flight and waits for that to end.
pub struct EventLoop {
    ring: Ring<Token>,
    pool: Pool,
}

/// Messages for reuse.
struct Pool {
    limits: Limits,
    spare: Vec<Message>,
}

impl EventLoop {
    /// Makes a loop for the calling thread.
    ///
    /// # Errors
    /// [`EventError::Refused`] or [`EventError::TooOld`] if this host gives us no io_uring: one sentence that says
    /// what to do about it.
    pub fn new(limits: Limits) -> Result<EventLoop, EventError> {
        let ring = Ring::new(limits.in_flight).map_err(EventError::from_setup)?;
        Ok(EventLoop { ring, pool: Pool { limits, spare: Vec::new() } })
    }

    /// Receives one message from a `SOCK_SEQPACKET` socket. Ends in [`Event::Received`] or [`Event::Closed`].
    ///
    /// # Errors
    /// [`EventError::Full`], [`EventError::Enter`].
    pub fn recv(&mut self, fd: &Arc<OwnedFd>, token: Token) -> Result<(), EventError> {
        let into = self.pool.take();
        self.start(Op::Recv { fd: Arc::clone(fd), into }, token)
    }

    /// Sends one message with descriptors, which are closed after that. Ends in [`Event::Sent`].
    ///
    /// # Errors
    /// [`EventError::Message`] if it exceeds the limits, [`EventError::Full`], [`EventError::Enter`].
    pub fn send(&mut self, fd: &Arc<OwnedFd>, bytes: &[u8], fds: Vec<OwnedFd>, token: Token) -> Result<(), EventError> {
        let message = self.pool.filled(bytes, fds)?;
        self.start(Op::Send { fd: Arc::clone(fd), message }, token)
    }

    /// Sends one message and then receives the next one: a reply, and the wait for the next request. One operation
    /// with one completion, [`Event::Received`] or [`Event::Closed`]; if the send fails it is that failure.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_then_recv(
        &mut self,
        fd: &Arc<OwnedFd>,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        token: Token,
    ) -> Result<(), EventError> {
        let message = self.pool.filled(bytes, fds)?;
        let into = self.pool.take();
        self.start(Op::SendThenRecv { fd: Arc::clone(fd), message, into }, token)
    }

    /// Waits once for a descriptor (a signalfd, a pidfd, an eventfd) to become readable. Ends in [`Event::Readable`].
    ///
    /// # Errors
    /// [`EventError::Full`], [`EventError::Enter`].
    pub fn poll_readable(&mut self, fd: &Arc<OwnedFd>, token: Token) -> Result<(), EventError> {
        self.start(Op::Readable { fd: Arc::clone(fd) }, token)
    }

    /// Waits once for `after` to pass on the monotonic clock. Ends in [`Event::Elapsed`]. The time runs from the next
    /// [`wait`](Self::wait).
    ///
    /// # Errors
    /// [`EventError::Full`], [`EventError::Enter`].
    pub fn timer(&mut self, after: Duration, token: Token) -> Result<(), EventError> {
        self.start(Op::Timer { after }, token)
    }

    /// Asks for the end of all operations with this token; returns how many these are. Each ends in
    /// [`Event::Cancelled`], or as it would have if that came first. A descriptor that was passed to them stays
    /// open until then.
    ///
    /// # Errors
    /// [`EventError::Enter`].
    pub fn cancel(&mut self, token: Token) -> Result<usize, EventError> {
        self.ring.cancel(|other| *other == token).map_err(EventError::Enter)
    }

    /// Starts what is queued, waits for at least one completion, and appends all there are to `out`.
    ///
    /// # Errors
    /// [`EventError::Idle`] if nothing is in flight, [`EventError::Enter`].
    pub fn wait(&mut self, out: &mut Vec<Completion>) -> Result<(), EventError> {
        let ended = self.ring.wait(|finished| out.push(completion(finished, &mut self.pool)));
        match ended.map_err(EventError::Enter)? {
            0 => Err(EventError::Idle),
            _ => Ok(()),
        }
    }

    /// Gives a received message back for reuse; descriptors still in it are closed.
    pub fn recycle(&mut self, message: Message) {
        self.pool.give(message);
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    fn start(&mut self, op: Op, token: Token) -> Result<(), EventError> {
        self.ring.start(op, token).map_err(|error| EventError::from_start(error, self.pool.limits.in_flight))
    }
}

impl Pool {
    fn take(&mut self) -> Message {
        let Limits { max_frame, max_fds, .. } = self.limits;
        self.spare.pop().unwrap_or_else(|| Message::with_capacity(max_frame, max_fds))
    }

    fn filled(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Message, EventError> {
        let mut message = self.take();
        match message.set(bytes, fds) {
            Ok(()) => Ok(message),
            Err(error) => {
                self.give(message);
                Err(EventError::Message(error))
            }
        }
    }

    /// Keeps no more than can be in use at once; the rest is freed.
    fn give(&mut self, mut message: Message) {
        message.clear();
        if self.spare.len() < self.limits.in_flight as usize {
            self.spare.push(message);
        }
    }
}

/// Translates the end of an operation, and keeps the messages that the caller does not get.
fn completion(finished: Finished<Token>, pool: &mut Pool) -> Completion {
    let Finished { tag: token, op, result, first_half } = finished;
    let event = match op {
        Op::Recv { into, .. } => received(result, into, pool),
        Op::Send { message, .. } => {
            pool.give(message);
            result.map_or_else(|errno| failed(Operation::Send, errno), |_| Event::Sent)
        }
        Op::SendThenRecv { message, into, .. } => {
            pool.give(message);
            match result {
                Err(errno) if first_half => {
                    pool.give(into);
                    failed(Operation::Send, errno)
                }
                result => received(result, into, pool),
            }
        }
        Op::Readable { .. } => result.map_or_else(|errno| failed(Operation::Readable, errno), |_| Event::Readable),
        Op::Timer { .. } => match result {
            Ok(_) | Err(Errno(libc::ETIME)) => Event::Elapsed,
            Err(errno) => failed(Operation::Timer, errno),
        },
    };
    Completion { token, event }
}

fn received(result: Result<u32, Errno>, into: Message, pool: &mut Pool) -> Event {
    match result {
        Ok(1..) => Event::Received(into),
        Ok(0) => {
            pool.give(into);
            Event::Closed
        }
        Err(errno) => {
            pool.give(into);
            failed(Operation::Recv, errno)
        }
    }
}

fn failed(operation: Operation, errno: Errno) -> Event {
    if errno == Errno(libc::ECANCELED) { Event::Cancelled(operation) } else { Event::Failed { operation, errno } }
}
