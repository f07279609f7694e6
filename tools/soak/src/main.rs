//! Endurance: a VM under mixed load for as long as one likes, and whether memory, descriptors and threads of the VMM and
//! its plugin stay flat. `tools/ci soak` builds and runs it.
//!
//! The load comes from three sides. The guest leaves by every kind of exit, without a pause. The plugin, [`load`], lets
//! memory slots, doorbells, irq events, ranges, routes, connections and threads come and go, and stops the vCPUs. And from
//! outside traces are attached and detached, `outboard stat` looks, the VM is paused and resumed, and whole other VMs are
//! started and ended beside it.

mod guest;
mod load;
mod outside;
mod sample;
mod table;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use outside::Outside;
use sample::{Sample, Series};

/// Word that makes this program the plugin.
const PLUGIN: &str = "plugin";
/// How long the plugin's counters may stand still.
const PATIENCE: Duration = Duration::from_secs(120);

/// Run a VM under mixed load and say whether memory, descriptors and threads stay flat.
#[derive(Parser, Debug)]
struct Args {
    /// How long
    #[arg(long, default_value_t = 60.0, value_name = "N")]
    minutes: f64,
    /// The program under test
    #[arg(long, default_value = "target/release/outboard", value_name = "PATH")]
    outboard: PathBuf,
    /// Write each look as a line of comma-separated values
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Milliseconds between two looks
    #[arg(long, default_value_t = 50, value_name = "MS")]
    interval: u64,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(PLUGIN) {
        return match load::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("soak: the plugin: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match soak(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The VM of the hour, and the last that its plugin said.
struct Machine {
    child: Child,
    name: String,
    plugin: u32,
    said: Arc<Mutex<Said>>,
}

/// The last line of the plugin, and when it last differed from the one before.
struct Said {
    line: String,
    when: Instant,
}

impl Machine {
    /// Starts it, and waits until the plugin counts.
    fn start(args: &Args) -> Result<Machine, String> {
        let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let name = format!("soak-{}", std::process::id());
        let mut command = Command::new(&args.outboard);
        command.args(["run", "-v", "--cpus", "2", "--irqchip", "split", "--name", &name]);
        command.arg("--plugin").arg(this).args(["-p", PLUGIN]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("cannot start {}: {error}", args.outboard.display()))?;
        let lines = BufReader::new(child.stdout.take().ok_or("the VMM has no standard output")?).lines();
        let said = Arc::new(Mutex::new(Said { line: String::new(), when: Instant::now() }));
        let (started, starts) = mpsc::channel();
        thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in lines.map_while(Result::ok) {
                    let mut said = lock(&said);
                    if said.line != line {
                        *said = Said { line, when: Instant::now() };
                    }
                    // Only the first one is awaited.
                    let _ = started.send(());
                }
            }
        });
        let mut machine = Machine { child, name, plugin: 0, said };
        starts.recv_timeout(PATIENCE).map_err(|_| machine.give_up("the plugin said nothing"))?;
        let children = format!("/proc/{0}/task/{0}/children", machine.child.id());
        let text = std::fs::read_to_string(&children).map_err(|error| format!("cannot read {children}: {error}"))?;
        machine.plugin = text.trim().parse().map_err(|_| format!("the VMM has the children {text:?}"))?;
        Ok(machine)
    }

    /// Ends it at once.
    fn give_up(&mut self, why: &str) -> String {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("{why}; the VMM ended with {status}")
    }

    /// Ends it as a user does.
    fn stop(mut self, args: &Args) -> Result<String, String> {
        outside::succeed(Command::new(&args.outboard).args(["stop", &self.name]))
            .map_err(|error| self.give_up(&error))?;
        let status = self.child.wait().map_err(|error| format!("cannot wait for the VMM: {error}"))?;
        let line = lock(&self.said).line.clone();
        if status.success() { Ok(line) } else { Err(format!("the VMM ended with {status}")) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the whole of it; true if all was flat.
fn soak(args: &Args) -> Result<bool, String> {
    let before = sample::mounts();
    let mut machine = Machine::start(args)?;
    let outside = Outside::new(&args.outboard, &machine.name);
    let looked = thread::scope(|scope| {
        scope.spawn(|| outside.attach());
        scope.spawn(|| outside.watch());
        scope.spawn(|| outside.start_others());
        let looked = look(args, &mut machine, &outside);
        outside.over.store(true, Ordering::Relaxed);
        looked
    });
    let series = looked.map_err(|error| machine.give_up(&error))?;
    let counts = machine.stop(args)?;
    println!("{} minutes; the plugin's {counts}", args.minutes);
    println!("from outside: {}", outside.counts());
    // Whoever else works on this host mounts, too; then the name says that it was not one of these VMs.
    for mount in sample::mounts().iter().filter(|mount| !before.contains(mount)) {
        println!("mounted meanwhile: {mount}");
    }
    Ok(table::print(&series))
}

/// Looks at both processes until the time is up.
fn look(args: &Args, machine: &mut Machine, outside: &Outside) -> Result<Vec<Series>, String> {
    let series = |name, tolerance| Series { name, tolerance, values: Vec::new() };
    let mut all = vec![
        // The counters' histograms are files in memory whose pages come when a latency is seen for the first time.
        series("VMM: resident KiB", 256),
        series("VMM: anonymous KiB", 64),
        series("VMM: descriptors", 0),
        series("VMM: threads", 0),
        series("plugin: resident KiB", 512),
        series("plugin: anonymous KiB", 512),
        series("plugin: descriptors", 0),
        series("plugin: threads", 0),
        series("mounts of the host", 0),
    ];
    let mut file = args.samples.as_ref().map(table::Csv::create).transpose()?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(args.minutes * 60.0);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(args.interval));
        if let Some(failure) = outside.failure() {
            return Err(failure);
        }
        if lock(&machine.said).when.elapsed() > PATIENCE {
            return Err(format!("the VM stood still for {} s", PATIENCE.as_secs()));
        }
        let both = Sample::of(machine.child.id()).zip(Sample::of(machine.plugin));
        let Some((vmm, plugin)) = both else { return Err("the VM ended".into()) };
        let row = [vmm.values(), plugin.values()].concat().into_iter().chain([sample::mounts().len() as u64]);
        for (series, value) in all.iter_mut().zip(row) {
            series.values.push(value);
        }
        if let Some(file) = &mut file {
            file.row(start.elapsed(), &all)?;
        }
    }
    Ok(all)
}
