//! Arithmetic on general registers and memory that came with later processors than KVM's emulator knows.

use iced_x86::{Instruction, Mnemonic};

use super::core::Core;
use super::cpu::{flag, mask};
use super::fault::{Exception, Stop, Why};
use super::machine::Machine;
use super::paging::{Access, translate};

/// CRC-32C with its bits reversed, as the instruction has it.
const CASTAGNOLI: u32 = 0x82f6_3b78;

impl<M: Machine> Core<'_, M> {
    /// Carries out an instruction of this room; false if it is of another.
    ///
    /// # Errors
    /// Of its accesses.
    pub fn integer(&mut self, i: &Instruction) -> Result<bool, Stop> {
        let bytes = Self::operand_size(i, 0);
        let bits = 8 * bytes as u32;
        match i.mnemonic() {
            Mnemonic::Popcnt => {
                let source = self.operand(i, 1)?;
                self.finish(i, source.count_ones().into(), if source == 0 { flag::ZF } else { 0 })
            }
            Mnemonic::Lzcnt => {
                let source = self.operand(i, 1)?;
                let zeros = u64::from(source.leading_zeros() - (64 - bits));
                self.finish(i, zeros, counted(source, zeros))
            }
            Mnemonic::Tzcnt => {
                let source = self.operand(i, 1)?;
                let zeros = u64::from(source.trailing_zeros().min(bits));
                self.finish(i, zeros, counted(source, zeros))
            }
            Mnemonic::Andn => {
                let result = !self.operand(i, 1)? & self.operand(i, 2)?;
                self.finish(i, result, signs(result, bits))
            }
            Mnemonic::Bextr => {
                let (source, control) = (self.operand(i, 1)?, self.operand(i, 2)?);
                let (start, length) = (control & 0xff, control >> 8 & 0xff);
                let shifted = if start < bits.into() { source >> start } else { 0 };
                let result = shifted & low_bits(length);
                self.finish(i, result, signs(result, bits) & flag::ZF)
            }
            Mnemonic::Blsi | Mnemonic::Blsr | Mnemonic::Blsmsk => self.lowest_set_bit(i, bits),
            Mnemonic::Bzhi => {
                let (source, count) = (self.operand(i, 1)?, self.operand(i, 2)? & 0xff);
                let result = source & low_bits(count);
                let carry = if count >= bits.into() { flag::CF } else { 0 };
                self.finish(i, result, signs(result, bits) | carry)
            }
            Mnemonic::Pdep | Mnemonic::Pext => {
                let (source, mask) = (self.operand(i, 1)?, self.operand(i, 2)?);
                let result = if i.mnemonic() == Mnemonic::Pdep { deposit(source, mask) } else { extract(source, mask) };
                self.set_operand(i, 0, result)
            }
            Mnemonic::Mulx => {
                let factor = if bits == 64 { self.cpu.regs.rdx } else { self.cpu.regs.rdx & 0xffff_ffff };
                let product = u128::from(factor) * u128::from(self.operand(i, 2)?);
                // The low half first: if both go into one register, the high half stays.
                self.set_operand(i, 1, product as u64)?;
                self.set_operand(i, 0, (product >> bits) as u64)
            }
            Mnemonic::Rorx => {
                let (source, count) = (self.operand(i, 1)?, self.operand(i, 2)? as u32);
                let result =
                    if bits == 64 { source.rotate_right(count) } else { (source as u32).rotate_right(count).into() };
                self.set_operand(i, 0, result)
            }
            Mnemonic::Sarx | Mnemonic::Shlx | Mnemonic::Shrx => {
                let (source, count) = (self.operand(i, 1)?, self.operand(i, 2)? & u64::from(bits - 1));
                let result = match i.mnemonic() {
                    Mnemonic::Shlx => source << count,
                    Mnemonic::Shrx => source >> count,
                    _ if bits == 64 => (source as i64 >> count) as u64,
                    _ => i64::from(source as i32 >> count) as u64,
                };
                self.set_operand(i, 0, result)
            }
            Mnemonic::Adcx | Mnemonic::Adox => {
                let carry = if i.mnemonic() == Mnemonic::Adcx { flag::CF } else { flag::OF };
                let sum = u128::from(self.operand(i, 0)?) + u128::from(self.operand(i, 1)?);
                let sum = sum + u128::from(self.cpu.has(carry));
                self.set_operand(i, 0, sum as u64)?;
                self.cpu.set_flag(carry, sum >> bits != 0);
                Ok(())
            }
            Mnemonic::Movbe => {
                let value = self.operand(i, 1)?;
                self.set_operand(i, 0, value.swap_bytes() >> (64 - bits))
            }
            Mnemonic::Crc32 => {
                let (start, source) = (self.operand(i, 0)? as u32, self.operand(i, 1)?);
                let data = &source.to_le_bytes()[..Self::operand_size(i, 1)];
                self.set_operand(i, 0, checksum(start, data).into())
            }
            Mnemonic::Cmpxchg16b => self.compare_exchange_16(i),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn finish(&mut self, i: &Instruction, result: u64, flags: u64) -> Result<(), Stop> {
        self.set_operand(i, 0, result)?;
        self.cpu.set_arithmetic(flags);
        Ok(())
    }

    fn lowest_set_bit(&mut self, i: &Instruction, bits: u32) -> Result<(), Stop> {
        let source = self.operand(i, 1)?;
        let (result, carry) = match i.mnemonic() {
            Mnemonic::Blsi => (source & source.wrapping_neg(), source != 0),
            Mnemonic::Blsr => (source & source.wrapping_sub(1), source == 0),
            _ => (source ^ source.wrapping_sub(1), source == 0),
        };
        let result = result & mask(bits as usize / 8);
        self.finish(i, result, signs(result, bits) | if carry { flag::CF } else { 0 })
    }

    fn compare_exchange_16(&mut self, i: &Instruction) -> Result<(), Stop> {
        let linear = self.address(i, 0, 16)?;
        if !linear.is_multiple_of(16) {
            return Err(Exception::PROTECTION.into());
        }
        let physical = translate(&self.cpu, self.machine, linear, Access::Write)?;
        let regs = &self.cpu.regs;
        let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let (current, new) = (pair(regs.rdx, regs.rax), pair(regs.rcx, regs.rbx));
        let found = self.machine.compare_exchange_16(physical, current, new).ok_or(Why::NoMemory(physical))?;
        if found != current {
            (self.cpu.regs.rdx, self.cpu.regs.rax) = ((found >> 64) as u64, found as u64);
        }
        self.cpu.set_flag(flag::ZF, found == current);
        Ok(())
    }
}

/// Flags of LZCNT and TZCNT: carry without a set bit in the source, zero for the count 0.
fn counted(source: u64, count: u64) -> u64 {
    (if source == 0 { flag::CF } else { 0 }) | if count == 0 { flag::ZF } else { 0 }
}

/// Zero and sign.
fn signs(result: u64, bits: u32) -> u64 {
    (if result == 0 { flag::ZF } else { 0 }) | if result >> (bits - 1) & 1 != 0 { flag::SF } else { 0 }
}

fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The source's low bits, spread over the set bits of a mask.
fn deposit(source: u64, mut mask: u64) -> u64 {
    let (mut result, mut bit) = (0, 0);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source >> bit & 1 != 0 {
            result |= lowest;
        }
        (mask, bit) = (mask & (mask - 1), bit + 1);
    }
    result
}

/// The source's bits where a mask is set, side by side.
fn extract(source: u64, mut mask: u64) -> u64 {
    let (mut result, mut bit) = (0, 0);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if source & lowest != 0 {
            result |= 1 << bit;
        }
        (mask, bit) = (mask & (mask - 1), bit + 1);
    }
    result
}

fn checksum(start: u32, data: &[u8]) -> u32 {
    data.iter().fold(start, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 != 0 { CASTAGNOLI } else { 0 })
    })
}

#[cfg(test)]
#[path = "integer_tests.rs"]
mod tests;
