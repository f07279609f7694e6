//! Too little memory for a run: a control group (`cgroups(7)`) in which the kernel has to take pages back all the time, and
//! one in which it has to kill.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outboard_plugin::{Event, GuestMemory, Space};
use rustix::fs::{Advice, fadvise};

use crate::common::cage::Cage;
use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{begin, begin_long_mode, connect};
use crate::common::suite::{Case, Tested, case};
use crate::group::Group;
use crate::mark;
use crate::sweep::{REFUSED, leave, sentences};

pub const CASES: &[Case] = &[
    case!(reads_more_than_there_is_room_for).around(pages_are_taken_back_all_the_time).unless(Group::lack),
    case!(fills_its_memory).around(|case| each_limit(case, PLUGIN_KILLED)).unless(Group::lack),
    case!(lets_the_guest_fill_its_memory).around(|case| each_limit(case, VMM_KILLED)).unless(Group::lack),
];

/// How a run ends whose plugin, or VMM, was killed.
const PLUGIN_KILLED: &str = "the plugin was killed";
const VMM_KILLED: &str = "the VMM was killed";

const MIB: u64 = 1 << 20;
/// Size of the file that is read, and how often that is.
const FILE: u64 = 32 * MIB;
const PASSES: usize = 3;
/// Names the file.
const NAME: &str = "OUTBOARD_TEST_FILE";
/// Tells the plugin half how many MiB its guest has beside the first 64 KiB.
const SIZE: &str = "OUTBOARD_TEST_MIB";
/// Where that memory is in the guest.
const START: u64 = 4 * MIB;

real_mode!(reads_a_port_for_ever:
    "2: in ax, 0x10",
    "jmp 2b",
);

long_mode!(writes_to_every_page:
    "2: cmp rbx, rcx",
    "jae 3f",
    "mov qword ptr [rbx], rbx",
    "add rbx, 0x1000",
    "jmp 2b",
    "3: out 0x10, al",
    "hlt",
);

/// Serves a guest, and reads a file again and again meanwhile, each page of which takes the place of another.
fn reads_more_than_there_is_room_for() -> Tested {
    static DONE: AtomicBool = AtomicBool::new(false);
    if let Some(path) = std::env::var_os(NAME) {
        let mut file = File::open(path)?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            for _ in 0..PASSES {
                file.rewind().expect("a file");
                while file.read(&mut bytes).expect("a file") > 0 {}
            }
            DONE.store(true, Ordering::Release);
        });
    } else {
        DONE.store(true, Ordering::Release);
    }
    let (mut vm, _memory) = connect(reads_a_port_for_ever())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut round = 0;
    while round < 1000 || !DONE.load(Ordering::Acquire) {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(round),
            other => panic!("{other:?}"),
        }
        round += 1;
    }
    Ok(())
}

fn fills_its_memory() -> Tested {
    fill_or_leave(true)
}

fn lets_the_guest_fill_its_memory() -> Tested {
    fill_or_leave(false)
}

/// A refusal ends it with a status of its own.
fn fill_or_leave(from_here: bool) -> Tested {
    let Err(error) = fill(from_here) else { return Ok(()) };
    leave(&error, REFUSED)
}

/// Touches every page of the guest's memory from this side, or lets the guest do that.
fn fill(from_here: bool) -> Tested {
    let length = std::env::var(SIZE).map_or(0, |mib| mib.parse::<u64>().expect("a number") * MIB);
    let (mut vm, first) = connect(writes_to_every_page())?;
    let memory = if length == 0 { None } else { Some(vm.add_memory(START, length as usize)?) };
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let (start, end) = if from_here { (0, 0) } else { (START, START + length) };
    let mut vcpu = begin_long_mode(&vm, 0, &first, |regs| (regs.rbx, regs.rcx) = (start, end))?;
    if let (true, Some(memory)) = (from_here, &memory) {
        touch(memory, length)?;
    }
    match vcpu.wait()? {
        Event::Write(_) => Ok(()),
        other => panic!("{other:?}"),
    }
}

fn touch(memory: &GuestMemory, length: u64) -> Tested {
    Ok((0..length).step_by(4096).try_for_each(|at| memory.write(at, &[1]))?)
}

/// A run in a group, which may have so many bytes.
struct InGroup<'case> {
    case: &'case Case,
    group: Group,
}

