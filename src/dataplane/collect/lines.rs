//! Bytes of a stream → lines, and a line → a log record.
//!
//! Promises: the lines do not depend on how the bytes were cut into reads; a line holds at most the limit, the rest
//! of a longer one is thrown away and the line marked; the bytes of a line are kept as they came.
//! Must never: buffer more than the limit, or refuse a line for what it says.

use crate::dataplane::record::{LogRecord, Severity, Wholeness};
use crate::units::WallTime;

/// Splits one stream.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    remainder: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl LineSplitter {
    /// Cuts lines at `limit` bytes.
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            remainder: Vec::new(),
            limit,
            cut: false,
        }
    }

    /// Takes the next bytes and hands out each line that they end. Empty lines are none.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], Wholeness)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.remainder.is_empty() && line.len() <= self.limit {
                Self::hand_out(line, Wholeness::Whole, &mut emit);
                continue;
            }
            self.keep(line);
            self.end(Wholeness::Whole, &mut emit);
        }
        self.keep(bytes);
    }

    /// Hands out what came after the last line end.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(&[u8], Wholeness)) {
        self.end(Wholeness::Partial, &mut emit);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let free = self.limit - self.remainder.len();
        self.cut |= bytes.len() > free;
        self.remainder
            .extend_from_slice(bytes.get(..free).unwrap_or(bytes));
    }

    fn end(&mut self, otherwise: Wholeness, emit: &mut impl FnMut(&[u8], Wholeness)) {
        let wholeness = if std::mem::take(&mut self.cut) {
            Wholeness::Cut
        } else {
            otherwise
        };
        Self::hand_out(&self.remainder, wholeness, emit);
        self.remainder.clear();
        // One long line must not hold its memory for the life of the connection.
        self.remainder.shrink_to(4096);
    }

    fn hand_out(line: &[u8], wholeness: Wholeness, emit: &mut impl FnMut(&[u8], Wholeness)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            emit(line, wholeness);
        }
    }
}

/// Makes a record of a line. Of a JSON object the time and the severity are read; the body stays the line as it came.
pub(crate) fn record(line: &[u8], wholeness: Wholeness, observed: WallTime) -> LogRecord {
    let said = if line.first() == Some(&b'{') && wholeness == Wholeness::Whole {
        serde_json::from_slice(line).unwrap_or_default()
    } else {
        Said::default()
    };
    LogRecord {
        event: None,
        attributes: Vec::new(),
        body: line.into(),
        time: said.time(),
        observed,
        severity: said.severity(),
        wholeness,
    }
}

/// What an application says of its line (S1-11), under the names in use.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "@timestamp")]
    timestamp: serde_json::Value,
    severity: serde_json::Value,
    level: serde_json::Value,
}

impl Said {
    fn time(&self) -> Option<WallTime> {
        let timestamp: jiff::Timestamp = self.timestamp.as_str()?.parse().ok()?;
        let millis = u64::try_from(timestamp.as_millisecond()).ok()?;
        Some(WallTime::from_unix_millis(millis))
    }

    fn severity(&self) -> Option<Severity> {
        [&self.severity, &self.level]
            .into_iter()
            .find_map(|word| Severity::parse(word.as_str()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], limit: usize) -> Vec<(Vec<u8>, Wholeness)> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        let mut emit = |line: &[u8], wholeness| lines.push((line.to_vec(), wholeness));
        for chunk in chunks {
            splitter.push(chunk, &mut emit);
        }
        splitter.finish(&mut emit);
        lines
    }

    #[test]
    fn lines_are_whole_cut_or_partial() {
        use Wholeness::{Cut, Partial, Whole};
        type Case<'a> = (&'a [&'a [u8]], Vec<(Vec<u8>, Wholeness)>);
        let line = |text: &str, wholeness| (text.as_bytes().to_vec(), wholeness);
        let cases: [Case<'_>; 6] = [
            (&[b"a\nb\n"], vec![line("a", Whole), line("b", Whole)]),
            (
                &[b"he", b"llo\nwor", b"ld\n"],
                vec![line("hello", Whole), line("world", Whole)],
            ),
            (
                &[b"a\r\n\n\r\nb"],
                vec![line("a", Whole), line("b", Partial)],
            ),
            (
                &[b"12345678\n12345678", b"9\nx\n"],
                vec![
                    line("12345678", Whole),
                    line("12345678", Cut),
                    line("x", Whole),
                ],
            ),
            (&[b"123456789abc"], vec![line("12345678", Cut)]),
            (&[], vec![]),
        ];
        for (chunks, wanted) in cases {
            assert_eq!(split(chunks, 8), wanted, "{chunks:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_bytes_were_read(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            step in 1_usize..50,
            limit in 1_usize..20,
        ) {
            let chunks: Vec<_> = bytes.chunks(step).collect();
            let lines = split(&chunks, limit);
            prop_assert_eq!(&lines, &split(&[&bytes], limit));
            prop_assert!(lines.iter().all(|(line, _)| line.len() <= limit));
        }
    }

    #[test]
    fn time_and_severity_are_read_from_json_and_the_bytes_stay() {
        let now = WallTime::from_unix_millis(5);
        let of = |line: &str| record(line.as_bytes(), Wholeness::Whole, now);
        let line = r#"{"@timestamp":"2026-01-02T03:04:05.678+01:00","source":"app","level":"warn","message":"x"}"#;
        let full = of(line);
        assert_eq!(&*full.body, line.as_bytes());
        assert_eq!(
            full.time,
            Some(WallTime::from_unix_millis(1_767_319_445_678))
        );
        assert_eq!(full.severity, Some(Severity::Warn));
        assert_eq!(full.observed, now);
        for line in [
            "plain text",
            "{not json",
            r#"{"@timestamp":17,"level":{"a":1}}"#,
            r#"{"@timestamp":"yesterday"}"#,
            "[1]",
            "\u{1}\u{2}",
        ] {
            let record = of(line);
            assert_eq!((record.time, record.severity), (None, None), "{line}");
            assert_eq!(&*record.body, line.as_bytes());
        }
        let raw = record(b"\xff\xfe", Wholeness::Partial, now);
        assert_eq!(&*raw.body, b"\xff\xfe");
        assert_eq!(raw.wholeness, Wholeness::Partial);
    }
}
