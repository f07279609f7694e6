//! Kernels that nobody here wrote, started without firmware.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Case;
use crate::dialogue::{Dialogue, pc};

/// A game that is a multiboot image: Debian's `grub-invaders`.
const INVADERS: &str = "/boot/invaders.exec";
/// Xen, packed: Debian's `xen-hypervisor-4.17-amd64`.
const XEN: &str = "/boot/xen-4.17-amd64.gz";
/// The source of Linux: Debian's `linux-source-6.1`.
const LINUX: &str = "/usr/src/linux-source-6.1.tar.xz";

pub const CASES: &[Case] = &[
    ("grub_invaders_draws_its_board", &[INVADERS], grub_invaders_draws_its_board),
    ("xen_comes_up_and_resets_for_want_of_a_dom0", &[XEN], xen_comes_up_and_resets_for_want_of_a_dom0),
    ("xen_says_that_it_has_no_dom0", &[XEN], xen_says_that_it_has_no_dom0),
    ("kernels_that_are_none_are_named", &[], kernels_that_are_none_are_named),
];

/// Cases for whoever asks for them by `OUTBOARD_TEST_LINUX=1`: they build a kernel, which takes minutes.
pub const OPT_IN: &[Case] = &[
    ("linux_mounts_its_root_from_a_disk", &[LINUX], || linux_mounts_its_root("vmlinux", &[])),
    ("linux_mounts_its_root_by_its_64_bit_entry", &[LINUX], || {
        linux_mounts_its_root("vmlinux", &["--format", "linux"])
    }),
    ("linux_speaks_over_the_virtio_console", &[LINUX], linux_speaks_over_the_virtio_console),
    ("linux_mounts_its_root_from_a_bzimage", &[LINUX], || linux_mounts_its_root("arch/x86/boot/bzImage", &[])),
];

fn grub_invaders_draws_its_board() {
    let words = ["--kernel", INVADERS, "--vga", "--exit-on=-*--*-"];
    let (status, drawn, said) = Dialogue::by_pipes(pc(&words)).ended();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(drawn.contains("-*-"), "{drawn}");
}

fn xen(words: &[&str]) -> Dialogue {
    let line = "com1=115200 console=com1 loglvl=all";
    let all = [&["--kernel", XEN, "--append", line, "--memory", "512M", "--no-reboot"], words].concat();
    Dialogue::by_pipes(pc(&all)).patiently()
}

fn xen_comes_up_and_resets_for_want_of_a_dom0() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dom0");
    // Xen takes the last four bytes for the length of what is packed.
    std::fs::write(&path, [0; 4096]).expect("a file");
    let module = format!("{} console=hvc0", path.display());
    let mut run = xen(&["--initrd", &module]);
    run.until("Bootloader: outboard");
    run.until("Command line: com1=115200 console=com1 loglvl=all");
    run.until("Multiboot-e820 RAM map:");
    run.until("Brought up 1 CPUs");
    run.until("Could not construct domain 0");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("the guest reset the machine"), "{said}");
}

fn xen_says_that_it_has_no_dom0() {
    let mut run = xen(&[]);
    run.until("dom0 kernel not specified");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}

fn kernels_that_are_none_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("a plain name").to_owned()
    };
    let said = |words: &[&str]| {
        let (status, printed, said) = Dialogue::by_pipes(pc(words)).ended();
        assert_eq!((status.code(), printed.as_str()), (Some(1), ""), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let folder_name = folder.path().to_str().expect("a plain name");
    for (path, why) in [
        ("/there/is/no/such/file", "No such file or directory"),
        (folder_name, "it is a directory"),
        (&file("empty", b""), "it is empty"),
        (&file("text", b"hello"), "say an address to load it as a flat binary"),
        (&file("packed", b"\x1f\x8b\x08\0\0\0\0\0"), "compressed by gzip and does not unpack"),
        (&file("elf", b"\x7fELF\x02\x01\x01\0"), "its ELF header is wrong"),
    ] {
        let said = said(&["--kernel", path]);
        assert!(said.starts_with("outboard: pc: cannot ") && said.contains(path) && said.contains(why), "{said}");
    }
    let large = file("large", &vec![0xf4; 2 << 20]);
    let too_small = said(&["--kernel", &large, "--format", "0x100000", "--memory", "2M"]);
    assert!(too_small.contains("takes the addresses 0x100000 to 0x300000"), "{too_small}");
    let format = said(&["--kernel", &large, "--format", "elf"]);
    assert!(format.contains("the format \"elf\""), "{format}");
    let text = file("module", b"text");
    let along = said(&["--kernel", &text, "--format", "0x7c00", "--initrd", &text]);
    assert!(along.contains("a flat binary takes no other file along"), "{along}");
}

/// Builds Linux from Debian's source by the small configuration beside the machine, once.
fn linux() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linux-6.1");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/pc/tests/linux/config");
    let done = folder.join("built-by-this");
    let wanted = std::fs::read(&config).expect("the configuration");
    if std::fs::read(&done).is_ok_and(|built| built == wanted) {
        return folder;
    }
    std::fs::create_dir_all(&folder).expect("a folder");
    let carry_out = |command: &mut Command| {
        let output = command.current_dir(&folder).output().expect("the tool is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    };
    carry_out(Command::new("tar").args(["--strip-components=1", "-xJf", LINUX]));
    carry_out(Command::new("make").arg(format!("KCONFIG_ALLCONFIG={}", config.display())).arg("allnoconfig"));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    carry_out(Command::new("make").arg(format!("-j{jobs}")).args(["vmlinux", "bzImage"]));
    std::fs::write(&done, wanted).expect("a file");
    folder
}

fn linux_mounts_its_root(kernel: &str, words: &[&str]) {
    let kernel = linux().join(kernel);
    let folder = tempfile::tempdir().expect("a folder");
    let (root, disk) = (folder.path().join("root"), folder.path().join("disk"));
    std::fs::create_dir_all(root.join("dev")).expect("a folder");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext2", "-d"]).arg(&root).arg(&disk).arg("4M").status();
    assert!(made.expect("the package e2fsprogs").success(), "the disk cannot be made");
    let (kernel, disk) = (kernel.to_str().expect("a plain name"), disk.to_str().expect("a plain name"));
    // `clearcpuid` and the like ask nothing of the completion of refused instructions; without them it has its part.
    for line in ["clearcpuid=popcnt,smap nosmap noxsave", ""] {
        let line = format!("console=ttyS0 root=/dev/vda panic=-1 {line}");
        let all = [&["--kernel", kernel, "--append", &line, "--disk", disk, "--no-reboot"], words].concat();
        let mut run = Dialogue::by_pipes(pc(&all)).patiently();
        run.until("Linux version 6.1");
        run.until("virtio_blk virtio0: [vda] 8192 512-byte logical blocks");
        run.until("VFS: Mounted root (ext2 filesystem)");
        run.until("No working init found");
        let (status, _, said) = run.ended();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

fn linux_speaks_over_the_virtio_console() {
    let kernel = linux().join("vmlinux");
    let words = ["--kernel", kernel.to_str().expect("a plain name"), "--console", "virtio", "--no-reboot"];
    let line = ["--append", "console=hvc0 panic=-1 clearcpuid=popcnt,smap nosmap noxsave"];
    let mut run = Dialogue::by_pipes(pc(&[&words[..], &line].concat())).patiently();
    // The driver comes late in the start, and says no more than what follows.
    run.until("VFS: Unable to mount root fs");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}
