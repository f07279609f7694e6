//! Control of x87 and SSE, and SSE on whole registers: moves, logic and the arithmetic of integers.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::core::Core;
use super::cpu::{cr0, cr4};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;

/// Bits of MXCSR that a processor has.
const MXCSR: u32 = 0xffff;
/// The x87 status word without its exceptions, and what says that one is pending.
const NO_EXCEPTIONS: u16 = 0x7f00;

/// The sixteen bytes of a register.
type Bytes = [u8; 16];

impl<M: Machine> Core<'_, M> {
    /// Carries out an instruction of this room; false if it is of another.
    ///
    /// # Errors
    /// Exceptions of the guest; what cannot be done here.
    pub fn vector(&mut self, i: &Instruction) -> Result<bool, Stop> {
        match i.mnemonic() {
            Mnemonic::Fldcw => {
                self.may(false)?;
                let mut fpu = self.machine.fpu()?;
                // Bit 6 is always set, and those above 12 and bit 7 never.
                fpu.fcw = self.operand(i, 0)? as u16 & 0x1f3f | 0x40;
                let pending = fpu.fsw & !fpu.fcw & 0x3f != 0;
                fpu.fsw = fpu.fsw & 0x7f7f | if pending { 0x8080 } else { 0 };
                self.machine.set_fpu(&fpu)?;
            }
            Mnemonic::Fnclex => {
                self.may(false)?;
                let mut fpu = self.machine.fpu()?;
                fpu.fsw &= NO_EXCEPTIONS;
                self.machine.set_fpu(&fpu)?;
            }
            Mnemonic::Ldmxcsr => {
                self.may(true)?;
                let value = self.operand(i, 0)? as u32;
                if value & !MXCSR != 0 {
                    return Err(Exception::PROTECTION.into());
                }
                let mut fpu = self.machine.fpu()?;
                fpu.mxcsr = value;
                self.machine.set_fpu(&fpu)?;
            }
            Mnemonic::Stmxcsr => {
                self.may(true)?;
                let value = self.machine.fpu()?.mxcsr;
                self.set_operand(i, 0, value.into())?;
            }
            _ => return self.sse(i),
        }
        Ok(true)
    }

    /// The exceptions of a processor whose x87 or SSE is off.
    fn may(&self, sse: bool) -> Result<(), Stop> {
        let (control0, control4) = (self.cpu.sregs.cr0, self.cpu.sregs.cr4);
        if sse && (control0 & cr0::EM != 0 || control4 & cr4::OSFXSR == 0) {
            return Err(Exception::INVALID_OPCODE.into());
        }
        if control0 & cr0::TS != 0 || !sse && control0 & cr0::EM != 0 {
            return Err(Exception::plain(vector::NO_DEVICE).into());
        }
        Ok(())
    }

    fn sse(&mut self, i: &Instruction) -> Result<bool, Stop> {
        use Mnemonic::{Movapd, Movaps, Movd, Movdqa, Movdqu, Movq, Movupd, Movups};
        if matches!(i.mnemonic(), Movaps | Movapd | Movups | Movupd | Movdqa | Movdqu | Movd | Movq) {
            return self.move_vector(i);
        }
        let Some(work) = work_of(i) else { return Ok(false) };
        if !i.op0_register().is_xmm() || i.op_count() < 2 {
            return Ok(false);
        }
        self.may(true)?;
        let first = self.xmm(i.op0_register())?;
        let second = match i.op1_kind() {
            OpKind::Register if i.op1_register().is_xmm() => self.xmm(i.op1_register())?,
            OpKind::Memory => self.aligned(i, 1)?,
            _ => {
                let mut count = [0; 16];
                count[..8].copy_from_slice(&self.operand(i, 1)?.to_le_bytes());
                count
            }
        };
        self.set_xmm(i.op0_register(), work(first, second))?;
        Ok(true)
    }

    fn move_vector(&mut self, i: &Instruction) -> Result<bool, Stop> {
        let is_vector = |operand: u32| i.op_kind(operand) == OpKind::Register && i.op_register(operand).is_xmm();
        if !is_vector(0) && !is_vector(1) {
            return Ok(false);
        }
        self.may(true)?;
        let length = match i.mnemonic() {
            Mnemonic::Movd => 4,
            Mnemonic::Movq => 8,
            _ => 16,
        };
        let mut value = [0; 16];
        match i.op1_kind() {
            OpKind::Memory if length == 16 => value = self.aligned(i, 1)?,
            OpKind::Memory => self.read_operand(i, 1, &mut value[..length])?,
            _ if is_vector(1) => value[..length].copy_from_slice(&self.xmm(i.op1_register())?[..length]),
            _ => value[..length].copy_from_slice(&self.operand(i, 1)?.to_le_bytes()[..length]),
        }
        match i.op0_kind() {
            OpKind::Memory => {
                self.check_alignment(i, 0)?;
                self.write_operand(i, 0, &value[..length])?;
            }
            _ if is_vector(0) => self.set_xmm(i.op0_register(), value)?,
            _ => {
                let low = value[..8].try_into().expect("half of sixteen");
                self.set_operand(i, 0, u64::from_le_bytes(low))?;
            }
        }
        Ok(true)
    }

    /// A memory operand of sixteen bytes.
    fn aligned(&mut self, i: &Instruction, operand: u32) -> Result<Bytes, Stop> {
        self.check_alignment(i, operand)?;
        let mut value = [0; 16];
        self.read_operand(i, operand, &mut value)?;
        Ok(value)
    }

    /// Sixteen bytes lie on a multiple of sixteen, but for the moves that say otherwise.
    fn check_alignment(&self, i: &Instruction, operand: u32) -> Result<(), Stop> {
        use Mnemonic::{Movd, Movdqu, Movq, Movupd, Movups};
        let linear = self.address(i, operand, 16)?;
        let free = matches!(i.mnemonic(), Movups | Movupd | Movdqu | Movd | Movq);
        if free || linear.is_multiple_of(16) { Ok(()) } else { Err(Exception::PROTECTION.into()) }
    }

    fn xmm(&mut self, register: Register) -> Result<Bytes, Stop> {
        Ok(self.machine.fpu()?.xmm[number(register)?])
    }

    fn set_xmm(&mut self, register: Register, value: Bytes) -> Result<(), Stop> {
        let mut fpu = self.machine.fpu()?;
        fpu.xmm[number(register)?] = value;
        Ok(self.machine.set_fpu(&fpu)?)
    }
}

