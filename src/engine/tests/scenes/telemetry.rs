//! What becomes of places for an agent's own telemetry: tried, refused, withdrawn, taken up again, given up.

use opamp_client::messages::{
    ConnectionSettingsOffers, Header, Headers, ServerToAgent, TelemetryConnectionSettings,
};

use super::OFFER;
use crate::engine::tests::rig::{Bench, There, agent_of};

const FILE: &str = "/etc/a.yaml";
const GOOD: &str = "receivers: {good: {}}\n";
const ALL: &str = "profile: layered, config_files: [/etc/a.yaml], own_telemetry: [metrics, logs, traces], \
                   apply: {probation: 10s}";
const SOME: &str =
    "profile: layered, config_files: [/etc/a.yaml], own_telemetry: [logs], apply: {probation: 10s}";
const NONE: &str = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";

fn place(endpoint: &str) -> TelemetryConnectionSettings {
    TelemetryConnectionSettings {
        destination_endpoint: endpoint.to_owned(),
        ..TelemetryConnectionSettings::default()
    }
}

fn offers(hash: &str, metrics: Option<&str>, logs: Option<&str>) -> ServerToAgent {
    ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            hash: hash.as_bytes().to_vec(),
            own_metrics: metrics.map(place),
            own_logs: logs.map(place),
            ..ConnectionSettingsOffers::default()
        }),
        ..ServerToAgent::default()
    }
}

#[test]
fn places_for_own_telemetry_are_tried_told_and_outlive_a_restart() {
    let mut bench = Bench::told(ALL, &[(FILE, GOOD)]);
    bench.boot();
    bench.run_s(20);
    bench.chapter("Metrics and logs are sent somewhere");
    bench.says(offers(
        "d1",
        Some("http://127.0.0.1:9/v1/metrics"),
        Some("http://127.0.0.1:9/v1/logs"),
    ));
    bench.run_s(30);
    bench.chapter("The same again, and one that is no place");
    bench.direct("d1", "http://127.0.0.1:9/v1/metrics");
    bench.run_s(5);
    bench.direct("d2", "no place");
    bench.run_s(5);
    bench.chapter("With a header and a certificate authority");
    let header = Header {
        key: "x-key".to_owned(),
        value: "hush".to_owned(),
    };
    let mut offer = offers("d3", Some("https://m.example/v1/metrics"), None);
    if let Some(metrics) = offer
        .connection_settings
        .as_mut()
        .and_then(|it| it.own_metrics.as_mut())
    {
        metrics.headers = Some(Headers {
            headers: vec![header],
        });
    }
    bench.says(offer);
    bench.run_s(30);
    bench.chapter("Started again");
    bench.boot();
    bench.run_s(20);
    bench.chapter("The settings leave metrics to no server any more, then anything");
    bench.hup(SOME);
    bench.run_s(30);
    bench.hup(NONE);
    bench.run_s(30);
    bench.hup(ALL);
    bench.run_s(30);
    bench.chapter("Withdrawn");
    bench.says(offers("d4", Some(""), Some("")));
    bench.run_s(30);
    bench.stops();
    bench.is("destinations", include_str!("destinations.txt"));
}

#[test]
fn places_that_a_child_does_not_hold_are_given_up_and_said() {
    let mut bench = Bench::told(ALL, &[(FILE, GOOD)]);
    bench.boot();
    bench.run_s(20);
    bench.chapter("Refused by the validator");
    bench.direct("d1", "http://127.0.0.1:9/invalid");
    bench.run_s(10);
    bench.chapter("It does not start with it");
    bench.direct("d2", "http://127.0.0.1:9/dies-at-start");
    bench.run_s(60);
    bench.chapter("It is proven, and dies later");
    bench.direct("d3", "http://127.0.0.1:9/dies-later");
    bench.run_s(60);
    bench.chapter("An offer comes while one is tried");
    bench.direct("d4", "http://127.0.0.1:9/v1/metrics");
    bench.run_s(1);
    bench.offer("o1", OFFER);
    bench.run_s(60);
    bench.chapter("One comes while an offer is tried");
    bench.offer("o2", "exporters: {other: {}}\n");
    bench.run_s(1);
    bench.direct("d5", "http://127.0.0.1:9/two");
    bench.run_s(60);
    bench.chapter("One comes while something else is tried for ever");
    bench.offer("o3", "exporters: {dies-at-start: {}}\n");
    bench.run_s(1);
    bench.direct("d6", "http://127.0.0.1:9/three");
    bench.run_s(120);
    bench.is("not_held", include_str!("not_held.txt"));
}

