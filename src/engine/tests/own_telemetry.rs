//! Given an agent with layers; when a server directs its metrics somewhere while anything else happens to its config;
//! then a destination is judged by what it does alone, once, and nothing else is judged by it.

use std::time::Duration;

use opamp_client::messages::{ConnectionSettingsOffers, OpAmpConnectionSettings, ServerToAgent};

use super::rig::{APPLIED, Bench, FAILED, agent_of, destinations};

const REPORTS_OWN_METRICS: u64 = 0x40;
const FILE: &str = "/etc/a.yaml";
const GOOD: &str = "receivers: {good: {}}\n";
const OFFER: &str = "exporters: {offered: {}}\n";
const PLACE: &str = "http://127.0.0.1:9/v1/metrics";
const OTHER: &str = "http://127.0.0.1:9/other";

fn settings(more: &str) -> String {
    format!("profile: layered, config_files: [{FILE}], apply: {{probation: 10s}}, {more}")
}

fn calm() -> Bench {
    let bench = Bench::calm(&settings("own_telemetry: [metrics]"), &[(FILE, GOOD)]);
    assert!(bench.is_good() && bench.is_up());
    bench
}

fn told(hash: &str, status: i32) -> (String, i32) {
    (hash.to_owned(), status)
}

#[test]
fn local_edit_that_was_refused_does_not_fail_a_good_destination() {
    let mut bench = calm();
    bench.edit(FILE, "receivers: {invalid: {}}\n");
    bench.run_s(30);
    let refused = "local config refused, what runs keeps its own copy";
    assert_eq!(bench.noted(refused), 1);
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    let runs = bench.current();
    assert!(runs.contains(PLACE) && runs.contains(GOOD), "{runs}");
    assert!(!runs.contains("invalid"), "{runs}");
    // It is still refused, and said so once.
    assert_eq!(bench.noted(refused), 1);
    let refused = bench.engine.layers_snapshot().refused;
    assert_eq!(refused, [FILE.to_owned()]);
}

#[test]
fn local_edit_while_a_destination_is_tried_neither_fails_it_nor_is_lost() {
    for (edit, taken) in [
        ("receivers: {invalid: {}}\n", false),
        ("receivers: {better: {}}\n", true),
    ] {
        let mut bench = calm();
        bench.edit(FILE, edit);
        bench.direct("d1", PLACE);
        bench.run_s(120);
        assert_eq!(bench.directed(), Some(told("d1", APPLIED)), "{edit}");
        let runs = bench.current();
        assert!(runs.contains(PLACE), "{runs}");
        assert_eq!(runs.contains(edit), taken, "{runs}");
        let refused = bench.noted("local config refused, what runs keeps its own copy");
        assert_eq!(refused, usize::from(!taken), "{edit}");
        assert!(bench.is_good());
    }
}

#[test]
fn destination_is_tried_once_with_what_runs_where_its_files_left_the_settings() {
    let mut bench = calm();
    bench.hup("profile: layered, own_telemetry: [metrics], apply: {probation: 10s}");
    bench.run_s(60);
    assert!(bench.current().contains(GOOD), "what runs is kept");
    let before = bench.started.len();
    bench.direct("d1", PLACE);
    bench.run_s(600);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    let runs = bench.current();
    assert!(runs.contains(PLACE) && runs.contains(GOOD), "{runs}");
    assert_eq!(bench.started.len(), before + 1);
}

#[test]
fn destination_is_not_proven_by_a_config_that_was_overtaken() {
    let mut bench = calm();
    bench.direct("d1", OTHER);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    bench.direct("d2", "http://127.0.0.1:9/dies-at-start");
    while !bench.current().contains("dies-at-start") {
        bench.run(Duration::from_millis(1));
    }
    // What runs has the destination, and an offer takes its place before anything is proven.
    bench.offer("o1", OFFER);
    bench.run_s(180);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert_eq!(bench.directed(), Some(told("d2", FAILED)));
    let of_second = bench
        .read_of_settings
        .iter()
        .filter(|read| read.last_connection_settings_hash == b"d2");
    let applied = of_second.filter(|read| read.status == APPLIED).count();
    assert_eq!(applied, 0);
    let runs = bench.current();
    assert!(runs.contains(OTHER) && runs.contains(OFFER), "{runs}");
}

