//! Words of the command line, turned into settings: pure parsing and checks.

pub mod jail;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::kvm::Space;
use crate::machine::IrqChip;
use crate::machine::tap::TapAddress;
use crate::plugin::{Affinity, Drill};
use crate::vcpu::drill::Pattern;
use outboard_wire::spin::SpinMode;
use outboard_wire::stats::MAX_NAME;

/// Largest CPU number that a set may name; keeps a typing error from asking for a set of billions.
const MAX_CPU: usize = 8191;

/// Reads `--spin`: `auto`, `off`, `always` or a number of nanoseconds.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn spin(word: &str) -> Result<SpinMode, String> {
    match word {
        "auto" => Ok(SpinMode::Auto),
        "off" => Ok(SpinMode::Off),
        "always" => Ok(SpinMode::Always),
        number => number
            .parse()
            .map(SpinMode::For)
            .map_err(|_| "give auto, off, always, or the longest spin in nanoseconds".to_owned()),
    }
}

/// Reads what the hidden `--drill` takes: `SPACE:ADDRESS:SIZE:DIRECTION:COUNT[@CPU]`, the CPU being the plugin's.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn drill(word: &str) -> Result<Drill, String> {
    let wrong = || "give SPACE:ADDRESS:SIZE:DIRECTION:COUNT such as port:0x3f8:1:write:1000".to_owned();
    let (word, cpu) = word.split_once('@').map_or((word, None), |(word, cpu)| (word, Some(cpu)));
    let plugin_cpu = cpu.map(|cpu| cpu.parse().map_err(|_| wrong())).transpose()?;
    let parts: Vec<&str> = word.split(':').collect();
    let [space, address, size, direction, count] = parts[..] else { return Err(wrong()) };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| wrong()),
        None => text.parse().map_err(|_| wrong()),
    };
    let space = match space {
        "port" => Space::Port,
        "mmio" => Space::Mmio,
        _ => return Err(wrong()),
    };
    let (address, size, count) = (number(address)?, number(size)?, number(count)?);
    let fits = match space {
        Space::Port => matches!(size, 1 | 2 | 4) && address <= 0xffff,
        Space::Mmio => matches!(size, 1 | 2 | 4 | 8) && address < 1 << 46,
    };
    let is_write = match direction {
        "write" => true,
        "read" => false,
        _ => return Err(wrong()),
    };
    let count = u32::try_from(count).ok().filter(|count| *count > 0 && fits).ok_or_else(wrong)?;
    Ok(Drill { pattern: Pattern { space, address, size: size as u8, is_write, count }, plugin_cpu })
}

