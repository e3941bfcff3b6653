//! Given a host with no config of its own; when the child dies inside the window of the first config that a server
//! offers; then one death does not end the telemetry, and a config that its child dies of is gone back from.

use super::rig::{APPLIED, Bench, FAILED};

const SETTINGS: &str = "profile: layered, apply: {probation: 10s}";

#[test]
fn child_killed_in_the_window_of_the_only_config_is_started_again() {
    let mut bench = Bench::calm(SETTINGS, &[]);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(6);
    assert!(bench.is_up());
    bench.kill();
    bench.run_s(60);
    assert!(bench.is_up());
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert!(bench.is_good());
    assert_eq!(bench.counted("rollbacks"), 0);
    assert_eq!(bench.noted("nothing to go back to, started again"), 1);
}

#[test]
fn only_config_that_its_child_dies_of_twice_has_failed() {
    let mut bench = Bench::calm(SETTINGS, &[]);
    bench.offer("o1", "exporters: {dies-later: {}}\n");
    bench.run_s(120);
    assert!(!bench.is_up());
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
    assert_eq!(bench.counted("rollbacks"), 1);
}

#[test]
fn with_a_config_to_go_back_to_one_death_is_enough() {
    let file = [("/etc/a.yaml", "receivers: {a: {}}\n")];
    let settings = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";
    let mut bench = Bench::calm(settings, &file);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(6);
    bench.kill();
    bench.run_s(60);
    assert!(bench.is_up());
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
    assert_eq!(bench.counted("rollbacks"), 1);
}

#[test]
fn first_config_that_is_gone_back_to_inside_its_window_is_reported_good_and_watched_on() {
    let settings = "profile: layered, apply: {probation: 10s, after_rollback: report_good}";
    let mut bench = Bench::calm(settings, &[]);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(6);
    assert!(!bench.is_good());
    bench.offer("o2", "exporters: {dies-at-start: {}}\n");
    bench.run_s(6);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert!(!bench.is_good());
    bench.run_s(20);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert!(bench.is_good());
}
