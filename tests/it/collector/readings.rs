//! Given what we promise beyond opampsupervisor,
//! when the same thing happens under a real one and under ours, or under ours with the setting that gives its reading,
//! then each answers as docs/opampsupervisor.md says.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::bench::{AgentForm, Bench, Reload, alive, own_form};
use super::on_both_servers;
use super::succession::{Rival, settings};
use crate::fleet::Kind;
use crate::peers::{eventually, now, otelcol};

on_both_servers!(after_a_rollback_the_server_reads_what_the_settings_say);
on_both_servers!(missing_file_of_ours_refuses_the_offer);

/// Kills a process that is not ours.
fn kill(pid: u64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn environment(pid: u64) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split('\0').map(str::to_owned).collect()
}

/// More than one log file of ours holds.
const FLOOD: usize = 18 * 1024 * 1024;

/// A config that prints what it reads.
fn printing(bench: &Bench) -> String {
    let config = bench.pipeline("out.json");
    config
        .replace(
            "exporters:\n",
            "exporters:\n  debug: {verbosity: detailed}\n",
        )
        .replace("exporters: [file]", "exporters: [file, debug]")
}

/// Has the Collector print [`FLOOD`] bytes and a last line; waits until that has come out.
fn flood(bench: &Bench) {
    let line = format!("{}\n", "x".repeat(16 * 1024));
    let mut input = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(bench.path("in.log"))
        .unwrap();
    input
        .write_all(line.repeat(FLOOD / line.len() + 1).as_bytes())
        .unwrap();
    bench.flows("out.json");
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn log_of_theirs_grows_until_a_start_empties_it_and_ours_is_rotated() {
    let flood_bytes = FLOOD as u64;
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let hash = bench.push(&rival.uid, &printing(&bench));
    bench.status(&rival.uid, &hash, "APPLIED");
    flood(&bench);
    let log = bench.path("state/agent.log");
    eventually("one file has all of it", || {
        let size = size(&log);
        (size > flood_bytes)
            .then_some(())
            .ok_or_else(|| size.to_string())
    });
    let before = size(&log);
    let collector = rival.collectors()[0];
    kill(collector);
    eventually("the next start empties it", || {
        let size = size(&log);
        (size < before)
            .then_some(())
            .ok_or_else(|| size.to_string())
    });
    rival.stop(&bench);
    // Only what our own part is given from here on.
    fs::remove_dir_all(bench.path("state")).unwrap();
    fs::remove_file(bench.path("in.log")).unwrap();
    fs::remove_file(bench.path("out.json")).unwrap();

    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &printing(&bench));
    bench.status(&uid, &hash, "APPLIED");
    flood(&bench);
    let sizes = || -> Vec<u64> {
        let logs = fs::read_dir(bench.path("state/agents/collector/logs")).unwrap();
        let logs = logs.map(|entry| entry.unwrap().path());
        logs.map(|path| size(&path))
            .filter(|size| *size > 0)
            .collect()
    };
    eventually("two files have all of it", || {
        let sizes = sizes();
        let all = sizes.len() == 2 && sizes.iter().sum::<u64>() > flood_bytes;
        all.then_some(()).ok_or_else(|| format!("{sizes:?}"))
    });
    let first = supervisor.healthy();
    supervisor.command(&["restart"]);
    supervisor.until("started again", |status| {
        status["healthy"] == true && supervisor.pid().is_some_and(|pid| pid != first)
    });
    let sizes = sizes();
    assert!(sizes.iter().all(|size| *size <= 16 * 1024 * 1024));
    assert!(
        sizes.iter().sum::<u64>() > flood_bytes,
        "a start empties nothing: {sizes:?}"
    );
    supervisor.stop();
}

