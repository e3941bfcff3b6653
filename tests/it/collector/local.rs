//! Given a Collector with local layers under settings of our own form,
//! when a local file changes (edited in place, replaced, a `ConfigMap` swapped), for better or worse, alone or with an
//! offer of the server,
//! then it goes the way of an offer: what is good runs, what is bad is named and never takes anything down, and the
//! server's own offer stays what it was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::bench::{Bench, Reload, Supervisor, own_form};
use super::in_both_modes;
use crate::fleet::Kind;
use crate::peers::eventually;

in_both_modes!(changed_local_file_is_applied_and_a_bad_one_is_refused_by_name);
in_both_modes!(offer_and_local_change_are_merged_and_the_offer_stays_applied);

/// A Collector that runs its local file and what came of that.
struct Local {
    supervisor: Supervisor,
    file: PathBuf,
    bench: Bench,
}

impl Local {
    /// Everything of `local.yaml`, which carries lines to `one.json`, is committed; `apply` are further keys of that.
    fn committed(kind: Kind, reload: Reload, apply: &str) -> Self {
        let mut bench = Bench::new(kind);
        let file = bench.file("local.yaml", &bench.pipeline("one.json"));
        let supervisor = bench.run_text(&settings(reload, &file, apply));
        bench.flows("one.json");
        supervisor.phase("committed");
        Self {
            supervisor,
            file,
            bench,
        }
    }

    /// The same, once changes of the files are told by the kernel.
    fn watched(kind: Kind, reload: Reload, apply: &str) -> Self {
        let local = Self::committed(kind, reload, apply);
        local.supervisor.until("watched by the kernel", |status| {
            status["layers"]["watched_by"] == "inotify"
        });
        local
    }
}

fn settings(reload: Reload, file: &Path, apply: &str) -> String {
    let files = format!("    config_files: [{}]\n", file.display());
    let apply = format!("probation: 1s, proof_timeout: 30s{apply}");
    own_form(reload, &apply, &files)
}

/// Waits until what is on disk was refused; returns why.
fn refused(supervisor: &Supervisor, file: &Path) -> String {
    let status = supervisor.until("a refused local file", |status| {
        status["layers"]["refused"][0] == file.display().to_string()
    });
    status["layers"]["reason"].as_str().unwrap().to_owned()
}

fn changed_local_file_is_applied_and_a_bad_one_is_refused_by_name(kind: Kind, reload: Reload) {
    let Local {
        supervisor,
        file,
        bench,
    } = Local::watched(kind, reload, "");
    let uid = bench.connected(&supervisor);

    // As editors do it: another file in its place.
    let beside = bench.file(".local.yaml.new", &bench.pipeline("two.json"));
    fs::rename(&beside, &file).unwrap();
    bench.flows("two.json");
    let good = supervisor.until("the change committed", |status| {
        status["phase"] == "committed" && status["current"]["id"] == status["last_good"]
    });
    let pid = supervisor.healthy();

    // A mistake: named, and nothing that runs is touched.
    let bad = bench.pipeline("bad.json").replace("start_at", "starts_at");
    bench.file("local.yaml", &bad);
    let words = refused(&supervisor, &file);
    assert!(words.contains("starts_at"), "{words}");
    assert_eq!(supervisor.healthy(), pid, "the same process");
    bench.flows("two.json");
    let status = supervisor.status().unwrap();
    assert_eq!(status["current"]["id"], good["current"]["id"]);
    assert_eq!(
        status["rejected"], 0,
        "the operator's own files are not remembered as bad"
    );
    let agent = bench.agent(&uid, "with the refusal in its health", |agent| {
        agent.health.as_ref().is_some_and(|health| health.healthy)
    });
    assert!(agent.status.is_none_or(|(_, word, _)| word == "UNSET"));
    let told = supervisor.command(&["status"]);
    assert!(told.contains("local config refused ("), "{told}");

    // Gone for a moment is no layer without content.
    fs::remove_file(&file).unwrap();
    bench.file("local.yaml", &bench.pipeline("three.json"));
    bench.flows("three.json");
    supervisor.until("nothing refused", |status| {
        status["phase"] == "committed" && status["layers"]["refused"] == serde_json::json!([])
    });
    let history = supervisor.status().unwrap()["history"].to_string();
    assert!(!history.contains("No such file"), "{history}");
}

