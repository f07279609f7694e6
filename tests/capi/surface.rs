//! What the library looks like from outside: the header for both languages, and the symbols.

use std::collections::BTreeSet;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::build;

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, body: fn() -> Result<(), String>| Trial::test(name, move || body().map_err(Failed::from));
    vec![
        trial("the_header_is_clean_c11", the_header_is_clean_c11),
        trial("the_header_is_clean_cpp17", the_header_is_clean_cpp17),
        trial("the_library_exports_what_the_list_says", the_library_exports_what_the_list_says),
        trial("the_header_declares_what_the_list_says", the_header_declares_what_the_list_says),
    ]
}

fn check_header(words: &[&str], language: &str) -> Result<(), String> {
    let header = build::root().join("wire/capi/include/crosvm.h");
    // Twice, which the guard has to bear.
    let mut command = build::compiler(words);
    command.args(["-fsyntax-only", "-x", language, "-include"]).arg(&header).arg("-include").arg(&header);
    build::run(command.arg("/dev/null")).map(drop)
}

fn the_header_is_clean_c11() -> Result<(), String> {
    check_header(&["cc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror"], "c")
}

fn the_header_is_clean_cpp17() -> Result<(), String> {
    check_header(&["c++", "-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror"], "c++")
}

/// The names of `symbols.txt`.
fn listed() -> Result<BTreeSet<String>, String> {
    let file = build::root().join("wire/capi/symbols.txt");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file:?}: {error}"))?;
    Ok(text.lines().map(str::to_owned).filter(|line| !line.is_empty() && !line.starts_with('#')).collect())
}

fn compare(what: &str, found: &BTreeSet<String>, listed: &BTreeSet<String>) -> Result<(), String> {
    let more: Vec<_> = found.difference(listed).collect();
    let missing: Vec<_> = listed.difference(found).collect();
    match more.is_empty() && missing.is_empty() {
        true => Ok(()),
        false => Err(format!("{what} and symbols.txt differ: not listed {more:?}, only listed {missing:?}")),
    }
}

fn the_library_exports_what_the_list_says() -> Result<(), String> {
    let library = build::libraries()?.join("libcrosvm_plugin.so");
    let symbols = build::run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library))?;
    let names = symbols.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    compare("the library", &names, &listed()?)
}

fn the_header_declares_what_the_list_says() -> Result<(), String> {
    let header = build::root().join("wire/capi/include/crosvm.h");
    let text = std::fs::read_to_string(header).map_err(|error| error.to_string())?;
    let named = text.lines().filter_map(|line| line.strip_prefix("int crosvm_")?.split_once('('));
    let names = named.map(|(name, _)| format!("crosvm_{name}")).collect();
    compare("the header", &names, &listed()?)
}
