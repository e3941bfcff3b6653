//! Given a Collector that runs an offer; when the same is offered again under another hash, with another comment or
//! in another order of keys; then it is applied at once, beside the same process, and the next start knows which offer
//! it was last.

use std::time::Duration;

use super::rig::{APPLIED, APPLYING, Bench, FAILED};
use crate::engine::message::{Command, CommandId, OfferedFile, Origin, Step};

const FILE: &str = "/etc/a.yaml";
const LOCAL: &[(&str, &str)] = &[(FILE, "receivers: {a: {}}\n")];
const SETTINGS: &str = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";
const OFFER: &str = "exporters: {offered: {port: 5, host: x}}\nservice: {extensions: [a, b]}\n";

fn applied() -> Bench {
    let mut bench = Bench::calm(SETTINGS, LOCAL);
    bench.offer("o1", OFFER);
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench
}

/// A person applies this.
fn orders(bench: &mut Bench, text: &str) {
    let file = OfferedFile {
        name: "config.yaml".to_owned(),
        content_type: "text/yaml".to_owned(),
        body: text.as_bytes().to_vec(),
    };
    let (agent, files) = (None, vec![file]);
    let command = Command::Apply { agent, files };
    bench.with(|engine, now| engine.command(now, CommandId(1), command));
}

#[test]
fn what_says_the_same_is_applied_beside_the_same_process() {
    for text in [
        OFFER.to_owned(),
        format!("# for whom it may concern\n{OFFER}"),
        "service:\n  extensions: [a, b]\nexporters: {offered: {host: x, port: 5}}\n".to_owned(),
    ] {
        let mut bench = applied();
        let (processes, runs) = (bench.started.len(), bench.current());
        bench.offer("o2", &text);
        bench.run_s(2);
        assert_eq!(bench.status(), ("o2".to_owned(), APPLIED), "{text}");
        bench.run_s(60);
        assert_eq!(bench.status(), ("o2".to_owned(), APPLIED), "{text}");
        assert_eq!(bench.started.len(), processes, "{text}");
        assert_eq!(bench.current(), runs);
    }
}

#[test]
fn what_says_something_else_is_another_config() {
    for (old, new) in [
        ("port: 5", "port: '5'"),
        ("port: 5", "port: 6"),
        ("[a, b]", "[b, a]"),
        ("[a, b]", "[a]"),
        (", host: x", ""),
        ("host: x", "host: [x]"),
        ("host: x", "name: x"),
    ] {
        let mut bench = applied();
        let processes = bench.started.len();
        bench.offer("o2", &OFFER.replace(old, new));
        bench.run_s(60);
        assert_eq!(bench.status(), ("o2".to_owned(), APPLIED), "{new}");
        assert_eq!(bench.started.len(), processes + 1, "{old} to {new}");
    }
}

#[test]
fn next_start_reports_the_offer_that_came_last() {
    let mut bench = applied();
    bench.offer("o2", &format!("{OFFER}# again\n"));
    bench.run_s(60);
    bench.read.clear();
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(
        !bench
            .read
            .iter()
            .any(|it| it.last_remote_config_hash == b"o1")
    );
    // And it is what a local change is made under.
    bench.edit(FILE, "receivers: {b: {}}\n");
    bench.run_s(120);
    assert!(bench.current().contains("receivers: {b: {}}"));
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
}

#[test]
fn comment_in_a_file_of_the_host_is_taken_up_as_any_other_change() {
    let mut bench = applied();
    bench.edit(FILE, "receivers: {a: {}}\n# mine\n");
    bench.run_s(120);
    assert!(bench.current().contains("# mine"));
    assert!(bench.is_good());
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
}

#[test]
fn what_comes_again_inside_its_window_is_watched_on_beside_the_same_process() {
    let mut bench = Bench::calm(SETTINGS, LOCAL);
    bench.offer("o1", OFFER);
    bench.run_s(6);
    let processes = bench.started.len();
    assert!(bench.current().contains(OFFER) && !bench.is_good());
    bench.offer("o2", &format!("{OFFER}# again\n"));
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert_eq!(bench.started.len(), processes);
    assert!(bench.is_good());
    // A local change is made under the later one.
    bench.edit(FILE, "receivers: {b: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    bench.read.clear();
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
}

#[test]
fn what_a_person_ordered_first_and_the_server_offered_then_is_its_offer_at_the_next_start() {
    let mut bench = applied();
    let current = bench.disk.current.clone().unwrap();
    let ordered = bench.disk.revisions.get_mut(&current).unwrap();
    ordered.origin = Origin::Manual;
    ordered.offer = None;
    bench.disk.journal.clear();
    bench.boot();
    bench.run_s(60);
    bench.offer("o2", OFFER);
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    bench.read.clear();
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
}

#[test]
fn what_a_person_orders_that_runs_already_leaves_it_the_offer_that_came_last() {
    let mut bench = applied();
    bench.offer("o2", OFFER);
    bench.run_s(60);
    orders(&mut bench, OFFER);
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    bench.read.clear();
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
}

#[test]
fn what_a_person_orders_inside_its_window_is_the_offer_that_is_applied_with_it() {
    let mut bench = Bench::calm(SETTINGS, LOCAL);
    bench.offer("o1", OFFER);
    bench.run_s(6);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLYING));
    orders(&mut bench, OFFER);
    bench.run_s(60);
    assert!(bench.is_good());
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
}

#[test]
fn offer_that_is_overtaken_by_an_order_of_what_runs_does_not_come_any_more() {
    let mut bench = applied();
    let runs = bench.current();
    bench.offer("o2", "exporters: {second: {}}\n");
    while bench.disk.journal.last().unwrap().step != Step::Staged {
        bench.run(Duration::from_millis(1));
    }
    orders(&mut bench, OFFER);
    bench.run_s(60);
    assert_eq!(bench.current(), runs);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
    let read = bench.read.last().unwrap();
    assert_eq!(read.error_message, "replaced by an order of the operator");
}

#[test]
fn what_says_the_same_as_a_config_that_did_not_hold_is_tried_with_a_process_of_its_own() {
    let mut bench = Bench::calm("profile: layered, apply: {probation: 10s}", &[]);
    bench.offer("o1", OFFER);
    for _ in 0..2 {
        bench.run_s(6);
        bench.kill();
    }
    bench.run_s(60);
    assert_eq!(bench.status(), ("o1".to_owned(), FAILED));
    assert!(!bench.is_up());
    bench.offer("o2", &format!("{OFFER}# again\n"));
    bench.run_s(20);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(bench.is_up() && bench.is_good());
}

#[test]
fn rejected_config_remembers_no_more_than_sixteen_of_its_offers() {
    let mut bench = applied();
    for number in 0..20 {
        bench.offer(&format!("bad{number}"), "exporters: {invalid: {}}\n");
        bench.run_s(2);
        assert_eq!(bench.status(), (format!("bad{number}"), FAILED));
    }
    let [rejection] = &bench.disk.rejected[..] else {
        panic!("{:?}", bench.disk.rejected);
    };
    assert_eq!(rejection.offers.len(), 16);
}
