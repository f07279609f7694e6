//! The real-time clock MC146818 and its memory, which firmware calls the CMOS.
//!
//! Register numbers and bits are those of the MC146818A datasheet; the use of the memory behind the clock is that of the
//! IBM AT and of SeaBIOS (`src/hw/rtc.h`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::ByteDevice;
use crate::calendar::Date;
use crate::clock::Clock;
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
const DAY_SECONDS: i64 = 86_400;

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
///
/// What the guest reads depends on its accesses and their times alone. The interrupt, which comes without an access, is
/// raised by whoever calls [`Cmos::interrupt`] in time, and changes nothing that can be read.
pub struct Cmos {
    index: usize,
    bytes: [u8; 128],
    irq: Irq,
    clock: Clock,
    /// Time since 1970 when the machine's clock began.
    base: Duration,
    /// Time since 1970, and before the guest set the date, at the access that is served.
    now: Duration,
    /// Seconds that the guest's clock is ahead of that.
    ahead: i64,
    /// What has happened up to `since` and was not read: bits of register C.
    flags: u8,
    since: Duration,
    /// When the periods began to count, while the periodic interrupt is enabled.
    periodic: Option<Duration>,
    /// The interrupt was raised and not acknowledged since.
    raised: bool,
}

/// Time since 1970 by the host's clock.
pub fn host_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Cmos {
    /// A clock that shows `base`, time since 1970, when `clock` begins, goes by that, and raises `irq`.
    pub fn new(about: About, irq: Irq, clock: Clock, base: Duration) -> Cmos {
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
        let (now, since) = (base, base);
        Cmos { index: 0, bytes, irq, clock, base, now, ahead: 0, flags: 0, since, periodic: None, raised: false }
    }

    /// Takes note of what has happened up to the access that is served.
    fn settle(&mut self) {
        let (from, to) = (self.since, self.now);
        // Accesses of two processors may come the other way round.
        if to <= from {
            return;
        }
        for event in [PERIODIC, ALARM, UPDATED] {
            if self.next(event, from).is_some_and(|due| due <= to) {
                self.flags |= event;
            }
        }
        self.since = to;
    }

    /// When an event comes next after this time, whether it interrupts or not.
    fn next(&self, event: u8, after: Duration) -> Option<Duration> {
        match event {
            PERIODIC => {
                let (start, period) = (self.periodic?, self.period()?);
                let passed = after.saturating_sub(start).as_nanos() / period.as_nanos() + 1;
                Some(start + Duration::from_nanos((passed * period.as_nanos()) as u64))
            }
            ALARM => self.next_alarm(after.as_secs()).map(Duration::from_secs),
            _ => Some(Duration::from_secs(after.as_secs() + 1)),
        }
    }

    /// When the interrupt is due, time since 1970 as [`Cmos::interrupt`] takes it; `None`: not before a register changes.
    pub fn due(&self) -> Option<Duration> {
        let enabled = self.bytes[B] & (PERIODIC | ALARM | UPDATED);
        if self.raised || enabled == 0 {
            return None;
        }
        if self.flags & enabled != 0 {
            return Some(self.since);
        }
        let events = [PERIODIC, ALARM, UPDATED].into_iter().filter(|event| enabled & event != 0);
        events.filter_map(|event| self.next(event, self.since)).min()
    }

    /// Time since 1970 by the machine's clock, now.
    pub fn time(&self) -> Duration {
        self.base + self.clock.now()
    }

    /// Raises the interrupt if it is due.
    pub fn interrupt(&mut self, now: Duration) {
        if self.due().is_some_and(|due| due <= now) {
            self.raised = true;
            (self.irq)();
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

    /// The second, since 1970 without the guest's setting, of the next alarm after this one.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        let matching = |at: usize, numbers: u8| -> Vec<i64> {
            let wanted = self.bytes[at + 1];
            let shown = |number: u8| if at == HOURS { self.coded_hour(number) } else { self.coded(number) };
            (0..numbers).filter(|number| wanted >= ANY || wanted == shown(*number)).map(i64::from).collect()
        };
        let (hours, minutes, seconds) = (matching(HOURS, 24), matching(MINUTES, 60), matching(SECONDS, 60));
        let now = after as i64 + self.ahead;
        let of_day = now.rem_euclid(DAY_SECONDS);
        // Today, then tomorrow; hours and minutes that are over are passed by as a whole.
        for day in [0, DAY_SECONDS] {
            for hour in hours.iter().map(|hour| day + hour * 3600).filter(|hour| hour + 3599 > of_day) {
                for minute in minutes.iter().map(|minute| hour + minute * 60).filter(|minute| minute + 59 > of_day) {
                    if let Some(second) = seconds.iter().map(|second| minute + second).find(|at| *at > of_day) {
                        return after.checked_add_signed(second - of_day);
                    }
                }
            }
        }
        None
    }

    /// Seconds since 1970 by the guest's clock.
    fn seconds(&self) -> i64 {
        self.now.as_secs() as i64 + self.ahead
    }

    fn time_register(&self, at: usize) -> u8 {
        let date = Date::of(self.seconds());
        match at {
            SECONDS => self.coded(date.second),
            MINUTES => self.coded(date.minute),
            HOURS => self.coded_hour(date.hour),
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

    fn coded_hour(&self, hour: u8) -> u8 {
        if self.bytes[B] & B_24_HOURS != 0 {
            return self.coded(hour);
        }
        self.coded((hour + 11) % 12 + 1) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn coded(&self, number: u8) -> u8 {
        if self.bytes[B] & B_BINARY != 0 { number } else { (number / 10) << 4 | (number % 10) }
    }

    fn decoded(&self, value: u8) -> u8 {
        if self.bytes[B] & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
    }
}

impl ByteDevice for Cmos {
    fn moment(&mut self, tsc: u64) {
        self.now = self.base + self.clock.at(tsc);
    }

    /// The memory stays, as by a battery; nothing interrupts any more.
    fn reset(&mut self) {
        self.bytes[B] &= !(PERIODIC | ALARM | UPDATED);
        (self.flags, self.periodic, self.raised) = (0, None, false);
    }

    fn read(&mut self, register: u64) -> u8 {
        if register == 0 {
            return 0xff; // the index is write-only
        }
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => self.time_register(self.index),
            A => {
                let part = Duration::from_nanos(self.now.subsec_nanos().into());
                let updating = part + UPDATE >= Duration::from_secs(1) && self.bytes[B] & B_HOLD == 0;
                self.bytes[A] & !A_UPDATING | if updating { A_UPDATING } else { 0 }
            }
            C => {
                self.settle();
                self.raised = false;
                let flags = core::mem::take(&mut self.flags);
                let interrupts = flags & self.bytes[B] & (PERIODIC | ALARM | UPDATED) != 0;
                flags | if interrupts { C_INTERRUPT } else { 0 }
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
        // Up to here time went by the registers as they were.
        self.settle();
        match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => self.set_time_register(self.index, value),
            C | D => {}
            at @ (A | B) => {
                self.bytes[at] = value;
                let counts = self.bytes[B] & PERIODIC != 0 && self.period().is_some();
                self.periodic = match self.periodic {
                    Some(start) if counts && at == B => Some(start),
                    _ => counts.then_some(self.now),
                };
                self.raised &= self.flags & self.bytes[B] != 0;
            }
            other => self.bytes[other] = value,
        }
    }
}

#[cfg(test)]
#[path = "cmos_tests.rs"]
mod tests;
