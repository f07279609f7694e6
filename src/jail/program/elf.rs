//! The few facts of an ELF file that say what its dynamic loader is going to open (`elf(5)`).
//!
//! The file may be anything: every offset and size in it is checked, and what makes no sense is no program for this
//! machine, which `execve` then says better than we could.

use std::io;

/// Most program headers, bytes of a dynamic section and bytes of its strings that are read; far more than any linker makes.
const MAX_HEADERS: usize = 512;
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_STRINGS: u64 = 16 << 20;
/// `PATH_MAX`: no interpreter has a longer path.
const MAX_PATH: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Reads from a place of a file.
pub trait ReadAt {
    /// Reads into the buffer from `offset`; returns how much, which is 0 at the end.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Up to `size` bytes from `offset`: fewer if the file ends, or cannot be read.
    fn up_to(&self, size: usize, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let mut filled = 0;
        while filled < size {
            match self.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64)) {
                Ok(count) if count > 0 => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        bytes.truncate(filled);
        bytes
    }
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// What the dynamic loader reads first in a program or library. Strings are bytes, as paths are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// The dynamic loader (`PT_INTERP`); a static program has none.
    pub interpreter: Option<Vec<u8>>,
    /// Libraries that it names (`DT_NEEDED`), in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_RPATH`, folders with colons between.
    pub rpath: Option<Vec<u8>>,
    /// `DT_RUNPATH`; where there is one, `DT_RPATH` does not count.
    pub runpath: Option<Vec<u8>>,
}

/// A program header, the fields that matter here.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Reads a 64-bit little-endian ELF file for x86-64; `None` for anything else.
pub fn read(file: &(impl ReadAt + ?Sized)) -> Option<Elf> {
    let segments = segments(file)?;
    let bytes_of = |segment: &Segment, most| bytes(file, segment.offset, segment.size, most);
    let mut elf = Elf::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        elf.interpreter = Some(until_zero(&bytes_of(segment, MAX_PATH)?).to_vec());
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else { return Some(elf) };
    let entries = entries(&bytes_of(dynamic, MAX_DYNAMIC)?);
    let value = |tag| entries.iter().find(|entry| entry.0 == tag).map(|entry| entry.1);
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else { return Some(elf) };
    let strings = bytes(file, file_offset(&segments, address)?, size, MAX_STRINGS)?;
    let string = |at: u64| strings.get(usize::try_from(at).ok()?..).map(|rest| until_zero(rest).to_vec());
    for (tag, at) in &entries {
        match *tag {
            DT_NEEDED => elf.needed.extend(string(*at)),
            DT_RPATH => elf.rpath = string(*at),
            DT_RUNPATH => elf.runpath = string(*at),
            _ => {}
        }
    }
    Some(elf)
}

fn segments(file: &(impl ReadAt + ?Sized)) -> Option<Vec<Segment>> {
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    let header = bytes(file, 0, HEADER as u64, HEADER as u64)?;
    // Magic, 64 bits, little-endian, version 1; then the machine: EM_X86_64 is 62.
    if header[..7] != *b"\x7fELF\x02\x01\x01" || u16_at(&header, 18)? != 62 || u16_at(&header, 54)? != ENTRY as u16 {
        return None;
    }
    let (offset, count) = (u64_at(&header, 32)?, usize::from(u16_at(&header, 56)?).min(MAX_HEADERS));
    let table = bytes(file, offset, (count * ENTRY) as u64, (MAX_HEADERS * ENTRY) as u64)?;
    let segment = |entry: &[u8]| {
        let (kind, offset) = (u32_at(entry, 0)?, u64_at(entry, 8)?);
        Some(Segment { kind, offset, address: u64_at(entry, 16)?, size: u64_at(entry, 32)? })
    };
    table.chunks_exact(ENTRY).map(segment).collect()
}

/// Tags and values of a dynamic section, up to its end mark.
fn entries(section: &[u8]) -> Vec<(u64, u64)> {
    let entries = section.chunks_exact(16).filter_map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?)));
    entries.take_while(|(tag, _)| *tag != DT_NULL).collect()
}

