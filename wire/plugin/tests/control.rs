//! The control connection against a VMM made of test code.

mod fake;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use fake::{Reply, done, fake, fake_vcpus, hello, receive, some_fd};
use outboard_plugin::{Connection, Error, Files, GuestMemory, Hint, HintDetail, Region, Space};
use outboard_wire::control::{self, HelloReply, Kind, ObjectId, Request as _};
use outboard_wire::frame::Header;
use outboard_wire::line::{FILE_DEBUGREGS, FILE_SREGS};
use outboard_wire::socket;
use zerocopy::{FromBytes, IntoBytes};

/// Connects to a VMM that replies to Hello with these bytes.
fn greeted_with(make: impl FnOnce(&Header) -> (Vec<u8>, Vec<OwnedFd>) + Send + 'static) -> Error {
    let (ours, theirs) = socket::pair().unwrap();
    let vmm = thread::spawn(move || {
        let (bytes, fds) = make(&receive(&theirs).unwrap().header);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        socket::send(theirs.as_fd(), &bytes, &fds).unwrap();
    });
    let error = Connection::over(ours).unwrap_err();
    vmm.join().unwrap();
    error
}

/// The whole reply message for a greeting.
fn greeting(to: &Header, body: HelloReply, fds: usize) -> Vec<u8> {
    let mut bytes = Header::reply(to.kind, to.sequence, 0, 40, fds).as_bytes().to_vec();
    bytes.extend(body.as_bytes());
    bytes
}

#[test]
fn a_connection_knows_its_machine() {
    let fake = fake_vcpus(3);
    assert_eq!((fake.connection.vcpu_count(), fake.connection.tsc_khz()), (3, 2_000_000));
    drop(fake.connection);
    fake.control.join().unwrap();
}

#[test]
fn another_version_or_layout_is_named() {
    let error = greeted_with(|to| (greeting(to, HelloReply { layout: 0xabcd, ..hello(1) }, 0), Vec::new()));
    assert_eq!(
        error.to_string(),
        "this plugin speaks protocol version 1.1 with block layout 0x2f8ea273, \
         the VMM speaks version 1.1 with block layout 0x0000abcd"
    );
    assert_eq!(error.errno(), libc::EPROTONOSUPPORT);
    let error = greeted_with(|to| {
        let mut header = Header::reply(to.kind, to.sequence, -libc::EPROTONOSUPPORT, 0, 0);
        header.version = 9;
        (header.as_bytes().to_vec(), Vec::new())
    });
    assert!(error.to_string().ends_with("the VMM speaks version 9"), "{error}");
    let refused = |to: &Header| Header::reply(to.kind, to.sequence, -libc::EPROTONOSUPPORT, 0, 0);
    let error = greeted_with(move |to| (refused(to).as_bytes().to_vec(), Vec::new()));
    assert!(matches!(error, Error::Version { .. }), "{error}");
}

#[test]
fn a_greeting_that_makes_no_sense_is_an_error() {
    let two = || vec![some_fd(), some_fd()];
    let wrong = [
        HelloReply { vcpus: 0, ..hello(1) },
        HelloReply { vcpus: 2000, ..hello(1) },
        HelloReply { spin_mode: 9, ..hello(1) },
    ];
    for body in wrong {
        let error = greeted_with(move |to| (greeting(to, body, 2), two()));
        assert_eq!(error.errno(), libc::EPROTO, "{error}");
    }
    let error = greeted_with(|to| (greeting(to, hello(1), 1), vec![some_fd()]));
    assert!(error.to_string().contains("without its two memfds"), "{error}");
    // The blocks do not fit the memfds.
    let error = greeted_with(move |to| (greeting(to, hello(1), 2), two()));
    assert_eq!(error.errno(), libc::EINVAL, "{error}");
}

#[test]
fn garbage_and_a_closed_socket_are_errors() {
    for bytes in [&b"x"[..], &[0; 32], &[0xff; 4096]] {
        let error = greeted_with(move |_| (bytes.to_vec(), Vec::new()));
        assert_eq!(error.errno(), libc::EPROTO, "{error}");
    }
    let (ours, theirs) = socket::pair().unwrap();
    let vmm = thread::spawn(move || drop(receive(&theirs)));
    assert!(matches!(Connection::over(ours), Err(Error::Closed)));
    vmm.join().unwrap();
}

/// A change to a reply's header.
type Change = fn(&mut Header);

#[test]
fn a_reply_to_something_else_is_an_error() {
    let changes: [Change; 5] = [
        |header| header.sequence += 1,
        |header| header.kind += 1,
        |header| header.flags = 0,
        |header| header.status = 5,
        |header| header.version = 2,
    ];
    for change in changes {
        let error = greeted_with(move |to| {
            let mut bytes = greeting(to, hello(1), 0);
            let (header, _) = Header::mut_from_prefix(&mut bytes).unwrap();
            change(header);
            (bytes, Vec::new())
        });
        assert!([libc::EPROTO, libc::EPROTONOSUPPORT].contains(&error.errno()), "{error}");
    }
}

