//! Every limit of the wire format in one place.
//!
//! Both sides refuse what exceeds a limit with an error that names it; nothing is cut silently. The model checker
//! (`--cfg loom`) gets small buffers, because it tries what happens at each word.

/// Major version of the protocol. Two sides with different majors do not talk to each other.
pub const VERSION_MAJOR: u16 = 1;

/// Minor version of the protocol. A VMM serves plugins of its own or an older minor.
pub const VERSION_MINOR: u16 = 1;

/// Bytes of the largest control message, header included. A longer message is a breach of the protocol.
pub const MAX_FRAME: usize = 4096;

/// Bytes of the header of a control message.
pub const HEADER: usize = 32;

/// Bytes of the largest body of a control message.
pub const MAX_BODY: usize = MAX_FRAME - HEADER;

/// File descriptors that one control message may carry. Requests need one at most, replies two; the rest is room
/// so that a message with too many is seen whole and can be refused.
pub const MAX_FDS: usize = 4;

/// vCPUs of one VM. KVM's own limit on x86-64 is `KVM_CAP_MAX_VCPUS`, 1024 or more on current kernels.
pub const MAX_VCPUS: usize = 1024;

/// Control connections that one plugin may hold at a time, the first one included.
pub const MAX_CONNECTIONS: usize = 256;

/// Reserved ranges of one VM, both kinds together.
pub const MAX_RANGES: usize = 65_536;

/// Objects of each kind (memory slots, irq events, io events) of one VM. KVM offers 32764 user memory slots
/// (`KVM_CAP_NR_MEMSLOTS`), and every irq or io event costs the VMM one or two file descriptors.
pub const MAX_OBJECTS: usize = 16_384;

/// Slots of a vCPU's posted-write ring; a power of two.
pub const POSTED_SLOTS: usize = if cfg!(loom) { 4 } else { 256 };

/// Bytes of string data that one event may carry: KVM delivers at most a page at a time
/// (`KVM_EXIT_IO`, one page behind `data_offset`).
pub const MAX_STRING: usize = if cfg!(loom) { 8 } else { 4096 };

/// Bytes of a vCPU's bulk area, which carries register files that do not ride along with an event.
pub const MAX_BULK: usize = if cfg!(loom) { 8 } else { 16 * 1024 };

/// MSR entries in one get or set command. KVM takes fewer than its `MAX_IO_MSRS`, which is 256.
pub const MAX_MSRS: usize = 255;

/// CPUID entries in one set command (KVM's `KVM_MAX_CPUID_ENTRIES` is 256).
pub const MAX_CPUID: usize = 256;

/// Routes of the GSI table: KVM's own limit (`KVM_CAP_IRQ_ROUTING`, `KVM_MAX_IRQ_ROUTES`).
pub const MAX_ROUTES: usize = 4096;

/// Routes that travel in the request itself: the 40 that a PC has without MSIs, and some. More of them take a memfd.
pub const INLINE_ROUTES: usize = 64;

/// Ranges of MSRs of one subscription: KVM's own limit (`KVM_MSR_FILTER_MAX_RANGES`).
pub const MAX_MSR_RANGES: usize = 16;

/// MSRs of one such range: as many bits as KVM takes bytes for (`KVM_MSR_FILTER_MAX_BITMAP_SIZE`).
pub const MAX_MSR_RANGE: u32 = 1536 * 8;

/// Details of one register hint.
pub const MAX_HINT_DETAILS: usize = 32;

const _: () = assert!(POSTED_SLOTS.is_power_of_two());
#[cfg(not(loom))]
const _: () = assert!(MAX_CPUID * 40 <= MAX_BULK && MAX_MSRS * 16 <= MAX_BULK);
