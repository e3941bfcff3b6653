//! Given what another supervisor left; when it is taken over and the host dies, or we have something of our own; then
//! it is tried until it was tried, and never over what is ours.

use std::time::Duration;

use super::rig::{APPLIED, Bench, destinations};
use crate::engine::message::{Inheritance, InheritedOffer, OfferedFile, Step};
use crate::units::OfferHash;

const SETTINGS: &str = "profile: layered, own_telemetry: [metrics], apply: {probation: 10s}";
const OFFER: &str = "exporters: {offered: {}}\n";
const PLACE: &str = "http://127.0.0.1:9/v1/metrics";

fn left(destination: Option<&str>) -> Inheritance {
    let file = OfferedFile {
        name: "config.yaml".to_owned(),
        content_type: "text/yaml".to_owned(),
        body: OFFER.as_bytes().to_vec(),
    };
    Inheritance {
        destinations: destination.map(|place| Box::new(destinations("", place))),
        received: Some(InheritedOffer {
            hash: OfferHash::new(*b"o1"),
            files: vec![file],
        }),
        failed: None,
        working: None,
    }
}

#[test]
fn offer_that_a_death_kept_from_the_disk_is_tried_after_the_next_start() {
    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(Box::new(left(None)));
    bench.boot();
    while bench.disk.journal.last().map(|record| record.step) != Some(Step::Intent) {
        bench.run(Duration::from_millis(1));
    }
    bench.inheritance = Some(Box::new(left(None)));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.disk.journal[1].step, Step::Superseded);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert!(bench.current().contains(OFFER) && bench.is_good());
}

#[test]
fn destination_is_in_the_first_config_and_does_not_have_to_be_offered_again() {
    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(Box::new(left(Some(PLACE))));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert_eq!(bench.started.len(), 1);
    let runs = bench.current();
    assert!(runs.contains(PLACE) && runs.contains(OFFER), "{runs}");
    let taken = "destinations of own telemetry of opampsupervisor taken over";
    assert_eq!(bench.noted(taken), 1);
    // Nobody knows what it was offered as.
    assert_eq!(bench.read_of_settings, []);
    // The next life knows it as its own.
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.current(), runs);
    assert_eq!(bench.started.len(), 2);
    assert_eq!(bench.noted(taken), 1);
    // Offered again it is no news.
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(("d1".to_owned(), APPLIED)));
    assert_eq!(bench.started.len(), 2);
}

#[test]
fn destination_is_never_taken_over_ours() {
    let mut bench = Bench::calm(SETTINGS, &[]);
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(("d1".to_owned(), APPLIED)));
    bench.inheritance = Some(Box::new(left(Some("http://127.0.0.1:9/theirs"))));
    bench.boot();
    bench.run_s(60);
    let runs = bench.current();
    assert!(runs.contains(PLACE) && runs.contains(OFFER), "{runs}");
    assert!(!runs.contains("theirs"), "{runs}");

    // To have withdrawn it is something of ours, too.
    bench.direct("d2", "");
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(("d2".to_owned(), APPLIED)));
    bench.inheritance = Some(Box::new(left(Some("http://127.0.0.1:9/theirs"))));
    bench.boot();
    bench.run_s(60);
    assert!(
        !bench.current().contains("127.0.0.1:9"),
        "{}",
        bench.current()
    );
}

#[test]
fn destination_of_a_kind_that_the_settings_do_not_leave_to_a_server_is_told_and_left_out() {
    let mut bench = Bench::new(
        "profile: layered, own_telemetry: [logs], apply: {probation: 10s}",
        &[],
    );
    bench.inheritance = Some(Box::new(left(Some(PLACE))));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert_eq!(bench.noted("own telemetry not set up"), 1);
    assert!(!bench.current().contains(PLACE));
}

#[test]
fn what_worked_for_another_supervisor_gives_way_to_an_offer_that_came_meanwhile() {
    let inherited = |text: &str, hash: &[u8]| InheritedOffer {
        hash: OfferHash::new(hash.to_vec()),
        files: vec![OfferedFile {
            name: "config.yaml".to_owned(),
            content_type: "text/yaml".to_owned(),
            body: text.as_bytes().to_vec(),
        }],
    };
    let left = || Inheritance {
        destinations: None,
        received: Some(inherited("exporters: {dies-at-start: {}}\n", b"bad")),
        failed: None,
        working: Some(inherited(OFFER, b"")),
    };
    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(Box::new(left()));
    bench.boot();
    bench.run_s(120);
    assert!(bench.current().contains(OFFER) && bench.is_good());
    assert_eq!(bench.noted("config of opampsupervisor taken over"), 2);

    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(Box::new(left()));
    bench.boot();
    while bench.started.is_empty() {
        bench.run(Duration::from_millis(1));
    }
    bench.offer("o9", "exporters: {newer: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.status(), ("o9".to_owned(), APPLIED));
    assert!(bench.current().contains("newer"), "{}", bench.current());
    assert!(bench.started.iter().all(|text| !text.contains("offered")));

    // Nor is it begun when we stop.
    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(Box::new(left()));
    bench.boot();
    while bench.started.is_empty() {
        bench.run(Duration::from_millis(1));
    }
    bench.with(crate::engine::Engine::wind_down);
    bench.with(|engine, now| engine.end(now, Duration::from_secs(7)));
    bench.run_s(120);
    assert_eq!(bench.started.len(), 1);
}
