//! OTLP over HTTP: metrics, logs and traces as protobuf, gzip.
//!
//! Promises: points of one metric are sent as one metric with kind, unit and start time; a log keeps its bytes, its
//! own time and the time we read it; what came by OTLP goes out as it came, its resource included; records that the
//! server says it rejected are counted and not sent again.
//! Must never: mix signals in one request.

use std::collections::BTreeMap;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord as OtlpLog, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric as OtlpMetric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use prost::Message as _;

use super::http::HttpClient;
use super::outcome::{Outcome, of_answer, of_error};
use super::{Resource, gzip};
use crate::dataplane::config::HttpConfig;
use crate::dataplane::otlp::{self, OtlpRecord};
use crate::dataplane::record::{self, Kind, LogRecord, Number, Point, Record, Signal, Wholeness};
use crate::sys::clock;

/// Sends OTLP.
#[derive(Debug)]
pub(crate) struct Otlp {
    client: HttpClient,
    resource: OtlpResource,
}

impl Otlp {
    /// A client that is not connected yet.
    pub(crate) fn new(config: HttpConfig, resource: &Resource) -> Self {
        let attributes = resource
            .attributes
            .iter()
            .map(|(name, value)| attribute(name, text(value)))
            .collect();
        Self {
            client: HttpClient::new(config),
            resource: OtlpResource {
                attributes,
                ..OtlpResource::default()
            },
        }
    }

    /// Sends one chunk of one signal.
    pub(crate) async fn send(&mut self, signal: Signal, records: &[&Record]) -> Outcome {
        let path = match signal {
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
            Signal::Traces => "/v1/traces",
        };
        let body = self.body(signal, records);
        let body = match gzip(&body) {
            Ok(body) => body,
            Err(error) => return Outcome::retry(format!("compress: {error}")),
        };
        let headers = [
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-protobuf"),
            ),
            (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        ];
        let answer = match self.client.post(path, &headers, body).await {
            Ok(answer) => answer,
            Err(error) => return of_error(&error),
        };
        match of_answer(&answer, clock::wall()) {
            Outcome::Accepted { .. } => accepted(signal, &answer.body),
            other => other,
        }
    }

    /// The request: what we read ourselves under our resource, then what came by OTLP under its own.
    fn body(&self, signal: Signal, records: &[&Record]) -> Vec<u8> {
        let mut body = match signal {
            Signal::Metrics => self.metrics(records).encode_to_vec(),
            Signal::Logs => self.logs(records).encode_to_vec(),
            Signal::Traces => Vec::new(),
        };
        // Two requests one after the other are one request with the parts of both.
        body.extend(otlp::join(&passing(records)));
        body
    }

    fn metrics(&self, records: &[&Record]) -> ExportMetricsServiceRequest {
        let mut metrics: BTreeMap<&str, (&Point, Vec<NumberDataPoint>)> = BTreeMap::new();
        for record in records {
            if let Record::Point(point) = record {
                let (_, points) = metrics
                    .entry(point.metric.name)
                    .or_insert_with(|| (point, Vec::new()));
                points.push(data_point(point));
            }
        }
        if metrics.is_empty() {
            return ExportMetricsServiceRequest::default();
        }
        let metrics = metrics
            .into_values()
            .map(|(first, points)| metric(first, points))
            .collect();
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }

    fn logs(&self, records: &[&Record]) -> ExportLogsServiceRequest {
        let log_records = records
            .iter()
            .filter_map(|record| match record {
                Record::Log(log) => Some(log_record(log)),
                Record::Point(_) | Record::Otlp(_) => None,
            })
            .collect::<Vec<_>>();
        if log_records.is_empty() {
            return ExportLogsServiceRequest::default();
        }
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope()),
                    log_records,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

/// The records that came by OTLP.
fn passing<'a>(records: &[&'a Record]) -> Vec<&'a OtlpRecord> {
    let came = |record: &&'a Record| match record {
        Record::Otlp(record) => Some(record),
        Record::Point(_) | Record::Log(_) => None,
    };
    records.iter().filter_map(came).collect()
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "adjutant.collect".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

