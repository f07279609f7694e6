//! Where interrupt lines lead.

use core::ffi::c_int;

use outboard_plugin::{IrqRoute, IrqTarget};

use crate::abi;
use crate::call::{Errno, call};
use crate::connection::{self, Crosvm};
use crate::pointer;

/// Replaces the routes of all lines.
///
/// # Safety
/// `routes` is null or valid for reads of `count` routes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_set_irq_routing(
    crosvm: *mut Crosvm,
    count: u32,
    routes: *const abi::IrqRoute,
) -> c_int {
    call!(crosvm_set_irq_routing, {
        // SAFETY: as the caller vouches; a route consists of numbers.
        let routes = unsafe { pointer::list(routes, count)? };
        let routes: Vec<IrqRoute> = routes.iter().map(convert).collect::<Result<_, Errno>>()?;
        connection::with(crosvm, |connection| connection.set_irq_routes(&routes))
    })
}

fn convert(route: &abi::IrqRoute) -> Result<IrqRoute, Errno> {
    let [low, high, data, _] = route.of;
    let target = match route.kind {
        abi::IRQ_ROUTE_IRQCHIP => IrqTarget::Chip { chip: low, pin: high },
        abi::IRQ_ROUTE_MSI => IrqTarget::Msi { address: u64::from(low) | u64::from(high) << 32, data },
        _ => return Err(Errno::INVALID),
    };
    Ok(IrqRoute { gsi: route.irq_id, target })
}