fn offer_and_local_change_are_merged_and_the_offer_stays_applied(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let file = bench.file("local.yaml", &bench.pipeline("local.json"));
    let supervisor = bench.run_text(&settings(reload, &file, ""));
    let uid = bench.connected(&supervisor);
    bench.flows("local.json");
    let offered = |name: &str| {
        let path = bench.path(name);
        format!("exporters: {{file: {{path: '{}'}}}}\n", path.display())
    };
    let first = bench.push(&uid, &offered("first.json"));
    bench.status(&uid, &first, "APPLIED");
    bench.flows("first.json");
    let told = bench.server().statuses(&uid).len();

    // The local layer below it changes; the server hears nothing of that, because its offer is what it was.
    let before = supervisor.status().unwrap()["current"]["id"].clone();
    let slower = bench
        .pipeline("local.json")
        .replace("poll_interval: 50ms", "poll_interval: 40ms");
    bench.file("local.yaml", &slower);
    supervisor.until("the local change committed", |status| {
        status["phase"] == "committed"
            && status["current"]["id"] != before
            && status["current"]["id"] == status["last_good"]
    });
    bench.flows("first.json");
    let status = supervisor.status().unwrap();
    assert_eq!(status["remote"]["offer"], first.as_str());
    assert_eq!(status["remote"]["outcome"], "applied");
    assert_eq!(status["current"]["offer"], first.as_str());
    assert_eq!(bench.server().statuses(&uid).len(), told);

    // A local mistake does not stand in the way of the next offer, which is put on top of the copy that was good.
    bench.file("local.yaml", "receivers: [\n");
    refused(&supervisor, &file);
    let second = bench.push(&uid, &offered("second.json"));
    bench.status(&uid, &second, "APPLIED");
    bench.flows("second.json");
    let status = supervisor.status().unwrap();
    assert_eq!(status["layers"]["refused"][0], file.display().to_string());

    // Both at once: in the end both run.
    bench.file("local.yaml", &slower.replace("40ms", "30ms"));
    let third = bench.push(&uid, &offered("third.json"));
    bench.status(&uid, &third, "APPLIED");
    bench.flows("third.json");
    supervisor.until("both", |status| {
        status["phase"] == "committed" && status["layers"]["refused"] == serde_json::json!([])
    });
    let shown = supervisor.command(&["config", "show"]);
    assert!(shown.contains("poll_interval: 30ms"), "{shown}");
    assert!(shown.contains("third.json"), "{shown}");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        slower.replace("40ms", "30ms")
    );
}

#[test]
fn swapped_config_map_is_an_offer() {
    let mut bench = Bench::new(Kind::Dev);
    let map = bench.path("map");
    let version = |name: &str, out: &str| {
        let directory = map.join(name);
        fs::create_dir_all(&directory).unwrap();
        bench.file(&format!("map/{name}/collector.yaml"), &bench.pipeline(out));
    };
    version("..2026_01", "one.json");
    symlink("..2026_01", map.join("..data")).unwrap();
    symlink("..data/collector.yaml", map.join("collector.yaml")).unwrap();
    let swap = |name: &str| {
        symlink(name, map.join("..data_tmp")).unwrap();
        fs::rename(map.join("..data_tmp"), map.join("..data")).unwrap();
    };
    version("..2026_02", "two.json");
    version("..2026_03", "three.json");
    let text = settings(Reload::Restart, &map.join("collector.yaml"), "");
    let supervisor = bench.run_text(&text);
    bench.flows("one.json");
    supervisor.phase("committed");
    swap("..2026_02");
    fs::remove_dir_all(bench.path("map/..2026_01")).unwrap();
    bench.flows("two.json");
    swap("..2026_03");
    bench.flows("three.json");
    supervisor.phase("committed");
}

#[test]
fn local_files_are_left_alone_until_asked_where_the_settings_say_so() {
    let apply = ", watch_local_files: false, drift: \"off\"";
    let Local {
        supervisor, bench, ..
    } = Local::committed(Kind::Dev, Reload::Restart, apply);
    let status = supervisor.status().unwrap();
    assert!(status["layers"]["watched_by"].is_null(), "{status:#}");
    bench.file("local.yaml", &bench.pipeline("two.json"));
    // An order is what it waits for.
    supervisor.command(&["reload"]);
    bench.flows("two.json");
    assert_eq!(supervisor.status().unwrap()["counters"]["local_changes"], 0);
}

