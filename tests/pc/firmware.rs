//! SeaBIOS and U-Boot, unmodified.

use crate::dialogue::{Dialogue, pc};
use crate::guests::disk_image;
use crate::{BIOS, BIOS_256K, BIOS_MICROVM, Case, U_BOOT};

pub const CASES: &[Case] = &[
    ("seabios_finds_nothing_to_boot", &[BIOS], || finds_nothing_to_boot(BIOS)),
    ("seabios_with_acpi_finds_nothing_to_boot", &[BIOS_256K], || finds_nothing_to_boot(BIOS_256K)),
    ("seabios_for_microvm_finds_nothing_to_boot", &[BIOS_MICROVM], || finds_nothing_to_boot(BIOS_MICROVM)),
    ("a_boot_sector_reads_and_writes_its_disk", &[BIOS_256K], || boots_from_disk(BIOS_256K)),
    ("a_boot_sector_without_pci_reads_and_writes_its_disk", &[BIOS_MICROVM], || boots_from_disk(BIOS_MICROVM)),
    ("a_read_only_disk_stays_as_it_is", &[BIOS_256K], a_read_only_disk_stays_as_it_is),
    ("all_processors_are_found", &[BIOS], all_processors_are_found),
    ("firmware_finds_the_memory", &[BIOS], firmware_finds_the_memory),
    ("u_boot_answers", &[U_BOOT], u_boot_answers),
    ("the_report_counts_accesses_by_device", &[BIOS], the_report_counts_accesses_by_device),
    ("time_runs_out", &[BIOS], time_runs_out),
    ("the_machine_is_a_plugin_as_any_other", &[BIOS], the_machine_is_a_plugin_as_any_other),
];

fn finds_nothing_to_boot(firmware: &str) {
    let mut run = Dialogue::by_pipes(pc(&["--firmware", firmware, "--exit-on", "No bootable device."]));
    run.until("SeaBIOS (version");
    let (status, _, said) = run.ended();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

fn boots_from_disk(firmware: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk");
    std::fs::write(&path, disk_image()).expect("the disk");
    let disk = path.to_str().expect("a plain name");
    let mut run = Dialogue::by_pipes(pc(&["--firmware", firmware, "--disk", disk]));
    run.until("A boot sector of ours.");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(1 << 1 | 1), "{said}");
    let after = std::fs::read(&path).expect("the disk");
    assert_eq!(after[512..1024], disk_image()[..512], "the guest wrote its first sector to the second");
}

fn a_read_only_disk_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk");
    std::fs::write(&path, disk_image()).expect("the disk");
    let disk = format!("{},ro", path.display());
    let run = Dialogue::by_pipes(pc(&["--firmware", BIOS_256K, "--disk", &disk]));
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(2 << 1 | 1), "{said}");
    assert_eq!(std::fs::read(&path).expect("the disk"), disk_image());
}

fn all_processors_are_found() {
    let words = ["--firmware", BIOS, "--cpus", "64", "--debug-console", "stdout", "--exit-on", "Found 64 cpu(s)"];
    let (status, printed, said) = Dialogue::by_pipes(pc(&words)).ended();
    assert_eq!(status.code(), Some(0), "{printed}{said}");
}

fn firmware_finds_the_memory() {
    let words = ["--firmware", BIOS, "--memory", "5G", "--debug-console", "stdout", "--exit-on", "enter handle_19"];
    let (status, printed, said) = Dialogue::by_pipes(pc(&words)).ended();
    assert_eq!(status.code(), Some(0), "{printed}{said}");
    assert!(printed.contains("0000000100000000 - 0000000180000000 = 1 RAM"), "{printed}");
}

fn u_boot_answers() {
    let mut run = Dialogue::by_pipes(pc(&["--firmware", U_BOOT]));
    run.until("=> ");
    let mut ask = |command: &str| {
        run.types(&format!("{command}\n"));
        run.until("=> ")
    };
    assert!(ask("version").contains("U-Boot 20"));
    let date = ask("date");
    assert!(date.contains("Date: 20") && date.contains("Time: "), "{date}");
    ask("mw.l 1000000 64636261 4");
    let memory = ask("md 1000000 4");
    assert!(memory.contains("01000000: 64636261 64636261 64636261 64636261  abcdabcdabcdabcd"), "{memory}");
    let pci = ask("pci");
    for function in ["0x8086     0x1237", "0x8086     0x7000", "0x8086     0x7113"] {
        assert!(pci.contains(function), "{pci}");
    }
    run.types("reset\n");
    let again = run.until("=> ");
    assert!(again.contains("U-Boot 20"), "{again}");
    run.types("echo still here\n");
    run.until("\nstill here");
}

fn the_report_counts_accesses_by_device() {
    let words = ["--firmware", BIOS, "--exit-on", "SeaBIOS (version", "--report"];
    let (status, _, said) = Dialogue::by_pipes(pc(&words)).ended();
    assert_eq!(status.code(), Some(0));
    for device in ["COM1", "PCI data", "firmware config", "nobody"] {
        assert!(said.lines().any(|line| line.starts_with("port 0x") && line.contains(device)), "{device}: {said}");
    }
}

fn time_runs_out() {
    let (status, _, said) = Dialogue::by_pipes(pc(&["--firmware", BIOS, "--timeout", "1"])).ended();
    assert_eq!(status.code(), Some(124));
    assert_eq!(said, "outboard: pc: the machine did not end within 1 seconds\n");
}

fn the_machine_is_a_plugin_as_any_other() {
    let program = env!("CARGO_BIN_EXE_outboard");
    let mut command = std::process::Command::new(program);
    command.args(["run", "--plugin", program, "--plugin-mount", BIOS]);
    for word in ["embedded-pc", "--firmware", BIOS, "--exit-on", "No bootable device."] {
        command.args(["-p", word]);
    }
    let (status, printed, said) = Dialogue::by_pipes(command).ended();
    assert_eq!(status.code(), Some(0), "{printed}{said}");
    assert!(printed.contains("SeaBIOS (version"));
}
