//! From linear to physical addresses, through the guest's page tables (Intel SDM volume 3, chapter 4).

use super::cpu::{Cpu, cr0, cr4, efer, flag};
use super::fault::{Exception, Stop, Why, vector};
use super::machine::Machine;

/// What is done to the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read by the instruction.
    Read,
    /// A write by the instruction.
    Write,
    /// The instruction itself is fetched.
    Fetch,
    /// The processor reads a table of its own, which is the kernel's right whoever runs.
    ReadTable,
    /// The processor writes a stack or table of its own.
    WriteTable,
}

impl Access {
    fn writes(self) -> bool {
        matches!(self, Access::Write | Access::WriteTable)
    }

    /// By user code, on its own account.
    fn is_user(self, cpu: &Cpu) -> bool {
        cpu.cpl() == 3 && !matches!(self, Access::ReadTable | Access::WriteTable)
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 12 to 51 of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Bits of the error code of a page fault.
const CODE_PRESENT: u32 = 1;
const CODE_WRITE: u32 = 1 << 1;
const CODE_USER: u32 = 1 << 2;
const CODE_FETCH: u32 = 1 << 4;

/// Bytes within which linear and physical addresses go together whatever the tables say.
pub const PAGE: u64 = 4096;

/// How the tables of a mode look.
struct Shape {
    /// Levels, the root one first: how far the address is shifted for its index.
    shifts: &'static [u32],
    /// Bits of an index.
    index: u32,
    /// Bytes of an entry.
    entry: u64,
    /// Shifts at which an entry may be a page.
    large: &'static [u32],
}

const FIVE: Shape = Shape { shifts: &[48, 39, 30, 21, 12], index: 9, entry: 8, large: &[30, 21] };
const FOUR: Shape = Shape { shifts: &[39, 30, 21, 12], index: 9, entry: 8, large: &[30, 21] };
const PAE: Shape = Shape { shifts: &[30, 21, 12], index: 9, entry: 8, large: &[21] };
const TWO: Shape = Shape { shifts: &[22, 12], index: 10, entry: 4, large: &[] };
const TWO_LARGE: Shape = Shape { large: &[22], ..TWO };

/// Translates a linear address. Sets accessed and dirty bits as a processor does.
///
/// # Errors
/// A page fault of the guest; [`Why::NoMemory`] for tables outside of memory.
pub fn translate(cpu: &Cpu, machine: &mut impl Machine, linear: u64, access: Access) -> Result<u64, Stop> {
    let (control0, control4) = (cpu.sregs.cr0, cpu.sregs.cr4);
    if control0 & cr0::PG == 0 {
        return Ok(linear & 0xffff_ffff);
    }
    let shape = match (cpu.is_long(), control4) {
        (true, c) if c & cr4::LA57 != 0 => &FIVE,
        (true, _) => &FOUR,
        (false, c) if c & cr4::PAE != 0 => &PAE,
        (false, c) if c & cr4::PSE != 0 => &TWO_LARGE,
        (false, _) => &TWO,
    };
    let linear = if cpu.is_long() { linear } else { linear & 0xffff_ffff };
    let root = match shape.entry {
        4 => cpu.sregs.cr3 & 0xffff_f000,
        _ if cpu.is_long() => cpu.sregs.cr3 & FRAME,
        // Four entries, aligned to 32 bytes.
        _ => cpu.sregs.cr3 & 0xffff_ffe0,
    };
    Walk { cpu, shape, linear, access }.down(machine, root)
}

struct Walk<'a> {
    cpu: &'a Cpu,
    shape: &'a Shape,
    linear: u64,
    access: Access,
}

impl Walk<'_> {
    fn down(&self, machine: &mut impl Machine, root: u64) -> Result<u64, Stop> {
        let mut table = root;
        let (mut allowed, mut no_execute) = (WRITABLE | USER, false);
        for (level, &shift) in self.shape.shifts.iter().enumerate() {
            let index = self.linear >> shift & ((1 << self.shape.index) - 1);
            let place = table + index * self.shape.entry;
            let entry = self.entry(machine, place)?;
            if entry & PRESENT == 0 {
                return Err(self.fault(0));
            }
            // The four root entries of PAE carry no rights.
            let is_pae_root = level == 0 && self.shape.shifts.len() == 3;
            if !is_pae_root {
                allowed &= entry;
                no_execute |= entry & NO_EXECUTE != 0 && self.cpu.sregs.efer & efer::NXE != 0;
            }
            let is_page = shift == 12 || entry & LARGE != 0 && self.shape.large.contains(&shift);
            if is_page {
                if !self.may(allowed, no_execute) {
                    return Err(self.fault(CODE_PRESENT));
                }
                self.mark(machine, place, entry, if self.access.writes() { ACCESSED | DIRTY } else { ACCESSED })?;
                return Ok(self.frame(entry, shift) | self.linear & ((1 << shift) - 1));
            }
            if !is_pae_root {
                self.mark(machine, place, entry, ACCESSED)?;
            }
            table = if self.shape.entry == 4 { entry & 0xffff_f000 } else { entry & FRAME };
        }
        Err(self.fault(0))
    }

