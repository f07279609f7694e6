//! Control requests through the SDK against the real program, beside a plain ping-pong over the same kind of socket.
//!
//! `cargo bench --bench control [-- --quick] [--filter TEXT]`; JSON lines are appended to the file that
//! `OUTBOARD_BENCH_JSON` names.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use common::args::Args;
use common::echo::{self, Echo, Sockets};
use common::place::{self, Place};
use common::report::{self, Report};
use common::vmm::{self, PLUGIN, Vmm};
use common::{line, pin};
use hdrhistogram::Histogram;
use outboard_plugin::{Connection, Error, Space};
use outboard_wire::clock;
use serde_json::json;

/// What is asked for.
const ROWS: [&str; 6] =
    ["check extension", "set irq line", "reserve range", "release range", "create io event", "destroy io event"];

/// Requests of each row in a turn, of which the first twentieth is not counted. Io events are fewer: KVM waits for a grace
/// period when one is destroyed, which takes it milliseconds.
const fn counts(turn: usize) -> [usize; ROWS.len()] {
    [turn, turn, turn, turn, turn / 40, turn / 40]
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == PLUGIN => match plugin(rest) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the plugin's half: {error}");
                return ExitCode::FAILURE;
            }
        },
        Some((first, rest)) if first == echo::ECHO => echo::main(rest),
        _ => bench(&Args::parse()),
    }
    ExitCode::SUCCESS
}

fn bench(args: &Args) {
    let report = Report::new("control", clock::measure_khz(Duration::from_millis(50)));
    let (turns, turn) = (args.count(8, 1), args.count(1600, 200));
    for place in Place::all() {
        if !args.wants(place.name) && !ROWS.iter().any(|row| args.wants(row)) {
            continue;
        }
        println!(
            "{}: the VMM on {}, the plugin on {}",
            place.name,
            place::word(&place.vmm),
            place::word(&place.plugin)
        );
        turns_of(&report, args, &place, turns, turn);
    }
}

/// Floor and requests in turns, because the speed of a host drifts.
fn turns_of(report: &Report, args: &Args, place: &Place, turns: usize, turn: usize) {
    let mut floor = Sockets::new(&place.vmm);
    let mut vmm = start(place, turn);
    let mut round_trips = report::histogram();
    let mut floors = report::histogram();
    let mut rows = ROWS.map(|_| report::histogram());
    for _ in 0..turns {
        if let Some((a, b)) = place.pair() {
            round_trips.add(line::round_trip(a, b, 2_000)).expect("the same bounds");
        }
        let before = pin::allowed();
        pin::pin(&place.plugin);
        let ticks: Vec<u64> = (0..turn).map(|_| timed(|| floor.exchange())).collect();
        pin::pin(&before);
        count(&ticks, &mut floors);
        vmm.go();
        for (row, requests) in rows.iter_mut().zip(counts(turn)) {
            count(&vmm.figures(requests), row);
        }
    }
    drop(vmm);
    let more = |ticks: &Histogram<u64>| {
        let per_second = 1e9 / report.ticks_ns(ticks.mean() as u64).max(1) as f64;
        json!({"place": place.name, "cpus": {"vmm": place.vmm, "plugin": place.plugin}, "per_second": per_second.round()})
    };
    if !round_trips.is_empty() {
        report.row("  round trip of a cache line", &round_trips, json!({"place": place.name}));
    }
    report.row("  seqpacket ping-pong, 64 bytes", &floors, more(&floors));
    for (name, ticks) in ROWS.iter().zip(&rows).filter(|(name, _)| args.wants(name) || args.wants(place.name)) {
        let more = more(ticks);
        report.row(&format!("  {name} ({} a second)", more["per_second"].as_f64().unwrap_or(0.0)), ticks, more);
    }
}

/// Starts the VMM on its CPUs: all its threads inherit them.
fn start(place: &Place, turn: usize) -> Vmm {
    let before = pin::allowed();
    pin::pin(&place.vmm);
    let vmm = Vmm::start(&[], &[&turn.to_string(), &place::word(&place.plugin)]);
    pin::pin(&before);
    vmm
}

fn count(ticks: &[u64], into: &mut Histogram<u64>) {
    for ticks in &ticks[ticks.len() / 20..] {
        into.saturating_record(*ticks);
    }
}

/// Ticks that something takes.
fn timed(mut what: impl FnMut()) -> u64 {
    let start = clock::now();
    what();
    clock::now() - start
}

/// Runs as the plugin. `words` are the number of requests in a turn and the CPUs.
fn plugin(words: &[String]) -> Result<(), Error> {
    let [turn, cpus] = words else { panic!("the plugin takes a number and CPUs") };
    let turn: usize = turn.parse().expect("a number of requests");
    let mut vm = outboard_plugin::connect()?;
    pin::pin(&place::cpus(cpus));
    while vmm::wait_go() {
        for ticks in requests(&mut vm, turn)? {
            vmm::send(&ticks);
        }
    }
    Ok(())
}

/// Ticks of every request, in the order of [`ROWS`].
fn requests(vm: &mut Connection, turn: usize) -> Result<[Vec<u64>; ROWS.len()], Error> {
    const USER_MEMORY: u32 = 3;
    let mut ticks = [const { Vec::new() }; ROWS.len()];
    let counts = counts(turn);
    for round in 0..counts[0] {
        let mut done = Ok(());
        ticks[0].push(timed(|| done = vm.check_extension(USER_MEMORY).map(drop)));
        done?;
        let mut done = Ok(());
        ticks[1].push(timed(|| done = vm.set_irq(5, round % 2 == 0)));
        done?;
    }
    for _ in 0..counts[2] {
        let mut done = Ok(());
        ticks[2].push(timed(|| done = vm.reserve(Space::Port, 0x3f8..0x400)));
        done?;
        let mut done = Ok(());
        ticks[3].push(timed(|| done = vm.release(Space::Port, 0x3f8)));
        done?;
    }
    for _ in 0..counts[4] {
        let start = clock::now();
        let event = vm.create_io_event(Space::Port, 0x500, 4, None)?;
        ticks[4].push(clock::now() - start);
        let mut done = Ok(());
        ticks[5].push(timed(|| done = vm.destroy_io_event(&event)));
        done?;
    }
    Ok(ticks)
}
