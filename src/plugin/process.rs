//! The plugin as a process: started, watched through its pidfd, killed and reaped.
//!
//! The start has two halves. The parent half prepares everything, clones, and reads from a pipe which step of the child
//! failed, if one did. The child half runs a list of named steps and becomes the program; it allocates nothing and
//! leaves by `_exit`. A jail is more steps in that list, and namespaces for the clone.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::sys::errno::Errno;
use crate::sys::process::{self, Child, ExecImage, ExitStatus, InChild};

/// The number that the first descriptor handed to the plugin gets; standard input, output and error come before it.
pub const FIRST_FD: RawFd = 3;

/// Bytes of the report of a failed step: its index and its error number, each in four bytes of this machine's order.
/// Less than `PIPE_BUF`, so it arrives whole.
const REPORT_SIZE: usize = 8;

/// Something that the child does to itself before it becomes the program.
///
/// It runs in a process cloned from one that may have many threads: it must not allocate, take locks or panic, only
/// make system calls with what was prepared before.
pub trait ChildStep {
    /// What the step does, as the subject of "... failed".
    fn name(&self) -> &'static str;

    /// Does it.
    ///
    /// # Errors
    /// That of the system call; the start then fails with it.
    fn run(&self, child: &InChild) -> Result<(), Errno>;
}

/// What to start, and with what.
pub struct SpawnPlan {
    /// The program, by absolute path.
    pub program: CString,
    /// Its arguments, beginning with its name.
    pub argv: Vec<CString>,
    /// `KEY=value` entries that are added to the inherited environment, or replace those with the same key.
    pub extra_env: Vec<CString>,
    /// Descriptors for the plugin: the first becomes [`FIRST_FD`], and so on. All others beyond standard error are
    /// closed. They stay open here, too, until the plan is dropped.
    pub fds: Vec<OwnedFd>,
    /// Namespaces for the child ([`process::NAMESPACE_FLAGS`]); 0 for none.
    pub namespaces: u64,
    /// Steps of a jail, with the default signals already and all descriptors still open under their old numbers.
    pub steps: Vec<Box<dyn ChildStep>>,
    /// The last step before the program: a seccomp filter. Under it the child half calls `execve` and, if that fails,
    /// `write` and `exit_group`, nothing else.
    pub filter: Option<Box<dyn ChildStep>>,
}

/// Why the plugin cannot be started: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// The program cannot be one.
    #[error("cannot start the plugin {}: {fault}", program.display())]
    Program {
        /// The path given.
        program: PathBuf,
        /// What is wrong with it.
        fault: ProgramFault,
    },
    /// A system call of the parent half failed.
    #[error("cannot start the plugin {}: {call} failed: {errno}", program.display())]
    Parent {
        /// The path of the program.
        program: PathBuf,
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// A step of the child half failed.
    #[error("cannot start the plugin {}: {step} failed: {errno}{}", program.display(), hint(step, *errno))]
    Step {
        /// The path of the program.
        program: PathBuf,
        /// The name of the step.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// What is wrong with the path of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramFault {
    /// It does not begin with a slash.
    #[error("its path must be absolute")]
    Relative,
    /// It holds a zero byte, which no path can.
    #[error("its path holds a zero byte")]
    ZeroByte,
    /// It is not there, or cannot be looked at.
    #[error("it cannot be found: {0}")]
    Missing(Errno),
    /// It is a directory, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// Nobody may execute it.
    #[error("it is not executable; try `chmod +x`")]
    NotExecutable,
}

/// Checks that `path` can be the program of a plugin: absolute, there, a regular file, executable by someone. Whether
/// by us is for `execve` to say.
///
/// # Errors
/// [`SpawnError::Program`].
pub fn validate_program(path: &Path) -> Result<CString, SpawnError> {
    check_program(path).map_err(|fault| SpawnError::Program { program: path.to_path_buf(), fault })
}

fn check_program(path: &Path) -> Result<CString, ProgramFault> {
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| ProgramFault::ZeroByte)?;
    if !path.is_absolute() {
        return Err(ProgramFault::Relative);
    }
    let found = std::fs::metadata(path);
    let file = found.map_err(|error| ProgramFault::Missing(Errno(error.raw_os_error().unwrap_or(libc::EIO))))?;
    if !file.is_file() {
        return Err(ProgramFault::NotAFile);
    }
    if file.permissions().mode() & 0o111 == 0 {
        return Err(ProgramFault::NotExecutable);
    }
    Ok(c_path)
}

