//! Given a program that reloads on HUP and misbehaves as real ones were reported to,
//! when a config is applied,
//! then what is committed is what runs, whatever the program answered, and what does not run is rolled back.

mod flow;
mod programs;
mod vector;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::proc;
use super::rig::{Done, Rig, Supervisor, wait_for, wait_until};

const STAND_IN: &str = include_str!("stand_in.py");

/// Its own counter, as Fluent Bit has one.
const COUNTER: &str =
    "{kind: http, url: 'http://127.0.0.1:PORT/reload', counter: hot_reload_count}";
/// A line of its log, as Vector and Telegraf write one.
const OUTPUT: &str =
    "{kind: output, reloaded: [has reloaded.], failed: [was not successful], alive_for: 300ms}";
/// The revision that it says it runs.
const REVISION: &str = "{kind: http, url: 'http://127.0.0.1:PORT/config', expect_revision: true}";

struct Bench {
    rig: Rig,
    supervisor: Supervisor,
}

/// How the last rollout told the child, and how it ended.
#[derive(Debug)]
struct Told {
    done: Done,
    how: String,
}

impl Bench {
    /// The stand-in under a profile of its own, running `first`. `patience` is the time a proof may take.
    fn new(proof: &str, patience: &str, first: &Value) -> Self {
        Self::with(proof, patience, "", first)
    }

    /// Under further settings.
    fn limited(more: &str) -> Self {
        Self::with(COUNTER, "20s", more, &named("a"))
    }

    fn with(proof: &str, patience: &str, more: &str, first: &Value) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let proof = proof.replace("PORT", &port.to_string());
        let rig = Rig::new(&format!(
            "profiles: '{{dir}}/profiles'
agents:
  one:
    profile: reloader
    executable: '{{dir}}/stand_in.py'
    restart: {{initial_delay: 100ms}}
    apply: {{probation: 500ms, proof_timeout: {patience}}}
{more}"
        ));
        rig.program("stand_in.py", STAND_IN);
        let profile = rig.write(
            "profiles/reloader.yaml",
            &format!(
                "args: ['{{config_file}}', '{port}']
validate: ['--check', '{{config_file}}']
main_file: agent.json
hup: true
proof: {proof}
restart_sections: [data_dir, 'sinks.*.buffer']
restart_files: ['.vrl']
"
            ),
        );
        let checked = rig.cli_alone(&["profile", "check", profile.to_str().unwrap()]);
        assert_eq!(checked.code, Some(0), "{}", checked.err);
        let supervisor = rig.start();
        let bench = Self { rig, supervisor };
        let told = bench.apply(first);
        assert_eq!(told.done.code, Some(0), "{}", told.done.err);
        bench
    }

    fn put(&self, config: &Value) -> String {
        let path = self.rig.write("bundle/agent.json", &config.to_string());
        path.parent().unwrap().to_str().unwrap().to_owned()
    }

    fn apply(&self, config: &Value) -> Told {
        let bundle = self.put(config);
        let done = self.rig.cli(&["apply", &bundle, "--wait"]);
        let how = self.last("signalled");
        Told { done, how }
    }

    /// The detail of the last record of a step.
    fn last(&self, step: &str) -> String {
        let status = self.rig.agent_status("one").unwrap();
        let history = status["history"].as_array().unwrap();
        let record = history.iter().find(|record| record["step"] == step);
        record.map_or_else(String::new, |record| {
            record["reason"].as_str().unwrap_or_default().to_owned()
        })
    }

    /// Name, process and reloads of what runs.
    fn running(&self) -> (String, u32, u32) {
        let text = wait_for("the child to say what it runs", || self.rig.running("one"));
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap().to_owned();
        (next(), next().parse().unwrap(), next().parse().unwrap())
    }

    fn commits(&self, config: &Value) -> String {
        let told = self.apply(config);
        assert_eq!(told.done.code, Some(0), "{config}: {}", told.done.err);
        wait_until("the child to run it", || {
            self.running().0 == config["name"].as_str().unwrap()
        });
        told.how
    }

    /// Applies what must not hold; answers the reason. What ran before runs again.
    fn refuses(&self, config: &Value) -> String {
        let before = self.running().0;
        let told = self.apply(config);
        assert_eq!(
            told.done.code,
            Some(10),
            "{config}: {}{}",
            told.done.out,
            told.done.err
        );
        wait_until("what ran before runs again", || {
            let status = self.rig.agent_status("one").unwrap();
            let (name, pid, _) = self.running();
            name == before && status["child"]["pid"] == pid && status["healthy"] == true
        });
        told.done.err
    }
}

