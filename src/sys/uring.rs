//! An io_uring whose operations own their memory (`io_uring(7)`).
//!
//! A [`Ring`] takes each operation by value, keeps it where it is until the kernel has reported its end, and hands
//! it back with the result. So nothing that a caller drops early can pull memory or a descriptor from under an
//! operation in flight. There is exactly one completion per operation, also for one that is cancelled.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, opcode};

use super::errno::Errno;
use super::message::Message;

/// `user_data` of entries whose completion concerns nobody: the cancel requests themselves.
const NOBODY: u64 = u64::MAX;
/// Bit of `user_data` that is set for the second entry of a pair.
const SECOND: u64 = 1 << 63;
/// Generations use the 31 bits between the slot index and [`SECOND`].
const GENERATIONS: u32 = (1 << 31) - 1;
/// `IORING_RECVSEND_POLL_FIRST` (Linux 5.19): do not try to receive before the socket is ready.
const POLL_FIRST: u16 = 1;
/// Rounds that a drop spends on cancelling before it gives the memory up for good.
const DROP_ROUNDS: usize = 64;

/// An operation, with all that it needs.
#[derive(Debug)]
pub enum Op {
    /// `recvmsg(2)` with `MSG_CMSG_CLOEXEC`; result: bytes received.
    Recv {
        /// The socket.
        fd: Arc<OwnedFd>,
        /// Where the message goes.
        into: Message,
    },
    /// `sendmsg(2)` with `MSG_NOSIGNAL`; result: bytes sent.
    Send {
        /// The socket.
        fd: Arc<OwnedFd>,
        /// What is sent; its descriptors stay open until the completion.
        message: Message,
    },
    /// A send and, once that has succeeded, a receive on the same socket. The one completion is that of the
    /// receive, or that of the send if it failed: then nothing was received.
    SendThenRecv {
        /// The socket.
        fd: Arc<OwnedFd>,
        /// What is sent.
        message: Message,
        /// Where the next message goes.
        into: Message,
    },
    /// Waits once until the descriptor is readable, hung up or in error (`poll(2)`); result: the events.
    Readable {
        /// Anything that can be polled.
        fd: Arc<OwnedFd>,
    },
    /// Waits on the monotonic clock; the result is [`libc::ETIME`] when the time is up.
    Timer {
        /// How long.
        after: Duration,
    },
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Finished<T> {
    /// What the caller attached to the operation.
    pub tag: T,
    /// The operation, handed back with its buffers.
    pub op: Op,
    /// What the system call would have returned.
    pub result: Result<u32, Errno>,
    /// For [`Op::SendThenRecv`]: whether the result is that of the send.
    pub first_half: bool,
}

/// Why an operation was not started. The operation, its buffers and its descriptors are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// As many operations as the ring was made for are in flight.
    Full,
    /// `io_uring_enter(2)` failed.
    Enter(Errno),
}

/// Why there is no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// `io_uring_setup(2)` failed.
    Refused(Errno),
    /// The kernel lacks `IORING_FEAT_CQE_SKIP` (Linux 5.17).
    TooOld,
}

/// What the kernel reads and writes during one operation. It is allocated once per operation and, from the push
/// of its entry until its completion, reached through raw pointers only.
struct Flight {
    op: Op,
    send_header: libc::msghdr,
    send_vector: libc::iovec,
    recv_header: libc::msghdr,
    recv_vector: libc::iovec,
    time: Timespec,
}

struct Slot<T> {
    /// Counts the uses of the slot, so that a cancel meant for an earlier operation cannot hit a later one.
    generation: u32,
    busy: Option<Busy<T>>,
}

struct Busy<T> {
    tag: T,
    /// From `Box::leak`; owned by this slot until the completion.
    flight: NonNull<Flight>,
    /// Whether it consists of two linked entries.
    pair: bool,
    cancelled: bool,
}

/// An io_uring and the operations in flight in it. Each operation carries a tag of type `T`.
///
/// It belongs to the thread that made it (`IORING_SETUP_SINGLE_ISSUER`) and cannot be sent to another.
pub struct Ring<T> {
    ring: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// [`POLL_FIRST`] if the kernel knows it.
    poll_first: u16,
    one_thread: PhantomData<*const ()>,
}

