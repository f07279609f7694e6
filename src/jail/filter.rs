//! The plugin's filter: made in the parent, loaded by the child half, listened to by the VMM.
//!
//! **Who dies of what.** A filter that kills says in no dependable way what it killed for: the exit status holds a signal and
//! nothing more. So blocked calls are answered with `SECCOMP_RET_USER_NOTIF` instead: the thread stops in the call, which
//! never happens, and the VMM, which holds the listener, reads number and arguments and kills the plugin. Calls that are
//! allowed cost nothing for it. What follows from it:
//!
//! - Between the call and the kill other threads of the plugin run on, for as long as the VMM's main thread takes to hear of
//!   it. A signal may take the thread out of the call (`EINTR`) in that time. It has gained nothing by that, and is killed
//!   all the same: the VMM hears that there was a call ([`Refused::Unknown`]), only not which.
//! - Any process that has the filter, so also one that the plugin has forked, ends the whole plugin.
//! - When the VMM dies its listener is closed, and blocked calls return `ENOSYS` from then on. They still do not happen, and
//!   the plugin is about to die: its `PR_SET_PDEATHSIG` is sent as part of the same end, after the descriptors are closed,
//!   and with the first process of a pid namespace die all others.
//! - A foreign architecture and x32 are killed by the filter itself.
//! - Where a filter with a listener is in force already, as in some containers, there can be no second one (`EBUSY`): then
//!   blocked calls are killed by the filter, and the VMM cannot say which it was. The same goes for precompiled programs that
//!   are too long for what is put before them.
//!
//! **What the child half may still do.** Once the filter is loaded, the listener has to get to the VMM and the program has to
//! be executed, and a policy need not allow `execve`. So some instructions stand before the policy's ([`guarded`](guarded())): they
//! allow `sendmmsg`, `execve` and `exit_group` to whoever has a random number in the sixth argument register. These calls
//! have fewer arguments, the number is in no memory that the plugin will have, and the three are no calls that programs
//! make often, so that the others are still looked up in the kernel's table without running the filter.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use super::bpf::{self, Assembler, Instruction, MAX_INSTRUCTIONS, Target, Test};
use super::call::{ARCH_X86_64, Action, Call, X32_BIT};
use super::syscalls;
use crate::sys::Errno;
use crate::sys::descriptors;
use crate::sys::exec::ExecImage;
use crate::sys::message::{self, Message};
use crate::sys::seccomp::{self, Heard, Listener, Scope};
use outboard_wire::socket;

/// Calls that the child half makes under the filter.
const CHILD_CALLS: [&str; 3] = ["sendmmsg", "execve", "exit_group"];

/// The exit status of a child half that does not become the program.
const NOT_EXECUTED: i32 = 127;

/// Puts instructions before a program that allow the calls of the child half to whoever knows the secret, and that let
/// nobody take back `PR_SET_PDEATHSIG`, whatever the policy: the plugin dies with the VMM. `None` if the program is too
/// long for that.
pub fn guarded(program: &[Instruction], secret: u64) -> Option<Vec<Instruction>> {
    let mut guard = Assembler::new();
    let (known, policy) = (guard.label(), guard.label());
    let (prctl, refused) = (guard.label(), guard.label());
    guard.load(4);
    guard.branch(Test::Equal, ARCH_X86_64, Target::Next, Target::To(policy));
    guard.load(0);
    for number in CHILD_CALLS.into_iter().filter_map(syscalls::number) {
        guard.branch(Test::Equal, number, Target::To(known), Target::Next);
    }
    if let Some(number) = syscalls::number("prctl") {
        guard.branch(Test::Equal, number, Target::To(prctl), Target::Next);
    }
    guard.jump(policy);
    guard.place(prctl);
    guard.load(16);
    guard.branch(Test::Equal, libc::PR_SET_PDEATHSIG as u32, Target::To(refused), Target::Next);
    guard.jump(policy);
    guard.place(refused);
    guard.answer(Action::Errno(libc::EPERM as u16));
    guard.place(known);
    for (offset, half) in [(56, secret as u32), (60, (secret >> 32) as u32)] {
        guard.load(offset);
        guard.branch(Test::Equal, half, Target::Next, Target::To(policy));
    }
    guard.answer(Action::Allow);
    guard.place(policy);
    let mut whole = guard.assemble().ok()?;
    whole.extend_from_slice(program);
    (whole.len() <= MAX_INSTRUCTIONS).then_some(whole)
}

/// The program with all that kills answered by the listener instead: for programs that were compiled without knowing of one.
pub fn listening(mut program: Vec<Instruction>) -> Vec<Instruction> {
    bpf::replace_answers(&mut program, |action| match action {
        Action::KillProcess | Action::KillThread => Action::Notify,
        other => other,
    });
    program
}

/// A filter, prepared in the parent so that the child half need not allocate.
pub struct Filter {
    program: Vec<Instruction>,
    /// The same for where there can be no listener.
    killing: Vec<Instruction>,
    listens: bool,
    logs: bool,
    /// `None`: the program is too long to be guarded, and decides on `execve` itself.
    secret: Option<u64>,
    ours: OwnedFd,
    theirs: OwnedFd,
}

/// How the child half fared once it had a filter.
#[derive(Debug)]
pub enum Loaded {
    /// It has become the program. Blocked calls are told to the listener, if there could be one.
    Executed(Option<Listener>),
    /// It could not.
    ExecFailed(Errno),
}

/// The first word of what the child half sends.
#[derive(Clone, Copy)]
enum Word {
    /// The listener comes along.
    Listener = 1,
    /// `execve` failed, with the error number in the second word.
    ExecFailed = 2,
    /// The listener could not be sent, with the error number in the second word.
    NotHandedOver = 3,
}

