//! What a process holds, as `/proc` tells it, and whether that grows.

use std::fs;

/// What one process holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Resident memory, KiB.
    pub memory: u64,
    /// The part of it that is heap and stacks, KiB.
    pub anonymous: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Sample {
    /// Looks at a process; `None` once it has ended.
    pub fn of(pid: u32) -> Option<Sample> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = descriptors(pid)?;
        let (memory, anonymous) = (field("VmRSS:")?, field("RssAnon:")?);
        Some(Sample { memory, anonymous, descriptors, threads: field("Threads:")? })
    }

    /// Memory, the part of it, descriptors, threads.
    pub fn values(&self) -> [u64; 4] {
        [self.memory, self.anonymous, self.descriptors, self.threads]
    }
}

/// Open descriptors of a process. Since Linux 6.2 the size of the folder is their number, counted at once (`proc(5)`); before,
/// it is 0, and a list is counted, which changes while it is read and may miss one that is moved.
fn descriptors(pid: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    match fs::metadata(&folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        count => Some(count),
    }
}

/// Mounts that this process sees.
pub fn mounts() -> Vec<String> {
    fs::read_to_string("/proc/self/mounts")
        .map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

/// One measure over the whole run.
#[derive(Clone, Debug)]
pub struct Series {
    /// What is measured, with its unit.
    pub name: &'static str,
    /// Growth up to this much counts as flat.
    pub tolerance: u64,
    /// One value per look, all the same time apart.
    pub values: Vec<u64>,
}

/// What is said of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Smallest and largest value behind the warm-up.
    pub range: (u64, u64),
    /// Medians of the first and the last third behind the warm-up.
    pub medians: (u64, u64),
    /// The smallest values of the same two thirds: what is held when nothing is under way. Under load that is rare, one look
    /// in a thousand, so it takes many looks.
    pub floors: (u64, u64),
    /// Whether the floor grew by no more than the tolerance. Medians follow the load, which is not the same all the time;
    /// what is never given back raises the floor.
    pub flat: bool,
}

impl Series {
    /// Judges it: the first tenth is warm-up, and of the rest the last third is compared with the first. `None` for fewer
    /// than ten values.
    pub fn verdict(&self) -> Option<Verdict> {
        if self.values.len() < 10 {
            return None;
        }
        let rest = &self.values[self.values.len() / 10..];
        let third = rest.len() / 3;
        let (first, last) = (sorted(&rest[..third]), sorted(&rest[rest.len() - third..]));
        let medians = (first[third / 2], last[third / 2]);
        let floors = (first[0], last[0]);
        let range = (*rest.iter().min()?, *rest.iter().max()?);
        Some(Verdict { range, medians, floors, flat: floors.1.saturating_sub(floors.0) <= self.tolerance })
    }
}

fn sorted(values: &[u64]) -> Vec<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(tolerance: u64, values: impl Iterator<Item = u64>) -> Verdict {
        Series { name: "things", tolerance, values: values.collect() }.verdict().expect("enough values")
    }

    #[test]
    fn what_comes_and_goes_is_flat() {
        assert!(verdict(0, (0..100).map(|at| 10 + at % 7)).flat);
        // The warm-up may do what it likes.
        assert!(verdict(0, (0..100).map(|at| if at < 9 { at } else { 9 })).flat);
    }

    #[test]
    fn one_more_that_stays_is_growth() {
        let leak = |at: u64| 10 + at % 7 + u64::from(at > 50);
        assert!(!verdict(0, (0..100).map(leak)).flat);
        assert!(verdict(1, (0..100).map(leak)).flat);
        assert!(!verdict(20, 0..100).flat);
    }

    #[test]
    fn a_floor_that_rises_below_a_peak_that_stays_is_growth() {
        let values = (0..100).map(|at| if at % 2 == 0 { 50 } else { at / 40 });
        assert!(!verdict(0, values).flat);
    }

    #[test]
    fn this_process_holds_something() {
        let sample = Sample::of(std::process::id()).expect("this process");
        assert!(sample.memory > 0 && sample.descriptors > 2 && sample.threads > 0, "{sample:?}");
        assert_eq!(Sample::of(u32::MAX), None);
        let more: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").expect("/dev/null")).collect();
        let with_more = Sample::of(std::process::id()).expect("this process");
        assert!(with_more.descriptors >= more.len() as u64 + 3, "{with_more:?}");
    }
}
