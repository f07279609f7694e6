//! The parent half: what has to be done around the clone, by a process that is not in the jail.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::hints::{self, Sysctls};
use super::ids::{self, Ids};
use super::plan::{CLONED, Plan};
use super::step::{Bench, ChildStep, JailStep};
use crate::sys::pipe;
use crate::sys::process::Child;
use crate::sys::{Errno, creds, process};

/// How long a process that is being killed may take to have ended, in milliseconds: its files in /proc are out of reach a
/// moment before.
const LAST_MOMENT_MS: i32 = 50;

/// A jail of which everything is prepared but the clone.
pub struct Prepared {
    ids: Ids,
    gate: OwnedFd,
    steps: Vec<JailStep>,
}

/// A call of the parent half that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentFault {
    /// The call and its object.
    pub call: String,
    /// Its error.
    pub errno: Errno,
}

impl ParentFault {
    fn of(call: impl Into<String>) -> impl FnOnce(Errno) -> ParentFault {
        let call = call.into();
        move |errno| ParentFault { call, errno }
    }
}

impl Prepared {
    /// Prepares what the child must not allocate.
    ///
    /// # Errors
    /// The call that failed.
    pub fn new(plan: &Plan) -> Result<Prepared, ParentFault> {
        let (reader, gate) = pipe::pipe().map_err(ParentFault::of("pipe2"))?;
        let bench = Rc::new(Bench::new(plan.slots, reader));
        let steps = plan.steps.iter().map(|step| JailStep { step: step.clone(), bench: Rc::clone(&bench) }).collect();
        Ok(Prepared { ids: plan.ids.clone(), gate, steps })
    }

    /// The plugin's user, by its id outside.
    pub fn uid(&self) -> u32 {
        self.ids.uid_map.first().map_or(self.ids.uid, |map| map.outer)
    }

    /// What the child does.
    pub fn steps(&self) -> impl Iterator<Item = &dyn ChildStep> {
        self.steps.iter().map(|step| step as &dyn ChildStep)
    }

    /// Clones the child, writes its id maps and lets it go on.
    ///
    /// # Errors
    /// The call that failed; the child, if there is one, has ended then or is about to.
    pub fn clone_child(&self, half: impl FnOnce(&process::InChild) -> i32) -> Result<Child, ParentFault> {
        // The child inherits the groups of the thread that clones it, and may never change them.
        let before = match &self.ids.groups {
            Some(groups) => Some(exchange_groups(groups)?),
            None => None,
        };
        let cloned = process::clone_process(CLONED, half).map_err(ParentFault::of("clone3"));
        let restored = before.map_or(Ok(()), |before| creds::set_groups(&before).map_err(ParentFault::of("setgroups")));
        let child = cloned?;
        match restored.and_then(|()| self.let_go(child.pid)) {
            Ok(()) => Ok(child),
            // Somebody has killed it: that is how the plugin ended, and no fault of this half.
            Err(_) if pipe::readable_within(child.pidfd.as_fd(), LAST_MOMENT_MS) == Ok(true) => Ok(child),
            Err(fault) => {
                let pidfd = child.pidfd.as_fd();
                let _ = process::pidfd_send_signal(pidfd, libc::SIGKILL).and_then(|()| process::wait(pidfd).map(drop));
                Err(fault)
            }
        }
    }

    fn let_go(&self, pid: i32) -> Result<(), ParentFault> {
        let write = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            let opened = File::options().write(true).open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            opened.map_err(|error| ParentFault::of(format!("writing `{}` to {path}", text.trim_end()))(error.into()))
        };
        write("uid_map", &ids::text(&self.ids.uid_map))?;
        write("setgroups", "deny")?;
        write("gid_map", &ids::text(&self.ids.gid_map))?;
        pipe::write_record(self.gate.as_fd(), &[1]).map_err(ParentFault::of("write to the child's gate"))
    }
}

/// Sets the groups of this thread, and returns those it had.
fn exchange_groups(groups: &[u32]) -> Result<Vec<u32>, ParentFault> {
    let before = creds::groups().map_err(ParentFault::of("getgroups"))?;
    creds::set_groups(groups).map_err(ParentFault::of("setgroups"))?;
    Ok(before)
}

/// What may be done about a call of either half that was refused: the rest of a sentence, or nothing.
pub fn remedy(call: &str, errno: Errno) -> String {
    hints::remedy(call, errno, &Sysctls::read())
}
