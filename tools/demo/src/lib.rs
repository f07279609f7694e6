//! The embedded machine: what `outboard run` starts when no plugin is named.
//!
//! It is an ordinary plugin with a guest of its own. The guest says hello through a serial port and does every kind of
//! access a few hundred times, so that the VMM's report shows what each of them costs on this host.

mod guest;
mod long_mode;
mod map;

use std::io::{self, Write as _};

use outboard_plugin::{Error, Event, GuestMemory, Read, Space, Write};

use map::{BEEP_PORT, CODE, DONE_PORT, MMIO, MMIO_READ, MMIO_WRITE, RAM, ROUNDS, UART};

/// Line status: the transmitter is empty.
const TRANSMITTER_EMPTY: u64 = 0x60;

/// The plugin process's whole life. Returns its exit status: 0 if the guest did everything right, else 1 after a
/// sentence on standard error.
///
/// ```no_run
/// std::process::exit(outboard_demo::main().into());
/// ```
pub fn main() -> u8 {
    match run_plugin() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("outboard: the embedded machine: {error}");
            1
        }
    }
}

/// Connects to the VMM that started this process, and serves the embedded guest to its end.
///
/// # Errors
/// What [`outboard_plugin::connect`] and the requests say.
///
/// ```
/// // Nobody started this test as a plugin.
/// assert_eq!(outboard_demo::run_plugin().unwrap_err().errno(), 107);
/// ```
pub fn run_plugin() -> Result<u8, Error> {
    let mut vm = outboard_plugin::connect()?;
    let memory: GuestMemory = vm.add_memory(0, RAM)?;
    long_mode::prepare(&memory)?;
    memory.write(CODE, guest::image())?;
    vm.reserve(Space::Port, UART..UART + 8)?;
    vm.reserve(Space::Port, DONE_PORT..DONE_PORT + 1)?;
    vm.reserve(Space::Mmio, MMIO..MMIO + 0x1000)?;
    vm.reserve_posted(Space::Port, BEEP_PORT..BEEP_PORT + 1)?;
    vm.start()?;

    let mut vcpu = vm.vcpu(0)?;
    let mut devices = Devices::default();
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => long_mode::enter(&mut init)?,
            Event::Read(read) => devices.read(read),
            Event::Write(write) if write.address() == DONE_PORT => return Ok(devices.verdict(write.value())),
            Event::Write(write) => devices.write(&write),
            Event::Posted(write) => devices.beep(write.data),
            Event::Shutdown => return Ok(0),
            _ => {}
        }
    }
}

/// What the devices remember.
#[derive(Debug, Default)]
struct Devices {
    /// Reads of the number that changes, and how often it came back as it was.
    reads: u64,
    echoes: u64,
    /// Posted writes, and how many of them were the one that was due.
    beeps: u64,
    in_order: u64,
}

impl Devices {
    fn read(&mut self, read: Read<'_>) {
        let value = match (read.space(), read.address()) {
            (Space::Port, port) if port == UART + 5 => TRANSMITTER_EMPTY,
            (Space::Mmio, MMIO_READ) => {
                self.reads += 1;
                self.number()
            }
            _ => 0,
        };
        read.answer_u64(value);
    }

    fn write(&mut self, write: &Write<'_>) {
        match (write.space(), write.address()) {
            // Standard output collects a line before it writes. Where nobody listens any more, nobody misses anything.
            (Space::Port, UART) => drop(io::stdout().write_all(write.data())),
            (Space::Mmio, MMIO_WRITE) if write.value() == self.number() => self.echoes += 1,
            _ => {}
        }
    }

    /// The guest counts down from [`ROUNDS`], in its low byte.
    fn beep(&mut self, value: u64) {
        let due = u64::from(ROUNDS).wrapping_sub(self.beeps) & 0xff;
        self.beeps += 1;
        self.in_order += u64::from(value == due);
    }

    /// What the guest read last.
    fn number(&self) -> u64 {
        self.reads * 0x0101 + 0x5a00_0000
    }

    fn verdict(&self, said: u64) -> u8 {
        let rounds = u64::from(ROUNDS);
        let right = [said, self.reads, self.echoes, self.beeps, self.in_order].iter().all(|count| *count == rounds);
        if right {
            return 0;
        }
        eprintln!("outboard: the embedded guest did not do what it should: {self:?}, it says {said} rounds");
        1
    }
}
