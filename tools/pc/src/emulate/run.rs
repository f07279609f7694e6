//! One instruction from its bytes to its end.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, Mnemonic, NasmFormatter};

use super::core::Core;
use super::cpu::{Cpu, Mode, flag};
use super::deliver::Interrupt;
use super::fault::{Exception, Refusal, Stop, Why, vector};
use super::machine::Machine;
use super::paging::{Access, PAGE};

/// Most bytes of an instruction.
pub const MAX_BYTES: usize = 15;

/// The double fault, which two faults on the way to a handler become.
const DOUBLE_FAULT: Exception = Exception::coded(8, 0);

/// Carries out the instruction at the instruction pointer, or makes the guest begin the handler of the exception that it
/// gives. `given` are the bytes that KVM read there; where they are no whole instruction, memory is looked at.
///
/// # Errors
/// An instruction that cannot be carried out; then the registers are as before, memory may have been written in part.
pub fn execute<M: Machine>(cpu: &mut Cpu, machine: &mut M, given: &[u8]) -> Result<(), Refusal> {
    let start = *cpu;
    let mut core = Core { cpu: start, machine };
    let mut at = Place { address: start.regs.rip, bytes: given.to_vec(), instruction: None };
    let done = match core.find(given, &mut at) {
        Ok(Some(instruction)) => core.carry_out(&instruction),
        Ok(None) => Err(Exception::INVALID_OPCODE.into()),
        Err(stop) => Err(stop),
    };
    let done = match done {
        // What a user's program cannot do is no reason to end the kernel: KVM too gives it this exception.
        Err(Stop::Refused(Why::Unknown)) if start.cpl() == 3 => Err(Exception::INVALID_OPCODE.into()),
        other => other,
    };
    let done = match done {
        Err(Stop::Exception(exception)) => core.raise(&start, exception),
        Err(Stop::Refused(why)) => Err(why),
        Ok(()) => Ok(()),
    };
    match done {
        Ok(()) => {
            *cpu = core.cpu;
            Ok(())
        }
        Err(why) => Err(at.refusal(why)),
    }
}

/// What is known of the instruction, for a refusal.
struct Place {
    address: u64,
    bytes: Vec<u8>,
    instruction: Option<Instruction>,
}

impl Place {
    fn refusal(mut self, why: Why) -> Refusal {
        let mut text = String::new();
        if let Some(instruction) = &self.instruction {
            NasmFormatter::new().format(instruction, &mut text);
            self.bytes.truncate(instruction.len());
        }
        Refusal { instruction: text, bytes: self.bytes, address: self.address, why }
    }
}