fn named(name: &str) -> Value {
    json!({ "name": name })
}

fn with(name: &str, key: &str, value: &str) -> Value {
    json!({ "name": name, key: value })
}

#[test]
fn a_hup_is_proven_by_each_kind_of_proof_and_keeps_the_process() {
    for proof in [COUNTER, OUTPUT, REVISION] {
        let bench = Bench::new(proof, "20s", &named("a"));
        let (_, pid, _) = bench.running();
        assert_eq!(bench.commits(&named("b")), "hup", "{proof}");
        assert_eq!(bench.commits(&named("c")), "hup", "{proof}");
        assert_eq!(bench.running(), ("c".to_owned(), pid, 2), "{proof}");
    }
}

#[test]
fn a_hup_with_an_invalid_config_would_kill_so_the_validator_is_asked_first() {
    let bench = Bench::new(COUNTER, "20s", &named("a"));
    let before = bench.running();
    let why = bench.refuses(&json!({"name": "b", "invalid": true, "effect": "kill"}));
    assert!(why.contains("unknown sink"), "{why}");
    assert_eq!(bench.running(), before, "the child was not told");
    let why = bench.refuses(&with("c", "effect", "kill"));
    assert!(why.contains("pipeline is broken"), "{why}");
    assert_ne!(
        bench.running().1,
        before.1,
        "it died of the HUP and runs the old config again"
    );
}

#[test]
fn a_hup_that_ends_the_process_is_not_blamed_on_the_config_and_given_up_after_two() {
    let bench = Bench::new(COUNTER, "20s", &with("a", "habit", "exit"));
    let mut pids = vec![bench.running().1];
    for name in ["b", "c"] {
        assert_eq!(bench.commits(&with(name, "habit", "exit")), "hup");
        pids.push(bench.running().1);
    }
    let how = bench.commits(&with("d", "habit", "exit"));
    assert!(
        how.starts_with("restart: HUP came to nothing before"),
        "{how}"
    );
    pids.push(bench.running().1);
    pids.dedup();
    assert_eq!(pids.len(), 4, "a new process each time");
    let metrics = bench.rig.raw("/metrics");
    let failed = metrics
        .lines()
        .find(|line| line.contains("failed_reloads") && line.ends_with(" 2"));
    assert!(failed.is_some(), "{metrics}");
}

#[test]
fn a_hup_that_is_dropped_is_noticed_and_a_new_process_runs_the_config() {
    for proof in [COUNTER, OUTPUT] {
        let bench = Bench::new(proof, "4s", &with("a", "habit", "drop"));
        let (_, pid, _) = bench.running();
        assert_eq!(bench.commits(&named("b")), "hup");
        let (_, new, reloads) = bench.running();
        assert_ne!(new, pid, "{proof}");
        assert_eq!(reloads, 0, "{proof}");
    }
}

#[test]
fn an_offer_during_a_reload_is_not_taken_for_the_reload_before() {
    for proof in [COUNTER, OUTPUT] {
        let bench = Bench::new(proof, "20s", &with("a", "habit", "slow"));
        let first = bench.put(&named("b"));
        assert_eq!(bench.rig.cli(&["apply", &first]).code, Some(0));
        wait_until("the child was told about the first", || {
            bench.last("signalled") == "hup"
        });
        // The reload takes a second and a half, and a HUP meanwhile is dropped without a word.
        let how = bench.commits(&named("c"));
        assert!(
            how == "hup" || how == "restart: the reload before has not shown its end",
            "{proof}: {how}"
        );
        assert_eq!(bench.running().0, "c", "{proof}");
    }
}

#[test]
fn a_reload_that_hangs_is_ended_after_its_time() {
    let bench = Bench::new(COUNTER, "4s", &named("a"));
    let (_, pid, _) = bench.running();
    assert_eq!(bench.commits(&with("b", "effect", "hang")), "hup");
    let (_, new, _) = bench.running();
    assert_ne!(new, pid);
    wait_until("the process that hung is gone", || !proc::is_alive(pid));
}

