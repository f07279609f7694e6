//! A disk (specification, section 5.2): requests of a queue are reads and writes of a file.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use virtio_bindings::virtio_blk as blk;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Backend, Kind};
use crate::error::PcError;
use crate::files::{self, Files};
use crate::memory::Map;
use crate::options;

const SECTOR: u64 = 512;
/// Bytes of a request's header: type, a reserved word, and the first sector.
const HEADER: u32 = 16;
/// Bytes of the disk's name.
const NAME: usize = blk::VIRTIO_BLK_ID_BYTES as usize;
const QUEUE: u16 = 256;

/// A disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    name: String,
}

impl Disk {
    /// Opens the disk's file. `number` becomes part of the name that the guest can read.
    ///
    /// # Errors
    /// A sentence if it cannot be opened, or has not even a sector.
    pub fn open(disk: &options::Disk, number: usize, files: &mut Files) -> Result<Disk, PcError> {
        let path = &disk.file;
        let mut file = files.open(path, !disk.read_only)?;
        let bytes = files::length(&mut file, path)?;
        if bytes < SECTOR {
            let why = "as a disk, it has less than the 512 bytes of a sector".to_owned();
            return Err(PcError::Unfit { path: path.clone(), why });
        }
        let name = format!("outboard-disk-{number}");
        Ok(Disk { file, sectors: bytes / SECTOR, read_only: disk.read_only, name })
    }

    /// What the registers say about it.
    pub fn kind(&self) -> Kind {
        let mut features = 1 << blk::VIRTIO_BLK_F_FLUSH | 1 << blk::VIRTIO_BLK_F_SEG_MAX;
        if self.read_only {
            features |= 1 << blk::VIRTIO_BLK_F_RO;
        }
        let mut config = vec![0; 0x3c];
        config[..8].copy_from_slice(&self.sectors.to_le_bytes());
        config[0xc..0x10].copy_from_slice(&u32::from(QUEUE - 2).to_le_bytes()); // segments of a request
        Kind { id: virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK, features, queues: vec![QUEUE], config }
    }

    /// Carries a request out: bytes written to the guest, its status among them.
    fn request(&mut self, chain: DescriptorChain<&Map>, memory: &Map) -> u32 {
        let descriptors: Vec<_> = chain.collect();
        let (Some(header), Some(last)) = (descriptors.first(), descriptors.last()) else { return 0 };
        if !last.is_write_only() || last.len() == 0 {
            return 0; // no place for a status
        }
        let status_at = GuestAddress(last.addr().0.saturating_add(u64::from(last.len()) - 1));
        let mut fields = [0; HEADER as usize];
        let readable = !header.is_write_only() && header.len() >= HEADER;
        let (mut written, mut status) = (0, blk::VIRTIO_BLK_S_IOERR);
        if readable && memory.read_slice(&mut fields, header.addr()).is_ok() {
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| fields[at + index]));
            let (kind, sector) = (word(0), u64::from(word(8)) | u64::from(word(12)) << 32);
            // The data lies behind the header and before the status, which may share descriptors with it.
            let mut data: Vec<(GuestAddress, u32, bool)> =
                descriptors.iter().map(|part| (part.addr(), part.len(), part.is_write_only())).collect();
            data[0] = (GuestAddress(data[0].0.0.saturating_add(HEADER.into())), data[0].1 - HEADER, false);
            if let Some(last) = data.last_mut() {
                last.1 = last.1.saturating_sub(1);
            }
            data.retain(|part| part.1 > 0);
            (written, status) = self.carry_out(kind, sector, &data, memory);
        }
        match memory.write_obj(status as u8, status_at) {
            Ok(()) => written + 1,
            Err(_) => written,
        }
    }

    fn carry_out(&mut self, kind: u32, sector: u64, data: &[(GuestAddress, u32, bool)], memory: &Map) -> (u32, u32) {
        const FAILED: (u32, u32) = (0, blk::VIRTIO_BLK_S_IOERR);
        let bytes: u64 = data.iter().map(|part| u64::from(part.1)).sum();
        let inside = || {
            let end = sector.checked_add(bytes / SECTOR);
            bytes.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= self.sectors)
        };
        match kind {
            blk::VIRTIO_BLK_T_IN if inside() && data.iter().all(|part| part.2) => {
                let done = self
                    .copy(sector, data, |file, part| memory.read_exact_volatile_from(part.0, file, part.1 as usize));
                if done { (bytes as u32, blk::VIRTIO_BLK_S_OK) } else { FAILED }
            }
            blk::VIRTIO_BLK_T_OUT if !self.read_only && inside() && data.iter().all(|part| !part.2) => {
                let done =
                    self.copy(sector, data, |file, part| memory.write_all_volatile_to(part.0, file, part.1 as usize));
                if done { (0, blk::VIRTIO_BLK_S_OK) } else { FAILED }
            }
            blk::VIRTIO_BLK_T_FLUSH if self.file.sync_data().is_ok() => (0, blk::VIRTIO_BLK_S_OK),
            blk::VIRTIO_BLK_T_GET_ID => {
                let mut name = [0; NAME];
                let length = self.name.len().min(NAME);
                name[..length].copy_from_slice(&self.name.as_bytes()[..length]);
                match data.first() {
                    Some((address, room, true))
                        if memory.write_slice(&name[..NAME.min(*room as usize)], *address).is_ok() =>
                    {
                        (NAME.min(*room as usize) as u32, blk::VIRTIO_BLK_S_OK)
                    }
                    _ => FAILED,
                }
            }
            blk::VIRTIO_BLK_T_IN | blk::VIRTIO_BLK_T_OUT | blk::VIRTIO_BLK_T_FLUSH => FAILED,
            _ => (0, blk::VIRTIO_BLK_S_UNSUPP),
        }
    }

    /// Copies part by part between guest memory and the file, without a stop in between.
    fn copy<E>(
        &mut self,
        sector: u64,
        data: &[(GuestAddress, u32, bool)],
        mut part: impl FnMut(&mut File, &(GuestAddress, u32, bool)) -> Result<(), E>,
    ) -> bool {
        let seek: io::Result<u64> = self.file.seek(SeekFrom::Start(sector * SECTOR));
        seek.is_ok() && data.iter().all(|piece| part(&mut self.file, piece).is_ok())
    }
}

impl Backend for Disk {
    fn serve(&mut self, _: usize, queue: &mut Queue, memory: &Map) -> bool {
        let mut tell = false;
        loop {
            let _ = queue.disable_notification(memory);
            while let Some(chain) = queue.pop_descriptor_chain(memory) {
                let head = chain.head_index();
                let written = self.request(chain, memory);
                if queue.add_used(memory, head, written).is_err() {
                    return tell;
                }
                tell |= queue.needs_notification(memory).unwrap_or(true);
            }
            if !queue.enable_notification(memory).unwrap_or(false) {
                return tell;
            }
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
