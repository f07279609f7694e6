//! Files and words that make no machine: one sentence, a status, and nothing left behind.

use std::path::Path;

use crate::dialogue::{Dialogue, pc};
use crate::{BIOS, Case};

pub const CASES: &[Case] = &[
    ("firmware_that_is_none_is_named", &[BIOS], firmware_that_is_none_is_named),
    ("disks_that_are_none_are_named", &[BIOS], disks_that_are_none_are_named),
    ("words_that_make_no_machine_are_named", &[], words_that_make_no_machine_are_named),
];

/// The one sentence that a run with these words ends with.
fn refused(words: &[&str]) -> String {
    let (status, printed, said) = Dialogue::by_pipes(pc(words)).ended();
    assert_eq!((status.code(), printed.as_str()), (Some(1), ""), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn firmware_that_is_none_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = std::fs::read(BIOS).expect("the firmware");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("a plain name").to_owned()
    };
    let folder_name = folder.path().to_str().expect("a plain name");
    for (path, why) in [
        ("/there/is/no/such/file", "No such file or directory"),
        (folder_name, "it is a directory"),
        ("/dev/null", "neither a regular file nor a block device"),
        (&file("empty", &[]), "it is empty"),
        (&file("short", &image[..100_000]), "cut short"),
        (&file("half", &[&image[..65_536], &[0xff; 65_536]].concat()), "hold no code"),
        (&file("large", &vec![0x90; (16 << 20) + 4096]), "a PC has room for 16777216"),
    ] {
        let said = refused(&["--firmware", path]);
        assert!(said.starts_with("outboard: pc: cannot ") && said.contains(path) && said.contains(why), "{said}");
    }
}

fn disks_that_are_none_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, [0; 511]).expect("a file");
    for (path, why) in [
        (Path::new("/there/is/no/such/file"), "No such file or directory"),
        (folder.path(), "it is a directory"),
        (&empty, "less than the 512 bytes of a sector"),
    ] {
        let name = path.to_str().expect("a plain name");
        let said = refused(&["--firmware", BIOS, "--disk", name]);
        assert!(said.contains(name) && said.contains(why), "{said}");
    }
    let (disk, mut words) = (folder.path().join("disk"), vec!["--firmware", BIOS]);
    std::fs::write(&disk, [0; 512]).expect("a file");
    let name = disk.to_str().expect("a plain name");
    words.extend(["--disk", name].repeat(15));
    assert!(refused(&words).contains("places for 14 devices"));
}

fn words_that_make_no_machine_are_named() {
    for (words, named) in [
        (&[][..], "--firmware"),
        (&["--firmware", "a", "--kernel", "b"], "--kernel"),
        (&["--firmware", BIOS, "--memory", "512K"], "at least 1M"),
        (&["--firmware", BIOS, "--memory", "lots"], "512M"),
        (&["--firmware", BIOS, "--cpus", "65"], "65"),
        (&["--firmware", BIOS, "--cpus", "0"], "--cpus"),
        (&["--firmware", BIOS, "--timeout", "soon"], "--timeout"),
    ] {
        let (status, _, said) = Dialogue::by_pipes(pc(words)).ended();
        assert_eq!(status.code(), Some(35), "{words:?}: {said}");
        assert!(said.contains(named), "{words:?}: {said}");
    }
}