impl<T> Ring<T> {
    /// Sets a ring up that holds up to `in_flight` operations (at least 1, at most 4096).
    ///
    /// Completions run in the waiting thread's own `io_uring_enter` where the kernel can do that
    /// (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1); otherwise without interrupting it (`COOP_TASKRUN`, 5.19), or plainly.
    ///
    /// # Errors
    /// [`SetupError`], also if the kernel cannot suppress completions (before Linux 5.17).
    pub fn new(in_flight: u32) -> Result<Ring<T>, SetupError> {
        let in_flight = in_flight.clamp(1, 4096);
        let ring = setup(in_flight).map_err(SetupError::Refused)?;
        if !ring.params().is_feature_skip_cqe_on_success() {
            return Err(SetupError::TooOld);
        }
        let slots = (0..in_flight).map(|_| Slot { generation: 0, busy: None }).collect();
        // The mode of Linux 6.1 tells a kernel that knows the flag of 5.19.
        let poll_first = if ring.params().is_setup_single_issuer() { POLL_FIRST } else { 0 };
        Ok(Ring { ring, slots, free: (0..in_flight).rev().collect(), poll_first, one_thread: PhantomData })
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues an operation. It reaches the kernel with the next [`wait`](Self::wait), or now if the queue is full.
    ///
    /// # Errors
    /// [`StartError`]; the operation is then dropped.
    pub fn start(&mut self, op: Op, tag: T) -> Result<(), StartError> {
        let index = *self.free.last().ok_or(StartError::Full)?;
        let slot = &mut self.slots[index as usize];
        let user_data = u64::from(slot.generation) << 32 | u64::from(index);
        let flight = NonNull::from(Box::leak(Box::new(Flight::new(op))));
        // SAFETY: `flight` was leaked on the line above and nothing else refers to it.
        let (first, second) = unsafe { Flight::entries(flight, user_data, self.poll_first) };
        let pair = second.is_some();
        let pushed = match second {
            // Both halves of a pair in one submission: a link does not reach over its end.
            Some(second) => push(&mut self.ring, &[first, second]),
            None => push(&mut self.ring, &[first]),
        };
        if let Err(errno) = pushed {
            // SAFETY: no entry was pushed, so the kernel has never seen the pointer.
            drop(unsafe { Box::from_raw(flight.as_ptr()) });
            return Err(StartError::Enter(errno));
        }
        slot.busy = Some(Busy { tag, flight, pair, cancelled: false });
        self.free.pop();
        Ok(())
    }

    /// Asks for the end of every operation in flight whose tag is `wanted`, and returns how many these are. Each
    /// still completes by its own completion: with `ECANCELED`, or with its result if that came first.
    ///
    /// # Errors
    /// `io_uring_enter(2)`'s, if the submission queue was full.
    pub fn cancel(&mut self, wanted: impl Fn(&T) -> bool) -> Result<usize, Errno> {
        let mut count = 0;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(busy) = slot.busy.as_mut().filter(|busy| !busy.cancelled && wanted(&busy.tag)) else { continue };
            let user_data = u64::from(slot.generation) << 32 | index as u64;
            // A pair is in its first half or, after that, in its second: asked for in this order, one is found.
            push(&mut self.ring, &[cancel_entry(user_data)])?;
            if busy.pair {
                push(&mut self.ring, &[cancel_entry(user_data | SECOND)])?;
            }
            busy.cancelled = true;
            count += 1;
        }
        Ok(count)
    }

    /// Submits what is queued and waits for at least one operation to end, in one `io_uring_enter(2)` if possible;
    /// passes all that have ended to `sink` and returns their number: 0 only if nothing is in flight.
    ///
    /// # Errors
    /// `io_uring_enter(2)`'s. `EINTR` is not one of them: the wait goes on.
    pub fn wait(&mut self, mut sink: impl FnMut(Finished<T>)) -> Result<usize, Errno> {
        let mut ended = 0;
        while ended == 0 && self.in_flight() > 0 {
            let entered = self.ring.submit_and_wait(1);
            ended = self.reap(&mut sink);
            match entered {
                Err(error) if ended == 0 && error.raw_os_error() != Some(libc::EINTR) => return Err(errno_of(&error)),
                _ => {}
            }
        }
        Ok(ended)
    }

