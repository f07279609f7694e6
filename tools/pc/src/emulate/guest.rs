//! The core of this room on a vCPU of the SDK: an [`Exited`] in, registers and memory out.

use kvm_bindings::{kvm_fpu, kvm_msr_entry, kvm_xsave};
use outboard_plugin::{Error, Exit, Exited, Registers};

use super::cpu::{Cpu, cr4};
use super::fault::{Refusal, Why};
use super::legacy;
use super::machine::Machine;
use super::run::execute;

/// DR6.BS: a single step ended.
const SINGLE_STEP: u64 = 1 << 14;

/// The guest's physical memory, as the machine's other parts see it too.
pub trait PhysicalMemory {
    /// Copies from memory; false where there is none, or a device.
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool;

    /// Copies to memory; false where there is none, or a device, and then nothing is written.
    fn write(&self, address: u64, bytes: &[u8]) -> bool;

    /// Replaces an aligned word of 8 bytes in one step if it has this value; what it had, `None` where no memory is.
    fn compare_exchange(&self, address: u64, current: u64, new: u64) -> Option<u64>;

    /// The same with 16 bytes.
    fn compare_exchange_16(&self, address: u64, current: u128, new: u128) -> Option<u128>;
}

/// How the completion of an instruction ended.
#[derive(Debug)]
pub enum Completion {
    /// It was carried out, and the vCPU runs on.
    Done,
    /// It cannot be carried out; the VMM ends the guest.
    Refused(Refusal),
}

/// Carries out the instruction that KVM refused, and lets the vCPU run on; or gives up, which ends the VM.
///
/// # Errors
/// Of the exchange with the VMM; an exit that is another gives [`Error::Argument`].
pub fn complete(mut exited: Exited<'_>, memory: &impl PhysicalMemory) -> Result<Completion, Error> {
    let Exit::EmulationFailure { count, bytes } = exited.exit() else {
        return Err(Error::Argument("the exit is not about an instruction that KVM cannot emulate"));
    };
    let before = Cpu { regs: exited.regs()?, sregs: exited.sregs()? };
    let mut cpu = before;
    let given = &bytes[..usize::from(count).min(bytes.len())];
    match execute(&mut cpu, &mut Guest { vcpu: &mut exited, memory }, given) {
        Ok(()) => {
            // Files are told only if they changed: each costs the VMM a system call.
            if cpu.sregs != before.sregs {
                exited.set_sregs_on_resume(&cpu.sregs)?;
            }
            exited.set_regs(&cpu.regs)?;
            exited.accept();
            Ok(Completion::Done)
        }
        Err(refusal) => {
            exited.fault();
            Ok(Completion::Refused(refusal))
        }
    }
}

/// A stopped vCPU and the memory around it.
struct Guest<'a, P> {
    vcpu: &'a mut Registers,
    memory: &'a P,
}

fn state(what: &'static str) -> impl FnOnce(Error) -> Why {
    move |error| Why::State(format!("{what}: {error}"))
}

impl<P: PhysicalMemory> Machine for Guest<'_, P> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.read(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.memory.write(address, bytes)
    }

    fn compare_exchange(&mut self, address: u64, current: u64, new: u64) -> Option<u64> {
        self.memory.compare_exchange(address, current, new)
    }

    fn compare_exchange_16(&mut self, address: u64, current: u128, new: u128) -> Option<u128> {
        self.memory.compare_exchange_16(address, current, new)
    }

    // KVM_GET_FPU and KVM_SET_FPU pass over the area's header. Where the processor holds a component in its initial state,
    // as AMD's do after FNINIT, what they give is old and what they take is lost.
    fn fpu(&mut self) -> Result<kvm_fpu, Why> {
        Ok(legacy::of(&self.xsave()?))
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Why> {
        let mut whole = self.xsave()?;
        legacy::put(&mut whole, fpu);
        self.set_xsave(&whole)
    }

    fn xsave(&mut self) -> Result<kvm_xsave, Why> {
        self.vcpu.xsave().map_err(state("its extended state cannot be had"))
    }

    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<(), Why> {
        self.vcpu.set_xsave(xsave).map_err(state("its extended state cannot be set"))
    }

    fn xcr0(&mut self) -> Result<u64, Why> {
        let xcrs = self.vcpu.xcrs().map_err(state("its extended control registers cannot be had"))?;
        let known = &xcrs.xcrs[..(xcrs.nr_xcrs as usize).min(xcrs.xcrs.len())];
        // Where the processor has only the one, KVM may list none: then it has its value after reset.
        Ok(known.iter().find(|register| register.xcr == 0).map_or(1, |register| register.value))
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Why> {
        let leaves = self.vcpu.cpuid().map_err(state("its CPUID cannot be had"))?;
        let found = leaves.iter().find(|entry| (entry.function, entry.index) == (leaf, subleaf));
        Ok(found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx]))
    }

    fn msr(&mut self, index: u32) -> Result<u64, Why> {
        let mut entry = [kvm_msr_entry { index, ..kvm_msr_entry::default() }];
        match self.vcpu.get_msrs(&mut entry).map_err(state("an MSR cannot be had"))? {
            1 => Ok(entry[0].data),
            _ => Err(Why::State(format!("KVM does not have its MSR {index:#x}"))),
        }
    }

    fn random(&mut self) -> Result<u64, Why> {
        getrandom::u64().map_err(|error| Why::State(format!("the host gives no random number: {error}")))
    }

    fn forget_translations(&mut self, cpu: &Cpu) -> Result<(), Why> {
        // KVM forgets them when CR4 changes. What it has at the end is what it had.
        let mut sregs = cpu.sregs;
        let failed = "the cache of translations cannot be flushed";
        sregs.cr4 ^= cr4::PGE;
        self.vcpu.set_sregs(&sregs).map_err(state(failed))?;
        self.vcpu.set_sregs(&cpu.sregs).map_err(state(failed))
    }

    fn note_single_step(&mut self) -> Result<(), Why> {
        let failed = "its debug registers cannot be reached";
        let mut debug = self.vcpu.debugregs().map_err(state(failed))?;
        debug.dr6 |= SINGLE_STEP;
        self.vcpu.set_debugregs(&debug).map_err(state(failed))
    }
}
