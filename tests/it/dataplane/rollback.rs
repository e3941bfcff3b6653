//! Given an agent that runs a good config,
//! when a config is pushed that does not validate, or validates and then breaks,
//! then it is refused or rolled back without help, reported with the agent's words, and remembered.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::rig::{Rig, eventually, put};
use crate::peers::Place;

const GOOD: &str = "sources: {host: {kind: host_metrics, interval: 1s}}\nuploads: {}\n";

fn phases(apply: &Value) -> Vec<&str> {
    let phases = apply["phases"].as_array().unwrap();
    phases
        .iter()
        .filter_map(|one| one["phase"].as_str())
        .collect()
}

/// What must hold after every rollback: the old revision runs, is well, and the bad content is answered at once.
fn is_back_and_remembers(rig: &Rig, good: &Value, name: &str, bad: &str, verdict: &Value) {
    assert_eq!(verdict["outcome"], "rolled back", "{verdict}");
    assert_eq!(verdict["status"], "FAILED", "{verdict}");
    assert_eq!(verdict["error"], verdict["reason"], "{verdict}");
    eventually("healthy on last good", || {
        let status = rig.status();
        let back = status["current"]["id"] == *good
            && status["last_good"] == *good
            && status["healthy"] == true;
        if back {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let child = rig.child();
    let (reloads, rollbacks) = (rig.count("reloads"), rig.count("rollbacks"));
    let revisions = rig.status()["revisions"].clone();
    let before = rig.agent().unwrap()["applies"].as_array().unwrap().len();
    rig.offer(name, bad);
    let again = eventually("an answer to the same content", || {
        let applies = rig.agent()?["applies"].take();
        if applies.as_array().is_some_and(|all| all.len() > before)
            && !applies[0]["ended"].is_null()
        {
            Ok(applies[0].clone())
        } else {
            Err(applies.to_string())
        }
    });
    assert_eq!(again["outcome"], "failed", "{again}");
    assert_eq!(again["reason"], verdict["error"]);
    assert_eq!(phases(&again), [""; 0], "nothing was tried");
    assert_eq!(rig.child(), child);
    assert_eq!(
        (rig.count("reloads"), rig.count("rollbacks")),
        (reloads, rollbacks)
    );
    assert_eq!(rig.status()["revisions"], revisions);
}

#[test]
fn a_config_that_does_not_validate_touches_nothing() {
    let rig = Rig::own("probation: 1s");
    assert_eq!(rig.push("collect.yaml", GOOD)["outcome"], "committed");
    let (child, current) = (rig.child(), rig.status()["current"].clone());
    let reloads = rig.count("reloads");
    for (bad, words) in [
        ("sources: {host: [\n", "collect.yaml:1:17: unclosed bracket"),
        (
            "sources:\n  host: {kind: host_metrics, intervall: 5s}\n",
            "collect.yaml:2:30: sources.host.intervall: unknown key, did you mean \"interval\"?",
        ),
        (
            "sources: {}\nuploads: {out: {kind: console, from: [nobody]}}\n",
            "no source \"nobody\"",
        ),
        (
            "sources: {run: {kind: exec, command: [/bin/true]}}\n",
            "exec",
        ),
    ] {
        let verdict = rig.push("collect.yaml", bad);
        assert_eq!(verdict["status"], "FAILED", "{verdict}");
        assert_eq!(verdict["outcome"], "failed", "{verdict}");
        let error = verdict["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
        assert!(!phases(&verdict).contains(&"promoting"), "{verdict}");
        let status = rig.status();
        assert_eq!(status["current"], current);
        assert_eq!(status["child"]["pid"], child);
        assert_eq!(rig.count("reloads"), reloads);
        assert_eq!(status["healthy"], true);
    }
}

#[test]
fn a_source_that_cannot_start_never_becomes_healthy_and_is_rolled_back() {
    let rig = Rig::own("probation: 1s, proof_timeout: 2s");
    assert_eq!(rig.push("collect.yaml", GOOD)["outcome"], "committed");
    let good = rig.status()["current"]["id"].clone();
    let bad = "sources: {app: {kind: unix_socket, path: /proc/no.sock}}\nuploads: {out: {kind: console, from: [app]}}\n";
    let verdict = rig.push("collect.yaml", bad);
    let error = verdict["error"].as_str().unwrap();
    assert_eq!(
        error,
        "the child did not become healthy within 2s: source.app: listen on /proc/no.sock: No such file or directory (os error 2)"
    );
    // A server that is slower than the agent sees some of the phases only; what it sees is in this order.
    let seen = phases(&verdict);
    let way = [
        "policy",
        "staging",
        "validating",
        "promoting",
        "reloading",
        "proving",
        "rolling back",
        "rolled back",
    ];
    let mut rest = way.iter();
    assert!(
        seen.iter().all(|one| rest.any(|next| next == one)),
        "{seen:?}"
    );
    assert_eq!(seen.last(), way.last());
    is_back_and_remembers(&rig, &good, "collect.yaml", bad, &verdict);
}

#[test]
fn an_endpoint_that_refuses_us_is_noticed_in_probation_and_rolled_back() {
    let rig = Rig::own("probation: 6s, proof_timeout: 5s");
    assert_eq!(rig.push("collect.yaml", GOOD)["outcome"], "committed");
    let good = rig.status()["current"]["id"].clone();
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = format!(
        "sources: {{host: {{kind: host_metrics, interval: 1s}}}}\nuploads: {{vm: {{kind: victoria_metrics, endpoint: \"http://{}\", from: [host], interval: 2s}}}}\n",
        door.local_addr().unwrap()
    );
    // Ends with the test's process; it owns nothing but the listener.
    std::thread::spawn(move || {
        for stream in door.incoming().flatten() {
            let mut stream = stream;
            let mut request = vec![0; 65536];
            if stream.read(&mut request).is_ok_and(|count| count > 0) {
                let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\nConnection: close\r\n\r\nwrong tenant\n";
                stream.write_all(answer.as_bytes()).ok();
            }
        }
    });
    let verdict = rig.push("collect.yaml", &bad);
    let error = verdict["error"].as_str().unwrap();
    assert!(
        error.ends_with("upload.vm: records are kept: answer 401 Unauthorized: wrong tenant"),
        "{error}"
    );
    is_back_and_remembers(&rig, &good, "collect.yaml", &bad, &verdict);
}

#[test]
fn a_data_plane_that_dies_in_probation_is_rolled_back() {
    let rig = Rig::own("probation: 8s");
    let good = eventually("the built-in default is committed", || {
        let status = rig.status();
        if status["phase"] == "committed" {
            Ok(status["current"]["id"].clone())
        } else {
            Err(status.to_string())
        }
    });
    rig.offer("collect.yaml", GOOD);
    eventually("probation", || {
        let status = rig.status();
        if status["phase"] == "probation" && status["current"]["id"] != good {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    kill(Pid::from_raw(rig.child()), Signal::SIGKILL).unwrap();
    let verdict = rig.verdict("a child that died in probation");
    let error = verdict["error"].as_str().unwrap();
    assert!(
        error.starts_with("in probation the child died with signal 9"),
        "{error}"
    );
    is_back_and_remembers(&rig, &good, "collect.yaml", GOOD, &verdict);
}

/// A config of the own data plane that validates cannot make it exit, so a small program stands in for it here.
const AGENT: &str = r#"#!/bin/sh
mode=$(cat "$ADJUTANT_CONFIG_DIR/mode.conf")
echo "mode is $mode"
case "$mode" in
*start*) echo "cannot open the queue" >&2; exit 3 ;;
*later*) sleep 3; echo "the queue is corrupt" >&2; exit 4 ;;
esac
exec sleep 1000
"#;

const HEALTH: &str = r#"#!/bin/sh
! grep -q never "$(dirname "$0")/state/agents/a/current/mode.conf"
"#;

fn stand_in() -> Rig {
    let dir = Place::new();
    for (name, text) in [("agent.sh", AGENT), ("health.sh", HEALTH)] {
        let path = dir.path().join(name);
        put(&path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let at = dir.path().display();
    let settings = format!(
        "{{profile: generic, executable: {at}/agent.sh, main_file: mode.conf, restart: {{initial_delay: 100ms}},
    proof: {{kind: fresh_process, alive_for: 500ms}},
    health: {{kind: exec, command: [{at}/health.sh], interval: 200ms, timeout: 10s, failures: 2}},
    apply: {{probation: 8s, proof_timeout: 3s}}}}"
    );
    Rig::new(dir, &settings)
}

#[test]
fn an_agent_that_dies_at_start_or_later_or_is_never_well_is_rolled_back() {
    let rig = stand_in();
    let verdict = rig.push("mode.conf", "good\n");
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    let good = rig.status()["current"]["id"].clone();
    for (bad, words) in [
        (
            "dies at start\n",
            &["exit code 3", "cannot open the queue"][..],
        ),
        (
            "dies later, after 3 s\n",
            &["in probation", "exit code 4", "the queue is corrupt"],
        ),
        ("never well\n", &["did not become healthy within 3s"]),
    ] {
        let verdict = rig.push("mode.conf", bad);
        let error = verdict["error"].as_str().unwrap();
        for word in words {
            assert!(error.contains(word), "{bad:?}: {error}");
        }
        is_back_and_remembers(&rig, &good, "mode.conf", bad, &verdict);
    }
}
