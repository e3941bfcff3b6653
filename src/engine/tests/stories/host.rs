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
fn second_term_does_not_wait_for_the_goodbye_to_the_server() {
    let mut told = Tape::default();
    for terms in [1, 2] {
        let mut house = calm(MUTE);
        house.deaf_server = true;
        for _ in 0..terms {
            house.terminate();
            house.run(Duration::from_millis(100));
        }
        house.run_s(20);
        told.chapter(&format!("{terms} TERM"), &house.tape);
    }
    told.is_as_told(
        "stop_forced",
        "A server that does not take the goodbye is waited for a moment; after a second TERM the end counts as forced",
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
        "while the disk is stuck",
    ] {
        let mut house = calm(MUTE);
        match what {
            "it does not" => house.successor = ToolEnd::Exited(3),
            "it hangs" => house.successor = ToolEnd::TimedOut,
            "in an offer" => {
                house.offer("it", "o1", OFFER);
                house.until("run /bin/sh");
            }
            "while the disk is stuck" => {
                house.offer("it", "o1", OFFER);
                house.until("disk: stage");
                house.lose_answers();
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
    let of = |agents: &[(&str, &str)]| listed(agents, "20s");
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

/// Three agents that come with a HUP, each after the one before.
#[cfg(feature = "roster")]
#[test]
fn agents_that_come_together_keep_their_order_and_those_that_go_stop_in_reverse() {
    let all = [("a", ""), ("b", "a"), ("c", "b")];
    let of = |names: &[&str]| {
        let wanted = all.iter().filter(|(name, _)| names.contains(name));
        listed(&wanted.copied().collect::<Vec<_>>(), "20s")
    };
    let files = |house: &mut House| {
        for name in ["a", "b", "c"] {
            if house.has(name) {
                house.file(name, &format!("/etc/{name}.yaml"), "receivers: {a: {}}\n");
            }
        }
    };
    let mut house = House::with(&of(&["a"]));
    house.tape.several = true;
    files(&mut house);
    house.calm();
    house.tape.only(&[
        "spawn", "signal", "agent ", "admit", "dismiss", "goodbye", "stopped", "order:",
    ]);
    // The ports of b take longer to make than c waits for it.
    house.slow_admission = Some(("b", 40_000));
    house.join(&of(&["a", "b", "c"]), files);
    house.run_s(120);
    // Both go; c is deaf, and b waits for it.
    house.offer("c", "o1", "exporters: {deaf: {}}\n");
    house.run_s(60);
    house.join(&of(&["a"]), files);
    house.run_s(60);
    // One goes while its disk is stuck.
    house.join(&of(&["a", "b"]), files);
    house.run_s(60);
    house.offer("b", "o2", OFFER);
    house.until("b: server reads");
    house.join(&of(&["a"]), files);
    house.run(Duration::from_millis(1));
    house.lose_answers();
    house.run_s(60);
    house.tape.is_as_told(
        "roster_order",
        "Agents that come with one HUP start in their order, and those that go with one stop in reverse",
    );
}

/// What is seen of agents that start after others.
const ORDER: &[&str] = &["spawn", "agent ", "admit", "dismiss", "signal 15", "HUP"];

/// Agents of these names, each with those it starts after.
fn listed(agents: &[(&str, &str)], wait: &str) -> String {
    let agents = agents.iter().map(|(name, after)| {
        format!(
            "{name}: {{profile: mute, executable: /bin/sh, config_files: [/etc/{name}.yaml], start_after: [{after}], \
             start_wait: {wait}, apply: {{probation: 10s}}}}"
        )
    });
    let agents: Vec<_> = agents.collect();
    format!(
        "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{{}}}\n",
        agents.join(", ")
    )
}

#[test]
fn time_that_others_are_waited_for_counts_from_their_start_and_anew_where_the_settings_change() {
    let mut told = Tape::default();
    for (what, hup) in [
        ("no HUP", None),
        ("the same settings again", Some("20s")),
        ("a longer wait", Some("40s")),
        ("a shorter wait", Some("12s")),
    ] {
        let agents = [("a", ""), ("b", "a"), ("c", "a, b")];
        let mut house = House::with(&listed(&agents, "20s"));
        house.tape.only(ORDER);
        // The first never proves itself, and nobody is lost for that in this time.
        for (name, text) in [("a", "receivers: {hangs: {}}\n"), ("b", ""), ("c", "")] {
            let text = if text.is_empty() {
                "receivers: {a: {}}\n"
            } else {
                text
            };
            house.file(name, &format!("/etc/{name}.yaml"), text);
        }
        house.boot();
        house.run_s(10);
        if let Some(wait) = hup {
            house.hup(&listed(&agents, wait));
        }
        house.run_s(90);
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "order_wait",
        "Who starts after others waits so long from the moment they may start, anew where a HUP changes it",
    );
}

#[cfg(feature = "roster")]
#[test]
fn one_that_starts_after_another_waits_while_that_one_joins_or_comes_back() {
    let files = |house: &mut House| {
        for name in ["a", "b", "c"] {
            if house.has(name) {
                house.file(name, &format!("/etc/{name}.yaml"), "receivers: {a: {}}\n");
            }
        }
    };
    let mut told = Tape::default();
    for what in ["joins", "cannot join", "leaves", "is not there", "stop"] {
        let mut house = House::with(&listed(&[("a", "")], "20s"));
        house.tape.several = true;
        files(&mut house);
        house.calm();
        house.tape.only(ORDER);
        match what {
            "joins" | "stop" => {
                house.slow_admission = Some(("b", 30_000));
                house.join(&listed(&[("a", ""), ("b", ""), ("c", "b")], "20s"), files);
            }
            "cannot join" => {
                house.join(
                    &listed(&[("a", ""), ("c", "b, a"), ("b", "")], "20s"),
                    |house| {
                        files(house);
                        house.slow_admission = Some(("c", 30_000));
                        house.no_admission = Some("no port is free");
                    },
                );
            }
            "leaves" => {
                // It is listed again before it has gone.
                house.offer("a", "o1", "exporters: {deaf: {}}\n");
                house.run_s(60);
                house.join(&listed(&[("b", "")], "20s"), files);
                house.run_s(1);
                house.join(&listed(&[("a", ""), ("b", ""), ("c", "a")], "20s"), files);
            }
            _ => house.join(&listed(&[("a", ""), ("c", "")], "20s"), files),
        }
        if what == "stop" {
            house.run_s(1);
            house.terminate();
        }
        house.run_s(90);
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "roster_wait",
        "Who starts after one that is about to join, or to come back, waits for it, and for nobody who is not there",
    );
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
