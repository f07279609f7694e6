//! Segment descriptors: from the guest's tables into segment registers (Intel SDM volume 3, 3.4.5).

use kvm_bindings::{kvm_dtable, kvm_segment};

use super::core::Core;
use super::fault::{Exception, Stop, vector};
use super::machine::Machine;
use super::paging::Access;

/// The selector without the privilege that it asks for, as error codes have it.
pub fn error_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// A descriptor of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    raw: u64,
    /// Its linear address.
    place: u64,
}

impl Descriptor {
    const ACCESSED: u8 = 1;

    /// Type, four bits.
    pub fn kind(self) -> u8 {
        (self.raw >> 40) as u8 & 0xf
    }

    /// Code or data, not one of the processor's own kinds.
    pub fn is_memory(self) -> bool {
        self.raw >> 44 & 1 != 0
    }

    /// Code.
    pub fn is_code(self) -> bool {
        self.is_memory() && self.kind() & 8 != 0
    }

    /// Code that runs with the privilege of its caller.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// Data that can be written, such as a stack.
    pub fn is_writable_data(self) -> bool {
        self.is_memory() && self.kind() & 0xa == 2
    }

    /// Privilege.
    pub fn dpl(self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }

    /// Present.
    pub fn is_present(self) -> bool {
        self.raw >> 47 & 1 != 0
    }

    /// Code of 64-bit mode.
    pub fn is_long(self) -> bool {
        self.raw >> 53 & 1 != 0
    }

    /// Of 32 bits, not 16.
    pub fn is_wide(self) -> bool {
        self.raw >> 54 & 1 != 0
    }

    /// The rights as LAR gives them.
    pub fn rights(self) -> u32 {
        (self.raw >> 32) as u32 & 0x00f0_ff00
    }

    /// The segment register that holds it.
    pub fn segment(self, selector: u16) -> kvm_segment {
        let granular = self.raw >> 55 & 1 != 0;
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        kvm_segment {
            base: self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000,
            limit: if granular { limit << 12 | 0xfff } else { limit },
            selector,
            type_: self.kind() | if self.is_memory() { Descriptor::ACCESSED } else { 0 },
            present: self.is_present().into(),
            dpl: self.dpl(),
            db: self.is_wide().into(),
            s: self.is_memory().into(),
            l: self.is_long().into(),
            g: granular.into(),
            avl: (self.raw >> 52) as u8 & 1,
            unusable: 0,
            padding: 0,
        }
    }
}

/// A stack segment that is none, as 64-bit mode has it at this privilege.
pub fn null_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment { selector, dpl, unusable: 1, ..kvm_segment::default() }
}

impl<M: Machine> Core<'_, M> {
    /// Fetches the descriptor of a selector. A selector that is null or outside of its table gives `refused` with its error
    /// code; `external` is the bit of that code which says that no instruction asked for it.
    ///
    /// # Errors
    /// That exception, and page faults.
    pub fn descriptor(&mut self, selector: u16, refused: u8, external: u32) -> Result<Descriptor, Stop> {
        let wrong = Exception::coded(refused, error_code(selector) | external);
        if selector & !3 == 0 {
            return Err(Exception::coded(refused, external).into());
        }
        let table = if selector & 4 == 0 { self.cpu.sregs.gdt } else { self.ldt() };
        let offset = u64::from(selector & !7);
        if offset + 7 > u64::from(table.limit) {
            return Err(wrong.into());
        }
        let place = self.wrap_table(table.base.wrapping_add(offset));
        Ok(Descriptor { raw: self.read_table(place, 8)?, place })
    }

    fn ldt(&self) -> kvm_dtable {
        let ldt = &self.cpu.sregs.ldt;
        let there = ldt.present != 0 && ldt.unusable == 0;
        let limit = if there { ldt.limit.min(0xffff) as u16 } else { 0 };
        kvm_dtable { base: ldt.base, limit, ..kvm_dtable::default() }
    }

    /// Table addresses have 64 bits with a 64-bit kernel, whatever code runs now.
    pub fn wrap_table(&self, linear: u64) -> u64 {
        if self.cpu.is_long() { linear } else { linear & 0xffff_ffff }
    }

    /// Sets the accessed bit of a descriptor, as loading it does.
    ///
    /// # Errors
    /// A page fault.
    pub fn mark_accessed(&mut self, descriptor: Descriptor) -> Result<(), Stop> {
        if descriptor.kind() & Descriptor::ACCESSED != 0 {
            return Ok(());
        }
        let byte = (descriptor.raw >> 40) as u8 | Descriptor::ACCESSED;
        self.write_linear(descriptor.place.wrapping_add(5), &[byte], Access::WriteTable)
    }

    /// Loads a stack segment for this privilege; `refused` is the exception for one that is wrong.
    ///
    /// # Errors
    /// That exception, one of the stack segment if it is not present, and page faults.
    pub fn load_stack(&mut self, selector: u16, cpl: u8, refused: u8, external: u32) -> Result<(), Stop> {
        let descriptor = self.descriptor(selector, refused, external)?;
        let code = error_code(selector) | external;
        let rpl = (selector & 3) as u8;
        if rpl != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(Exception::coded(refused, code).into());
        }
        if !descriptor.is_present() {
            return Err(Exception::coded(vector::STACK, code).into());
        }
        self.mark_accessed(descriptor)?;
        self.cpu.sregs.ss = descriptor.segment(selector);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_apart() {
        // Base 0x12345678, limit 0xabcde pages, code, execute and read, privilege 3, 32 bits.
        let descriptor = Descriptor { raw: 0x12ca_fa34_5678_bcde, place: 0 };
        let segment = descriptor.segment(0x1b);
        assert_eq!((segment.base, segment.limit, segment.selector), (0x1234_5678, 0xabcd_efff, 0x1b));
        assert_eq!((segment.type_, segment.dpl, segment.db, segment.l, segment.g), (0xb, 3, 1, 0, 1));
        assert!(descriptor.is_code() && descriptor.is_present() && !descriptor.is_conforming());
        let data = Descriptor { raw: 0x00cf_9200_0000_ffff, place: 0 };
        assert!(data.is_writable_data() && !data.is_code());
        assert_eq!(data.segment(0x10).limit, 0xffff_ffff);
    }
}
