//! The SDK's examples do what they say, run by the real program on the real KVM.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The SeaBIOS image of Debian's package `seabios`.
const BIOS: &str = "/usr/share/seabios/bios.bin";

/// Says aloud why a test does not run here; in CI that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

fn kvm() -> bool {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        skip("/dev/kvm cannot be opened");
    }
    usable
}

/// The folder of the built examples, beside the program under test.
fn examples() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_outboard"));
        let profile = program.parent().expect("the program lies in a folder");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "outboard-plugin", "--examples"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the examples do not build");
        profile.join("examples")
    })
}

fn run(example: &str, params: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.args(["run", "--plugin"]).arg(examples().join(example));
    for file in params.iter().filter(|param| param.starts_with('/')) {
        command.args(["--plugin-mount", file]);
    }
    for param in params {
        command.args(["--params", param]);
    }
    let output = command.output().expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example} ended with {}: {stderr}", output.status);
    output
}

#[test]
fn the_adder_adds() {
    if kvm() {
        assert_eq!(String::from_utf8_lossy(&run("adder", &[]).stdout), "1234 + 4321 = 5555\n");
    }
}

#[test]
fn the_serial_port_prints_what_the_guest_writes() {
    if kvm() {
        let said = run("serial", &[]).stdout;
        assert_eq!(String::from_utf8_lossy(&said).trim_end(), "A guest says hello through a serial port.");
    }
}

#[test]
fn unmodified_seabios_reaches_its_banner() {
    if !Path::new(BIOS).exists() {
        skip("there is no SeaBIOS image; install the package seabios");
    } else if kvm() {
        let said = run("firmware", &[BIOS, "--until", "SeaBIOS (version"]).stdout;
        assert!(String::from_utf8_lossy(&said).contains("SeaBIOS (version"), "{}", String::from_utf8_lossy(&said));
    }
}
