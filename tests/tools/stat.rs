//! What `outboard stat` says of a run whose exits are known.

use std::fs::{DirEntry, File};
use std::io::BufRead;

use outboard_plugin::{Event, Space};
use outboard_wire::stats::FILE_NAME;
use serde_json::Value;

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::{Done, Program, Running};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(counted).around(every_exit_is_counted_once),
    case!(counted_too).around(a_log_ends_with_the_vm),
    case!(twin).around(two_vms_of_one_name_are_told_apart),
    case!(held).around(counters_without_their_vm_are_no_vm),
];

/// Reads of port 0x10.
const READS: u64 = 1000;
/// Posted writes to port 0x30.
const POSTS: u64 = 250;

real_mode!(reads_and_posts:
    "mov cx, 1000",
    "2: in ax, 0x10",
    "loop 2b",
    "mov cx, 250",
    "3: out 0x30, al",
    "loop 3b",
    "out 0x11, al",
    "in al, 0x90",
    "out 0x11, al",
    "hlt",
);

/// Serves the guest. At its writes to port 0x11 it says so and waits for a line.
pub fn serve() -> Tested {
    let (mut vm, _memory) = connect(reads_and_posts())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut lines = std::io::stdin().lock().lines();
    let mut stops = 0;
    loop {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(7),
            Event::Write(_) => {
                stops += 1;
                println!("stop {stops}");
                lines.next().transpose()?;
            }
            Event::Posted(_) => {}
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

fn counted() -> Tested {
    serve()
}

fn counted_too() -> Tested {
    serve()
}

fn twin() -> Tested {
    serve()
}

fn held() -> Tested {
    serve()
}

/// A name that no other VM has: cases run several times at once.
pub fn fresh(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Runs a tool to its end.
pub fn tool(words: &[&str]) -> Done {
    let mut program = Program::outboard();
    program.args(words);
    program.start().ended()
}

fn json(words: &[&str]) -> Value {
    let done = tool(words);
    done.expect(0);
    serde_json::from_str(&done.stdout).expect("one JSON object")
}

fn row<'a>(stat: &'a Value, exit: &str, start: u64) -> &'a Value {
    let rows = stat["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["exit"] == exit && row["range"]["start"] == start).expect("a row")
}

fn end(mut vm: Running) {
    vm.signal("TERM");
    vm.tell("on");
    vm.ended();
}

fn every_exit_is_counted_once(case: &Case) -> Tested {
    let name = fresh("counted");
    let mut vm = case.program().args(["--name", &name]).start();
    vm.says("stop 1");
    vm.tell("on");
    vm.says("stop 2");
    let pid = vm.pid().to_string();
    let stat = json(&["stat", "--once", "--json", &pid]);
    assert_eq!((stat["name"].as_str(), stat["state"].as_str()), (Some(name.as_str()), Some("running")));
    let reads = row(&stat, "port read", 0x10);
    assert_eq!(reads["count"], READS);
    assert_eq!(row(&stat, "port posted write", 0x30)["count"], POSTS);
    // The write at hand waits for its answer, so one of the two is over.
    assert_eq!(row(&stat, "port write", 0x10)["count"], 1);
    let unclaimed = stat["rows"].as_array().unwrap().iter().find(|row| row["exit"] == "unclaimed access").unwrap();
    assert_eq!((unclaimed["count"].as_u64(), unclaimed["plugin_ns"].is_null()), (Some(1), true));
    let mean = |part: &str| reads[part]["mean"].as_u64().expect("a time");
    let parts = mean("publish_ns") + mean("plugin_ns") + mean("enter_ns");
    assert!(parts.abs_diff(mean("whole_ns")) <= 4, "the parts are the whole: {reads}");
    let by_name = json(&["stat", "--once", "--json", &name]);
    assert_eq!(by_name["pid"], vm.pid());
    let table = tool(&["stat", "-1", "--ranges", &pid]);
    table.expect(0);
    assert!(table.stdout.contains("port 10-11") && table.stdout.contains("in KVM_RUN"), "{}", table.stdout);
    assert!(tool(&["stat", "--list"]).stdout.contains(&name));
    end(vm);
    let gone = tool(&["stat", "--once", &pid]);
    gone.expect(1);
    assert!(gone.stdout.is_empty() && gone.stderr.contains(&pid), "{}", gone.stderr);
    Ok(())
}

fn a_log_ends_with_the_vm(case: &Case) -> Tested {
    let mut vm = case.program().start();
    vm.says("stop 1");
    let pid = vm.pid().to_string();
    let mut log = Program::outboard();
    let mut log = log.args(["stat", "--csv", "-s", "0.1", &pid]).start();
    log.says("seconds,pid,vcpu,exit,range,count");
    vm.tell("on");
    vm.says("stop 2");
    end(vm);
    let done = log.ended();
    done.expect(0);
    assert!(done.stderr.is_empty(), "{}", done.stderr);
    let live = tool(&["stat", "1"]);
    live.expect(70);
    assert!(live.stdout.is_empty() && live.stderr.contains("terminal"), "{}", live.stderr);
    Ok(())
}

fn two_vms_of_one_name_are_told_apart(case: &Case) -> Tested {
    let name = fresh("twin");
    let start = || {
        let mut vm = case.program().args(["--name", &name]).start();
        vm.says("stop 1");
        vm
    };
    let (first, second) = (start(), start());
    let both = tool(&["stat", "--once", &name]);
    both.expect(1);
    for vm in [&first, &second] {
        assert!(both.stderr.contains(&vm.pid().to_string()), "{}", both.stderr);
    }
    tool(&["stat", "--once", &second.pid().to_string()]).expect(0);
    end(first);
    tool(&["stat", "--once", &name]).expect(0);
    end(second);
    Ok(())
}

/// As a tool has them open that looked at the VM while it ended.
fn counters_without_their_vm_are_no_vm(case: &Case) -> Tested {
    let name = fresh("held");
    let mut vm = case.program().args(["--name", &name]).start();
    vm.says("stop 1");
    let all = std::fs::read_dir(format!("/proc/{}/fd", vm.pid()))?.collect::<Result<Vec<_>, _>>()?;
    let memfd = format!("/memfd:{FILE_NAME}");
    let is_counters = |entry: &DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with(&memfd))
    };
    let counters = all.iter().find(|entry| is_counters(entry)).expect("a file of counters");
    let counters = File::open(counters.path())?;
    tool(&["stat", "--once", &name]).expect(0);
    end(vm);
    let gone = tool(&["stat", "--once", &name]);
    gone.expect(1);
    assert!(gone.stderr.contains("no running VM is called"), "{}", gone.stderr);
    drop(counters);
    Ok(())
}