#[test]
fn a_reload_that_is_answered_with_200_and_runs_the_old_config_is_no_proof() {
    for proof in [REVISION, COUNTER] {
        let bench = Bench::new(proof, "4s", &named("a"));
        let why = bench.refuses(&with("b", "effect", "lie"));
        assert!(
            why.contains("cannot start: pipeline is broken"),
            "{proof}: {why}"
        );
        assert_eq!(bench.running().0, "a", "{proof}");
    }
}

#[test]
fn a_reload_that_says_it_was_refused_is_rolled_back_at_once_by_hup() {
    let bench = Bench::new(OUTPUT, "50s", &named("a"));
    let (_, pid, _) = bench.running();
    let why = bench.refuses(&with("b", "effect", "refuse"));
    assert!(
        why.contains("Reload was not successful. sink is wrong"),
        "{why}"
    );
    let (name, now, _) = bench.running();
    assert_eq!(
        (name.as_str(), now),
        ("a", pid),
        "no data was lost to a restart"
    );
}

#[test]
fn what_a_reload_does_not_take_up_gets_a_new_process() {
    let bench = Bench::new(
        OUTPUT,
        "20s",
        &json!({"name": "a", "sinks": {"x": {"buffer": {"max": 1}, "u": 1}}}),
    );
    let how = bench.commits(&json!({"name": "b", "sinks": {"x": {"buffer": {"max": 1}, "u": 2}}}));
    assert_eq!(how, "hup");
    let how = bench.commits(&json!({"name": "c", "sinks": {"x": {"buffer": {"max": 2}, "u": 2}}}));
    assert_eq!(how, "restart: section sinks.*.buffer changes");
    let how = bench
        .commits(&json!({"name": "d", "data_dir": "/x", "sinks": {"x": {"buffer": {"max": 2}}}}));
    assert_eq!(how, "restart: section data_dir changes");
    // The config is the same, a file that it names is not.
    bench.rig.write("bundle/parse.vrl", ".a = 1\n");
    let how = bench
        .commits(&json!({"name": "d", "data_dir": "/x", "sinks": {"x": {"buffer": {"max": 2}}}}));
    assert_eq!(
        how,
        "restart: file parse.vrl changes, which a reload does not read"
    );
}

#[test]
fn a_child_that_comes_up_without_its_config_after_a_hup_is_rolled_back() {
    let bench = Bench::new(REVISION, "4s", &named("a"));
    let why = bench.refuses(&with("b", "effect", "bare"));
    assert!(why.contains("did not prove the config"), "{why}");
}

#[test]
fn a_child_that_crashes_and_comes_up_without_its_config_is_not_healthy() {
    let bench = Bench::new(REVISION, "20s", &named("a"));
    let (_, pid, _) = bench.running();
    let bare = bench.rig.agent("one").join("work/come-up-bare");
    fs::write(&bare, "").unwrap();
    proc::send(pid, Signal::SIGKILL);
    let why = wait_for("the agent to be unhealthy for it", || {
        let status = bench.rig.agent_status("one")?;
        let why = status["last_error"].as_str().unwrap_or_default().to_owned();
        why.contains("does not name the new revision")
            .then_some(why)
    });
    assert!(
        why.starts_with("it has not shown that it runs its config: "),
        "{why}"
    );
    assert_eq!(bench.running().0, "nothing");
    fs::remove_file(&bare).unwrap();
    proc::send(bench.running().1, Signal::SIGKILL);
    wait_until("healthy with its config", || {
        bench.running().0 == "a" && bench.rig.agent_status("one").unwrap()["healthy"] == true
    });
}

#[test]
fn a_child_near_its_limit_of_descriptors_gets_a_new_process_instead_of_a_hup() {
    let bench = Bench::limited("    rlimits: {nofile: 64}\n");
    let (_, pid, _) = bench.running();
    assert_eq!(bench.commits(&json!({"name": "b", "open": 52})), "hup");
    assert_eq!(bench.running().1, pid);
    // Now it has more than four fifths of them.
    bench.commits(&named("c"));
    let (name, new, reloads) = bench.running();
    assert_eq!((name.as_str(), reloads), ("c", 0), "by a new process");
    assert_ne!(new, pid);
    bench.supervisor.logs("child restarted instead of reloaded");
    let log = bench.supervisor.log();
    assert!(
        log.contains("of its 64 descriptors are open, a reload could run out of them"),
        "{log}"
    );
}
