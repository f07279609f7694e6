//! The plugin as a process: started, watched through its pidfd, killed and reaped.
//!
//! The start has two halves. The parent half prepares everything, clones, and reads from a pipe which step of the child
//! failed, if one did. The child half runs a list of named steps and becomes the program; it allocates nothing and
//! leaves by `_exit`. A jail is more steps in that list, and a parent half of its own around the clone.

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::jail::filter::{Filter, Loaded};
use crate::jail::parent::{ParentFault, Prepared, remedy};
use crate::jail::step::ChildStep;
use crate::sys::errno::Errno;
use crate::sys::process::{self, Child, ExecImage, ExitStatus, InChild};
use crate::sys::seccomp::Listener;

/// The number that the first descriptor handed to the plugin gets; standard input, output and error come before it.
pub const FIRST_FD: RawFd = 3;

/// The number of the first file that the plugin finds open: behind its control socket.
pub const FIRST_FILE: RawFd = FIRST_FD + 1;

/// Bytes of the report of a failed step: its index and its error number, each in four bytes of this machine's order.
/// Less than `PIPE_BUF`, so it arrives whole.
const REPORT_SIZE: usize = 8;
/// Added to the index of a step that was left out, because the plugin can do without it.
const LEFT_OUT: u32 = 1 << 31;

/// What to start, and with what.
pub struct SpawnPlan {
    /// The program, by absolute path as the plugin sees it.
    pub program: CString,
    /// Its arguments, beginning with its name.
    pub argv: Vec<CString>,
    /// Its environment, `KEY=value`.
    pub env: Vec<CString>,
    /// Descriptors for the plugin: the first becomes [`FIRST_FD`], and so on. All others beyond standard error are
    /// closed. They stay open here, too, until the plan is dropped.
    pub fds: Vec<OwnedFd>,
    /// The jail, if there is one.
    pub jail: Option<Prepared>,
    /// Further steps, with the default signals already and all descriptors still open under their old numbers.
    pub steps: Vec<Box<dyn ChildStep>>,
    /// The last step before the program: a seccomp filter.
    pub filter: Option<Filter>,
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
    #[error("cannot start the plugin {}: {call} failed: {errno}{remedy}", program.display())]
    Parent {
        /// The path of the program.
        program: PathBuf,
        /// The call.
        call: String,
        /// Its error.
        errno: Errno,
        /// What to do, as the rest of the sentence.
        remedy: String,
    },
    /// A step of the child half failed.
    #[error("cannot start the plugin {}: {step} failed: {errno}{remedy}", program.display())]
    Step {
        /// The path of the program.
        program: PathBuf,
        /// The name of the step.
        step: String,
        /// Its error.
        errno: Errno,
        /// What to do, as the rest of the sentence.
        remedy: String,
        /// Whether the host lacks something, and not the plugin.
        host: bool,
    },
}

impl SpawnError {
    /// Whether this host lacks something, rather than the program.
    pub fn is_host_lack(&self) -> bool {
        match self {
            SpawnError::Program { .. } => false,
            SpawnError::Parent { .. } => true,
            SpawnError::Step { host, .. } => *host,
        }
    }
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

/// What the owner of the program might look at when it cannot be executed.
fn hint(errno: Errno, jail: Option<&Prepared>) -> String {
    let said = match (errno.0, jail) {
        (libc::EACCES, Some(jail)) => return format!("; may user {} execute it?", jail.uid()),
        (libc::EACCES, None) => "; is it executable?",
        (libc::ENOENT, _) => "; is it there, and its interpreter or dynamic linker too?",
        (libc::ENOEXEC, _) => "; is it a program for this machine?",
        _ => "",
    };
    said.to_owned()
}

/// Ends the child with its parent, also if that ended before the request was made.
struct DieWithParent<'a> {
    /// The child's copy of the reading end of the report, where it is still open.
    reader: Option<BorrowedFd<'a>>,
    report: BorrowedFd<'a>,
}