fn number(register: Register) -> Result<usize, Stop> {
    let number = register.number();
    if register.is_xmm() && number < 16 { Ok(number) } else { Err(Why::Form("with a register of this kind").into()) }
}

/// What an instruction makes of its two operands.
fn work_of(i: &Instruction) -> Option<Box<dyn Fn(Bytes, Bytes) -> Bytes>> {
    use Mnemonic as M;
    let bits = |f: fn(u128, u128) -> u128| -> Box<dyn Fn(Bytes, Bytes) -> Bytes> {
        Box::new(move |a, b| f(u128::from_le_bytes(a), u128::from_le_bytes(b)).to_le_bytes())
    };
    let order = if i.mnemonic() == M::Pshufd { i.immediate8() } else { 0 };
    Some(match i.mnemonic() {
        M::Pxor | M::Xorps | M::Xorpd => bits(|a, b| a ^ b),
        M::Por | M::Orps | M::Orpd => bits(|a, b| a | b),
        M::Pand | M::Andps | M::Andpd => bits(|a, b| a & b),
        M::Pandn | M::Andnps | M::Andnpd => bits(|a, b| !a & b),
        M::Pslldq => bits(|a, b| if b > 15 { 0 } else { a << (8 * b) }),
        M::Psrldq => bits(|a, b| if b > 15 { 0 } else { a >> (8 * b) }),
        M::Paddb => lanes(1, |a, b, _| a.wrapping_add(b)),
        M::Paddw => lanes(2, |a, b, _| a.wrapping_add(b)),
        M::Paddd => lanes(4, |a, b, _| a.wrapping_add(b)),
        M::Paddq => lanes(8, |a, b, _| a.wrapping_add(b)),
        M::Psubb => lanes(1, |a, b, _| a.wrapping_sub(b)),
        M::Psubw => lanes(2, |a, b, _| a.wrapping_sub(b)),
        M::Psubd => lanes(4, |a, b, _| a.wrapping_sub(b)),
        M::Psubq => lanes(8, |a, b, _| a.wrapping_sub(b)),
        M::Pcmpeqb => lanes(1, |a, b, _| if a == b { u64::MAX } else { 0 }),
        M::Pcmpeqw => lanes(2, |a, b, _| if a == b { u64::MAX } else { 0 }),
        M::Pcmpeqd => lanes(4, |a, b, _| if a == b { u64::MAX } else { 0 }),
        M::Pmuludq => lanes(8, |a, b, _| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
        M::Psllw => shifts(2, |a, by, bits| if by < bits { a << by } else { 0 }),
        M::Pslld => shifts(4, |a, by, bits| if by < bits { a << by } else { 0 }),
        M::Psllq => shifts(8, |a, by, bits| if by < bits { a << by } else { 0 }),
        M::Psrlw => shifts(2, |a, by, bits| if by < bits { a >> by } else { 0 }),
        M::Psrld => shifts(4, |a, by, bits| if by < bits { a >> by } else { 0 }),
        M::Psrlq => shifts(8, |a, by, bits| if by < bits { a >> by } else { 0 }),
        M::Punpcklbw => unpacked(1, 0),
        M::Punpcklwd => unpacked(2, 0),
        M::Punpckldq | M::Unpcklps => unpacked(4, 0),
        M::Punpcklqdq | M::Unpcklpd => unpacked(8, 0),
        M::Punpckhbw => unpacked(1, 8),
        M::Punpckhwd => unpacked(2, 8),
        M::Punpckhdq | M::Unpckhps => unpacked(4, 8),
        M::Punpckhqdq | M::Unpckhpd => unpacked(8, 8),
        M::Pshufd => Box::new(move |_, b| {
            let mut result = [0; 16];
            for lane in 0..4 {
                let from = usize::from(order >> (2 * lane) & 3);
                result[4 * lane..4 * lane + 4].copy_from_slice(&b[4 * from..4 * from + 4]);
            }
            result
        }),
        M::Pshufb => Box::new(|a, b| b.map(|at| if at & 0x80 != 0 { 0 } else { a[usize::from(at & 15)] })),
        _ => return None,
    })
}

fn lane(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Work on each pair of lanes of so many bytes; the third argument is the bits of a lane.
fn lanes(width: usize, f: fn(u64, u64, u64) -> u64) -> Box<dyn Fn(Bytes, Bytes) -> Bytes> {
    Box::new(move |mut a, b| {
        for (to, from) in a.chunks_exact_mut(width).zip(b.chunks_exact(width)) {
            let result = f(lane(to), lane(from), 8 * width as u64);
            to.copy_from_slice(&result.to_le_bytes()[..width]);
        }
        a
    })
}

/// Shifts of each lane by the count that the low half of the second operand is.
fn shifts(width: usize, f: fn(u64, u64, u64) -> u64) -> Box<dyn Fn(Bytes, Bytes) -> Bytes> {
    Box::new(move |mut a, b| {
        for to in a.chunks_exact_mut(width) {
            let result = f(lane(to), lane(&b[..8]), 8 * width as u64);
            to.copy_from_slice(&result.to_le_bytes()[..width]);
        }
        a
    })
}

/// Lanes of one half of both operands, in turns.
fn unpacked(width: usize, half: usize) -> Box<dyn Fn(Bytes, Bytes) -> Bytes> {
    Box::new(move |a, b| {
        let mut result = [0; 16];
        for (at, to) in result.chunks_exact_mut(width).enumerate() {
            let from = if at % 2 == 0 { &a } else { &b };
            let start = half + at / 2 * width;
            to.copy_from_slice(&from[start..start + width]);
        }
        result
    })
}

#[cfg(test)]
#[path = "vector_tests.rs"]
mod tests;
