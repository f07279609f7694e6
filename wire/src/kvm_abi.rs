//! KVM's register files as bytes.
//!
//! Register files travel in the layout that the kernel gives them (`linux/kvm.h`), so neither side converts anything. This
//! file lists them ([`File`]) and lets [`bytemuck`] see the foreign structs as bytes.

#![allow(unsafe_code)]

use bytemuck::{Pod, Zeroable};
use kvm_bindings as kvm;

use crate::limits::{MAX_CPUID, MAX_MSRS};

/// A register file or list that a command gets or sets; the number travels in
/// [`AnswerLine::file`](crate::line::AnswerLine::file).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum File {
    /// `struct kvm_regs`.
    Regs = 0,
    /// `struct kvm_sregs`.
    Sregs = 1,
    /// `struct kvm_debugregs`.
    Debugregs = 2,
    /// `struct kvm_fpu`.
    Fpu = 3,
    /// A list of `struct kvm_msr_entry`.
    Msrs = 4,
    /// A list of `struct kvm_cpuid_entry2`.
    Cpuid = 5,
    /// `struct kvm_mp_state`.
    MpState = 6,
    /// `struct kvm_xcrs`.
    Xcrs = 7,
    /// `struct kvm_lapic_state`.
    Lapic = 8,
    /// `struct kvm_vcpu_events`.
    VcpuEvents = 9,
    /// `struct kvm_xsave`.
    Xsave = 10,
    /// `struct kvm_enable_cap`, to be set only.
    Capability = 11,
    /// `struct kvm_guest_debug`, to be set only.
    GuestDebug = 12,
}

impl File {
    /// Every file, in the order of the numbers.
    pub const ALL: [File; 13] = [
        File::Regs,
        File::Sregs,
        File::Debugregs,
        File::Fpu,
        File::Msrs,
        File::Cpuid,
        File::MpState,
        File::Xcrs,
        File::Lapic,
        File::VcpuEvents,
        File::Xsave,
        File::Capability,
        File::GuestDebug,
    ];

    /// The file with this number, if there is one.
    pub fn from_number(number: u32) -> Option<File> {
        File::ALL.into_iter().find(|file| *file as u32 == number)
    }

    /// Bytes of the file, or of one entry of a list.
    pub fn entry_size(self) -> usize {
        match self {
            File::Regs => size_of::<Regs>(),
            File::Sregs => size_of::<Sregs>(),
            File::Debugregs => size_of::<Debugregs>(),
            File::Fpu => size_of::<Fpu>(),
            File::Msrs => size_of::<MsrEntry>(),
            File::Cpuid => size_of::<CpuidEntry>(),
            File::MpState => size_of::<MpState>(),
            File::Xcrs => size_of::<Xcrs>(),
            File::Lapic => size_of::<Lapic>(),
            File::VcpuEvents => size_of::<VcpuEvents>(),
            File::Xsave => size_of::<Xsave>(),
            File::Capability => size_of::<Capability>(),
            File::GuestDebug => size_of::<GuestDebug>(),
        }
    }

    /// Most entries of a command: 1 for a plain file.
    pub fn max_entries(self) -> usize {
        match self {
            File::Msrs => MAX_MSRS,
            File::Cpuid => MAX_CPUID,
            _ => 1,
        }
    }
}

/// Declares a newtype whose bytes may be read and written.
macro_rules! abi {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        // SAFETY: the struct consists of integers, arrays and unions of integers, for which zero bytes are valid.
        unsafe impl Zeroable for $name {}
        // SAFETY: as above, any bytes are valid, and it has no padding: the kernel names its padding fields, and the
        // assertion below compares the size with the sum of the fields in `linux/kvm.h`.
        unsafe impl Pod for $name {}

        const _: () = assert!(size_of::<$name>() == $size);
    };
}

