//! What all connections and vCPUs of this process share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_wire::block::{ToPlugin, ToVmm};
use outboard_wire::control::{HelloReply, SPIN_ALWAYS, SPIN_AUTO, SPIN_FOR, SPIN_OFF};
use outboard_wire::limits::MAX_VCPUS;
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::plugin_end::PluginEnd;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};

use crate::error::Error;
use crate::registers::Registers;

/// The mapped blocks and the vCPUs that nobody has taken.
#[derive(Debug)]
pub struct Machine {
    pub tsc_khz: u64,
    /// One place per vCPU, empty while it is taken.
    vcpus: Mutex<Vec<Option<Registers>>>,
    count: u32,
}

impl Machine {
    /// Maps the two memfds that came with the VMM's greeting.
    pub fn new(hello: &HelloReply, fds: &[OwnedFd]) -> Result<Machine, Error> {
        let [to_plugin, to_vmm] = fds else {
            return Err(Error::Reply("it sent a greeting without its two memfds"));
        };
        let mode = match hello.spin_mode {
            SPIN_AUTO => SpinMode::Auto,
            SPIN_OFF => SpinMode::Off,
            SPIN_ALWAYS => SpinMode::Always,
            SPIN_FOR => SpinMode::For(hello.spin_ns),
            _ => return Err(Error::Reply("it sent a greeting with an unknown spin mode")),
        };
        let count = hello.vcpus as usize;
        if count == 0 || count > MAX_VCPUS {
            return Err(Error::Reply("it sent a greeting with no vCPU or too many"));
        }
        let map = Error::io("map the memfds of the vCPU blocks");
        let to_plugin = Blocks::<ToPlugin>::map(to_plugin.as_fd(), count, Access::Read);
        let to_vmm = Blocks::<ToVmm>::map(to_vmm.as_fd(), count, Access::Write);
        let (to_plugin, to_vmm) = to_plugin.and_then(|first| Ok((first, to_vmm?))).map_err(map)?;
        let (to_plugin, to_vmm) = (Arc::new(to_plugin), Arc::new(to_vmm));
        let limit = Arc::new(SpinLimit::for_mode(mode, hello.cpus, hello.vcpus));
        let vcpus = (0..count).map(|index| {
            let blocks = (BlockRef::new(&to_plugin, index)?, BlockRef::new(&to_vmm, index)?);
            let end = PluginEnd::new(blocks.0, blocks.1, Spinner::new(mode, hello.tsc_khz), Arc::clone(&limit));
            Some(Registers::new(index as u32, end))
        });
        Ok(Machine { tsc_khz: hello.tsc_khz, vcpus: Mutex::new(vcpus.collect()), count: hello.vcpus })
    }

    pub fn vcpu_count(&self) -> u32 {
        self.count
    }

    /// Hands vCPU number `id` out.
    pub fn take(&self, id: u32) -> Result<Registers, Error> {
        let mut vcpus = self.lock();
        let place = vcpus.get_mut(id as usize).ok_or(Error::NoVcpu { id, count: self.count })?;
        place.take().ok_or(Error::VcpuTaken(id))
    }

    /// Takes a vCPU back.
    pub fn give_back(&self, state: Registers) {
        let id = state.id() as usize;
        if let Some(place) = self.lock().get_mut(id) {
            *place = Some(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Registers>>> {
        // Every change is a single store, so a panic elsewhere leaves nothing half done.
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
