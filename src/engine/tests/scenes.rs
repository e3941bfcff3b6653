//! Whole situations, each with everything that one engine does in it. The texts beside this file say what a server
//! reads, what the log and the status tell, and what is asked of disk, child and link, step by step.

mod child;
mod links;
mod pairs;
mod settings;
mod telemetry;

use std::time::Duration;

use opamp_client::messages::{AgentConfigMap, AgentRemoteConfig, ServerToAgent};

use super::rig::{Bench, agent, remote_config};
use crate::engine::Engine;
use crate::engine::message::{Command, CommandId, DriftedFile, OfferedFile};
use crate::units::RevisionId;

const OFFER: &str = "exporters: {offered: {api_key: hush}}\n";

impl Bench {
    fn asks(&mut self, number: u64, command: Command) {
        self.with(|engine, now| engine.command(now, CommandId(number), command));
        self.run(Duration::from_millis(100));
    }

    fn shows(&mut self, number: u64, revision: Option<RevisionId>) {
        let agent = None;
        self.asks(number, Command::Show { agent, revision });
    }

    fn rolls_back(&mut self, number: u64, to: Option<RevisionId>) {
        self.asks(number, Command::Rollback { agent: None, to });
    }

    fn applies(&mut self, number: u64, files: &[(&str, &str)]) {
        let files = files.iter().map(|(name, body)| OfferedFile {
            name: (*name).to_owned(),
            content_type: String::new(),
            body: body.as_bytes().to_vec(),
        });
        let files = files.collect();
        self.asks(number, Command::Apply { agent: None, files });
    }

    fn offers_named(&mut self, hash: &str, name: &str, text: &str) {
        let mut offer = remote_config(hash, text);
        if let Some(config) = &mut offer.config {
            let file = config.config_map.remove("config.yaml");
            config
                .config_map
                .extend(file.map(|file| (name.to_owned(), file)));
        }
        self.says(ServerToAgent {
            remote_config: Some(offer),
            ..ServerToAgent::default()
        });
    }

    /// The server offers a config without files.
    pub(super) fn offer_nothing(&mut self, hash: &str) {
        let remote_config = AgentRemoteConfig {
            config: Some(AgentConfigMap::default()),
            config_hash: hash.as_bytes().to_vec(),
        };
        self.says(ServerToAgent {
            remote_config: Some(remote_config),
            ..ServerToAgent::default()
        });
    }

    fn restarts(&mut self, number: u64) {
        self.asks(number, Command::Restart { agent: None });
    }

    fn reloads(&mut self, number: u64) {
        self.asks(number, Command::Reload { agent: None });
    }

    fn stops(&mut self) {
        self.chapter("It is stopped");
        self.with(Engine::wind_down);
        self.with(|engine, now| engine.end(now, Duration::from_secs(3)));
        self.run_s(10);
    }
}

#[test]
fn offers_and_orders_are_carried_out_told_and_shown() {
    let mut bench = Bench::told("profile: layered, apply: {probation: 10s}", &[]);
    bench.chapter("Started without a config");
    bench.boot();
    bench.run_s(2);
    bench.shows(1, None);
    bench.restarts(2);
    bench.rolls_back(3, None);
    bench.chapter("An offer that works");
    bench.offer("o1", OFFER);
    bench.run_s(20);
    bench.rolls_back(4, None);
    bench.chapter("The same again, and at rest");
    bench.offer("o1", OFFER);
    bench.run_s(70);
    bench.chapter("One that does not validate");
    bench.offer("o2", "exporters: {invalid: {}}\n");
    bench.run_s(3);
    bench.chapter("One that is no YAML");
    bench.offer("o3", "exporters: [\n");
    bench.run_s(1);
    bench.chapter("One that dies in its window");
    bench.offer("o4", "exporters: {dies-later: {}}\n");
    bench.run_s(40);
    bench.chapter("Orders of a person");
    let first = bench.disk.current.clone().unwrap();
    bench.shows(5, None);
    bench.shows(6, Some(first.clone()));
    let nobodys: RevisionId = "1800000000000-0123abcd".parse().unwrap();
    bench.shows(7, Some(nobodys.clone()));
    bench.rolls_back(8, Some(nobodys));
    bench.rolls_back(9, Some(first));
    bench.applies(10, &[]);
    bench.applies(11, &[("../x", "a: 1\n")]);
    bench.applies(12, &[("by-hand.yaml", "exporters: {by_hand: {}}\n")]);
    bench.run_s(20);
    bench.rolls_back(13, None);
    bench.run_s(20);
    bench.restarts(14);
    bench.run_s(5);
    bench.reloads(15);
    bench.asks(16, Command::Status);
    bench.chapter("It is killed");
    bench.kill();
    bench.run_s(5);
    bench.stops();
    bench.restarts(17);
    bench.shows(18, None);
    bench.is("offers", include_str!("scenes/offers.txt"));
}

