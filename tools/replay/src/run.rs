//! One replay: the plugin's process, its connections, its vCPUs, its end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};

use super::compare::Ignored;
use super::feed::{Broken, Feeder, Progress, Step, steps};
use super::host::{Host, Notice};
use super::memory::{Changes, Shared};
use super::outcome::{Outcome, Table};
use super::{Plugin, ReplayError};
use outboard_wire::page::BlockRef;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::trace::read::Trace;
use outboard_wire::vmm_end::VmmEnd;
use outboard_wire::{futex, socket};

/// Number of the plugin's end of the socket.
const SOCKET: i32 = 3;

/// What fails where a thread cannot be had.
const A_THREAD: &str = "starting a thread";

/// How often the end of the process is looked for.
const STEP: Duration = Duration::from_millis(5);

/// How long the plugin has to end after the shutdown event, as under a VMM.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// How to replay.
pub(crate) struct How<'a> {
    /// No event comes earlier than it did.
    pub keep_pace: bool,
    /// What an answer may take.
    pub limit: Duration,
    /// Reads that are not compared.
    pub ignored: &'a [Ignored],
}

/// Replays a trace once.
///
/// # Errors
/// A [`ReplayError`] if it could not begin.
pub(crate) fn run(trace: &Trace, plugin: &Plugin, how: &How<'_>, table: &mut Table) -> Result<Outcome, ReplayError> {
    let call = |what| move |error: io::Error| ReplayError::Call(what, error);
    let (ours, theirs) = socket::pair().map_err(call("socketpair"))?;
    let (sender, notices) = mpsc::channel();
    let shared = Shared::new(trace.header.vcpus as usize).map_err(call("making the shared memory"))?;
    let host = Arc::new(Host::new(trace, shared, sender).map_err(call("eventfd"))?);
    let control = {
        let host = Arc::clone(&host);
        std::thread::Builder::new().spawn(move || host.serve(&ours)).map_err(call(A_THREAD))?
    };
    let mut child = spawn(plugin, theirs)?;
    let fed = match started(&mut child, &notices, how.limit) {
        Ok(()) => feed(trace, &host, &mut child, how, table).map_err(call(A_THREAD)),
        Err(outcome) => Ok(outcome),
    };
    let outcome = match (fed, notices.try_iter().find(|notice| *notice != Notice::Started)) {
        (Ok(Outcome::Same), Some(Notice::Unknown(kind, body))) => Ok(Outcome::Request(kind, body)),
        (fed, _) => fed,
    };
    let _ = rustix::io::write(&host.shutdown, &1u64.to_ne_bytes());
    end(&mut child).map_err(call("ending the plugin"))?;
    // The process is gone, and with it its end of the socket, unless it left somebody behind who holds it.
    drop(host);
    drop(control);
    outcome
}

fn spawn(plugin: &Plugin, socket: OwnedFd) -> Result<Child, ReplayError> {
    let failed = |error: io::Error| ReplayError::Spawn(plugin.program.clone(), error);
    let mut command = Command::new(&plugin.program);
    command.args(&plugin.args).env("OUTBOARD_SOCKET", SOCKET.to_string()).env("CROSVM_SOCKET", SOCKET.to_string());
    command
        .fd_mappings(vec![FdMapping { parent_fd: socket, child_fd: SOCKET }])
        .map_err(|error| failed(io::Error::other(error)))?;
    command.spawn().map_err(failed)
}

/// Waits until the plugin has started the vCPUs.
fn started(child: &mut Child, notices: &Receiver<Notice>, limit: Duration) -> Result<(), Outcome> {
    let due = Instant::now() + limit;
    loop {
        match notices.recv_timeout(STEP) {
            Ok(Notice::Started) => return Ok(()),
            Ok(Notice::Unknown(kind, body)) => return Err(Outcome::Request(kind, body)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Outcome::Ended(None, status.to_string()));
        }
        if Instant::now() > due {
            return Err(Outcome::Hung(None));
        }
    }
}

