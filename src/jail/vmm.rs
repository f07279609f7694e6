//! The VMM's own cage: what it gives up once the VM exists and the plugin runs.
//!
//! Credentials belong to threads. [`enter`] is called while the process has one thread; those that it starts later inherit
//! what is left.

use std::fmt;
use std::sync::Arc;

use super::bpf::Instruction;
use super::ids::User;
use super::own::OwnFilters;
use super::parent::ParentFault;
use crate::sys::{Errno, creds};

/// What the VMM gives up. Capabilities always go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmmCage {
    /// The user that it becomes.
    pub user: Option<User>,
    /// Whether it goes without filters of its own.
    pub unfiltered: bool,
}

/// Gives it up, for good.
///
/// The plugin can still be killed afterwards: without capabilities the VMM is the owner of the plugin's user namespace, and
/// as another user it has the plugin's user id. The kernel applies the same rules to the signal of `PR_SET_PDEATHSIG`.
///
/// Gives the filter that vCPU threads are to load.
///
/// # Errors
/// The call that failed.
pub fn enter(cage: VmmCage) -> Result<Option<Arc<[Instruction]>>, ParentFault> {
    let fault = |call: &str, errno| ParentFault { call: call.to_owned(), errno };
    creds::set_no_new_privileges().map_err(|errno| fault("PR_SET_NO_NEW_PRIVS", errno))?;
    for (call, result) in
        [("PR_CAPBSET_DROP", creds::drop_bounding_set()), ("PR_SET_SECUREBITS", creds::lock_secure_bits())]
    {
        match result {
            // A user without capabilities cannot give up what it might get, and with PR_SET_NO_NEW_PRIVS gets nothing.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(fault(call, errno)),
        }
    }
    if let Some(User { uid, gid }) = cage.user {
        creds::set_groups(&[]).map_err(|errno| fault("setgroups", errno))?;
        creds::set_gid(gid).map_err(|errno| fault("setresgid", errno))?;
        creds::set_uid(uid).map_err(|errno| fault("setresuid", errno))?;
    }
    creds::drop_capabilities().map_err(|errno| fault("capset", errno))?;
    if cage.unfiltered {
        return Ok(None);
    }
    let filters = OwnFilters::new();
    filters.confine_main().map_err(|errno| fault("seccomp", errno))?;
    Ok(Some(filters.vcpu()))
}

impl fmt::Display for VmmCage {
    /// One line per step, as the plan of the plugin's jail has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, why: &str| writeln!(f, "{what:<72}  {why}");
        line("the VMM: PR_SET_NO_NEW_PRIVS", "once the VM exists and the plugin runs")?;
        line("the VMM: emptying the bounding set, locking the secure bits", "nothing can be had again")?;
        if let Some(User { uid, gid }) = self.user {
            let ids = format!("the VMM: setgroups([]), setresgid({gid}), setresuid({uid})");
            line(&ids, "--user asks for it; the plugin has the same user, or could not be killed")?;
        }
        line("the VMM: dropping all capabilities", "the descriptors of the VM are all that it needs")?;
        match self.unfiltered {
            true => Ok(()),
            false => {
                line("the VMM: seccomp filters of the main thread and of vCPU threads", "without --no-vmm-seccomp")
            }
        }
    }
}
