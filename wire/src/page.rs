//! The pages that both processes map.
//!
//! The one place that turns mapped memory into references. What makes it sound: every byte of a block is part of an atomic
//! word, so the other process may change it at any time without undefined behaviour; and neither memfd can shrink while
//! it is mapped (`F_SEAL_SHRINK`, checked here), so no access can end in `SIGBUS`.

#![allow(unsafe_code)]

use core::marker::PhantomData;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use crate::block::{ToPlugin, ToVmm};
use crate::stats::VcpuStats;

mod sealed {
    /// Kept to these block types, for the safety argument of this module.
    pub trait Sealed {}
    impl Sealed for super::ToPlugin {}
    impl Sealed for super::ToVmm {}
    impl Sealed for super::VcpuStats {}
}

/// A block type: made of atomic words only, whole pages.
pub trait Block: sealed::Sealed + Sync + 'static {}
impl Block for ToPlugin {}
impl Block for ToVmm {}
impl Block for VcpuStats {}

/// Whether a mapping may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This process is the writer.
    Write,
    /// The other process is the writer. Storing through such a mapping would fault; the ends in this crate never do.
    Read,
}

/// All blocks of one memfd, mapped.
#[derive(Debug)]
pub struct Blocks<B> {
    map: MmapRaw,
    count: usize,
    kind: PhantomData<B>,
}

impl<B: Block> Blocks<B> {
    /// Maps `count` blocks from the start of a memfd.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is no memfd sealed with `F_SEAL_SHRINK` or is shorter than the blocks; whatever
    /// mmap(2) says.
    pub fn map(fd: BorrowedFd<'_>, count: usize, access: Access) -> io::Result<Blocks<B>> {
        // SAFETY: F_GET_SEALS takes no pointer.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the memfd of the vCPU blocks may shrink"));
        }
        let length = count * size_of::<B>();
        if file_size(fd)? < length as u64 || count == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the memfd of the vCPU blocks is too short"));
        }
        let mut options = MmapOptions::new();
        options.len(length);
        let map = match access {
            Access::Write => options.map_raw(&fd)?,
            Access::Read => options.map_raw_read_only(&fd)?,
        };
        Ok(Blocks { map, count, kind: PhantomData })
    }

    /// Blocks of this process alone, all zero: Miri knows no memfds.
    ///
    /// # Errors
    /// Whatever mmap(2) says.
    #[cfg(miri)]
    pub fn anonymous(count: usize) -> io::Result<Blocks<B>> {
        let map = MmapOptions::new().len(count * size_of::<B>()).map_anon()?.into();
        Ok(Blocks { map, count, kind: PhantomData })
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.count
    }

    fn block(&self, index: usize) -> &B {
        assert!(index < self.count, "block {index} of {}", self.count);
        const { assert!(size_of::<B>().is_multiple_of(4096) && align_of::<B>() == 4096) };
        // SAFETY: `map` holds `count` blocks, page-aligned, for as long as `self` lives, and the file
        // behind it cannot shrink. `B` is one of the sealed types, which consist of atomics, so any bytes are valid
        // and concurrent writes of the other process are no data race.
        unsafe { &*self.map.as_ptr().cast::<B>().add(index) }
    }
}

/// One block, which keeps the mapping alive.
#[derive(Debug)]
pub struct BlockRef<B> {
    blocks: Arc<Blocks<B>>,
    index: usize,
}

impl<B: Block> BlockRef<B> {
    /// Block number `index`, or `None` past the last.
    pub fn new(blocks: &Arc<Blocks<B>>, index: usize) -> Option<BlockRef<B>> {
        (index < blocks.count).then(|| BlockRef { blocks: Arc::clone(blocks), index })
    }
}

impl<B: Block> core::ops::Deref for BlockRef<B> {
    type Target = B;

    #[inline]
    fn deref(&self) -> &B {
        self.blocks.block(self.index)
    }
}

fn file_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: `libc::stat` is plain data for which zero bytes are valid.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `stat` is a valid place for the result.
    match unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } {
        0 => Ok(stat.st_size as u64),
        _ => Err(io::Error::last_os_error()),
    }
}
