//! What a program needs to start: its interpreter or dynamic loader, and the libraries that one opens.
//!
//! The search is the dynamic loader's own (`ld.so(8)`), carried out on the files themselves: nothing of the plugin is run
//! for it. Libraries that a program loads later by name (`dlopen(3)`) cannot be known.

pub mod cache;
pub mod elf;
mod path;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cache::Cache;
use elf::{Elf, ReadAt};
use path::bytes_to_path;
pub use path::tidy;

/// Where the system's table of libraries is.
pub const CACHE: &str = "/etc/ld.so.cache";

/// Folders that dynamic loaders search last: of glibc as Debian and Fedora build it, and of musl.
const DEFAULT_FOLDERS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/local/lib",
    "/usr/lib",
];

/// Builds for certain processors that glibc looks for below each folder.
const HARDWARE_FOLDERS: &[&str] = &["glibc-hwcaps/x86-64-v4", "glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v2"];

/// Interpreters of interpreters that are followed, as many as the kernel follows.
const MAX_SCRIPTS: usize = 5;
/// Bytes of the first line of a script that the kernel reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;

/// The files that a search asks for.
pub trait Files {
    /// An open file.
    type File: ReadAt;

    /// Opens a regular file for reading, through symbolic links.
    fn open(&self, path: &Path) -> Option<Self::File>;

    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool {
        self.open(path).is_some()
    }

    /// All of a file.
    fn read(&self, path: &Path) -> Option<Vec<u8>>;
}

/// The files of this host.
pub struct HostFiles;

impl Files for HostFiles {
    type File = std::fs::File;

    fn open(&self, path: &Path) -> Option<std::fs::File> {
        self.exists(path).then(|| std::fs::File::open(path).ok())?
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path).ok()
    }
}

/// What has to be there, under the paths given, for a program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Dynamic loaders and the interpreters of scripts.
    pub interpreters: Vec<PathBuf>,
    /// Libraries.
    pub libraries: Vec<PathBuf>,
    /// Whether a library was found by the system's table, which the loader has to have then.
    pub cache: bool,
    /// Libraries that are nowhere to be found, by name.
    pub missing: Vec<OsString>,
}

/// Finds out what `program` needs.
pub fn needs(files: &impl Files, program: &Path) -> Needs {
    let mut search = Search { files, cache: None, needs: Needs::default(), seen: BTreeSet::new(), loaders: Vec::new() };
    search.program(program, MAX_SCRIPTS);
    search.needs
}

struct Search<'a, F> {
    files: &'a F,
    /// Read when it is asked for first.
    cache: Option<Cache>,
    needs: Needs,
    seen: BTreeSet<PathBuf>,
    /// Names that the loader itself answers to.
    loaders: Vec<OsString>,
}

