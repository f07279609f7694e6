//! One thread per vCPU: it runs the guest, decides what each exit means and talks to the plugin about it.
//!
//! # Timing points of a kick
//! [`control::Control`] tells a vCPU thread to pause or stop: it sets the request word, then sends the kick signal, whose
//! handler sets `immediate_exit` in the run page. Wherever the thread is, it notices:
//!
//! 1. before the look at the request words at the top of the loop ([`run`]): the look sees the request;
//! 2. between that look and `KVM_RUN`: the handler has set `immediate_exit`, and `KVM_RUN` returns `EINTR` at once. The
//!    thread clears `immediate_exit` before the look, never after it, so a kick cannot fall between;
//! 3. in the guest: the signal makes `KVM_RUN` return `EINTR`;
//! 4. after `KVM_RUN` and in the exchange with the plugin: a pause waits until the plugin has answered, since the vCPU
//!    stands still anyway, and is seen at point 1; a stop is seen in the spin loop;
//! 5. asleep, waiting for the plugin: the signal ends the futex call and the stop word is looked at again. A signal that
//!    arrives between that look and the call would be lost, so a stop is repeated until the thread has ended.

pub mod action;
pub mod control;
pub mod drill;
pub mod ended;
pub mod exchange;
pub mod exits;
pub mod registers;
pub mod run;
pub mod seam;
pub mod set;
pub mod spread;
pub mod stats;
pub mod tracer;
pub mod witness;
