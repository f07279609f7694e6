//! The jail's options, and hosts that do not allow a jail: one sentence each, and nothing started.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::host::Lack;
use crate::program::{Done, Program, outboard, run};
use crate::{HOST, USAGE, trial};

pub fn trials(kvm: &Lack) -> Vec<Trial> {
    let root = Lack::of_private_mounts();
    vec![
        trial("wrong_mounts_are_named", wrong_mounts_are_named),
        trial("wrong_groups_and_users_are_named", wrong_groups_and_users_are_named),
        trial("wrong_roots_are_named", wrong_roots_are_named),
        trial("wrong_lists_are_named_with_the_line", wrong_lists_are_named_with_the_line),
        trial("wrong_policies_are_named", wrong_policies_are_named),
        trial("options_that_exclude_each_other", options_that_exclude_each_other),
        root.trial("what_takes_root_says_so", what_takes_root_says_so),
        root.trial("user_namespaces_switched_off", user_namespaces_switched_off),
        root.trial("user_namespaces_forbidden_by_seccomp", user_namespaces_forbidden_by_seccomp),
        root.trial("root_of_a_container_has_a_jail_too", root_of_a_container_has_a_jail_too),
        kvm.trial("a_library_that_is_missing_is_named", a_library_that_is_missing_is_named),
        kvm.trial("an_executable_that_was_deleted_is_named", an_executable_that_was_deleted_is_named),
        kvm.trial("explaining_starts_nothing", explaining_starts_nothing),
        kvm.trial("without_a_jail_there_is_a_warning", without_a_jail_there_is_a_warning),
    ]
}

/// A plugin that would say that it was started.
const SPEAKS: [&str; 5] = ["run", "--plugin", "/bin/echo", "-p", "started"];

fn with(words: &[impl AsRef<OsStr>]) -> Done {
    let speaks = SPEAKS.iter().map(OsString::from);
    run(speaks.chain(words.iter().map(|word| word.as_ref().to_owned())))
}

/// One sentence that holds this, the status, and nothing started.
#[track_caller]
fn refused(done: &Done, status: i32, sentence: &str) {
    done.expect(status);
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(done.one_sentence().contains(sentence), "{sentence:?} is not in {done:?}");
}

fn wrong_mounts_are_named() {
    for (mount, sentence) in [
        ("", ":: the source must be an absolute path"),
        ("etc", "etc:etc: the source must be an absolute path"),
        ("./etc:/etc", "./etc:/etc: the source must be an absolute path"),
        ("/etc:etc", "/etc:etc: the target must be an absolute path"),
        ("/etc:", "/etc:: the target must be an absolute path"),
        ("/etc:/x:yes", "/etc:/x:yes: `yes` is neither true nor false"),
        ("/etc:/x:", "/etc:/x:: `` is neither true nor false"),
        ("/etc:/x:true:more", "/etc:/x:true:more: give SRC[:DST[:WRITABLE]]"),
        ("/no such folder", "/no such folder:/no such folder: the source cannot be found: ENOENT"),
        ("/etc/passwd/x:/x", "/etc/passwd/x:/x: the source cannot be found: ENOTDIR"),
        ("/etc:/", "/etc:/: the target must not be /"),
        ("/etc:/proc/self", "/etc:/proc/self: the target must not be /, nor /proc or below it"),
        ("/etc:/a/../b", "/etc:/a/../b: the target must not hold `..`"),
    ] {
        refused(&with(&["--plugin-mount", mount]), USAGE, &format!("--plugin-mount {sentence}"));
    }
    let twice = with(&["--plugin-mount", "/etc:/x", "--plugin-mount", "/usr:/x"]);
    refused(&twice, USAGE, "--plugin-mount /usr:/x: another mount has the same target");
    let below = with(&["--plugin-mount", "/etc/passwd:/x", "--plugin-mount", "/usr:/x/y"]);
    refused(&below, USAGE, "--plugin-mount /usr:/x/y: the target lies below another mount that is no folder");
    let nowhere = with(&["--plugin-mount", "/etc:/x", "--plugin-mount", "/usr:/x/nowhere"]);
    refused(&nowhere, USAGE, "--plugin-mount /usr:/x/nowhere: the target lies in another mount and is not there");
}

