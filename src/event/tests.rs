//! The loop on real sockets.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::*;
use crate::sys::message::testing::seqpacket_pair;

const LIMITS: Limits = Limits { max_frame: 4096, max_fds: 4, in_flight: 64 };

fn token(source: u32) -> Token {
    Token { source, generation: 7 }
}

fn pair() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (a, b) = seqpacket_pair();
    (Arc::new(a), Arc::new(b))
}

/// Waits for one completion.
fn one(events: &mut EventLoop) -> Completion {
    let mut out = Vec::new();
    events.wait(&mut out).unwrap();
    assert_eq!(out.len(), 1, "{out:?}");
    out.pop().unwrap()
}

/// Waits until `count` completions are there.
fn all(events: &mut EventLoop, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < count {
        events.wait(&mut out).unwrap();
    }
    out
}

/// The tests that count descriptors share one process with tests that open some: only one runs at a time.
fn count_fds_alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How many descriptors of this process refer to `file`, which no other test uses.
fn descriptors_of(file: &std::path::Path) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|target| target == file))
        .count()
}

/// A file of this test's own, so that its descriptors can be counted.
fn own_file(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("outboard-event-{}-{name}", std::process::id()));
    std::fs::write(&path, name).unwrap();
    path
}

fn open(path: &std::path::Path) -> OwnedFd {
    std::fs::File::open(path).unwrap().into()
}

#[test]
fn requests_and_replies_alternate() {
    let (near, far) = pair();
    let peer = std::thread::spawn(move || {
        let mut events = EventLoop::new(LIMITS).unwrap();
        for turn in 0..5000u32 {
            events.send_then_recv(&far, &turn.to_le_bytes(), vec![], token(1)).unwrap();
            let Event::Received(reply) = one(&mut events).event else { panic!() };
            assert_eq!(reply.bytes(), (turn + 1).to_le_bytes());
            events.recycle(reply);
        }
    });
    let mut events = EventLoop::new(LIMITS).unwrap();
    events.recv(&near, token(2)).unwrap();
    let mut turns = 0;
    loop {
        let completion = one(&mut events);
        assert_eq!(completion.token, token(2));
        match completion.event {
            Event::Received(request) => {
                let number = u32::from_le_bytes(request.bytes().try_into().unwrap());
                events.recycle(request);
                events.send_then_recv(&near, &(number + 1).to_le_bytes(), vec![], token(2)).unwrap();
                turns += 1;
            }
            // The peer is gone: its end is closed before the reply, or after it.
            Event::Closed | Event::Failed { operation: Operation::Send, errno: Errno(libc::EPIPE) } => break,
            other => panic!("{other:?}"),
        }
    }
    peer.join().unwrap();
    assert_eq!(turns, 5000);
    assert!(events.pool.spare.len() <= 2, "messages are reused: {}", events.pool.spare.len());
}

