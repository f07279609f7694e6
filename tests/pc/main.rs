//! The PC, in its jail, with firmware that nobody here wrote: what a user sees of it, by pipes and by a terminal.

#![allow(missing_docs)]

mod common;
mod console;
mod dialogue;
mod files;
mod firmware;
mod guests;
mod instructions;
mod kernels;
mod replay;
mod resets;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// SeaBIOS as QEMU's default machine has it, without and with ACPI, and for machines without PCI: Debian's `seabios`.
pub const BIOS: &str = "/usr/share/seabios/bios.bin";
pub const BIOS_256K: &str = "/usr/share/seabios/bios-256k.bin";
pub const BIOS_MICROVM: &str = "/usr/share/seabios/bios-microvm.bin";
/// U-Boot for QEMU's PC: Debian's `u-boot-qemu`.
pub const U_BOOT: &str = "/usr/lib/u-boot/qemu-x86/u-boot.rom";

/// A game that multiboot starts: Debian's `grub-invaders`.
pub const INVADERS: &str = "/boot/invaders.exec";

/// A test: its name, what has to be installed for it, and itself.
pub type Case = (&'static str, &'static [&'static str], fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kvm = outboard::kvm::System::open(Path::new("/dev/kvm")).err().map(|error| error.to_string());
    let rooms = [
        console::CASES,
        firmware::CASES,
        files::CASES,
        instructions::CASES,
        kernels::CASES,
        replay::CASES,
        resets::CASES,
        terminal::CASES,
    ];
    let mut cases = rooms.concat();
    match std::env::var_os("OUTBOARD_TEST_LINUX") {
        Some(_) => cases.extend(kernels::OPT_IN),
        None => eprintln!("{} tests of Linux are left out: OUTBOARD_TEST_LINUX=1 asks for them", kernels::OPT_IN.len()),
    }
    let trials = cases.into_iter().map(|(name, needs, test)| {
        let missing = needs.iter().find(|file| !Path::new(file).exists());
        let lack = kvm.clone().or_else(|| missing.map(|file| format!("there is no {file}")));
        // In CI the cases run, and fail with the sentence; elsewhere they are skipped aloud.
        let skip = lack.is_some() && std::env::var_os("CI").is_none();
        if let (true, Some(lack)) = (skip, &lack) {
            eprintln!("{name} is skipped: {lack}");
        }
        let body = move || match lack {
            Some(lack) => Err(Failed::from(format!("this cannot run here: {lack}"))),
            None => {
                test();
                Ok(())
            }
        };
        Trial::test(name, body).with_ignored_flag(skip)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
