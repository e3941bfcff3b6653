//! The host as a whole: several agents, stops, agents that come and go, another executable.

use std::time::Duration;

use super::super::rig::There;
use super::tape::Tape;
use super::{House, MUTE, OFFER, calm};
use crate::engine::message::{Command, ToolEnd};

const HOST: &[&str] = &[
    "spawn",
    "signal",
    "Exit",
    "announce",
    "WARNING",
    "ERROR",
    "stopping",
    "goodbye",
    "agent ",
    "LastWords",
];

fn three(more: &str) -> House {
    let of = |name: &str, after: &str| {
        format!(
            "{name}: {{profile: mute, executable: /bin/sh, config_files: [/etc/{name}.yaml], start_after: [{after}], \
             start_wait: 20s, apply: {{probation: 10s}}}}"
        )
    };
    let mut house = House::with(&format!(
        "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\n{more}agents: {{{}, {}, {}}}\n",
        of("a", ""),
        of("b", "a"),
        of("c", "a, b"),
    ));
    for name in ["a", "b", "c"] {
        house.file(name, &format!("/etc/{name}.yaml"), "receivers: {a: {}}\n");
    }
    house
}

#[test]
fn agents_start_in_order_and_stop_in_reverse() {
    let mut house = three("");
    house.tape.only(HOST);
    house.boot();
    house.run_s(5);
    house.status();
    house.run_s(60);
    house.status();
    house.terminate();
    house.run_s(10);
    house.tape.is_as_told(
        "order",
        "Agents start after those that they name are well, and stop before them",
    );
}

#[test]
fn nobody_waits_for_ever_for_one_that_is_lost() {
    let mut told = Tape::default();
    for (what, text) in [
        ("dies at start", "receivers: {dies-at-start: {}}\n"),
        ("invalid", "receivers: {invalid: {}}\n"),
        ("nothing", ""),
        ("slow", "receivers: {dies-later: {}}\n"),
    ] {
        let mut house = three("");
        house.tape.only(HOST);
        house.file("a", "/etc/a.yaml", text);
        house.boot();
        house.run_s(120);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "order_lost",
        "Who is lost, or takes too long, holds nobody back for ever",
    );
}

#[test]
fn offers_and_orders_wait_for_the_turn() {
    let mut house = three("");
    house.server_is("a", There::Up);
    house.boot();
    house.until("b: server reads");
    house.run(Duration::from_millis(100));
    house.offer("b", "o1", OFFER);
    house.command(Command::Restart {
        agent: Some("b".parse().unwrap()),
    });
    house.hang_up();
    house.run_s(1);
    house.status();
    house.tape.only(&["b: "]);
    house.run_s(90);
    house.status();
    house.tape.is_as_told(
        "order_offers",
        "What is offered and ordered to one that waits for its turn is taken up when it comes",
    );
}

#[test]
fn stop_ends_inside_its_budget_whatever_children_do() {
    let mut told = Tape::default();
    for (what, deaf) in [
        ("the first is deaf", "a"),
        ("the last is deaf", "c"),
        ("all are deaf", "abc"),
    ] {
        let mut house = three("stop: {grace: 6s, budget: 12s}\n");
        for name in ["a", "b", "c"]
            .into_iter()
            .filter(|name| deaf.contains(name))
        {
            house.file(
                name,
                &format!("/etc/{name}.yaml"),
                "receivers: {deaf: {}}\n",
            );
        }
        house.boot();
        house.run_s(120);
        house.forget();
        house.tape.only(HOST);
        house.terminate();
        house.run_s(1);
        house.status();
        house.run_s(20);
        told.chapter(what, &house.tape);
    }
    let mut house = three("stop: {grace: 6s, budget: 12s}\n");
    house.file("c", "/etc/c.yaml", "receivers: {deaf: {}}\n");
    house.boot();
    house.run_s(120);
    house.forget();
    house.tape.only(HOST);
    house.terminate();
    house.run_s(1);
    house.terminate();
    house.run_s(5);
    told.chapter("a second TERM", &house.tape);
    told.is_as_told(
        "stop_deaf",
        "A stop gives everybody a share of its time and ends inside it; a second TERM ends it at once",
    );
}

