//! Dates of wall times, in UTC: printing and reading, and nothing else that calendars are about.
//!
//! Promises: the proleptic Gregorian calendar, from the year 0 to 9999; what is no date is none.
//! Must never: know a time zone by name, a locale or a leap second. A crate that does is many times the size of all
//! that the supervisor does with dates.

use super::WallTime;

const DAY_MS: i64 = 86_400_000;

/// A date and a time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// 0 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59; 60, a leap second, is the first second of the next minute.
    pub second: u8,
}

impl Date {
    /// Reads the one form of a date that HTTP lets servers send: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub fn of_http(text: &str) -> Option<Self> {
        const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
        let (_, text) = text.trim().split_once(", ")?;
        let mut words = text.split(' ');
        let mut word = || words.next();
        let (day, month, year, time, zone) = (word()?, word()?, word()?, word()?, word()?);
        let (hour, rest) = time.split_once(':')?;
        let (minute, second) = rest.split_once(':')?;
        let at = MONTHS
            .find(month)
            .filter(|at| month.len() == 3 && at % 3 == 0)?;
        (zone == "GMT" && word().is_none()).then_some(())?;
        Some(Self {
            year: year.parse().ok()?,
            month: u8::try_from(at / 3 + 1).ok()?,
            day: day.parse().ok()?,
            hour: hour.parse().ok()?,
            minute: minute.parse().ok()?,
            second: second.parse().ok()?,
        })
    }

    /// Milliseconds since the Unix epoch, negative before it; nothing where there is no such date.
    pub fn unix_millis(self) -> Option<i64> {
        let (year, month, day) = (self.year.into(), self.month.into(), self.day.into());
        let days = days(year, month, day);
        let real = year <= 9999
            && (1..=12).contains(&self.month)
            && civil(days) == (year, month, day)
            && self.hour < 24
            && self.minute < 60
            && self.second <= 60;
        let minutes = i64::from(self.hour) * 60 + i64::from(self.minute);
        real.then(|| days * DAY_MS + (minutes * 60 + i64::from(self.second)) * 1000)
    }
}

/// RFC 3339 in UTC with milliseconds; plain milliseconds after the year 9999.
pub(super) fn print(at: WallTime, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let millis = i64::try_from(at.unix_millis()).unwrap_or(i64::MAX);
    let (year, month, day) = civil(millis / DAY_MS);
    if year > 9999 {
        return write!(f, "{}ms", at.unix_millis());
    }
    let rest = millis % DAY_MS;
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(
        f,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    )
}

/// Reads RFC 3339, with any offset and any number of decimals; nothing before 1970.
pub(super) fn parse(text: &str) -> Option<WallTime> {
    let (date, rest) = text.split_at_checked(19)?;
    let shape = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        10 => matches!(byte, b'T' | b't' | b' '),
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    let decimals = rest.strip_prefix('.').map_or(0, |rest| {
        rest.bytes().take_while(u8::is_ascii_digit).count()
    });
    let zone = match (rest.strip_prefix('.'), decimals) {
        (None, _) => rest,
        (Some(_), 0) => return None,
        (Some(rest), decimals) => rest.get(decimals..)?,
    };
    if !date.bytes().enumerate().all(shape) {
        return None;
    }
    let two = |at: usize| date.get(at..at + 2)?.parse().ok();
    let millis = Date {
        year: date.get(..4)?.parse().ok()?,
        month: two(5)?,
        day: two(8)?,
        hour: two(11)?,
        minute: two(14)?,
        second: two(17)?,
    }
    .unix_millis()?;
    let fraction = rest.bytes().skip(1).take(decimals.min(3));
    let fraction = [100, 10, 1]
        .iter()
        .zip(fraction)
        .map(|(weight, digit)| weight * i64::from(digit - b'0'))
        .sum::<i64>();
    let millis = millis + fraction - offset(zone)? * 60_000;
    Some(WallTime::from_unix_millis(u64::try_from(millis).ok()?))
}

/// Minutes that a zone is ahead of UTC: `Z`, or `+01:00`.
fn offset(zone: &str) -> Option<i64> {
    let &[sign, h1, h2, b':', m1, m2] = zone.as_bytes() else {
        return matches!(zone, "Z" | "z").then_some(0);
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    let ahead = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
    match sign {
        b'+' => Some(ahead),
        b'-' => Some(-ahead),
        _ => None,
    }
}

/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;
/// Days from the first of March of the year 0 to the Unix epoch.
const EPOCH: i64 = 719_468;

/// Days from the epoch to a date. Years begin in March here, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year.div_euclid(400) * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH
}

/// Year, month and day of a number of days since the epoch.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let of_era = days.rem_euclid(ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + days.div_euclid(ERA) * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// The last second that the other library can say.
    const LAST: u64 = 253_402_207_200_999;

    proptest! {
        #[test]
        fn prints_and_reads_what_another_library_does(millis in 0..=LAST) {
            let at = WallTime::from_unix_millis(millis);
            let theirs = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
            prop_assert_eq!(at.to_string(), format!("{theirs:.3}"));
            prop_assert_eq!(parse(&at.to_string()), Some(at));
        }

        #[test]
        fn knows_the_days_that_there_are(year in 0u16..=9999, month in 0u8..=13, day in 0u8..=32) {
            let date = Date { year, month, day, hour: 0, minute: 0, second: 0 };
            let theirs = jiff::civil::Date::new(year.try_into().unwrap(), month.try_into().unwrap(), day.try_into().unwrap());
            let theirs = theirs.ok().map(|it| {
                let since = it.at(0, 0, 0, 0).duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
                i64::try_from(since.as_millis()).unwrap()
            });
            prop_assert_eq!(date.unix_millis(), theirs);
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn zones_and_decimals_are_read() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t01:00:00.5+01:00", Some(500)),
            ("1969-12-31 23:00:00.123456789-01:30", Some(1_800_123)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("1969-12-31T23:59:59Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2023-02-28T24:00:00Z", None),
            ("2023-02-28T00:00:00", None),
            ("2023-02-28T00:00:00.Z", None),
            ("2023-02-28T00:00:00+1:00", None),
            ("2023-02-28T00:00:00+24:00", None),
            ("2023-02-28T00:00:00Z ", None),
            ("+023-02-28T00:00:00Z", None),
            ("2023-02-28", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let found = parse(text).map(WallTime::unix_millis);
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn dates_of_servers_are_read() {
        let read = |text| Date::of_http(text).and_then(Date::unix_millis);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        for text in [
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT more",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_after_the_last_year_is_a_number() {
        let last = WallTime::from_unix_millis(253_402_300_799_999);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999Z");
        let next = WallTime::from_unix_millis(253_402_300_800_000);
        assert_eq!(next.to_string(), "253402300800000ms");
        let end = WallTime::from_unix_millis(u64::MAX);
        assert_eq!(end.to_string(), format!("{}ms", u64::MAX));
    }
}
