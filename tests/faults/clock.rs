//! The machine's clock jumps, really: run by `OUTBOARD_TEST_CLOCK=1` only, because everybody else sees that too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use outboard_plugin::{Event, Space};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::around::{start, verdict};
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::Running;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(sees_it_jump_forward).around(|case| it_jumps(case, JUMP)).unless(lack),
    case!(sees_it_jump_back).around(|case| it_jumps(case, -JUMP)).unless(lack),
];

/// How far, in seconds: farther than a run may take. So what waits by this clock is over at once, or never.
const JUMP: i64 = 150;
/// The variable that allows it.
const ALLOW: &str = "OUTBOARD_TEST_CLOCK";

fn lack() -> Option<String> {
    let allowed = std::env::var(ALLOW).is_ok_and(|word| word == "1");
    (!allowed).then(|| format!("they set the clock of this machine, which {ALLOW}=1 allows"))
}

real_mode!(reads_without_end:
    "2: in ax, 0x10",
    "jmp 2b",
);

/// Pauses its vCPU again and again, and says so of the next thousand times whenever it is asked. Told to end, it does not.
fn sees_it_jump_forward() -> Tested {
    static ASKED: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| std::io::stdin().lines().for_each(|_| ASKED.store(true, Ordering::Release)));
    let (mut vm, _memory) = connect(reads_without_end())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let (mut pauses, mut wanted) = (0, 0);
    vm.pause_vcpus([0], pauses)?;
    loop {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(0),
            Event::Paused(paused) => {
                drop(paused);
                pauses += 1;
                vm.pause_vcpus([0], pauses)?;
                if ASKED.swap(false, Ordering::AcqRel) {
                    wanted = pauses + 1000;
                } else if pauses == wanted {
                    println!("a thousand pauses");
                }
            }
            Event::Shutdown => break,
            other => panic!("{other:?}"),
        }
    }
    // All by the monotonic clock. The VMM has begun to wait by the first of these times, and waits on at the second.
    std::thread::sleep(Duration::from_millis(200));
    println!("told to end");
    std::thread::sleep(Duration::from_millis(300));
    println!("half a second later");
    loop {
        std::thread::park();
    }
}

fn sees_it_jump_back() -> Tested {
    sees_it_jump_forward()
}

/// The clock of the machine, moved. It goes right again when this is dropped.
struct Jump {
    /// What it said, and what the monotonic clock said then.
    before: (Timespec, Timespec),
}

/// Both clocks at a time.
fn clocks() -> (Timespec, Timespec) {
    (clock_gettime(ClockId::Realtime), clock_gettime(ClockId::Monotonic))
}

impl Jump {
    fn by(seconds: i64) -> Jump {
        let before = clocks();
        let there = Timespec { tv_sec: before.0.tv_sec + seconds, ..before.0 };
        clock_settime(ClockId::Realtime, there).expect("root may set the clock");
        Jump { before }
    }
}

impl Drop for Jump {
    /// Sets it to what it said before and the time since then, by the clock that nobody sets.
    fn drop(&mut self) {
        let (real, monotonic) = self.before;
        let right = real + (clock_gettime(ClockId::Monotonic) - monotonic);
        if let Err(error) = clock_settime(ClockId::Realtime, right) {
            eprintln!("the clock of this machine is wrong: {error}");
        }
    }
}

/// Waits for pauses that begin after this.
fn pauses_go_on(running: &mut Running) {
    running.tell("and now");
    running.says("a thousand pauses");
}

/// The clock jumps while pauses come and go, and while the plugin has its second; it gets that, and not more.
fn it_jumps(case: &Case, seconds: i64) -> Tested {
    // There is one clock: no case sees that of another jump, and none waits for it at the wrong moment.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut marked = start(case);
    pauses_go_on(&mut marked.running);
    let jump = Jump::by(seconds);
    pauses_go_on(&mut marked.running);
    drop(jump);
    pauses_go_on(&mut marked.running);
    marked.running.signal("TERM");
    marked.running.says("told to end");
    let jump = Jump::by(seconds);
    marked.running.says("half a second later");
    let done = marked.ended();
    drop(jump);
    let stayed = "the plugin did not end within a second of the shutdown event and was killed";
    verdict(&done, 143, &["ended by SIGTERM", stayed]);
    Ok(())
}
