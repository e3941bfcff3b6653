//! Given what is known of Vector (a check that talks to sinks, globals that no reload takes up, an API that was
//! GraphQL),
//! when configs are applied under its profile,
//! then a sink that is away makes no config wrong, a changed global gets a new process, and health is asked where every
//! version answers.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use super::super::rig::{Rig, wait_for, wait_until};

struct Bench {
    rig: Rig,
    port: u16,
    _supervisor: super::Supervisor,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let rig = Rig::new(&format!(
            "agents:\n  one:\n    profile: vector\n    executable: '{{dir}}/vector.py'\n    \
             health: {{kind: http, url: 'http://127.0.0.1:{port}/health', interval: 100ms}}\n    \
             apply: {{probation: 500ms, proof_timeout: 10s}}\n"
        ));
        rig.program("vector.py", include_str!("vector.py"));
        let supervisor = rig.start();
        Self {
            rig,
            port,
            _supervisor: supervisor,
        }
    }

    fn config(&self, name: &str) -> Value {
        let api = json!({"enabled": true, "address": format!("127.0.0.1:{}", self.port)});
        json!({"name": name, "api": api})
    }

    /// Applies what must hold, and answers how the child was told.
    fn commits(&self, config: &Value) -> String {
        let path = self.rig.write("bundle/vector.yaml", &config.to_string());
        let bundle = path.parent().unwrap().to_str().unwrap().to_owned();
        let done = self.rig.cli(&["apply", &bundle, "--wait"]);
        assert_eq!(done.code, Some(0), "{config}: {}", done.err);
        let status = self.rig.agent_status("one").unwrap();
        let history = status["history"].as_array().unwrap();
        let told = history.iter().find(|it| it["step"] == "signalled").unwrap();
        told["reason"].as_str().unwrap().to_owned()
    }

    fn pid(&self) -> u64 {
        wait_for("a child", || {
            self.rig.agent_status("one")?["child"]["pid"].as_u64()
        })
    }
}

#[test]
fn s0_t17_a_sink_that_is_away_makes_no_config_wrong() {
    let bench = Bench::new();
    let mut config = bench.config("a");
    // Nobody listens there; with its health checks the check would refuse the config.
    config["sinks"] = json!({"out": {"address": "127.0.0.1:1"}});
    bench.commits(&config);
    let checked = std::process::Command::new(bench.rig.path().join("vector.py"))
        .arg("validate")
        .arg(bench.rig.agent("one").join("current/vector.yaml"))
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(1), "the stand-in has the trap");
}

#[test]
fn s0_t18_a_changed_global_gets_a_new_process_and_everything_else_a_hup() {
    let bench = Bench::new();
    bench.commits(&bench.config("a"));
    let first = bench.pid();
    assert_eq!(bench.commits(&bench.config("b")), "hup");
    assert_eq!(bench.pid(), first);
    let mut config = bench.config("c");
    config["timezone"] = json!("UTC");
    let how = bench.commits(&config);
    assert_eq!(how, "restart: section timezone changes");
    assert_ne!(bench.pid(), first);
    let running = bench.rig.running("one").unwrap();
    assert!(running.starts_with("c "), "{running}");
}

#[test]
fn s0_t12_health_is_a_plain_page_and_nothing_asks_for_graphql() {
    let bench = Bench::new();
    bench.commits(&bench.config("a"));
    wait_until("healthy", || {
        bench.rig.agent_status("one").unwrap()["healthy"] == true
    });
    let calls = fs::read_to_string(bench.rig.agent("one").join("work/calls")).unwrap();
    assert!(calls.lines().all(|line| line == "/health"), "{calls}");
}
