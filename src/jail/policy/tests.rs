//! The dialect, rule by rule and refusal by refusal.

use super::*;
use crate::sys::Errno;

fn read(text: &str) -> Result<Policy, PolicyError> {
    read_in(text, Mode::Enforce)
}

fn read_in(text: &str, mode: Mode) -> Result<Policy, PolicyError> {
    parse(std::path::Path::new("p"), text.as_bytes(), mode, &|path| match path.to_str() {
        Some("/common") => Ok(b"# shared\nread: 1\n\nwrite: 1\n".to_vec()),
        Some("./here") => Ok(b"\tclose : 1".to_vec()),
        Some("/nested") => Ok(b"read: 1\n@include /common".to_vec()),
        Some("/wrong") => Ok(b"read: 1\n  frob: 1".to_vec()),
        Some("/nothing") => Ok(Vec::new()),
        _ => Err(Errno::ENOENT),
    })
}

/// The verdict of a policy that says `policy` of one call.
fn verdict(policy: &str) -> Verdict {
    let read = read(&format!("read: {policy}")).unwrap_or_else(|error| panic!("{policy}: {error}"));
    read.rules[0].verdict.clone()
}

/// The value of a constant.
fn constant(text: &str) -> u64 {
    match verdict(&format!("arg0 == {text}")) {
        Verdict::If { any, .. } => any[0][0].value,
        other => panic!("{text}: {other:?}"),
    }
}

/// The refusal of a text, whole.
#[track_caller]
fn refused(text: &str, said: &str) {
    match read(text) {
        Ok(policy) => panic!("{text:?} was accepted: {policy:?}"),
        Err(error) => assert_eq!(error.to_string(), said, "{text:?}"),
    }
}

/// The refusal of `read: POLICY`: the column and the beginning of the sentence.
#[track_caller]
fn refused_at(policy: &str, column: u32, said: &str) {
    let error = read(&format!("read: {policy}")).map(drop).expect_err(policy);
    let (place, sentence) = (error.place.column, error.fault.to_string());
    assert!(place == column && sentence.starts_with(said), "{policy:?}: column {place}: {sentence}");
}

fn condition(argument: u8, op: Op, value: u64) -> Condition {
    Condition { argument, op, value }
}

#[test]
fn rules_comments_and_blanks() {
    let policy = read("# a comment: 1\n\n \t \nread:1\n\t write \t:\t 1 \t\n  # another\nclose: 1").unwrap();
    let calls: Vec<(u32, u32, u32)> =
        policy.rules.iter().map(|rule| (rule.call, rule.place.line, rule.place.column)).collect();
    assert_eq!(calls, [(0, 4, 1), (1, 5, 3), (3, 7, 1)]);
    assert!(policy.warnings.is_empty());
}

#[test]
fn a_comment_needs_no_text() {
    let reader: &Reader<'_> = &|_| Err(Errno::ENOENT);
    let bytes = b"# \xff\xfe\nread: 1";
    assert_eq!(parse(std::path::Path::new("p"), bytes, Mode::Enforce, reader).unwrap().rules.len(), 1);
    let error = parse(std::path::Path::new("p"), b"read: \xff", Mode::Enforce, reader).unwrap_err();
    assert_eq!(error.to_string(), "p:1:7: the line holds bytes that are not text: expected a rule in ASCII");
}

#[test]
fn continued_lines_join_before_comments_are_seen() {
    assert_eq!(verdict("arg0 \\\n == \\\n1"), verdict("arg0 == 1"));
    // The comment goes on, and takes the rule with it.
    refused("# swallows \\\nread: 1", "p:1:1: the policy is empty: expected at least one rule `name: policy`");
    // A backslash within a line is nothing special, and two at its end are one and a continuation.
    refused("re\\ad: 1", "p:1:1: `re\\\\ad` is no system call of x86-64: expected a name as in syscalls(2)");
    let error = read("read: arg0 == 1 ||\\\n  arg1 = 2").unwrap_err();
    assert_eq!((error.place.line, error.place.column), (2, 8));
}

