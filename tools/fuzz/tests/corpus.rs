//! Every input that is kept, through its target.

use std::path::Path;

/// Runs the inputs of a target and a few that need no file.
fn run(name: &str) {
    let target = outboard_fuzz::target(name).expect("a target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    target(&[]);
    for path in inputs {
        println!("{}", path.display());
        target(&std::fs::read(&path).expect("an input"));
    }
}

/// True without a KVM to test with, which CI has to have.
fn without_kvm() -> bool {
    let there = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "/dev/kvm cannot be opened");
    if !there {
        eprintln!("skipped: /dev/kvm cannot be opened");
    }
    !there
}

#[test]
fn inputs_are_there_for_each_target_and_no_other() {
    let mut folders: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus"))
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    folders.sort();
    assert_eq!(folders, outboard_fuzz::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn policy() {
    run("policy");
}

#[test]
fn trace() {
    run("trace");
}

#[test]
fn words() {
    run("words");
}

#[test]
fn frames() {
    if !without_kvm() {
        run("frames");
    }
}

#[test]
fn commands() {
    if !without_kvm() {
        run("commands");
    }
}
