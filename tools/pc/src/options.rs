//! The command line of the machine: what `outboard pc` and the plugin itself take.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum};

use crate::calendar::Date;
use crate::files::{self, Opened};

/// Least memory that firmware finds its way in, in bytes.
pub const MIN_MEMORY: u64 = 1 << 20;
/// Most memory, in bytes; a typing error shall not ask for a thousand times more than a host has.
pub const MAX_MEMORY: u64 = 1 << 40;

/// The machine that is asked for.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(group = ArgGroup::new("begin").required(true).args(["firmware", "kernel"]))]
pub struct Options {
    /// Firmware image, such as /usr/share/seabios/bios.bin: it ends at 4 GiB, and its last 128 KiB at 1 MiB too.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// Kernel that is started without firmware: a multiboot image, a Linux bzImage or vmlinux, or any file with --format.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// What the kernel is: detect, multiboot, linux, pvh, or an address such as 0x7c00 for a flat binary.
    #[arg(long, value_name = "FORMAT", conflicts_with = "firmware", default_value = "detect")]
    pub format: String,

    /// Initial RAM disk, or a multiboot module; repeatable. Words behind the file's name are the module's command line.
    #[arg(long, value_name = "FILE", conflicts_with = "firmware")]
    pub initrd: Vec<OsString>,

    /// Command line of the kernel.
    #[arg(long, value_name = "WORDS", conflicts_with = "firmware", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Virtio disk from a file; with `,ro` behind its name the guest cannot write; repeatable.
    #[arg(long, value_name = "FILE[,ro]")]
    pub disk: Vec<Disk>,

    /// Memory, such as 512M or 2G.
    #[arg(short, long, value_name = "SIZE", value_parser = memory, default_value = "256M")]
    pub memory: u64,

    /// End the machine after this many seconds, with status 124.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// End the machine with status 0 when the guest has printed this.
    #[arg(long, value_name = "STRING")]
    pub exit_on: Option<String>,

    /// What the clock shows when the machine begins, in UTC, such as 2026-11-28 or 2026-11-28T17:04:44, in place of the time
    /// of day; then a run that is recorded by --trace and replayed reads the same dates.
    #[arg(long, value_name = "UTC-TIME", value_parser = Date::parse)]
    pub rtc_base: Option<Date>,

    /// End the machine with status 0 when the guest resets it, in place of beginning anew.
    #[arg(long)]
    pub no_reboot: bool,

    /// Give the machine a text display and draw it in the terminal; keys go to the keyboard.
    #[arg(long)]
    pub vga: bool,

    /// What the terminal is connected to: the first serial port, or a virtio console beside it.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Keys::Serial)]
    pub console: Keys,

    /// Where firmware's messages go that it writes to the debug console, ports 0x402 and 0xe9.
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = DebugConsole::Off)]
    pub debug_console: DebugConsole,

    /// Print at the end how often the guest accessed what.
    #[arg(long)]
    pub report: bool,
}

/// What the terminal's keys go to.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// The first serial port.
    #[default]
    Serial,
    /// A virtio console.
    Virtio,
}

/// Where the debug console writes.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DebugConsole {
    /// There is none.
    #[default]
    Off,
    /// Standard output, as the serial port.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Options {
    /// Makes every path absolute, so that the words mean the same in another folder.
    ///
    /// # Errors
    /// The current folder is gone: a sentence.
    pub fn make_absolute(&mut self) -> Result<(), String> {
        for path in self.firmware.iter_mut().chain(&mut self.kernel) {
            *path = absolute(path)?;
        }
        for disk in &mut self.disk {
            disk.file = absolute(&disk.file)?;
        }
        for module in &mut self.initrd {
            let (path, words) = split_module(module);
            let mut whole = absolute(path)?.into_os_string();
            whole.push(words);
            *module = whole;
        }
        Ok(())
    }

    /// Opens the files of [`Options::files`], for a plugin that cannot.
    ///
    /// # Errors
    /// The first one that cannot be opened, or is of no kind that can be used: a sentence.
    pub fn open_files(&self) -> Result<Vec<File>, String> {
        self.files()
            .iter()
            .map(|file| files::open(&file.path, file.writable).map_err(|error| error.to_string()))
            .collect()
    }

    /// The files that the machine is made of, in the order in which a plugin is handed them.
    pub fn files(&self) -> Vec<Opened> {
        let read = self.firmware.iter().chain(&self.kernel).cloned();
        let modules = self.initrd.iter().map(|module| split_module(module).0.to_owned());
        let mut files: Vec<Opened> = read.chain(modules).map(|path| Opened { path, writable: false }).collect();
        files.extend(self.disk.iter().map(|disk| Opened { path: disk.file.clone(), writable: !disk.read_only }));
        files
    }

    /// The command line that asks for this machine.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: &OsStr| {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            words.push(word);
        };
        self.firmware.iter().for_each(|path| add("--firmware", path.as_os_str()));
        if let Some(kernel) = &self.kernel {
            add("--kernel", kernel.as_os_str());
            add("--format", OsStr::new(&self.format));
        }
        self.initrd.iter().for_each(|module| add("--initrd", module));
        self.append.iter().for_each(|line| add("--append", OsStr::new(line)));
        for disk in &self.disk {
            let mut value = disk.file.clone().into_os_string();
            value.push(if disk.read_only { ",ro" } else { ",rw" });
            add("--disk", &value);
        }
        add("--memory", OsStr::new(&format!("{}K", self.memory >> 10)));
        self.timeout.iter().for_each(|seconds| add("--timeout", OsStr::new(&seconds.to_string())));
        self.exit_on.iter().for_each(|string| add("--exit-on", OsStr::new(string)));
        self.rtc_base.iter().for_each(|date| add("--rtc-base", OsStr::new(&date.to_string())));
        add("--console", OsStr::new(&word_of(self.console)));
        add("--debug-console", OsStr::new(&word_of(self.debug_console)));
        words.extend(
            [(self.vga, "--vga"), (self.report, "--report"), (self.no_reboot, "--no-reboot")]
                .iter()
                .filter(|flag| flag.0)
                .map(|flag| flag.1.into()),
        );
        words
    }
}

