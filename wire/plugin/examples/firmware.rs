//! A PC that is just enough for firmware to start and print what it has to say: RAM, ROM, a debug port and a CMOS.
//!
//! ```sh
//! apt-get install seabios
//! cargo build --release -p outboard-plugin --example firmware
//! outboard run --plugin $PWD/target/release/examples/firmware \
//!     --plugin-mount /usr/share/seabios -p /usr/share/seabios/bios.bin -p --until -p 'SeaBIOS (version'
//! ```
//!
//! With `--until TEXT` the machine ends with status 0 once the firmware has printed TEXT; without it the machine runs until
//! it is stopped. Interrupt controllers and the timer are KVM's own.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::{env, error, fs};

use outboard_plugin::{Connection, Event, GuestMemory, Read, Region, Space, Vcpu, Write, wait_any};

const RAM: usize = 64 << 20;
/// The display's memory and the space behind it; firmware shadows itself into what follows.
const HOLE: core::ops::Range<u64> = 0xa_0000..0xc_0000;
/// Where the last 128 KiB of the firmware lie a second time, so that real mode reaches them.
const SHADOW: u64 = 0xe_0000;
const FOUR_GIB: u64 = 1 << 32;
const KVM_CAP_READONLY_MEM: u32 = 81;

const DEBUG_PORT: u64 = 0x402;
/// What the debug port reads as, so that firmware knows it is there.
const DEBUG_HERE: u64 = 0xe9;
const CMOS_INDEX: u64 = 0x70;
const CMOS_DATA: u64 = 0x71;

struct Arguments {
    rom: String,
    until: Option<String>,
}

fn arguments() -> Option<Arguments> {
    let mut rom = None;
    let mut until = None;
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--until" {
            until = Some(words.next()?);
        } else if rom.replace(word).is_some() {
            return None;
        }
    }
    Some(Arguments { rom: rom?, until })
}

/// RAM with a hole, ROM below 4 GiB, and a copy of the ROM's end in RAM.
fn add_memory(vm: &mut Connection, image: &[u8]) -> Result<(), outboard_plugin::Error> {
    let ram = GuestMemory::new(RAM)?;
    let tail = &image[image.len().saturating_sub(128 << 10)..];
    ram.write(SHADOW + (128 << 10) - tail.len() as u64, tail)?;
    vm.create_memory(&ram, &Region { length: HOLE.start, ..Region::default() })?;
    let high = Region { offset: HOLE.end, start: HOLE.end, length: RAM as u64 - HOLE.end, ..Region::default() };
    vm.create_memory(&ram, &high)?;

    let rom = GuestMemory::new(image.len().next_multiple_of(4096))?;
    rom.write(rom.len() - image.len() as u64, image)?;
    let read_only = vm.check_extension(KVM_CAP_READONLY_MEM)? != 0;
    let top = Region { start: FOUR_GIB - rom.len(), length: rom.len(), read_only, ..Region::default() };
    vm.create_memory(&rom, &top).map(drop)
}

/// The devices.
struct Board {
    cmos: [u8; 128],
    cmos_index: u8,
    said: Vec<u8>,
    until: Option<String>,
}

impl Board {
    fn new(until: Option<String>) -> Board {
        let mut cmos = [0; 128];
        let mut put = |index: usize, value: usize| {
            [cmos[index], cmos[index + 1]] = (value.min(0xffff) as u16).to_le_bytes();
        };
        put(0x15, 640); // KiB below the hole
        put(0x17, (RAM >> 10) - 1024); // KiB above 1 MiB
        put(0x30, (RAM >> 10) - 1024); // the same, as counted by the firmware
        put(0x34, (RAM - (16 << 20)) >> 16); // units of 64 KiB above 16 MiB
        cmos[0x0b] = 0x02; // 24-hour clock
        cmos[0x0d] = 0x80; // the battery is good
        Board { cmos, cmos_index: 0, said: Vec::new(), until }
    }

    fn read(&self, read: Read<'_>) {
        let value = match read.address() {
            DEBUG_PORT => DEBUG_HERE,
            CMOS_DATA => self.cmos[usize::from(self.cmos_index)].into(),
            _ => 0xff,
        };
        read.answer_u64(value);
    }

    /// True once the firmware has said what it was to say.
    fn write(&mut self, write: &Write<'_>) -> io::Result<bool> {
        match write.address() {
            DEBUG_PORT => return self.say(write.data()),
            CMOS_INDEX => self.cmos_index = write.value() as u8 & 0x7f, // bit 7 masks the NMI
            CMOS_DATA => self.cmos[usize::from(self.cmos_index)] = write.value() as u8,
            _ => {}
        }
        Ok(false)
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut out = io::stdout();
        out.write_all(bytes)?;
        out.flush()?;
        let Some(until) = &self.until else { return Ok(false) };
        self.said.extend(bytes);
        let unseen = self.said.len().saturating_sub(bytes.len() + until.len());
        Ok(self.said[unseen..].windows(until.len().max(1)).any(|window| window == until.as_bytes()))
    }
}

/// Serves all vCPUs in this one thread. True if the firmware said what it was to say before the VM ended.
fn serve(vcpus: &mut [Vcpu], board: &mut Board) -> Result<bool, Box<dyn error::Error>> {
    let mut next = 0;
    loop {
        let ready = wait_any(vcpus, next)?;
        next = ready + 1;
        match vcpus[ready].try_wait()? {
            Some(Event::Read(read)) => board.read(read),
            Some(Event::Write(write)) if board.write(&write)? => {
                println!();
                return Ok(true);
            }
            Some(Event::Shutdown) => return Ok(false),
            // A vCPU comes out of reset ready to fetch from the end of the ROM, so there is nothing to set up.
            _ => {}
        }
    }
}

fn main() -> Result<ExitCode, Box<dyn error::Error>> {
    let Some(arguments) = arguments() else {
        eprintln!("usage: firmware ROM [--until TEXT]");
        return Ok(ExitCode::from(2));
    };
    let image = fs::read(&arguments.rom).map_err(|error| format!("cannot read {}: {error}", arguments.rom))?;
    let mut vm = outboard_plugin::connect()?;
    add_memory(&mut vm, &image)?;
    vm.set_unclaimed(0xff)?;
    vm.reserve(Space::Port, DEBUG_PORT..DEBUG_PORT + 1)?;
    vm.reserve(Space::Port, CMOS_INDEX..CMOS_DATA + 1)?;
    let mut vcpus = (0..vm.vcpu_count()).map(|id| vm.vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    vm.start()?;
    let asked = arguments.until.is_some();
    let said = serve(&mut vcpus, &mut Board::new(arguments.until))?;
    Ok(if said || !asked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
