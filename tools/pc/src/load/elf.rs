//! What a loader wants of an ELF file: what goes where in physical memory, where it begins, and the PVH note.

use object::Endianness;
use object::elf::{EM_386, EM_X86_64, ET_DYN, ET_EXEC, FileHeader32, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use super::Piece;
use super::error::LoadError;
use super::file::File;
use super::places::Places;

/// `XEN_ELFNOTE_PHYS32_ENTRY` of Xen's public/elfnote.h.
const PHYS32_ENTRY: u32 = 18;

/// A part of the file that goes into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    offset: u64,
    in_file: u64,
    in_memory: u64,
    physical: u64,
    virtual_: u64,
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// It is of class 64, and not 32.
    pub is_64: bool,
    /// The entry of its header.
    pub entry: u64,
    /// The physical 32-bit entry that its PVH note gives.
    pub pvh_entry: Option<u64>,
    segments: Vec<Segment>,
}

/// Whether the file says that it is in ELF.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl Elf {
    /// Parses a file that begins as ELF files do.
    ///
    /// # Errors
    /// [`LoadError::Malformed`], [`LoadError::Truncated`].
    pub fn parse(file: &File) -> Result<Elf, LoadError> {
        match file.bytes.get(4) {
            Some(1) => Elf::parse_class::<FileHeader32<Endianness>>(file),
            Some(2) => Elf::parse_class::<FileHeader64<Endianness>>(file),
            _ => Err(malformed(file, "its ELF header has a class that is neither 32 nor 64 bits")),
        }
    }

    fn parse_class<H: FileHeader<Endian = Endianness>>(file: &File) -> Result<Elf, LoadError> {
        let data = &file.bytes[..];
        let wrong = |error: object::Error| malformed(file, format!("its ELF header is wrong: {error}"));
        let header = H::parse(data).map_err(wrong)?;
        let endian = header.endian().map_err(wrong)?;
        let machine = header.e_machine(endian);
        if !matches!(machine, EM_386 | EM_X86_64) || endian != Endianness::Little {
            return Err(malformed(file, format!("it is in ELF for machine {machine}, not for x86")));
        }
        if !matches!(header.e_type(endian), ET_EXEC | ET_DYN) {
            return Err(malformed(file, "it is in ELF and no executable"));
        }
        let headers = header.program_headers(endian, data);
        let headers = headers.map_err(|_| malformed(file, "its program headers lie outside of the file"))?;
        let mut elf = Elf {
            is_64: header.is_class_64(),
            entry: header.e_entry(endian).into(),
            pvh_entry: None,
            segments: Vec::new(),
        };
        for header in headers {
            if header.p_type(endian) == PT_LOAD && header.p_memsz(endian).into() > 0 {
                elf.segments.push(segment(file, header, endian)?);
            }
            // Notes that cannot be read are no notes of ours.
            if let Ok(Some(mut notes)) = header.notes(endian, data) {
                while let Ok(Some(note)) = notes.next() {
                    if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                        elf.pvh_entry = word(note.desc());
                    }
                }
            }
        }
        if elf.segments.is_empty() {
            return Err(malformed(file, "it is in ELF and has nothing to load"));
        }
        Ok(elf)
    }

    /// Puts the segments into memory.
    ///
    /// # Errors
    /// [`LoadError::NoMemory`], [`LoadError::Overlap`].
    pub fn load(&self, file: &File, places: &mut Places, pieces: &mut Vec<Piece>) -> Result<(), LoadError> {
        for segment in &self.segments {
            places.take(segment.physical, segment.in_memory, &file.name)?;
            let bytes = file.bytes[segment.offset as usize..][..segment.in_file as usize].to_vec();
            let zeros = segment.in_memory - segment.in_file;
            pieces.push(Piece { address: segment.physical, bytes, zeros, what: file.name.clone() });
        }
        Ok(())
    }

    /// The physical address of the entry: files whose addresses differ may give either.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] if it is in no segment.
    pub fn physical_entry(&self, file: &File) -> Result<u64, LoadError> {
        let inside = |start: u64, segment: &Segment| self.entry.wrapping_sub(start) < segment.in_memory;
        if self.segments.iter().any(|segment| inside(segment.physical, segment)) {
            return Ok(self.entry);
        }
        let holder = self.segments.iter().find(|segment| inside(segment.virtual_, segment));
        let physical = holder.map(|segment| self.entry - segment.virtual_ + segment.physical);
        physical.ok_or_else(|| malformed(file, format!("its entry {:#x} is in none of its segments", self.entry)))
    }

    /// Address behind the last segment.
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.physical.saturating_add(segment.in_memory)).max().unwrap_or(0)
    }
}

fn segment<P: ProgramHeader<Endian = Endianness>>(
    file: &File,
    header: &P,
    endian: Endianness,
) -> Result<Segment, LoadError> {
    let segment = Segment {
        offset: header.p_offset(endian).into(),
        in_file: header.p_filesz(endian).into(),
        in_memory: header.p_memsz(endian).into(),
        physical: header.p_paddr(endian).into(),
        virtual_: header.p_vaddr(endian).into(),
    };
    let (end, bytes) = (segment.offset.saturating_add(segment.in_file), file.bytes.len() as u64);
    if end > bytes {
        let what = format!("its segment for address {:#x}", segment.physical);
        return Err(LoadError::Truncated { name: file.name.clone(), what, end, bytes });
    }
    if segment.in_file > segment.in_memory {
        return Err(malformed(file, "a segment of it has more bytes in the file than in memory"));
    }
    Ok(segment)
}

/// The first four or eight bytes of a note.
fn word(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        0..4 => None,
        4..8 => Some(u32::from_le_bytes(bytes[..4].try_into().ok()?).into()),
        _ => Some(u64::from_le_bytes(bytes[..8].try_into().ok()?)),
    }
}

fn malformed(file: &File, what: impl Into<String>) -> LoadError {
    LoadError::Malformed { name: file.name.clone(), what: what.into() }
}
