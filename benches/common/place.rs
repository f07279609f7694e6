//! Where the two sides of an exchange run.

use super::pin;

/// CPUs of both sides.
#[derive(Clone, Debug)]
pub struct Place {
    /// `apart`, `together` or `free`.
    pub name: &'static str,
    /// CPUs of the vCPU thread, or of the VMM.
    pub vmm: Vec<usize>,
    /// CPUs of the plugin.
    pub plugin: Vec<usize>,
}

impl Place {
    /// The placements that this host has: on one CPU there is only `together`.
    pub fn all() -> Vec<Place> {
        let cpus = pin::allowed();
        let first = vec![cpus[0]];
        let together = Place { name: "together", vmm: first.clone(), plugin: first.clone() };
        match cpus.get(1) {
            None => vec![together],
            Some(second) => vec![
                Place { name: "apart", vmm: first, plugin: vec![*second] },
                together,
                Place { name: "free", vmm: cpus.clone(), plugin: cpus },
            ],
        }
    }

    /// The pair of CPUs between which a cache line travels here: where threads are free, the first two.
    pub fn pair(&self) -> Option<(usize, usize)> {
        let (a, b) = (self.vmm[0], *self.plugin.last()?);
        (a != b).then_some((a, b))
    }

    /// True if the two sides are kept on different CPUs.
    pub fn is_apart(&self) -> bool {
        self.name == "apart"
    }

    /// True if the two sides are kept on one CPU.
    pub fn is_together(&self) -> bool {
        self.name == "together"
    }
}

/// CPUs as a word for command lines: `0,1`.
pub fn word(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The CPUs that such a word names.
pub fn cpus(word: &str) -> Vec<usize> {
    word.split(',').map(|cpu| cpu.parse().expect("a word made by `word`")).collect()
}
