//! The PC in one process: `KVM_RUN`, and the devices called between two of them.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::exit;
use std::sync::Arc;

use clap::Parser;
use memmap2::{MmapOptions, MmapRaw};
use outboard::kvm::{Exit, Space, System, Vcpu, Vm};
use outboard_pc::host::{Access, Host, Irq, Timer};
use outboard_pc::{Linked, Options, cpu};
use outboard_plugin::kvm_bindings::kvm_pit_state2;
use outboard_plugin::{Error, EventFd, GuestMemory, Region};
use rustix::event::{EventfdFlags, eventfd};

/// Where the VMM puts the pages that KVM needs for real mode.
const TSS: u64 = 0xfffb_d000;
const IDENTITY_MAP: u64 = 0xfffb_c000;
const READ_ONLY: u32 = kvm_bindings::KVM_MEM_READONLY;

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    options: Options,
}

/// The VM as the machine's host.
struct Direct {
    vm: Arc<Vm>,
    slots: u32,
}

impl Host for Direct {
    fn add_memory(&mut self, memory: &GuestMemory, region: &Region) -> Result<(), Error> {
        let map = MmapOptions::new().len(memory.len() as usize).map_raw(&memory.as_fd());
        let map: Arc<MmapRaw> = Arc::new(map.expect("the memory is mapped"));
        let flags = if region.read_only { READ_ONLY } else { 0 };
        let slot = self.vm.set_memory_slot(self.slots, flags, region.start, map, region.offset, region.length);
        slot.expect("KVM takes the memory");
        self.slots += 1;
        Ok(())
    }

    fn reserve(&mut self, _: outboard_plugin::Space, _: Range<u64>, _: Access) -> Result<(), Error> {
        Ok(()) // every access is the machine's
    }

    fn irq(&mut self, gsi: u32) -> Result<Irq, Error> {
        let event = new_eventfd();
        self.vm.assign_irqfd(gsi, event.as_fd(), None).expect("KVM takes the interrupt");
        let event = EventFd::from(event);
        Ok(Arc::new(move || event.signal()))
    }

    fn doorbell(&mut self, address: u64, value: u32) -> Result<EventFd, Error> {
        let event = new_eventfd();
        let at = outboard::kvm::IoEvent { address, port_io: false, len: 4, datamatch: Some(value.into()) };
        self.vm.assign_ioevent(&at, event.as_fd()).expect("KVM takes the doorbell");
        Ok(EventFd::from(event))
    }

    fn timer(&mut self) -> Result<Box<dyn Timer>, Error> {
        Ok(Box::new(Pit(Arc::clone(&self.vm))))
    }
}

struct Pit(Arc<Vm>);

impl Timer for Pit {
    fn state(&mut self) -> Result<kvm_pit_state2, Error> {
        Ok(self.0.pit2().expect("KVM has a timer"))
    }

    fn set_state(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
        self.0.set_pit2(state).expect("KVM has a timer");
        Ok(())
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

/// Runs a PC with one processor to its end, which is this process's too.
pub fn main(words: impl Iterator<Item = String>) -> ! {
    let options = Words::parse_from(std::iter::once("linked".to_owned()).chain(words)).options;
    let system = System::open(Path::new("/dev/kvm")).expect("KVM");
    let vm = system.create_vm().expect("a VM");
    vm.set_identity_map_addr(IDENTITY_MAP).and_then(|()| vm.set_tss_addr(TSS)).expect("KVM's own pages");
    vm.create_irqchip().and_then(|()| vm.create_pit2(0)).expect("KVM's controllers");
    let mut host = Direct { vm: Arc::new(vm), slots: 0 };
    let supported = system.supported_cpuid().expect("the leaves");
    let about = cpu::About { supported, cpus: 1, tsc_khz: host.vm.tsc_khz().unwrap_or(0) };
    // Guests of this host count by its own counter.
    let khz = about.tsc_khz.into();
    let machine = Linked::new(&mut host, &options, about, khz).unwrap_or_else(|error| panic!("{error}"));
    let vcpu = host.vm.create_vcpu(0).expect("a vCPU");
    vcpu.set_cpuid2(&machine.cpuid(0)).expect("its leaves");
    run(vcpu, &machine)
}

fn run(mut vcpu: Vcpu, machine: &Linked) -> ! {
    loop {
        // A signal for this process has no handler that returns.
        let _ = vcpu.run();
        let Some(access) = vcpu.page().access() else {
            match vcpu.page().exit() {
                Exit::Intr | Exit::IrqWindowOpen => continue,
                other => panic!("the guest left with {}", other.name()),
            }
        };
        let space = match access.space {
            Space::Port => outboard_plugin::Space::Port,
            Space::Mmio => outboard_plugin::Space::Mmio,
        };
        let width = usize::from(access.width).clamp(1, 8);
        if access.is_write {
            machine.write(space, access.address, width, vcpu.page().data(&access));
        } else {
            machine.read(space, access.address, width, vcpu.page_mut().data_mut(&access));
        }
        if let Some(status) = machine.ended() {
            exit(status.into());
        }
    }
}
