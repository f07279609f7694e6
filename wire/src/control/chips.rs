//! Requests about the state of KVM's own devices: interrupt controllers, timer and clock.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};

/// First i8259: `struct kvm_pic_state`, 16 bytes.
pub const CHIP_PIC_PRIMARY: u32 = 0;
/// Second i8259: `struct kvm_pic_state`, 16 bytes.
pub const CHIP_PIC_SECONDARY: u32 = 1;
/// IOAPIC: `struct kvm_ioapic_state`, 216 bytes.
pub const CHIP_IOAPIC: u32 = 2;
/// i8254: `struct kvm_pit_state2`, 112 bytes.
pub const CHIP_PIT: u32 = 3;
/// The guest's paravirtual clock: `struct kvm_clock_data`, 48 bytes.
pub const CHIP_CLOCK: u32 = 4;

/// Bytes of the largest state, that of the IOAPIC.
pub const CHIP_STATE: usize = 216;

/// Asks for the state of one of KVM's devices. `EINVAL` for an unknown one, what KVM says (`ENXIO`) for one that this VM
/// does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetChip {
    /// `CHIP_*`.
    pub chip: u32,
}

/// Reply to [`GetChip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChipState {
    /// The structure that belongs to the device; bytes behind it are zero.
    pub state: [u8; CHIP_STATE],
}

impl Request for GetChip {
    const KIND: Kind = Kind::GetChip;
    type Reply = ChipState;
}

/// Sets the state of one of KVM's devices. Refused as [`GetChip`], and with what KVM says about the state.
///
/// Of the clock's flags those are left out that KVM reports but does not take (`KVM_CLOCK_TSC_STABLE`,
/// `KVM_CLOCK_HOST_TSC`), so that what was got can be set. `KVM_CLOCK_REALTIME` stays: with it the clock goes on by the time
/// that has passed since `realtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetChip {
    /// `CHIP_*`.
    pub chip: u32,
    /// Zero.
    pub reserved: u32,
    /// The structure that belongs to the device; bytes behind it do not count.
    pub state: [u8; CHIP_STATE],
}

impl Request for SetChip {
    const KIND: Kind = Kind::SetChip;
    type Reply = Done;
}

/// Moves the page that KVM needs for real mode on some Intel hosts (`KVM_SET_IDENTITY_MAP_ADDR`). `EINVAL` after START.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIdentityMap {
    /// Guest physical address; 0 for KVM's own choice, 0xfffbc000.
    pub address: u64,
}

impl Request for SetIdentityMap {
    const KIND: Kind = Kind::SetIdentityMap;
    type Reply = Done;
}

const _: () = assert!(size_of::<SetChip>() == 224 && size_of::<ChipState>() == CHIP_STATE);
