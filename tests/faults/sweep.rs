//! A run of a case again and again, each with the next fault, and what every one of them has to show.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use io_uring::opcode;
use outboard::sys::Errno;

use crate::common::suite::{Case, Tested};
use crate::mark;
use crate::trace::{self, Fault, Held, How, Run, What, Who};

/// Statuses that README.md documents: a good end, the plugin killed or not to be executed, a system call, the host, a guest
/// whose plugin was refused its registers; and those of the plugin half.
const STATUSES: [i32; 7] = [0, 1, 70, 71, 74, REFUSED, LOST];
/// The same for a run that SIGTERM ends and whose completions fail, which is never the plugin's doing.
const STATUSES_OF_COMPLETIONS: [i32; 3] = [0, 70, 143];
/// The plugin was refused a request, and left.
pub const REFUSED: i32 = 42;
/// The plugin lost its VMM.
pub const LOST: i32 = 43;

/// Ends a plugin half with what went wrong.
pub fn leave(error: &dyn std::fmt::Display, status: i32) -> ! {
    // In one write: the VMM shares this stream, and its sentence must not come into the middle.
    let _ = std::io::stderr().write_all(format!("plugin half: {error}\n").as_bytes());
    std::process::exit(status);
}

/// What a VMM said, without its warnings.
pub fn sentences(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("outboard: ") && !line.starts_with("outboard: warning: ")).collect()
}

/// Somebody who does something to the run from outside: gets the VMM, with pipes as standard output and standard error, and
/// the path of its management socket.
pub type Beside = fn(&mut Child, &Path);

/// Nobody.
fn alone(_: &mut Child, _: &Path) {}

/// What a run said and left behind.
struct Seen {
    run: Run,
    stderr: String,
    left: Vec<i32>,
}

fn once(case: &Case, fault: Fault, beside: Beside) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, file) = (folder.path().join("socket"), folder.path().join("trace"));
    let mut program = case.program();
    program.args(["--socket".as_ref(), socket.as_os_str(), "--trace".as_ref(), file.as_os_str()]);
    if case.cage.is_caged() {
        program.args(["--plugin-env", "OUTBOARD_TEST_CAGED=1"]);
    }
    let mark = mark::fresh();
    let command = program.command().env(mark::VARIABLE, &mark);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = trace::spawn(command);
    let mut pipe = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        // It ends with the last that holds the pipe: the plugin, if that is left behind.
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let pid = child.id();
    let beside = std::thread::spawn(move || beside(&mut child, &socket));
    let run = trace::follow(pid, fault);
    beside.join().expect("whoever is beside it");
    let stderr = reader.join().expect("a reader").expect("text");
    Seen { run, stderr, left: mark::carriers(&mark) }
}

/// What is wrong with a run, if anything is.
fn judge(seen: &Seen, how: How, usual: &Held) -> Result<i32, String> {
    let Seen { run, stderr, left } = seen;
    let completes = matches!(how, How::Completes(_));
    let statuses: &[i32] = if completes { &STATUSES_OF_COMPLETIONS } else { &STATUSES };
    let status = match run.status.code() {
        _ if run.hung => return Err("it hung".into()),
        Some(status) if statuses.contains(&status) => status,
        _ => return Err(format!("it ended with {}", run.status)),
    };
    let sentences = sentences(stderr);
    let extra: Vec<_> = run.held.descriptors.iter().filter(|what| !usual.descriptors.contains(what)).collect();
    if stderr.contains("panicked") {
        return Err("it panicked".into());
    }
    if status == 0 && !sentences.is_empty() || status != 0 && sentences.len() != 1 {
        return Err(format!("{} sentences with status {status}", sentences.len()));
    }
    if completes && stderr.contains("was killed") {
        return Err("the plugin was killed".into());
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

/// Lets one thing after another fail; there have to be so many at least.
pub fn sweep(case: &Case, who: Who, how: How, least: usize) -> Tested {
    sweep_beside(case, who, how, least, alone)
}

/// The same with somebody beside each run.
pub fn sweep_beside(case: &Case, who: Who, how: How, least: usize, beside: Beside) -> Tested {
    let before = mounts();
    let usual = once(case, Fault { who, how, number: usize::MAX }, beside);
    let mut wrong = Vec::new();
    if let Err(what) = judge(&usual, how, &usual.run.held) {
        return Err(format!("without a fault: {what}; it said {}", usual.stderr).into());
    }
    let (mut number, mut statuses) = (0, BTreeMap::<i32, usize>::new());
    loop {
        let seen = once(case, Fault { who, how, number }, beside);
        let Some((what, errno)) = seen.run.failed else { break };
        let failed = format!("{number}, {} -> {errno:?}", name(what));
        match judge(&seen, how, &usual.run.held) {
            Ok(status) if how != How::Fails && errno == Errno::EINTR && status != 0 => {
                wrong.push(describe(&failed, "what was only interrupted ended it", &seen.stderr));
            }
            Ok(status) => *statuses.entry(status).or_default() += 1,
            Err(what) => wrong.push(describe(&failed, &what, &seen.stderr)),
        }
        number += 1;
    }
    println!("{who:?}, {how:?}, {}: {number}, one in each run; runs by status: {statuses:?}", case.cage.name());
    assert!(number >= least, "only {number} were seen: the search is broken");
    assert_eq!(before, mounts(), "mounts are left");
    assert!(wrong.is_empty(), "{} of {number} runs went wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn name(what: What) -> &'static str {
    match what {
        What::Call(number) => outboard::jail::syscalls::name(number as u32).unwrap_or("?"),
        What::Operation(opcode::RecvMsg::CODE) => "a receive in the ring",
        What::Operation(opcode::SendMsg::CODE) => "a send in the ring",
        What::Operation(opcode::PollAdd::CODE) => "a poll in the ring",
        What::Operation(opcode::Timeout::CODE) => "a timer in the ring",
        What::Operation(opcode::AsyncCancel::CODE) => "a cancel in the ring",
        What::Operation(_) => "an operation in the ring",
    }
}

fn describe(failed: &str, what: &str, stderr: &str) -> String {
    format!("{failed}: {what}; it said {:?}", stderr.trim_end())
}