#[test]
fn the_end_after_a_backslash_is_an_error() {
    for text in ["read: 1\\", "read: 1\\\n", "\\"] {
        let error = read(text).unwrap_err();
        assert_eq!(error.fault, Fault::OpenEnd);
        assert_eq!(error.place.line, 1);
    }
    refused("read: 1\nwrite: 1\\", "p:2:9: the file ends after `\\`: expected a line that continues this one");
}

#[test]
fn the_verdicts() {
    assert_eq!(verdict("1"), Verdict::Allow);
    assert_eq!(verdict("return"), Verdict::Refuse(Refusal::Block));
    assert_eq!(verdict("return EPERM"), Verdict::Refuse(Refusal::Errno(1)));
    assert_eq!(verdict("return  0"), Verdict::Refuse(Refusal::Errno(0)));
    assert_eq!(verdict("return 0xfff"), Verdict::Refuse(Refusal::Errno(4095)));
    let only = |otherwise| Verdict::If { any: vec![vec![condition(0, Op::Equal, 5)]], otherwise };
    assert_eq!(verdict("arg0 == 5"), only(Refusal::Block));
    assert_eq!(verdict("arg0 == 5; return"), only(Refusal::Block));
    assert_eq!(verdict("arg0 == 5;return ENOSYS"), only(Refusal::Errno(38)));
}

#[test]
fn every_comparison() {
    let all = [
        ("==", Op::Equal),
        ("!=", Op::NotEqual),
        ("<", Op::Less),
        ("<=", Op::LessOrEqual),
        (">", Op::Greater),
        (">=", Op::GreaterOrEqual),
        ("&", Op::AnyOf),
        ("in", Op::NoneBut),
    ];
    for (word, op) in all {
        let any = vec![vec![condition(5, op, 7)]];
        assert_eq!(verdict(&format!("arg5 {word} 7")), Verdict::If { any, otherwise: Refusal::Block });
    }
}

#[test]
fn and_binds_before_or() {
    let [a, b, c, d] = [1, 2, 3, 4].map(|value| condition(value as u8, Op::Less, value));
    let any = vec![vec![a, b], vec![c], vec![d]];
    let read = verdict("arg1 < 1 && arg2 < 2||arg3 < 3||\targ4   <  4 ");
    assert_eq!(read, Verdict::If { any, otherwise: Refusal::Block });
}

#[test]
fn comparisons_are_unsigned_and_of_64_bits() {
    let holds = |op, value, argument: u64| condition(0, op, value).holds(&[argument, 0, 0, 0, 0, 0]);
    assert!(holds(Op::Greater, 1, u64::MAX) && !holds(Op::Less, 1, u64::MAX));
    assert!(holds(Op::NotEqual, 1, 1 << 32 | 1) && !holds(Op::Equal, 1, 1 << 32 | 1));
    assert!(holds(Op::AnyOf, 6, 2) && !holds(Op::AnyOf, 6, 8) && !holds(Op::AnyOf, 0, 8));
    assert!(holds(Op::NoneBut, 6, 2) && holds(Op::NoneBut, 6, 0) && !holds(Op::NoneBut, 6, 10));
    assert!(!holds(Op::NoneBut, 6, 1 << 40));
}

#[test]
fn constants() {
    for (text, value) in [
        ("0", 0),
        ("42", 42),
        ("0x2A", 42),
        ("0X2a", 42),
        ("052", 42),
        ("18446744073709551615", u64::MAX),
        ("0xffffffffffffffff", u64::MAX),
        ("01777777777777777777777", u64::MAX),
        ("-1", u64::MAX),
        ("-9223372036854775808", 1 << 63),
        ("-0", 0),
        ("O_RDWR", 2),
        ("AT_FDCWD", -100_i64 as u64),
        ("O_RDWR|O_CLOEXEC", 0o2000002),
        ("~0", u64::MAX),
        ("~PROT_EXEC", !4),
        ("~PROT_EXEC|4", u64::MAX),
        ("~(PROT_READ|PROT_WRITE)", !3),
        ("((1)|(2|(4)))", 7),
        ("~(~(5))", 5),
    ] {
        assert_eq!(constant(text), value, "{text}");
    }
}

