//! What a config is read to say, by the profiles as they are built in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::shape::{Change, Counters, Shape};
use crate::config::{Agent, Environment, Flow, Overrides, load};
use crate::engine::message::{LayerKind, RevisionFile};

#[derive(Debug)]
struct Here;

impl Environment for Here {
    fn var(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn own_executable(&self) -> PathBuf {
        "/opt/adjutant".into()
    }
    fn is_root(&self) -> bool {
        true
    }
    fn is_executable(&self, _: &std::path::Path) -> bool {
        true
    }
    fn directory(&self, _: &std::path::Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

pub(super) fn agent(profile: &str, more: &str) -> Agent {
    let text = format!("agents: {{a: {{profile: {profile}, executable: /x{more}}}}}\n");
    let config = load("s.yaml", &text, &Here, &Overrides::default());
    config
        .unwrap_or_else(|errors| panic!("{errors}"))
        .agents
        .remove(0)
}

pub(super) fn otelcol() -> Flow {
    agent("otelcol", "").profile.flow.unwrap()
}

fn of(profile: &str, files: &[(&str, &str)]) -> Shape {
    let agent = agent(profile, "");
    let file = |(path, text): &(&str, &str)| RevisionFile {
        path: (*path).to_owned(),
        layer: LayerKind::Remote,
        source: (*path).to_owned(),
        content_type: String::new(),
        bytes: text.as_bytes().to_vec(),
    };
    let files: Vec<RevisionFile> = files.iter().map(file).collect();
    let flow = agent.profile.flow.clone().unwrap();
    Shape::of(&agent, &files, &flow)
}

const BASE: &str = "receivers: {otlp: {protocols: {grpc: {}}}, otlp/2: {}, unused: {}}
exporters: {otlp_http: {endpoint: 'http://a'}}
extensions: {health: {}}
service:
  pipelines:
    logs: {receivers: [otlp], exporters: [otlp_http]}
    logs/more: {receivers: [otlp/2], exporters: [otlp_http]}
    traces: {receivers: [otlp], exporters: [otlp_http]}
";

#[test]
fn a_part_is_the_same_changed_gone_or_unknown() {
    let old = of("otelcol", &[("a.yaml", BASE)]);
    let now = |text: &str| of("otelcol", &[("a.yaml", text)]);
    let cases: BTreeMap<&str, (String, [Change; 3])> = BTreeMap::from([
        (
            "another comment",
            (
                format!("# words\n{BASE}"),
                [Change::Same, Change::Same, Change::Unknown],
            ),
        ),
        (
            "another endpoint",
            (
                BASE.replace("http://a", "http://b"),
                [Change::Same, Change::Changed, Change::Unknown],
            ),
        ),
        (
            "a shared section",
            (
                BASE.replace("health: {}", "oidc: {}"),
                [Change::Changed, Change::Changed, Change::Unknown],
            ),
        ),
        (
            "out of the pipeline",
            (
                BASE.replace("logs: {receivers: [otlp]", "logs: {receivers: [unused]"),
                [Change::Gone, Change::Same, Change::Unknown],
            ),
        ),
    ]);
    for (name, (text, wanted)) in cases {
        let new = now(&text);
        let found = [
            new.change(&old, 0, 0, "otlp"),
            new.change(&old, 0, 1, "otlp_http"),
            new.change(&old, 0, 0, "nobody"),
        ];
        assert_eq!(found, wanted, "{name}");
    }
    let new = now(&BASE.replace(
        "logs/more: {receivers: [otlp/2]",
        "logs/x: {receivers: [otlp/2, unused]",
    ));
    assert_eq!(new.change(&old, 0, 0, "otlp/2"), Change::Same);
    assert_eq!(
        new.came(&old, 0, 0).into_iter().collect::<Vec<_>>(),
        ["unused"]
    );
    assert_eq!(new.change(&old, 2, 0, "otlp"), Change::Same, "traces");
    let logs = now(&BASE.replace("traces: {receivers: [otlp]", "traces: {receivers: [otlp/2]"));
    assert_eq!(logs.change(&old, 2, 0, "otlp"), Change::Gone, "for traces");
    assert_eq!(logs.change(&old, 0, 0, "otlp"), Change::Same, "for logs");
}

#[test]
fn layers_count_together_and_the_last_pipeline_wins() {
    let over = "service: {pipelines: {logs: {receivers: [unused], exporters: [otlp_http]}}}\n";
    let old = of("otelcol", &[("a.yaml", BASE)]);
    let new = of("otelcol", &[("a.yaml", BASE), ("b.yaml", over)]);
    assert_eq!(new.change(&old, 0, 0, "otlp"), Change::Gone);
    let more = "exporters: {otlp_http: {headers: {a: b}}}\n";
    let new = of("otelcol", &[("a.yaml", BASE), ("b.yaml", more)]);
    assert_eq!(new.change(&old, 0, 1, "otlp_http"), Change::Changed);
}

#[test]
fn counters_are_asked_for_where_the_config_serves_them() {
    let metrics = |text: &str| {
        of(
            "otelcol",
            &[
                ("a.yaml", BASE),
                (
                    "b.yaml",
                    &format!("service: {{telemetry: {{metrics: {text}}}}}\n"),
                ),
            ],
        )
        .counters
    };
    let reader = |at: &str| {
        format!("{{readers: [{{periodic: {{}}}}, {{pull: {{exporter: {{prometheus: {at}}}}}}}]}}")
    };
    assert_eq!(of("otelcol", &[("a.yaml", BASE)]).counters, Counters::Usual);
    assert_eq!(
        metrics(&reader("{host: 0.0.0.0, port: 9999}")),
        Counters::At("127.0.0.1:9999".to_owned())
    );
    assert_eq!(
        metrics(&reader("{port: 9999}")),
        Counters::At("localhost:9999".to_owned())
    );
    for (text, words) in [
        (
            "{level: none}".to_owned(),
            "service.telemetry.metrics.level is none",
        ),
        (
            "{readers: [{periodic: {}}]}".to_owned(),
            "no entry of service.telemetry.metrics.readers has",
        ),
        (reader("{host: '${env:IP}', port: 1}"), "is not a plain one"),
        (reader("{port: '${env:P}'}"), "is not a plain number"),
    ] {
        match metrics(&text) {
            Counters::Off(why) => assert!(why.contains(words), "{why}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_list_of_plugins_is_compared_as_a_whole() {
    let text =
        "pipeline:\n  inputs: [{name: tail, path: /a}]\n  outputs: [{name: http, host: a}]\n";
    let old = of("fluent-bit", &[("fluent-bit.yaml", text)]);
    let new = of(
        "fluent-bit",
        &[("fluent-bit.yaml", &text.replace("host: a", "host: b"))],
    );
    assert_eq!(new.change(&old, 0, 0, "tail.0"), Change::Same);
    assert_eq!(new.change(&old, 0, 1, "http.0"), Change::Changed);
}
