//! Metric points that came by OTLP as series of the Prometheus kind.
//!
//! Promises: names and suffixes come from the metric's type and unit, never from a guess at the name (F-095); labels
//! are the point's attributes, the scope's name and version, and the resource's attributes, the former winning; a
//! histogram becomes cumulative buckets with sum and count, a summary its quantiles with sum and count.
//! What has no such form is said beforehand: sums and histograms of differences, exponential histograms, and values
//! that are missing or not finite.
//! Must never: send one of those.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, SummaryDataPoint, number_data_point,
};
use prost::Message as _;

use super::victoria::label;
use crate::dataplane::otlp::{MetricHead, Origin, OtlpRecord};

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// `__name__` and all labels.
    pub(super) labels: BTreeMap<String, String>,
    /// The value as JSON writes it.
    pub(super) value: String,
    pub(super) unix_millis: u64,
}

/// The data of a metric, by the number of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Gauge,
    /// Only grows, or goes up and down.
    Sum(bool),
    Histogram,
    Summary,
}

/// The kind of a metric, if it has a form here.
fn data(head: &MetricHead) -> Option<Data> {
    let cumulative =
        |temporality: i32| temporality == i32::from(AggregationTemporality::Cumulative);
    match head.field {
        5 => Some(Data::Gauge),
        7 => Sum::decode(&*head.data)
            .ok()
            .filter(|sum| cumulative(sum.aggregation_temporality))
            .map(|sum| Data::Sum(sum.is_monotonic)),
        9 => Histogram::decode(&*head.data)
            .ok()
            .filter(|histogram| cumulative(histogram.aggregation_temporality))
            .map(|_| Data::Histogram),
        11 => Some(Data::Summary),
        _ => None,
    }
}

/// Whether a point has a value and a time; the server takes one of 1970 and forgets it.
const fn told(flags: u32, time_unix_nano: u64) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 == 0 && time_unix_nano > 0
}

/// Whether a record has a form as series.
pub(super) fn can_say(record: &OtlpRecord) -> bool {
    let Some(data) = record.origin.metric.as_ref().and_then(data) else {
        return false;
    };
    let bytes = &*record.bytes;
    match data {
        Data::Gauge | Data::Sum(_) => NumberDataPoint::decode(bytes).is_ok_and(|point| {
            told(point.flags, point.time_unix_nano)
                && match point.value {
                    Some(number_data_point::Value::AsDouble(value)) => value.is_finite(),
                    Some(number_data_point::Value::AsInt(_)) => true,
                    None => false,
                }
        }),
        Data::Histogram => HistogramDataPoint::decode(bytes).is_ok_and(|point| {
            let buckets = point.bucket_counts.len();
            told(point.flags, point.time_unix_nano)
                && (buckets == 0 || buckets == point.explicit_bounds.len() + 1)
                && point.sum.is_none_or(f64::is_finite)
                && point.explicit_bounds.iter().all(|bound| bound.is_finite())
        }),
        Data::Summary => SummaryDataPoint::decode(bytes)
            .is_ok_and(|point| told(point.flags, point.time_unix_nano) && point.sum.is_finite()),
    }
}

/// The samples of a record; none of one that has no form.
pub(super) fn samples(record: &OtlpRecord) -> Vec<Sample> {
    let Some((head, data)) = record
        .origin
        .metric
        .as_ref()
        .and_then(|head| Some((head, data(head)?)))
    else {
        return Vec::new();
    };
    let Ok(metric) = Metric::decode(&*head.metric) else {
        return Vec::new();
    };
    let mut out = Out {
        name: name(&metric.name, &metric.unit, data),
        labels: around(&record.origin),
        unix_millis: 0,
        samples: Vec::new(),
    };
    let bytes = &*record.bytes;
    match data {
        Data::Gauge | Data::Sum(_) => {
            if let Ok(point) = NumberDataPoint::decode(bytes) {
                out.at(&point.attributes, point.time_unix_nano);
                out.number(&point);
            }
        }
        Data::Histogram => {
            if let Ok(point) = HistogramDataPoint::decode(bytes) {
                out.at(&point.attributes, point.time_unix_nano);
                out.histogram(&point);
            }
        }
        Data::Summary => {
            if let Ok(point) = SummaryDataPoint::decode(bytes) {
                out.at(&point.attributes, point.time_unix_nano);
                out.summary(&point);
            }
        }
    }
    out.samples
}

