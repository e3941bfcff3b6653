//! The metrics page → OTLP metrics, so that both say the same.
//!
//! Promises: every sample of the page is a data point; names are those of the page with dots after `adjutant` and the
//! group, without unit and `_total`, which OpenTelemetry keeps beside the name.
//! Must never: measure.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, Sum, metric::Data, number_data_point::Value,
};

use super::encode::text;

/// Groups of the page whose name is a step of its own.
const GROUPS: [&str; 5] = ["agent", "certificate", "clock", "link", "registration"];
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
pub(super) const CUMULATIVE: i32 = 2;

#[derive(Debug, Default)]
struct Family {
    help: String,
    is_counter: bool,
    unit: String,
    points: Vec<NumberDataPoint>,
}

/// Reads a page that was written at `now`; counters count from `started`.
pub(super) fn metrics(page: &str, started: u64, now: u64) -> Vec<Metric> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                let family = families.entry(name.to_owned()).or_default();
                match what {
                    "HELP" => rest.trim_end_matches('.').clone_into(&mut family.help),
                    "TYPE" => family.is_counter = rest == "counter",
                    "UNIT" => rest.clone_into(&mut family.unit),
                    _ => {}
                }
            }
            (Some("#"), ..) => {}
            _ => {
                let Some((name, attributes, value)) = sample(line) else {
                    continue;
                };
                let family = name.strip_suffix("_total").unwrap_or(name);
                let Some(family) = families.get_mut(family) else {
                    continue;
                };
                family.points.push(NumberDataPoint {
                    attributes,
                    start_time_unix_nano: if family.is_counter { started } else { 0 },
                    time_unix_nano: now,
                    value: Some(value),
                    ..NumberDataPoint::default()
                });
            }
        }
    }
    let used = families
        .into_iter()
        .filter(|(_, family)| !family.points.is_empty());
    used.map(|(name, family)| metric(&name, family)).collect()
}

fn metric(name: &str, family: Family) -> Metric {
    let Family {
        help,
        is_counter,
        unit,
        points: data_points,
    } = family;
    let data = if is_counter {
        Data::Sum(Sum {
            data_points,
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        })
    } else {
        Data::Gauge(Gauge { data_points })
    };
    Metric {
        name: dotted(name, &unit),
        description: help,
        unit: if unit == "seconds" { "s" } else { "1" }.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// `adjutant_agent_start_time_seconds` → `adjutant.agent.start_time`.
fn dotted(name: &str, unit: &str) -> String {
    let bare = name
        .strip_suffix(unit)
        .map_or(name, |bare| bare.trim_end_matches('_'));
    let bare = bare.strip_prefix("adjutant_").unwrap_or(bare);
    for group in GROUPS {
        if let Some(rest) = bare
            .strip_prefix(group)
            .and_then(|rest| rest.strip_prefix('_'))
        {
            return format!("adjutant.{group}.{rest}");
        }
    }
    format!("adjutant.{bare}")
}

/// `name{key="value"} number`
fn sample(line: &str) -> Option<(&str, Vec<KeyValue>, Value)> {
    let (front, number) = line.rsplit_once(' ')?;
    let (name, labels) = match front.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (front, ""),
    };
    let value = match number.parse() {
        Ok(whole) => Value::AsInt(whole),
        Err(_) => Value::AsDouble(number.parse().ok()?),
    };
    Some((name, attributes(labels)?, value))
}

fn attributes(mut labels: &str) -> Option<Vec<KeyValue>> {
    let mut found = Vec::new();
    while !labels.is_empty() {
        let (key, rest) = labels.split_once("=\"")?;
        let mut value = String::new();
        let mut escaped = false;
        let mut end = None;
        for (at, c) in rest.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (_, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        found.push(text(key, value));
        labels = rest.get(end?.saturating_add(1)..)?.trim_start_matches(',');
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP adjutant_uptime_seconds Time since the supervisor started.\n\
        # TYPE adjutant_uptime_seconds gauge\n# UNIT adjutant_uptime_seconds seconds\n\
        adjutant_uptime_seconds 1.5\n\
        # HELP adjutant_agent_restarts Restarts.\n# TYPE adjutant_agent_restarts counter\n\
        adjutant_agent_restarts_total{agent=\"a \\\"b\\\"\",kind=\"x\"} 3\n\
        # HELP adjutant_link_connected One.\n# TYPE adjutant_link_connected gauge\n\
        # EOF\n";

    #[test]
    fn every_sample_of_the_page_is_a_data_point() {
        let metrics = metrics(PAGE, 5, 7);
        assert_eq!(metrics.len(), 2, "{metrics:?}");
        let restarts = &metrics[0];
        assert_eq!(
            (restarts.name.as_str(), restarts.unit.as_str()),
            ("adjutant.agent.restarts", "1")
        );
        let Some(Data::Sum(sum)) = &restarts.data else {
            panic!("{restarts:?}")
        };
        assert!(sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(Value::AsInt(3)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 7));
        let wanted = [text("agent", "a \"b\""), text("kind", "x")];
        assert_eq!(point.attributes, wanted);
        let uptime = &metrics[1];
        assert_eq!(
            (uptime.name.as_str(), uptime.unit.as_str()),
            ("adjutant.uptime", "s")
        );
        assert_eq!(uptime.description, "Time since the supervisor started");
        let Some(Data::Gauge(gauge)) = &uptime.data else {
            panic!("{uptime:?}")
        };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(1.5)));
    }
}