impl ChildStep for DieWithParent<'_> {
    fn name(&self) -> String {
        "PR_SET_PDEATHSIG".to_owned()
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
    fn name(&self) -> String {
        "resetting the signals".to_owned()
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
    fn name(&self) -> String {
        "placing the descriptors".to_owned()
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

/// Becomes the program, under a filter if there is one.
struct Exec<'a> {
    image: &'a ExecImage,
    filter: Option<&'a Filter>,
}

impl ChildStep for Filter {
    fn name(&self) -> String {
        "loading the seccomp filter".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        self.load()
    }

    fn is_host_s(&self) -> bool {
        true
    }
}

impl ChildStep for Exec<'_> {
    fn name(&self) -> String {
        "execve".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        Err(match self.filter {
            Some(filter) => filter.exec(self.image),
            None => self.image.exec(),
        })
    }
}

/// The child half: runs the steps, the last of which is `execve`, and reports the one that fails. Returns the exit
/// status for the case that it does.
fn child_half(child: &InChild, steps: &[&dyn ChildStep], report: BorrowedFd<'_>) -> i32 {
    for (index, step) in (0u32..).zip(steps) {
        if let Err(errno) = step.run(child) {
            let optional = step.is_optional();
            let mut record = [0; REPORT_SIZE];
            record[..4].copy_from_slice(&(index | if optional { LEFT_OUT } else { 0 }).to_ne_bytes());
            record[4..].copy_from_slice(&errno.0.to_ne_bytes());
            // Nobody is left to be told that this failed.
            let _ = process::write_record(report, &record);
            if !optional {
                break;
            }
        }
    }
    127
}

/// A started plugin. Dropping it kills and reaps the process.
pub struct PluginProcess {
    child: Child,
    ended: Option<ExitStatus>,
    listener: Option<Listener>,
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
        PluginProcess::begin(plan)?.finish()
    }

    /// The same without waiting for the child half, which may take a while.
    ///
    /// # Errors
    /// Those of the parent half.
    pub fn begin(plan: &SpawnPlan) -> Result<Starting<'_>, SpawnError> {
        // All sources beyond all targets, so that placing one never overwrites another.
        let free = FIRST_FD + plan.fds.len() as RawFd;
        let above = |fd: &OwnedFd| process::dup_from(fd.as_fd(), free).map_err(plan.failed("fcntl(F_DUPFD)"));
        let sources: Vec<OwnedFd> = plan.fds.iter().map(above).collect::<Result<_, _>>()?;
        let (reader, low_report) = process::pipe().map_err(plan.failed("pipe2"))?;
        let report = above(&low_report)?;
        drop(low_report);
        process::set_default_action(libc::SIGCHLD).map_err(plan.failed("sigaction"))?;

        let image = ExecImage::new(plan.program.clone(), plan.argv.clone(), plan.env.clone());
        let die = DieWithParent { reader: Some(reader.as_fd()), report: report.as_fd() };
        // Once more after the jail: a change of user or group in a step takes the request back (prctl(2)).
        let die_still = DieWithParent { reader: None, report: report.as_fd() };
        let place = PlaceFds { sources: &sources };
        let exec = Exec { image: &image, filter: plan.filter.as_ref() };
        let steps = plan.all_steps([&die, &ResetSignals], [&place, &die_still], &exec);
        let half = |child: &InChild| child_half(child, &steps, report.as_fd());
        let child = match &plan.jail {
            Some(jail) => jail.clone_child(half).map_err(|fault| plan.fault(fault))?,
            None => process::clone_process(0, half).map_err(plan.failed("clone3"))?,
        };
        // From here on the process is reaped on every way out.
        Ok(Starting { plan, process: PluginProcess { child, ended: None, listener: None }, reader })
    }

    /// The descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// What hears of system calls that the plugin's filter does not allow.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
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

