//! The command line: words in, an exit status out.

mod pc;
mod policy;
mod voice;

use std::ffi::{CString, OsString};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::floor;
use crate::jail::ids::User;
use crate::jail::plan::{Plan, PlanError, Request};
use crate::jail::vmm::VmmCage;
use crate::jail::{choice, environment};
use crate::kvm::System;
use crate::machine::IrqChip;
use crate::machine::tap::TapError;
use crate::plugin::lifecycle::status;
use crate::plugin::process::validate_program;
use crate::plugin::{self, Affinity, Drill, Report, Settings, SocketError, StartError};
use crate::report::{self, Floors};
use outboard_reach::{ManageArgs, Order};
use outboard_replay::Embedded;
use outboard_wire::limits::MAX_VCPUS;
use outboard_wire::spin::SpinMode;

/// The hidden command with which the executable starts itself as the plugin of the embedded machine.
const EMBEDDED: &str = "embedded-machine";

/// The hidden command with which the executable starts itself as the plugin of a row of the bench.
const BENCH_PLUGIN: &str = "bench-plugin";

/// Runs a KVM virtual machine whose hardware is another process, the plugin.
#[derive(Parser)]
#[command(name = "outboard", version, about, long_about = None, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The same with nothing but the commands that run a VM: a VMM has no use for the tools' options, which take time and stay
/// in memory.
#[derive(Parser)]
#[command(name = "outboard", version, about, long_about = None, after_help = EXIT_STATUS)]
struct VmCli {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Subcommand)]
enum VmCommand {
    /// Run a plugin and its guest; without --plugin a small machine of its own, with a table of what its exits cost.
    Run(Box<RunArgs>),
    /// Run a PC from firmware or a kernel, with its devices in another process.
    Pc(Box<pc::PcArgs>),
    /// Be the plugin of the embedded machine.
    #[command(name = EMBEDDED, hide = true)]
    Embedded,
    /// Be the plugin of the PC.
    #[command(name = pc::EMBEDDED, hide = true)]
    EmbeddedPc(Box<pc::PluginArgs>),
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Vm(VmCommand),
    Stat(outboard_stat::StatArgs),
    Bench(outboard_bench::BenchArgs),
    /// Be the plugin of a row of the bench.
    #[command(name = BENCH_PLUGIN, hide = true)]
    BenchPlugin {
        /// The row, a number and a CPU.
        words: Vec<String>,
    },
    Replay(outboard_replay::ReplayArgs),
    Trace(outboard_trace::TraceArgs),
    /// End a running VM as SIGTERM does, and wait until it has ended.
    Stop(ManageArgs),
    /// Let a guest stand still; its plugin is not told.
    Pause(ManageArgs),
    /// Let it go on.
    Resume(ManageArgs),
    /// Say how a running VM is.
    Status(ManageArgs),
    /// Check, compile and show seccomp policies of plugins.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

const EXIT_STATUS: &str = "Exit status of run:
  the plugin's own  it ended by itself, whatever the guest did before
  1    the plugin died of a signal, made a system call that its policy does not allow, outstayed its second after the
       shutdown event, or could not be executed
  35   wrong arguments
  70   a system call failed that should not
  71   this host lacks something: /dev/kvm, a permission, io_uring, user namespaces
  73   the plugin broke the protocol
  74   the guest ended in an exit that nobody serves
  129, 130, 143
       ended by SIGHUP, SIGINT or SIGTERM, and the plugin did not end with status 0 within its second";

/// How tools reach the VM.
#[derive(Args, Default)]
struct WatchArgs {
    /// A name by which tools find the VM; up to 64 bytes.
    #[arg(long, value_name = "NAME", value_parser = config::name)]
    name: Option<String>,

    /// Make a management socket at this path, for outboard stop, pause, resume, status and trace.
    #[arg(short, long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Record everything between guest and plugin in this file, for outboard trace and replay.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Also record what the guest writes to its memory, for plugins that read it. Each exit then takes some 0.1 ms longer.
    #[arg(long, requires = "trace")]
    trace_memory: bool,
}

#[derive(Args)]
struct RunArgs {
    /// The plugin's executable, an absolute path.
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,

    /// An argument for the plugin; repeatable.
    #[arg(short = 'p', long, value_name = "ARG", allow_hyphen_values = true)]
    params: Vec<OsString>,

    #[command(flatten)]
    watch: WatchArgs,

    /// Number of vCPUs.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_VCPUS as i64))]
    cpus: u32,

