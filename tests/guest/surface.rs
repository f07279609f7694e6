//! Requests about KVM's own devices and the host: routes, chips, clock, identity map, lists.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;

use outboard_plugin::kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use outboard_plugin::{Connection, Error, Event, GuestMemory, IrqRoute, IrqTarget};
use outboard_wire::control::{CHIP_STATE, GetChip, HostList, Route, SetChip, SetRoutes, SignalMsi};
use zerocopy::IntoBytes;

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect, refused, written};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(tables_of_any_length_are_taken),
    case!(tables_past_the_limit_are_refused),
    case!(wrong_tables_are_refused),
    case!(a_pin_of_a_new_table_raises_its_interrupt),
    case!(an_msi_finds_its_vcpu),
    case!(an_msi_without_vcpus_is_not_delivered),
    case!(chips_keep_what_they_are_told),
    case!(the_clock_takes_back_what_it_gave),
    case!(unknown_chips_are_refused),
    case!(the_identity_map_moves_before_the_start_only),
    case!(the_tsc_frequency_is_set_before_the_start_only),
    case!(lists_come_whole),
    case!(unknown_lists_are_refused),
    case!(without_a_tap_there_is_no_net_config),
];

fn msi(gsi: u32) -> IrqRoute {
    IrqRoute { gsi, target: IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 } }
}

fn tables_of_any_length_are_taken() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let limit = vm.check_extension(25)? as u32; // KVM_CAP_IRQ_ROUTING
    assert_eq!(limit, 4096);
    for count in [1, 24, 64, 65, 169, 170, 1024, limit, 0] {
        vm.set_irq_routes(&(0..count).map(msi).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn tables_past_the_limit_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let routes: Vec<IrqRoute> = (0..4097).map(msi).collect();
    assert!(matches!(vm.set_irq_routes(&routes), Err(Error::TooMany { got: 4097, limit: 4096, .. })));
    // The VMM says so too, whatever the library does, and KVM keeps GSIs below the same limit.
    let table = table(4097)?;
    refused(set_routes(&mut vm, 4097, Some(&table)), libc::E2BIG);
    refused(vm.set_irq_routes(&[msi(4096)]), libc::EINVAL);
    vm.set_irq_routes(&[msi(4095)])?;
    Ok(())
}

/// A memfd with so many MSI routes.
fn table(count: u32) -> Result<GuestMemory, Box<dyn std::error::Error>> {
    let routes: Vec<Route> = (0..count).map(|gsi| Route { gsi, kind: 1, ..Route::default() }).collect();
    let memory = GuestMemory::new((routes.len() * 24).next_multiple_of(4096))?;
    memory.write(0, routes.as_bytes())?;
    Ok(memory)
}

fn set_routes(vm: &mut Connection, count: u32, table: Option<&dyn AsFd>) -> Result<(), Error> {
    let request = SetRoutes { count, reserved: 0, routes: [Route::default(); 64] };
    let fds: Vec<_> = table.iter().map(|fd| fd.as_fd()).collect();
    vm.call(&request, &fds).map(drop)
}

fn wrong_tables_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let whole = table(100)?;
    set_routes(&mut vm, 100, Some(&whole))?;
    refused(set_routes(&mut vm, 100, None), libc::EINVAL);
    refused(set_routes(&mut vm, 64, Some(&whole)), libc::EINVAL);
    refused(set_routes(&mut vm, 4000, Some(&whole)), libc::EINVAL); // longer than the file
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(&[0; 4096])?;
    refused(set_routes(&mut vm, 100, Some(&reader)), libc::EINVAL);
    refused(set_routes(&mut vm, 100, Some(&File::open("/dev/zero")?)), libc::EINVAL);
    let route = |route| {
        let mut routes = [Route::default(); 64];
        routes[0] = route;
        SetRoutes { count: 1, reserved: 0, routes }
    };
    for wrong in [
        Route { kind: 2, ..Route::default() },
        Route { kind: u32::MAX, ..Route::default() },
        Route { reserved: 1, ..Route::default() },
        Route { address: 3, ..Route::default() },
        Route { address: 1 << 32, ..Route::default() },
        Route { address: 2, data: 24, ..Route::default() },
    ] {
        refused(vm.call(&route(wrong), &[]).map(drop), libc::EINVAL);
    }
    refused(vm.call(&SignalMsi { address: 0, data: 0, reserved: 1 }, &[]).map(drop), libc::EINVAL);
    Ok(())
}

