//! What a host does to a run: processes that stand still, streams that nobody reads or that are closed, too little
//! memory, and a clock that jumps.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outboard_plugin::{Event, Space};

use crate::around::{start, verdict};
use crate::common::cage::Cage;
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::{Running, signal};
use crate::common::suite::{Case, Tested, case};
use crate::mark;
use crate::trace::{self, Fault, How, Who};

pub const CASES: &[Case] = &[
    case!(goes_on_where_it_stood).around(the_plugin_stands_still),
    case!(goes_on_where_it_stood_too).around(the_vmm_stands_still),
    case!(talks_into_a_full_pipe).around(nobody_reads_standard_error),
    case!(fills_standard_error).around(nobody_ever_reads).only(&[Cage::Caged, Cage::Uncaged]),
    case!(runs_with_its_output_closed).around(standard_output_is_closed),
    case!(runs_with_all_closed).around(all_streams_are_closed),
    case!(runs_in_little_memory).around(each_limit_of_memory).only(&[Cage::Uncaged]),
    case!(waits_in_every_way).around(no_wait_is_by_the_wall_clock).only(&[Cage::Caged, Cage::Uncaged]),
];

real_mode!(counts_for_ever:
    "2: in ax, 0x10",
    "out 0x11, ax",
    "jmp 2b",
);

/// Serves rounds, and says after some that it is there; goes on until the VM ends or `rounds` are over.
fn rounds(rounds: u64) -> Tested {
    let (mut vm, _memory) = connect(counts_for_ever())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut done = 0;
    while done < rounds {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(done),
            Event::Write(write) => {
                assert_eq!(write.value(), done & 0xffff);
                done += 1;
                // One that has no standard output any more goes on without it.
                if done % 100 == 0 {
                    let _ = writeln!(std::io::stdout(), "round {done}");
                }
            }
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

fn goes_on_where_it_stood() -> Tested {
    rounds(u64::MAX)
}

fn goes_on_where_it_stood_too() -> Tested {
    rounds(u64::MAX)
}

fn round_of(running: &mut Running) -> u64 {
    running.says("round ").parse().expect("a number")
}

/// State of a process as `/proc` shows it.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state")
}

/// Stops and continues a process some times; the run goes on each time.
fn stands_still(case: &Case, who: impl Fn(&Running) -> i32) -> Tested {
    let mut marked = start(case);
    for _ in 0..20 {
        let before = round_of(&mut marked.running);
        let pid = who(&marked.running);
        signal(pid, "STOP");
        while state(pid) != 'T' {
            std::thread::yield_now();
        }
        signal(pid, "CONT");
        // More than its pipe can have held meanwhile.
        while round_of(&mut marked.running) <= before {}
    }
    marked.running.signal("TERM");
    verdict(&marked.ended(), 0, &[]);
    Ok(())
}

fn the_plugin_stands_still(case: &Case) -> Tested {
    stands_still(case, Running::plugin)
}

/// A stop of one thread stops the process with all its vCPU threads.
fn the_vmm_stands_still(case: &Case) -> Tested {
    if case.cage == Cage::CagedByUser {
        // Its number is that of the shell that became the program, all the same.
        return stands_still(case, Running::pid);
    }
    stands_still(case, |running| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", running.pid())).expect("it lives").flatten();
        let named = tasks.filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim_end() == "vcpu0")
        });
        let vcpu = named.last().expect("a vCPU thread");
        vcpu.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number")
    })
}

fn talks_into_a_full_pipe() -> Tested {
    rounds(1000)
}

fn marked(command: &mut Command) -> String {
    let mark = mark::fresh();
    command.env(mark::VARIABLE, &mark).stdin(Stdio::null());
    mark
}

