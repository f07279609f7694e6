//! The real-time clock MC146818 and its memory, which firmware calls the CMOS.
//!
//! Register numbers and bits are those of the MC146818A datasheet; the use of the memory behind the clock is that of the
//! IBM AT and of SeaBIOS (`src/hw/rtc.h`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::ByteDevice;
use crate::host::Irq;

const SECONDS: usize = 0;
const MINUTES: usize = 2;
const HOURS: usize = 4;
const WEEKDAY: usize = 6;
const DAY: usize = 7;
const MONTH: usize = 8;
const YEAR: usize = 9;
const A: usize = 0x0a;
const B: usize = 0x0b;
const C: usize = 0x0c;
const D: usize = 0x0d;
const CENTURY: usize = 0x32;

const A_UPDATING: u8 = 0x80;
const A_RATE: u8 = 0x0f;
const B_HOLD: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
/// Register B enables what register C reports, bit by bit.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATED: u8 = 0x10;
const C_INTERRUPT: u8 = 0x80;
const D_BATTERY: u8 = 0x80;

/// The update flag rises this long before the second is over.
const UPDATE: Duration = Duration::from_micros(244);
/// An alarm register from here on matches anything.
const ANY: u8 = 0xc0;

/// What the memory behind the clock says of the machine.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// RAM below 4 GiB, in bytes.
    pub low: u64,
    /// RAM from 4 GiB on, in bytes.
    pub high: u64,
    /// Processors.
    pub cpus: u32,
}

/// The clock and its memory, ports 0x70 and 0x71.
pub struct Cmos {
    index: usize,
    bytes: [u8; 128],
    irq: Irq,
    clock: fn() -> Duration,
    /// Seconds that the guest's clock is ahead of the host's.
    ahead: i64,
    /// When the next periodic interrupt is due, by the host's clock; and the second that was looked at last.
    periodic: Option<Duration>,
    looked: u64,
}

/// Time since 1970 by the host's clock.
pub fn host_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Cmos {
    /// A clock that goes by `clock`, time since 1970, and raises `irq`.
    pub fn new(about: About, irq: Irq, clock: fn() -> Duration) -> Cmos {
        let mut bytes = [0; 128];
        let mut put = |index: usize, value: u64| {
            let word = value.min(0xffff) as u16;
            [bytes[index], bytes[index + 1]] = word.to_le_bytes();
        };
        put(0x15, 640); // KiB below the display
        put(0x17, (about.low >> 10).saturating_sub(1024)); // KiB above 1 MiB
        put(0x30, (about.low >> 10).saturating_sub(1024)); // the same, as counted by the firmware
        put(0x34, about.low.saturating_sub(16 << 20) >> 16); // units of 64 KiB above 16 MiB
        bytes[0x5b..0x5e].copy_from_slice(&(about.high >> 16).to_le_bytes()[..3]); // the same above 4 GiB
        bytes[A] = 0x26;
        bytes[B] = B_24_HOURS;
        bytes[0x14] = 0x06; // equipment: a floating-point unit, a PS/2 port
        bytes[0x38] = 0x30; // boot order: CD-ROM third, no floppy check (SeaBIOS, src/boot.c)
        bytes[0x3d] = 0x02; // disk first
        bytes[0x5f] = about.cpus.saturating_sub(1).min(255) as u8;
        let looked = clock().as_secs();
        Cmos { index: 0, bytes, irq, clock, ahead: 0, periodic: None, looked }
    }

    /// Does what is due, and says when to come again, by the host's clock; `None`: not before a register changes.
    pub fn tick(&mut self) -> Option<Duration> {
        let now = (self.clock)();
        let mut events = 0;
        if let (Some(due), Some(period)) = (self.periodic, self.period())
            && now >= due
        {
            events |= PERIODIC;
            // Periods that were missed are lost, as with a real clock whose interrupt nobody acknowledges.
            let missed = (now - due).as_nanos() / period.as_nanos();
            self.periodic = Some(due + period * (missed as u32 + 1));
        }
        if now.as_secs() != self.looked {
            self.looked = now.as_secs();
            events |= UPDATED;
            events |= if self.alarm_matches() { ALARM } else { 0 };
        }
        self.report(events);
        let enabled = self.bytes[B];
        let second = (enabled & (ALARM | UPDATED) != 0).then(|| Duration::from_secs(now.as_secs() + 1));
        let periodic = self.periodic.filter(|_| enabled & PERIODIC != 0);
        [second, periodic].into_iter().flatten().min()
    }

    fn report(&mut self, events: u8) {
        let before = self.bytes[C];
        self.bytes[C] |= events;
        if self.bytes[C] & self.bytes[B] & (PERIODIC | ALARM | UPDATED) != 0 {
            self.bytes[C] |= C_INTERRUPT;
            if before & C_INTERRUPT == 0 {
                (self.irq)();
            }
        }
    }

    /// Time between periodic interrupts (datasheet, table 5).
    fn period(&self) -> Option<Duration> {
        let ticks = match self.bytes[A] & A_RATE {
            0 => return None,
            rate @ 1..=2 => 1 << (rate + 6),
            rate => 1 << (rate - 1),
        };
        Some(Duration::from_nanos(1_000_000_000 * ticks / 32_768))
    }

    fn alarm_matches(&self) -> bool {
        [SECONDS, MINUTES, HOURS].iter().all(|at| {
            let wanted = self.bytes[at + 1];
            wanted >= ANY || wanted == self.time_register(*at)
        })
    }

    /// Seconds since 1970 by the guest's clock.
    fn seconds(&self) -> i64 {
        (self.clock)().as_secs() as i64 + self.ahead
    }

    fn time_register(&self, at: usize) -> u8 {
        let date = Date::of(self.seconds());
        match at {
            HOURS if self.bytes[B] & B_24_HOURS == 0 => {
                let afternoon = if date.hour >= 12 { 0x80 } else { 0 };
                self.coded((date.hour + 11) % 12 + 1) | afternoon
            }
            SECONDS => self.coded(date.second),
            MINUTES => self.coded(date.minute),
            HOURS => self.coded(date.hour),
            WEEKDAY => self.coded(date.weekday),
            DAY => self.coded(date.day),
            MONTH => self.coded(date.month),
            YEAR => self.coded((date.year.rem_euclid(100)) as u8),
            _ => self.coded((date.year.div_euclid(100)).clamp(0, 99) as u8),
        }
    }

    fn set_time_register(&mut self, at: usize, value: u8) {
        let mut date = Date::of(self.seconds());
        let before = self.seconds();
        let number = self.decoded(value);
        match at {
            SECONDS => date.second = number,
            MINUTES => date.minute = number,
            HOURS if self.bytes[B] & B_24_HOURS == 0 => {
                date.hour = self.decoded(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 };
            }
            HOURS => date.hour = number,
            DAY => date.day = number,
            MONTH => date.month = number.clamp(1, 12),
            YEAR => date.year = date.year.div_euclid(100) * 100 + i64::from(number),
            CENTURY => date.year = date.year.rem_euclid(100) + i64::from(number) * 100,
            _ => {} // the day of the week follows from the date
        }
        self.ahead += date.seconds() - before;
    }

    fn coded(&self, number: u8) -> u8 {
        if self.bytes[B] & B_BINARY != 0 { number } else { (number / 10) << 4 | (number % 10) }
    }

    fn decoded(&self, value: u8) -> u8 {
        if self.bytes[B] & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
    }
}

