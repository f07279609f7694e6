//! The table of GSIs, and messages without one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use kvm_bindings::{
    KVM_CAP_IRQ_ROUTING, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use zerocopy::{FromZeros, IntoBytes};

use super::Machine;
use crate::sys::errno::Errno;
use crate::sys::memfd;
use outboard_wire::control::{ROUTE_IRQCHIP, ROUTE_MSI, Route, SetRoutes, SignalMsi};
use outboard_wire::limits::{INLINE_ROUTES, MAX_ROUTES};

impl Machine {
    /// Replaces the table of GSIs; see [`SetRoutes`].
    ///
    /// # Errors
    /// As listed there.
    pub fn set_routes(&mut self, request: &SetRoutes, table: Option<OwnedFd>) -> Result<(), Errno> {
        let limit = MAX_ROUTES.min(self.check_extension(KVM_CAP_IRQ_ROUTING).max(0) as usize);
        let routes = routes(request, table, limit)?;
        let entries = routes.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        self.vm_with_controllers()?.set_gsi_routing(&entries).map_err(|error| error.errno)
    }

    /// Delivers a message-signalled interrupt; see [`SignalMsi`]. Returns whether a vCPU took it.
    ///
    /// # Errors
    /// As listed there.
    pub fn signal_msi(&mut self, request: &SignalMsi) -> Result<bool, Errno> {
        let SignalMsi { address, data, reserved: 0 } = *request else { return Err(Errno::EINVAL) };
        self.vm_with_controllers()?.signal_msi(address, data).map_err(|error| error.errno)
    }
}

/// A private copy of the routes that a request carries, at most `limit`.
fn routes(request: &SetRoutes, table: Option<OwnedFd>, limit: usize) -> Result<Vec<Route>, Errno> {
    let count = request.count as usize;
    if request.reserved != 0 || table.is_some() != (count > INLINE_ROUTES) {
        return Err(Errno::EINVAL);
    }
    if count > limit {
        return Err(Errno::E2BIG);
    }
    let Some(table) = table else { return Ok(request.routes[..count].to_vec()) };
    // Of a file in memory, because to read from it takes no longer than to copy. Read, not mapped: whatever the plugin
    // does to the file meanwhile, a read is at worst short.
    if !memfd::is_memory_file(table.as_fd()) {
        return Err(Errno::EINVAL);
    }
    let mut routes = vec![Route::new_zeroed(); count];
    File::from(table).read_exact_at(routes.as_mut_bytes(), 0).map_err(|_| Errno::EINVAL)?;
    Ok(routes)
}

/// KVM's form of a route.
fn entry(route: &Route) -> Result<kvm_irq_routing_entry, Errno> {
    let Route { gsi, kind, address, data, reserved } = *route;
    if reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let (type_, u) = match kind {
        ROUTE_IRQCHIP => {
            let irqchip = u32::try_from(address).map_err(|_| Errno::EINVAL)?;
            (KVM_IRQ_ROUTING_IRQCHIP, Target { irqchip: kvm_irq_routing_irqchip { irqchip, pin: data } })
        }
        ROUTE_MSI => {
            let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
            (
                KVM_IRQ_ROUTING_MSI,
                Target { msi: kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() } },
            )
        }
        _ => return Err(Errno::EINVAL),
    };
    Ok(kvm_irq_routing_entry { gsi, type_, u, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(count: u32) -> SetRoutes {
        SetRoutes { count, reserved: 0, routes: [Route { gsi: 7, ..Route::default() }; INLINE_ROUTES] }
    }

    /// A memfd that holds this many routes, whose GSIs count up.
    fn table(count: u32) -> Option<OwnedFd> {
        let routes: Vec<Route> = (0..count).map(|gsi| Route { gsi, ..Route::default() }).collect();
        let file = File::from(memfd::create(c"routes").unwrap());
        file.write_all_at(routes.as_bytes(), 0).unwrap();
        Some(file.into())
    }

    #[test]
    fn short_tables_are_inline_and_long_ones_in_a_memfd() {
        assert_eq!(routes(&request(0), None, 4096), Ok(vec![]));
        assert_eq!(routes(&request(64), None, 4096).unwrap().len(), 64);
        let long = routes(&request(65), table(70), 4096).unwrap();
        assert_eq!((long.len(), long[64].gsi), (65, 64));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        assert_eq!(routes(&request(64), table(64), 4096), Err(Errno::EINVAL));
        assert_eq!(routes(&request(65), None, 4096), Err(Errno::EINVAL));
        assert_eq!(routes(&request(65), table(64), 4096), Err(Errno::EINVAL));
        assert_eq!(routes(&request(4097), table(1), 4096), Err(Errno::E2BIG));
        assert_eq!(routes(&request(u32::MAX), table(1), 4096), Err(Errno::E2BIG));
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(routes(&request(65), Some(reader.into()), 4096), Err(Errno::EINVAL));
        assert_eq!(routes(&SetRoutes { reserved: 1, ..request(0) }, None, 4096), Err(Errno::EINVAL));
    }

    #[test]
    fn routes_take_kvms_form() {
        let pin = Route { gsi: 5, kind: ROUTE_IRQCHIP, address: 2, data: 9, reserved: 0 };
        let made = entry(&pin).unwrap();
        assert_eq!((made.gsi, made.type_, made.flags), (5, KVM_IRQ_ROUTING_IRQCHIP, 0));
        assert!(entry(&Route { kind: ROUTE_MSI, address: u64::MAX, ..pin }).is_ok());
        for wrong in [Route { kind: 2, ..pin }, Route { reserved: 1, ..pin }, Route { address: 1 << 32, ..pin }] {
            assert!(matches!(entry(&wrong), Err(Errno::EINVAL)));
        }
    }
}
