//! What the host offers: CPUID leaves, MSRs, a tap device.

use core::ffi::c_int;
use std::os::fd::IntoRawFd;

use outboard_plugin::kvm_bindings::kvm_cpuid_entry2;

use crate::abi;
use crate::call::call;
use crate::connection::{self, Crosvm};
use crate::place::{self, CrosvmVcpu};
use crate::pointer;

/// Exports a function that fills in a list: `-E2BIG` and the number that there is if it does not fit.
macro_rules! list {
    ($what:literal, $name:ident, $handle:ty, $entry:ty, |$from:ident| $list:expr) => {
        #[doc = concat!("Lists ", $what, ".")]
        ///
        /// # Safety
        /// `entries` is null or valid for writes of `count` entries; `out_count` is null or valid for writes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            $from: *mut $handle,
            count: u32,
            entries: *mut $entry,
            out_count: *mut u32,
        ) -> c_int {
            call!($name, {
                // SAFETY: as the caller vouches.
                unsafe { pointer::fill(entries, count, out_count, || $list) }
            })
        }
    };
}

list!(
    "the CPUID leaves that hardware and KVM support",
    crosvm_get_supported_cpuid,
    Crosvm,
    kvm_cpuid_entry2,
    |crosvm| connection::with(crosvm, |connection| connection.supported_cpuid())
);
list!("the CPUID leaves that KVM emulates", crosvm_get_emulated_cpuid, Crosvm, kvm_cpuid_entry2, |crosvm| {
    connection::with(crosvm, |connection| connection.emulated_cpuid())
});
list!("the MSRs that a guest can have", crosvm_get_msr_index_list, Crosvm, u32, |crosvm| connection::with(
    crosvm,
    |connection| connection.msr_indices()
));
list!("the CPUID leaves of the Hyper-V interface", crosvm_get_hyperv_cpuid, CrosvmVcpu, kvm_cpuid_entry2, |vcpu| {
    // The list is the same for every vCPU and comes over a connection, but asking is a vCPU's request, with its order.
    place::with(vcpu, |registers| registers.get_msrs(&mut []))?;
    connection::with_any(|connection| connection.hyperv_cpuid())
});

/// Hands out the first tap device and its configuration.
///
/// # Safety
/// `config` is null or valid for writes of the struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_net_get_config(crosvm: *mut Crosvm, config: *mut abi::NetConfig) -> c_int {
    call!(crosvm_net_get_config, {
        // SAFETY: as the caller vouches.
        let config = unsafe { pointer::place(config)? };
        let net = connection::with(crosvm, |connection| connection.net_config(0))?;
        config.write(abi::NetConfig {
            tap_fd: net.tap.into_raw_fd(),
            // The octets in memory order, which is network byte order.
            host_ip: u32::from_ne_bytes(net.host_ip.octets()),
            netmask: u32::from_ne_bytes(net.netmask.octets()),
            host_mac_address: net.mac,
            padding: [0; 2],
        });
        Ok(())
    })
}
