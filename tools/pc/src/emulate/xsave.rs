//! XSAVE and its like: the extended state between registers and memory (Intel SDM volume 1, chapter 13).

use iced_x86::{Instruction, Mnemonic};
use kvm_bindings::kvm_xsave;

use super::core::Core;
use super::cpu::{cr0, cr4};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;
use super::paging::Access;

/// Bytes of the legacy region and of the header behind it.
const LEGACY: usize = 512;
const HEADER: usize = 64;
/// Where the header has its two words.
const STATE_BV: usize = 512;
const COMP_BV: usize = 520;
const COMPACTED: u64 = 1 << 63;
/// Components of the legacy region, and the one that shares MXCSR with SSE.
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// MXCSR and its mask.
const MXCSR: core::ops::Range<usize> = 24..32;
const MXCSR_RESET: u32 = 0x1f80;
/// Bytes of the area that KVM gives.
const AREA: usize = 4096;
/// `IA32_XSS`: components of the kernel alone.
const XSS: u32 = 0xda0;

/// The x87 state of a processor after reset: control word 0x37f, all else zero.
const X87_RESET: [u8; 2] = [0x7f, 0x03];

/// Where a component lies: in the area that KVM gives, and in that of the instruction.
struct Part {
    bit: u64,
    ours: usize,
    theirs: usize,
    length: usize,
}

