//! Records → the body of one OTLP request. Pure.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;

/// Who sends: its attributes and their schema.
#[derive(Debug, Clone, Default)]
pub(super) struct Sender {
    pub(super) resource: Resource,
    pub(super) schema_url: String,
}

/// One text attribute.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, any_value::Value::StringValue(value.into()))
}

/// One attribute.
pub(super) fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "adjutant".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn logs(sender: &Sender, log_records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs {
        scope: Some(scope()),
        log_records,
        schema_url: String::new(),
    }];
    let resource_logs = vec![ResourceLogs {
        resource: Some(sender.resource.clone()),
        scope_logs,
        schema_url: sender.schema_url.clone(),
    }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

pub(super) fn spans(sender: &Sender, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope()),
        spans,
        schema_url: String::new(),
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(sender.resource.clone()),
        scope_spans,
        schema_url: sender.schema_url.clone(),
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

pub(super) fn metrics(sender: &Sender, metrics: Vec<Metric>) -> Vec<u8> {
    let scope_metrics = vec![ScopeMetrics {
        scope: Some(scope()),
        metrics,
        schema_url: String::new(),
    }];
    let resource_metrics = vec![ResourceMetrics {
        resource: Some(sender.resource.clone()),
        scope_metrics,
        schema_url: sender.schema_url.clone(),
    }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// Compresses a body; a memory that cannot be written to leaves it as it is, without the mark.
pub(super) fn compressed(body: Vec<u8>, gzip: bool) -> (Bytes, bool) {
    if !gzip {
        return (body.into(), false);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    match encoder.write_all(&body).and_then(|()| encoder.finish()) {
        Ok(small) => (small.into(), true),
        Err(_) => (body.into(), false),
    }
}
