//! Given a program that counts as Fluent Bit does, under its profile, with a committed config and a baseline,
//! when a config is applied under which nothing goes out any more, and it says it is healthy,
//! then it is rolled back by its counters; the same config while the destination was dead before is none of its doing.

use super::super::rig::{Rig, wait_until};
use super::programs::free_port;

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
    wait_until("a baseline of 15 s", || {
        let status = rig.agent_status("one").unwrap();
        status["flow_baseline_seconds"].as_f64().unwrap() >= 15.0
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
