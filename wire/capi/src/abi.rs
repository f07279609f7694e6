//! The structs and numbers of the header. `include/crosvm.h` asserts the same sizes.

use core::ffi::{c_int, c_void};
use core::mem::offset_of;

use outboard_plugin::Space;

use crate::call::Errno;

/// `enum crosvm_address_space`.
pub const ADDRESS_SPACE_IOPORT: u32 = 0;
pub const ADDRESS_SPACE_MMIO: u32 = 1;

/// `enum crosvm_irq_route_kind`.
pub const IRQ_ROUTE_IRQCHIP: u32 = 0;
pub const IRQ_ROUTE_MSI: u32 = 1;

/// `enum crosvm_vcpu_event_kind`.
pub const EVENT_INIT: u32 = 0;
pub const EVENT_IO_ACCESS: u32 = 1;
pub const EVENT_PAUSED: u32 = 2;
pub const EVENT_HYPERV_HCALL: u32 = 3;
pub const EVENT_HYPERV_SYNIC: u32 = 4;

/// Limits and flags of hints.
pub const MAX_HINT_COUNT: u32 = 1;
pub const MAX_HINT_DETAIL_COUNT: u16 = 32;
pub const HINT_ON_WRITE: u16 = 1;

/// An address space by its number.
pub fn space(number: u32) -> Result<Space, Errno> {
    match number {
        ADDRESS_SPACE_IOPORT => Ok(Space::Port),
        ADDRESS_SPACE_MMIO => Ok(Space::Mmio),
        _ => Err(Errno::INVALID),
    }
}

/// `struct crosvm_net_config`.
#[repr(C)]
pub struct NetConfig {
    pub tap_fd: c_int,
    pub host_ip: u32,
    pub netmask: u32,
    pub host_mac_address: [u8; 6],
    pub padding: [u8; 2],
}
const _: () = assert!(size_of::<NetConfig>() == 20);

/// `struct crosvm_irq_route`. The union is chip and pin in two words, or address and data in three.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct IrqRoute {
    pub irq_id: u32,
    pub kind: u32,
    pub of: [u32; 4],
}
const _: () = assert!(size_of::<IrqRoute>() == 24 && offset_of!(IrqRoute, of) == 8);

/// `struct crosvm_hint_detail`. Its `bool`s are bytes here, because C code may leave any number in them.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HintDetail {
    pub match_registers: [u8; 4],
    pub reserved: [u8; 4],
    pub registers: [u64; 4],
    pub send_sregs: u8,
    pub send_debugregs: u8,
    pub reserved2: [u8; 6],
}
const _: () = assert!(size_of::<HintDetail>() == 48 && offset_of!(HintDetail, send_sregs) == 40);

/// `struct crosvm_hint`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Hint {
    pub hint_version: u32,
    pub reserved: u32,
    pub address_space: u32,
    pub address_flags: u16,
    pub details_count: u16,
    pub address: u64,
    pub details: *const HintDetail,
}
const _: () = assert!(size_of::<Hint>() == 32 && offset_of!(Hint, details) == 24);

/// `struct crosvm_vcpu_event`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VcpuEvent {
    pub kind: u32,
    pub padding: [u8; 4],
    pub of: EventOf,
}
const _: () = assert!(size_of::<VcpuEvent>() == 72 && offset_of!(VcpuEvent, of) == 8);

/// The union of [`VcpuEvent`].
#[derive(Clone, Copy)]
#[repr(C)]
pub union EventOf {
    pub io_access: IoAccess,
    pub user: *mut c_void,
    pub reserved: [u64; 8],
}

/// Its `io_access`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IoAccess {
    pub address_space: u32,
    pub padding: [u8; 4],
    pub address: u64,
    pub data: *mut u8,
    pub length: u32,
    pub is_write: u8,
    pub no_resume: u8,
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<IoAccess>() == 32 && offset_of!(IoAccess, no_resume) == 29);

impl VcpuEvent {
    /// An event with zero bytes everywhere but in its kind.
    #[inline(always)]
    pub fn new(kind: u32) -> VcpuEvent {
        VcpuEvent { kind, padding: [0; 4], of: EventOf { reserved: [0; 8] } }
    }
}