/// Reads `--cpu-affinity`: CPUs for all vCPUs (`0,2-3`) or by vCPU (`0=0:1=2-3`, CPUs separated by commas).
///
/// # Errors
/// A sentence that names the part that cannot be read.
pub fn affinity(word: &str) -> Result<Affinity, String> {
    if !word.contains('=') {
        return cpu_set(word).map(Affinity::All);
    }
    let mut sets = BTreeMap::new();
    for part in word.split(':') {
        let (vcpu, cpus) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`; give VCPU=CPUS"))?;
        let vcpu: u32 = vcpu.trim().parse().map_err(|_| format!("`{vcpu}` is not the number of a vCPU"))?;
        if sets.insert(vcpu, cpu_set(cpus)?).is_some() {
            return Err(format!("vCPU {vcpu} is named twice"));
        }
    }
    Ok(Affinity::PerVcpu(sets))
}

fn cpu_set(word: &str) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for part in word.split(',') {
        let number = |text: &str| {
            let number = text.trim().parse().ok().filter(|cpu| *cpu <= MAX_CPU);
            number.ok_or_else(|| format!("`{part}` is not a CPU or a range of CPUs such as 2-3"))
        };
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("the range `{part}` ends before it begins"));
                }
                cpus.extend(first..=last);
            }
            None => cpus.push(number(part)?),
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

/// Reads `--name`: what `outboard stat` shows and finds a VM by.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn name(word: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+@".contains(c);
    if word.is_empty() || word.len() > MAX_NAME || !word.chars().all(good) || word.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!(
            "give up to {MAX_NAME} letters, digits and -_.+@, and not digits alone, which would be a process id"
        ));
    }
    Ok(word.to_owned())
}

/// Reads `--irqchip`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn irqchip(word: &str) -> Result<IrqChip, String> {
    match word {
        "kernel" => Ok(IrqChip::Kernel),
        "split" => Ok(IrqChip::Split),
        "none" => Ok(IrqChip::None),
        _ => Err("give kernel, split or none".to_owned()),
    }
}

/// Reads `--mac`: six bytes in hexadecimal, with colons between.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn mac(word: &str) -> Result<[u8; 6], String> {
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+'));
    let bytes: Option<Vec<u8>> = word.split(':').map(byte).collect();
    let mac: [u8; 6] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "give six bytes in hexadecimal, such as 02:00:00:00:00:01".to_owned())?;
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(
            "that is no address of a single device: its first byte has to be even, and not all bytes zero".to_owned()
        );
    }
    Ok(mac)
}

/// Reads `--netmask`: ones, then zeros.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn netmask(word: &str) -> Result<Ipv4Addr, String> {
    let mask = word.parse().ok().filter(|mask: &Ipv4Addr| {
        let bits = mask.to_bits();
        bits.leading_ones() + bits.trailing_zeros() == u32::BITS
    });
    mask.ok_or_else(|| "give a netmask such as 255.255.255.0".to_owned())
}

/// Puts the three options together that make a tap device.
///
/// # Errors
/// A sentence if some of them are missing.
pub fn tap(
    ip: Option<Ipv4Addr>,
    netmask: Option<Ipv4Addr>,
    mac: Option<[u8; 6]>,
) -> Result<Option<TapAddress>, String> {
    match (ip, netmask, mac) {
        (None, None, None) => Ok(None),
        (Some(ip), Some(netmask), Some(mac)) => Ok(Some(TapAddress { ip, netmask, mac })),
        _ => Err("--host_ip, --netmask and --mac make a tap device together: give all three".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_controllers() {
        assert_eq!(irqchip("kernel"), Ok(IrqChip::default()));
        assert_eq!((irqchip("split"), irqchip("none")), (Ok(IrqChip::Split), Ok(IrqChip::None)));
        assert!(irqchip("Kernel").is_err());
    }

    #[test]
    fn names() {
        assert_eq!(name("web-1"), Ok("web-1".to_owned()));
        for wrong in ["", "12", "a b", "a/b", &"x".repeat(65)] {
            assert!(name(wrong).unwrap_err().contains("64"), "{wrong:?}");
        }
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(mac("02:00:00:0a:B0:ff"), Ok([2, 0, 0, 0x0a, 0xb0, 0xff]));
        for wrong in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02-00-00-00-00-01", "+2:00:00:00:00:01"]
        {
            assert!(mac(wrong).unwrap_err().contains("02:00:00:00:00:01"), "{wrong:?}");
        }
        for wrong in ["01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(mac(wrong).unwrap_err().contains("single device"), "{wrong:?}");
        }
    }

    #[test]
    fn netmasks() {
        for right in ["255.255.255.0", "255.255.255.255", "0.0.0.0", "255.254.0.0"] {
            assert_eq!(netmask(right).unwrap().to_string(), right);
        }
        for wrong in ["", "24", "255.0.255.0", "0.0.0.255"] {
            assert!(netmask(wrong).unwrap_err().contains("255.255.255.0"), "{wrong:?}");
        }
    }

    #[test]
    fn a_tap_takes_all_three() {
        let (ip, mask, mac) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(255, 0, 0, 0), [2, 0, 0, 0, 0, 1]);
        assert_eq!(tap(None, None, None), Ok(None));
        assert_eq!(tap(Some(ip), Some(mask), Some(mac)), Ok(Some(TapAddress { ip, netmask: mask, mac })));
        assert!(tap(Some(ip), None, Some(mac)).is_err());
        assert!(tap(None, Some(mask), None).is_err());
    }

    #[test]
    fn spin_policies() {
        assert_eq!(spin("auto"), Ok(SpinMode::Auto));
        assert_eq!(spin("off"), Ok(SpinMode::Off));
        assert_eq!(spin("always"), Ok(SpinMode::Always));
        assert_eq!(spin("2500"), Ok(SpinMode::For(2500)));
        for wrong in ["", "-1", "2us", "AUTO"] {
            assert!(spin(wrong).unwrap_err().contains("nanoseconds"));
        }
    }

    #[test]
    fn cpu_sets() {
        assert_eq!(affinity("1"), Ok(Affinity::All(vec![1])));
        assert_eq!(affinity("3,0-1,1"), Ok(Affinity::All(vec![0, 1, 3])));
        let sets = BTreeMap::from([(0, vec![1]), (1, vec![0, 2, 3])]);
        assert_eq!(affinity("0=1:1=0,2-3"), Ok(Affinity::PerVcpu(sets)));
    }

    #[test]
    fn wrong_cpu_sets_name_the_part() {
        for (word, part) in [
            ("", "``"),
            ("a", "`a`"),
            ("1,,2", "``"),
            ("3-1", "`3-1`"),
            ("0-99999999", "`0-99999999`"),
            ("x=1", "`x`"),
            ("0=1:2", "`2`"),
            ("0=1:0=2", "vCPU 0"),
        ] {
            let said = affinity(word).unwrap_err();
            assert!(said.contains(part), "{word:?}: {said}");
        }
    }
}
