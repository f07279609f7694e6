//! From the start of `outboard` to the plugin's first event, a whole short run, and the memory that the VMM takes; with
//! the plugin caged and uncaged.
//!
//! `cargo bench --bench start [-- --quick]`; JSON lines are appended to the file that `OUTBOARD_BENCH_JSON` names. The
//! floor is what starting any program costs here: `/bin/true`.

mod common;

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use common::args::Args;
use common::report::{self, Report};
use common::vmm::{self, PLUGIN, Vmm};
use outboard_plugin::{Error, Event, Space};
use outboard_wire::clock;
use serde_json::json;

/// Times in TSC ticks, or sizes.
type Ticks = hdrhistogram::Histogram<u64>;

/// A port that the guest writes to when it is done.
const END: u64 = 0xf4;

fn main() -> ExitCode {
    match std::env::args().nth(1) {
        Some(first) if first == PLUGIN => match plugin() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the plugin's half: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            bench(&Args::parse());
            ExitCode::SUCCESS
        }
    }
}

/// How the plugin is run, and the options for it.
const CAGES: [(&str, &[&str]); 3] =
    [("caged", &[]), ("caged, vmm as a user", &["--user", "65534"]), ("uncaged", &["--disable-sandbox"])];

/// What one cage has cost.
struct Rows {
    main: Ticks,
    connected: Ticks,
    init: Ticks,
    whole: Ticks,
    memory: Ticks,
}

impl Rows {
    fn new() -> Rows {
        let [main, connected, init, whole, memory] = [(); 5].map(|()| report::histogram());
        Rows { main, connected, init, whole, memory }
    }

    /// One run.
    fn measure(&mut self, options: &[&str]) {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let start = clock::now();
        let mut vmm = Vmm::start(&options, &[]);
        let begun = vmm.figures(3);
        self.main.saturating_record(begun[0] - start);
        self.connected.saturating_record(begun[1] - start);
        self.init.saturating_record(begun[2] - start);
        self.memory.saturating_record(peak_memory(vmm.pid()));
        // The plugin waits for this with the guest at its first instruction; the time until then is not the run's.
        let resumed = clock::now();
        vmm.go();
        drop(vmm);
        self.whole.saturating_record(clock::now() - resumed + (begun[2] - start));
    }
}

fn bench(args: &Args) {
    let report = Report::new("start", clock::measure_khz(Duration::from_millis(50)));
    let mut floor = report::histogram();
    let mut rows = CAGES.map(|_| Rows::new());
    for _ in 0..args.count(50, 3) {
        let start = clock::now();
        let status = Command::new("/bin/true").stdin(Stdio::null()).status();
        floor.saturating_record(clock::now() - start);
        assert!(status.is_ok_and(|status| status.success()), "/bin/true failed");
        for ((_, options), rows) in CAGES.iter().zip(&mut rows) {
            rows.measure(options);
        }
    }
    report.row("fork, exec and end of /bin/true", &floor, json!({}));
    for ((cage, _), rows) in CAGES.iter().zip(&rows) {
        report.row(&format!("{cage}: start to the plugin's main"), &rows.main, json!({}));
        report.row(&format!("{cage}: start to the plugin's connect"), &rows.connected, json!({}));
        report.row(&format!("{cage}: start to the INIT event"), &rows.init, json!({}));
        report.row(&format!("{cage}: a whole run of one access"), &rows.whole, json!({}));
        let (p50, max) = (rows.memory.value_at_quantile(0.5), rows.memory.max());
        println!("{cage}: resident memory of the VMM at its peak: {p50} KiB, at most {max} KiB");
        let figures = json!({"unit": "KiB", "count": rows.memory.len(), "p50": p50, "max": max});
        report.json(&format!("{cage}: resident memory at its peak"), figures);
    }
}

/// Most memory that a process had resident so far, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    peak.expect("/proc tells the memory of a process")
}

/// Runs as the plugin: tells when it was connected and when the first event came, and ends with the guest's first write.
fn plugin() -> Result<(), Error> {
    let main = clock::now();
    let mut vm = outboard_plugin::connect()?;
    let connected = clock::now();
    let memory = vm.add_memory(0, 0x1_0000)?;
    memory.write(0x1000, &[0xe6, END as u8, 0xf4])?; // out END, al; hlt
    vm.reserve(Space::Port, END..END + 1)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                vmm::send(&[main, connected, clock::now()]);
                vmm::wait_go();
                init.start_real_mode(0, 0x1000)?;
            }
            Event::Write(_) | Event::Shutdown => return Ok(()),
            _ => {}
        }
    }
}
