//! Tap devices that are handed to the plugin: made here, or taken over from whoever started this program.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::errno::Errno;
use crate::sys::tun;
use outboard_wire::control::NetConfigReply;

/// How a tap device shall be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapAddress {
    /// The host's IPv4 address.
    pub ip: Ipv4Addr,
    /// Its netmask.
    pub netmask: Ipv4Addr,
    /// The host's MAC address.
    pub mac: [u8; 6],
}

/// Why there is no tap device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// The driver is missing.
    #[error(
        "/dev/net/tun cannot be used for a tap device: {0}; load the module tun, or offer the device to this container"
    )]
    Missing(Errno),
    /// Making a device is not allowed here.
    #[error("may not make a tap device ({0}): run with CAP_NET_ADMIN, or hand a device over with --tap-fd")]
    Permission(Errno),
    /// A setting was refused.
    #[error("cannot {what} of the tap device {name}: {errno}")]
    Setting {
        /// What was tried.
        what: &'static str,
        /// The device.
        name: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The descriptor of the command line is not open.
    #[error("--tap-fd {0} is no open descriptor")]
    NotOpen(i32),
    /// The descriptor of the command line is something else.
    #[error("--tap-fd {0} is no tap device")]
    NotTap(i32),
}

/// A tap device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    /// To ask about it.
    socket: OwnedFd,
    name: tun::Name,
}

impl Tap {
    /// Makes a device with this configuration, and switches it on.
    ///
    /// # Errors
    /// A [`TapError`] that names what failed.
    pub fn create(address: &TapAddress) -> Result<Tap, TapError> {
        let (fd, name) = tun::create().map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => TapError::Permission(errno),
            _ => TapError::Missing(errno),
        })?;
        let tap = Tap { fd, socket: tun::socket().map_err(TapError::Missing)?, name };
        let socket = tap.socket.as_fd();
        tun::set_mac(socket, &name, address.mac).map_err(tap.failed("set the MAC address"))?;
        tun::set_address(socket, &name, address.ip).map_err(tap.failed("set the IP address"))?;
        tun::set_netmask(socket, &name, address.netmask).map_err(tap.failed("set the netmask"))?;
        tun::bring_up(socket, &name).map_err(tap.failed("change the state"))?;
        Ok(tap)
    }

    /// Takes over a device that this process was started with.
    ///
    /// # Errors
    /// [`TapError::NotOpen`], [`TapError::NotTap`], and [`TapError::Setting`] if the device is in another network namespace.
    pub fn inherited(number: i32) -> Result<Tap, TapError> {
        let fd = tun::inherited(number).map_err(|_| TapError::NotOpen(number))?;
        let (name, is_tap) = tun::device(fd.as_fd()).map_err(|_| TapError::NotTap(number))?;
        if !is_tap {
            return Err(TapError::NotTap(number));
        }
        let tap = Tap { fd, socket: tun::socket().map_err(TapError::Missing)?, name };
        tap.config().map_err(tap.failed("read the configuration"))?;
        Ok(tap)
    }

    /// A descriptor of the device for the plugin.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn descriptor(&self) -> Result<OwnedFd, Errno> {
        Ok(self.fd.try_clone()?)
    }

    /// How the device is configured now. A device without an address has 0.0.0.0.
    ///
    /// # Errors
    /// `ENODEV` if it is not in the network namespace of this process.
    pub fn config(&self) -> Result<NetConfigReply, Errno> {
        let or_none = |address: Result<Ipv4Addr, Errno>| match address {
            Err(Errno::EADDRNOTAVAIL) => Ok(Ipv4Addr::UNSPECIFIED),
            other => other,
        };
        let socket = self.socket.as_fd();
        let mac = tun::mac(socket, &self.name)?;
        let host_ip = or_none(tun::address(socket, &self.name))?.octets();
        let netmask = or_none(tun::netmask(socket, &self.name))?.octets();
        Ok(NetConfigReply { host_ip, netmask, mac, reserved: [0; 2] })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> TapError + use<> {
        let name = self.name.text();
        move |errno| TapError::Setting { what, name, errno }
    }
}