    /// CPUs that the vCPU threads may run on: 0,2-3 for all of them, or by vCPU 0=1:1=2-3.
    #[arg(long, value_name = "SET", value_parser = config::affinity)]
    cpu_affinity: Option<Affinity>,

    /// How VMM and plugin wait for each other: auto, off, always, or the longest spin in nanoseconds.
    #[arg(long, value_name = "POLICY", default_value = "auto", value_parser = config::spin)]
    spin: SpinMode,

    /// Interrupt controllers that KVM emulates: kernel, all and the timer; split, local APICs only; or none.
    #[arg(long, value_name = "WHICH", default_value = "kernel", value_parser = config::irqchip)]
    irqchip: IrqChip,

    /// Make a tap device for the plugin: the host's IPv4 address on it. Takes --netmask and --mac too.
    #[arg(long = "host_ip", value_name = "A")]
    host_ip: Option<Ipv4Addr>,

    /// Netmask of --host_ip.
    #[arg(long, value_name = "M", value_parser = config::netmask)]
    netmask: Option<Ipv4Addr>,

    /// The host's MAC address on the tap device: six bytes such as 02:00:00:00:00:01.
    #[arg(long, value_name = "X", value_parser = config::mac)]
    mac: Option<[u8; 6]>,

    /// Hand a tap device over that this program was started with: the number of its descriptor; repeatable.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    tap_fd: Vec<i32>,

    #[command(flatten)]
    jail: JailArgs,

    /// Run this in place of the plugin's guest, for outboard bench --plugin.
    #[arg(long, hide = true, value_name = "PATTERN", value_parser = config::drill)]
    drill: Option<Drill>,

    /// Print the end report as one line of JSON on standard output.
    #[arg(long)]
    json: bool,

    /// Say more on standard error: -v the end report and what happens, -vv also each step.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// This executable is the plugin of the PC.
    #[arg(skip)]
    pc: Option<pc::Plugin>,
}

/// The jail of the plugin, and the VMM's own.
#[derive(Args)]
#[command(next_help_heading = "Jail")]
struct JailArgs {
    /// Run the plugin with all the rights of the caller, for debugging.
    #[arg(long)]
    disable_sandbox: bool,

    /// Print the steps of the jail, and why each is done; start nothing.
    #[arg(long, conflicts_with = "disable_sandbox")]
    explain_jail: bool,

    /// The folder that the plugin's empty root is mounted on until it is its root; absolute.
    #[arg(long, value_name = "DIR")]
    plugin_root: Option<PathBuf>,

    /// Show a file or folder to the plugin: SRC[:DST[:WRITABLE]], absolute paths, WRITABLE true or false; repeatable.
    #[arg(long, value_name = "SRC[:DST[:WRITABLE]]")]
    plugin_mount: Vec<OsString>,

    /// The same from a file, one mount a line; # begins a comment. Repeatable.
    #[arg(long, value_name = "FILE")]
    plugin_mount_file: Vec<PathBuf>,

    /// Make the plugin a member of groups: INNER[:OUTER[:COUNT]], their numbers for the plugin and outside; repeatable.
    #[arg(long, value_name = "INNER[:OUTER[:COUNT]]")]
    plugin_gid_map: Vec<String>,

    /// The same from a file, one map a line; # begins a comment. Repeatable.
    #[arg(long, value_name = "FILE")]
    plugin_gid_map_file: Vec<PathBuf>,

    /// A folder with the plugin's seccomp policy, plugin.policy, or a compiled one, plugin.bpf.
    #[arg(long, value_name = "DIR")]
    seccomp_policy_dir: Option<PathBuf>,

    /// Log system calls that the policy does not allow, and let them happen.
    #[arg(long)]
    seccomp_log_failures: bool,

    /// Once the VM exists, become this user: a name, or UID[:GID]. The plugin becomes it too, in its own namespaces.
    #[arg(long, value_name = "USER", conflicts_with = "disable_sandbox")]
    user: Option<String>,

    /// Run the VMM itself without the seccomp filters of its main thread and its vCPU threads.
    #[arg(long)]
    no_vmm_seccomp: bool,

    /// Give the plugin a variable of the environment, by value or as outboard has it; repeatable.
    #[arg(long, value_name = "NAME[=VALUE]")]
    plugin_env: Vec<OsString>,
}

/// Carries the command line out; returns the exit status.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.collect();
    let runs_vm = words.get(1).is_some_and(|word| VmCommand::has_subcommand(&word.to_string_lossy()));
    let parsed = match runs_vm {
        true => VmCli::try_parse_from(words).map(|cli| Command::Vm(cli.command)),
        false => Cli::try_parse_from(words).map(|cli| cli.command),
    };
    match parsed {
        Ok(command) => command.carry_out(),
        Err(error) => {
            // Clap knows that help goes to standard output and errors to standard error.
            let _ = error.print();
            if error.use_stderr() { status::USAGE } else { 0 }
        }
    }
}

