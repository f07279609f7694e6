//! The library as a user builds it, and plugins as a user compiles them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Strict enough that a plugin's own strictness never meets a warning of the header.
pub const C: &[&str] = &["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-g"];
pub const CPP: &[&str] = &["c++", "-std=c++17", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", "-g"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the libraries lie. Cargo builds them the first time; it is not building anything else while tests run.
pub fn libraries() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_libraries).as_deref().map_err(String::clone)
}

fn build_libraries() -> Result<PathBuf, String> {
    // The folder of the profile that the tests run with.
    let folder = Path::new(env!("CARGO_BIN_EXE_outboard")).parent().expect("a folder");
    let profile = if folder.ends_with("release") { "release" } else { "dev" };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "outboard-capi", "--profile", profile, "--target-dir"]);
    run(cargo.arg(folder.parent().expect("the target folder")).current_dir(root()))?;
    Ok(folder.to_owned())
}

/// Runs a command that has to succeed; what it prints is the error if it does not.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}

/// A compiler with our header.
pub fn compiler(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("-I").arg(root().join("wire/capi/include"));
    command
}

/// Compiles `plugins/<file>` and links it with what `libraries` says.
fn compile(words: &[&str], file: &str, suffix: &str, libraries: &[&str]) -> Result<PathBuf, String> {
    let name = Path::new(file).file_stem().and_then(|name| name.to_str()).unwrap_or(file);
    let executable = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("capi-{name}{suffix}"));
    let mut command = compiler(words);
    command.arg(root().join("tests/capi/plugins").join(file)).arg("-pthread");
    // Two tests may use the same plugin at the same time, and a program that runs cannot be written.
    let own = executable.with_extension(format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-"));
    run(command.args(libraries).arg("-o").arg(&own))?;
    std::fs::rename(&own, &executable).map_err(|error| error.to_string())?;
    Ok(executable)
}

/// A plugin in C on `libcrosvm_plugin.so`.
pub fn shared(name: &str) -> Result<PathBuf, String> {
    let folder = libraries()?.display().to_string();
    compile(C, &format!("{name}.c"), "", &["-L", &folder, "-lcrosvm_plugin", &format!("-Wl,-rpath,{folder}")])
}

/// The plugin that the guide shows.
pub fn guide() -> Result<PathBuf, String> {
    let guide = root().join("wire/capi/README.md");
    let text = std::fs::read_to_string(guide).map_err(|error| error.to_string())?;
    let (_, rest) = text.split_once("```c\n").ok_or("the guide shows no plugin")?;
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide.c");
    let code = rest.split("```").next().unwrap_or_default();
    std::fs::write(&source, code.replace("#define _GNU_SOURCE\n", "")).map_err(|error| error.to_string())?;
    shared(source.with_extension("").to_str().ok_or("a strange path")?)
}

/// A plugin in C++ on the same.
pub fn cpp(name: &str) -> Result<PathBuf, String> {
    let folder = libraries()?.display().to_string();
    compile(CPP, &format!("{name}.cc"), "-cpp", &["-L", &folder, "-lcrosvm_plugin", &format!("-Wl,-rpath,{folder}")])
}

/// A plugin in C on `libcrosvm_plugin.a`.
pub fn statically(name: &str) -> Result<PathBuf, String> {
    let archive = libraries()?.join("libcrosvm_plugin.a").display().to_string();
    compile(C, &format!("{name}.c"), "-static", &[&archive, "-ldl", "-lm", "-lgcc_s"])
}
