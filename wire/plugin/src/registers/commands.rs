//! Register files on their way to the VMM and back.

use core::sync::atomic::AtomicU64;

use bytemuck::{NoUninit, Pod};
use outboard_wire::block;
use outboard_wire::error::Violation;
use outboard_wire::kvm_abi::{self as abi, File};
use outboard_wire::limits::MAX_BULK;
use outboard_wire::line::{Answer, Event, answer_kind, event_kind};
use outboard_wire::plugin_end::Incoming;
use outboard_wire::words;

use super::Registers;
use crate::error::Error;
use crate::space::Files;

impl Registers {
    /// Gets a file that is no list. To offer another one takes its entry in [`File`] and two methods above.
    pub(super) fn get_file<T: Pod>(&mut self, file: File) -> Result<T, Error> {
        self.check_stopped()?;
        let mut value = T::zeroed();
        let bit = ride_along(file);
        if self.accessing {
            self.habit.ask(bit);
        }
        if bit != Files::NONE && self.deferred.contains(bit) {
            self.send_ahead(file)?;
        }
        if bit != Files::NONE && self.here.contains(bit) {
            words::load(place(&self.end.to_plugin().files, file), bytemuck::bytes_of_mut(&mut value));
            return Ok(value);
        }
        self.prepare()?;
        match self.command(answer_kind::GET, file, 1, 0)? {
            1 => Ok(self.bulk_entry(0)),
            _ => Err(Error::Reply("it sent a register file that is not one")),
        }
    }

    /// Sets a file that is no list, now.
    pub(super) fn set_file<T: NoUninit>(&mut self, file: File, value: &T) -> Result<(), Error> {
        // What was deferred for this file is overwritten, so it need not be sent.
        self.deferred = self.deferred.without(ride_along(file));
        self.prepare()?;
        words::store(&self.end.to_vmm().bulk, bytemuck::bytes_of(value));
        self.command(answer_kind::SET, file, 1, 1).map(drop)
    }

    /// Leaves a file in the block for the resume to set.
    pub(super) fn defer<T: NoUninit>(&mut self, file: File, value: &T) -> Result<(), Error> {
        self.check_stopped()?;
        words::store(place(&self.end.to_vmm().files, file), bytemuck::bytes_of(value));
        self.deferred |= ride_along(file);
        Ok(())
    }

    /// Sets a deferred file by command, so that what follows sees what KVM made of it.
    fn send_ahead(&mut self, file: File) -> Result<(), Error> {
        self.deferred = self.deferred.without(ride_along(file));
        let mut bytes = [0; size_of::<abi::Sregs>()];
        let bytes = &mut bytes[..file.entry_size()];
        words::load(place(&self.end.to_vmm().files, file), bytes);
        words::store(&self.end.to_vmm().bulk, bytes);
        self.command(answer_kind::SET, file, 1, 1).map(drop)
    }

    /// Sends general registers ahead that wait for the resume.
    pub(super) fn send_regs_ahead(&mut self) -> Result<(), Error> {
        self.check_stopped()?;
        if self.deferred.contains(Files::REGS) { self.send_ahead(File::Regs) } else { Ok(()) }
    }

    /// Lays a list into the bulk area. Entries are whole words, and callers have compared the count with the limit.
    pub(super) fn put_list<T: NoUninit>(&self, entries: impl Iterator<Item = T>) {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        for (words, entry) in self.end.to_vmm().bulk.chunks_exact(size_of::<T>() / 8).zip(entries) {
            words::store(words, bytemuck::bytes_of(&entry));
        }
    }

    /// Entry `index` of what the VMM replied; the index is below the count that [`Registers::command`] returned.
    pub(super) fn bulk_entry<T: Pod>(&self, index: usize) -> T {
        let mut value = T::zeroed();
        let words = &self.end.to_plugin().bulk[index * size_of::<T>() / 8..];
        words::load(words, bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Comes before every command, and before its data goes into the bulk area. Deferred segment, control and debug
    /// registers influence other files, MSRs above all, so they are sent ahead. General registers do not, and wait for
    /// the resume unless they are asked for.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        self.check_stopped()?;
        for (bit, file) in [(Files::SREGS, File::Sregs), (Files::DEBUGREGS, File::Debugregs)] {
            if self.deferred.contains(bit) {
                self.send_ahead(file)?;
            }
        }
        Ok(())
    }

    /// Sends a command and waits for its reply. `entries` is what is asked for, `sent` how many of them lie in the bulk
    /// area. Returns how many entries the VMM got or set, never more than `entries`.
    pub(super) fn command(&mut self, kind: u8, file: File, entries: usize, sent: usize) -> Result<usize, Error> {
        let length = (sent * file.entry_size()) as u32;
        let count = entries as u64;
        self.end.answer(&Answer { kind, file: file as u32, count, length, ..Answer::default() });
        if kind == answer_kind::SET {
            // One file may change what another holds (EFER is an MSR and in sregs), so none is known any more.
            self.here = Files::NONE;
        }
        let reply = self.reply()?;
        if reply.status != 0 {
            let verb = if kind == answer_kind::GET { "get" } else { "set" };
            let what = format!("{verb} {file:?} of vCPU {}", self.id);
            return Err(Error::Refused { what, errno: reply.status.saturating_abs() });
        }
        let count = usize::try_from(reply.count).unwrap_or(usize::MAX);
        let bytes = if kind == answer_kind::GET { count.saturating_mul(file.entry_size()) } else { 0 };
        if count > entries || reply.length as usize != bytes || bytes > MAX_BULK {
            return Err(Error::Reply("it sent a register file of the wrong length"));
        }
        Ok(count)
    }

    fn reply(&mut self) -> Result<Event, Error> {
        match self.end.wait()? {
            Incoming::Event(event) if event.kind == event_kind::REPLY => Ok(event),
            Incoming::Event(event) if event.kind == event_kind::SHUTDOWN => {
                self.stopped = false;
                Err(Error::Shutdown)
            }
            Incoming::Event(event) => Err(Violation::EventKind(event.kind).into()),
            Incoming::Posted(_) => Err(Error::Reply("it sent a posted write while the vCPU stands still")),
        }
    }

    fn check_stopped(&self) -> Result<(), Error> {
        if self.stopped { Ok(()) } else { Err(Error::NotStopped(self.id)) }
    }
}

/// The bit of a file that can ride along; none for the others.
#[inline]
fn ride_along(file: File) -> Files {
    match file {
        File::Regs => Files::REGS,
        File::Sregs => Files::SREGS,
        File::Debugregs => Files::DEBUGREGS,
        _ => Files::NONE,
    }
}

/// Where a file lies that can ride along; the others have no place.
fn place(files: &block::Files, file: File) -> &[AtomicU64] {
    match file {
        File::Regs => &files.regs,
        File::Sregs => &files.sregs,
        File::Debugregs => &files.debugregs,
        _ => &[],
    }
}
