//! Records traces: turns the writing of the vCPU threads on and off, and drains their rings into a file.
//!
//! A thread of its own does the draining, so that a slow disk holds up nothing but the trace: what does not fit into the
//! rings meanwhile is lost, counted and said.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use zerocopy::IntoBytes;

use super::memory_trace::{Buffer, Memory, MemoryTrace};
use super::reply::Reply;
use crate::sys::Errno;
use crate::vcpu::control::Control;
use outboard_wire::clock;
use outboard_wire::control::Kind;
use outboard_wire::stats::read::Vm;
use outboard_wire::trace::ring::{self, Ring};
use outboard_wire::trace::write::Writer;
use outboard_wire::trace::{
    AnswerPart, CONTROL, EventPart, FLAG_FROM_START, FLAG_MEMORY, Header, MAGIC, RECORD, Record, VERSION, area, kind,
};

/// How often the rings are drained. The busiest guest fills its ring in about eight times as long.
const INTERVAL: Duration = Duration::from_millis(10);

/// Largest file of a reply that is recorded.
const MAX_FILE: usize = 64 * 1024;

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Somebody else records.
    #[error("a trace of this VM is being recorded already, in {0}")]
    Busy(PathBuf),
    /// Nobody records.
    #[error("no trace of this VM is being recorded")]
    Idle,
    /// No file came along.
    #[error("no regular file came along to record in")]
    NoFile,
    /// The file cannot be written.
    #[error("cannot write the trace {0}: {1}")]
    Write(PathBuf, io::Error),
    /// The guest's memory cannot be looked at.
    #[error("the trace {0} lacks some of the guest's memory, which could not be looked at: {1}")]
    Memory(PathBuf, Errno),
}

/// A file that a trace goes to.
pub(super) struct TraceFile {
    path: PathBuf,
    file: File,
}

impl TraceFile {
    /// Makes it, for this user alone; what lay there before is gone.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub(super) fn create(path: &Path) -> Result<TraceFile, TraceError> {
        let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = made.map_err(|error| TraceError::Write(path.to_owned(), error))?;
        Ok(TraceFile { path: path.to_owned(), file })
    }

    /// One that somebody handed over, called so; empty, or what it holds is overwritten.
    ///
    /// # Errors
    /// [`TraceError::NoFile`] unless it is a regular file: the end of anything else might never come.
    pub(super) fn given(path: PathBuf, file: Option<OwnedFd>) -> Result<TraceFile, TraceError> {
        let file = file.map(File::from).filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()));
        file.map(|file| TraceFile { path, file }).ok_or(TraceError::NoFile)
    }
}

struct Active {
    memory: Option<MemoryTrace>,
    thread: JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
    path: PathBuf,
    file: File,
    /// Groups that were lost before it began.
    lost_before: u64,
}

/// The recorder of a VM.
pub struct Recorder {
    rings: Vec<Arc<OnceLock<Ring>>>,
    controls: Vec<Arc<Control>>,
    requests: Writer,
    cpus: u32,
    memory: Option<Memory>,
    active: Option<Active>,
}

impl Recorder {
    /// A recorder for vCPUs with these rings and controls. The last ring is that of the control thread. With `memory`, what
    /// the guest writes to its memory is recorded too.
    pub(super) fn new(
        rings: Vec<Arc<OnceLock<Ring>>>,
        controls: Vec<Arc<Control>>,
        cpus: u32,
        memory: Option<Memory>,
    ) -> Recorder {
        let requests = Writer::new(rings.last().map(Arc::clone).unwrap_or_default(), CONTROL);
        Recorder { rings, controls, requests, cpus, memory, active: None }
    }

    /// Begins to record. `lost` is the number of groups that the vCPUs have lost so far; `from_start` says that the plugin
    /// was not started yet.
    ///
    /// # Errors
    /// [`TraceError::Busy`], [`TraceError::Write`].
    pub(super) fn start(
        &mut self,
        TraceFile { path, mut file }: TraceFile,
        vm: &Vm,
        lost: u64,
        from_start: bool,
    ) -> Result<(), TraceError> {
        self.check_idle()?;
        let failed = |error| TraceError::Write(path.clone(), error);
        file.set_len(0).map_err(failed)?;
        file.write_all(self.header(vm, from_start).as_bytes()).map_err(failed)?;
        // What the last trace has left.
        self.rings.iter().for_each(|ring| ring.get_or_init(Ring::default).discard());
        let stop = Arc::new(AtomicBool::new(false));
        let (rings, stopped) = (self.rings.clone(), Arc::clone(&stop));
        let mut to = file.try_clone().map_err(failed)?;
        let buffer = Buffer::default();
        let memory = self.memory.as_ref().map(|memory| MemoryTrace::start(memory, &buffer));
        let memory = memory.transpose().map_err(failed)?;
        let thread = std::thread::Builder::new().name("trace".to_owned());
        let thread = thread.spawn(move || drain(&rings, &buffer, &mut to, &stopped)).map_err(failed)?;
        let lost_before = lost + self.requests.lost();
        self.active = Some(Active { memory, thread, stop, path, file, lost_before });
        self.controls.iter().for_each(|control| control.set_tracing(true));
        Ok(())
    }

