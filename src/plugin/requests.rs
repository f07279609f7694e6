//! What each control request does: one row of [`Host::serve`] per kind.
//!
//! A request that cannot be carried out is refused with an errno and changes nothing. None of them ends the VM.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::affinity::Affinity;
use super::recorder::Recorder;
pub use super::reply::Reply;
use super::shared::SharedBlocks;
use crate::machine::tap::Tap;
use crate::machine::{List, Machine};
use crate::observe::shared::SharedStats;
use crate::sys::eventfd::EventFd;
use crate::sys::seccomp::Instruction;
use crate::sys::{Errno, memfd};
use crate::vcpu::drill::Pattern;
use crate::vcpu::set::VcpuSet;
use outboard_wire::control::{self, Done, Hello, HelloReply, Kind, ObjectId, Request, body};
use outboard_wire::stats::state;

/// What requests act on.
pub struct Host {
    /// The VM.
    pub machine: Machine,
    /// Its vCPUs.
    pub vcpus: VcpuSet,
    /// Signalled when the plugin should exit.
    pub shutdown: EventFd,
    /// What the plugin learns when it says hello.
    pub welcome: HelloReply,
    pub(super) blocks: SharedBlocks,
    /// Counters that tools read.
    pub stats: SharedStats,
    /// Records traces.
    pub(super) recorder: Recorder,
    /// The plugin took memory away from a guest that runs.
    pub memory_taken: bool,
    /// Tap devices, in the order of the command line.
    pub taps: Vec<Tap>,
    /// CPUs that the user wants vCPUs to run on.
    pub affinity: Affinity,
    /// What vCPU 0 runs in place of the plugin's guest.
    pub drill: Option<Pattern>,
    /// The filter that each vCPU thread is to load.
    pub vcpu_filter: Option<Arc<[Instruction]>>,
}

impl Host {
    /// Answers a hello: what the plugin needs to know of the VM, and the shared memory if both sides speak the same
    /// protocol. Returns whether they do.
    ///
    /// # Errors
    /// `EINVAL` for a body of another size, `EMFILE`.
    pub fn welcome(&self, bytes: &[u8]) -> Result<(Reply, Result<(), String>), Errno> {
        let theirs: Hello = body(bytes).ok_or(Errno::EINVAL)?;
        let ours = Hello::ours();
        let agreed = theirs.major == ours.major && theirs.minor <= ours.minor && theirs.layout == ours.layout;
        let fds = if agreed { self.blocks.descriptors()? } else { Vec::new() };
        let name = |hello: Hello| format!("{}.{} with layout {:#010x}", hello.major, hello.minor, hello.layout);
        let said = || {
            let (theirs, ours) = (name(theirs), name(ours));
            format!("it speaks version {theirs}, this VMM speaks {ours}; build both from the same release")
        };
        let reply = Reply { body: self.welcome.as_bytes().to_vec(), fds };
        Ok((reply, if agreed { Ok(()) } else { Err(said()) }))
    }