#[test]
fn stop_comes_at_any_time() {
    let mut told = Tape::default();
    for at in [
        "disk: read local",
        "disk: stage",
        "run /bin/sh",
        "disk: current",
        "signal 15",
        "to=\"probation\"",
    ] {
        let mut house = calm(MUTE);
        house.offer("it", "o1", OFFER);
        house.until(at);
        house.forget();
        house.terminate();
        house.run_s(20);
        told.chapter(&format!("At {at:?}"), &house.tape);
    }
    for there in [There::Away, There::Silent] {
        let mut house = calm(MUTE);
        house.server_is("it", there);
        house.run_s(90);
        house.forget();
        house.terminate();
        house.run_s(20);
        told.chapter(&format!("Server {there:?}"), &house.tape);
    }
    told.is_as_told(
        "stop",
        "A stop ends in order, whatever is under way, and the server reads a goodbye",
    );
}

#[test]
fn stop_that_comes_before_a_hup_was_sent_sends_none() {
    let mut told = Tape::default();
    for (what, profile, at) in [
        ("room", "answering", "look at the room"),
        ("no room", "answering", "look at the room"),
        ("the count", "counting", "look at the room"),
        ("the output", "logging", "watch output"),
    ] {
        let mut house = House::with(&format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{a: {{profile: {profile}, executable: \
             /bin/sh, apply: {{probation: 10s}}}}, b: {{profile: mute, executable: /bin/sh, config_files: \
             [/etc/b.yaml], start_after: [a], start_wait: 20s}}}}\n"
        ));
        house.file("b", "/etc/b.yaml", "receivers: {deaf: {}}\n");
        house.boot();
        house.run_s(10);
        house.offer_files("a", "o1", &[("a.yaml", "one: 1\n")]);
        house.run_s(90);
        house.forget();
        if what == "no room" {
            house.room("a").shortage = Some("all of its descriptors are open");
        }
        house
            .tape
            .only(&["room", "watch output", "signal", "spawn", "WARNING", "Exit"]);
        house.offer_files("a", "o2", &[("a.yaml", "two: 2\n")]);
        house.until(at);
        if what == "the count" {
            house.run(Duration::from_millis(5));
        }
        house.terminate();
        house.run_s(20);
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "stop_before_hup",
        "A stop that comes while a HUP is prepared sends none, and ends the child in its turn",
    );
}

#[test]
fn server_gives_another_identity() {
    let mut told = Tape::default();
    for what in ["kept", "not kept"] {
        let mut house = calm(MUTE);
        if what == "not kept" {
            house.no_identity = Some("no space left");
        }
        house.rename("it", [9; 16]);
        house.run_s(10);
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "identity",
        "Another identity is confirmed once it is on disk",
    );
}

#[test]
fn another_executable_takes_over() {
    let mut told = Tape::default();
    for what in [
        "it starts",
        "it does not",
        "it hangs",
        "in an offer",
        "twice",
        "while stopping",
    ] {
        let mut house = calm(MUTE);
        match what {
            "it does not" => house.successor = ToolEnd::Exited(3),
            "it hangs" => house.successor = ToolEnd::TimedOut,
            "in an offer" => {
                house.offer("it", "o1", OFFER);
                house.until("run /bin/sh");
            }
            _ => {}
        }
        house.command(Command::Upgrade);
        match what {
            "twice" => house.command(Command::Upgrade),
            "while stopping" => house.terminate(),
            _ => {}
        }
        house.run_s(30);
        if house.exited && what != "while stopping" {
            house.dies();
            house.boot();
            house.run_s(20);
        }
        house.status();
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "handover",
        "Another executable takes over only when it starts; the child goes on",
    );
}