impl Command {
    fn carry_out(self) -> u8 {
        match self {
            Command::Vm(VmCommand::Run(args)) => run(&args),
            Command::Vm(VmCommand::Pc(args)) => pc::main(*args),
            Command::Vm(VmCommand::Embedded) => outboard_demo::main(),
            Command::Vm(VmCommand::EmbeddedPc(args)) => pc::plugin(&args),
            Command::Stat(args) => outboard_stat::main(&args),
            Command::Stop(args) => outboard_reach::main(Order::Stop, &args),
            Command::Pause(args) => outboard_reach::main(Order::Pause, &args),
            Command::Resume(args) => outboard_reach::main(Order::Resume, &args),
            Command::Status(args) => outboard_reach::main(Order::Status, &args),
            Command::Trace(args) => outboard_trace::main(&args),
            Command::Replay(args) => {
                let embedded = Embedded { program: "/proc/self/exe".into(), machine: EMBEDDED, pc: pc::EMBEDDED };
                outboard_replay::main(&args, &embedded)
            }
            Command::Bench(args) => bench(&args),
            Command::BenchPlugin { words } => outboard_bench::plugin::main(&words),
            Command::Policy(command) => policy::main(&command),
        }
    }
}

fn bench(args: &outboard_bench::BenchArgs) -> u8 {
    let floor = |instruction: &[u8], rounds| {
        let system = System::open(Path::new("/dev/kvm")).map_err(|error| error.to_string())?;
        let ticks = floor::periods(&system, instruction, rounds).map_err(|error| error.to_string())?;
        ticks.ok_or_else(|| "KVM handed out something else".to_owned())
    };
    outboard_bench::main(args, &outboard_bench::Around { plugin_command: BENCH_PLUGIN.into(), floor: &floor })
}

fn run(args: &RunArgs) -> u8 {
    let stderr = voice::open();
    start_log(args.verbose);
    let settings = match settings(args).map(|settings| Settings { stderr: stderr.map(Arc::new), ..settings }) {
        Ok(settings) => settings,
        Err(refused) => {
            say(&refused.said);
            return refused.status;
        }
    };
    if args.jail.explain_jail {
        let jail = settings.jail.as_ref().map(|jail| jail.to_string()).unwrap_or_default();
        let files = args.pc.as_ref().map(pc::Plugin::explain).unwrap_or_default();
        let _ = write!(std::io::stdout(), "{jail}{files}{}", settings.cage);
        return 0;
    }
    match &settings.jail {
        None => say("warning: the plugin runs without a jail, with all your rights (--disable-sandbox)"),
        Some(jail) => warn_of(jail),
    }
    match plugin::run(&settings) {
        Ok(report) => finish(args, &report),
        Err(error) => {
            say(&error.to_string());
            exit_status(&error)
        }
    }
}

fn warn_of(jail: &Plan) {
    jail.filter.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    for name in &jail.missing {
        let name = name.display();
        say(&format!("warning: the plugin needs the library {name}, which is not found; give it by --plugin-mount"));
    }
}

/// Prints what the user wants to know of a run.
fn finish(args: &RunArgs, report: &Report) -> u8 {
    let status = report.outcome.exit_status();
    let embedded = args.plugin.is_none() && args.pc.is_none();
    // The PC has said itself why it ended, if it could.
    let told = args.pc.is_some() && report.outcome.is_plugins_own();
    if (status != 0 && !told) || args.verbose > 0 {
        say(&report.outcome.to_string());
    }
    let wanted = args.json || args.verbose > 0 || (embedded && status == 0);
    let floors = if wanted { Floors::measure(report) } else { Floors::default() };
    // A reader that went away, such as `head`, is no failure of the run.
    if args.json {
        let _ = writeln!(std::io::stdout(), "{}", report::json(report, &floors, args.drill.is_some()));
    } else if wanted && embedded {
        let _ = write!(std::io::stdout(), "\n{}", report::table(report, &floors));
    } else if wanted {
        voice::say(&report::table(report, &floors));
    }
    status
}

/// A command line that is not carried out.
struct Refused {
    said: String,
    status: u8,
}

impl From<String> for Refused {
    fn from(said: String) -> Refused {
        Refused { said, status: status::USAGE }
    }
}