#[test]
fn descriptors_travel_both_ways_and_none_stays() {
    let _alone = count_fds_alone();
    let (near, far) = pair();
    let path = own_file("travel");
    let mut events = EventLoop::new(LIMITS).unwrap();
    for turn in 0..200 {
        let (from, to) = if turn % 2 == 0 { (&near, &far) } else { (&far, &near) };
        let fds = (0..4).map(|_| open(&path)).collect();
        events.recv(to, token(2)).unwrap();
        events.send(from, b"four files", fds, token(1)).unwrap();
        for Completion { event, .. } in all(&mut events, 2) {
            let Event::Received(mut message) = event else { continue };
            assert_eq!(message.bytes(), b"four files");
            assert_eq!((message.truncated(), message.fds_truncated()), (false, false));
            let fds = message.take_fds();
            assert_eq!(fds.len(), 4);
            let mut text = String::new();
            std::fs::File::from(fds[3].try_clone().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "travel");
            events.recycle(message);
        }
    }
    assert_eq!(descriptors_of(&path), 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_received_descriptor_is_close_on_exec() {
    let (near, far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    events.send(&near, b"x", vec![open("/dev/null".as_ref())], token(1)).unwrap();
    events.recv(&far, token(2)).unwrap();
    let message = all(&mut events, 2).into_iter().find_map(|completion| match completion.event {
        Event::Received(message) => Some(message),
        _ => None,
    });
    let message = message.unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", message.fds()[0].as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert_ne!(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC, 0);
}

#[test]
fn truncation_is_told_and_its_descriptors_are_owned() {
    let _alone = count_fds_alone();
    let (near, far) = pair();
    let path = own_file("truncated");
    let small = Limits { max_frame: 8, max_fds: 1, in_flight: 4 };
    let (mut big, mut little) = (EventLoop::new(LIMITS).unwrap(), EventLoop::new(small).unwrap());
    for fds in 0..4 {
        big.send(&near, &[9; 100], (0..fds).map(|_| open(&path)).collect(), token(1)).unwrap();
        assert!(matches!(one(&mut big).event, Event::Sent));
        little.recv(&far, token(2)).unwrap();
        let Event::Received(message) = one(&mut little).event else { panic!() };
        assert_eq!(message.bytes(), [9; 8]);
        assert_eq!((message.truncated(), message.fds_truncated()), (true, fds > 1));
        assert_eq!(message.fds().len(), fds.min(1));
    }
    assert_eq!(descriptors_of(&path), 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_closed_peer_ends_the_receive_and_fails_the_send() {
    let (near, far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    events.recv(&near, token(1)).unwrap();
    drop(far);
    assert!(matches!(one(&mut events).event, Event::Closed));
    events.send(&near, b"x", vec![], token(1)).unwrap();
    let epipe = Errno(libc::EPIPE);
    assert!(matches!(one(&mut events).event, Event::Failed { operation: Operation::Send, errno } if errno == epipe));
    events.send_then_recv(&near, b"x", vec![], token(1)).unwrap();
    assert!(matches!(one(&mut events).event, Event::Failed { operation: Operation::Send, errno } if errno == epipe));
    assert_eq!(events.in_flight(), 0);
    assert_eq!(events.wait(&mut Vec::new()), Err(EventError::Idle));
}

#[test]
fn cancel_ends_what_has_the_token_and_nothing_else() {
    let (near, far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    let successor = Token { generation: 8, ..token(1) };
    events.recv(&near, token(1)).unwrap();
    events.poll_readable(&near, token(1)).unwrap();
    events.timer(Duration::from_secs(3600), token(1)).unwrap();
    events.send_then_recv(&far, b"x", vec![], token(1)).unwrap();
    events.timer(Duration::from_secs(3600), successor).unwrap();
    // The message has made the receive and the poll ready.
    let ready = all(&mut events, 1).len();
    assert_eq!(events.cancel(token(1)).unwrap(), 4 - ready);
    assert_eq!(events.cancel(token(1)).unwrap(), 0, "once is enough");
    for completion in all(&mut events, 4 - ready) {
        assert_eq!(completion.token, token(1));
    }
    assert_eq!(events.in_flight(), 1);
    assert_eq!(events.cancel(successor).unwrap(), 1);
    assert!(matches!(one(&mut events).event, Event::Cancelled(Operation::Timer)));
}

/// A full socket holds a send back: the pair is then cancelled in its first half.
#[test]
fn a_pair_can_be_cancelled_in_either_half() {
    let (near, far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    events.send_then_recv(&near, b"x", vec![], token(1)).unwrap();
    events.poll_readable(&far, token(2)).unwrap();
    assert_eq!(one(&mut events).token, token(2));
    assert_eq!(events.cancel(token(1)).unwrap(), 1);
    assert!(matches!(one(&mut events).event, Event::Cancelled(Operation::Recv)));

    let mut blocked = 0;
    while blocked == 0 {
        events.send(&near, &[0; 4096], vec![], token(3)).unwrap();
        events.timer(Duration::from_millis(1), token(4)).unwrap();
        let mut out = Vec::new();
        while !out.iter().any(|completion: &Completion| completion.token == token(4)) {
            events.wait(&mut out).unwrap();
        }
        blocked = events.in_flight();
    }
    assert_eq!(events.cancel(token(3)).unwrap(), 1);
    assert!(matches!(one(&mut events).event, Event::Cancelled(Operation::Send)));
    events.send_then_recv(&near, b"x", vec![], token(5)).unwrap();
    events.timer(Duration::from_millis(1), token(6)).unwrap();
    assert_eq!(one(&mut events).token, token(6));
    assert_eq!(events.cancel(token(5)).unwrap(), 1);
    assert!(matches!(one(&mut events).event, Event::Cancelled(Operation::Send)));
    assert_eq!(events.in_flight(), 0);
}

/// What a peer does not read must not keep the others waiting.
#[test]
fn a_blocked_send_blocks_nobody_else() {
    let (near, _far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    for _ in 0..63 {
        events.send_then_recv(&near, &[0; 4096], vec![], token(1)).unwrap();
    }
    let begin = Instant::now();
    events.timer(Duration::from_millis(20), token(2)).unwrap();
    let completion = one(&mut events);
    assert_eq!(completion.token, token(2));
    assert!(matches!(completion.event, Event::Elapsed));
    assert!(begin.elapsed() >= Duration::from_millis(20));
    assert_eq!(events.in_flight(), 63);
}

#[test]
fn the_limit_holds_and_more_than_a_queue_is_submitted_in_between() {
    let mut events = EventLoop::new(Limits { in_flight: 200, ..LIMITS }).unwrap();
    let (near, far) = pair();
    for source in 0..200 {
        events.recv(&near, token(source)).unwrap();
    }
    assert_eq!(events.recv(&near, token(200)), Err(EventError::Full { limit: 200 }));
    drop(far);
    let mut sources: Vec<u32> = all(&mut events, 200).iter().map(|completion| completion.token.source).collect();
    sources.sort();
    assert_eq!(sources, (0..200).collect::<Vec<_>>());
}

#[test]
fn what_exceeds_the_limits_is_not_sent() {
    let (near, _far) = pair();
    let mut events = EventLoop::new(LIMITS).unwrap();
    let too_long = events.send(&near, &[0; 4097], vec![], token(1));
    assert_eq!(too_long, Err(EventError::Message(MessageError::TooLong { len: 4097, max: 4096 })));
    assert_eq!(events.in_flight(), 0);
}

#[test]
fn a_descriptor_that_is_no_socket_fails_the_operation() {
    let mut events = EventLoop::new(LIMITS).unwrap();
    let not_a_socket = Arc::new(open("/dev/null".as_ref()));
    events.recv(&not_a_socket, token(1)).unwrap();
    let enotsock = Errno(libc::ENOTSOCK);
    assert!(matches!(one(&mut events).event, Event::Failed { operation: Operation::Recv, errno } if errno == enotsock));
    events.send_then_recv(&not_a_socket, b"x", vec![], token(1)).unwrap();
    assert!(matches!(one(&mut events).event, Event::Failed { operation: Operation::Send, errno } if errno == enotsock));
}

#[test]
fn dropping_the_loop_ends_what_is_in_flight() {
    let _alone = count_fds_alone();
    let path = own_file("drop");
    for _ in 0..100 {
        let (near, far) = pair();
        let mut events = EventLoop::new(LIMITS).unwrap();
        events.recv(&near, token(1)).unwrap();
        events.poll_readable(&near, token(1)).unwrap();
        events.timer(Duration::from_secs(3600), token(1)).unwrap();
        events.timer(Duration::ZERO, token(2)).unwrap();
        one(&mut events);
        // One in the kernel, one in the queue only.
        events.send(&far, b"x", vec![open(&path)], token(1)).unwrap();
        events.send_then_recv(&far, b"y", vec![open(&path)], token(1)).unwrap();
        let weak = Arc::downgrade(&near);
        drop(near);
        assert!(weak.upgrade().is_some(), "the loop keeps the socket of an operation in flight");
        drop(events);
        assert!(weak.upgrade().is_none(), "and lets go of it");
    }
    assert_eq!(descriptors_of(&path), 0);
    std::fs::remove_file(path).unwrap();
}
