//! What a processor of the machine is when it begins: its identification.

use outboard_plugin::kvm_bindings::kvm_cpuid_entry2;

/// Leaves from here on are the hypervisor's, 256 of them.
const HYPERVISOR: u32 = 0x4000_0000;

/// Leaves in which Intel's processors tell the frequencies of their clocks.
const CRYSTAL: u32 = 0x15;
const FREQUENCY: u32 = 0x16;
/// Clock of KVM's local APIC timer in Hz, which a system takes the crystal's clock for (`APIC_BUS_CYCLE_NS` of KVM).
const APIC_CLOCK: u32 = 1_000_000_000;

/// What processors are told of.
#[derive(Clone, Debug)]
pub struct About {
    /// What the host supports.
    pub supported: Vec<kvm_cpuid_entry2>,
    /// Number of processors.
    pub cpus: u32,
    /// Frequency of the TSC in kHz; 0 if it is not known.
    pub tsc_khz: u32,
}

/// The leaves of processor number `id`: what the host supports, with the number where it belongs and without KVM's
/// paravirtual features, for which this machine has no need. The frequency of the TSC takes their place where processors
/// tell it, so that no guest has to measure it, which goes wrong where code is emulated.
pub fn cpuid(about: &About, id: u32) -> Vec<kvm_cpuid_entry2> {
    let cpus = about.cpus;
    let tells = about.tsc_khz > 0 && about.supported.iter().any(|leaf| leaf.function == 0 && leaf.ebx == GENUINE_INTEL);
    let is_dropped = |leaf: &kvm_cpuid_entry2| match leaf.function {
        CRYSTAL | FREQUENCY => tells,
        function => (HYPERVISOR..HYPERVISOR + 0x100).contains(&function),
    };
    let frequencies = if tells { frequencies(about.tsc_khz).to_vec() } else { Vec::new() };
    let kept = about.supported.iter().copied().filter(|leaf| !is_dropped(leaf)).chain(frequencies);
    kept.map(|leaf| {
        let mut leaf = leaf;
        match leaf.function {
            0 if tells => leaf.eax = leaf.eax.max(FREQUENCY),
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
/// The first word of the maker's name.
const GENUINE_INTEL: u32 = u32::from_le_bytes(*b"Genu");

/// The ratio of the TSC to the crystal, and the processor's frequency in MHz.
fn frequencies(tsc_khz: u32) -> [kvm_cpuid_entry2; 2] {
    let (mhz, (above, below)) = ((tsc_khz / 1000).min(0xffff), ratio(tsc_khz));
    let crystal = kvm_cpuid_entry2 { function: CRYSTAL, eax: below, ebx: above, ecx: APIC_CLOCK, ..Default::default() };
    [crystal, kvm_cpuid_entry2 { function: FREQUENCY, eax: mhz, ebx: mhz, ecx: 100, ..Default::default() }]
}

/// The TSC's frequency by that of the crystal, as numerator and denominator. Linux and U-Boot multiply the crystal's kHz
/// by the numerator in 32 bits, so that it has to be small; the best fraction of that size is off by less than 1 ppm.
fn ratio(tsc_khz: u32) -> (u32, u32) {
    const CRYSTAL_KHZ: u64 = (APIC_CLOCK / 1000) as u64;
    const LARGEST: u64 = u32::MAX as u64 / CRYSTAL_KHZ;
    let khz = u64::from(tsc_khz);
    let rounded = |below: u64| (khz * below + CRYSTAL_KHZ / 2) / CRYSTAL_KHZ;
    let fractions =
        (1..=LARGEST).map(|below| (rounded(below), below)).filter(|(above, _)| (1..=LARGEST).contains(above));
    // How far above / below is from khz / crystal, by cross-multiplication, in units that the denominators make alike.
    let off = |(above, below): &(u64, u64)| (above * CRYSTAL_KHZ).abs_diff(khz * below) * LARGEST / below;
    let (above, below) = fractions.min_by_key(off).unwrap_or((1, 1));
    (above as u32, below as u32)
}

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
        let leaves = cpuid(&About { supported: supported.to_vec(), cpus: 3, tsc_khz: 2_000_000 }, 2);
        assert_eq!(leaves.len(), 4);
        assert_eq!(leaves[1].ebx, 3 << 16 | 2 << 24);
        assert_ne!(leaves[1].edx & HTT, 0);
        assert_eq!((leaves[2].eax, leaves[2].edx), (0, 2));
        assert_eq!((leaves[3].eax, leaves[3].ebx), (2, 3));
    }

    #[test]
    fn processors_of_intel_know_their_frequency() {
        let first = kvm_cpuid_entry2 { ebx: GENUINE_INTEL, eax: 0xd, ..leaf(0, 0) };
        let leaves = cpuid(&About { supported: vec![first, leaf(CRYSTAL, 0)], cpus: 1, tsc_khz: 2_445_000 }, 0);
        assert_eq!((leaves.len(), leaves[0].eax), (3, FREQUENCY));
        assert_eq!((leaves[1].function, leaves[2].eax), (CRYSTAL, 2445));
    }

    #[test]
    fn the_frequency_survives_arithmetic_of_32_bits() {
        for khz in [800_000, 1_999_999, 2_445_404, 2_600_000, 3_692_123, 4_999_999, 5_700_001] {
            let [crystal, _] = frequencies(khz);
            let told = (crystal.ecx / 1000).checked_mul(crystal.ebx).unwrap() / crystal.eax;
            assert!(told.abs_diff(khz) <= khz / 1_000_000 + 1, "{told} for {khz}");
        }
    }
}