#[test]
fn wrong_constants() {
    let at = |text: &str, column: u32, said: &str| refused_at(&format!("arg0 == {text}"), column + 14, said);
    at("FROB", 1, "`FROB` is no constant that is known here: expected a name");
    at("1|FROB", 3, "`FROB` is no constant");
    at("08", 1, "`08` is no number");
    at("0x", 1, "`0x` is no number");
    at("12ab", 1, "`12ab` is no number");
    at("-O_RDWR", 1, "`-O_RDWR` is no number");
    at("18446744073709551616", 1, "`18446744073709551616` does not fit 64 bits");
    at("-9223372036854775809", 1, "`-9223372036854775809` does not fit 64 bits");
    at("|1", 1, "expected a constant here");
    at("1|", 3, "expected a constant here");
    at("~", 2, "expected a constant here");
    at("~~1", 2, "expected a constant here");
    at("-", 1, "expected a constant here");
    at("+1", 1, "expected a constant here");
    at("()", 2, "expected a constant here");
    at("(1", 1, "this parenthesis is never closed");
    at("(1|(2)", 1, "this parenthesis is never closed");
    at("1)", 2, "`)` cannot follow a constant");
    at("(1,2)", 3, "`,` cannot follow a constant");
    at("1+1", 2, "`+` cannot follow a constant");
    at("é", 1, "expected a constant here");
    at(&("(".repeat(40) + "1" + &")".repeat(40)), 33, "parentheses are nested too deeply: expected at most 32");
    assert_eq!(constant(&("(".repeat(32) + "1" + &")".repeat(32))), 1);
}

#[test]
fn wrong_conditions() {
    refused_at("", 6, "nothing stands here: expected 1, return ERRNO, or conditions on arg0 to arg5");
    refused_at("0", 7, "`0` is no condition: expected three words as in `arg0 == 1`");
    refused_at("2", 7, "`2` is no condition");
    refused_at("arg0 ==1", 7, "`arg0 ==1` is no condition");
    refused_at("arg0\t==\t1", 7, "`arg0\\t==\\t1` is no condition");
    refused_at("arg0 == 1 | 2", 7, "`arg0 == 1 | 2` is no condition");
    refused_at("(arg0 == 1)", 7, "`(arg0` is no argument: expected arg0 to arg5");
    refused_at("!arg0 == 1", 7, "`!arg0` is no argument");
    refused_at("arg6 == 1", 7, "`arg6` is no argument");
    refused_at("arg == 1", 7, "`arg` is no argument");
    refused_at("arg00 == 1", 7, "`arg00` is no argument");
    refused_at("arg+1 == 1", 7, "`arg+1` is no argument");
    refused_at("1 == arg0", 7, "`1` is no argument");
    refused_at("arg0 = 1", 12, "`=` is no comparison: expected ==, !=, <, <=, >, >=, & or in");
    refused_at("arg0 not 1", 12, "`not` is no comparison");
    refused_at("arg0 == 1 ||", 19, "nothing stands here: expected a condition such as arg0 == 1");
    refused_at("|| arg0 == 1", 7, "nothing stands here");
    refused_at("arg0 == 1 && && arg1 == 1", 20, "nothing stands here");
    refused_at("1 # comment", 9, "a comment cannot stand behind a rule: expected it on a line of its own");
}

#[test]
fn wrong_returns() {
    refused_at("return -1", 14, "-1 is no error number: expected 0 to 4095 behind return");
    refused_at("return 4096", 14, "4096 is no error number");
    refused_at("return EFROB", 14, "`EFROB` is no constant");
    refused_at("return EPERM ENOENT", 20, "`ENOENT` cannot stand here: expected the end of the line");
    refused_at("return EPERM; arg0 == 1", 19, "`; arg0 == 1` cannot stand here");
    refused_at("arg0 == 1;", 17, "nothing stands here: expected return or return ERRNO");
    refused_at("arg0 == 1; EPERM", 18, "`EPERM` cannot follow `;`: expected return or return ERRNO");
    refused_at("arg0 == 1; return EPERM; return", 30, "`; return` cannot stand here");
    refused_at("; return EPERM", 7, "nothing stands here: expected a condition");
    refused_at("returnEPERM", 7, "`returnEPERM` is no condition");
    refused_at("return\tEPERM", 7, "`return\\tEPERM` cannot follow `;`");
}

