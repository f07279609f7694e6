//! Filters loaded into real processes, which then make calls.

use std::ffi::CString;

use super::*;
use crate::jail::policy::{self, Blocking, Mode};
use crate::sys::process::{Child, ExitStatus, clone_process, pidfd_send_signal, wait};
use crate::sys::{descriptors, pipe, signal};

/// Descriptors of these tests may be many; children place none.
const LEAST: RawFd = 3;

fn compiled(text: &str, blocking: Blocking) -> Vec<Instruction> {
    let mode = if blocking == Blocking::Log { Mode::Log } else { Mode::Enforce };
    let parsed = policy::parse(std::path::Path::new("p"), text.as_bytes(), mode, &|_| Err(Errno::ENOENT)).unwrap();
    parsed.compile(blocking).unwrap()
}

fn image(program: &str, words: &[&str]) -> ExecImage {
    let words = std::iter::once(program).chain(words.iter().copied());
    let argv = words.map(|word| CString::new(word).unwrap()).collect();
    ExecImage::new(CString::new(program).unwrap(), argv, Vec::new())
}

struct Started {
    child: Child,
    loaded: Result<Loaded, Errno>,
}

/// Runs a program under the filter; returns when it is executed, or has failed to be.
fn start(filter: &Filter, image: &ExecImage) -> Started {
    let (ours, theirs) = pipe::pipe().unwrap();
    let child = clone_process(0, |child| {
        descriptors::close_copy(child, ours.as_fd());
        match filter.load() {
            Ok(()) => filter.exec(image).0,
            Err(errno) => errno.0,
        }
    });
    drop(theirs);
    // The other end is closed by execve, or by the end of the process.
    assert_eq!(std::io::Read::read(&mut std::fs::File::from(ours), &mut [0; 1]).unwrap(), 0);
    Started { child: child.unwrap(), loaded: filter.loaded() }
}

fn listener(started: Started) -> (Child, Listener) {
    match started.loaded {
        Ok(Loaded::Executed(Some(listener))) => (started.child, listener),
        other => panic!("{other:?}"),
    }
}

/// Waits until the listener has something.
fn heard(listener: &Listener) -> Option<Refused> {
    await_readable(listener);
    hear(listener).unwrap()
}

fn await_readable(listener: &Listener) {
    assert_eq!(pipe::readable_within(listener.as_fd(), 60_000), Ok(true));
}

fn kill_and_wait(child: &Child) -> ExitStatus {
    pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
    wait(child.pidfd.as_fd()).unwrap()
}

/// All that a shell needs which does nothing but `echo` or another builtin, without `uname`.
fn shell_policy() -> String {
    policy::BUILTIN.replace("\nuname: 1\n", "\n")
}

#[test]
fn an_allowed_program_runs_to_its_end() {
    // The built-in policy does not allow execve, and yet the program is executed.
    let filter = Filter::new(&compiled(policy::BUILTIN, Blocking::Notify), LEAST).unwrap();
    let (child, listener) = listener(start(&filter, &image("/bin/true", &[])));
    assert_eq!(wait(child.pidfd.as_fd()), Ok(ExitStatus::Exited(0)));
    assert_eq!(heard(&listener), None);
}

#[test]
fn a_blocked_call_is_named_and_does_not_happen() {
    let filter = Filter::new(&compiled(&shell_policy(), Blocking::Notify), LEAST).unwrap();
    let (child, listener) = listener(start(&filter, &image("/bin/uname", &[])));
    let Some(Refused::Call(call)) = heard(&listener) else { panic!("no call") };
    assert_eq!((call.number as i64, call.arch), (libc::SYS_uname, ARCH_X86_64));
    let said = Refused::Call(call).to_string();
    assert!(said.starts_with("made the system call uname (number 63) with the arguments 0x"), "{said}");
    assert_eq!(kill_and_wait(&child), ExitStatus::Signaled { signo: libc::SIGKILL, core: false });
}

