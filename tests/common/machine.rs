//! The machine of most plugin halves: 64 KiB of memory at 0, one guest in real mode at 0x1000.

use outboard_plugin::kvm_bindings::kvm_regs;
use outboard_plugin::{Connection, Error, Event, GuestMemory, Registers, Vcpu};

/// Bytes of memory.
pub const MEMORY: usize = 0x1_0000;
/// Where the guest's code lies.
pub const CODE: u16 = 0x1000;

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
    vcpu.start_real_mode(0, CODE)?;
    let mut regs = kvm_regs { rip: CODE.into(), rflags: 2, rsp: 0x8000, ..kvm_regs::default() };
    change(&mut regs);
    vcpu.set_regs(&regs)
}