#[test]
fn destination_that_the_child_does_not_hold_is_not_tried_again_and_again() {
    let mut bench = calm();
    bench.direct("d1", "http://127.0.0.1:9/dies-later");
    bench.run_s(600);
    assert_eq!(bench.noted("own telemetry did not hold"), 1);
    assert!(!bench.current().contains("dies-later"));
    let before = bench.started.len();
    bench.run_s(3600);
    assert_eq!(bench.started.len(), before, "tried again");
    // No config is blamed for it.
    bench.offer("o1", OFFER);
    bench.run_s(120);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));

    // The next life tries it, because it was proven once; then it knows as well.
    bench.boot();
    bench.run_s(600);
    let before = bench.started.len();
    bench.run_s(3600);
    assert_eq!(bench.started.len(), before, "tried again after a start");
    bench.offer("o2", "exporters: {another: {}}\n");
    bench.run_s(120);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(!bench.current().contains("dies-later"));
}

#[test]
fn destination_that_the_validator_refuses_is_not_searched_for_in_the_files() {
    let mut bench = calm();
    let before = bench.validated.len();
    bench.direct("d1", "http://127.0.0.1:9/invalid");
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", FAILED)));
    let read = bench.read_of_settings.last().unwrap();
    assert_eq!(
        read.error_message,
        "own_metrics: the validator refused the config (exit code 1): no such word"
    );
    assert_eq!(bench.validated.len(), before + 1);
}

#[test]
fn hup_that_leaves_own_telemetry_to_the_server_or_takes_it_back_is_obeyed_at_once() {
    let (on, off) = (
        settings("own_telemetry: [metrics]"),
        settings("own_telemetry: []"),
    );
    let mut bench = Bench::calm(&off, &[(FILE, GOOD)]);
    assert!(!bench.announces(REPORTS_OWN_METRICS));
    bench.hup(&on);
    bench.run_s(60);
    assert!(bench.announces(REPORTS_OWN_METRICS));
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    assert!(bench.current().contains(PLACE));

    bench.hup(&off);
    bench.run_s(60);
    assert!(!bench.announces(REPORTS_OWN_METRICS));
    assert!(!bench.current().contains(PLACE), "{}", bench.current());
    assert!(bench.is_good());
    bench.boot();
    bench.run_s(60);
    assert!(!bench.current().contains(PLACE), "{}", bench.current());

    // The server has read APPLIED and does not offer it again.
    bench.hup(&on);
    bench.run_s(60);
    assert!(bench.current().contains(PLACE), "{}", bench.current());
    assert!(bench.is_good());
    let before = bench.started.len();
    bench.hup(&on);
    bench.run_s(60);
    assert_eq!(bench.started.len(), before);
}

#[test]
fn destination_stays_in_a_built_in_default_config_over_a_start() {
    let settings = "profile: defaulted, own_telemetry: [metrics], apply: {probation: 10s}";
    let mut bench = Bench::calm(settings, &[]);
    assert!(bench.current().contains("built_in"));
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    let runs = bench.current();
    assert!(runs.contains("built_in") && runs.contains(PLACE), "{runs}");
    let before = bench.started.len();
    bench.boot();
    bench.run_s(600);
    assert_eq!(bench.current(), runs);
    assert_eq!(bench.started.len(), before + 1, "{:#?}", bench.started);
}

#[test]
fn what_an_earlier_life_sent_goes_on_without_a_server_until_the_settings_leave_it_to_none() {
    let two = settings("own_telemetry: [metrics, logs]");
    let mut bench = calm();
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert!(bench.current().contains(PLACE));
    bench.disk.connection = None;
    bench.settings_of(agent_of("", &settings("own_telemetry: [metrics]")));
    bench.boot();
    bench.run_s(60);
    bench.hup_with(agent_of("", &two));
    bench.run_s(60);
    assert!(bench.current().contains(PLACE), "{}", bench.current());
    bench.hup_with(agent_of("", &settings("own_telemetry: []")));
    bench.run_s(60);
    assert!(!bench.current().contains(PLACE), "{}", bench.current());
    assert!(bench.is_good() && bench.is_up());
}

fn logs(hash: &str, endpoint: &str) -> ServerToAgent {
    ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            own_logs: destinations(hash, endpoint).own_metrics,
            own_metrics: None,
            ..destinations(hash, endpoint)
        }),
        ..ServerToAgent::default()
    }
}

#[test]
fn destination_is_not_blamed_for_one_whose_trial_a_hup_left_without_an_answer() {
    let mut bench = calm();
    bench.direct("d1", "http://127.0.0.1:9/dies-at-start");
    while !bench.current().contains("dies-at-start") {
        bench.run(Duration::from_millis(1));
    }
    bench.hup(&settings("own_telemetry: [metrics, logs]"));
    bench.says(logs("d2", "http://127.0.0.1:9/v1/logs"));
    bench.run_s(120);
    assert_eq!(bench.directed(), Some(told("d2", APPLIED)));
    let runs = bench.current();
    assert!(
        runs.contains("/v1/logs") && !runs.contains("dies-at-start"),
        "{runs}"
    );
}

