//! The small words everything else is written in: moments, hashes, names, limits.
//!
//! Promises: every type parses on construction and never has a setter; nothing here reads a clock, a file or the
//! environment.
//! Must never: grow behaviour that belongs to a floor above.

pub mod date;
mod names;
pub mod order;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use names::{AgentName, CertificateName, Domain};

/// Time since the process started, in milliseconds. Unlike `Instant` it can be built in tests and printed in traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment the process started.
    pub const START: Self = Self(0);

    /// Builds a moment from milliseconds since the process started.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the process started.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `span` later; saturates instead of wrapping.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The span from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Wall-clock time: milliseconds since the Unix epoch. It may jump; only reports and names use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(u64);

impl WallTime {
    /// Builds a wall time from Unix milliseconds.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// Reads RFC 3339; nothing for what is no date, or before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        date::parse(text)
    }

    /// Nanoseconds since the Unix epoch, as OpAMP and OTLP carry them.
    pub const fn unix_nanos(self) -> u64 {
        self.0.saturating_mul(1_000_000)
    }
}

impl fmt::Display for WallTime {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        date::print(*self, f)
    }
}

/// Both clocks as they stood when an event was taken from its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic time; every deadline is computed from it.
    pub mono: Moment,
    /// Wall time; names and reports are written with it.
    pub wall: WallTime,
}

/// The server's `config_hash`: opaque bytes, only echoed and compared (OpAMP ).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct OfferHash(Vec<u8>);

impl OfferHash {
    /// Takes the server's bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to be echoed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An empty hash never equals an earlier offer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All bytes in hexadecimal, for disk and logs.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Reads back what [`OfferHash::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

/// SHA-256 over the sorted (name, type, bytes) of all layers of a candidate, without the proof marker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionHash([u8; 32]);

impl RevisionHash {
    /// Hashes layers. Every part is length-prefixed, so no two different lists share a hash.
    pub fn of<'a>(layers: impl IntoIterator<Item = (&'a str, &'a str, &'a [u8])>) -> Self {
        let mut sorted: Vec<_> = layers.into_iter().collect();
        order::sort(&mut sorted);
        let mut digest = Sha256::new();
        for (name, kind, bytes) in sorted {
            for part in [name.as_bytes(), kind.as_bytes(), bytes] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        Self(digest.finalize().into())
    }

    /// All 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// The first 12 hexadecimal digits, as logs show it.
    pub fn short(self) -> String {
        let mut text = self.to_hex();
        text.truncate(12);
        text
    }
}

impl fmt::Debug for RevisionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevisionHash({})", self.short())
    }
}

impl fmt::Display for RevisionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl FromStr for RevisionHash {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        unhex(text)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| ParseError::new("revision hash", text, "64 hexadecimal digits"))
    }
}

/// The directory name of a revision: `<utc-ms>-<hash8>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionId(String);

impl RevisionId {
    /// Names a revision by when it was staged and what it holds.
    pub fn new(wall: WallTime, hash: RevisionHash) -> Self {
        let mut hash = hash.to_hex();
        hash.truncate(8);
        Self(format!("{:013}-{hash}", wall.unix_millis()))
    }

    /// The directory name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RevisionId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wanted = || ParseError::new("revision id", text, "<utc-ms>-<8 hexadecimal digits>");
        let (millis, hash) = text.split_once('-').ok_or_else(wanted)?;
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        let named = (13..=16).contains(&millis.len())
            && millis.bytes().all(|b| b.is_ascii_digit())
            && hash.len() == 8
            && digits(hash);
        if named {
            Ok(Self(text.to_owned()))
        } else {
            Err(wanted())
        }
    }
}

/// Numbers a link to a server; a reconnect gets a new number, so that a late answer of the old one is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LinkId(pub u64);

/// Numbers an effect that has an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// A value that must not be printed. `Debug` shows an ellipsis and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Hands out the value at the place where it is used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A text that may be a secret, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextSource {
    /// In a file, which is read whenever it is used.
    File(PathBuf),
    /// The text itself, which may be a key.
    Text(Secret),
}

/// Text that does not parse as one of these types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not {wanted}")]
pub struct ParseError {
    what: &'static str,
    text: String,
    wanted: &'static str,
}

impl ParseError {
    fn new(what: &'static str, text: &str, wanted: &'static str) -> Self {
        let mut text: String = text.chars().take(64).collect();
        text.retain(|c| !c.is_control());
        Self { what, text, wanted }
    }
}

