//! The numbered timing points of a kick, where a test can step in. In a program it is nothing at all.

use super::control::Control;

/// Where the thread is: the numbers are those of the module `vcpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// 1: about to clear `immediate_exit` and look at the request words.
    BeforeLook,
    /// 2: has looked and is about to enter the guest.
    BeforeRun,
    /// 4: has left the guest.
    AfterRun,
    /// 4: has published an event and is about to wait for its answer.
    Published,
}

/// What a test does there.
#[cfg(test)]
pub(super) type Act = dyn FnMut(Point, &Control) + Send;

/// The place for it.
#[derive(Default)]
pub struct Seam {
    #[cfg(test)]
    pub(super) act: Option<Box<Act>>,
}

impl Seam {
    /// The thread has come to a point.
    #[inline(always)]
    pub fn reach(&mut self, point: Point, control: &Control) {
        #[cfg(test)]
        if let Some(act) = &mut self.act {
            act(point, control);
        }
        let _ = (point, control);
    }
}
