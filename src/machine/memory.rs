//! Memory slots: parts of the plugin's memfds in the guest's address space.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};

use super::ids::Objects;
use super::written::WrittenMemory;
use crate::kvm::Vm;
use crate::sys::errno::Errno;
use crate::sys::{PAGE, file, memfd};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use outboard_wire::control::{CreateMemory, MEMORY_DIRTY_LOG, MEMORY_READ_ONLY};

/// What is kept of a slot; its mapping is kept by the VM.
#[derive(Clone, Copy, Debug)]
struct Slot {
    pages: u64,
    dirty_log: bool,
}

/// The memory slots of a VM. Numbers of slots are KVM's own.
#[derive(Default)]
pub struct Memory {
    slots: Objects<Slot>,
    /// Reads the dirty logs of all slots that the guest can write to, if their contents are recorded.
    written: Option<Arc<WrittenMemory>>,
}

impl Memory {
    /// Has what the guest writes recorded. Before the first slot.
    pub fn watch(&mut self, written: Arc<WrittenMemory>) {
        self.written = Some(written);
    }

    /// Makes a slot of part of a memfd.
    ///
    /// # Errors
    /// As [`CreateMemory`] lists them, and what mmap(2) and KVM say.
    pub fn create(&mut self, vm: &Vm, request: &CreateMemory, fd: &OwnedFd) -> Result<u32, Errno> {
        let mut flags = slot_flags(request)?;
        check_memfd(request, fd)?;
        let id = self.slots.next_id()?;
        let mut options = MmapOptions::new();
        options.offset(request.offset).len(usize::try_from(request.length).map_err(|_| Errno(libc::ENOMEM))?);
        options.no_reserve_swap();
        let read_only = request.flags & MEMORY_READ_ONLY != 0;
        let map = if read_only { options.map_raw_read_only(fd) } else { options.map_raw(fd) };
        let map = map.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
        let watched = self.written.clone().filter(|_| !read_only);
        let watched = watched.map(|written| Ok::<_, Errno>((written, fd.try_clone()?))).transpose()?;
        if watched.is_some() {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        vm.set_memory_slot(id, flags, request.start, Arc::new(map), 0, request.length).map_err(|error| error.errno)?;
        let dirty_log = request.flags & MEMORY_DIRTY_LOG != 0;
        self.slots.insert(id, Slot { pages: request.length / PAGE, dirty_log });
        if let Some((written, memory)) = watched {
            written.add(id, request, memory, dirty_log);
        }
        Ok(id)
    }

    /// Gives the guest memory of the VMM's own, with these bytes in it, at the first of the addresses that is free. Returns
    /// which it was.
    ///
    /// # Errors
    /// `ENOSPC` if there is none or no number for a slot is left; what mmap(2) says.
    pub fn create_own(&mut self, vm: &Vm, addresses: &[u64], bytes: impl Fn(u64) -> Vec<u8>) -> Result<u64, Errno> {
        let id = self.slots.next_id()?;
        for start in addresses {
            let bytes = bytes(*start);
            let mut map = MmapMut::map_anon(bytes.len()).map_err(Errno::from)?;
            map.copy_from_slice(&bytes);
            if vm.set_memory_slot(id, 0, *start, Arc::new(map.into()), 0, bytes.len() as u64).is_ok() {
                self.slots.insert(id, Slot { pages: bytes.len() as u64 / PAGE, dirty_log: false });
                return Ok(*start);
            }
        }
        Err(Errno(libc::ENOSPC))
    }

    /// Takes a slot out of the guest and unmaps it.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot.
    pub fn destroy(&mut self, vm: &Vm, id: u32) -> Result<(), Errno> {
        self.slots.get(id)?;
        self.written.as_ref().map_or(Ok(()), |written| written.remove(id))?;
        vm.remove_memory_slot(id).map_err(|error| error.errno)?;
        self.slots.remove(id).map(drop)
    }

    /// The dirty log of a slot since the last call, and its pages. The bitmap's last word may reach past the last page.
    ///
    /// # Errors
    /// `ENOENT` if there is no such slot or it keeps no log.
    pub fn dirty_log(&self, vm: &Vm, id: u32) -> Result<(Vec<u64>, u64), Errno> {
        let slot = self.slots.get(id)?;
        if !slot.dirty_log {
            return Err(Errno(libc::ENOENT));
        }
        if let Some(written) = &self.written
            && let Some(bitmap) = written.log_for_plugin(id)?
        {
            return Ok((bitmap, slot.pages));
        }
        let mut bitmap = vec![0; slot.pages.div_ceil(64) as usize];
        vm.dirty_log(id, &mut bitmap).map_err(|error| error.errno)?;
        Ok((bitmap, slot.pages))
    }
}

fn slot_flags(request: &CreateMemory) -> Result<u32, Errno> {
    if request.flags & !(MEMORY_READ_ONLY | MEMORY_DIRTY_LOG) != 0 || request.reserved != 0 {
        return Err(Errno(libc::EINVAL));
    }
    let flag = |bit, kvm| if request.flags & bit != 0 { kvm } else { 0 };
    Ok(flag(MEMORY_READ_ONLY, KVM_MEM_READONLY) | flag(MEMORY_DIRTY_LOG, KVM_MEM_LOG_DIRTY_PAGES))
}

/// The plugin keeps the memfd and may do with it what its seals allow. Sealed against shrinking, no access of the guest can
/// hit a hole where the file used to be.
fn check_memfd(request: &CreateMemory, fd: &OwnedFd) -> Result<(), Errno> {
    let end = request.offset.checked_add(request.length).ok_or(Errno(libc::EOVERFLOW))?;
    request.start.checked_add(request.length).ok_or(Errno(libc::EOVERFLOW))?;
    let unaligned = !(request.offset | request.length | request.start).is_multiple_of(PAGE);
    if request.length == 0 || unaligned || !memfd::is_memory_file(fd.as_fd()) {
        return Err(Errno(libc::EINVAL));
    }
    if !memfd::seals(fd.as_fd())?.contains(memfd::Seals::SHRINK) {
        return Err(Errno(libc::EPERM));
    }
    if end > file::size(fd.as_fd())? {
        return Err(Errno(libc::EINVAL));
    }
    Ok(())
}