impl InGroup<'_> {
    fn new<'case>(case: &'case Case, limit: Option<u64>) -> InGroup<'case> {
        let group = Group::new().expect("a group");
        limit.inspect(|bytes| group.limit(*bytes).expect("a limit"));
        InGroup { case, group }
    }

    /// Runs to the end; asserts that nobody is left behind.
    fn run(&self, options: &[&Path], environment: &[(&str, &str)]) -> Output {
        let mut program = self.case.program();
        program.args(options);
        program.command().envs(environment.iter().copied());
        let inner = self.case.cage.wrapped(std::mem::replace(program.command(), Command::new("nothing")));
        let mut command = Command::new("sh");
        // It joins the group and becomes the program.
        command.args(["-c", "echo $$ >\"$GROUP\" && exec \"$0\" \"$@\""]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mark = mark::fresh();
        command.env(mark::VARIABLE, &mark).env("GROUP", self.group.members()).stdin(Stdio::null());
        let done = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().expect("a shell");
        // Those who die with the VMM, by a signal of the kernel, do so a moment later.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !mark::carriers(&mark).is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:?}", mark::carriers(&mark));
            std::thread::sleep(Duration::from_millis(1));
        }
        done
    }
}

/// The most memory that a run of a case takes that has no more than it needs.
fn needed(case: &Case) -> u64 {
    let free = InGroup::new(case, None);
    let done = free.run(&[], &[]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    free.group.peak().expect("a peak")
}

/// The file is several times as large as the room that is left for it.
fn pages_are_taken_back_all_the_time(case: &Case) -> Tested {
    let (path, _folder) = a_file_that_is_not_cached()?;
    let tight = InGroup::new(case, Some(needed(case) + 4 * MIB));
    let options: &[&Path] = if case.cage.is_caged() { &["--plugin-mount".as_ref(), &path] } else { &[] };
    let done = tight.run(options, &[(NAME, path.to_str().expect("a name"))]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}");
    let (pages, killed) = (tight.group.read_again()?, tight.group.killed()?);
    println!("{}: {pages} pages were taken back and read again", case.cage.name());
    assert!(pages >= FILE / 4096 && killed == 0, "{pages} pages were read again, {killed} processes were killed");
    Ok(())
}

/// A file on a disk that everybody may read.
fn a_file_that_is_not_cached() -> std::io::Result<(PathBuf, tempfile::TempDir)> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let path = folder.path().join("file");
    let mut file = File::create(&path)?;
    let piece = vec![b'x'; MIB as usize];
    (0..FILE / MIB).try_for_each(|_| file.write_all(&piece))?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok((path, folder))
}

/// Guest memory of 64 MiB, and less room than that. Somebody is killed, or is refused memory; the run ends with what either
/// says, or with the VMM, and never goes on with one side. With the most room it is `victim` that has filled it.
fn each_limit(case: &Case, victim: &str) -> Tested {
    let needed = needed(case);
    let most = needed + 32 * MIB;
    let mut limits = vec![most, needed + 8 * MIB, needed + MIB];
    if case.cage != Cage::CagedByUser {
        // So little that the start itself fails; by a user that would be the shell that becomes it.
        limits.extend((1..8).map(|eighths| needed * eighths / 8));
    }
    let mut ends = BTreeMap::<&str, usize>::new();
    for limit in limits {
        let tight = InGroup::new(case, Some(limit));
        let done = tight.run(&[], &[(SIZE, "64")]);
        let said = String::from_utf8_lossy(&done.stderr);
        let sentences = sentences(&said);
        let killed = tight.group.killed()?;
        let end = match (done.status.code(), done.status.signal()) {
            (None, Some(libc::SIGKILL)) if killed > 0 => VMM_KILLED,
            (Some(1), None) if sentences.len() == 1 && sentences[0].contains("was ended by signal 9") && killed > 0 => {
                PLUGIN_KILLED
            }
            (Some(70 | 71), None) if sentences.len() == 1 => "a call failed",
            (Some(REFUSED), None) if sentences.len() == 1 => "a request was refused",
            _ => {
                return Err(
                    format!("{limit} bytes of {needed}: {}, {killed} killed, it said {said}", done.status).into()
                );
            }
        };
        assert!(!said.contains("panicked"), "{said}");
        assert!(limit < most || end == victim, "{end} instead: {said}");
        *ends.entry(end).or_default() += 1;
    }
    println!("{}, {}: runs by end: {ends:?}", case.name, case.cage.name());
    Ok(())
}
