//! A vCPU that stands still.

use core::ops::{Deref, DerefMut};

use crate::registers::Registers;

/// A vCPU that stands still until this is resumed or dropped. Its registers are at hand through [`Registers`].
#[derive(Debug)]
pub struct Stopped<'a> {
    vcpu: &'a mut Registers,
}

impl<'a> Stopped<'a> {
    #[inline]
    pub(crate) fn new(vcpu: &'a mut Registers) -> Stopped<'a> {
        Stopped { vcpu }
    }

    /// Lets the vCPU run on; the same as dropping the event, but said aloud.
    #[inline]
    pub fn resume(self) {}
}

impl Drop for Stopped<'_> {
    #[inline]
    fn drop(&mut self) {
        self.vcpu.resume();
    }
}

impl Deref for Stopped<'_> {
    type Target = Registers;

    #[inline]
    fn deref(&self) -> &Registers {
        self.vcpu
    }
}

impl DerefMut for Stopped<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Registers {
        self.vcpu
    }
}
