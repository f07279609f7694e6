//! `outboard policy`: what it makes of good files, and the one sentence for each bad one.

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use outboard::jail::bpf;
use outboard::jail::policy::{self, Blocking, Mode};

use crate::program::{Done, run};
use crate::{USAGE, trial};

pub fn trials() -> Vec<Trial> {
    vec![
        trial("policy_show_prints_what_check_accepts", show_prints_what_check_accepts),
        trial("policy_compile_writes_the_program", compile_writes_the_program),
        trial("policy_compile_lists_the_program", compile_lists_the_program),
        trial("policy_warnings_do_not_fail", warnings_do_not_fail),
        trial("policy_logging_is_taken_into_account", logging_is_taken_into_account),
        trial("policy_bad_files_are_refused_with_their_place", bad_files_are_refused_with_their_place),
        trial("policy_files_that_cannot_be_read", files_that_cannot_be_read),
        trial("policy_bad_programs_are_refused", bad_programs_are_refused),
        trial("policy_outputs_that_cannot_be_written", outputs_that_cannot_be_written),
    ]
}

/// A directory with one file in it.
fn file(name: &str, bytes: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    (folder, path)
}

fn policy_command(command: &str, words: &[&str], path: &Path) -> Done {
    let mut all = vec!["policy", command];
    all.extend(words);
    all.push(path.to_str().expect("a plain name"));
    run(all)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    names.sort();
    names
}

fn show_prints_what_check_accepts() {
    for words in [&["policy", "show"][..], &["policy", "show", "--builtin"]] {
        let shown = run(words);
        shown.expect(0);
        let (_folder, path) = file("copy.policy", &shown.stdout);
        let done = policy_command("check", &[], &path);
        done.expect(0);
        assert!(done.stderr.is_empty() && done.stdout.contains("system calls have a rule"), "{done:?}");
    }
}

fn compile_writes_the_program() {
    let (folder, path) = file("plugin.policy", "read: 1\nwrite: arg0 == 1\n");
    let parsed = policy::load(&path, Mode::Enforce).expect("a policy");
    let wanted = parsed.compile(Blocking::Kill).expect("a program");
    policy_command("compile", &[], &path).expect(0);
    assert_eq!(names_in(folder.path()), ["plugin.bpf", "plugin.policy"]);
    let written = std::fs::read(folder.path().join("plugin.bpf")).expect("the program");
    assert_eq!(bpf::from_bytes(&written).as_ref(), Ok(&wanted));

    let out = folder.path().join("other");
    policy_command("compile", &["-o", out.to_str().expect("plain")], &path).expect(0);
    assert_eq!(std::fs::read(&out).expect("the program"), written);
    let done = policy_command("check", &[], &folder.path().join("plugin.bpf"));
    done.expect(0);
    assert!(done.stdout.ends_with(&format!("a program that the kernel takes; {} instructions\n", wanted.len())));
    // Into what is no file it is written as it is.
    policy_command("compile", &["-o", "/dev/null"], &path).expect(0);
}

fn compile_lists_the_program() {
    let (folder, path) = file("plugin.policy", "read: 1\nsocket: return EACCES\n");
    let done = policy_command("compile", &["--text"], &path);
    done.expect(0);
    let first = done.stdout.lines().next().expect("a line");
    assert!(first.starts_with("0000: ld [4]") && first.ends_with("; architecture"), "{done:?}");
    assert!(done.stdout.contains("; return EACCES"), "{done:?}");
    assert_eq!(names_in(folder.path()), ["plugin.policy"]);
    policy_command("compile", &[], &path).expect(0);
    let again = policy_command("compile", &["--text"], &folder.path().join("plugin.bpf"));
    assert_eq!((again.status.code(), &again.stdout), (Some(0), &done.stdout));
}

fn warnings_do_not_fail() {
    let (_folder, path) = file("p.policy", "@frequency ./x\nread: arg0 == 1; return EPERM\n");
    let done = policy_command("check", &[], &path);
    done.expect(0);
    let lines: Vec<&str> = done.stderr.lines().collect();
    let place = path.display();
    assert_eq!(lines.len(), 2, "{done:?}");
    assert!(lines[0].starts_with(&format!("outboard: warning: {place}:1:1: @frequency is ignored")), "{done:?}");
    assert!(lines[1].starts_with(&format!("outboard: warning: {place}:2:7: ")), "{done:?}");
}

fn logging_is_taken_into_account() {
    let (_folder, path) = file("p.policy", "read: 1\nfrob: 1\n");
    policy_command("check", &[], &path).expect(USAGE);
    let done = policy_command("check", &["--seccomp-log-failures"], &path);
    done.expect(0);
    assert!(
        done.one_sentence().ends_with(":2:1: `frob` is no system call of x86-64: the line is skipped\n"),
        "{done:?}"
    );
    let (_folder, path) = file("p.policy", "read: return\n");
    let done = policy_command("check", &["--seccomp-log-failures"], &path);
    done.expect(USAGE);
    assert!(done.one_sentence().contains(":1:7: a return without an error number"), "{done:?}");
}

