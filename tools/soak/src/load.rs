//! The plugin half: serves the guest on one thread per vCPU, while other threads make everything come and go that can.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use outboard_plugin::kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_MP_STATE_RUNNABLE, kvm_cpuid_entry2,
    kvm_guest_debug, kvm_mp_state, kvm_regs,
};
use outboard_plugin::{
    Connection, Event, Exit, Exits, Files, GuestMemory, Hint, HintDetail, IrqRoute, IrqTarget, MsrRange, Region,
    Registers, Space, Stopped, Vcpu,
};
use outboard_wire::control::VcpuEventFd;

use crate::guest;

/// What a half of the load ends with.
type Done = Result<(), Box<dyn Error + Send + Sync>>;

/// Level-triggered, asserted (Intel SDM volume 3, 12.11.2).
const MSI_LEVEL: u32 = 1 << 15 | 1 << 14;
const MSI_ADDRESS: u64 = 0xfee0_0000;
/// GSIs of the two interrupts. The ends of a level are told only of GSIs that are pins of an IOAPIC, below 24.
const EDGE_GSI: u32 = 4;
const LEVEL_GSI: u32 = 5;
/// Time between two reports.
const REPORT: Duration = Duration::from_secs(1);
/// Connections that are opened at once, every so often.
const MANY: u32 = 100;

/// What happened so far.
#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    posted: AtomicU64,
    msrs: AtomicU64,
    interrupts: AtomicU64,
    ends_of_interrupts: AtomicU64,
    instructions: AtomicU64,
    steps: AtomicU64,
    pauses: AtomicU64,
    slots: AtomicU64,
    doorbells: AtomicU64,
    rings: AtomicU64,
    irq_events: AtomicU64,
    ranges: AtomicU64,
    routes: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

impl Counts {
    /// One line of names and numbers.
    fn line(&self) -> String {
        let all = [
            ("reads", &self.reads),
            ("writes", &self.writes),
            ("posted", &self.posted),
            ("msrs", &self.msrs),
            ("interrupts", &self.interrupts),
            ("ends_of_interrupts", &self.ends_of_interrupts),
            ("instructions", &self.instructions),
            ("steps", &self.steps),
            ("pauses", &self.pauses),
            ("slots", &self.slots),
            ("doorbells", &self.doorbells),
            ("rings", &self.rings),
            ("irq_events", &self.irq_events),
            ("ranges", &self.ranges),
            ("routes", &self.routes),
            ("connections", &self.connections),
            ("requests", &self.requests),
        ];
        let words = all.map(|(name, counter)| format!("{name}={}", counter.load(Ordering::Relaxed)));
        format!("counts {}", words.join(" "))
    }
}

/// The plugin's whole life.
pub fn run() -> Done {
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, guest::MEMORY)?;
    memory.write(guest::CODE.into(), guest::image())?;
    prepare(&mut vm)?;
    let leaves = vm.supported_cpuid()?;
    let vcpus = (0..vm.vcpu_count()).map(|id| vm.vcpu(id)).collect::<Result<Vec<Vcpu>, _>>()?;
    let others = [vm.new_connection()?, vm.new_connection()?];
    vm.start()?;
    let counts: &Counts = Box::leak(Box::default());
    for vcpu in vcpus {
        let leaves = leaves.clone();
        thread::spawn(move || end(serve(vcpu, &leaves, counts), counts));
    }
    let [second, third] = others;
    thread::spawn(move || end(until_closed(second, |vm, round| objects(vm, round, counts)), counts));
    thread::spawn(move || end(until_closed(third, |vm, round| connections(vm, round, counts)), counts));
    loop {
        println!("{}", counts.line());
        thread::sleep(REPORT);
    }
}

/// Ends the plugin: it has a second for that, so nobody waits for the other threads.
fn end(done: Done, counts: &Counts) {
    println!("{}", counts.line());
    if let Err(error) = &done {
        eprintln!("soak: the plugin: {error}");
    }
    std::process::exit(done.is_err().into());
}

