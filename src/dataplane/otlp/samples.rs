//! One request of every signal with every field set, made with the generated types.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary,
    SummaryDataPoint, exemplar, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::{Value as Json, json};

use super::{OtlpRecord, print};
use crate::dataplane::record::Signal;

fn any(value: any_value::Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

/// One attribute of every type.
fn attributes() -> Vec<KeyValue> {
    use any_value::Value;
    let list = ArrayValue {
        values: vec![any(Value::IntValue(-1)), any(Value::BoolValue(true))],
    };
    let map = KeyValueList {
        values: vec![pair("inner", Value::StringValue("x".to_owned()))],
    };
    vec![
        pair("text", Value::StringValue("zwölf \"".to_owned())),
        pair("bit", Value::BoolValue(false)),
        pair("int", Value::IntValue(i64::MIN)),
        pair("float", Value::DoubleValue(-0.5)),
        pair("bytes", Value::BytesValue(vec![0, 255, 62, 63])),
        pair("list", Value::ArrayValue(list)),
        pair("map", Value::KvlistValue(map)),
    ]
}

fn resource(name: &str) -> Resource {
    let mut attributes = attributes();
    attributes.push(pair(
        "service.name",
        any_value::Value::StringValue(name.to_owned()),
    ));
    Resource {
        attributes,
        dropped_attributes_count: 3,
        entity_refs: vec![EntityRef {
            schema_url: "s".to_owned(),
            r#type: "host".to_owned(),
            id_keys: vec!["a".to_owned(), "b".to_owned()],
            description_keys: vec!["c".to_owned()],
        }],
    }
}

fn scope(name: &str) -> InstrumentationScope {
    InstrumentationScope {
        name: name.to_owned(),
        version: "1".to_owned(),
        attributes: attributes(),
        dropped_attributes_count: 4,
    }
}

fn log(body: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: u64::MAX,
        observed_time_unix_nano: 2,
        severity_number: 9,
        severity_text: "Info".to_owned(),
        body: Some(any(any_value::Value::StringValue(body.to_owned()))),
        attributes: attributes(),
        dropped_attributes_count: 5,
        flags: 1,
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        event_name: "e".to_owned(),
    }
}

pub(crate) fn logs() -> ExportLogsServiceRequest {
    let scope_logs = |name: &str, count: usize| ScopeLogs {
        scope: Some(scope(name)),
        log_records: (0..count)
            .map(|index| log(&format!("{name}{index}")))
            .collect(),
        schema_url: "schema".to_owned(),
    };
    ExportLogsServiceRequest {
        resource_logs: vec![
            ResourceLogs {
                resource: Some(resource("one")),
                scope_logs: vec![scope_logs("a", 2), scope_logs("b", 1)],
                schema_url: "schema".to_owned(),
            },
            ResourceLogs {
                resource: Some(resource("two")),
                scope_logs: vec![scope_logs("a", 1)],
                schema_url: String::new(),
            },
        ],
    }
}

pub(crate) fn traces() -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: "a=b".to_owned(),
        parent_span_id: vec![3; 8],
        flags: 0x101,
        name: "GET /".to_owned(),
        kind: 2,
        start_time_unix_nano: 10,
        end_time_unix_nano: 20,
        attributes: attributes(),
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: 11,
            name: "e".to_owned(),
            attributes: attributes(),
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![Link {
            trace_id: vec![4; 16],
            span_id: vec![5; 8],
            trace_state: "c=d".to_owned(),
            attributes: attributes(),
            dropped_attributes_count: 6,
            flags: 1,
        }],
        dropped_links_count: 7,
        status: Some(Status {
            message: "bad".to_owned(),
            code: 2,
        }),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource("one")),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope("a")),
                spans: vec![span.clone(), span],
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn exemplars() -> Vec<Exemplar> {
    let exemplar = |value| Exemplar {
        filtered_attributes: attributes(),
        time_unix_nano: 5,
        span_id: vec![1; 8],
        trace_id: vec![2; 16],
        value: Some(value),
    };
    vec![
        exemplar(exemplar::Value::AsInt(-7)),
        exemplar(exemplar::Value::AsDouble(0.25)),
    ]
}

fn number(value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1_000_000,
        time_unix_nano: 5_000_000,
        exemplars: exemplars(),
        flags: 0,
        value: Some(value),
    }
}

fn histogram() -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1_000_000,
        time_unix_nano: 5_000_000,
        count: 6,
        sum: Some(9.5),
        bucket_counts: vec![1, 2, 3],
        explicit_bounds: vec![0.5, 10.0],
        exemplars: exemplars(),
        flags: 0,
        min: Some(0.1),
        max: Some(11.0),
    }
}

fn exponential() -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1_000_000,
        time_unix_nano: 5_000_000,
        count: 6,
        sum: Some(-9.5),
        scale: -3,
        zero_count: 1,
        positive: Some(Buckets {
            offset: -4,
            bucket_counts: vec![1, 300],
        }),
        negative: Some(Buckets {
            offset: 4,
            bucket_counts: vec![2],
        }),
        flags: 0,
        exemplars: exemplars(),
        min: Some(-1.0),
        max: Some(1.0),
        zero_threshold: 0.01,
    }
}

fn summary() -> SummaryDataPoint {
    SummaryDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1_000_000,
        time_unix_nano: 5_000_000,
        count: 2,
        sum: 3.0,
        quantile_values: vec![ValueAtQuantile {
            quantile: 0.5,
            value: 1.5,
        }],
        flags: 0,
    }
}

/// A metric of every kind.
pub(crate) fn metrics() -> ExportMetricsServiceRequest {
    use number_data_point::Value::{AsDouble, AsInt};
    let metric = |name: &str, unit: &str, data| Metric {
        name: name.to_owned(),
        description: "what".to_owned(),
        unit: unit.to_owned(),
        metadata: attributes(),
        data: Some(data),
    };
    let sum = |temporality, monotonic| {
        Data::Sum(Sum {
            data_points: vec![number(AsInt(-7))],
            aggregation_temporality: temporality,
            is_monotonic: monotonic,
        })
    };
    let all = vec![
        metric(
            "queue.size",
            "{item}",
            Data::Gauge(Gauge {
                data_points: vec![number(AsDouble(0.5)), number(AsInt(3))],
            }),
        ),
        metric("http.requests", "1", sum(2, true)),
        metric("connections", "", sum(2, false)),
        metric("deltas", "By", sum(1, true)),
        metric(
            "latency",
            "ms",
            Data::Histogram(Histogram {
                data_points: vec![histogram()],
                aggregation_temporality: 2,
            }),
        ),
        metric(
            "fine",
            "s",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential()],
                aggregation_temporality: 2,
            }),
        ),
        metric(
            "old",
            "s",
            Data::Summary(Summary {
                data_points: vec![summary()],
            }),
        ),
    ];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource("one")),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope("a")),
                metrics: all,
                schema_url: "schema".to_owned(),
            }],
            schema_url: String::new(),
        }],
    }
}

/// The same record as a request in JSON.
pub(crate) fn as_json(record: &OtlpRecord) -> Json {
    let names = match record.signal {
        Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords", "logRecord"),
        Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics", "metric"),
        Signal::Traces => ("resourceSpans", "scopeSpans", "spans", "span"),
    };
    let mut line = print(record);
    json!({names.0: [{
        "resource": line.remove("resource"),
        names.1: [{"scope": line.remove("scope"), names.2: [line.remove(names.3)]}],
    }]})
}
