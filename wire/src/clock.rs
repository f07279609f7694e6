//! The time stamp counter: the clock of every spin and every latency figure.
//!
//! Both processes read the same invariant counter, so its values can be subtracted across them.

#![allow(unsafe_code)]

#[cfg(not(miri))]
use core::arch::x86_64::{__cpuid, __rdtscp, _rdtsc};
#[cfg(not(miri))]
use core::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Said in place of a CPU's number where the processor cannot tell it.
pub const CPU_UNKNOWN: u32 = u32::MAX;

/// Under Miri, which has no such counter: nanoseconds of its own clock.
#[cfg(miri)]
pub fn now() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Likewise, on a CPU without a number.
#[cfg(miri)]
pub fn now_and_cpu() -> (u64, u32) {
    (now(), CPU_UNKNOWN)
}

/// Reads the counter, in ticks.
#[cfg(not(miri))]
#[inline]
pub fn now() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor, and Linux leaves it enabled for user space unless a process
    // asks for PR_TSC_SIGSEGV for itself.
    unsafe { _rdtsc() }
}

/// Reads the counter together with the number of the CPU that this thread is on, or [`CPU_UNKNOWN`].
///
/// Linux keeps the CPU's number in the low 12 bits of `TSC_AUX` and the node above them
/// (arch/x86/include/asm/segment.h, `vdso_encode_cpunode`).
#[cfg(not(miri))]
#[inline]
pub fn now_and_cpu() -> (u64, u32) {
    if !has_rdtscp() {
        return (now(), CPU_UNKNOWN);
    }
    let mut aux = 0;
    // SAFETY: CPUID said that RDTSCP exists; `aux` is a valid place for its result.
    let tsc = unsafe { __rdtscp(&mut aux) };
    (tsc, aux & 0xfff)
}

#[cfg(not(miri))]
#[inline]
fn has_rdtscp() -> bool {
    /// 0: not asked yet, 1: no, 2: yes.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        2 => true,
        1 => false,
        _ => {
            // Leaf 0x8000_0001, EDX bit 27 (Intel SDM volume 2, CPUID).
            let yes = __cpuid(0x8000_0001).edx & 1 << 27 != 0;
            KNOWN.store(1 + u8::from(yes), Ordering::Relaxed);
            yes
        }
    }
}

/// Measures the counter's frequency in kHz against the monotonic clock, over `span`.
///
/// The error is about 100 ns / `span`. KVM knows the frequency exactly (`KVM_GET_TSC_KHZ`); this is for processes and
/// hosts without it.
pub fn measure_khz(span: Duration) -> u64 {
    let (start, first) = (Instant::now(), now());
    while start.elapsed() < span {
        core::hint::spin_loop();
    }
    let (elapsed, last) = (start.elapsed(), now());
    ((last - first) as u128 * 1_000_000 / elapsed.as_nanos().max(1)) as u64
}

/// Turns ticks into nanoseconds.
pub fn to_ns(ticks: u64, khz: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(khz.max(1))) as u64
}

/// Turns nanoseconds into ticks.
pub fn from_ns(ns: u64, khz: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(khz) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_are_each_others_inverse() {
        assert_eq!(to_ns(from_ns(1_000, 2_300_000), 2_300_000), 1_000);
        assert_eq!(from_ns(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(to_ns(5, 0), 5_000_000);
    }

    #[test]
    fn the_counter_does_not_run_backwards_on_one_cpu() {
        let (first, _) = now_and_cpu();
        assert!(now() >= first);
        assert!(measure_khz(Duration::from_millis(1)) > 100_000, "a TSC below 100 MHz");
    }
}
