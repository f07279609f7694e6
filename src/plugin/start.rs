//! What the plugin's process is started with: program, environment, control socket, jail and filter.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::child::FIRST_FD;
use super::process::{self, PluginProcess, SpawnPlan, Starting};
use super::program;
use super::settings::Settings;
use super::setup::StartError;
use crate::jail::filter::Filter;
use crate::jail::parent::Prepared;
use crate::jail::step::ChildStep;
use crate::sys::descriptors;
use crate::sys::process::InChild;
use crate::sys::rlimit::{self, OpenFiles};
use crate::sys::{Errno, affinity};
use outboard_wire::socket;

/// Gives the plugin the limit of open files that the user had: this process raises its own, because every object of the
/// plugin costs it descriptors, and programs that use select(2) cannot deal with numbers over 1023.
pub(super) struct RestoreOpenFiles(OpenFiles);

impl ChildStep for RestoreOpenFiles {
    fn name(&self) -> String {
        "setrlimit(RLIMIT_NOFILE)".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        rlimit::set_open_files(self.0)
    }
}

/// Gives the plugin another standard error than this process has.
struct GiveStderr(Arc<OwnedFd>);

impl ChildStep for GiveStderr {
    fn name(&self) -> String {
        "placing standard error".to_owned()
    }

    fn run(&self, child: &InChild) -> Result<(), Errno> {
        descriptors::place_fd(child, self.0.as_fd(), libc::STDERR_FILENO)
    }
}

/// Begins to start the plugin, on the CPU that it shall have.
///
/// # Errors
/// What fails.
pub(super) fn begin<'a>(plan: &'a SpawnPlan, settings: &Settings) -> Result<Starting<'a>, StartError> {
    let Some(cpu) = settings.drill.and_then(|drill| drill.plugin_cpu) else {
        return PluginProcess::begin(plan).map_err(StartError::Spawn);
    };
    let own = affinity::allowed().map_err(StartError::call("sched_getaffinity"))?;
    affinity::allow(&[cpu]).map_err(StartError::call("sched_setaffinity"))?;
    let begun = PluginProcess::begin(plan).map_err(StartError::Spawn);
    affinity::allow(&own).map_err(StartError::call("sched_setaffinity"))?;
    begun
}

/// Raises the limit of open files as far as it goes; returns what gives the plugin the former one.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub(super) fn raise_open_files() -> Result<RestoreOpenFiles, Errno> {
    let before = rlimit::open_files()?;
    rlimit::set_open_files(OpenFiles { soft: before.hard, ..before })?;
    Ok(RestoreOpenFiles(before))
}

/// What the plugin's process is started with, and the VMM's end of its control socket.
///
/// # Errors
/// What cannot be prepared.
pub(super) fn spawn_plan(
    settings: &Settings,
    open_files: RestoreOpenFiles,
) -> Result<(SpawnPlan, OwnedFd), StartError> {
    let program = process::validate_program(&settings.program).map_err(StartError::Spawn)?;
    let (ours, theirs) = socket::pair().map_err(|error| StartError::call("socketpair")(error.into()))?;
    let sockets = ["OUTBOARD_SOCKET", "CROSVM_SOCKET"];
    let others = settings.environment.iter().filter(|(name, _)| !sockets.iter().any(|socket| name == *socket));
    let number = |name| (OsString::from(name), OsString::from(FIRST_FD.to_string()));
    let files = settings.files.iter().map(|file| file.try_clone());
    let fds = std::iter::once(Ok(theirs)).chain(files).collect::<Result<_, _>>();
    let mut plan = SpawnPlan {
        program,
        argv: settings.argv.clone(),
        env: program::entries(others.cloned().chain(sockets.map(number))),
        fds: fds.map_err(|error| StartError::call("fcntl(F_DUPFD_CLOEXEC)")(error.into()))?,
        jail: None,
        steps: Vec::new(),
        filter: None,
    };
    match &settings.jail {
        Some(jail) => {
            plan.program = CString::new(jail.program.as_os_str().as_bytes())
                .map_err(|_| StartError::call("planning the jail")(Errno::EINVAL))?;
            plan.jail = Some(Prepared::new(jail).map_err(|fault| StartError::Spawn(plan.fault(fault)))?);
            let beyond = FIRST_FD + plan.fds.len() as i32;
            let filter =
                Filter::new(&jail.filter.program, beyond).map_err(StartError::call("preparing the seccomp filter"))?;
            plan.filter = Some(filter);
        }
        None => plan.steps.push(Box::new(open_files)),
    }
    if let Some(stderr) = &settings.stderr {
        plan.steps.push(Box::new(GiveStderr(Arc::clone(stderr))));
    }
    Ok((plan, ours))
}
