//! The plugin of the target `machine`: a process whose behaviour is a string of bytes.
//!
//! It finds its control socket as every plugin does, and the bytes in the file behind it. Every step takes a bounded time, there
//! are no more than `STEPS`, and then it ends.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outboard_plugin::GuestMemory;
use outboard_wire::control::{
    CreateMemory, Hello, HelloReply, Kind, NewConnection, PauseVcpus, RANGE_POSTED, RANGE_SYNCHRONOUS, Request,
    ReserveRange, SPACE_MMIO, SPACE_PORT, ShutdownEvent, Start,
};
use outboard_wire::frame::Header;
use outboard_wire::limits::MAX_FRAME;
use outboard_wire::line::Event;
use outboard_wire::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::frames::kind_and_length;
use crate::host::descriptor;
use crate::input::Input;
use crate::lines::{self, CODE, GUEST, Heard, Lines, MEMORY};

/// Most steps of one life.
const STEPS: usize = 96;

/// How long a step waits for the VMM: it may have nothing to say to what was sent.
const SHORT: Duration = Duration::from_millis(20);

/// Most connections that it makes.
const CONNECTIONS: usize = 32;

/// What ends a life.
pub enum Death {
    /// A status.
    Exit(u8),
    /// `abort(3)`.
    Abort,
    /// It does not go when it is told to, and ends a while later.
    Stay,
}

/// A control connection.
struct Talk {
    socket: OwnedFd,
    sequence: u32,
}

/// A plugin.
struct Wild {
    talks: Vec<Talk>,
    chosen: usize,
    memory: Option<GuestMemory>,
    lines: Vec<Lines>,
    hello: Option<(HelloReply, Vec<OwnedFd>)>,
    events: Vec<Option<Event>>,
    flipping: Arc<AtomicBool>,
    kept: Vec<OwnedFd>,
    shutdown: Option<OwnedFd>,
}

/// Lives as the bytes in `file` say, on this control socket.
pub fn live(socket: OwnedFd, mut file: File) -> Death {
    let mut bytes = Vec::new();
    if file.rewind().and_then(|()| file.read_to_end(&mut bytes)).is_err() {
        return Death::Exit(1);
    }
    let mut wild = Wild {
        talks: vec![Talk { socket, sequence: 0 }],
        chosen: 0,
        memory: None,
        lines: Vec::new(),
        hello: None,
        events: Vec::new(),
        flipping: Arc::default(),
        kept: Vec::new(),
        shutdown: None,
    };
    let mut input = Input::new(&bytes);
    for _ in 0..STEPS {
        let Some(op) = input.op() else { break };
        if let Some(death) = wild.step(op, &mut input) {
            return death;
        }
    }
    Death::Exit(0)
}

impl Wild {
    fn step(&mut self, op: u8, input: &mut Input<'_>) -> Option<Death> {
        match op % 20 {
            0 => self.greet(),
            1 => self.prepare(),
            2 => {
                self.call(&Start {});
                self.map();
            }
            3 => self.any_request(input),
            4 => self.any_message(input),
            5 => self.hear_reply(),
            6 => self.connect(),
            7 => self.chosen = input.byte().into(),
            8 => self.close(),
            9 | 10 => self.serve(op % 20 == 10, input),
            11 => self.enter(input),
            12 => self.command(input),
            13 => self.poke(input),
            14 => self.flip(u64::from_le_bytes(input.array())),
            15 => self.pause(input),
            16 => self.spoil(input),
            17 => std::thread::sleep(Duration::from_micros(u64::from(input.byte()) * 8)),
            18 => self.flood(input),
            _ => return self.end(input),
        }
        None
    }

    /// The connection that is spoken on.
    fn talk(&mut self) -> Option<&mut Talk> {
        let count = self.talks.len();
        self.talks.get_mut(self.chosen % count.max(1))
    }

