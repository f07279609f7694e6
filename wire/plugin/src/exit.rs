//! Exits that are no accesses: what they bring, how they are asked for and answered.

use core::ops::{BitOr, Deref, DerefMut};

use outboard_wire::control as wire;
use outboard_wire::details::Details;
use outboard_wire::limits::MAX_MSR_RANGES;
use outboard_wire::line::event_kind;

use crate::connection::Connection;
use crate::error::Error;
use crate::event::Stopped;
use crate::registers::Registers;

/// Why a vCPU stopped, other than for an access to a range.
///
/// Those of Hyper-V come to every plugin whose guest has Hyper-V by its CPUID, the others to those that ask for them by
/// [`Connection::subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// A Hyper-V hypercall; the result is what the guest finds in RAX, 0 without an answer.
    HypervCall {
        /// The hypercall's input value.
        input: u64,
        /// Its two parameters.
        params: [u64; 2],
    },
    /// The guest changed its Hyper-V interrupt controller.
    HypervSynic {
        /// The MSR that it wrote.
        msr: u32,
        /// `SCONTROL`.
        control: u64,
        /// `SIEFP`, where event flags are.
        event_page: u64,
        /// `SIMP`, where messages are.
        message_page: u64,
    },
    /// The guest reads an MSR. Without an answer it gets a general protection fault.
    ReadMsr {
        /// The MSR.
        index: u32,
        /// `KVM_MSR_EXIT_REASON_*`: 4 it is in a range that was asked for, 1 and 2 KVM refuses it.
        reason: u32,
    },
    /// The guest writes an MSR. Without an answer it gets a general protection fault.
    WriteMsr {
        /// The MSR.
        index: u32,
        /// As with [`Exit::ReadMsr`].
        reason: u32,
        /// The value.
        data: u64,
    },
    /// The guest halted, in a VM without KVM's local APICs. It runs on behind its HLT when the event is answered.
    Halt,
    /// A hypercall that KVM hands on; the result is what the guest finds in RAX, -1000 (`KVM_ENOSYS`) without an answer.
    Hypercall {
        /// Which.
        number: u64,
        /// Its arguments; four of them mean something today.
        args: [u64; 6],
        /// `KVM_EXIT_HYPERCALL_*`.
        flags: u64,
    },
    /// A breakpoint or single step of [`Registers::set_guest_debug`].
    Debug {
        /// Vector of the exception: 1 or 3.
        exception: u32,
        /// Linear address of the instruction.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    },
    /// The guest ended an interrupt that the plugin's IOAPIC raised.
    IoapicEoi {
        /// Its vector.
        vector: u8,
    },
    /// The VM as a whole shall do something.
    System {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
        /// Words of `data` that mean something.
        count: u32,
        /// What they mean depends on `kind`.
        data: [u64; 16],
    },
    /// KVM cannot emulate an instruction. General, segment and control registers ride along, as they were before it. A plugin
    /// that carries the instruction out sets the registers, the instruction pointer among them, and [`Exited::accept`]s;
    /// without an answer the VM ends.
    EmulationFailure {
        /// Number of bytes that KVM read at the instruction pointer: up to 15, which may be less or more than one
        /// instruction, and 0 where KVM does not say.
        count: u8,
        /// The bytes, the others zero.
        bytes: [u8; 15],
    },
}

/// What the answer to an exit begins with, if nobody changes it.
pub(crate) struct Unanswered {
    /// The answer carries a result.
    pub(crate) result: Option<u64>,
    /// The guest gets a general protection fault, or the VM ends.
    pub(crate) fault: bool,
}

impl Exit {
    /// The exit of an event kind; `None` for kinds that are none.
    pub(crate) fn from_wire(kind: u8, details: &Details) -> Option<Exit> {
        let [a, b, c, d, e, f, g, h, ..] = *details.words();
        Some(match kind {
            event_kind::HYPERV_CALL => Exit::HypervCall { input: a, params: [b, c] },
            event_kind::HYPERV_SYNIC => Exit::HypervSynic { msr: a as u32, control: b, event_page: c, message_page: d },
            event_kind::READ_MSR => Exit::ReadMsr { index: a as u32, reason: b as u32 },
            event_kind::WRITE_MSR => Exit::WriteMsr { index: a as u32, reason: b as u32, data: c },
            event_kind::HALT => Exit::Halt,
            event_kind::HYPERCALL => Exit::Hypercall { number: a, args: [b, c, d, e, f, g], flags: h },
            event_kind::DEBUG => Exit::Debug { exception: a as u32, pc: b, dr6: c, dr7: d },
            event_kind::IOAPIC_EOI => Exit::IoapicEoi { vector: a as u8 },
            event_kind::SYSTEM => {
                let mut data = [0; 16];
                data.copy_from_slice(&details.words()[1..]);
                Exit::System { kind: a as u32, count: details.count().saturating_sub(1) as u32, data }
            }
            event_kind::EMULATION_FAILURE => {
                let mut bytes = [0; 15];
                bytes.copy_from_slice(&bytemuck::bytes_of(&[b, c])[..15]);
                Exit::EmulationFailure { count: a.min(15) as u8, bytes }
            }
            _ => return None,
        })
    }

    pub(crate) fn default_answer(&self) -> Unanswered {
        match self {
            Exit::HypervCall { .. } => Unanswered { result: Some(0), fault: false },
            Exit::Hypercall { .. } => Unanswered { result: Some(-1000i64 as u64), fault: false },
            Exit::ReadMsr { .. } => Unanswered { result: Some(0), fault: true },
            Exit::WriteMsr { .. } | Exit::EmulationFailure { .. } => Unanswered { result: None, fault: true },
            _ => Unanswered { result: None, fault: false },
        }
    }
}