/// Repeats until the VM ends. A request that the end cuts off is none that failed.
fn until_closed(mut vm: Connection, mut round: impl FnMut(&mut Connection, u64) -> Done) -> Done {
    for number in 0.. {
        match round(&mut vm, number) {
            Ok(()) => {}
            Err(error) if matches!(error.downcast_ref(), Some(outboard_plugin::Error::Closed)) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn prepare(vm: &mut Connection) -> Done {
    for port in [guest::READ, guest::WRITE, guest::STRING_OUT, guest::STRING_IN] {
        vm.reserve(Space::Port, port..port + 1)?;
    }
    vm.reserve(Space::Mmio, guest::MMIO..guest::MMIO + 0x1000)?;
    vm.reserve_posted(Space::Port, guest::POSTED..guest::POSTED + 1)?;
    vm.reserve_posted(Space::Port, guest::HANDLER..guest::HANDLER + 1)?;
    vm.set_irq_routes(&routes(2))?;
    subscribe(vm, true)
}

fn subscribe(vm: &mut Connection, msrs: bool) -> Done {
    let range = MsrRange { first: guest::MSR, count: 1, read: true, write: true };
    let exits = Exits::EMULATION_FAILURES | Exits::IOAPIC_EOI | Exits::DEBUG | Exits::UNKNOWN_MSRS;
    Ok(vm.subscribe(exits, if msrs { std::slice::from_ref(&range) } else { &[] })?)
}

/// The two routes that matter, and others for nobody.
fn routes(number: u32) -> Vec<IrqRoute> {
    let message = |gsi: u32, data| IrqRoute { gsi, target: IrqTarget::Msi { address: MSI_ADDRESS, data } };
    let first = [message(EDGE_GSI, guest::EDGE), message(LEVEL_GSI, guest::LEVEL | MSI_LEVEL)];
    first.into_iter().chain((1..number - 1).map(|index| message(LEVEL_GSI + index, 0x80))).collect()
}

fn enter(init: &mut Registers, leaves: &[kvm_cpuid_entry2]) -> Done {
    init.set_mp_state(&kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })?;
    init.set_cpuid(leaves)?;
    let mut sregs = init.sregs()?;
    sregs.apic_base |= 1 << 10; // x2APIC
    init.set_sregs(&sregs)?;
    let mut lapic = init.lapic()?;
    (lapic.regs[0xf0], lapic.regs[0xf1]) = (-1, 1); // spurious vector, APIC on
    init.set_lapic(&lapic)?;
    init.start_real_mode(0, guest::CODE)?;
    let stack = 0x8000 - u64::from(init.id()) * 0x400;
    Ok(init.set_regs(&kvm_regs { rip: guest::CODE.into(), rflags: 2, rsp: stack, ..kvm_regs::default() })?)
}

/// Serves a vCPU to the end of the VM.
fn serve(mut vcpu: Vcpu, leaves: &[kvm_cpuid_entry2], counts: &Counts) -> Done {
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => enter(&mut init, leaves)?,
            Event::Read(read) => read.answer_u64(count(&counts.reads)),
            Event::Write(mut write) => {
                // Every so often somebody looks at the registers too.
                if count(&counts.writes).is_multiple_of(64) {
                    let regs = write.regs()?;
                    write.set_regs(&regs)?;
                }
            }
            Event::Posted(write) => {
                let interrupt = write.address == guest::HANDLER;
                count(if interrupt { &counts.interrupts } else { &counts.posted });
            }
            Event::Paused(mut paused) => pause(&mut paused, count(&counts.pauses))?,
            Event::Exit(exited) => match exited.exit() {
                Exit::ReadMsr { .. } => exited.answer(count(&counts.msrs)),
                Exit::WriteMsr { .. } => exited.accept(),
                Exit::EmulationFailure { .. } => {
                    let mut exited = exited;
                    count(&counts.instructions);
                    let mut regs = exited.regs()?;
                    regs.rip += guest::POPCNT;
                    exited.set_regs(&regs)?;
                    exited.accept();
                }
                Exit::Debug { .. } => {
                    let mut exited = exited;
                    count(&counts.steps);
                    exited.set_guest_debug(&kvm_guest_debug::default())?;
                }
                Exit::IoapicEoi { .. } => drop(count(&counts.ends_of_interrupts)),
                other => return Err(format!("the guest left by {other:?}").into()),
            },
            Event::Shutdown => return Ok(()),
            other => return Err(format!("the vCPU delivered {other:?}").into()),
        }
    }
}

