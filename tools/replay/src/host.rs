//! Answers the plugin's control requests as the trace has them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use zerocopy::{FromBytes, IntoBytes};

use super::memory::{GuestMemory, Shared, file_of};
use outboard_wire::block;
use outboard_wire::control::{
    CreateIrqEvent, CreateMemory, DestroyMemory, HelloReply, IRQ_EVENT_RESAMPLE, Kind, ObjectId, SPIN_AUTO,
    VcpuEventFd, body,
};
use outboard_wire::frame::{self, Header};
use outboard_wire::limits::{MAX_FRAME, VERSION_MAJOR, VERSION_MINOR};
use outboard_wire::socket;
use outboard_wire::trace::read::Trace;
use outboard_wire::trace::{area, kind};

/// Errors that requests are refused with (errno.h).
const EINVAL: i32 = 22;
const ENOENT: i32 = 2;
const ENODATA: i32 = 61;

/// A recorded reply.
#[derive(Clone, Debug)]
struct Recorded {
    status: i32,
    body: Vec<u8>,
    file: Vec<u8>,
}

/// What the control thread tells the feeder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The plugin started the vCPUs.
    Started,
    /// It made a request that the trace does not have: its kind and body.
    Unknown(u16, Vec<u8>),
}

/// The VMM as far as requests see it.
pub struct Host {
    hello: HelloReply,
    shared: Shared,
    /// What the plugin gave to the guest.
    pub memory: GuestMemory,
    /// Replies by request, in the order in which they were recorded.
    recorded: Mutex<Replies>,
    /// The shutdown event.
    pub shutdown: OwnedFd,
    /// The eventfds of the vCPUs.
    pub eventfds: Vec<Arc<OnceLock<OwnedFd>>>,
    notices: Sender<Notice>,
}

/// Replies by kind and body of their requests.
type Replies = BTreeMap<(u16, Vec<u8>), VecDeque<Recorded>>;

type Reply = Result<(Vec<u8>, Vec<OwnedFd>), i32>;