fn wrong_groups_and_users_are_named() {
    for (map, sentence) in [
        ("", ": `` is not the number of a group"),
        ("x", "x: `x` is not the number of a group"),
        ("1:2:3:4", "1:2:3:4: give INNER[:OUTER[:COUNT]]"),
        ("1:-2", "1:-2: `-2` is not the number of a group"),
        ("1:2:0", "1:2:0: its ids are not within 0 to 4294967294, and at least one"),
        ("1:4294967295", "1:4294967295:1: its ids are not within 0 to 4294967294"),
        ("99999999999", "99999999999: `99999999999` is not the number of a group"),
    ] {
        refused(&with(&["--plugin-gid-map", map]), USAGE, &format!("--plugin-gid-map {sentence}"));
    }
    for user in ["root", "0", "1:x", "no such user"] {
        refused(&with(&["--user", user]), USAGE, &format!("--user {user}: "));
    }
    refused(&with(&["--plugin-env", "=x"]), USAGE, "--plugin-env =x: give NAME or NAME=VALUE");
}

fn wrong_roots_are_named() {
    for (root, sentence) in [
        ("tmp", "tmp: the path must be absolute"),
        ("/no such folder", "/no such folder: it cannot be found: ENOENT"),
        ("/etc/passwd", "/etc/passwd: it is not a directory"),
        ("/dev/null", "/dev/null: it is not a directory"),
    ] {
        refused(&with(&["--plugin-root", root]), USAGE, &format!("--plugin-root {sentence}"));
    }
}

fn wrong_lists_are_named_with_the_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    let path = list.display();
    fs::write(&list, "# a comment\n\n/etc:/x:maybe\n").expect("a file");
    let words = |option: &str| [OsString::from(option), list.clone().into()];
    refused(&with(&words("--plugin-mount-file")), USAGE, &format!("{path}:3: `maybe` is neither true nor false"));
    fs::write(&list, "1:2\n3:four\n").expect("a file");
    refused(&with(&words("--plugin-gid-map-file")), USAGE, &format!("{path}:2: `four` is not the number of a group"));
    for option in ["--plugin-mount-file", "--plugin-gid-map-file"] {
        let sentence = format!("{option} /nowhere: the file cannot be read: ENOENT");
        refused(&with(&[option, "/nowhere"]), USAGE, &sentence);
        refused(&with(&[option, "/etc"]), USAGE, &format!("{option} /etc: the file cannot be read: EISDIR"));
    }
}

fn wrong_policies_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let policy = folder.path().join("plugin.policy");
    let with_folder = |folder: &Path| with(&["--seccomp-policy-dir".as_ref(), folder.as_os_str()]);
    refused(&with_folder(Path::new("/nowhere")), USAGE, "--seccomp-policy-dir /nowhere: it cannot be found: ENOENT");
    refused(&with_folder(Path::new("/dev/null")), USAGE, "--seccomp-policy-dir /dev/null: it is not a directory");
    refused(&with_folder(folder.path()), USAGE, ": there is no plugin.policy in it");
    fs::write(&policy, "").expect("a file");
    refused(&with_folder(folder.path()), USAGE, "plugin.policy:1:1: ");
    fs::write(&policy, "read: 1\nno_such_call: 1\n").expect("a file");
    refused(&with_folder(folder.path()), USAGE, "plugin.policy:2:1: ");
    fs::write(folder.path().join("plugin.bpf"), "twelve bytes").expect("a file");
    refused(&with_folder(folder.path()), USAGE, "plugin.bpf: it has 12 bytes, which is no multiple of 8");
}

fn options_that_exclude_each_other() {
    for words in [&["--disable-sandbox", "--explain-jail"][..], &["--disable-sandbox", "--user", "nobody"]] {
        let done = with(words);
        done.expect(USAGE);
        assert!(done.sentence().contains("cannot be used with"), "{done:?}");
    }
}

/// The program by a user without rights.
fn by_nobody(words: &[&str]) -> Done {
    let mut program = Program::of("setpriv").arg("--reuid=65534").arg("--regid=65534").arg("--clear-groups").arg("--");
    program = program.arg(env!("CARGO_BIN_EXE_outboard"));
    SPEAKS.iter().chain(words).fold(program, |program, word| program.arg(word)).run()
}

