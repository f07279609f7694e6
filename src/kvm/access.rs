//! The exits that devices are made of, decoded apart from all others.
//!
//! Nearly every exit is an access to a port or to memory, and the time until the plugin hears of it counts. Decoding just
//! these two takes two comparisons; the decoder of all exits is several pages of code that a return from the guest finds
//! cold.

use std::mem::offset_of;

// The members of the union, which bindgen numbers in the order of the header.
use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4 as Io,
    kvm_run__bindgen_ty_1__bindgen_ty_6 as Mmio,
};

use super::exit::Payload;

/// An address space of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// I/O ports, 16-bit addresses.
    Port,
    /// Memory, guest physical addresses.
    Mmio,
}

/// An access of the guest, in the words that ports and memory have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Address space.
    pub space: Space,
    /// Whether the guest writes.
    pub is_write: bool,
    /// Bytes of one item: string I/O moves several through one port.
    pub width: u8,
    /// Bytes altogether.
    pub length: u32,
    /// First address.
    pub address: u64,
    /// Where the data is, in bytes from the start of the run page.
    data_offset: u64,
}

impl Access {
    /// An access that no run page has given: to try code with. It has no data.
    pub fn new(space: Space, address: u64, is_write: bool, width: u8, count: u32) -> Access {
        let length = u32::from(width).saturating_mul(count);
        Access { space, is_write, width, length, address, data_offset: u64::MAX }
    }

    /// Decodes an exit: its number, and the union that goes with it. `None` if it is no access.
    #[inline]
    pub(super) fn decode(reason: u32, payload: &Payload) -> Option<Access> {
        let bytes: &[u8] = bytemuck::bytes_of(payload);
        if reason == KVM_EXIT_IO {
            let [width] = at(bytes, offset_of!(Io, size));
            let count = u32::from_le_bytes(at(bytes, offset_of!(Io, count)));
            return Some(Access {
                space: Space::Port,
                is_write: at::<1>(bytes, offset_of!(Io, direction)) == [KVM_EXIT_IO_OUT as u8],
                width,
                length: u32::from(width).saturating_mul(count),
                address: u16::from_le_bytes(at(bytes, offset_of!(Io, port))).into(),
                data_offset: u64::from_le_bytes(at(bytes, offset_of!(Io, data_offset))),
            });
        }
        if reason == KVM_EXIT_MMIO {
            let length = u32::from_le_bytes(at(bytes, offset_of!(Mmio, len))).min(8);
            return Some(Access {
                space: Space::Mmio,
                is_write: at(bytes, offset_of!(Mmio, is_write)) != [0],
                width: length as u8,
                length,
                address: u64::from_le_bytes(at(bytes, offset_of!(Mmio, phys_addr))),
                data_offset: (offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(Mmio, data)) as u64,
            });
        }
        None
    }

    /// Where the data lies in a run page of `page` bytes, if it does: KVM is believed, but not with a pointer.
    #[inline]
    pub(super) fn data_range(&self, page: usize) -> Option<(usize, usize)> {
        let (offset, length) = (usize::try_from(self.data_offset).ok()?, self.length as usize);
        let behind = match self.space {
            Space::Port => size_of::<kvm_run>(),
            Space::Mmio => 0,
        };
        (offset >= behind && offset.checked_add(length)? <= page).then_some((offset, length))
    }
}

/// Bytes at a constant offset within the payload, so that no bounds check is left in the compiled code.
#[inline(always)]
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}