impl SpawnPlan {
    /// The list that the child half runs, from what frames every start and what this plan has.
    fn all_steps<'a>(
        &'a self,
        first: [&'a dyn ChildStep; 2],
        then: [&'a dyn ChildStep; 2],
        exec: &'a dyn ChildStep,
    ) -> Vec<&'a dyn ChildStep> {
        let jail = self.jail.iter().flat_map(Prepared::steps);
        let own = self.steps.iter().map(|step| &**step);
        let filter = self.filter.iter().map(|filter| filter as &dyn ChildStep);
        first.into_iter().chain(jail).chain(own).chain(then).chain(filter).chain([exec]).collect()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsStr::from_bytes(self.program.to_bytes()))
    }

    fn failed(&self, call: &str) -> impl FnOnce(Errno) -> SpawnError {
        let fault = call.to_owned();
        move |errno| self.fault(ParentFault { call: fault, errno })
    }

    /// The error for a call of the parent half.
    pub fn fault(&self, ParentFault { call, errno }: ParentFault) -> SpawnError {
        let remedy = if self.jail.is_some() { remedy(&call, errno) } else { String::new() };
        SpawnError::Parent { program: self.path(), call, errno, remedy }
    }

    fn exec_failed(&self, errno: Errno) -> SpawnError {
        let remedy = hint(errno, self.jail.as_ref());
        SpawnError::Step { program: self.path(), step: "execve".to_owned(), errno, remedy, host: false }
    }

    /// The error for a step of the list, by its index.
    fn step_failed(&self, index: usize, errno: Errno) -> SpawnError {
        // Only their names matter here.
        let image = ExecImage::new(CString::default(), Vec::new(), Vec::new());
        let stderr = std::io::stderr();
        let die = DieWithParent { reader: None, report: stderr.as_fd() };
        let (place, exec) = (PlaceFds { sources: &[] }, Exec { image: &image, filter: None });
        let steps = self.all_steps([&die, &ResetSignals], [&place, &die], &exec);
        let last = index + 1 == steps.len();
        let Some(step) = steps.get(index) else {
            return self.fault(ParentFault { call: format!("step {index}"), errno });
        };
        let name = step.name();
        let remedy = match (&self.jail, last) {
            (jail, true) => hint(errno, jail.as_ref()),
            (Some(_), false) => remedy(&name, errno),
            (None, false) => String::new(),
        };
        SpawnError::Step { program: self.path(), step: name, errno, remedy, host: step.is_host_s() }
    }
}

/// A plugin whose child half runs. Dropping it kills and reaps the process.
pub struct Starting<'a> {
    plan: &'a SpawnPlan,
    process: PluginProcess,
    reader: OwnedFd,
}

impl Starting<'_> {
    /// Waits until the program has been executed.
    ///
    /// # Errors
    /// The step that failed; no process is left then.
    pub fn finish(mut self) -> Result<PluginProcess, SpawnError> {
        let reports = read_reports(self.reader).map_err(self.plan.failed("reading the report of the child"))?;
        for (index, errno) in reports {
            if index & LEFT_OUT == 0 {
                return Err(self.plan.step_failed(index as usize, errno));
            }
            let left_out = self.plan.step_failed((index & !LEFT_OUT) as usize, errno);
            if let SpawnError::Step { step, errno, .. } = left_out {
                log::warn!("the plugin's jail does without this: {step} failed: {errno}");
            }
        }
        match self.plan.filter.as_ref().map(Filter::loaded) {
            None => {}
            Some(Ok(Loaded::Executed(listener))) => self.process.listener = listener,
            Some(Ok(Loaded::ExecFailed(errno))) => return Err(self.plan.exec_failed(errno)),
            Some(Err(errno)) => return Err(self.plan.failed("receiving the listener of the seccomp filter")(errno)),
        }
        Ok(self.process)
    }
}

/// `KEY=value` entries; those with a zero byte, which no program can be given, are left out.
pub fn entries(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<CString> {
    let entry = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
    variables.into_iter().filter_map(|pair| CString::new(entry(pair)).ok()).collect()
}

/// Reads the reports to their end: nothing if the program was executed, since that closed the pipe.
fn read_reports(reader: OwnedFd) -> Result<Vec<(u32, Errno)>, Errno> {
    let mut records = Vec::new();
    // A child that lies is no plugin yet; but nothing is read without a bound.
    File::from(reader).take((REPORT_SIZE * 64) as u64).read_to_end(&mut records)?;
    let number =
        |record: &[u8], at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    Ok(records.chunks_exact(REPORT_SIZE).map(|record| (number(record, 0), Errno(number(record, 4) as i32))).collect())
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
