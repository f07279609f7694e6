//! What the user asks of a run.

use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::affinity::Affinity;
use crate::jail::plan::Plan;
use crate::jail::vmm::VmmCage;
use crate::machine::IrqChip;
use crate::machine::tap::TapAddress;
use crate::vcpu::drill::Pattern;
use outboard_wire::spin::SpinMode;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The KVM device, `/dev/kvm`.
    pub kvm: PathBuf,
    /// The plugin's executable; absolute.
    pub program: PathBuf,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<CString>,
    /// What tools call the VM.
    pub name: Option<String>,
    /// Number of vCPUs, at least 1.
    pub vcpus: u32,
    /// CPUs that vCPUs may run on; a vCPU that is not named may run on any.
    pub affinity: Affinity,
    /// How both sides wait for each other.
    pub spin: SpinMode,
    /// Which interrupt controllers KVM emulates.
    pub irqchip: IrqChip,
    /// Where to put a management socket in the file system.
    pub socket: Option<PathBuf>,
    /// Where to record a trace of the whole run.
    pub trace: Option<PathBuf>,
    /// The trace holds what the guest writes to its memory.
    pub trace_memory: bool,
    /// What is measured in place of the plugin's guest.
    pub drill: Option<Drill>,
    /// A tap device to make.
    pub tap: Option<TapAddress>,
    /// Numbers of tap devices that this process was started with.
    pub tap_fds: Vec<i32>,
    /// Files that the plugin finds open, as descriptors from [`FIRST_FILE`](super::child::FIRST_FILE) on.
    pub files: Vec<Arc<OwnedFd>>,
    /// The plugin's standard error, where it is not to have this process's own.
    pub stderr: Option<Arc<OwnedFd>>,
    /// The plugin's environment, but for the variables that name its socket.
    pub environment: Vec<(OsString, OsString)>,
    /// What the VMM gives up once the plugin runs.
    pub cage: VmmCage,
    /// The plugin's jail; `None` runs it with all the rights of the caller.
    pub jail: Option<Plan>,
}

/// A guest of the VMM's own in place of the plugin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drill {
    /// What vCPU 0 does.
    pub pattern: Pattern,
    /// The CPU of the plugin; `None` for any.
    pub plugin_cpu: Option<usize>,
}
