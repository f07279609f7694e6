//! The built-in seccomp policy: what it does not allow ends the plugin, and the VMM says which system call it was.

use crate::around::{CAGED, ends_well_unfiltered, killed_for, open_folder, start};
use crate::common::suite::{Case, Tested, case};
use crate::sys::{self, call, text};

pub const CASES: &[Case] = &[
    case!(makes_a_forbidden_call).around(each_forbidden_call_is_named).only(CAGED),
    case!(opens_io_uring).around(is_killed_for_io_uring).only(CAGED),
    case!(makes_a_forbidden_call_in_a_second_thread).around(the_whole_process_dies).only(CAGED),
    case!(forks_by_the_builtin_policy).around(is_killed_for_clone).only(CAGED),
    case!(types_into_the_terminal).around(is_killed_for_ioctl).only(CAGED),
    case!(makes_a_call_that_a_policy_of_its_own_forbids).around(by_a_policy_in_a_folder).only(CAGED),
    case!(makes_a_logged_call).around(a_logged_call_happens).only(CAGED),
    case!(everything_is_allowed).around(ends_well_unfiltered).only(CAGED),
];

/// Calls that no plugin has a reason to make, with arguments that would do something.
fn forbidden() -> Vec<(&'static str, i64, [u64; 6])> {
    let user = libc::CLONE_NEWUSER as u64;
    vec![
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME as u64, 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [0; 6]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("unshare", libc::SYS_unshare, [user, 0, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("clone", libc::SYS_clone, [user | libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [text("none"), text("/tmp"), text("tmpfs"), 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0; 6]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [8, 0, 0, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [0; 6]),
        ("io_uring_register", libc::SYS_io_uring_register, [0; 6]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 6]),
        ("execve", libc::SYS_execve, [text("/bin/sh"), 0, 0, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [text("/tmp"), 0, 0, 0, 0, 0]),
        ("mknod", libc::SYS_mknod, [text("/tmp/x"), 0o020_666, 0x101, 0, 0, 0]),
    ]
}

fn makes_a_forbidden_call() -> Tested {
    let name = std::env::args().nth(3).expect("the name of a call");
    let calls = forbidden();
    let (_, number, args) = calls.iter().find(|(known, ..)| *known == name).expect("a name of the table");
    println!("{name} gave {:?}", call(*number, *args));
    Ok(())
}

fn each_forbidden_call_is_named(case: &Case) -> Tested {
    for (name, ..) in forbidden() {
        let mut program = case.program();
        program.plugin_words([name]);
        let done = start(&mut program).ended();
        killed_for(&done, name);
        assert_eq!(done.stdout, "", "the call came back");
    }
    Ok(())
}

fn opens_io_uring() -> Tested {
    let params = [0u64; 15];
    println!("{:?}", call(libc::SYS_io_uring_setup, [8, params.as_ptr() as u64, 0, 0, 0, 0]));
    Ok(())
}

fn is_killed_for_io_uring(case: &Case) -> Tested {
    killed_for(&start(&mut case.program()).ended(), "io_uring_setup");
    Ok(())
}

fn makes_a_forbidden_call_in_a_second_thread() -> Tested {
    let second = std::thread::spawn(|| println!("{:?}", call(libc::SYS_ptrace, [0; 6])));
    // The first thread would go on for ever.
    let _ = second.join();
    loop {
        std::thread::park();
    }
}

fn the_whole_process_dies(case: &Case) -> Tested {
    let done = start(&mut case.program()).ended();
    killed_for(&done, "ptrace");
    assert_eq!(done.stdout, "", "the call came back");
    Ok(())
}

fn forks_by_the_builtin_policy() -> Tested {
    println!("{:?}", sys::fork(|| ()));
    Ok(())
}

fn is_killed_for_clone(case: &Case) -> Tested {
    killed_for(&start(&mut case.program()).ended(), "clone");
    Ok(())
}

fn types_into_the_terminal() -> Tested {
    println!("{:?}", call(libc::SYS_ioctl, [0, libc::TIOCSTI, text("x"), 0, 0, 0]));
    Ok(())
}

fn is_killed_for_ioctl(case: &Case) -> Tested {
    let done = start(&mut case.program()).ended();
    killed_for(&done, "ioctl");
    done.complained(&["with the arguments 0x0, 0x5412, "]);
    Ok(())
}

fn makes_a_call_that_a_policy_of_its_own_forbids() -> Tested {
    println!("{:?}", call(libc::SYS_getppid, [0; 6]));
    Ok(())
}

/// The built-in policy without one of its calls.
fn by_a_policy_in_a_folder(case: &Case) -> Tested {
    let folder = open_folder()?;
    let policy: String = outboard::jail::policy::BUILTIN
        .lines()
        .filter(|line| !line.starts_with("getppid:"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(folder.path().join("plugin.policy"), policy)?;
    let mut program = case.program();
    program.args(["--seccomp-policy-dir".as_ref(), folder.path().as_os_str()]);
    killed_for(&start(&mut program).ended(), "getppid");
    Ok(())
}

fn makes_a_logged_call() -> Tested {
    // Blocked by the policy, harmless where it happens.
    call(libc::SYS_unshare, [0; 6])?;
    Ok(())
}

fn a_logged_call_happens(case: &Case) -> Tested {
    let mut program = case.program();
    program.args(["--seccomp-log-failures"]);
    start(&mut program).ended().expect(0);
    killed_for(&start(&mut case.program()).ended(), "unshare");
    Ok(())
}

fn everything_is_allowed() -> Tested {
    call(libc::SYS_unshare, [0; 6])?;
    Ok(())
}
