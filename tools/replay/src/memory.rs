//! The memory that the replay shares with the plugin, made as a VMM makes it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::page::{Access, Blocks};

/// Both memfds and their mappings.
pub struct Shared {
    pub to_plugin: Arc<Blocks<ToPlugin>>,
    pub to_vmm: Arc<Blocks<ToVmm>>,
    fds: [OwnedFd; 2],
}

impl Shared {
    /// Blocks for so many vCPUs.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn new(vcpus: usize) -> io::Result<Shared> {
        let down = sealed("outboard-to-plugin", vcpus)?;
        let up = sealed("outboard-to-vmm", vcpus)?;
        let to_plugin = Arc::new(Blocks::map(down.as_fd(), vcpus, Access::Write)?);
        let to_vmm = Arc::new(Blocks::map(up.as_fd(), vcpus, Access::Read)?);
        fcntl_add_seals(&down, SealFlags::FUTURE_WRITE)?;
        Ok(Shared { to_plugin, to_vmm, fds: [down, up] })
    }

    /// Copies for the plugin.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.fds.iter().map(OwnedFd::try_clone).collect()
    }
}

fn sealed(name: &str, vcpus: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, (vcpus * STRIDE) as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

/// A file in memory with these bytes.
pub fn file_of(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("outboard-replay", MemfdFlags::CLOEXEC)?;
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::write(&fd, &bytes[at..])?;
    }
    Ok(fd)
}
