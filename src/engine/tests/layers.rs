//! Given an offer in its window; when somebody edits a local file; then the offer is judged for itself, and the edit
//! after it.

use super::rig::{APPLIED, APPLYING, Bench};

const FILE: &str = "/etc/a.yaml";
const OFFER: &str = "exporters: {offered: {}}\n";

fn offered(probation: &str) -> Bench {
    let settings =
        format!("profile: layered, config_files: [{FILE}], apply: {{probation: {probation}}}");
    let mut bench = Bench::new(&settings, &[(FILE, "receivers: {a: {}}\n")]);
    bench.boot();
    bench.run_s(7300);
    bench.offer("o1", OFFER);
    bench.run_s(6);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLYING));
    bench
}

/// Every outcome that the server read.
fn read(bench: &Bench) -> Vec<i32> {
    let read = bench.read.iter().map(|read| read.status);
    // The first report says that there was none.
    let mut read: Vec<i32> = read.skip_while(|status| *status == 0).collect();
    read.dedup();
    read
}

#[test]
fn local_edit_that_is_no_good_inside_the_window_of_an_offer_does_not_fail_the_offer() {
    let mut bench = offered("10s");
    bench.edit(FILE, "receivers: {invalid: {}}\n");
    bench.run_s(9);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED), "in its time");
    bench.run_s(60);
    assert_eq!(read(&bench), [APPLYING, APPLIED]);
    assert_eq!(
        bench.noted("local config refused, what runs keeps its own copy"),
        1
    );
    assert!(bench.current().contains(OFFER) && bench.is_good());
}

#[test]
fn local_edit_inside_the_window_of_an_offer_is_applied_after_it() {
    let mut bench = offered("10s");
    bench.edit(FILE, "receivers: {half: {}}\n");
    bench.run_s(2);
    bench.edit(FILE, "receivers: {edited: {}}\n");
    bench.run_s(7);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED), "in its time");
    bench.run_s(60);
    assert_eq!(read(&bench), [APPLYING, APPLIED]);
    let runs = bench.current();
    assert!(runs.contains(OFFER) && runs.contains("edited"), "{runs}");
    assert_eq!(bench.counted("local_changes"), 1);
    assert!(bench.is_good());
}

#[test]
fn local_edit_does_not_wait_for_a_window_of_hours() {
    let mut bench = offered("2h");
    bench.edit(FILE, "receivers: {edited: {}}\n");
    bench.run_s(9 * 60);
    assert!(!bench.current().contains("edited"));
    bench.run_s(2 * 60);
    let runs = bench.current();
    assert!(runs.contains(OFFER) && runs.contains("edited"), "{runs}");
    assert_eq!(read(&bench), [APPLYING]);
    bench.run_s(7300);
    assert_eq!(read(&bench), [APPLYING, APPLIED]);
}
