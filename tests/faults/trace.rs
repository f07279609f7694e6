//! Runs a program as a tracer (`ptrace(2)`) and lets one system call of it fail, or one operation of its io_uring.
//!
//! The program is the very one that is shipped: nothing in it knows of this. The call is replaced by a `write` to no
//! descriptor, which every seccomp filter of the VMM allows and which does nothing, and what that returns is replaced by
//! the error. So the call did not happen, and its caller cannot tell.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use io_uring::opcode;
use outboard::sys::Errno;

use crate::ring::{self, Ring};

/// How long a run may take.
const WATCHDOG: Duration = Duration::from_secs(15);

/// Whose calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The VMM's main thread, from the first call of its own `main`.
    Main,
    /// A thread that it starts: all of them together, in the order in which they call.
    Thread,
    /// The child that becomes the plugin, up to and with its `execve`.
    Child,
}

/// What shall fail: the `number`-th of those calls or operations that count, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub who: Who,
    pub number: usize,
    pub how: How,
}

/// How something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By an error that it can have, such as a lack of memory or of descriptors. Every call counts that can fail.
    Fails,
    /// By `EINTR`, which is no failure. Calls count that can wait.
    IsInterrupted,
    /// By a lack of memory or of address space. Calls count that the C and Rust libraries make for memory of their own.
    LacksMemory,
    /// A call succeeds that submits operations to an io_uring, and one of them completes with an error: that of this number
    /// in the list of its kind. The operations count, not the calls.
    Completes(usize),
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A system call, by number.
    Call(u64),
    /// An operation of an io_uring, by its code.
    Operation(u8),
}

/// What the VMM held at its last call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What its descriptors are open on, sorted; the pipes of standard streams among them.
    pub descriptors: Vec<String>,
    /// Its threads.
    pub threads: usize,
}

/// How a traced run went.
#[derive(Debug)]
pub struct Run {
    /// How the VMM ended.
    pub status: ExitStatus,
    /// What failed, and its error; `None` if there were not as many.
    pub failed: Option<(What, Errno)>,
    /// What was held when the VMM left.
    pub held: Held,
    /// How many calls the VMM made.
    pub calls: usize,
    /// Those of them whose end depends on the time of day.
    pub by_wall_clock: Vec<u64>,
    /// The watchdog bit.
    pub hung: bool,
}

/// Starts a program that the calling thread traces and has to [`follow`].
pub fn spawn(command: &mut Command) -> Child {
    let trace_me = || {
        // SAFETY: between fork and exec one system call is made, which allocates nothing and takes no pointer.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(trace_me) };
    command.spawn().expect("the program starts")
}

/// Asks something of a thread that is stopped. One that was killed meanwhile refuses, and `waitpid` says so soon.
fn ptrace(request: u32, thread: i32, value: usize) -> bool {
    // SAFETY: none of the requests made here writes to this process but PTRACE_GETREGS and PTRACE_GETEVENTMSG, which get
    // the address of what they fill; the other values are numbers or the address of registers.
    unsafe { libc::ptrace(request, thread, 0usize, value) != -1 }
}

fn registers(thread: i32) -> Option<libc::user_regs_struct> {
    // SAFETY: registers are numbers, for which zero is a value.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, thread, (&raw mut regs).addr()).then_some(regs)
}

fn set_registers(thread: i32, regs: &libc::user_regs_struct) {
    ptrace(libc::PTRACE_SETREGS, thread, ptr::from_ref(regs).addr());
}

/// Lets a thread run to its next system call, with a signal or none.
fn go_on(thread: i32, signal: i32) {
    ptrace(libc::PTRACE_SYSCALL, thread, signal as usize);
}

/// The next report about a traced thread: which, and its wait status. `None` if there is none any more.
fn next_report() -> Option<(i32, i32)> {
    loop {
        let mut status = 0;
        // Other threads of this process have children of their own.
        // SAFETY: `status` is writable.
        match unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return None,
            thread => return Some((thread, status)),
        }
    }
}

/// A tracer of one program.
struct Tracer {
    leader: i32,
    fault: Fault,
    count: usize,
    begun: bool,
    who: HashMap<i32, Who>,
    /// Threads within a call, and what is to be done behind it.
    inside: HashMap<i32, Option<Behind>>,
    /// The VMM's io_uring.
    ring: Option<Ring>,
    run: Run,
}

