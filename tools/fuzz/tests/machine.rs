//! Whole runs with wild plugins. They compare what the process has before and after, so they are alone in it, on its main
//! thread, which is the one that a plugin lives with.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("skipped: /dev/kvm cannot be opened");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    // Only what comes with this test is started.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/machine");
    let mut inputs: Vec<_> =
        std::fs::read_dir(&folder).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for path in &inputs {
        println!("{}", path.display());
        outboard_fuzz::machine::machine_with(
            Path::new(env!("CARGO_BIN_EXE_outboard-fuzz-wild")),
            &std::fs::read(path).expect("an input"),
        );
    }
    println!("{} passed, 0 failed", inputs.len());
    ExitCode::SUCCESS
}
