//! How long whoever is left after a kill lives on, and why that may take longer than the limit.
//!
//! Two things beyond the program take their time. Once a process is ending, the kernel takes it and its VM down, which waits for
//! several grace periods and cannot be interrupted; a child that has not become the plugin yet holds a VM too. And on a busy
//! machine everybody waits for a CPU, those who are left, this test and the kernel's own threads among them. Both are asked of
//! the kernel in short slices of time: the stacks of the threads, the pressure of the CPUs, and how long each waited to run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::mark;
use crate::sys::Process;

/// The longest time to wait for what has no limit here, such as the start of a process.
pub const LONG: Duration = Duration::from_secs(30);
/// What the other side has.
const LIMIT: Duration = Duration::from_millis(100);
/// The time between two looks at those who are left.
const SLICE: Duration = Duration::from_millis(10);

/// How long a process lives on, or who carries a mark.
pub enum Rest<'a> {
    /// A process and its number.
    Process(&'a Process, i32),
    /// All who carry this.
    Mark(&'a str),
}

impl Rest<'_> {
    /// Waits for the end; false if that takes longer and is not near.
    fn ends_within(&self, limit: Duration) -> bool {
        let begin = Instant::now();
        match self {
            Rest::Process(process, _) => process.ends_within(limit),
            // The environment of a process cannot be seen while it becomes another program: one look may miss it.
            Rest::Mark(mark) => {
                let mut unseen = 0;
                while unseen < 3 {
                    if mark::carriers(mark).is_empty() {
                        unseen += 1;
                        continue;
                    }
                    unseen = 0;
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
pub struct Measured {
    /// From the end of what was killed to that of the rest.
    time: Duration,
    /// How much of that the kernel spent on taking the rest down.
    in_kernel: Duration,
    /// How much of what is left somebody had to wait for a CPU.
    short: Duration,
}

impl Measured {
    /// Whether the limit held, but for what nobody here can help.
    pub fn is_good(&self) -> bool {
        self.time.saturating_sub(self.in_kernel + self.short) <= LIMIT
    }

    /// Counts the slice between two looks. No part of it counts twice.
    fn count(&mut self, before: &Look, now: &Look) {
        let slice = now.when - before.when;
        if before.in_kernel && now.in_kernel {
            self.in_kernel += slice;
        } else {
            let pressure = now.pressure.saturating_sub(before.pressure);
            self.short += pressure.max(now.waited_since(before)).min(slice);
        }
    }

    /// The parts of the time, for a report.
    pub fn said(&self) -> String {
        let Measured { time, in_kernel, short } = self;
        format!("{time:?}, of which the kernel was at work for {in_kernel:?} and the CPUs were short for {short:?}")
    }
}

/// Waits until nothing is left, from now on.
pub fn measure(rest: &Rest<'_>) -> Measured {
    let begin = Instant::now();
    let mut measured = Measured { time: Duration::ZERO, in_kernel: Duration::ZERO, short: Duration::ZERO };
    // Most are gone before anything has to be asked about them.
    let mut before = Look::at(&[]);
    while !rest.ends_within(SLICE) {
        assert!(begin.elapsed() < LONG, "{:?} do not end at all", rest.pids());
        let now = Look::at(&rest.pids());
        measured.count(&before, &now);
        before = now;
    }
    measured.count(&before, &Look::at(&[]));
    measured.time = begin.elapsed();
    measured
}

/// What the kernel says at one moment.
struct Look {
    when: Instant,
    /// It takes down all who are left.
    in_kernel: bool,
    /// How long processes have waited for a CPU since the machine started (`psi.rst`); zero without such a count.
    pressure: Duration,
    /// How long the threads of those who are left, and this one, have waited for one (`sched-stats.rst`).
    waited: HashMap<PathBuf, Duration>,
}

impl Look {
    fn at(pids: &[i32]) -> Look {
        let threads: Vec<PathBuf> = pids.iter().flat_map(|pid| threads(*pid)).collect();
        let own = PathBuf::from("/proc/thread-self");
        Look {
            when: Instant::now(),
            in_kernel: !threads.is_empty() && threads.iter().all(|thread| is_taken_down(thread)),
            pressure: pressure(),
            waited: threads.into_iter().chain([own]).map(with_waited).collect(),
        }
    }

    /// How long those who are in both looks waited between them.
    fn waited_since(&self, before: &Look) -> Duration {
        let since = |(thread, now): (&PathBuf, &Duration)| Some(now.saturating_sub(*before.waited.get(thread)?));
        self.waited.iter().filter_map(since).sum()
    }
}

fn threads(pid: i32) -> Vec<PathBuf> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads.flatten().map(|thread| thread.path()).collect()
}

fn pressure() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = text.lines().next().and_then(|line| line.split_once("total=")?.1.trim().parse().ok());
    Duration::from_micros(some.unwrap_or(0))
}

fn with_waited(thread: PathBuf) -> (PathBuf, Duration) {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let waited = text.split(' ').nth(1).and_then(|waited| waited.parse().ok());
    (thread, Duration::from_nanos(waited.unwrap_or(0)))
}

/// True if a thread is dead, or runs no code of its own any more because it ends. Only root sees that.
fn is_taken_down(thread: &Path) -> bool {
    let read = |name| std::fs::read_to_string(thread.join(name)).unwrap_or_default();
    let (stack, stat) = (read("stack"), read("stat"));
    let dead = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    // A thread of the kernel's own that belongs to the VM ends with it.
    dead || stack.contains("do_exit") || stack.contains("vhost_task_fn")
}

/// Asserts the limit, and says how it went.
#[track_caller]
pub fn within_the_limit(what: &str, kills: &[Measured], seed: u64) {
    let over: Vec<String> = kills.iter().filter(|kill| kill.time > LIMIT).map(Measured::said).collect();
    let mut times: Vec<Duration> = kills.iter().map(|kill| kill.time).collect();
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: {} kills, seed {seed}: median {median:?}, longest {longest:?}; over {LIMIT:?}: {over:#?}",
        kills.len()
    );
    let bad: Vec<String> = kills.iter().filter(|kill| !kill.is_good()).map(Measured::said).collect();
    assert!(bad.is_empty(), "{what}, seed {seed}: {bad:#?}");
    assert!(over.len() <= kills.len() / 10, "{what}, seed {seed}: too many are over the limit: {over:#?}");
}
