//! Small words that requests and events share.

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

use outboard_wire::control::{SPACE_MMIO, SPACE_PORT};
use outboard_wire::line;

/// An address space that the guest reads and writes.
///
/// ```
/// assert_eq!(outboard_plugin::Space::Port.to_string(), "port");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Port I/O, addresses 0 to 0xffff.
    Port,
    /// Physical memory addresses where no memory slot lies.
    Mmio,
}

impl Space {
    /// The number in control requests.
    pub(crate) fn number(self) -> u32 {
        match self {
            Space::Port => SPACE_PORT,
            Space::Mmio => SPACE_MMIO,
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Space::Port => "port",
            Space::Mmio => "MMIO",
        })
    }
}

/// A set of register files that ride along with events.
///
/// ```
/// use outboard_plugin::Files;
///
/// let files = Files::REGS | Files::SREGS;
/// assert!(files.contains(Files::SREGS) && !files.contains(Files::DEBUGREGS));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files(u8);

impl Files {
    /// No file.
    pub const NONE: Files = Files(0);
    /// General registers (`kvm_regs`).
    pub const REGS: Files = Files(line::FILE_REGS);
    /// Segment and control registers (`kvm_sregs`).
    pub const SREGS: Files = Files(line::FILE_SREGS);
    /// Debug registers (`kvm_debugregs`).
    pub const DEBUGREGS: Files = Files(line::FILE_DEBUGREGS);

    /// The `FILE_*` bits of the wire; bits that are no file are dropped.
    #[inline]
    pub(crate) const fn from_bits(bits: u8) -> Files {
        Files(bits & line::FILES)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// True if all of `other` are in the set.
    #[inline]
    pub const fn contains(self, other: Files) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set without `other`.
    #[inline]
    #[must_use]
    pub const fn without(self, other: Files) -> Files {
        Files(self.0 & !other.0)
    }
}

impl BitOr for Files {
    type Output = Files;

    #[inline]
    fn bitor(self, other: Files) -> Files {
        Files(self.0 | other.0)
    }
}

impl BitOrAssign for Files {
    #[inline]
    fn bitor_assign(&mut self, other: Files) {
        *self = *self | other;
    }
}
