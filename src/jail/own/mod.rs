//! The filters of the VMM's own threads, by policies in the dialect of [`policy`]. Each thread loads its own
//! for itself; what is not allowed kills the VMM.
//!
//! The main thread's is loaded once the plugin runs, when nothing needs to be opened any more. Threads that it starts later
//! begin with it, and vCPU threads add theirs.
//!
//! A killed VMM says nothing; the kernel's log names the system call (`type=1326`). The plugin dies with it, as with every
//! end of the VMM.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::bpf::Instruction;
use super::policy::{self, Blocking, Mode};
use crate::sys::seccomp::{self, Scope};
use crate::sys::{Errno, kvm_requests, process};

const MAIN: &str = include_str!("main.policy");
const VCPU: &str = include_str!("vcpu.policy");

/// Requests on a vCPU, beside [`KVM_RUN`](kvm_requests::KVM_RUN), that a vCPU thread makes: all that there are, since it
/// serves what the plugin asks of the vCPU.
#[rustfmt::skip]
const VCPU_REQUESTS: &[&str] = &[
    "KVM_GET_REGS", "KVM_SET_REGS", "KVM_GET_SREGS", "KVM_SET_SREGS", "KVM_GET_DEBUGREGS", "KVM_SET_DEBUGREGS",
    "KVM_GET_FPU", "KVM_SET_FPU", "KVM_GET_XSAVE", "KVM_SET_XSAVE", "KVM_GET_XCRS", "KVM_SET_XCRS", "KVM_GET_LAPIC",
    "KVM_SET_LAPIC", "KVM_GET_MP_STATE", "KVM_SET_MP_STATE", "KVM_GET_VCPU_EVENTS", "KVM_SET_VCPU_EVENTS",
    "KVM_GET_MSRS", "KVM_SET_MSRS", "KVM_GET_CPUID2", "KVM_SET_CPUID2", "KVM_GET_SUPPORTED_HV_CPUID", "KVM_ENABLE_CAP",
    "KVM_SET_GUEST_DEBUG", "KVM_TRANSLATE", "KVM_INTERRUPT", "KVM_NMI", "KVM_GET_TSC_KHZ", "KVM_SET_TSC_KHZ",
    "KVM_KVMCLOCK_CTRL",
];

/// Requests of the main thread that are none of KVM's: the addresses of a tap device, which the plugin may ask for, what the
/// listener of the plugin's filter has heard, and the terminal's mode, which a plugin that was killed leaves to be put back
/// (`tcsetattr(3)`).
const OTHER_REQUESTS: [u64; 7] = [
    libc::SIOCGIFADDR,
    libc::SIOCGIFNETMASK,
    libc::SIOCGIFHWADDR,
    libc::SIOCGIFFLAGS,
    libc::SECCOMP_IOCTL_NOTIF_RECV,
    libc::TCGETS,
    libc::TCSETS,
];

/// The filters, made and not loaded.
#[derive(Clone, Debug)]
pub struct OwnFilters {
    main: Vec<Instruction>,
    vcpu: Arc<[Instruction]>,
}

impl OwnFilters {
    /// Makes the filters of this process.
    pub fn new() -> OwnFilters {
        let kvm = |wanted: fn(&str) -> bool| {
            // The hottest request of all comes first.
            let run = kvm_requests::NUMBERS.iter().filter(|(name, _)| *name == "KVM_RUN");
            let others = kvm_requests::NUMBERS.iter().filter(move |(name, _)| *name != "KVM_RUN" && wanted(name));
            run.chain(others).map(|(_, number)| format!("{number:#x}"))
        };
        let all = kvm(|_| true).chain(OTHER_REQUESTS.iter().map(|number| format!("{number:#x}")));
        let some = kvm(|name| VCPU_REQUESTS.contains(&name));
        let (main, vcpu) = (program(MAIN, all), program(VCPU, some));
        OwnFilters { main, vcpu: vcpu.into() }
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

/// Compiles one of the texts, with the requests of ioctl(2) that are allowed, and signals for this process only.
fn program(text: &str, requests: impl Iterator<Item = String>) -> Vec<Instruction> {
    let any: Vec<String> = requests.map(|request| format!("arg1 == {request}")).collect();
    let mut text = text.to_owned();
    let _ = write!(text, "\nioctl: {}\ntgkill: arg0 == {}\n", any.join(" || "), process::getpid());
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
    use crate::sys::process::{ExitStatus, clone_process, wait};
    use std::os::fd::AsFd;

    fn answers(program: &[Instruction], name: &str, args: [u64; 6]) -> Action {
        simulate(program, &Call::new(syscalls::number(name).unwrap(), args)).unwrap().0
    }

    #[test]
    fn requests_and_signals_are_looked_at() {
        let filters = OwnFilters::new();
        let run = kvm_requests::KVM_RUN.number();
        let create = kvm_requests::KVM_CREATE_VM.number();
        for (program, creates) in [(&filters.main[..], Action::Allow), (&filters.vcpu[..], Action::KillProcess)] {
            assert_eq!(answers(program, "ioctl", [9, run, 0, 0, 0, 0]), Action::Allow);
            assert_eq!(answers(program, "ioctl", [9, create, 0, 0, 0, 0]), creates);
            assert_eq!(answers(program, "ioctl", [0, libc::TCSETS, 0, 0, 0, 0]), creates);
            assert_eq!(answers(program, "ioctl", [0, libc::TIOCSTI, 0, 0, 0, 0]), Action::KillProcess);
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
    fn every_request_on_a_vcpu_is_among_those_of_its_thread() {
        let source = include_str!("../../kvm/vcpu.rs");
        let words = source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_request = |word: &&str| kvm_requests::NUMBERS.iter().any(|(name, _)| name == word);
        let mut made: Vec<&str> = words.filter(is_request).filter(|name| *name != "KVM_RUN").collect();
        made.sort_unstable();
        made.dedup();
        let mut listed = VCPU_REQUESTS.to_vec();
        listed.sort_unstable();
        assert_eq!(made, listed);
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
        let killed = ended(|| drop(process::pipe()));
        assert!(matches!(killed, ExitStatus::Signaled { signo: libc::SIGSYS, .. }), "{killed:?}");
    }
}
