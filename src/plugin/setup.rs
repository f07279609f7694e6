//! What happens before the plugin starts: the VM, its vCPUs, the shared memory.

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::process::SpawnError;
use super::recorder::{Recorder, TraceError};
use super::requests::Host;
use super::settings::Settings;
use super::shared::SharedBlocks;
use super::socket_file::SocketError;
use crate::event::EventError;
use crate::jail::parent::ParentFault;
use crate::kvm::{KvmError, OpenError, System, install_kick_handler};
use crate::machine::Machine;
use crate::machine::rules::RulesView;
use crate::machine::tap::{Tap, TapError};
use crate::observe::shared::SharedStats;
use crate::sys::eventfd::EventFd;
use crate::sys::{Errno, affinity};
use crate::vcpu::control::Control;
use crate::vcpu::run::Waiting;
use crate::vcpu::set::{Seat, VcpuSet};
use crate::vcpu::tracer::Tracer;
use crate::vcpu::witness::Witness;
use kvm_bindings::KVM_CAP_SYNC_REGS;
use outboard_wire::clock;
use outboard_wire::control::{HelloReply, SPIN_ALWAYS, SPIN_AUTO, SPIN_FOR, SPIN_OFF};
use outboard_wire::limits::{VERSION_MAJOR, VERSION_MINOR};
use outboard_wire::page::BlockRef;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::stats::Header;
use outboard_wire::trace::ring::Ring;
use outboard_wire::vmm_end::VmmEnd;
use outboard_wire::{block, limits};

/// Why a run could not begin, or could not go on for a reason of this host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The KVM device cannot be used.
    #[error(transparent)]
    Kvm(#[from] OpenError),
    /// A KVM call failed while the VM was set up.
    #[error("cannot set the VM up: {0}")]
    KvmCall(#[from] KvmError),
    /// The completion loop cannot be had, or failed.
    #[error("{0}")]
    Events(EventError),
    /// The plugin could not be started.
    #[error("{0}")]
    Spawn(SpawnError),
    /// More vCPUs than this version or this KVM takes.
    #[error("{asked} vCPUs were asked for, and {limit} is the most that {who} takes; use --cpus {limit} or fewer")]
    TooManyVcpus {
        /// Number asked for.
        asked: u32,
        /// Number possible.
        limit: u32,
        /// Who sets the limit.
        who: &'static str,
    },
    /// There is no tap device as it was asked for.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The management socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The trace cannot be recorded.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The VMM cannot give up its rights.
    #[error("the VMM cannot give up its rights: {} failed: {}", .0.call, .0.errno)]
    Cage(ParentFault),
    /// Another system call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// What was called, or attempted.
        call: &'static str,
        /// Why it failed.
        errno: Errno,
    },
}

impl StartError {
    /// For `map_err`: names the call.
    pub(super) fn call(call: &'static str) -> impl FnOnce(Errno) -> StartError {
        move |errno| StartError::Call { call, errno }
    }
}

/// What was found to be there before anything is started.
pub(super) struct Ready {
    pub system: System,
    pub taps: Vec<Tap>,
}

/// Looks whether this host has what the settings ask for.
pub(super) fn check(settings: &Settings) -> Result<Ready, StartError> {
    let taps = taps(settings)?;
    let system = System::open(&settings.kvm)?;
    check_vcpus(&system, settings.vcpus)?;
    Ok(Ready { system, taps })
}

/// A VM as a plugin finds it, without a plugin: for those who bring its requests themselves, as the fuzz targets do.
///
/// # Errors
/// As for a run.
pub fn bare_host(settings: &Settings) -> Result<Host, StartError> {
    host(settings, check(settings)?)
}