/// What the owner of the program might look at, after the error of a step.
fn hint(step: &str, errno: Errno) -> &'static str {
    match (step, errno.0) {
        (EXECVE, libc::EACCES) => "; is it executable?",
        (EXECVE, libc::ENOENT) => "; is it there, and its interpreter or dynamic linker too?",
        (EXECVE, libc::ENOEXEC) => "; is it a program for this machine?",
        _ => "",
    }
}

/// The name of the last step of every child half.
const EXECVE: &str = "execve";

/// Ends the child with its parent, also if that ended before the request was made.
struct DieWithParent<'a> {
    /// The child's copy of the reading end of the report, where it is still open.
    reader: Option<BorrowedFd<'a>>,
    report: BorrowedFd<'a>,
}

impl ChildStep for DieWithParent<'_> {
    fn name(&self) -> &'static str {
        "PR_SET_PDEATHSIG"
    }

    fn run(&self, child: &InChild) -> Result<(), Errno> {
        process::set_parent_death_signal(libc::SIGKILL)?;
        // The reading end of the report lives in the parent only, once our copy is closed. Unlike the parent's
        // process id this also tells in a pid namespace of our own.
        if let Some(reader) = self.reader {
            process::close_copy(child, reader);
        }
        match process::peer_is_gone(self.report)? {
            true => process::exit_now(127),
            false => Ok(()),
        }
    }
}

/// Gives the program the signals it expects.
struct ResetSignals;

impl ChildStep for ResetSignals {
    fn name(&self) -> &'static str {
        "resetting the signals"
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        process::reset_signals()
    }
}

/// Puts the plugin's descriptors at their numbers, and lets all others go with `execve`.
struct PlaceFds<'a> {
    /// Numbers beyond all targets.
    sources: &'a [OwnedFd],
}

impl ChildStep for PlaceFds<'_> {
    fn name(&self) -> &'static str {
        "placing the descriptors"
    }

    fn run(&self, child: &InChild) -> Result<(), Errno> {
        let mut target = FIRST_FD;
        for source in self.sources {
            process::place_fd(child, source.as_fd(), target)?;
            target += 1;
        }
        process::close_on_exec_from(target)
    }
}

/// Becomes the program.
struct Exec<'a>(&'a ExecImage);

impl ChildStep for Exec<'_> {
    fn name(&self) -> &'static str {
        EXECVE
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        Err(self.0.exec())
    }
}

/// The child half: runs the steps, the last of which is `execve`, and reports the one that fails. Returns the exit
/// status for the case that it does.
fn child_half(child: &InChild, steps: &[&dyn ChildStep], report: BorrowedFd<'_>) -> i32 {
    for (index, step) in (0u32..).zip(steps) {
        if let Err(errno) = step.run(child) {
            let mut record = [0; REPORT_SIZE];
            record[..4].copy_from_slice(&index.to_ne_bytes());
            record[4..].copy_from_slice(&errno.0.to_ne_bytes());
            process::write_record(report, &record);
            break;
        }
    }
    127
}

/// A started plugin. Dropping it kills and reaps the process.
pub struct PluginProcess {
    child: Child,
    ended: Option<ExitStatus>,
}

impl fmt::Debug for PluginProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginProcess").field("pid", &self.child.pid).field("ended", &self.ended).finish()
    }
}

