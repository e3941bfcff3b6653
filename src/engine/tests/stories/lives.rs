//! The supervisor is killed, and starts again.

use std::time::Duration;

use super::super::rig::There;
use super::tape::Tape;
use super::{House, MUTE, OFFER, calm};
use crate::engine::message::{ChildNote, Inheritance, InheritedOffer, OfferedFile};
use crate::units::OfferHash;

/// What is told of a life that begins anew.
const AGAIN: &[&str] = &[
    "journal",
    "server reads: ",
    "spawn",
    "signal",
    "adopted",
    "left-over",
    "disk: current",
    "disk: last good",
];

#[test]
fn killed_at_any_step_of_a_good_offer_the_next_life_goes_on_with_it() {
    let steps = [
        "Intent",
        "disk: stage",
        "Staged",
        "run /bin/sh",
        "Validated",
        "disk: current is",
        "Promoted",
        "Signalled",
        "Probation",
        "disk: last good is",
        "Committed",
    ];
    let mut told = Tape::default();
    for step in steps {
        let mut house = calm(MUTE);
        house.offer("it", "o1", OFFER);
        house.until(step);
        house.forget();
        house.tape.only(AGAIN);
        house.dies();
        house.run_s(5);
        house.boot();
        house.run_s(60);
        told.chapter(&format!("After {step:?}"), &house.tape);
    }
    told.is_as_told(
        "killed_in_offer",
        "Killed at any step of an offer, the next life goes on with it or closes it",
    );
}

#[test]
fn killed_at_any_step_of_a_rollback_the_next_life_goes_back() {
    let mut told = Tape::default();
    for step in [
        "rejected are",
        "disk: read",
        "disk: current is",
        "RolledBack",
        "spawn",
    ] {
        let mut house = calm(MUTE);
        house.offer("it", "o1", "exporters: {dies-later: {}}\n");
        house.until("to=\"probation\"");
        house.until("rolling back");
        if step != "rejected are" {
            house.until(step);
        }
        house.forget();
        house.tape.only(AGAIN);
        house.dies();
        house.run_s(5);
        house.boot();
        house.run_s(60);
        house.status();
        told.chapter(&format!("After {step:?}"), &house.tape);
    }
    told.is_as_told(
        "killed_in_rollback",
        "Killed at any step of a rollback, the next life comes to the same end",
    );
}

#[test]
fn config_that_kills_us_is_undone() {
    let mut told = Tape::default();
    for step in ["Staged", "Signalled"] {
        let mut house = calm(MUTE);
        house.tape.only(AGAIN);
        house.offer("it", "o1", OFFER);
        house.until(step);
        for _ in 0..5 {
            house.dies();
            house.boot();
            house.run(Duration::from_millis(1));
        }
        house.run_s(60);
        house.status();
        told.chapter(&format!("After {step:?}"), &house.tape);
    }
    // An ordered stop is no mark against it.
    let mut house = calm(MUTE);
    house.tape.only(AGAIN);
    house.offer("it", "o1", OFFER);
    house.until("Signalled");
    for _ in 0..5 {
        house.terminate();
        house.run_s(10);
        house.boot();
        house.run(Duration::from_millis(1));
    }
    house.run_s(60);
    told.chapter("With ordered stops", &house.tape);
    told.is_as_told(
        "killed_again_and_again",
        "A config in whose window we are killed again and again is undone; ordered stops do not count",
    );
}

#[test]
fn child_goes_on_under_the_next_life() {
    let mut told = Tape::default();
    for (what, settings) in [
        ("mute", MUTE),
        (
            "with health",
            "it: {profile: answering, executable: /bin/sh, apply: {probation: 10s}}",
        ),
        (
            "restart",
            "it: {profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], on_supervisor_death: restart}",
        ),
        (
            "end",
            "it: {profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], on_supervisor_death: end}",
        ),
    ] {
        let mut house = House::of(settings);
        house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
        house.run_s(90);
        house.forget();
        house.dies();
        house.run_s(5);
        house.boot();
        house.run_s(20);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "adoption",
        "A child of an earlier life goes on where the settings let it, else it is stopped first",
    );
}

