//! What an instruction reaches beyond general, segment and control registers.

use kvm_bindings::{kvm_fpu, kvm_xsave};

use super::cpu::Cpu;
use super::fault::Why;

/// The guest's physical memory and the registers that are seldom needed.
///
/// The core of this room is written against it, so that every instruction is tested without KVM.
pub trait Machine {
    /// Copies from physical memory; false where there is none.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool;

    /// Copies to physical memory; false where there is none, and then nothing is written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;

    /// Replaces an aligned word of 8 bytes in one step if it has this value; what it had, `None` where no memory is.
    fn compare_exchange(&mut self, address: u64, current: u64, new: u64) -> Option<u64>;

    /// The same with 16 bytes.
    fn compare_exchange_16(&mut self, address: u64, current: u128, new: u128) -> Option<u128>;

    /// x87 and SSE state.
    ///
    /// # Errors
    /// [`Why::State`].
    fn fpu(&mut self) -> Result<kvm_fpu, Why>;

    /// Sets what [`Machine::fpu`] gives.
    ///
    /// # Errors
    /// [`Why::State`].
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Why>;

    /// The whole extended state in the standard form.
    ///
    /// # Errors
    /// [`Why::State`].
    fn xsave(&mut self) -> Result<kvm_xsave, Why>;

    /// Sets what [`Machine::xsave`] gives.
    ///
    /// # Errors
    /// [`Why::State`].
    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<(), Why>;

    /// XCR0.
    ///
    /// # Errors
    /// [`Why::State`].
    fn xcr0(&mut self) -> Result<u64, Why>;

    /// EAX, EBX, ECX and EDX of a CPUID leaf that has subleaves, zeros if there is none.
    ///
    /// # Errors
    /// [`Why::State`].
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Why>;

    /// An MSR.
    ///
    /// # Errors
    /// [`Why::State`].
    fn msr(&mut self, index: u32) -> Result<u64, Why>;

    /// A random number.
    ///
    /// # Errors
    /// [`Why::State`].
    fn random(&mut self) -> Result<u64, Why>;

    /// Forgets what is remembered of the guest's page tables, while the registers are these.
    ///
    /// # Errors
    /// [`Why::State`].
    fn forget_translations(&mut self, cpu: &Cpu) -> Result<(), Why>;

    /// Notes in DR6 that a single step ended (BS).
    ///
    /// # Errors
    /// [`Why::State`].
    fn note_single_step(&mut self) -> Result<(), Why>;
}
