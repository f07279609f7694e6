//! The command line: what it prints, and that each wrong word and each host that lacks something gives one clear sentence
//! and the documented exit status, with nothing started and nothing left behind.

#![allow(missing_docs)]

mod host;
mod jail;
#[path = "../common/mark.rs"]
mod mark;
mod policies;
mod program;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use program::{Done, outboard, run};

/// Wrong arguments.
const USAGE: i32 = 35;
/// The host lacks something.
const HOST: i32 = 71;
/// The plugin could not be executed.
const PLUGIN: i32 = 1;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        trial("help_and_version_go_to_standard_output", help_and_version_go_to_standard_output),
        trial("help_lists_every_exit_status", help_lists_every_exit_status),
        trial("no_command_prints_the_help_as_an_error", no_command_prints_the_help_as_an_error),
        trial("wrong_words_are_named", wrong_words_are_named),
        trial("a_plugin_that_is_none_is_refused_with_its_path", a_plugin_that_is_none_is_refused_with_its_path),
        trial("io_uring_refused_by_seccomp", io_uring_refused_by_seccomp),
        trial("io_uring_missing", io_uring_missing),
    ];
    trials.extend(policies::trials());
    let kvm = host::Lack::of_kvm();
    trials.push(kvm.trial("too_many_cpus_name_the_limit", too_many_cpus_name_the_limit));
    trials
        .push(kvm.trial("what_cannot_be_executed_is_the_plugins_fault", what_cannot_be_executed_is_the_plugins_fault));
    trials.push(kvm.trial("json_is_one_line", json_is_one_line));
    trials.push(kvm.trial("too_few_descriptors_are_the_hosts_fault", too_few_descriptors_are_the_hosts_fault));
    trials.extend(jail::trials(&kvm));
    let mounts = host::Lack::of_private_mounts();
    trials.push(mounts.trial("no_kvm_device", no_kvm_device));
    trials.push(mounts.trial("another_device_in_the_place_of_kvm", another_device_in_the_place_of_kvm));
    trials.push(mounts.trial("no_permission_for_kvm", no_permission_for_kvm));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

fn help_and_version_go_to_standard_output() {
    for words in [&["--help"][..], &["run", "--help"], &["help"], &["help", "run"], &["--version"], &["-V"]] {
        let done = run(words);
        done.expect(0);
        assert!(done.stderr.is_empty() && done.stdout.contains("outboard"), "{words:?}: {done:?}");
    }
    let version = run(["--version"]);
    assert_eq!(version.stdout, concat!("outboard ", env!("CARGO_PKG_VERSION"), "\n"));
    let run_help = run(["run", "--help"]).stdout;
    for option in
        ["--plugin", "--params", "--cpus", "--cpu-affinity", "--spin", "--disable-sandbox", "--explain-jail", "--json"]
    {
        assert!(run_help.contains(option), "{option} is missing: {run_help}");
    }
}

fn help_lists_every_exit_status() {
    let help = run(["--help"]).stdout;
    let table = help.split("Exit status of run:").nth(1).expect("the table");
    for status in ["1 ", "35", "70", "71", "73", "74", "129", "130", "143"] {
        assert!(table.lines().any(|line| line.trim_start().starts_with(status) || line.contains(status)), "{status}");
    }
}

fn no_command_prints_the_help_as_an_error() {
    let done = run([] as [&str; 0]);
    done.expect(USAGE);
    assert!(done.stdout.is_empty() && done.stderr.contains("Usage: outboard <COMMAND>"), "{done:?}");
}

fn wrong_words_are_named() {
    for (words, sentence) in [
        (&["frob"][..], "unrecognized subcommand 'frob'"),
        (&["--frob"], "unexpected argument '--frob' found"),
        (&["run", "--frob"], "unexpected argument '--frob' found"),
        (&["run", "extra"], "unexpected argument 'extra' found"),
        (&["run", "--plugin"], "a value is required for '--plugin <PATH>' but none was supplied"),
        (&["run", "--cpus", "0"], "invalid value '0' for '--cpus <N>': 0 is not in 1..=1024"),
        (&["run", "--cpus", "5000"], "invalid value '5000' for '--cpus <N>': 5000 is not in 1..=1024"),
        (&["run", "--cpus", "-1"], "unexpected argument '-1' found"),
        (&["run", "--cpus", "two"], "invalid value 'two' for '--cpus <N>': invalid digit found in string"),
        (&["run", "--spin", "fast"], "give auto, off, always, or the longest spin in nanoseconds"),
        (&["run", "--spin", "99999999999999999999"], "give auto, off, always, or the longest spin in nanoseconds"),
        (&["run", "--cpu-affinity", "3-1"], "the range `3-1` ends before it begins"),
        (&["run", "--cpu-affinity", "0=1:0=2"], "vCPU 0 is named twice"),
        (&["run", "--cpu-affinity", "0-99999999"], "`0-99999999` is not a CPU or a range of CPUs"),
        (&["run", "--params", "x"], "--params are arguments of the plugin: name one with --plugin"),
    ] {
        let done = run(words);
        done.expect(USAGE);
        assert!(done.stdout.is_empty(), "{words:?}: {done:?}");
        assert!(done.sentence().contains(sentence), "{words:?}: {done:?}");
    }
}

fn too_many_cpus_name_the_limit() {
    // KVM's own limit may be lower than this program's.
    let done = run(["run", "--cpus", "1024"]);
    if done.status.code() == Some(USAGE) {
        assert!(done.sentence().contains("1024 vCPUs were asked for"), "{done:?}");
    } else {
        done.expect(0);
    }
}