impl<M: Machine> Core<'_, M> {
    /// Decodes the instruction; `None` if the bytes are none.
    fn find(&mut self, given: &[u8], at: &mut Place) -> Result<Option<Instruction>, Stop> {
        if let Some(instruction) = self.decode(given) {
            at.instruction = Some(instruction);
            return Ok(Some(instruction));
        }
        at.bytes = self.fetch()?;
        at.instruction = self.decode(&at.bytes);
        Ok(at.instruction)
    }

    fn decode(&self, bytes: &[u8]) -> Option<Instruction> {
        let mut decoder = Decoder::with_ip(self.cpu.bitness(), bytes, self.cpu.regs.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// As many bytes as an instruction can have, fewer where the next page cannot be read.
    fn fetch(&mut self) -> Result<Vec<u8>, Stop> {
        let rip = self.cpu.regs.rip;
        let linear = if self.cpu.mode() == Mode::Long {
            rip
        } else {
            self.cpu.sregs.cs.base.wrapping_add(rip & 0xffff_ffff) & 0xffff_ffff
        };
        let mut bytes = [0; MAX_BYTES];
        let here = MAX_BYTES.min((PAGE - linear % PAGE) as usize);
        match self.read_linear(linear, &mut bytes[..here], Access::Fetch) {
            Err(Stop::Refused(Why::NoMemory(_))) => return Err(Why::NoCode.into()),
            other => other?,
        }
        let next = linear.wrapping_add(here as u64);
        let mut length = here;
        if here < MAX_BYTES {
            match self.read_linear(next, &mut bytes[here..], Access::Fetch) {
                Ok(()) => length = MAX_BYTES,
                // Only an instruction that goes on there faults.
                Err(_) if self.decode(&bytes[..here]).is_some() => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(bytes[..length].to_vec())
    }

    /// Carries a decoded instruction out, its single step included.
    fn carry_out(&mut self, i: &Instruction) -> Result<(), Stop> {
        let (next, stepped) = (i.next_ip(), self.cpu.has(flag::TF));
        if let Some(interrupt) = interrupt_of(i, &self.cpu) {
            return self.deliver(interrupt);
        }
        match i.mnemonic() {
            Mnemonic::Iret => self.iret(2)?,
            Mnemonic::Iretd => self.iret(4)?,
            Mnemonic::Iretq => self.iret(8)?,
            // INTO without an overflow.
            Mnemonic::Into => self.cpu.regs.rip = next,
            _ => {
                let known = self.integer(i)? || self.system(i)? || self.vector(i)? || self.extended(i)?;
                if !known {
                    return Err(Why::Unknown.into());
                }
                self.cpu.regs.rip = match self.cpu.bitness() {
                    16 => next & 0xffff,
                    32 => next & 0xffff_ffff,
                    _ => next,
                };
            }
        }
        self.cpu.set_flag(flag::RF, false);
        if stepped {
            self.machine.note_single_step()?;
            let comes_back_to = self.cpu.regs.rip;
            let step =
                Interrupt { vector: vector::DEBUG, code: None, by_instruction: false, comes_back_to, again: false };
            self.deliver(step)?;
        }
        Ok(())
    }

    /// Makes the guest begin an exception's handler, from registers as they were before the instruction.
    fn raise(&mut self, start: &Cpu, first: Exception) -> Result<(), Why> {
        let mut exception = first;
        for _ in 0..3 {
            self.cpu = *start;
            if let Some(address) = exception.address {
                self.cpu.sregs.cr2 = address;
            }
            let interrupt = Interrupt {
                vector: exception.vector,
                // Real mode has no error codes.
                code: exception.code.filter(|_| self.cpu.mode() != Mode::Real),
                by_instruction: false,
                comes_back_to: start.regs.rip,
                again: true,
            };
            match self.deliver(interrupt) {
                Ok(()) => return Ok(()),
                Err(Stop::Refused(why)) => return Err(why),
                Err(Stop::Exception(second)) if exception == DOUBLE_FAULT => return Err(Why::Nested(second)),
                Err(Stop::Exception(second)) => exception = after(exception, second),
            }
        }
        Err(Why::Nested(exception))
    }
}

/// What two exceptions become, the second of which arose while the first was delivered (Intel SDM volume 3, table 6-5).
fn after(first: Exception, second: Exception) -> Exception {
    let contributory = |exception: Exception| matches!(exception.vector, 0 | 10..=13);
    let page = |exception: Exception| exception.vector == vector::PAGE;
    let double = contributory(first) && contributory(second) || page(first) && (page(second) || contributory(second));
    if double { DOUBLE_FAULT } else { second }
}

/// The interrupt that an instruction is.
fn interrupt_of(i: &Instruction, cpu: &Cpu) -> Option<Interrupt> {
    let (vector, by_instruction) = match i.mnemonic() {
        Mnemonic::Int3 => (vector::BREAKPOINT, true),
        Mnemonic::Int => (i.immediate8(), true),
        Mnemonic::Into if cpu.has(flag::OF) => (vector::OVERFLOW, true),
        Mnemonic::Int1 => (vector::DEBUG, false),
        _ => return None,
    };
    Some(Interrupt { vector, code: None, by_instruction, comes_back_to: i.next_ip(), again: false })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
