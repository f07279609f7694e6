//! The vCPU exchange without KVM: both ends in one process, over real memfds, beside the cache-line round trip.
//!
//! `cargo bench --bench ring`; JSON lines are appended to the file that `OUTBOARD_BENCH_JSON` names.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use common::report::Report;
use common::{line, memfd, pin};
use hdrhistogram::Histogram;
use outboard_wire::clock;
use outboard_wire::line::{Answer, Event, answer_kind, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::posted::PostedWrite;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::vmm_end::VmmEnd;
use serde_json::json;

const ROUNDS: u64 = 200_000;

fn main() {
    let khz = clock::measure_khz(Duration::from_millis(50));
    let report = Report::new("ring", khz);
    let cpus = pin::allowed();
    if let [a, b, ..] = cpus[..] {
        for _ in 0..3 {
            let unit = line::round_trip(a, b, ROUNDS);
            report.row("cache line round trip, apart", &unit, json!({"cpus": [a, b]}));
            let sync = synchronous(&[a], &[b], SpinMode::Auto, ROUNDS, khz, 0);
            report.row("event and answer, apart", &sync, json!({"cpus": [a, b], "spin": "auto"}));
            let paced = synchronous(&[a], &[b], SpinMode::Auto, ROUNDS / 10, khz, 9_000);
            report.row("the same, an event each 9 us", &paced, json!({"cpus": [a, b], "spin": "auto"}));
            let posted = posted(&[a], &[b], khz, 9_000);
            report.row("posted write each 9 us, apart", &posted, json!({"cpus": [a, b], "spin": "auto"}));
        }
        let free = synchronous(&cpus, &cpus, SpinMode::Auto, ROUNDS, khz, 0);
        report.row("event and answer, free", &free, json!({"spin": "auto"}));
        let off = synchronous(&[a], &[b], SpinMode::Off, ROUNDS / 10, khz, 0);
        report.row("event and answer by futex, apart", &off, json!({"cpus": [a, b], "spin": "off"}));
    } else {
        println!("one CPU is allowed: the rows for two CPUs are left out");
    }
    let one = cpus[0];
    let together = synchronous(&[one], &[one], SpinMode::Auto, ROUNDS / 10, khz, 0);
    report.row("event and answer, one CPU", &together, json!({"cpus": [one], "spin": "auto"}));
}

/// Ticks from publishing an event to reading its answer.
fn synchronous(vmm: &[usize], plugin: &[usize], mode: SpinMode, rounds: u64, khz: u64, pace: u64) -> Histogram<u64> {
    let pace = clock::from_ns(pace, khz);
    let mut ticks = common::report::histogram();
    exchange(vmm, plugin, mode, khz, |end| {
        let stop = AtomicU32::new(0);
        for data in 0..rounds {
            idle(pace);
            let (start, cpu) = clock::now_and_cpu();
            end.publish(&Event { kind: event_kind::READ, data, cpu, tsc: start, length: 4, ..Event::default() });
            let answer = end.wait_answer(cpu, &stop).expect("the plugin's end keeps to the protocol");
            ticks.saturating_record(clock::now() - start);
            assert_eq!(answer.data, data + 1);
        }
    });
    ticks
}

/// Ticks that posting a write takes.
fn posted(vmm: &[usize], plugin: &[usize], khz: u64, pace: u64) -> Histogram<u64> {
    let pace = clock::from_ns(pace, khz);
    let mut ticks = common::report::histogram();
    exchange(vmm, plugin, SpinMode::Auto, khz, |end| {
        let stop = AtomicU32::new(0);
        for data in 0..ROUNDS / 10 {
            idle(pace);
            let (start, cpu) = clock::now_and_cpu();
            let write = PostedWrite { mmio: false, length: 1, address: 0x3f8, data, tsc: start, cpu };
            end.post(&write, cpu, &stop).expect("the plugin's end keeps to the protocol");
            ticks.saturating_record(clock::now() - start);
        }
    });
    ticks
}

fn idle(ticks: u64) {
    let start = clock::now();
    while clock::now() - start < ticks {}
}

/// Runs `drive` on the VMM's end while a thread answers on the plugin's.
fn exchange(vmm: &[usize], plugin: &[usize], mode: SpinMode, khz: u64, drive: impl FnOnce(&mut VmmEnd) + Send) {
    let (down, up) = (memfd::blocks(), memfd::blocks());
    let cpus = pin::allowed().len() as u32;
    let limit = || Arc::new(SpinLimit::for_mode(mode, cpus, 1));
    let mut vmm_end = VmmEnd::new(
        BlockRef::new(&Arc::new(Blocks::map(down.as_fd(), 1, Access::Write).expect("map")), 0).expect("block"),
        BlockRef::new(&Arc::new(Blocks::map(up.as_fd(), 1, Access::Read).expect("map")), 0).expect("block"),
        Spinner::new(mode, khz),
        limit(),
        Arc::new(OnceLock::new()),
    );
    let mut plugin_end = PluginEnd::new(
        BlockRef::new(&Arc::new(Blocks::map(down.as_fd(), 1, Access::Read).expect("map")), 0).expect("block"),
        BlockRef::new(&Arc::new(Blocks::map(up.as_fd(), 1, Access::Write).expect("map")), 0).expect("block"),
        Spinner::new(mode, khz),
        limit(),
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            pin::pin(plugin);
            loop {
                match plugin_end.wait().expect("the VMM's end keeps to the protocol") {
                    Incoming::Posted(_) => {}
                    Incoming::Event(event) if event.kind == event_kind::SHUTDOWN => break,
                    Incoming::Event(event) => plugin_end.answer(&Answer {
                        kind: answer_kind::RESUME,
                        data: event.data + 1,
                        length: event.length,
                        ..Answer::default()
                    }),
                }
            }
        });
        scope.spawn(|| {
            pin::pin(vmm);
            drive(&mut vmm_end);
            vmm_end.close();
        });
    });
}
