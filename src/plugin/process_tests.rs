//! Starting, watching and ending real programs.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::program::entries;
use super::*;
use crate::sys::message::testing::seqpacket_pair;

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn plan(program: &str, arguments: &[&str]) -> SpawnPlan {
    SpawnPlan {
        program: c(program),
        argv: std::iter::once(program).chain(arguments.iter().copied()).map(c).collect(),
        env: entries(std::env::vars_os()),
        fds: vec![],
        jail: None,
        steps: vec![],
        filter: None,
    }
}

/// A shell that runs `script`, with one end of a stream socket as descriptor 3; what it writes there, and its end.
fn shell(script: &str, change: impl FnOnce(&mut SpawnPlan)) -> (String, ExitStatus) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut plan = plan("/bin/sh", &["-c", script]);
    plan.fds.push(theirs.into());
    change(&mut plan);
    let mut process = PluginProcess::spawn(&plan).unwrap();
    drop(plan);
    let mut output = String::new();
    (&ours).read_to_string(&mut output).unwrap();
    (output, end_of(&mut process))
}

/// Waits through the pidfd, as the event loop does.
fn end_of(process: &mut PluginProcess) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn ends_are_told() {
    let end = |program: &str, arguments: &[&str]| end_of(&mut PluginProcess::spawn(&plan(program, arguments)).unwrap());
    assert_eq!(end("/bin/true", &[]), ExitStatus::Exited(0));
    assert_eq!(end("/bin/sh", &["-c", "exit 7"]), ExitStatus::Exited(7));
    assert_eq!(end("/bin/sh", &["-c", "kill -9 $$"]), ExitStatus::Signaled { signo: 9, core: false });
}

#[test]
fn the_pidfd_becomes_readable_at_the_end() {
    use crate::event::{Event, EventLoop, Limits, Token};
    let mut process = PluginProcess::spawn(&plan("/bin/sh", &["-c", "sleep 0.05; exit 3"])).unwrap();
    assert_eq!(process.try_wait(), Ok(None));
    let mut events = EventLoop::new(Limits { max_frame: 64, max_fds: 0, in_flight: 4 }).unwrap();
    let pidfd = std::sync::Arc::new(process.pidfd().try_clone_to_owned().unwrap());
    events.poll_readable(&pidfd, Token { source: 0, generation: 0 }).unwrap();
    let mut out = Vec::new();
    events.wait(&mut out).unwrap();
    assert!(matches!(out[0].event, Event::Readable));
    assert_eq!(process.try_wait(), Ok(Some(ExitStatus::Exited(3))));
    assert_eq!(process.try_wait(), Ok(Some(ExitStatus::Exited(3))), "the status is kept");
    assert_eq!(process.kill(), Ok(()));
}

#[test]
fn a_step_that_fails_names_itself_and_leaves_no_process() {
    let missing = PluginProcess::spawn(&plan("/nowhere/plugin", &[])).unwrap_err();
    assert!(matches!(&missing, SpawnError::Step { step, errno: Errno(libc::ENOENT), .. } if step == "execve"));
    assert!(missing.to_string().starts_with("cannot start the plugin /nowhere/plugin: execve failed: "), "{missing}");
    let unexecutable = PluginProcess::spawn(&plan("/etc/passwd", &[])).unwrap_err();
    assert!(unexecutable.to_string().ends_with("; is it executable?"), "{unexecutable}");

    struct Refuse;
    impl ChildStep for Refuse {
        fn name(&self) -> String {
            "pivot_root".to_owned()
        }
        fn run(&self, _: &InChild) -> Result<(), Errno> {
            Err(Errno(libc::EBUSY))
        }
    }
    let mut jailed = plan("/bin/true", &[]);
    jailed.steps.push(Box::new(Refuse));
    let program = PathBuf::from("/bin/true");
    let (step, errno) = ("pivot_root".to_owned(), Errno(libc::EBUSY));
    let refused = SpawnError::Step { program, step, errno, remedy: String::new(), host: false };
    assert_eq!(PluginProcess::spawn(&jailed).unwrap_err(), refused);
}

#[test]
fn a_panic_in_a_step_stays_in_the_child() {
    struct Panic;
    impl ChildStep for Panic {
        fn name(&self) -> String {
            "panic".to_owned()
        }
        fn run(&self, _: &InChild) -> Result<(), Errno> {
            // As a panic, without its message: that would take locks in the child.
            std::panic::resume_unwind(Box::new(()))
        }
    }
    let mut plan = plan("/bin/true", &[]);
    plan.steps.push(Box::new(Panic));
    let mut process = PluginProcess::spawn(&plan).unwrap();
    assert_eq!(end_of(&mut process), ExitStatus::Exited(127));
}

