//! The typed requests about KVM's own devices and about what the host offers.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use bytemuck::{Pod, Zeroable};
use kvm_bindings::{kvm_clock_data, kvm_cpuid_entry2, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use outboard_wire::control as wire;
use outboard_wire::kvm_abi as abi;
use outboard_wire::limits::{INLINE_ROUTES, MAX_ROUTES};
use zerocopy::IntoBytes;

use crate::connection::{Connection, one};
use crate::error::Error;
use crate::sys;

/// Entries beyond which no list of KVM makes sense.
const MAX_LIST: usize = 1 << 16;

/// What a GSI raises, one line of the table of [`Connection::set_irq_routes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqRoute {
    /// Number of the GSI, below 4096.
    pub gsi: u32,
    /// What it raises.
    pub target: IrqTarget,
}

/// Where a [`IrqRoute`] leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqTarget {
    /// A pin of one of KVM's interrupt controllers.
    Chip {
        /// `KVM_IRQCHIP_*`: 0 first PIC, 1 second PIC, 2 IOAPIC.
        chip: u32,
        /// Number of the pin, from 0.
        pin: u32,
    },
    /// A message-signalled interrupt.
    Msi {
        /// Its address.
        address: u64,
        /// Its data.
        data: u32,
    },
}

/// A tap device and how it is configured, see [`Connection::net_config`].
#[derive(Debug)]
pub struct NetConfig {
    /// The device: each read and write is one packet.
    pub tap: OwnedFd,
    /// The host's address on it.
    pub host_ip: Ipv4Addr,
    /// The netmask that goes with the address.
    pub netmask: Ipv4Addr,
    /// The host's MAC address.
    pub mac: [u8; 6],
}

impl Connection {
    /// Replaces the whole table that says what each GSI raises; an empty one clears it. At the start KVM's controllers have
    /// GSIs 0 to 23.
    ///
    /// # Errors
    /// [`Error::TooMany`] past 4096 routes, which is KVM's limit; [`Error::Refused`] with `EINVAL` for a GSI, controller or
    /// pin that there is not.
    ///
    /// ```no_run
    /// use outboard_plugin::{IrqRoute, IrqTarget};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let mut routes = vec![IrqRoute { gsi: 4, target: IrqTarget::Chip { chip: 2, pin: 4 } }];
    /// routes.push(IrqRoute { gsi: 24, target: IrqTarget::Msi { address: 0xfee0_0000, data: 0x41 } });
    /// vm.set_irq_routes(&routes)?;
    /// let irq = vm.create_irq_event(24, false)?;
    /// irq.trigger(); // vector 0x41 on the first vCPU
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_irq_routes(&mut self, routes: &[IrqRoute]) -> Result<(), Error> {
        if routes.len() > MAX_ROUTES {
            return Err(Error::TooMany { what: "routes", got: routes.len(), limit: MAX_ROUTES });
        }
        let all: Vec<wire::Route> = routes.iter().map(wire_route).collect();
        let mut request =
            wire::SetRoutes { count: all.len() as u32, reserved: 0, routes: [wire::Route::default(); INLINE_ROUTES] };
        let done = if all.len() <= INLINE_ROUTES {
            request.routes[..all.len()].copy_from_slice(&all);
            self.call(&request, &[])
        } else {
            let mut table = File::from(sys::memfd().map_err(Error::io("make a memfd"))?);
            table.write_all(all.as_bytes()).map_err(Error::io("write the table of routes"))?;
            self.call(&request, &[table.as_fd()])
        };
        done.map(drop).map_err(|error| error.about(|| format!("route {} GSIs", routes.len())))
    }

    /// Delivers a message-signalled interrupt now, without a route. Returns whether a vCPU took it: none does if the guest
    /// blocks the interrupt or no vCPU has that address.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` where KVM has no interrupt controllers.
    pub fn signal_msi(&mut self, address: u64, data: u32) -> Result<bool, Error> {
        let say = || format!("signal the MSI {data:#x} to {address:#x}");
        let (reply, _) =
            self.call(&wire::SignalMsi { address, data, reserved: 0 }, &[]).map_err(|error| error.about(say))?;
        Ok(reply.delivered != 0)
    }

