//! A plugin's side made of raw frames and lines: it can say what the SDK never would.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use outboard_plugin::GuestMemory;
use outboard_plugin::bytemuck::{Pod, bytes_of, bytes_of_mut};
use outboard_wire::block::{ToPlugin, ToVmm};
use outboard_wire::control::{
    CreateMemory, Hello, HelloReply, RANGE_POSTED, RANGE_SYNCHRONOUS, Request, ReserveRange, SPACE_PORT, Start,
};
use outboard_wire::frame::{FLAG_REPLY, Header};
use outboard_wire::kvm_abi::{File, Regs, Sregs};
use outboard_wire::limits::MAX_FRAME;
use outboard_wire::line::{Answer, Event, FILE_REGS, FILE_SREGS, answer_kind, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::{futex, socket, words};
use zerocopy::{FromBytes, IntoBytes};

use crate::common::machine::{CODE, MEMORY};
use crate::sys;

/// A control connection.
pub struct Raw {
    pub socket: OwnedFd,
    /// Sequence number of the request sent last.
    pub sequence: u32,
}

/// A reply.
pub struct Reply {
    pub status: i32,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Raw {
    /// The connection that this process was started with. Nothing has been said on it.
    pub fn connect() -> Raw {
        Raw::over(sys::control_socket())
    }

    pub fn over(socket: OwnedFd) -> Raw {
        Raw { socket, sequence: 0 }
    }

    /// The same after HELLO; the descriptors are `to_plugin` and `to_vmm`.
    pub fn greeted() -> (Raw, HelloReply, Vec<OwnedFd>) {
        let mut raw = Raw::connect();
        let reply = raw.call(&Hello::ours(), &[]);
        assert_eq!((reply.status, reply.fds.len()), (0, 2));
        let hello = HelloReply::read_from_bytes(&reply.body).expect("a hello");
        (raw, hello, reply.fds)
    }

    /// Sends any bytes.
    pub fn send(&self, message: &[u8]) {
        socket::send(self.socket.as_fd(), message, &[]).expect("the VMM listens");
    }

    /// Sends a header and a body with any number of descriptors.
    pub fn send_frame(&self, header: &Header, body: &[u8], fds: &[RawFd]) {
        let mut message = header.as_bytes().to_vec();
        message.extend_from_slice(body);
        if fds.is_empty() {
            self.send(&message);
        } else {
            sys::send_with_fds(self.socket.as_fd(), &message, fds).expect("the VMM listens");
        }
    }

    /// The header of the next request.
    pub fn next(&mut self, kind: u16, body: usize, fds: usize) -> Header {
        self.sequence += 1;
        let header = Header::request(kind, self.sequence, 0, fds);
        Header { body_len: body as u32, ..header }
    }

    /// Sends the next request.
    pub fn request(&mut self, kind: u16, body: &[u8], fds: &[RawFd]) {
        let header = self.next(kind, body.len(), fds.len());
        self.send_frame(&header, body, fds);
    }

    /// Receives the reply to the request sent last.
    pub fn reply(&mut self) -> Reply {
        let mut buffer = [0; MAX_FRAME];
        let (length, fds) = socket::receive(self.socket.as_fd(), &mut buffer).expect("a reply");
        let (header, body) = Header::read_from_prefix(&buffer[..length]).expect("a header");
        assert_eq!((header.flags, header.sequence), (FLAG_REPLY, self.sequence));
        Reply { status: header.status, body: body.to_vec(), fds }
    }

    pub fn call<R: Request>(&mut self, request: &R, fds: &[BorrowedFd<'_>]) -> Reply {
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        self.request(R::KIND as u16, request.as_bytes(), &fds);
        self.reply()
    }

    /// The same for what is not refused.
    pub fn must<R: Request>(&mut self, request: &R, fds: &[BorrowedFd<'_>]) -> R::Reply {
        let reply = self.call(request, fds);
        assert_eq!(reply.status, 0, "{:?} was refused", R::KIND);
        R::Reply::read_from_bytes(&reply.body).expect("a reply of the right size")
    }

    pub fn reserve(&mut self, kind: u32, start: u64, length: u64) {
        self.must(&ReserveRange { space: SPACE_PORT, kind, start, length }, &[]);
    }
}

/// Waits to be killed.
pub fn wait_for_death() -> ! {
    loop {
        std::thread::park();
    }
}

/// A VM whose vCPU 0 is driven by hand.
pub struct Bench {
    pub raw: Raw,
    /// Kept for the guest's sake.
    _memory: GuestMemory,
    pub end: PluginEnd,
    /// The answer line and all else of vCPU 0 that this side writes, once more.
    pub to_vmm: BlockRef<ToVmm>,
    blocks: Arc<Blocks<ToVmm>>,
    /// The file behind them.
    pub file: OwnedFd,
    /// Number of the event taken last.
    pub seq: u32,
}

impl Bench {
    /// Starts a guest in real mode: ports 0x10 to 0x1f are synchronous, 0x30 to 0x37 posted. The event at hand is INIT.
    pub fn at_init(code: &[u8]) -> Bench {
        let (mut raw, hello, fds) = Raw::greeted();
        let memory = GuestMemory::new(MEMORY).expect("memory");
        memory.write(CODE.into(), code).expect("room for the guest");
        let slot = CreateMemory { offset: 0, length: MEMORY as u64, start: 0, flags: 0, reserved: 0 };
        raw.must(&slot, &[memory.as_fd()]);
        raw.reserve(RANGE_SYNCHRONOUS, 0x10, 0x10);
        raw.reserve(RANGE_POSTED, 0x30, 8);
        raw.must(&Start {}, &[]);
        let to_plugin = Blocks::<ToPlugin>::map(fds[0].as_fd(), 1, Access::Read).expect("to_plugin");
        let blocks = Arc::new(Blocks::<ToVmm>::map(fds[1].as_fd(), 1, Access::Write).expect("to_vmm"));
        let to_plugin = BlockRef::new(&Arc::new(to_plugin), 0).expect("a block");
        let spinner = Spinner::new(SpinMode::Auto, hello.tsc_khz);
        let end = PluginEnd::new(to_plugin, view(&blocks), spinner, Arc::new(SpinLimit::new(hello.cpus, hello.vcpus)));
        let file = fds[1].try_clone().expect("a descriptor");
        let mut bench = Bench { raw, _memory: memory, end, to_vmm: view(&blocks), blocks, file, seq: 0 };
        assert_eq!(bench.event().kind, event_kind::INIT);
        bench
    }

    /// The same with the guest running; the event at hand is its first access.
    pub fn running(code: &[u8]) -> (Bench, Event) {
        let mut bench = Bench::at_init(code);
        bench.enter();
        let event = bench.event();
        (bench, event)
    }

    /// What this side writes, for another thread.
    pub fn another_view(&self) -> BlockRef<ToVmm> {
        view(&self.blocks)
    }

    /// Waits for the next event; there must be no posted write before it.
    pub fn event(&mut self) -> Event {
        match self.end.wait().expect("a sound line") {
            Incoming::Event(event) => {
                self.seq += 1;
                event
            }
            Incoming::Posted(write) => panic!("{write:?} instead of an event"),
        }
    }

    /// Sends a command and waits for its reply.
    pub fn command(&mut self, answer: &Answer) -> Event {
        self.end.answer(answer);
        let reply = self.event();
        assert_eq!(reply.kind, event_kind::REPLY);
        reply
    }

    pub fn get<T: Pod>(&mut self, file: File) -> T {
        let reply = self.command(&Answer { kind: answer_kind::GET, file: file as u32, count: 1, ..Answer::default() });
        assert_eq!((reply.status, reply.length as usize), (0, size_of::<T>()));
        let mut value = T::zeroed();
        words::load(&self.end.to_plugin().bulk, bytes_of_mut(&mut value));
        value
    }

    /// Sets one file; returns the status.
    pub fn set<T: Pod>(&mut self, file: File, value: &T) -> i32 {
        words::store(&self.to_vmm.bulk, bytes_of(value));
        let length = size_of::<T>() as u32;
        let set = Answer { kind: answer_kind::SET, file: file as u32, count: 1, length, ..Answer::default() };
        self.command(&set).status
    }

    /// Resumes a vCPU that stands at INIT: it starts at [`CODE`].
    pub fn enter(&mut self) {
        let mut sregs: Sregs = self.get(File::Sregs);
        (sregs.0.cs.base, sregs.0.cs.selector) = (0, 0);
        let mut regs: Regs = self.get(File::Regs);
        (regs.0.rip, regs.0.rflags, regs.0.rsp) = (CODE.into(), 2, 0x8000);
        words::store(&self.to_vmm.files.sregs, bytes_of(&sregs));
        words::store(&self.to_vmm.files.regs, bytes_of(&regs));
        self.end.answer(&resume(Answer { files: FILE_REGS | FILE_SREGS, ..Answer::default() }));
    }

    /// Answers a read of up to 8 bytes.
    pub fn answer_read(&mut self, event: &Event, data: u64) {
        assert_eq!(event.kind, event_kind::READ);
        self.end.answer(&resume(Answer { length: event.length, data, ..Answer::default() }));
    }

    /// Serves a guest for some rounds that reads a number and writes it back.
    pub fn serve_echo(&mut self, mut event: Event, rounds: u64) {
        for round in 0..rounds {
            self.answer_read(&event, 0x1000 + round);
            let write = self.event();
            assert_eq!((write.kind, write.length, write.data), (event_kind::WRITE, 2, 0x1000 + round));
            self.end.answer(&resume(Answer::default()));
            event = self.event();
        }
    }
}

fn view(blocks: &Arc<Blocks<ToVmm>>) -> BlockRef<ToVmm> {
    BlockRef::new(blocks, 0).expect("a block")
}

/// Wakes the VMM's thread, should it sleep.
pub fn wake(to_vmm: &ToVmm) {
    let bell = &to_vmm.answer.doorbell;
    bell.fetch_add(1, Ordering::SeqCst);
    futex::wake(bell);
}

/// A resume with the rest as given.
pub fn resume(rest: Answer) -> Answer {
    Answer { kind: answer_kind::RESUME, ..rest }
}
