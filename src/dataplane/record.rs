//! What flows through the data plane: typed metric points, raw log records, and records that came by OTLP.
//!
//! Promises: a point carries its kind and unit from the place that measured it, so nobody downstream guesses from a
//! name (F-095); a record carries the time of collection, never the time of sending, so that a repeated delivery is
//! the same delivery.
//! A record that came by OTLP stays the bytes it came as.
//! Must never: know a source or an upload, or look into those bytes.

use std::sync::Arc;

use super::otlp::OtlpRecord;
use crate::units::WallTime;

/// The kinds of telemetry there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// Typed points.
    Metrics,
    /// Raw records with a time.
    Logs,
    /// Spans.
    Traces,
}

impl Signal {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Metrics, Self::Logs, Self::Traces];

    /// The word for it in settings and messages.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }
}

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// `By`.
    Bytes,
    /// `1`: a share of a whole, from 0 to 1.
    Ratio,
    /// `s`.
    Seconds,
    /// `Cel`.
    Celsius,
    /// A number of things, annotated as `{thing}`.
    Count(&'static str),
}

impl Unit {
    /// The unit as OpenTelemetry writes it.
    pub(crate) const fn ucum(self) -> &'static str {
        match self {
            Self::Bytes => "By",
            Self::Ratio => "1",
            Self::Seconds => "s",
            Self::Celsius => "Cel",
            Self::Count(annotation) => annotation,
        }
    }

    /// The word that Prometheus naming appends; a plain count has none.
    pub(crate) const fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Bytes => Some("bytes"),
            Self::Ratio => Some("ratio"),
            Self::Seconds => Some("seconds"),
            Self::Celsius => Some("celsius"),
            Self::Count(_) => None,
        }
    }
}

/// What the number of a metric means over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A level: the last value counts.
    Gauge,
    /// A cumulative sum that only grows until its start time moves.
    Sum,
}

/// The definition of a metric; collectors hold these as constants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// The OpenTelemetry name, with dots.
    pub(crate) name: &'static str,
    /// Its unit.
    pub(crate) unit: Unit,
    /// Its kind.
    pub(crate) kind: Kind,
}

impl Metric {
    /// Defines a gauge.
    pub(crate) const fn gauge(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            kind: Kind::Gauge,
        }
    }

    /// Defines a monotonic sum.
    pub(crate) const fn sum(name: &'static str, unit: Unit) -> Self {
        Self {
            name,
            unit,
            kind: Kind::Sum,
        }
    }
}

/// The value of a point; counters stay whole numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number.
    Int(u64),
    /// Anything else; finite.
    Float(f64),
}

/// Attribute names are ours and static; values are shared with the collector that made them.
pub(crate) type Attributes = Vec<(&'static str, Arc<str>)>;

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// What was measured.
    pub(crate) metric: &'static Metric,
    /// Of which part.
    pub(crate) attributes: Attributes,
    /// The value.
    pub(crate) value: Number,
    /// When it was read.
    pub(crate) time: WallTime,
    /// When a sum began to count for us; the time of the first reading or of the last reset.
    pub(crate) start: WallTime,
}

/// How loud a log record says it is, as OpenTelemetry numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// 1.
    Trace,
    /// 5.
    Debug,
    /// 9.
    Info,
    /// 13.
    Warn,
    /// 17.
    Error,
    /// 21.
    Fatal,
}

impl Severity {
    /// Reads the words in use; an unknown word is no severity.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let word = word.trim();
        let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
        if is(&["trace"]) {
            Some(Self::Trace)
        } else if is(&["debug"]) {
            Some(Self::Debug)
        } else if is(&["info", "information", "informational", "notice"]) {
            Some(Self::Info)
        } else if is(&["warn", "warning"]) {
            Some(Self::Warn)
        } else if is(&["error", "err"]) {
            Some(Self::Error)
        } else if is(&[
            "fatal",
            "critical",
            "crit",
            "alert",
            "emerg",
            "emergency",
            "panic",
        ]) {
            Some(Self::Fatal)
        } else {
            None
        }
    }

    /// The number OTLP carries.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Trace => 1,
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
            Self::Fatal => 21,
        }
    }

    /// The word OTLP carries.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// What happened to a line before it became a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wholeness {
    /// The line as it was written.
    Whole,
    /// Cut at the length limit; the rest was thrown away and counted.
    Cut,
    /// The writer went away before the end of the line.
    Partial,
}

