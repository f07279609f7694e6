//! Interrupts and exceptions on their way to the guest's handler (Intel SDM volume 3, 6.12 and 6.14).

use super::core::Core;
use super::cpu::{Mode, cr4, flag, mask};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;
use super::paging::Access;
use super::segments::{Descriptor, error_code, null_segment};

/// What is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Number of the handler.
    pub vector: u8,
    /// Error code that is pushed.
    pub code: Option<u32>,
    /// An instruction asked for it, which takes the privilege to.
    pub by_instruction: bool,
    /// The instruction pointer that is pushed.
    pub comes_back_to: u64,
    /// The pushed flags say that the instruction is begun once more.
    pub again: bool,
}

/// A gate of the interrupt table.
struct Gate {
    selector: u16,
    offset: u64,
    /// Bytes of what is pushed.
    width: usize,
    disables: bool,
    stack: u8,
}

const TASK_GATE: u8 = 5;

impl<M: Machine> Core<'_, M> {
    /// Makes the guest begin a handler.
    ///
    /// # Errors
    /// An exception that arises on the way; what cannot be done here.
    pub fn deliver(&mut self, interrupt: Interrupt) -> Result<(), Stop> {
        match self.cpu.mode() {
            Mode::Real => self.deliver_real(interrupt),
            Mode::Virtual86 => Err(Why::Form("in virtual 8086 mode").into()),
            Mode::Protected | Mode::Long => self.deliver_protected(interrupt),
        }
    }

    fn deliver_real(&mut self, interrupt: Interrupt) -> Result<(), Stop> {
        let table = self.cpu.sregs.idt;
        let offset = u64::from(interrupt.vector) * 4;
        if offset + 3 > u64::from(table.limit) {
            return Err(Exception::PROTECTION.into());
        }
        let entry = self.read_table(table.base.wrapping_add(offset) & 0xffff_ffff, 4)?;
        let cs = self.cpu.sregs.cs.selector;
        for value in [self.cpu.regs.rflags, cs.into(), interrupt.comes_back_to] {
            self.push(value, 2, Access::Write)?;
        }
        self.cpu.set_flag(flag::IF | flag::TF | flag::AC | flag::RF, false);
        self.cpu.regs.rip = entry & 0xffff;
        self.cpu.sregs.cs.selector = (entry >> 16) as u16;
        self.cpu.sregs.cs.base = (entry >> 16) << 4;
        Ok(())
    }

    fn deliver_protected(&mut self, interrupt: Interrupt) -> Result<(), Stop> {
        let external = u32::from(!interrupt.by_instruction);
        let long = self.cpu.is_long();
        let gate = self.gate(&interrupt, external)?;
        let code = self.handler_code(gate.selector, external)?;
        let before = self.cpu;
        let cpl = if code.is_conforming() { self.cpu.cpl() } else { code.dpl() };
        let inner = cpl < self.cpu.cpl();
        self.switch_stack(&gate, cpl, inner, external)?;
        self.mark_accessed(code)?;

        // From here on the processor is at the handler's privilege.
        self.cpu.sregs.cs = code.segment(gate.selector & !3 | u16::from(cpl));
        let access = if cpl == 3 { Access::Write } else { Access::WriteTable };
        let again = if interrupt.again { flag::RF } else { 0 };
        let (flags, cs) = (before.regs.rflags | again, before.sregs.cs.selector.into());
        if long || inner {
            self.push(before.sregs.ss.selector.into(), gate.width, access)?;
            self.push(before.regs.rsp, gate.width, access)?;
        }
        for value in [flags, cs, interrupt.comes_back_to].into_iter().chain(interrupt.code.map(u64::from)) {
            self.push(value, gate.width, access)?;
        }
        self.cpu.set_flag(flag::TF | flag::NT | flag::RF | flag::VM, false);
        if gate.disables {
            self.cpu.set_flag(flag::IF, false);
        }
        self.cpu.regs.rip = gate.offset;
        Ok(())
    }

    fn gate(&mut self, interrupt: &Interrupt, external: u32) -> Result<Gate, Stop> {
        let long = self.cpu.is_long();
        let table = self.cpu.sregs.idt;
        let code = u32::from(interrupt.vector) * 8 + 2 + external;
        let bytes = if long { 16 } else { 8 };
        let offset = u64::from(interrupt.vector) * bytes;
        if offset + bytes - 1 > u64::from(table.limit) {
            return Err(Exception::coded(vector::PROTECTION, code).into());
        }
        let place = self.wrap_table(table.base.wrapping_add(offset));
        let low = self.read_table(place, 8)?;
        let high = if long { self.read_table(place.wrapping_add(8), 8)? } else { 0 };
        let kind = (low >> 40) as u8 & 0x1f;
        let width = match (kind, long) {
            (14 | 15, true) => 8,
            (14 | 15, false) => 4,
            (6 | 7, false) => 2,
            (TASK_GATE, false) => return Err(Why::Form("through a task gate").into()),
            _ => return Err(Exception::coded(vector::PROTECTION, code).into()),
        };
        let dpl = (low >> 45) as u8 & 3;
        if interrupt.by_instruction && dpl < self.cpu.cpl() {
            return Err(Exception::coded(vector::PROTECTION, code).into());
        }
        if low >> 47 & 1 == 0 {
            return Err(Exception::coded(vector::NOT_PRESENT, code).into());
        }
        let offset = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        let offset = if width == 2 { offset & 0xffff } else { offset };
        let stack = if long { (low >> 32) as u8 & 7 } else { 0 };
        Ok(Gate { selector: (low >> 16) as u16, offset, width, disables: kind & 1 == 0, stack })
    }

    fn handler_code(&mut self, selector: u16, external: u32) -> Result<Descriptor, Stop> {
        let code = self.descriptor(selector, vector::PROTECTION, external)?;
        let wrong = self.cpu.is_long() && (!code.is_long() || code.is_wide());
        if !code.is_code() || code.dpl() > self.cpu.cpl() || wrong {
            return Err(Exception::coded(vector::PROTECTION, error_code(selector) | external).into());
        }
        if !code.is_present() {
            return Err(Exception::coded(vector::NOT_PRESENT, error_code(selector) | external).into());
        }
        Ok(code)
    }

    /// Makes SS and RSP those that the handler begins with, before anything is pushed.
    fn switch_stack(&mut self, gate: &Gate, cpl: u8, inner: bool, external: u32) -> Result<(), Stop> {
        if self.cpu.sregs.cr4 & cr4::CET != 0 && (inner || gate.stack != 0) {
            return Err(Why::Form("with control-flow enforcement and another stack").into());
        }
        if self.cpu.is_long() {
            let entry = match gate.stack {
                0 if inner => Some(4 + 8 * u64::from(cpl)),
                0 => None,
                stack => Some(0x1c + 8 * u64::from(stack)),
            };
            let rsp = match entry {
                Some(offset) => self.task(offset, 8, external)?,
                None => self.cpu.regs.rsp,
            };
            if inner {
                self.cpu.sregs.ss = null_segment(cpl.into(), cpl);
            }
            self.cpu.regs.rsp = rsp & !0xf;
        } else if inner {
            let wide = self.cpu.sregs.tr.type_ & 8 != 0;
            let (offset, bytes) = if wide { (4 + 8 * u64::from(cpl), 4) } else { (2 + 4 * u64::from(cpl), 2) };
            let pointer = self.task(offset, bytes, external)?;
            let selector = self.task(offset + bytes as u64, 2, external)? as u16;
            self.load_stack(selector, cpl, vector::INVALID_TSS, external)?;
            self.cpu.regs.rsp = pointer;
        }
        Ok(())
    }

    /// A field of the task state segment.
    fn task(&mut self, offset: u64, bytes: usize, external: u32) -> Result<u64, Stop> {
        let task = self.cpu.sregs.tr;
        if offset + bytes as u64 - 1 > u64::from(task.limit) {
            return Err(Exception::coded(vector::INVALID_TSS, error_code(task.selector) | external).into());
        }
        self.read_table(self.wrap_table(task.base.wrapping_add(offset)), bytes)
    }

    /// Puts a value on the stack.
    ///
    /// # Errors
    /// Of the access.
    pub fn push(&mut self, value: u64, bytes: usize, access: Access) -> Result<(), Stop> {
        let rsp = self.moved_stack(-(bytes as i64));
        let offset = rsp & mask(self.stack_width());
        let linear = self.segmented(iced_x86::Register::SS, offset, bytes as u64)?;
        self.write_linear(linear, &value.to_le_bytes()[..bytes], access)?;
        self.cpu.regs.rsp = rsp;
        Ok(())
    }
}

#[cfg(test)]
#[path = "deliver_tests.rs"]
mod tests;