    fn call<R: Request>(&mut self, request: &R) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        self.call_with(request, None)
    }

    fn call_with<R: Request>(&mut self, request: &R, fd: Option<BorrowedFd<'_>>) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let talk = self.talk()?;
        talk.send(R::KIND as u16, request.as_bytes(), fd.as_slice());
        talk.hear()
    }

    fn greet(&mut self) {
        let Some((body, fds)) = self.call(&Hello::ours()) else { return };
        if let (Ok(hello), 2) = (HelloReply::read_from_bytes(&body), fds.len()) {
            self.hello = Some((hello, fds));
        }
        if let Some((_, mut fds)) = self.call(&ShutdownEvent {}) {
            self.shutdown = fds.pop();
        }
    }

    /// Memory, and ranges, as a guest needs them.
    fn prepare(&mut self) {
        let Ok(memory) = GuestMemory::new(MEMORY) else { return };
        let _ = memory.write(CODE.into(), GUEST);
        let slot = CreateMemory { offset: 0, length: MEMORY as u64, start: 0, flags: 0, reserved: 0 };
        self.call_with(&slot, Some(memory.as_fd()));
        self.memory = Some(memory);
        for (space, kind, start, length) in [
            (SPACE_PORT, RANGE_SYNCHRONOUS, 0x10, 0x10),
            (SPACE_PORT, RANGE_POSTED, 0x30, 8),
            (SPACE_MMIO, RANGE_SYNCHRONOUS, MEMORY as u64, 0x1000),
        ] {
            self.call(&ReserveRange { space, kind, start, length });
        }
    }

    fn map(&mut self) {
        let Some((hello, fds)) = &self.hello else { return };
        let vcpus = hello.vcpus as usize;
        self.lines = (0..vcpus).filter_map(|index| Lines::map(fds, vcpus, index)).collect();
        self.events = vec![None; self.lines.len()];
    }

    fn any_request(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let (kind, length) = kind_and_length(how & 1 == 0, input);
        let body = input.bytes(length);
        let fds: Vec<OwnedFd> = (0..how >> 1 & 3).map(|_| descriptor(input.byte())).collect();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let Some(talk) = self.talk() else { return };
        talk.send(kind, &body, &fds);
        if how & 8 == 0
            && let Some((_, fds)) = talk.hear()
        {
            self.keep(fds);
        }
    }

    /// Descriptors that the VMM has given are kept for a while; an eventfd among them may be waited on by the VM.
    fn keep(&mut self, fds: Vec<OwnedFd>) {
        self.kept.extend(fds);
        self.kept.truncate(64);
    }

    fn any_message(&mut self, input: &mut Input<'_>) {
        let count = input.byte();
        let fds: Vec<OwnedFd> = (0..count >> 6).map(|_| descriptor(input.byte())).collect();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let length = usize::from(input.u16()) % (MAX_FRAME + 64);
        let message = input.some(length);
        if let Some(talk) = self.talk() {
            talk.give(message, &fds);
        }
    }

    fn hear_reply(&mut self) {
        if let Some((_, fds)) = self.talk().and_then(Talk::hear) {
            self.keep(fds);
        }
    }

    fn connect(&mut self) {
        if self.talks.len() >= CONNECTIONS {
            return;
        }
        if let Some((_, mut fds)) = self.call(&NewConnection {})
            && let Some(socket) = fds.pop()
        {
            self.talks.push(Talk { socket, sequence: 0 });
        }
    }

    fn close(&mut self) {
        if !self.talks.is_empty() {
            let chosen = self.chosen % self.talks.len();
            self.talks.remove(chosen);
        }
    }

    /// The lines of a vCPU, and the event that waits there.
    fn vcpu(&mut self, input: &mut Input<'_>) -> Option<(&mut Lines, &mut Option<Event>)> {
        let index = usize::from(input.byte()) % self.lines.len().max(1);
        let (lines, event) = (self.lines.get_mut(index)?, self.events.get_mut(index)?);
        if event.is_none()
            && let Heard::Event(heard) = lines.next(SHORT)
        {
            *event = Some(heard);
        }
        Some((lines, event))
    }

    /// Answers the event of a vCPU, if there is one: soundly, or anyhow.
    fn serve(&mut self, anyhow: bool, input: &mut Input<'_>) {
        let Some((lines, event)) = self.vcpu(input) else { return };
        let Some(event) = event.take() else { return };
        let answer = if anyhow { lines::any_answer(input) } else { lines::answer_to(&event, input) };
        lines.answer(&answer);
    }

    fn enter(&mut self, input: &mut Input<'_>) {
        if let Some((lines, event)) = self.vcpu(input)
            && event.take().is_some()
        {
            lines.enter(SHORT);
        }
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let set = input.byte() & 1 != 0;
        let Some((lines, event)) = self.vcpu(input) else { return };
        if event.take().is_some() {
            let command = lines::command(set, lines, input);
            lines.answer(&command);
        }
    }

    fn poke(&mut self, input: &mut Input<'_>) {
        let (place, value) = (input.u16(), input.u64());
        if let Some((lines, _)) = self.vcpu(input) {
            lines.poke(place, value);
        }
    }

    /// A thread that changes what this side writes, as long as this process lives; with another seed from the second call on.
    fn flip(&mut self, seed: u64) {
        let views: Vec<_> = self.lines.iter().filter_map(Lines::view).collect();
        if views.is_empty() || self.flipping.swap(true, Ordering::Relaxed) {
            return;
        }
        std::thread::spawn(move || {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            loop {
                for view in &views {
                    // Mostly the data: a wrong sequence word ends everything.
                    let place = next() as u16 & !15 | [3, 4, 5, 6, 7, 8, 10, 11, 13, 14, 15, 2][next() as usize % 12];
                    lines::poke(view, place, next());
                    if seed & 7 == 0 && next() % 4096 == 0 {
                        lines::poke(view, (next() % 10) as u16, next() >> 32);
                    }
                }
                if next() % 64 == 0 {
                    std::thread::yield_now();
                }
            }
        });
    }

    fn pause(&mut self, input: &mut Input<'_>) {
        let mut request = PauseVcpus::new_zeroed();
        request.mask[0] = u64::from(input.byte());
        request.cookie = input.u64();
        self.call(&request);
    }

    /// Takes the guest's memory away, in one of the ways that there are.
    fn spoil(&mut self, input: &mut Input<'_>) {
        let Some(memory) = &self.memory else { return };
        let (place, value) = (u64::from(input.u16()) & !7, input.u64());
        match input.byte() % 4 {
            0 => drop(self.memory.take()),
            1 => {
                let (from, length) = (place & !4095, 4096 * (1 + value % 4));
                let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                let _ = rustix::fs::fallocate(memory.as_fd(), mode, from, length);
            }
            2 => {
                let _ = rustix::fs::ftruncate(memory.as_fd(), place);
            }
            _ => {
                let _ = memory.write_obj(place, &value);
            }
        }
    }

    /// Many requests, none of whose replies is read.
    fn flood(&mut self, input: &mut Input<'_>) {
        let kind = Kind::ALL[usize::from(input.byte()) % Kind::ALL.len()] as u16;
        let (count, body) = (input.byte(), input.bytes(16));
        // Until the VMM has no room left: it does not go on while nobody reads what it says.
        if let Some(talk) = self.talk() {
            let _ = (0..count).all(|_| talk.send(kind, &body, &[]));
        }
    }

    fn end(&mut self, input: &mut Input<'_>) -> Option<Death> {
        Some(match input.byte() % 8 {
            0 => Death::Abort,
            1 => Death::Stay,
            2 => {
                // As a plugin ought to: it goes when it is told to.
                if let Some(event) = &self.shutdown {
                    readable(event.as_fd(), Duration::from_millis(200));
                }
                Death::Exit(0)
            }
            status => Death::Exit(status),
        })
    }
}

impl Talk {
    /// Sends the next request. Returns whether there was room for it.
    fn send(&mut self, kind: u16, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        let header = Header { body_len: body.len() as u32, ..Header::request(kind, self.sequence, 0, fds.len()) };
        let mut message = header.as_bytes().to_vec();
        message.extend_from_slice(body);
        self.give(&message, fds)
    }

    /// Sends anything, if the VMM has room for it: it need not listen to one who floods it. Returns whether it had.
    fn give(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        let limit = Timespec { tv_sec: 0, tv_nsec: SHORT.as_nanos() as i64 };
        let room = poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0);
        if room {
            let _ = socket::send(self.socket.as_fd(), message, fds);
        }
        room
    }

    /// The body and the descriptors of a reply, if one comes.
    fn hear(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        if !readable(self.socket.as_fd(), SHORT) {
            return None;
        }
        let mut buffer = [0; MAX_FRAME];
        let (length, fds) = socket::receive(self.socket.as_fd(), &mut buffer).ok()?;
        let (_, body) = Header::read_from_prefix(&buffer[..length]).ok()?;
        Some((body.to_vec(), fds))
    }
}

fn readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    let limit = Timespec { tv_sec: 0, tv_nsec: limit.as_nanos() as i64 };
    poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
}
