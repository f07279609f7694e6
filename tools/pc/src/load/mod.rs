//! Guests from files: multiboot images, Linux, kernels with a PVH entry, flat binaries.
//!
//! All of this decides and nothing of it acts: [`plan`] takes the bytes of the files and the memory map of the machine, and
//! says which bytes go where and how the first vCPU begins. The caller copies the [`Piece`]s and sets the registers of
//! [`Start::registers`].

mod bios;
mod elf;
mod error;
mod file;
mod linux;
mod multiboot;
mod places;
mod pvh;
#[cfg(test)]
mod samples;
mod start;

use core::str::FromStr;

pub use error::LoadError;
pub use file::{File, MAX_FILE};
pub use places::{MemoryKind, MemoryRange};
pub use start::Start;

use self::elf::Elf;
use self::places::Places;

/// How the kernel is to be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// By what the file is: multiboot, bzImage, ELF with a PVH note, ELF for the 64-bit protocol of Linux.
    #[default]
    Detect,
    /// A multiboot image.
    Multiboot,
    /// A bzImage, or a vmlinux in ELF by its 64-bit entry.
    Linux,
    /// A kernel in ELF by the entry of its PVH note.
    Pvh,
    /// The file as it is, at this address, which is where it begins: in real mode if it lies in the first MiB, else in
    /// protected mode without paging.
    Flat(u64),
}

impl FromStr for Format {
    type Err = LoadError;

    /// By name, or by the address of a flat binary.
    fn from_str(word: &str) -> Result<Format, LoadError> {
        let unknown = || LoadError::Format(word.to_owned());
        Ok(match word {
            "detect" => Format::Detect,
            "multiboot" => Format::Multiboot,
            "linux" => Format::Linux,
            "pvh" => Format::Pvh,
            _ => {
                let parsed = match word.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => word.parse(),
                };
                Format::Flat(parsed.map_err(|_| unknown())?)
            }
        })
    }
}

/// A file that comes along with the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub file: File,
    /// What a multiboot or PVH kernel is told about it.
    pub command_line: String,
}

/// What is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kernel, unpacked.
    pub kernel: File,
    /// Files that come along: for Linux one, the initrd; for multiboot and PVH any number.
    pub modules: Vec<Module>,
    /// The command line.
    pub command_line: String,
    /// How.
    pub format: Format,
}

/// What the loader has to know of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its memory map, as the guest shall see it.
    pub memory: &'a [MemoryRange],
    /// Physical address of the ACPI root pointer, if there is one.
    pub rsdp: Option<u64>,
    /// It has VGA text at 0xb8000.
    pub text_display: bool,
}

/// Bytes that go into memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    /// Physical address.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Zeros behind them.
    pub zeros: u64,
    /// What they are, for messages.
    pub what: String,
}

impl Piece {
    fn new(address: u64, bytes: Vec<u8>, what: &str) -> Piece {
        Piece { address, bytes, zeros: 0, what: what.to_owned() }
    }

    /// The address behind the last byte.
    pub fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64 + self.zeros
    }
}

impl core::fmt::Debug for Piece {
    /// Leaves out the bytes.
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "{} at {:#x}..{:#x}", self.what, self.address, self.end())
    }
}

/// What to do to have a guest loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes into memory; all of it lies in the machine's memory, and no two overlap.
    pub pieces: Vec<Piece>,
    /// How the first vCPU begins.
    pub start: Start,
    /// What the kernel is, with its article.
    pub format: &'static str,
}

impl Plan {
    /// Copies the pieces by `write`, which takes a physical address and bytes.
    ///
    /// # Errors
    /// The first of `write`.
    pub fn carry_out<E>(&self, mut write: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        const ZEROS: [u8; 4096] = [0; 4096];
        for piece in &self.pieces {
            write(piece.address, &piece.bytes)?;
            let (mut at, end) = (piece.address + piece.bytes.len() as u64, piece.end());
            while at < end {
                let now = ZEROS.len().min((end - at) as usize);
                write(at, &ZEROS[..now])?;
                at += now as u64;
            }
        }
        Ok(())
    }
}

/// Decides what goes where.
///
/// # Errors
/// A sentence for everything that keeps these files from being loaded into this machine.
pub fn plan(request: &Request, machine: &Machine<'_>) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    if file.bytes.is_empty() {
        return Err(LoadError::Empty { name: file.name.clone() });
    }
    let not_that = |wanted| Err(LoadError::NotThat { name: file.name.clone(), wanted });
    let multiboot = || multiboot::header(&file.bytes);
    let is_elf = elf::is_elf(&file.bytes);
    match request.format {
        Format::Flat(address) => flat(request, machine, address),
        Format::Multiboot => match multiboot() {
            Some(header) => multiboot::load(&header, request, machine),
            None => not_that("a multiboot image"),
        },
        Format::Linux if linux::is_bzimage(&file.bytes) => linux::load_bzimage(request, machine),
        Format::Linux if is_elf => linux::load_vmlinux(&Elf::parse(file)?, request, machine),
        Format::Linux => not_that("a Linux kernel"),
        Format::Pvh if is_elf => match Elf::parse(file)? {
            elf @ Elf { pvh_entry: Some(entry), .. } => pvh::load(&elf, entry, request, machine),
            _ => not_that("a kernel with a PVH entry"),
        },
        Format::Pvh => not_that("a kernel with a PVH entry"),
        Format::Detect => {
            if let Some(header) = multiboot() {
                return multiboot::load(&header, request, machine);
            }
            if linux::is_bzimage(&file.bytes) {
                return linux::load_bzimage(request, machine);
            }
            if !is_elf {
                return Err(LoadError::Unknown { name: file.name.clone() });
            }
            let elf = Elf::parse(file)?;
            match elf.pvh_entry {
                Some(entry) => pvh::load(&elf, entry, request, machine),
                None if elf.is_64 => linux::load_vmlinux(&elf, request, machine),
                None => Err(LoadError::Unknown { name: file.name.clone() }),
            }
        }
    }
}

fn flat(request: &Request, machine: &Machine<'_>, address: u64) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    if !request.modules.is_empty() {
        let (format, takes) = ("a flat binary", "no other file along");
        return Err(LoadError::Modules { name: file.name.clone(), format, takes });
    }
    let (mut places, mut pieces) = (Places::new(machine.memory), Vec::new());
    places.take(address, file.bytes.len() as u64, &file.name)?;
    pieces.push(Piece::new(address, file.bytes.clone(), &file.name));
    let start = if address < 0x10_0000 {
        Start::Real { segment: (address >> 4) as u16, offset: (address & 0xf) as u16 }
    } else {
        let entry = u32::try_from(address).map_err(|_| LoadError::Malformed {
            name: file.name.clone(),
            what: format!("a flat binary begins in protected mode, which does not reach its address {address:#x}"),
        })?;
        Start::protected(entry, [0; 3], &mut places, &mut pieces)?
    };
    Ok(Plan { pieces, start, format: "a flat binary" })
}

/// The command line with its zero at the end, checked against what the guest takes.
fn command_line(request: &Request, limit: usize) -> Result<Vec<u8>, LoadError> {
    let bytes = request.command_line.len();
    if bytes > limit {
        return Err(LoadError::CommandLine { name: request.kernel.name.clone(), bytes, limit });
    }
    Ok([request.command_line.as_bytes(), &[0]].concat())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