/// What is to be done behind a call.
enum Behind {
    /// It did not happen: its result becomes the error, its number and first argument what they were.
    Fail { rdi: u64, rax: u64, errno: Errno },
    /// It got arguments of ours: they become what they were.
    Restore { rdi: u64, rdx: u64, r10: u64 },
}

/// Follows a child of [`spawn`], by number, to its end.
pub fn follow(child: u32, fault: Fault) -> Run {
    let leader = child as i32;
    let (done, bites) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let bitten = bites.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout);
        if bitten {
            // SAFETY: no pointer is passed, and the number is that of a child which nobody has waited for.
            unsafe { libc::kill(leader, libc::SIGKILL) };
        }
        bitten
    });
    let mut run = Tracer::new(leader, fault).follow();
    drop(done);
    run.hung = watchdog.join().expect("the watchdog");
    run
}

impl Tracer {
    fn new(leader: i32, fault: Fault) -> Tracer {
        let run = Run {
            status: ExitStatus::from_raw(0),
            failed: None,
            held: Held::default(),
            calls: 0,
            by_wall_clock: Vec::new(),
            hung: false,
        };
        let who = HashMap::from([(leader, Who::Main)]);
        Tracer { leader, fault, count: 0, begun: false, who, inside: HashMap::new(), ring: None, run }
    }

    fn follow(mut self) -> Run {
        // It stands behind its execve.
        let first = next_report().expect("a child");
        assert_eq!((first.0, libc::WSTOPSIG(first.1)), (self.leader, libc::SIGTRAP));
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        assert!(ptrace(libc::PTRACE_SETOPTIONS, self.leader, options as usize), "the options of a tracer");
        go_on(self.leader, 0);
        // The child half may outlive the VMM by a moment, and is followed to its end too.
        while let Some((thread, status)) = next_report() {
            if !libc::WIFSTOPPED(status) {
                self.who.remove(&thread);
                if thread == self.leader {
                    self.run.status = ExitStatus::from_raw(status);
                }
                if self.who.is_empty() {
                    break;
                }
                continue;
            }
            match (libc::WSTOPSIG(status), status >> 16) {
                (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                    self.call(thread);
                    go_on(thread, 0);
                }
                (libc::SIGTRAP, event) if event != 0 => self.event(thread, event),
                // A new thread or process begins with this one.
                (libc::SIGSTOP, _) => go_on(thread, 0),
                (signal, _) => go_on(thread, signal),
            }
        }
        self.run
    }

