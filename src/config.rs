//! Words of the command line, turned into settings: pure parsing and checks.

use std::collections::BTreeMap;

use crate::plugin::Affinity;
use outboard_wire::spin::SpinMode;

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

#[cfg(test)]
mod tests {
    use super::*;

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
