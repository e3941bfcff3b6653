//! Lines of a child among our own: the way of the Collector's supervisor to pass them on.
//!
//! Promises: every line becomes one line of our log that says whose it is; a JSON object stays as it is, byte for byte,
//! with one key before its first; any other line keeps its level where it shows one; a line of more than [`LINE_MAX`]
//! bytes goes on in another.
//! Must never: drop a line because of its level, or wait for the end of one for ever (`lines.rs` sees to that).

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::sys::log::Format;
use crate::units::WallTime;

/// Bytes of one line.
const LINE_MAX: usize = 256 * 1024;
/// Memory that an idle stream may keep.
const KEEP: usize = 4 * 1024;
/// The key that says whose line it is, as the Collector's supervisor has it.
const KEY: &str = "logger";

/// Unfinished lines of a child's two streams.
#[derive(Debug)]
pub(super) struct Tagged {
    name: String,
    begun: [Vec<u8>; 2],
}

impl Tagged {
    /// Lines of this child.
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            begun: [Vec::new(), Vec::new()],
        }
    }

    /// Takes bytes of a stream and gives back the lines of our log that they complete.
    pub(super) fn add(
        &mut self,
        stream: usize,
        bytes: &[u8],
        (format, at): (Format, WallTime),
    ) -> Vec<Vec<u8>> {
        let Some(begun) = self.begun.get_mut(stream) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while !rest.is_empty() {
                let room = LINE_MAX.saturating_sub(begun.len()).max(1);
                let (now, later) = rest.split_at(room.min(rest.len()));
                begun.extend_from_slice(now);
                rest = later;
                if begun.ends_with(b"\n") || begun.len() >= LINE_MAX {
                    records.extend(record(&self.name, stream, begun, format, at));
                    begun.clear();
                    begun.shrink_to(KEEP);
                }
            }
        }
        records
    }

    /// The line that is unfinished: nobody will end it.
    pub(super) fn rest(&mut self, stream: usize, how: (Format, WallTime)) -> Vec<Vec<u8>> {
        let unfinished = self.begun.get(stream).is_some_and(|it| !it.is_empty());
        if unfinished {
            self.add(stream, b"\n", how)
        } else {
            Vec::new()
        }
    }
}

/// One line of our log; none for an empty line.
fn record(name: &str, stream: usize, line: &[u8], format: Format, at: WallTime) -> Option<Vec<u8>> {
    let line = line.trim_ascii_end();
    if line.is_empty() {
        return None;
    }
    let object = object(line);
    let level = match &object {
        Some(keys) => keys.level.unwrap_or_else(|| usual(stream)),
        None => level_of_text(line).unwrap_or_else(|| usual(stream)),
    };
    let mut record = match (format, object) {
        (Format::Json, Some(keys)) if !keys.is_tagged => tag(name, line, keys.is_empty),
        (Format::Json, _) => {
            let message = String::from_utf8_lossy(line);
            format!(
                "{{\"timestamp\":\"{at}\",\"level\":\"{level}\",{}:{},\"message\":{}}}",
                json!(KEY),
                json!(name),
                json!(message)
            )
            .into_bytes()
        }
        (Format::Text, _) => {
            let mut text = format!("{at} {level:>5} {name}: ").into_bytes();
            text.extend_from_slice(line);
            text
        }
    };
    record.push(b'\n');
    Some(record)
}

/// Puts our key before the first one of an object.
fn tag(name: &str, line: &[u8], is_empty: bool) -> Vec<u8> {
    let comma = if is_empty { "" } else { "," };
    let mut record = format!("{{{}:{}{comma}", json!(KEY), json!(name)).into_bytes();
    record.extend_from_slice(line.get(1..).unwrap_or_default());
    record
}

struct Keys {
    level: Option<&'static str>,
    is_tagged: bool,
    is_empty: bool,
}

/// What a line says that is a JSON object; none for any other.
fn object(line: &[u8]) -> Option<Keys> {
    #[derive(serde::Deserialize)]
    struct Seen {
        level: Option<Value>,
        logger: Option<IgnoredAny>,
    }
    let inside = line.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let seen: Seen = serde_json::from_slice(line).ok()?;
    Some(Keys {
        level: seen.level.as_ref().and_then(Value::as_str).and_then(level),
        is_tagged: seen.logger.is_some(),
        is_empty: inside.trim_ascii().is_empty(),
    })
}

/// The level in a line as Collectors write it for people: time, level and the rest, with tabs between.
fn level_of_text(line: &[u8]) -> Option<&'static str> {
    let word = line.split(|byte| *byte == b'\t').nth(1)?;
    level(std::str::from_utf8(word).ok()?)
}

