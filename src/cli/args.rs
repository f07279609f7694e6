//! What the commands that run a VM take.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::config;
use crate::machine::IrqChip;
use crate::plugin::{Affinity, Drill};
use outboard_wire::limits::MAX_VCPUS;
use outboard_wire::spin::SpinMode;

/// This executable as the plugin of the PC: its command line, and what it finds open. The jail makes it somebody who has no right to files
/// of the user, so that they are opened before.
pub struct PcPlugin {
    /// Words behind the program's name.
    pub words: Vec<OsString>,
    /// The files.
    pub files: Vec<Arc<OwnedFd>>,
    /// What they are, one a line.
    pub explained: String,
}

/// How tools reach the VM.
#[derive(Args, Default)]
pub struct WatchArgs {
    /// A name by which tools find the VM; up to 64 bytes.
    #[arg(long, value_name = "NAME", value_parser = config::name)]
    pub name: Option<String>,

    /// Make a management socket at this path, for outboard stop, pause, resume, status and trace.
    #[arg(short, long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Record everything between guest and plugin in this file, for outboard trace and replay.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Also record what the guest writes to its memory, for plugins that read it. Each exit then takes some 0.1 ms longer.
    #[arg(long, requires = "trace")]
    pub trace_memory: bool,
}

#[derive(Args)]
pub struct RunArgs {
    /// The plugin's executable, an absolute path.
    #[arg(long, value_name = "PATH")]
    pub plugin: Option<PathBuf>,

    /// An argument for the plugin; repeatable.
    #[arg(short = 'p', long, value_name = "ARG", allow_hyphen_values = true)]
    pub params: Vec<OsString>,

    #[command(flatten)]
    pub watch: WatchArgs,

    /// Number of vCPUs.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_VCPUS as i64))]
    pub cpus: u32,

    /// CPUs that the vCPU threads may run on: 0,2-3 for all of them, or by vCPU 0=1:1=2-3.
    #[arg(long, value_name = "SET", value_parser = config::affinity)]
    pub cpu_affinity: Option<Affinity>,

    /// How VMM and plugin wait for each other: auto, off, always, or the longest spin in nanoseconds.
    #[arg(long, value_name = "POLICY", default_value = "auto", value_parser = config::spin)]
    pub spin: SpinMode,

    /// Interrupt controllers that KVM emulates: kernel, all and the timer; split, local APICs only; or none.
    #[arg(long, value_name = "WHICH", default_value = "kernel", value_parser = config::irqchip)]
    pub irqchip: IrqChip,

    /// Make a tap device for the plugin: the host's IPv4 address on it. Takes --netmask and --mac too.
    #[arg(long = "host_ip", value_name = "A")]
    pub host_ip: Option<Ipv4Addr>,

    /// Netmask of --host_ip.
    #[arg(long, value_name = "M", value_parser = config::netmask)]
    pub netmask: Option<Ipv4Addr>,

    /// The host's MAC address on the tap device: six bytes such as 02:00:00:00:00:01.
    #[arg(long, value_name = "X", value_parser = config::mac)]
    pub mac: Option<[u8; 6]>,

    /// Hand a tap device over that this program was started with: the number of its descriptor; repeatable.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub tap_fd: Vec<i32>,

    #[command(flatten)]
    pub jail: JailArgs,

    /// Run this in place of the plugin's guest, for outboard bench --plugin.
    #[arg(long, hide = true, value_name = "PATTERN", value_parser = config::drill)]
    pub drill: Option<Drill>,

    /// Print the end report as one line of JSON on standard output.
    #[arg(long)]
    pub json: bool,

    /// Say more on standard error: -v the end report and what happens, -vv also each step.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// This executable is the plugin of the PC.
    #[arg(skip)]
    pub pc: Option<PcPlugin>,
}

/// The jail of the plugin, and the VMM's own.
#[derive(Args)]
#[command(next_help_heading = "Jail")]
pub struct JailArgs {
    /// Run the plugin with all the rights of the caller, for debugging.
    #[arg(long)]
    pub disable_sandbox: bool,

    /// Print the steps of the jail, and why each is done; start nothing.
    #[arg(long, conflicts_with = "disable_sandbox")]
    pub explain_jail: bool,

    /// The folder that the plugin's empty root is mounted on until it is its root; absolute.
    #[arg(long, value_name = "DIR")]
    pub plugin_root: Option<PathBuf>,

    /// Show a file or folder to the plugin: SRC[:DST[:WRITABLE]], absolute paths, WRITABLE true or false; repeatable.
    #[arg(long, value_name = "SRC[:DST[:WRITABLE]]")]
    pub plugin_mount: Vec<OsString>,

    /// The same from a file, one mount a line; # begins a comment. Repeatable.
    #[arg(long, value_name = "FILE")]
    pub plugin_mount_file: Vec<PathBuf>,

    /// Make the plugin a member of groups: INNER[:OUTER[:COUNT]], their numbers for the plugin and outside; repeatable.
    #[arg(long, value_name = "INNER[:OUTER[:COUNT]]")]
    pub plugin_gid_map: Vec<String>,

    /// The same from a file, one map a line; # begins a comment. Repeatable.
    #[arg(long, value_name = "FILE")]
    pub plugin_gid_map_file: Vec<PathBuf>,

    /// A folder with the plugin's seccomp policy, plugin.policy, or a compiled one, plugin.bpf.
    #[arg(long, value_name = "DIR")]
    pub seccomp_policy_dir: Option<PathBuf>,

    /// Log system calls that the policy does not allow, and let them happen.
    #[arg(long)]
    pub seccomp_log_failures: bool,

    /// Once the VM exists, become this user: a name, or UID[:GID]. The plugin becomes it too, in its own namespaces.
    #[arg(long, value_name = "USER", conflicts_with = "disable_sandbox")]
    pub user: Option<String>,

    /// Run the VMM itself without the seccomp filters of its main thread and its vCPU threads.
    #[arg(long)]
    pub no_vmm_seccomp: bool,

    /// Give the plugin a variable of the environment, by value or as outboard has it; repeatable.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub plugin_env: Vec<OsString>,
}
