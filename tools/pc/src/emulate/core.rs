//! A processor at one instruction: its registers and the machine around it, with accesses as the instruction makes them.

use iced_x86::{Instruction, OpKind, Register};

use super::cpu::{Cpu, Mode, mask};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;
use super::paging::{Access, PAGE, translate};

/// Registers and machine. What is changed here becomes true only if the instruction ends well.
pub struct Core<'a, M> {
    /// Registers.
    pub cpu: Cpu,
    /// All else.
    pub machine: &'a mut M,
}

impl<M: Machine> Core<'_, M> {
    /// Reads from a linear address.
    ///
    /// # Errors
    /// A page fault; [`Why::NoMemory`].
    pub fn read_linear(&mut self, linear: u64, bytes: &mut [u8], access: Access) -> Result<(), Stop> {
        let mut done = 0;
        while done < bytes.len() {
            let at = self.wrap(linear.wrapping_add(done as u64));
            let now = (bytes.len() - done).min((PAGE - at % PAGE) as usize);
            let physical = translate(&self.cpu, self.machine, at, access)?;
            if !self.machine.read(physical, &mut bytes[done..done + now]) {
                return Err(Why::NoMemory(physical).into());
            }
            done += now;
        }
        Ok(())
    }

    /// Writes to a linear address: all of it, or nothing.
    ///
    /// # Errors
    /// As [`Core::read_linear`].
    pub fn write_linear(&mut self, linear: u64, bytes: &[u8], access: Access) -> Result<(), Stop> {
        let mut parts = [(0, 0..0), (0, 0..0), (0, 0..0)];
        let (mut done, mut count) = (0, 0);
        // No operand reaches into a third page but an XSAVE area, which is written page by page.
        while done < bytes.len() && count < parts.len() {
            let at = self.wrap(linear.wrapping_add(done as u64));
            let now = (bytes.len() - done).min((PAGE - at % PAGE) as usize);
            parts[count] = (translate(&self.cpu, self.machine, at, access)?, done..done + now);
            (done, count) = (done + now, count + 1);
        }
        for (physical, range) in parts.into_iter().take(count) {
            if !self.machine.write(physical, &bytes[range]) {
                return Err(Why::NoMemory(physical).into());
            }
        }
        Ok(())
    }

    /// A value of up to 8 bytes from a table of the processor's own.
    ///
    /// # Errors
    /// As [`Core::read_linear`].
    pub fn read_table(&mut self, linear: u64, bytes: usize) -> Result<u64, Stop> {
        let mut value = [0; 8];
        self.read_linear(linear, &mut value[..bytes], Access::ReadTable)?;
        Ok(u64::from_le_bytes(value))
    }

    /// Outside of 64-bit mode linear addresses have 32 bits.
    pub fn wrap(&self, linear: u64) -> u64 {
        if self.cpu.mode() == Mode::Long { linear } else { linear & 0xffff_ffff }
    }

    /// The linear address of an instruction's memory operand of so many bytes.
    ///
    /// # Errors
    /// General protection, or that of the stack segment, for an address outside of its segment or not canonical.
    pub fn address(&self, instruction: &Instruction, operand: u32, bytes: u64) -> Result<u64, Stop> {
        let segment = instruction.memory_segment();
        let offset = instruction.virtual_address(operand, 0, |register, _, _| {
            if register.is_segment_register() { Some(0) } else { self.cpu.register(register) }
        });
        let offset = offset.ok_or(Why::Form("with an address of this kind"))?;
        self.segmented(segment, offset, bytes)
    }

    /// The linear address of an offset in a segment.
    ///
    /// # Errors
    /// As [`Core::address`].
    pub fn segmented(&self, register: Register, offset: u64, bytes: u64) -> Result<u64, Stop> {
        let segment = self.cpu.segment(register).ok_or(Why::Form("with an address of this kind"))?;
        let outside = Exception::coded(if register == Register::SS { vector::STACK } else { vector::PROTECTION }, 0);
        if self.cpu.mode() == Mode::Long {
            let base = if matches!(register, Register::FS | Register::GS) { segment.base } else { 0 };
            let linear = base.wrapping_add(offset);
            let canonical = linear as i64 >> 47 == 0 || linear as i64 >> 47 == -1;
            let wide = self.cpu.sregs.cr4 & super::cpu::cr4::LA57 != 0;
            return if canonical || wide { Ok(linear) } else { Err(outside.into()) };
        }
        if self.cpu.mode() == Mode::Protected && (segment.unusable != 0 || segment.present == 0) {
            return Err(outside.into());
        }
        let last = offset.saturating_add(bytes.max(1) - 1);
        let limit = u64::from(segment.limit);
        // A data segment that grows downwards has its addresses above the limit.
        let downwards = segment.type_ & 0xc == 4 && self.cpu.mode() == Mode::Protected;
        let top = if segment.db != 0 { 0xffff_ffff } else { 0xffff };
        let inside = if downwards { offset > limit && last <= top } else { last <= limit };
        if inside { Ok((segment.base.wrapping_add(offset)) & 0xffff_ffff) } else { Err(outside.into()) }
    }

    /// An operand of up to 8 bytes as a number: a general register, memory or an immediate.
    ///
    /// # Errors
    /// Of the access; [`Why::Form`] for operands of another kind.
    pub fn operand(&mut self, instruction: &Instruction, operand: u32) -> Result<u64, Stop> {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let value = self.cpu.register(instruction.op_register(operand));
                value.ok_or(Why::Form("with a register of this kind").into())
            }
            OpKind::Memory => {
                let bytes = instruction.memory_size().size();
                if bytes > 8 {
                    return Err(Why::Form("with an operand of this size").into());
                }
                let mut value = [0; 8];
                self.read_operand(instruction, operand, &mut value[..bytes])?;
                Ok(u64::from_le_bytes(value))
            }
            _ => instruction.try_immediate(operand).map_err(|_| Why::Form("with an operand of this kind").into()),
        }
    }

    /// Reads a memory operand.
    ///
    /// # Errors
    /// Of the access.
    pub fn read_operand(&mut self, instruction: &Instruction, operand: u32, bytes: &mut [u8]) -> Result<(), Stop> {
        let linear = self.address(instruction, operand, bytes.len() as u64)?;
        self.read_linear(linear, bytes, Access::Read)
    }

    /// Writes a memory operand.
    ///
    /// # Errors
    /// Of the access.
    pub fn write_operand(&mut self, instruction: &Instruction, operand: u32, bytes: &[u8]) -> Result<(), Stop> {
        let linear = self.address(instruction, operand, bytes.len() as u64)?;
        self.write_linear(linear, bytes, Access::Write)
    }

    /// Sets an operand of up to 8 bytes: a general register or memory.
    ///
    /// # Errors
    /// Of the access; [`Why::Form`] for operands of another kind.
    pub fn set_operand(&mut self, instruction: &Instruction, operand: u32, value: u64) -> Result<(), Stop> {
        match instruction.op_kind(operand) {
            OpKind::Register if self.cpu.set_register(instruction.op_register(operand), value) => Ok(()),
            OpKind::Memory => {
                let bytes = instruction.memory_size().size().min(8);
                self.write_operand(instruction, operand, &value.to_le_bytes()[..bytes])
            }
            _ => Err(Why::Form("with an operand of this kind").into()),
        }
    }

    /// Bytes of an operand.
    pub fn operand_size(instruction: &Instruction, operand: u32) -> usize {
        match instruction.op_kind(operand) {
            OpKind::Register => instruction.op_register(operand).size(),
            _ => instruction.memory_size().size(),
        }
    }

    /// Bytes of a stack pointer now.
    pub fn stack_width(&self) -> usize {
        match self.cpu.mode() {
            Mode::Long => 8,
            Mode::Protected if self.cpu.sregs.ss.db != 0 => 4,
            _ => 2,
        }
    }

    /// The stack pointer moved by so many bytes; only as many of its bits as the stack has change.
    pub fn moved_stack(&self, by: i64) -> u64 {
        let (rsp, bits) = (self.cpu.regs.rsp, mask(self.stack_width()));
        rsp & !bits | rsp.wrapping_add_signed(by) & bits
    }

    /// Takes a value off the stack.
    ///
    /// # Errors
    /// Of the access.
    pub fn pop(&mut self, bytes: usize) -> Result<u64, Stop> {
        let offset = self.cpu.regs.rsp & mask(self.stack_width());
        let linear = self.segmented(Register::SS, offset, bytes as u64)?;
        let mut value = [0; 8];
        self.read_linear(linear, &mut value[..bytes], Access::Read)?;
        self.cpu.regs.rsp = self.moved_stack(bytes as i64);
        Ok(u64::from_le_bytes(value))
    }
}
