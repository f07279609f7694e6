//! The handles on the real `/dev/kvm`, with guests of a few bytes of 16-bit code.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use kvm_bindings::*;
use memmap2::{MmapOptions, MmapRaw};

use super::*;
use crate::sys::eventfd::EventFd;
use crate::sys::{Errno, memfd, signal};

/// Where guest memory begins, and the code in it.
const CODE: u64 = 0x1000;
/// Where guest memory ends; beyond it is MMIO.
const END: u64 = 0x4000;

/// Opens `/dev/kvm`. Without one a test passes with a note, but not in CI, where that would hide a failure.
fn system() -> Option<System> {
    match System::open(Path::new("/dev/kvm")) {
        Ok(system) => Some(system),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error}"),
        Err(error) => {
            println!("skipped: no /dev/kvm ({error})");
            None
        }
    }
}

/// A VM with three pages of memory, one vCPU, and this code. `memory` is the file behind its memory.
struct Guest {
    vcpu: Vcpu,
    vm: Vm,
    memory: File,
}

impl Guest {
    fn new(code: &[u8]) -> Option<Self> {
        let vm = system()?.create_vm().unwrap();
        let memory = memfd::create(c"guest").unwrap();
        memfd::set_size(memory.as_fd(), END - CODE).unwrap();
        let memory = File::from(memory);
        memory.write_all_at(code, 0).unwrap();
        let mapping = Arc::new(MmapOptions::new().map_raw(&memory).unwrap());
        vm.set_memory_slot(0, KVM_MEM_LOG_DIRTY_PAGES, CODE, mapping, 0, END - CODE).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();

        let mut sregs = vcpu.sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).unwrap();
        vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..Default::default() }).unwrap();
        Some(Self { vcpu, vm, memory })
    }

    fn run(&mut self) -> Exit {
        self.vcpu.run().unwrap();
        self.vcpu.page().exit()
    }

    /// The access that the last run ended in.
    fn access(&self) -> Access {
        self.vcpu.page().access().unwrap()
    }

    /// Runs up to a write to a port, and gives the bytes written.
    fn written(&mut self) -> Vec<u8> {
        match (self.run(), self.vcpu.page().access()) {
            (Exit::Io(_), Some(access)) if access.is_write => self.vcpu.page().data(&access).to_vec(),
            exit => panic!("{exit:?}"),
        }
    }
}

/// A vCPU moves to the thread that runs it; a VM and handles are shared.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    is_send::<Vcpu>();
    is_shared::<Vm>();
    is_shared::<System>();
    is_shared::<KickHandle>();
};

#[test]
fn open_says_what_to_do() {
    let open = |path: &str| System::open(Path::new(path)).unwrap_err().to_string();
    assert!(open("/dev/no-such-file").starts_with("/dev/no-such-file does not exist: load the kvm_intel"));
    assert!(open("/dev/null").starts_with("/dev/null is not a KVM device"));
    assert_eq!(open("/dev"), "cannot open /dev: EISDIR (Is a directory)");
}

#[test]
fn the_system_answers() {
    let Some(system) = system() else { return };
    assert_eq!(system.api_version(), Ok(12));
    assert!(system.vcpu_mmap_size().unwrap() >= size_of::<kvm_run>());
    assert_eq!(system.check_extension(u32::MAX), Ok(0));
    assert!(system.check_extension(KVM_CAP_SYNC_REGS).unwrap() > 0);
    assert!(!system.supported_cpuid().unwrap().is_empty());
    system.emulated_cpuid().unwrap();
    assert!(system.msr_index_list().unwrap().len() > 5);
    system.msr_feature_index_list().unwrap();
}

#[test]
fn port_io_both_ways() {
    // mov dx,0x3f8; mov al,'A'; out dx,al; in al,dx; out dx,al; hlt
    let Some(mut guest) = Guest::new(b"\xba\xf8\x03\xb0A\xee\xec\xee\xf4") else { return };
    assert_eq!(guest.written(), b"A");
    let Exit::Io(io) = guest.run() else { panic!() };
    assert_eq!((io.direction, io.size, io.port, io.count), (Direction::In, 1, 0x3f8, 1));
    let access = guest.access();
    assert_eq!((access.space, access.address, access.is_write), (Space::Port, 0x3f8, false));
    assert_eq!((access.width, access.length), (1, 1));
    guest.vcpu.page_mut().data_mut(&access).copy_from_slice(b"z");
    assert_eq!(guest.written(), b"z");
    assert_eq!(guest.run(), Exit::Hlt);
    assert_eq!(guest.vcpu.page().exit_reason(), KVM_EXIT_HLT);
    assert_eq!(guest.vcpu.regs().unwrap().rax, u64::from(b'z'));
}