#[test]
fn health_of_the_host_of_layers_and_of_a_frozen_state_is_part_of_an_agents() {
    let settings = "profile: defaulted, config_files: [/etc/a.yaml], apply: {probation: 10s}";
    let mut bench = Bench::told(settings, &[("/etc/a.yaml", "receivers: {good: {}}\n")]);
    bench.chapter("The clock is watched, and right");
    bench.boot();
    bench.run_s(20);
    let well = Some((true, "within 5s\u{7}".to_owned()));
    bench.with(|engine, now| engine.set_clock(now, well));
    bench.chapter("The clock is wrong, and a local file is broken");
    let wrong = Some((false, "60 s ahead".to_owned()));
    bench.with(|engine, now| engine.set_clock(now, wrong));
    bench.edit("/etc/a.yaml", "receivers: {invalid: {}}\n");
    bench.run_s(30);
    bench.chapter("Started again after an end that was not in order, and frozen");
    bench.disk.frozen = Some("a newer version wrote the state".to_owned());
    bench.prepare();
    bench
        .engine
        .set_previous_end(Some("killed by signal 9".to_owned()));
    bench.start();
    bench.run_s(5);
    bench.rolls_back(1, None);
    bench.applies(2, &[("a.yaml", "a: 1\n")]);
    bench.reloads(3);
    bench.offer("o1", OFFER);
    bench.run_s(5);
    bench.stops();
    bench.is("frozen", include_str!("scenes/frozen.txt"));
}

#[test]
fn default_config_counts_as_waiting_until_an_offer_was_committed() {
    let settings = "profile: defaulted, apply: {probation: 10s}";
    let mut bench = Bench::told(settings, &[]);
    bench.chapter("The built-in default runs");
    bench.boot();
    bench.run_s(20);
    bench.chapter("An offer takes its place");
    bench.offer("o1", OFFER);
    bench.run_s(20);
    bench.chapter("A person goes back to the default");
    bench.rolls_back(1, None);
    bench.run_s(20);
    bench.chapter("The offer again, and then nothing is offered any more");
    bench.offer("o1", OFFER);
    bench.run_s(20);
    bench.offer_nothing("o2");
    bench.run_s(20);
    bench.stops();
    bench.is("default", include_str!("scenes/default.txt"));
}

#[test]
fn person_who_names_no_config_goes_back_to_the_last_one_that_is_still_stored() {
    let mut bench = Bench::new("profile: layered, apply: {probation: 10s}", &[]);
    bench.boot();
    bench.run_s(1);
    let mut committed = Vec::new();
    for name in ["first", "second", "third"] {
        bench.offer(name, &format!("exporters: {{{name}: {{}}}}\n"));
        bench.run_s(20);
        assert!(bench.is_good() && bench.current().contains(name));
        committed.extend(bench.disk.current.clone());
    }
    bench.disk.revisions.remove(&committed[1]);
    bench.boot();
    bench.run_s(20);
    bench.rolls_back(1, None);
    bench.run_s(20);
    assert_eq!(bench.disk.current.as_ref(), Some(&committed[0]));
    assert!(bench.is_good() && bench.is_up());
}

#[test]
fn capabilities_say_what_is_built_and_the_settings_allow() {
    // Status, config, effective config, restart, health, config status, components, heartbeat.
    const BUILT: u64 = 0x1 | 0x2 | 0x4 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x4000;
    const SETTINGS: u64 = 0x100;
    const SETTINGS_STATUS: u64 = 0x8000;
    const METRICS: u64 = 0x40;
    let mask = |wanted: u64, settings: &str| {
        let (agent, _) = agent(&format!("profile: layered, {settings}"));
        crate::engine::session::mask(wanted, &agent)
    };
    for (wanted, settings, mask_wanted) in [
        (!0, "own_telemetry: []", BUILT | SETTINGS | SETTINGS_STATUS),
        (!SETTINGS, "own_telemetry: []", BUILT),
        (0, "own_telemetry: []", 0x1),
        (0x800, "own_telemetry: []", 0x801),
        (
            SETTINGS,
            "own_telemetry: []",
            0x1 | SETTINGS | SETTINGS_STATUS,
        ),
        (
            !SETTINGS,
            "own_telemetry: [metrics]",
            BUILT | METRICS | SETTINGS_STATUS,
        ),
        (
            !0,
            "own_telemetry: [logs, traces]",
            BUILT | SETTINGS | SETTINGS_STATUS | 0x80 | 0x20,
        ),
        (
            !SETTINGS,
            "own_telemetry: [], apply: {accept_remote_config: false}",
            BUILT & !0x2,
        ),
    ] {
        let told = mask(wanted, settings);
        assert_eq!(
            format!("{told:x}"),
            format!("{mask_wanted:x}"),
            "{wanted:x} {settings}"
        );
    }
}

#[test]
fn drifted_file_is_told_with_what_is_there_and_what_belongs_there() {
    let drifted = |expected: &str, found: Option<&str>| {
        let file = DriftedFile {
            path: "a.yaml".to_owned(),
            expected: expected.to_owned(),
            found: found.map(str::to_owned),
        };
        file.to_string()
    };
    let (here, there) = ("0123456789abcdef", "fedcba9876543210");
    for (expected, found, wanted) in [
        (
            here,
            Some(there),
            "a.yaml: is fedcba987654, belongs 0123456789ab",
        ),
        (
            here,
            None,
            "a.yaml: is gone or cannot be read, belongs 0123456789ab",
        ),
        ("", Some(there), "a.yaml: is fedcba987654"),
    ] {
        assert_eq!(drifted(expected, found), wanted);
    }
}