#[test]
fn validator_of_theirs_sees_what_runs_as_well_and_ours_the_candidate_alone() {
    let mut bench = Bench::new(Kind::OpampGo);
    // It names a receiver and an exporter that only the config before it defines.
    let leaning = "service:
  telemetry: {metrics: {level: none}}
  pipelines: {logs: {receivers: [filelog], exporters: [file]}}
";
    let settings = settings(false);
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let good = bench.push(&rival.uid, &bench.pipeline("out.json"));
    bench.status(&rival.uid, &good, "APPLIED");
    let before = rival.collectors();
    bench.push(&rival.uid, leaning);
    eventually("it passes and is run", || {
        let after = rival.collectors();
        (after != before)
            .then_some(())
            .ok_or_else(|| format!("{after:?}"))
    });
    drop(rival);
    fs::remove_dir_all(bench.path("state")).unwrap();

    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &good, "APPLIED");
    let before = supervisor.healthy();
    let bad = bench.push(&uid, leaning);
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(words.contains("validator"), "{words}");
    assert!(words.contains("no receiver configuration"), "{words}");
    assert_eq!(
        supervisor.healthy(),
        before,
        "the Collector was not touched"
    );
    bench.flows("out.json");
    supervisor.stop();
}

/// Our own form has both readings.
fn after_a_rollback_the_server_reads_what_the_settings_say(kind: Kind) {
    for (word, theirs) in [("keep_failed", false), ("report_good", true)] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut bench = Bench::new(kind);
        let apply = format!("probation: 1s, report: on_proof, after_rollback: {word}");
        let settings = own_form(Reload::Restart, &apply, "");
        let supervisor = bench.run_text(&settings);
        let uid = bench.connected(&supervisor);
        let good = bench.push(&uid, &bench.pipeline("good.json"));
        bench.status(&uid, &good, "APPLIED");
        supervisor.phase("committed");
        let bad = bench.push(&uid, &super::apply::port_taken(port));
        if theirs {
            eventually("the server reads of both", || {
                let seen = bench.server().statuses(&uid);
                let both = seen.len() > 3 && seen.last().is_some_and(|(word, _)| word == "APPLIED");
                both.then_some(()).ok_or_else(|| format!("{seen:?}"))
            });
            bench.status(&uid, &good, "APPLIED");
            let seen = bench.server().statuses(&uid);
            let failed =
                |(word, about): &(String, String)| word == "FAILED" && bad.starts_with(about);
            assert!(seen.iter().any(failed), "{seen:?}");
        } else {
            bench.status(&uid, &bad, "FAILED");
        }
        supervisor.phase("rolled back");
        bench.flows("good.json");
        bench.healthy(&uid, true);
        let last = bench.server().statuses(&uid).pop().unwrap();
        assert_eq!(last.0, if theirs { "APPLIED" } else { "FAILED" }, "{word}");
        supervisor.stop();
    }
}

#[test]
fn killed_collector_is_started_after_five_seconds_by_theirs_and_at_once_by_ours() {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let good = bench.push(&rival.uid, &bench.pipeline("out.json"));
    bench.status(&rival.uid, &good, "APPLIED");
    let first = rival.collectors();
    kill(first[0]);
    let began = now();
    eventually("another Collector", || {
        let seen = rival.collectors();
        let other = seen.iter().any(|pid| alive(*pid) && !first.contains(pid));
        other.then_some(()).ok_or_else(|| format!("{seen:?}"))
    });
    let theirs = began.elapsed();
    rival.stop(&bench);

    let supervisor = bench.run_text(&settings);
    bench.connected(&supervisor);
    let first = supervisor.healthy();
    kill(first);
    let began = now();
    supervisor.until("another Collector", |_| {
        supervisor.pid().is_some_and(|pid| pid != first)
    });
    let ours = began.elapsed();
    assert!(theirs >= Duration::from_secs(4), "theirs: {theirs:?}");
    assert!(ours < theirs, "ours: {ours:?}, theirs: {theirs:?}");
    supervisor.stop();
}

#[test]
fn killed_supervisor_takes_a_collector_of_theirs_with_it_and_none_of_ours() {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let mut rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let good = bench.push(&rival.uid, &bench.pipeline("out.json"));
    bench.status(&rival.uid, &good, "APPLIED");
    let collectors = rival.collectors();
    assert_eq!(collectors.len(), 1);
    rival.process.kill();
    eventually("its Collector is gone", || {
        let left = collectors.iter().filter(|pid| alive(**pid)).count();
        (left == 0)
            .then_some(())
            .ok_or_else(|| "it runs".to_owned())
    });
    drop(rival);

    let mut supervisor = bench.run_text(&settings);
    bench.connected(&supervisor);
    let child = supervisor.healthy();
    bench.flows("out.json");
    supervisor.kill();
    assert!(alive(child));
    bench.flows("out.json");
    let supervisor = bench.run_text(&settings);
    bench.connected(&supervisor);
    assert_eq!(supervisor.healthy(), child, "the next life goes on with it");
    supervisor.stop();
}

