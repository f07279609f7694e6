//! A kick at every timing point: the request is made by the vCPU's own thread when it gets there, so each of these is hit each
//! time, on the real KVM. The guests here that compute never leave by themselves: a kick that gets lost is never made good.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use memmap2::MmapOptions;

use super::*;
use crate::kvm::{Space, System, install_kick_handler};
use crate::machine::ranges::RangeKind;
use crate::machine::rules::{Rules, RulesCell};
use crate::observe::shared::SharedStats;
use crate::sys::memfd::{self, Seals};
use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::line::{Answer, answer_kind};
use outboard_wire::page::{Access as Mapped, Blocks};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::stats::Header;

/// Where guest memory begins, and the code in it.
const CODE: u64 = 0x1000;
const END: u64 = 0x3000;
/// Where the guest counts its rounds.
const COUNTER: u64 = 0x2000;

/// `2: inc dword ptr [0x2000]; jmp 2b`
const COMPUTES: &[u8] = &[0x66, 0xff, 0x06, 0x00, 0x20, 0xeb, 0xf9];
/// `2: inc dword ptr [0x2000]; in al, 0x10; out 0x11, al; jmp 2b`
const ACCESSES: &[u8] = &[0x66, 0xff, 0x06, 0x00, 0x20, 0xe4, 0x10, 0xe6, 0x11, 0xeb, 0xf5];

/// Longest wait for what has to happen. Only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A vCPU thread with a guest, and the plugin's side of it.
struct Bench {
    plugin: PluginEnd,
    control: Arc<Control>,
    memory: File,
    thread: JoinHandle<()>,
    ended: mpsc::Receiver<Ended>,
}

impl Bench {
    /// Starts a guest; `act` is called at each point. The event at hand is INIT. `None` without a KVM, which CI has to have.
    #[track_caller]
    fn start(code: &[u8], mode: SpinMode, act: impl FnMut(Point, &Control) + Send + 'static) -> Option<Bench> {
        let system = match System::open(Path::new("/dev/kvm")) {
            Ok(system) => system,
            Err(error) if std::env::var_os("CI").is_some() => panic!("{error}"),
            Err(error) => {
                println!("skipped: no /dev/kvm ({error})");
                return None;
            }
        };
        install_kick_handler().unwrap();
        let sync_caps = system.check_extension(kvm_bindings::KVM_CAP_SYNC_REGS).unwrap();
        let vm = system.create_vm().unwrap();
        let memory = File::from(memfd::create(c"guest").unwrap());
        memory.set_len(END - CODE).unwrap();
        memory.write_all_at(code, 0).unwrap();
        let mapping = Arc::new(MmapOptions::new().map_raw(&memory).unwrap());
        vm.set_memory_slot(0, 0, CODE, mapping, 0, END - CODE).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut sregs = vcpu.sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() }).unwrap();

        let (plugin, waiting, control) = ends(mode, sync_caps);
        let mut runner = waiting.with(vcpu);
        runner.exchange.seam.act = Some(Box::new(act));
        let (sender, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let _vm = vm;
            sender.send(runner.run()).unwrap();
        });
        let mut bench = Bench { plugin, control, memory, thread, ended };
        // A stop at the first point may be faster.
        assert!(matches!(bench.event().kind, event_kind::INIT | event_kind::SHUTDOWN));
        Some(bench)
    }

    fn event(&mut self) -> Event {
        let start = Instant::now();
        loop {
            match self.plugin.try_next().unwrap() {
                Some(Incoming::Event(event)) => return event,
                Some(Incoming::Posted(write)) => panic!("{write:?}"),
                None => assert!(start.elapsed() < PATIENCE, "the kick was lost"),
            }
            thread::yield_now();
        }
    }

    fn resume(&mut self, event: &Event) {
        self.plugin.answer(&Answer { kind: answer_kind::RESUME, length: event.length, ..Answer::default() });
    }

    /// Serves accesses until the vCPU is paused; returns the cookie and the number of accesses before it.
    fn paused(&mut self) -> (u64, u64) {
        for accesses in 0..10 {
            match self.event() {
                event if event.kind == event_kind::PAUSED => return (event.address, accesses),
                event => self.resume(&event),
            }
        }
        panic!("the pause was lost")
    }

    /// Kicks the thread and asks for nothing that lasts.
    fn kick(&self) {
        self.control.hold(true);
        self.control.hold(false);
    }

    fn rounds(&self) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, COUNTER - CODE).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Waits until the guest computes.
    fn until_it_computes(&self) {
        let (before, start) = (self.rounds(), Instant::now());
        while self.rounds() == before {
            assert!(start.elapsed() < PATIENCE, "the guest does not run");
            thread::yield_now();
        }
    }

    /// Waits for the end; `repeat` asks for it again and again, as the VMM does.
    fn ended(self, repeat: bool) -> Ended {
        let start = Instant::now();
        let ended = loop {
            if repeat {
                self.control.stop();
            }
            match self.ended.recv_timeout(Duration::from_millis(1)) {
                Ok(ended) => break ended,
                Err(_) => assert!(start.elapsed() < PATIENCE, "the thread does not end"),
            }
        };
        self.thread.join().unwrap();
        ended
    }
}

