//! A vCPU's state on this side, and its registers while it stands still.

use bytemuck::{NoUninit, Pod, Zeroable};
use kvm_bindings::{kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs};
use outboard_wire::block;
use outboard_wire::error::Violation;
use outboard_wire::kvm_abi::{self as abi, File};
use outboard_wire::limits::{MAX_BULK, MAX_CPUID, MAX_MSRS, MAX_STRING};
use outboard_wire::line::{self, Answer, Event, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::plugin_end::{Incoming, PluginEnd};
use outboard_wire::words;

use crate::error::Error;
use crate::event::{Access, PostedWrite, RawEvent};
use crate::space::{Files, Space};

/// Register access to a vCPU that stands still, from an event that waits for its answer.
///
/// Every stopped event dereferences to this. Three files can **ride along** with an event, see
/// [`Registers::want_registers`] and [`Connection::set_hint`](crate::Connection::set_hint): getting such a file costs no
/// more than a copy. Everything else is a command to the VMM, which costs an exchange with it and an ioctl.
///
/// [`Registers::set_regs`] and the `_on_resume` variants are **deferred**: the values travel with the resume. A get after
/// such a set in the same stop sends them ahead, and so sees what KVM made of them. A deferred value that KVM refuses
/// can be reported to nobody; the VMM ends the run with a message.
///
/// ```no_run
/// use outboard_plugin::Event;
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// let mut vcpu = vm.vcpu(0)?;
/// if let Event::Init(mut init) = vcpu.wait()? {
///     let mut sregs = init.sregs()?;
///     sregs.cs.base = 0;
///     sregs.cs.selector = 0;
///     init.set_sregs(&sregs)?;
///     let mut regs = init.regs()?;
///     regs.rip = 0x1000;
///     regs.rflags = 2;
///     init.set_regs(&regs)?;
/// } // the vCPU runs on here
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registers {
    id: u32,
    end: PluginEnd,
    /// An event waits for its answer.
    stopped: bool,
    /// The event is a read, so the answer carries `length` bytes of `buffer`.
    reading: bool,
    /// The end announced that it sleeps on the eventfd.
    armed: bool,
    /// Bytes of `buffer` that belong to the event.
    length: usize,
    /// When the guest left for the event taken last.
    exit_tsc: u64,
    /// Files of this event that lie in the block as KVM has them.
    here: Files,
    /// Files in the own block that the resume sets.
    deferred: Files,
    /// Files that ride along from the next answer on.
    want: Files,
    /// Private copy of the event's data. The bytes behind short data, up to the eighth, are zero.
    buffer: Box<[u8; MAX_STRING]>,
}

impl Registers {
    pub(crate) fn new(id: u32, end: PluginEnd) -> Registers {
        Registers {
            id,
            end,
            stopped: false,
            reading: false,
            armed: false,
            length: 0,
            exit_tsc: 0,
            here: Files::NONE,
            deferred: Files::NONE,
            want: Files::NONE,
            buffer: Box::new([0; MAX_STRING]),
        }
    }

    /// Number of the vCPU.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// TSC at which the guest left for this event, in ticks of [`Connection::tsc_khz`](crate::Connection::tsc_khz): the
    /// VMM reads the counter right behind `KVM_RUN`.
    #[inline]
    pub fn exit_tsc(&self) -> u64 {
        self.exit_tsc
    }

    /// The files that rode along with this event and were not set since: getting them costs nothing.
    #[inline]
    pub fn files(&self) -> Files {
        self.here
    }

    /// From this event's answer on, these files ride along with every event of this vCPU. They cost the VMM a copy each
    /// where KVM has `KVM_CAP_SYNC_REGS`, else an ioctl each.
    ///
    /// ```no_run
    /// use outboard_plugin::{Event, Files};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// # let mut vm = outboard_plugin::connect()?;
    /// # let mut vcpu = vm.vcpu(0)?;
    /// match vcpu.wait()? {
    ///     Event::Init(mut init) => init.want_registers(Files::REGS),
    ///     Event::Write(mut write) => println!("from {:#x}", write.regs()?.rip),
    ///     _ => {}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn want_registers(&mut self, files: Files) {
        self.want = files;
    }

    /// The general registers.
    ///
    /// # Errors
    /// [`Error::NotStopped`] without an event that waits for its answer, [`Error::Refused`] if KVM refuses,
    /// [`Error::Shutdown`] if the VM ended; all other methods here likewise.
    pub fn regs(&mut self) -> Result<kvm_regs, Error> {
        Ok(self.get_file::<abi::Regs>(File::Regs)?.0)
    }

    /// Sets the general registers with the resume.
    ///
    /// # Errors
    /// [`Error::NotStopped`].
    pub fn set_regs(&mut self, regs: &kvm_regs) -> Result<(), Error> {
        self.defer(File::Regs, &abi::Regs(*regs))
    }

    /// The segment and control registers.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn sregs(&mut self) -> Result<kvm_sregs, Error> {
        Ok(self.get_file::<abi::Sregs>(File::Sregs)?.0)
    }

    /// Sets the segment and control registers now, so that a refusal of KVM is seen here.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<(), Error> {
        self.set_file(File::Sregs, &abi::Sregs(*sregs))
    }

    /// Sets the segment and control registers with the resume, which saves an exchange with the VMM.
    ///
    /// # Errors
    /// [`Error::NotStopped`].
    pub fn set_sregs_on_resume(&mut self, sregs: &kvm_sregs) -> Result<(), Error> {
        self.defer(File::Sregs, &abi::Sregs(*sregs))
    }

    /// The debug registers.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn debugregs(&mut self) -> Result<kvm_debugregs, Error> {
        Ok(self.get_file::<abi::Debugregs>(File::Debugregs)?.0)
    }

    /// Sets the debug registers now.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_debugregs(&mut self, debugregs: &kvm_debugregs) -> Result<(), Error> {
        self.set_file(File::Debugregs, &abi::Debugregs(*debugregs))
    }

    /// Sets the debug registers with the resume.
    ///
    /// # Errors
    /// [`Error::NotStopped`].
    pub fn set_debugregs_on_resume(&mut self, debugregs: &kvm_debugregs) -> Result<(), Error> {
        self.defer(File::Debugregs, &abi::Debugregs(*debugregs))
    }

    /// The x87 and SSE state.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn fpu(&mut self) -> Result<kvm_fpu, Error> {
        Ok(self.get_file::<abi::Fpu>(File::Fpu)?.0)
    }

    /// Sets the x87 and SSE state now.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Error> {
        self.set_file(File::Fpu, &abi::Fpu(*fpu))
    }

    /// Whether the vCPU is runnable, halted or waits for INIT or SIPI.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn mp_state(&mut self) -> Result<kvm_mp_state, Error> {
        Ok(self.get_file::<abi::MpState>(File::MpState)?.0)
    }

    /// Sets what [`Registers::mp_state`] gets, now.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<(), Error> {
        self.set_file(File::MpState, &abi::MpState(*state))
    }

    /// Fills in `data` of each entry from the MSR that `index` names. Returns how many KVM read: it stops at the first
    /// one that it does not know, which is no error. Any number of entries.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    ///
    /// ```no_run
    /// use outboard_plugin::{Event, kvm_bindings::kvm_msr_entry};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// # let mut vm = outboard_plugin::connect()?;
    /// # let mut vcpu = vm.vcpu(0)?;
    /// if let Event::Init(mut init) = vcpu.wait()? {
    ///     let mut msrs = [kvm_msr_entry { index: 0xc000_0080, ..Default::default() }]; // EFER
    ///     assert_eq!(init.get_msrs(&mut msrs)?, 1);
    ///     init.set_msrs(&msrs)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_msrs(&mut self, msrs: &mut [kvm_msr_entry]) -> Result<usize, Error> {
        self.prepare()?;
        let mut done = 0;
        for chunk in msrs.chunks_mut(MAX_MSRS) {
            self.put_list(chunk.iter().map(|msr| abi::MsrEntry(*msr)));
            let count = self.command(answer_kind::GET, File::Msrs, chunk.len(), chunk.len())?;
            for (index, msr) in chunk.iter_mut().enumerate().take(count) {
                msr.data = self.bulk_entry::<abi::MsrEntry>(index).0.data;
            }
            done += count;
            if count < chunk.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Sets MSRs now, in order. Any number of entries.
    ///
    /// # Errors
    /// [`Error::MsrRefused`] names the first one that KVM did not take and how many it took before; else as
    /// [`Registers::regs`].
    pub fn set_msrs(&mut self, msrs: &[kvm_msr_entry]) -> Result<(), Error> {
        self.prepare()?;
        let mut taken = 0;
        for chunk in msrs.chunks(MAX_MSRS) {
            self.put_list(chunk.iter().map(|msr| abi::MsrEntry(*msr)));
            let count = self.command(answer_kind::SET, File::Msrs, chunk.len(), chunk.len())?;
            taken += count;
            if let Some(refused) = chunk.get(count) {
                return Err(Error::MsrRefused { taken, index: refused.index });
            }
        }
        Ok(())
    }

    /// Sets what CPUID tells the guest, now. At most 256 entries.
    ///
    /// # Errors
    /// [`Error::TooMany`], else as [`Registers::regs`].
    pub fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<(), Error> {
        if entries.len() > MAX_CPUID {
            return Err(Error::TooMany { what: "CPUID entries", got: entries.len(), limit: MAX_CPUID });
        }
        self.prepare()?;
        self.put_list(entries.iter().map(|entry| abi::CpuidEntry(*entry)));
        self.command(answer_kind::SET, File::Cpuid, entries.len(), entries.len()).map(drop)
    }

    /// Makes the vCPU start in real mode at `segment:offset`, the way a processor comes out of reset in all else.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    ///
    /// ```no_run
    /// use outboard_plugin::Event;
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// # let mut vm = outboard_plugin::connect()?;
    /// # let mut vcpu = vm.vcpu(0)?;
    /// if let Event::Init(mut init) = vcpu.wait()? {
    ///     init.start_real_mode(0, 0x1000)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_real_mode(&mut self, segment: u16, offset: u16) -> Result<(), Error> {
        let mut sregs = self.sregs()?;
        sregs.cs.selector = segment;
        sregs.cs.base = u64::from(segment) * 16;
        self.set_sregs(&sregs)?;
        self.set_regs(&kvm_regs { rip: offset.into(), rflags: 2, ..kvm_regs::default() })
    }
}

