//! Given settings of own telemetry; when they are read; then both forms say the same, and what is not built has a name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::config::{Config, ConfigErrors, Environment, Overrides, load};

struct Nothing;

impl Environment for Nothing {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::other(path.to_owned()))
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }

    fn is_executable(&self, _path: &Path) -> bool {
        true
    }
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    load("test", text, &Nothing, &Overrides::default())
}

fn theirs(telemetry: &str) -> Result<Telemetry, String> {
    let text = format!(
        "server: {{endpoint: 'ws://it/v1/opamp'}}\nagent: {{executable: /bin/sh}}\ntelemetry: {telemetry}\n"
    );
    read(&text)
        .map(|config| config.telemetry)
        .map_err(|errors| errors.to_string())
}

fn ours(telemetry: &str) -> Result<Telemetry, String> {
    let text = format!("telemetry: {telemetry}\n");
    read(&text)
        .map(|config| config.telemetry)
        .map_err(|errors| errors.to_string())
}

#[test]
fn nothing_said_sends_nothing() {
    assert!(
        !read("storage: {directory: /s}\n")
            .unwrap()
            .telemetry
            .is_on()
    );
    assert!(!theirs("{}").unwrap().is_on());
}

#[test]
fn our_form_has_one_receiver_for_all_signals() {
    let telemetry =
        ours("{endpoint: 'http://it:4318/', headers: {x: y}, resource: {team: a}}").unwrap();
    let urls =
        [&telemetry.metrics, &telemetry.traces, &telemetry.logs].map(|it| it[0].url.as_str());
    assert_eq!(
        urls,
        [
            "http://it:4318/v1/metrics",
            "http://it:4318/v1/traces",
            "http://it:4318/v1/logs"
        ]
    );
    assert!(telemetry.metrics[0].gzip);
    assert_eq!(telemetry.metrics[0].every, Duration::from_secs(10));
    assert_eq!(telemetry.logs[0].headers[0].1.expose(), "y");
    let team = ("team".to_owned(), Some(Attribute::Text("a".to_owned())));
    assert_eq!(telemetry.resource.attributes, [team]);
    let some = ours("{endpoint: 'https://it', signals: [logs]}").unwrap();
    assert_eq!(
        (some.metrics.len(), some.traces.len(), some.logs.len()),
        (0, 0, 1)
    );
}

#[test]
fn the_declarative_form_has_its_defaults() {
    let telemetry = theirs(
        "{metrics: {level: detailed, readers: [{periodic: {exporter: {otlp: {protocol: http/protobuf, endpoint: \
         'http://it:4318'}}}}]}, \
         traces: {propagators: [tracecontext], processors: [{simple: {exporter: {otlp: {endpoint: 'http://it/x'}}}}]}, \
         logs: {processors: [{batch: {max_queue_size: 9, exporter: {otlp: {endpoint: 'http://it/y', headers: [{name: a, \
         value: b}], headers_list: 'c=d%20e', compression: gzip, timeout: 77}}}}]}}",
    )
    .unwrap();
    let metrics = &telemetry.metrics[0];
    assert_eq!(metrics.url, "http://it:4318/v1/metrics");
    assert_eq!(metrics.every, Duration::from_mins(1));
    assert_eq!(
        (metrics.gzip, metrics.timeout),
        (false, Duration::from_secs(10))
    );
    let traces = &telemetry.traces[0];
    assert_eq!(
        (traces.url.as_str(), traces.every),
        ("http://it/x", Duration::from_millis(1))
    );
    assert_eq!(traces.batch_max, 1, "one request for each span");
    let logs = &telemetry.logs[0];
    let headers: Vec<_> = logs
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()))
        .collect();
    assert_eq!(headers, [("a", "b"), ("c", "d e")]);
    assert_eq!((logs.queue_max, logs.batch_max, logs.gzip), (9, 512, true));
    assert_eq!(logs.timeout, Duration::from_millis(77));
    assert_eq!(logs.every, Duration::from_secs(1));
}

#[test]
fn a_level_of_none_sends_nothing() {
    let exporter = "{otlp: {endpoint: 'http://it'}}";
    let telemetry = theirs(&format!(
        "{{metrics: {{level: none, readers: [{{periodic: {{exporter: {exporter}}}}}]}}, \
         traces: {{level: none, processors: [{{simple: {{exporter: {exporter}}}}}]}}}}"
    ));
    assert!(!telemetry.unwrap().is_on());
}

