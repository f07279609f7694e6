//! What the C library adds to an exit: wait and resume through `libcrosvm_plugin.so` against the same through the SDK.
//!
//! The VMM's end is played by the thread that plays the plugin, so an exit costs instructions only, no travel between CPUs,
//! and a difference of a few nanoseconds shows. The two take turns, and the median of the turns counts.

#![allow(unsafe_code, reason = "loads the library and calls it as C does")]

use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use outboard_plugin::{Connection, GuestMemory, RawEvent, Vcpu};
use outboard_wire::block::{self, STRIDE};
use outboard_wire::control::{HelloReply, Kind, SPIN_ALWAYS};
use outboard_wire::frame::{self, Header};
use outboard_wire::limits::{MAX_FRAME, VERSION_MAJOR, VERSION_MINOR};
use outboard_wire::line::{Event, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::socket;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::vmm_end::VmmEnd;
use zerocopy::IntoBytes;

/// Nanoseconds that the library may add.
const BUDGET: f64 = 50.0;
/// Turns, and exits in each.
const TURNS: usize = 301;
const EXITS: u32 = 10_000;

fn main() -> ExitCode {
    let mut sdk = Sdk::new();
    let mut c = C::new();
    let mut over = false;
    println!("{:<8} {:>10} {:>14} {:>10}   (ns an exit)", "exit", "SDK", "C library", "added");
    for (name, kind) in [("read", event_kind::READ), ("write", event_kind::WRITE)] {
        let event = Event { kind, address: 0x3f8, length: 4, width: 4, data: 5, ..Event::default() };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            first.push(turn(|| sdk.exit(&event)));
            second.push(turn(|| c.exit(&event)));
        }
        let (first, second) = (median(first), median(second));
        println!("{name:<8} {first:>10.1} {second:>14.1} {:>10.1}", second - first);
        over |= second - first > BUDGET;
    }
    if over { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds of one exit.
fn turn(mut exit: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..EXITS {
        exit();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(EXITS)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The VMM's end of one vCPU.
struct Vmm {
    end: VmmEnd,
    never: AtomicU32,
}

impl Vmm {
    /// A VMM that greets whoever connects to the socket, and nothing else.
    fn new() -> (Vmm, OwnedFd) {
        let (ours, theirs) = socket::pair().expect("a socket pair");
        let [down, up] = [(); 2].map(|()| GuestMemory::new(STRIDE).expect("a memfd"));
        let to_plugin = Arc::new(Blocks::map(down.as_fd(), 1, Access::Write).expect("a mapping"));
        let to_vmm = Arc::new(Blocks::map(up.as_fd(), 1, Access::Read).expect("a mapping"));
        let end = VmmEnd::new(
            BlockRef::new(&to_plugin, 0).expect("a block"),
            BlockRef::new(&to_vmm, 0).expect("a block"),
            Spinner::new(SpinMode::Always, 2_000_000),
            Arc::new(SpinLimit::new(2, 1)),
            Arc::new(OnceLock::new()),
        );
        std::thread::spawn(move || greet(&theirs, &[down.as_fd(), up.as_fd()]));
        (Vmm { end, never: AtomicU32::new(0) }, ours)
    }

    #[inline(always)]
    fn publish(&mut self, event: &Event) {
        self.end.publish(black_box(event));
    }

    #[inline(always)]
    fn take_answer(&mut self) {
        black_box(self.end.wait_answer(0, &self.never).expect("an answer"));
    }
}

/// Answers Hello, and keeps the connection open.
fn greet(socket: &OwnedFd, fds: &[std::os::fd::BorrowedFd<'_>]) {
    let mut buffer = [0; MAX_FRAME];
    let (length, _) = socket::receive(socket.as_fd(), &mut buffer).expect("a request");
    let (header, _) = frame::parse(&buffer[..length], 0).expect("a frame");
    assert_eq!(header.kind, Kind::Hello as u16);
    let hello = HelloReply {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR,
        layout: block::LAYOUT,
        vcpus: 1,
        cpus: 2,
        spin_mode: SPIN_ALWAYS,
        reserved: 0,
        spin_ns: 0,
        tsc_khz: 2_000_000,
    };
    let reply = Header::reply(header.kind, header.sequence, 0, size_of_val(&hello), fds.len());
    let message = [reply.as_bytes(), hello.as_bytes()].concat();
    socket::send(socket.as_fd(), &message, fds).expect("the plugin is there");
    let _ = socket::receive(socket.as_fd(), &mut buffer);
}

/// A plugin on the SDK, in the shape that the C library has to use it in.
struct Sdk {
    vmm: Vmm,
    vcpu: Vcpu,
    _connection: Connection,
}

impl Sdk {
    fn new() -> Sdk {
        let (vmm, socket) = Vmm::new();
        let connection = Connection::over(socket).expect("a connection");
        let vcpu = connection.vcpu(0).expect("a vCPU");
        Sdk { vmm, vcpu, _connection: connection }
    }

    #[inline(always)]
    fn exit(&mut self, event: &Event) {
        self.vmm.publish(event);
        match self.vcpu.next_event().expect("an event") {
            RawEvent::Read(_) => self.vcpu.data_mut()[0] = 7,
            RawEvent::Write(_) => {
                black_box(self.vcpu.data()[0]);
            }
            other => panic!("{other:?}"),
        }
        self.vcpu.resume().expect("it stands still");
        self.vmm.take_answer();
    }
}

/// `struct crosvm_vcpu_event` of an access.
#[repr(C)]
struct CEvent {
    kind: u32,
    padding: u32,
    space: u32,
    padding2: u32,
    address: u64,
    data: *mut u8,
    length: u32,
    is_write: u8,
    rest: [u8; 35],
}
const _: () = assert!(size_of::<CEvent>() == 72);

/// A plugin on the C library.
struct C {
    vmm: Vmm,
    vcpu: *mut c_void,
    wait: unsafe extern "C" fn(*mut c_void, *mut CEvent) -> c_int,
    resume: unsafe extern "C" fn(*mut c_void) -> c_int,
}

impl C {
    fn new() -> C {
        let (vmm, socket) = Vmm::new();
        // SAFETY: this thread alone reads the environment at this moment: the greeting threads do not.
        unsafe { std::env::set_var("CROSVM_SOCKET", socket.into_raw_fd().to_string()) };
        let library = library();
        let symbol = |name: &str| {
            let name = CString::new(name).expect("a name");
            // SAFETY: the library is open and the name a C string.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!found.is_null(), "{name:?} is not in the library");
            found
        };
        // SAFETY: the types are those of the header.
        let (connect, get_vcpu, wait, resume) = unsafe {
            (
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut *mut c_void) -> c_int>(symbol(
                    "crosvm_connect",
                )),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, u32, *mut *mut c_void) -> c_int>(
                    symbol("crosvm_get_vcpu"),
                ),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, *mut CEvent) -> c_int>(symbol(
                    "crosvm_vcpu_wait",
                )),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void) -> c_int>(symbol(
                    "crosvm_vcpu_resume",
                )),
            )
        };
        let (mut connection, mut vcpu) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both places are valid, and the descriptor in the environment was given away above.
        let connected = unsafe { (connect(&mut connection), get_vcpu(connection, 0, &mut vcpu)) };
        assert_eq!(connected, (0, 0));
        C { vmm, vcpu, wait, resume }
    }

    #[inline(always)]
    fn exit(&mut self, event: &Event) {
        self.vmm.publish(event);
        let mut seen = MaybeUninit::<CEvent>::uninit();
        // SAFETY: the handle and the place are good; a wait that succeeds fills the place, and `data` has `length` bytes
        // until the resume.
        unsafe {
            assert_eq!((self.wait)(self.vcpu, seen.as_mut_ptr()), 0);
            let seen = seen.assume_init();
            assert_eq!((seen.kind, seen.length), (1, 4));
            match seen.is_write {
                0 => *seen.data = 7,
                _ => {
                    black_box(*seen.data);
                }
            }
            assert_eq!((self.resume)(self.vcpu), 0);
        }
        self.vmm.take_answer();
    }
}

/// The library, built with the profile of the benches.
fn library() -> *mut c_void {
    let folder = Path::new(env!("CARGO_BIN_EXE_outboard")).parent().expect("a folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--release", "--package", "outboard-capi", "--target-dir"]);
    let root = env!("CARGO_MANIFEST_DIR");
    let built = cargo.arg(folder.parent().expect("the target folder")).current_dir(root).status();
    assert!(built.is_ok_and(|status| status.success()), "the library was not built");
    let path = CString::new(folder.join("libcrosvm_plugin.so").as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: the path is a C string, and the library's initialization has no conditions.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "{path:?} cannot be loaded");
    library
}
