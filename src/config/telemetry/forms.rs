//! Where own telemetry goes in our own form, and what both forms share of that.
//!
//! Promises and prohibitions are those of the module above.

use std::time::Duration;

use super::{Attribute, Detector, Directed, Export, Resource, Telemetry};
use crate::config::read::Section;
use crate::config::tls::tls;
use crate::config::{Composition, Profile};
use crate::units::Secret;

const SECOND: Duration = Duration::from_secs(1);
/// Metrics are read this often in our form, as OpAMP recommends.
const INTERVAL: Duration = Duration::from_secs(10);
/// The rest of our form, and what the declarative one has for batches.
const TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const LINGER: Duration = Duration::from_secs(1);
pub(super) const BATCH_MAX: u32 = 512;
pub(super) const QUEUE_MAX: u32 = 2_048;

/// `ReportsOwnMetrics`.
const METRICS: u64 = 0x40;

/// What one signal is called in a path and in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
    Logs,
}

impl Signal {
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }
}

/// The `telemetry:` section of our form.
pub(in crate::config) fn ours(root: &mut Section<'_, '_, '_>) -> Telemetry {
    let mut section = root.sub("telemetry");
    let about = (
        "URL",
        "an OTLP/HTTP receiver for the supervisor's own telemetry; the path of each signal is put behind it",
    );
    let endpoint = section.parsed(
        "endpoint",
        about,
        "none: own telemetry is not sent",
        |text| url(text).map(|url| url.trim_end_matches('/').to_owned()),
    );
    let about = ("list of words", "metrics, traces, logs: what is sent");
    let default = "[metrics, traces, logs]";
    let signals = section.list("signals", about, default, |_, text| match text {
        "metrics" => Ok(Signal::Metrics),
        "traces" => Ok(Signal::Traces),
        "logs" => Ok(Signal::Logs),
        _ => Err("write metrics, traces or logs".to_owned()),
    });
    let signals = signals.unwrap_or_else(|| vec![Signal::Metrics, Signal::Traces, Signal::Logs]);
    let interval = section.duration(
        "interval",
        "time between two readings of metrics",
        INTERVAL,
        SECOND..=3600 * SECOND,
    );
    let gzip = section.choice(
        "compression",
        "of request bodies",
        &[("gzip", true), ("none", false)],
        ("gzip", true),
    );
    let headers = section.pairs("headers", "go on every request; values are secrets", false);
    let headers = secrets(headers);
    let (tls, _) = tls(section.sub("tls"));
    let attributes = section.pairs("resource", "attributes of the sender", false);
    if section.is_present() && !section.has("endpoint") {
        section.problem("", "own telemetry needs an `endpoint`");
    }
    section.finish();
    let mut telemetry = Telemetry {
        resource: Resource {
            attributes: attributes
                .into_iter()
                .map(|(name, value)| (name, Some(Attribute::Text(value))))
                .collect(),
            detectors: vec![Detector::Host],
            ..Resource::default()
        },
        ..Telemetry::default()
    };
    let Some(endpoint) = endpoint else {
        return Telemetry::default();
    };
    for signal in signals {
        let export = Export {
            url: format!("{endpoint}{}", signal.path()),
            headers: headers.clone(),
            tls: tls.clone(),
            gzip,
            timeout: TIMEOUT,
            every: if signal == Signal::Metrics {
                interval
            } else {
                LINGER
            },
            batch_max: BATCH_MAX as usize,
            queue_max: QUEUE_MAX as usize,
        };
        match signal {
            Signal::Metrics => telemetry.metrics.push(export),
            Signal::Traces => telemetry.traces.push(export),
            Signal::Logs => telemetry.logs.push(export),
        }
    }
    telemetry
}

/// Which kinds of an agent's own telemetry offers may direct.
pub(in crate::config) fn accepted(
    section: &mut Section<'_, '_, '_>,
    profile: &Profile,
) -> Directed {
    let about = (
        "list of words",
        "metrics, traces, logs: what of its own telemetry a server may direct; Collectors alone",
    );
    let bits = section.list(
        "own_telemetry",
        about,
        "[metrics] of a Collector",
        |_, text| match text {
            "traces" => Ok(0x20),
            "metrics" => Ok(METRICS),
            "logs" => Ok(0x80),
            _ => Err("write metrics, traces or logs".to_owned()),
        },
    );
    let layered = profile.composition == Composition::OtelLayers;
    if !layered && bits.as_ref().is_some_and(|bits| !bits.is_empty()) {
        section.problem(
            "own_telemetry",
            "this profile has no layer that it could be put into",
        );
    }
    let kinds = match bits {
        Some(bits) => bits.into_iter().fold(0, |all, bit| all | bit),
        None if layered => METRICS,
        None => 0,
    };
    Directed {
        kinds,
        whole: false,
    }
}

pub(super) fn secrets(pairs: Vec<(String, String)>) -> Vec<(String, Secret)> {
    let secret = |(name, value)| (name, Secret::new(value));
    pairs.into_iter().map(secret).collect()
}

pub(super) fn url(text: &str) -> Result<String, String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .ok_or("begin the URL with http:// or https://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("no user or password in a URL, use `headers`".to_owned());
    }
    if authority.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a URL with a host belongs here".to_owned());
    }
    Ok(text.to_owned())
}

/// `name=value,name=value`, values percent-encoded, as the environment variables of OpenTelemetry have it.
pub(crate) fn list(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .filter(|(name, _)| !name.trim().is_empty())
                .ok_or("write name=value, with commas between them")?;
            Ok((name.trim().to_owned(), decoded(value.trim())))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
