//! The memory that VMM and plugin share: one block per vCPU in each of two memfds.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::sys::Errno;
use crate::sys::memfd::{self, Seals};
use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::page::{Access, Blocks};

/// Both memfds, and this process's mappings of them.
#[derive(Debug)]
pub struct SharedBlocks {
    to_plugin_fd: OwnedFd,
    to_vmm_fd: OwnedFd,
    /// Mapped writable here, and nowhere else.
    pub to_plugin: Arc<Blocks<ToPlugin>>,
    /// Mapped read-only here.
    pub to_vmm: Arc<Blocks<ToVmm>>,
}

impl SharedBlocks {
    /// Makes blocks for so many vCPUs.
    ///
    /// # Errors
    /// What memfd_create(2), fcntl(2) and mmap(2) say.
    pub fn new(vcpus: usize) -> Result<SharedBlocks, Errno> {
        let size = (vcpus * STRIDE) as u64;
        let create = |name| {
            let fd = memfd::create(name)?;
            memfd::set_size(fd.as_fd(), size)?;
            memfd::add_seals(fd.as_fd(), Seals::SHRINK | Seals::GROW)?;
            Ok::<_, Errno>(fd)
        };
        let to_plugin_fd = create(c"outboard-to-plugin")?;
        let to_vmm_fd = create(c"outboard-to-vmm")?;
        let to_plugin = Blocks::map(to_plugin_fd.as_fd(), vcpus, Access::Write)?;
        let to_vmm = Blocks::map(to_vmm_fd.as_fd(), vcpus, Access::Read)?;
        // From here on nobody can map `to_plugin` for writing or write to it, which leaves the mapping above.
        memfd::add_seals(to_plugin_fd.as_fd(), Seals::FUTURE_WRITE | Seals::SEAL)?;
        memfd::add_seals(to_vmm_fd.as_fd(), Seals::SEAL)?;
        Ok(SharedBlocks { to_plugin_fd, to_vmm_fd, to_plugin: Arc::new(to_plugin), to_vmm: Arc::new(to_vmm) })
    }

    /// Copies of both descriptors for the plugin, in the order of the hello reply.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn descriptors(&self) -> Result<Vec<OwnedFd>, Errno> {
        Ok(vec![self.to_plugin_fd.try_clone()?, self.to_vmm_fd.try_clone()?])
    }
}
