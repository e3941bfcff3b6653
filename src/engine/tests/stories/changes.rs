//! What changes on the host: local files, files of what runs, settings.

use super::super::rig::There;
use super::tape::Tape;
use super::{House, MUTE, OFFER, calm};

#[test]
fn local_file_that_changes_is_applied() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house.edit("it", "/etc/a.yaml", "receivers: {edited: {}}\n");
    house.run_s(60);
    house.status();
    house.edit("it", "/etc/a.yaml", "receivers: {invalid: {}}\n");
    house.run_s(60);
    house.status();
    house.edit("it", "/etc/a.yaml", "receivers: {dies-at-start: {}}\n");
    house.run_s(60);
    house.status();
    house.edit("it", "/etc/a.yaml", "receivers: {edited: {}}\n");
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "local_edit",
        "A local file that changes is an offer of the operator; what is refused is not tried again by itself",
    );
}

#[test]
fn files_of_what_runs_are_put_right() {
    let mut told = Tape::default();
    for drift in ["restore", "report", "off"] {
        let mut house = calm(&format!(
            "it: {{profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], \
             apply: {{probation: 10s, drift: {drift}}}}}"
        ));
        house.tape.all = true;
        house.spoil("it", "local/a.yaml");
        house.run_s(20);
        house.status();
        house.command(crate::engine::message::Command::Restart { agent: None });
        house.run_s(20);
        house.room("it").drift.clear();
        house.offer("it", "o1", OFFER);
        house.run_s(60);
        house.status();
        told.chapter(drift, &house.tape);
    }
    told.is_as_told(
        "drift",
        "Files of what runs that somebody changes are seen, said, and put right where the settings say so",
    );
}

#[test]
fn drift_that_cannot_be_put_right_is_said() {
    use crate::engine::message::FaultKind;
    let mut house = calm(MUTE);
    house.room("it").faults = vec![("Restore", FaultKind::Full), ("Verify", FaultKind::Device)];
    house.spoil("it", "local/a.yaml");
    house.run_s(20);
    house.status();
    house.spoil("it", "other.yaml");
    house.run_s(20);
    house.status();
    house.tape.is_as_told(
        "drift_stays",
        "Where changed files cannot be put back, or cannot be looked at, that is said and counted",
    );
}

#[test]
fn settings_are_read_again() {
    let of = |more: &str| {
        format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{it: {{profile: mute, executable: \
             /bin/sh, config_files: [{more}], apply: {{probation: 10s}}}}}}\n"
        )
    };
    let mut house = calm(MUTE);
    house.file("it", "/etc/b.yaml", "exporters: {b: {}}\n");
    house.hang_up();
    house.run_s(30);
    house.status();
    house.hup(&of("/etc/a.yaml, /etc/b.yaml"));
    house.run_s(60);
    house.status();
    house.bad_settings();
    house.run_s(1);
    house.hup(&of(""));
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "settings_again",
        "A HUP reads the settings again and applies what they change; bad ones change nothing",
    );
}

#[test]
fn fallback_runs_until_the_server_is_reached() {
    let bare = "it: {profile: mute, executable: /bin/sh, fallback_configs: [/etc/f.yaml], apply: {probation: 10s}}";
    let full = "it: {profile: mute, executable: /bin/sh, fallback_configs: [/etc/f.yaml], \
                config_files: [/etc/a.yaml], apply: {probation: 10s}}";
    let mut told = Tape::default();
    for (what, settings) in [("nothing else", bare), ("local files", full)] {
        for there in [There::Away, There::Silent, There::Up] {
            let mut house = House::of(settings);
            house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
            house.file("it", "/etc/f.yaml", "receivers: {fallback: {}}\n");
            house.tape.only(&[
                "journal",
                "server",
                "spawn",
                "disk: current",
                "dial",
                "WARNING",
            ]);
            house.server_is("it", there);
            house.boot();
            house.run_s(60);
            house.status();
            if there == There::Away {
                house.dies();
                house.boot();
                house.run_s(20);
                house.hang_up();
                house.run_s(20);
            }
            house.server_is("it", There::Up);
            house.run_s(120);
            house.offer("it", "o1", OFFER);
            house.run_s(60);
            house.status();
            house.dies();
            house.server_is("it", There::Away);
            house.boot();
            house.run_s(60);
            told.chapter(&format!("{what}, server {there:?}"), &house.tape);
        }
    }
    told.is_as_told(
        "fallback",
        "Before the server was ever reached a fallback config runs, and after that never again",
    );
}
