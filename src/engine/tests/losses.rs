//! Given a life that ended before its journal said what `current` shows; when the next life begins, held back or not;
//! then no offer that does not run is reported as applied.

use std::time::Duration;

use super::rig::{APPLIED, APPLYING, Bench, FAILED};
use crate::engine::message::{Origin, Step};
use crate::engine::turn::Standing;
use crate::units::{OfferHash, RevisionId};

const FILE: &str = "/etc/a.yaml";
const SETTINGS: &str = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";

const OWN_RUNS: &str = "it does not run any more, the host's own config does";

/// The first offer runs.
fn applied() -> Bench {
    applied_with(SETTINGS)
}

fn applied_with(settings: &str) -> Bench {
    let mut bench = Bench::calm(settings, &[(FILE, "receivers: {a: {}}\n")]);
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
    assert_eq!(bench.read.last().unwrap().error_message, OWN_RUNS);
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
    bench.run_s(1);
    assert!(bench.is_up());
    assert_eq!(bench.engine.standing(bench.clock()), Standing::Coming);
    bench.run_s(60);
    assert_eq!(bench.engine.standing(bench.clock()), Standing::Well);
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

#[test]
fn local_change_of_the_next_life_comes_before_the_window_of_an_offer_without_records() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {second: {}}\n");
    until(&mut bench, Step::Probation);
    forget_what_came_after(&mut bench);
    let edited = "receivers: {edited: {}}\n".to_owned();
    bench.disk.local.insert(FILE.into(), edited);
    bench.boot();
    bench.run_s(60);
    let runs = bench.current();
    assert!(runs.contains("edited") && runs.contains("second"), "{runs}");
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(bench.is_good());
}

#[test]
fn offer_that_was_already_running_and_was_lost_then_is_not_applied() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {offered: {}}\n");
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    let own = bench.disk.revisions.values();
    let own = own.clone().find(|revision| revision.offer.is_none());
    bench.disk.current = own.map(|revision| revision.id.clone());
    held_back(&mut bench);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
    assert_eq!(bench.read.last().unwrap().error_message, OWN_RUNS);
}

#[test]
fn offer_that_the_way_back_of_something_else_led_past_is_not_applied_in_the_next_life() {
    let mut bench = applied_with(&format!("{SETTINGS}, own_telemetry: [metrics]"));
    bench.direct("d1", "http://127.0.0.1:9/dies-at-start");
    while bench.noted("config did not hold") == 0 {
        bench.run(Duration::from_millis(1));
    }
    // Neither the last good revision can be read nor its bytes be put back.
    bench.refuses = "Re";
    bench.run(Duration::from_millis(20));
    bench.refuses = "nothing";
    bench.run_s(120);
    let runs = bench.current();
    assert!(!runs.contains("offered"), "{runs}");
    assert!(bench.is_good());
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
    assert_eq!(bench.read.last().unwrap().error_message, OWN_RUNS);
}

#[test]
fn offer_that_failed_and_stays_reads_failed_in_the_next_life() {
    let settings =
        "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s, rollback: false}";
    let mut bench = applied_with(settings);
    bench.offer("o2", "exporters: {dies-later: {}}\n");
    while bench.status() != ("o2".to_owned(), FAILED) {
        bench.run_s(1);
    }
    let told = bench.read.last().unwrap().clone();
    bench.read.clear();
    held_back(&mut bench);
    assert!(bench.current().contains("dies-later"));
    assert_eq!(bench.read, [told]);
}

#[test]
fn offer_that_was_staged_and_taken_up_three_times_is_closed_by_the_next_life() {
    let mut bench = applied();
    bench.offer("o2", "exporters: {second: {}}\n");
    until(&mut bench, Step::Staged);
    for lives in 1..=3 {
        bench.boot();
        let resumed = |bench: &Bench| {
            let steps = bench.disk.journal.iter().map(|record| record.step);
            steps.filter(|step| *step == Step::Resumed).count()
        };
        while resumed(&bench) < lives {
            bench.run(Duration::from_millis(1));
        }
    }
    bench.boot();
    bench.run_s(60);
    let last = bench.disk.journal.last().unwrap();
    assert_eq!(last.step, Step::Superseded);
    assert!(!bench.current().contains("second"));
}