#[test]
fn a_refusal_names_the_request_and_the_errno() {
    let mut fake = fake(1, |_| (-libc::EPERM, Vec::new(), Vec::new()));
    let vm = &mut fake.connection;
    let memory = GuestMemory::new(4096).unwrap();
    let errors = [
        (vm.reserve(Space::Port, 0x3f8..0x400), "reserve port 0x3f8..0x400"),
        (vm.release_posted(Space::Mmio, 0xd000), "release MMIO 0xd000"),
        (vm.set_irq(4, true), "set GSI 4"),
        (vm.start(), "start the VM"),
        (vm.set_unclaimed(7), "let unclaimed reads give 0x07"),
        (vm.create_irq_event(5, true).map(drop), "make an irq event for GSI 5"),
        (vm.create_io_event(Space::Port, 0x80, 1, None).map(drop), "make an io event for port 0x80"),
        (
            vm.create_memory(&memory, &Region { start: 0x1000, length: 4096, ..Region::default() }).map(drop),
            "put memory at 0x1000..0x2000",
        ),
        (vm.shutdown_event().map(drop), "serve ShutdownEvent"),
    ];
    for (result, what) in errors {
        let error = result.unwrap_err();
        let expected = format!("the VMM refused to {what}: EPERM (Operation not permitted)");
        assert_eq!((error.to_string(), error.errno()), (expected, libc::EPERM));
    }
}

/// Runs `ask` against a VMM that gives `reply`, and returns the request it saw.
fn seen<R: control::Request + Send + 'static, T>(
    reply: impl Fn() -> Reply + Send + 'static,
    ask: impl FnOnce(&mut Connection) -> Result<T, Error>,
) -> (R, T) {
    let (sender, receiver) = mpsc::channel();
    let mut fake = fake(1, move |request| {
        assert_eq!(request.header.kind, R::KIND as u16);
        assert_eq!(request.fds.len(), R::FDS);
        sender.send(control::body::<R>(&request.body).unwrap()).unwrap();
        reply()
    });
    let result = ask(&mut fake.connection).unwrap();
    (receiver.recv().unwrap(), result)
}

fn with_fds(count: usize) -> impl Fn() -> Reply + Send {
    move || (0, Vec::new(), (0..count).map(|_| some_fd()).collect())
}

fn object(id: u32, fds: usize) -> impl Fn() -> Reply + Send {
    move || (0, ObjectId { id }.as_bytes().to_vec(), (0..fds).map(|_| some_fd()).collect())
}

#[test]
fn session_requests_arrive_as_asked() {
    let (_, _) = seen::<control::Start, _>(done, |vm| vm.start());
    let (_, _) = seen::<control::ShutdownEvent, _>(with_fds(1), |vm| vm.shutdown_event());
    let value = || (0, 7i32.to_le_bytes().to_vec(), Vec::new());
    let (seen, value) = seen::<control::CheckExtension, _>(value, |vm| vm.check_extension(99));
    assert_eq!((seen.capability, value), (99, 7));
}

/// A call of the library.
type Ask = fn(&mut Connection) -> Result<(), Error>;

