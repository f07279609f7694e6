//! Files and machines for the tests of this room, made byte by byte.

use super::places::{MemoryKind, MemoryRange};
use super::{File, Format, Machine, Module, Plan, Request, plan};
use crate::load::LoadError;

/// 64 MiB with the hole of a PC.
pub const MEMORY: [MemoryRange; 3] = [
    MemoryRange { start: 0, length: 0x9_fc00, kind: MemoryKind::Ram },
    MemoryRange { start: 0x9_fc00, length: 0x6_0400, kind: MemoryKind::Reserved },
    MemoryRange { start: 0x10_0000, length: 63 << 20, kind: MemoryKind::Ram },
];

pub fn machine() -> Machine<'static> {
    Machine { memory: &MEMORY, rsdp: Some(0xe_0000), text_display: true }
}

pub fn file(name: &str, bytes: &[u8]) -> File {
    File { name: name.into(), bytes: bytes.to_vec() }
}

pub fn request(bytes: &[u8]) -> Request {
    Request {
        kernel: file("kernel", bytes),
        modules: Vec::new(),
        command_line: "console=ttyS0 quiet".into(),
        format: Format::Detect,
    }
}

pub fn with_module(bytes: &[u8], module: &[u8]) -> Request {
    let module = Module { file: file("module", module), command_line: "words for it".into() };
    Request { modules: vec![module], ..request(bytes) }
}

/// The plan for a file in the machine of the tests.
pub fn planned(request: &Request) -> Result<Plan, LoadError> {
    plan(request, &machine())
}

/// Why there is none.
#[track_caller]
pub fn refused(request: &Request) -> String {
    planned(request).expect_err("a file that is wrong").to_string()
}

/// Memory as it is once a plan was carried out.
pub struct Loaded(Vec<u8>);

impl Loaded {
    pub fn new(plan: &Plan) -> Loaded {
        // Nothing may count on zeros that nobody wrote.
        let mut memory = vec![0xee; 64 << 20];
        plan.carry_out(|address, bytes| {
            memory[address as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok::<(), ()>(())
        })
        .expect("addresses in memory");
        Loaded(memory)
    }

    pub fn bytes(&self, address: u64, length: usize) -> &[u8] {
        &self.0[address as usize..][..length]
    }

    pub fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address, 4).try_into().unwrap())
    }

    pub fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    /// The string at an address, up to its zero.
    pub fn text(&self, address: u64) -> &str {
        let bytes = &self.0[address as usize..];
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        std::str::from_utf8(&bytes[..end]).unwrap()
    }
}

/// An ELF file's segment: its bytes, where it goes, how long it is there.
pub struct Part {
    pub bytes: Vec<u8>,
    pub physical: u64,
    pub virtual_: u64,
    pub in_memory: u64,
}

pub fn part(bytes: &[u8], physical: u64, in_memory: u64) -> Part {
    Part { bytes: bytes.to_vec(), physical, virtual_: physical, in_memory }
}

/// An executable of class 64 or 32 with these segments, and the PVH note if an entry for it is given.
pub fn elf(is_64: bool, entry: u64, parts: &[Part], pvh: Option<u32>) -> Vec<u8> {
    let (header, entry_size) = if is_64 { (64, 56) } else { (52, 32) };
    let count = parts.len() + usize::from(pvh.is_some());
    let mut data_at = (header + entry_size * count) as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    out.resize(16, 0);
    out.extend(2u16.to_le_bytes());
    out.extend((if is_64 { 62u16 } else { 3 }).to_le_bytes());
    out.extend(1u32.to_le_bytes());
    let word = |value: u64| if is_64 { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() };
    for value in [entry, header as u64, 0] {
        out.extend(word(value));
    }
    out.extend(0u32.to_le_bytes());
    for value in [header as u16, entry_size as u16, count as u16, 0, 0, 0] {
        out.extend(value.to_le_bytes());
    }
    let mut note = Vec::new();
    if let Some(entry) = pvh {
        for value in [4, 4, 18] {
            note.extend(u32::to_le_bytes(value));
        }
        note.extend(b"Xen\0");
        note.extend(entry.to_le_bytes());
    }
    let mut data = Vec::new();
    let notes = (!note.is_empty()).then(|| (4u32, part(&note, 0, note.len() as u64)));
    let loads = parts.iter().map(|load| (1u32, Part { bytes: load.bytes.clone(), ..*load }));
    for (kind, part) in loads.chain(notes) {
        let (offset, length) = (data_at, part.bytes.len() as u64);
        out.extend(kind.to_le_bytes());
        if is_64 {
            out.extend(7u32.to_le_bytes());
        }
        for value in [offset, part.virtual_, part.physical, length, part.in_memory] {
            out.extend(word(value));
        }
        if !is_64 {
            out.extend(7u32.to_le_bytes());
        }
        out.extend(word(4));
        data_at += length;
        data.extend(part.bytes);
    }
    out.extend(data);
    out
}