#[test]
fn string_io() {
    // cld; mov si,0x2000; mov cx,1000; mov dx,0x3f8; rep outsb; mov di,0x3000; mov cx,1000; rep insb; hlt
    let code = b"\xfc\xbe\x00\x20\xb9\xe8\x03\xba\xf8\x03\xf3\x6e\xbf\x00\x30\xb9\xe8\x03\xf3\x6c\xf4";
    let Some(mut guest) = Guest::new(code) else { return };
    let text: Vec<u8> = (0..1000).map(|n| (n % 251) as u8).collect();
    guest.memory.write_all_at(&text, 0x2000 - CODE).unwrap();

    // KVM splits a string into as many exits as it likes.
    let (mut written, mut read) = (Vec::new(), 0);
    let last = loop {
        let Exit::Io(io) = guest.run() else { break guest.vcpu.page().exit() };
        let (access, len) = (guest.access(), usize::from(io.size) * io.count as usize);
        assert_eq!((access.width, access.length as usize), (io.size, len));
        match io.direction {
            Direction::Out => written.extend_from_slice(guest.vcpu.page().data(&access)),
            Direction::In => {
                guest.vcpu.page_mut().data_mut(&access).copy_from_slice(&text[read..read + len]);
                read += len;
            }
        }
    };
    assert_eq!((last, read), (Exit::Hlt, 1000));
    assert_eq!(written, text);
    let mut stored = vec![0; 1000];
    guest.memory.read_exact_at(&mut stored, 0x3000 - CODE).unwrap();
    assert_eq!(stored, text);

    let mut dirty = [0u64];
    guest.vm.dirty_log(0, &mut dirty).unwrap();
    assert_eq!(dirty[0] & 0b111, 0b100);
    assert_eq!(guest.vm.dirty_log(0, &mut []).unwrap_err().errno, Errno::EINVAL);
}

#[test]
fn mmio_both_ways() {
    // mov ax,0x1234; mov [0x8000],ax; mov ax,[0x8010]; out 0x80,ax; hlt
    let Some(mut guest) = Guest::new(b"\xb8\x34\x12\xa3\x00\x80\xa1\x10\x80\xe7\x80\xf4") else { return };
    let Exit::Mmio(mmio) = guest.run() else { panic!() };
    assert_eq!((mmio.phys_addr, mmio.len, mmio.is_write), (0x8000, 2, true));
    assert_eq!(mmio.data[..2], [0x34, 0x12]);
    let access = guest.access();
    assert_eq!((access.space, access.address, access.length, access.is_write), (Space::Mmio, 0x8000, 2, true));
    assert_eq!(guest.vcpu.page().data(&access), [0x34, 0x12]);
    let Exit::Mmio(mmio) = guest.run() else { panic!() };
    assert_eq!((mmio.phys_addr, mmio.len, mmio.is_write), (0x8010, 2, false));
    let access = guest.access();
    guest.vcpu.page_mut().data_mut(&access).copy_from_slice(&[0xcd, 0xab]);
    assert_eq!(guest.written(), [0xcd, 0xab]);
    assert_eq!(guest.run(), Exit::Hlt);
    assert_eq!(guest.vcpu.page().access(), None);
}

#[test]
fn registers_travel_in_the_run_page() {
    // mov al,'A'; out 0x80,al; out 0x80,al; hlt
    let Some(mut guest) = Guest::new(b"\xb0A\xe6\x80\xe6\x80\xf4") else { return };
    let all = u64::from(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS);
    guest.vcpu.page_mut().set_valid_regs(all);
    assert_eq!(guest.written(), b"A");
    let page = guest.vcpu.page_mut();
    assert_eq!((page.regs().rax, page.sregs().cs.base, page.valid_regs()), (u64::from(b'A'), 0, all));
    page.regs_mut().rax = b'Q'.into();
    page.mark_dirty_regs(KVM_SYNC_X86_REGS.into());
    assert_eq!(guest.written(), b"Q");
    assert_eq!(guest.vcpu.page().dirty_regs(), 0);
}

