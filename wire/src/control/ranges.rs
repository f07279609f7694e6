//! Requests about which accesses of the guest reach the plugin.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};

/// The port I/O space, 2^16 addresses.
pub const SPACE_PORT: u32 = 0;
/// The physical memory space, wherever no memory slot lies.
pub const SPACE_MMIO: u32 = 1;

/// Every access that starts in the range stops the vCPU until the plugin answers.
pub const RANGE_SYNCHRONOUS: u32 = 0;
/// Writes are posted and the vCPU runs on; reads do not reach the plugin.
pub const RANGE_POSTED: u32 = 1;
/// Writes are posted and the vCPU runs on; a read stops it until the plugin answers.
pub const RANGE_POSTED_WRITES: u32 = 2;

/// Reserves a range of addresses, or with length 0 releases the one that starts at `start`.
///
/// Refused with `EPERM` on overlap with any reservation, `EINVAL` on an unknown space or kind and if start + length is
/// 2^64 or more, `ENOENT` if there is nothing of this kind to release, `ENOSPC` past [`crate::limits::MAX_RANGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReserveRange {
    /// `SPACE_*`.
    pub space: u32,
    /// `RANGE_*`.
    pub kind: u32,
    /// First address.
    pub start: u64,
    /// Number of addresses; 0 releases.
    pub length: u64,
}

impl Request for ReserveRange {
    const KIND: Kind = Kind::ReserveRange;
    type Reply = Done;
}

/// Decides what the guest reads where nothing is reserved: zero bytes (the default) or all ones, as an empty bus gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetUnclaimed {
    /// 0x00 or 0xff; else `EINVAL`.
    pub byte: u32,
}

impl Request for SetUnclaimed {
    const KIND: Kind = Kind::SetUnclaimed;
    type Reply = Done;
}

const _: () = assert!(size_of::<ReserveRange>() == 24);
