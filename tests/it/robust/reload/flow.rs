//! Given a program that counts as Fluent Bit does, under its profile, with a committed config and a baseline,
//! when a config is applied under which nothing goes out any more, and it says it is healthy,
//! then it is rolled back by its counters; the same config while the destination was dead before is none of its doing.
//! Our own data plane says its books by itself, also when nothing in them moves.

use super::super::rig::{Rig, wait_until};
use super::programs::free_port;
use crate::load::Load;

const PROGRAM: &str = include_str!("fluent_bit.py");

fn rig() -> Rig {
    let port = free_port();
    let rig = Rig::new(&format!(
        "agents:
  one:
    profile: fluent-bit
    executable: '{{dir}}/fluent_bit.py'
    env: {{PORT: '{port}'}}
    proof: {{kind: http, url: 'http://127.0.0.1:{port}/api/v2/reload', counter: hot_reload_count}}
    health: {{kind: http, url: 'http://127.0.0.1:{port}/', interval: 500ms}}
    apply:
      probation: 3s
      flow: {{interval: 500ms, min_baseline: 5s, window: 6s, url: 'http://127.0.0.1:{port}/api/v1/metrics'}}
"
    ));
    rig.program("fluent_bit.py", PROGRAM);
    rig
}

fn apply(rig: &Rig, host: &str) -> (Option<i32>, String, String) {
    let text = format!(
        "pipeline:\n  inputs: [{{name: dummy}}]\n  outputs: [{{name: http, host: {host}}}]\n"
    );
    let path = rig.write("bundle/fluent-bit.yaml", &text);
    let done = rig.cli(&["apply", path.parent().unwrap().to_str().unwrap(), "--wait"]);
    let status = rig.agent_status("one").unwrap();
    let last = status["history"][0]["reason"].as_str().unwrap().to_owned();
    (done.code, done.err, last)
}

fn baseline(rig: &Rig) {
    baseline_of(rig, 15.0);
}

fn baseline_of(rig: &Rig, seconds: f64) {
    wait_until(&format!("a baseline of {seconds} s"), || {
        let status = rig.agent_status("one").unwrap();
        status["flow_baseline_seconds"].as_f64().unwrap() >= seconds
    });
}

#[test]
fn an_output_to_nowhere_is_rolled_back_by_the_counters_of_fluent_bit() {
    let rig = rig();
    let _supervisor = rig.start();
    let (code, err, words) = apply(&rig, "here");
    assert_eq!(code, Some(0), "{err}");
    assert!(words.starts_with("flow: no verdict, "), "{words}");
    baseline(&rig);
    let (code, err, words) = apply(&rig, "there");
    assert_eq!(
        (code, words.as_str()),
        (Some(0), "flow: as before"),
        "{err}"
    );
    baseline(&rig);
    let (code, err, words) = apply(&rig, "nowhere");
    assert_eq!(code, Some(10), "{err}");
    assert!(
        words.starts_with("data stopped to flow: records do not go out any more: 0.00 a second"),
        "{words}"
    );
}

/// Applies a config of our own data plane with one source that listens on `port`.
fn collects(rig: &Rig, port: u16) -> (Option<i32>, String) {
    let text = format!(
        "sources: {{app: {{kind: otlp, listen: '127.0.0.1:{port}'}}}}\nuploads: {{out: {{kind: console, from: [app]}}}}\n"
    );
    let path = rig.write("bundle/collect.yaml", &text);
    let done = rig.cli(&["apply", path.parent().unwrap().to_str().unwrap(), "--wait"]);
    let status = rig.agent_status("one").unwrap();
    let last = status["history"][0]["reason"].as_str().unwrap().to_owned();
    (done.code, last)
}

#[test]
fn a_source_on_another_port_is_rolled_back_by_the_books_of_our_data_plane() {
    let rig = Rig::new(
        "agents:
  one:
    profile: adjutant
    apply: {probation: 17s, flow: {interval: 2s, min_baseline: 15s, window: 20s}}
",
    );
    let _supervisor = rig.start();
    let port = free_port();
    let _load = Load::on(port);
    let (code, words) = collects(&rig, port);
    assert_eq!(code, Some(0), "{words}");
    baseline_of(&rig, 40.0);
    // Nothing moves any more, and that is a reading, too.
    let (code, words) = collects(&rig, free_port());
    assert_eq!(code, Some(10), "{words}");
    assert!(
        words.starts_with("data stopped to flow: records do not come in any more: 0.00 a second"),
        "{words}"
    );
}
