//! The machine as a plugin by itself: `outboard run --plugin .../outboard-pc -p --firmware -p FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(outboard_pc::plugin(std::env::args_os()))
}