/// Feeds all vCPUs, each from a thread of its own, and watches the process meanwhile.
///
/// # Errors
/// Why a thread cannot be had; those that were started have ended.
fn feed(trace: &Trace, host: &Host, child: &mut Child, how: &How<'_>, table: &mut Table) -> io::Result<Outcome> {
    let all = steps(trace);
    let (progress, stop) = (Progress::new(all.len()), AtomicU32::new(0));
    let spin = Arc::new(SpinLimit::for_mode(
        SpinMode::Auto,
        std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        all.len() as u32,
    ));
    let pace = how.keep_pace.then(|| (Instant::now(), trace.header.start_tsc, trace.header.tsc_khz));
    let (times, changes) = (Mutex::new(table), Changes::of(&trace.groups));
    let (sender, ends) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut started = Ok(());
        for (vcpu, steps) in all.iter().enumerate() {
            let (sender, spin) = (sender.clone(), Arc::clone(&spin));
            let (times, progress, stop, memory) = (&times, &progress, &stop, (&host.memory, &changes));
            let feeder = std::thread::Builder::new().spawn_scoped(scope, move || {
                let end = end_of(host, vcpu, trace, spin);
                let mut feeder = Feeder { end, vcpu, progress, stop, pace, ignored: how.ignored, memory };
                let mut noted = Vec::with_capacity(steps.len());
                let fed = feeder.feed(steps, |group, ticks| noted.push((group, ticks)));
                let mut table = times.lock().unwrap_or_else(PoisonError::into_inner);
                noted.into_iter().for_each(|(group, ticks)| table.note(group, ticks));
                drop(table);
                // The end goes along: the plugin is told of the end of all vCPUs at once.
                let _ = sender.send((fed, feeder.end));
            });
            if let Err(error) = feeder {
                stop.store(1, Ordering::Release);
                started = Err(error);
                break;
            }
        }
        drop(sender);
        let outcome = watch(&all, host, child, &progress, &stop, &ends, how.limit);
        started.map(|()| outcome)
    })
}

/// Waits for all feeders, and stops them when the process ends or hangs.
fn watch(
    all: &[Vec<Step<'_>>],
    host: &Host,
    child: &mut Child,
    progress: &Progress,
    stop: &AtomicU32,
    ends: &Receiver<(Result<(), Broken>, VmmEnd)>,
    limit: Duration,
) -> Outcome {
    let mut outcome = Outcome::Same;
    let (mut left, mut seen, mut moved) = (all.len(), 0, Instant::now());
    let mut gone: Option<String> = None;
    let mut hung = false;
    let mut done = Vec::new();
    while left > 0 {
        match ends.recv_timeout(STEP) {
            Ok((fed, end)) => {
                left -= 1;
                done.push(end);
                if let Err(broken) = fed {
                    stop.store(1, Ordering::Release);
                    if outcome == Outcome::Same {
                        outcome = match (broken, &gone) {
                            (Broken::Differs(record, how), _) => Outcome::Differs(record, how),
                            (Broken::Violation(record, how), _) => Outcome::Violation(record, how),
                            (Broken::Stopped(record), Some(status)) => Outcome::Ended(Some(record), status.clone()),
                            (Broken::Stopped(record), None) if hung => Outcome::Hung(Some(record)),
                            (Broken::Stopped(_), None) => Outcome::Same,
                        };
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = progress.total();
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
        if gone.is_none()
            && let Ok(Some(status)) = child.try_wait()
        {
            gone = Some(status.to_string());
        }
        hung |= moved.elapsed() > limit;
        if gone.is_some() || hung || stop.load(Ordering::Acquire) != 0 {
            stop.store(1, Ordering::Release);
            wake(host, all.len());
        }
    }
    outcome
}

/// Wakes feeders that sleep on an answer, so that they look at the stop word.
fn wake(host: &Host, vcpus: usize) {
    for vcpu in 0..vcpus {
        if let Some(block) = BlockRef::new(&host.shared().to_vmm, vcpu) {
            futex::wake(&block.answer.doorbell);
        }
    }
}

fn end_of(host: &Host, vcpu: usize, trace: &Trace, spin: Arc<SpinLimit>) -> VmmEnd {
    let to_plugin = BlockRef::new(&host.shared().to_plugin, vcpu).expect("a block per vCPU");
    let to_vmm = BlockRef::new(&host.shared().to_vmm, vcpu).expect("a block per vCPU");
    let spinner = Spinner::new(SpinMode::Auto, trace.header.tsc_khz);
    VmmEnd::new(to_plugin, to_vmm, spinner, spin, Arc::clone(&host.eventfds[vcpu]))
}

/// Waits for the plugin's end as a VMM does, and kills it when it takes too long.
fn end(child: &mut Child) -> io::Result<()> {
    let due = Instant::now() + SHUTDOWN;
    while child.try_wait()?.is_none() {
        if Instant::now() > due {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
