//! The plugin's whole life: connects, builds the machine, runs it and says how it ended.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use outboard_plugin::Connection;

use crate::bus::lock;
use crate::clock::Clock;
use crate::console::input;
use crate::console::keys::keys;
use crate::console::output::{Output, Wanted};
use crate::console::raw::Raw;
use crate::console::screen::{SCREEN, Screen};
use crate::ending::{End, Ending, Next};
use crate::error::PcError;
use crate::files::Files;
use crate::kernel;
use crate::machine::{Around, Machine};
use crate::memory::DISPLAY;
use crate::options::{DebugConsole, Keys, Options};
use crate::serve::Beginning;
use crate::snapshot::{self, Chips};
use crate::{cpu, report, serve};

/// Text of the display begins here, within its memory.
const TEXT: u64 = DISPLAY.start + 0x1_8000;
/// Bytes of the text memory.
const TEXT_LENGTH: usize = 0x8000;
/// Time between two looks at the display.
const FRAME: Duration = Duration::from_millis(40);
/// How long a key stays down, and then up. A terminal tells of neither; games look once a frame, and a keyboard remembers
/// few keys.
const KEY: Duration = Duration::from_millis(30);

/// Bytes of input that wait for the guest before no more is read, and how long until the next look.
const WAITING: usize = 4096;
const PAUSE: Duration = Duration::from_millis(5);

/// Runs the machine as the plugin of the VMM that started this process; the exit status. With `files_from`, the files of
/// [`Options::files`] lie open as descriptors from that number on.
pub fn main(options: &Options, files_from: Option<i32>) -> u8 {
    match run(options, files_from) {
        Ok(end) => end.status(),
        Err(error) => {
            say(&error.to_string());
            crate::ending::FAILED
        }
    }
}

