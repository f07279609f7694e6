//! The filters of the VMM's own threads, by policies in the dialect of [`policy`]. Each thread loads its own
//! for itself; what is not allowed kills the VMM.
//!
//! The main thread's is loaded once the plugin runs, when nothing needs to be opened any more. Threads that it starts later
//! begin with it, and vCPU threads add theirs.
//!
//! What a filter looks into costs time. Requests of ioctl(2) are not looked at, though they could be: `KVM_RUN` is one, and
//! so every exit of a guest would pay. A request to KVM that takes 87 ns takes 94 under two filters that let it pass
//! whatever its arguments (the kernel has found that out before), and 125 under two that compare its number. No descriptor
//! but those that the VMM has can be reached by it.
//!
//! A killed VMM says nothing; the kernel's log names the system call (`type=1326`). The plugin dies with it, as with every
//! end of the VMM.

use std::path::Path;
use std::sync::Arc;

use super::bpf::Instruction;
use super::policy::{self, Blocking, Mode};
use crate::sys::seccomp::{self, Scope};
use crate::sys::{Errno, process};

const MAIN: &str = include_str!("main.policy");
const VCPU: &str = include_str!("vcpu.policy");

/// The filters, made and not loaded.
#[derive(Clone, Debug)]
pub struct OwnFilters {
    main: Vec<Instruction>,
    vcpu: Arc<[Instruction]>,
}

impl OwnFilters {
    /// Makes the filters of this process.
    pub fn new() -> OwnFilters {
        OwnFilters { main: program(MAIN), vcpu: program(VCPU).into() }
    }

    /// Confines the calling thread, which is to be the main thread, and the threads that it will start.
    ///
    /// # Errors
    /// Those of `seccomp(2)`; `EACCES` unless `PR_SET_NO_NEW_PRIVS` was set.
    pub fn confine_main(&self) -> Result<(), Errno> {
        seccomp::load(&self.main, Scope::Thread, false)
    }

    /// The program for vCPU threads, which each of them loads for itself.
    pub fn vcpu(&self) -> Arc<[Instruction]> {
        Arc::clone(&self.vcpu)
    }
}

impl Default for OwnFilters {
    fn default() -> OwnFilters {
        OwnFilters::new()
    }
}

/// Compiles one of the texts, with signals for this process only.
fn program(text: &str) -> Vec<Instruction> {
    let text = format!("{text}\ntgkill: arg0 == {}\n", process::getpid());
    let parsed = policy::parse(Path::new("<own>"), text.as_bytes(), Mode::Enforce, &|_| Err(Errno::ENOENT));
    let compiled = parsed.and_then(|policy| policy.compile(Blocking::Kill));
    compiled.expect("a policy of our own, which a test compiles")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::bpf::simulate;
    use crate::jail::call::{Action, Call};
    use crate::jail::syscalls;
    use crate::sys::pipe;
    use crate::sys::process::{ExitStatus, clone_process, wait};
    use std::os::fd::AsFd;

    fn answers(program: &[Instruction], name: &str, args: [u64; 6]) -> Action {
        simulate(program, &Call::new(syscalls::number(name).unwrap(), args)).unwrap().0
    }

    #[test]
    fn arguments_are_looked_at() {
        let filters = OwnFilters::new();
        for program in [&filters.main[..], &filters.vcpu[..]] {
            let ours = u64::from(std::process::id());
            assert_eq!(answers(program, "tgkill", [ours, 0, 6, 0, 0, 0]), Action::Allow);
            assert_eq!(answers(program, "tgkill", [ours + 1, 0, 6, 0, 0, 0]), Action::KillProcess);
            assert_eq!(answers(program, "mmap", [0, 0, 3, 0, 0, 0]), Action::Allow);
            assert_eq!(answers(program, "mmap", [0, 0, 5, 0, 0, 0]), Action::KillProcess);
            for refused in "socket connect execve fork ptrace bpf kill unshare mount io_uring_setup io_uring_register \
                pidfd_open pidfd_getfd process_vm_writev sendmsg dup2 setuid"
                .split_whitespace()
            {
                assert_eq!(answers(program, refused, [0; 6]), Action::KillProcess, "{refused}");
            }
            assert_eq!(answers(program, "openat", [0; 6]), Action::Errno(libc::ENOENT as u16));
        }
    }

    #[test]
    fn what_an_exit_needs_is_not_looked_into() {
        let filters = OwnFilters::new();
        // What the kernel does to find out: it follows the program until that reads something else than the number.
        let allowed_at_once = |program: &[Instruction], name: &str| {
            let call = Call::new(syscalls::number(name).unwrap(), [0; 6]);
            let reads: Vec<u32> = program.iter().filter(|one| one.code == 0x20).map(|one| one.k).collect();
            assert!(reads.contains(&0) && reads.contains(&4));
            let (action, steps) = simulate(program, &call).unwrap();
            let changed = Call { args: [u64::MAX; 6], ..call };
            action == Action::Allow && simulate(program, &changed) == Ok((action, steps))
        };
        for name in ["ioctl", "futex", "rt_sigreturn"] {
            assert!(allowed_at_once(&filters.main, name) && allowed_at_once(&filters.vcpu, name), "{name}");
        }
    }

    #[test]
    fn vcpu_threads_may_do_nothing_that_the_main_thread_may_not() {
        let filters = OwnFilters::new();
        for (number, name) in syscalls::all() {
            let allowed = |program: &[Instruction]| {
                simulate(program, &Call::new(number, [0; 6])).unwrap().0 != Action::KillProcess
            };
            assert!(!allowed(&filters.vcpu) || allowed(&filters.main), "{name}");
        }
    }

    #[test]
    fn both_hold_in_a_real_process() {
        let filters = OwnFilters::new();
        let ended = |call: fn()| {
            let child = clone_process(0, |_| {
                let loaded = seccomp::set_no_new_privs().and_then(|()| filters.confine_main());
                let loaded = loaded.and_then(|()| seccomp::load(&filters.vcpu, Scope::Thread, false));
                loaded.map_or_else(
                    |errno| errno.0,
                    |()| {
                        call();
                        0
                    },
                )
            });
            wait(child.unwrap().pidfd.as_fd()).unwrap()
        };
        assert_eq!(ended(|| drop(std::fs::read_link("/proc/self/exe"))), ExitStatus::Exited(0));
        let killed = ended(|| drop(pipe::pipe()));
        assert!(matches!(killed, ExitStatus::Signaled { signo: libc::SIGSYS, .. }), "{killed:?}");
    }
}