#[test]
fn the_child_has_its_descriptors_and_no_others() {
    let (extra, _other) = seqpacket_pair();
    let (output, status) = shell("ls -l /proc/$$/fd >&3; [ -S /proc/$$/fd/4 ]", |plan| plan.fds.push(extra));
    assert_eq!(status, ExitStatus::Exited(0));
    let mut numbers: Vec<i32> = output
        .lines()
        .filter_map(|line| line.split(" -> ").next()?.rsplit(' ').next()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    numbers.sort();
    // The shell keeps copies of its own at 10 and beyond.
    numbers.retain(|number| *number < 10);
    assert_eq!(numbers, [3, 4], "{output}");
}

#[test]
fn a_program_finds_default_signals_and_an_open_mask() {
    let (output, _) = shell("cat /proc/self/status >&3", |_| {});
    let value = |name: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!((value("SigBlk:"), value("SigIgn:"), value("SigCgt:")), (0, 0, 0));
}

#[test]
fn the_environment_is_the_plan_s() {
    let (output, _) = shell("echo \"$CROSVM_SOCKET|$0\" >&3; env | grep -c ^HOME= >&3", |plan| {
        plan.env = entries([("CROSVM_SOCKET".into(), "3".into()), ("PATH".into(), "/usr/bin:/bin".into())]);
        plan.argv[0] = c("other name");
    });
    assert_eq!(output, "3|other name\n0\n");
}

#[test]
fn a_dropped_plugin_is_killed_and_reaped() {
    let process = PluginProcess::spawn(&plan("/bin/sleep", &["1000"])).unwrap();
    let pid = process.pid();
    assert!(matches!(state_of(pid), Some('S' | 'R' | 'D')));
    drop(process);
    assert_eq!(state_of(pid), None, "neither a process nor a zombie");

    let process = PluginProcess::spawn(&plan("/bin/true", &[])).unwrap();
    let pid = process.pid();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(state_of(pid), Some('Z'));
    drop(process);
    assert_eq!(state_of(pid), None);
}

/// A clone of a process whose other threads allocate all the time: the child must not wait for their locks.
#[test]
fn other_threads_do_not_matter() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let running = || !stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running() {
                drop(std::hint::black_box(vec![0u8; 100_000]))
            }
        });
        for _ in 0..100 {
            let mut process = PluginProcess::spawn(&plan("/bin/true", &[])).unwrap();
            assert_eq!(end_of(&mut process), ExitStatus::Exited(0));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Takes back the request to die with the parent, as a jail may.
struct ForgetParent;

impl ChildStep for ForgetParent {
    fn name(&self) -> String {
        "forgetting the parent".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        process::set_parent_death_signal(0)
    }
}

/// Not a test by itself: the parent that `the_plugin_dies_with_its_parent` kills.
#[test]
#[ignore = "run by another test as a process of its own"]
fn helper_parent() {
    if std::env::var_os("OUTBOARD_TEST_PARENT").is_none() {
        return;
    }
    let mut plan = plan("/bin/sleep", &["1000"]);
    plan.steps.push(Box::new(ForgetParent));
    let process = PluginProcess::spawn(&plan).unwrap();
    eprintln!("\nplugin={}", process.pid());
    std::thread::sleep(Duration::from_secs(1000));
}

#[test]
fn the_plugin_dies_with_its_parent() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plugin::process::tests::helper_parent", "--ignored", "--nocapture"])
        .env("OUTBOARD_TEST_PARENT", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stderr.take().unwrap()).lines().map(Result::unwrap);
    let plugin: i32 = lines.find_map(|line| line.strip_prefix("plugin=")?.parse().ok()).unwrap();
    assert!(matches!(state_of(plugin), Some('S' | 'R' | 'D')));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let begin = Instant::now();
    // Whoever inherits the orphan reaps it, or leaves a zombie: dead it is in either case.
    while !matches!(state_of(plugin), None | Some('Z')) {
        assert!(begin.elapsed() < Duration::from_secs(10), "the plugin outlives its parent");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn programs_are_checked_by_name() {
    let fault = |path: &str| match validate_program(Path::new(path)) {
        Err(SpawnError::Program { fault, .. }) => Some(fault),
        other => {
            other.unwrap();
            None
        }
    };
    assert_eq!(fault("/bin/sh"), None);
    assert_eq!(fault("bin/sh"), Some(ProgramFault::Relative));
    assert_eq!(fault("/nowhere"), Some(ProgramFault::Missing(Errno(libc::ENOENT))));
    assert_eq!(fault("/bin"), Some(ProgramFault::NotAFile));
    assert_eq!(fault("/etc/passwd"), Some(ProgramFault::NotExecutable));
    assert_eq!(fault("/a\0b"), Some(ProgramFault::ZeroByte));
    let sentence = validate_program(Path::new("x")).unwrap_err().to_string();
    assert_eq!(sentence, "cannot start the plugin x: its path must be absolute");
}

/// Sources that sit at the very numbers where others are to go.
#[test]
fn descriptors_do_not_overwrite_each_other() {
    let (first, _a) = seqpacket_pair();
    let (second, _b) = seqpacket_pair();
    let inode = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let expected = format!("{}\n{}\n", inode(&second).display(), inode(&first).display());
    let (output, _) = shell("readlink /proc/$$/fd/4 /proc/$$/fd/5 >&3", |plan| plan.fds.extend([second, first]));
    assert_eq!(output, expected);
}