#[test]
fn child_that_is_not_known_well_enough_is_stopped_first() {
    let mut told = Tape::default();
    for what in [
        "told to end",
        "not written down",
        "another start",
        "another revision",
        "rejected",
        "outdated",
        "current is empty",
    ] {
        let mut house = calm(MUTE);
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        if what == "outdated" {
            house.tape.only(&[]);
        }
        let note = house.child_note("it");
        house.forget();
        house.dies();
        let current = house.room("it").disk.current.clone();
        let leftover = match what {
            "told to end" => Err("it was told to end already".to_owned()),
            "not written down" => Ok(ChildNote::default()),
            "another start" => Ok(ChildNote {
                start: "0000".to_owned(),
                ..note
            }),
            "another revision" => Ok(ChildNote {
                revision: Some("1700000000000-00000000".parse().unwrap()),
                ..note
            }),
            "outdated" => Ok(ChildNote {
                outdated: true,
                ..note
            }),
            _ => Ok(note),
        };
        match what {
            "current is empty" => house.room("it").disk.current = None,
            "rejected" => house.reject_current("it"),
            _ => {}
        }
        house.room("it").leftover_note = Some(leftover);
        assert!(current.is_some());
        house.boot();
        house.run_s(30);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "adoption_refused",
        "A child is taken over only when it is known that it runs what it would be given now",
    );
}

#[test]
fn child_that_runs_another_config_is_told_anew_only_inside_a_reload_by_hup() {
    let mut told = Tape::default();
    for (what, apply, at) in [
        ("nothing is under way", "", "Committed"),
        (
            "it is reloaded by a restart",
            ", reload: restart",
            "Promoted",
        ),
        ("it is reloaded by HUP", "", "Promoted"),
    ] {
        let mut house = House::of(&format!(
            "it: {{profile: naming, executable: /bin/sh, apply: {{probation: 10s, proof_timeout: 20s{apply}}}}}"
        ));
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
        house.run_s(60);
        let first = house.child_note("it");
        house.offer_files("it", "o2", &[("a.yaml", "two: 2\n")]);
        house.until(at);
        house.forget();
        house.tape.only(AGAIN);
        house.dies();
        house.room("it").leftover_note = Some(Ok(first));
        house.boot();
        house.run_s(150);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "adoption_behind",
        "A child that runs an earlier config is told anew by HUP where that was under way, else it is stopped first",
    );
}

#[test]
fn child_that_never_shows_its_config_has_the_time_of_a_proof_and_one_that_talks_to_us_more() {
    let mut told = Tape::default();
    for (profile, file) in [("naming", "a.yaml"), ("adjutant", "collect.yaml")] {
        let mut house = House::of(&format!(
            "it: {{profile: {profile}, executable: /bin/sh, apply: {{probation: 10s, proof_timeout: 20s}}}}"
        ));
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[(file, "one: 1\n")]);
        house.run_s(60);
        house.offer_files("it", "o2", &[(file, "silent: 1\n")]);
        house.until("signal 1 to");
        house.forget();
        house.tape.only(AGAIN);
        house.dies();
        house.run_s(2);
        house.boot();
        house.run_s(150);
        house.status();
        told.chapter(profile, &house.tape);
    }
    told.is_as_told(
        "adoption_silent",
        "A child of an earlier life that does not show its config: how long it is waited for",
    );
}

#[test]
fn child_that_had_proven_its_config_is_trusted_until_it_is_heard_of_or_was_silent_for_too_long() {
    let mut told = Tape::default();
    for what in ["heard of", "never heard of"] {
        let mut house =
            House::of("it: {profile: adjutant, executable: /bin/sh, apply: {probation: 10s}}");
        house.boot();
        house.run_s(10);
        house.offer_files("it", "o1", &[("collect.yaml", "one: 1\n")]);
        house.run_s(60);
        house.forget();
        house.dies();
        house.boot();
        house.run_s(20);
        house.status();
        if what == "heard of" {
            house.child_comes_back("it");
            house.run_s(10);
            house.child_hangs_up("it");
            house.run_s(10);
            house.status();
        }
        house.run_s(120);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "adoption_trust",
        "A child of an earlier life counts as well until it was heard of, or not for too long",
    );
}

