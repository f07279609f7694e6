//! A serial port: a 16550 at 0x3f8 that prints what the guest writes. It has nothing to read and is always ready to send.
//!
//! Without arguments a few bytes of guest code print a line and end the VM; an argument names a real-mode image instead,
//! which is loaded and started at 0x1000.
//!
//! ```sh
//! cargo build --release -p outboard-plugin --example serial
//! outboard run --plugin $PWD/target/release/examples/serial
//! ```

use std::io::Write as _;
use std::{env, error, fs};

use outboard_plugin::{Event, Space};

/// Real-mode code for 0x1000 and the text behind it.
const GUEST: &[u8] = b"\xbe\x1e\x10\
    \x8a\x1c\x84\xdb\x74\x10\
    \xba\xfd\x03\xec\xa8\x20\x74\xfb\
    \xb2\xf8\x88\xd8\xee\x46\xeb\xea\
    \xe6\xf4\xf4\xeb\xfd\
    A guest says hello through a serial port.\r\n\0";
//  1000 mov si, text       next: mov bl, [si]; test bl, bl; jz end
//  1009 mov dx, 0x3fd      wait: in al, dx; test al, 0x20; jz wait
//  1011 mov dl, 0xf8; mov al, bl; out dx, al; inc si; jmp next
//  1019 end: out 0xf4, al  halt: hlt; jmp halt

const PORT: u64 = 0x3f8;
/// Transmitter empty, line idle.
const LINE_STATUS: u64 = 0x60;

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, 0x10_0000)?;
    match env::args_os().nth(1) {
        Some(path) => memory.write(0x1000, &fs::read(path)?)?,
        None => memory.write(0x1000, GUEST)?,
    }
    vm.reserve(Space::Port, PORT..PORT + 8)?;
    vm.reserve_posted(Space::Port, 0xf4..0xf5)?; // any write there ends the VM
    vm.start()?;

    let mut vcpu = vm.vcpu(0)?;
    let mut registers = [0; 8];
    let mut out = std::io::stdout();
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => init.start_real_mode(0, 0x1000)?,
            // Offset 0 is the transmitter, unless bit 7 of the line control register turns it into the divisor.
            Event::Write(write) if write.address() == PORT && registers[3] & 0x80 == 0 => {
                out.write_all(write.data())?;
                out.flush()?;
            }
            Event::Write(write) => registers[(write.address() - PORT) as usize] = write.value(),
            Event::Read(read) if read.address() == PORT + 5 => read.answer_u64(LINE_STATUS),
            Event::Read(read) if read.address() == PORT => read.answer_u64(0),
            Event::Read(read) => {
                let value = registers[(read.address() - PORT) as usize];
                read.answer_u64(value);
            }
            Event::Posted(_) | Event::Shutdown => return Ok(()),
            _ => {}
        }
    }
}
