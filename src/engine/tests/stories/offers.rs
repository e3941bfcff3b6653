//! What becomes of offers.

use std::time::Duration;

use super::super::rig::There;
use super::tape::Tape;
use super::{House, MUTE, OFFER, calm};
use crate::engine::message::FaultKind;

#[test]
fn first_start_runs_the_local_files() {
    let mut house = House::of(MUTE);
    house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
    house.boot();
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "first_start",
        "A first start runs the local files, once they have been proven",
    );
}

#[test]
fn offer_that_proves_itself_is_committed() {
    let mut house = calm(MUTE);
    house.tape.all = true;
    house.offer("it", "o1", OFFER);
    house.run_s(8);
    house.status();
    house.run_s(60);
    house.status();
    house.offer("it", "o2", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "offer_commits",
        "An offer that proves itself is committed; the same config under another hash is not applied again",
    );
}

#[test]
fn offer_that_the_validator_refuses_touches_nothing() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", "exporters: {invalid: {}}\n");
    house.run_s(30);
    house.status();
    for (hash, word) in [("o2", "hangs"), ("o3", "crashes-it"), ("o4", "unstartable")] {
        house.offer("it", hash, &format!("exporters: {{{word}: {{}}}}\n"));
        house.run_s(120);
    }
    house.status();
    // What was refused for a reason of its own is known; what the host could not do is tried again.
    house.offer("it", "o5", "exporters: {invalid: {}}\n");
    house.run_s(1);
    house.offer("it", "o4", "exporters: {unstartable: {}}\n");
    house.run_s(1);
    house.offer("it", "o4", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "offer_refused",
        "What the validator refuses, or cannot judge, touches nothing that runs",
    );
}

#[test]
fn offer_that_does_not_come_up_is_rolled_back() {
    let mut house = calm(MUTE);
    house.tape.all = true;
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house.offer("it", "o2", "exporters: {dies-at-start: {}}\n");
    house.run_s(60);
    house.status();
    house.offer("it", "o3", "exporters: {dies-at-start: {}}\n");
    house.run_s(1);
    house.offer("it", "o3", "exporters: {dies-at-start: {}}\n");
    house.run_s(1);
    house.status();
    house.tape.is_as_told(
        "offer_rolled_back",
        "A config under which the child dies twice is gone back from, and is not tried again under another hash",
    );
}

#[test]
fn offer_that_dies_in_its_window_is_rolled_back() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", "exporters: {dies-later: {}}\n");
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "offer_dies_in_probation",
        "A config under which the child dies in its window is gone back from",
    );
}

#[test]
fn newer_offer_takes_the_place_of_one_at_any_stage() {
    let stages = [
        "disk: read local",
        "Intent",
        "disk: stage",
        "Staged",
        "run /bin/sh",
        "Validated",
        "disk: current is",
        "Promoted",
        "Signalled",
        "to=\"proving\"",
        "Probation",
        "to=\"probation\"",
        "disk: last good is",
        "Committed",
    ];
    let mut told = Tape::default();
    for stage in stages {
        let mut house = calm(MUTE);
        house
            .tape
            .only(&["journal", "server reads: o", "spawn", "cancel"]);
        house.offer("it", "o1", OFFER);
        house.until(stage);
        house.offer("it", "o2", "exporters: {newer: {}}\n");
        house.run_s(60);
        told.chapter(&format!("At {stage:?}"), &house.tape);
    }
    told.is_as_told(
        "offer_superseded",
        "A newer offer takes the place of the one before, at the next place where nothing is half done",
    );
}

#[test]
fn offers_without_files_mean_what_the_settings_say() {
    let mut told = Tape::default();
    for means in ["keep", "default", "stop"] {
        let mut house = calm(&format!(
            "it: {{profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], \
             apply: {{probation: 10s, empty_config: {means}}}}}"
        ));
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        house.forget();
        house.offer_files("it", "o2", &[]);
        house.run_s(60);
        house.status();
        house.offer("it", "o3", "exporters: {again: {}}\n");
        house.run_s(60);
        told.chapter(means, &house.tape);
    }
    told.is_as_told(
        "offer_empty",
        "An offer without files keeps what runs, brings the default or stops the child",
    );
}

#[test]
fn answers_to_the_server_follow_the_settings() {
    let mut told = Tape::default();
    for apply in [
        "rollback: false",
        "report: on_proof",
        "after_rollback: report_good",
        "accept_remote_config: false",
        "validate: false",
    ] {
        let mut house = calm(&format!(
            "it: {{profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], \
             apply: {{probation: 10s, {apply}}}}}"
        ));
        house
            .tape
            .only(&["journal", "server reads", "spawn", "run "]);
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        house.offer("it", "o2", "exporters: {dies-later: {}}\n");
        house.run_s(90);
        told.chapter(apply, &house.tape);
    }
    told.is_as_told(
        "offer_settings",
        "When APPLIED and FAILED are said, and whether anything is gone back from, follows the settings",
    );
}