#[test]
fn without_a_listener_the_call_fails() {
    let filter = Filter::new(&compiled(&shell_policy(), Blocking::Notify), LEAST).unwrap();
    let (child, listener) = listener(start(&filter, &image("/bin/uname", &[])));
    // As when the VMM dies: the thread waits in the call, and is let go with ENOSYS.
    assert!(heard(&listener).is_some());
    drop(listener);
    assert_eq!(wait(child.pidfd.as_fd()), Ok(ExitStatus::Exited(1)));
}

#[test]
fn a_signal_that_ends_the_call_does_not_hide_it() {
    use std::io::{BufRead, BufReader};
    let text = policy::BUILTIN.replace("\ntimes: 1\n", "\n");
    let filter = Filter::new(&compiled(&text, Blocking::Notify), LEAST).unwrap();
    let (silent, _open) = pipe::pipe().unwrap();
    let (said, theirs) = pipe::pipe().unwrap();
    let image = image("/bin/sh", &["-c", "trap : USR1; times >/dev/null; echo left; read line"]);
    let child = clone_process(0, |child| {
        let placed =
            descriptors::place_fd(child, silent.as_fd(), 0).and(descriptors::place_fd(child, theirs.as_fd(), 1));
        let ready = placed.and_then(|()| signal::reset_signals()).and_then(|()| filter.load());
        ready.map_or_else(|errno| errno.0, |()| filter.exec(&image).0)
    })
    .unwrap();
    drop(theirs);
    // Nothing tells of the execve here; the listener is sent before it.
    let listener = loop {
        match filter.loaded().unwrap() {
            Loaded::Executed(Some(listener)) => break listener,
            Loaded::Executed(None) => std::thread::yield_now(),
            Loaded::ExecFailed(errno) => panic!("{errno}"),
        }
    };
    await_readable(&listener);
    pidfd_send_signal(child.pidfd.as_fd(), libc::SIGUSR1).unwrap();
    let mut line = String::new();
    BufReader::new(std::fs::File::from(said)).read_line(&mut line).unwrap();
    assert_eq!(line, "left\n");
    assert_eq!(hear(&listener), Ok(Some(Refused::Unknown)));
    kill_and_wait(&child);
}

#[test]
fn the_program_cannot_execute_another() {
    let filter = Filter::new(&compiled(policy::BUILTIN, Blocking::Notify), LEAST).unwrap();
    let (child, listener) = listener(start(&filter, &image("/bin/sh", &["-c", "exec /bin/true"])));
    let Some(Refused::Call(call)) = heard(&listener) else { panic!("no call") };
    assert_eq!(call.number as i64, libc::SYS_execve);
    kill_and_wait(&child);
}

#[test]
fn a_program_that_cannot_be_executed_is_told() {
    let filter = Filter::new(&compiled("exit: 1", Blocking::Notify), LEAST).unwrap();
    let started = start(&filter, &image("/nowhere/program", &[]));
    assert!(matches!(started.loaded, Ok(Loaded::ExecFailed(Errno::ENOENT))), "{:?}", started.loaded);
    assert_eq!(wait(started.child.pidfd.as_fd()), Ok(ExitStatus::Exited(NOT_EXECUTED as u8)));
}

#[test]
fn what_kills_in_a_precompiled_program_is_named_too() {
    let program = listening(compiled(&shell_policy(), Blocking::Kill));
    let filter = Filter::new(&program, LEAST).unwrap();
    let (child, listener) = listener(start(&filter, &image("/bin/uname", &[])));
    assert!(matches!(heard(&listener), Some(Refused::Call(Call { number: 63, .. }))));
    kill_and_wait(&child);
}

