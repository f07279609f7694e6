//! The child half of a start: a list of named steps, the last of which becomes the program. It allocates nothing and leaves
//! by `_exit`; a step that fails is reported through a pipe that `execve` closes.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use crate::jail::filter::Filter;
use crate::jail::step::ChildStep;
use crate::sys::errno::Errno;
use crate::sys::exec::ExecImage;
use crate::sys::process::{self, InChild};
use crate::sys::{descriptors, pipe, signal};

/// The number that the first descriptor handed to the plugin gets; standard input, output and error come before it.
pub const FIRST_FD: RawFd = 3;

/// The number of the first file that the plugin finds open: behind its control socket.
pub const FIRST_FILE: RawFd = FIRST_FD + 1;

/// Bytes of the report of a failed step: its index and its error number, each in four bytes of this machine's order.
/// Less than `PIPE_BUF`, so it arrives whole.
const REPORT_SIZE: usize = 8;
/// Added to the index of a step that was left out, because the plugin can do without it.
const LEFT_OUT: u32 = 1 << 31;

/// Ends the child with its parent, also if that ended before the request was made.
pub struct DieWithParent<'a> {
    /// The child's copy of the reading end of the report, where it is still open.
    pub reader: Option<BorrowedFd<'a>>,
    /// The writing end.
    pub report: BorrowedFd<'a>,
}

impl ChildStep for DieWithParent<'_> {
    fn name(&self) -> String {
        "PR_SET_PDEATHSIG".to_owned()
    }

    fn run(&self, child: &InChild) -> Result<(), Errno> {
        process::set_parent_death_signal(libc::SIGKILL)?;
        // The reading end of the report lives in the parent only, once our copy is closed. Unlike the parent's
        // process id this also tells in a pid namespace of our own.
        if let Some(reader) = self.reader {
            descriptors::close_copy(child, reader);
        }
        match pipe::peer_is_gone(self.report)? {
            true => process::exit_now(127),
            false => Ok(()),
        }
    }
}

/// Gives the program the signals it expects.
pub struct ResetSignals;

impl ChildStep for ResetSignals {
    fn name(&self) -> String {
        "resetting the signals".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        signal::reset_signals()
    }
}

/// Puts the plugin's descriptors at their numbers, and lets all others go with `execve`.
pub struct PlaceFds<'a> {
    /// Numbers beyond all targets.
    pub sources: &'a [OwnedFd],
}

impl ChildStep for PlaceFds<'_> {
    fn name(&self) -> String {
        "placing the descriptors".to_owned()
    }

    fn run(&self, child: &InChild) -> Result<(), Errno> {
        let mut target = FIRST_FD;
        for source in self.sources {
            descriptors::place_fd(child, source.as_fd(), target)?;
            target += 1;
        }
        descriptors::close_on_exec_from(target)
    }
}

/// Becomes the program, under a filter if there is one.
pub struct Exec<'a> {
    /// The program.
    pub image: &'a ExecImage,
    /// The filter.
    pub filter: Option<&'a Filter>,
}

impl ChildStep for Filter {
    fn name(&self) -> String {
        "loading the seccomp filter".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        self.load()
    }

    fn is_host_s(&self) -> bool {
        true
    }
}

impl ChildStep for Exec<'_> {
    fn name(&self) -> String {
        "execve".to_owned()
    }

    fn run(&self, _: &InChild) -> Result<(), Errno> {
        Err(match self.filter {
            Some(filter) => filter.exec(self.image),
            None => self.image.exec(),
        })
    }
}

/// Runs the steps, the last of which is `execve`, and reports the one that fails. Returns the exit status for the case that
/// it does.
pub fn run_steps(child: &InChild, steps: &[&dyn ChildStep], report: BorrowedFd<'_>) -> i32 {
    for (index, step) in (0u32..).zip(steps) {
        if let Err(errno) = step.run(child) {
            let optional = step.is_optional();
            let mut record = [0; REPORT_SIZE];
            record[..4].copy_from_slice(&(index | if optional { LEFT_OUT } else { 0 }).to_ne_bytes());
            record[4..].copy_from_slice(&errno.0.to_ne_bytes());
            // Nobody is left to be told that this failed.
            let _ = pipe::write_record(report, &record);
            if !optional {
                break;
            }
        }
    }
    127
}

/// What the child half says of a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Index of the step in the list.
    pub step: usize,
    /// Whether the plugin does without it.
    pub left_out: bool,
    /// The error of the step.
    pub errno: Errno,
}

/// Reads the reports to their end: none if every step succeeded, since `execve` closed the pipe.
///
/// # Errors
/// `read(2)`'s.
pub fn read_reports(reader: OwnedFd) -> Result<Vec<Report>, Errno> {
    let mut records = Vec::new();
    // A child that lies is no plugin yet; but nothing is read without a bound.
    File::from(reader).take((REPORT_SIZE * 64) as u64).read_to_end(&mut records)?;
    Ok(records.chunks_exact(REPORT_SIZE).map(decode).collect())
}

fn decode(record: &[u8]) -> Report {
    let number = |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let index = number(0);
    Report { step: (index & !LEFT_OUT) as usize, left_out: index & LEFT_OUT != 0, errno: Errno(number(4) as i32) }
}