#[test]
fn a_kick_stops_the_vcpu_wherever_it_is() {
    // out 0x80,al; jmp $
    let Some(mut guest) = Guest::new(b"\xe6\x80\xeb\xfe") else { return };
    install_kick_handler().unwrap();
    let kick = guest.vcpu.page().kick_handle();

    // Set before the guest is entered.
    kick.set();
    assert_eq!(guest.vcpu.run(), Err(Errno::EINTR));
    kick.clear();
    assert_eq!(guest.written().len(), 1);

    // Sent to a thread that does not run, and that does.
    let scope = guest.vcpu.page().kick_scope();
    signal::tgkill(signal::gettid(), signal::kick_signal()).unwrap();
    assert_eq!(guest.vcpu.run(), Err(Errno::EINTR));
    // Looked at here, since ThreadSanitizer keeps the handler back until the thread enters the kernel to wait.
    assert!(kick.is_set());
    drop(scope);
    kick.clear();

    let (tid, ready) = mpsc::channel();
    let runner = std::thread::spawn(move || {
        let _scope = guest.vcpu.page().kick_scope();
        tid.send(signal::gettid()).unwrap();
        guest.vcpu.run()
    });
    let tid = ready.recv().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    signal::tgkill(tid, signal::kick_signal()).unwrap();
    assert_eq!(runner.join().unwrap(), Err(Errno::EINTR));
    assert!(kick.is_set(), "a handle outlives its vCPU");

    // Without a scope the signal does no more than interrupt.
    kick.clear();
    signal::tgkill(signal::gettid(), signal::kick_signal()).unwrap();
    assert!(!kick.is_set());
}

#[test]
fn an_ioeventfd_takes_writes_over() {
    // out 0x80,al; out 0x81,al; hlt
    let Some(mut guest) = Guest::new(b"\xe6\x80\xe6\x81\xf4") else { return };
    let event = EventFd::new().unwrap();
    let at = IoEvent { address: 0x80, port_io: true, len: 1, datamatch: Some(0) };
    guest.vm.assign_ioevent(&at, event.as_fd()).unwrap();
    assert_eq!(guest.vm.assign_ioevent(&at, event.as_fd()).unwrap_err().errno, Errno::EEXIST);
    let Exit::Io(io) = guest.run() else { panic!() };
    assert_eq!((io.port, event.drain()), (0x81, Ok(1)));
    guest.vm.deassign_ioevent(&at, event.as_fd()).unwrap();
    assert_eq!(guest.vm.deassign_ioevent(&at, event.as_fd()).unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn chips_and_their_state() {
    let Some(system) = system() else { return };
    let vm = system.create_vm().unwrap();
    assert_eq!(vm.pic(true).unwrap_err().errno, Errno::ENXIO);
    vm.set_tss_addr(0xfffb_d000).unwrap();
    vm.set_identity_map_addr(0xfffb_c000).unwrap();
    vm.create_irqchip().unwrap();
    vm.create_pit2(KVM_PIT_SPEAKER_DUMMY).unwrap();
    for primary in [true, false] {
        let pic = vm.pic(primary).unwrap();
        vm.set_pic(primary, &kvm_pic_state { imr: 0x5a, ..pic }).unwrap();
        assert_eq!(vm.pic(primary).unwrap().imr, 0x5a);
    }
    vm.set_ioapic(&kvm_ioapic_state { id: 3, ..vm.ioapic().unwrap() }).unwrap();
    assert_eq!(vm.ioapic().unwrap().id, 3);
    vm.set_pit2(&vm.pit2().unwrap()).unwrap();
    let now = vm.clock().unwrap();
    vm.set_clock(&kvm_clock_data { clock: now.clock, ..Default::default() }).unwrap();

    let pin = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: 5 };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip: pin };
    vm.set_gsi_routing(&[kvm_irq_routing_entry { gsi: 5, type_: 1, u, ..Default::default() }]).unwrap();
    vm.set_gsi_routing(&[]).unwrap();
    vm.set_irq_line(4, true).unwrap();
    let event = EventFd::new().unwrap();
    vm.assign_irqfd(6, event.as_fd(), None).unwrap();
    assert_eq!(vm.assign_irqfd(7, event.as_fd(), None).unwrap_err().errno, Errno::EBUSY);
    vm.deassign_irqfd(6, event.as_fd()).unwrap();
    let resample = EventFd::new().unwrap();
    vm.assign_irqfd(6, event.as_fd(), Some(resample.as_fd())).unwrap();
    assert_eq!(vm.enable_cap(KVM_CAP_HYPERV_ENLIGHTENED_VMCS, 0, [0; 4]).unwrap_err().errno, Errno::EINVAL);

    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_lapic(&vcpu.lapic().unwrap()).unwrap();
    vcpu.set_mp_state(&vcpu.mp_state().unwrap()).unwrap();
}

