//! Given a host with a fallback config; when settings are read again, the supervisor is started again or stopped
//! around it; then it neither loses what the settings say nor takes its own files for somebody's edits.

use std::time::Duration;

use super::rig::{APPLIED, Bench, There};
use crate::engine::Engine;

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