/// Sets everything up that requests act on. The vCPUs themselves are made when the plugin starts them.
pub(super) fn host(settings: &Settings, Ready { system, taps }: Ready) -> Result<Host, StartError> {
    install_kick_handler().map_err(StartError::call("sigaction"))?;
    let mut machine = Machine::new(system, settings.vcpus, settings.irqchip)?;
    let blocks = SharedBlocks::new(settings.vcpus as usize).map_err(StartError::call("making the shared memory"))?;
    let tsc_khz = tsc_khz(&machine);
    let stats = SharedStats::new(&header(settings, tsc_khz)).map_err(StartError::call("making the counters"))?;
    let cpus = affinity::allowed().map_err(StartError::call("sched_getaffinity"))?.len() as u32;
    let limit = Arc::new(SpinLimit::for_mode(settings.spin, cpus, settings.vcpus));
    let sync_caps = machine.check_extension(KVM_CAP_SYNC_REGS);
    let rings: Vec<Arc<OnceLock<Ring>>> = (0..=settings.vcpus).map(|_| Arc::default()).collect();
    let memory = settings.trace_memory.then(|| (machine.watch_memory(), Arc::<Witness>::default()));
    let witness = memory.as_ref().map(|(_, witness)| Arc::clone(witness));
    let seats = (0..settings.vcpus as usize).map(|index| {
        let seat = Seat { control: Arc::new(Control::default()), eventfd: Arc::new(OnceLock::new()) };
        let to_plugin = BlockRef::new(&blocks.to_plugin, index).expect("a block per vCPU");
        let to_vmm = BlockRef::new(&blocks.to_vmm, index).expect("a block per vCPU");
        let spinner = Spinner::new(settings.spin, tsc_khz);
        let end = VmmEnd::new(to_plugin, to_vmm, spinner, Arc::clone(&limit), Arc::clone(&seat.eventfd));
        let rules = RulesView::new(Arc::clone(machine.shared_rules()));
        let tracer = Tracer::new(Arc::clone(&rings[index]), index as u32, witness.clone());
        let waiting = Waiting::new(end, Arc::clone(&seat.control), rules, sync_caps, stats.block(index), tracer);
        // Whoever chose another policy than the automatic one does not want to be helped.
        (if settings.spin == SpinMode::Auto { waiting.roaming() } else { waiting }, seat)
    });
    let vcpus = VcpuSet::new(seats.collect()).map_err(StartError::call("eventfd"))?;
    let recorder = Recorder::new(rings, vcpus.controls(), cpus, memory);
    let shutdown = EventFd::new().map_err(StartError::call("eventfd"))?;
    let welcome = welcome(settings, cpus, tsc_khz);
    let affinity = settings.affinity.clone();
    Ok(Host {
        machine,
        vcpus,
        shutdown,
        welcome,
        blocks,
        stats,
        recorder,
        memory_taken: false,
        taps,
        affinity,
        drill: settings.drill.map(|drill| drill.pattern),
        vcpu_filter: None,
    })
}

fn header(settings: &Settings, tsc_khz: u64) -> Header<'_> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let path = settings.program.as_os_str().as_bytes();
    Header {
        vcpus: settings.vcpus,
        pid: std::process::id(),
        tsc_khz,
        start_tsc: clock::now(),
        start_time: since_1970.as_nanos() as u64,
        name: settings.name.as_deref().unwrap_or_default(),
        path: match settings.argv.get(1) {
            // This program itself: the embedded machine has no path, other plugins have their command.
            Some(command) if path == b"/proc/self/exe" && command.as_c_str() == c"embedded-machine" => b"",
            Some(command) if path == b"/proc/self/exe" => command.to_bytes(),
            _ => path,
        },
    }
}

/// The tap device that is made comes first, then those that were handed over.
fn taps(settings: &Settings) -> Result<Vec<Tap>, TapError> {
    let made = settings.tap.iter().map(Tap::create);
    made.chain(settings.tap_fds.iter().map(|number| Tap::inherited(*number))).collect()
}

fn check_vcpus(system: &System, asked: u32) -> Result<(), StartError> {
    let kvm = system.check_extension(kvm_bindings::KVM_CAP_MAX_VCPUS)?.max(1) as u32;
    let (limit, who) = [(limits::MAX_VCPUS as u32, "outboard"), (kvm, "KVM")].into_iter().min().expect("two limits");
    if asked > limit || asked == 0 {
        return Err(StartError::TooManyVcpus { asked, limit, who });
    }
    Ok(())
}

/// KVM knows the frequency where the TSC is stable; elsewhere it is measured.
fn tsc_khz(machine: &Machine) -> u64 {
    match machine.tsc_khz() {
        Ok(khz) if khz > 0 => khz.into(),
        _ => clock::measure_khz(Duration::from_millis(5)),
    }
}

fn welcome(settings: &Settings, cpus: u32, tsc_khz: u64) -> HelloReply {
    let (spin_mode, spin_ns) = match settings.spin {
        SpinMode::Auto => (SPIN_AUTO, 0),
        SpinMode::Off => (SPIN_OFF, 0),
        SpinMode::Always => (SPIN_ALWAYS, 0),
        SpinMode::For(ns) => (SPIN_FOR, ns),
    };
    HelloReply {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR,
        layout: block::LAYOUT,
        vcpus: settings.vcpus,
        cpus,
        spin_mode,
        reserved: 0,
        spin_ns,
        tsc_khz,
    }
}
