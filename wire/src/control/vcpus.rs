//! Requests about vCPUs that do not go through a vCPU's own lines.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};
#[cfg(doc)]
use crate::limits::MAX_MSR_RANGE;
use crate::limits::{MAX_HINT_DETAILS, MAX_MSR_RANGES, MAX_VCPUS};

/// Gives each named vCPU a PAUSED event with this cookie, as soon as KVM has finished any access in flight.
///
/// A later request before the pause happens replaces the cookie. Bits past the last vCPU are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PauseVcpus {
    /// Handed back in the event's address field.
    pub cookie: u64,
    /// Bit n of word n / 64: vCPU n.
    pub mask: [u64; MAX_VCPUS / 64],
}

impl Request for PauseVcpus {
    const KIND: Kind = Kind::PauseVcpus;
    type Reply = Done;
}

/// Asks for the eventfd that the VMM signals for this vCPU when the plugin announced that it waits on it.
/// The same one each time. `ENOENT` past the last vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuEventFd {
    /// Number of the vCPU.
    pub vcpu: u32,
}

impl Request for VcpuEventFd {
    const KIND: Kind = Kind::VcpuEventFd;
    type Reply = Done;
    const REPLY_FDS: usize = 1;
}

/// Accesses to the MSRs of [`Subscribe::ranges`].
pub const EXIT_MSR_RANGES: u32 = 1;
/// Accesses to MSRs that KVM itself refuses.
pub const EXIT_MSR_UNKNOWN: u32 = 2;
/// HLT, where KVM has no local APICs.
pub const EXIT_HALT: u32 = 4;
/// Hypercalls that KVM hands on (`KVM_CAP_EXIT_HYPERCALL`).
pub const EXIT_HYPERCALL: u32 = 8;
/// Breakpoints and single steps, which register file GUEST_DEBUG switches on.
pub const EXIT_DEBUG: u32 = 16;
/// The end of an interrupt of an IOAPIC outside of KVM.
pub const EXIT_IOAPIC_EOI: u32 = 32;
/// System events.
pub const EXIT_SYSTEM: u32 = 64;
/// Instructions that KVM cannot emulate (`KVM_CAP_EXIT_ON_EMULATION_FAILURE`).
pub const EXIT_EMULATION_FAILURE: u32 = 128;
/// All of them.
pub const EXITS: u32 = 255;

/// Reads of a [`MsrRange`].
pub const MSR_READ: u32 = 1;
/// Writes of a [`MsrRange`].
pub const MSR_WRITE: u32 = 2;

/// MSRs one behind the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsrRange {
    /// The first one.
    pub first: u32,
    /// How many, 1 to [`MAX_MSR_RANGE`].
    pub count: u32,
    /// `MSR_*` bits: which accesses.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

/// Decides which exits reach the plugin, in place of those decided before. Exits that nobody asked for end the VM, but for
/// an access to an MSR, which gives the guest a general protection fault.
///
/// `EINVAL` for an unknown bit, a reserved field that is not zero, and ranges that are empty, too long or past the last MSR;
/// `EOPNOTSUPP` for exits that this KVM, or the VM's choice of interrupt controllers, does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Subscribe {
    /// `EXIT_*` bits.
    pub exits: u32,
    /// Ranges that count: at least one with [`EXIT_MSR_RANGES`], none without.
    pub count: u32,
    /// The ranges.
    pub ranges: [MsrRange; MAX_MSR_RANGES],
}

impl Request for Subscribe {
    const KIND: Kind = Kind::Subscribe;
    type Reply = Done;
}

const _: () = assert!(size_of::<Subscribe>() == 8 + 16 * MAX_MSR_RANGES);

/// Sends general registers along with every access that hits exactly one address; the details decide on the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hint {
    /// `SPACE_*`.
    pub space: u32,
    /// 1: the hint is for writes; 0: for reads.
    pub on_write: u32,
    /// The address; not 0.
    pub address: u64,
    /// Details that count.
    pub details: u32,
    /// Zero.
    pub reserved: u32,
}

/// One detail of a [`Hint`]: the first one whose registers all match decides which further files travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HintDetail {
    /// Bits 0..=3: compare rax, rbx, rcx, rdx.
    pub matching: u32,
    /// [`crate::line::FILE_SREGS`] and [`crate::line::FILE_DEBUGREGS`] bits that travel on a match.
    pub files: u32,
    /// Values of rax, rbx, rcx and rdx that are compared.
    pub values: [u64; 4],
}

/// Sets or, with `count` 0, clears the register hint. `EINVAL` for a count over 1, address 0, an unknown space or flag,
/// or more than [`MAX_HINT_DETAILS`] details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetHint {
    /// 0 or 1.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// The hint, all zero if `count` is 0.
    pub hint: Hint,
    /// Its details, the first [`Hint::details`] of them.
    pub details: [HintDetail; MAX_HINT_DETAILS],
}

impl Request for SetHint {
    const KIND: Kind = Kind::SetHint;
    type Reply = Done;
}

const _: () = assert!(size_of::<HintDetail>() == 40 && size_of::<SetHint>() == 8 + 24 + 32 * 40);
const _: () = assert!(size_of::<PauseVcpus>() == 8 + 128);