#[test]
fn where_there_is_a_listener_already_the_filter_kills() {
    // The outer filter has a listener and allows everything, so that the inner one can have none.
    let outer = Filter::new(&[return_of(Action::Allow), return_of(Action::Notify)], LEAST).unwrap();
    let filter = Filter::new(&compiled(&shell_policy(), Blocking::Notify), LEAST).unwrap();
    let child = clone_process(0, |_| {
        let loaded = outer.load().and_then(|()| filter.load());
        loaded.map_or_else(|errno| errno.0, |()| filter.exec(&image("/bin/uname", &[])).0)
    })
    .unwrap();
    // Nothing is dumped in a test.
    assert!(matches!(wait(child.pidfd.as_fd()), Ok(ExitStatus::Signaled { signo: libc::SIGSYS, .. })));
    assert!(matches!(filter.loaded(), Ok(Loaded::Executed(None))));
}

fn return_of(action: Action) -> Instruction {
    Instruction { code: 0x06, yes: 0, no: 0, k: action.value() }
}

#[test]
fn logging_lets_everything_happen() {
    let filter = Filter::new(&compiled("exit: 1", Blocking::Log), LEAST).unwrap();
    let started = start(&filter, &image("/bin/uname", &[]));
    assert!(matches!(started.loaded, Ok(Loaded::Executed(None))), "{:?}", started.loaded);
    assert_eq!(wait(started.child.pidfd.as_fd()), Ok(ExitStatus::Exited(0)));
}

#[test]
fn a_program_too_long_to_be_guarded_decides_by_itself() {
    let mut program = vec![Instruction { code: 0x20, yes: 0, no: 0, k: 0 }; 4095];
    program.push(return_of(Action::Allow));
    assert_eq!(guarded(&program, 7), None);
    let filter = Filter::new(&program, LEAST).unwrap();
    let started = start(&filter, &image("/bin/true", &[]));
    assert!(matches!(started.loaded, Ok(Loaded::Executed(None))), "{:?}", started.loaded);
    assert_eq!(wait(started.child.pidfd.as_fd()), Ok(ExitStatus::Exited(0)));
}

#[test]
fn the_guard_lets_only_the_calls_of_the_child_half_through() {
    let secret = 0x1234_5678_9abc_def0;
    let program = guarded(&compiled("read: 1", Blocking::Kill), secret).unwrap();
    bpf::check(&program).unwrap();
    let answer = |name: &str, last: u64| {
        let call = Call::new(syscalls::number(name).unwrap(), [0, 0, 0, 0, 0, last]);
        bpf::simulate(&program, &call).unwrap().0
    };
    for name in CHILD_CALLS {
        assert_eq!(answer(name, secret), Action::Allow, "{name}");
        for wrong in [0, secret ^ 1, secret ^ 1 << 63, secret as u32 as u64, secret >> 32] {
            assert_eq!(answer(name, wrong), Action::KillProcess, "{name} {wrong:#x}");
        }
    }
    assert_eq!((answer("read", 0), answer("read", secret)), (Action::Allow, Action::Allow));
    assert_eq!((answer("write", secret), answer("execveat", secret)), (Action::KillProcess, Action::KillProcess));
    let foreign = Call { arch: 0x4000_0003, ..Call::new(11, [0, 0, 0, 0, 0, secret]) };
    assert_eq!(bpf::simulate(&program, &foreign).unwrap().0, Action::KillProcess);
}

#[test]
fn sentences() {
    let said = |number, arch| Refused::Call(Call { arch, ..Call::new(number, [1, 2, 3, 4, 5, 6]) }).to_string();
    let rest = "with the arguments 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, which its seccomp policy does not allow";
    assert_eq!(said(101, ARCH_X86_64), format!("made the system call ptrace (number 101) {rest}"));
    assert_eq!(said(400, ARCH_X86_64), format!("made the system call 400 {rest}"));
    assert_eq!(said(X32_BIT | 1, ARCH_X86_64), format!("made the system call 1 of x32 {rest}"));
    assert_eq!(said(1, 0x4000_0003), format!("made the system call 1 of another architecture {rest}"));
}