    /// Passes on what the completion queue holds.
    fn reap(&mut self, sink: &mut impl FnMut(Finished<T>)) -> usize {
        let mut ended = 0;
        for cqe in self.ring.completion() {
            let user_data = cqe.user_data();
            let index = user_data as u32;
            let generation = (user_data >> 32) as u32 & GENERATIONS;
            let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation);
            let Some(slot) = slot else { continue }; // a cancel request's own completion
            let Some(busy) = slot.busy.take() else { continue };
            slot.generation = (generation + 1) & GENERATIONS;
            self.free.push(index);
            // SAFETY: `busy` came out of the slot, so this is the operation's first and only completion, and the
            // kernel is done with all that the flight holds. For a pair too: the receive starts after the send has
            // ended, and if the send fails the receive never starts.
            let mut flight = unsafe { Box::from_raw(busy.flight.as_ptr()) };
            let result = u32::try_from(cqe.result()).map_err(|_| Errno(-cqe.result()));
            let first_half = user_data & SECOND == 0 && matches!(flight.op, Op::SendThenRecv { .. });
            if let (Op::Recv { into, .. } | Op::SendThenRecv { into, .. }, Ok(len), false) =
                (&mut flight.op, result, first_half)
            {
                // SAFETY: the header was made by `into.recv_header` in `Flight::entries`, the receive with it has
                // succeeded with `len`, and it is reaped here only.
                unsafe { into.received(&flight.recv_header, len as usize) };
            }
            sink(Finished { tag: busy.tag, op: flight.op, result, first_half });
            ended += 1;
        }
        ended
    }
}

impl<T> Drop for Ring<T> {
    /// Cancels and reaps what is in flight. What cannot be reaped keeps its memory for ever: a leak, never a use
    /// after free.
    fn drop(&mut self) {
        for _ in 0..DROP_ROUNDS {
            if self.in_flight() == 0 {
                return;
            }
            for slot in &mut self.slots {
                if let Some(busy) = &mut slot.busy {
                    busy.cancelled = false;
                }
            }
            // The completion of a cancel request ends the wait, so no round lasts.
            let cancelled = self.cancel(|_| true);
            let entered = self.ring.submit_and_wait(1);
            self.reap(&mut |_| {});
            if cancelled.is_err() && entered.is_err() {
                break;
            }
        }
        log::warn!("{} operations outlive their ring; their memory is kept", self.in_flight());
    }
}

impl Flight {
    fn new(op: Op) -> Flight {
        // SAFETY: the two are plain C structs of integers and pointers, for which zeros are a value.
        let (header, vector): (libc::msghdr, libc::iovec) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let time = match op {
            Op::Timer { after } => Timespec::from(after),
            _ => Timespec::new(),
        };
        Flight { op, send_header: header, send_vector: vector, recv_header: header, recv_vector: vector, time }
    }

    /// The submission entries of the operation: one, or two that are linked.
    ///
    /// # Safety
    /// `this` points to a flight that nobody else refers to, and that nobody touches before the completion of the
    /// entries returned (or before they are thrown away unsubmitted).
    unsafe fn entries(this: NonNull<Flight>, user_data: u64, poll_first: u16) -> (Entry, Option<Entry>) {
        let raw = this.as_ptr();
        // SAFETY: the caller promises sole access. The references made here end with this function; the pointers
        // into the flight that stay in the entries come from `raw` and from the boxes inside the messages.
        unsafe {
            match &mut (*raw).op {
                Op::Recv { fd, into } => {
                    ((*raw).recv_vector, (*raw).recv_header) = into.recv_header(&raw mut (*raw).recv_vector);
                    (recv_entry(fd, &raw mut (*raw).recv_header, 0).user_data(user_data), None)
                }
                Op::Send { fd, message } => {
                    ((*raw).send_vector, (*raw).send_header) = message.send_header(&raw mut (*raw).send_vector);
                    (send_entry(fd, &raw const (*raw).send_header).user_data(user_data), None)
                }
                Op::SendThenRecv { fd, message, into } => {
                    ((*raw).send_vector, (*raw).send_header) = message.send_header(&raw mut (*raw).send_vector);
                    ((*raw).recv_vector, (*raw).recv_header) = into.recv_header(&raw mut (*raw).recv_vector);
                    // A send that succeeds is silent. One that fails posts its completion, and then the kernel
                    // suppresses the one of the receive it cancels: one completion in either case.
                    let send =
                        send_entry(fd, &raw const (*raw).send_header).flags(Flags::IO_LINK | Flags::SKIP_SUCCESS);
                    // A peer that keeps the order sends its next request after the reply: nothing to receive yet.
                    let recv = recv_entry(fd, &raw mut (*raw).recv_header, poll_first);
                    (send.user_data(user_data), Some(recv.user_data(user_data | SECOND)))
                }
                Op::Readable { fd } => {
                    (opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build().user_data(user_data), None)
                }
                Op::Timer { .. } => (opcode::Timeout::new(&raw const (*raw).time).build().user_data(user_data), None),
            }
        }
    }
}