#[test]
fn the_resource_has_both_shapes_and_detectors() {
    let telemetry = theirs(
        "{resource: {service.namespace: demo, service.version: null, schema_url: 'http://s', attributes_list: 'a=b', \
         attributes: [{name: n, value: 3}, {name: t, value: '3'}, {name: f, value: 3, type: double}, {name: l, value: \
         [x, y]}], detection/development: {detectors: [env, {host: {}}, process], attributes: {included: ['host.*'], \
         excluded: [host.id]}}}}",
    )
    .unwrap();
    let resource = telemetry.resource;
    let text = |value: &str| Some(Attribute::Text(value.to_owned()));
    let list = Attribute::List(vec![text("x").unwrap(), text("y").unwrap()]);
    let wanted = [
        ("a", text("b")),
        ("n", Some(Attribute::Int(3))),
        ("t", text("3")),
        ("f", Some(Attribute::Double(3.0))),
        ("l", Some(list)),
        ("service.namespace", text("demo")),
        ("service.version", None),
    ];
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    assert_eq!(resource.attributes, wanted);
    assert_eq!(resource.schema_url, "http://s");
    assert_eq!(
        resource.detectors,
        [Detector::Env, Detector::Host, Detector::Process]
    );
    assert_eq!(
        (resource.included, resource.excluded),
        (vec!["host.*".to_owned()], vec!["host.id".to_owned()])
    );
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let otlp =
        |inner: &str| format!("{{logs: {{processors: [{{batch: {{exporter: {inner}}}}}]}}}}");
    for (settings, words) in [
        (otlp("{otlp: {protocol: grpc, endpoint: 'http://it'}}"), "processors[0].batch.exporter.otlp.protocol: OTLP over gRPC"),
        (otlp("{console: {a: 1}}"), "exporter.console: this kind of exporter is not supported"),
        (otlp("{otlp: {endpoint: 'it:4317'}}"), "begin the URL with http:// or https://"),
        (otlp("{otlp: {endpoint: 'http://a:b@it'}}"), "no user or password in a URL"),
        (otlp("{otlp: {protocol: http/protobuf}}"), "endpoint: required"),
        (otlp("{otlp: {endpoint: 'http://it', client_key: /k}}"), "come together"),
        (otlp("{otlp: {endpoint: 'http://it', tls: {}}}"), "unknown key"),
        ("{logs: {processors: [{batch: {}}]}}".to_owned(), "exporter: required"),
        ("{logs: {processors: [{}]}}".to_owned(), "either `batch` or `simple`"),
        ("{logs: {processors: {}}}".to_owned(), "a list belongs here"),
        ("{metrics: {readers: [{pull: {exporter: {prometheus: {port: 1}}}}]}}".to_owned(), "a pulled reader is not supported"),
        (
            "{metrics: {readers: [{periodic: {exporter: {otlp: {endpoint: 'http://it', temporality_preference: delta}}}}]}}".to_owned(),
            "only cumulative is supported",
        ),
        ("{resource: {detection: {detectors: [aws/ec2]}}}".to_owned(), "the detector aws/ec2 is not supported"),
        ("{resource: {detection: {detectors: [gcp]}}}".to_owned(), "the detector gcp is not supported"),
        ("{resource: {detection: {detectors: [moon]}}}".to_owned(), "not one of env, host, process, service"),
        ("{resource: {attributes: [{name: a, value: x, type: int}]}}".to_owned(), "a whole number belongs here"),
    ] {
        let error = theirs(&settings).unwrap_err();
        assert!(error.contains(words), "{settings}: {error}");
    }
    for (settings, words) in [
        ("{signals: [logs]}", "own telemetry needs an `endpoint`"),
        (
            "{endpoint: 'grpc://it'}",
            "begin the URL with http:// or https://",
        ),
        (
            "{endpoint: 'http://it', signals: [profiles]}",
            "write metrics, traces or logs",
        ),
        (
            "{endpoint: 'http://it', interval: 10}",
            "telemetry.interval",
        ),
    ] {
        let error = ours(settings).unwrap_err();
        assert!(error.contains(words), "{settings}: {error}");
    }
}