/// Both ends of the lines of a vCPU that is not made yet.
fn ends(mode: SpinMode, sync_caps: i32) -> (PluginEnd, Waiting, Arc<Control>) {
    let memfd = || {
        let fd = memfd::create(c"blocks").unwrap();
        memfd::set_size(fd.as_fd(), STRIDE as u64).unwrap();
        memfd::add_seals(fd.as_fd(), Seals::SHRINK).unwrap();
        fd
    };
    let (down, up) = (memfd(), memfd());
    let to_plugin =
        |access| BlockRef::new(&Arc::new(Blocks::<ToPlugin>::map(down.as_fd(), 1, access).unwrap()), 0).unwrap();
    let to_vmm = |access| BlockRef::new(&Arc::new(Blocks::<ToVmm>::map(up.as_fd(), 1, access).unwrap()), 0).unwrap();
    let (limit, khz) = (Arc::new(SpinLimit::unlimited()), 2_000_000);
    let eventfd = Arc::new(OnceLock::new());
    let end = VmmEnd::new(
        to_plugin(Mapped::Write),
        to_vmm(Mapped::Read),
        Spinner::new(mode, khz),
        Arc::clone(&limit),
        eventfd,
    );
    let plugin =
        PluginEnd::new(to_plugin(Mapped::Read), to_vmm(Mapped::Write), Spinner::new(SpinMode::Off, khz), limit);
    let header = Header { vcpus: 1, pid: 1, tsc_khz: khz, start_tsc: 0, start_time: 0, name: "", path: b"" };
    let mut rules = Rules::default();
    rules.ranges.reserve(Space::Port, 0x10, 2, RangeKind::Synchronous).unwrap();
    let cell = Arc::new(RulesCell::default());
    cell.publish(rules);
    let control = Arc::new(Control::default());
    let stats = SharedStats::new(&header).unwrap().block(0);
    let tracer = Tracer::new(Arc::default(), 0, None);
    let waiting = Waiting::new(end, Arc::clone(&control), RulesView::new(cell), sync_caps, stats, tracer);
    (plugin, waiting, control)
}

/// Does something the first `times` times that the thread comes to a point with no pause asked for yet.
fn at(point: Point, times: u32, mut act: impl FnMut(&Control) + Send + 'static) -> impl FnMut(Point, &Control) + Send {
    let mut left = times;
    move |reached, control| {
        if reached == point && left > 0 && !control.pausing() {
            left -= 1;
            act(control);
        }
    }
}

const COOKIE: u64 = 0xc00c1e;

/// Times that each point is tried in a run.
const TIMES: u32 = 300;

#[test]
fn a_pause_is_heard_at_every_point() {
    for point in [Point::BeforeLook, Point::BeforeRun, Point::AfterRun, Point::Published] {
        for code in [COMPUTES, ACCESSES] {
            let pause = at(point, TIMES, |control| control.pause(COOKIE));
            let Some(mut bench) = Bench::start(code, SpinMode::Off, pause) else { return };
            let init = Event { kind: event_kind::INIT, ..Event::default() };
            bench.resume(&init);
            for _ in 0..TIMES {
                if code == COMPUTES && point == Point::AfterRun {
                    // Nothing but another kick makes it leave.
                    bench.until_it_computes();
                    bench.kick();
                }
                let (cookie, accesses) = bench.paused();
                assert_eq!(cookie, COOKIE);
                assert!(accesses <= 2, "{point:?}: {accesses} accesses before the pause");
                bench.resume(&init);
            }
            assert_eq!(bench.ended(true), Ended::Stopped);
        }
    }
}

