//! Lets a vCPU thread wait while somebody looks at what the guest has written to its memory.
//!
//! A vCPU thread has no descriptor of the VM, so it cannot look itself. Only traces with memory come here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct State {
    /// Looks that were asked for.
    asked: u64,
    /// The last of them that is done.
    done: u64,
    /// Somebody looks.
    open: bool,
}

/// Where vCPU threads and the one that looks meet.
#[derive(Debug, Default)]
pub struct Witness {
    state: Mutex<State>,
    changed: Condvar,
}

impl Witness {
    /// Begins or ends the time in which somebody looks.
    pub fn open(&self, open: bool) {
        self.lock().open = open;
        self.changed.notify_all();
    }

    /// Returns when what the guest has written until now is recorded, or nobody looks.
    pub fn ask(&self) {
        let mut state = self.lock();
        state.asked += 1;
        let mine = state.asked;
        self.changed.notify_all();
        while state.open && state.done < mine {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `look` whenever somebody has asked, until it is closed.
    pub fn serve(&self, mut look: impl FnMut()) {
        let mut state = self.lock();
        while state.open {
            if state.done == state.asked {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let asked = state.asked;
            drop(state);
            look();
            state = self.lock();
            state.done = asked;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn whoever_asks_is_seen_before_it_goes_on() {
        let (witness, looks) = (Witness::default(), AtomicU64::new(0));
        witness.ask();
        witness.open(true);
        let look = || {
            looks.fetch_add(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| witness.serve(look));
            let ask = || {
                for _ in 0..100 {
                    let before = looks.load(Ordering::SeqCst);
                    witness.ask();
                    assert!(looks.load(Ordering::SeqCst) > before);
                }
            };
            let others = [scope.spawn(ask), scope.spawn(ask)];
            others.into_iter().for_each(|thread| thread.join().unwrap());
            witness.open(false);
            witness.ask();
        });
    }
}
