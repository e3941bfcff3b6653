//! VictoriaMetrics import lines: one JSON object per series and request (S2-31 … S2-35).
//!
//! Promises: names come from the point's type and unit, never from a guess at the name (F-095); lines are sorted by
//! series and values by time; timestamps are whole milliseconds of the collection; every label is a string; a body
//! beyond 256 KiB compressed is halved; a point that came by OTLP brings its own labels and gets none of ours. Only
//! gzip is used: servers in the field answer 204 to zstd and store nothing.
//! Must never: send a value that is not finite — the server would discard the line and still answer 204.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};

use super::http::HttpClient;
use super::outcome::{Outcome, of_answer, of_error};
use super::{Resource, Shipment, gzip, series};
use crate::dataplane::config::HttpConfig;
use crate::dataplane::record::{Kind, Metric, Number, Point, Record};
use crate::sys::clock;

const PATH: &str = "/api/v1/import";
/// A compressed body beyond this is halved.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Sends import lines.
#[derive(Debug)]
pub(crate) struct Victoria {
    client: HttpClient,
    /// Labels of everything we send.
    labels: Vec<(String, String)>,
    device: Option<HeaderValue>,
}

impl Victoria {
    /// A client that is not connected yet.
    pub(crate) fn new(config: HttpConfig, resource: &Resource) -> Self {
        Self {
            client: HttpClient::new(config),
            labels: resource
                .attributes
                .iter()
                .map(|(name, value)| (label(name), value.clone()))
                .collect(),
            device: resource
                .get("service.instance.id")
                .and_then(|id| HeaderValue::from_str(id).ok()),
        }
    }

    /// Sends one chunk.
    pub(crate) async fn send(&mut self, shipment: Shipment, records: &[&Record]) -> Outcome {
        let body = match gzip(lines(records, &self.labels).as_bytes()) {
            Ok(body) => body,
            Err(error) => return Outcome::retry(format!("compress: {error}")),
        };
        if body.len() > BODY_BYTES_MAX {
            return Outcome::Split(format!("a chunk is over {BODY_BYTES_MAX} bytes compressed"));
        }
        let mut headers = vec![
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-ndjson"),
            ),
            (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
            (name("x-chunk-index"), shipment.chunk.into()),
            (name("x-chunk-metrics"), records.len().into()),
            (name("x-attempt"), shipment.attempt.into()),
        ];
        if let Some(device) = &self.device {
            headers.push((name("x-device-id"), device.clone()));
        }
        match self.client.post(PATH, &headers, body).await {
            Ok(answer) => of_answer(&answer, clock::wall()),
            Err(error) => of_error(&error),
        }
    }
}

const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

/// The lines of a chunk. Records of other signals and such as have no form here do not come: they are not routed here.
fn lines(records: &[&Record], labels: &[(String, String)]) -> String {
    let mut series: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for record in records {
        match record {
            Record::Log(_) => {}
            Record::Point(point) => {
                let value = match point.value {
                    Number::Int(value) => value.to_string(),
                    Number::Float(value) if value.is_finite() => value.to_string(),
                    Number::Float(_) => continue,
                };
                series
                    .entry(identity(point, labels))
                    .or_default()
                    .push((point.time.unix_millis(), value));
            }
            // Our own labels are not theirs: what came by OTLP says itself where it comes from.
            Record::Otlp(record) => {
                for sample in series::samples(record) {
                    let identity = serde_json::to_string(&sample.labels).unwrap_or_default();
                    series
                        .entry(identity)
                        .or_default()
                        .push((sample.unix_millis, sample.value));
                }
            }
        }
    }
    let mut text = String::new();
    for (identity, mut samples) in series {
        samples.sort_by_key(|(time, _)| *time);
        text.push_str("{\"metric\":");
        text.push_str(&identity);
        text.push_str(",\"values\":[");
        join(
            &mut text,
            samples.iter().map(|(_, value)| value),
            |text, value| text.push_str(value),
        );
        text.push_str("],\"timestamps\":[");
        join(
            &mut text,
            samples.iter().map(|(time, _)| *time),
            |text, time| {
                // Writing to a String cannot fail.
                _ = write!(text, "{time}");
            },
        );
        text.push_str("]}\n");
    }
    text
}

fn join<T>(
    text: &mut String,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(text, item);
    }
}

