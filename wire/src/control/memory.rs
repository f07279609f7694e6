//! Requests about guest memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};

/// The guest cannot write: its writes become MMIO write exits (`KVM_MEM_READONLY`).
pub const MEMORY_READ_ONLY: u32 = 1;
/// KVM keeps a dirty log of the slot (`KVM_MEM_LOG_DIRTY_PAGES`).
pub const MEMORY_DIRTY_LOG: u32 = 2;

/// Puts part of the plugin's memfd into the guest's address space. The memfd travels with the request.
///
/// Refused with `EBADF` without a descriptor, `EINVAL` if it is no memfd, offset or length are not multiples of 4096,
/// the length is zero or the range ends behind the end of the file, `EOVERFLOW` if offset + length or start + length
/// exceeds 2^64, `EPERM` without `F_SEAL_SHRINK`, `EEXIST` on overlap with another slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateMemory {
    /// First byte within the memfd.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Guest physical address of the first byte.
    pub start: u64,
    /// `MEMORY_*` bits.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// Number of an object that the VMM made: memory slot, irq event or io event. Each kind counts for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObjectId {
    /// The number.
    pub id: u32,
}

impl Request for CreateMemory {
    const KIND: Kind = Kind::CreateMemory;
    const FDS: usize = 1;
    type Reply = ObjectId;
}

/// Takes a memory slot out of the guest. `ENOENT` if there is none with this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyMemory {
    /// What [`CreateMemory`] returned.
    pub id: u32,
}

impl Request for DestroyMemory {
    const KIND: Kind = Kind::DestroyMemory;
    type Reply = Done;
}

/// Asks for the pages that the guest wrote since the last such request, and clears the log.
/// `ENOENT` if there is no slot with this id or it keeps no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirtyLog {
    /// What [`CreateMemory`] returned.
    pub id: u32,
}

/// Reply to [`DirtyLog`]. The bitmap travels in a memfd of its own, one bit per page of 4096 bytes, lowest bit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirtyLogReply {
    /// Pages of the slot; ceil(pages / 8) bytes of the memfd count.
    pub pages: u64,
}

impl Request for DirtyLog {
    const KIND: Kind = Kind::DirtyLog;
    type Reply = DirtyLogReply;
    const REPLY_FDS: usize = 1;
}

const _: () = assert!(size_of::<CreateMemory>() == 32 && size_of::<DirtyLogReply>() == 8);