fn bad_files_are_refused_with_their_place() {
    let long: String = (0..1500).map(|value| format!("|| arg0 == {value} ")).collect();
    let long = format!("read: 1\nwrite: {}\n", &long[2..]);
    for (text, place, sentence) in [
        ("", "1:1", "the policy is empty"),
        ("# nothing\n", "1:1", "the policy is empty"),
        ("read: 1\nfrob: 1\n", "2:1", "`frob` is no system call of x86-64"),
        ("read: 1\nread: 1\n", "2:1", "`read` has a rule already, at "),
        ("read 1\n", "1:1", "there is no colon in this line"),
        (": 1\n", "1:1", "expected the name of a system call before the colon"),
        ("read:\n", "1:6", "nothing stands here"),
        ("read: 2\n", "1:7", "`2` is no condition"),
        ("read: 1 # why\n", "1:9", "a comment cannot stand behind a rule"),
        ("read: arg6 == 1\n", "1:7", "`arg6` is no argument: expected arg0 to arg5"),
        ("read: arg0 = 1\n", "1:12", "`=` is no comparison"),
        ("read: arg0 == 1 ||\\\n  arg1 == X\n", "2:11", "`X` is no constant that is known here"),
        ("read: arg0 == 0x1ffffffffffffffff\n", "1:15", "`0x1ffffffffffffffff` does not fit 64 bits"),
        ("read: arg0 == (1\n", "1:15", "this parenthesis is never closed"),
        ("read: return -1\n", "1:14", "-1 is no error number"),
        ("read: arg0 == 1; 2\n", "1:18", "`2` cannot follow `;`"),
        ("read: allow\n", "1:7", "`allow` belongs to the dialect of minijail's offline compiler"),
        ("@default kill\n", "1:1", "`@default` belongs to the dialect of minijail's offline compiler"),
        ("@denylist\n", "1:1", "`@denylist` belongs to the dialect of minijail's offline compiler"),
        ("read: {arg0 == 1}\n", "1:7", "`{` belongs to the dialect of minijail's offline compiler"),
        ("@include other\n", "1:10", "expected the path of a policy file behind @include"),
        ("@include /nowhere/at/all\n", "1:10", "cannot read the policy /nowhere/at/all: ENOENT"),
        ("@includes /x\n", "1:1", "unknown directive `@includes`"),
        ("read: 1\\", "1:8", "the file ends after `\\`"),
        (&long, "2:1", "the policy needs 7"),
    ] {
        let (folder, path) = file("bad.policy", text);
        for command in ["check", "compile"] {
            let done = policy_command(command, &[], &path);
            done.expect(USAGE);
            let wanted = format!("outboard: {}:{place}: {sentence}", path.display());
            assert!(done.stdout.is_empty() && done.one_sentence().starts_with(&wanted), "{wanted}: {done:?}");
        }
        assert_eq!(names_in(folder.path()), ["bad.policy"], "nothing was written");
    }
}

fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, sentence) in [
        (folder.path().join("missing"), "ENOENT"),
        (folder.path().to_owned(), "EISDIR"),
        (PathBuf::from("/dev/zero"), "EFBIG"),
        (PathBuf::from("/dev/null/x"), "ENOTDIR"),
    ] {
        for command in ["check", "compile"] {
            let done = policy_command(command, &[], &path);
            done.expect(USAGE);
            let wanted = format!("outboard: {0}:1:1: cannot read the policy {0}: {sentence}", path.display());
            assert!(done.one_sentence().starts_with(&wanted), "{done:?}");
        }
    }
    let done = run(["policy", "check"]);
    done.expect(USAGE);
    assert!(done.stderr.contains("required arguments were not provided"), "{done:?}");
}

fn bad_programs_are_refused() {
    for (bytes, sentence) in [
        (&b""[..], "it has 0 instructions: the kernel takes 1 to 4096"),
        (b"\x06\0\0\0\0\0\xff", "it has 7 bytes, which is no multiple of 8"),
        (b"\x20\0\0\0\x40\0\0\0", "instruction 0 loads from offset 64"),
        (b"\x05\0\0\0\0\0\0\0", "instruction 0 jumps past the end"),
        (b"\xff\0\0\0\0\0\0\0", "instruction 0 has the code 0x00ff, which seccomp does not take"),
    ] {
        let (_folder, path) = file("plugin.bpf", bytes);
        let done = policy_command("check", &[], &path);
        done.expect(USAGE);
        let wanted = format!("outboard: cannot take the program {}: {sentence}", path.display());
        assert!(done.one_sentence().starts_with(&wanted), "{done:?}");
    }
    let (_folder, path) = file("plugin.bpf", b"\x06\0\0\0\0\0\0\0".repeat(4097));
    let done = policy_command("check", &[], &path);
    done.expect(USAGE);
    assert!(done.one_sentence().contains("it has 4097 instructions"), "{done:?}");
    let (_folder, path) = file("plugin.bpf", b"\x06\0\0\0\0\0\0\0");
    let done = policy_command("compile", &[], &path);
    done.expect(USAGE);
    assert!(done.one_sentence().contains("is compiled already"), "{done:?}");
}

fn outputs_that_cannot_be_written() {
    let (folder, path) = file("plugin.policy", "read: 1\n");
    for (out, sentence) in [("/nowhere/x", "ENOENT"), ("/dev/full", "ENOSPC"), ("/proc", "EISDIR")] {
        let done = policy_command("compile", &["-o", out], &path);
        done.expect(USAGE);
        assert!(done.one_sentence().starts_with(&format!("outboard: cannot write {out}: {sentence}")), "{done:?}");
    }
    assert_eq!(names_in(folder.path()), ["plugin.policy"]);
}
