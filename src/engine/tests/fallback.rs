//! Given a host with a fallback config; when settings are read again, the supervisor is started again or stopped
//! around it; then it neither loses what the settings say nor takes its own files for somebody's edits.

use std::path::PathBuf;
use std::time::Duration;

use super::rig::{APPLIED, Bench, There};
use crate::engine::Engine;
use crate::engine::fallback::may_run;
use crate::engine::message::{LayerKind, Origin};

const LOCAL: (&str, &str) = ("/etc/a.yaml", "receivers: {local: {}}\n");
const FALLBACK: (&str, &str) = ("/etc/fallback.yaml", "receivers: {fallback: {}}\n");
const BARE: &str =
    "profile: layered, fallback_configs: [/etc/fallback.yaml], apply: {probation: 10s}";

#[test]
fn layers_of_a_hup_during_the_fallback_are_used_once_the_server_is_reached() {
    let mut bench = Bench::new(BARE, &[LOCAL, FALLBACK]);
    bench.server_is(There::Away);
    bench.boot();
    bench.run_s(60);
    assert!(bench.current().contains("fallback"));
    bench.hup(&format!("config_files: [/etc/a.yaml], {BARE}"));
    bench.run_s(60);
    assert!(bench.current().contains("fallback"), "it stands meanwhile");
    bench.server_is(There::Up);
    bench.run_s(180);
    let runs = bench.current();
    assert!(runs.contains("local"), "{runs}");
    assert!(!runs.contains("fallback"), "{runs}");
    assert!(bench.is_good());
}

#[test]
fn files_of_the_fallback_are_no_local_change_after_a_start() {
    let settings = format!("config_files: [/etc/a.yaml], {BARE}");
    let mut bench = Bench::calm(&settings, &[LOCAL, FALLBACK]);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.counted("local_changes"), 0);
    assert_eq!(bench.noted("local config changed"), 0);
}

#[test]
fn stop_before_the_server_was_reached_does_not_turn_for_ever() {
    let mut bench = Bench::new(BARE, &[FALLBACK]);
    bench.server_is(There::Silent);
    bench.boot();
    bench.run_s(1);
    assert!(!bench.is_up(), "the server has the first word");
    bench.with(Engine::wind_down);
    // The moment passes at which the fallback would have begun.
    bench.run_s(5);
    let due = bench.engine.deadline(bench.clock());
    assert!(due.is_none_or(|due| due > bench.clock().mono), "{due:?}");
    bench.with(|engine, now| engine.end(now, Duration::from_secs(1)));
    bench.run_s(5);
    assert!(bench.started.is_empty());
}

#[test]
fn host_that_waited_for_its_turn_while_the_server_was_away_begins_the_fallback_at_once() {
    let mut bench = Bench::new(BARE, &[FALLBACK]);
    bench.server_is(There::Away);
    bench.prepare();
    bench.engine.hold_back("starts after another".to_owned());
    bench.start();
    bench.run_s(60);
    assert!(bench.started.is_empty());
    bench.with(Engine::let_start);
    bench.run(Duration::from_millis(100));
    assert!(bench.current().contains("fallback"));
    let why = "server not reached and nothing stored, running the fallback config";
    assert_eq!(bench.noted(why), 1);
}

#[test]
fn life_may_begin_with_the_fallback_only_where_nothing_else_was_written() {
    let mut bench = Bench::new(BARE, &[FALLBACK]);
    bench.server_is(There::Away);
    bench.boot();
    bench.run_s(60);
    let stored = bench.disk.revisions[bench.disk.current.as_ref().unwrap()].clone();
    let fallback = [PathBuf::from(FALLBACK.0)];
    assert!(may_run(None, &fallback));
    assert!(may_run(Some(&stored), &fallback));
    assert!(!may_run(None, &[]) && !may_run(Some(&stored), &[]));
    assert!(!may_run(Some(&stored), &["/etc/other.yaml".into()]));

    for origin in [Origin::Offer, Origin::Manual, Origin::Default] {
        let mut other = stored.clone();
        other.origin = origin;
        assert!(!may_run(Some(&other), &fallback), "{origin:?}");
    }
    let mut files = stored.files.iter();
    let written = files.position(|file| file.layer == LayerKind::Local);
    let mut offered = stored.clone();
    offered.files[written.unwrap()].layer = LayerKind::Remote;
    assert!(!may_run(Some(&offered), &fallback), "a file of an offer");
    let mut more = stored.clone();
    let mut file = more.files[written.unwrap()].clone();
    file.source = "/etc/a.yaml".to_owned();
    more.files.push(file);
    assert!(!may_run(Some(&more), &fallback), "another local file");
    let mut empty = stored;
    empty.files.remove(written.unwrap());
    assert!(!may_run(Some(&empty), &fallback), "no file of anybody");
}
