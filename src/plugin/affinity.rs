//! Where vCPU threads may run.

use std::collections::BTreeMap;

/// Which CPUs vCPU threads may run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// On any that the process may use.
    #[default]
    Any,
    /// All vCPUs on these.
    All(Vec<usize>),
    /// Each named vCPU on its own.
    PerVcpu(BTreeMap<u32, Vec<usize>>),
}

impl Affinity {
    /// The CPUs of one vCPU, or `None` for any.
    pub fn cpus_of(&self, vcpu: u32) -> Option<Vec<usize>> {
        match self {
            Affinity::Any => None,
            Affinity::All(cpus) => Some(cpus.clone()),
            Affinity::PerVcpu(sets) => sets.get(&vcpu).cloned(),
        }
    }
}