/// The vCPU stopped for another reason than an access, and waits for an answer.
///
/// ```no_run
/// use outboard_plugin::{Event, Exit};
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// # let mut vcpu = vm.vcpu(0)?;
/// if let Event::Exit(exited) = vcpu.wait()? {
///     match exited.exit() {
///         Exit::ReadMsr { index: 0x1234, .. } => exited.answer(7),
///         Exit::WriteMsr { index: 0x1234, .. } => exited.accept(),
///         other => println!("{other:?}"), // what is not answered is refused to the guest
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Exited<'a> {
    stopped: Stopped<'a>,
    exit: Exit,
}

impl<'a> Exited<'a> {
    pub(crate) fn new(vcpu: &'a mut Registers, exit: Exit) -> Exited<'a> {
        Exited { stopped: Stopped::new(vcpu), exit }
    }

    /// Why the vCPU stopped.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Sets the result of a hypercall or the value of an MSR, and lets the vCPU run on.
    pub fn answer(mut self, result: u64) {
        self.stopped.set_result(result);
    }

    /// Accepts the write of an MSR, or says that the instruction which KVM cannot emulate was carried out, and lets the vCPU run
    /// on. The same as dropping it for all else.
    pub fn accept(mut self) {
        self.stopped.set_fault(false);
    }

    /// Gives the guest a general protection fault for its access to an MSR; ends the VM if it is about an instruction that KVM
    /// cannot emulate.
    pub fn fault(mut self) {
        self.stopped.set_fault(true);
    }
}

impl<'a> Deref for Exited<'a> {
    type Target = Stopped<'a>;

    fn deref(&self) -> &Stopped<'a> {
        &self.stopped
    }
}

impl<'a> DerefMut for Exited<'a> {
    fn deref_mut(&mut self) -> &mut Stopped<'a> {
        &mut self.stopped
    }
}

/// A set of exits that a plugin wants to be told of, see [`Connection::subscribe`].
///
/// ```
/// use outboard_plugin::Exits;
///
/// assert!((Exits::HALT | Exits::DEBUG).contains(Exits::DEBUG));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exits(u32);

impl Exits {
    /// None.
    pub const NONE: Exits = Exits(0);
    /// Accesses to MSRs that KVM itself refuses.
    pub const UNKNOWN_MSRS: Exits = Exits(wire::EXIT_MSR_UNKNOWN);
    /// [`Exit::Halt`]; needs `--irqchip none`.
    pub const HALT: Exits = Exits(wire::EXIT_HALT);
    /// [`Exit::Hypercall`].
    pub const HYPERCALL: Exits = Exits(wire::EXIT_HYPERCALL);
    /// [`Exit::Debug`].
    pub const DEBUG: Exits = Exits(wire::EXIT_DEBUG);
    /// [`Exit::IoapicEoi`]; needs `--irqchip split`.
    pub const IOAPIC_EOI: Exits = Exits(wire::EXIT_IOAPIC_EOI);
    /// [`Exit::System`].
    pub const SYSTEM: Exits = Exits(wire::EXIT_SYSTEM);
    /// [`Exit::EmulationFailure`]; needs `KVM_CAP_EXIT_ON_EMULATION_FAILURE`.
    pub const EMULATION_FAILURES: Exits = Exits(wire::EXIT_EMULATION_FAILURE);

    /// True if all of `other` are in this set.
    pub const fn contains(self, other: Exits) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Exits {
    type Output = Exits;

    fn bitor(self, other: Exits) -> Exits {
        Exits(self.0 | other.0)
    }
}

/// MSRs one behind the other whose accesses shall reach the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRange {
    /// The first one.
    pub first: u32,
    /// How many, 1 to 12288.
    pub count: u32,
    /// Reads reach the plugin.
    pub read: bool,
    /// Writes reach the plugin.
    pub write: bool,
}

impl Connection {
    /// Decides which exits reach the plugin as [`Event::Exit`](crate::Event::Exit), in place of those decided before: these,
    /// and accesses to these MSRs, at most 16 ranges. Other exits end the VM, but for an access to an MSR that KVM does
    /// not know, which gives the guest a general protection fault.
    ///
    /// # Errors
    /// [`Error::TooMany`] past 16 ranges; [`Error::Refused`] with `EINVAL` for a range that is empty, too long, past the last
    /// MSR or without an access, and `EOPNOTSUPP` for exits that this KVM or the VM's `--irqchip` does not have.
    ///
    /// ```no_run
    /// use outboard_plugin::{Exits, MsrRange};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let sysenter = MsrRange { first: 0x174, count: 3, read: false, write: true };
    /// vm.subscribe(Exits::UNKNOWN_MSRS, &[sysenter])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&mut self, exits: Exits, msrs: &[MsrRange]) -> Result<(), Error> {
        if msrs.len() > MAX_MSR_RANGES {
            return Err(Error::TooMany { what: "ranges of MSRs", got: msrs.len(), limit: MAX_MSR_RANGES });
        }
        let bit = if msrs.is_empty() { 0 } else { wire::EXIT_MSR_RANGES };
        let ranges = [wire::MsrRange { first: 0, count: 0, access: 0, reserved: 0 }; MAX_MSR_RANGES];
        let mut request = wire::Subscribe { exits: exits.0 | bit, count: msrs.len() as u32, ranges };
        for (to, from) in request.ranges.iter_mut().zip(msrs) {
            let access = u32::from(from.read) * wire::MSR_READ + u32::from(from.write) * wire::MSR_WRITE;
            *to = wire::MsrRange { first: from.first, count: from.count, access, reserved: 0 };
        }
        let say = || format!("be told of {exits:?} and {} ranges of MSRs", msrs.len());
        self.call(&request, &[]).map(drop).map_err(|error| error.about(say))
    }
}