#[test]
fn offers_that_nothing_can_be_gone_back_from_end_in_a_hold() {
    let mut house = House::of("it: {profile: mute, executable: /bin/sh, apply: {probation: 10s}}");
    house.boot();
    house.run_s(30);
    house.status();
    house.offer("it", "o1", "exporters: {dies-later: {}}\n");
    house.run_s(60);
    house.status();
    house.offer("it", "o2", "exporters: {dies-at-start: {}}\n");
    house.run_s(60);
    house.status();
    house.offer("it", "o3", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "offer_without_refuge",
        "Without any config of the host's own the first offer has nothing behind it",
    );
}

#[test]
fn rollback_to_a_config_that_does_not_come_up_either_ends_at_the_base() {
    let mut told = Tape::default();
    for what in ["an offer", "a local file"] {
        let mut house = calm(MUTE);
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        house.forget();
        house
            .tape
            .only(&["journal", "server reads", "spawn", "ERROR", "WARNING"]);
        house.room("it").no_spawn = Some("cannot allocate memory");
        match what {
            "an offer" => house.offer("it", "o2", "exporters: {second: {}}\n"),
            _ => house.edit("it", "/etc/a.yaml", "receivers: {edited: {}}\n"),
        }
        house.run_s(60);
        house.status();
        house.room("it").no_spawn = None;
        house.run_s(120);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "rollback_fails",
        "Where no process can be started at all, the way back ends at the host's own config and a hold",
    );
}

#[test]
fn fault_of_a_bundle_is_looked_for() {
    let settings = "it: {profile: answering, executable: /bin/sh, validate: [validate, '{config_file}'], \
                    apply: {probation: 10s}}";
    let mut told = Tape::default();
    let bundles: [(&str, &[(&str, &str)]); 4] = [
        (
            "one of three",
            &[
                ("a.yaml", "a: 2"),
                ("b.yaml", "b: invalid"),
                ("c.yaml", "c: 2"),
            ],
        ),
        (
            "each of two",
            &[("a.yaml", "a: invalid"), ("b.yaml", "b: invalid")],
        ),
        (
            "the only one that changed",
            &[("a.yaml", "a: invalid"), ("b.yaml", "b: 1")],
        ),
        (
            "a new one",
            &[
                ("a.yaml", "a: 1"),
                ("b.yaml", "b: 1"),
                ("d.yaml", "d: invalid"),
            ],
        ),
    ];
    for (what, files) in bundles {
        let mut house = House::of(settings);
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[("a.yaml", "a: 1"), ("b.yaml", "b: 1")]);
        house.run_s(60);
        house.forget();
        house.tape.only(&[
            "trial",
            "run /bin/sh",
            "server reads: o",
            "journal",
            "DropTrial",
        ]);
        house.offer_files("it", "o2", files);
        house.run_s(30);
        told.chapter(what, &house.tape);
    }
    // A file of the host whose place an offered one has taken is in no revision, and yet it is a layer.
    let mut house = House::of(&settings.replace(
        "executable",
        "config_files: [/etc/x.yaml, /etc/b.yaml], executable",
    ));
    house.file("it", "/etc/x.yaml", "x: 1");
    house.file("it", "/etc/b.yaml", "b: 0");
    house.boot();
    house.run_s(30);
    house.offer_files("it", "o1", &[("a.yaml", "a: 1"), ("b.yaml", "b: 1")]);
    house.run_s(60);
    house.forget();
    house
        .tape
        .only(&["trial", "run /bin/sh", "server reads: o", "journal"]);
    house.offer_files("it", "o2", &[("a.yaml", "a: invalid"), ("b.yaml", "b: 2")]);
    house.run_s(30);
    told.chapter("over files of the host", &house.tape);
    // A newer offer ends the search; so does a stop, and a disk that takes no more.
    for end in ["a newer offer", "a stop", "a full disk"] {
        let mut house = House::of(settings);
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[("a.yaml", "a: 1"), ("b.yaml", "b: 1")]);
        house.run_s(60);
        house.forget();
        house.tape.only(&[
            "trial",
            "run /bin/sh",
            "server reads: o",
            "journal",
            "DropTrial",
            "cancel",
        ]);
        house.offer_files("it", "o2", bundles[0].1);
        house.until("trial");
        house.run(Duration::from_millis(5));
        match end {
            "a stop" => house.terminate(),
            "a full disk" => house.room("it").faults = vec![("StageTrial", FaultKind::Full)],
            _ => house.offer_files("it", "o3", &[("a.yaml", "a: 3")]),
        }
        house.run_s(30);
        told.chapter(end, &house.tape);
    }
    told.is_as_told(
        "offer_search",
        "Of a bundle that is refused the file that is to blame is looked for",
    );
}

#[test]
fn server_that_goes_away_reaches_nobody() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(2);
    house.server_is("it", There::Away);
    house.run_s(60);
    house.status();
    house.server_is("it", There::Up);
    house.run_s(120);
    house.tape.is_as_told(
        "server_away",
        "A server that goes away changes nothing for a config that is on its way",
    );
}

#[test]
fn place_for_own_metrics_is_proven_as_an_offer_is() {
    let mut house = calm(MUTE);
    house.direct("it", "t1", "http://127.0.0.1:4318");
    house.run_s(60);
    house.status();
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "own_metrics",
        "Where the server wants the agent's own metrics is a layer of its config, tried like an offer",
    );
}
