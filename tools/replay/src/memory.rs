//! The memory that the replay shares with the plugin, made as a VMM makes it, and the guest's, which the plugin makes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::page::{Access, Blocks};
use outboard_wire::trace::read::Group;
use outboard_wire::trace::{area, kind};

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

/// The guest's memory: what the guest wrote there when it was recorded is written again.
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// Files of the plugin, and where the slot begins in each.
    slots: Mutex<BTreeMap<u32, (File, u64)>>,
}

impl GuestMemory {
    /// The plugin made a slot.
    pub fn add(&self, id: u32, fd: OwnedFd, offset: u64) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (fd.into(), offset));
    }

    /// It took one away. What the guest wrote to it last stays written.
    pub fn remove(&self, id: u32) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn write(&self, change: &Group) -> io::Result<()> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match slots.get(&change.head.answer.file) {
            Some((file, offset)) => {
                file.write_all_at(change.data(area::MEMORY), offset.saturating_add(change.head.event.data))
            }
            None => Ok(()),
        }
    }
}

/// The changes of the guest's memory in a trace, written one after the other.
#[derive(Debug)]
pub struct Changes<'a> {
    all: Vec<&'a Group>,
    /// How many are written.
    done: Mutex<usize>,
}

impl<'a> Changes<'a> {
    /// Those of a trace.
    pub fn of(groups: &'a [Group]) -> Changes<'a> {
        let mut all: Vec<_> = groups.iter().filter(|group| group.head.kind == kind::MEMORY).collect();
        all.sort_by_key(|group| group.head.exit);
        Changes { all, done: Mutex::default() }
    }

    /// Writes all that were recorded before a moment.
    ///
    /// # Errors
    /// What pwrite(2) says: the plugin has sealed its memory.
    pub fn write_until(&self, tsc: u64, memory: &GuestMemory) -> io::Result<()> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(change) = self.all.get(*done).filter(|change| change.head.exit < tsc) {
            memory.write(change)?;
            *done += 1;
        }
        Ok(())
    }
}
