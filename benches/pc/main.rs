//! How long firmware takes on the PC: in its jail, without it, with the devices linked into the program that runs the VM,
//! and on QEMU where that is installed. The four take turns, each several times.
//!
//! `cargo bench --bench pc [-- --quick] [-- --filter TEXT]`; JSON lines are appended to the file that
//! `OUTBOARD_BENCH_JSON` names. `OUTBOARD_BENCH_QEMU` holds QEMU's command, if that is not `qemu-system-x86_64`. The time
//! is from the start of the process to the text.

#[path = "../common/mod.rs"]
mod common;
mod linked;

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::args::Args;
use common::report::Report;
use serde_json::json;

/// The word by which this program runs the machine by itself.
const LINKED: &str = "linked";
/// A run that takes longer will not come to its end.
const LIMIT: Duration = Duration::from_secs(10);

/// Firmware, and the text that it is timed to.
const IMAGES: [(&str, &str, &str); 3] = [
    ("SeaBIOS, no disk", "/usr/share/seabios/bios.bin", "No bootable device"),
    ("SeaBIOS for microvm, no disk", "/usr/share/seabios/bios-microvm.bin", "No bootable device"),
    ("U-Boot to its prompt", "/usr/lib/u-boot/qemu-x86/u-boot.rom", "=> "),
];

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(LINKED) {
        linked::main(words);
    }
    let args = Args::parse();
    let report = Report::with_facts("pc", outboard_wire::clock::measure_khz(Duration::from_millis(50)));
    println!("{:<32} {:<12} {:>8} {:>8} {:>8}   (ms; to linked)", "pc", "machine", "min", "median", "ratio");
    for (name, image, text) in IMAGES.iter().filter(|(name, ..)| args.wants(name)) {
        if Path::new(image).exists() {
            compare(&report, &args, name, image, text);
        } else {
            println!("{name:<32} there is no {image}");
        }
    }
}

fn compare(report: &Report, args: &Args, name: &str, image: &str, text: &str) {
    let mut machines = machines(args, image);
    for round in 0..args.count(5, 1) {
        for (_, command, times) in &mut machines {
            // What did not come to the text at first is not waited for again.
            if times.len() == round {
                times.extend(time(command, text));
            }
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    let base = median(&mut machines[0].2);
    for (machine, _, times) in &mut machines {
        let (Some(middle), Some(base)) = (median(times), base) else {
            println!("{name:<32} {machine:<12} does not come to {text:?}");
            continue;
        };
        let ratio = middle.as_secs_f64() / base.as_secs_f64();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{name:<32} {machine:<12} {:>8.0} {:>8.0} {ratio:>8.3}", ms(times[0]), ms(middle));
        let row = json!({"unit": "ms", "count": times.len(), "min": ms(times[0]), "p50": ms(middle), "ratio": ratio});
        report.json(&format!("{name}, {machine}"), row);
    }
}

/// The machines by name, with what starts them and no times yet. The one that the others are compared with comes first.
fn machines(args: &Args, image: &str) -> Vec<(&'static str, Command, Vec<Duration>)> {
    let mut linked = Command::new(std::env::current_exe().expect("the path of this executable"));
    linked.args([LINKED, "--firmware", image]);
    let pc = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
        command.args(["pc", "--spin", &args.spin, "--firmware", image]).args(more);
        command
    };
    let mut machines = vec![
        ("linked", linked, Vec::new()),
        ("caged", pc(&[]), Vec::new()),
        ("uncaged", pc(&["--disable-sandbox"]), Vec::new()),
    ];
    let word = std::env::var_os("OUTBOARD_BENCH_QEMU").unwrap_or_else(|| OsString::from("qemu-system-x86_64"));
    let word = word.into_string().unwrap_or_default();
    let mut words = word.split(' ');
    let mut qemu = Command::new(words.next().unwrap_or_default());
    qemu.args(words);
    if qemu.arg("--version").output().is_ok_and(|done| done.status.success()) {
        let program = qemu.get_program().to_owned();
        let given: Vec<OsString> = word.split(' ').skip(1).map(OsString::from).collect();
        let mut qemu = Command::new(program);
        let machine =
            if image.contains("microvm") { "microvm,accel=kvm,graphics=off" } else { "pc,accel=kvm,graphics=off" };
        qemu.args(given).args(["-machine", machine, "-m", "256", "-nodefaults", "-display", "none"]);
        qemu.args(["-serial", "stdio", "-monitor", "none", "-bios", image]);
        machines.push(("QEMU, KVM", qemu, Vec::new()));
    } else {
        println!("QEMU is not installed, so that there is no comparison with it");
    }
    machines
}

/// Time from the start to the text; `None` if it does not come.
fn time(command: &mut Command, text: &str) -> Option<Duration> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the machine starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let (sender, came) = std::sync::mpsc::channel();
    let text = text.as_bytes().to_vec();
    let reader = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::<u8>::new(), [0; 4096]);
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            seen.extend(&buffer[..count]);
            if seen.windows(text.len()).any(|window| window == text) {
                let _ = sender.send(start.elapsed());
                return;
            }
        }
    });
    let taken = came.recv_timeout(LIMIT).ok();
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    taken
}
