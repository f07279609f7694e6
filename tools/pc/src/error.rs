//! What can keep the machine from running, one sentence each.

use std::io;
use std::path::PathBuf;

use outboard_plugin::Error;

use crate::load::LoadError;

/// Why the machine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PcError {
    /// The VMM or the SDK says no.
    #[error(transparent)]
    Plugin(#[from] Error),
    /// A kernel cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Guest memory cannot be mapped.
    #[error("cannot map the guest's memory: {0}")]
    MapMemory(io::Error),
    /// More memory than this process can address.
    #[error("cannot make {0} bytes of memory: that is more than a process can have")]
    MemorySize(u64),
    /// An address where the machine has no memory.
    #[error("cannot put {length} bytes at {address:#x}: not all of that is memory of the machine")]
    OutsideMemory {
        /// First address.
        address: u64,
        /// Bytes.
        length: usize,
    },
    /// A file cannot be opened or read.
    #[error("cannot open {}: {error}", path.display())]
    Open {
        /// Its name.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is not what it is named as.
    #[error("cannot use {}: {why}", path.display())]
    Unfit {
        /// Its name.
        path: PathBuf,
        /// Why it does not do.
        why: String,
    },
    /// The terminal takes no other mode.
    #[error("cannot set the terminal to raw mode: {0}")]
    Terminal(io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// More devices than the machine has places for.
    #[error("cannot attach that many disks: the machine has places for {limit} devices")]
    TooManyDevices {
        /// Places.
        limit: usize,
    },
}
