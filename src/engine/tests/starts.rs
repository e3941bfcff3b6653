//! Given a host whose earlier life came to an end in order; when the next life begins; then it goes on from what there
//! is: what was stopped stays down, what failed stays failed, and what the host has of its own now is what runs.

use super::rig::{Bench, FAILED, agent};

const FILE: &str = "/etc/a.yaml";
const LOCAL: &[(&str, &str)] = &[(FILE, "receivers: {a: {}}\n")];

#[test]
fn child_that_an_empty_offer_stopped_is_not_started_by_the_next_life() {
    let settings = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s, empty_config: stop}";
    let mut bench = Bench::calm(settings, LOCAL);
    assert!(bench.is_up());
    bench.offer_nothing("o1");
    bench.run_s(60);
    assert!(!bench.is_up());
    bench.boot();
    bench.run_s(60);
    assert!(!bench.is_up());
    assert_eq!(bench.current(), "");
}

#[test]
fn built_in_default_of_a_newer_version_runs_after_the_next_start() {
    let settings = "profile: defaulted, apply: {probation: 10s}";
    let mut bench = Bench::calm(settings, &[]);
    assert!(bench.current().contains("built_in"));
    let (mut newer, server) = agent(settings);
    newer.profile.default_config = Some("receivers: {newer: {}}\n".to_owned());
    bench.settings_of((newer, server));
    bench.boot();
    bench.run_s(60);
    let runs = bench.current();
    assert!(
        runs.contains("newer") && !runs.contains("built_in"),
        "{runs}"
    );
    assert!(bench.is_up() && bench.is_good());
}

#[test]
fn only_config_that_failed_is_why_nothing_runs_in_the_next_life() {
    let mut bench = Bench::calm("profile: layered, apply: {probation: 10s}", &[]);
    bench.offer("o1", "exporters: {dies-later: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
    let reason = bench.disk.rejected[0].reason.clone();
    bench.boot();
    bench.run_s(60);
    assert!(!bench.is_up());
    let shown = bench.engine.snapshot(bench.clock());
    assert_eq!((shown.phase, shown.healthy), ("held", false));
    assert_eq!(shown.last_error, reason);
}

#[test]
fn files_that_may_be_missing_and_are_are_said_to_be_left_out() {
    for (settings, left_out) in [
        ("profile: layered, config_files: [/etc/a.yaml]", 0),
        (
            "profile: layered, config_files: [/etc/a.yaml, /etc/b.yaml]",
            1,
        ),
    ] {
        let mut bench = Bench::new(settings, LOCAL);
        let (mut lenient, server) = agent(settings);
        lenient.apply.without_unreadable = true;
        bench.settings_of((lenient, server));
        bench.boot();
        bench.run_s(60);
        assert!(bench.is_up(), "{settings}");
        let said = bench.noted("local config file left out");
        assert_eq!(said, left_out, "{settings}");
    }
}
