//! General, segment and control registers, by the names that the decoder gives them.

use iced_x86::Register;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Bits of RFLAGS (Intel SDM volume 1, 3.4.3).
pub mod flag {
    /// Carry.
    pub const CF: u64 = 1;
    /// The one that is always set.
    pub const ONE: u64 = 1 << 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap: single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// Privilege that I/O takes.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment checks, or access to user pages.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupts.
    pub const VIF: u64 = 1 << 19;
    /// A virtual interrupt is pending.
    pub const VIP: u64 = 1 << 20;
    /// The guest may change it if the processor has CPUID.
    pub const ID: u64 = 1 << 21;
    /// What results of arithmetic are told by.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// Bits of CR0 (Intel SDM volume 3, 2.5).
pub mod cr0 {
    /// Protected mode.
    pub const PE: u64 = 1;
    /// WAIT looks at TS.
    pub const MP: u64 = 1 << 1;
    /// There is no x87.
    pub const EM: u64 = 1 << 2;
    /// The task was switched: x87 and SSE trap.
    pub const TS: u64 = 1 << 3;
    /// x87 errors are exceptions.
    pub const NE: u64 = 1 << 5;
    /// The kernel too heeds write protection.
    pub const WP: u64 = 1 << 16;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4.
pub mod cr4 {
    /// Large pages of 32-bit paging.
    pub const PSE: u64 = 1 << 4;
    /// Entries of 64 bits.
    pub const PAE: u64 = 1 << 5;
    /// SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// Translations that outlive a change of tables.
    pub const PGE: u64 = 1 << 7;
    /// Five levels of tables.
    pub const LA57: u64 = 1 << 12;
    /// RDFSBASE and its like.
    pub const FSGSBASE: u64 = 1 << 16;
    /// XSAVE and its like.
    pub const OSXSAVE: u64 = 1 << 18;
    /// The kernel executes no user pages.
    pub const SMEP: u64 = 1 << 20;
    /// The kernel touches user pages only with AC.
    pub const SMAP: u64 = 1 << 21;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
}

/// Bits of EFER.
pub mod efer {
    /// 64-bit mode is on.
    pub const LMA: u64 = 1 << 10;
    /// Pages may forbid execution.
    pub const NXE: u64 = 1 << 11;
}

/// What a processor does with the bytes at its instruction pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Virtual 8086 mode.
    Virtual86,
    /// Protected mode with code of 16 or 32 bits, compatibility mode of a 64-bit kernel among it.
    Protected,
    /// 64-bit mode.
    Long,
}

/// General, segment and control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// General registers.
    pub regs: kvm_regs,
    /// Segment and control registers.
    pub sregs: kvm_sregs,
}

impl Cpu {
    /// The mode.
    pub fn mode(&self) -> Mode {
        if self.sregs.cr0 & cr0::PE == 0 {
            Mode::Real
        } else if self.is_long() {
            if self.sregs.cs.l != 0 { Mode::Long } else { Mode::Protected }
        } else if self.regs.rflags & flag::VM != 0 {
            Mode::Virtual86
        } else {
            Mode::Protected
        }
    }

    /// The kernel is a 64-bit one, whatever code runs now.
    pub fn is_long(&self) -> bool {
        self.sregs.efer & efer::LMA != 0
    }

    /// Bits of code, for the decoder.
    pub fn bitness(&self) -> u32 {
        match self.mode() {
            Mode::Long => 64,
            Mode::Protected if self.sregs.cs.db != 0 => 32,
            _ => 16,
        }
    }

    /// Privilege: 0 the kernel's to 3.
    pub fn cpl(&self) -> u8 {
        match self.mode() {
            Mode::Real => 0,
            Mode::Virtual86 => 3,
            _ => self.sregs.ss.dpl & 3,
        }
    }

    /// Whether a bit of RFLAGS is set.
    pub fn has(&self, flag: u64) -> bool {
        self.regs.rflags & flag != 0
    }

    /// Sets or clears bits of RFLAGS.
    pub fn set_flag(&mut self, flag: u64, on: bool) {
        if on {
            self.regs.rflags |= flag;
        } else {
            self.regs.rflags &= !flag;
        }
    }

    /// Replaces the arithmetic flags.
    pub fn set_arithmetic(&mut self, flags: u64) {
        self.regs.rflags = self.regs.rflags & !flag::ARITHMETIC | flags & flag::ARITHMETIC;
    }

