//! What people order.

use super::{MUTE, OFFER, calm};
use crate::engine::message::Command;

#[test]
fn orders_of_a_person_go_over_offers() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house.apply("it", "config.yaml", "exporters: {mine: {}}\n");
    house.run_s(60);
    house.status();
    house.command(Command::Rollback {
        agent: None,
        to: None,
    });
    house.run_s(60);
    house.status();
    house.apply("it", "config.yaml", "exporters: {mine: {}}\n");
    house.run_s(2);
    house.apply("it", "config.yaml", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "orders",
        "What a person applies takes the place of an offer; a rollback brings the offer back",
    );
}

#[test]
fn bad_orders_are_gone_back_from_and_may_be_tried_again() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house
        .tape
        .only(&["journal", "server reads: o", "reply", "spawn", "rejected"]);
    for text in [
        "exporters: {dies-at-start: {}}\n",
        "exporters: {dies-at-start: {}}\n",
        "exporters: {invalid: {}}\n",
        "[",
    ] {
        house.apply("it", "config.yaml", text);
        house.run_s(60);
    }
    house.status();
    house.tape.is_as_told(
        "orders_bad",
        "A person's config that does not hold is gone back from; a person may try what was rejected",
    );
}

#[test]
fn person_restarts_reloads_and_looks() {
    let mut house = calm(MUTE);
    house.command(Command::Restart { agent: None });
    house.run_s(20);
    house.file("it", "/etc/a.yaml", "receivers: {edited: {}}\n");
    house.command(Command::Reload { agent: None });
    house.run_s(60);
    house.command(Command::Reload { agent: None });
    house.run_s(60);
    house.command(Command::Show {
        agent: None,
        revision: None,
    });
    house.run_s(1);
    house.command(Command::Restart {
        agent: Some("nobody".parse().unwrap()),
    });
    house.command(Command::Rollback {
        agent: None,
        to: Some("1700000000000-00000000".parse().unwrap()),
    });
    house.command(Command::Status);
    house.run_s(1);
    house.status();
    house.tape.is_as_told(
        "person_orders",
        "A restart is a new process, a reload composes the local files anew, and every order is answered",
    );
}

#[test]
fn restart_inside_a_window_begins_it_anew() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(8);
    house.command(Command::Restart { agent: None });
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "restart_in_probation",
        "A restart that a person orders inside a window is no mark against the config, which gets a new window",
    );
}

#[test]
fn orders_about_several_agents_have_to_name_one() {
    let mut house = super::House::of(
        "a: {profile: mute_default, executable: /bin/sh}, b: {profile: mute_default, executable: /bin/sh}",
    );
    house.calm();
    house.command(Command::Restart { agent: None });
    house.command(Command::Restart {
        agent: Some("c".parse().unwrap()),
    });
    house.command(Command::Restart {
        agent: Some("b".parse().unwrap()),
    });
    house.run_s(20);
    house.terminate();
    house.command(Command::Restart {
        agent: Some("b".parse().unwrap()),
    });
    house.command(Command::RenewCertificate { name: None });
    house.command(Command::Upgrade);
    house.run_s(20);
    house.tape.is_as_told(
        "orders_of_several",
        "Of several agents an order names one; while we stop nothing is changed any more",
    );
}

#[test]
fn what_was_rejected_is_forgiven_once_it_holds() {
    let mut house = calm(MUTE);
    house
        .tape
        .only(&["journal", "server reads: o", "reply", "rejected are"]);
    house.room("it").no_spawn = Some("cannot allocate memory");
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.room("it").no_spawn = None;
    house.run_s(120);
    house.offer("it", "o2", OFFER);
    house.run_s(10);
    house.apply("it", "config.yaml", OFFER);
    house.run_s(60);
    // It runs already, by whoever's order.
    house.apply("it", "config.yaml", OFFER);
    house.run_s(5);
    house.offer("it", "o3", OFFER);
    house.run_s(5);
    house.apply("it", "config.yaml", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "orders_forgive",
        "A person may try what was rejected; once it holds it is as good as any, by whoever's order it runs",
    );
}
