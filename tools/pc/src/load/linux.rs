//! Linux by its x86 boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst): bzImage and vmlinux.

use super::elf::Elf;
use super::error::LoadError;
use super::file::File;
use super::places::{MemoryKind, MemoryRange, Places};
use super::start::Start;
use super::{Machine, Piece, Plan, Request, bios, command_line};

/// Bytes of the boot parameters.
const PARAMETERS: usize = 4096;
/// Offsets within the boot parameters; those of the setup header are the same in the file.
const ACPI_RSDP: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x200;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const E820_TABLE: usize = 0x2d0;
const MAX_E820: usize = 128;

const LOADED_HIGH: u8 = 1;
/// The kernel has a 64-bit entry, 0x200 bytes behind its start.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// The oldest protocol that is loaded: it says how much memory the kernel takes and where it wants to be (2.10, Linux
/// 2.6.31); 2.12 (Linux 3.8) tells of the 64-bit entry.
const OLDEST: u16 = 0x20a;
const WITH_XLOADFLAGS: u16 = 0x20c;
/// The protocol that a vmlinux, which has no header, is told: that of Linux 5.5.
const CURRENT: u16 = 0x20f;
/// A boot loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// `COMMAND_LINE_SIZE` of arch/x86/include/asm/setup.h, without the zero.
const COMMAND_LINE: usize = 2047;
/// Where an initrd ends at most, if the kernel does not say (boot.rst, `initrd_addr_max`).
const INITRD_BELOW: u64 = 0x3800_0000;

const BELOW: u64 = 1 << 32;

/// Whether the file begins with a setup header.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(MAGIC..MAGIC + 4) == Some(b"HdrS") && bytes.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
}

/// The parameters that a kernel is told, as bytes at offsets.
struct Parameters(Vec<u8>);

impl Parameters {
    fn new() -> Parameters {
        Parameters(vec![0; PARAMETERS])
    }

    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("as many bytes as asked for")
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.at(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.at(at))
    }
}

/// Loads a bzImage.
///
/// # Errors
/// Those of a malformed or truncated file, and of parts that find no place.
pub fn load_bzimage(request: &Request, machine: &Machine<'_>) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    let (mut parameters, setup) = setup_header(file)?;
    let version = parameters.u16(VERSION);
    if version < OLDEST || parameters.0[LOADFLAGS] & LOADED_HIGH == 0 {
        let what = format!("its boot protocol {}.{:02} is too old, or it is a zImage", version >> 8, version & 0xff);
        return Err(malformed(file, what));
    }
    let code = &file.bytes[setup..];
    let bytes = u64::from(parameters.u32(INIT_SIZE)).max(code.len() as u64);
    let (mut places, mut pieces) = (Places::new(machine.memory), Vec::new());
    let preferred = u64::from_le_bytes(parameters.at(PREF_ADDRESS));
    let at = match places.take(preferred, bytes, &file.name) {
        Ok(()) => preferred,
        Err(_) if parameters.0[RELOCATABLE] != 0 => {
            let align = u64::from(parameters.u32(KERNEL_ALIGNMENT)).max(1).checked_next_power_of_two().unwrap_or(1);
            places.lowest(bytes, align, 0x10_0000, BELOW, &file.name)?
        }
        Err(error) => return Err(error),
    };
    pieces.push(Piece::new(at, code.to_vec(), &file.name));
    let limit = match parameters.u32(CMDLINE_SIZE) {
        0 => 255,
        limit => limit as usize,
    };
    let initrd_below = u64::from(parameters.u32(INITRD_ADDR_MAX)) + 1;
    let told = tell(&mut parameters, request, machine, [limit as u64, initrd_below], &mut places, &mut pieces)?;
    bios::put(machine, &mut places, &mut pieces);
    let start = if version >= WITH_XLOADFLAGS && parameters.u16(XLOADFLAGS) & XLF_KERNEL_64 != 0 {
        Start::long(at + ENTRY_64, told, &mut places, &mut pieces)?
    } else {
        Start::protected(at as u32, [0, 0, told as u32], &mut places, &mut pieces)?
    };
    Ok(Plan { pieces, start, format: "a Linux bzImage" })
}

/// The parameters with the header of the file in them, and where its code begins.
fn setup_header(file: &File) -> Result<(Parameters, usize), LoadError> {
    let sectors = match file.bytes[SETUP_HEADER] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    if setup >= file.bytes.len() {
        let bytes = file.bytes.len() as u64;
        let what = "the setup code of Linux".to_owned();
        return Err(LoadError::Truncated { name: file.name.clone(), what, end: setup as u64 + 1, bytes });
    }
    // The header ends where its own jump leads to (boot.rst, "jump").
    let end = (MAGIC + usize::from(file.bytes[JUMP + 1])).min(setup);
    let mut parameters = Parameters::new();
    parameters.0[SETUP_HEADER..end].copy_from_slice(&file.bytes[SETUP_HEADER..end]);
    let code = u64::from(u32::from_le_bytes(parameters.at(0x1f4))) * 16;
    let (end, bytes) = (setup as u64 + code, file.bytes.len() as u64);
    // A signature may lie behind the code, padding within it may be missing: only what is far too short was cut.
    if end > bytes + 16 {
        let what = "the code of Linux".to_owned();
        return Err(LoadError::Truncated { name: file.name.clone(), what, end, bytes });
    }
    Ok((parameters, setup))
}

