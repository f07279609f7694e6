//! IRET: back from a handler (Intel SDM volume 2, IRET/IRETD/IRETQ).

use kvm_bindings::kvm_segment;

use super::core::Core;
use super::cpu::{Mode, flag, mask};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;
use super::segments::{error_code, null_segment};

/// What IRET may change whoever executes it.
const FREE: u64 = flag::ARITHMETIC | flag::TF | flag::DF | flag::NT | flag::RF | flag::AC | flag::ID;

impl<M: Machine> Core<'_, M> {
    /// Carries out an IRET with an operand of so many bytes.
    ///
    /// # Errors
    /// Exceptions of the guest; what cannot be done here.
    pub fn iret(&mut self, width: usize) -> Result<(), Stop> {
        match self.cpu.mode() {
            Mode::Real => self.iret_real(width),
            Mode::Virtual86 => Err(Why::Form("in virtual 8086 mode").into()),
            Mode::Protected | Mode::Long => self.iret_protected(width),
        }
    }

    fn iret_real(&mut self, width: usize) -> Result<(), Stop> {
        let (ip, cs, flags) = (self.pop(width)?, self.pop(width)? & 0xffff, self.pop(width)?);
        if ip > 0xffff {
            return Err(Exception::PROTECTION.into());
        }
        self.cpu.regs.rip = ip;
        self.cpu.sregs.cs.selector = cs as u16;
        self.cpu.sregs.cs.base = cs << 4;
        self.set_flags(flags, FREE | flag::IF | flag::IOPL, width);
        Ok(())
    }

    fn iret_protected(&mut self, width: usize) -> Result<(), Stop> {
        let (cpl, in_long) = (self.cpu.cpl(), self.cpu.mode() == Mode::Long);
        if self.cpu.has(flag::NT) {
            // A return to another task; in 64-bit mode there are none.
            let stop =
                if self.cpu.is_long() { Exception::PROTECTION.into() } else { Why::Form("to another task").into() };
            return Err(stop);
        }
        let (ip, cs, flags) = (self.pop(width)?, self.pop(width)? as u16, self.pop(width)?);
        if !self.cpu.is_long() && flags & flag::VM != 0 && cpl == 0 && width == 4 {
            return Err(Why::Form("to virtual 8086 mode").into());
        }
        let new_cpl = (cs & 3) as u8;
        let code = self.descriptor(cs, vector::PROTECTION, 0)?;
        let fits = if code.is_conforming() { code.dpl() <= new_cpl } else { code.dpl() == new_cpl };
        let to_long = self.cpu.is_long() && code.is_long();
        if !code.is_code() || new_cpl < cpl || !fits || (to_long && code.is_wide()) {
            return Err(Exception::coded(vector::PROTECTION, error_code(cs)).into());
        }
        if !code.is_present() {
            return Err(Exception::coded(vector::NOT_PRESENT, error_code(cs)).into());
        }
        let stack = if in_long || new_cpl > cpl { Some((self.pop(width)?, self.pop(width)? as u16)) } else { None };
        let canonical = ip as i64 >> 47 == 0 || ip as i64 >> 47 == -1;
        let inside = if to_long { canonical } else { ip <= u64::from(code.segment(cs).limit) };
        if !inside {
            return Err(Exception::PROTECTION.into());
        }
        self.mark_accessed(code)?;
        if let Some((rsp, ss)) = stack {
            self.return_stack(rsp, ss, new_cpl, to_long)?;
        }
        let mut may = FREE;
        if cpl == 0 {
            may |= flag::IOPL | flag::VIF | flag::VIP;
        }
        if u64::from(cpl) <= (self.cpu.regs.rflags & flag::IOPL) >> 12 {
            may |= flag::IF;
        }
        self.set_flags(flags, may, width);
        self.cpu.sregs.cs = code.segment(cs);
        self.cpu.regs.rip = if to_long { ip } else { ip & 0xffff_ffff };
        if new_cpl > cpl {
            self.drop_inner_segments(new_cpl);
        }
        Ok(())
    }

    fn return_stack(&mut self, rsp: u64, ss: u16, cpl: u8, to_long: bool) -> Result<(), Stop> {
        if ss & !3 == 0 && to_long && cpl != 3 && (ss & 3) as u8 == cpl {
            self.cpu.sregs.ss = null_segment(ss, cpl);
        } else {
            self.load_stack(ss, cpl, vector::PROTECTION, 0)?;
        }
        let bits = if to_long {
            u64::MAX
        } else if self.cpu.sregs.ss.db != 0 {
            mask(4)
        } else {
            mask(2)
        };
        self.cpu.regs.rsp = if bits == mask(2) { self.cpu.regs.rsp & !bits | rsp & bits } else { rsp & bits };
        Ok(())
    }

    /// Data segments that the outer code may not have become null.
    fn drop_inner_segments(&mut self, cpl: u8) {
        let sregs = &mut self.cpu.sregs;
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
            let conforming = segment.type_ & 0xc == 0xc;
            if segment.dpl < cpl && !conforming && segment.unusable == 0 {
                let base = segment.base;
                *segment = kvm_segment { base, unusable: 1, ..kvm_segment::default() };
            }
        }
    }

    fn set_flags(&mut self, flags: u64, may: u64, width: usize) {
        let may = if width == 2 { may & 0xffff } else { may };
        self.cpu.regs.rflags = self.cpu.regs.rflags & !may | flags & may | flag::ONE;
    }
}

#[cfg(test)]
#[path = "ret_tests.rs"]
mod tests;