#[test]
fn destination_is_not_proven_by_what_was_before_it_whenever_an_offer_overtakes_it() {
    for wait in [0, 1, 2, 3, 5, 15, 40] {
        let mut bench = calm();
        bench.direct("d1", "http://127.0.0.1:9/dies-at-start");
        bench.run(Duration::from_millis(wait));
        bench.offer("o1", OFFER);
        bench.run_s(180);
        assert_eq!(bench.status(), told("o1", APPLIED), "{wait}");
        assert_eq!(bench.directed(), Some(told("d1", FAILED)), "{wait}");
        let applied = bench.read_of_settings.iter();
        let applied = applied.filter(|read| read.status == APPLIED).count();
        assert_eq!(applied, 0, "{wait}");
        assert!(!bench.current().contains("dies-at-start"), "{wait}");
    }
}

#[test]
fn link_leads_to_the_offered_server_after_a_hup_that_directs_other_kinds() {
    let home = "server: {endpoint: 'wss://home.example/v1/opamp'}";
    let other = "wss://other.example/v1/opamp";
    let mut bench = Bench::new(&settings("own_telemetry: [metrics]"), &[(FILE, GOOD)]);
    bench.allowed = u64::MAX;
    bench.settings_of(agent_of(home, &settings("own_telemetry: [metrics]")));
    bench.boot();
    bench.run_s(30);
    bench.says(ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            hash: b"c1".to_vec(),
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: other.to_owned(),
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        }),
        ..ServerToAgent::default()
    });
    bench.run_s(30);
    let link = |bench: &Bench| {
        let link = bench.engine.snapshot(bench.clock()).link;
        (link.endpoint, link.state, link.settings)
    };
    let there = (other.to_owned(), "connected", "offered");
    assert_eq!(link(&bench), there);
    bench.hup_with(agent_of(home, &settings("own_telemetry: [metrics, logs]")));
    bench.run_s(30);
    assert_eq!(link(&bench), there);
    assert!(bench.announces(0x80) && bench.announces(REPORTS_OWN_METRICS));
}

#[test]
fn destination_of_an_agent_without_local_layers_is_validated_and_leaves_its_offer_alone() {
    let mut bench = Bench::calm(
        "profile: layered, own_telemetry: [metrics], apply: {probation: 10s}",
        &[],
    );
    bench.offer("o1", OFFER);
    bench.run_s(60);
    bench.direct("d1", PLACE);
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d1", APPLIED)));
    let status = bench.engine.snapshot(bench.clock()).status;
    assert_eq!((status.as_str(), bench.validated.len()), ("running", 2));
    bench.direct("d2", "http://127.0.0.1:9/invalid");
    bench.run_s(60);
    assert_eq!(bench.directed(), Some(told("d2", FAILED)));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), told("o1", APPLIED));
}

#[test]
fn offer_without_local_layers_stays_the_servers_when_a_hup_changes_what_is_put_around_it() {
    let settings = "profile: layered, apply: {probation: 10s}";
    let mut bench = Bench::calm(settings, &[]);
    bench.offer("o1", OFFER);
    bench.run_s(60);
    bench.hup(&format!(
        "{settings}, description: {{non_identifying_attributes: {{site: SOMETHING}}}}"
    ));
    bench.run_s(60);
    assert!(bench.current().contains("SOMETHING"), "{}", bench.current());
    let status = bench.engine.snapshot(bench.clock()).status;
    assert_eq!((status.as_str(), bench.validated.len()), ("running", 2));
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.status(), told("o1", APPLIED));
}

#[test]
fn destination_in_force_stays_when_the_next_fails_after_a_hup_that_changes_the_server() {
    for server in ["", "server: {endpoint: 'ws://127.0.0.1:2/v1/opamp'}"] {
        let mut bench = calm();
        bench.direct("d1", PLACE);
        bench.run_s(60);
        bench.direct("d2", "http://127.0.0.1:9/dies-at-start");
        while !bench.current().contains("dies-at-start") {
            bench.run(Duration::from_millis(1));
        }
        bench.hup_with(agent_of(server, &settings("own_telemetry: [metrics]")));
        bench.run_s(120);
        bench.edit(FILE, "receivers: {better: {}}\n");
        bench.run_s(60);
        let runs = bench.current();
        assert!(runs.contains("better") && runs.contains(PLACE), "{runs}");
    }
}
