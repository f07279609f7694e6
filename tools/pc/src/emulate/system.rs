//! Instructions of kernels: control of access, extended state, caches of translations, segments that are looked at.

use iced_x86::{Instruction, Mnemonic};

use super::core::Core;
use super::cpu::{Mode, cr0, cr4, flag, mask};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;
use super::paging::Access;

/// The status word's bit that says that an unmasked x87 error is pending.
const X87_ERROR: u16 = 1 << 7;

impl<M: Machine> Core<'_, M> {
    /// Carries out an instruction of this room; false if it is of another.
    ///
    /// # Errors
    /// Exceptions of the guest; what cannot be done here.
    pub fn system(&mut self, i: &Instruction) -> Result<bool, Stop> {
        match i.mnemonic() {
            Mnemonic::Clac | Mnemonic::Stac => {
                if self.cpu.cpl() != 0 {
                    return Err(Exception::INVALID_OPCODE.into());
                }
                self.cpu.set_flag(flag::AC, i.mnemonic() == Mnemonic::Stac);
            }
            // Without a shadow stack these do nothing.
            Mnemonic::Rdsspd | Mnemonic::Rdsspq if self.cpu.sregs.cr4 & cr4::CET == 0 => {}
            Mnemonic::Rdsspd | Mnemonic::Rdsspq => return Err(Why::Form("with control-flow enforcement").into()),
            // What these say about caches and branches has no meaning where instructions are carried out one by one.
            Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb | Mnemonic::Cldemote => {
                let linear = self.address(i, 0, 1)?;
                self.read_linear(linear, &mut [0], Access::Read)?;
            }
            Mnemonic::Endbr32 | Mnemonic::Endbr64 | Mnemonic::Serialize | Mnemonic::Pause | Mnemonic::Nop => {}
            Mnemonic::Prefetchw | Mnemonic::Prefetchwt1 | Mnemonic::Prefetch | Mnemonic::Prefetchnta => {}
            Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2 => {}
            Mnemonic::Wbinvd | Mnemonic::Wbnoinvd | Mnemonic::Invd => self.kernel_only()?,
            Mnemonic::Wait => self.wait()?,
            Mnemonic::Xgetbv => self.xgetbv()?,
            Mnemonic::Invpcid => self.invpcid(i)?,
            Mnemonic::Rdrand | Mnemonic::Rdseed => {
                let value = self.machine.random()?;
                self.set_operand(i, 0, value & mask(Self::operand_size(i, 0)))?;
                self.cpu.set_arithmetic(flag::CF);
            }
            Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => self.base(i)?,
            Mnemonic::Verr | Mnemonic::Verw => {
                let selector = self.operand(i, 0)? as u16;
                let allowed = self.look_at(selector)?.is_some_and(|descriptor| {
                    let readable = !descriptor.is_code() || descriptor.kind() & 2 != 0;
                    let fits = if i.mnemonic() == Mnemonic::Verw { descriptor.is_writable_data() } else { readable };
                    descriptor.is_memory() && fits
                });
                self.cpu.set_flag(flag::ZF, allowed);
            }
            Mnemonic::Lar | Mnemonic::Lsl => self.look_up(i)?,
            Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => return Err(Exception::INVALID_OPCODE.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn kernel_only(&self) -> Result<(), Stop> {
        if self.cpu.cpl() == 0 { Ok(()) } else { Err(Exception::PROTECTION.into()) }
    }

    fn wait(&mut self) -> Result<(), Stop> {
        let control = self.cpu.sregs.cr0;
        if control & cr0::MP != 0 && control & cr0::TS != 0 {
            return Err(Exception::plain(vector::NO_DEVICE).into());
        }
        if self.machine.fpu()?.fsw & X87_ERROR == 0 {
            return Ok(());
        }
        if control & cr0::NE != 0 {
            return Err(Exception::plain(vector::X87).into());
        }
        Err(Why::Form("with an x87 error pending that goes through the interrupt controller").into())
    }

    fn xgetbv(&mut self) -> Result<(), Stop> {
        if self.cpu.sregs.cr4 & cr4::OSXSAVE == 0 {
            return Err(Exception::INVALID_OPCODE.into());
        }
        let value = match self.cpu.regs.rcx as u32 {
            // Register 1 tells what is in use. That all of it may be is a true answer.
            0 | 1 => self.machine.xcr0()?,
            _ => return Err(Exception::PROTECTION.into()),
        };
        (self.cpu.regs.rax, self.cpu.regs.rdx) = (value & 0xffff_ffff, value >> 32);
        Ok(())
    }

    fn invpcid(&mut self, i: &Instruction) -> Result<(), Stop> {
        self.kernel_only()?;
        let kind = self.operand(i, 0)?;
        let mut descriptor = [0; 16];
        self.read_operand(i, 1, &mut descriptor)?;
        let low = u64::from_le_bytes(descriptor[..8].try_into().expect("half of 16"));
        if kind > 3 || low >> 12 != 0 {
            return Err(Exception::PROTECTION.into());
        }
        // To forget more than was asked for is always right.
        self.machine.forget_translations(&self.cpu)?;
        Ok(())
    }

    fn base(&mut self, i: &Instruction) -> Result<(), Stop> {
        if self.cpu.sregs.cr4 & cr4::FSGSBASE == 0 || self.cpu.mode() != Mode::Long {
            return Err(Exception::INVALID_OPCODE.into());
        }
        let value = self.operand(i, 0)?;
        let is_fs = matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase);
        let sregs = &mut self.cpu.sregs;
        let segment = if is_fs { &mut sregs.fs } else { &mut sregs.gs };
        if matches!(i.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
            let base = segment.base;
            return self.set_operand(i, 0, base);
        }
        let canonical = value as i64 >> 47 == 0 || value as i64 >> 47 == -1;
        if !canonical {
            return Err(Exception::PROTECTION.into());
        }
        segment.base = value;
        Ok(())
    }

    /// The descriptor of a selector if the running code may see it.
    fn look_at(&mut self, selector: u16) -> Result<Option<super::segments::Descriptor>, Stop> {
        if matches!(self.cpu.mode(), Mode::Real | Mode::Virtual86) {
            return Err(Exception::INVALID_OPCODE.into());
        }
        let descriptor = match self.descriptor(selector, vector::PROTECTION, 0) {
            Ok(descriptor) => descriptor,
            Err(Stop::Exception(Exception { vector: vector::PROTECTION, .. })) => return Ok(None),
            Err(stop) => return Err(stop),
        };
        let privilege = self.cpu.cpl().max((selector & 3) as u8);
        let visible = descriptor.is_conforming() || privilege <= descriptor.dpl();
        Ok(visible.then_some(descriptor))
    }

    fn look_up(&mut self, i: &Instruction) -> Result<(), Stop> {
        let selector = self.operand(i, 1)? as u16;
        let rights = i.mnemonic() == Mnemonic::Lar;
        let found = self.look_at(selector)?.filter(|descriptor| {
            // Kinds of the processor's own that have a limit; rights also those with a gate behind them.
            let (long, kind) = (self.cpu.is_long(), descriptor.kind());
            let own = match kind {
                2 | 9 | 11 => true,
                1 | 3 => !long,
                4 | 5 => rights && !long,
                12 => rights,
                _ => false,
            };
            descriptor.is_memory() || own
        });
        if let Some(descriptor) = found {
            let value = if rights { descriptor.rights() } else { descriptor.segment(selector).limit };
            self.set_operand(i, 0, value.into())?;
        }
        self.cpu.set_flag(flag::ZF, found.is_some());
        Ok(())
    }
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
