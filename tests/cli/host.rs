//! Hosts that lack something, made out of this one without changing it.

#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::program::Program;

/// Status of a preparation that this host does not allow.
const NOT_PREPARED: i32 = 96;

/// What keeps some tests from running here, if something does.
#[derive(Clone)]
pub struct Lack(Option<String>);

impl Lack {
    /// Whether a guest can run.
    pub fn of_kvm() -> Lack {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        Lack(opened.err().map(|error| format!("/dev/kvm cannot be opened: {error}")))
    }

    /// Whether this process may change what it sees of the file system.
    pub fn of_private_mounts() -> Lack {
        let prepare = "mount -t tmpfs none /dev && mknod /dev/kvm c 10 232";
        let lack = match Command::new("unshare").args(["-m", "sh", "-c", prepare]).output() {
            Ok(done) if done.status.success() => None,
            Ok(_) => Some("private mounts and device nodes need more privileges".to_owned()),
            Err(error) => Some(format!("unshare(1) cannot be started: {error}")),
        };
        Lack(lack)
    }

    /// A test that needs it. Without it: failed in CI, elsewhere skipped aloud.
    pub fn trial(&self, name: &str, test: fn()) -> Trial {
        let (lack, in_ci) = (self.0.clone(), std::env::var_os("CI").is_some());
        let skipped = lack.is_some() && !in_ci;
        if let (true, Some(lack)) = (skipped, &lack) {
            eprintln!("{name} is skipped: {lack}");
        }
        let body = move || match lack {
            Some(lack) => Err(Failed::from(lack)),
            None => {
                test();
                Ok(())
            }
        };
        Trial::test(name, body).with_ignored_flag(skipped)
    }
}

/// `outboard run` in mounts of its own, after a preparation by a shell.
pub fn in_private_mounts(prepare: &str) -> Program {
    let script = format!("{{ {prepare}; }} || exit {NOT_PREPARED}; exec $AS \"$0\" run");
    Program::of("unshare").arg("-m").arg("sh").arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_outboard"))
}

/// `outboard run` with no more than so many open files.
pub fn with_descriptors(limit: u32) -> Program {
    let script = format!("ulimit -n {limit} && exec \"$0\" run");
    Program::of("sh").arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_outboard"))
}

/// A seccomp filter for the child that makes a system call fail with `errno`.
pub fn refuse_call(command: &mut Command, call: i64, errno: i32) {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        // The number of the system call is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: prctl takes plain numbers here, then a program that lives through the call.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if installed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}
