//! Tap devices, in network namespaces of their own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;

use outboard::machine::tap::{Tap, TapAddress};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::common::cage::Cage;
use crate::common::machine::refused;
use crate::common::program::Program;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_tap_is_made).around(made).only(ROOT),
    case!(a_tap_is_handed_over).around(handed_over).only(ROOT),
    case!(two_taps_are_told_apart).around(both).only(ROOT),
    case!(hands_a_tap_over).around(wrong_taps).only(&[Cage::Caged]),
];

/// Only root makes tap devices.
const ROOT: &[Cage] = &[Cage::Caged, Cage::Uncaged];

const MAC: [u8; 6] = [2, 0, 0, 0, 0xab, 1];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 7, 6, 1);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const MAKE: [&str; 6] = ["--host_ip", "10.9.8.1", "--netmask", "255.255.255.0", "--mac", "02:00:00:00:ab:01"];

/// True if there is no way to make a tap device here, which is said aloud.
fn impossible() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/net/tun").is_err();
    let missing =
        opened || !std::process::Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|s| s.success());
    if missing && std::env::var_os("CI").is_none() {
        eprintln!("skipped: no /dev/net/tun, or no right to make network namespaces");
        return true;
    }
    false
}

fn made(case: &Case) -> Tested {
    if !impossible() {
        case.program().args(MAKE).in_network_namespace().start().ended().expect(0);
    }
    Ok(())
}

fn a_tap_is_made() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let net = vm.net_config(0)?;
    assert_eq!((net.host_ip, net.netmask, net.mac), (HOST, MASK, MAC));
    assert!(fcntl_getfd(&net.tap)?.contains(FdFlags::CLOEXEC));
    assert_eq!(ask_for(HOST, File::from(net.tap))?, MAC);
    refused(vm.net_config(1).map(drop), libc::ENODATA);
    // Again, as a device of its own.
    assert_eq!(ask_for(HOST, File::from(vm.net_config(0)?.tap))?, MAC);
    Ok(())
}

/// Asks the host over the tap which MAC address this one of its addresses has (ARP, RFC 826).
fn ask_for(address: Ipv4Addr, mut tap: File) -> Result<[u8; 6], std::io::Error> {
    // What stands before each frame: struct virtio_net_hdr, all zero for a frame that is whole.
    const HEADER: usize = 10;
    let guest = [2, 0, 0, 0, 0, 9];
    let mut request = vec![0; HEADER];
    request.extend([0xff; 6]);
    request.extend(guest);
    request.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(guest);
    let octets = address.octets();
    request.extend([octets[0], octets[1], octets[2], 77]);
    request.extend([0; 6]);
    request.extend(octets);
    tap.write_all(&request)?;
    let mut frame = [0; 2048];
    loop {
        let length = tap.read(&mut frame)?;
        let arp = &frame[HEADER..length];
        // Other frames are the host's own business, such as IPv6 router solicitations.
        if arp.len() >= 42 && arp[12..14] == [0x08, 0x06] && arp[20..22] == [0, 2] && arp[28..32] == octets {
            return Ok(arp[22..28].try_into().expect("six bytes"));
        }
    }
}

/// Runs this executable as [`hands_a_tap_over`], which becomes the program with this case as its plugin.
fn launch(case: &Case, words: &[&str]) -> Program {
    let mut program = Program::run_in(case.cage);
    program.launched_by(concat!(module_path!(), "::hands_a_tap_over")).plugin_is_this(case.name).args(words);
    program.in_network_namespace();
    program
}

fn handed_over(case: &Case) -> Tested {
    if !impossible() {
        launch(case, &[]).start().ended().expect(0);
    }
    Ok(())
}

fn both(case: &Case) -> Tested {
    if !impossible() {
        launch(case, &MAKE).start().ended().expect(0);
    }
    Ok(())
}

/// Makes a tap device, and becomes the program that the words behind the case name, with the device's number.
fn hands_a_tap_over() -> Tested {
    let tap = Tap::create(&TapAddress { ip: OTHER, netmask: MASK, mac: [2, 0, 0, 0, 0xab, 2] })?;
    let fd = tap.descriptor()?;
    fcntl_setfd(&fd, FdFlags::empty())?;
    let words: Vec<_> = std::env::args_os().skip(3).collect();
    let number = fd.as_raw_fd().to_string();
    Err(std::process::Command::new(&words[0]).args(&words[1..]).args(["--tap-fd", &number]).exec().into())
}

fn a_tap_is_handed_over() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let net = vm.net_config(0)?;
    assert_eq!((net.host_ip, net.netmask, net.mac), (OTHER, MASK, [2, 0, 0, 0, 0xab, 2]));
    assert_eq!(ask_for(OTHER, File::from(net.tap))?, net.mac);
    refused(vm.net_config(1).map(drop), libc::ENODATA);
    Ok(())
}

fn two_taps_are_told_apart() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let (first, second) = (vm.net_config(0)?, vm.net_config(1)?);
    assert_eq!((first.host_ip, second.host_ip), (HOST, OTHER));
    assert_eq!(ask_for(OTHER, File::from(second.tap))?, second.mac);
    assert_eq!(ask_for(HOST, File::from(first.tap))?, first.mac);
    refused(vm.net_config(2).map(drop), libc::ENODATA);
    Ok(())
}

/// Words that name no tap device end the program with a sentence and status 35.
fn wrong_taps(_: &Case) -> Tested {
    let ends_with = |words: &[&str], said: &str| {
        let mut program = Program::run();
        program.args(["--plugin", "/bin/true"]).args(words);
        program.start().ended().expect(35).complained(&[said]);
    };
    ends_with(&["--tap-fd", "2"], "2 is not in 3..");
    ends_with(&["--tap-fd", "999"], "--tap-fd 999 is no open descriptor");
    ends_with(&MAKE[..4], "--host_ip, --netmask and --mac make a tap device together: give all three");
    ends_with(&["--mac", "1:2"], "give six bytes in hexadecimal");
    ends_with(&["--netmask", "255.0.255.0"], "give a netmask");
    let null = File::open("/dev/null")?;
    fcntl_setfd(&null, FdFlags::empty())?;
    let number = null.as_raw_fd().to_string();
    ends_with(&["--tap-fd", &number], "is no tap device");
    Ok(())
}
