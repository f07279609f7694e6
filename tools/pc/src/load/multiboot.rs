//! Multiboot 1 (the Multiboot Specification, version 0.6.96): header, image and information structure.

use super::elf::{self, Elf};
use super::error::LoadError;
use super::file::File;
use super::places::{MemoryRange, Places};
use super::start::Start;
use super::{Machine, Piece, Plan, Request, bios};

const MAGIC: u32 = 0x1bad_b002;
/// What the guest finds in EAX.
const LOADED: u32 = 0x2bad_b002;
/// The header lies wholly within so many bytes, on a multiple of 4 (3.1).
const SEARCH: usize = 8192;

/// Header flags (3.1.2). A loader that does not know one of the low 16 may not load the image.
const ALIGN_MODULES: u32 = 1;
const WANT_MEMORY: u32 = 1 << 1;
const WANT_VIDEO: u32 = 1 << 2;
const KNOWN: u32 = ALIGN_MODULES | WANT_MEMORY | WANT_VIDEO;
const ADDRESSES: u32 = 1 << 16;

/// Flags of the information structure (3.3).
const HAS_MEMORY: u32 = 1;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
const HAS_LOADER: u32 = 1 << 9;
const HAS_FRAMEBUFFER: u32 = 1 << 12;

/// Bytes of the structure, up to the end of the framebuffer's fields.
const INFORMATION: usize = 116;
const MODULE: usize = 16;
/// An entry of the memory map and the size field before it, which does not count itself.
const MAP_ENTRY: usize = 24;

/// What this loader calls itself.
const LOADER: &[u8] = b"outboard\0";

/// The text display that a PC has, as the framebuffer fields tell it (3.3): EGA text, two bytes a character.
const TEXT: (u64, u32, u32, u32, u8, u8) = (0xb_8000, 160, 80, 25, 16, 2);

/// Everything is reached by 32-bit pointers.
const BELOW: u64 = 1 << 32;

/// A header, and where in the file it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    offset: usize,
    flags: u32,
    /// Header, first and behind-the-last byte of the loaded part, end of its zeros, entry.
    addresses: [u32; 5],
}

/// Finds the header of an image.
pub fn header(bytes: &[u8]) -> Option<Header> {
    let searched = &bytes[..bytes.len().min(SEARCH)];
    let word = |at: usize| Some(u32::from_le_bytes(searched.get(at..at + 4)?.try_into().ok()?));
    (0..searched.len()).step_by(4).find_map(|offset| {
        let (flags, checksum) = (word(offset + 4)?, word(offset + 8)?);
        if word(offset)? != MAGIC || MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let mut addresses = [0; 5];
        if flags & ADDRESSES != 0 {
            for (at, address) in addresses.iter_mut().enumerate() {
                *address = word(offset + 12 + 4 * at)?;
            }
        }
        Some(Header { offset, flags, addresses })
    })
}

/// Loads an image with this header, and what comes along.
///
/// # Errors
/// Those of a malformed or truncated image, and of parts that find no place.
pub fn load(header: &Header, request: &Request, machine: &Machine<'_>) -> Result<Plan, LoadError> {
    let file = &request.kernel;
    let unknown = header.flags & 0xffff & !KNOWN;
    if unknown != 0 {
        let what = format!("its multiboot header asks for features that are not known here (flags {unknown:#x})");
        return Err(LoadError::Malformed { name: file.name.clone(), what });
    }
    let (mut places, mut pieces) = (Places::new(machine.memory), Vec::new());
    let (entry, end) = if header.flags & ADDRESSES != 0 {
        load_flat(header, file, &mut places, &mut pieces)?
    } else if elf::is_elf(&file.bytes) {
        let elf = Elf::parse(file)?;
        elf.load(file, &mut places, &mut pieces)?;
        (elf.physical_entry(file)?, elf.end())
    } else {
        let what = "its multiboot header gives no addresses, and it is not in ELF".to_owned();
        return Err(LoadError::Malformed { name: file.name.clone(), what });
    };
    let entry = u32::try_from(entry).map_err(|_| LoadError::Malformed {
        name: file.name.clone(),
        what: format!("its entry {entry:#x} lies above 4 GiB"),
    })?;
    let information = inform(request, machine, end, &mut places, &mut pieces)?;
    bios::put(machine, &mut places, &mut pieces);
    let start = Start::protected(entry, [LOADED, information, 0], &mut places, &mut pieces)?;
    Ok(Plan { pieces, start, format: "a multiboot image" })
}

