//! What a processor of the machine is when it begins: its identification.

use outboard_plugin::kvm_bindings::kvm_cpuid_entry2;

/// Leaves from here on are the hypervisor's, 256 of them.
const HYPERVISOR: u32 = 0x4000_0000;

/// The leaves of processor number `id` of `cpus`: what the host supports, with the number where it belongs and without
/// KVM's paravirtual features, for which this machine has no need.
pub fn cpuid(supported: &[kvm_cpuid_entry2], id: u32, cpus: u32) -> Vec<kvm_cpuid_entry2> {
    let kept = supported.iter().filter(|leaf| !(HYPERVISOR..HYPERVISOR + 0x100).contains(&leaf.function));
    kept.map(|leaf| {
        let mut leaf = *leaf;
        match leaf.function {
            // Processors of a package and the local APIC's number (Intel SDM volume 2, CPUID).
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | cpus.min(255) << 16 | id << 24;
                leaf.edx = leaf.edx & !HTT | if cpus > 1 { HTT } else { 0 };
            }
            4 => leaf.eax = leaf.eax & 0x3fff | (cpus.next_power_of_two().min(64) - 1) << 26,
            0xb | 0x1f => topology(&mut leaf, id, cpus),
            _ => {}
        }
        leaf
    })
    .collect()
}

const HTT: u32 = 1 << 28;

/// Each processor is a core of one package, with a single thread.
fn topology(leaf: &mut kvm_cpuid_entry2, id: u32, cpus: u32) {
    let bits = cpus.next_power_of_two().trailing_zeros();
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = match leaf.index {
        0 => (0, 1, 1 << 8, id),
        1 => (bits, cpus, 2 << 8 | 1, id),
        index => (0, 0, index, id),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    #[test]
    fn processors_know_their_number() {
        let supported =
            [leaf(0, 0), leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(HYPERVISOR, 0), leaf(HYPERVISOR + 1, 0)];
        let leaves = cpuid(&supported, 2, 3);
        assert_eq!(leaves.len(), 4);
        assert_eq!(leaves[1].ebx, 3 << 16 | 2 << 24);
        assert_ne!(leaves[1].edx & HTT, 0);
        assert_eq!((leaves[2].eax, leaves[2].edx), (0, 2));
        assert_eq!((leaves[3].eax, leaves[3].ebx), (2, 3));
    }
}