fn value(held: &record::Value) -> Value {
    match held {
        record::Value::Text(held) => text(held),
        record::Value::Int(number) => Value::IntValue(*number),
        record::Value::Float(number) => Value::DoubleValue(*number),
        record::Value::List(words) => Value::ArrayValue(ArrayValue {
            values: words
                .iter()
                .map(|word| AnyValue {
                    value: Some(text(word)),
                })
                .collect(),
        }),
    }
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn metric(first: &Point, data_points: Vec<NumberDataPoint>) -> OtlpMetric {
    let data = match first.metric.kind {
        Kind::Gauge => metric::Data::Gauge(Gauge { data_points }),
        Kind::Sum => metric::Data::Sum(Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
    };
    OtlpMetric {
        name: first.metric.name.to_owned(),
        unit: first.metric.unit.ucum().to_owned(),
        data: Some(data),
        ..OtlpMetric::default()
    }
}

fn data_point(point: &Point) -> NumberDataPoint {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    NumberDataPoint {
        attributes: point
            .attributes
            .iter()
            .map(|(name, value)| attribute(name, text(value)))
            .collect(),
        start_time_unix_nano: match point.metric.kind {
            Kind::Gauge => 0,
            Kind::Sum => point.start.unix_nanos(),
        },
        time_unix_nano: point.time.unix_nanos(),
        value: Some(match point.value {
            Number::Int(value) => number_data_point::Value::AsInt(whole(value)),
            Number::Float(value) => number_data_point::Value::AsDouble(value),
        }),
        ..NumberDataPoint::default()
    }
}

fn log_record(log: &LogRecord) -> OtlpLog {
    let body = match std::str::from_utf8(&log.body) {
        Ok(line) => text(line),
        Err(_) => Value::BytesValue(log.body.to_vec()),
    };
    let mark = match log.wholeness {
        Wholeness::Whole => None,
        Wholeness::Cut => Some("adjutant.line.cut"),
        Wholeness::Partial => Some("adjutant.line.partial"),
    };
    OtlpLog {
        time_unix_nano: log.time.map_or(0, crate::units::WallTime::unix_nanos),
        observed_time_unix_nano: log.observed.unix_nanos(),
        severity_number: log.severity.map_or(0, record::Severity::number),
        severity_text: log
            .severity
            .map_or_else(String::new, |severity| severity.word().to_owned()),
        body: Some(AnyValue { value: Some(body) }),
        attributes: log
            .attributes
            .iter()
            .map(|(name, held)| attribute(name, value(held)))
            .chain(mark.map(|mark| attribute(mark, Value::BoolValue(true))))
            .collect(),
        event_name: log.event.unwrap_or_default().to_owned(),
        ..OtlpLog::default()
    }
}

/// Reads how much of an accepted request was left out. A body that is not the answer of the protocol leaves out
/// nothing.
fn accepted(signal: Signal, body: &[u8]) -> Outcome {
    let (left_out, why) = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| (partial.rejected_data_points, partial.error_message)),
        Signal::Logs => ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| (partial.rejected_log_records, partial.error_message)),
        Signal::Traces => ExportTraceServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| (partial.rejected_spans, partial.error_message)),
    }
    .unwrap_or_default();
    Outcome::Accepted {
        left_out: u64::try_from(left_out).unwrap_or(0),
        why: why.chars().filter(|c| !c.is_control()).take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::record::{Metric, Severity, Unit};
    use crate::units::WallTime;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    static IO: Metric = Metric::sum("system.disk.io", Unit::Bytes);

    fn sender() -> Otlp {
        let config = HttpConfig {
            endpoint: "http://localhost:1".parse().unwrap(),
            headers: Vec::new(),
            bearer_token_file: None,
            ca_file: None,
            timeout: std::time::Duration::from_secs(1),
        };
        let resource = Resource {
            attributes: vec![("host.name".to_owned(), "h1".to_owned())],
        };
        Otlp::new(config, &resource)
    }

    #[test]
    fn a_sum_carries_kind_unit_and_start() {
        let point = |ms| {
            Record::Point(Point {
                metric: &IO,
                attributes: vec![("system.device", "sda".into())],
                value: Number::Int(7),
                time: WallTime::from_unix_millis(ms),
                start: WallTime::from_unix_millis(1),
            })
        };
        let (first, second) = (point(2), point(3));
        let request = sender().metrics(&[&first, &second]);
        let resource = &request.resource_metrics[0];
        assert_eq!(
            resource.resource.as_ref().unwrap().attributes,
            [attribute("host.name", text("h1"))]
        );
        let [metric] = resource.scope_metrics[0].metrics.as_slice() else {
            panic!("{request:?}")
        };
        assert_eq!(
            (metric.name.as_str(), metric.unit.as_str()),
            ("system.disk.io", "By")
        );
        let Some(metric::Data::Sum(sum)) = &metric.data else {
            panic!("{metric:?}")
        };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality, 2);
        let times: Vec<_> = sum
            .data_points
            .iter()
            .map(|point| (point.start_time_unix_nano, point.time_unix_nano))
            .collect();
        assert_eq!(times, [(1_000_000, 2_000_000), (1_000_000, 3_000_000)]);
    }

    #[test]
    fn a_log_keeps_bytes_times_and_mark() {
        let mut log = LogRecord {
            event: None,
            attributes: Vec::new(),
            body: b"hello".as_slice().into(),
            time: Some(WallTime::from_unix_millis(1)),
            observed: WallTime::from_unix_millis(2),
            severity: Some(Severity::Warn),
            wholeness: Wholeness::Cut,
        };
        let sent = log_record(&log);
        assert_eq!(
            (sent.time_unix_nano, sent.observed_time_unix_nano),
            (1_000_000, 2_000_000)
        );
        assert_eq!(
            (sent.severity_number, sent.severity_text.as_str()),
            (13, "WARN")
        );
        assert_eq!(sent.body.unwrap().value, Some(text("hello")));
        assert_eq!(
            sent.attributes,
            [attribute("adjutant.line.cut", Value::BoolValue(true))]
        );
        log.body = b"\xff".as_slice().into();
        assert_eq!(
            log_record(&log).body.unwrap().value,
            Some(Value::BytesValue(vec![0xff]))
        );
    }

    #[test]
    fn ours_and_what_came_by_otlp_share_a_request_and_no_resource() {
        let made = otlp::samples::logs();
        let came = otlp::split(Signal::Logs, &made.encode_to_vec(), 100).unwrap();
        let ours = Record::Log(LogRecord {
            event: None,
            attributes: Vec::new(),
            body: b"ours".as_slice().into(),
            time: None,
            observed: WallTime::from_unix_millis(2),
            severity: None,
            wholeness: Wholeness::Whole,
        });
        let came: Vec<_> = came.into_iter().map(Record::Otlp).collect();
        let all: Vec<&Record> = [&ours].into_iter().chain(&came).collect();
        let body = sender().body(Signal::Logs, &all);
        let request = ExportLogsServiceRequest::decode(&*body).unwrap();
        let (first, rest) = request.resource_logs.split_first().unwrap();
        assert_eq!(rest, made.resource_logs);
        let resource = first.resource.as_ref().unwrap();
        assert_eq!(resource.attributes, [attribute("host.name", text("h1"))]);
        assert_eq!(first.scope_logs[0].log_records.len(), 1);
        // Without ours there is no empty resource of ours.
        let came: Vec<&Record> = came.iter().collect();
        let body = sender().body(Signal::Logs, &came);
        assert_eq!(ExportLogsServiceRequest::decode(&*body), Ok(made));
    }

    #[test]
    fn rejected_records_are_read_from_the_answer() {
        let answer = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: 3,
                error_message: "too old".to_owned(),
            }),
        };
        assert_eq!(
            accepted(Signal::Logs, &answer.encode_to_vec()),
            Outcome::Accepted {
                left_out: 3,
                why: "too old".to_owned()
            }
        );
        let left_out = |outcome| match outcome {
            Outcome::Accepted { left_out, .. } => left_out,
            other => panic!("{other:?}"),
        };
        let answer = otlp::answer(2, "no");
        assert_eq!(left_out(accepted(Signal::Traces, &answer)), 2);
        assert_eq!(accepted(Signal::Metrics, b""), Outcome::ACCEPTED);
        assert_eq!(accepted(Signal::Metrics, b"<html>"), Outcome::ACCEPTED);
    }
}