fn recv_entry(fd: &OwnedFd, header: *mut libc::msghdr, ioprio: u16) -> Entry {
    opcode::RecvMsg::new(Fd(fd.as_raw_fd()), header).ioprio(ioprio).flags(libc::MSG_CMSG_CLOEXEC as u32).build()
}

fn send_entry(fd: &OwnedFd, header: *const libc::msghdr) -> Entry {
    opcode::SendMsg::new(Fd(fd.as_raw_fd()), header).flags(libc::MSG_NOSIGNAL as u32).build()
}

/// Sets the ring up with the best mode that the kernel knows (`io_uring_setup(2)`: an unknown flag is `EINVAL`).
fn setup(in_flight: u32) -> Result<IoUring, Errno> {
    // A turn queues few entries; a full queue is submitted early. Completions: one for each operation and two
    // for its cancel requests, so that the completion queue cannot overflow.
    let (entries, completions) = (in_flight.clamp(2, 64), (in_flight * 4).max(256));
    let mut best = IoUring::builder();
    best.setup_cqsize(completions).setup_submit_all().setup_single_issuer().setup_defer_taskrun();
    let mut good = IoUring::builder();
    good.setup_cqsize(completions).setup_submit_all().setup_coop_taskrun();
    let mut plain = IoUring::builder();
    plain.setup_cqsize(completions);
    let mut refused = Errno(libc::EINVAL);
    for mut builder in [best, good, plain] {
        let ring = builder.setup_r_disabled().build(entries).and_then(|ring| restrict(&ring).map(|()| ring));
        match ring {
            Ok(ring) => return Ok(ring),
            Err(error) => refused = errno_of(&error),
        }
        if refused != Errno(libc::EINVAL) {
            break;
        }
    }
    Err(refused)
}

/// Lets the ring do what [`Op`] and [`Ring::cancel`] need and nothing else, and starts it. Seccomp filters do not see what a
/// ring does: without this a thread that may use one may still open files and connect sockets.
fn restrict(ring: &IoUring) -> std::io::Result<()> {
    let operations = [
        opcode::PollAdd::CODE,
        opcode::Timeout::CODE,
        opcode::RecvMsg::CODE,
        opcode::SendMsg::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let flags = Restriction::sqe_flags_allowed((Flags::IO_LINK | Flags::SKIP_SUCCESS).bits());
    let mut all: Vec<Restriction> = operations.map(Restriction::sqe_op).into_iter().chain([flags]).collect();
    ring.submitter().register_restrictions(&mut all)?;
    ring.submitter().register_enable_rings()
}

/// Pushes all `entries` or none; submits what is queued first if there is no room.
fn push(ring: &mut IoUring, entries: &[Entry]) -> Result<(), Errno> {
    loop {
        // SAFETY: every caller passes entries of a `Flight` that stays where it is until its completion is reaped
        // (`start` stores it in its slot, `drop` reaps or leaks it), or entries that point to nothing.
        if unsafe { ring.submission().push_multiple(entries) }.is_ok() {
            return Ok(());
        }
        match ring.submit() {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(errno_of(&error)),
            _ => {}
        }
    }
}

/// Asks for the end of the entry with this `user_data`.
fn cancel_entry(user_data: u64) -> Entry {
    opcode::AsyncCancel::new(user_data).build().user_data(NOBODY).flags(Flags::SKIP_SUCCESS)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