#[test]
fn place_for_own_telemetry_is_kept_for_the_config_that_comes() {
    let mut bench = Bench::told(
        "profile: layered, own_telemetry: [metrics], apply: {probation: 10s}",
        &[],
    );
    bench.boot();
    bench.run_s(2);
    bench.chapter("Nothing runs");
    bench.direct("d1", "http://127.0.0.1:9/v1/metrics");
    bench.run_s(5);
    bench.chapter("An offer comes");
    bench.offer("o1", OFFER);
    bench.run_s(20);
    bench.chapter("No server, and started again");
    bench.server_is(There::Away);
    bench.boot();
    bench.run_s(20);
    bench.is("kept_place", include_str!("kept_place.txt"));
}

#[test]
fn place_that_waits_too_long_or_whose_files_are_refused_is_answered_all_the_same() {
    let slow = "profile: layered, config_files: [/etc/a.yaml], own_telemetry: [metrics], apply: {probation: 100s}";
    let mut bench = Bench::told(slow, &[(FILE, GOOD)]);
    bench.boot();
    bench.run_s(5);
    bench.chapter("Another config is tried all the time");
    bench.direct("d1", "http://127.0.0.1:9/one");
    bench.run_s(60);
    bench.run_s(60);
    bench.chapter("Two come one after the other");
    bench.direct("d2", "http://127.0.0.1:9/two");
    bench.run_s(1);
    bench.direct("d3", "http://127.0.0.1:9/three");
    bench.run_s(150);
    bench.chapter("The disk does not keep its files");
    bench.refuses = "KeepMaterial";
    let header = Header {
        key: "x-key".to_owned(),
        value: "hush".to_owned(),
    };
    let mut offer = offers("d4", Some("https://m.example/v1/metrics"), None);
    if let Some(settings) = &mut offer.connection_settings
        && let Some(metrics) = &mut settings.own_metrics
    {
        metrics.headers = Some(Headers {
            headers: vec![header],
        });
    }
    bench.says(offer);
    bench.run_s(5);
    bench.refuses = "nothing";
    bench.chapter("Started again without a server and without what was stored");
    bench.disk.connection = None;
    bench.settings_of(agent_of("", slow));
    bench.boot();
    bench.run_s(120);
    bench.chapter("With a server, which has said nothing of it");
    bench.settings_of(agent_of(
        "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}",
        slow,
    ));
    bench.boot();
    bench.run_s(120);
    bench.is("waits", include_str!("waits.txt"));
}

#[test]
fn place_of_a_program_with_layers_is_told_and_left_out_for_one_without() {
    let mut bench = Bench::told(
        "profile: layered, own_telemetry: [metrics], apply: {probation: 10s}",
        &[],
    );
    bench.allowed = u64::MAX;
    bench.boot();
    bench.run_s(2);
    bench.direct("d1", "http://127.0.0.1:9/v1/metrics");
    bench.run_s(2);
    bench.chapter("Its program is another, which has no layers");
    let server = "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}";
    bench.settings_of(agent_of(server, "profile: plain, apply: {probation: 10s}"));
    bench.boot();
    bench.run_s(2);
    bench.is("without_layers", include_str!("without_layers.txt"));
}
