//! Lists that KVM gives of what the host offers.

use bytemuck::cast_slice;
use kvm_bindings::kvm_cpuid_entry2;

use super::vm::Machine;
use crate::kvm::KvmError;
use crate::sys::errno::Errno;
use outboard_wire::control::{
    HostListReply, LIST_EMULATED_CPUID, LIST_FEATURE_MSRS, LIST_HYPERV_CPUID, LIST_MSRS, LIST_SUPPORTED_CPUID,
};
use outboard_wire::kvm_abi::CpuidEntry;

/// A list as bytes, its entries one behind the other.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// What the reply says of it.
    pub reply: HostListReply,
    /// The entries.
    pub bytes: Vec<u8>,
}

impl Machine {
    /// One of KVM's lists; see [`outboard_wire::control::HostList`].
    ///
    /// # Errors
    /// As listed there.
    pub fn list(&self, list: u32) -> Result<List, Errno> {
        match list {
            LIST_SUPPORTED_CPUID => self.system.supported_cpuid().map(leaves),
            LIST_EMULATED_CPUID => self.system.emulated_cpuid().map(leaves),
            LIST_HYPERV_CPUID => self.system.supported_hv_cpuid().map(leaves),
            LIST_MSRS => self.system.msr_index_list().map(indices),
            LIST_FEATURE_MSRS => self.system.msr_feature_index_list().map(indices),
            _ => return Err(Errno::EINVAL),
        }
        .map_err(|error: KvmError| error.errno)
    }
}

fn leaves(entries: Vec<kvm_cpuid_entry2>) -> List {
    let entries: Vec<CpuidEntry> = entries.into_iter().map(CpuidEntry).collect();
    list(size_of::<CpuidEntry>(), entries.len(), cast_slice(&entries))
}

fn indices(entries: Vec<u32>) -> List {
    list(size_of::<u32>(), entries.len(), cast_slice(&entries))
}

fn list(entry: usize, count: usize, bytes: &[u8]) -> List {
    List { reply: HostListReply { count: count as u32, entry: entry as u32 }, bytes: bytes.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_one_behind_the_other() {
        let List { reply, bytes } = indices(vec![0x0102, 3]);
        assert_eq!((reply, bytes), (HostListReply { count: 2, entry: 4 }, vec![2, 1, 0, 0, 3, 0, 0, 0]));
        let leaf = |function| kvm_cpuid_entry2 { function, ..Default::default() };
        let List { reply, bytes } = leaves(vec![leaf(1), leaf(2)]);
        assert_eq!((reply, bytes.len(), bytes[40]), (HostListReply { count: 2, entry: 40 }, 80, 2));
    }
}