    /// The start of the page that an entry gives.
    fn frame(&self, entry: u64, shift: u32) -> u64 {
        match (self.shape.entry, shift) {
            (4, 22) => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            (4, _) => entry & 0xffff_f000,
            _ => entry & FRAME & !((1 << shift) - 1),
        }
    }

    fn may(&self, allowed: u64, no_execute: bool) -> bool {
        let (user_page, writable) = (allowed & USER != 0, allowed & WRITABLE != 0);
        if self.access == Access::Fetch && no_execute {
            return false;
        }
        if self.access.is_user(self.cpu) {
            return user_page && (writable || !self.access.writes());
        }
        let control4 = self.cpu.sregs.cr4;
        if user_page && self.access == Access::Fetch && control4 & cr4::SMEP != 0 {
            return false;
        }
        if user_page && self.access != Access::Fetch && control4 & cr4::SMAP != 0 {
            let explicit = matches!(self.access, Access::Read | Access::Write);
            if !(explicit && self.cpu.has(flag::AC)) {
                return false;
            }
        }
        writable || !self.access.writes() || self.cpu.sregs.cr0 & cr0::WP == 0
    }

    fn fault(&self, mut code: u32) -> Stop {
        if self.access.writes() {
            code |= CODE_WRITE;
        }
        if self.access.is_user(self.cpu) {
            code |= CODE_USER;
        }
        let tells_fetches = self.cpu.sregs.efer & efer::NXE != 0 || self.cpu.sregs.cr4 & cr4::SMEP != 0;
        if self.access == Access::Fetch && tells_fetches {
            code |= CODE_FETCH;
        }
        Stop::Exception(Exception { vector: vector::PAGE, code: Some(code), address: Some(self.linear) })
    }

    fn entry(&self, machine: &mut impl Machine, place: u64) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        if !machine.read(place, &mut bytes[..self.shape.entry as usize]) {
            return Err(Why::NoMemory(place).into());
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Sets bits of an entry, unless it changed under way, in which case another processor has it in hand.
    fn mark(&self, machine: &mut impl Machine, place: u64, entry: u64, bits: u64) -> Result<(), Stop> {
        if entry & bits == bits {
            return Ok(());
        }
        let word = place & !7;
        let shift = 8 * (place - word);
        let ours = if self.shape.entry == 4 { 0xffff_ffff << shift } else { u64::MAX };
        let mut now = [0; 8];
        if !machine.read(word, &mut now) {
            return Err(Why::NoMemory(word).into());
        }
        let mut now = u64::from_le_bytes(now);
        while now & ours == entry << shift {
            match machine.compare_exchange(word, now, now | bits << shift) {
                None => return Err(Why::NoMemory(word).into()),
                Some(before) if before == now => return Ok(()),
                Some(before) => now = before,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "paging_tests.rs"]
mod tests;