    fn event(&mut self, thread: i32, event: i32) {
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                let mut new: libc::c_ulong = 0;
                if ptrace(libc::PTRACE_GETEVENTMSG, thread, (&raw mut new).addr()) {
                    let who = if event == libc::PTRACE_EVENT_CLONE { Who::Thread } else { Who::Child };
                    self.who.insert(new as i32, who);
                }
                go_on(thread, 0);
            }
            // The plugin is none of ours.
            libc::PTRACE_EVENT_EXEC if thread != self.leader => {
                self.who.remove(&thread);
                self.inside.remove(&thread);
                ptrace(libc::PTRACE_DETACH, thread, 0);
            }
            _ => go_on(thread, 0),
        }
    }

    fn counts(&self, regs: &libc::user_regs_struct) -> bool {
        match self.fault.how {
            How::Fails => can_fail(regs),
            How::IsInterrupted => can_wait(regs),
            How::LacksMemory => is_for_memory(regs),
            How::Completes(_) => false,
        }
    }

    /// Before or behind a system call.
    fn call(&mut self, pid: i32) {
        let Some(mut regs) = registers(pid) else { return };
        if let Some(behind) = self.inside.remove(&pid) {
            self.behind(pid, &mut regs, behind);
            return;
        }
        let number = regs.orig_rax;
        if pid == self.leader && !self.begun {
            self.begun = number == libc::SYS_geteuid as u64;
        }
        if pid == self.leader && number == libc::SYS_exit_group as u64 {
            self.run.held = held(pid);
        }
        if self.begun && self.who.get(&pid) != Some(&Who::Child) {
            self.run.calls += 1;
            if waits_by_wall_clock(&regs) {
                self.run.by_wall_clock.push(number);
            }
        }
        let mut behind = None;
        if self.begun && self.who.get(&pid) == Some(&self.fault.who) {
            if let How::Completes(which) = self.fault.how {
                behind = self.submits(pid, &mut regs, which);
            } else if self.counts(&regs) {
                if self.count == self.fault.number {
                    behind = Some(self.fail(pid, &mut regs));
                }
                self.count += 1;
            }
        }
        self.inside.insert(pid, behind);
    }

    /// Replaces a call.
    fn fail(&mut self, pid: i32, regs: &mut libc::user_regs_struct) -> Behind {
        let (number, rdi) = (regs.orig_rax, regs.rdi);
        let errno = if self.fault.how == How::IsInterrupted { Errno::EINTR } else { error_of(number) };
        self.run.failed = Some((What::Call(number), errno));
        if number as i64 == libc::SYS_brk {
            // It fails by returning the end that there was, as it does when that is asked for.
            regs.rdi = 0;
            set_registers(pid, regs);
            return Behind::Restore { rdi, rdx: regs.rdx, r10: regs.r10 };
        }
        regs.orig_rax = libc::SYS_write as u64;
        regs.rdi = u64::MAX;
        set_registers(pid, regs);
        Behind::Fail { rdi, rax: number, errno }
    }

    fn behind(&mut self, pid: i32, regs: &mut libc::user_regs_struct, behind: Option<Behind>) {
        match behind {
            Some(Behind::Fail { rdi, rax, errno }) => {
                regs.rdi = rdi;
                regs.rax = i64::from(-errno.0) as u64;
                // What a restart by the kernel would begin again.
                regs.orig_rax = rax;
                set_registers(pid, regs);
            }
            Some(Behind::Restore { rdi, rdx, r10 }) => {
                (regs.rdi, regs.rdx, regs.r10) = (rdi, rdx, r10);
                set_registers(pid, regs);
            }
            None if regs.orig_rax == libc::SYS_io_uring_setup as u64 && pid == self.leader && regs.rax as i64 >= 0 => {
                self.ring = Some(Ring::new(pid, regs.rsi).expect("what the ring is like"));
            }
            None => {}
        }
    }

    /// Before a call of a process whose io_uring shall let an operation fail.
    fn submits(&mut self, pid: i32, regs: &mut libc::user_regs_struct, which: usize) -> Option<Behind> {
        match regs.orig_rax as i64 {
            // What does nothing and fails is none of what the VMM lets its ring do.
            libc::SYS_io_uring_register if regs.rsi == ring::REGISTER_RESTRICTIONS => {
                let usual = Behind::Restore { rdi: regs.rdi, rdx: regs.rdx, r10: regs.r10 };
                let copy = ring::allow_nop(pid, regs.rsp, regs.rdx, regs.r10);
                (regs.rdx, regs.r10) = copy.expect("a list of what the ring may do");
                set_registers(pid, regs);
                Some(usual)
            }
            libc::SYS_io_uring_enter if self.run.failed.is_none() => {
                let ring = self.ring.as_ref().expect("it was set up");
                let error = |operation| completion_error(operation, which);
                let failed = ring.fail(regs.rdi, regs.rsi, &mut self.count, self.fault.number, error);
                let failed = failed.expect("the entries of the ring");
                self.run.failed = failed.map(|(operation, errno)| (What::Operation(operation), errno));
                None
            }
            _ => None,
        }
    }
}

fn held(pid: i32) -> Held {
    let entries = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it stands still").flatten();
    let links = entries("fd").filter_map(|entry| std::fs::read_link(entry.path()).ok());
    // Without the numbers of pipes and sockets.
    let kind = |link: std::path::PathBuf| link.to_string_lossy().split(":[").next().unwrap_or_default().to_owned();
    let mut descriptors: Vec<String> = links.map(kind).collect();
    descriptors.sort();
    Held { descriptors, threads: entries("task").count() }
}

/// Whether a call may fail at all, on a machine that works: not those that end something, and not those that the Rust
/// and C libraries make for themselves and die without, for memory and for their threads.
fn can_fail(regs: &libc::user_regs_struct) -> bool {
    const NEVER: [i64; 20] = [
        libc::SYS_brk,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        // With what it is given it cannot fail, and the C library starts threads on that.
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_tgkill,
    ];
    let futex = regs.rsi as i32 & 0x7f;
    match regs.orig_rax as i64 {
        libc::SYS_mmap => regs.r10 & libc::MAP_ANONYMOUS as u64 == 0,
        // A wait may be interrupted; nothing else of it fails.
        libc::SYS_futex => futex == libc::FUTEX_WAIT || futex == libc::FUTEX_WAIT_BITSET,
        number => !NEVER.contains(&number),
    }
}