#[test]
fn child_that_was_told_by_hup_goes_on_where_that_can_be_known() {
    let mut told = Tape::default();
    for profile in ["counting", "naming", "adjutant"] {
        let file = if profile == "adjutant" {
            "collect.yaml"
        } else {
            "a.yaml"
        };
        for at in [
            "Promoted",
            "signal 1",
            "Signalled",
            "Probation",
            "Committed",
        ] {
            let mut house = House::of(&format!(
                "it: {{profile: {profile}, executable: /bin/sh, apply: {{probation: 10s, proof_timeout: 20s}}}}"
            ));
            house.boot();
            house.run_s(10);
            house.offer_files("it", "o1", &[(file, "one: 1\n")]);
            house.run_s(60);
            house.offer_files("it", "o2", &[(file, "two: 2\n")]);
            house.until(at);
            house.forget();
            house.tape.only(AGAIN);
            house.dies();
            house.run_s(2);
            house.boot();
            house.run_s(150);
            house.status();
            told.chapter(&format!("{profile}, after {at:?}"), &house.tape);
        }
    }
    told.is_as_told(
        "adoption_in_offer",
        "A child that was told something shortly before we were killed goes on, is told anew, or is started anew",
    );
}

#[test]
fn start_finds_settings_or_files_that_have_changed() {
    let mut told = Tape::default();
    for what in [
        "edited",
        "edited, invalid",
        "gone",
        "without a server",
        "drifted",
    ] {
        let mut house = calm(MUTE);
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        house.forget();
        house.tape.only(&[
            "journal",
            "server reads",
            "spawn",
            "signal",
            "WARNING",
            "ERROR",
            "disk: stage",
            "disk: verify",
        ]);
        house.dies();
        match what {
            "edited" => house.file("it", "/etc/a.yaml", "receivers: {edited: {}}\n"),
            "edited, invalid" => house.file("it", "/etc/a.yaml", "receivers: {invalid: {}}\n"),
            "gone" => house.room("it").disk.local.clear(),
            "drifted" => {
                house.room("it").start_drift = vec![crate::engine::message::DriftedFile {
                    path: "local/a.yaml".to_owned(),
                    expected: String::new(),
                    found: None,
                }];
            }
            _ => house.config.server = None,
        }
        house.previous_end = Some("it was killed".to_owned());
        house.boot();
        house.run_s(60);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "start_changed",
        "A start finds local files or settings that are not what they were",
    );
}

fn inherited(hash: &str, text: &str) -> InheritedOffer {
    InheritedOffer {
        hash: OfferHash::new(hash.as_bytes()),
        files: vec![OfferedFile {
            name: "config.yaml".to_owned(),
            content_type: "text/yaml".to_owned(),
            body: text.as_bytes().to_vec(),
        }],
    }
}

#[test]
fn what_opampsupervisor_left_is_taken_up_once() {
    let good = inherited("o1", OFFER);
    let bad = inherited("o1", "exporters: {invalid: {}}\n");
    let dies = inherited("o1", "exporters: {dies-at-start: {}}\n");
    let worked = inherited("o0", "exporters: {worked: {}}\n");
    let stuck = inherited("o0", "exporters: {dies-at-start: {}, worked: {}}\n");
    let mut told = Tape::default();
    for (what, received, failed, working) in [
        ("received", Some(good.clone()), None, None),
        (
            "received, and it had failed",
            Some(good.clone()),
            Some("no"),
            Some(worked.clone()),
        ),
        ("received is refused", Some(bad), None, Some(worked.clone())),
        ("received dies", Some(dies.clone()), None, Some(worked)),
        ("both die", Some(dies), None, Some(stuck)),
        ("the same twice", Some(good.clone()), None, Some(good)),
    ] {
        let mut house = House::of(MUTE);
        house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
        house.tape.only(&[
            "journal",
            "server reads",
            "spawn",
            "opampsupervisor",
            "WARNING",
            "ERROR",
        ]);
        house.room("it").inheritance = Some(Box::new(Inheritance {
            destinations: None,
            received,
            failed: failed.map(str::to_owned),
            working,
        }));
        house.boot();
        house.run_s(90);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "inheritance",
        "What opampsupervisor left is tried like any offer, each once, before the host's own config",
    );
}

