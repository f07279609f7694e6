//! The smallest machine: the guest reads two numbers from port 0x10, adds them and writes the sum to port 0x11.
//!
//! ```sh
//! cargo build --release -p outboard-plugin --example adder
//! outboard run --plugin $PWD/target/release/examples/adder
//! ```

use std::process::ExitCode;

use outboard_plugin::{Error, Event, Space};

/// Real-mode code.
const GUEST: &[u8] = &[
    0xe5, 0x10, // in ax, 0x10
    0x89, 0xc3, // mov bx, ax
    0xe5, 0x10, // in ax, 0x10
    0x01, 0xd8, // add ax, bx
    0xe7, 0x11, // out 0x11, ax
    0xf4, // hlt
];

fn main() -> Result<ExitCode, Error> {
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, 0x10000)?;
    memory.write(0x1000, GUEST)?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;

    let mut numbers = [1234, 4321].into_iter();
    let mut vcpu = vm.vcpu(0)?;
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => init.start_real_mode(0, 0x1000)?,
            Event::Read(read) => read.answer_u64(numbers.next().unwrap_or(0)),
            Event::Write(write) => {
                println!("1234 + 4321 = {}", write.value());
                return Ok(if write.value() == 5555 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Event::Shutdown => return Ok(ExitCode::FAILURE),
            _ => {}
        }
    }
}