    /// Carries out a request other than hello and new connection.
    ///
    /// # Errors
    /// The errno that the plugin gets: as each request's documentation says, and `EINVAL` for a body of the wrong size or
    /// descriptors that the request does not take.
    pub fn serve(&mut self, kind: Kind, bytes: &[u8], mut fds: Vec<OwnedFd>) -> Result<Reply, Errno> {
        let machine = &mut self.machine;
        match kind {
            Kind::Hello | Kind::NewConnection => Err(Errno::EINVAL),
            Kind::ShutdownEvent => {
                with(bytes, &fds, |_: control::ShutdownEvent| Ok((Done {}, vec![self.shutdown.try_clone()?.into()])))
            }
            Kind::CheckExtension => with(bytes, &fds, |request: control::CheckExtension| {
                Ok((control::Extension { value: machine.check_extension(request.capability) }, vec![]))
            }),
            Kind::Start => with(bytes, &fds, |_: control::Start| {
                if self.vcpus.started() {
                    return Err(Errno::EINVAL);
                }
                if let Some(pattern) = self.drill {
                    let base = machine.create_own_memory(|base| pattern.memory(base))?;
                    self.vcpus.controls()[0].set_drill(pattern, base);
                }
                let vcpus = machine.make_vcpus().map_err(|error| {
                    log::warn!("the VM cannot be started: {error}");
                    error.errno
                })?;
                self.vcpus.start(vcpus, |vcpu| self.affinity.cpus_of(vcpu), self.vcpu_filter.clone())?;
                if self.stats.vm().state == state::STARTING {
                    self.stats.set_state(state::RUNNING);
                }
                done(Ok(()))
            }),
            Kind::HostList => with(bytes, &fds, |request: control::HostList| {
                let List { reply, bytes } = machine.list(request.list)?;
                Ok((reply, vec![file_of(c"outboard-list", &bytes)?]))
            }),
            Kind::GetTsc => {
                with(bytes, &fds, |_: control::GetTsc| Ok((control::TscKhz { khz: machine.tsc_khz()? }, vec![])))
            }
            Kind::SetTsc => with(bytes, &fds, |request: control::SetTsc| done(machine.set_tsc_khz(request.khz))),
            Kind::NetConfig => with(bytes, &fds, |request: control::NetConfig| {
                let tap = self.taps.get(request.index as usize).ok_or(Errno::ENODATA)?;
                Ok((tap.config()?, vec![tap.descriptor()?]))
            }),
            Kind::CreateMemory => {
                let fd = if fds.len() > 1 { Err(Errno::EINVAL) } else { fds.pop().ok_or(Errno::EBADF) }?;
                with(bytes, &[], |request: control::CreateMemory| object(machine.create_memory(&request, &fd)))
            }
            Kind::DestroyMemory => with(bytes, &fds, |request: control::DestroyMemory| {
                machine.destroy_memory(request.id)?;
                self.memory_taken |= self.vcpus.started();
                done(Ok(()))
            }),
            Kind::DirtyLog => with(bytes, &fds, |request: control::DirtyLog| {
                let (bitmap, pages) = machine.dirty_log(request.id)?;
                Ok((control::DirtyLogReply { pages }, vec![file_of(c"outboard-dirty-log", bitmap.as_bytes())?]))
            }),
            Kind::ReserveRange => with(bytes, &fds, |request: control::ReserveRange| {
                let place = machine.reserve_range(&request)?;
                let (mmio, posted) = (request.space == control::SPACE_MMIO, request.kind != control::RANGE_SYNCHRONOUS);
                match request.length {
                    0 => self.stats.block(0).release_range(place),
                    length => self.stats.block(0).set_range(place, mmio, posted, request.start, length),
                }
                done(Ok(()))
            }),
            Kind::SetUnclaimed => {
                with(bytes, &fds, |request: control::SetUnclaimed| done(machine.set_unclaimed(&request)))
            }
            Kind::PauseVcpus => with(bytes, &fds, |request: control::PauseVcpus| {
                self.vcpus.pause(&request.mask, request.cookie);
                done(Ok(()))
            }),
            Kind::VcpuEventFd => with(bytes, &fds, |request: control::VcpuEventFd| {
                Ok((Done {}, vec![self.vcpus.event_fd(request.vcpu)?]))
            }),
            Kind::SetHint => with(bytes, &fds, |request: control::SetHint| done(machine.set_hint(&request))),
            Kind::Subscribe => with(bytes, &fds, |request: control::Subscribe| done(machine.subscribe(&request))),
            Kind::IrqLine => with(bytes, &fds, |request: control::IrqLine| done(machine.set_irq_line(&request))),
            Kind::CreateIrqEvent => with(bytes, &fds, |request: control::CreateIrqEvent| {
                let (id, fds) = machine.create_irq_event(&request)?;
                Ok((ObjectId { id }, fds))
            }),
            Kind::DestroyIrqEvent => {
                with(bytes, &fds, |request: control::DestroyIrqEvent| done(machine.destroy_irq_event(request.id)))
            }
            Kind::CreateIoEvent => with(bytes, &fds, |request: control::CreateIoEvent| {
                let (id, fd) = machine.create_io_event(&request)?;
                Ok((ObjectId { id }, vec![fd]))
            }),
            Kind::DestroyIoEvent => {
                with(bytes, &fds, |request: control::DestroyIoEvent| done(machine.destroy_io_event(request.id)))
            }
            Kind::SetRoutes => {
                let table = if fds.len() > 1 { Err(Errno::EINVAL) } else { Ok(fds.pop()) }?;
                with(bytes, &[], |request: control::SetRoutes| done(machine.set_routes(&request, table)))
            }
            Kind::SignalMsi => with(bytes, &fds, |request: control::SignalMsi| {
                let delivered = machine.signal_msi(&request)?.into();
                Ok((control::Delivered { delivered }, vec![]))
            }),
            Kind::GetChip => with(bytes, &fds, |request: control::GetChip| Ok((machine.chip(request.chip)?, vec![]))),
            Kind::SetChip => with(bytes, &fds, |request: control::SetChip| done(machine.set_chip(&request))),
            Kind::SetIdentityMap => {
                with(bytes, &fds, |request: control::SetIdentityMap| done(machine.set_identity_map(request.address)))
            }
        }
    }
}

/// Reads the body, carries the request out, and packs its reply.
fn with<R: Request>(
    bytes: &[u8],
    fds: &[OwnedFd],
    carry_out: impl FnOnce(R) -> Result<(R::Reply, Vec<OwnedFd>), Errno>,
) -> Result<Reply, Errno> {
    let request: R = body(bytes).filter(|_| fds.is_empty()).ok_or(Errno::EINVAL)?;
    let (reply, fds) = carry_out(request)?;
    Ok(Reply { body: reply.as_bytes().to_vec(), fds })
}

fn done(result: Result<(), Errno>) -> Result<(Done, Vec<OwnedFd>), Errno> {
    result.map(|()| (Done {}, vec![]))
}

fn object(result: Result<u32, Errno>) -> Result<(ObjectId, Vec<OwnedFd>), Errno> {
    result.map(|id| (ObjectId { id }, vec![]))
}

/// These bytes in a memfd of their own.
fn file_of(name: &CStr, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let mut file = File::from(memfd::create(name)?);
    file.write_all(bytes)?;
    Ok(file.into())
}
