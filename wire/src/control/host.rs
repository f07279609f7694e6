//! Requests about what the host offers: lists of CPUID leaves and MSRs, the TSC, network devices.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Done, Kind, Request};

/// `KVM_GET_SUPPORTED_CPUID`: entries are `struct kvm_cpuid_entry2`, 40 bytes.
pub const LIST_SUPPORTED_CPUID: u32 = 0;
/// `KVM_GET_EMULATED_CPUID`: entries as above.
pub const LIST_EMULATED_CPUID: u32 = 1;
/// `KVM_GET_SUPPORTED_HV_CPUID`: entries as above.
pub const LIST_HYPERV_CPUID: u32 = 2;
/// `KVM_GET_MSR_INDEX_LIST`: entries are u32.
pub const LIST_MSRS: u32 = 3;
/// `KVM_GET_MSR_FEATURE_INDEX_LIST`: entries are u32.
pub const LIST_FEATURE_MSRS: u32 = 4;

/// Asks for one of KVM's lists; the entries travel back in a memfd, one behind the other. `EINVAL` for an unknown list,
/// else what KVM says; `EINVAL` too for the Hyper-V leaves where KVM has no Hyper-V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HostList {
    /// `LIST_*`.
    pub list: u32,
}

/// Reply to [`HostList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HostListReply {
    /// Number of entries.
    pub count: u32,
    /// Bytes of an entry.
    pub entry: u32,
}

impl Request for HostList {
    const KIND: Kind = Kind::HostList;
    type Reply = HostListReply;
    const REPLY_FDS: usize = 1;
}

/// Asks for the TSC frequency that vCPUs start with (`KVM_GET_TSC_KHZ` on the VM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetTsc {}

/// A TSC frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TscKhz {
    /// Frequency in kHz.
    pub khz: u32,
}

impl Request for GetTsc {
    const KIND: Kind = Kind::GetTsc;
    type Reply = TscKhz;
}

/// Sets the TSC frequency that vCPUs start with (`KVM_SET_TSC_KHZ` on the VM). `EINVAL` after START, and where KVM cannot
/// give the guest another frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetTsc {
    /// Frequency in kHz.
    pub khz: u32,
}

impl Request for SetTsc {
    const KIND: Kind = Kind::SetTsc;
    type Reply = Done;
}

/// Asks for a tap device and its configuration. One descriptor travels back, that of the device. `ENODATA` past the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetConfig {
    /// Number of the device, from 0 in the order of the command line.
    pub index: u32,
}

/// Reply to [`NetConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetConfigReply {
    /// The host's IPv4 address, as it stands in a packet.
    pub host_ip: [u8; 4],
    /// Its netmask, likewise.
    pub netmask: [u8; 4],
    /// The host's MAC address.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

impl Request for NetConfig {
    const KIND: Kind = Kind::NetConfig;
    type Reply = NetConfigReply;
    const REPLY_FDS: usize = 1;
}

const _: () = assert!(size_of::<NetConfigReply>() == 16 && size_of::<HostListReply>() == 8);
