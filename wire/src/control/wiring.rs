//! Requests about interrupts and doorbells: what KVM does without waking the VMM.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, ObjectId, Request};

/// Sets the level of a GSI (`KVM_IRQ_LINE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqLine {
    /// Number of the GSI.
    pub gsi: u32,
    /// 0: inactive, 1: active; else `EINVAL`.
    pub level: u32,
}

impl Request for IrqLine {
    const KIND: Kind = Kind::IrqLine;
    type Reply = Done;
}

/// The interrupt is level-triggered: a second eventfd travels back that KVM signals when the guest ends the interrupt.
pub const IRQ_EVENT_RESAMPLE: u32 = 1;

/// Makes an eventfd whose signal raises a GSI (`KVM_IRQFD`). One descriptor travels back, or two with resample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIrqEvent {
    /// Number of the GSI.
    pub gsi: u32,
    /// `IRQ_EVENT_*` bits.
    pub flags: u32,
}

impl Request for CreateIrqEvent {
    const KIND: Kind = Kind::CreateIrqEvent;
    type Reply = ObjectId;
    const REPLY_FDS: usize = 2;
}

/// Takes an irq event away. `ENOENT` if there is none with this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyIrqEvent {
    /// What [`CreateIrqEvent`] returned.
    pub id: u32,
}

impl Request for DestroyIrqEvent {
    const KIND: Kind = Kind::DestroyIrqEvent;
    type Reply = Done;
}

/// Only writes of [`CreateIoEvent::datamatch`] signal the eventfd.
pub const IO_EVENT_DATAMATCH: u32 = 1;

/// Makes an eventfd that KVM signals when the guest writes to an address (`KVM_IOEVENTFD`); such a write is no exit.
/// One descriptor travels back.
///
/// `EINVAL` for an unknown space, a length other than 0 (any), 1, 2, 4, 8, a data match with length 0, or an address
/// range past the end of its space; `EEXIST` if the same event exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIoEvent {
    /// `SPACE_*`.
    pub space: u32,
    /// Bytes of the write; 0 for any length.
    pub length: u32,
    /// The address.
    pub address: u64,
    /// The value that is compared, in its low `length` bytes.
    pub datamatch: u64,
    /// `IO_EVENT_*` bits.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

impl Request for CreateIoEvent {
    const KIND: Kind = Kind::CreateIoEvent;
    type Reply = ObjectId;
    const REPLY_FDS: usize = 1;
}

/// Takes an io event away. `ENOENT` if there is none with this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyIoEvent {
    /// What [`CreateIoEvent`] returned.
    pub id: u32,
}

impl Request for DestroyIoEvent {
    const KIND: Kind = Kind::DestroyIoEvent;
    type Reply = Done;
}

const _: () = assert!(size_of::<CreateIoEvent>() == 32 && size_of::<CreateIrqEvent>() == 8);