real_mode!(waits_for_two_vectors:
    "mov word ptr [0x100], 0x1100", // vectors 0x40 and 0x41, in segment 0
    "mov word ptr [0x102], 0",
    "mov word ptr [0x104], 0x1180",
    "mov word ptr [0x106], 0",
    "mov al, 1",
    "out 0x10, al",
    "sti",
    "2: jmp 2b",
    ".org guest_waits_for_two_vectors + 0x100",
    "mov al, 0x40",
    "out 0x10, al",
    "iret",
    ".org guest_waits_for_two_vectors + 0x180",
    "mov al, 0x41",
    "out 0x10, al",
    "iret",
);

/// A guest whose vectors 0x40 and 0x41 say so, with a local APIC that is switched on.
fn interrupted() -> Result<(Connection, outboard_plugin::Vcpu, GuestMemory), Box<dyn std::error::Error>> {
    let (mut vm, memory) = connect(waits_for_two_vectors())?;
    vm.reserve(outboard_plugin::Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    let mut lapic = init.lapic()?;
    (lapic.regs[0xf0], lapic.regs[0xf1]) = (-1, 1); // spurious vector 0xff, and the switch
    init.set_lapic(&lapic)?;
    assert_eq!(init.lapic()?.regs[0xf1], 1);
    crate::common::machine::enter(&mut init, |_| {})?;
    drop(init);
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok((vm, vcpu, memory))
}

fn a_pin_of_a_new_table_raises_its_interrupt() -> Tested {
    let (mut vm, mut vcpu, _memory) = interrupted()?;
    let first = IrqTarget::Msi { address: 0xfee0_0000, data: 0x40 };
    let second = IrqTarget::Msi { address: 0xfee0_0000, data: 0x41 };
    let mut routes: Vec<IrqRoute> = (0..1022).map(msi).collect();
    routes.push(IrqRoute { gsi: 2000, target: first });
    routes.push(IrqRoute { gsi: 4000, target: second });
    assert_eq!(routes.len(), 1024);
    vm.set_irq_routes(&routes)?;
    let event = vm.create_irq_event(4000, false)?;
    event.trigger();
    assert_eq!(written(&mut vcpu, 0x10)?, 0x41);
    // A new table leads the same event somewhere else.
    vm.set_irq_routes(&[IrqRoute { gsi: 4000, target: first }])?;
    event.trigger();
    assert_eq!(written(&mut vcpu, 0x10)?, 0x40);
    Ok(())
}

fn an_msi_finds_its_vcpu() -> Tested {
    let (mut vm, mut vcpu, _memory) = interrupted()?;
    for vector in [0x40, 0x41, 0x40] {
        assert!(vm.signal_msi(0xfee0_0000, vector)?);
        assert_eq!(written(&mut vcpu, 0x10)?, u64::from(vector));
    }
    assert!(!vm.signal_msi(0xfee0_5000, 0x40)?, "there is no vCPU 5");
    Ok(())
}

fn an_msi_without_vcpus_is_not_delivered() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    assert!(!vm.signal_msi(0xfee0_0000, 0x40)?);
    Ok(())
}

fn chips_keep_what_they_are_told() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for primary in [true, false] {
        let pic = vm.pic(primary)?;
        vm.set_pic(primary, &kvm_pic_state { imr: 0x5a, irq_base: 0x20, ..pic })?;
        let got = vm.pic(primary)?;
        assert_eq!((got.imr, got.irq_base), (0x5a, 0x20));
    }
    let pic = vm.pic(true)?;
    vm.set_pic(true, &kvm_pic_state { imr: 0xa5, ..pic })?;
    assert_eq!((vm.pic(true)?.imr, vm.pic(false)?.imr), (0xa5, 0x5a), "two chips");
    let mut ioapic = vm.ioapic()?;
    ioapic.redirtbl[7].bits = 0x1_0041;
    vm.set_ioapic(&kvm_ioapic_state { id: 3, ..ioapic })?;
    let got = vm.ioapic()?;
    assert_eq!((got.id, got.base_address), (3, 0xfec0_0000));
    assert_eq!(bytemuck::bytes_of(&outboard_wire::kvm_abi::Ioapic(got))[24 + 7 * 8], 0x41);
    let mut pit = vm.pit()?;
    pit.channels[2].count = 0x1234;
    vm.set_pit(&kvm_pit_state2 { flags: 0, ..pit })?;
    assert_eq!(vm.pit()?.channels[2].count, 0x1234);
    Ok(())
}

