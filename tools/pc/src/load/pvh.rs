//! The PVH boot protocol (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): one 32-bit entry, one structure.

use super::elf::Elf;
use super::error::LoadError;
use super::places::{MemoryRange, Places};
use super::start::Start;
use super::{Machine, Piece, Plan, Request, bios, command_line};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The version with a memory map.
const VERSION: u32 = 1;
/// Bytes of `hvm_start_info`, of a module and of an entry of the memory map.
const START_INFO: usize = 56;

/// No protocol limits the command line; Linux on x86 takes 2047 bytes (`COMMAND_LINE_SIZE`), others less or more.
const COMMAND_LINE: usize = 0xffff;

/// Kernels of this protocol begin in 32-bit mode.
const BELOW: u64 = 1 << 32;

/// Loads a kernel in ELF that has this entry by its note.
///
/// # Errors
/// Those of parts that find no place.
pub fn load(elf: &Elf, entry: u64, request: &Request, machine: &Machine<'_>) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    let entry = u32::try_from(entry).map_err(|_| LoadError::Malformed {
        name: file.name.clone(),
        what: format!("its PVH entry {entry:#x} lies above 4 GiB"),
    })?;
    let (mut places, mut pieces) = (Places::new(machine.memory), Vec::new());
    elf.load(file, &mut places, &mut pieces)?;
    let mut put = |bytes: Vec<u8>, align, from, what: &str| -> Result<u64, LoadError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let at = places.lowest(bytes.len() as u64, align, from, BELOW, what)?;
        pieces.push(Piece::new(at, bytes, what));
        Ok(at)
    };
    let line = put(command_line(request, COMMAND_LINE)?, 1, 0, "the command line")?;
    let mut modules = Vec::new();
    for module in &request.modules {
        let start = put(module.file.bytes.clone(), 0x1000, elf.end(), &module.file.name)?;
        let line = match module.command_line.as_str() {
            "" => 0,
            line => put([line.as_bytes(), &[0]].concat(), 1, 0, "the command line of a module")?,
        };
        modules.extend([start, module.file.bytes.len() as u64, line, 0].iter().flat_map(|word| word.to_le_bytes()));
    }
    let modules = put(modules, 8, 0, "the list of modules")?;
    let map: Vec<u8> = machine.memory.iter().flat_map(map_entry).collect();
    let map = put(map, 8, 0, "the memory map")?;

    let mut info = Vec::with_capacity(START_INFO);
    for word in [MAGIC, VERSION, 0, request.modules.len() as u32] {
        info.extend(word.to_le_bytes());
    }
    for word in [modules, line, machine.rsdp.unwrap_or(0), map] {
        info.extend(word.to_le_bytes());
    }
    info.extend((machine.memory.len() as u32).to_le_bytes());
    info.resize(START_INFO, 0);
    let info = put(info, 8, 0, "the PVH start information")? as u32;
    bios::put(machine, &mut places, &mut pieces);
    let start = Start::protected(entry, [0, info, 0], &mut places, &mut pieces)?;
    Ok(Plan { pieces, start, format: "a kernel with a PVH entry" })
}

fn map_entry(range: &MemoryRange) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..8].copy_from_slice(&range.start.to_le_bytes());
    entry[8..16].copy_from_slice(&range.length.to_le_bytes());
    entry[16..20].copy_from_slice(&(range.kind as u32).to_le_bytes());
    entry
}
