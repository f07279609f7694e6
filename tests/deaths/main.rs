//! Deaths by `kill -9` at random moments: the other side is gone within 100 ms, and nobody is left behind.
//!
//! An executable of its own, whose tests run one after the other, because they look at the clock.
//!
//! What the limit does not hold for is in [`measure`], is asked of the kernel, and is allowed for a few kills only.

#![allow(missing_docs)]

#[path = "../hostile/around.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "shared with tests/hostile")]
mod around;
#[path = "../common/mod.rs"]
#[allow(unused_macros, unused_imports, reason = "each test executable uses its part")]
mod common;
#[path = "../common/mark.rs"]
mod mark;
mod measure;
#[path = "../hostile/random.rs"]
#[allow(dead_code, reason = "shared with tests/hostile")]
mod random;
#[path = "../hostile/sys.rs"]
#[allow(dead_code, reason = "shared with tests/hostile")]
mod sys;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outboard_plugin::{Event, Space};

use around::{Marked, start, start_program, verdict};
use common::guest::real_mode;
use common::machine::{begin, connect};
use common::suite::{Case, Tested, case};
use measure::{LONG, Rest, measure, within_the_limit};
use random::Random;
use sys::Process;

fn main() -> std::process::ExitCode {
    common::suite::main(&[CASES])
}

const CASES: &[Case] = &[
    case!(victim).around(the_vmm_survives_no_plugin),
    case!(survivor).around(the_plugin_survives_no_vmm),
    case!(member).around(a_killed_group_is_gone),
    case!(bystander).around(a_killed_vcpu_thread_takes_all_along),
];

/// Kills of each side.
const KILLS: usize = 200;
/// A run is deep in exits well before this many microseconds.
const LATEST_MOMENT: u64 = 30_000;

real_mode!(asks_and_posts:
    "2: in ax, 0x10",
    "out 0x30, ax",
    "out 0x11, ax",
    "jmp 2b",
);

/// Serves exits until it is killed.
fn serve() -> Tested {
    let (mut vm, _memory) = connect(asks_and_posts())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for exits in 0.. {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(exits),
            Event::Write(_) | Event::Posted(_) => {}
            other => panic!("{other:?}"),
        }
        if exits == 100 {
            println!("ready");
        }
    }
    Ok(())
}

fn victim() -> Tested {
    serve()
}

fn survivor() -> Tested {
    serve()
}

fn member() -> Tested {
    serve()
}

fn bystander() -> Tested {
    serve()
}

/// A seed of its own for each run; it is printed with every failure, and `SEED` brings it back.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64)
}

/// Passes a random time, the shorter the likelier.
fn random_moment(random: &mut Random) {
    let most = random.next() % LATEST_MOMENT + 1;
    let until = Instant::now() + Duration::from_micros(random.next() % most);
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// Waits until a process is the program itself: what makes it somebody else's before has children of its own.
fn await_program(pid: i32) {
    let deadline = Instant::now() + LONG;
    while !std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "outboard\n") {
        assert!(Instant::now() < deadline, "the program does not start");
        std::thread::yield_now();
    }
}

/// The plugin of a VMM, as soon as there is one.
fn plugin_of(vmm: i32) -> Process {
    await_program(vmm);
    let deadline = Instant::now() + LONG;
    loop {
        let children = std::fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).unwrap_or_default();
        let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        if let Some(process) = pid.and_then(Process::of) {
            return process;
        }
        assert!(Instant::now() < deadline, "the VMM starts no plugin");
    }
}

/// Lets the tests of this executable run one at a time.
fn alone() -> impl Drop {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a process that was killed, without a limit: the time of the other side runs from its end.
fn await_end(process: &Process) {
    assert!(process.ends_within(LONG), "what was killed does not end");
}

fn the_vmm_survives_no_plugin(case: &Case) -> Tested {
    let _alone = alone();
    let seed = seed();
    let mut random = Random::new(seed);
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        let marked = start(case);
        let vmm = Process::of(marked.running.pid()).expect("a child of this process");
        let plugin = plugin_of(marked.running.pid());
        random_moment(&mut random);
        plugin.kill();
        await_end(&plugin);
        kills.push(measure(&Rest::Process(&vmm, marked.running.pid())));
        verdict(&marked.ended(), 1, &["the plugin was ended by signal 9"]);
    }
    within_the_limit("the VMM after its plugin", &kills, seed);
    Ok(())
}

fn the_plugin_survives_no_vmm(case: &Case) -> Tested {
    let _alone = alone();
    let seed = seed();
    let mut random = Random::new(seed);
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        let marked = start(case);
        let vmm = Process::of(marked.running.pid()).expect("a child of this process");
        await_program(marked.running.pid());
        // From the first moment on: there may be no plugin yet.
        random_moment(&mut random);
        vmm.kill();
        await_end(&vmm);
        kills.push(measure(&Rest::Mark(&marked.mark)));
        assert_eq!(marked.ended().status.code(), None);
    }
    within_the_limit("the plugin after its VMM", &kills, seed);
    Ok(())
}

/// Kills the VMM in some way when exits are served; nobody may be left.
fn gone_after(mut marked: Marked, kill: impl FnOnce(i32) -> std::io::Result<()>) -> Tested {
    let _alone = alone();
    marked.running.says("ready");
    let vmm = Process::of(marked.running.pid()).expect("a child of this process");
    let plugin = plugin_of(marked.running.pid());
    kill(marked.running.pid())?;
    await_end(&vmm);
    let gone = measure(&Rest::Mark(&marked.mark));
    assert!(gone.is_good(), "the plugin was gone after {}", gone.said());
    await_end(&plugin);
    assert_eq!(marked.ended().status.code(), None);
    Ok(())
}

fn a_killed_group_is_gone(case: &Case) -> Tested {
    let mut program = case.program();
    program.in_a_group();
    gone_after(start_program(&mut program), |vmm| sys::signal_group(vmm, libc::SIGKILL))
}

fn a_killed_vcpu_thread_takes_all_along(case: &Case) -> Tested {
    gone_after(start(case), |vmm| {
        let threads = std::fs::read_dir(format!("/proc/{vmm}/task"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_vcpu = |thread: &String| {
            std::fs::read_to_string(format!("/proc/{vmm}/task/{thread}/comm")).is_ok_and(|name| name == "vcpu0\n")
        };
        let thread = threads.into_iter().find(is_vcpu).expect("a thread named vcpu0");
        sys::signal_thread(vmm, thread.parse().expect("a number"), libc::SIGKILL)
    })
}
