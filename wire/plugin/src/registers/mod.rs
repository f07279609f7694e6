//! A vCPU's state on this side, and its registers while it stands still.
//!
//! This file holds what a plugin calls; [`commands`] is how a register file gets to the VMM and back, [`exchange`] how
//! events are taken and answered.

mod commands;
mod exchange;
mod habit;
mod state;

use core::fmt;

use kvm_bindings::{kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs};
use outboard_wire::kvm_abi::{self as abi, File};
use outboard_wire::limits::{MAX_CPUID, MAX_MSRS, MAX_STRING};
use outboard_wire::line::answer_kind;
use outboard_wire::plugin_end::PluginEnd;

use self::habit::Habit;
use crate::error::Error;
use crate::exit::Exit;
use crate::space::Files;

/// Register access to a vCPU that stands still, from an event that waits for its answer.
///
/// Every stopped event dereferences to this. Three files can **ride along** with an event, see
/// [`Registers::want_registers`] and [`Connection::set_hint`](crate::Connection::set_hint): getting such a file costs no
/// more than a copy. Everything else is a command to the VMM, which costs an exchange with it and an ioctl. A plugin that
/// asks for general or segment registers at an access finds that they ride along with the accesses that follow, until it
/// has not asked for a while; [`Registers::want_registers`] puts its own choice in place of this.
///
/// [`Registers::set_regs`] and the `_on_resume` variants are **deferred**: the values travel with the resume. A get after
/// such a set in the same stop sends them ahead, and so sees what KVM made of them. Nobody can be
/// told of a deferred value that KVM refuses: the VMM logs it and lets the guest run on.
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
pub struct Registers {
    id: u32,
    end: PluginEnd,
    /// An event waits for its answer.
    stopped: bool,
    /// The event is an access or another exit, not INIT or a pause.
    accessing: bool,
    /// What the answer carries.
    carries: Carries,
    /// The exit that the event tells of, if it is none of the others.
    exit: Option<Exit>,
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
    /// Files that ride along from the next answer on, if the plugin said which; else its habit decides.
    want: Option<Files>,
    /// Files that ride along because the plugin asks for them time and again.
    habit: Habit,
    /// Private copy of the event's data.
    buffer: Box<[u8; MAX_STRING]>,
}

/// What the answer to an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Nothing,
    /// `length` bytes of the buffer: the event is a read.
    Data,
    /// The value of the buffer's first 8 bytes, and whether the guest gets a fault.
    Result {
        fault: bool,
    },
}

impl fmt::Debug for Registers {
    /// Leaves out the buffer: events are printed in messages, and four thousand numbers hide the rest.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("Registers");
        shown.field("vcpu", &self.id).field("stopped", &self.stopped).field("data", &self.data());
        shown.field("here", &self.here).field("deferred", &self.deferred).field("want", &self.want);
        shown.finish_non_exhaustive()
    }
}

impl Registers {
    pub(crate) fn new(id: u32, end: PluginEnd) -> Registers {
        Registers {
            id,
            end,
            stopped: false,
            accessing: false,
            carries: Carries::Nothing,
            exit: None,
            armed: false,
            length: 0,
            exit_tsc: 0,
            here: Files::NONE,
            deferred: Files::NONE,
            want: None,
            habit: Habit::default(),
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

    /// From this event's answer on, these files ride along with every event of this vCPU, and no others but those of a
    /// hint. They cost the VMM a copy each where KVM has `KVM_CAP_SYNC_REGS`, else an ioctl each.
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
        self.want = Some(files);
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

    /// What CPUID tells the guest, as [`Registers::set_cpuid`] set it.
    ///
    /// # Errors
    /// As [`Registers::regs`].
    pub fn cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        self.prepare()?;
        let count = self.command(answer_kind::GET, File::Cpuid, MAX_CPUID, 0)?;
        Ok((0..count).map(|index| self.bulk_entry::<abi::CpuidEntry>(index).0).collect())
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