impl ByteDevice for Cmos {
    fn read(&mut self, register: u64) -> u8 {
        if register == 0 {
            return 0xff; // the index is write-only
        }
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => self.time_register(self.index),
            A => {
                let part = Duration::from_nanos((self.clock)().subsec_nanos().into());
                let updating = part + UPDATE >= Duration::from_secs(1) && self.bytes[B] & B_HOLD == 0;
                self.bytes[A] & !A_UPDATING | if updating { A_UPDATING } else { 0 }
            }
            C => {
                self.tick();
                core::mem::take(&mut self.bytes[C])
            }
            D => D_BATTERY,
            other => self.bytes[other],
        }
    }

    fn write(&mut self, register: u64, value: u8) {
        if register == 0 {
            self.index = usize::from(value & 0x7f); // bit 7 masks the NMI
            return;
        }
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => self.set_time_register(self.index, value),
            C | D => {}
            at @ (A | B) => {
                self.bytes[at] = value;
                let wanted = self.bytes[B] & PERIODIC != 0;
                self.periodic = self.period().filter(|_| wanted).map(|period| (self.clock)() + period);
                self.report(0);
            }
            other => self.bytes[other] = value,
        }
    }
}

/// A date of the Gregorian calendar and a time of day. `weekday` counts from 1 for Sunday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Date {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    weekday: u8,
}

const DAY_SECONDS: i64 = 86_400;

impl Date {
    /// The date so many seconds after 1970 began. Years are counted from March here, so that the leap day comes last.
    fn of(seconds: i64) -> Date {
        let (days, rest) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
        // Days since 1 March of the year 0, and the place within 400 years of 146097 days.
        let days_from_0 = days + 719_468;
        let (era, day) = (days_from_0.div_euclid(146_097), days_from_0.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        Date {
            year: era * 400 + year + i64::from(month <= 2),
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
        }
    }

    fn seconds(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let month = (i64::from(self.month) + 9) % 12;
        let day = (153 * month + 2) / 5 + i64::from(self.day) - 1 + year * 365 + year / 4 - year / 100;
        let days = era * 146_097 + day - 719_468;
        days * DAY_SECONDS + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
#[path = "cmos_tests.rs"]
mod tests;
