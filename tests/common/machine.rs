//! The machine of most plugin halves: 64 KiB of memory at 0, one guest in real mode at 0x1000.

use outboard_plugin::kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment};
use outboard_plugin::{Connection, Error, Event, GuestMemory, Paused, PostedWrite, Read, Registers, Vcpu, Write};

use super::suite::Tested;

/// Bytes of memory.
pub const MEMORY: usize = 0x1_0000;
/// Where the guest's code lies.
pub const CODE: u16 = 0x1000;
/// Physical addresses without memory; mapped in [`enter_long_mode`].
pub const MMIO: u64 = 0xc000_0000;

/// Connects, and gives the guest memory with this code in it.
pub fn connect(code: &[u8]) -> Result<(Connection, GuestMemory), Error> {
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, MEMORY)?;
    memory.write(CODE.into(), code)?;
    Ok((vm, memory))
}

/// Takes a vCPU of a VM that was started, and answers its INIT: it starts at [`CODE`].
pub fn begin(vm: &Connection, id: u32) -> Result<Vcpu, Error> {
    begin_with(vm, id, |_| {})
}

/// The same with general registers as `change` leaves them.
pub fn begin_with(vm: &Connection, id: u32, change: impl FnOnce(&mut kvm_regs)) -> Result<Vcpu, Error> {
    let mut vcpu = vm.vcpu(id)?;
    match vcpu.wait()? {
        Event::Init(mut init) => enter(&mut init, change)?,
        other => panic!("the first event is {other:?}"),
    }
    Ok(vcpu)
}

/// Makes a stopped vCPU start at [`CODE`] with data and stack in segment 0.
pub fn enter(vcpu: &mut Registers, change: impl FnOnce(&mut kvm_regs)) -> Result<(), Error> {
    make_runnable(vcpu)?;
    vcpu.start_real_mode(0, CODE)?;
    let mut regs = kvm_regs { rip: CODE.into(), rflags: 2, rsp: 0x8000, ..kvm_regs::default() };
    change(&mut regs);
    vcpu.set_regs(&regs)
}

/// The same where KVM has no local APICs, and so no start-up IPIs.
#[allow(dead_code, reason = "each test executable uses its part")]
pub fn enter_without_apic(vcpu: &mut Registers) -> Result<(), Error> {
    vcpu.start_real_mode(0, CODE)?;
    vcpu.set_regs(&kvm_regs { rip: CODE.into(), rflags: 2, rsp: 0x8000, ..kvm_regs::default() })
}

/// With KVM's interrupt controllers, all vCPUs but the first come out of reset waiting for a start-up IPI.
fn make_runnable(vcpu: &mut Registers) -> Result<(), Error> {
    vcpu.set_mp_state(&kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
}

const PRESENT_WRITABLE: u64 = 3;

/// Maps a GiB one to one for [`enter_long_mode`], with its table at `table` in guest memory.
pub fn map_gib(memory: &GuestMemory, gib: u64, table: u64) -> Result<(), Error> {
    const LARGE: u64 = 0x80;
    memory.write_obj(0xa000 + gib * 8, &(table | PRESENT_WRITABLE))?;
    (0..512)
        .try_for_each(|page| memory.write_obj(table + page * 8, &(gib << 30 | page << 21 | LARGE | PRESENT_WRITABLE)))
}

/// Makes a stopped vCPU start at [`CODE`] in 64-bit mode with the first GiB and the GiB of [`MMIO`] mapped one to one. The
/// tables lie in guest memory from 0x9000 to 0xd000.
pub fn enter_long_mode(vcpu: &mut Registers, memory: &GuestMemory, change: impl FnOnce(&mut kvm_regs)) -> Tested {
    memory.write_obj(0x9000, &(0xa000 | PRESENT_WRITABLE))?;
    map_gib(memory, 0, 0xb000)?;
    map_gib(memory, MMIO >> 30, 0xc000)?;
    make_runnable(vcpu)?;
    let mut sregs = vcpu.sregs()?;
    sregs.cr3 = 0x9000;
    sregs.cr4 = 1 << 5; // PAE
    sregs.cr0 = 1 << 31 | 1 << 5 | 1; // PG, NE, PE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    let data = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x10,
        type_: 3,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs)?;
    let mut regs = kvm_regs { rip: CODE.into(), rflags: 2, rsp: 0x8000, ..kvm_regs::default() };
    change(&mut regs);
    Ok(vcpu.set_regs(&regs)?)
}

/// Takes a vCPU and starts it by [`enter_long_mode`].
pub fn begin_long_mode(
    vm: &Connection,
    id: u32,
    memory: &GuestMemory,
    change: impl FnOnce(&mut kvm_regs),
) -> Result<Vcpu, Box<dyn std::error::Error>> {
    let mut vcpu = vm.vcpu(id)?;
    match vcpu.wait()? {
        Event::Init(mut init) => enter_long_mode(&mut init, memory, change)?,
        other => panic!("the first event is {other:?}"),
    }
    Ok(vcpu)
}

/// The next event, which has to be a read.
#[track_caller]
pub fn next_read(vcpu: &mut Vcpu) -> Result<Read<'_>, Error> {
    match vcpu.wait()? {
        Event::Read(read) => Ok(read),
        other => panic!("{other:?} instead of a read"),
    }
}

/// The next event, which has to be a write.
#[track_caller]
pub fn next_write(vcpu: &mut Vcpu) -> Result<Write<'_>, Error> {
    match vcpu.wait()? {
        Event::Write(write) => Ok(write),
        other => panic!("{other:?} instead of a write"),
    }
}

/// The value of the next event, which has to be a write to this address.
#[track_caller]
pub fn written(vcpu: &mut Vcpu, address: u64) -> Result<u64, Error> {
    let write = next_write(vcpu)?;
    assert_eq!(write.address(), address, "{write:?}");
    Ok(write.value())
}

/// The next event, which has to be a posted write.
#[track_caller]
pub fn next_posted(vcpu: &mut Vcpu) -> Result<PostedWrite, Error> {
    match vcpu.wait()? {
        Event::Posted(write) => Ok(write),
        other => panic!("{other:?} instead of a posted write"),
    }
}

/// The next event, which has to be a pause.
#[track_caller]
pub fn next_pause(vcpu: &mut Vcpu) -> Result<Paused<'_>, Error> {
    match vcpu.wait()? {
        Event::Paused(paused) => Ok(paused),
        other => panic!("{other:?} instead of a pause"),
    }
}

/// Asserts that a request was refused with this errno.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>, errno: i32) {
    match result {
        Err(error @ Error::Refused { .. }) => assert_eq!(error.errno(), errno, "{error}"),
        other => panic!("{other:?} instead of a refusal with errno {errno}"),
    }
}
