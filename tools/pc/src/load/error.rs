//! Why a guest cannot be loaded, one sentence each.

use std::io;

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file has no bytes.
    #[error("cannot load {name}: it is empty")]
    Empty {
        /// The file.
        name: String,
    },
    /// The file has more bytes than anything that can be loaded.
    #[error("cannot load {name}: it has {bytes} bytes, more than the {limit} that can be loaded")]
    Oversized {
        /// The file.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// Most bytes.
        limit: u64,
    },
    /// The file is compressed, and the compressed data is wrong.
    #[error("cannot load {name}: it is compressed by gzip and does not unpack: {error}")]
    Unpack {
        /// The file.
        name: String,
        /// What the unpacker says.
        error: io::Error,
    },
    /// The file unpacks to more bytes than anything that can be loaded.
    #[error("cannot load {name}: it unpacks to more than the {limit} bytes that can be loaded")]
    UnpacksTooFar {
        /// The file.
        name: String,
        /// Most bytes.
        limit: u64,
    },
    /// The file ends before what its header says it holds.
    #[error("cannot load {name}: {what} ends at byte {end} and the file at byte {bytes}; it may have been cut short")]
    Truncated {
        /// The file.
        name: String,
        /// What is cut.
        what: String,
        /// Where that would end.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The file is of a known format and breaks its rules.
    #[error("cannot load {name}: {what}")]
    Malformed {
        /// The file.
        name: String,
        /// Which rule.
        what: String,
    },
    /// The file is of no format that is known.
    #[error(
        "cannot load {name}: it is neither a multiboot image, a Linux bzImage nor a kernel in ELF with a PVH or 64-bit entry; \
         say an address to load it as a flat binary"
    )]
    Unknown {
        /// The file.
        name: String,
    },
    /// A format that there is not.
    #[error(
        "cannot load a kernel by the format {0:?}: there are detect, multiboot, linux, pvh, and for a flat binary its address, \
         such as 0x7c00"
    )]
    Format(String),
    /// The file is not what it was said to be.
    #[error("cannot load {name} as {wanted}: it is not one")]
    NotThat {
        /// The file.
        name: String,
        /// The format asked for.
        wanted: &'static str,
    },
    /// A part needs an address where the machine has no memory.
    #[error(
        "cannot load {what}: it takes the addresses {start:#x} to {end:#x}, and not all of that is memory of the machine; give \
         it more memory"
    )]
    NoMemory {
        /// The part.
        what: String,
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
    },
    /// There is no room for a part whose address can be chosen.
    #[error("cannot load {what}: its {bytes} bytes find no room below {below:#x}; give the machine more memory")]
    NoRoom {
        /// The part.
        what: String,
        /// Its bytes.
        bytes: u64,
        /// The address that it has to end at.
        below: u64,
    },
    /// Two parts need the same address.
    #[error("cannot load {what}: it takes the addresses {start:#x} to {end:#x}, where {other} lies")]
    Overlap {
        /// The part.
        what: String,
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
        /// The part that came before.
        other: String,
    },
    /// The command line is too long for the guest.
    #[error("cannot load {name}: its command line has {bytes} bytes, and it takes {limit}")]
    CommandLine {
        /// The file.
        name: String,
        /// Bytes of the command line.
        bytes: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A file came along that this kind of guest has no use for.
    #[error("cannot load {name}: {format} takes {takes}")]
    Modules {
        /// The guest's file.
        name: String,
        /// Its format.
        format: &'static str,
        /// What may come along.
        takes: &'static str,
    },
}