fn level(word: &str) -> Option<&'static str> {
    let levels = [
        ("debug", "DEBUG"),
        ("info", "INFO"),
        ("warn", "WARN"),
        ("error", "ERROR"),
        ("dpanic", "ERROR"),
        ("panic", "ERROR"),
        ("fatal", "ERROR"),
    ];
    let mut levels = levels.iter();
    levels
        .find(|(known, _)| known.eq_ignore_ascii_case(word))
        .map(|(_, ours)| *ours)
}

/// What is taken for the level of a line that shows none: as the Collector's supervisor takes it.
const fn usual(stream: usize) -> &'static str {
    if stream == 0 { "INFO" } else { "ERROR" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: WallTime = WallTime::from_unix_millis(1_700_000_000_123);

    fn lines(stream: usize, text: &str, format: Format) -> Vec<String> {
        let mut tagged = Tagged::new("collector".to_owned());
        let records = tagged.add(stream, text.as_bytes(), (format, AT));
        let more = tagged.rest(stream, (format, AT));
        let all = records.into_iter().chain(more);
        all.map(|record| String::from_utf8(record).unwrap())
            .collect()
    }

    #[test]
    fn a_json_object_stays_as_it_is_behind_our_key() {
        let cases = [
            (
                "{\"level\":\"warn\",  \"ts\":1.50,\"msg\":\"\\u00e4 \\\"x\\\"\",\"a\":{\"logger\":1}}\n",
                "{\"logger\":\"collector\",\"level\":\"warn\",  \"ts\":1.50,\"msg\":\"\\u00e4 \\\"x\\\"\",\
                 \"a\":{\"logger\":1}}\n",
            ),
            ("{}\r\n", "{\"logger\":\"collector\"}\n"),
            // It names a logger of its own: then it is a text like any other, with its own level.
            (
                "{\"logger\":\"grpc\",\"level\":\"debug\"}\n",
                "{\"timestamp\":\"2023-11-14T22:13:20.123Z\",\"level\":\"DEBUG\",\"logger\":\"collector\",\
                 \"message\":\"{\\\"logger\\\":\\\"grpc\\\",\\\"level\\\":\\\"debug\\\"}\"}\n",
            ),
        ];
        for (line, wanted) in cases {
            assert_eq!(lines(1, line, Format::Json), [wanted]);
        }
    }

    #[test]
    fn other_lines_keep_their_level_and_words() {
        let cases = [
            (1, "2026-01-01T00:00:00Z\tinfo\tservice.go:1\tready", "INFO"),
            (1, "panic: out of words", "ERROR"),
            (0, "plain", "INFO"),
            (0, "{not json", "INFO"),
        ];
        for (stream, line, level) in cases {
            let found = lines(stream, line, Format::Json);
            let record: Value = serde_json::from_str(&found[0]).unwrap();
            assert_eq!(record["level"], level, "{line}");
            assert_eq!(record["logger"], "collector");
            assert_eq!(record["message"], line);
            assert_eq!(found.len(), 1);
        }
        let text = lines(1, "{\"level\":\"warn\"}\n\nsecond\n", Format::Text);
        assert_eq!(
            text,
            [
                "2023-11-14T22:13:20.123Z  WARN collector: {\"level\":\"warn\"}\n",
                "2023-11-14T22:13:20.123Z ERROR collector: second\n",
            ]
        );
    }

    #[test]
    fn a_line_in_pieces_is_one_and_an_endless_one_is_bounded() {
        let mut tagged = Tagged::new("collector".to_owned());
        let how = (Format::Text, AT);
        assert_eq!(tagged.add(0, b"one ", how), Vec::<Vec<u8>>::new());
        assert_eq!(tagged.add(1, b"other ", how), Vec::<Vec<u8>>::new());
        let records = tagged.add(0, b"line\ntwo", how);
        assert_eq!(records.len(), 1);
        assert!(records[0].ends_with(b"collector: one line\n"));
        assert_eq!(tagged.rest(1, how).len(), 1);
        let endless = vec![b'x'; 3 * LINE_MAX];
        let records = tagged.add(0, &endless, how);
        assert_eq!(records.len(), 3);
        let told: usize = records.iter().map(Vec::len).sum();
        assert!(told < 3 * (LINE_MAX + 64), "{told}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_lines_of_json(
            pieces in proptest::collection::vec(proptest::collection::vec(0u8..=255, 0..40), 0..12),
        ) {
            let mut tagged = Tagged::new("collector".to_owned());
            let how = (Format::Json, AT);
            let mut records: Vec<_> = pieces.iter().flat_map(|piece| tagged.add(0, piece, how)).collect();
            records.extend(tagged.rest(0, how));
            for record in records {
                let line: Value = serde_json::from_slice(&record).unwrap();
                assert_eq!(&line["logger"], "collector");
            }
        }
    }
}
