//! The plugin as a process: started, watched through its pidfd, killed and reaped.
//!
//! The start has two halves. The parent half, here, prepares everything, clones, and reads from a pipe which step of the
//! child failed, if one did. The child half ([`child`]) runs a list of named steps and becomes the program. A jail is more
//! steps in that list, and a parent half of its own around the clone.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::child::{self, DieWithParent, Exec, FIRST_FD, PlaceFds, ResetSignals};
use super::program::{self, ProgramFault};
use crate::jail::filter::{Filter, Loaded};
use crate::jail::parent::{ParentFault, Prepared, remedy};
use crate::jail::step::ChildStep;
use crate::sys::errno::Errno;
use crate::sys::exec::ExecImage;
use crate::sys::process::{self, Child, ExitStatus, InChild};
use crate::sys::seccomp::Listener;
use crate::sys::{descriptors, pipe, signal};

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

/// Checks that `path` can be the program of a plugin, see [`program::validate`].
///
/// # Errors
/// [`SpawnError::Program`].
pub fn validate_program(path: &Path) -> Result<CString, SpawnError> {
    program::validate(path).map_err(|fault| SpawnError::Program { program: path.to_path_buf(), fault })
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
        let above = |fd: &OwnedFd| descriptors::dup_from(fd.as_fd(), free).map_err(plan.failed("fcntl(F_DUPFD)"));
        let sources: Vec<OwnedFd> = plan.fds.iter().map(above).collect::<Result<_, _>>()?;
        let (reader, low_report) = pipe::pipe().map_err(plan.failed("pipe2"))?;
        let report = above(&low_report)?;
        drop(low_report);
        signal::set_default_action(libc::SIGCHLD).map_err(plan.failed("sigaction"))?;

        let image = ExecImage::new(plan.program.clone(), plan.argv.clone(), plan.env.clone());
        let die = DieWithParent { reader: Some(reader.as_fd()), report: report.as_fd() };
        // Once more after the jail: a change of user or group in a step takes the request back (prctl(2)).
        let die_still = DieWithParent { reader: None, report: report.as_fd() };
        let place = PlaceFds { sources: &sources };
        let exec = Exec { image: &image, filter: plan.filter.as_ref() };
        let steps = plan.all_steps([&die, &ResetSignals], [&place, &die_still], &exec);
        let half = |child: &InChild| child::run_steps(child, &steps, report.as_fd());
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
        let remedy = program::hint(errno, self.jail.as_ref().map(Prepared::uid));
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
            (jail, true) => program::hint(errno, jail.as_ref().map(Prepared::uid)),
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
        let reports = child::read_reports(self.reader).map_err(self.plan.failed("reading the report of the child"))?;
        for report in reports {
            let failed = self.plan.step_failed(report.step, report.errno);
            if !report.left_out {
                return Err(failed);
            }
            if let SpawnError::Step { step, errno, .. } = failed {
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

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