/// The word by which a value is asked for.
fn word_of(value: impl ValueEnum) -> String {
    // No value here is hidden from the command line.
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("cannot tell where {} is: {error}", path.display()))
}

/// A module's file, and the rest from the first blank on.
pub fn split_module(module: &OsStr) -> (&Path, &OsStr) {
    let bytes = module.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    (Path::new(OsStr::from_bytes(&bytes[..end])), OsStr::from_bytes(&bytes[end..]))
}

/// A disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub file: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(word: &str) -> Result<Disk, String> {
        let (file, read_only) = match (word.strip_suffix(",ro"), word.strip_suffix(",rw")) {
            (Some(file), _) => (file, true),
            (_, Some(file)) => (file, false),
            _ => (word, false),
        };
        if file.is_empty() {
            return Err("give the name of a file".to_owned());
        }
        Ok(Disk { file: file.into(), read_only })
    }
}

/// Reads a size: a number of MiB, or of another unit that is behind it (K, M, G).
///
/// # Errors
/// A sentence that says what is accepted.
pub fn memory(word: &str) -> Result<u64, String> {
    let (digits, shift) = match word.as_bytes().last() {
        Some(b'k' | b'K') => (&word[..word.len() - 1], 10),
        Some(b'm' | b'M') => (&word[..word.len() - 1], 20),
        Some(b'g' | b'G') => (&word[..word.len() - 1], 30),
        _ => (word, 20),
    };
    let number: u64 = digits.parse().map_err(|_| "give a number and its unit, such as 512M or 2G".to_owned())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= MAX_MEMORY);
    let bytes = bytes.ok_or("that is more than 1024G")?;
    if bytes < MIN_MEMORY || !bytes.is_multiple_of(4096) {
        return Err("a PC has at least 1M, in whole pages of 4K".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("64"), Ok(64 << 20));
        assert_eq!(memory("2048K"), Ok(2 << 20));
        for wrong in ["", "M", "-1M", "1.5G", "12X"] {
            assert!(memory(wrong).unwrap_err().contains("512M"), "{wrong:?}");
        }
        for wrong in ["0", "512K", "1025K"] {
            assert!(memory(wrong).unwrap_err().contains("at least"), "{wrong:?}");
        }
        assert!(memory("9999999999G").unwrap_err().contains("more than"));
    }

    #[derive(Debug, clap::Parser)]
    struct Words {
        #[command(flatten)]
        options: Options,
    }

    fn parse<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Options {
        let words = words.into_iter().map(Into::into);
        <Words as clap::Parser>::try_parse_from(std::iter::once("pc".into()).chain(words)).unwrap().options
    }

    #[test]
    fn words_ask_for_the_same_machine_again() {
        let mut kernel = parse([
            "--kernel=k",
            "--format=linux",
            "--initrd=i with words",
            "--initrd=--j",
            "--append=-a b",
            "--disk=d,ro",
            "--disk=e,f",
            "--memory=3G",
            "--timeout=7",
            "--exit-on=--x",
            "--rtc-base=2024-02-29T23:59:58Z",
            "--vga",
            "--no-reboot",
            "--report",
            "--console=virtio",
        ]);
        kernel.make_absolute().unwrap();
        assert_eq!(parse(kernel.words()), kernel);
        assert_eq!(kernel.files().len(), 5);
        assert!(kernel.files().iter().all(|file| file.path.is_absolute()));
        assert_eq!(kernel.files().iter().filter(|file| file.writable).count(), 1);
        let firmware = parse(["--firmware=/f", "--debug-console=stderr"]);
        assert_eq!(parse(firmware.words()), firmware);
    }

    #[test]
    fn a_machine_has_firmware_or_a_kernel() {
        for words in [&["pc"][..], &["pc", "--firmware=a", "--kernel=b"], &["pc", "--firmware=a", "--append=x"]] {
            assert!(<Words as clap::Parser>::try_parse_from(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn disks() {
        assert_eq!("a,b".parse(), Ok(Disk { file: "a,b".into(), read_only: false }));
        assert_eq!("a,ro".parse(), Ok(Disk { file: "a".into(), read_only: true }));
        assert!(",ro".parse::<Disk>().is_err());
    }
}
