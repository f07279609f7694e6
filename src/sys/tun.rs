//! Tap devices: what tun(4) (Documentation/networking/tuntap.rst) and netdevice(7) offer, one function per request.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check};
use super::ioctl::{self, KernelData, Read, ReadWrite, ior, iow};

/// Bytes of an interface's name, the zero at its end included: `IFNAMSIZ` of linux/if.h.
const NAME: usize = 16;

/// `struct ifreq` of linux/if.h: a name, and a union of 24 bytes of which each request uses its own member.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
struct IfReq {
    name: [u8; NAME],
    data: [u8; 24],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

// SAFETY: bytes have no invalid patterns. None of the requests below uses a member of the union that holds an address.
unsafe impl KernelData for IfReq {}

/// Declares requests that take an `ifreq` and give it back.
macro_rules! requests {
    ($($name:ident = $number:expr;)*) => {$(
        // SAFETY: netdevice(7) and linux/if_tun.h: the request reads and writes one `struct ifreq`, whatever its number
        // says of the size, and follows no address in it.
        const $name: ReadWrite<IfReq> = unsafe { ReadWrite::new($number, stringify!($name)) };
    )*};
}

requests! {
    TUNSETIFF = iow::<c_int>(b'T', 202);
    SIOCGIFFLAGS = libc::SIOCGIFFLAGS;
    SIOCSIFFLAGS = libc::SIOCSIFFLAGS;
    SIOCGIFADDR = libc::SIOCGIFADDR;
    SIOCSIFADDR = libc::SIOCSIFADDR;
    SIOCGIFNETMASK = libc::SIOCGIFNETMASK;
    SIOCSIFNETMASK = libc::SIOCSIFNETMASK;
    SIOCGIFHWADDR = libc::SIOCGIFHWADDR;
    SIOCSIFHWADDR = libc::SIOCSIFHWADDR;
}

// SAFETY: linux/if_tun.h: the request writes one `struct ifreq`.
const TUNGETIFF: Read<IfReq> = unsafe { Read::new(ior::<c_uint>(b'T', 210), "TUNGETIFF") };

/// The name of a network interface in the network namespace of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name([u8; NAME]);

impl Name {
    /// The name as text.
    pub fn text(&self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }

    fn request(&self) -> IfReq {
        IfReq { name: self.0, ..IfReq::default() }
    }
}

/// Makes a tap device that hands out whole Ethernet frames behind a `struct virtio_net_hdr`, under a name that the kernel
/// chooses from `vmtap%d`. It exists as long as its descriptor is open.
///
/// # Errors
/// `ENOENT` or `ENODEV` without the driver, `EPERM` without `CAP_NET_ADMIN` in this network namespace, `EACCES`.
pub fn create() -> Result<(OwnedFd, Name), Errno> {
    let device: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = IfReq::default();
    request.name[..7].copy_from_slice(b"vmtap%d");
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    ioctl::update(device.as_fd(), TUNSETIFF, &mut request)?;
    Ok((device.into(), Name(request.name)))
}

/// The device behind a descriptor: its name, and whether it hands out Ethernet frames (tap) or IP packets (tun).
///
/// # Errors
/// `ENOTTY` and others if it is none, `EBADFD` if it is the driver without a device.
pub fn device(fd: BorrowedFd<'_>) -> Result<(Name, bool), Errno> {
    let IfReq { name, data } = ioctl::read(fd, TUNGETIFF)?;
    let flags = u16::from_ne_bytes([data[0], data[1]]);
    Ok((Name(name), c_int::from(flags) & libc::IFF_TAP != 0))
}

/// A duplicate of a descriptor that this process was started with. The original is closed on exec from here on.
///
/// # Errors
/// `EBADF` if there is none with this number.
pub fn inherited(number: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed, and a duplicate takes nothing from whoever owns the original.
    let fd = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the call has just returned this descriptor and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no memory is passed; every descriptor that this program opens by itself is closed on exec already.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    Ok(fd)
}

/// A socket to ask about interfaces; it carries no traffic.
///
/// # Errors
/// `EMFILE`, or `EAFNOSUPPORT` without IPv4.
pub fn socket() -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call has just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The IPv4 address of an interface.
///
/// # Errors
/// `EADDRNOTAVAIL` if it has none, `ENODEV` if there is no such interface in this namespace.
pub fn address(socket: BorrowedFd<'_>, name: &Name) -> Result<Ipv4Addr, Errno> {
    get_address(socket, name, SIOCGIFADDR)
}

/// Gives an interface an IPv4 address.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for an address that no host can have.
pub fn set_address(socket: BorrowedFd<'_>, name: &Name, address: Ipv4Addr) -> Result<(), Errno> {
    set_ipv4(socket, name, SIOCSIFADDR, address)
}

/// The netmask of an interface's IPv4 address.
///
/// # Errors
/// As [`address`].
pub fn netmask(socket: BorrowedFd<'_>, name: &Name) -> Result<Ipv4Addr, Errno> {
    get_address(socket, name, SIOCGIFNETMASK)
}

/// Sets the netmask of an interface's IPv4 address.
///
/// # Errors
/// `EINVAL` for a mask with holes, `EADDRNOTAVAIL` without an address.
pub fn set_netmask(socket: BorrowedFd<'_>, name: &Name, mask: Ipv4Addr) -> Result<(), Errno> {
    set_ipv4(socket, name, SIOCSIFNETMASK, mask)
}

/// The MAC address of an interface.
///
/// # Errors
/// `ENODEV` if there is no such interface in this namespace.
pub fn mac(socket: BorrowedFd<'_>, name: &Name) -> Result<[u8; 6], Errno> {
    let mut request = name.request();
    ioctl::update(socket, SIOCGIFHWADDR, &mut request)?;
    // A `struct sockaddr`: the family, then the address.
    Ok(request.data[2..8].try_into().expect("six bytes"))
}

/// Gives an interface a MAC address. It has to be down.
///
/// # Errors
/// `EADDRNOTAVAIL` for an address that no single device can have.
pub fn set_mac(socket: BorrowedFd<'_>, name: &Name, mac: [u8; 6]) -> Result<(), Errno> {
    let mut request = name.request();
    request.data[..2].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
    request.data[2..8].copy_from_slice(&mac);
    ioctl::update(socket, SIOCSIFHWADDR, &mut request).map(drop)
}

/// Switches an interface on.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn bring_up(socket: BorrowedFd<'_>, name: &Name) -> Result<(), Errno> {
    let mut request = name.request();
    ioctl::update(socket, SIOCGIFFLAGS, &mut request)?;
    let flags = u16::from_ne_bytes([request.data[0], request.data[1]]) | (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    request.data[..2].copy_from_slice(&flags.to_ne_bytes());
    ioctl::update(socket, SIOCSIFFLAGS, &mut request).map(drop)
}

fn get_address(socket: BorrowedFd<'_>, name: &Name, request: ReadWrite<IfReq>) -> Result<Ipv4Addr, Errno> {
    let mut data = name.request();
    ioctl::update(socket, request, &mut data)?;
    // A `struct sockaddr_in`: family, port, address in network byte order.
    let address: [u8; 4] = data.data[4..8].try_into().expect("four bytes");
    Ok(address.into())
}

fn set_ipv4(socket: BorrowedFd<'_>, name: &Name, request: ReadWrite<IfReq>, address: Ipv4Addr) -> Result<(), Errno> {
    let mut data = name.request();
    data.data[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    data.data[4..8].copy_from_slice(&address.octets());
    ioctl::update(socket, request, &mut data).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        assert_eq!((TUNSETIFF.number(), TUNGETIFF.number()), (0x4004_54ca, 0x8004_54d2));
    }

    #[test]
    fn what_is_no_tap_is_told_apart() {
        let null = File::open("/dev/null").unwrap();
        assert_eq!(device(null.as_fd()), Err(Errno::ENOTTY));
        assert_eq!(inherited(-1).unwrap_err(), Errno::EBADF);
        assert_eq!(inherited(1 << 20).unwrap_err(), Errno::EBADF);
    }

    #[test]
    fn a_name_ends_at_its_zero() {
        let mut name = [0; NAME];
        name[..4].copy_from_slice(b"tap3");
        assert_eq!(Name(name).text(), "tap3");
        assert_eq!(Name([b'x'; NAME]).text().len(), NAME);
    }

    #[test]
    fn loopback_has_its_address() {
        let mut name = [0; NAME];
        name[..2].copy_from_slice(b"lo");
        let socket = socket().unwrap();
        // A network namespace of its own may have no address there.
        match address(socket.as_fd(), &Name(name)) {
            Ok(address) => assert!(address.is_loopback()),
            Err(errno) => assert_eq!(errno, Errno::EADDRNOTAVAIL),
        }
        assert_eq!(address(socket.as_fd(), &Name([b'x'; NAME])).unwrap_err(), Errno::ENODEV);
    }
}
