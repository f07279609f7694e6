//! The `outboard` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(outboard::cli::main(std::env::args_os()))
}
