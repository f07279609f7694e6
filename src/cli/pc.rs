//! `outboard pc`: this executable runs the VM and, a second time, is its plugin.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;

use super::args::{JailArgs, PcPlugin, RunArgs, WatchArgs};
use super::run;
use super::voice::say_line;
use crate::config;
use crate::machine::IrqChip;
use crate::plugin::Affinity;
use crate::plugin::child::FIRST_FILE;
use crate::sys::terminal;
use outboard_pc::files::Opened;
use outboard_pc::options::Options;
use outboard_wire::spin::SpinMode;

/// The hidden command of the plugin.
pub const EMBEDDED: &str = "embedded-pc";
/// Most processors of a PC.
const MAX_CPUS: i64 = 64;
/// Exit status when something failed that has nothing to do with the VM.
const FAILED: u8 = 1;

/// What `outboard pc` takes.
#[derive(Args)]
#[command(after_help = EXIT_STATUS)]
pub struct PcArgs {
    #[command(flatten)]
    options: Options,

    /// Number of processors.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS))]
    cpus: u32,

    /// CPUs that the vCPU threads may run on: 0,2-3 for all of them, or by vCPU 0=1:1=2-3.
    #[arg(long, value_name = "SET", value_parser = config::affinity)]
    cpu_affinity: Option<Affinity>,

    /// How VMM and plugin wait for each other: auto, off, always, or the longest spin in nanoseconds.
    #[arg(long, value_name = "POLICY", default_value = "auto", value_parser = config::spin)]
    spin: SpinMode,

    #[command(flatten)]
    watch: WatchArgs,

    #[command(flatten)]
    jail: JailArgs,

    /// Print the VMM's end report as one line of JSON on standard output.
    #[arg(long)]
    json: bool,

    /// Say more on standard error: -v the VMM's end report and what happens, -vv also each step.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXIT_STATUS: &str = "In a terminal, Ctrl-A x leaves, and Ctrl-A Ctrl-A is one Ctrl-A for the guest.

Exit status of pc:
  0    the guest switched the machine off, or reset it with --no-reboot, printed what --exit-on waits for, or the user
       left
  1    something failed: a sentence on standard error
  124  the time of --timeout is over
  35, 70 to 74, 129, 130, 143
       as with run
  other odd numbers
       (VALUE << 1) | 1 for a VALUE that the guest wrote to the debug-exit port 0xf4, in 8 bits";

/// What the plugin takes.
#[derive(Args)]
pub struct PluginArgs {
    #[command(flatten)]
    options: Options,

    /// The files lie open, as descriptors from this number on.
    #[arg(long, value_name = "N")]
    files_from: Option<i32>,
}

/// The plugin of a PC with these options.
fn plugin_of(options: &Options) -> Result<PcPlugin, String> {
    let files = options.open_files()?.into_iter().map(|file| Arc::new(file.into())).collect();
    let mut words = vec![OsString::from(EMBEDDED), format!("--files-from={FIRST_FILE}").into()];
    words.extend(options.words());
    let line = |(number, Opened { path, writable }): (i32, Opened)| {
        let name = format!("{} ({})", path.display(), if writable { "writable" } else { "read-only" });
        format!("descriptor {number:<63}{name}\n")
    };
    Ok(PcPlugin { words, files, explained: (FIRST_FILE..).zip(options.files()).map(line).collect() })
}

/// Runs the PC; the exit status.
pub fn main(mut args: PcArgs) -> u8 {
    let plugin = match args.options.make_absolute().and_then(|()| plugin_of(&args.options)) {
        Ok(plugin) => plugin,
        Err(said) => {
            say_line(&format!("pc: {said}"));
            return FAILED;
        }
    };
    let run_args = RunArgs {
        plugin: None,
        params: Vec::new(),
        cpus: args.cpus,
        cpu_affinity: args.cpu_affinity,
        spin: args.spin,
        irqchip: IrqChip::Kernel,
        host_ip: None,
        netmask: None,
        mac: None,
        tap_fd: Vec::new(),
        watch: args.watch,
        jail: args.jail,
        drill: None,
        json: args.json,
        verbose: args.verbose,
        pc: Some(plugin),
    };
    // The plugin puts the terminal back itself, unless it is killed.
    let terminal = terminal::Mode::of_standard_input();
    let status = run::run(&run_args);
    drop(terminal);
    status
}

/// Is the plugin; the exit status.
pub fn plugin(args: &PluginArgs) -> u8 {
    outboard_pc::main(&args.options, args.files_from)
}
