//! A VMM without a VM: the other end of the socket and of the blocks, for tests.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use outboard_plugin::{Connection, GuestMemory};
use outboard_wire::block::{self, STRIDE, ToPlugin, ToVmm};
use outboard_wire::control::{HelloReply, Kind, SPIN_AUTO};
use outboard_wire::frame::{self, Header};
use outboard_wire::limits::{MAX_FRAME, VERSION_MAJOR, VERSION_MINOR};
use outboard_wire::line::{Answer, Event, answer_kind, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::socket;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::vmm_end::VmmEnd;
use outboard_wire::words;
use zerocopy::IntoBytes;

/// What a request looked like to the VMM.
pub struct Request {
    pub header: Header,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// How the VMM replies: status, body, descriptors.
pub type Reply = (i32, Vec<u8>, Vec<OwnedFd>);

pub fn done() -> Reply {
    (0, Vec::new(), Vec::new())
}

pub fn hello(vcpus: u32) -> HelloReply {
    HelloReply {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR,
        layout: block::LAYOUT,
        vcpus,
        cpus: 2,
        spin_mode: SPIN_AUTO,
        reserved: 0,
        spin_ns: 0,
        tsc_khz: 2_000_000,
    }
}

/// Receives one request; `None` when the plugin closed.
pub fn receive(socket: &OwnedFd) -> Option<Request> {
    let mut buffer = [0; MAX_FRAME];
    let (length, fds) = socket::receive(socket.as_fd(), &mut buffer).unwrap();
    if length == 0 {
        return None;
    }
    let (header, body) = frame::parse(&buffer[..length], fds.len()).unwrap();
    Some(Request { header, body: body.to_vec(), fds })
}

pub fn reply(socket: &OwnedFd, to: &Header, (status, body, fds): Reply) {
    let mut message = Header::reply(to.kind, to.sequence, status, body.len(), fds.len()).as_bytes().to_vec();
    message.extend(body);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    socket::send(socket.as_fd(), &message, &fds).unwrap();
}

/// An eventfd in all but name: something readable once it was written to.
pub fn some_fd() -> OwnedFd {
    GuestMemory::new(4096).unwrap().as_fd().try_clone_to_owned().unwrap()
}

pub struct Fake {
    pub connection: Connection,
    pub vcpus: Vec<FakeVcpu>,
    /// Ends when the plugin closes the first connection.
    pub control: JoinHandle<()>,
}

/// A VMM that answers Hello truthfully and everything else with `serve`.
pub fn fake(vcpus: u32, serve: impl FnMut(Request) -> Reply + Send + 'static) -> Fake {
    let (ours, theirs) = socket::pair().unwrap();
    let (vcpus, control) = behind(theirs, vcpus, serve);
    Fake { connection: Connection::over(ours).unwrap(), vcpus, control }
}

/// A VMM behind its end of a control socket: its vCPUs, and the thread that serves the socket.
pub fn behind(
    socket: OwnedFd,
    vcpus: u32,
    serve: impl FnMut(Request) -> Reply + Send + 'static,
) -> (Vec<FakeVcpu>, JoinHandle<()>) {
    let down = GuestMemory::new(vcpus as usize * STRIDE).unwrap();
    let up = GuestMemory::new(vcpus as usize * STRIDE).unwrap();
    let to_plugin = Arc::new(Blocks::map(down.as_fd(), vcpus as usize, Access::Write).unwrap());
    let to_vmm = Arc::new(Blocks::map(up.as_fd(), vcpus as usize, Access::Read).unwrap());
    let fds = [&down, &up].map(|memory| memory.as_fd().try_clone_to_owned().unwrap());
    let control = thread::spawn(move || {
        let first = receive(&socket).unwrap();
        assert_eq!((first.header.kind, first.header.sequence), (Kind::Hello as u16, 1));
        reply(&socket, &first.header, (0, hello(vcpus).as_bytes().to_vec(), Vec::from(fds)));
        control_loop(&socket, serve);
    });
    ((0..vcpus as usize).map(|index| FakeVcpu::new(&to_plugin, &to_vmm, index)).collect(), control)
}

/// Serves a connection until the plugin closes it, and checks that its sequence numbers have no holes.
pub fn control_loop(socket: &OwnedFd, mut serve: impl FnMut(Request) -> Reply) {
    let mut last = None;
    while let Some(request) = receive(socket) {
        let sequence = request.header.sequence;
        assert!(last.is_none_or(|last| sequence == last + 1));
        last = Some(sequence);
        let header = request.header;
        reply(socket, &header, serve(request));
    }
}

/// A VMM without requests.
pub fn fake_vcpus(count: u32) -> Fake {
    fake(count, |request| panic!("request {} was not expected", request.header.kind))
}

/// The VMM's end of a vCPU.
pub struct FakeVcpu {
    pub end: VmmEnd,
    pub eventfd: Arc<OnceLock<OwnedFd>>,
    never: AtomicU32,
}

impl FakeVcpu {
    fn new(to_plugin: &Arc<Blocks<ToPlugin>>, to_vmm: &Arc<Blocks<ToVmm>>, index: usize) -> FakeVcpu {
        let eventfd = Arc::new(OnceLock::new());
        let end = VmmEnd::new(
            BlockRef::new(to_plugin, index).unwrap(),
            BlockRef::new(to_vmm, index).unwrap(),
            Spinner::new(SpinMode::Auto, 2_000_000),
            Arc::new(SpinLimit::new(2, 1)),
            Arc::clone(&eventfd),
        );
        FakeVcpu { end, eventfd, never: AtomicU32::new(0) }
    }

    /// Publishes an event and waits for whatever comes back.
    pub fn say(&mut self, event: Event) -> Answer {
        self.end.publish(&event);
        self.end.wait_answer(0, &self.never).unwrap()
    }

    /// Publishes an event that must be resumed at once.
    pub fn resumed(&mut self, event: Event) -> Answer {
        let answer = self.say(event);
        assert_eq!(answer.kind, answer_kind::RESUME, "{answer:?}");
        answer
    }

    pub fn init(&mut self) -> Answer {
        self.resumed(Event { kind: event_kind::INIT, ..Event::default() })
    }

    /// Publishes a reply to a command and waits for what comes next.
    pub fn reply(&mut self, status: i32, count: u64, bytes: &[u8]) -> Answer {
        words::store(&self.end.to_plugin().bulk, bytes);
        self.say(Event { kind: event_kind::REPLY, status, count, length: bytes.len() as u32, ..Event::default() })
    }

    /// What the plugin laid into its bulk area.
    pub fn bulk(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        words::load(&self.end.to_vmm().bulk, &mut bytes);
        bytes
    }

    pub fn post(&mut self, data: u64) {
        let write = outboard_wire::posted::PostedWrite { mmio: false, length: 4, address: 0xe9, data, tsc: 0, cpu: 0 };
        self.end.post(&write, 0, &self.never).unwrap();
    }
}

pub fn read(address: u64, length: u32) -> Event {
    Event { kind: event_kind::READ, address, length, width: length.min(8) as u8, ..Event::default() }
}

pub fn write(address: u64, length: u32, data: u64) -> Event {
    Event { kind: event_kind::WRITE, data, ..read(address, length) }
}
