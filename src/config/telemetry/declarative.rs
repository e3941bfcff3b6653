//! Own telemetry in the words of the declarative configuration of OpenTelemetry, for the form of opampsupervisor.
//!
//! Promises and prohibitions are those of the module above.

use std::time::Duration;

use super::forms::{BATCH_MAX, LINGER, QUEUE_MAX, Signal, list, secrets, url};
use super::sender::resource;
use super::{Export, Telemetry};
use crate::config::Tls;
use crate::config::read::Section;
use crate::units::{Secret, TextSource};

const MILLISECOND: Duration = Duration::from_millis(1);
/// The declarative configuration counts in milliseconds.
const AN_HOUR_MS: u32 = 3_600_000;

/// What the settings of the `agent:` form say.
pub(in crate::config) fn declarative(
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
pub(in crate::config) fn log_processors(section: &mut Section<'_, '_, '_>) -> Vec<Export> {
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

fn millis(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

/// Exporters of OpenTelemetry put the signal's path behind an endpoint that has none.
fn with_path(url: String, signal: Signal) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    if rest.contains(['/', '?', '#']) {
        return url;
    }
    format!("{url}{}", signal.path())
}
