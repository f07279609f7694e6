//! The command line of the machine: what `outboard pc` and the plugin itself take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Memory without `--memory`, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// Least memory that firmware finds its way in, in bytes.
pub const MIN_MEMORY: u64 = 1 << 20;
/// Most memory, in bytes; a typing error shall not ask for a thousand times more than a host has.
pub const MAX_MEMORY: u64 = 1 << 40;

/// The machine that is asked for.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Firmware image, such as /usr/share/seabios/bios.bin: it ends at 4 GiB, and its last 128 KiB at 1 MiB too.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// Kernel that is started without firmware: a multiboot image, a Linux bzImage or vmlinux, or any file with --format.
    #[arg(long, value_name = "FILE", required_unless_present = "firmware", conflicts_with = "firmware")]
    pub kernel: Option<PathBuf>,

    /// What the kernel is: detect, multiboot, linux, pvh, or an address such as 0x7c00 for a flat binary.
    #[arg(long, value_name = "FORMAT", requires = "kernel", default_value = "detect")]
    pub format: String,

    /// Initial RAM disk, or a multiboot module; repeatable. Words behind the file's name are the module's command line.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Vec<OsString>,

    /// Command line of the kernel.
    #[arg(long, value_name = "WORDS", requires = "kernel", allow_hyphen_values = true)]
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
        let (file, read_only) = match word.strip_suffix(",ro") {
            Some(file) => (file, true),
            None => (word, false),
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

    #[test]
    fn disks() {
        assert_eq!("a,b".parse(), Ok(Disk { file: "a,b".into(), read_only: false }));
        assert_eq!("a,ro".parse(), Ok(Disk { file: "a".into(), read_only: true }));
        assert!(",ro".parse::<Disk>().is_err());
    }
}
