//! The unit of every exchange: the round trip of one cache line between two CPUs, both spinning.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hdrhistogram::Histogram;
use outboard_wire::clock;

use super::pin;

#[repr(align(128))]
struct Line(AtomicU64);

/// Ticks of `rounds` round trips between CPU `a` and CPU `b`: one line each way, as an event and its answer are.
pub fn round_trip(a: usize, b: usize, rounds: u64) -> Histogram<u64> {
    static THERE: Line = Line(AtomicU64::new(0));
    static BACK: Line = Line(AtomicU64::new(0));
    THERE.0.store(0, Ordering::SeqCst);
    BACK.0.store(0, Ordering::SeqCst);
    let mut ticks = super::report::histogram();
    thread::scope(|scope| {
        scope.spawn(|| {
            pin::pin(&[b]);
            for round in 1..=rounds {
                while THERE.0.load(Ordering::Acquire) != round {}
                BACK.0.store(round, Ordering::Release);
            }
        });
        scope.spawn(|| {
            pin::pin(&[a]);
            for round in 1..=rounds {
                let start = clock::now();
                THERE.0.store(round, Ordering::Release);
                while BACK.0.load(Ordering::Acquire) != round {}
                ticks.saturating_record(clock::now() - start);
            }
        });
    });
    ticks
}