/// Where in the file an address of the loaded program lies.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && address.checked_sub(segment.address).is_some_and(|inside| inside < segment.size)
    };
    let segment = segments.iter().find(holds)?;
    segment.offset.checked_add(address - segment.address)
}

fn bytes(file: &(impl ReadAt + ?Sized), offset: u64, size: u64, most: u64) -> Option<Vec<u8>> {
    let size = usize::try_from(Some(size).filter(|size| *size <= most)?).ok()?;
    Some(file.up_to(size, offset)).filter(|bytes| bytes.len() == size)
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod testing {
    /// The smallest ELF file with these facts.
    pub fn elf(interpreter: Option<&str>, needed: &[&str], path: Option<(u64, &str)>) -> Vec<u8> {
        let mut strings = vec![0];
        let mut add = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut dynamic: Vec<(u64, u64)> = needed.iter().map(|name| (super::DT_NEEDED, add(name))).collect();
        dynamic.extend(path.map(|(tag, text)| (tag, add(text))));
        let (base, data) = (0x40_0000u64, 64 + 3 * 56u64);
        let size = strings.len() as u64;
        dynamic.extend([(super::DT_STRTAB, base + data), (super::DT_STRSZ, size), (0, 0), (super::DT_NEEDED, 1)]);
        let interpreter: Vec<u8> = interpreter.map(|path| path.bytes().chain([0]).collect()).unwrap_or_default();
        let (table, length) = (data + size, dynamic.len() as u64 * 16);
        let end = table + length + interpreter.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 3;
        let mut segment = |kind: u32, offset: u64, size: u64| {
            file.extend([kind, 4].iter().flat_map(|word| word.to_le_bytes()));
            file.extend([offset, base + offset, 0, size, size, 8].iter().flat_map(|word| word.to_le_bytes()));
        };
        segment(super::PT_LOAD, 0, end);
        segment(super::PT_DYNAMIC, table, length);
        segment(if interpreter.is_empty() { 0 } else { super::PT_INTERP }, table + length, interpreter.len() as u64);
        file.extend(strings);
        file.extend(dynamic.iter().flat_map(|(tag, value)| [*tag, *value]).flat_map(u64::to_le_bytes));
        file.extend(interpreter);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read() {
        let file = testing::elf(Some("/lib/ld.so"), &["liba.so", "libb.so.1"], Some((DT_RUNPATH, "$ORIGIN:/x")));
        let wanted = Elf {
            interpreter: Some(b"/lib/ld.so".to_vec()),
            needed: vec![b"liba.so".to_vec(), b"libb.so.1".to_vec()],
            rpath: None,
            runpath: Some(b"$ORIGIN:/x".to_vec()),
        };
        assert_eq!(read(&file[..]), Some(wanted));
        let rpath = read(&testing::elf(None, &[], Some((DT_RPATH, "/y")))[..]).unwrap();
        assert_eq!((rpath.rpath, rpath.interpreter), (Some(b"/y".to_vec()), None));
    }

    #[test]
    fn this_program_is_read() {
        let elf = read(&std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(elf.needed.iter().any(|name| name.starts_with(b"libc.so")), "{elf:?}");
        assert!(elf.interpreter.is_some_and(|path| path.starts_with(b"/")));
    }

    /// A file cut anywhere, or with any byte changed, is read or refused, and nothing worse.
    #[test]
    fn broken_files_are_harmless() {
        let file = testing::elf(Some("/lib/ld.so"), &["liba.so"], Some((DT_RUNPATH, "/x")));
        for length in 0..file.len() {
            let _ = read(&file[..length]);
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                let _ = read(&changed[..]);
            }
        }
        assert_eq!(read(&b"#!/bin/sh\n"[..]), None);
        let mut other = file;
        other[18] = 183; // EM_AARCH64
        assert_eq!(read(&other[..]), None);
    }
}
