//! Given `apply.after_rollback: report_good`; when something fails that no server offered; then what the server was
//! told of its offers stays.

use super::rig::{APPLIED, Bench, FAILED};

const FILE: &str = "/etc/a.yaml";

/// The first offer runs, the second was refused.
fn answered() -> Bench {
    let settings = "profile: layered, config_files: [/etc/a.yaml], own_telemetry: [metrics], \
                    apply: {probation: 10s, find_fault: false, after_rollback: report_good}";
    let mut bench = Bench::calm(settings, &[(FILE, "receivers: {a: {}}\n")]);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench.offer("o2", "exporters: {invalid: {}}\n");
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
    bench
}

#[test]
fn failed_local_change_does_not_report_an_older_offer_applied() {
    let mut bench = answered();
    bench.edit(FILE, "receivers: {dies-at-start: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.counted("rollbacks"), 1);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
}

#[test]
fn failed_destination_does_not_report_an_older_offer_applied() {
    let mut bench = answered();
    bench.direct("d1", "http://127.0.0.1:9/dies-at-start");
    bench.run_s(120);
    assert_eq!(bench.counted("rollbacks"), 1);
    assert_eq!(bench.directed(), Some(("d1".to_owned(), FAILED)));
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
}

#[test]
fn rolled_back_offer_gives_way_to_the_one_that_runs_again() {
    let mut bench = answered();
    bench.offer("o3", "exporters: {dies-at-start: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.counted("rollbacks"), 1);
    let failed = bench
        .read
        .iter()
        .any(|read| read.last_remote_config_hash == b"o3" && read.status == FAILED);
    assert!(failed, "{:?}", bench.read);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
}
