//! Configs that need a certificate which is not there yet.

use std::time::Duration;

use super::House;
use super::tape::Tape;
use crate::engine::message::Command;

const DAY: Duration = Duration::from_hours(24);
/// Two files, of which one names the domains of a certificate.
const BUNDLE: &[(&str, &str)] = &[("a.yaml", "two: 2\n"), ("names.txt", "www.example.com\n")];

/// A pair that comes from files.
const OWN: &str =
    "certificates: {own: {source: files, files: {certificate: /etc/c.pem, key: /etc/k.pem}}}\n";

fn house(more: &str) -> House {
    let mut house = House::with(&format!(
        "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\n\
         agents: {{it: {{profile: answering, executable: /bin/sh, apply: {{probation: 10s, certificate_wait: 2m}}, \
         health: {{kind: process}}, {more}}}}}\n\
         certificates: {{own: {{source: files, domains_from: {{agent: it, file: names.txt}}, \
         files: {{certificate: /etc/c.pem, key: /etc/k.pem}}}}}}\n"
    ));
    house.boot();
    house.run_s(10);
    house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
    house.run_s(60);
    house.forget();
    house
}

#[test]
fn config_waits_for_the_pair_that_it_names() {
    let mut told = Tape::default();
    for what in [
        "comes",
        "does not come",
        "a newer offer",
        "a stop",
        "we are killed",
        "another is named",
        "no domain",
    ] {
        let mut house = house("");
        match what {
            "another is named" => house.offer_files(
                "it",
                "o2",
                &[("a.yaml", "file: /s/certificates/other/current/chain.pem\n")],
            ),
            "no domain" => house.offer_files(
                "it",
                "o2",
                &[("a.yaml", "a: 1\n"), ("names.txt", "not a domain\n")],
            ),
            _ => house.offer_files("it", "o2", BUNDLE),
        }
        house.run_s(30);
        house.status();
        match what {
            "comes" => house.issue(DAY),
            "a newer offer" => house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]),
            "a stop" => house.terminate(),
            "we are killed" => {
                house.dies();
                house.run_s(20);
                house.boot();
            }
            _ => {}
        }
        house.run_s(60);
        if what == "we are killed" {
            house.dies();
            house.boot();
        }
        house.run_s(60);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "gate",
        "A config that names a certificate waits for it: until it comes, its time is over, or something newer does",
    );
}

#[test]
fn config_that_held_once_waits_for_nothing() {
    let mut told = Tape::default();
    for what in ["by a person", "by the server"] {
        let mut house = house("");
        house.issue(Duration::from_secs(90));
        house.offer_files("it", "o2", BUNDLE);
        house.run_s(60);
        house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]);
        house.run_s(60);
        house.forget();
        // Its pair is not valid any more.
        match what {
            "by a person" => house.command(Command::Rollback {
                agent: None,
                to: None,
            }),
            _ => house.offer_files("it", "o4", BUNDLE),
        }
        house.run_s(180);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "gate_back",
        "What held once and is gone back to waits for no certificate; the same as an offer does",
    );
}

#[test]
fn only_config_of_a_host_waits_as_long_as_it_takes() {
    let mut house = House::with(
        "agents: {it: {profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], apply: {probation: 10s, \
         certificate_wait: 2m}}}\ncertificates: {own: {source: files, files: {certificate: /etc/c.pem, key: \
         /etc/k.pem}}}\n",
    );
    house.file(
        "it",
        "/etc/a.yaml",
        "receivers: {a: '/s/certificates/own/current/chain.pem'}\n",
    );
    house.boot();
    house.run_s(600);
    house.status();
    house.issue(DAY);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "gate_first",
        "The only config of a host waits for its certificate as long as it takes",
    );
}

#[test]
fn first_offer_and_local_change_wait_no_longer_than_the_settings_say() {
    let mut told = Tape::default();
    for (what, files) in [("a first offer", ""), ("a local change", "/etc/a.yaml")] {
        let mut house = House::with(&format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{it: {{profile: mute, executable: /bin/sh, \
             config_files: [{files}], apply: {{probation: 10s, certificate_wait: 2m}}}}}}\n{OWN}"
        ));
        house
            .tape
            .only(&["journal", "server reads: o", "spawn", "WARNING"]);
        let waiting = "receivers: {a: '/s/certificates/own/current/chain.pem'}\n";
        if what == "a first offer" {
            house.boot();
            house.run_s(10);
            house.offer("it", "o1", waiting);
        } else {
            house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
            house.boot();
            house.run_s(60);
            house.forget();
            house.edit("it", "/etc/a.yaml", waiting);
        }
        house.run_s(180);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "gate_over",
        "What is not the only config of a host waits as long as the settings say",
    );
}

#[test]
fn pair_that_came_while_nobody_was_there_is_read_by_an_adopted_child() {
    let mut told = Tape::default();
    for what in ["read before", "not read"] {
        let mut house = house("");
        house.issue(DAY);
        house.offer_files("it", "o2", BUNDLE);
        house.run_s(60);
        let mut note = house.child_note("it");
        if what == "read before" {
            note.pairs
                .insert("own".to_owned(), "07-01234567".to_owned());
        }
        house.forget();
        house
            .tape
            .only(&["signal", "adopted", "spawn", "certificate", "journal"]);
        house.dies();
        house.room("it").leftover_note = Some(Ok(note));
        house.boot();
        house.run_s(60);
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "gate_adopted",
        "A child that goes on is told of a pair that it cannot have read",
    );
}

#[test]
fn certificates_come_and_go_with_the_settings() {
    let of = |certificates: &str| {
        format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{it: {{profile: answering, executable: \
             /bin/sh, apply: {{probation: 10s, certificate_wait: 2m}}, health: {{kind: process}}}}}}\n{certificates}"
        )
    };
    let own =
        "certificates: {own: {source: files, files: {certificate: /etc/c.pem, key: /etc/k.pem}}}\n";
    let names_it = [("a.yaml", "two: '/s/certificates/own/current/chain.pem'\n")];
    let mut house = House::with(&of(""));
    house.boot();
    house.run_s(10);
    house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
    house.run_s(60);
    house.forget();
    house.hup(&of(own));
    house.run_s(5);
    house.status();
    house.offer_files("it", "o2", &names_it);
    house.run_s(5);
    house.status();
    house.issue(DAY);
    house.run_s(60);
    house.status();
    house.hup(&of(""));
    house.run_s(5);
    house.status();
    house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]);
    house.run_s(60);
    house.offer_files("it", "o4", &names_it);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "gate_settings",
        "A HUP brings a certificate, for which a config waits, and another takes it away: then its place is as any other",
    );
}

#[test]
fn new_pair_is_taken_up_once_a_program_that_logs_its_reloads_has_said_so() {
    let mut told = Tape::default();
    for (what, word) in [("it says so", "loud"), ("it says nothing", "silent")] {
        let mut house = House::with(&format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{it: {{profile: logging, executable: \
             /bin/sh, apply: {{probation: 10s, proof_timeout: 20s}}}}}}\n{OWN}"
        ));
        house.boot();
        house.issue(DAY);
        house.run_s(10);
        let text = format!("{word}: /s/certificates/own/current/chain.pem\n");
        house.offer_files("it", "o1", &[("a.yaml", &text)]);
        house.run_s(60);
        house.forget();
        house.tape.only(&[
            "output",
            "signal",
            "spawn",
            "note: child told",
            "note: new certificate",
        ]);
        house.issue(2 * DAY);
        house.run_s(90);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "pair_logged",
        "A new pair is taken up once a program that logs its reloads has said so, else with a new process",
    );
}