    /// Stops recording; returns how many groups were lost.
    ///
    /// # Errors
    /// [`TraceError::Idle`], [`TraceError::Write`] if any of it could not be written.
    pub(super) fn stop(&mut self, lost: u64) -> Result<u64, TraceError> {
        let Active { memory, thread, stop, path, mut file, lost_before } =
            self.active.take().ok_or(TraceError::Idle)?;
        self.controls.iter().for_each(|control| control.set_tracing(false));
        let remembered = memory.map_or(Ok(()), MemoryTrace::stop);
        stop.store(true, Ordering::Release);
        thread.thread().unpark();
        let lost = (lost + self.requests.lost()).saturating_sub(lost_before);
        let written = thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).and_then(|()| {
            let event = EventPart { data: lost, ..EventPart::default() };
            let end = Record { kind: kind::END, vcpu: CONTROL, exit: clock::now(), event, ..Record::default() };
            file.write_all(end.as_bytes())
        });
        written.map_err(|error| TraceError::Write(path.clone(), error))?;
        remembered.map_err(|errno| TraceError::Memory(path, errno))?;
        Ok(lost)
    }

    /// Fails while a trace is being recorded.
    ///
    /// # Errors
    /// [`TraceError::Busy`].
    pub(super) fn check_idle(&self) -> Result<(), TraceError> {
        self.active.as_ref().map_or(Ok(()), |active| Err(TraceError::Busy(active.path.clone())))
    }

    /// Whether a trace is being recorded.
    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Records a request of the plugin and its reply.
    pub(super) fn request(&mut self, number: u16, body: &[u8], reply: &Result<Reply, Errno>) {
        if !self.is_active() {
            return;
        }
        let now = clock::now();
        let status = reply.as_ref().err().map_or(0, |errno| -errno.0);
        let event = EventPart { status, ..EventPart::default() };
        let answer = AnswerPart { file: number.into(), ..AnswerPart::default() };
        let head = Record { kind: kind::CONTROL, exit: now, entered: now, event, answer, ..Record::default() };
        self.requests.begin(head);
        self.requests.payload(area::REQUEST_BODY, body);
        if let Ok(reply) = reply {
            self.requests.payload(area::REPLY_BODY, &reply.body);
            if matches!(Kind::from_number(number), Some(Kind::HostList | Kind::DirtyLog)) {
                self.requests.payload(area::REPLY_FILE, &contents(reply));
            }
        }
        self.requests.end();
    }

    fn header(&self, vm: &Vm, from_start: bool) -> Header {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Header {
            magic: MAGIC,
            version: VERSION,
            record: RECORD as u32,
            vcpus: vm.vcpus as u32,
            flags: if from_start { FLAG_FROM_START } else { 0 } | if self.memory.is_some() { FLAG_MEMORY } else { 0 },
            tsc_khz: vm.tsc_khz,
            start_tsc: clock::now(),
            start_time: since_1970.as_nanos() as u64,
            pid: vm.pid,
            cpus: self.cpus,
            name: padded(vm.name.as_bytes()),
            path: padded(vm.path.as_bytes()),
            reserved: [0; 136],
        }
    }
}

impl Drop for Recorder {
    /// Ends a trace whose VM could not run on, so that the file is whole as far as it goes.
    fn drop(&mut self) {
        if let Err(error @ TraceError::Write(..)) = self.stop(0) {
            log::warn!("{error}");
        }
    }
}

fn padded<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    core::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
}

/// What lies in the file of a reply.
fn contents(reply: &Reply) -> Vec<u8> {
    let Some(file) = reply.fds.first().and_then(|fd| fd.try_clone().ok()).map(File::from) else { return Vec::new() };
    let length = file.metadata().map_or(0, |meta| meta.len() as usize).min(MAX_FILE);
    let mut bytes = vec![0; length];
    if file.read_exact_at(&mut bytes, 0).is_err() { Vec::new() } else { bytes }
}

/// Drains the rings until it is stopped, and once more then.
fn drain(rings: &[Arc<OnceLock<Ring>>], memory: &Buffer, to: &mut File, stop: &AtomicBool) -> io::Result<()> {
    // Held at this size for as long as the trace is recorded, so that a busy moment does not spread the heap.
    let (mut bytes, mut done) = (Vec::with_capacity(ring::PIECE * RECORD), Ok(()));
    // A file that cannot be written any more is said once, at the end; the rings are drained all the same.
    let mut write = |bytes: &mut Vec<u8>| {
        if done.is_ok() {
            done = to.write_all(bytes);
        }
        bytes.clear();
    };
    loop {
        let last = stop.load(Ordering::Acquire);
        // The control thread's comes first: a trace that is cut off keeps the requests that led to what it holds.
        write(&mut memory.take());
        for ring in rings.iter().rev().filter_map(|ring| ring.get()) {
            ring.drain_in_pieces(&mut bytes, &mut write);
        }
        if last {
            return done;
        }
        std::thread::park_timeout(INTERVAL);
    }
}