/// Somebody edits files of what runs.
#[test]
fn changed_file_of_what_runs_is_said_and_put_back() {
    let Local {
        supervisor, bench, ..
    } = Local::watched(Kind::Dev, Reload::Restart, "");
    let pid = supervisor.healthy();
    let copy = bench.path("state/agents/collector/current/local/0-local.yaml");
    let proven = fs::read_to_string(&copy).unwrap();
    bench.file(
        "state/agents/collector/current/local/0-local.yaml",
        "receivers: {}\n",
    );
    eventually("the proven bytes are back", || {
        match fs::read_to_string(&copy) {
            Ok(text) if text == proven => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    supervisor.until("counted, and over", |status| {
        status["counters"]["drifts"] == 1
            && status["counters"]["drift_restores"] == 1
            && status["layers"]["drift"] == serde_json::json!([])
    });
    assert_eq!(supervisor.healthy(), pid, "it never read them");
    let kept = bench.path("state/agents/collector/drifted/local_0-local.yaml");
    assert_eq!(fs::read_to_string(kept).unwrap(), "receivers: {}\n");
    let events = supervisor.command(&["events"]);
    assert!(events.contains("changed by somebody else"), "{events}");
    // Removed as a whole: made again from what is known.
    fs::remove_dir_all(fs::canonicalize(bench.path("state/agents/collector/current")).unwrap())
        .unwrap();
    eventually("the revision is back", || match fs::read_to_string(&copy) {
        Ok(text) if text == proven => Ok(()),
        other => Err(format!("{other:?}")),
    });
    supervisor.command(&["restart"]);
    supervisor.until("another process", |status| {
        status["healthy"] == true && status["child"]["pid"] != pid
    });
    bench.flows("one.json");
}

#[test]
fn changed_file_of_what_runs_stays_and_is_shown_where_the_settings_say_so() {
    let Local {
        supervisor, bench, ..
    } = Local::watched(Kind::Dev, Reload::Restart, ", drift: report");
    let uid = bench.connected(&supervisor);
    let name = "state/agents/collector/current/local/0-local.yaml";
    let proven = fs::read_to_string(bench.path(name)).unwrap();
    bench.file(name, "receivers: {}\n");
    let status = supervisor.until("drift", |status| {
        status["layers"]["drift"][0]["path"] == "local/0-local.yaml"
    });
    let drift = &status["layers"]["drift"][0];
    assert_eq!(drift["expected"].as_str().unwrap().len(), 64);
    assert_eq!(drift["found"].as_str().unwrap().len(), 64);
    bench.agent(&uid, "with the drift in its health", |agent| {
        agent.health.is_some()
    });
    let shown = supervisor.command(&["config", "diff"]);
    let told = "# local/0-local.yaml of what runs was changed by somebody else: ";
    assert!(shown.contains(told), "{shown}");
    // Back by hand: over.
    bench.file(name, &proven);
    supervisor.until("no drift", |status| {
        status["layers"]["drift"] == serde_json::json!([])
    });
}

/// What runs, as files that `apply` takes again.
#[test]
fn what_runs_is_exported_and_applied_again() {
    let Local {
        supervisor, bench, ..
    } = Local::committed(Kind::Dev, Reload::Restart, "");
    let uid = bench.connected(&supervisor);
    let path = bench.path("offered.json");
    let offer = format!("exporters: {{file: {{path: '{}'}}}}\n", path.display());
    let hash = bench.push(&uid, &offer);
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("offered.json");

    let target = bench.path("exported");
    let name = target.display().to_string();
    supervisor.command(&["config", "export", &name]);
    let mut files: Vec<String> = fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["000-local-local.yaml", "001-remote-config.yaml"]);
    let exported = fs::read_to_string(target.join(&files[1])).unwrap();
    assert_eq!(exported, offer, "byte for byte");
    let effective = |supervisor: &Supervisor| supervisor.status().unwrap()["current"]["id"].clone();
    let before = effective(&supervisor);
    supervisor.command(&["apply", &name, "--wait"]);
    assert_ne!(effective(&supervisor), before);
    bench.flows("offered.json");
    // Going back leaves what was exported an archive, too.
    supervisor.command(&["rollback", "--wait"]);
    assert_eq!(effective(&supervisor), before);
    let archive = supervisor.command(&["config", "export", "-"]);
    assert!(archive.starts_with("000-local-local.yaml\0"));
    assert_eq!(archive.len() % 512, 0);
}
