//! The C library: header, exported symbols, and plugins in C, one per behaviour, each run by the real program on the real
//! KVM. A plugin of `plugins/` passes when it ends with status 0 and the program with it.

#![allow(missing_docs)]

mod build;
#[path = "../common/cage.rs"]
mod cage;
mod hyperv;
#[path = "../common/program.rs"]
#[allow(dead_code, reason = "each test executable uses its part")]
mod program;
mod surface;

use std::process::ExitCode;

use cage::Cage;
use libtest_mimic::{Arguments, Failed, Trial};
use program::{Program, Running};

/// Sources of `plugins/`, and the options that their VMs need.
const PLUGINS: &[(&str, &[&str])] = &[
    ("connections", &["-c2"]),
    ("nulls", &[]),
    ("refusals", &[]),
    ("sequence", &["-c2"]),
    ("registers", &[]),
    ("msrs", &[]),
    ("ports", &[]),
    ("mmio", &[]),
    ("posted", &[]),
    ("strings", &[]),
    ("pauses", &["-c2"]),
    ("io_events", &[]),
    ("irqs", &[]),
    ("slots", &[]),
    ("hints", &[]),
    ("lists", &[]),
    ("chips", &[]),
    ("routing", &[]),
    ("state", &[]),
    ("big", &[]),
    ("threads", &[]),
    ("habits", &["-c4"]),
    ("habits", &["-c24"]),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lack = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").err();
    // In CI they run, and fail; elsewhere they are skipped aloud.
    let skip = lack.is_some() && std::env::var_os("CI").is_none();
    if let (true, Some(error)) = (skip, &lack) {
        eprintln!("the plugins are skipped, because /dev/kvm cannot be opened: {error}");
    }
    let mut trials = surface::trials();
    for cage in Cage::chosen() {
        for (name, options) in PLUGINS {
            let body = move || passes(cage, name, options).map_err(Failed::from);
            let name = [&["plugin", name], *options].concat().join("_");
            trials.push(Trial::test(format!("{name}::{}", cage.name()), body).with_ignored_flag(skip));
        }
        for (name, cages, body) in AROUND.iter().filter(|(_, cages, _)| cages.contains(&cage)) {
            let body = move || body(cage).map_err(Failed::from);
            let name = if cages.len() > 1 { format!("{name}::{}", cage.name()) } else { (*name).to_owned() };
            trials.push(Trial::test(name, body).with_ignored_flag(skip));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Outcome = Result<(), String>;

fn passes(cage: Cage, name: &str, options: &[&str]) -> Outcome {
    plugin(cage, &build::shared(name)?, options).start().ended().expect(0);
    Ok(())
}

/// The program with this plugin.
fn plugin(cage: Cage, executable: &std::path::Path, options: &[&str]) -> Program {
    let mut program = Program::run_in(cage);
    program.args(options).args([std::ffi::OsStr::new("--plugin"), executable.as_os_str()]);
    program
}

type Around = (&'static str, &'static [Cage], fn(Cage) -> Outcome);

const ALL: &[Cage] = &[Cage::Caged, Cage::Uncaged, Cage::CagedByUser];
/// Only root makes tap devices.
const ROOT: &[Cage] = &[Cage::Caged, Cage::Uncaged];
/// Without `outboard`.
const ONCE: &[Cage] = &[Cage::Uncaged];

/// Plugins that are built, started or watched in another way.
const AROUND: &[Around] = &[
    ("a_plugin_linked_statically_runs_alone", ALL, linked_statically),
    ("a_plugin_in_cpp_runs", ALL, in_cpp),
    ("the_guide_s_plugin_prints", ALL, the_guide),
    ("a_tap_device_reaches_the_plugin", ROOT, with_a_tap),
    ("connecting_without_a_vmm_says_which_error", ONCE, |_| without_a_vmm()),
    ("statistics_are_printed_if_asked_for", ALL, statistics),
    ("an_end_by_signal_wakes_every_wait", ALL, ended_by_a_signal),
    ("hyperv_exits_reach_the_plugin", ONCE, |_| hyperv::exits_reach_the_plugin()),
];

fn linked_statically(cage: Cage) -> Outcome {
    let executable = build::statically("ports")?;
    plugin(cage, &executable, &[]).start().ended().expect(0);
    Ok(())
}

fn in_cpp(cage: Cage) -> Outcome {
    plugin(cage, &build::cpp("hello")?, &[]).start().ended().expect(0).printed("hello from C++");
    Ok(())
}

fn the_guide(cage: Cage) -> Outcome {
    let mut running = plugin(cage, &build::guide()?, &[]).start();
    running.says("!");
    running.signal("TERM");
    running.ended().expect(0);
    Ok(())
}

fn with_a_tap(cage: Cage) -> Outcome {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok();
    let unshared = build::run(std::process::Command::new("unshare").args(["--net", "true"])).is_ok();
    if !(opened && unshared) && std::env::var_os("CI").is_none() {
        eprintln!("skipped: no /dev/net/tun, or no right to make network namespaces");
        return Ok(());
    }
    let tap = ["--host_ip", "10.117.0.1", "--netmask", "255.255.255.0", "--mac", "02:11:22:33:44:55"];
    plugin(cage, &build::shared("net")?, &tap).in_network_namespace().start().ended().expect(0);
    Ok(())
}

fn without_a_vmm() -> Outcome {
    // The plugin prints what connecting gives.
    let executable = build::shared("alone")?;
    for (value, errno) in [
        (None, libc::ENOTCONN),
        (Some("x"), libc::EINVAL),
        (Some("-3"), libc::EINVAL),
        (Some(""), libc::EINVAL),
        (Some("987"), libc::EBADF),
        (Some("0"), libc::ENOTSOCK),
    ] {
        let mut command = std::process::Command::new(&executable);
        command.env_remove("CROSVM_SOCKET").env("OUTBOARD_SOCKET", "5").stdin(std::process::Stdio::null());
        if let Some(value) = value {
            command.env("CROSVM_SOCKET", value);
        }
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != (-errno).to_string() {
            return Err(format!("CROSVM_SOCKET={value:?} gave {said:?} instead of {}", -errno));
        }
    }
    Ok(())
}

fn statistics(cage: Cage) -> Outcome {
    let executable = build::shared("ports")?;
    let mut program = plugin(cage, &executable, &[]);
    program.command().env_remove("CROSVM_STATS");
    let without = program.start().ended();
    without.expect(0);
    if without.stderr.contains("crosvm_vcpu_wait") {
        return Err(format!("statistics without asking:\n{}", without.stderr));
    }
    program.command().env("CROSVM_STATS", "1");
    let with = program.start().ended();
    with.expect(0).complained(&["count", "p99.9"]);
    for name in ["crosvm_connect", "crosvm_start", "crosvm_vcpu_wait", "crosvm_vcpu_resume"] {
        let row = with.stderr.lines().find(|line| line.starts_with(&format!("{name} ")));
        let cells: Vec<&str> = row.map(|row| row.split_whitespace().collect()).unwrap_or_default();
        if cells.len() != 7 || cells[1..].iter().any(|cell| cell.parse::<f64>().is_err()) {
            return Err(format!("no row of numbers for {name}:\n{}", with.stderr));
        }
    }
    Ok(())
}

fn ended_by_a_signal(cage: Cage) -> Outcome {
    let mut running: Running = plugin(cage, &build::shared("ended")?, &["-c3"]).start();
    running.says("ready");
    running.signal("TERM");
    running.ended().expect(0).printed("every wait failed");
    Ok(())
}