#[test]
fn inherited_offer_is_tried_once_also_over_a_death() {
    let mut told = Tape::default();
    for step in ["Intent", "Staged", "Signalled", "Failed"] {
        let mut house = House::of(MUTE);
        house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
        house
            .tape
            .only(&["journal", "server reads: o", "spawn", "opampsupervisor"]);
        let text = match step {
            "Failed" => "exporters: {invalid: {}}\n",
            _ => OFFER,
        };
        let left = Inheritance {
            destinations: None,
            received: Some(inherited("o1", text)),
            failed: None,
            working: Some(inherited("o0", "exporters: {worked: {}}\n")),
        };
        house.room("it").inheritance = Some(Box::new(left.clone()));
        house.boot();
        house.until(step);
        house.dies();
        // Nothing of ours is there as long as nothing was promoted.
        if house.room("it").disk.current.is_none() {
            house.room("it").inheritance = Some(Box::new(left));
        }
        house.boot();
        house.run_s(60);
        told.chapter(&format!("After {step:?}"), &house.tape);
    }
    told.is_as_told(
        "inheritance_killed",
        "What was left is tried once, also over a death of ours",
    );
}

#[test]
fn host_without_a_server_waits_for_a_person() {
    let mut house = House::with(
        "agents: {it: {profile: mute, executable: /bin/sh, apply: {probation: 10s}}}\n",
    );
    house.boot();
    house.run_s(5);
    house.status();
    house.apply("it", "config.yaml", OFFER);
    house.run_s(60);
    house.status();
    house.terminate();
    house.run_s(10);
    house.tape.is_as_told(
        "without_server",
        "Without a server a host waits for what a person applies",
    );
}

#[test]
fn first_config_that_cannot_be_used_is_said() {
    let mut told = Tape::default();
    for (what, text) in [
        ("invalid", Some("receivers: {invalid: {}}\n")),
        ("dies", Some("receivers: {dies-at-start: {}}\n")),
        ("dies later", Some("receivers: {dies-later: {}}\n")),
        ("no YAML", Some("[")),
        ("not there", None),
    ] {
        let mut house = House::of(MUTE);
        house.tape.only(&[
            "journal",
            "server reads",
            "spawn",
            "WARNING",
            "ERROR",
            "disk: current",
        ]);
        if let Some(text) = text {
            house.file("it", "/etc/a.yaml", text);
        }
        house.boot();
        house.run_s(60);
        house.status();
        house.dies();
        house.boot();
        house.run_s(30);
        house.edit("it", "/etc/a.yaml", "receivers: {a: {}}\n");
        house.run_s(60);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "first_config_bad",
        "A first local config that cannot be used is said, and mending it is enough",
    );
}

#[test]
fn default_config_runs_until_there_is_another() {
    let mut house =
        House::of("it: {profile: mute_default, executable: /bin/sh, apply: {probation: 10s}}");
    house.server_is("it", There::Away);
    house.boot();
    house.run_s(30);
    house.status();
    house.server_is("it", There::Up);
    house.run_s(90);
    house.offer("it", "o1", "exporters: {dies-at-start: {}}\n");
    house.run_s(60);
    house.status();
    house.offer("it", "o2", OFFER);
    house.run_s(60);
    house.status();
    house.dies();
    house.boot();
    house.run_s(30);
    house.status();
    house.tape.is_as_told(
        "default_config",
        "The built-in default runs until there is something else",
    );
}

#[test]
fn child_whose_program_was_replaced_goes_on_until_its_next_change() {
    let mut house =
        House::of("it: {profile: answering, executable: /bin/sh, apply: {probation: 10s}}");
    house.boot();
    house.run_s(10);
    house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
    house.run_s(60);
    let note = ChildNote {
        outdated: true,
        ..house.child_note("it")
    };
    house.forget();
    house.tape.only(AGAIN);
    house.dies();
    house.room("it").leftover_note = Some(Ok(note));
    house.boot();
    house.run_s(20);
    for (hash, text) in [("o2", "two: 2\n"), ("o3", "three: 3\n")] {
        house.offer_files("it", hash, &[("a.yaml", text)]);
        house.run_s(30);
    }
    house.tape.is_as_told(
        "adoption_outdated",
        "A child whose program was replaced meanwhile gets a new process with its next config, and HUPs after that",
    );
}