/// Waits for the end, for a while.
fn status_of(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `-vv` says a line about each step. Nobody reads: the VMM may wait for that, as every program does, but it ends in order
/// when somebody reads again.
fn nobody_reads_standard_error(case: &Case) -> Tested {
    let (reader, writer) = std::io::pipe()?;
    let mut full = writer.try_clone()?;
    // Filled from the other end of the test, to the last byte but one line.
    full.write_all(&[b'\n'; 65536 - 64])?;
    let mut program = case.program();
    let command = program.args(["-vv"]).command();
    let mark = marked(command);
    let child = command.stdout(Stdio::null()).stderr(writer).spawn()?;
    drop((full, program));
    // It has written what there was room for, and waits, or has ended: either way its end comes when all is read.
    let mut text = String::new();
    BufReader::new(reader).read_to_string(&mut text)?;
    assert_eq!(status_of(child), Some(0), "{}", text.trim_start());
    assert!(text.contains("outboard: "), "it said nothing");
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    Ok(())
}

/// Fills the pipe that the VMM speaks into, and keeps it full.
fn fills_standard_error() -> Tested {
    std::thread::spawn(|| while std::io::stderr().write_all(&[b'x'; 100]).is_ok() {});
    rounds(u64::MAX)
}

/// The VMM ends all the same, with all that it has to say unsaid.
fn nobody_ever_reads(case: &Case) -> Tested {
    let (mut reader, writer) = std::io::pipe()?;
    let mut program = case.program();
    let command = program.args(["-v"]).command();
    let mark = marked(command);
    let mut child = command.stdout(Stdio::piped()).stderr(writer).spawn()?;
    drop(program);
    let mut said = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
    said.next().ok_or("the guest runs")??;
    // What fills the pipe is its content, not time; the end comes whether it is full by now or not.
    signal(child.id() as i32, "TERM");
    assert_eq!(status_of(child), Some(0));
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    let mut text = Vec::new();
    reader.read_to_end(&mut text)?;
    assert!(text.iter().filter(|byte| **byte == b'x').count() > 0);
    Ok(())
}

fn runs_with_its_output_closed() -> Tested {
    rounds(1000)
}

fn through_a_shell(case: &Case, redirections: &str) -> Tested {
    let mut program = case.program();
    let words = format!("exec \"$0\" \"$@\" {redirections}");
    let inner = program.command();
    let mut command = Command::new("sh");
    command.args(["-c", &words]).arg(inner.get_program()).args(inner.get_args());
    let mut command = case.cage.wrapped(command);
    let mark = marked(&mut command);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    assert_eq!(status_of(child), Some(0), "{redirections}");
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    Ok(())
}

fn standard_output_is_closed(case: &Case) -> Tested {
    through_a_shell(case, ">&-")?;
    // A pipe whose reader has gone, which is what `| head` leaves.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut program = case.program();
    let command = program.args(["-v"]).command();
    let mark = marked(command);
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    assert_eq!(status_of(child), Some(0));
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    Ok(())
}

fn runs_with_all_closed() -> Tested {
    rounds(1000)
}

fn all_streams_are_closed(case: &Case) -> Tested {
    through_a_shell(case, "<&- >&- 2>&-")
}

fn runs_in_little_memory() -> Tested {
    rounds(100)
}

/// Less and less address space. A run succeeds, or ends with a status and a sentence; where the allocator itself finds no
/// memory, Rust's runtime says so and aborts, and that is the one other end.
fn each_limit_of_memory(case: &Case) -> Tested {
    let mut ends = BTreeMap::<&str, usize>::new();
    for kibibytes in (8192..=131_072).step_by(2048) {
        let limited = || {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -v {kibibytes}; exec \"$0\" \"$@\"")]);
            command
        };
        let mut program = case.program();
        let inner = program.command();
        // So little that the program itself has no room in it.
        if !limited().arg(inner.get_program()).arg("--version").stdin(Stdio::null()).output()?.status.success() {
            *ends.entry("not even started").or_default() += 1;
            continue;
        }
        let mut command = limited();
        command.arg(inner.get_program()).args(inner.get_args());
        let mark = marked(&mut command);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let done = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(mark::carriers(&mark), [] as [i32; 0], "{kibibytes} KiB: {said}");
        let end = match done.status.code() {
            Some(0) => "well",
            Some(1 | 70 | 71 | 101) if said.contains("outboard: ") => "with a sentence",
            None if said.contains("memory allocation of") => "in the allocator",
            _ => return Err(format!("{kibibytes} KiB: {}, {said}", done.status).into()),
        };
        assert!(!said.contains("panicked at src"), "{kibibytes} KiB: {said}");
        *ends.entry(end).or_default() += 1;
    }
    println!("runs by end: {ends:?}");
    assert!(ends.contains_key("well"), "{ends:?}");
    Ok(())
}

fn waits_in_every_way() -> Tested {
    // Two exits each, and so two calls however seldom anybody sleeps.
    rounds(600)
}

/// A clock that somebody sets cannot matter to a program that does not wait by it: no call of a run waits for a time of
/// day, and the sources ask for one to write it down only: in the head of a trace, and in the counters.
fn no_wait_is_by_the_wall_clock(case: &Case) -> Tested {
    let mut program = case.program();
    let command = program.command();
    let mark = marked(command);
    #[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
    let child = trace::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let run = trace::follow(child.id(), Fault { who: Who::Main, how: How::Fails, number: usize::MAX });
    assert_eq!(run.status.code(), Some(0));
    assert_eq!(mark::carriers(&mark), [] as [i32; 0]);
    assert!(run.calls > 1000, "only {} calls were seen", run.calls);
    assert!(run.by_wall_clock.is_empty(), "calls that wait for a time of day: {:?}", run.by_wall_clock);
    let mut asking = Vec::new();
    for folder in ["src", "wire/src", "wire/plugin/src", "wire/capi/src"] {
        find_wall_clock(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut asking);
    }
    assert_eq!(asking, ["src/plugin/recorder.rs", "src/plugin/setup.rs"]);
    Ok(())
}

/// The files below a folder that ask for the time of day.
fn find_wall_clock(folder: &Path, asking: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_wall_clock(&path, asking);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            if ["SystemTime::now()", "libc::CLOCK_REALTIME", "libc::gettimeofday"]
                .iter()
                .any(|word| text.contains(word))
            {
                let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("below the root");
                asking.push(path.display().to_string());
            }
        }
    }
}
