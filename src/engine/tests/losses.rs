//! Given a life that ended before its journal said what `current` shows; when the next life begins, held back or not;
//! then no offer that does not run is reported as applied.

use std::time::Duration;

use super::rig::{APPLIED, Bench, FAILED};
use crate::engine::message::{Origin, Step};
use crate::units::RevisionId;

const FILE: &str = "/etc/a.yaml";
const SETTINGS: &str = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";

/// The first offer runs.
fn applied() -> Bench {
    let mut bench = Bench::calm(SETTINGS, &[(FILE, "receivers: {a: {}}\n")]);
    bench.offer("o1", "exporters: {offered: {}}\n");
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench
}

/// The next life, before it is the agent's turn.
fn held_back(bench: &mut Bench) {
    bench.prepare();
    bench.engine.hold_back("after another".to_owned());
    bench.start();
    bench.run_s(5);
}

#[test]
fn offer_before_a_rejected_one_that_is_still_current_is_not_applied() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {dies-at-start: {}}\n");
    while bench.disk.rejected.is_empty() {
        bench.run(Duration::from_millis(1));
    }
    let mut record = bench.disk.journal.last().unwrap().clone();
    record.step = Step::Superseded;
    bench.disk.journal.push(record);
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
}

#[test]
fn offer_in_whose_place_the_hosts_own_config_came_is_not_applied() {
    let mut bench = applied();
    let own = bench.disk.revisions.values();
    let own = own.clone().find(|revision| revision.offer.is_none());
    bench.disk.current = own.map(|revision| revision.id.clone());
    assert!(bench.disk.current.is_some());
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
}

#[test]
fn offer_in_whose_place_a_person_put_a_config_is_not_applied() {
    let mut bench = applied();
    let current = bench.disk.current.clone().unwrap();
    let mut ordered = bench.disk.revisions[&current].clone();
    ordered.id = RevisionId::new(bench.clock().wall, ordered.hash);
    ordered.origin = Origin::Manual;
    ordered.offer = None;
    bench.disk.current = Some(ordered.id.clone());
    bench.disk.revisions.insert(ordered.id.clone(), ordered);
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
}