impl<F: Files> Search<'_, F> {
    fn program(&mut self, program: &Path, depth: usize) {
        let Some(file) = self.files.open(program) else { return };
        if let Some(interpreter) = script_interpreter(&file) {
            if depth > 0 && self.files.exists(&interpreter) {
                self.needs.interpreters.push(interpreter.clone());
                self.program(&interpreter, depth - 1);
            }
            return;
        }
        let Some(elf) = elf::read(&file) else { return };
        let Some(loader) = elf.interpreter.as_deref().map(bytes_to_path) else { return };
        self.seen.insert(loader.clone());
        self.loaders.extend(loader.file_name().map(OsStr::to_owned));
        if self.files.exists(&loader) {
            self.needs.interpreters.push(loader);
        }
        self.libraries(program, elf);
    }

    /// Libraries of a program and of its libraries, breadth first, as the loader goes.
    fn libraries(&mut self, program: &Path, elf: Elf) {
        let mut waiting = std::collections::VecDeque::from([(program.to_owned(), elf, Vec::new())]);
        while let Some((object, elf, inherited)) = waiting.pop_front() {
            // DT_RPATH also counts for what an object needs in turn, DT_RUNPATH for its own needs only.
            let own = |path: &Option<Vec<u8>>| path.as_ref().map(|path| folders(path, &object)).unwrap_or_default();
            let (rpath, runpath) = match elf.runpath {
                Some(_) => (Vec::new(), own(&elf.runpath)),
                None => ([own(&elf.rpath), inherited].concat(), Vec::new()),
            };
            for name in &elf.needed {
                for library in self.find(name, &rpath, &runpath) {
                    let Some(found) = self.files.open(&library).and_then(|file| elf::read(&file)) else { continue };
                    waiting.push_back((library, found, rpath.clone()));
                }
            }
        }
    }

    /// Notes the places of a library and returns those that are new.
    fn find(&mut self, name: &[u8], rpath: &[PathBuf], runpath: &[PathBuf]) -> Vec<PathBuf> {
        if self.loaders.iter().any(|loader| loader.as_bytes() == name) || is_musl(name) {
            return Vec::new();
        }
        let found = match name.contains(&b'/') {
            true => Some(Path::new("/").join(bytes_to_path(name)))
                .filter(|path| self.files.exists(path))
                .into_iter()
                .collect(),
            false => self.search(name, rpath, runpath),
        };
        if found.is_empty() {
            let name = OsString::from_vec(name.to_vec());
            if !self.needs.missing.contains(&name) {
                self.needs.missing.push(name);
            }
        }
        let new: Vec<PathBuf> = found.into_iter().filter(|path| self.seen.insert(path.clone())).collect();
        self.needs.libraries.extend(new.iter().cloned());
        new
    }

    fn search(&mut self, name: &[u8], rpath: &[PathBuf], runpath: &[PathBuf]) -> Vec<PathBuf> {
        let in_folders = |folders: &[PathBuf]| {
            folders.iter().map(|folder| self.builds(folder, name)).find(|builds| !builds.is_empty())
        };
        if let Some(found) = in_folders(rpath).or_else(|| in_folders(runpath)) {
            return found;
        }
        let files = self.files;
        let cache = self.cache.get_or_insert_with(|| Cache::new(files.read(Path::new(CACHE)).unwrap_or_default()));
        let cached: Vec<PathBuf> = cache.places(name).into_iter().filter(|place| files.exists(place)).collect();
        if !cached.is_empty() {
            self.needs.cache = true;
            return cached;
        }
        let defaults: Vec<PathBuf> = DEFAULT_FOLDERS.iter().map(PathBuf::from).collect();
        defaults.iter().map(|folder| self.builds(folder, name)).find(|builds| !builds.is_empty()).unwrap_or_default()
    }

    /// A library of a folder, with its builds for certain processors.
    fn builds(&self, folder: &Path, name: &[u8]) -> Vec<PathBuf> {
        let plain = folder.join(OsStr::from_bytes(name));
        let special = HARDWARE_FOLDERS.iter().map(|hardware| folder.join(hardware).join(OsStr::from_bytes(name)));
        special.chain([plain]).filter(|path| self.files.exists(path)).collect()
    }
}

/// musl's C library is its loader under another name.
fn is_musl(name: &[u8]) -> bool {
    name == b"libc.so" || name.starts_with(b"libc.musl-")
}

/// The folders of a path in an object, with `$ORIGIN` and `$LIB` as the loader replaces them. What is relative would
/// depend on the working folder, and is left out.
fn folders(path: &[u8], object: &Path) -> Vec<PathBuf> {
    let origin = object.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
    let replaced = [("$ORIGIN", origin), ("${ORIGIN}", origin), ("$LIB", b"lib64"), ("${LIB}", b"lib64")];
    let folder = |part: &[u8]| {
        let whole = replaced.iter().fold(part.to_vec(), |text, (name, value)| replace(&text, name.as_bytes(), value));
        Some(tidy(&bytes_to_path(&whole))).filter(|path| path.is_absolute())
    };
    path.split(|byte| *byte == b':').filter(|part| !part.is_empty()).filter_map(folder).collect()
}

fn replace(text: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(name.len()).position(|window| window == name) {
        out.extend([&rest[..at], value].concat());
        rest = &rest[at + name.len()..];
    }
    out.extend(rest);
    out
}

/// The program that the first line of a script names (`execve(2)`).
fn script_interpreter(file: &impl ReadAt) -> Option<PathBuf> {
    let start = file.up_to(FIRST_LINE, 0);
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())?;
    Some(bytes_to_path(word)).filter(|path| path.is_absolute())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