struct Out {
    name: String,
    labels: BTreeMap<String, String>,
    unix_millis: u64,
    samples: Vec<Sample>,
}

impl Out {
    fn at(&mut self, attributes: &[KeyValue], time_unix_nano: u64) {
        self.labels.extend(attributes.iter().filter_map(pair));
        self.labels.retain(|_, value| !value.is_empty());
        self.unix_millis = time_unix_nano / 1_000_000;
    }

    fn float(&mut self, suffix: &str, more: Option<(&str, f64)>, value: f64) {
        if value.is_finite() {
            self.push(suffix, more, value.to_string());
        }
    }

    fn push(&mut self, suffix: &str, more: Option<(&str, f64)>, value: String) {
        let mut labels = self.labels.clone();
        if let Some((name, bound)) = more {
            let bound = if bound.is_infinite() {
                "+Inf".to_owned()
            } else {
                bound.to_string()
            };
            labels.insert(name.to_owned(), bound);
        }
        labels.insert("__name__".to_owned(), format!("{}{suffix}", self.name));
        self.samples.push(Sample {
            labels,
            value,
            unix_millis: self.unix_millis,
        });
    }

    fn number(&mut self, point: &NumberDataPoint) {
        match point.value {
            Some(number_data_point::Value::AsDouble(value)) => self.float("", None, value),
            Some(number_data_point::Value::AsInt(value)) => self.push("", None, value.to_string()),
            None => {}
        }
    }

    fn histogram(&mut self, point: &HistogramDataPoint) {
        let bounds = point.explicit_bounds.iter().copied().chain([f64::INFINITY]);
        let mut below = 0_u64;
        for (bound, count) in bounds.zip(&point.bucket_counts) {
            below = below.saturating_add(*count);
            self.push("_bucket", Some(("le", bound)), below.to_string());
        }
        if point.bucket_counts.is_empty() {
            self.push(
                "_bucket",
                Some(("le", f64::INFINITY)),
                point.count.to_string(),
            );
        }
        if let Some(sum) = point.sum {
            self.float("_sum", None, sum);
        }
        self.push("_count", None, point.count.to_string());
    }

    fn summary(&mut self, point: &SummaryDataPoint) {
        for quantile in &point.quantile_values {
            self.float("", Some(("quantile", quantile.quantile)), quantile.value);
        }
        self.float("_sum", None, point.sum);
        self.push("_count", None, point.count.to_string());
    }
}

/// The labels of what stands around a point.
fn around(origin: &Origin) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let resource = ResourceMetrics::decode(&*origin.resource).ok();
    if let Some(resource) = resource.and_then(|around| around.resource) {
        labels.extend(resource.attributes.iter().filter_map(pair));
    }
    let scope = ScopeMetrics::decode(&*origin.scope).ok();
    if let Some(scope) = scope.and_then(|around| around.scope) {
        labels.insert("otel_scope_name".to_owned(), scope.name);
        labels.insert("otel_scope_version".to_owned(), scope.version);
    }
    labels
}

fn pair(attribute: &KeyValue) -> Option<(String, String)> {
    let value = attribute.value.as_ref().map(text).unwrap_or_default();
    (!attribute.key.is_empty()).then(|| (label(&attribute.key), value))
}

/// A value as the text of a label; lists and maps as JSON.
fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        None => String::new(),
        Some(_) => match json(value) {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        },
    }
}

fn json(value: &AnyValue) -> serde_json::Value {
    use any_value::Value;
    match &value.value {
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(bit)) => (*bit).into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => (*number).into(),
        Some(Value::BytesValue(bytes)) => String::from_utf8_lossy(bytes).into(),
        Some(Value::ArrayValue(list)) => list.values.iter().map(json).collect(),
        Some(Value::KvlistValue(pairs)) => {
            let member = |pair: &KeyValue| {
                let value = pair.value.as_ref().map(json).unwrap_or_default();
                (pair.key.clone(), value)
            };
            serde_json::Value::Object(pairs.values.iter().map(member).collect())
        }
        Some(Value::StringValueStrindex(_)) | None => serde_json::Value::Null,
    }
}

