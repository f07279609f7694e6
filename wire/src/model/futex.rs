//! Futexes: comparing a word and going to sleep are one step to whoever wakes.
//!
//! All sleepers share one condition. A wake wakes all of them, and those that it was not meant for see a wake without
//! cause, which futexes have too.

use std::os::fd::BorrowedFd;

use loom::sync::{Condvar, Mutex};

use crate::sync::{AtomicU32, Ordering};

/// As in the real one.
pub const MAX_WAIT_ANY: usize = 128;

loom::lazy_static! {
    static ref QUEUE: Mutex<()> = Mutex::new(());
    static ref WOKEN: Condvar = Condvar::new();
}

/// Sleeps until a wake, if the word still holds `expected`.
pub fn wait(word: &AtomicU32, expected: u32) {
    let _ = wait_any(&[(word, expected)]);
}

/// Wakes.
pub fn wake(_: &AtomicU32) {
    let queue = QUEUE.lock().unwrap();
    WOKEN.notify_all();
    drop(queue);
}

/// A signal for a thread: it ends a sleep, and is lost if there is none.
pub fn interrupt() {
    let queue = QUEUE.lock().unwrap();
    WOKEN.notify_all();
    drop(queue);
}

/// Sleeps until a wake, if all words still hold what stands beside them.
///
/// # Errors
/// None here.
pub fn wait_any(words: &[(&AtomicU32, u32)]) -> Result<(), i32> {
    let queue = QUEUE.lock().unwrap();
    if words.iter().all(|(word, expected)| word.load(Ordering::SeqCst) == *expected) {
        drop(WOKEN.wait(queue).unwrap());
    }
    Ok(())
}

/// Not part of the model.
pub fn signal_eventfd(_: BorrowedFd<'_>) {}