abi!(
    /// General registers: 18 u64.
    #[derive(Debug, Default, PartialEq)]
    Regs, kvm::kvm_regs, 144
);
abi!(
    /// Segment and control registers: 8 segments of 24 bytes, 2 tables of 16, 7 u64, a bitmap of 4 u64.
    #[derive(Debug, Default, PartialEq)]
    Sregs, kvm::kvm_sregs, 312
);
abi!(
    /// Debug registers: 4 + 3 + 9 u64.
    #[derive(Debug, Default, PartialEq)]
    Debugregs, kvm::kvm_debugregs, 128
);
abi!(
    /// x87 and SSE state: 128 + 8 + 8 + 8 + 256 + 8 bytes.
    #[derive(Debug, Default, PartialEq)]
    Fpu, kvm::kvm_fpu, 416
);
abi!(
    /// One MSR: index, reserved, data.
    #[derive(Debug, Default, PartialEq)]
    MsrEntry, kvm::kvm_msr_entry, 16
);
abi!(
    /// One CPUID leaf: 10 u32.
    #[derive(Debug, Default, PartialEq)]
    CpuidEntry, kvm::kvm_cpuid_entry2, 40
);
abi!(
    /// Whether a vCPU runs, halts or waits for INIT or SIPI: one u32.
    #[derive(Debug, Default, PartialEq)]
    MpState, kvm::kvm_mp_state, 4
);
abi!(
    /// Extended control registers: a count, flags, 16 registers of 16 bytes, 128 bytes of padding.
    #[derive(Debug, Default, PartialEq)]
    Xcrs, kvm::kvm_xcrs, 392
);
abi!(
    /// The page of local APIC registers: 1024 bytes.
    #[derive(Debug, Default, PartialEq)]
    Lapic, kvm::kvm_lapic_state, 1024
);
abi!(
    /// Events that are pending or in service: 8 + 4 + 4 + 4 + 4 + 4 + 1 + 26 + 1 + 8 bytes.
    #[derive(Debug, Default, PartialEq)]
    VcpuEvents, kvm::kvm_vcpu_events, 64
);
abi!(
    /// `struct kvm_xsave` without the array of no length at its end: 1024 u32.
    #[derive(Debug, PartialEq)]
    Xsave, [u32; 1024], 4096
);
abi!(
    /// A capability to switch on: its number, flags, 4 u64, 64 bytes of padding.
    #[derive(Debug, Default, PartialEq)]
    Capability, kvm::kvm_enable_cap, 104
);
abi!(
    /// Breakpoints and single steps: 2 u32, 8 u64.
    #[derive(Debug, Default, PartialEq)]
    GuestDebug, kvm::kvm_guest_debug, 72
);
abi!(
    /// State of an i8259: 16 bytes.
    #[derive(Debug, Default, PartialEq)]
    Pic, kvm::kvm_pic_state, 16
);
abi!(
    /// State of the IOAPIC: u64, 4 u32, 24 u64.
    Ioapic, kvm::kvm_ioapic_state, 216
);
abi!(
    /// State of the i8254: 3 channels of 4 + 2 + 10 + 8 bytes, 10 u32.
    #[derive(Debug, Default, PartialEq)]
    Pit, kvm::kvm_pit_state2, 112
);
abi!(
    /// The paravirtual clock: u64, 2 u32, 2 u64, 4 u32.
    #[derive(Debug, Default, PartialEq)]
    Clock, kvm::kvm_clock_data, 48
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_found_by_its_number_and_fits_the_bulk_area() {
        for file in File::ALL {
            assert_eq!(File::from_number(file as u32), Some(file));
            assert!(file.entry_size() * file.max_entries() <= crate::limits::MAX_BULK);
        }
        assert_eq!(File::from_number(13), None);
    }

    #[test]
    fn the_last_field_of_each_file_ends_its_bytes() {
        let mut regs = Regs::default();
        regs.0.rflags = 0x0807_0605_0403_0201;
        assert_eq!(bytemuck::bytes_of(&regs)[136..], [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut sregs = Sregs::default();
        sregs.0.interrupt_bitmap[3] = 0x0807_0605_0403_0201;
        assert_eq!(bytemuck::bytes_of(&sregs)[304..], [1, 2, 3, 4, 5, 6, 7, 8]);
        let msr = MsrEntry(kvm::kvm_msr_entry { index: 1, reserved: 0, data: 0x0807_0605_0403_0201 });
        assert_eq!(bytemuck::bytes_of(&msr), [1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