/// Loads a vmlinux by its 64-bit entry.
///
/// # Errors
/// Those of a malformed file, and of parts that find no place.
pub fn load_vmlinux(elf: &Elf, request: &Request, machine: &Machine<'_>) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    if !elf.is_64 {
        return Err(malformed(file, "it is in ELF of 32 bits, and Linux is begun by its 64-bit entry"));
    }
    let (mut places, mut pieces) = (Places::new(machine.memory), Vec::new());
    elf.load(file, &mut places, &mut pieces)?;
    let mut parameters = Parameters::new();
    parameters.set(BOOT_FLAG, [0x55, 0xaa]);
    parameters.set(MAGIC, *b"HdrS");
    parameters.set(VERSION, CURRENT.to_le_bytes());
    parameters.set(LOADFLAGS, [LOADED_HIGH]);
    parameters.set(KERNEL_ALIGNMENT, 0x20_0000u32.to_le_bytes());
    let limits = [COMMAND_LINE as u64, INITRD_BELOW];
    let told = tell(&mut parameters, request, machine, limits, &mut places, &mut pieces)?;
    bios::put(machine, &mut places, &mut pieces);
    let start = Start::long(elf.physical_entry(file)?, told, &mut places, &mut pieces)?;
    Ok(Plan { pieces, start, format: "a Linux kernel in ELF" })
}

/// Fills in what the loader tells, and puts it into memory with command line and initrd; returns the address. The limits are
/// the bytes of the command line and the end of the initrd.
fn tell(
    parameters: &mut Parameters,
    request: &Request,
    machine: &Machine<'_>,
    [line_limit, initrd_below]: [u64; 2],
    places: &mut Places,
    pieces: &mut Vec<Piece>,
) -> Result<u64, LoadError> {
    let name = request.kernel.name.clone();
    let initrd = match &request.modules[..] {
        [] => None,
        [initrd] => Some(&initrd.file),
        _ => {
            let (format, takes) = ("Linux", "one other file along, the initrd");
            return Err(LoadError::Modules { name, format, takes });
        }
    };
    let line = command_line(request, line_limit as usize)?;
    let at = places.lowest(line.len() as u64, 1, 0, BELOW, "the command line")?;
    pieces.push(Piece::new(at, line, "the command line"));
    parameters.set(CMD_LINE_PTR, (at as u32).to_le_bytes());
    parameters.set(TYPE_OF_LOADER, [UNKNOWN_LOADER]);
    if let Some(initrd) = initrd {
        let bytes = initrd.bytes.len() as u64;
        let at = places.highest(bytes, 0x1000, initrd_below.min(BELOW), &initrd.name)?;
        pieces.push(Piece::new(at, initrd.bytes.clone(), &initrd.name));
        parameters.set(RAMDISK_IMAGE, (at as u32).to_le_bytes());
        parameters.set(RAMDISK_SIZE, (bytes as u32).to_le_bytes());
    }
    if let Some(rsdp) = machine.rsdp {
        parameters.set(ACPI_RSDP, rsdp.to_le_bytes());
    }
    if machine.text_display {
        text_screen(parameters);
    }
    if machine.memory.len() > MAX_E820 {
        let what = format!("the memory map has {} ranges, and Linux takes {MAX_E820}", machine.memory.len());
        return Err(LoadError::Malformed { name, what });
    }
    parameters.set(E820_ENTRIES, [machine.memory.len() as u8]);
    for (entry, range) in machine.memory.iter().enumerate() {
        parameters.set(E820_TABLE + entry * 20, e820(range));
    }
    let at = places.lowest(PARAMETERS as u64, 0x1000, 0, BELOW, "the boot parameters")?;
    pieces.push(Piece::new(at, parameters.0.clone(), "the boot parameters"));
    Ok(at)
}

/// `struct screen_info` at offset 0: VGA text of 80 x 25 characters in mode 3, 16 lines each.
fn text_screen(parameters: &mut Parameters) {
    const MODE: usize = 0x06;
    const COLUMNS: usize = 0x07;
    const LINES: usize = 0x0e;
    const IS_VGA: usize = 0x0f;
    const POINTS: usize = 0x10;
    parameters.set(MODE, [3]);
    parameters.set(COLUMNS, [80]);
    parameters.set(LINES, [25]);
    parameters.set(IS_VGA, [1]);
    parameters.set(POINTS, 16u16.to_le_bytes());
}

fn e820(range: &MemoryRange) -> [u8; 20] {
    let mut entry = [0; 20];
    entry[..8].copy_from_slice(&range.start.to_le_bytes());
    entry[8..16].copy_from_slice(&range.length.to_le_bytes());
    let kind: MemoryKind = range.kind;
    entry[16..].copy_from_slice(&(kind as u32).to_le_bytes());
    entry
}

fn malformed(file: &File, what: impl Into<String>) -> LoadError {
    LoadError::Malformed { name: file.name.clone(), what: what.into() }
}