fn the_clock_takes_back_what_it_gave() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let clock = vm.clock()?;
    vm.set_clock(&clock)?;
    assert!(vm.clock()?.clock >= clock.clock);
    let hour = 3_600_000_000_000;
    vm.set_clock(&kvm_clock_data { clock: hour, flags: clock.flags & !4, ..clock })?;
    let later = vm.clock()?.clock;
    assert!((hour..2 * hour).contains(&later), "{later}");
    refused(vm.set_clock(&kvm_clock_data { flags: 1 << 31, ..clock }), libc::EINVAL);
    Ok(())
}

fn unknown_chips_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for chip in [5, u32::MAX] {
        refused(vm.call(&GetChip { chip }, &[]).map(drop), libc::EINVAL);
        refused(vm.call(&SetChip { chip, reserved: 0, state: [0; CHIP_STATE] }, &[]).map(drop), libc::EINVAL);
    }
    let state = vm.call(&GetChip { chip: 0 }, &[])?.0.state;
    refused(vm.call(&SetChip { chip: 0, reserved: 1, state }, &[]).map(drop), libc::EINVAL);
    Ok(())
}

real_mode!(says_one: "mov al, 1", "out 0x10, al", "hlt");

fn the_identity_map_moves_before_the_start_only() -> Tested {
    let (mut vm, _memory) = connect(says_one())?;
    vm.reserve(outboard_plugin::Space::Port, 0x10..0x11)?;
    vm.set_identity_map_address(0xfeff_c000)?;
    vm.set_identity_map_address(0)?;
    vm.set_identity_map_address(0xfeff_c000)?;
    vm.start()?;
    refused(vm.set_identity_map_address(0xfeff_c000), libc::EINVAL);
    let mut vcpu = begin(&vm, 0)?;
    assert_eq!(written(&mut vcpu, 0x10)?, 1);
    Ok(())
}

fn the_tsc_frequency_is_set_before_the_start_only() -> Tested {
    let (mut vm, _memory) = connect(says_one())?;
    let khz = vm.guest_tsc_khz()?;
    assert!(khz > 100_000, "{khz}");
    for past in [1 << 31, 0xc7c7_c7c7, u32::MAX] {
        refused(vm.set_guest_tsc_khz(past), libc::EINVAL);
    }
    vm.set_guest_tsc_khz(khz)?;
    vm.start()?;
    assert_eq!(vm.guest_tsc_khz()?, khz);
    refused(vm.set_guest_tsc_khz(khz), libc::EINVAL);
    Ok(())
}

fn lists_come_whole() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let leaves = vm.supported_cpuid()?;
    assert!(leaves.len() > 5 && leaves.iter().any(|leaf| leaf.function == 0x8000_0001), "{}", leaves.len());
    assert!(leaves.iter().any(|leaf| leaf.flags & 1 != 0), "a leaf with an index");
    vm.emulated_cpuid()?;
    let msrs = vm.msr_indices()?;
    assert!(msrs.contains(&0x174), "IA32_SYSENTER_CS");
    vm.feature_msr_indices()?;
    // KVM_CAP_SYS_HYPERV_CPUID says whether there are any.
    match vm.check_extension(191)? {
        0 => refused(vm.hyperv_cpuid().map(drop), libc::EINVAL),
        _ => assert!(vm.hyperv_cpuid()?.iter().any(|leaf| leaf.function == 0x4000_0000)),
    }
    Ok(())
}

fn unknown_lists_are_refused() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for list in [5, u32::MAX] {
        refused(vm.call(&HostList { list }, &[]).map(drop), libc::EINVAL);
    }
    Ok(())
}

fn without_a_tap_there_is_no_net_config() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    for index in [0, 1, u32::MAX] {
        refused(vm.net_config(index).map(drop), libc::ENODATA);
    }
    Ok(())
}
