//! Tests of the real-time clock, by a clock that the test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::host::tests::counted;

/// 2024-02-29 23:59:58, a Thursday.
const LEAP_DAY: u64 = 1_709_251_198;

/// A clock of a tick a millisecond, and the test at its beginning.
fn cmos() -> (Cmos, Arc<AtomicUsize>) {
    let ((irq, raised), clock) = (counted(), Clock::new(1));
    clock.begin(0);
    let about = About { low: 64 << 20, high: 1 << 30, cpus: 4 };
    (Cmos::new(about, irq, clock, Duration::from_secs(LEAP_DAY)), raised)
}

/// So many milliseconds later than the beginning.
fn later(milliseconds: u64) -> Duration {
    Duration::from_millis(LEAP_DAY * 1000 + milliseconds)
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
    cmos.moment(2000);
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
    cmos.moment(1000);
    assert_eq!(date(&mut cmos), [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 7]);
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
    assert_eq!(cmos.due(), None);
    write(&mut cmos, B, PERIODIC | B_24_HOURS);
    assert_eq!(cmos.due(), Some(later(500)));
    cmos.interrupt(later(499));
    assert_eq!(raised.load(Ordering::Relaxed), 0);
    cmos.interrupt(later(500));
    cmos.interrupt(later(1000));
    assert_eq!((raised.load(Ordering::Relaxed), cmos.due()), (1, None), "nobody acknowledged the first one");
    cmos.moment(1000);
    assert_eq!(read(&mut cmos, C), C_INTERRUPT | PERIODIC | UPDATED);
    assert_eq!(read(&mut cmos, C), 0);
    assert_eq!(cmos.due(), Some(later(1500)));
    cmos.interrupt(later(1501));
    assert_eq!(raised.load(Ordering::Relaxed), 2);
}

#[test]
fn what_is_read_does_not_depend_on_when_the_interrupt_was_raised() {
    for early in [true, false] {
        let (mut cmos, _) = cmos();
        write(&mut cmos, B, UPDATED | B_24_HOURS);
        if early {
            cmos.interrupt(later(1000));
        }
        cmos.moment(999);
        assert_eq!(read(&mut cmos, C), 0);
        cmos.moment(1000);
        assert_eq!(read(&mut cmos, C), C_INTERRUPT | UPDATED);
    }
}

#[test]
fn the_alarm_goes_off_at_its_time() {
    let (mut cmos, raised) = cmos();
    for (index, value) in [(SECONDS + 1, 0x01), (MINUTES + 1, 0xff), (HOURS + 1, 0x00)] {
        write(&mut cmos, index, value);
    }
    write(&mut cmos, B, ALARM | B_24_HOURS);
    assert_eq!(cmos.due(), Some(later(3000)), "a second after midnight");
    cmos.interrupt(later(3000));
    assert_eq!(raised.load(Ordering::Relaxed), 1);
    cmos.moment(2999);
    assert_eq!(read(&mut cmos, C) & ALARM, 0);
    cmos.moment(3000);
    assert_eq!(read(&mut cmos, C) & ALARM, ALARM);
    assert_eq!(cmos.due(), Some(later(63_000)), "the minute does not matter");
    write(&mut cmos, MINUTES + 1, 0x00);
    assert_eq!(cmos.due(), Some(later(3000 + 86_400_000)), "tomorrow");
    write(&mut cmos, HOURS, 0x23);
    assert_eq!(cmos.due(), Some(later(3000 + 3_600_000)), "the date was set");
    write(&mut cmos, HOURS + 1, 0x3f);
    assert_eq!(cmos.due(), None, "no hour is written like that");
}

#[test]
fn a_reset_stops_interrupts_and_keeps_the_rest() {
    let (mut cmos, _) = cmos();
    write(&mut cmos, 0x0f, 5);
    write(&mut cmos, B, UPDATED | B_24_HOURS);
    cmos.moment(1000);
    cmos.reset();
    assert_eq!((cmos.due(), read(&mut cmos, C), read(&mut cmos, B)), (None, UPDATED, B_24_HOURS));
    assert_eq!(read(&mut cmos, 0x0f), 5);
}

#[test]
fn the_update_flag_is_up_before_the_second_changes() {
    let (mut cmos, _) = cmos();
    assert_eq!(read(&mut cmos, A), 0x26);
    cmos.moment(999);
    assert_eq!(read(&mut cmos, A), 0x26, "1 ms before is too early");
    cmos.base += UPDATE * 4;
    cmos.moment(999);
    assert_eq!(read(&mut cmos, A), 0x26 | A_UPDATING);
}