    /// The state of KVM's first or second i8259.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENXIO` where KVM has none; the other devices likewise.
    pub fn pic(&mut self, primary: bool) -> Result<kvm_pic_state, Error> {
        Ok(self.chip::<abi::Pic>(pic(primary))?.0)
    }

    /// Sets the state of KVM's first or second i8259.
    ///
    /// # Errors
    /// As [`Connection::pic`].
    pub fn set_pic(&mut self, primary: bool, state: &kvm_pic_state) -> Result<(), Error> {
        self.set_chip(pic(primary), &abi::Pic(*state))
    }

    /// The state of KVM's IOAPIC.
    ///
    /// # Errors
    /// As [`Connection::pic`].
    pub fn ioapic(&mut self) -> Result<kvm_ioapic_state, Error> {
        Ok(self.chip::<abi::Ioapic>(wire::CHIP_IOAPIC)?.0)
    }

    /// Sets the state of KVM's IOAPIC.
    ///
    /// # Errors
    /// As [`Connection::pic`].
    pub fn set_ioapic(&mut self, state: &kvm_ioapic_state) -> Result<(), Error> {
        self.set_chip(wire::CHIP_IOAPIC, &abi::Ioapic(*state))
    }

    /// The state of KVM's i8254.
    ///
    /// # Errors
    /// As [`Connection::pic`].
    pub fn pit(&mut self) -> Result<kvm_pit_state2, Error> {
        Ok(self.chip::<abi::Pit>(wire::CHIP_PIT)?.0)
    }

    /// Sets the state of KVM's i8254.
    ///
    /// # Errors
    /// As [`Connection::pic`].
    pub fn set_pit(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
        self.set_chip(wire::CHIP_PIT, &abi::Pit(*state))
    }

    /// The guest's paravirtual clock, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Refused`] with what KVM says.
    pub fn clock(&mut self) -> Result<kvm_clock_data, Error> {
        Ok(self.chip::<abi::Clock>(wire::CHIP_CLOCK)?.0)
    }

    /// Sets the guest's paravirtual clock. What [`Connection::clock`] gave is taken back: flags that KVM only reports are
    /// left out. With `KVM_CLOCK_REALTIME` the clock goes on by the time that passed since `realtime`; clear that flag
    /// for exactly the value of `clock`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` for flags that KVM does not know.
    pub fn set_clock(&mut self, clock: &kvm_clock_data) -> Result<(), Error> {
        self.set_chip(wire::CHIP_CLOCK, &abi::Clock(*clock))
    }

    fn chip<T: Pod>(&mut self, chip: u32) -> Result<T, Error> {
        let say = || format!("get the state of {}", chip_name(chip));
        let (reply, _) = self.call(&wire::GetChip { chip }, &[]).map_err(|error| error.about(say))?;
        Ok(bytemuck::pod_read_unaligned(&reply.state[..size_of::<T>()]))
    }

