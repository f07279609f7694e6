//! A guest of the VMM's own in place of the plugin's: it repeats one access and then ends. `outboard bench --plugin` measures
//! with it what any plugin's answers cost.

use kvm_bindings::{kvm_regs, kvm_segment};

use crate::kvm::{KvmError, Space, Vcpu};

/// Bytes of memory that it takes: four page tables and a page of code.
pub const BYTES: usize = 5 * PAGE;

const PAGE: usize = crate::sys::PAGE as usize;
const PRESENT_WRITABLE: u64 = 3;
/// Cache disable and write through, as for a device.
const DEVICE: u64 = 0x18;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Ports or memory.
    pub space: Space,
    /// Address of the access.
    pub address: u64,
    /// Bytes of it: 1, 2, 4, or 8 in memory.
    pub size: u8,
    /// A write, else a read.
    pub is_write: bool,
    /// How often.
    pub count: u32,
}

impl Pattern {
    /// Its instruction in 64-bit mode: DX is the port, RBX the address.
    fn instruction(&self) -> Vec<u8> {
        let wide = u8::from(self.size > 1);
        let prefix: &[u8] = match self.size {
            2 => &[0x66],
            8 => &[0x48],
            _ => &[],
        };
        let operation: &[u8] = match (self.space, self.is_write) {
            (Space::Port, true) => &[0xee | wide],
            (Space::Port, false) => &[0xec | wide],
            (Space::Mmio, true) => &[0x88 | wide, 0x03],
            (Space::Mmio, false) => &[0x8a | wide, 0x03],
        };
        [prefix, operation].concat()
    }

    /// What lies in its memory, which begins at guest address `base`: virtual page 0 is the code, pages 1 and 2 are where
    /// the access goes.
    pub fn memory(&self, base: u64) -> Vec<u8> {
        let mut memory = vec![0; BYTES];
        let mut put = |table: usize, entry: usize, value: u64| {
            let at = table * PAGE + entry * 8;
            memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        for level in 0..3 {
            put(level, 0, (base + (level as u64 + 1) * PAGE as u64) | PRESENT_WRITABLE);
        }
        put(3, 0, (base + 4 * PAGE as u64) | PRESENT_WRITABLE);
        let target = self.address & !(PAGE as u64 - 1);
        put(3, 1, target | PRESENT_WRITABLE | DEVICE);
        put(3, 2, target.wrapping_add(PAGE as u64) | PRESENT_WRITABLE | DEVICE);
        let instruction = self.instruction();
        let mut code = vec![0xb9]; // mov ecx, count
        code.extend(self.count.to_le_bytes());
        code.extend(&instruction);
        code.extend([0xff, 0xc9]); // dec ecx
        code.extend([0x75, (instruction.len() as u8 + 4).wrapping_neg()]); // jnz to the access
        code.extend([0x0f, 0x0b]); // ud2: without a handler for it, the guest shuts down
        memory[4 * PAGE..][..code.len()].copy_from_slice(&code);
        memory
    }

    /// Makes a vCPU run it, whatever the plugin has set.
    ///
    /// # Errors
    /// What KVM says to these registers.
    pub fn enter(&self, base: u64, vcpu: &Vcpu) -> Result<(), KvmError> {
        let mut sregs = vcpu.sregs()?;
        (sregs.cr3, sregs.cr4) = (base, 1 << 5); // PAE
        sregs.cr0 = 1 << 31 | 1 << 5 | 1; // PG, NE, PE
        sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        let data = kvm_segment {
            limit: 0xffff_ffff,
            selector: 0x10,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        vcpu.set_sregs(&sregs)?;
        let (rbx, rdx) = match self.space {
            Space::Port => (0, self.address),
            Space::Mmio => (PAGE as u64 | self.address & (PAGE as u64 - 1), 0),
        };
        vcpu.set_regs(&kvm_regs { rflags: 2, rbx, rdx, ..Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_of_every_width() {
        let of = |space, size, is_write| Pattern { space, address: 0, size, is_write, count: 1 }.instruction();
        assert_eq!(of(Space::Port, 1, true), [0xee]);
        assert_eq!(of(Space::Port, 2, false), [0x66, 0xed]);
        assert_eq!(of(Space::Port, 4, true), [0xef]);
        assert_eq!(of(Space::Mmio, 1, false), [0x8a, 0x03]);
        assert_eq!(of(Space::Mmio, 4, true), [0x89, 0x03]);
        assert_eq!(of(Space::Mmio, 8, true), [0x48, 0x89, 0x03]);
    }
}