#[test]
fn range_requests_arrive_as_asked() {
    let range = |kind, start, length| control::ReserveRange { space: control::SPACE_MMIO, kind, start, length };
    let cases: [(Ask, control::ReserveRange); 4] = [
        (|vm| vm.reserve(Space::Mmio, 5..9), range(control::RANGE_SYNCHRONOUS, 5, 4)),
        (|vm| vm.reserve_posted(Space::Mmio, 5..6), range(control::RANGE_POSTED, 5, 1)),
        (|vm| vm.release(Space::Mmio, 5), range(control::RANGE_SYNCHRONOUS, 5, 0)),
        (|vm| vm.release_posted(Space::Mmio, 5), range(control::RANGE_POSTED, 5, 0)),
    ];
    for (ask, expected) in cases {
        assert_eq!(seen::<control::ReserveRange, _>(done, ask).0, expected);
    }
    assert_eq!(seen::<control::SetUnclaimed, _>(done, |vm| vm.set_unclaimed(0xff)).0.byte, 255);
    let mut fake = fake_vcpus(1);
    assert_eq!(fake.connection.reserve(Space::Port, 9..9).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn memory_requests_arrive_as_asked() {
    let memory = GuestMemory::new(0x9000).unwrap();
    let region = Region { offset: 0x1000, length: 0x8000, start: 0x4000, read_only: true, dirty_log: true };
    let (request, slot) = seen::<control::CreateMemory, _>(object(3, 0), |vm| vm.create_memory(&memory, &region));
    let expected = control::CreateMemory { offset: 0x1000, length: 0x8000, start: 0x4000, flags: 3, reserved: 0 };
    assert_eq!((request, slot.bitmap_len()), (expected, 1));
    assert_eq!(seen::<control::DestroyMemory, _>(done, |vm| vm.destroy_memory(&slot)).0.id, 3);
}

#[test]
fn a_dirty_log_has_one_bit_per_page() {
    let mut pages = 9u64;
    let mut fake = fake(1, move |request| match Kind::from_number(request.header.kind) {
        Some(Kind::CreateMemory) => object(3, 0)(),
        Some(Kind::DirtyLog) => {
            let log = GuestMemory::new(4096).unwrap();
            log.write(0, &[0x81, 1, 0xff]).unwrap();
            let reply = pages.to_le_bytes().to_vec();
            pages = 17;
            (0, reply, vec![log.as_fd().try_clone_to_owned().unwrap()])
        }
        other => panic!("{other:?}"),
    });
    let memory = GuestMemory::new(0x9000).unwrap();
    let vm = &mut fake.connection;
    let slot = vm.create_memory(&memory, &Region { length: 0x9000, ..Region::default() }).unwrap();
    assert_eq!(vm.dirty_log(&slot).unwrap(), [0x81, 1]);
    assert_eq!(vm.dirty_log(&slot).unwrap_err().errno(), libc::EPROTO);
}

#[test]
fn wiring_requests_arrive_as_asked() {
    let (request, _) = seen::<control::IrqLine, _>(done, |vm| vm.set_irq(5, true));
    assert_eq!((request.gsi, request.level), (5, 1));
    let (request, irq) = seen::<control::CreateIrqEvent, _>(object(6, 2), |vm| vm.create_irq_event(9, true));
    assert_eq!((request.gsi, request.flags, irq.resample_fd().is_some()), (9, control::IRQ_EVENT_RESAMPLE, true));
    assert_eq!(seen::<control::DestroyIrqEvent, _>(done, |vm| vm.destroy_irq_event(&irq)).0.id, 6);
    let ask = |vm: &mut Connection| vm.create_io_event(Space::Mmio, 0xd000, 4, Some(7));
    let (request, io) = seen::<control::CreateIoEvent, _>(object(8, 1), ask);
    let expected = control::CreateIoEvent { space: 1, length: 4, address: 0xd000, datamatch: 7, flags: 1, reserved: 0 };
    assert_eq!(request, expected);
    assert_eq!(seen::<control::DestroyIoEvent, _>(done, |vm| vm.destroy_io_event(&io)).0.id, 8);
}

#[test]
fn vcpu_requests_arrive_as_asked() {
    let (request, ()) = seen::<control::PauseVcpus, _>(done, |vm| vm.pause_vcpus([0, 65, 1023, 1024], 42));
    assert_eq!((request.cookie, request.mask[0], request.mask[1], request.mask[15]), (42, 1, 2, 1 << 63));
    let detail = HintDetail { registers: [Some(1), None, None, Some(4)], files: Files::SREGS | Files::DEBUGREGS };
    let hint = Hint { space: Space::Port, address: 0xb2, on_write: true, details: vec![detail] };
    let (request, ()) = seen::<control::SetHint, _>(done, |vm| vm.set_hint(Some(&hint)));
    assert_eq!((request.count, request.hint.address, request.hint.on_write, request.hint.details), (1, 0xb2, 1, 1));
    let files = u32::from(FILE_SREGS | FILE_DEBUGREGS);
    assert_eq!(request.details[0], control::HintDetail { matching: 9, files, values: [1, 0, 0, 4] });
    let (request, ()) = seen::<control::SetHint, _>(done, |vm| vm.set_hint(None));
    assert_eq!((request.count, request.hint.address), (0, 0));
    let many = Hint { details: vec![detail; 33], ..hint };
    assert_eq!(fake_vcpus(1).connection.set_hint(Some(&many)).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn a_new_connection_counts_for_itself_and_shares_the_vcpus() {
    let mut fake = fake(2, |request| {
        assert_eq!(request.header.kind, control::NewConnection::KIND as u16);
        let (ours, theirs) = socket::pair().unwrap();
        thread::spawn(move || {
            fake::control_loop(&theirs, |request| {
                assert_eq!((request.header.kind, request.header.sequence), (Kind::Start as u16, 1));
                done()
            })
        });
        (0, Vec::new(), vec![ours])
    });
    let mut second = fake.connection.new_connection().unwrap();
    second.start().unwrap();
    let vcpu = second.vcpu(1).unwrap();
    let error = fake.connection.vcpu(1).unwrap_err();
    assert_eq!((error.to_string(), error.errno()), ("vCPU 1 is taken already".into(), libc::EBUSY));
    drop(vcpu);
    assert_eq!(fake.connection.vcpu(1).unwrap().id(), 1);
    let error = fake.connection.vcpu(2).unwrap_err();
    assert_eq!((error.to_string(), error.errno()), ("there is no vCPU 2, the VM has 2".into(), libc::ENOENT));
}
