//! Our own log records, on their way to a receiver.
//!
//! Promises: a record is a copy of what the log says, at the log's own level; a full queue drops it and counts.
//! Must never: wait, or log.

use std::fmt::Debug;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::encode::{pair, text};
use super::pipeline::{Intake, Record};
use crate::sys::clock;

/// Copies every record into queues.
#[derive(Debug)]
pub(super) struct Copier(pub(super) Vec<Intake>);

impl<S: Subscriber> Layer<S> for Copier {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        fields
            .attributes
            .push(text("code.namespace", metadata.target()));
        let (number, word) = severity(*metadata.level());
        let now = clock::wall().unix_nanos();
        let record = LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: number,
            severity_text: word.to_owned(),
            body: Some(AnyValue {
                value: Some(Value::StringValue(fields.message)),
            }),
            attributes: fields.attributes,
            ..LogRecord::default()
        };
        for intake in &self.0 {
            intake.push(Record::Log(Box::new(record.clone())));
        }
    }
}

/// As the data model of OpenTelemetry numbers them.
const fn severity(level: Level) -> (i32, &'static str) {
    match level {
        Level::ERROR => (17, "ERROR"),
        Level::WARN => (13, "WARN"),
        Level::INFO => (9, "INFO"),
        Level::DEBUG => (5, "DEBUG"),
        Level::TRACE => (1, "TRACE"),
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    attributes: Vec<KeyValue>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.attributes.push(pair(field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, Value::StringValue(value.to_owned()));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::BoolValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(
            field,
            Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
        );
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::DoubleValue(value));
    }
}