impl PluginProcess {
    /// Starts the plugin; when this returns, its program has been executed.
    ///
    /// The plugin is killed when the calling *thread* ends (`PR_SET_PDEATHSIG`): it must be one that lives as long as the
    /// VM, best the main thread. An ignored `SIGCHLD` is given its default disposition, or nothing could be waited for.
    ///
    /// # Errors
    /// [`SpawnError`]; no process is left then.
    pub fn spawn(plan: &SpawnPlan) -> Result<PluginProcess, SpawnError> {
        let program = PathBuf::from(std::ffi::OsStr::from_bytes(plan.program.to_bytes()));
        let failed = |call| {
            let program = program.clone();
            move |errno| SpawnError::Parent { program, call, errno }
        };
        let image = ExecImage::new(plan.program.clone(), plan.argv.clone(), environment(&plan.extra_env));
        // All sources beyond all targets, so that placing one never overwrites another.
        let free = FIRST_FD + plan.fds.len() as RawFd;
        let above = |fd: &OwnedFd| process::dup_from(fd.as_fd(), free);
        let sources: Vec<OwnedFd> =
            plan.fds.iter().map(above).collect::<Result<_, _>>().map_err(failed("fcntl(F_DUPFD)"))?;
        let (reader, low_report) = process::pipe().map_err(failed("pipe2"))?;
        let report = above(&low_report).map_err(failed("fcntl(F_DUPFD)"))?;
        drop(low_report);
        process::set_default_action(libc::SIGCHLD).map_err(failed("sigaction"))?;

        let die = DieWithParent { reader: Some(reader.as_fd()), report: report.as_fd() };
        // Once more after the jail: a change of user or group in a step takes the request back (prctl(2)).
        let die_still = DieWithParent { reader: None, report: report.as_fd() };
        let (place, exec) = (PlaceFds { sources: &sources }, Exec(&image));
        let mut steps: Vec<&dyn ChildStep> = vec![&die, &ResetSignals];
        steps.extend(plan.steps.iter().map(|step| &**step));
        steps.extend([&place as &dyn ChildStep, &die_still]);
        steps.extend(plan.filter.as_deref());
        steps.push(&exec);
        let child = process::clone_process(plan.namespaces, |child| child_half(child, &steps, report.as_fd()));
        let child = child.map_err(failed("clone3"))?;
        let names: Vec<&'static str> = steps.iter().map(|step| step.name()).collect();
        drop(report);
        // From here on the process is reaped on every way out.
        let process = PluginProcess { child, ended: None };
        match read_report(reader).map_err(failed("reading the report of the child"))? {
            None => Ok(process),
            Some((index, errno)) => {
                let step = names.get(index).copied().unwrap_or("an unknown step");
                Err(SpawnError::Step { program: program.clone(), step, errno })
            }
        }
    }

    /// The descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The process id in our pid namespace.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// How the process ended, if it has; reaps it the first time. Does not block.
    ///
    /// # Errors
    /// `ECHILD` if someone else has reaped it.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, Errno> {
        if self.ended.is_none() {
            self.ended = process::try_wait(self.pidfd())?;
        }
        Ok(self.ended)
    }

    /// Sends `SIGKILL`. A process that has ended already is no error.
    ///
    /// # Errors
    /// `EPERM` if the process has become another user's.
    pub fn kill(&self) -> Result<(), Errno> {
        if self.ended.is_some() {
            return Ok(());
        }
        match process::pidfd_send_signal(self.pidfd(), libc::SIGKILL) {
            Err(Errno(libc::ESRCH)) => Ok(()),
            result => result,
        }
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // What cannot be killed must not be waited for either: that might never end.
        if let Err(errno) = self.kill().and_then(|()| process::wait(self.pidfd()).map(drop)) {
            log::warn!("the plugin process {} could not be reaped: {errno}", self.child.pid);
        }
    }
}

/// The inherited environment with `extra` entries in place of those with the same key.
fn environment(extra: &[CString]) -> Vec<CString> {
    let key = |entry: &[u8]| entry.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let replaced: Vec<_> = extra.iter().map(|entry| key(entry.as_bytes())).collect();
    let inherited = std::env::vars_os().filter(|(name, _)| !replaced.contains(&Some(name.as_bytes().to_vec())));
    let inherited = inherited.filter_map(|(name, value)| {
        let entry = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(entry).ok()
    });
    inherited.chain(extra.iter().cloned()).collect()
}

/// Reads the report to its end: nothing if the program was executed, since that closed the pipe.
fn read_report(reader: OwnedFd) -> Result<Option<(usize, Errno)>, Errno> {
    let mut record = Vec::new();
    let read = File::from(reader).take(REPORT_SIZE as u64).read_to_end(&mut record);
    read.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let number = |at: usize| record.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Ok(number(0).zip(number(4)).map(|(index, errno)| (index as usize, Errno(errno as i32))))
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
