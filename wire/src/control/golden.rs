//! Holds the bodies to the bytes that PROTOCOL.md gives.

use super::*;

#[test]
fn every_kind_is_found_by_its_number() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(kind as u16), Some(kind));
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(u16::MAX), None);
}

#[test]
fn hello() {
    let bytes = Hello { major: 1, minor: 2, layout: 0x0403_0201 };
    assert_eq!(bytes.as_bytes(), [1, 0, 2, 0, 1, 2, 3, 4]);
    let reply = HelloReply {
        major: 1,
        minor: 2,
        layout: 3,
        vcpus: 4,
        cpus: 5,
        spin_mode: SPIN_FOR,
        reserved: 0,
        spin_ns: 7,
        tsc_khz: 8,
    };
    let golden = [
        1, 0, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0,
        0, 0, 0,
    ];
    assert_eq!(reply.as_bytes(), golden);
}

#[test]
fn memory() {
    let create = CreateMemory { offset: 1, length: 2, start: 3, flags: 4, reserved: 0 };
    let golden = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(create.as_bytes(), golden);
    assert_eq!(body::<CreateMemory>(&golden), Some(create));
    assert_eq!(body::<CreateMemory>(&golden[1..]), None);
    assert_eq!(DestroyMemory { id: 0x0102 }.as_bytes(), [2, 1, 0, 0]);
    assert_eq!(DirtyLog { id: 0x0102 }.as_bytes(), [2, 1, 0, 0]);
    assert_eq!(DirtyLogReply { pages: 9 }.as_bytes(), [9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ObjectId { id: 9 }.as_bytes(), [9, 0, 0, 0]);
}

#[test]
fn ranges() {
    let reserve = ReserveRange { space: SPACE_MMIO, kind: RANGE_POSTED, start: 0x0102, length: 0x0304 };
    let golden = [1, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
    assert_eq!(reserve.as_bytes(), golden);
    assert_eq!(SetUnclaimed { byte: 0xff }.as_bytes(), [255, 0, 0, 0]);
}

#[test]
fn vcpus() {
    let mut pause = PauseVcpus { cookie: 0x0102, mask: [0; 16] };
    pause.mask[1] = 1;
    let bytes = pause.as_bytes();
    assert_eq!((bytes.len(), bytes[0], bytes[1], bytes[16]), (136, 2, 1, 1));
    assert_eq!(VcpuEventFd { vcpu: 3 }.as_bytes(), [3, 0, 0, 0]);
    let range = MsrRange { first: 0x0102, count: 2, access: MSR_READ | MSR_WRITE, reserved: 0 };
    let mut subscribe =
        Subscribe { exits: EXIT_MSR_RANGES | EXIT_EMULATION_FAILURE, count: 1, ranges: [MsrRange::default(); 16] };
    subscribe.ranges[0] = range;
    let golden = [129, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!((subscribe.as_bytes().len(), &subscribe.as_bytes()[..24]), (264, &golden[..]));
    let detail = HintDetail { matching: 1, files: 2, values: [3, 4, 5, 6] };
    let hint = Hint { space: 1, on_write: 1, address: 0x0102, details: 1, reserved: 0 };
    let mut set = SetHint { count: 1, reserved: 0, hint, details: [HintDetail::default(); 32] };
    set.details[0] = detail;
    let golden = [
        1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2,
        0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(&set.as_bytes()[..72], golden);
}

#[test]
fn wiring() {
    assert_eq!(IrqLine { gsi: 4, level: 1 }.as_bytes(), [4, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(CreateIrqEvent { gsi: 4, flags: IRQ_EVENT_RESAMPLE }.as_bytes(), [4, 0, 0, 0, 1, 0, 0, 0]);
    let create = CreateIoEvent { space: 1, length: 4, address: 0x0102, datamatch: 0x0304, flags: 1, reserved: 0 };
    let golden = [1, 0, 0, 0, 4, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(create.as_bytes(), golden);
    assert_eq!(DestroyIrqEvent { id: 1 }.as_bytes(), DestroyIoEvent { id: 1 }.as_bytes());
    assert_eq!(CheckExtension { capability: 0x0102 }.as_bytes(), [2, 1, 0, 0]);
    assert_eq!(Extension { value: -1 }.as_bytes(), [255; 4]);
}

#[test]
fn routes() {
    let route = Route { gsi: 0x0102, kind: ROUTE_MSI, address: 0x0304, data: 0x0506, reserved: 0 };
    let golden = [2, 1, 0, 0, 1, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 6, 5, 0, 0, 0, 0, 0, 0];
    assert_eq!(route.as_bytes(), golden);
    let mut set = SetRoutes { count: 1, reserved: 0, routes: [Route::default(); 64] };
    set.routes[0] = route;
    assert_eq!((set.as_bytes().len(), &set.as_bytes()[..8]), (1544, &[1, 0, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!(set.as_bytes()[8..32], golden);
    let msi = SignalMsi { address: 0x0102, data: 0x0304, reserved: 0 };
    assert_eq!(msi.as_bytes(), [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Delivered { delivered: 1 }.as_bytes(), [1, 0, 0, 0]);
}

#[test]
fn chips() {
    assert_eq!(GetChip { chip: CHIP_CLOCK }.as_bytes(), [4, 0, 0, 0]);
    let mut state = [0; CHIP_STATE];
    (state[0], state[215]) = (7, 9);
    let set = SetChip { chip: CHIP_IOAPIC, reserved: 0, state };
    assert_eq!(set.as_bytes()[..9], [2, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!((set.as_bytes().len(), set.as_bytes()[223]), (224, 9));
    assert_eq!(ChipState { state }.as_bytes(), state);
    assert_eq!(SetIdentityMap { address: 0x0102 }.as_bytes(), [2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn host() {
    assert_eq!(HostList { list: LIST_FEATURE_MSRS }.as_bytes(), [4, 0, 0, 0]);
    assert_eq!(HostListReply { count: 0x0102, entry: 40 }.as_bytes(), [2, 1, 0, 0, 40, 0, 0, 0]);
    assert_eq!((GetTsc {}.as_bytes().len(), SetTsc { khz: 0x0102 }.as_bytes()), (0, &[2, 1, 0, 0][..]));
    assert_eq!(TscKhz { khz: 0x0102 }.as_bytes(), [2, 1, 0, 0]);
    assert_eq!(NetConfig { index: 1 }.as_bytes(), [1, 0, 0, 0]);
    let reply =
        NetConfigReply { host_ip: [1, 2, 3, 4], netmask: [5, 6, 7, 8], mac: [9, 10, 11, 12, 13, 14], reserved: [0; 2] };
    assert_eq!(reply.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 0]);
}
