//! The Gregorian calendar: dates and seconds since 1970 began, in UTC.

use std::fmt;

const DAY_SECONDS: i64 = 86_400;

/// A date and a time of day. `weekday` counts from 1 for Sunday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: i64,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute.
    pub minute: u8,
    /// Second.
    pub second: u8,
    /// Day of the week, from 1 for Sunday; it follows from the date and is not looked at.
    pub weekday: u8,
}

impl Date {
    /// The date so many seconds after 1970 began. Years are counted from March here, so that the leap day comes last.
    pub fn of(seconds: i64) -> Date {
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

    /// Seconds since 1970 began. Numbers that are too large for their place carry over.
    pub fn seconds(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let month = (i64::from(self.month) + 9) % 12;
        let day = (153 * month + 2) / 5 + i64::from(self.day) - 1 + year * 365 + year / 4 - year / 100;
        let days = era * 146_097 + day - 719_468;
        days * DAY_SECONDS + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }

    /// Reads a date, with a time of day or without: `2026-11-28`, `2026-11-28T17:04:44`, `2026-11-28T17:04:44Z`.
    ///
    /// # Errors
    /// A sentence that says what is accepted.
    pub fn parse(word: &str) -> Result<Date, String> {
        let wrong = || "give a date of 1970 to 9999, such as 2026-11-28 or 2026-11-28T17:04:44".to_owned();
        let (day, time) = word.strip_suffix('Z').unwrap_or(word).split_once('T').unwrap_or((word, "00:00:00"));
        let [year, month, day] = numbers(day, '-', [4, 2, 2]).ok_or_else(wrong)?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2]).ok_or_else(wrong)?;
        let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(|number| number as u8);
        let date = Date { year: year.into(), month, day, hour, minute, second, weekday: 0 };
        // A date that is none comes back as another one.
        let back = Date::of(date.seconds());
        if year >= 1970 && (Date { weekday: 0, ..back }) == date { Ok(back) } else { Err(wrong()) }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Date { year, month, day, hour, minute, second, .. } = self;
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// Three numbers of so many digits.
fn numbers(word: &str, between: char, digits: [usize; 3]) -> Option<[u16; 3]> {
    let mut parts = word.split(between);
    let mut found = [0; 3];
    for (to, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()));
        *to = part?.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn dates_are_read_as_they_are_written() {
        for (word, seconds) in [
            ("1970-01-01", 0),
            ("2024-02-29T23:59:58", 1_709_251_198),
            ("2024-02-29T23:59:58Z", 1_709_251_198),
            ("9999-12-31T00:00:00", 253_402_214_400),
        ] {
            let date = Date::parse(word).unwrap();
            assert_eq!((date.seconds(), Date::parse(&date.to_string())), (seconds, Ok(date)), "{word}");
        }
        for wrong in [
            "",
            "now",
            "2023-02-29",
            "1969-12-31",
            "2024-13-01",
            "2024-1-1",
            "24-01-01",
            "2024-01-01T24:00:00",
            "2024-01-01T10:00",
            "2024-01-01-01",
            "+024-01-01",
        ] {
            assert!(Date::parse(wrong).unwrap_err().contains("2026-11-28"), "{wrong:?}");
        }
    }
}
