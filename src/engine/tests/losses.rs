//! Given a life that ended before its journal said what `current` shows; when the next life begins, held back or not;
//! then no offer that does not run is reported as applied.

use std::time::Duration;

use super::rig::{APPLIED, APPLYING, Bench, FAILED};
use crate::engine::message::{Origin, Step};
use crate::units::{OfferHash, RevisionId};

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

/// Waits for a step of the last transaction.
fn until(bench: &mut Bench, step: Step) {
    while bench.disk.journal.last().unwrap().step != step {
        bench.run(Duration::from_millis(1));
    }
}

/// The journal as it was when the first offer was committed, for nothing after that was synced.
fn forget_what_came_after(bench: &mut Bench) {
    let first = bench.disk.journal.iter().rposition(|record| {
        let offer = record.offer.as_ref().map(OfferHash::as_bytes);
        record.step == Step::Committed && offer == Some(b"o1")
    });
    bench.disk.journal.truncate(first.unwrap() + 1);
}

#[test]
fn offer_whose_commit_was_not_journaled_any_more_is_applied() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {second: {}}\n");
    bench.run_s(60);
    assert!(bench.is_good());
    forget_what_came_after(&mut bench);
    bench.read.clear();
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert_eq!(bench.read.len(), 1, "{:?}", bench.read);
}

#[test]
fn offer_that_is_promoted_and_not_proven_is_not_read_as_applied_without_its_records() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {second: {}}\n");
    until(&mut bench, Step::Probation);
    forget_what_came_after(&mut bench);
    bench.read.clear();
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLYING));
    // Its window begins anew when the turn comes.
    bench.with(crate::engine::Engine::let_start);
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(bench.is_good());
}

#[test]
fn offer_that_was_rolled_back_reads_failed_in_the_next_life_with_its_reason() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {dies-at-start: {}}\n");
    bench.run_s(120);
    let told = bench.read.last().unwrap().clone();
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
    assert!(!told.error_message.is_empty());
    bench.read.clear();
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.read, [told]);
}

#[test]
fn what_an_earlier_life_began_and_lost_is_closed_at_the_time_of_the_next() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {second: {}}\n");
    until(&mut bench, Step::Intent);
    let begun = bench.disk.journal.last().unwrap().clone();
    bench
        .disk
        .revisions
        .retain(|id, _| Some(id) != begun.revision.as_ref());
    bench.prepare();
    bench.run_s(5);
    let clock = bench.clock();
    bench.start();
    bench.run_s(5);
    let closed =
        bench.disk.journal.iter().find(|record| {
            record.transaction == begun.transaction && record.step == Step::Superseded
        });
    let closed = closed.expect("nothing was closed");
    assert_eq!((closed.at, &closed.offer), (clock.wall, &begun.offer));
    assert_eq!(closed.reason, "interrupted before it was on disk");
}