#[test]
fn environment_of_the_supervisor_reaches_a_collector_of_theirs_and_none_of_ours() {
    // Set for every test by who builds it.
    let planted = |pid| {
        let all = environment(pid);
        all.iter()
            .any(|entry| entry.starts_with("CARGO_MANIFEST_DIR="))
    };
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    assert!(planted(rival.collectors()[0]), "no such variable");
    let uid = rival.stop(&bench);

    let supervisor = bench.run_text(&settings);
    bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    assert!(!planted(supervisor.healthy()));
    supervisor.stop();
}

#[test]
fn missing_file_is_left_out_by_both_where_the_settings_are_theirs() {
    let mut bench = Bench::new(Kind::OpampGo);
    let gone = bench.path("gone.yaml");
    let file = bench.file("local.yaml", "processors: {batch/local: {}}\n");
    let files = serde_json::to_string(&[&gone, &file]).unwrap();
    let settings = format!("{}  config_files: {files}\n", settings(false));
    let config = bench.pipeline("out.json");
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let hash = bench.push(&rival.uid, &config);
    bench.status(&rival.uid, &hash, "APPLIED");
    bench.flows("out.json");
    let uid = rival.stop(&bench);
    fs::remove_dir_all(bench.path("state")).unwrap();
    fs::remove_file(bench.path("out.json")).unwrap();
    drop(uid);

    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &config);
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("out.json");
    bench.agent(&uid, "with the file that is there", |agent| {
        agent.effective.contains("batch/local")
    });
    let log = supervisor.log();
    let told = |line: &String| {
        line.contains("local config file left out") && line.contains(gone.to_str().unwrap())
    };
    assert!(log.iter().any(told), "{log:#?}");
    supervisor.stop();
}

fn missing_file_of_ours_refuses_the_offer(kind: Kind) {
    let mut bench = Bench::new(kind);
    let gone = bench.path("gone.yaml");
    let files = format!("    config_files: ['{}']\n", gone.display());
    let settings = own_form(Reload::Restart, "probation: 1s", &files);
    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    let words = bench.status(&uid, &hash, "FAILED");
    assert!(words.contains(gone.to_str().unwrap()), "{words}");
    assert_eq!(supervisor.pid(), None);
    supervisor.stop();
}

#[test]
fn collector_runs_as_the_user_of_the_settings() {
    use crate::robust::rig::{have, lacks_root};
    if !have(lacks_root()) {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let mut bench = Bench::new(Kind::OpampGo);
    // A place where somebody else reads and writes, and a program that everybody may run.
    let place = bench.path("");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let program = bench.path("otelcol");
    fs::copy(otelcol(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = settings(false).replace(
        &format!("executable: {}", otelcol().display()),
        &format!("executable: {}\n  run_as: nobody", program.display()),
    );
    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    for name in ["first.json", "second.json"] {
        let hash = bench.push(&uid, &bench.pipeline(name));
        bench.status(&uid, &hash, "APPLIED");
        bench.flows(name);
        let status = fs::read_to_string(format!("/proc/{}/status", supervisor.healthy())).unwrap();
        let line = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(line("Uid:"), nobody.uid.to_string());
        assert_eq!(line("Gid:"), nobody.gid.to_string());
        assert_eq!(line("NoNewPrivs:"), "1");
    }
    supervisor.stop();

    let form = AgentForm {
        more: "  run_as: nobody-of-this-name\n".to_owned(),
        ..AgentForm::with_remote(Reload::Restart)
    };
    let (code, words) = bench.refused(&form);
    assert_eq!(code, 78, "{words}");
    let wanted = "agent.run_as: there is no user \"nobody-of-this-name\" on this host";
    assert!(words.contains(wanted), "{words}");
}
