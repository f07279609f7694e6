//! Deaths by `kill -9` at random moments: the other side is gone within 100 ms, and nobody is left behind.
//!
//! An executable of its own, whose tests run one after the other, because they look at the clock.
//!
//! Two things beyond the program may take longer. The kernel takes a VM down when its last descriptor is closed, which waits
//! for several grace periods and cannot be interrupted; a child that has not become the plugin yet holds that descriptor too.
//! And on a busy machine a process waits for a CPU. Both are asked of the kernel (the stacks of the threads, the pressure of
//! the CPUs), counted, and allowed for a few kills only.

#![allow(missing_docs)]

#[path = "../hostile/around.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "shared with tests/hostile")]
mod around;
#[path = "../common/mod.rs"]
#[allow(unused_macros, unused_imports, reason = "each test executable uses its part")]
mod common;
#[path = "../common/mark.rs"]
mod mark;
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
/// What the other side has.
const LIMIT: Duration = Duration::from_millis(100);
/// The longest time to wait for what has no limit here, such as the start of a process.
const LONG: Duration = Duration::from_secs(30);
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

/// How long a process lives on, or who carries a mark.
enum Rest<'a> {
    Process(&'a Process, i32),
    Mark(&'a str),
}

impl Rest<'_> {
    /// Waits for the end; false if that takes longer.
    fn ends_within(&self, limit: Duration) -> bool {
        let begin = Instant::now();
        match self {
            Rest::Process(process, _) => process.ends_within(limit),
            // The environment of a process cannot be seen while it becomes another program: one look may miss it.
            Rest::Mark(mark) => {
                let mut unseen = 0;
                while unseen < 3 {
                    unseen = if mark::carriers(mark).is_empty() { unseen + 1 } else { 0 };
                    if begin.elapsed() > limit {
                        return false;
                    }
                }
                true
            }
        }
    }

    /// Numbers of the processes that live.
    fn pids(&self) -> Vec<i32> {
        match self {
            Rest::Process(_, pid) => vec![*pid],
            Rest::Mark(mark) => mark::carriers(mark),
        }
    }
}

/// What one kill came to.
struct Measured {
    time: Duration,
    /// Why the limit does not hold for it, if it took longer.
    excuse: Option<String>,
}

/// Waits until nothing is left, from now on.
fn measure(rest: &Rest<'_>) -> Measured {
    let (begin, pressure) = (Instant::now(), cpu_pressure());
    if rest.ends_within(LIMIT) {
        return Measured { time: begin.elapsed(), excuse: None };
    }
    let pids = rest.pids();
    let in_kernel = !pids.is_empty() && pids.into_iter().all(is_taken_down_by_the_kernel);
    assert!(rest.ends_within(LONG), "{:?} do not end at all", rest.pids());
    let time = begin.elapsed();
    let stalled = cpu_pressure().saturating_sub(pressure);
    let excuse = if in_kernel {
        Some("the kernel was taking the VM down".to_owned())
    } else {
        (time.saturating_sub(stalled) <= LIMIT).then(|| format!("the CPUs were short for {stalled:?}"))
    };
    Measured { time, excuse }
}

/// How long processes have waited for a CPU since the machine started, by the kernel's own count; zero without it.
fn cpu_pressure() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = text.lines().next().and_then(|line| line.split_once("total=")?.1.trim().parse().ok());
    Duration::from_micros(some.unwrap_or(0))
}

/// True if all threads of a process are dead or within the kernel's destruction of a VM. Only root sees that.
fn is_taken_down_by_the_kernel(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let read = |name| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let (stack, stat) = (read("stack"), read("stat"));
        let dead = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        // A thread of the kernel's own that belongs to the VM ends with it.
        dead || stack.contains("kvm_destroy_vm") || stack.contains("vhost_task_fn")
    })
}

/// Asserts the limit, and says how it went.
#[track_caller]
fn within_the_limit(what: &str, kills: &[Measured], seed: u64) {
    let over: Vec<&Measured> = kills.iter().filter(|kill| kill.time > LIMIT).collect();
    let said = |kill: &&Measured| format!("{:?}: {}", kill.time, kill.excuse.as_deref().unwrap_or("no excuse"));
    let list: Vec<String> = over.iter().map(said).collect();
    let mut times: Vec<Duration> = kills.iter().map(|kill| kill.time).collect();
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: {} kills, seed {seed}: median {median:?}, longest {longest:?}; over {LIMIT:?}: {list:?}",
        kills.len()
    );
    assert!(over.iter().all(|kill| kill.excuse.is_some()), "{what}, seed {seed}: {list:#?}");
    assert!(over.len() <= kills.len() / 10, "{what}, seed {seed}: too many excuses: {list:#?}");
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
    assert!(gone.time <= LIMIT || gone.excuse.is_some(), "the plugin was gone after {:?}", gone.time);
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