/// The name with the words of unit and type that it does not carry yet.
fn name(name: &str, unit: &str, data: Data) -> String {
    let mut name = label(name);
    let total = data == Data::Sum(true);
    if total && let Some(bare) = name.strip_suffix("_total") {
        name.truncate(bare.len());
    }
    for word in words(unit, data) {
        if !name.ends_with(&format!("_{word}")) {
            name.push('_');
            name.push_str(&word);
        }
    }
    if total {
        name.push_str("_total");
    }
    name
}

/// The words of a UCUM unit: `By/s` → `bytes`, `per_second`. An annotation such as `{request}` has none.
fn words(unit: &str, data: Data) -> Vec<String> {
    let (what, per) = unit.split_once('/').unwrap_or((unit, ""));
    let clean = |part: &str| label(part.split('{').next().unwrap_or_default().trim());
    let (what, per) = (clean(what), clean(per));
    let mut words = Vec::new();
    match what.as_str() {
        "" => {}
        "1" | "_1" => {
            if data == Data::Gauge && per.is_empty() {
                words.push("ratio".to_owned());
            }
        }
        _ => words.push(plural(&what).map_or_else(|| what.clone(), str::to_owned)),
    }
    if !per.is_empty() {
        let one = match per.as_str() {
            "s" => "second",
            "min" => "minute",
            "h" => "hour",
            "d" => "day",
            other => other,
        };
        words.push(format!("per_{one}"));
    }
    words
}

