//! Fresh blocks: all words zero.

use core::array::from_fn;
use core::marker::PhantomData;

use super::{Files, ProgressLine, ToPlugin, ToVmm};
use crate::sync::AtomicU64;

fn words<const N: usize>() -> [AtomicU64; N] {
    from_fn(|_| AtomicU64::new(0))
}

impl Default for ToPlugin {
    fn default() -> ToPlugin {
        ToPlugin {
            event: Default::default(),
            reserved: from_fn(|_| PhantomData),
            files: Files::default(),
            posted: from_fn(|_| Default::default()),
            string: words(),
            bulk: words(),
        }
    }
}

impl Default for ToVmm {
    fn default() -> ToVmm {
        ToVmm {
            answer: Default::default(),
            reserved: from_fn(|_| PhantomData),
            progress: ProgressLine { taken: Default::default() },
            reserved2: from_fn(|_| PhantomData),
            files: Files::default(),
            reserved3: from_fn(|_| PhantomData),
            string: words(),
            bulk: words(),
        }
    }
}

impl Default for Files {
    fn default() -> Files {
        Files {
            regs: words(),
            reserved: from_fn(|_| PhantomData),
            sregs: words(),
            reserved2: from_fn(|_| PhantomData),
            debugregs: words(),
            reserved3: from_fn(|_| PhantomData),
        }
    }
}