#[test]
fn the_other_dialect_is_told() {
    for word in ["allow", "kill", "kill-process", "kill-thread", "trap", "trace", "log", "user-notify"] {
        refused_at(word, 7, &format!("`{word}` belongs to the dialect of minijail's offline compiler: expected 1"));
    }
    refused_at("{ arg0 == 1; return 1 }", 7, "`{` belongs to the dialect");
    refused_at("arg0 in [1, 2]", 15, "`[` belongs to the dialect");
    for line in ["@default kill", "@denylist"] {
        let error = read(&format!("read: 1\n {line}")).unwrap_err();
        assert_eq!((error.place.line, error.place.column), (2, 2));
        assert!(matches!(error.fault, Fault::OtherDialect(_)), "{error}");
    }
}

#[test]
fn wrong_lines() {
    refused("read 1", "p:1:1: there is no colon in this line: expected `name: policy`");
    refused("\n  : 1", "p:2:3: expected the name of a system call before the colon");
    refused("read: 1\nfrob: 1", "p:2:1: `frob` is no system call of x86-64: expected a name as in syscalls(2)");
    refused("@frob x", "p:1:1: unknown directive `@frob`: expected @include or @frequency");
    refused(
        "read: 1\r\n",
        "p:1:7: `1\\r` is no condition: expected three words as in `arg0 == 1`, with spaces between",
    );
    refused(
        "read: 1\nwrite: 1\n read: return 1",
        "p:3:2: `read` has a rule already, at p:1:1: expected one rule a system call",
    );
    for empty in ["", "\n", "# nothing\n\t\n"] {
        refused(empty, "p:1:1: the policy is empty: expected at least one rule `name: policy`");
    }
}

#[test]
fn long_words_are_shown_in_part() {
    let said = read(&format!("{}: 1", "x".repeat(5000))).unwrap_err().to_string();
    assert!(said.len() < 200 && said.contains("xxx...`"), "{said}");
}

#[test]
fn includes() {
    let calls = |text: &str| read(text).unwrap().rules.iter().map(|rule| rule.call).collect::<Vec<_>>();
    assert_eq!(calls("@include /common\nclose: 1"), [0, 1, 3]);
    assert_eq!(calls("  @include \t ./here \t\n@include /common"), [3, 0, 1]);
    assert_eq!(calls("@include /nothing\nread: 1"), [0]);
    refused("@include /nothing", "p:1:1: the policy is empty: expected at least one rule `name: policy`");
    refused("@include /nested", "/nested:2:1: an included file cannot include others: expected rules only");
    refused("@include /wrong", "/wrong:2:3: `frob` is no system call of x86-64: expected a name as in syscalls(2)");
    refused(
        "@include /common\nwrite: 1",
        "p:2:1: `write` has a rule already, at /common:4:1: expected one rule a system call",
    );
    refused("  @include /missing", "p:1:12: cannot read the policy /missing: ENOENT (No such file or directory)");
    for path in ["common", "", " ", "../common", "~/common"] {
        let error = read(&format!("@include {path}")).unwrap_err();
        assert_eq!(error.fault, Fault::IncludePath, "{path:?}");
    }
}

#[test]
fn warnings_are_data() {
    let policy = read("@frequency ./hot\nread: arg0 == 1; return EPERM\n write: return EPERM").unwrap();
    let said: Vec<String> = policy.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(said[0], "p:1:1: @frequency is ignored: the order of checks is chosen here");
    assert!(said[1].starts_with("p:2:7: what fulfils the conditions before `; return` is allowed"), "{said:?}");
    assert_eq!((said.len(), policy.rules.len()), (2, 2));
}

