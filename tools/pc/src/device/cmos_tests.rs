//! Tests of the real-time clock, by a clock that the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::host::tests::counted;

/// 2024-02-29 23:59:58, a Thursday.
const LEAP_DAY: u64 = 1_709_251_198;

thread_local! {
    static NOW: AtomicU64 = const { AtomicU64::new(LEAP_DAY * 1000) };
}

/// Milliseconds since 1970.
fn set_now(milliseconds: u64) {
    NOW.with(|now| now.store(milliseconds, Ordering::Relaxed));
}

fn now() -> Duration {
    Duration::from_millis(NOW.with(|now| now.load(Ordering::Relaxed)))
}

fn cmos() -> (Cmos, Arc<AtomicUsize>) {
    set_now(LEAP_DAY * 1000);
    let (irq, raised) = counted();
    (Cmos::new(About { low: 64 << 20, high: 1 << 30, cpus: 4 }, irq, now), raised)
}

fn read(cmos: &mut Cmos, index: usize) -> u8 {
    cmos.write(0, index as u8);
    cmos.read(1)
}

fn write(cmos: &mut Cmos, index: usize, value: u8) {
    cmos.write(0, index as u8);
    cmos.write(1, value);
}

fn date(cmos: &mut Cmos) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|index| read(cmos, index))
}

#[test]
fn the_date_is_the_hosts() {
    let (mut cmos, _) = cmos();
    assert_eq!(date(&mut cmos), [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 5]);
    set_now((LEAP_DAY + 2) * 1000);
    assert_eq!(date(&mut cmos), [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00, 6]);
    write(&mut cmos, B, B_BINARY);
    assert_eq!(date(&mut cmos), [20, 24, 3, 1, 12, 0, 0, 6], "midnight is twelve by a clock of twelve hours");
}

#[test]
fn a_date_that_was_set_goes_on() {
    let (mut cmos, _) = cmos();
    for (index, value) in [(CENTURY, 0x19), (YEAR, 0x99), (MONTH, 0x12), (DAY, 0x31), (HOURS, 0x23), (SECONDS, 0x59)] {
        write(&mut cmos, index, value);
    }
    assert_eq!(date(&mut cmos), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59, 6]);
    set_now((LEAP_DAY + 1) * 1000);
    assert_eq!(date(&mut cmos), [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 7]);
}

#[test]
fn dates_and_seconds_are_the_same() {
    for days in (-200_000..200_000).step_by(97) {
        let seconds = days * DAY_SECONDS + days.rem_euclid(DAY_SECONDS);
        assert_eq!(Date::of(seconds).seconds(), seconds);
    }
    let first = Date { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0, weekday: 5 };
    assert_eq!(Date::of(0), first);
}

#[test]
fn the_memory_tells_of_the_machine() {
    let (mut cmos, _) = cmos();
    let word = |cmos: &mut Cmos, at| u16::from_le_bytes([read(cmos, at), read(cmos, at + 1)]);
    assert_eq!(word(&mut cmos, 0x15), 640);
    assert_eq!(word(&mut cmos, 0x17), 63 << 10);
    assert_eq!(word(&mut cmos, 0x34), 48 << 4);
    assert_eq!(word(&mut cmos, 0x5b), 1 << 14);
    assert_eq!(read(&mut cmos, 0x5f), 3);
    write(&mut cmos, 0x0f, 5);
    assert_eq!(read(&mut cmos, 0x0f), 5);
    assert_eq!(read(&mut cmos, D), D_BATTERY);
}

#[test]
fn periodic_interrupts_come_at_their_rate_until_they_are_acknowledged() {
    let (mut cmos, raised) = cmos();
    write(&mut cmos, A, 0x2f); // every half second
    assert_eq!(cmos.tick(), None);
    write(&mut cmos, B, PERIODIC | B_24_HOURS);
    assert_eq!(cmos.tick(), Some(Duration::from_millis(LEAP_DAY * 1000 + 500)));
    set_now(LEAP_DAY * 1000 + 500);
    assert_eq!(cmos.tick(), Some(Duration::from_secs(LEAP_DAY + 1)));
    assert_eq!(raised.load(Ordering::Relaxed), 1);
    set_now(LEAP_DAY * 1000 + 1000);
    cmos.tick();
    assert_eq!(raised.load(Ordering::Relaxed), 1, "nobody acknowledged the first one");
    assert_eq!(read(&mut cmos, C), C_INTERRUPT | PERIODIC | UPDATED);
    assert_eq!(read(&mut cmos, C), 0);
    set_now(LEAP_DAY * 1000 + 1500);
    cmos.tick();
    assert_eq!(raised.load(Ordering::Relaxed), 2);
}

#[test]
fn the_alarm_goes_off_at_its_time() {
    let (mut cmos, raised) = cmos();
    for (index, value) in [(SECONDS + 1, 0x01), (MINUTES + 1, 0xff), (HOURS + 1, 0x00)] {
        write(&mut cmos, index, value);
    }
    write(&mut cmos, B, ALARM | B_24_HOURS);
    for (second, expected) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        set_now((LEAP_DAY + second) * 1000);
        cmos.tick();
        assert_eq!(raised.load(Ordering::Relaxed), expected, "{second} seconds later");
    }
    assert_eq!(read(&mut cmos, C) & ALARM, ALARM);
}

#[test]
fn the_update_flag_is_up_before_the_second_changes() {
    let (mut cmos, _) = cmos();
    assert_eq!(read(&mut cmos, A), 0x26);
    set_now(LEAP_DAY * 1000 + 999);
    assert_eq!(read(&mut cmos, A), 0x26, "1 ms before is too early");
}