impl Filter {
    /// Prepares a program, which the kernel must be known to take. Its descriptors get numbers from `least` on, so that the
    /// child half does not overwrite them.
    ///
    /// # Errors
    /// `EMFILE` if there are no descriptors left.
    pub fn new(program: &[Instruction], least: RawFd) -> Result<Filter, Errno> {
        let secret = seccomp::secret()?;
        let whole = guarded(program, secret);
        let secret = whole.is_some().then_some(secret);
        let program = whole.unwrap_or_else(|| program.to_vec());
        let mut killing = program.clone();
        let (mut listens, mut logs) = (false, false);
        bpf::replace_answers(&mut killing, |action| {
            logs |= action == Action::Log;
            match action {
                Action::Notify => {
                    listens = true;
                    Action::KillProcess
                }
                other => other,
            }
        });
        // Without the secret the listener could not be sent.
        listens &= secret.is_some();
        let (ours, theirs) = socket::pair().map_err(Errno::from)?;
        let theirs = descriptors::dup_from(theirs.as_fd(), least)?;
        Ok(Filter { program, killing, listens, logs, secret, ours, theirs })
    }

    /// The last step of the child half before the program: loads the filter for all threads, and sends the listener.
    ///
    /// # Errors
    /// Those of `seccomp(2)`; the filter is not in force then.
    pub fn load(&self) -> Result<(), Errno> {
        seccomp::set_no_new_privs()?;
        if let (true, Some(secret)) = (self.listens, self.secret) {
            match seccomp::load_with_listener(&self.program, Scope::Process) {
                Ok(listener) => return self.hand_over(secret, listener),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno),
            }
        }
        seccomp::load(&self.killing, Scope::Process, self.logs)
    }

    fn hand_over(&self, secret: u64, listener: OwnedFd) -> Result<(), Errno> {
        let sent = self.send(secret, Word::Listener, 0, Some(&listener));
        // Closing it is a call that the policy may block. execve will do it.
        std::mem::forget(listener);
        // Nor can a failure be reported in the usual way any more.
        sent.map_err(|errno| {
            let _ = self.send(secret, Word::NotHandedOver, errno.0, None);
            seccomp::exit_with(secret, NOT_EXECUTED)
        })
    }

    /// Becomes the program. Returns, with the error number, only if that fails and the filter is not guarded.
    pub fn exec(&self, image: &ExecImage) -> Errno {
        let Some(secret) = self.secret else { return image.exec() };
        let errno = image.exec_with(secret);
        let _ = self.send(secret, Word::ExecFailed, errno.0, None);
        seccomp::exit_with(secret, NOT_EXECUTED)
    }

    fn send(&self, secret: u64, word: Word, errno: i32, fd: Option<&OwnedFd>) -> Result<(), Errno> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&(word as u32).to_ne_bytes());
        bytes[4..].copy_from_slice(&errno.to_ne_bytes());
        seccomp::send_with(secret, self.theirs.as_fd(), &bytes, fd.map(AsFd::as_fd))
    }

    /// What came of it, for the parent: once it knows that the child half has come to its end, by `execve` or otherwise.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`; `EPROTO` if the child half has said something else than it does; what the child half met when it
    /// sent the listener, and `EMFILE` if it did and there was no descriptor left for it here.
    pub fn loaded(&self) -> Result<Loaded, Errno> {
        let mut listener = None;
        let mut message = Message::with_capacity(8, 1);
        while message::receive_now(self.ours.as_fd(), &mut message)? {
            let number = |at: usize| message.bytes().get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
            let (word, errno) = number(0).zip(number(4)).ok_or(Errno::EPROTO)?;
            if word == Word::ExecFailed as u32 {
                return Ok(Loaded::ExecFailed(Errno(errno as i32)));
            }
            if word == Word::NotHandedOver as u32 {
                return Err(Errno(errno as i32));
            }
            // Without the listener the plugin would run on after calls that are to end it.
            listener = Some(Listener::new(message.take_fds().pop().ok_or(Errno::EMFILE)?));
        }
        Ok(Loaded::Executed(listener))
    }
}

/// What a plugin did that its policy does not allow. It displays as the rest of a sentence about the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It made this call.
    Call(Call),
    /// It made a call, and took the thread out of it by a signal before the call was read.
    Unknown,
}

/// What a listener has to tell. `None` if all that had the filter is gone.
///
/// # Errors
/// Those of the listener's `ioctl(2)`.
pub fn hear(listener: &Listener) -> Result<Option<Refused>, Errno> {
    Ok(match listener.hear()? {
        Heard::Ended => None,
        Heard::Withdrawn => Some(Refused::Unknown),
        Heard::Call { data: [first, instruction_pointer, args @ ..], .. } => {
            Some(Refused::Call(Call { number: first as u32, arch: (first >> 32) as u32, instruction_pointer, args }))
        }
    })
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused::Call(call) = self else {
            return f.write_str("made a system call that its seccomp policy does not allow");
        };
        let of = match (call.arch, call.number) {
            (ARCH_X86_64, ..X32_BIT) => "",
            (ARCH_X86_64, _) => " of x32",
            _ => " of another architecture",
        };
        match syscalls::name(call.number).filter(|_| of.is_empty()) {
            Some(name) => write!(f, "made the system call {name} (number {})", call.number)?,
            None => write!(f, "made the system call {}{of}", call.number & !X32_BIT)?,
        }
        let [a, b, c, d, e, g] = call.args;
        write!(
            f,
            " with the arguments {a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {g:#x}, which its seccomp policy does not allow"
        )
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
