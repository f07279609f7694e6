//! Compares the names that a policy may use with what the C compiler makes of the installed headers: the numbers of system
//! calls, and the values of constants.

#[path = "common/in_c.rs"]
mod in_c;

use in_c::{Check, compare};
use outboard::jail::{constants, syscalls};

/// Headers that define the constants.
const HEADERS: &[&str] = &[
    "fcntl.h",
    "sys/mman.h",
    "sched.h",
    "sys/socket.h",
    "netinet/in.h",
    "netinet/tcp.h",
    "sys/prctl.h",
    "asm/prctl.h",
    "sys/ioctl.h",
    "linux/futex.h",
    "errno.h",
    "signal.h",
    "sys/stat.h",
    "sys/epoll.h",
    "sys/eventfd.h",
    "sys/signalfd.h",
    "sys/timerfd.h",
    "sys/random.h",
    "time.h",
    "sys/mount.h",
    "sys/file.h",
    "linux/falloc.h",
    "linux/seccomp.h",
    "sys/ptrace.h",
    "linux/ptrace.h",
    "sys/resource.h",
    "poll.h",
    "sys/time.h",
    "sys/wait.h",
    "sys/xattr.h",
    "unistd.h",
    "linux/keyctl.h",
    "linux/if_tun.h",
    "sys/inotify.h",
    "linux/sockios.h",
    "linux/fs.h",
    "linux/membarrier.h",
    "linux/close_range.h",
    "linux/prctl.h",
    "linux/sched.h",
    "asm/termbits.h",
    "linux/memfd.h",
    "linux/netlink.h",
    "linux/net_tstamp.h",
    "linux/stat.h",
    "linux/mman.h",
];

#[test]
fn system_calls_have_the_numbers_of_the_header() {
    let check = |(number, name): (u32, &str)| {
        let macro_name = format!("__NR_{name}");
        Check { expression: macro_name.clone(), expected: number.into(), needs: Some(macro_name) }
    };
    let checks: Vec<Check> = syscalls::all().map(check).collect();
    let skipped = compare(&["asm/unistd_64.h"], &checks);
    // The header of Linux 5.16 lacks 25 of them.
    assert!(checks.len() - skipped > 355, "only {} calls were compared", checks.len() - skipped);
}

#[test]
fn no_system_call_of_the_header_is_missing() {
    let header = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"];
    let text = header.iter().find_map(|path| std::fs::read_to_string(path).ok()).expect("the header of the kernel");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")).collect();
    assert!(names.len() > 355, "only {} calls were found", names.len());
    for line in names {
        let (name, number) = line.split_once(' ').expect("a name and a number");
        assert_eq!(syscalls::number(name), number.trim().parse().ok(), "{name}");
    }
}

#[test]
fn constants_have_the_values_of_the_headers() {
    // The C library of this architecture has 0 here, whose programs never pass it; the kernel's is another.
    let checks: Vec<Check> =
        constants::all().filter(|(name, _)| *name != "O_LARGEFILE").map(|one| Check::constant(&one)).collect();
    let skipped = compare(HEADERS, &checks);
    assert!(skipped < 60, "{skipped} were skipped");
}
