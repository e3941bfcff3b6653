//! The two ways to write down where own telemetry goes.
//!
//! Promises and prohibitions are those of the module above.

use std::time::Duration;

use super::sender::resource;
use super::{Attribute, Detector, Directed, Export, Resource, Telemetry};
use crate::config::read::Section;
use crate::config::tls::tls;
use crate::config::{Composition, Profile, Tls};
use crate::units::{Secret, TextSource};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The declarative configuration counts in milliseconds.
const AN_HOUR_MS: u32 = 3_600_000;
/// Metrics are read this often in our form, as OpAMP recommends.
const INTERVAL: Duration = Duration::from_secs(10);
/// The rest of our form, and what the declarative one has for batches.
const TIMEOUT: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);
const BATCH_MAX: u32 = 512;
const QUEUE_MAX: u32 = 2_048;

/// `ReportsOwnMetrics`.
const METRICS: u64 = 0x40;

/// What one signal is called in a path and in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Metrics,
    Traces,
    Logs,
}

impl Signal {
    const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }
}

/// The `telemetry:` section of our form.
pub(in super::super) fn ours(root: &mut Section<'_, '_, '_>) -> Telemetry {
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
pub(in super::super) fn accepted(section: &mut Section<'_, '_, '_>, profile: &Profile) -> Directed {
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

/// What the settings of the `agent:` form say.
pub(in super::super) fn declarative(
    section: &mut Section<'_, '_, '_>,
    logs: Vec<Export>,
) -> Telemetry {
    let metrics = {
        let mut section = section.sub("metrics");
        let level = level(&mut section, "how much is measured; none measures nothing");
        let readers = exports(&mut section, "readers", Signal::Metrics);
        section.finish();
        if level { readers } else { Vec::new() }
    };
    let traces = {
        let mut section = section.sub("traces");
        let level = level(&mut section, "how much is traced; none traces nothing");
        let about = (
            "list of words",
            "tracecontext, baggage, b3; nothing of ours calls another traced program",
        );
        section.list("propagators", about, "none", |_, text| match text {
            "tracecontext" | "baggage" | "b3" | "b3multi" => Ok(()),
            _ => Err("not one of tracecontext, baggage, b3, b3multi".to_owned()),
        });
        let processors = exports(&mut section, "processors", Signal::Traces);
        section.finish();
        if level { processors } else { Vec::new() }
    };
    Telemetry {
        metrics,
        traces,
        logs,
        resource: resource(section.sub("resource")),
    }
}

/// The processors of log records.
pub(in super::super) fn log_processors(section: &mut Section<'_, '_, '_>) -> Vec<Export> {
    exports(section, "processors", Signal::Logs)
}

fn level(section: &mut Section<'_, '_, '_>, about: &'static str) -> bool {
    let levels = [
        ("none", false),
        ("basic", true),
        ("normal", true),
        ("detailed", true),
        ("None", false),
        ("Basic", true),
        ("Normal", true),
        ("Detailed", true),
    ];
    section.choice("level", about, &levels, ("normal", true))
}

/// A list of readers or processors. An empty one is read as one without anything, so that its keys are known.
fn exports(section: &mut Section<'_, '_, '_>, key: &'static str, signal: Signal) -> Vec<Export> {
    let items = section.items(key);
    if items.is_empty() {
        export(section.item(key, 0, None), signal);
    }
    let mut exports = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        exports.extend(export(section.item(key, index, Some(item)), signal));
    }
    exports
}

fn export(mut section: Section<'_, '_, '_>, signal: Signal) -> Option<Export> {
    let export = if signal == Signal::Metrics {
        section.not_built(&["pull"], "a pulled reader is not supported, use periodic");
        let periodic = periodic(section.sub("periodic"), signal);
        if section.is_present() && !section.has("periodic") && !section.has("pull") {
            section.problem("", "a reader is `periodic` with an exporter");
        }
        periodic
    } else {
        let batch = batch(section.sub("batch"), signal);
        let simple = {
            let mut section = section.sub("simple");
            let export = exporter(&mut section, signal);
            section.finish();
            export.map(|export| Export {
                every: MILLISECOND,
                batch_max: 1,
                ..export
            })
        };
        if section.is_present() && section.has("batch") == section.has("simple") {
            section.problem(
                "",
                "a processor is either `batch` or `simple`, with an exporter",
            );
        }
        batch.or(simple)
    };
    section.finish();
    export
}

fn periodic(mut section: Section<'_, '_, '_>, signal: Signal) -> Option<Export> {
    let interval = section.number(
        "interval",
        "milliseconds between two readings",
        60_000,
        100..=AN_HOUR_MS,
    );
    let timeout = section.number(
        "timeout",
        "milliseconds for one reading with its export",
        30_000,
        1..=AN_HOUR_MS,
    );
    let export = exporter(&mut section, signal);
    section.finish();
    export.map(|export| Export {
        every: millis(interval),
        timeout: export.timeout.min(millis(timeout)),
        ..export
    })
}

fn batch(mut section: Section<'_, '_, '_>, signal: Signal) -> Option<Export> {
    let delay = if signal == Signal::Logs { 1_000 } else { 5_000 };
    let delay = section.number(
        "schedule_delay",
        "milliseconds that a record waits for others at most",
        delay,
        0..=AN_HOUR_MS,
    );
    let timeout = section.number(
        "export_timeout",
        "milliseconds for one export",
        30_000,
        1..=AN_HOUR_MS,
    );
    let queue = section.number(
        "max_queue_size",
        "records that wait; the rest is dropped and counted",
        QUEUE_MAX,
        1..=65_536,
    );
    let batch = section.number(
        "max_export_batch_size",
        "records of one request",
        BATCH_MAX,
        1..=65_536,
    );
    let export = exporter(&mut section, signal);
    section.finish();
    export.map(|export| Export {
        every: millis(delay).max(MILLISECOND),
        timeout: export.timeout.min(millis(timeout)),
        batch_max: batch as usize,
        queue_max: queue as usize,
        ..export
    })
}

/// The exporter of a reader or processor.
fn exporter(section: &mut Section<'_, '_, '_>, signal: Signal) -> Option<Export> {
    let present = section.is_present();
    let mut section = section.sub("exporter");
    section.not_built(
        &["console", "prometheus", "zipkin", "otlp_http", "otlp_grpc"],
        "this kind of exporter is not supported, use otlp with protocol http/protobuf",
    );
    let named = section.is_present();
    let export = otlp(section.sub("otlp"), signal);
    if present && !named {
        section.problem("", "required, write an `otlp` exporter below it");
    }
    section.finish();
    export
}

fn otlp(mut section: Section<'_, '_, '_>, signal: Signal) -> Option<Export> {
    let present = section.is_present();
    let about = ("word", "http/protobuf");
    section.parsed("protocol", about, "http/protobuf", |text| match text {
        "http/protobuf" => Ok(()),
        "grpc" => Err(
            "OTLP over gRPC is not supported, write http/protobuf and the port of HTTP".to_owned(),
        ),
        _ => Err("write http/protobuf".to_owned()),
    });
    let about = (
        "URL",
        "where to; without a path that of the signal is put behind it",
    );
    let endpoint = section.parsed("endpoint", about, "required", url);
    if present && !section.has("endpoint") {
        section.problem("endpoint", "required, name the receiver");
    }
    let ca_file = section.path_value(
        "certificate",
        "CA bundle that verifies the receiver",
        "system roots",
    );
    let pair = section
        .path_value("client_certificate", "our own certificate", "none")
        .zip(section.path_value("client_key", "its key", "none"));
    if section.has("client_certificate") != section.has("client_key") {
        section.problem("", "`client_certificate` and `client_key` come together");
    }
    section.switch(
        "insecure",
        "means something to gRPC alone; the URL says it here",
        false,
    );
    let mut headers = headers(&mut section);
    let about = (
        "text",
        "more headers, as `name=value,name=value`; values are secrets",
    );
    let listed = section.parsed("headers_list", about, "none", list);
    headers.extend(secrets(listed.unwrap_or_default()));
    let gzip = section.choice(
        "compression",
        "of request bodies",
        &[("none", false), ("gzip", true)],
        ("none", false),
    );
    let timeout = section.number(
        "timeout",
        "milliseconds for one request",
        10_000,
        1..=AN_HOUR_MS,
    );
    if signal == Signal::Metrics {
        let only = |text: &str| match text {
            "cumulative" => Ok(()),
            _ => Err("only cumulative is supported".to_owned()),
        };
        section.parsed(
            "temporality_preference",
            ("word", "cumulative"),
            "cumulative",
            only,
        );
        let about = "there are no histograms that it could mean";
        section.text("default_histogram_aggregation", about, "none");
    }
    section.finish();
    endpoint.map(|endpoint| Export {
        url: with_path(endpoint, signal),
        headers,
        tls: Tls {
            ca: ca_file.map(TextSource::File),
            client_pair: pair.map(|(chain, key)| (TextSource::File(chain), TextSource::File(key))),
            ..Tls::default()
        },
        gzip,
        timeout: millis(timeout),
        every: LINGER,
        batch_max: BATCH_MAX as usize,
        queue_max: QUEUE_MAX as usize,
    })
}

/// A map, as version 0.2 had it, or a list of names and values.
fn headers(section: &mut Section<'_, '_, '_>) -> Vec<(String, Secret)> {
    if !section.is_list("headers") {
        let about = "map of texts, or a list of `name` and `value`; values are secrets";
        return secrets(section.pairs("headers", about, false));
    }
    let mut headers = Vec::new();
    for (index, item) in section.items("headers").into_iter().enumerate() {
        let mut item = section.item("headers", index, Some(item));
        let name = item.text("name", "name of the header", "required");
        let value = item.text("value", "its value", "none");
        if name.is_none() {
            item.problem("", "a header has a `name` and a `value`");
        }
        item.finish();
        headers.extend(name.map(|name| (name, value.unwrap_or_default())));
    }
    secrets(headers)
}

fn secrets(pairs: Vec<(String, String)>) -> Vec<(String, Secret)> {
    let secret = |(name, value)| (name, Secret::new(value));
    pairs.into_iter().map(secret).collect()
}

fn millis(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

fn url(text: &str) -> Result<String, String> {
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

/// Exporters of OpenTelemetry put the signal's path behind an endpoint that has none.
fn with_path(url: String, signal: Signal) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    if rest.contains(['/', '?', '#']) {
        return url;
    }
    format!("{url}{}", signal.path())
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