/// One request is enough where the thread does not sleep: only there it is repeated.
#[test]
fn a_stop_is_heard_at_every_point() {
    for mode in [SpinMode::Off, SpinMode::Always] {
        for point in [Point::BeforeLook, Point::BeforeRun, Point::AfterRun, Point::Published] {
            for code in [COMPUTES, ACCESSES] {
                let published = point == Point::Published;
                // The INIT event is published before the first look.
                let Some(mut bench) = Bench::start(code, mode, at(point, 1, Control::stop)) else { return };
                if !published {
                    bench.resume(&Event::default());
                }
                if code == COMPUTES && point == Point::AfterRun {
                    bench.until_it_computes();
                    bench.kick();
                }
                assert_eq!(bench.ended(published && mode == SpinMode::Off), Ended::Stopped, "{point:?}");
            }
        }
    }
}

#[test]
fn a_vcpu_stands_still_from_every_point_and_goes_on() {
    for (point, code) in [
        (Point::BeforeLook, COMPUTES),
        (Point::BeforeRun, COMPUTES),
        (Point::AfterRun, ACCESSES),
        (Point::Published, ACCESSES),
    ] {
        let (sender, held) = mpsc::channel();
        let mut sender = Some(sender);
        let hold = move |reached, control: &Control| {
            if reached == point
                && let Some(sender) = sender.take()
            {
                control.hold(true);
                sender.send(()).unwrap();
            }
        };
        let Some(mut bench) = Bench::start(code, SpinMode::Off, hold) else { return };
        bench.resume(&Event::default());
        // A pause before that would be served first.
        held.recv_timeout(PATIENCE).unwrap();
        // A pause is served also while it stands still, and the guest has not moved between two of them.
        bench.control.pause(1);
        assert_eq!(bench.paused().0, 1);
        let before = bench.rounds();
        bench.resume(&Event::default());
        bench.control.pause(2);
        assert_eq!(bench.paused(), (2, 0));
        assert_eq!(bench.rounds(), before, "{point:?}");
        bench.control.hold(false);
        bench.resume(&Event::default());
        if code == COMPUTES {
            bench.until_it_computes();
        } else {
            assert!(matches!(bench.event().kind, event_kind::READ | event_kind::WRITE));
        }
        assert_eq!(bench.ended(true), Ended::Stopped);
    }
}

/// Point 3.
#[test]
fn a_kick_ends_a_guest_that_computes() {
    let Some(mut bench) = Bench::start(COMPUTES, SpinMode::Off, |_, _| {}) else { return };
    bench.resume(&Event::default());
    for cookie in 0..u64::from(TIMES) {
        bench.until_it_computes();
        bench.control.pause(cookie);
        assert_eq!(bench.paused(), (cookie, 0));
        bench.resume(&Event::default());
    }
    bench.until_it_computes();
    bench.control.stop();
    assert_eq!(bench.ended(false), Ended::Stopped);
}

/// Point 4: the plugin sees the registers behind the access, so the access comes first and is completed.
#[test]
fn a_pause_in_the_exchange_waits_for_its_answer() {
    let Some(mut bench) = Bench::start(ACCESSES, SpinMode::Off, |_, _| {}) else { return };
    bench.resume(&Event::default());
    for cookie in 0..u64::from(TIMES) {
        let access = bench.event();
        assert!(matches!(access.kind, event_kind::READ | event_kind::WRITE));
        bench.control.pause(cookie);
        assert!(bench.plugin.try_next().unwrap().is_none());
        bench.resume(&access);
        assert_eq!(bench.paused(), (cookie, 0));
        bench.resume(&Event::default());
    }
    assert_eq!(bench.ended(true), Ended::Stopped);
}