#[test]
fn vcpu_state_goes_back_where_it_came_from() {
    let Some(guest) = Guest::new(&[]) else { return };
    let vcpu = &guest.vcpu;
    vcpu.set_cpuid2(&system().unwrap().supported_cpuid().unwrap()).unwrap();
    assert!(!vcpu.cpuid2().unwrap().is_empty());
    vcpu.set_regs(&vcpu.regs().unwrap()).unwrap();
    vcpu.set_debugregs(&vcpu.debugregs().unwrap()).unwrap();
    vcpu.set_fpu(&vcpu.fpu().unwrap()).unwrap();
    vcpu.set_xcrs(&vcpu.xcrs().unwrap()).unwrap();
    vcpu.set_xsave(&vcpu.xsave().unwrap()).unwrap();
    vcpu.set_vcpu_events(&vcpu.vcpu_events().unwrap()).unwrap();
    let translation = vcpu.translate(CODE).unwrap();
    assert_eq!((translation.physical_address, translation.valid), (CODE, 1));
    vcpu.set_guest_debug(&kvm_guest_debug::default()).unwrap();
    assert_eq!(vcpu.interrupt(256).unwrap_err().errno, Errno::EINVAL);
    vcpu.set_tsc_khz(vcpu.tsc_khz().unwrap()).unwrap();

    // IA32_SYSENTER_CS, and a number that no processor has: KVM stops there.
    const SYSENTER_CS: u32 = 0x174;
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    assert_eq!(vcpu.set_msrs(&[entry(SYSENTER_CS, 0x10), entry(0xdead_beef, 1)]), Ok(1));
    let mut entries = [entry(SYSENTER_CS, 0), entry(0xdead_beef, 0)];
    assert_eq!(vcpu.msrs(&mut entries), Ok(1));
    assert_eq!((entries[0].data, entries[1].data), (0x10, 0));
}

#[test]
fn refusals_name_what_was_asked() {
    let Some(guest) = Guest::new(&[]) else { return };
    let again = guest.vm.create_vcpu(0).map(|vcpu| vcpu.id()).unwrap_err();
    assert_eq!(again.to_string(), "KVM_CREATE_VCPU for vCPU 0 failed: EEXIST (File exists)");

    let mapping: Arc<MmapRaw> = Arc::new(MmapOptions::new().len(8192).map_anon().unwrap().into());
    let set = |guest_addr, offset, bytes| {
        guest.vm.set_memory_slot(1, 0, guest_addr, Arc::clone(&mapping), offset, bytes).map_err(|error| error.errno)
    };
    assert_eq!(set(0x10000, 4096, 8192), Err(Errno::EINVAL));
    assert_eq!(set(0x10000, u64::MAX, 4096), Err(Errno::EINVAL));
    assert_eq!(set(0x10000, 0, 0), Err(Errno::EINVAL));
    assert_eq!(set(CODE, 0, 4096), Err(Errno::EEXIST));
    assert_eq!(set(0x10000, 4096, 4096), Ok(()));
    assert_eq!(Arc::strong_count(&mapping), 2);
    guest.vm.remove_memory_slot(1).unwrap();
    assert_eq!(Arc::strong_count(&mapping), 1);
    let gone = guest.vm.remove_memory_slot(1).unwrap_err();
    let text = "KVM_SET_USER_MEMORY_REGION for memory slot 1 failed: ENOENT (No such file or directory)";
    assert_eq!(gone.to_string(), text);
}

#[test]
fn a_detached_page_takes_what_the_host_cannot_produce() {
    let mut page = RunPage::detached(8192).unwrap();
    let mut payload = [0; exit::PAYLOAD_WORDS];
    (payload[0], payload[1]) = (u64::from(KVM_EXIT_HYPERV_HCALL), 0x5c);
    page.set_exit(KVM_EXIT_HYPERV, &payload);
    let hcall = HypervExit::Hcall { input: 0x5c, params: [0, 0] };
    assert_eq!(page.exit(), Exit::Hyperv(hcall));
    page.set_hyperv_result(7);
    assert_eq!(format!("{page:?}"), format!("RunPage {{ exit: {:?}, .. }}", page.exit()));

    // Data is only given from behind the structure and within the page, whatever the exit says.
    let mut io = |data_offset, count: u32| {
        // struct io of linux/kvm.h: direction, size, port, count; data_offset.
        (payload[0], payload[1]) = (u64::from(KVM_EXIT_IO_OUT) | 4 << 8 | u64::from(count) << 32, data_offset);
        page.set_exit(KVM_EXIT_IO, &payload);
        let access = page.access().unwrap();
        assert_eq!(page.data(&access).len(), page.data_mut(&access).len());
        page.data(&access).len()
    };
    assert_eq!(io(4096, 1024), 4096);
    for (data_offset, count) in [(4096, 1025), (0, 1), (u64::MAX, 1), (8190, 1), (4096, u32::MAX)] {
        assert_eq!(io(data_offset, count), 0, "{count} elements at {data_offset}");
    }
    assert_eq!(RunPage::detached(16).unwrap_err(), Errno::EINVAL);
}
