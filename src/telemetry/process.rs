//! Our own process in the names of OpenTelemetry's conventions.
//!
//! Promises: each number comes from `/proc/self` at the time it is asked for; one that cannot be read is left out.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    Metric, NumberDataPoint, Sum, metric::Data, number_data_point::Value,
};

use super::encode::text;
use super::page::CUMULATIVE;

/// The kernel counts time for programs in hundredths of a second, on every system that we are built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What is known of this process at `now`.
pub(super) fn metrics(started: u64, now: u64) -> Vec<Metric> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    of(&stat, &status, started, now)
}

fn of(stat: &str, status: &str, started: u64, now: u64) -> Vec<Metric> {
    // The name of the program, in brackets, may hold anything; `utime` is the 12th word behind it.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut times = words.split_whitespace().skip(11).map(str::parse::<f64>);
    let point = |value, attributes: Vec<KeyValue>, start| NumberDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let mut metrics = Vec::new();
    if let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) {
        let of_mode = |ticks: f64, mode| {
            let seconds = Value::AsDouble(ticks / TICKS_PER_SECOND);
            point(seconds, vec![text("cpu.mode", mode)], started)
        };
        let sum = Sum {
            data_points: vec![of_mode(user, "user"), of_mode(system, "system")],
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        };
        let about = "Total CPU seconds broken down by different states.";
        metrics.push(metric("process.cpu.time", "s", about, Data::Sum(sum)));
    }
    for (key, name, unit, scale, about) in [
        (
            "VmRSS:",
            "process.memory.usage",
            "By",
            1024,
            "The amount of physical memory in use.",
        ),
        (
            "VmSize:",
            "process.memory.virtual",
            "By",
            1024,
            "The amount of committed virtual memory.",
        ),
        (
            "Threads:",
            "process.thread.count",
            "{thread}",
            1,
            "Process threads count.",
        ),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
        if let Some(number) = number {
            let value = Value::AsInt(number.saturating_mul(scale));
            // The conventions have counters that go both ways.
            let sum = Sum {
                data_points: vec![point(value, Vec::new(), started)],
                aggregation_temporality: CUMULATIVE,
                is_monotonic: false,
            };
            metrics.push(metric(name, unit, about, Data::Sum(sum)));
        }
    }
    metrics
}

fn metric(name: &str, unit: &str, about: &str, data: Data) -> Metric {
    Metric {
        name: name.to_owned(),
        description: about.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_process_have_conventional_names_and_units() {
        let stat = "7 (odd ) name) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let status = "VmSize:\t  2048 kB\nVmRSS:\t   512 kB\nThreads:\t3\n";
        let metrics = of(stat, status, 1, 2);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "process.cpu.time",
                "process.memory.usage",
                "process.memory.virtual",
                "process.thread.count"
            ]
        );
        let Some(Data::Sum(sum)) = &metrics[0].data else {
            panic!("{metrics:?}")
        };
        let seconds: Vec<_> = sum.data_points.iter().map(|point| point.value).collect();
        assert_eq!(
            seconds,
            [Some(Value::AsDouble(2.5)), Some(Value::AsDouble(0.5))]
        );
        let Some(Data::Sum(sum)) = &metrics[1].data else {
            panic!("{metrics:?}")
        };
        assert!(!sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Value::AsInt(512 * 1024)));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(of("", "", 1, 2), Vec::new());
        assert_eq!(metrics(1, 2).len(), 4);
    }
}
