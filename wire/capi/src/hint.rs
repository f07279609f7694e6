//! The hint: registers that travel with one access.

use core::ffi::c_int;

use outboard_plugin::{Files, Hint, HintDetail};

use crate::abi;
use crate::call::{Errno, call};
use crate::connection::{self, Crosvm};
use crate::pointer;

/// Sets the hint, or clears it if there are none.
///
/// # Safety
/// `hints` is null or valid for reads of `count` hints, and `details` in each of them is null or valid for reads of
/// `details_count` details.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn crosvm_set_hypercall_hint(crosvm: *mut Crosvm, count: u32, hints: *const abi::Hint) -> c_int {
    call!(crosvm_set_hypercall_hint, {
        if count > abi::MAX_HINT_COUNT {
            return Err(Errno::INVALID);
        }
        // SAFETY: as the caller vouches; a hint consists of numbers and a pointer.
        let hint = match unsafe { pointer::list(hints, count)? } {
            [] => None,
            // SAFETY: as the caller vouches.
            [hint, ..] => Some(unsafe { convert(hint)? }),
        };
        connection::with(crosvm, |connection| connection.set_hint(hint.as_ref()))
    })
}

/// # Safety
/// `details` is null or valid for reads of `details_count` details.
unsafe fn convert(hint: &abi::Hint) -> Result<Hint, Errno> {
    let known = hint.hint_version == 0 && hint.reserved == 0 && hint.address_flags & !abi::HINT_ON_WRITE == 0;
    if !known || hint.address == 0 || hint.details_count > abi::MAX_HINT_DETAIL_COUNT {
        return Err(Errno::INVALID);
    }
    // SAFETY: as the caller vouches; a detail consists of numbers.
    let details = unsafe { pointer::list(hint.details, hint.details_count.into())? };
    Ok(Hint {
        space: abi::space(hint.address_space)?,
        address: hint.address,
        on_write: hint.address_flags & abi::HINT_ON_WRITE != 0,
        details: details.iter().map(detail).collect(),
    })
}

fn detail(detail: &abi::HintDetail) -> HintDetail {
    let mut registers = [None; 4];
    for (index, register) in registers.iter_mut().enumerate() {
        *register = (detail.match_registers[index] != 0).then_some(detail.registers[index]);
    }
    let sregs = if detail.send_sregs != 0 { Files::SREGS } else { Files::NONE };
    let debugregs = if detail.send_debugregs != 0 { Files::DEBUGREGS } else { Files::NONE };
    HintDetail { registers, files: sregs | debugregs }
}