fn a_plugin_that_is_none_is_refused_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("a file");
    let missing = folder.path().join("missing");
    let below = plain.join("file");
    for (path, sentence) in [
        (Path::new("plugin"), "its path must be absolute"),
        (Path::new("./plugin"), "its path must be absolute"),
        (&*missing, "it cannot be found: ENOENT"),
        (&*below, "it cannot be found: ENOTDIR"),
        (folder.path(), "it is not a regular file"),
        (Path::new("/dev/null"), "it is not a regular file"),
        (&*plain, "it is not executable; try `chmod +x`"),
    ] {
        let done = run([OsStr::new("run"), OsStr::new("--plugin"), path.as_os_str()]);
        done.expect(USAGE);
        let wanted = format!("cannot start the plugin {}: {sentence}", path.display());
        assert!(done.one_sentence().contains(&wanted), "{path:?}: {done:?}");
    }
    // The kernel lets no zero byte into a command line; what is not UTF-8 passes.
    let strange = OsStr::from_bytes(b"/\xff\xfe");
    let done = run([OsStr::new("run"), OsStr::new("--plugin"), strange]);
    done.expect(USAGE);
    assert!(done.one_sentence().contains("it cannot be found: ENOENT"), "{done:?}");
}

fn what_cannot_be_executed_is_the_plugins_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes, sentence) in [
        ("text", &b"no program\n"[..], "execve failed: ENOEXEC (Exec format error); is it a program for this machine?"),
        ("empty", b"", "execve failed: ENOEXEC"),
        ("half", b"\x7fELF\x02\x01\x01", "execve failed: ENOEXEC"),
        (
            "script",
            b"#!/nowhere/interpreter\n",
            "execve failed: ENOENT (No such file or directory); is it there, and its interpreter or dynamic linker too?",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
        let wanted = format!("outboard: cannot start the plugin {}: {sentence}", path.display());
        let caged = run([OsStr::new("run"), OsStr::new("--plugin"), path.as_os_str()]);
        caged.expect(PLUGIN);
        assert!(caged.one_sentence().starts_with(&wanted), "{name}: {caged:?}");
        let words = ["run", "--disable-sandbox", "--plugin"].map(OsStr::new);
        let uncaged = run(words.into_iter().chain([path.as_os_str()]));
        uncaged.expect(PLUGIN);
        let (warning, said) = uncaged.stderr.split_once('\n').expect("two lines");
        assert!(warning.starts_with("outboard: warning: the plugin runs without a jail"), "{uncaged:?}");
        assert!(said.starts_with(&wanted) && said.matches('\n').count() == 1, "{name}: {uncaged:?}");
    }
}

fn json_is_one_line() {
    let done = run(["run", "--json"]);
    done.expect(0);
    let line = done.stdout.lines().last().expect("a last line");
    let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(report["status"], 0);
    assert!(report["outcome"].as_str().is_some_and(|outcome| outcome.contains("status 0")), "{line}");
    let exits = report["exits"].as_array().expect("a list of exits");
    let counted = |exit: &serde_json::Value| exit["count"].as_u64().is_some_and(|count| count > 0);
    assert!(!exits.is_empty() && exits.iter().all(counted), "{line}");
    assert_eq!(done.stdout.matches('{').count(), line.matches('{').count(), "nothing else looks like JSON");
}

/// The sentence of a run that this host cannot give what it needs: one line, nothing on standard output.
fn lacks(done: &Done, sentence: &str) {
    done.expect(HOST);
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(done.one_sentence().contains(sentence), "{done:?}");
}

fn io_uring_refused_by_seccomp() {
    let done = outboard(["run"]).io_uring_gives(libc::EPERM).run();
    lacks(&done, "io_uring is ");
    assert!(done.stderr.contains("seccomp profile") || done.stderr.contains("sysctl"), "{done:?}");
}

fn io_uring_missing() {
    let done = outboard(["run"]).io_uring_gives(libc::ENOSYS).run();
    lacks(&done, "io_uring is missing (ENOSYS");
}

fn too_few_descriptors_are_the_hosts_fault() {
    for limit in 4..40 {
        let done = host::with_descriptors(limit).run();
        if done.status.code() == Some(0) {
            assert!(limit > 8, "{limit} descriptors cannot be enough");
            return;
        }
        let code = done.status.code().expect("no signal");
        assert!([HOST, 70, PLUGIN].contains(&code), "{limit} descriptors: {done:?}");
        assert!(done.stderr.contains("EMFILE") || done.stderr.contains("ulimit -n"), "{limit} descriptors: {done:?}");
        assert!(!done.stderr.contains("panicked"), "{done:?}");
    }
    panic!("40 descriptors are not enough for one vCPU");
}

fn no_kvm_device() {
    let done = host::in_private_mounts("mount -t tmpfs none /dev").run();
    lacks(&done, "/dev/kvm does not exist: load the kvm_intel or kvm_amd module");
}

fn another_device_in_the_place_of_kvm() {
    let done = host::in_private_mounts("mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 1 3").run();
    lacks(&done, "/dev/kvm is not a KVM device");
}

fn no_permission_for_kvm() {
    let prepare = "mount -t tmpfs -o mode=755 none /dev && mknod -m 600 /dev/kvm c 10 232";
    let done = host::in_private_mounts(prepare).by_nobody().run();
    lacks(&done, "may not open /dev/kvm: run as root, or add the user to the group that owns it");
}
