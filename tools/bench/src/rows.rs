//! The rows. Names follow kvm-unit-tests' `vmexit` where they match.

use super::guest::Access;
use outboard_wire::stats::cell::Kind;

/// Who serves the access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The plugin answers it.
    Plugin,
    /// It is posted to the plugin.
    Posted,
    /// Nobody outside: a bare `KVM_RUN` loop.
    Vmm,
    /// KVM itself, by an ioeventfd.
    Kernel,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In tables and filters.
    pub name: &'static str,
    /// What it is, for `--list`.
    pub about: &'static str,
    /// What the guest does.
    pub access: Access,
    pub by: By,
    /// The kind of exit in the VMM's report.
    pub kind: Kind,
}

/// All of them.
pub const ROWS: [Row; 8] = [
    Row {
        name: "outb_to_vmm",
        about: "the floor: a port write, and KVM_RUN again at once",
        access: Access::PortOut,
        by: By::Vmm,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outb_to_kernel",
        about: "a port write that KVM turns into an eventfd's signal",
        access: Access::PortOut,
        by: By::Kernel,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outb_to_plugin",
        about: "a port write that waits for the plugin",
        access: Access::PortOut,
        by: By::Plugin,
        kind: Kind::PortWrite,
    },
    Row { name: "inb_from_plugin", about: "a port read", access: Access::PortIn, by: By::Plugin, kind: Kind::PortRead },
    Row {
        name: "outb_posted_to_plugin",
        about: "a port write that does not wait",
        access: Access::PortOut,
        by: By::Posted,
        kind: Kind::PortPosted,
    },
    Row {
        name: "mmio_write_to_vmm",
        about: "the floor of memory accesses",
        access: Access::MmioWrite,
        by: By::Vmm,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_write_to_plugin",
        about: "a memory write that waits for the plugin",
        access: Access::MmioWrite,
        by: By::Plugin,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_read_from_plugin",
        about: "a memory read",
        access: Access::MmioRead,
        by: By::Plugin,
        kind: Kind::MmioRead,
    },
];