/// Whether a call gets memory for the C and Rust libraries: for what they allocate, and for threads. Left out is the stack
/// for signal handlers that the Rust library gives each thread when that begins, and panics without: a map that is shorter
/// than any that the C library makes, and its guard page.
fn is_for_memory(regs: &libc::user_regs_struct) -> bool {
    const SHORTEST: u64 = 128 << 10;
    match regs.orig_rax as i64 {
        libc::SYS_mmap => regs.r10 & libc::MAP_ANONYMOUS as u64 != 0 && regs.rsi >= SHORTEST,
        libc::SYS_mprotect => regs.rdx != libc::PROT_NONE as u64,
        number => [libc::SYS_brk, libc::SYS_mremap].contains(&number),
    }
}

/// Whether a call waits for a time of day: an absolute one of `CLOCK_REALTIME`, which is clock 0.
fn waits_by_wall_clock(regs: &libc::user_regs_struct) -> bool {
    match regs.orig_rax as i64 {
        libc::SYS_futex => {
            let (operation, timeout) = (regs.rsi as i32, regs.r10);
            can_fail(regs) && timeout != 0 && operation & libc::FUTEX_CLOCK_REALTIME != 0
        }
        libc::SYS_clock_nanosleep => regs.rdi == 0 && regs.rsi & libc::TIMER_ABSTIME as u64 != 0,
        libc::SYS_timerfd_create | libc::SYS_timer_create => regs.rdi == 0,
        libc::SYS_settimeofday | libc::SYS_clock_settime => true,
        _ => false,
    }
}

/// Whether a call may be interrupted by a signal.
fn can_wait(regs: &libc::user_regs_struct) -> bool {
    const KVM_RUN: u64 = 0xae80;
    const CALLS: [i64; 11] = [
        libc::SYS_accept4,
        libc::SYS_io_uring_enter,
        libc::SYS_openat,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_waitid,
        libc::SYS_write,
    ];
    let number = regs.orig_rax as i64;
    CALLS.contains(&number)
        || number == libc::SYS_ioctl && regs.rsi == KVM_RUN
        || number == libc::SYS_futex && can_fail(regs)
}

/// An error that this call can have.
fn error_of(number: u64) -> Errno {
    match number as i64 {
        libc::SYS_accept4
        | libc::SYS_dup3
        | libc::SYS_eventfd2
        | libc::SYS_fcntl
        | libc::SYS_io_uring_setup
        | libc::SYS_memfd_create
        | libc::SYS_open
        | libc::SYS_openat
        | libc::SYS_pipe2
        | libc::SYS_signalfd4
        | libc::SYS_socket
        | libc::SYS_socketpair => Errno::EMFILE,
        libc::SYS_clone | libc::SYS_clone3 => Errno::EAGAIN,
        libc::SYS_futex | libc::SYS_poll | libc::SYS_ppoll => Errno::EINTR,
        libc::SYS_read | libc::SYS_write | libc::SYS_writev => Errno::EIO,
        _ => Errno::ENOMEM,
    }
}

/// An error that an operation of an io_uring can complete with, by its place in a list. None of them says of a peer what is
/// not so, as `EPIPE` would.
fn completion_error(operation: u8, which: usize) -> Option<Errno> {
    let all: &[i32] = match operation {
        opcode::RecvMsg::CODE => &[libc::ENOMEM, libc::ECANCELED, libc::ECONNRESET, libc::EINTR],
        opcode::SendMsg::CODE => &[libc::ENOMEM, libc::ECANCELED, libc::ENOBUFS],
        opcode::PollAdd::CODE | opcode::Timeout::CODE => &[libc::ENOMEM, libc::ECANCELED, libc::EINTR],
        opcode::AsyncCancel::CODE => &[libc::ENOMEM, libc::ENOENT, libc::EALREADY],
        _ => &[libc::EINVAL],
    };
    all.get(which).map(|errno| Errno(*errno))
}