/// The series as a JSON object; the point's own labels win over the resource's.
fn identity(point: &Point, labels: &[(String, String)]) -> String {
    let own = point
        .attributes
        .iter()
        .map(|(name, value)| (label(name), &**value));
    let mut all: BTreeMap<String, &str> = labels
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str()))
        .collect();
    all.extend(own);
    all.retain(|_, value| !value.is_empty());
    let name = prometheus_name(point.metric);
    all.insert("__name__".to_owned(), &name);
    serde_json::to_string(&all).unwrap_or_default()
}

/// `system.disk.io` in bytes as a monotonic sum → `system_disk_io_bytes_total`.
pub(super) fn prometheus_name(metric: &Metric) -> String {
    let mut name = label(metric.name);
    if let Some(unit) = metric.unit.suffix()
        && !name.ends_with(&format!("_{unit}"))
    {
        name.push('_');
        name.push_str(unit);
    }
    if metric.kind == Kind::Sum && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

/// Anything but letters, digits and `_` becomes `_`.
pub(super) fn label(name: &str) -> String {
    let mut label = String::with_capacity(name.len());
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        label.push('_');
    }
    label.extend(
        name.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
    );
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::record::Unit;
    use crate::units::WallTime;

    static IO: Metric = Metric::sum("system.disk.io", Unit::Bytes);
    static LOAD: Metric = Metric::gauge("system.cpu.utilization", Unit::Ratio);

    fn point(
        metric: &'static Metric,
        attributes: &[(&'static str, &str)],
        value: Number,
        ms: u64,
    ) -> Record {
        Record::Point(Point {
            metric,
            attributes: attributes
                .iter()
                .map(|(key, value)| (*key, (*value).into()))
                .collect(),
            value,
            time: WallTime::from_unix_millis(ms),
            start: WallTime::default(),
        })
    }

    #[test]
    fn names_come_from_type_and_unit() {
        let cases = [
            (
                Metric::sum("system.disk.io", Unit::Bytes),
                "system_disk_io_bytes_total",
            ),
            (
                Metric::gauge("system.memory.usage", Unit::Bytes),
                "system_memory_usage_bytes",
            ),
            (
                Metric::gauge("system.cpu.utilization", Unit::Ratio),
                "system_cpu_utilization_ratio",
            ),
            (
                Metric::gauge("cpu.temperature", Unit::Celsius),
                "cpu_temperature_celsius",
            ),
            (
                Metric::sum("system.cpu.time", Unit::Seconds),
                "system_cpu_time_seconds_total",
            ),
            (
                Metric::sum("system.network.errors", Unit::Count("{error}")),
                "system_network_errors_total",
            ),
            // Names that look like counters and are none (S2-T9).
            (
                Metric::gauge("thread.count", Unit::Count("{thread}")),
                "thread_count",
            ),
            (Metric::gauge("spread", Unit::Count("{x}")), "spread"),
            (
                Metric::sum("bytes.total", Unit::Count("{x}")),
                "bytes_total",
            ),
        ];
        for (metric, wanted) in cases {
            assert_eq!(prometheus_name(&metric), wanted);
        }
    }

    #[test]
    fn lines_are_sorted_and_every_value_keeps_its_time() {
        let records = [
            point(&LOAD, &[], Number::Float(0.25), 2000),
            point(&IO, &[("system.device", "sda")], Number::Int(7), 2000),
            point(&LOAD, &[], Number::Float(0.5), 1000),
            point(&LOAD, &[], Number::Float(f64::NAN), 3000),
        ];
        let labels = [
            ("host_name".to_owned(), "h\"1".to_owned()),
            ("system_device".to_owned(), "mine loses".to_owned()),
        ];
        let text = lines(&records.iter().collect::<Vec<_>>(), &labels);
        assert_eq!(
            text,
            concat!(
                r#"{"metric":{"__name__":"system_cpu_utilization_ratio","host_name":"h\"1","system_device":"mine loses"},"values":[0.5,0.25],"timestamps":[1000,2000]}"#,
                "\n",
                r#"{"metric":{"__name__":"system_disk_io_bytes_total","host_name":"h\"1","system_device":"sda"},"values":[7],"timestamps":[2000]}"#,
                "\n"
            )
        );
    }
}
