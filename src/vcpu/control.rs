//! How other threads tell a vCPU thread to pause or to stop.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::drill::Pattern;
use crate::kvm::{KvmError, Vcpu};
use crate::sys::signal::{self, Tid};
use outboard_wire::futex;

/// The words that the control thread writes and a vCPU thread reads.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicU32,
    pause: AtomicBool,
    /// The vCPU thread writes a trace.
    trace: AtomicBool,
    cookie: Mutex<Option<u64>>,
    /// Bit 0: the vCPU stands still, because the user asked for it. The bits above change with every request, so that a
    /// thread which is about to sleep on this word notices.
    hold: AtomicU32,
    /// What runs in place of the plugin's guest, and where its memory is.
    drill: OnceLock<(Pattern, u64)>,
    /// Linux thread id of the vCPU thread, 0 while it does not run.
    thread: AtomicI32,
}

impl Control {
    /// Asks for a PAUSED event with this cookie; it replaces the cookie of a pause that did not happen yet.
    pub fn pause(&self, cookie: u64) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = Some(cookie);
        self.pause.store(true, Ordering::Release);
        self.stir();
        self.kick();
    }

    /// Asks the thread to end. Repeat it until the thread has ended (timing point 5).
    pub fn stop(&self) {
        self.stop.store(1, Ordering::Release);
        self.stir();
        self.kick();
    }

    /// Lets the vCPU stand still from the end of the access at hand, or run on. The plugin is not told: it sees a guest that
    /// does nothing.
    pub fn hold(&self, on: bool) {
        let before =
            self.hold.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(word & !1 | u32::from(on)));
        if before.is_ok_and(|word| word & 1 != u32::from(on)) {
            self.stir();
            self.kick();
        }
    }

    /// Has the vCPU run this once the plugin has answered its INIT. Its memory is at guest address `base`.
    pub fn set_drill(&self, pattern: Pattern, base: u64) {
        let _ = self.drill.set((pattern, base));
    }

    /// Called by the vCPU thread before the guest runs.
    ///
    /// # Errors
    /// What KVM says to the registers.
    pub fn enter_drill(&self, vcpu: &Vcpu) -> Result<(), KvmError> {
        self.drill.get().map_or(Ok(()), |(pattern, base)| pattern.enter(*base, vcpu))
    }

    /// Turns the writing of a trace on or off. Its ring is there before it is turned on.
    pub fn set_tracing(&self, on: bool) {
        self.trace.store(on, Ordering::Release);
    }

    /// True while the vCPU thread shall write a trace.
    #[inline]
    pub fn tracing(&self) -> bool {
        self.trace.load(Ordering::Acquire)
    }

    /// True while the vCPU shall stand still.
    #[inline]
    pub fn held(&self) -> bool {
        self.hold.load(Ordering::Acquire) & 1 != 0
    }

    /// Called by the vCPU thread: sleeps while it shall stand still and nothing else is asked of it.
    #[cold]
    pub fn stand_still(&self) {
        let word = self.hold.load(Ordering::Acquire);
        if word & 1 != 0 && !self.stopping() && !self.pausing() {
            futex::wait(&self.hold, word);
        }
    }

    /// Wakes a thread that stands still, so that it looks at what is asked of it.
    fn stir(&self) {
        self.hold.fetch_add(2, Ordering::AcqRel);
        futex::wake(&self.hold);
    }

    /// Not zero once a stop was asked for.
    #[inline]
    pub fn stop_word(&self) -> &AtomicU32 {
        &self.stop
    }

    /// True once a stop was asked for.
    #[inline]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire) != 0
    }

    /// True if a pause was asked for and not taken.
    #[inline]
    pub fn pausing(&self) -> bool {
        self.pause.load(Ordering::Acquire)
    }

    /// Takes the cookie of a pause that was asked for.
    pub fn take_pause(&self) -> Option<u64> {
        // The flag goes first: a request that comes in between sets it again, so it is seen later at worst twice, and then
        // the second look finds no cookie.
        self.pause.store(false, Ordering::Release);
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Called by the vCPU thread when it begins and before it ends.
    pub fn set_thread(&self, thread: Option<Tid>) {
        self.thread.store(thread.map_or(0, |thread| thread.0), Ordering::Release);
    }

    fn kick(&self) {
        let thread = self.thread.load(Ordering::Acquire);
        if thread != 0 {
            // ESRCH means that the thread is just ending, which is as good.
            let _ = signal::tgkill(Tid(thread), signal::kick_signal());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_cookie_replaces_an_earlier_one_and_is_taken_once() {
        let control = Control::default();
        control.pause(1);
        control.pause(2);
        assert!(control.pausing());
        assert_eq!(control.take_pause(), Some(2));
        assert!(!control.pausing());
        assert_eq!(control.take_pause(), None);
    }

    #[test]
    fn a_request_ends_a_stand_still() {
        let control = Control::default();
        control.stand_still();
        control.hold(true);
        control.pause(1);
        control.stand_still();
        assert!(control.held() && control.take_pause().is_some());
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                while control.held() {
                    control.stand_still();
                }
            });
            control.hold(false);
            thread.join().unwrap();
        });
        assert!(!control.held());
    }
}
