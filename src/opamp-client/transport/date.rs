//! Retry-After, in both of its forms.
//!
//! Promises: total; what does not parse is ignored. A date is compared with the `Date` of the same answer,
//! not with our clock: the server's two clocks agree, ours may not.

use std::time::Duration;

use http::{HeaderMap, header};

/// How long the answer asks to wait. `None` if it does not say, or not in a form that exists.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
    };
    let asked = text(header::RETRY_AFTER)?.trim();
    if asked.bytes().all(|byte| byte.is_ascii_digit()) && !asked.is_empty() {
        // Digits that do not fit are a very long time.
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
    }
    let then = unix_seconds(asked)?;
    let now = unix_seconds(text(header::DATE)?.trim())?;
    // A date in the past means now.
    Some(Duration::from_secs(
        u64::try_from(then.saturating_sub(now)).unwrap_or(0),
    ))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
fn unix_seconds(text: &str) -> Option<i64> {
    let spaced = text.replace(['-', ','], " ");
    let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let ([_, day, month, year, time, "GMT"] | [_, month, day, time, year]) = *words.as_slice()
    else {
        return None;
    };
    let number = |text: &str| {
        let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<i64>().ok()).flatten()
    };
    let full_year = match number(year)? {
        // Two digits: RFC 850. Dates of this protocol lie near the present.
        short @ 0..=69 if year.len() == 2 => short + 2000,
        short if year.len() == 2 => short + 1900,
        full => full,
    };
    let names = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = i64::try_from(names.iter().position(|name| *name == month)?).ok()? + 1;
    let mut clock = time.split(':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let in_range = clock.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    let day = number(day).filter(|day| (1..=31).contains(day) && in_range)?;
    Some(days_from_civil(full_year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar; years begin in March, so that leap days come last.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(retry: &str, date: Option<&str>) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(header::RETRY_AFTER, retry.parse().unwrap());
        if let Some(date) = date {
            map.insert(header::DATE, date.parse().unwrap());
        }
        map
    }

    //
    #[test]
    fn both_forms_are_read_and_garbage_is_ignored() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let cases = [
            ("120", None, Some(120)),
            ("0", None, Some(0)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("-5", None, None),
            ("soon", now, None),
            ("", now, None),
            ("Sun, 06 Nov 1994 08:50:07 GMT", now, Some(30)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", now, Some(60)),
            ("Sun Nov  6 08:49:38 1994", now, Some(1)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", now, Some(86_400)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", now, Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", None, None),
            ("Sun, 06 Foo 1994 08:50:07 GMT", now, None),
            ("Sun, 06 Nov 1994 28:50:07 GMT", now, None),
        ];
        for (retry, date, wanted) in cases {
            let seen = retry_after(&headers(retry, date));
            assert_eq!(seen, wanted.map(Duration::from_secs), "{retry} {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn dates_count_from_1970() {
        let cases = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
        ];
        for (text, wanted) in cases {
            assert_eq!(unix_seconds(text), Some(wanted), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,40}") {
            let _seconds = unix_seconds(&text);
        }
    }
}
