//! Pages as programs serve them.

use super::*;
use crate::config::{FlowSignal, built_in};

#[derive(Debug)]
struct NoEnv;

impl crate::config::Environment for NoEnv {
    fn var(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn own_executable(&self) -> std::path::PathBuf {
        "/opt/adjutant".into()
    }
    fn is_root(&self) -> bool {
        true
    }
}

fn flow(name: &str) -> Flow {
    let profile = built_in(&NoEnv).into_iter().find(|it| it.name == name);
    profile.unwrap().flow.unwrap()
}

/// `signal role part value` of each counter.
fn read(flow: &Flow, page: &str) -> Vec<String> {
    let reading = parse(page, flow).unwrap();
    let name = |at: usize| flow.signals[at].name.clone();
    let line = |count: &crate::engine::message::Count| {
        let key = &count.key;
        format!(
            "{} {:?} {} {}",
            name(key.signal),
            key.role,
            key.part,
            count.value
        )
    };
    reading.counts.iter().map(line).collect()
}

#[test]
fn the_collectors_page_is_read_under_all_names_it_has_had() {
    let otelcol = flow("otelcol");
    let page = r#"# HELP otelcol_receiver_accepted_log_records Number of log records
# TYPE otelcol_receiver_accepted_log_records counter
otelcol_receiver_accepted_log_records{receiver="filelog",transport=""} 3
otelcol_receiver_accepted_log_records_total{receiver="otlp",transport="http"} 1
otelcol_receiver_accepted_log_records__records__total{receiver="otlp",transport="grpc"} 1.2e+03
otelcol_receiver_refused_spans{receiver="otlp"} 0
otelcol_exporter_sent_log_records{exporter="a\"b}"} 4 1700000000000
otelcol_exporter_queue_size{data_type="logs",exporter="otlp_http"} 2
otelcol_exporter_queue_size{data_type="traces",exporter="otlp_http"} 7
otelcol_exporter_queue_capacity{data_type="logs",exporter="otlp_http"} 1000
otelcol_process_uptime_seconds_total 3.5
otelcol_exporter_sent_spans NaN
rubbish
otelcol_receiver_accepted_spans{receiver="open
"#;
    let mut wanted = vec![
        "logs Accepted filelog 3",
        "logs Accepted otlp 1201",
        "traces Refused otlp 0",
        "logs Sent a\"b} 4",
        "logs Waiting otlp_http 2",
        "traces Waiting otlp_http 7",
    ];
    let mut found = read(&otelcol, page);
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted);
    let reading = parse(page, &otelcol).unwrap();
    assert_eq!(reading.uptime, Some(Duration::from_millis(3_500)));
}

#[test]
fn fluent_bits_document_is_read_by_plugin() {
    let page = r#"{"input":{"cpu.0":{"records":8,"bytes":2536}},
        "filter":{"grep.0":{"drop_records":1,"add_records":0}},
        "output":{"stdout.0":{"proc_records":5,"proc_bytes":1585,"errors":2,"retries":0,"retries_failed":0}}}"#;
    assert_eq!(
        read(&flow("fluent-bit"), page),
        [
            "records Accepted cpu.0 8",
            "records Failed stdout.0 2",
            "records Sent stdout.0 5",
        ]
    );
    assert_eq!(
        parse("<html>", &flow("fluent-bit")),
        Err("the page is not JSON".to_owned())
    );
}

#[test]
fn vectors_sources_and_sinks_are_told_apart_by_a_label() {
    let page = r#"vector_component_received_events_total{component_id="in",component_kind="source",component_type="file"} 9 1
vector_component_received_events_total{component_id="t",component_kind="transform"} 9 1
vector_component_received_events_total{component_id="out",component_kind="sink"} 9 1
vector_component_sent_events_total{component_id="in",component_kind="source"} 9 1
vector_component_sent_events_total{component_id="out",component_kind="sink"} 8 1
vector_uptime_seconds 12 1
"#;
    assert_eq!(
        read(&flow("vector"), page),
        ["events Accepted in 9", "events Sent out 8"]
    );
}

#[test]
fn a_page_with_ten_thousand_parts_is_refused_not_kept() {
    let flow = Flow {
        signals: vec![FlowSignal {
            name: "x".to_owned(),
            counters: [vec!["n".to_owned()], vec![], vec![], vec![], vec![]],
            pipelines: None,
        }],
        ..flow("otelcol")
    };
    let lines: Vec<String> = (0..10_000)
        .map(|i| format!("n{{receiver=\"r{i}\"}} 1\n"))
        .collect();
    let page = lines.concat();
    let refused = parse(&page, &flow);
    assert_eq!(refused, Err("more than 512 counters".to_owned()));
}

proptest::proptest! {
    #[test]
    fn no_page_panics(page in "[a-z_{}=\",\\\\ 0-9.e+#\n-]{0,200}") {
        drop(parse(&page, &flow("otelcol")));
        drop(parse(&page, &flow("fluent-bit")));
    }
}