/// What an attribute of a log record holds.
#[cfg_attr(
    not(feature = "ebpf"),
    expect(dead_code, reason = "only kernel events have numbers and lists")
)]
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Text.
    Text(Arc<str>),
    /// A whole number.
    Int(i64),
    /// Any other number; finite.
    Float(f64),
    /// Several texts in order.
    List(Vec<Box<str>>),
}

impl Value {
    /// Bytes beside the value itself.
    fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Int(_) | Self::Float(_) => 0,
            Self::List(words) => words
                .iter()
                .map(|word| size_of::<Box<str>>() + word.len())
                .sum(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Int(number.into())
    }
}

/// One log line, or one event with attributes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogRecord {
    /// The name of the kind of event; a plain line has none.
    pub(crate) event: Option<&'static str>,
    /// What is known of it beside the body.
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// The bytes of the line without its end.
    pub(crate) body: Box<[u8]>,
    /// The time the line itself names.
    pub(crate) time: Option<WallTime>,
    /// When we read it.
    pub(crate) observed: WallTime,
    /// How loud the line says it is.
    pub(crate) severity: Option<Severity>,
    /// Whether it is complete.
    pub(crate) wholeness: Wholeness,
}

/// What a queue holds beside a record: its ticket of some 80 bytes, counters of the shared record, and what the
/// allocator keeps for itself.
const PLACE_BYTES: usize = 128;

/// Anything a source can emit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// A metric point.
    Point(Point),
    /// A log line.
    Log(LogRecord),
    /// What came by OTLP.
    Otlp(OtlpRecord),
}

impl Record {
    /// The signal it belongs to.
    pub(crate) const fn signal(&self) -> Signal {
        match self {
            Self::Point(_) => Signal::Metrics,
            Self::Log(_) => Signal::Logs,
            Self::Otlp(record) => record.signal,
        }
    }

    /// Bytes it holds in memory with its place in a queue, near enough to bound one.
    pub(crate) fn weight(&self) -> usize {
        let variable = match self {
            Self::Point(point) => point.attributes.len() * size_of::<(&str, Arc<str>)>(),
            Self::Log(log) => log
                .attributes
                .iter()
                .fold(log.body.len(), |sum, (_, value)| {
                    sum + size_of::<(&str, Value)>() + value.weight()
                }),
            Self::Otlp(record) => record.weight(),
        };
        size_of::<Self>() + PLACE_BYTES + variable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_read_the_words_in_use() {
        let cases = [
            ("INFO", Some(9)),
            ("warning", Some(13)),
            ("Err", Some(17)),
            ("crit", Some(21)),
            ("debug ", Some(5)),
            ("trace", Some(1)),
            ("loud", None),
            ("", None),
        ];
        for (word, wanted) in cases {
            assert_eq!(
                Severity::parse(word).map(Severity::number),
                wanted,
                "{word}"
            );
        }
    }

    #[test]
    fn a_log_weighs_at_least_its_body_and_attributes() {
        let log = Record::Log(LogRecord {
            event: None,
            attributes: vec![("a", Value::from("x".repeat(500).as_str()))],
            body: vec![b'x'; 1000].into(),
            time: None,
            observed: WallTime::default(),
            severity: None,
            wholeness: Wholeness::Whole,
        });
        assert!(log.weight() > 1500);
        assert_eq!(log.signal(), Signal::Logs);
    }
}