    fn set_chip<T: Pod>(&mut self, chip: u32, value: &T) -> Result<(), Error> {
        let mut state = [0; wire::CHIP_STATE];
        state[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
        let say = || format!("set the state of {}", chip_name(chip));
        self.call(&wire::SetChip { chip, reserved: 0, state }, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// Moves the page that KVM needs for real mode on some Intel hosts; 0 puts it where it was, at 0xfffbc000. Before
    /// [`Connection::start`].
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` after the start.
    pub fn set_identity_map_address(&mut self, address: u64) -> Result<(), Error> {
        let say = || format!("move the identity map to {address:#x}");
        self.call(&wire::SetIdentityMap { address }, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// The CPUID leaves that hardware and KVM support, to be changed and set by
    /// [`Registers::set_cpuid`](crate::Registers::set_cpuid).
    ///
    /// # Errors
    /// [`Error::Refused`] with what KVM says; the other lists likewise.
    pub fn supported_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        self.leaves(wire::LIST_SUPPORTED_CPUID, "list the supported CPUID leaves")
    }

    /// The CPUID leaves with features that KVM emulates, whatever the hardware has.
    ///
    /// # Errors
    /// As [`Connection::supported_cpuid`].
    pub fn emulated_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        self.leaves(wire::LIST_EMULATED_CPUID, "list the emulated CPUID leaves")
    }

    /// The CPUID leaves with which a guest is offered the Hyper-V interface.
    ///
    /// # Errors
    /// As [`Connection::supported_cpuid`]; `EINVAL` where KVM has no Hyper-V.
    pub fn hyperv_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        self.leaves(wire::LIST_HYPERV_CPUID, "list the Hyper-V CPUID leaves")
    }

    /// The MSRs that a guest can have, to save and restore.
    ///
    /// # Errors
    /// As [`Connection::supported_cpuid`].
    pub fn msr_indices(&mut self) -> Result<Vec<u32>, Error> {
        self.list(wire::LIST_MSRS, "list the MSRs")
    }

    /// The MSRs that describe features of the host's processors.
    ///
    /// # Errors
    /// As [`Connection::supported_cpuid`].
    pub fn feature_msr_indices(&mut self) -> Result<Vec<u32>, Error> {
        self.list(wire::LIST_FEATURE_MSRS, "list the feature MSRs")
    }

    fn leaves(&mut self, list: u32, what: &'static str) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        Ok(self.list::<abi::CpuidEntry>(list, what)?.into_iter().map(|leaf| leaf.0).collect())
    }

    fn list<T: Pod + Zeroable>(&mut self, list: u32, what: &'static str) -> Result<Vec<T>, Error> {
        let (reply, fds) = self.call(&wire::HostList { list }, &[]).map_err(|error| error.about(|| what.into()))?;
        if reply.entry as usize != size_of::<T>() || reply.count as usize > MAX_LIST {
            return Err(Error::Reply("it sent a list with other entries than asked for"));
        }
        let mut entries = vec![T::zeroed(); reply.count as usize];
        let bytes = bytemuck::cast_slice_mut(&mut entries);
        File::from(one(fds)?).read_exact_at(bytes, 0).map_err(Error::io("read a list"))?;
        Ok(entries)
    }

    /// The TSC frequency in kHz that vCPUs start with. The host's is [`Connection::tsc_khz`].
    ///
    /// # Errors
    /// [`Error::Refused`] with what KVM says.
    pub fn guest_tsc_khz(&mut self) -> Result<u32, Error> {
        Ok(self.call(&wire::GetTsc {}, &[])?.0.khz)
    }

    /// Sets the TSC frequency in kHz that vCPUs start with. Before [`Connection::start`].
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` after the start, for a frequency that the hardware cannot give, and from 2^31 kHz on.
    pub fn set_guest_tsc_khz(&mut self, khz: u32) -> Result<(), Error> {
        let say = || format!("set the guest's TSC to {khz} kHz");
        self.call(&wire::SetTsc { khz }, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// Tap device number `index`, from 0 in the order of the command line, and its configuration. Every call gives a
    /// descriptor of its own for the same device.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENODATA` if there are fewer.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let net = vm.net_config(0)?;
    /// println!("the host is {} on the guest's network", net.host_ip);
    /// # Ok(())
    /// # }
    /// ```
    pub fn net_config(&mut self, index: u32) -> Result<NetConfig, Error> {
        let say = || format!("hand out tap device {index}");
        let (reply, fds) = self.call(&wire::NetConfig { index }, &[]).map_err(|error| error.about(say))?;
        let wire::NetConfigReply { host_ip, netmask, mac, .. } = reply;
        Ok(NetConfig { tap: one(fds)?, host_ip: host_ip.into(), netmask: netmask.into(), mac })
    }
}

fn pic(primary: bool) -> u32 {
    if primary { wire::CHIP_PIC_PRIMARY } else { wire::CHIP_PIC_SECONDARY }
}

fn chip_name(chip: u32) -> &'static str {
    match chip {
        wire::CHIP_PIC_PRIMARY => "the first PIC",
        wire::CHIP_PIC_SECONDARY => "the second PIC",
        wire::CHIP_IOAPIC => "the IOAPIC",
        wire::CHIP_PIT => "the PIT",
        _ => "the clock",
    }
}

fn wire_route(route: &IrqRoute) -> wire::Route {
    let (kind, address, data) = match route.target {
        IrqTarget::Chip { chip, pin } => (wire::ROUTE_IRQCHIP, chip.into(), pin),
        IrqTarget::Msi { address, data } => (wire::ROUTE_MSI, address, data),
    };
    wire::Route { gsi: route.gsi, kind, address, data, reserved: 0 }
}
