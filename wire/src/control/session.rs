//! Requests about the session itself: who speaks, further connections, start and the end.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};
use crate::block;
use crate::limits::{VERSION_MAJOR, VERSION_MINOR};

/// The first request on the first connection: version and layout of the plugin's side.
///
/// The VMM answers a different major version or layout with its own numbers and no descriptors, names both in its message,
/// and ends the plugin. Every other request before this one is a breach of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`VERSION_MAJOR`] of the plugin's side.
    pub major: u16,
    /// [`VERSION_MINOR`] of the plugin's side.
    pub minor: u16,
    /// [`block::LAYOUT`] of the plugin's side: the place and size of everything in a vCPU block.
    pub layout: u32,
}

impl Hello {
    /// What this build of the crate says.
    pub fn ours() -> Hello {
        Hello { major: VERSION_MAJOR, minor: VERSION_MINOR, layout: block::LAYOUT }
    }
}

/// What the plugin needs to know of the VM. Two descriptors travel with it: `to_plugin` and `to_vmm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloReply {
    /// Major version of the VMM.
    pub major: u16,
    /// Minor version of the VMM.
    pub minor: u16,
    /// [`block::LAYOUT`] of the VMM.
    pub layout: u32,
    /// vCPUs of the VM; each memfd holds as many blocks.
    pub vcpus: u32,
    /// CPUs that the VMM may run on, the most that VMM and plugin together keep busy.
    pub cpus: u32,
    /// One of `SPIN_*`: how long the plugin's side spins for an event before it sleeps.
    pub spin_mode: u32,
    /// Zero.
    pub reserved: u32,
    /// Nanoseconds for [`SPIN_FOR`], else zero.
    pub spin_ns: u64,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u64,
}

const _: () = assert!(size_of::<Hello>() == 8 && size_of::<HelloReply>() == 40);

/// Learn per vCPU whether spinning pays.
pub const SPIN_AUTO: u32 = 0;
/// Sleep at once.
pub const SPIN_OFF: u32 = 1;
/// Never sleep.
pub const SPIN_ALWAYS: u32 = 2;
/// Spin for [`HelloReply::spin_ns`], then sleep.
pub const SPIN_FOR: u32 = 3;

impl Request for Hello {
    const KIND: Kind = Kind::Hello;
    type Reply = HelloReply;
    const REPLY_FDS: usize = 2;
}

/// Asks for another connection, so that another thread can make requests. One descriptor travels back; its first
/// request has sequence number 1 and needs no [`Hello`]. `EMFILE` past [`crate::limits::MAX_CONNECTIONS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NewConnection {}

impl Request for NewConnection {
    const KIND: Kind = Kind::NewConnection;
    type Reply = Done;
    const REPLY_FDS: usize = 1;
}

/// Asks for the eventfd that the VMM signals when the plugin should exit. One descriptor travels back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShutdownEvent {}

impl Request for ShutdownEvent {
    const KIND: Kind = Kind::ShutdownEvent;
    type Reply = Done;
    const REPLY_FDS: usize = 1;
}

/// `KVM_CHECK_EXTENSION` on the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CheckExtension {
    /// A `KVM_CAP_*` number; unknown ones give zero.
    pub capability: u32,
}

/// Reply to [`CheckExtension`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extension {
    /// What KVM said: 0 for no, else the capability's value.
    pub value: i32,
}

impl Request for CheckExtension {
    const KIND: Kind = Kind::CheckExtension;
    type Reply = Extension;
}

/// Lets the vCPUs run: each of them publishes its INIT event. A second start is refused with `EINVAL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Start {}

impl Request for Start {
    const KIND: Kind = Kind::Start;
    type Reply = Done;
}
