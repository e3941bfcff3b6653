//! JSON lines on standard output, for people and for containers.
//!
//! Promises: one record is one line; the writing happens off the runtime's thread, so that a reader of our output
//! that stalls stalls this upload and nothing else.
//! Must never: write anything but records there.

use std::io::{self, Write as _};

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::Resource;
use super::outcome::Outcome;
use crate::dataplane::otlp;
use crate::dataplane::record::{self, Kind, Number, Record, Wholeness};

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Console {
    resource: Map<String, Value>,
    writing: JoinSet<io::Result<()>>,
}

impl Console {
    /// Writes with these attributes.
    pub(crate) fn new(resource: &Resource) -> Self {
        Self {
            resource: resource
                .attributes
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
                .collect(),
            writing: JoinSet::new(),
        }
    }

    /// Writes one chunk.
    pub(crate) async fn send(&mut self, records: &[&Record]) -> Outcome {
        let mut text = String::new();
        for record in records {
            text.push_str(&line(record, &self.resource).to_string());
            text.push('\n');
        }
        // What a dropped call left behind comes first, or lines would mix.
        while self.writing.join_next().await.is_some() {}
        self.writing.spawn_blocking(move || {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()
        });
        match self.writing.join_next().await {
            Some(Ok(Ok(()))) | None => Outcome::ACCEPTED,
            Some(Ok(Err(error))) => Outcome::retry(format!("write to standard output: {error}")),
            Some(Err(error)) => Outcome::retry(format!("write to standard output: {error}")),
        }
    }
}

fn line(record: &Record, resource: &Map<String, Value>) -> Value {
    match record {
        Record::Point(point) => {
            let attributes: Map<_, _> = point
                .attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Value::from(&**value)))
                .collect();
            json!({
                "@timestamp": point.time.to_string(),
                "metric": point.metric.name,
                "value": match point.value {
                    Number::Int(value) => Value::from(value),
                    Number::Float(value) => Value::from(value),
                },
                "unit": point.metric.unit.ucum(),
                "kind": match point.metric.kind {
                    Kind::Gauge => "gauge",
                    Kind::Sum => "sum",
                },
                "attributes": attributes,
                "resource": resource,
            })
        }
        Record::Log(log) if log.event.is_some() => json!({
            "@timestamp": log.time.unwrap_or(log.observed).to_string(),
            "event": log.event,
            "body": String::from_utf8_lossy(&log.body),
            "severity": log.severity.map(record::Severity::word),
            "attributes": log
                .attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), shown(value)))
                .collect::<Map<_, _>>(),
            "resource": resource,
        }),
        Record::Log(log) => json!({
            "@timestamp": log.time.unwrap_or(log.observed).to_string(),
            "body": String::from_utf8_lossy(&log.body),
            "severity": log.severity.map(record::Severity::word),
            "line": match log.wholeness {
                Wholeness::Whole => "whole",
                Wholeness::Cut => "cut",
                Wholeness::Partial => "partial",
            },
            "resource": resource,
        }),
        Record::Otlp(record) => Value::Object(otlp::print(record)),
    }
}

fn shown(value: &record::Value) -> Value {
    match value {
        record::Value::Text(text) => Value::from(&**text),
        record::Value::Int(number) => Value::from(*number),
        record::Value::Float(number) => Value::from(*number),
        record::Value::List(words) => words.iter().map(|word| Value::from(&**word)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::record::{LogRecord, Metric, Point, Severity, Unit};
    use crate::units::WallTime;

    static USAGE: Metric = Metric::gauge("system.memory.usage", Unit::Bytes);

    #[test]
    fn a_record_is_one_line_of_json() {
        let resource: Map<_, _> = [("host.name".to_owned(), Value::from("h1"))]
            .into_iter()
            .collect();
        let point = Record::Point(Point {
            metric: &USAGE,
            attributes: vec![("system.memory.state", "used".into())],
            value: Number::Int(7),
            time: WallTime::from_unix_millis(1_700_000_000_123),
            start: WallTime::default(),
        });
        assert_eq!(
            line(&point, &resource),
            json!({
                "@timestamp": "2023-11-14T22:13:20.123Z",
                "metric": "system.memory.usage",
                "value": 7,
                "unit": "By",
                "kind": "gauge",
                "attributes": {"system.memory.state": "used"},
                "resource": {"host.name": "h1"},
            })
        );
        let log = Record::Log(LogRecord {
            event: None,
            attributes: Vec::new(),
            body: b"a\nb\xff".as_slice().into(),
            time: None,
            observed: WallTime::from_unix_millis(0),
            severity: Some(Severity::Error),
            wholeness: Wholeness::Partial,
        });
        let text = line(&log, &resource).to_string();
        assert!(!text.contains('\n'), "{text}");
        assert!(text.contains(r#""body":"a\nb�""#), "{text}");
        assert!(text.contains(r#""line":"partial""#), "{text}");
    }
}