#[cfg(feature = "roster")]
#[test]
fn agents_come_and_go_with_the_settings() {
    let of = |agents: &[(&str, &str)]| {
        let agents = agents.iter().map(|(name, after)| {
            format!(
                "{name}: {{profile: mute, executable: /bin/sh, config_files: [/etc/{name}.yaml], \
                 start_after: [{after}], start_wait: 20s, apply: {{probation: 10s}}}}"
            )
        });
        let agents: Vec<_> = agents.collect();
        format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{{}}}\n",
            agents.join(", ")
        )
    };
    let files = |house: &mut House| {
        for name in ["a", "b", "c"] {
            if house.has(name) {
                house.file(name, &format!("/etc/{name}.yaml"), "receivers: {a: {}}\n");
            }
        }
    };
    let mut house = House::with(&of(&[("a", "")]));
    house.tape.several = true;
    files(&mut house);
    house.calm();
    house.tape.only(&[
        "spawn", "signal", "agent ", "admit", "dismiss", "identity", "goodbye", "announce",
        "settings", "reply",
    ]);
    house.join(&of(&[("a", ""), ("b", "a"), ("c", "b")]), files);
    house.run_s(60);
    house.status();
    // One goes that another waits for, and comes again before it has gone.
    house.join(&of(&[("a", ""), ("c", "")]), files);
    house.run(Duration::from_millis(3));
    house.join(&of(&[("a", ""), ("b", "a"), ("c", "")]), files);
    house.command(Command::Upgrade);
    house.run_s(60);
    house.status();
    // Nobody can come, and nothing changes for the others.
    house.no_admission = Some("no port is free");
    house.join(&of(&[("a", ""), ("c", "")]), files);
    house.run_s(30);
    house.join(&of(&[("a", ""), ("b", ""), ("c", "")]), files);
    house.run_s(30);
    house.no_admission = None;
    house.hang_up();
    house.run_s(30);
    house.status();
    // Both go, in order; one is deaf.
    house.offer("b", "o1", "exporters: {deaf: {}}\n");
    house.run_s(60);
    house.join(&of(&[("a", "")]), files);
    house.run_s(60);
    house.status();
    house.terminate();
    house.run_s(20);
    house
        .tape
        .is_as_told("roster", "Agents that come with a HUP and go with one");
}

#[cfg(feature = "roster")]
#[test]
fn one_that_joins_has_an_identity_that_is_kept() {
    let of = |agents: &str| format!("agents: {{{agents}}}\n");
    let a = "a: {profile: mute_default, executable: /bin/sh}";
    let b = "b: {profile: mute_default, executable: /bin/sh}";
    let mut house = House::with(&of(a));
    house.tape.several = true;
    house.calm();
    house.no_identity = Some("no space left");
    house.join(&of(&format!("{a}, {b}")), |_| {});
    house.run_s(5);
    house.no_identity = None;
    house.hang_up();
    house.run(Duration::from_millis(2));
    // It is not wanted any more while its ports are made, and while its identity is written.
    house.join(&of(a), |_| {});
    house.run_s(5);
    house.join(&of(&format!("{a}, {b}")), |_| {});
    house.until("save identity");
    house.join(&of(a), |_| {});
    house.run_s(5);
    house.status();
    // Other settings of it while it joins.
    house.join(&of(&format!("{a}, {b}")), |_| {});
    house.run(Duration::from_millis(2));
    house.join(
        &of(&format!(
            "{a}, b: {{profile: mute_default, executable: /bin/sh, start_after: [a]}}"
        )),
        |_| {},
    );
    house.run_s(30);
    house.status();
    house.tape.is_as_told(
        "roster_identity",
        "One that joins is there once its identity is on disk",
    );
}

#[test]
fn service_manager_hears_of_reloads_between_start_and_stop_only() {
    let mut house = House::of(MUTE);
    house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
    house.server_is("it", There::Away);
    house
        .tape
        .only(&["announce", "settings", "Exit", "ReadSettings"]);
    house.boot();
    house.hang_up();
    house.run_s(40);
    house.hang_up();
    house.run_s(5);
    house.terminate();
    house.hang_up();
    house.run_s(20);
    house.tape.is_as_told(
        "announced",
        "A service manager hears of reloads between the start and the stop",
    );
}