/// What a debugger or a migration does with a vCPU that stands still.
fn pause(paused: &mut Stopped<'_>, number: u64) -> Done {
    let (regs, sregs) = (paused.regs()?, paused.sregs()?);
    match number % 8 {
        0 => drop((paused.xsave()?, paused.vcpu_events()?, paused.cpuid()?)),
        1 => {
            let lapic = paused.lapic()?;
            paused.set_lapic(&lapic)?;
        }
        2 => {
            let fpu = paused.fpu()?;
            paused.set_fpu(&fpu)?;
            paused.set_sregs(&sregs)?;
            paused.set_regs(&regs)?;
        }
        // No interrupt within the step, where the host can do that: it finds the processor's trap flag set.
        3 => paused.set_guest_debug(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ,
            ..kvm_guest_debug::default()
        })?,
        _ => {}
    }
    Ok(())
}

/// A round in which objects of all kinds come and go.
fn objects(vm: &mut Connection, round: u64, counts: &Counts) -> Done {
    let slot = GuestMemory::new(0x2000)?;
    let region =
        Region { start: guest::SLOT, length: slot.len(), dirty_log: round.is_multiple_of(2), ..Region::default() };
    let id = vm.create_memory(&slot, &region)?;
    let bell = vm.create_io_event(Space::Port, guest::DOORBELL, 1, None)?;
    let edge = vm.create_irq_event(EDGE_GSI, false)?;
    let level = vm.create_irq_event(LEVEL_GSI, false)?;
    edge.trigger();
    vm.pause_vcpus(0..vm.vcpu_count(), round)?;
    vm.signal_msi(MSI_ADDRESS, guest::LEVEL | MSI_LEVEL)?;
    if region.dirty_log {
        vm.dirty_log(&id)?;
    }
    counts.rings.fetch_add(bell.fd().drain()?, Ordering::Relaxed);
    vm.destroy_irq_event(&level)?;
    vm.destroy_irq_event(&edge)?;
    vm.destroy_io_event(&bell)?;
    vm.destroy_memory(&id)?;
    for counter in [&counts.slots, &counts.doorbells, &counts.irq_events, &counts.irq_events] {
        count(counter);
    }
    vm.reserve(Space::Mmio, guest::SLOT + 0x1_0000..guest::SLOT + 0x2_0000)?;
    vm.reserve_posted_writes(Space::Port, 0x100..0x108)?;
    vm.release(Space::Mmio, guest::SLOT + 0x1_0000)?;
    vm.release_posted_writes(Space::Port, 0x100)?;
    counts.ranges.fetch_add(2, Ordering::Relaxed);
    if round.is_multiple_of(16) {
        settings(vm, round / 16, counts)?;
    }
    Ok(())
}

/// Tables, lists, clocks and hints; some of them travel in memfds.
fn settings(vm: &mut Connection, round: u64, counts: &Counts) -> Done {
    vm.set_irq_routes(&routes([2, 8, 200, 1000][round as usize % 4]))?;
    count(&counts.routes);
    subscribe(vm, round % 4 != 3)?;
    vm.supported_cpuid()?;
    vm.msr_indices()?;
    let clock = vm.clock()?;
    vm.set_clock(&clock)?;
    let details = vec![HintDetail { files: Files::SREGS, ..HintDetail::default() }];
    let hint = Hint { space: Space::Port, address: guest::WRITE, on_write: true, details };
    vm.set_hint(if round.is_multiple_of(2) { Some(&hint) } else { None })?;
    vm.set_unclaimed(if round.is_multiple_of(2) { 0xff } else { 0 })?;
    Ok(())
}

/// A round in which connections and the threads behind them come and go.
fn connections(vm: &mut Connection, round: u64, counts: &Counts) -> Done {
    let number = if round % 64 == 63 { MANY } else { 1 };
    let opened = (0..number).map(|_| vm.new_connection()).collect::<Result<Vec<_>, _>>()?;
    counts.connections.fetch_add(opened.len() as u64, Ordering::Relaxed);
    let threads = opened.into_iter().enumerate().map(|(index, mut own)| {
        let mut ask = move |counts: &Counts| -> Done {
            for capability in 0..8 {
                own.check_extension(capability)?;
                count(&counts.requests);
            }
            own.shutdown_event()?;
            own.call(&VcpuEventFd { vcpu: 0 }, &[])?;
            counts.requests.fetch_add(2, Ordering::Relaxed);
            Ok(())
        };
        // A thread of its own for one of them, which stands for all that a plugin may start and end.
        match index {
            0 => thread::scope(|scope| scope.spawn(|| ask(counts)).join().map_err(|_| "a thread panicked")?),
            _ => ask(counts),
        }
    });
    threads.collect()
}
