//! Every system call of a whole run fails once.
//!
//! A run is: start, jail, requests of all kinds, a guest with all kinds of accesses, a trace and a management socket, and
//! the end. It is done again and again, and each time the next call fails, or is interrupted by a signal.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::Stdio;

use outboard::sys::Errno;
use outboard_plugin::{Event, GuestMemory, IrqRoute, IrqTarget, Region, Space};

use crate::common::cage::Cage;
use crate::common::guest::real_mode;
use crate::common::machine::{connect, enter};
use crate::common::suite::{Case, Tested, case};
use crate::mark;
use crate::trace::{self, Fault, Held, How, Run, Who};

pub const CASES: &[Case] = &[
    case!(main_thread).around(|case| sweep(case, Who::Main, How::Fails, 250)).only(CAGES),
    case!(other_threads).around(|case| sweep(case, Who::Thread, How::Fails, 25)).only(CAGES),
    case!(child).around(|case| sweep(case, Who::Child, How::Fails, 50)).only(CAGES),
    case!(main_thread_interrupted).around(|case| sweep(case, Who::Main, How::IsInterrupted, 50)).only(CAGES),
    case!(other_threads_interrupted).around(|case| sweep(case, Who::Thread, How::IsInterrupted, 10)).only(CAGES),
];

const CAGES: &[Cage] = &[Cage::Caged, Cage::Uncaged];
/// Statuses that README.md documents: a good end, the plugin killed or not to be executed, a system call, the host, a guest
/// whose plugin was refused its registers; and
/// those of the plugin half.
const STATUSES: [i32; 7] = [0, 1, 70, 71, 74, REFUSED, LOST];
/// The plugin was refused a request, and left.
const REFUSED: i32 = 42;
/// The plugin lost its VMM.
const LOST: i32 = 43;

real_mode!(does_everything:
    "in ax, 0x10",
    "out 0x11, ax",
    "out 0x12, ax",
    "mov si, 0x2000",
    "mov cx, 4",
    "mov dx, 0x13",
    "cld",
    "rep outsb",
    "out 0x14, al",
    "2: in ax, 0x15",
    "jmp 2b",
);

fn main_thread() -> Tested {
    everything()
}

fn other_threads() -> Tested {
    everything()
}

fn main_thread_interrupted() -> Tested {
    everything()
}

fn other_threads_interrupted() -> Tested {
    everything()
}

fn child() -> Tested {
    everything()
}

/// The plugin half of all: a refusal and the loss of the VMM end it, with a status for each.
fn everything() -> Tested {
    is_as_confined_as_it_should_be();
    let Err(error) = requests_and_guest() else { return Ok(()) };
    let lost =
        matches!(error.downcast_ref(), Some(outboard_plugin::Error::Closed | outboard_plugin::Error::NotConnected));
    // In one write: the VMM shares this stream, and its sentence must not come into the middle.
    let _ = std::io::stderr().write_all(format!("plugin half: {error}\n").as_bytes());
    std::process::exit(if lost { LOST } else { REFUSED });
}

/// A step of the jail that failed must not let the plugin run in what is left of it.
fn is_as_confined_as_it_should_be() {
    // The jail does without one, aloud, where it cannot be mounted.
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().to_owned()
    };
    // Two descriptors beyond the standard streams: the control socket, and that of this very look.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .expect("a /proc")
        .map(|entry| entry.expect("an entry").file_name().to_str().expect("digits").parse().expect("digits"))
        .collect();
    assert!(open.iter().all(|fd| *fd <= 4), "descriptors {open:?}");
    if std::env::var_os("OUTBOARD_TEST_CAGED").is_none() {
        return;
    }
    assert_eq!(std::process::id(), 1, "process 1 of its own namespace");
    for (name, value) in
        [("NoNewPrivs:", "1"), ("Seccomp:", "2"), ("CapBnd:", "0000000000000000"), ("CapEff:", "0000000000000000")]
    {
        assert_eq!(field(name), value, "{name}");
    }
    assert!(field("Uid:").split_whitespace().all(|uid| uid == "65534"), "{}", field("Uid:"));
    assert!(!std::path::Path::new("/etc/passwd").exists(), "an empty root");
    assert!(std::fs::write("/here", "").is_err(), "a read-only root");
}

