//! Given a Collector that runs an offer; when the same is offered again under another hash, with another comment or
//! in another order of keys; then it is applied at once, beside the same process, and the next start knows which offer
//! it was last.

use super::rig::{APPLIED, Bench};
use crate::engine::message::Origin;

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