fn what_takes_root_says_so() {
    let said = "user 65534 may map its own group 65534 only, once; run outboard as root for others";
    refused(&by_nobody(&["--plugin-gid-map", "5:27"]), HOST, &format!("--plugin-gid-map 5:27:1: {said}"));
    let said = "--user 7:7: user 65534 cannot become another one; run outboard as root for that";
    refused(&by_nobody(&["--user", "7"]), HOST, said);
}

/// A user namespace may have a limit of its own, which says how many there may be below it.
fn user_namespaces_switched_off() {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    let mut program = Program::of("unshare").arg("--map-root-user").arg("sh").arg("-c").arg(script).arg("sh");
    program = program.arg(env!("CARGO_BIN_EXE_outboard"));
    let done = SPEAKS.iter().fold(program, |program, word| program.arg(word)).run();
    let sentence = "cannot start the plugin /usr/bin/echo: clone3 failed: ENOSPC (No space left on device); user namespaces are \
                    switched off here: `sysctl -w user.max_user_namespaces=10000` as root, or --disable-sandbox";
    refused(&done, HOST, sentence);
}

/// Root of a user namespace with one id and `setgroups` denied, as in a container without privileges.
fn root_of_a_container_has_a_jail_too() {
    let words = ["--map-root-user", env!("CARGO_BIN_EXE_outboard"), "run"];
    let done = words.iter().fold(Program::of("unshare"), |program, word| program.arg(word)).run();
    done.expect(0);
    assert!(done.stdout.contains("done") && done.stderr.is_empty(), "{done:?}");
}

fn user_namespaces_forbidden_by_seccomp() {
    let done = outboard(SPEAKS).call_gives(libc::SYS_clone3, libc::EPERM).run();
    refused(
        &done,
        HOST,
        "clone3 failed: EPERM (Operation not permitted); a container, a chroot or a seccomp profile forbids",
    );
}

fn a_library_that_is_missing_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, library) = (folder.path().join("x.c"), folder.path().join("libgone.so"));
    fs::write(&source, "int gone(void) { return 0; } int main(void) { return gone(); }\n").expect("a file");
    let compile = |words: &[&OsStr]| {
        let done = std::process::Command::new("cc").args(words).status().expect("a compiler");
        assert!(done.success(), "{words:?}");
    };
    let program = folder.path().join("x");
    compile(&["-shared".as_ref(), "-o".as_ref(), library.as_ref(), source.as_ref()]);
    let needed = "-Wl,--no-as-needed";
    compile(&[
        "-o".as_ref(),
        program.as_ref(),
        source.as_ref(),
        needed.as_ref(),
        library.as_ref(),
        "-Wl,-soname,x".as_ref(),
    ]);
    fs::remove_file(&library).expect("a file");
    let done = run(["run".as_ref(), "--plugin".as_ref(), program.as_os_str()]);
    done.expect(127);
    let warning = format!("outboard: warning: the plugin needs the library {}, which is not found", library.display());
    assert!(done.stderr.starts_with(&warning), "{done:?}");
}

/// The embedded machine is this program itself.
fn an_executable_that_was_deleted_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("outboard");
    fs::copy(env!("CARGO_BIN_EXE_outboard"), &copy).expect("a copy");
    let script = "exec 9<\"$0\"; rm \"$0\"; exec /proc/self/fd/9 run";
    let done = Program::of("sh").arg("-c").arg(script).arg(&copy).run();
    refused(&done, HOST, "the program /proc/self/exe cannot be found: ENOENT");
}

fn explaining_starts_nothing() {
    let done = with(&["--explain-jail"]);
    done.expect(0);
    assert!(done.stderr.is_empty() && !done.stdout.contains("\nstarted"), "{done:?}");
    assert!(done.stdout.lines().count() > 40 && done.stdout.contains("execve(/usr/bin/echo)"), "{done:?}");
}

fn without_a_jail_there_is_a_warning() {
    let done = with(&["--disable-sandbox"]);
    done.expect(0);
    assert_eq!(done.stdout, "started\n");
    assert!(done.one_sentence().contains("warning: the plugin runs without a jail"), "{done:?}");
    let caged = with(&["--plugin-root", "/tmp"]);
    caged.expect(0);
    assert_eq!((caged.stdout.as_str(), caged.stderr.as_str()), ("started\n", ""));
}