impl<M: Machine> Core<'_, M> {
    /// Carries out an instruction of this room; false if it is of another.
    ///
    /// # Errors
    /// Exceptions of the guest; what cannot be done here.
    pub fn extended(&mut self, i: &Instruction) -> Result<bool, Stop> {
        match i.mnemonic() {
            Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => self.save(i, false)?,
            Mnemonic::Xsavec | Mnemonic::Xsavec64 => self.save(i, true)?,
            Mnemonic::Xsaves | Mnemonic::Xsaves64 => {
                self.no_kernel_components()?;
                self.save(i, true)?;
            }
            Mnemonic::Xrstor | Mnemonic::Xrstor64 => self.restore(i, false)?,
            Mnemonic::Xrstors | Mnemonic::Xrstors64 => {
                self.no_kernel_components()?;
                self.restore(i, true)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn no_kernel_components(&mut self) -> Result<(), Stop> {
        if self.cpu.cpl() != 0 {
            return Err(Exception::PROTECTION.into());
        }
        match self.machine.msr(XSS)? {
            0 => Ok(()),
            _ => Err(Why::Form("with components that are the kernel's alone").into()),
        }
    }

    /// The area's address and the components that are asked for.
    fn asked(&mut self, i: &Instruction) -> Result<(u64, u64), Stop> {
        if self.cpu.sregs.cr4 & cr4::OSXSAVE == 0 {
            return Err(Exception::INVALID_OPCODE.into());
        }
        if self.cpu.sregs.cr0 & cr0::TS != 0 {
            return Err(Exception::plain(vector::NO_DEVICE).into());
        }
        let linear = self.address(i, 0, (LEGACY + HEADER) as u64)?;
        if !linear.is_multiple_of(64) {
            return Err(Exception::PROTECTION.into());
        }
        let (low, high) = (self.cpu.regs.rax & 0xffff_ffff, self.cpu.regs.rdx << 32);
        Ok((linear, (low | high) & self.machine.xcr0()?))
    }

    fn save(&mut self, i: &Instruction, compacted: bool) -> Result<(), Stop> {
        let (linear, asked) = self.asked(i)?;
        let ours = area(&self.machine.xsave()?);
        let in_use = word(&ours, STATE_BV) & asked;
        let mut legacy = [0; LEGACY];
        self.read_linear(linear, &mut legacy, Access::Read)?;
        if asked & X87 != 0 {
            legacy[..24].copy_from_slice(&ours[..24]);
            legacy[32..160].copy_from_slice(&ours[32..160]);
            if in_use & X87 == 0 {
                legacy[..24].fill(0);
                legacy[..2].copy_from_slice(&X87_RESET);
                legacy[32..160].fill(0);
            }
        }
        if asked & SSE != 0 {
            legacy[160..416].copy_from_slice(&ours[160..416]);
            if in_use & SSE == 0 {
                legacy[160..416].fill(0);
            }
        }
        if asked & (SSE | AVX) != 0 {
            legacy[MXCSR].copy_from_slice(&ours[MXCSR]);
        }
        let mut header = [0; HEADER];
        self.read_linear(linear.wrapping_add(LEGACY as u64), &mut header, Access::Read)?;
        let state = if compacted { in_use } else { word(&header, 0) & !asked | in_use };
        header[..8].copy_from_slice(&state.to_le_bytes());
        if compacted {
            header[8..16].copy_from_slice(&(asked | COMPACTED).to_le_bytes());
        }
        // The legacy region comes first, so that a page that cannot be written shows before anything is.
        self.write_linear(linear, &legacy, Access::Write)?;
        for part in self.parts(asked, compacted.then_some(asked))? {
            let zeros = [0; AREA];
            let from = if in_use & part.bit != 0 { &ours[part.ours..] } else { &zeros[..] };
            self.write_linear(linear.wrapping_add(part.theirs as u64), &from[..part.length], Access::Write)?;
        }
        self.write_linear(linear.wrapping_add(LEGACY as u64), &header, Access::Write)
    }

    fn restore(&mut self, i: &Instruction, only_compacted: bool) -> Result<(), Stop> {
        let (linear, asked) = self.asked(i)?;
        let mut theirs = [0; LEGACY + HEADER];
        self.read_linear(linear, &mut theirs, Access::Read)?;
        let (state, comp) = (word(&theirs, STATE_BV), word(&theirs, COMP_BV));
        let xcr0 = self.machine.xcr0()?;
        let compacted = comp & COMPACTED != 0;
        let wrong = match compacted {
            true => state & !comp != 0 || comp & !COMPACTED & !xcr0 != 0,
            false => only_compacted || comp != 0 || state & !xcr0 != 0,
        };
        if wrong || theirs[528..].iter().any(|byte| *byte != 0) {
            return Err(Exception::PROTECTION.into());
        }
        let mut whole = self.machine.xsave()?;
        let mut ours = area(&whole);
        let loaded = asked & state;
        if loaded & X87 != 0 {
            ours[..24].copy_from_slice(&theirs[..24]);
            ours[32..160].copy_from_slice(&theirs[32..160]);
        }
        if loaded & SSE != 0 {
            ours[160..416].copy_from_slice(&theirs[160..416]);
        }
        if asked & (SSE | AVX) != 0 && !(compacted && loaded & (SSE | AVX) == 0) {
            let mask = u32::from_le_bytes(ours[28..32].try_into().expect("four bytes"));
            let value = u32::from_le_bytes(theirs[24..28].try_into().expect("four bytes"));
            let mask = if mask == 0 { 0xffbf } else { mask };
            if value & !mask != 0 {
                return Err(Exception::PROTECTION.into());
            }
            ours[24..28].copy_from_slice(&value.to_le_bytes());
        } else if asked & (SSE | AVX) != 0 {
            ours[24..28].copy_from_slice(&MXCSR_RESET.to_le_bytes());
        }
        for part in self.parts(loaded, compacted.then_some(comp))? {
            let to = part.ours..part.ours + part.length;
            self.read_linear(linear.wrapping_add(part.theirs as u64), &mut ours[to], Access::Read)?;
        }
        // A component that is asked for and not in the area goes back to how it is after reset.
        let now = word(&ours, STATE_BV) & !asked | loaded;
        ours[STATE_BV..STATE_BV + 8].copy_from_slice(&now.to_le_bytes());
        for (to, from) in whole.region.iter_mut().zip(ours.chunks_exact(4)) {
            *to = u32::from_le_bytes(from.try_into().expect("chunks of four"));
        }
        Ok(self.machine.set_xsave(&whole)?)
    }

    /// The components beyond the legacy region, of those asked for; `format` are those that a compacted area has.
    fn parts(&mut self, asked: u64, format: Option<u64>) -> Result<Vec<Part>, Stop> {
        let mut parts = Vec::new();
        let mut next = LEGACY + HEADER;
        for number in 2..63 {
            let bit = 1u64 << number;
            if (asked | format.unwrap_or(0)) & bit == 0 {
                continue;
            }
            let [length, ours, about, _] = self.machine.cpuid(0xd, number)?;
            let (length, ours) = (length as usize, ours as usize);
            if length == 0 || ours < LEGACY + HEADER || ours + length > AREA {
                return Err(Why::Form("with a component that KVM does not hand out").into());
            }
            let theirs = match format {
                None => ours,
                Some(_) => {
                    let start = if about & 2 != 0 { next.next_multiple_of(64) } else { next };
                    next = start + length;
                    start
                }
            };
            if asked & bit != 0 {
                parts.push(Part { bit, ours, theirs, length });
            }
        }
        Ok(parts)
    }
}

fn area(xsave: &kvm_xsave) -> [u8; AREA] {
    let mut bytes = [0; AREA];
    for (to, from) in bytes.chunks_exact_mut(4).zip(xsave.region) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
#[path = "xsave_tests.rs"]
mod tests;
