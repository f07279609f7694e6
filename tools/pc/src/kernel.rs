//! A kernel that is started without firmware: its files are read, put into memory, and told of the machine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use outboard_plugin::{Error, Registers};

use crate::acpi::Tables;
use crate::error::PcError;
use crate::files::Files;
use crate::load::{self, File, Format, MemoryKind, MemoryRange, Module, Request, Start};
use crate::memory::{FOUR_GIB, Memory};
use crate::options::Options;

/// Where memory that a kernel may use ends below the display: the last KiB belongs to the BIOS, if there is one.
const LOW_END: u64 = 0x9_fc00;
/// Where the ACPI root pointer and the tables lie: kernels look for the pointer from here to 1 MiB, on multiples of 16.
const TABLES: u64 = 0xe_0000;
/// Bytes before the tables: the root pointer, and what is missing to a multiple of 64, as the tables want it.
const ROOT: u64 = 64;
const MIB: u64 = 1 << 20;

/// A kernel that is to be put into memory, at the beginning and at each reset.
pub struct Kernel {
    tables: Vec<u8>,
    root: Vec<u8>,
    plan: load::Plan,
}

impl Kernel {
    /// Puts it into memory, with the ACPI tables.
    ///
    /// # Errors
    /// What it was planned for is no memory.
    pub fn put(&self, memory: &Memory) -> Result<(), PcError> {
        memory.write(TABLES, &self.root)?;
        memory.write(TABLES + ROOT, &self.tables)?;
        self.plan.carry_out(|address, bytes| memory.write(address, bytes))
    }

    /// How the first vCPU begins.
    pub fn start(&self) -> Start {
        self.plan.start
    }
}

/// Reads the kernel that the options name, and decides what of it goes where.
///
/// # Errors
/// A sentence that says what keeps the kernel from being loaded.
pub fn load(options: &Options, files: &mut Files, memory: &Memory, tables: &Tables) -> Result<Option<Kernel>, PcError> {
    let Some(kernel) = &options.kernel else { return Ok(None) };
    let format: Format = options.format.parse()?;
    let request = Request {
        kernel: read_kernel(kernel, format, files)?,
        modules: options.initrd.iter().map(|words| module(words, files)).collect::<Result<_, _>>()?,
        command_line: options.append.clone().unwrap_or_default(),
        format,
    };
    let (tables, rsdp) = tables.place((TABLES + ROOT) as u32);
    let map = map(memory.low(), memory.high());
    let machine = load::Machine { memory: &map, rsdp: Some(TABLES), text_display: options.vga };
    let plan = load::plan(&request, &machine)?;
    let kernel = Kernel { tables, root: rsdp.to_vec(), plan };
    kernel.put(memory)?;
    Ok(Some(kernel))
}

/// Sets the registers that a kernel starts with.
pub type Begin = Arc<dyn Fn(&mut Registers) -> Result<(), Error> + Send + Sync>;

/// Sets the registers that a start asks for.
pub fn begin(start: Start) -> Begin {
    Arc::new(move |registers| {
        let mut sregs = registers.sregs()?;
        let regs = start.registers(&mut sregs);
        registers.set_sregs(&sregs)?;
        registers.set_regs(&regs)
    })
}

/// A flat binary is taken as it is; every other kernel may be packed.
fn read_kernel(path: &Path, format: Format, files: &mut Files) -> Result<File, PcError> {
    let file = File::read(path, files.open(path, false)?)?;
    Ok(if matches!(format, Format::Flat(_)) { file } else { file.unpacked()? })
}

/// A file, and the words behind its name.
fn module(words: &OsStr, files: &mut Files) -> Result<Module, PcError> {
    let bytes = words.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let (name, rest) = bytes.split_at(end);
    let command_line = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).into_owned();
    let path = Path::new(OsStr::from_bytes(name));
    Ok(Module { file: File::read(path, files.open(path, false)?)?, command_line })
}

/// The memory map that a kernel is told of.
fn map(low: u64, high: u64) -> Vec<MemoryRange> {
    let range = |start: u64, end: u64, kind| MemoryRange { start, length: end - start, kind };
    let mut map = vec![range(0, LOW_END, MemoryKind::Ram), range(LOW_END, MIB, MemoryKind::Reserved)];
    if low > MIB {
        map.push(range(MIB, low, MemoryKind::Ram));
    }
    if high > 0 {
        map.push(range(FOUR_GIB, FOUR_GIB + high, MemoryKind::Ram));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_the_hole_of_a_pc_and_what_lies_above_4_gib() {
        let ends = |low, high| map(low, high).iter().map(|range| (range.start, range.end())).collect::<Vec<_>>();
        assert_eq!(ends(MIB, 0), [(0, LOW_END), (LOW_END, MIB)]);
        assert_eq!(ends(3 << 30, 5 << 30)[2..], [(MIB, 3 << 30), (FOUR_GIB, 9 << 30)]);
    }

    #[test]
    fn words_behind_a_file_are_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dom0");
        std::fs::write(&path, b"kernel").unwrap();
        let words = format!("{} console=hvc0  root=x", path.display());
        let mut files = Files::default();
        let taken = module(OsStr::new(&words), &mut files).unwrap();
        assert_eq!((&taken.file.bytes[..], taken.command_line.as_str()), (&b"kernel"[..], "console=hvc0  root=x"));
        assert_eq!(module(path.as_os_str(), &mut files).unwrap().command_line, "");
        assert!(
            module(OsStr::new("/missing words"), &mut files).unwrap_err().to_string().contains("cannot open /missing:")
        );
    }
}
