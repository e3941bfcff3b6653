//! Given a child that ends unasked, does not listen, or says a lot,
//! when the supervisor looks after it,
//! then it is restarted with growing patience, given up as the settings say, ended with all it started, run in an
//! environment without our secrets, and every line it says is kept.

use std::fs;

use super::pid1::DEAF;
use super::proc;
use super::rig::{Rig, agent, wait_for, wait_until};

/// Ends with the code in the file `end` beside its settings, if there is one.
pub(super) const ENDING: &str = r#"#!/bin/sh
if [ -e "$2/end" ]; then read -r code < "$2/end"; echo "ending with $code" >&2; exit "$code"; fi
exec sleep 86400
"#;

pub(super) const ENDING_AGENT: &str = "agents:
  one:
    profile: generic
    executable: '{dir}/ending.sh'
    args: ['{config_dir}', '{dir}']
    proof: {kind: fresh_process, alive_for: 100ms}
    apply: {probation: 100ms}
";

fn ending(restart: &str, rest: &str) -> Rig {
    let rig = Rig::new(&format!("{ENDING_AGENT}    restart: {restart}\n{rest}"));
    rig.program("ending.sh", ENDING);
    rig
}

/// Lets a proven child end with a code from now on.
pub(super) fn end_with(rig: &Rig, code: u8) {
    rig.write("end", &format!("{code}\n"));
    proc::send(rig.child(), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn an_unasked_end_restarts_at_once_then_backs_off_and_says_so() {
    for (code, word) in [(0, "exit code 0"), (7, "exit code 7")] {
        let rig = ending("{initial_delay: 30s, max_delay: 1m}", "");
        let supervisor = rig.start();
        rig.commit("a: 1");
        let first = rig.child();
        end_with(&rig, code);
        let status = wait_for("the back-off", || {
            let status = rig.agent_status("one")?;
            (status["status"] == "backing off").then_some(status)
        });
        // Killed, started at once, ended by itself.
        assert_eq!(status["crashes"], 2, "{status}");
        assert_eq!(status["last_exit"], word, "{status}");
        assert_eq!(status["healthy"], false, "{status}");
        assert_eq!(status["child"], serde_json::Value::Null, "{status}");
        assert_eq!(rig.cli(&["healthcheck"]).code, Some(1));
        assert!(!proc::is_alive(first));
        // An order does not wait for the back-off.
        fs::remove_file(rig.path().join("end")).unwrap();
        assert_eq!(rig.cli(&["restart"]).code, Some(0));
        wait_until("a child", || {
            rig.agent_status("one")
                .is_some_and(|it| it["status"] == "running")
        });
        assert_eq!(supervisor.stop().code(), Some(0));
    }
}

#[test]
fn what_it_said_last_is_in_the_status_and_in_the_table() {
    let rig = ending("{initial_delay: 30s, max_delay: 1m}", "");
    let supervisor = rig.start();
    rig.commit("a: 1");
    end_with(&rig, 7);
    let said = wait_for("the crash tail", || {
        let status = rig.agent_status("one")?;
        let said = status["last_error"].as_str()?.to_owned();
        said.contains("ending with 7").then_some(said)
    });
    assert!(said.contains("exit code 7"), "{said}");
    let table = rig.cli(&["status"]).out;
    assert!(table.contains("backing off (unhealthy)"), "{table}");
    assert!(table.contains("ending with 7"), "{table}");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn given_up_it_holds_until_somebody_orders_a_restart() {
    let rig = ending(
        "{initial_delay: 10ms, max_delay: 20ms, give_up_after: 3}",
        "",
    );
    let mut supervisor = rig.start();
    rig.commit("a: 1");
    end_with(&rig, 7);
    let status = wait_for("giving up", || {
        let status = rig.agent_status("one")?;
        (status["status"] == "given up").then_some(status)
    });
    assert_eq!(status["healthy"], false, "{status}");
    let error = status["last_error"].as_str().unwrap();
    assert!(error.contains("ending with 7"), "{error}");
    assert_eq!(supervisor.ended(), None);
    assert_eq!(rig.children(), Vec::<u32>::new());
    fs::remove_file(rig.path().join("end")).unwrap();
    assert_eq!(rig.cli(&["restart"]).code, Some(0));
    wait_until("a child", || {
        rig.agent_status("one")
            .is_some_and(|it| it["status"] == "running")
    });
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn given_up_it_exits_with_8_where_the_settings_say_so() {
    let rig = ending(
        "{initial_delay: 10ms, max_delay: 20ms, give_up_after: 3}",
        "on_give_up: exit\n",
    );
    let mut supervisor = rig.start();
    rig.commit("a: 1");
    end_with(&rig, 7);
    assert_eq!(supervisor.end().code(), Some(8), "{}", supervisor.log());
    let log = supervisor.log();
    assert!(log.contains("ending with 7"), "{log}");
    let line = log.lines().last().unwrap();
    let wanted = "adjutant: agent one was given up: 3 failed starts in a row: ";
    assert!(line.starts_with(wanted), "{log}");
    assert!(line.ends_with("on_give_up says to exit then"), "{log}");
    assert_eq!(rig.children(), Vec::<u32>::new());
}

#[test]
fn a_restart_ends_a_deaf_child_with_all_it_started() {
    let rig = Rig::new(
        "agents:\n  one:\n    profile: generic\n    executable: '{dir}/deaf.sh'\n    config_files: ['{dir}/local.yaml']\n",
    );
    rig.program("deaf.sh", DEAF);
    rig.write("local.yaml", "mode: local\n");
    rig.set_all(
        "storage: {directory: '{dir}/state'}\nhttp: {listen: []}\nstop: {grace: 300ms, budget: 5s}\nagents:\n  one:\n    profile: generic\n    executable: '{dir}/deaf.sh'\n    config_files: ['{dir}/local.yaml']\n",
    );
    let supervisor = rig.start();
    wait_until("child and grandchild", || {
        proc::marked(rig.path()).len() >= 2
    });
    let before: Vec<u32> = proc::marked(rig.path()).iter().map(|it| it.pid).collect();
    let first = rig.child();
    assert_eq!(rig.cli(&["restart"]).code, Some(0));
    wait_until(
        "another child",
        || matches!(rig.children()[..], [only] if only != first),
    );
    for pid in before {
        assert!(!proc::is_alive(pid), "{pid} outlived the restart");
    }
    assert_eq!(supervisor.stop().code(), Some(9));
    assert_eq!(proc::marked(rig.path()), Vec::new());
}

#[test]
fn a_childs_environment_is_built_and_holds_none_of_our_secrets() {
    let rig = Rig::new(&agent(
        "one",
        "    env: {COLOUR: green}\n    policy: {environment: [NODE_NAME]}\n",
    ));
    let mut command = rig.command(&["run"]);
    command
        .env("SECRET_TOKEN", "hunter2")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .env("LD_PRELOAD", "")
        .env("NODE_NAME", "node-7")
        .env("TZ", "UTC");
    let supervisor = rig.launch(&mut command);
    supervisor.answers(&rig);
    rig.commit("mode: good");
    let environment = proc::environment(rig.child());
    let names: Vec<_> = environment.keys().map(String::as_str).collect();
    for absent in ["SECRET_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD"] {
        assert!(!names.contains(&absent), "{names:?}");
    }
    assert!(environment.values().all(|value| value != "hunter2"));
    assert_eq!(environment["COLOUR"], "green");
    assert_eq!(environment["NODE_NAME"], "node-7");
    assert_eq!(environment["TZ"], "UTC");
    let marker = rig.agent("one").canonicalize().unwrap();
    assert_eq!(environment["ADJUTANT_CHILD"], marker.to_str().unwrap());
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_child_gets_no_descriptors_of_ours_and_no_blocked_signals() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let pid = rig.child();
    let targets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            let link = fs::read_link(entry.unwrap().path()).unwrap();
            link.to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(targets.len(), 3, "{targets:?}");
    assert!(targets.contains(&"/dev/null".to_owned()), "{targets:?}");
    for line in ["SigBlk", "SigIgn"] {
        let mask = proc::status_line(pid, line).unwrap();
        let mask = u64::from_str_radix(&mask, 16).unwrap();
        // Above 31 are real-time signals; the first two belong to the C library and cannot be changed.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}: {mask:x}");
    }
    assert_eq!(supervisor.stop().code(), Some(0));
}

/// Says one line of 200 KiB, a JSON line, and then as many lines as fill several files.
const TALKER: &str = r#"#!/bin/sh
head -c 204800 /dev/zero | tr '\0' 'a'; echo
echo '{"level":"info","msg":"a \"quoted\" word","n":1.0}'
i=0; while [ $i -lt 3000 ]; do echo "line $i of many, with some words to make it longer, and a few more of them"; i=$((i+1)); done
echo "the end"
exec sleep 86400
"#;

/// What a log file's line holds after what the supervisor may put before it.
fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn talker(rotation: &str) -> Rig {
    let rig = Rig::new(&format!(
        "agents:\n  one:\n    profile: generic\n    executable: '{{dir}}/talker.sh'\n    config_files: ['{{dir}}/local.yaml']\n    log_rotation: {rotation}\n"
    ));
    rig.write("local.yaml", "mode: local\n");
    rig.program("talker.sh", TALKER);
    rig
}

fn log_files(rig: &Rig) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(rig.agent("one").join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::metadata(path).is_ok_and(|data| data.is_file()))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                text,
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_line_is_kept_whatever_its_length() {
    let rig = talker("{size: 16MiB, files: 1}");
    let supervisor = rig.start();
    wait_until("the last line", || {
        rig.cli(&["logs", "-n", "1"])
            .out
            .trim_end()
            .ends_with("the end")
    });
    let files = log_files(&rig);
    assert_eq!(
        files.len(),
        1,
        "{:?}",
        files.iter().map(|it| &it.0).collect::<Vec<_>>()
    );
    let text = &files[0].1;
    let found = lines(text);
    let long = "a".repeat(204_800);
    assert!(
        found.contains(&long.as_str()),
        "the long line is not intact"
    );
    assert!(found.contains(&r#"{"level":"info","msg":"a \"quoted\" word","n":1.0}"#));
    assert_eq!(found.len(), 3003);
    // The supervisor needs no running process to show it.
    assert_eq!(supervisor.stop().code(), Some(0));
    let done = rig.cli(&["logs", "-n", "3003"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains(&long));
    assert_eq!(rig.cli(&["logs", "-n", "2"]).out.lines().count(), 2);
}

#[test]
fn logs_are_rotated_by_size_and_only_so_many_are_kept() {
    let rig = talker("{size: 64KiB, files: 2}");
    let supervisor = rig.start();
    wait_until("the last line", || {
        rig.cli(&["logs", "-n", "1"])
            .out
            .trim_end()
            .ends_with("the end")
    });
    let files = log_files(&rig);
    let names: Vec<_> = files.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let newest: usize = files.iter().map(|it| it.1.len()).sum();
    // Three files, each at most its size and one line above it.
    assert!(newest <= 3 * (64 * 1024 + 100), "{newest}");
    for number in 2000..3000 {
        let line = format!("line {number} of many");
        assert!(
            files.iter().any(|it| it.1.contains(&line)),
            "{line} is in none of {names:?}"
        );
    }
    assert_eq!(supervisor.stop().code(), Some(0));
}