fn plural(unit: &str) -> Option<&'static str> {
    const TABLE: [(&str, &str); 26] = [
        ("d", "days"),
        ("h", "hours"),
        ("min", "minutes"),
        ("s", "seconds"),
        ("ms", "milliseconds"),
        ("us", "microseconds"),
        ("ns", "nanoseconds"),
        ("By", "bytes"),
        ("KiBy", "kibibytes"),
        ("MiBy", "mebibytes"),
        ("GiBy", "gibibytes"),
        ("TiBy", "tibibytes"),
        ("KBy", "kilobytes"),
        ("MBy", "megabytes"),
        ("GBy", "gigabytes"),
        ("TBy", "terabytes"),
        ("m", "meters"),
        ("V", "volts"),
        ("A", "amperes"),
        ("J", "joules"),
        ("W", "watts"),
        ("g", "grams"),
        ("Cel", "celsius"),
        ("Hz", "hertz"),
        ("bit", "bits"),
        ("_", "percent"),
    ];
    TABLE
        .iter()
        .find(|(known, _)| *known == unit)
        .map(|(_, word)| *word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::otlp::{samples as made, split};
    use crate::dataplane::record::Signal;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::metric;

    fn records(request: &ExportMetricsServiceRequest) -> Vec<OtlpRecord> {
        split(Signal::Metrics, &request.encode_to_vec(), 100).unwrap()
    }

    /// Name, the one label that tells series of a metric apart, and value.
    fn shown(record: &OtlpRecord) -> Vec<(String, String, String)> {
        let sample = |sample: Sample| {
            assert_eq!(sample.unix_millis, 5);
            let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
            let apart = label("le") + &label("quantile");
            (label("__name__"), apart, sample.value.clone())
        };
        samples(record).into_iter().map(sample).collect()
    }

    #[test]
    fn every_kind_that_has_a_form_becomes_series() {
        let records = records(&made::metrics());
        let said: Vec<_> = records.iter().map(can_say).collect();
        assert_eq!(said, [true, true, true, true, false, true, false, true]);
        let row = |name: &str, apart: &str, value: &str| {
            (name.to_owned(), apart.to_owned(), value.to_owned())
        };
        let all: Vec<_> = records
            .iter()
            .filter(|record| can_say(record))
            .flat_map(shown)
            .collect();
        assert_eq!(
            all,
            [
                row("queue_size", "", "0.5"),
                row("queue_size", "", "3"),
                row("http_requests_total", "", "-7"),
                row("connections", "", "-7"),
                row("latency_milliseconds_bucket", "0.5", "1"),
                row("latency_milliseconds_bucket", "10", "3"),
                row("latency_milliseconds_bucket", "+Inf", "6"),
                row("latency_milliseconds_sum", "", "9.5"),
                row("latency_milliseconds_count", "", "6"),
                row("old_seconds", "0.5", "1.5"),
                row("old_seconds_sum", "", "3"),
                row("old_seconds_count", "", "2"),
            ]
        );
    }

    #[test]
    fn labels_are_those_of_point_scope_and_resource_in_this_order() {
        let mut request = made::metrics();
        let attribute = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(any_value::Value::StringValue(value.to_owned())),
            }),
            ..KeyValue::default()
        };
        let metric = &mut request.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(metric::Data::Gauge(gauge)) = &mut metric.data else {
            panic!("{metric:?}")
        };
        gauge.data_points[0].attributes =
            vec![attribute("service.name", "mine"), attribute("empty", "")];
        let first = &samples(&records(&request)[0])[0];
        let label = |name: &str| first.labels.get(name).map(String::as_str);
        assert_eq!(label("service_name"), Some("mine"));
        assert_eq!(
            (label("otel_scope_name"), label("otel_scope_version")),
            (Some("a"), Some("1"))
        );
        assert_eq!(label("int"), Some("-9223372036854775808"));
        assert_eq!(
            (label("bit"), label("float")),
            (Some("false"), Some("-0.5"))
        );
        assert_eq!(
            (label("list"), label("map")),
            (Some("[-1,true]"), Some("{\"inner\":\"x\"}"))
        );
        assert_eq!(label("empty"), None);
    }

    #[test]
    fn a_point_without_a_value_or_a_time_has_no_form() {
        let spoil = |change: fn(&mut NumberDataPoint)| {
            let mut request = made::metrics();
            let metric = &mut request.resource_metrics[0].scope_metrics[0].metrics[0];
            if let Some(metric::Data::Gauge(gauge)) = &mut metric.data {
                change(&mut gauge.data_points[0]);
            }
            can_say(&records(&request)[0])
        };
        assert!(spoil(|_| {}));
        assert!(!spoil(|point| point.flags = 1));
        assert!(!spoil(|point| point.time_unix_nano = 0));
        assert!(!spoil(|point| point.value = None));
        let nan = number_data_point::Value::AsDouble(f64::NAN);
        let mut request = made::metrics();
        let metric = &mut request.resource_metrics[0].scope_metrics[0].metrics[0];
        if let Some(metric::Data::Gauge(gauge)) = &mut metric.data {
            gauge.data_points[0].value = Some(nan);
        }
        assert!(!can_say(&records(&request)[0]));
    }

    #[test]
    fn names_come_from_unit_and_type() {
        let cases = [
            (
                "http.server.duration",
                "ms",
                Data::Histogram,
                "http_server_duration_milliseconds",
            ),
            (
                "process.memory.usage",
                "By",
                Data::Sum(false),
                "process_memory_usage_bytes",
            ),
            ("disk.bytes", "By", Data::Sum(true), "disk_bytes_total"),
            ("disk_total", "By", Data::Sum(true), "disk_bytes_total"),
            ("requests", "{request}", Data::Sum(true), "requests_total"),
            ("utilization", "1", Data::Gauge, "utilization_ratio"),
            ("things", "1", Data::Sum(true), "things_total"),
            ("load", "%", Data::Gauge, "load_percent"),
            ("speed", "By/s", Data::Gauge, "speed_bytes_per_second"),
            ("rate", "{packet}/min", Data::Gauge, "rate_per_minute"),
            ("9lives", "", Data::Gauge, "_9lives"),
            ("odd", "furlong", Data::Gauge, "odd_furlong"),
        ];
        for (given, unit, data, wanted) in cases {
            assert_eq!(name(given, unit, data), wanted, "{given} in {unit}");
        }
    }
}
