//! The rows. Names follow kvm-unit-tests' `vmexit` where they match: `l` is 4 bytes, as are memory accesses without a letter.

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
pub const ROWS: [Row; 19] = [
    Row {
        name: "outl_to_vmm",
        about: "the floor: a port write of 4 bytes, and KVM_RUN again at once",
        access: Access::port(true, 4),
        by: By::Vmm,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outl_to_kernel",
        about: "a port write that KVM turns into an eventfd's signal",
        access: Access::port(true, 4),
        by: By::Kernel,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outl_to_plugin",
        about: "a port write that waits for the plugin",
        access: Access::port(true, 4),
        by: By::Plugin,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outw_to_plugin",
        about: "the same with 2 bytes",
        access: Access::port(true, 2),
        by: By::Plugin,
        kind: Kind::PortWrite,
    },
    Row {
        name: "outb_to_plugin",
        about: "the same with 1 byte",
        access: Access::port(true, 1),
        by: By::Plugin,
        kind: Kind::PortWrite,
    },
    Row {
        name: "inl_from_vmm",
        about: "the floor of port reads",
        access: Access::port(false, 4),
        by: By::Vmm,
        kind: Kind::PortRead,
    },
    Row {
        name: "inl_from_plugin",
        about: "a port read of 4 bytes",
        access: Access::port(false, 4),
        by: By::Plugin,
        kind: Kind::PortRead,
    },
    Row {
        name: "inw_from_plugin",
        about: "the same with 2 bytes",
        access: Access::port(false, 2),
        by: By::Plugin,
        kind: Kind::PortRead,
    },
    Row {
        name: "inb_from_plugin",
        about: "the same with 1 byte",
        access: Access::port(false, 1),
        by: By::Plugin,
        kind: Kind::PortRead,
    },
    Row {
        name: "outl_posted_to_plugin",
        about: "a port write that does not wait",
        access: Access::port(true, 4),
        by: By::Posted,
        kind: Kind::PortPosted,
    },
    Row {
        name: "mmio_write_to_vmm",
        about: "the floor of memory accesses of 4 bytes",
        access: Access::mmio(true, 4),
        by: By::Vmm,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_write_to_plugin",
        about: "a memory write that waits for the plugin",
        access: Access::mmio(true, 4),
        by: By::Plugin,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_writeb_to_plugin",
        about: "the same with 1 byte",
        access: Access::mmio(true, 1),
        by: By::Plugin,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_writew_to_plugin",
        about: "the same with 2 bytes",
        access: Access::mmio(true, 2),
        by: By::Plugin,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_writeq_to_plugin",
        about: "the same with 8 bytes",
        access: Access::mmio(true, 8),
        by: By::Plugin,
        kind: Kind::MmioWrite,
    },
    Row {
        name: "mmio_read_from_plugin",
        about: "a memory read of 4 bytes",
        access: Access::mmio(false, 4),
        by: By::Plugin,
        kind: Kind::MmioRead,
    },
    Row {
        name: "mmio_readb_from_plugin",
        about: "the same with 1 byte",
        access: Access::mmio(false, 1),
        by: By::Plugin,
        kind: Kind::MmioRead,
    },
    Row {
        name: "mmio_readw_from_plugin",
        about: "the same with 2 bytes",
        access: Access::mmio(false, 2),
        by: By::Plugin,
        kind: Kind::MmioRead,
    },
    Row {
        name: "mmio_readq_from_plugin",
        about: "the same with 8 bytes",
        access: Access::mmio(false, 8),
        by: By::Plugin,
        kind: Kind::MmioRead,
    },
];