impl Host {
    /// A host for a trace. `notices` hears of what matters to the feeder.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn new(trace: &Trace, shared: Shared, notices: Sender<Notice>) -> io::Result<Host> {
        let mut recorded = Replies::new();
        for group in trace.groups.iter().filter(|group| group.head.kind == kind::CONTROL) {
            let key = (group.head.answer.file as u16, group.data(area::REQUEST_BODY).to_vec());
            recorded.entry(key).or_default().push_back(Recorded {
                status: group.head.event.status,
                body: group.data(area::REPLY_BODY).to_vec(),
                file: group.data(area::REPLY_FILE).to_vec(),
            });
        }
        let hello = HelloReply {
            major: VERSION_MAJOR,
            minor: VERSION_MINOR,
            layout: block::LAYOUT,
            vcpus: trace.header.vcpus,
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            spin_mode: SPIN_AUTO,
            reserved: 0,
            spin_ns: 0,
            tsc_khz: trace.header.tsc_khz,
        };
        let eventfds = (0..trace.header.vcpus).map(|_| Arc::default()).collect();
        let (memory, shutdown) = (GuestMemory::default(), new_eventfd()?);
        Ok(Host { hello, shared, memory, recorded: Mutex::new(recorded), shutdown, eventfds, notices })
    }

    /// The memory shared with the plugin.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Serves a connection until the plugin closes it or breaks the protocol.
    pub fn serve(self: &Arc<Host>, connection: &OwnedFd) {
        let mut buffer = [0; MAX_FRAME];
        while let Ok((length @ 1.., fds)) = socket::receive(connection.as_fd(), &mut buffer) {
            let Ok((header, body)) = frame::parse(&buffer[..length], fds.len()) else { return };
            let reply = self.reply(header.kind, body, fds);
            let (status, (body, fds)) = match reply {
                Ok(reply) => (0, reply),
                Err(errno) => (-errno, (Vec::new(), Vec::new())),
            };
            let mut message =
                Header::reply(header.kind, header.sequence, status, body.len(), fds.len()).as_bytes().to_vec();
            message.extend(body);
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if socket::send(connection.as_fd(), &message, &fds).is_err() {
                return;
            }
            if header.kind == Kind::Start as u16 && status == 0 {
                let _ = self.notices.send(Notice::Started);
            }
        }
    }

    fn reply(self: &Arc<Host>, number: u16, bytes: &[u8], fds: Vec<OwnedFd>) -> Reply {
        let failed = |error: io::Error| error.raw_os_error().unwrap_or(EINVAL);
        match Kind::from_number(number) {
            Some(Kind::Hello) => Ok((self.hello.as_bytes().to_vec(), self.shared.descriptors().map_err(failed)?)),
            Some(Kind::NewConnection) => {
                let (ours, theirs) = socket::pair().map_err(failed)?;
                let host = Arc::clone(self);
                std::thread::Builder::new().spawn(move || host.serve(&ours)).map_err(failed)?;
                Ok((Vec::new(), vec![theirs]))
            }
            // These are the host's own, whatever the trace says.
            Some(Kind::ShutdownEvent) => Ok((Vec::new(), vec![self.shutdown.try_clone().map_err(failed)?])),
            Some(Kind::VcpuEventFd) => {
                let request: VcpuEventFd = body(bytes).ok_or(EINVAL)?;
                let place = self.eventfds.get(request.vcpu as usize).ok_or(ENOENT)?;
                if place.get().is_none() {
                    let _ = place.set(new_eventfd().map_err(failed)?);
                }
                let fd = place.get().ok_or(ENOENT)?.try_clone().map_err(failed)?;
                Ok((Vec::new(), vec![fd]))
            }
            kind => {
                let reply = self.recorded(number, kind, bytes);
                if let Ok((reply, _)) = &reply {
                    self.note_memory(kind, bytes, reply, fds);
                }
                reply
            }
        }
    }

    fn recorded(&self, number: u16, kind: Option<Kind>, bytes: &[u8]) -> Reply {
        let Some(Recorded { status, body, file }) = self.next(number, bytes) else {
            let _ = self.notices.send(Notice::Unknown(number, bytes.to_vec()));
            return Err(EINVAL);
        };
        if status != 0 {
            return Err(-status);
        }
        let failed = |error: io::Error| error.raw_os_error().unwrap_or(EINVAL);
        let eventfds = |count: usize| (0..count).map(|_| new_eventfd()).collect::<io::Result<Vec<_>>>().map_err(failed);
        let fds = match kind {
            Some(Kind::HostList) => vec![file_of(&file).map_err(failed)?],
            // A log that was too long to be recorded is empty.
            Some(Kind::DirtyLog) => {
                let pages = u64::read_from_bytes(&body).unwrap_or(0).min(1 << 32);
                let mut log = file;
                log.resize(pages.div_ceil(8) as usize, 0);
                vec![file_of(&log).map_err(failed)?]
            }
            Some(Kind::CreateIoEvent) => eventfds(1)?,
            Some(Kind::CreateIrqEvent) => {
                let request: CreateIrqEvent = outboard_wire::control::body(bytes).ok_or(EINVAL)?;
                eventfds(if request.flags & IRQ_EVENT_RESAMPLE != 0 { 2 } else { 1 })?
            }
            Some(Kind::NetConfig) => return Err(ENODATA),
            _ => Vec::new(),
        };
        Ok((body, fds))
    }

    /// Keeps track of what memory the guest has.
    fn note_memory(&self, kind: Option<Kind>, bytes: &[u8], reply: &[u8], fds: Vec<OwnedFd>) {
        match kind {
            Some(Kind::CreateMemory) => {
                let (request, id) = (body::<CreateMemory>(bytes), body::<ObjectId>(reply));
                if let (Some(request), Some(ObjectId { id }), Some(fd)) = (request, id, fds.into_iter().next()) {
                    self.memory.add(id, fd, request.offset);
                }
            }
            Some(Kind::DestroyMemory) => {
                if let Some(DestroyMemory { id }) = body(bytes) {
                    self.memory.remove(id);
                }
            }
            _ => {}
        }
    }

    /// The next reply to this very request; the last one again when there is no other.
    fn next(&self, number: u16, bytes: &[u8]) -> Option<Recorded> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let replies = recorded.get_mut(&(number, bytes.to_vec()))?;
        if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
    }
}

fn new_eventfd() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
