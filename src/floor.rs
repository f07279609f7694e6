//! The floor of every latency: what `KVM_RUN` alone costs for an access, with nobody outside serving it.
//!
//! A small guest repeats one access for ever, and this process enters it again at once. The figure belongs beside every
//! other, because it differs by a factor of ten from host to host.

use std::sync::Arc;

use kvm_bindings::{kvm_regs, kvm_segment};
use memmap2::{MmapMut, MmapRaw};

use crate::kvm::{Exit, KvmError, Object, System, Vcpu};
use crate::sys::Errno;
use outboard_wire::clock;
use outboard_wire::stats::buckets::Histogram;
use outboard_wire::stats::cell::Kind;

/// Guest memory: one 64 KiB real-mode segment.
const MEMORY: usize = 0x1_0000;
/// Where the code lies.
const CODE: usize = 0x1000;
/// An address without memory, for MMIO.
const NOWHERE: u64 = 0x10_0000;

/// The guest's loop for a kind of access, as real-mode machine code; `None` for kinds that are no single access.
fn guest(kind: Kind) -> Option<&'static [u8]> {
    match kind {
        // out dx, al; jmp back
        Kind::PortWrite | Kind::PortPosted => Some(&[0xee, 0xeb, 0xfd]),
        // in al, dx; jmp back
        Kind::PortRead => Some(&[0xec, 0xeb, 0xfd]),
        // mov [bx], al; jmp back
        Kind::MmioWrite | Kind::MmioPosted => Some(&[0x88, 0x07, 0xeb, 0xfc]),
        // mov al, [bx]; jmp back
        Kind::MmioRead => Some(&[0x8a, 0x07, 0xeb, 0xfc]),
        // mov cx, 64; xor si, si; rep outsb; jmp back
        Kind::StringWrite => Some(&[0xb9, 64, 0, 0x31, 0xf6, 0xf3, 0x6e, 0xeb, 0xf7]),
        // mov cx, 64; xor di, di; rep insb; jmp back
        Kind::StringRead => Some(&[0xb9, 64, 0, 0x31, 0xff, 0xf3, 0x6c, 0xeb, 0xf7]),
        Kind::Unclaimed | Kind::Other | Kind::Pause => None,
    }
}

/// TSC ticks of `rounds` calls of `KVM_RUN`, each of which ends in an access of this kind. `None` if the kind is no single
/// access.
///
/// # Errors
/// The KVM call that failed.
pub fn measure(system: &System, kind: Kind, rounds: u32) -> Result<Option<Histogram>, KvmError> {
    let Some(code) = guest(kind) else { return Ok(None) };
    let mut ticks = Histogram::default();
    let done = run(system, code, rounds, |start, end| ticks.record(end - start))?;
    Ok(done.then_some(ticks))
}

/// TSC ticks from one exit to the next, `rounds` of them, of a guest in real mode that repeats this instruction: DX is 0x3f8,
/// EBX zero, and there is no memory at DS. `None` if it ends in something else than an access.
///
/// # Errors
/// The KVM call that failed.
pub fn periods(system: &System, instruction: &[u8], rounds: u32) -> Result<Option<Vec<u64>>, KvmError> {
    let mut exits = Vec::with_capacity(rounds as usize + 1);
    let back = (instruction.len() as u8 + 2).wrapping_neg();
    let code = [instruction, &[0xeb, back]].concat();
    let done = run(system, &code, rounds + 1, |_, end| exits.push(end))?;
    Ok(done.then(|| exits.windows(2).map(|pair| pair[1] - pair[0]).collect()))
}

/// Runs the guest; `note` hears of each `KVM_RUN` when it began and ended. Returns false if it was no access.
fn run(system: &System, code: &[u8], rounds: u32, mut note: impl FnMut(u64, u64)) -> Result<bool, KvmError> {
    let vm = system.create_vm()?;
    vm.set_tss_addr(0xfffb_d000)?;
    vm.create_irqchip()?;
    vm.set_memory_slot(0, 0, 0, memory(code)?, 0, MEMORY as u64)?;
    let mut vcpu = vm.create_vcpu(0)?;
    prepare(&vcpu)?;
    for round in 0..rounds + rounds / 10 {
        let start = clock::now();
        let result = vcpu.run();
        let end = clock::now();
        match result.map(|()| vcpu.page().exit()) {
            Ok(Exit::Io(_) | Exit::Mmio(_)) if round >= rounds / 10 => note(start, end),
            Ok(Exit::Io(_) | Exit::Mmio(_)) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(false),
            Err(errno) => return Err(KvmError { call: "KVM_RUN", object: Object::Vcpu(0), errno }),
        }
    }
    Ok(true)
}

fn memory(code: &[u8]) -> Result<Arc<MmapRaw>, KvmError> {
    let failed = |error: std::io::Error| KvmError { call: "mmap", object: Object::Vm, errno: error.into() };
    let mut memory = MmapMut::map_anon(MEMORY).map_err(failed)?;
    memory[CODE..CODE + code.len()].copy_from_slice(code);
    Ok(Arc::new(memory.into()))
}

fn prepare(vcpu: &Vcpu) -> Result<(), KvmError> {
    let mut sregs = vcpu.sregs()?;
    let at = |segment: &mut kvm_segment, base: u64| (segment.base, segment.selector) = (base, (base >> 4) as u16);
    at(&mut sregs.cs, 0);
    at(&mut sregs.ds, NOWHERE);
    at(&mut sregs.es, 0);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: CODE as u64, rflags: 2, rdx: 0x3f8, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_access_has_a_floor() {
        let Ok(system) = System::open(Path::new("/dev/kvm")) else {
            assert!(std::env::var_os("CI").is_none(), "/dev/kvm cannot be used");
            println!("skipped: /dev/kvm cannot be used");
            return;
        };
        for kind in Kind::ALL {
            let ticks = measure(&system, kind, 20).unwrap();
            let wanted = if guest(kind).is_some() { 20 } else { 0 };
            assert_eq!(ticks.map_or(0, |ticks| ticks.count()), wanted, "{}", kind.name());
        }
    }
}
