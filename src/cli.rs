//! The command line: words in, an exit status out.

mod args;
mod pc;
mod policy;
mod run;
mod voice;

use std::ffi::OsString;
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::floor;
use crate::kvm::System;
use crate::plugin::lifecycle::status;
use args::RunArgs;
use outboard_reach::{ManageArgs, Order};
use outboard_replay::Embedded;
use run::EMBEDDED;

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
            Command::Vm(VmCommand::Run(args)) => run::run(&args),
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
