//! Replays of real runs: the same plugin answers the same, and what is changed is found where it was changed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use outboard_plugin::{Event, Space};

use super::stat::tool;
use crate::common::cage::{Cage, by_user};
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::{Done, Program};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(counter).around(a_changed_answer_is_found_at_its_record),
    case!(recorded).around(what_cannot_be_replayed_is_refused),
    case!(boots).around(the_pc_replays_a_boot_of_its_firmware),
    case!(reads_memory).around(memory_is_restored_when_it_was_recorded),
    case!(recorded_too).around(a_thread_that_cannot_be_had_is_a_sentence).only(&[Cage::CagedByUser]),
];

/// Names what a replayed plugin does differently.
const CHANGE: &str = "OUTBOARD_TEST_CHANGE";

real_mode!(reads_and_strings:
    "mov cx, 300",
    "2: in ax, 0x10",
    "out 0x30, al",
    "loop 2b",
    "mov dx, 0x11",
    "mov cx, 20",
    "mov si, 0x1000",
    "rep outsb",
    "mov cx, 20",
    "mov di, 0x2000",
    "rep insb",
    "out 0x12, al",
    "hlt",
);

/// Answers reads with a count, unless it is told to do something else.
fn serve() -> Tested {
    let change = std::env::var(CHANGE).unwrap_or_default();
    let (mut vm, _memory) = connect(reads_and_strings())?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    if change == "request" {
        vm.reserve(Space::Port, 0x80..0x81)?;
    }
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let (mut reads, mut posts) = (0u64, 0u64);
    loop {
        match vcpu.wait()? {
            Event::Read(read) if read.address() == 0x10 => {
                reads += 1;
                let wrong = change == format!("read {reads}");
                if change == format!("exit {reads}") {
                    std::process::exit(3);
                }
                while change == format!("hang {reads}") {
                    std::thread::park();
                }
                read.answer_u64(reads + u64::from(wrong));
            }
            Event::Read(read) => {
                let byte = if change == "string" { 9 } else { 8 };
                let bytes = vec![byte; read.length()];
                read.answer(&bytes);
            }
            Event::Posted(_) => posts += 1,
            Event::Write(write) if write.address() == 0x12 => {
                assert_eq!((reads, posts), (300, 300));
                return Ok(());
            }
            // KVM hands string writes on in pieces as it likes.
            Event::Write(_) => {}
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

fn counter() -> Tested {
    serve()
}

fn recorded_too() -> Tested {
    serve()
}

/// More and more threads that a user may have, who has none to begin with: each that a replay needs is refused once.
fn a_thread_that_cannot_be_had_is_a_sentence(_: &Case) -> Tested {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trace");
    let mut program = Program::outboard();
    program.args(["run", "--trace"]).args([&file]).start().ended().expect(0);
    // The user is another one.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o644))?;
    let statuses = (1..=4).map(|threads| {
        let mut command = by_user("prlimit".into());
        command.arg(format!("--nproc={threads}")).args([env!("CARGO_BIN_EXE_outboard"), "replay"]).arg(&file);
        let done = command.output().expect("prlimit starts");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        let status = done.status.code().expect("no signal ended it");
        assert_eq!(
            said.lines().filter(|line| line.starts_with("outboard: ")).count(),
            usize::from(status != 0),
            "{said}"
        );
        status
    });
    let statuses: Vec<i32> = statuses.collect();
    // Other tests may have processes of this user too, so that it comes no further.
    assert!(statuses[0] == 70 && statuses.iter().all(|status| [0, 1, 70].contains(status)), "{statuses:?}");
    Ok(())
}

fn recorded() -> Tested {
    serve()
}

// Counts up in three places: a word, the same word 3 pages on, and one that the plugin also writes to.
real_mode!(writes_memory:
    "mov cx, 50",
    "2: inc word ptr [0x2010]",
    "add word ptr [0x5010], 3",
    "inc word ptr [0x6000]",
    "out 0x10, al",
    "in al, 0x11",
    "inc word ptr [0x2012]",
    "out 0x30, al",
    "loop 2b",
    "out 0x12, al",
    "hlt",
);

/// Answers reads by what the guest has written to its memory, and writes there too.
fn reads_memory() -> Tested {
    let (mut vm, memory) = connect(writes_memory())?;
    let log = outboard_plugin::Region { length: 0x1000, start: 0x10_0000, dirty_log: true, ..Default::default() };
    let slot = vm.create_memory(&outboard_plugin::GuestMemory::new(0x1000)?, &log)?;
    vm.reserve(Space::Port, 0x10..0x13)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let (mut written, mut posted) = (0u16, 0u16);
    loop {
        let word = |at| memory.read_obj::<u16>(at);
        match vcpu.wait()? {
            Event::Write(write) if write.address() == 0x10 => {
                written = word(0x2010)?.wrapping_add(word(0x5010)?).wrapping_add(word(0x6000)?);
                memory.write_obj(0x6000, &(word(0x6000)? + 100))?;
            }
            Event::Read(read) => read.answer_u64(u64::from(written.wrapping_add(posted) & 0xff)),
            Event::Posted(_) => posted = word(0x2012)?,
            Event::Write(write) => {
                drop(write);
                println!("sum {written} {posted}, log {:?}", vm.dirty_log(&slot)?);
                return Ok(());
            }
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

fn memory_is_restored_when_it_was_recorded(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let file = |name: &str| folder.path().join(name).to_str().expect("plain names").to_owned();
    let (with, without) = (file("with"), file("without"));
    // 50 + 3 * 50, and 49 times what the plugin added and 50 times the guest's one.
    let sum = "sum 5150 50, log [0]";
    for (path, options) in [(&with, &["--trace-memory"][..]), (&without, &[])] {
        let done = case.program().args(["--trace", path]).args(options).start().ended();
        done.expect(0);
        assert!(done.stdout.contains(sum), "{}", done.stdout);
    }
    let same = replay(case, &with, "", &["-n", "5"]);
    same.expect(0);
    assert_eq!(same.stdout.matches(sum).count(), 5, "{}", same.stdout);
    let shown = tool(&["trace", "show", &with, "--kind", "memory"]);
    assert!(shown.stdout.contains("memory of slot 0, 0x5000 +64: "), "{}", shown.stdout);
    let differs = replay(case, &without, "", &[]);
    differs.expect(1);
    assert!(differs.stdout.contains("port read 0x11"), "{}", differs.stdout);
    Ok(())
}

fn replay(case: &Case, path: &str, change: &str, words: &[&str]) -> Done {
    let mut program = Program::outboard();
    program.args(["replay", path]).args(words).plugin_is_this(case.name);
    program.command().env(CHANGE, change);
    program.start().ended()
}

/// The number of the record behind which the listing shows this.
fn record_of(path: &str, nth: usize) -> String {
    let csv = tool(&["trace", "show", path, "--format", "csv", "--kind", "read", "--address", "0x10"]);
    let line = csv.stdout.lines().nth(nth).expect("as many reads").to_owned();
    line.split(',').next().expect("a number").to_owned()
}

fn a_changed_answer_is_found_at_its_record(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    case.program().args(["--trace", path]).start().ended().expect(0);
    let same = replay(case, path, "", &["-n", "20", "--json"]);
    same.expect(0);
    let json: serde_json::Value = serde_json::from_str(&same.stdout)?;
    assert_eq!((json["same"].as_bool(), json["replays"].as_u64()), (Some(true), Some(20)));
    replay(case, path, "", &["--pace", "recorded"]).expect(0);
    for nth in [1, 123, 300] {
        let wrong = replay(case, path, &format!("read {nth}"), &[]);
        wrong.expect(1);
        let said = format!(
            "record {} differs: the plugin answers with {:#x} instead of {nth:#x}",
            record_of(path, nth),
            nth + 1
        );
        assert!(wrong.stdout.starts_with(&said), "{said}\n{}", wrong.stdout);
        assert!(wrong.stdout.contains("\n> "), "the record is marked: {}", wrong.stdout);
    }
    replay(case, path, "read 123", &["--ignore", "port:0x10"]).expect(0);
    replay(case, path, "read 123", &["--ignore", "mmio:0x10"]).expect(1);
    let string = replay(case, path, "string", &[]);
    string.expect(1);
    assert!(string.stdout.contains("differs: the plugin answers with ") && string.stdout.contains("port read 0x11"));
    let request = replay(case, path, "request", &[]);
    request.expect(1);
    assert!(
        request.stdout.starts_with("the plugin made a request that was not recorded: ReserveRange"),
        "{}",
        request.stdout
    );
    let exit = replay(case, path, "exit 7", &[]);
    exit.expect(1);
    assert!(exit.stdout.starts_with(&format!("the plugin ended at record {} (exit status: 3)", record_of(path, 7))));
    let hang = replay(case, path, "hang 7", &["--timeout", "1"]);
    hang.expect(1);
    assert!(hang.stdout.starts_with(&format!("the plugin did not go on at record {}", record_of(path, 7))));
    Ok(())
}

fn what_cannot_be_replayed_is_refused(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    case.program().args(["--trace", path]).start().ended().expect(0);
    let whole = std::fs::read(path)?;
    let with = |bytes: &[u8]| {
        std::fs::write(path, bytes).expect("a file");
        replay(case, path, "", &[])
    };
    // Cut behind the first half: what there is of it is replayed.
    let cut = with(&whole[..whole.len() / 2]);
    assert!(cut.stderr.contains("was cut off"), "{}", cut.stderr);
    cut.expect(0);
    let mut middle = whole.clone();
    middle[20] = 0;
    let mut version = whole.clone();
    version[8] = 9;
    let mut damaged = whole.clone();
    damaged[512 + 128] = 77;
    for (bytes, said) in [
        (middle, "begins in the middle"),
        (version, "version 9"),
        (damaged, "damaged at record 1"),
        (vec![], "no trace"),
    ] {
        let refused = with(&bytes);
        refused.expect(74);
        assert!(refused.stdout.is_empty() && refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    Ok(())
}

/// The PC's own plugin needs no half of its own here.
fn boots() -> Tested {
    Ok(())
}

fn the_pc_replays_a_boot_of_its_firmware(_: &Case) -> Tested {
    const BIOS: &str = "/usr/share/seabios/bios-256k.bin";
    if !std::path::Path::new(BIOS).exists() {
        assert!(std::env::var_os("CI").is_none(), "{BIOS} is missing; it comes with Debian's package seabios");
        println!("skipped: {BIOS} is missing");
        return Ok(());
    }
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    let (firmware, date) = (format!("--firmware={BIOS}"), "--rtc-base=2026-01-02T03:04:05Z");
    let booted = tool(&["pc", &firmware, date, "--exit-on", "No bootable device", "--timeout", "60", "--trace", path]);
    booted.expect(0);
    let replay = |date: &str, times: &str| {
        let words = [&format!("-p={firmware}"), &format!("-p={date}")];
        tool(&[&["replay", path, "--json", "-n", times][..], &words.map(|word| word as &str)].concat())
    };
    let result = |done: &Done| -> serde_json::Value {
        let at = done.stdout.rfind("{\"answers\"").expect("a result behind what the guest prints");
        serde_json::from_str(&done.stdout[at..]).expect("JSON")
    };
    let same = replay(date, "3");
    same.expect(0);
    assert!(result(&same)["answers"].as_u64().is_some_and(|answers| answers > 3000), "{}", same.stdout);
    // At another time of day, what differs first is what is read from the clock's registers.
    let other = replay("--rtc-base=2026-01-02T13:24:35Z", "1");
    other.expect(1);
    let record = result(&other)["record"].as_u64().expect("a record").to_string();
    let shown = tool(&["trace", "show", path, "--format", "csv", "--kind", "read", "--address", "0x71"]);
    let hit = shown.stdout.lines().any(|line| line.split(',').next() == Some(&record));
    assert!(hit, "record {record} is no read of the clock\n{}", shown.stdout);
    Ok(())
}