impl From<PlanError> for Refused {
    fn from(error: PlanError) -> Refused {
        let lacks = error.is_lack();
        Refused { said: error.to_string(), status: if lacks { status::HOST } else { status::USAGE } }
    }
}

fn settings(args: &RunArgs) -> Result<Settings, Refused> {
    let (program, mut argv) = match &args.plugin {
        Some(path) => {
            validate_program(path).map_err(|error| error.to_string())?;
            (path.clone(), vec![c_string(path.as_os_str().as_bytes())?])
        }
        None if args.pc.is_some() => (PathBuf::from("/proc/self/exe"), vec![c"outboard".into()]),
        None if args.params.is_empty() => {
            (PathBuf::from("/proc/self/exe"), vec![c"outboard".into(), c_string(EMBEDDED.as_bytes())?])
        }
        None => return Err("--params are arguments of the plugin: name one with --plugin".to_owned().into()),
    };
    for param in args.pc.iter().flat_map(|pc| &pc.words).chain(&args.params) {
        argv.push(c_string(param.as_bytes())?);
    }
    let own: Vec<_> = std::env::vars_os().collect();
    let wanted = args.jail.plugin_env.iter().map(|word| config::jail::variable(word)).collect::<Result<Vec<_>, _>>()?;
    // What the jail is given is checked also when it is not used.
    let user = args.jail.user.as_deref().map(config::jail::user).transpose()?;
    let cage = VmmCage { user, unfiltered: args.jail.no_vmm_seccomp };
    let jail = plan(args, &program, cage.user)?;
    let (jail, environment) = match args.jail.disable_sandbox {
        true => (None, environment::uncaged(&own, &wanted)),
        false => (Some(jail), environment::caged(&own, &wanted)),
    };
    Ok(Settings {
        kvm: Path::new("/dev/kvm").to_owned(),
        program,
        argv,
        name: args.watch.name.clone(),
        vcpus: args.cpus,
        affinity: args.cpu_affinity.clone().unwrap_or_default(),
        spin: args.spin,
        irqchip: args.irqchip,
        trace: args.watch.trace.clone(),
        stderr: None,
        trace_memory: args.watch.trace_memory,
        socket: args.watch.socket.clone(),
        drill: args.drill,
        tap: config::tap(args.host_ip, args.netmask, args.mac)?,
        tap_fds: args.tap_fd.clone(),
        files: args.pc.as_ref().map(|pc| pc.files.clone()).unwrap_or_default(),
        environment,
        cage,
        jail,
    })
}

/// The jail that the words ask for.
fn plan(args: &RunArgs, program: &Path, user: Option<User>) -> Result<Plan, Refused> {
    let JailArgs { plugin_root, plugin_mount, plugin_mount_file, plugin_gid_map, plugin_gid_map_file, .. } = &args.jail;
    let request = Request {
        root: plugin_root.clone(),
        mounts: config::jail::mounts(plugin_mount, plugin_mount_file)?,
        gid_maps: config::jail::gid_maps(plugin_gid_map, plugin_gid_map_file)?,
        user,
        vcpus: args.cpus,
    };
    let filter = choice::choose(args.jail.seccomp_policy_dir.as_deref(), args.jail.seccomp_log_failures);
    Ok(Plan::of_host(&request, filter.map_err(|error| error.to_string())?, program)?)
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "an argument holds a zero byte".to_owned())
}

fn exit_status(error: &StartError) -> u8 {
    match error {
        StartError::Kvm(_) | StartError::KvmCall(_) => status::HOST,
        StartError::Events(error) if error.is_host_lack() => status::HOST,
        StartError::TooManyVcpus { .. } | StartError::Tap(TapError::NotOpen(_) | TapError::NotTap(_)) => status::USAGE,
        StartError::Tap(_) => status::HOST,
        StartError::Spawn(error) if error.is_host_lack() => status::HOST,
        StartError::Spawn(_) => status::PLUGIN_FAILED,
        StartError::Trace(_) | StartError::Socket(SocketError::Make(..)) => status::HOST,
        StartError::Socket(_) => status::USAGE,
        StartError::Events(_) | StartError::Cage(_) | StartError::Call { .. } => status::INTERNAL,
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .target(env_logger::Target::Pipe(Box::new(voice::Log)))
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Warn => "warning".to_owned(),
                level => level.as_str().to_lowercase(),
            };
            writeln!(out, "outboard: {level}: {}", record.args())
        })
        .init();
}

/// Says a line in one piece: the plugin writes to the same standard error.
fn say(what: &str) {
    voice::say(&format!("outboard: {what}\n"));
}