#[test]
fn logging_changes_what_is_accepted() {
    let policy = read_in("frob: nonsense\nread: 1", Mode::Log).unwrap();
    assert_eq!(policy.rules.len(), 1);
    assert_eq!(policy.warnings[0].to_string(), "p:1:1: `frob` is no system call of x86-64: the line is skipped");
    for text in ["read: return", "read: arg0 == 1; return"] {
        assert_eq!(read_in(text, Mode::Log).unwrap_err().fault, Fault::BareReturn);
    }
    assert!(read_in("read: return EPERM", Mode::Log).is_ok());
    assert_eq!(read_in("frob: 1", Mode::Log).unwrap_err().fault, Fault::Empty);
}

#[test]
fn a_policy_that_is_too_long_names_its_longest_rule() {
    let clause = (0..800).map(|value| format!("arg0 == {value}")).collect::<Vec<_>>().join(" || ");
    let text = format!("read: {clause}\n\n  write: {clause} || {clause}");
    let error = read(&text).unwrap().compile(Blocking::Kill).unwrap_err();
    assert_eq!((error.place.line, error.place.column), (3, 3));
    let Fault::TooLong { total, longest } = error.fault else { panic!("{error}") };
    assert!(total > 9600 && (6400..total).contains(&longest), "{error}");
}

#[test]
fn what_the_built_in_policy_refuses() {
    let policy = builtin(Mode::Enforce).unwrap();
    assert!(policy.warnings.is_empty());
    let refused = |name: &str, args: [u64; 6]| {
        let call = Call::new(crate::jail::syscalls::number(name).unwrap(), args);
        matches!(policy.decide(&call), Decision::Refused(_))
    };
    for name in "io_uring_setup io_uring_enter io_uring_register ptrace process_vm_readv process_vm_writev bpf \
        userfaultfd keyctl add_key request_key perf_event_open unshare setns clone3 mount umount2 pivot_root chroot \
        move_mount open_tree fsopen fsmount fsconfig fspick mount_setattr kexec_load kexec_file_load open_by_handle_at \
        name_to_handle_at init_module finit_module delete_module reboot swapon acct quotactl syslog iopl ioperm execve \
        execveat fork vfork seccomp landlock_create_ruleset socket connect bind mknod mknodat pidfd_getfd kcmp setuid \
        setgid setresuid setgroups capset vmsplice settimeofday clock_settime modify_ldt"
        .split_whitespace()
    {
        assert!(refused(name, [0; 6]), "{name}");
    }
    let value = |name: &str| crate::jail::constants::value(name).unwrap();
    let thread = value("CLONE_VM") | value("CLONE_THREAD") | value("CLONE_SIGHAND");
    assert!(!refused("clone", [thread, 0, 0, 0, 0, 0]) && refused("clone", [value("SIGCHLD"), 0, 0, 0, 0, 0]));
    for namespace in ["NEWNS", "NEWUSER", "NEWPID", "NEWNET", "NEWIPC", "NEWUTS", "NEWCGROUP"] {
        let flags = value(&format!("CLONE_{namespace}"));
        assert!(refused("clone", [flags, 0, 0, 0, 0, 0]) && refused("clone", [thread | flags, 0, 0, 0, 0, 0]));
    }
    for request in ["TCGETS", "TCSETS", "TCGETS2", "TCSETSW2"] {
        assert!(!refused("ioctl", [0, value(request), 0, 0, 0, 0]), "{request}");
    }
    for request in ["TIOCSTI", "TIOCLINUX", "TIOCSCTTY", "TIOCSETD", "TUNSETIFF"] {
        // The kernel looks at the lower half only.
        for high in [0, 1 << 32, u64::MAX << 32] {
            assert!(refused("ioctl", [0, high | value(request), 0, 0, 0, 0]), "{request}");
        }
    }
    assert!(refused("prctl", [value("PR_SET_PDEATHSIG"), 0, 0, 0, 0, 0]));
    assert!(!refused("prctl", [value("PR_SET_NAME"), 0, 0, 0, 0, 0]));
}