fn run(options: &Options, files_from: Option<i32>) -> Result<End, PcError> {
    let mut vm = outboard_plugin::connect()?;
    let mut files = Files::inherited(options.files(), files_from)?;
    let ending = Ending::new(options.no_reboot);
    let exit_on = options.exit_on.as_deref().filter(|_| !options.vga);
    let to: Box<dyn Write + Send> = if options.vga { Box::new(io::sink()) } else { Box::new(io::stdout()) };
    let output = Output::new(to, exit_on, ending.clone())?;
    let cpus = vm.vcpu_count();
    let clock = Clock::new(vm.tsc_khz());
    let debug = debug(options, &output);
    let around = Around { cpus, clock: &clock, output: &output, debug, ending: &ending };
    let machine = Machine::new(&mut vm, options, &mut files, around)?;
    vm.set_unclaimed(0xff)?;
    // Where KVM cannot tell its frequency, guests measure the TSC.
    let about = cpu::About { supported: vm.supported_cpuid()?, cpus, tsc_khz: vm.guest_tsc_khz().unwrap_or(0) };
    let start = machine.kernel.as_ref().map(|kernel| kernel::begin(kernel.start()));
    let msrs = snapshot::msrs(&vm.msr_indices()?);
    let beginning = Arc::new(Beginning { about, clock, start, msrs });
    serve::ask_for_refused_instructions(&mut vm)?;
    let machine = Arc::new(machine);
    let vcpus = (0..cpus).map(|id| vm.vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    for vcpu in vcpus {
        let (machine, beginning) = (Arc::clone(&machine), Arc::clone(&beginning));
        let work = move || serve::run(vcpu, &machine, &beginning);
        thread::Builder::new().name("vcpu".into()).spawn(work).map_err(PcError::Thread)?;
    }
    let raw = Raw::enter().map_err(PcError::Terminal)?;
    connect_input(&machine, options, raw.is_some())?;
    let screen = match options.vga {
        true => Some(draw(&machine, options.exit_on.as_deref())?),
        false => None,
    };
    let started = Instant::now();
    let chips = Chips::of(&mut vm)?;
    vm.start()?;
    let end = until_the_end(&mut vm, &machine, &chips, cpus, options.timeout);
    ending.end(end.clone());
    output.flush();
    if let Some(screen) = screen {
        let _ = screen.join();
    }
    if raw.is_some() && end == End::Left {
        // The guest's cursor may be anywhere in a line.
        let _ = io::stdout().write_all(b"\r\n").and_then(|()| io::stdout().flush());
    }
    drop(raw);
    if options.report {
        let table = report::table(&machine.bus.counts(), started.elapsed().as_secs_f64());
        let _ = io::stderr().write_all(table.as_bytes());
    }
    match &end {
        End::Printed | End::Left | End::Shutdown => {}
        other => say(&other.to_string()),
    }
    Ok(end)
}

/// Resets the machine as often as that is asked for; how it ends.
fn until_the_end(vm: &mut Connection, machine: &Machine, chips: &Chips, cpus: u32, timeout: Option<u64>) -> End {
    let deadline = timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    loop {
        match machine.ending.wait(deadline) {
            None => return End::Timeout(timeout.unwrap_or_default()),
            Some(Next::End(end)) => return end,
            Some(Next::Reset(_)) => {
                if let Err(error) = reset(vm, machine, chips, cpus) {
                    machine.ending.end(End::Failed(format!("cannot reset the machine: {error}")));
                }
            }
        }
    }
}

fn reset(vm: &mut Connection, machine: &Machine, chips: &Chips, cpus: u32) -> Result<(), PcError> {
    vm.pause_vcpus(0..cpus, 0)?;
    machine.ending.pausing();
    if machine.ending.all_arrived(cpus) {
        machine.reset()?;
        chips.put_back(vm)?;
        machine.ending.begin_anew();
    }
    Ok(())
}

/// Where firmware's messages go.
fn debug(options: &Options, output: &Output) -> Option<Box<dyn Fn() -> Box<dyn Write + Send>>> {
    let output = output.clone();
    match options.debug_console {
        DebugConsole::Off => None,
        DebugConsole::Stdout => Some(Box::new(move || Box::new(output.clone()))),
        DebugConsole::Stderr => Some(Box::new(|| Box::new(io::stderr()))),
    }
}

/// Connects what is typed to the device that the options name.
fn connect_input(machine: &Arc<Machine>, options: &Options, terminal: bool) -> Result<(), PcError> {
    let (machine, ending) = (Arc::clone(machine), machine.ending.clone());
    if options.vga {
        return input::read(terminal, ending, move |bytes| {
            for code in keys(bytes).concat() {
                lock(&machine.keyboard).0.key(&code);
                thread::sleep(KEY);
            }
        });
    }
    if options.console == Keys::Virtio
        && let Some((input, doorbell)) = machine.virtio_console.clone()
    {
        return input::read(terminal, ending, move |bytes| {
            lock(&input).extend(bytes);
            doorbell.signal();
        });
    }
    input::read(terminal, ending, move |bytes| {
        // A file in place of a typist is read as fast as the guest takes it.
        while lock(&machine.serial).0.waiting() > WAITING {
            thread::sleep(PAUSE);
        }
        lock(&machine.serial).0.receive(bytes);
    })
}

/// Draws the display until the machine ends.
fn draw(machine: &Arc<Machine>, exit_on: Option<&str>) -> Result<thread::JoinHandle<()>, PcError> {
    let (machine, wanted) = (Arc::clone(machine), exit_on.map(str::to_owned));
    let work = move || {
        let (mut screen, mut cells) = (Screen::default(), [0; SCREEN]);
        loop {
            let last = machine.ending.ends_within(FRAME);
            let Some(view) = machine.vga.as_ref().map(|vga| lock(vga).0.view()) else { return };
            let first = (usize::from(view.start) * 2).min(TEXT_LENGTH - SCREEN) as u64;
            // The display's memory is there from the beginning to the end.
            let _ = machine.memory.ram().read(TEXT + first, &mut cells);
            let drawn = screen.draw(&cells, view) + &if last { screen.finish() } else { String::new() };
            let written = io::stdout().write_all(drawn.as_bytes()).and_then(|()| io::stdout().flush());
            if let Err(error) = written {
                machine.ending.end(End::Failed(format!("cannot draw the display: {error}")));
            }
            if let Some(wanted) = &wanted
                && Wanted::new(wanted).push(screen.text(&cells).as_bytes())
            {
                machine.ending.end(End::Printed);
            }
            if last {
                return;
            }
        }
    };
    thread::Builder::new().name("display".into()).spawn(work).map_err(PcError::Thread)
}

/// Says a sentence in one piece: the VMM writes to the same standard error.
fn say(what: &str) {
    let _ = io::stderr().write_all(format!("outboard: pc: {what}\n").as_bytes());
}
