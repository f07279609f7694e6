//! The control requests: one fixed body each way per kind.
//!
//! [`Kind`] lists them; [`Request`] ties a request body to its kind, its reply body and the descriptors that travel.
//! To add one: a variant of [`Kind`], its two bodies in the file of its subject, a golden-byte test, a row in
//! PROTOCOL.md, and the handler in the VMM's request table.

mod chips;
mod host;
mod memory;
mod ranges;
mod routes;
mod session;
mod vcpus;
mod wiring;

#[cfg(test)]
mod golden;

pub use chips::{
    CHIP_CLOCK, CHIP_IOAPIC, CHIP_PIC_PRIMARY, CHIP_PIC_SECONDARY, CHIP_PIT, CHIP_STATE, ChipState, GetChip, SetChip,
    SetIdentityMap,
};
pub use host::{
    GetTsc, HostList, HostListReply, LIST_EMULATED_CPUID, LIST_FEATURE_MSRS, LIST_HYPERV_CPUID, LIST_MSRS,
    LIST_SUPPORTED_CPUID, NetConfig, NetConfigReply, SetTsc, TscKhz,
};
pub use memory::{CreateMemory, DestroyMemory, DirtyLog, DirtyLogReply, MEMORY_DIRTY_LOG, MEMORY_READ_ONLY, ObjectId};
pub use ranges::{
    RANGE_POSTED, RANGE_POSTED_WRITES, RANGE_SYNCHRONOUS, ReserveRange, SPACE_MMIO, SPACE_PORT, SetUnclaimed,
};
pub use routes::{Delivered, ROUTE_IRQCHIP, ROUTE_MSI, Route, SetRoutes, SignalMsi};
pub use session::{
    CheckExtension, Extension, Hello, HelloReply, NewConnection, SPIN_ALWAYS, SPIN_AUTO, SPIN_FOR, SPIN_OFF,
    ShutdownEvent, Start,
};
pub use vcpus::{
    EXIT_DEBUG, EXIT_EMULATION_FAILURE, EXIT_HALT, EXIT_HYPERCALL, EXIT_IOAPIC_EOI, EXIT_MSR_RANGES, EXIT_MSR_UNKNOWN,
    EXIT_SYSTEM, EXITS, Hint, HintDetail, MSR_READ, MSR_WRITE, MsrRange, PauseVcpus, SetHint, Subscribe, VcpuEventFd,
};
pub use wiring::{
    CreateIoEvent, CreateIrqEvent, DestroyIoEvent, DestroyIrqEvent, IO_EVENT_DATAMATCH, IRQ_EVENT_RESAMPLE, IrqLine,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Kinds of control requests, the number in [`crate::frame::Header::kind`].
///
/// Numbers are never given to another request once they were released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// [`Hello`]
    Hello = 1,
    /// [`NewConnection`]
    NewConnection = 2,
    /// [`ShutdownEvent`]
    ShutdownEvent = 3,
    /// [`CheckExtension`]
    CheckExtension = 4,
    /// [`Start`]
    Start = 5,
    /// [`HostList`]
    HostList = 6,
    /// [`GetTsc`]
    GetTsc = 7,
    /// [`SetTsc`]
    SetTsc = 8,
    /// [`NetConfig`]
    NetConfig = 9,
    /// [`CreateMemory`]
    CreateMemory = 16,
    /// [`DestroyMemory`]
    DestroyMemory = 17,
    /// [`DirtyLog`]
    DirtyLog = 18,
    /// [`ReserveRange`]
    ReserveRange = 32,
    /// [`SetUnclaimed`]
    SetUnclaimed = 33,
    /// [`PauseVcpus`]
    PauseVcpus = 48,
    /// [`VcpuEventFd`]
    VcpuEventFd = 49,
    /// [`SetHint`]
    SetHint = 50,
    /// [`Subscribe`]
    Subscribe = 51,
    /// [`IrqLine`]
    IrqLine = 64,
    /// [`CreateIrqEvent`]
    CreateIrqEvent = 65,
    /// [`DestroyIrqEvent`]
    DestroyIrqEvent = 66,
    /// [`CreateIoEvent`]
    CreateIoEvent = 67,
    /// [`DestroyIoEvent`]
    DestroyIoEvent = 68,
    /// [`SetRoutes`]
    SetRoutes = 69,
    /// [`SignalMsi`]
    SignalMsi = 70,
    /// [`GetChip`]
    GetChip = 80,
    /// [`SetChip`]
    SetChip = 81,
    /// [`SetIdentityMap`]
    SetIdentityMap = 82,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Kind; 28] = [
        Kind::Hello,
        Kind::NewConnection,
        Kind::ShutdownEvent,
        Kind::CheckExtension,
        Kind::Start,
        Kind::HostList,
        Kind::GetTsc,
        Kind::SetTsc,
        Kind::NetConfig,
        Kind::CreateMemory,
        Kind::DestroyMemory,
        Kind::DirtyLog,
        Kind::ReserveRange,
        Kind::SetUnclaimed,
        Kind::PauseVcpus,
        Kind::VcpuEventFd,
        Kind::SetHint,
        Kind::Subscribe,
        Kind::IrqLine,
        Kind::CreateIrqEvent,
        Kind::DestroyIrqEvent,
        Kind::CreateIoEvent,
        Kind::DestroyIoEvent,
        Kind::SetRoutes,
        Kind::SignalMsi,
        Kind::GetChip,
        Kind::SetChip,
        Kind::SetIdentityMap,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// A request body and what belongs to it.
pub trait Request: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Number of the request.
    const KIND: Kind;
    /// Descriptors that the request carries.
    const FDS: usize = 0;
    /// Body of the reply when the request succeeds.
    type Reply: FromBytes + IntoBytes + Immutable + KnownLayout + Copy;
    /// Most descriptors that a successful reply carries.
    const REPLY_FDS: usize = 0;
}

/// The body of a reply that says no more than its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Done {}

/// Reads a request body of exactly the right size out of a frame's body.
///
/// Returns `None` when the length differs; the request is then refused with `EINVAL`.
pub fn body<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}