/// Parses a duration such as `30s`, `1m30s`, `250ms`, `1.5h` (Go's syntax). A bare number is refused, except `0`.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let wanted = || {
        ParseError::new(
            "duration",
            text,
            "a number with a unit (ns, us, ms, s, m, h), such as 30s",
        )
    };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = trimmed;
    let mut total = 0f64;
    if rest.is_empty() {
        return Err(wanted());
    }
    while !rest.is_empty() {
        let split = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wanted)?;
        let (number, tail) = rest.split_at(split);
        let value: f64 = number.parse().map_err(|_| wanted())?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wanted()),
        };
        total += value * scale;
        rest = tail;
    }
    // Rounded to the nanosecond, so that `250ms` is exactly 250 ms although it went through a float.
    Duration::try_from_secs_f64((total * 1e9).round() / 1e9).map_err(|_| wanted())
}

/// Prints a duration the way [`parse_duration`] reads it.
pub fn format_duration(span: Duration) -> String {
    let (secs, nanos) = (span.as_secs(), span.subsec_nanos());
    match (secs, nanos) {
        (0, 0) => "0s".to_owned(),
        (_, 0) if secs % 3600 == 0 => format!("{}h", secs / 3600),
        (_, 0) if secs % 60 == 0 => format!("{}m", secs / 60),
        (_, 0) => format!("{secs}s"),
        _ if nanos % 1_000_000 == 0 => format!("{}ms", span.as_millis()),
        _ => format!("{}ns", span.as_nanos()),
    }
}

/// Parses a size such as `16MiB`, `64KiB`, `1GiB`, `512B`, `10MB`. A bare number is refused.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let wanted = || {
        ParseError::new(
            "size",
            text,
            "a whole number with a unit (B, KB, KiB, MB, MiB, GB, GiB), such as 16MiB",
        )
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(wanted)?;
    let (number, unit) = trimmed.split_at(split);
    let value: u64 = number.parse().map_err(|_| wanted())?;
    let scale: u64 = match unit.trim() {
        "B" => 1,
        "KB" => 1000,
        "KiB" => 1024,
        "MB" => 1_000_000,
        "MiB" => 1024 * 1024,
        "GB" => 1_000_000_000,
        "GiB" => 1024 * 1024 * 1024,
        _ => return Err(wanted()),
    };
    value.checked_mul(scale).ok_or_else(wanted)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    text.extend(digits);
    text
}

/// Reads back what [`hex`] wrote.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect()
}

/// Rotation of log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file.
    pub bytes: u64,
    /// Files kept beside the current one.
    pub files: usize,
}

impl Rotation {
    /// Bytes of all files together.
    pub fn total(self) -> u64 {
        let files = u64::try_from(self.files).unwrap_or(u64::MAX);
        self.bytes.saturating_mul(files.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_with_units_and_refuse_bare_numbers() {
        let cases = [
            ("30s", Some(Duration::from_secs(30))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("250ms", Some(Duration::from_millis(250))),
            ("1.5h", Some(Duration::from_mins(90))),
            ("0", Some(Duration::ZERO)),
            ("0s", Some(Duration::ZERO)),
            ("30", None),
            ("abc", None),
            ("-1s", None),
            ("", None),
            ("1parsec", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_duration(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn durations_print_the_way_they_parse() {
        for secs in [0, 1, 59, 60, 61, 3600, 5400] {
            let span = Duration::from_secs(secs);
            assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn sizes_parse_with_units_and_refuse_bare_numbers() {
        assert_eq!(parse_size("16MiB"), Ok(16 * 1024 * 1024));
        assert_eq!(parse_size("512B"), Ok(512));
        assert!(parse_size("16").is_err());
        assert!(parse_size("16 MB/s").is_err());
        assert!(parse_size("99999999999GiB").is_err());
    }

    #[test]
    fn revision_hash_does_not_depend_on_order_but_on_every_part() {
        let one = RevisionHash::of([("a", "", b"1".as_slice()), ("b", "", b"2".as_slice())]);
        let same = RevisionHash::of([("b", "", b"2".as_slice()), ("a", "", b"1".as_slice())]);
        let other = RevisionHash::of([("a", "", b"12".as_slice()), ("b", "", b"".as_slice())]);
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(one.to_hex().parse(), Ok(one));
    }

    #[test]
    fn revision_ids_name_directories_and_nothing_else() {
        let hash = RevisionHash::of([]);
        let id = RevisionId::new(WallTime::from_unix_millis(1_700_000_000_000), hash);
        assert_eq!(id.as_str().parse(), Ok(id));
        for bad in ["", "../x", "1700000000000-zzzzzzzz", "current", "1-2"] {
            assert!(bad.parse::<RevisionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