fn requests_and_guest() -> Tested {
    let (mut vm, _memory) = connect(does_everything())?;
    for port in [0x10, 0x11, 0x13, 0x15] {
        vm.reserve(Space::Port, port..port + 1)?;
    }
    vm.reserve_posted(Space::Port, 0x12..0x13)?;
    let bell = vm.create_io_event(Space::Port, 0x14, 1, None)?;
    let irq = vm.create_irq_event(5, true)?;
    let slot = GuestMemory::new(0x1000)?;
    let slot =
        vm.create_memory(&slot, &Region { start: 0x20_0000, length: 0x1000, dirty_log: true, ..Region::default() })?;
    let routes: Vec<_> =
        (0..100).map(|gsi| IrqRoute { gsi, target: IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 } }).collect();
    vm.set_irq_routes(&routes)?;
    vm.msr_indices()?;
    let clock = vm.clock()?;
    vm.set_clock(&clock)?;
    let mut second = vm.new_connection()?;
    second.check_extension(0)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    match vcpu.wait()? {
        Event::Init(mut init) => enter(&mut init, |_| {})?,
        _ => return Err(Box::new(outboard_plugin::Error::Closed)),
    }
    second.dirty_log(&slot)?;
    drop(second);
    let mut paused = false;
    loop {
        match vcpu.wait()? {
            Event::Read(read) if read.address() == 0x15 && !paused => vm.pause_vcpus([0], 1)?,
            Event::Read(read) if read.address() == 0x15 => break,
            Event::Paused(mut stopped) => {
                let (regs, xsave) = (stopped.regs()?, stopped.xsave()?);
                stopped.set_regs(&regs)?;
                stopped.set_xsave(&xsave)?;
                paused = true;
            }
            Event::Shutdown => return Err(Box::new(outboard_plugin::Error::Closed)),
            _ => {}
        }
    }
    assert_eq!(bell.fd().drain()?, 1);
    vm.destroy_io_event(&bell)?;
    vm.destroy_irq_event(&irq)?;
    Ok(vm.destroy_memory(&slot)?)
}

/// What a run said and left behind.
struct Seen {
    run: Run,
    stderr: String,
    left: Vec<i32>,
}

fn once(case: &Case, fault: Fault) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, file) = (folder.path().join("socket"), folder.path().join("trace"));
    let mut program = case.program();
    program.args(["--socket".as_ref(), socket.as_os_str(), "--trace".as_ref(), file.as_os_str()]);
    if case.cage.is_caged() {
        program.args(["--plugin-env", "OUTBOARD_TEST_CAGED=1"]);
    }
    let mark = mark::fresh();
    let command = program.command().env(mark::VARIABLE, &mark);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    #[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
    let mut child = trace::spawn(command);
    let mut pipe = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        // It ends with the last that holds the pipe: the plugin, if that is left behind.
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let run = trace::follow(&child, fault);
    let stderr = reader.join().expect("a reader").expect("text");
    Seen { run, stderr, left: mark::carriers(&mark) }
}

/// What is wrong with a run, if anything is.
fn judge(seen: &Seen, usual: &Held) -> Result<i32, String> {
    let Seen { run, stderr, left } = seen;
    let status = match run.status.code() {
        _ if run.hung => return Err("it hung".into()),
        Some(status) if STATUSES.contains(&status) => status,
        _ => return Err(format!("it ended with {}", run.status)),
    };
    let sentences: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("outboard: ") && !line.starts_with("outboard: warning: "))
        .collect();
    let extra: Vec<_> = run.held.descriptors.iter().filter(|what| !usual.descriptors.contains(what)).collect();
    if stderr.contains("panicked") {
        return Err("it panicked".into());
    }
    if status == 0 && !sentences.is_empty() || status != 0 && sentences.len() != 1 {
        return Err(format!("{} sentences with status {status}", sentences.len()));
    }
    if !left.is_empty() {
        return Err(format!("processes {left:?} are left"));
    }
    if run.held.descriptors.len() > usual.descriptors.len() || run.held.threads > usual.threads {
        return Err(format!("it left with {:?}, of them unusual {extra:?}; usual is {usual:?}", run.held));
    }
    Ok(status)
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mounts").expect("a /proc")
}

/// Lets call after call fail; there have to be so many at least.
fn sweep(case: &Case, who: Who, how: How, least: usize) -> Tested {
    let before = mounts();
    let usual = once(case, Fault { who, how, number: usize::MAX });
    let mut wrong = Vec::new();
    if let Err(what) = judge(&usual, &usual.run.held) {
        return Err(format!("without a fault: {what}; it said {}", usual.stderr).into());
    }
    let (mut number, mut statuses) = (0, BTreeMap::<i32, usize>::new());
    loop {
        let seen = once(case, Fault { who, how, number });
        let Some((call, errno)) = seen.run.failed else { break };
        match judge(&seen, &usual.run.held) {
            Ok(status) if how == How::IsInterrupted && status != 0 => {
                wrong.push(describe(number, call, errno, "an interrupted call ended it", &seen.stderr));
            }
            Ok(status) => *statuses.entry(status).or_default() += 1,
            Err(what) => wrong.push(describe(number, call, errno, &what, &seen.stderr)),
        }
        number += 1;
    }
    println!("{who:?}, {how:?}, {}: {number} calls, one in each run; runs by status: {statuses:?}", case.cage.name());
    assert!(number >= least, "only {number} calls were seen: the search is broken");
    assert_eq!(before, mounts(), "mounts are left");
    assert!(wrong.is_empty(), "{} of {number} runs went wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn describe(number: usize, call: u64, errno: Errno, what: &str, stderr: &str) -> String {
    let name = outboard::jail::syscalls::name(call as u32).unwrap_or("?");
    format!("call {number}, {name} -> {errno:?}: {what}; it said {:?}", stderr.trim_end())
}