/// The part of the file that the header's addresses name (3.1.3). Returns the entry and the end.
fn load_flat(
    header: &Header,
    file: &File,
    places: &mut Places,
    pieces: &mut Vec<Piece>,
) -> Result<(u64, u64), LoadError> {
    let malformed =
        |what: &str| LoadError::Malformed { name: file.name.clone(), what: format!("in its multiboot header {what}") };
    let [header_at, start, end, zeros_end, entry] = header.addresses.map(u64::from);
    let before = header_at.checked_sub(start).ok_or_else(|| malformed("the image begins behind the header"))?;
    let offset =
        (header.offset as u64).checked_sub(before).ok_or_else(|| malformed("the image begins before the file"))?;
    let bytes = file.bytes.len() as u64;
    // An end of 0 is the end of the file.
    let length = if end == 0 { bytes - offset } else { end.saturating_sub(start) };
    if length == 0 {
        return Err(malformed("the image ends before it begins"));
    }
    if offset + length > bytes {
        let what = "the image of its multiboot header".to_owned();
        return Err(LoadError::Truncated { name: file.name.clone(), what, end: offset + length, bytes });
    }
    let in_memory = if zeros_end == 0 { length } else { zeros_end.saturating_sub(start) };
    let zeros = in_memory.checked_sub(length).ok_or_else(|| malformed("the zeros end before the image"))?;
    if !(start..start + in_memory).contains(&entry) {
        return Err(malformed("the entry lies outside of the image"));
    }
    places.take(start, in_memory, &file.name)?;
    let content = file.bytes[offset as usize..][..length as usize].to_vec();
    pieces.push(Piece { address: start, bytes: content, zeros, what: file.name.clone() });
    Ok((entry, start + in_memory))
}

/// Puts modules, command lines and the information structure into memory; returns the structure's address.
fn inform(
    request: &Request,
    machine: &Machine<'_>,
    kernel_end: u64,
    places: &mut Places,
    pieces: &mut Vec<Piece>,
) -> Result<u32, LoadError> {
    let mut put = |bytes: Vec<u8>, align, from, what: &str| -> Result<u32, LoadError> {
        let at = places.lowest(bytes.len() as u64, align, from, BELOW, what)?;
        pieces.push(Piece::new(at, bytes, what));
        Ok(at as u32)
    };
    let mut modules = Vec::with_capacity(request.modules.len() * MODULE);
    for module in &request.modules {
        // On pages whether the image asks for it or not, and behind it, where no image looks for itself.
        let start = put(module.file.bytes.clone(), 0x1000, kernel_end, &module.file.name)?;
        let line = put(line(&module.file.name, &module.command_line), 1, 0, "the command line of a module")?;
        let end = start + module.file.bytes.len() as u32;
        modules.extend([start, end, line, 0].iter().flat_map(|word| word.to_le_bytes()));
    }
    let map: Vec<u8> = machine.memory.iter().flat_map(map_entry).collect();
    let command_line = put(line(&request.kernel.name, &request.command_line), 1, 0, "the command line")?;
    let loader = put(LOADER.to_vec(), 1, 0, "the loader's name")?;
    let (count, map_length) = (request.modules.len() as u32, map.len() as u32);
    let modules = if modules.is_empty() { 0 } else { put(modules, 4, 0, "the list of modules")? };
    let map = put(map, 4, 0, "the memory map")?;
    let (lower, upper) = memory_sizes(machine.memory);

    let mut information = vec![0; INFORMATION];
    let mut flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP | HAS_LOADER;
    let mut set = |at: usize, word: u32| information[at..at + 4].copy_from_slice(&word.to_le_bytes());
    set(4, lower);
    set(8, upper);
    set(16, command_line);
    set(20, count);
    set(24, modules);
    set(44, map_length);
    set(48, map);
    set(64, loader);
    if machine.text_display {
        let (address, pitch, width, height, bits, kind) = TEXT;
        flags |= HAS_FRAMEBUFFER;
        set(88, address as u32);
        set(92, (address >> 32) as u32);
        set(96, pitch);
        set(100, width);
        set(104, height);
        set(108, u32::from_le_bytes([bits, kind, 0, 0]));
    }
    set(0, flags);
    put(information, 4, 0, "the multiboot information")
}

/// A command line as GNU GRUB's predecessors and QEMU give it: the name of the file, then the arguments.
fn line(name: &str, arguments: &str) -> Vec<u8> {
    let mut line = name.as_bytes().to_vec();
    if !arguments.is_empty() {
        line.push(b' ');
        line.extend(arguments.as_bytes());
    }
    line.push(0);
    line
}

fn map_entry(range: &MemoryRange) -> [u8; MAP_ENTRY] {
    let mut entry = [0; MAP_ENTRY];
    entry[..4].copy_from_slice(&(MAP_ENTRY as u32 - 4).to_le_bytes());
    entry[4..12].copy_from_slice(&range.start.to_le_bytes());
    entry[12..20].copy_from_slice(&range.length.to_le_bytes());
    entry[20..].copy_from_slice(&(range.kind as u32).to_le_bytes());
    entry
}

/// KiB of memory from 0 and from 1 MiB, up to the first hole each.
fn memory_sizes(memory: &[MemoryRange]) -> (u32, u32) {
    let places = Places::new(memory);
    let lower = places.ram_from(0).min(640 << 10) >> 10;
    let upper = (places.ram_from(1 << 20) >> 10).min(u32::MAX.into());
    (lower as u32, upper as u32)
}

#[cfg(test)]
#[path = "multiboot_tests.rs"]
mod tests;
