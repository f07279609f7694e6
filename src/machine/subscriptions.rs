//! Exits that the plugin asks for: what KVM has to be told so that they happen.

use kvm_bindings::{
    KVM_CAP_EXIT_HYPERCALL, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN,
};

use super::{IrqChip, Machine};
use crate::kvm::KvmError;
use crate::sys::errno::Errno;
use outboard_wire::control::{
    EXIT_DEBUG, EXIT_EMULATION_FAILURE, EXIT_HALT, EXIT_HYPERCALL, EXIT_IOAPIC_EOI, EXIT_MSR_RANGES, EXIT_MSR_UNKNOWN,
    EXITS, MSR_READ, MSR_WRITE, MsrRange, Subscribe,
};
use outboard_wire::limits::{MAX_MSR_RANGE, MAX_MSR_RANGES};

/// Exits that come of MSRs.
const EXIT_MSRS: u32 = EXIT_MSR_RANGES | EXIT_MSR_UNKNOWN;

impl Machine {
    /// Decides which exits the plugin is told of; see [`Subscribe`].
    ///
    /// # Errors
    /// As listed there.
    pub fn subscribe(&mut self, request: &Subscribe) -> Result<(), Errno> {
        let ranges = ranges(request)?;
        if request.exits & !self.offered() != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (before, after) = (self.rules.subscribed, request.exits);
        // While KVM changes, both what was wanted and what is wanted may happen, and shall be told.
        self.tell_of(before | after);
        let changed = self.ask_kvm(before, after, &ranges).map_err(|error| {
            log::warn!("exits cannot be had: {error}");
            error.errno
        });
        self.tell_of(if changed.is_ok() { after } else { before });
        changed
    }

    fn tell_of(&mut self, exits: u32) {
        self.rules.subscribed = exits;
        self.publish();
    }

    fn ask_kvm(&self, before: u32, after: u32, ranges: &[(u32, u32, u32)]) -> Result<(), KvmError> {
        if (before | after) & EXIT_MSRS != 0 {
            // No access that is filtered shall meet a KVM that does not know what to do with it.
            self.vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, 0, [msr_reasons(before | after), 0, 0, 0])?;
            self.vm.filter_msrs(ranges)?;
            self.vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, 0, [msr_reasons(after), 0, 0, 0])?;
        }
        if (before ^ after) & EXIT_HYPERCALL != 0 {
            let calls = if after & EXIT_HYPERCALL != 0 { self.check_extension(KVM_CAP_EXIT_HYPERCALL) } else { 0 };
            self.vm.enable_cap(KVM_CAP_EXIT_HYPERCALL, 0, [calls as u32 as u64, 0, 0, 0])?;
        }
        if (before ^ after) & EXIT_EMULATION_FAILURE != 0 {
            let on = u64::from(after & EXIT_EMULATION_FAILURE != 0);
            self.vm.enable_cap(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0, [on, 0, 0, 0])?;
        }
        Ok(())
    }

    /// The exits that this VM can have.
    fn offered(&self) -> u32 {
        let mut offered = EXITS;
        let mut needs = |exits: u32, there: bool| {
            if !there {
                offered &= !exits;
            }
        };
        needs(EXIT_MSRS, self.check_extension(KVM_CAP_X86_USER_SPACE_MSR) > 0);
        needs(EXIT_MSR_RANGES, self.check_extension(KVM_CAP_X86_MSR_FILTER) > 0);
        needs(EXIT_HALT, self.controllers.which() == IrqChip::None);
        needs(EXIT_HYPERCALL, self.check_extension(KVM_CAP_EXIT_HYPERCALL) > 0);
        needs(EXIT_DEBUG, self.check_extension(KVM_CAP_SET_GUEST_DEBUG) > 0);
        needs(EXIT_IOAPIC_EOI, self.controllers.which() == IrqChip::Split);
        needs(EXIT_EMULATION_FAILURE, self.check_extension(KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0);
        offered
    }
}

/// `KVM_MSR_EXIT_REASON_*` bits for these exits.
fn msr_reasons(exits: u32) -> u64 {
    let filter = if exits & EXIT_MSR_RANGES != 0 { KVM_MSR_EXIT_REASON_FILTER } else { 0 };
    let unknown = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    u64::from(filter | if exits & EXIT_MSR_UNKNOWN != 0 { unknown } else { 0 })
}

/// The checked ranges of a request: first, number, accesses, whose bits are KVM's own.
fn ranges(request: &Subscribe) -> Result<Vec<(u32, u32, u32)>, Errno> {
    let count = request.count as usize;
    let asked = request.exits & EXIT_MSR_RANGES != 0;
    if request.exits & !EXITS != 0 || count > MAX_MSR_RANGES || asked != (count > 0) {
        return Err(Errno::EINVAL);
    }
    let check = |range: &MsrRange| {
        let MsrRange { first, count, access, reserved } = *range;
        let fits = (1..=MAX_MSR_RANGE).contains(&count) && first.checked_add(count - 1).is_some();
        let known = reserved == 0 && access != 0 && access & !(MSR_READ | MSR_WRITE) == 0;
        if fits && known { Ok((first, count, access)) } else { Err(Errno::EINVAL) }
    };
    request.ranges[..count].iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_wire::control::EXIT_SYSTEM;

    fn request(exits: u32, given: &[MsrRange]) -> Subscribe {
        let mut request = Subscribe { exits, count: given.len() as u32, ranges: [MsrRange::default(); MAX_MSR_RANGES] };
        request.ranges[..given.len()].copy_from_slice(given);
        request
    }

    #[test]
    fn ranges_are_checked() {
        let right = MsrRange { first: 0x174, count: 3, access: 3, reserved: 0 };
        assert_eq!(ranges(&request(EXIT_MSR_RANGES, &[right; 16])).unwrap(), [(0x174, 3, 3); 16]);
        assert_eq!(ranges(&request(EXIT_SYSTEM, &[])), Ok(vec![]));
        assert!(ranges(&request(EXIT_MSR_RANGES, &[MsrRange { first: u32::MAX, count: 1, ..right }])).is_ok());
        for wrong in [
            MsrRange { count: 0, ..right },
            MsrRange { count: MAX_MSR_RANGE + 1, ..right },
            MsrRange { first: u32::MAX, count: 2, ..right },
            MsrRange { access: 0, ..right },
            MsrRange { access: 4, ..right },
            MsrRange { reserved: 1, ..right },
        ] {
            assert_eq!(ranges(&request(EXIT_MSR_RANGES, &[right, wrong])), Err(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(ranges(&request(EXIT_MSR_RANGES, &[])), Err(Errno::EINVAL));
        assert_eq!(ranges(&request(EXIT_MSR_UNKNOWN, &[right])), Err(Errno::EINVAL));
        assert_eq!(ranges(&request(EXITS + 1, &[])), Err(Errno::EINVAL));
        assert_eq!(ranges(&Subscribe { count: 17, ..request(EXIT_MSR_RANGES, &[right]) }), Err(Errno::EINVAL));
    }

    #[test]
    fn reasons_are_kvms() {
        assert_eq!((msr_reasons(EXIT_MSR_RANGES), msr_reasons(EXIT_MSR_UNKNOWN), msr_reasons(EXIT_SYSTEM)), (4, 3, 0));
    }
}
