//! Limits of a process (`getrlimit(2)`).

#![allow(unsafe_code)]

use super::errno::{Errno, check};

/// How many descriptors a process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// What counts.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// The limit of this process.
///
/// # Errors
/// Those of `getrlimit(2)`, none of which apply.
pub fn open_files() -> Result<OpenFiles, Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok(OpenFiles { soft: limit.rlim_cur, hard: limit.rlim_max })
}

/// Sets the limit of this process. Async-signal-safe.
///
/// # Errors
/// `EINVAL` if the soft limit exceeds the hard one, `EPERM` if the hard one would rise.
pub fn set_open_files(files: OpenFiles) -> Result<(), Errno> {
    let limit = libc::rlimit { rlim_cur: files.soft, rlim_max: files.hard };
    // SAFETY: `limit` is only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// Limits that a child sets for itself once, both the soft and the hard one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Processes and threads of the user, counted per user namespace (`RLIMIT_NPROC`).
    Processes,
    /// Bytes of a core dump (`RLIMIT_CORE`).
    CoreSize,
}

/// Sets soft and hard limit of this process. Async-signal-safe.
///
/// # Errors
/// `EPERM` if the hard limit would rise.
pub fn set_limit(which: Limit, value: u64) -> Result<(), Errno> {
    let resource = match which {
        Limit::Processes => libc::RLIMIT_NPROC,
        Limit::CoreSize => libc::RLIMIT_CORE,
    };
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is only read.
    check(unsafe { libc::setrlimit(resource, &limit) }).map(drop)
}

/// Soft and hard limit of processes and threads of the calling process's user.
///
/// # Errors
/// None that apply.
pub fn process_limit() -> Result<(u64, u64), Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_set_and_read() {
        let before = open_files().unwrap();
        let raised = OpenFiles { soft: before.hard, ..before };
        set_open_files(raised).unwrap();
        assert_eq!(open_files(), Ok(raised));
        set_open_files(before).unwrap();
        assert_eq!(set_open_files(OpenFiles { soft: 2, hard: 1 }), Err(Errno::EINVAL));
    }
}