    fn whole(&self, register: Register) -> Option<&u64> {
        let regs = &self.regs;
        Some(match register.full_register() {
            Register::RAX => &regs.rax,
            Register::RBX => &regs.rbx,
            Register::RCX => &regs.rcx,
            Register::RDX => &regs.rdx,
            Register::RSI => &regs.rsi,
            Register::RDI => &regs.rdi,
            Register::RSP => &regs.rsp,
            Register::RBP => &regs.rbp,
            Register::R8 => &regs.r8,
            Register::R9 => &regs.r9,
            Register::R10 => &regs.r10,
            Register::R11 => &regs.r11,
            Register::R12 => &regs.r12,
            Register::R13 => &regs.r13,
            Register::R14 => &regs.r14,
            Register::R15 => &regs.r15,
            Register::RIP => &regs.rip,
            _ => return None,
        })
    }

    fn whole_mut(&mut self, register: Register) -> Option<&mut u64> {
        let regs = &mut self.regs;
        Some(match register.full_register() {
            Register::RAX => &mut regs.rax,
            Register::RBX => &mut regs.rbx,
            Register::RCX => &mut regs.rcx,
            Register::RDX => &mut regs.rdx,
            Register::RSI => &mut regs.rsi,
            Register::RDI => &mut regs.rdi,
            Register::RSP => &mut regs.rsp,
            Register::RBP => &mut regs.rbp,
            Register::R8 => &mut regs.r8,
            Register::R9 => &mut regs.r9,
            Register::R10 => &mut regs.r10,
            Register::R11 => &mut regs.r11,
            Register::R12 => &mut regs.r12,
            Register::R13 => &mut regs.r13,
            Register::R14 => &mut regs.r14,
            Register::R15 => &mut regs.r15,
            _ => return None,
        })
    }

    /// A general register of any width; `None` for other registers.
    pub fn register(&self, register: Register) -> Option<u64> {
        let value = *self.whole(register)?;
        Some(if is_high_byte(register) { value >> 8 & 0xff } else { value & mask(register.size()) })
    }

    /// Sets a general register of any width: 32 bits clear the upper half, fewer keep the rest. False for other registers.
    pub fn set_register(&mut self, register: Register, value: u64) -> bool {
        let (bytes, high) = (register.size(), is_high_byte(register));
        let Some(whole) = self.whole_mut(register) else { return false };
        *whole = match bytes {
            8 => value,
            4 => value & 0xffff_ffff,
            1 if high => *whole & !0xff00 | (value & 0xff) << 8,
            _ => *whole & !mask(bytes) | value & mask(bytes),
        };
        true
    }

    /// A segment register.
    pub fn segment(&self, register: Register) -> Option<&kvm_segment> {
        Some(match register {
            Register::ES => &self.sregs.es,
            Register::CS => &self.sregs.cs,
            Register::SS => &self.sregs.ss,
            Register::DS => &self.sregs.ds,
            Register::FS => &self.sregs.fs,
            Register::GS => &self.sregs.gs,
            _ => return None,
        })
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// The bits of a value of 1 to 8 bytes.
pub fn mask(bytes: usize) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_registers_are_parts_of_wide_ones() {
        let mut cpu = Cpu::default();
        cpu.regs.rax = 0x1122_3344_5566_7788;
        assert_eq!(cpu.register(Register::EAX), Some(0x5566_7788));
        assert_eq!(cpu.register(Register::AX), Some(0x7788));
        assert_eq!((cpu.register(Register::AL), cpu.register(Register::AH)), (Some(0x88), Some(0x77)));
        cpu.set_register(Register::AH, 0xaa);
        cpu.set_register(Register::AL, 0xbb);
        assert_eq!(cpu.regs.rax, 0x1122_3344_5566_aabb);
        cpu.set_register(Register::AX, 0x1_cccc);
        assert_eq!(cpu.regs.rax, 0x1122_3344_5566_cccc);
        cpu.set_register(Register::EAX, 0xffff_ffff_0000_0001);
        assert_eq!(cpu.regs.rax, 1);
        assert!(!cpu.set_register(Register::XMM0, 0));
        assert_eq!(cpu.register(Register::CR0), None);
    }

    #[test]
    fn the_mode_follows_the_registers() {
        let mut cpu = Cpu::default();
        assert_eq!((cpu.mode(), cpu.bitness(), cpu.cpl()), (Mode::Real, 16, 0));
        cpu.sregs.cr0 = cr0::PE;
        (cpu.sregs.cs.db, cpu.sregs.ss.dpl) = (1, 3);
        assert_eq!((cpu.mode(), cpu.bitness(), cpu.cpl()), (Mode::Protected, 32, 3));
        cpu.regs.rflags = flag::VM;
        assert_eq!((cpu.mode(), cpu.bitness()), (Mode::Virtual86, 16));
        cpu.sregs.efer = efer::LMA;
        assert_eq!((cpu.mode(), cpu.bitness()), (Mode::Protected, 32));
        (cpu.sregs.cs.l, cpu.sregs.cs.db) = (1, 0);
        assert_eq!((cpu.mode(), cpu.bitness()), (Mode::Long, 64));
    }
}
