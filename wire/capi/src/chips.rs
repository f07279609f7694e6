//! KVM's own devices: interrupt controllers, timer, clock; and where it keeps a page for itself.

use core::ffi::c_int;

use outboard_plugin::kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};

use crate::call::call;
use crate::connection::{Crosvm, with};
use crate::pointer;

/// Exports the pair of functions that gets and sets the state of a device.
macro_rules! chip {
    ($what:literal, $type:ty, $get:ident => $from:ident, $set:ident => $to:ident) => {
        #[doc = concat!("Gets the state of ", $what, ".")]
        ///
        /// # Safety
        /// `to` is null or valid for writes of the struct.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $get(crosvm: *mut Crosvm, to: *mut $type) -> c_int {
            call!($get, {
                // SAFETY: as the caller vouches.
                let to = unsafe { pointer::place(to)? };
                to.write(with(crosvm, |connection| connection.$from())?);
                Ok(())
            })
        }

        #[doc = concat!("Sets the state of ", $what, ".")]
        ///
        /// # Safety
        /// `from` is null or valid for reads of the struct.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $set(crosvm: *mut Crosvm, from: *const $type) -> c_int {
            call!($set, {
                // SAFETY: as the caller vouches; the struct consists of numbers.
                let from = unsafe { pointer::read(from)? };
                with(crosvm, |connection| connection.$to(&from))
            })
        }
    };
}

chip!("the I/O APIC", kvm_ioapic_state, crosvm_get_ioapic_state => ioapic, crosvm_set_ioapic_state => set_ioapic);
chip!("the timer", kvm_pit_state2, crosvm_get_pit_state => pit, crosvm_set_pit_state => set_pit);
chip!("the guest's clock", kvm_clock_data, crosvm_get_clock => clock, crosvm_set_clock => set_clock);

/// Gets the state of one of the two PICs.
///
/// # Safety
/// `to` is null or valid for writes of the struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_get_pic_state(crosvm: *mut Crosvm, primary: bool, to: *mut kvm_pic_state) -> c_int {
    call!(crosvm_get_pic_state, {
        // SAFETY: as the caller vouches.
        let to = unsafe { pointer::place(to)? };
        to.write(with(crosvm, |connection| connection.pic(primary))?);
        Ok(())
    })
}

/// Sets the state of one of the two PICs.
///
/// # Safety
/// `from` is null or valid for reads of the struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_set_pic_state(crosvm: *mut Crosvm, primary: bool, from: *const kvm_pic_state) -> c_int {
    call!(crosvm_set_pic_state, {
        // SAFETY: as the caller vouches; the struct consists of numbers.
        let from = unsafe { pointer::read(from)? };
        with(crosvm, |connection| connection.set_pic(primary, &from))
    })
}

/// Moves the page that KVM needs for guests in real mode.
#[unsafe(no_mangle)]
pub extern "C" fn crosvm_set_identity_map_addr(crosvm: *mut Crosvm, address: u32) -> c_int {
    call!(crosvm_set_identity_map_addr, {
        with(crosvm, |connection| connection.set_identity_map_address(address.into()))
    })
}