/// Commands and the places of files.
impl Registers {
    /// Gets a file that is no list. To offer another one takes its entry in [`File`] and two methods above.
    fn get_file<T: Pod>(&mut self, file: File) -> Result<T, Error> {
        self.check_stopped()?;
        let mut value = T::zeroed();
        let bit = ride_along(file);
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
    fn set_file<T: NoUninit>(&mut self, file: File, value: &T) -> Result<(), Error> {
        // What was deferred for this file is overwritten, so it need not be sent.
        self.deferred = self.deferred.without(ride_along(file));
        self.prepare()?;
        words::store(&self.end.to_vmm().bulk, bytemuck::bytes_of(value));
        self.command(answer_kind::SET, file, 1, 1).map(drop)
    }

    /// Leaves a file in the block for the resume to set.
    fn defer<T: NoUninit>(&mut self, file: File, value: &T) -> Result<(), Error> {
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

    /// Lays a list into the bulk area. Entries are whole words, and callers have compared the count with the limit.
    fn put_list<T: NoUninit>(&self, entries: impl Iterator<Item = T>) {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        for (words, entry) in self.end.to_vmm().bulk.chunks_exact(size_of::<T>() / 8).zip(entries) {
            words::store(words, bytemuck::bytes_of(&entry));
        }
    }

    /// Entry `index` of what the VMM replied; the index is below the count that [`Registers::command`] returned.
    fn bulk_entry<T: Pod + Zeroable>(&self, index: usize) -> T {
        let mut value = T::zeroed();
        let words = &self.end.to_plugin().bulk[index * size_of::<T>() / 8..];
        words::load(words, bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Comes before every command, and before its data goes into the bulk area. Deferred segment, control and debug
    /// registers influence other files, MSRs above all, so they are sent ahead. General registers do not, and wait for
    /// the resume unless they are asked for.
    fn prepare(&mut self) -> Result<(), Error> {
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
    fn command(&mut self, kind: u8, file: File, entries: usize, sent: usize) -> Result<usize, Error> {
        let length = (sent * file.entry_size()) as u32;
        let (want, count) = (self.want.bits(), entries as u64);
        self.end.answer(&Answer { kind, want, file: file as u32, count, length, ..Answer::default() });
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

/// Events and their answers.
impl Registers {
    #[inline]
    pub(crate) fn next_event(&mut self) -> Result<RawEvent, Error> {
        self.ready()?;
        let incoming = self.end.wait()?;
        self.accept(incoming)
    }

    #[inline]
    pub(crate) fn try_next_event(&mut self) -> Result<Option<RawEvent>, Error> {
        self.ready()?;
        match self.end.try_next()? {
            Some(incoming) => self.accept(incoming).map(Some),
            None => Ok(None),
        }
    }

    /// Refuses to wait while an event waits for its answer, and takes an announced sleep back.
    #[inline]
    fn ready(&mut self) -> Result<(), Error> {
        if self.stopped {
            return Err(Error::StillStopped(self.id));
        }
        if self.armed {
            self.armed = false;
            self.end.awake();
        }
        Ok(())
    }

    #[inline]
    fn accept(&mut self, incoming: Incoming) -> Result<RawEvent, Error> {
        match incoming {
            Incoming::Event(event) => self.accept_event(&event),
            Incoming::Posted(write) => {
                let data = write.data.to_le_bytes();
                self.buffer[..8].copy_from_slice(&data);
                self.length = usize::from(write.length);
                self.exit_tsc = write.tsc;
                Ok(RawEvent::Posted(PostedWrite::from_wire(&write)))
            }
        }
    }

    #[inline]
    fn accept_event(&mut self, event: &Event) -> Result<RawEvent, Error> {
        self.length = 0;
        self.reading = false;
        self.here = Files::from_bits(event.files);
        self.exit_tsc = event.tsc;
        let raw = match event.kind {
            event_kind::READ => {
                self.reading = true;
                self.length = event.length as usize;
                self.buffer[..8].fill(0);
                if self.length > 8 {
                    self.buffer[..self.length].fill(0);
                }
                RawEvent::Read(access(event))
            }
            event_kind::WRITE => {
                self.length = event.length as usize;
                self.buffer[..8].copy_from_slice(&event.data.to_le_bytes());
                if self.length > 8 {
                    words::load(&self.end.to_plugin().string, &mut self.buffer[..self.length]);
                }
                RawEvent::Write(access(event))
            }
            event_kind::INIT => RawEvent::Init,
            event_kind::PAUSED => RawEvent::Paused { cookie: event.address },
            event_kind::SHUTDOWN => return Ok(RawEvent::Shutdown),
            kind => return Err(Violation::EventKind(kind).into()),
        };
        self.stopped = true;
        Ok(raw)
    }

    /// The data of the event: what the guest wrote, or what it is about to read.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[..self.length.min(MAX_STRING)]
    }

    #[inline]
    pub(crate) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length.min(MAX_STRING)]
    }

    /// Answers the event, if there is one that waits: the vCPU runs on. True if there was one.
    #[inline]
    pub(crate) fn resume(&mut self) -> bool {
        if !self.stopped {
            return false;
        }
        let mut answer = Answer {
            kind: answer_kind::RESUME,
            files: self.deferred.bits(),
            want: self.want.bits(),
            ..Answer::default()
        };
        if self.reading {
            answer.length = self.length as u32;
            if self.length > 8 {
                answer.flags = FLAG_STRING;
                words::store(&self.end.to_vmm().string, &self.buffer[..self.length]);
            } else {
                answer.data = words::low_bytes(&self.buffer[..8]);
            }
        }
        self.stopped = false;
        self.here = Files::NONE;
        self.deferred = Files::NONE;
        self.end.answer(&answer);
        true
    }

    /// Announces that the thread sleeps on the eventfd. False: something is there already.
    pub(crate) fn arm(&mut self) -> Result<bool, Error> {
        self.ready()?;
        self.armed = self.end.announce_eventfd();
        Ok(self.armed)
    }

    /// For waiting on several vCPUs.
    pub(crate) fn end(&mut self) -> &mut PluginEnd {
        &mut self.end
    }
}

#[inline]
fn access(event: &Event) -> Access {
    let space = if event.flags & line::FLAG_MMIO != 0 { Space::Mmio } else { Space::Port };
    Access { space, address: event.address, length: event.length, width: event.width }
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
fn place(files: &block::Files, file: File) -> &[core::sync::atomic::AtomicU64] {
    match file {
        File::Regs => &files.regs,
        File::Sregs => &files.sregs,
        File::Debugregs => &files.debugregs,
        _ => &[],
    }
}
