//! Which exits a plugin is told of.

use core::ops::BitOr;

use outboard_wire::control as wire;
use outboard_wire::limits::MAX_MSR_RANGES;

use crate::connection::Connection;
use crate::error::Error;

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
    /// [`Exit::Halt`](crate::Exit::Halt); needs `--irqchip none`.
    pub const HALT: Exits = Exits(wire::EXIT_HALT);
    /// [`Exit::Hypercall`](crate::Exit::Hypercall).
    pub const HYPERCALL: Exits = Exits(wire::EXIT_HYPERCALL);
    /// [`Exit::Debug`](crate::Exit::Debug).
    pub const DEBUG: Exits = Exits(wire::EXIT_DEBUG);
    /// [`Exit::IoapicEoi`](crate::Exit::IoapicEoi); needs `--irqchip split`.
    pub const IOAPIC_EOI: Exits = Exits(wire::EXIT_IOAPIC_EOI);
    /// [`Exit::System`](crate::Exit::System).
    pub const SYSTEM: Exits = Exits(wire::EXIT_SYSTEM);
    /// [`Exit::EmulationFailure`](crate::Exit::EmulationFailure); needs `KVM_CAP_EXIT_ON_EMULATION_FAILURE`.
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
