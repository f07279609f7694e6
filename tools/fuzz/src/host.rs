//! A VM in this process, without a plugin: what requests act on.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use outboard::jail::vmm::VmmCage;
use outboard::machine::IrqChip;
use outboard::plugin::requests::Host;
use outboard::plugin::{self, Affinity, Settings};
use outboard_wire::spin::SpinMode;

/// Settings of a run of this program, uncaged: the jail is not what is searched here, and it takes longer than all else.
pub fn settings(program: PathBuf, choice: u8) -> Settings {
    Settings {
        kvm: "/dev/kvm".into(),
        argv: vec![CString::from(c"fuzz")],
        program,
        name: None,
        vcpus: 1 + u32::from(choice & 1),
        affinity: Affinity::Any,
        spin: [SpinMode::Auto, SpinMode::Off][usize::from(choice >> 1 & 1)],
        irqchip: [IrqChip::Kernel, IrqChip::Split, IrqChip::None, IrqChip::Kernel][usize::from(choice >> 2 & 3)],
        socket: None,
        trace: None,
        stderr: None,
        trace_memory: false,
        drill: None,
        tap: None,
        tap_fds: Vec::new(),
        files: Vec::new(),
        environment: Vec::new(),
        cage: VmmCage { user: None, unfiltered: true },
        jail: None,
    }
}

/// A VM whose vCPUs have not started.
pub fn host(choice: u8) -> Host {
    plugin::bare_host(&settings("/nowhere".into(), choice)).expect("a VM")
}

/// Descriptors of every kind that a plugin might pass.
pub fn descriptor(kind: u8) -> OwnedFd {
    use outboard::sys::memfd::{self, Seals};
    use std::fs::File;
    use std::os::fd::AsFd;
    let sized = |pages: u64, seals| {
        let fd = memfd::create(c"outboard-fuzz").expect("a memfd");
        memfd::set_size(fd.as_fd(), pages * 4096).expect("room");
        memfd::add_seals(fd.as_fd(), seals).expect("a fresh memfd takes seals");
        fd
    };
    match kind % 12 {
        0..=4 => sized(16, Seals::SHRINK | Seals::GROW),
        5 => sized(16, Seals::SHRINK | Seals::GROW | Seals::FUTURE_WRITE),
        6 => memfd::create(c"outboard-fuzz").expect("a memfd"),
        7 => sized(1, Seals::SHRINK),
        8 => rustix::pipe::pipe().expect("a pipe").0,
        9 => File::open("/").expect("a folder").into(),
        10 => File::open("/dev/null").expect("a device").into(),
        _ => outboard_wire::socket::pair().expect("a pair").0,
    }
}
