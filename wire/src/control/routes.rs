//! Requests about the way of interrupts: the table of GSIs, and messages without one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};
use crate::limits::INLINE_ROUTES;

/// [`Route::kind`]: a pin of one of KVM's interrupt controllers.
pub const ROUTE_IRQCHIP: u32 = 0;
/// [`Route::kind`]: a message-signalled interrupt.
pub const ROUTE_MSI: u32 = 1;

/// What one GSI raises. Several routes may have the same GSI, at most one for each controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Route {
    /// Number of the GSI.
    pub gsi: u32,
    /// `ROUTE_*`.
    pub kind: u32,
    /// MSI: the address. Pin: the controller, `KVM_IRQCHIP_*`: 0 first PIC, 1 second PIC, 2 IOAPIC.
    pub address: u64,
    /// MSI: the data. Pin: its number on the controller.
    pub data: u32,
    /// Zero.
    pub reserved: u32,
}

/// Replaces the whole table of GSIs (`KVM_SET_GSI_ROUTING`). A table longer than [`INLINE_ROUTES`] travels in a memfd that
/// the VMM reads once; then `routes` is zero.
///
/// `EINVAL` for an unknown kind, a reserved field that is not zero, a descriptor where none belongs or none where one does,
/// one that is no memfd or holds fewer routes, and what KVM does not accept; `E2BIG` past
/// [`MAX_ROUTES`](crate::limits::MAX_ROUTES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetRoutes {
    /// Number of routes; 0 clears the table.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// The routes, the first `count` of them, if they are no more than fit here.
    pub routes: [Route; INLINE_ROUTES],
}

impl Request for SetRoutes {
    const KIND: Kind = Kind::SetRoutes;
    /// One past [`INLINE_ROUTES`], else none.
    const FDS: usize = 1;
    type Reply = Done;
}

/// Delivers a message-signalled interrupt now (`KVM_SIGNAL_MSI`). `EINVAL` where KVM has no interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalMsi {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
    /// Zero.
    pub reserved: u32,
}

/// Reply to [`SignalMsi`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Delivered {
    /// 1 if a vCPU took the interrupt; 0 if none did, because the guest blocks it or no vCPU has that address.
    pub delivered: u32,
}

impl Request for SignalMsi {
    const KIND: Kind = Kind::SignalMsi;
    type Reply = Delivered;
}

const _: () = assert!(size_of::<Route>() == 24 && size_of::<SetRoutes>() == 8 + 24 * INLINE_ROUTES);
const _: () = assert!(size_of::<SetRoutes>() <= crate::limits::MAX_BODY && size_of::<SignalMsi>() == 16);
