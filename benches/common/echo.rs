//! What the shared lines replace: a message of 64 bytes and its answer through pipes, futexes and sockets.
//!
//! The other half is another process, this executable with [`ECHO`] as its first word.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outboard_wire::block::{ToPlugin, ToVmm};
use outboard_wire::line::{Answer, Event, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::{futex, socket};

use super::{memfd, pin, place};

/// The word behind which the rest of a command line is for the other half.
pub const ECHO: &str = "echo";

/// Bytes of a message, as many as an event line has.
const MESSAGE: usize = 64;

/// A way to ask another process and wait for its answer.
pub trait Echo: Send {
    /// One message there, one back.
    fn exchange(&mut self);
}

/// Two pipes.
pub struct Pipes {
    child: Child,
    there: Option<ChildStdin>,
    back: ChildStdout,
}

impl Pipes {
    /// With the other half on these CPUs.
    pub fn new(cpus: &[usize]) -> Pipes {
        let mut child = other_half("pipes", cpus, Stdio::piped(), Stdio::piped());
        let (there, back) = (child.stdin.take(), child.stdout.take().expect("a pipe was asked for"));
        Pipes { child, there, back }
    }
}

impl Echo for Pipes {
    fn exchange(&mut self) {
        let mut message = [1; MESSAGE];
        self.there.as_mut().map(|pipe| pipe.write_all(&message)).expect("open until dropped").expect("the echo lives");
        self.back.read_exact(&mut message).expect("the echo lives");
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        drop(self.there.take());
        let _ = self.child.wait();
    }
}

/// Two lines in shared memory, a futex each, and nobody spins.
pub struct Futexes {
    child: Child,
    there: BlockRef<ToPlugin>,
    back: BlockRef<ToVmm>,
    seq: u32,
}

impl Futexes {
    /// With the other half on these CPUs.
    pub fn new(cpus: &[usize]) -> Futexes {
        let (there, back) = (memfd::blocks(), memfd::blocks());
        let copy = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a free descriptor"));
        let child = other_half("futexes", cpus, copy(&there), copy(&back));
        let blocks = Blocks::map(there.as_fd(), 1, Access::Write).expect("the memfd is as asked for");
        let there = BlockRef::new(&Arc::new(blocks), 0).expect("the first block");
        let blocks = Blocks::map(back.as_fd(), 1, Access::Read).expect("the memfd is as asked for");
        Futexes { child, there, back: BlockRef::new(&Arc::new(blocks), 0).expect("the first block"), seq: 0 }
    }

    fn tell(&mut self, kind: u8) {
        self.seq = self.seq.wrapping_add(1);
        self.there.event.publish(self.seq, &Event { kind, ..Event::default() });
        futex::wake(&self.there.event.seq);
    }
}

impl Echo for Futexes {
    fn exchange(&mut self) {
        self.tell(event_kind::WRITE);
        sleep_until(&self.back.answer.seq, self.seq);
    }
}

impl Drop for Futexes {
    fn drop(&mut self) {
        self.tell(event_kind::SHUTDOWN);
        let _ = self.child.wait();
    }
}

/// A pair of `SOCK_SEQPACKET` sockets, as the control connection is one.
pub struct Sockets {
    child: Child,
    socket: Option<OwnedFd>,
}

impl Sockets {
    /// With the other half on these CPUs.
    pub fn new(cpus: &[usize]) -> Sockets {
        let (ours, theirs) = socket::pair().expect("a socket pair");
        Sockets { child: other_half("sockets", cpus, theirs.into(), Stdio::null()), socket: Some(ours) }
    }
}

impl Echo for Sockets {
    fn exchange(&mut self) {
        let socket = self.socket.as_ref().expect("open until dropped").as_fd();
        socket::send(socket, &[1; MESSAGE], &[]).expect("the echo lives");
        socket::receive(socket, &mut [0; MESSAGE]).expect("the echo lives");
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

fn other_half(way: &str, cpus: &[usize], input: Stdio, output: Stdio) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("the path of this executable"));
    command.args([ECHO, way, &place::word(cpus)]).stdin(input).stdout(output);
    command.spawn().expect("this executable can be started")
}

/// The other half: answers until the first one is gone. `words` are the way and the CPUs.
pub fn main(words: &[String]) {
    let [way, cpus] = words else { panic!("echo takes a way and CPUs") };
    pin::pin(&place::cpus(cpus));
    match way.as_str() {
        "pipes" => echo_pipes(),
        "futexes" => echo_futexes(),
        "sockets" => echo_sockets(),
        _ => panic!("no such way: {way}"),
    }
}

fn echo_pipes() {
    let mut message = [0; MESSAGE];
    // Without buffers: a read and a write per message.
    let copy = |fd: std::os::fd::BorrowedFd<'_>| std::fs::File::from(fd.try_clone_to_owned().expect("it is open"));
    let (mut input, mut output) = (copy(std::io::stdin().as_fd()), copy(std::io::stdout().as_fd()));
    while input.read_exact(&mut message).is_ok() && output.write_all(&message).is_ok() {}
}

fn echo_futexes() {
    let there: Blocks<ToPlugin> = Blocks::map(std::io::stdin().as_fd(), 1, Access::Read).expect("a sealed memfd");
    let back: Blocks<ToVmm> = Blocks::map(std::io::stdout().as_fd(), 1, Access::Write).expect("a sealed memfd");
    let there = BlockRef::new(&Arc::new(there), 0).expect("the first block");
    let back = BlockRef::new(&Arc::new(back), 0).expect("the first block");
    for seq in 1u32.. {
        sleep_until(&there.event.seq, seq);
        if there.event.read().kind == event_kind::SHUTDOWN {
            return;
        }
        back.answer.publish(seq, &Answer::default());
        futex::wake(&back.answer.seq);
    }
}

fn echo_sockets() {
    let (input, mut message) = (std::io::stdin(), [0; MESSAGE]);
    while let Ok((length @ 1.., _)) = socket::receive(input.as_fd(), &mut message) {
        if socket::send(input.as_fd(), &message[..length], &[]).is_err() {
            return;
        }
    }
}

fn sleep_until(word: &AtomicU32, wanted: u32) {
    loop {
        match word.load(Ordering::Acquire) {
            now if now == wanted => return,
            now => futex::wait(word, now),
        }
    }
}
