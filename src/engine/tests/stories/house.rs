//! A whole host for a story: disks that keep everything, children that do what the words in their config say, and a
//! server for each agent.
//!
//! Promises: everything follows from what a story does, and all of it that can be seen from outside is on the tape.
//! What the words in a config mean: `dies-at-start`, `dies-later` (after six seconds), `blames-config` (exit code 78),
//! `invalid` (the validator says no), `hangs` (it never ends), `unwell`, `sickens` (unwell after four seconds),
//! `silent` (no proof), `refused` (the child says no), `deaf` (heeds no TERM).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentDescription, AgentToServer, ComponentHealth, KeyValue, RemoteConfigStatus, ServerToAgent,
    ServerToAgentCommand,
};

use super::super::rig::{Shelf, There, destinations, remote_config, text};
use super::tape::Tape;
use crate::config::{self, Agent, Config, Environment, Overrides};
use crate::engine::host::{Host, HostSetup};
use crate::engine::message::{
    Admission, AgentEffect, AgentEvent, CertificateDone, CertificateFault, CertificateFaultKind,
    CertificateWork, ChildIdentity, ChildNote, Command, CommandId, DiskDone, DiskFault, DiskWork,
    DriftedFile, Effect, Event, Exit, ExitStatus, FaultKind, HostSignal, HttpAnswer, Identity,
    Inheritance, Leftover, LinkEvent, LinkLoss, LocalEvent, LossKind, OfferedFile, Pair, PairId,
    Rejection, SpawnSpec, StoredPairs, ToolEnd, ToolOutcome, ToolSpec, WatchedBy,
};
use crate::engine::{CertificatesSetup, ClockSetup, Places, RegistrationSetup, Setup};
use crate::units::{AgentName, LinkId, Moment, Now, Ticket, WallTime, hex, unhex};

const STEPS_MAX: u32 = 20_000;
const EPOCH_MS: u64 = 1_800_000_000_000;

/// Programs that say as much about themselves as their names tell.
const PROFILES: [(&str, &str); 6] = [
    (
        // Nothing: it is proven when it has stayed up for three seconds.
        "mute",
        "args: []
validate: [validate]
composition: otel_layers
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
",
    ),
    (
        "mute_default",
        "args: []
composition: otel_layers
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
default_config: |
  receivers: {built_in: {}}
",
    ),
    (
        // How often it has reloaded.
        "counting",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: http, url: 'http://127.0.0.1:1/proof', counter: reloads.count}
hup: true
health: {kind: http, url: 'http://127.0.0.1:1/health', interval: 10s, timeout: 2s, failures: 2}
restart_sections: [fixed]
",
    ),
    (
        // Which config it runs.
        "naming",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: http, url: 'http://127.0.0.1:1/proof', expect_revision: true}
hup: true
health: {kind: process}
",
    ),
    (
        // In its log, that it has reloaded.
        "logging",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: output, reloaded: [has reloaded], failed: [bad config], alive_for: 3s}
hup: true
health: {kind: exec, command: [/bin/look, health], interval: 5s, failures: 2}
",
    ),
    (
        // To a program that asks it.
        "answering",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: exec, command: [/bin/look, proof]}
hup: true
health: {kind: exec, command: [/bin/look, health], interval: 5s, failures: 2}
",
    ),
];

struct Words;

impl Environment for Words {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        let name = path.strip_prefix("/profiles/");
        let name = name.and_then(|name| name.strip_suffix(".yaml"));
        let known = PROFILES.iter().find(|(known, _)| Some(*known) == name);
        match known {
            Some((_, text)) => Ok((*text).to_owned()),
            // Looked at when it is named; what is in it is read by the disk.
            None if path.starts_with("/etc/") => Ok(String::new()),
            None => Err(std::io::Error::other(path.to_owned())),
        }
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }

    fn directory(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(PROFILES
            .map(|(name, _)| format!("/profiles/{name}.yaml").into())
            .to_vec())
    }
}

fn load(text: &str) -> Config {
    let text = format!("profiles: /profiles\n{text}");
    let config = config::load("story", &text, &Words, &Overrides::default());
    config.unwrap_or_else(|errors| panic!("{errors}"))
}

#[derive(Debug)]
struct Child {
    /// What it has read, and the revision that is named there.
    text: String,
    marker: String,
    alive: bool,
    /// Counts what it was told, so that plans for an earlier config come to nothing.
    told: u64,
    told_at: u64,
    reloads: u64,
    note: ChildNote,
    dies_with_us: bool,
    connection: Option<u64>,
}

/// What an agent has around it.
pub(super) struct Room {
    pub(super) disk: Shelf,
    /// Files of what runs that somebody has changed.
    pub(super) drift: Vec<DriftedFile>,
    /// The next work of this kind fails, for this reason.
    pub(super) faults: Vec<(&'static str, FaultKind)>,
    children: BTreeMap<u32, Child>,
    pub(super) server: There,
    link: Option<LinkId>,
    watch: Option<Ticket>,
    /// Who waits for a word in the output.
    listening: Option<Ticket>,
    /// Why there is no room for a reload.
    pub(super) shortage: Option<&'static str>,
    /// Why no process can be started.
    pub(super) no_spawn: Option<&'static str>,
    /// Why its output cannot be watched.
    pub(super) unheard: Option<&'static str>,
    /// Nobody answers on its HTTP port.
    pub(super) no_http: bool,
    pub(super) inheritance: Option<Box<Inheritance>>,
    pub(super) frozen: Option<String>,
    pub(super) start_drift: Vec<DriftedFile>,
    /// A child of an earlier life, of which this is known in place of what was written down.
    pub(super) leftover_note: Option<Result<ChildNote, String>>,
    uid: [u8; 16],
}

enum What {
    Host(Event),
    Dies {
        agent: AgentName,
        pid: u32,
        told: u64,
        status: ExitStatus,
    },
    Talks {
        agent: AgentName,
        pid: u32,
        told: u64,
    },
}

/// The host.
pub(super) struct House {
    pub(super) config: Config,
    host: Option<Host>,
    now: u64,
    booted_at: u64,
    queue: BTreeMap<(u64, u64), What>,
    next: u64,
    rooms: BTreeMap<AgentName, Room>,
    pids: u32,
    connections: u64,
    commands: u64,
    identity: Identity,
    pub(super) previous_end: Option<String>,
    pub(super) tape: Tape,
    /// How those that join fare.
    pub(super) no_admission: Option<&'static str>,
    /// The identity file cannot be written.
    pub(super) no_identity: Option<&'static str>,
    /// How the next executable fares when it is asked.
    pub(super) successor: ToolEnd,
    pub(super) exited: bool,
    /// The pair that is in the operator's files, and until when it is valid.
    pub(super) pair: Option<WallTime>,
    /// The pair that was taken over from there.
    live: Option<Pair>,
}

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

impl House {
    /// A host of these agents with a server, which has not been started.
    pub(super) fn of(agents: &str) -> Self {
        Self::with(&format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{{agents}}}\n"
        ))
    }

    /// A host of these settings.
    pub(super) fn with(settings: &str) -> Self {
        let config = load(settings);
        let mut house = Self {
            config,
            host: None,
            now: 0,
            booted_at: 0,
            queue: BTreeMap::new(),
            next: 0,
            rooms: BTreeMap::new(),
            pids: 100,
            connections: 0,
            commands: 0,
            identity: Identity::default(),
            previous_end: None,
            tape: Tape::default(),
            no_admission: None,
            no_identity: None,
            successor: ToolEnd::Exited(0),
            exited: false,
            pair: None,
            live: None,
        };
        house.furnish();
        house.tape.several = house.config.agents.len() > 1;
        // What a status is compared with first: nothing has begun.
        let host = house.build();
        let clock = house.clock();
        house.tape.status(&host, clock, false);
        house
    }

    /// Every agent of the settings has its room.
    fn furnish(&mut self) {
        for agent in &self.config.agents {
            let number = u8::try_from(self.rooms.len()).unwrap();
            let room = self.rooms.entry(agent.name.clone());
            room.or_insert_with(|| Room::new([7 + number; 16]));
        }
    }

    pub(super) fn room(&mut self, agent: &str) -> &mut Room {
        self.rooms.get_mut(&name(agent)).unwrap()
    }

    /// Puts a local file there.
    pub(super) fn file(&mut self, agent: &str, path: &str, text: &str) {
        let disk = &mut self.room(agent).disk;
        disk.local.insert(path.into(), text.to_owned());
    }

    fn clock(&self) -> Now {
        Now {
            mono: Moment::from_millis(self.now - self.booted_at),
            wall: WallTime::from_unix_millis(EPOCH_MS + self.now),
        }
    }

    /// Says on the tape what a story does.
    fn tell(&mut self, what: impl std::fmt::Display) {
        self.tape.say(self.now, format_args!("> {what}"));
    }

    // Lives.

    /// The supervisor is started.
    pub(super) fn boot(&mut self) {
        self.tell("the supervisor starts");
        self.booted_at = self.now;
        self.exited = false;
        self.queue
            .retain(|_, what| matches!(what, What::Dies { .. }));
        let mut host = self.build();
        let effects = host.start(self.clock());
        self.host = Some(host);
        self.perform(effects);
    }

    /// Started, and nothing moves any more; what comes from here on is told.
    pub(super) fn calm(&mut self) {
        self.boot();
        self.run_s(60);
        self.forget();
    }

    /// What was before does not belong to the story.
    pub(super) fn forget(&mut self) {
        self.mark();
        self.tape.begin(self.now);
    }

    /// Further changes of the status are told from here.
    fn mark(&mut self) {
        let clock = self.clock();
        if let Some(host) = &self.host {
            self.tape.status(host, clock, false);
        }
    }

    /// The supervisor dies; children go on unless the kernel ends them.
    pub(super) fn dies(&mut self) {
        self.tell("the supervisor is killed");
        self.host = None;
        self.queue
            .retain(|_, what| matches!(what, What::Dies { .. }));
        for room in self.rooms.values_mut() {
            (room.link, room.watch, room.listening) = (None, None, None);
            for child in room.children.values_mut() {
                child.connection = None;
                child.alive &= !child.dies_with_us;
            }
        }
    }

    fn build(&mut self) -> Host {
        let names: Vec<_> = self
            .config
            .agents
            .iter()
            .map(|it| it.name.clone())
            .collect();
        let agents = names.iter().map(|it| self.remembered(it)).collect();
        let mut host = Host::new(HostSetup {
            agents,
            identity: self.identity.clone(),
            certificates: CertificatesSetup {
                list: self.config.certificates.clone(),
                directory: "/s/certificates".into(),
                seed: 1,
            },
            stop: self.config.stop,
            give_up: self.config.give_up,
            previous_end: self.previous_end.take(),
            clock: ClockSetup {
                settings: None,
                server: None,
                asleep: Duration::ZERO,
            },
            registration: RegistrationSetup {
                settings: None,
                credential: None,
                unreadable: None,
                seed: 1,
            },
            has_server: self.config.server.is_some(),
        });
        host.set_successor(ToolSpec {
            program: "/bin/next".into(),
            args: vec!["check".to_owned()],
            env: BTreeMap::new(),
            inherit: Vec::new(),
            timeout: Duration::from_secs(5),
            output_max: 100,
            process: config::Process::default(),
        });
        host
    }

    fn remembered(&mut self, agent: &AgentName) -> (Setup, Option<Leftover>) {
        let settings = self.config.agents.iter().find(|it| &it.name == agent);
        let settings = settings.unwrap().clone();
        let (server, capabilities) = (self.config.server.clone(), self.config.capabilities);
        let grace = self.config.stop.grace;
        let room = self.rooms.get_mut(agent).unwrap();
        let mut persisted = room.disk.persisted(&settings);
        persisted.frozen = room.frozen.clone();
        persisted.drift = std::mem::take(&mut room.start_drift);
        let leftover = room.leftover();
        let setup = Setup {
            places: places(agent, &settings),
            settings,
            server,
            capabilities,
            grace,
            instance_uid: room.uid,
            facts: BTreeMap::new(),
            persisted,
            inheritance: room.inheritance.take(),
            seed: 1,
        };
        (setup, leftover)
    }

    // Time.

    pub(super) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + u64::try_from(span.as_millis()).unwrap();
        self.pass(end, |_| false);
    }

    /// Time passes until a line with these words is on the tape.
    pub(super) fn until(&mut self, words: &str) {
        let from = self.tape.len();
        let came = self.pass(self.now + 600_000, |house| house.tape.has(from, words));
        assert!(came, "{words:?} did not come:\n{}", self.tape.text());
    }

    fn pass(&mut self, end: u64, is_over: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..STEPS_MAX {
            if is_over(self) {
                return true;
            }
            let clock = self.clock();
            let due = self.host.as_ref().and_then(|host| host.deadline(clock));
            let due = due.map(|due| self.booted_at + due.as_millis());
            let due = due.filter(|_| !self.exited);
            let next = self.queue.first_key_value().map(|(key, _)| key.0);
            match (next, due) {
                (Some(at), due) if at <= end && due.is_none_or(|due| at <= due) => {
                    let (_, what) = self.queue.pop_first().unwrap();
                    self.now = self.now.max(at);
                    self.happens(what);
                }
                (_, Some(due)) if due <= end => {
                    self.now = self.now.max(due);
                    self.step(Event::Tick);
                }
                _ => {
                    self.now = end;
                    return is_over(self);
                }
            }
        }
        panic!("it turns for ever:\n{}", self.tape.text());
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Host(event) => self.step(event),
            What::Dies {
                agent,
                pid,
                told,
                status,
            } => self.child_dies(&agent, pid, told, status),
            What::Talks { agent, pid, told } => self.child_talks(&agent, pid, told),
        }
    }

    fn step(&mut self, event: Event) {
        let clock = self.clock();
        let Some(host) = &mut self.host else { return };
        let effects = host.step(clock, event);
        self.perform(effects);
    }

    fn later(&mut self, wait: u64, what: What) {
        self.next += 1;
        self.queue.insert((self.now + wait, self.next), what);
    }

    fn answer(&mut self, wait: u64, agent: &AgentName, event: AgentEvent) {
        let agent = agent.clone();
        self.later(wait, What::Host(Event::Agent { agent, event }));
    }

    // What people and servers do.

    /// The server offers a config.
    pub(super) fn offer(&mut self, agent: &str, hash: &str, text: &str) {
        self.tell(format_args!("the server offers {agent} {hash}: {text:?}"));
        let config = remote_config(hash, text);
        self.talk(
            &name(agent),
            ServerToAgent {
                remote_config: Some(config),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server offers a bundle of several files, or of none.
    pub(super) fn offer_files(&mut self, agent: &str, hash: &str, files: &[(&str, &str)]) {
        self.tell(format_args!("the server offers {agent} {hash}: {files:?}"));
        let mut offer = remote_config(hash, "");
        let map = &mut offer.config.as_mut().unwrap().config_map;
        map.clear();
        for (file, text) in files {
            let one = remote_config(hash, text).config.unwrap().config_map;
            map.insert((*file).to_owned(), one.into_values().next().unwrap());
        }
        self.talk(
            &name(agent),
            ServerToAgent {
                remote_config: Some(offer),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server wants its metrics there.
    pub(super) fn direct(&mut self, agent: &str, hash: &str, endpoint: &str) {
        self.tell(format_args!(
            "the server wants metrics of {agent} at {endpoint}"
        ));
        self.talk(
            &name(agent),
            ServerToAgent {
                connection_settings: Some(destinations(hash, endpoint)),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server orders a restart.
    pub(super) fn order_restart(&mut self, agent: &str) {
        self.tell(format_args!("the server orders a restart of {agent}"));
        self.talk(
            &name(agent),
            ServerToAgent {
                command: Some(ServerToAgentCommand::default()),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server gives it another identity.
    pub(super) fn rename(&mut self, agent: &str, uid: [u8; 16]) {
        self.tell(format_args!(
            "the server gives {agent} another instance uid"
        ));
        self.talk(
            &name(agent),
            ServerToAgent {
                agent_identification: Some(opamp_client::messages::AgentIdentification {
                    new_instance_uid: uid.to_vec(),
                }),
                ..ServerToAgent::default()
            },
        );
    }

    fn talk(&mut self, agent: &AgentName, message: ServerToAgent) {
        let room = &self.rooms[agent];
        let link = room.link.expect("nobody listens");
        let message = ServerToAgent {
            instance_uid: room.uid.to_vec(),
            capabilities: 0x7,
            ..message
        };
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        let event = LinkEvent::Frame(frame);
        self.answer(5, agent, AgentEvent::Link { link, event });
    }

    pub(super) fn server_is(&mut self, agent: &str, there: There) {
        self.tell(format_args!("the server of {agent} is {there:?}"));
        let agent = name(agent);
        let room = self.rooms.get_mut(&agent).unwrap();
        room.server = there;
        let link = room.link.filter(|_| there != There::Up);
        if let Some(link) = link {
            self.down(&agent, link, LossKind::Network);
        }
    }

    fn down(&mut self, agent: &AgentName, link: LinkId, kind: LossKind) {
        let room = self.rooms.get_mut(agent).unwrap();
        room.link = room.link.filter(|it| *it != link);
        let loss = LinkLoss {
            kind,
            reason: "gone".to_owned(),
            retry_after: None,
        };
        let event = LinkEvent::Down(loss);
        self.answer(3, agent, AgentEvent::Link { link, event });
    }

    /// Somebody edits a local file.
    pub(super) fn edit(&mut self, agent: &str, path: &str, text: &str) {
        self.tell(format_args!("somebody writes {path}: {text:?}"));
        self.file(agent, path, text);
        self.touched(agent);
    }

    /// Files of the running revision are changed by somebody else.
    pub(super) fn spoil(&mut self, agent: &str, path: &str) {
        self.tell(format_args!("somebody changes {path} of what runs"));
        let drift = DriftedFile {
            path: path.to_owned(),
            expected: "aa".repeat(32),
            found: Some("bb".repeat(32)),
        };
        self.room(agent).drift.push(drift);
        self.touched(agent);
    }

    fn touched(&mut self, agent: &str) {
        if let Some(ticket) = self.room(agent).watch.take() {
            self.answer(1, &name(agent), AgentEvent::FilesTouched { ticket });
        }
    }

    /// Other settings, and a HUP.
    pub(super) fn hup(&mut self, settings: &str) {
        self.tell("HUP, with other settings");
        self.config = load(settings);
        self.furnish();
        self.hang_up();
    }

    /// Whether the agent is known.
    #[cfg(feature = "roster")]
    pub(super) fn has(&self, agent: &str) -> bool {
        self.rooms.contains_key(&name(agent))
    }

    /// Other agents, with their files, and a HUP.
    #[cfg(feature = "roster")]
    pub(super) fn join(&mut self, settings: &str, files: impl Fn(&mut Self)) {
        self.config = load(settings);
        self.furnish();
        files(self);
        let names = self.config.agents.iter().map(|it| it.name.as_str());
        let names: Vec<_> = names.collect();
        let names = names.join(", ");
        self.tell(format_args!("HUP, with {names}"));
        self.hang_up();
    }

    /// What is written down about the child that lives.
    pub(super) fn child_note(&self, agent: &str) -> ChildNote {
        let children = &self.rooms[&name(agent)].children;
        let living = children.values().find(|child| child.alive);
        living.unwrap().note.clone()
    }

    /// What is current counts as bad, and nothing is last good.
    pub(super) fn reject_current(&mut self, agent: &str) {
        let at = self.clock().wall;
        let disk = &mut self.room(agent).disk;
        let hash = disk.revisions[disk.current.as_ref().unwrap()].hash;
        disk.good = None;
        disk.rejected.push(Rejection {
            hash,
            reason: "bad".to_owned(),
            at,
            offers: Vec::new(),
        });
    }

    /// A HUP; the settings have not changed.
    pub(super) fn hang_up(&mut self) {
        self.step(Event::Signal(HostSignal::Hangup));
    }

    /// A HUP that finds settings which cannot be read.
    pub(super) fn bad_settings(&mut self) {
        self.tell("HUP, with settings that cannot be read");
        self.step(Event::Settings(Err("line 1: no".to_owned())));
    }

    pub(super) fn terminate(&mut self) {
        self.tell("TERM");
        self.step(Event::Signal(HostSignal::Terminate));
    }

    pub(super) fn command(&mut self, command: Command) {
        self.tell(format_args!("order: {command:?}"));
        self.commands += 1;
        let id = CommandId(self.commands);
        self.step(Event::Command { id, command });
    }

    /// A person applies a config.
    pub(super) fn apply(&mut self, agent: &str, file: &str, text: &str) {
        self.tell(format_args!("a person applies {file}: {text:?}"));
        self.commands += 1;
        let id = CommandId(self.commands);
        let command = Command::Apply {
            agent: Some(name(agent)),
            files: vec![OfferedFile {
                name: file.to_owned(),
                content_type: "text/yaml".to_owned(),
                body: text.as_bytes().to_vec(),
            }],
        };
        self.step(Event::Command { id, command });
    }

    /// What the disk has answered does not arrive.
    pub(super) fn lose_answers(&mut self) {
        self.tell("the disk does not answer");
        self.queue.retain(|_, what| {
            let event = match what {
                What::Host(Event::Agent { event, .. }) => event,
                _ => return true,
            };
            !matches!(event, AgentEvent::Disk { .. })
        });
    }

    /// An answer that nobody waits for.
    pub(super) fn stray(&mut self, agent: &str, event: AgentEvent) {
        self.tell(format_args!("stray: {event:?}"));
        let agent = name(agent);
        self.step(Event::Agent { agent, event });
    }

    /// What has changed of what people see.
    pub(super) fn status(&mut self) {
        let clock = self.clock();
        let Some(host) = &self.host else { return };
        self.tape.say(self.now, "status, as far as it has changed:");
        self.tape.status(host, clock, true);
        let due = host.deadline(clock).map(|due| due.since(clock.mono));
        let line = format!("         {}; looks again in {due:?}", host.headline(clock));
        self.tape.write(line);
    }

    // What the product does.

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.tape.effect(self.now, &effect);
            match effect {
                Effect::Agent { agent, effect } => self.for_agent(&agent, effect),
                Effect::SaveIdentity { ticket, identity } => {
                    let result = self.no_identity.map_or(Ok(()), |reason| {
                        Err(DiskFault {
                            kind: FaultKind::Full,
                            reason: reason.to_owned(),
                        })
                    });
                    if result.is_ok() {
                        self.identity = identity;
                    }
                    self.later(3, What::Host(Event::IdentitySaved { ticket, result }));
                }
                Effect::ReadSettings => {
                    let settings = Ok(Box::new(self.config.clone()));
                    self.later(1, What::Host(Event::Settings(settings)));
                }
                Effect::Admit {
                    ticket,
                    agent,
                    instance_uid,
                } => self.admit(ticket, &agent, instance_uid),
                Effect::Certificate { ticket, work, .. } => self.certificate(ticket, work),
                Effect::Exit(_) => self.exited = true,
                _ => {}
            }
        }
    }

    fn certificate(&mut self, ticket: Ticket, work: CertificateWork) {
        let result = match work {
            CertificateWork::Look => Ok(CertificateDone::Found(StoredPairs {
                pairs: self.live.iter().cloned().collect(),
                current: self.live.as_ref().map(|pair| pair.id.clone()),
                ..StoredPairs::default()
            })),
            CertificateWork::Remember(_) => Ok(CertificateDone::Remembered),
            _ => match self.pair {
                Some(not_after) => {
                    let pair = Pair {
                        id: PairId::new("07", "0123456789"),
                        serial: "07".to_owned(),
                        names: vec!["www.example.com".to_owned()],
                        not_before: WallTime::from_unix_millis(EPOCH_MS),
                        not_after,
                    };
                    let before = self.live.replace(pair.clone());
                    let changed = before.as_ref() != Some(&pair);
                    Ok(CertificateDone::Live { pair, changed })
                }
                None => Err(CertificateFault {
                    kind: CertificateFaultKind::Pair,
                    reason: "no such file".to_owned(),
                    retry_after: None,
                }),
            },
        };
        self.later(3, What::Host(Event::Certificate { ticket, result }));
    }

    /// A pair is there that is valid for so long, and somebody says so.
    pub(super) fn issue(&mut self, span: Duration) {
        let until = self.clock().wall.unix_millis() + u64::try_from(span.as_millis()).unwrap();
        self.pair = Some(WallTime::from_unix_millis(until));
        self.command(Command::RenewCertificate { name: None });
    }

    fn admit(&mut self, ticket: Ticket, settings: &Agent, uid: Option<[u8; 16]>) {
        let agent = settings.name.clone();
        let result = match self.no_admission {
            Some(reason) => Err(reason.to_owned()),
            None => {
                let room = self.rooms.get_mut(&agent).unwrap();
                let uid = uid.unwrap_or(room.uid);
                let leftover = room.leftover();
                let places = places(&agent, settings);
                Ok(Box::new(Admission {
                    instance_uid: uid,
                    state_dir: places.state_dir,
                    link: places.link,
                    reserved_ports: Vec::new(),
                    certificates: places.certificates,
                    supervisor: places.supervisor,
                    port: Some(4000),
                    facts: BTreeMap::new(),
                    persisted: room.disk.persisted(settings),
                    leftover,
                    seed: 1,
                }))
            }
        };
        let event = Event::Admitted {
            agent,
            ticket,
            result,
        };
        self.later(4, What::Host(event));
    }

    fn for_agent(&mut self, agent: &AgentName, effect: AgentEffect) {
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let result = self.rooms.get_mut(agent).unwrap().disk_work(work);
                self.answer(2, agent, AgentEvent::Disk { ticket, result });
            }
            AgentEffect::Spawn { ticket, spec } => self.spawn(agent, ticket, spec),
            AgentEffect::Signal {
                pid, signal, note, ..
            } => self.signal(agent, pid, signal, note.as_deref()),
            AgentEffect::RunTool { ticket, spec } => self.run_tool(agent, ticket, &spec),
            AgentEffect::HttpProbe { ticket, url, .. } => self.probe(agent, ticket, &url),
            AgentEffect::LookAtRoom { ticket, .. } => {
                let shortage = self.rooms[agent].shortage;
                let room = shortage.map_or(Ok(()), |it| Err(it.to_owned()));
                self.answer(1, agent, AgentEvent::RoomSeen { ticket, room });
            }
            AgentEffect::WatchOutput { ticket, .. } => {
                let room = self.rooms.get_mut(agent).unwrap();
                room.listening = Some(ticket);
                let result = room.unheard.map_or(Ok(()), |it| Err(it.to_owned()));
                self.answer(1, agent, AgentEvent::OutputWatched { ticket, result });
            }
            AgentEffect::WatchFiles { ticket, paths } => {
                let watch = (!paths.is_empty()).then_some(ticket);
                self.rooms.get_mut(agent).unwrap().watch = watch;
                if watch.is_some() {
                    let by = WatchedBy::Events;
                    self.answer(1, agent, AgentEvent::FilesWatched { ticket, by });
                }
            }
            AgentEffect::Dial { link, .. } => match self.rooms[agent].server {
                There::Up => {
                    self.rooms.get_mut(agent).unwrap().link = Some(link);
                    let event = LinkEvent::Up;
                    self.answer(5, agent, AgentEvent::Link { link, event });
                }
                There::Away | There::Lost(..) => self.down(agent, link, LossKind::Network),
                There::Silent => {}
            },
            AgentEffect::Hangup { link } => self.down(agent, link, LossKind::Ours),
            AgentEffect::Send { link, frame } => self.hear(agent, link, &frame),
            AgentEffect::ReadCounters { .. } => unreachable!("no profile here counts"),
            AgentEffect::CancelTool { .. }
            | AgentEffect::LocalSend { .. }
            | AgentEffect::LocalClose { .. } => {}
        }
    }

    fn hear(&mut self, agent: &AgentName, link: LinkId, frame: &[u8]) {
        let message: AgentToServer = frame::decode(frame, FrameRules::default()).unwrap();
        self.tape.read(self.now, agent, &message);
        if self.rooms[agent].link == Some(link) {
            self.talk(agent, ServerToAgent::default());
        }
    }

    fn spawn(&mut self, agent: &AgentName, ticket: Ticket, spec: SpawnSpec) {
        self.pids += 1;
        let (pid, now) = (self.pids, self.now);
        let started = self.clock().wall;
        let room = self.rooms.get_mut(agent).unwrap();
        if let Some(reason) = room.no_spawn {
            let event = AgentEvent::SpawnFailed {
                ticket,
                reason: reason.to_owned(),
                transient: true,
            };
            return self.answer(2, agent, event);
        }
        let alive = room.children.values().any(|child| child.alive);
        assert!(!alive, "two children: {}", self.tape.text());
        let (text, marker) = room.shown();
        let child = Child {
            text,
            marker,
            alive: true,
            told: 1,
            told_at: now,
            reloads: 0,
            note: spec.note,
            dies_with_us: spec.death_signal.is_some(),
            connection: None,
        };
        room.children.insert(pid, child);
        let child = ChildIdentity {
            pid,
            start_ticks: 1,
            started,
        };
        self.answer(1, agent, AgentEvent::Spawned { ticket, child });
        self.child_begins(agent, pid, false);
    }

    fn child_begins(&mut self, agent: &AgentName, pid: u32, by_hup: bool) {
        let links = places_link(self.config.agents.iter().find(|it| &it.name == agent));
        let room = self.rooms.get_mut(agent).unwrap();
        let child = &room.children[&pid];
        let (text, told) = (child.text.clone(), child.told);
        let has = |word: &str| text.contains(word);
        let listening = room.listening.take_if(|_| by_hup && !has("silent"));
        let dies = |code| What::Dies {
            agent: agent.clone(),
            pid,
            told,
            status: ExitStatus::Code(code),
        };
        if let Some(ticket) = listening {
            let said = if has("refused") {
                Err("bad config in line 1".to_owned())
            } else {
                Ok(())
            };
            self.answer(80, agent, AgentEvent::OutputSaid { ticket, said });
        }
        if links && !has("silent") {
            for wait in [60, 4_060]
                .into_iter()
                .take(1 + usize::from(has("sickens")))
            {
                let agent = agent.clone();
                self.later(wait, What::Talks { agent, pid, told });
            }
        }
        if has("dies-at-start") {
            self.later(40, dies(1));
        }
        if has("blames-config") {
            self.later(40, dies(78));
        }
        if has("dies-later") {
            self.later(6_000, dies(1));
        }
    }

    /// Its health as it would answer now.
    fn is_well(&self, agent: &AgentName) -> bool {
        let living = self.rooms[agent].children.values().find(|it| it.alive);
        living.is_some_and(|child| {
            let sick = child.text.contains("sickens") && self.now >= child.told_at + 4_000;
            !sick && !child.text.contains("unwell")
        })
    }

    fn child_talks(&mut self, agent: &AgentName, pid: u32, told: u64) {
        let healthy = self.is_well(agent);
        let room = self.rooms.get_mut(agent).unwrap();
        let uid = room.uid;
        let Some(child) = room.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || child.told != told {
            return;
        }
        let refused = child.text.contains("refused");
        let status = RemoteConfigStatus {
            last_remote_config_hash: unhex(&child.marker).unwrap_or_default(),
            status: if refused { 3 } else { 1 },
            error_message: if refused { "sources.x: no" } else { "" }.to_owned(),
        };
        let health = ComponentHealth {
            healthy,
            last_error: if healthy { "" } else { "backend is away" }.to_owned(),
            ..ComponentHealth::default()
        };
        let message = AgentToServer {
            instance_uid: uid.to_vec(),
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "child")],
                non_identifying_attributes: Vec::new(),
            }),
            capabilities: 1,
            health: Some(health),
            remote_config_status: Some(status),
            ..AgentToServer::default()
        };
        let fresh = child.connection.is_none();
        self.connections += u64::from(fresh);
        let connection = *child.connection.get_or_insert(self.connections);
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        if fresh {
            let event = LocalEvent::Opened {
                peer_pid: Some(pid),
            };
            self.answer(0, agent, AgentEvent::Local { connection, event });
        }
        let event = LocalEvent::Frame(frame);
        self.answer(1, agent, AgentEvent::Local { connection, event });
    }

    fn signal(&mut self, agent: &AgentName, pid: u32, signal: i32, note: Option<&ChildNote>) {
        let now = self.now;
        let room = self.rooms.get_mut(agent).unwrap();
        let (text, marker) = room.shown();
        let child = room.children.get_mut(&pid).expect("no such process");
        if let Some(note) = note {
            child.note = ChildNote {
                start: child.note.start.clone(),
                ..note.clone()
            };
        }
        let status = ExitStatus::Signal(signal);
        match signal {
            1 => {
                (child.text, child.marker, child.told_at) = (text, marker, now);
                child.told += 1;
                child.reloads += u64::from(!child.text.contains("silent"));
                self.child_begins(agent, pid, true);
            }
            15 if child.text.contains("deaf") => {}
            _ => self.later(
                10,
                What::Dies {
                    agent: agent.clone(),
                    pid,
                    told: 0,
                    status,
                },
            ),
        }
    }

    /// Somebody kills the child.
    pub(super) fn kill(&mut self, agent: &str) {
        self.tell(format_args!("somebody kills the child of {agent}"));
        let agent = name(agent);
        let children = self.rooms[&agent].children.iter();
        let pid = *children.rev().find(|(_, child)| child.alive).unwrap().0;
        self.child_dies(&agent, pid, 0, ExitStatus::Signal(9));
    }

    fn child_dies(&mut self, agent: &AgentName, pid: u32, told: u64, status: ExitStatus) {
        let room = self.rooms.get_mut(agent).unwrap();
        let child = room.children.get_mut(&pid).unwrap();
        if !child.alive || (told != 0 && told != child.told) {
            return;
        }
        child.alive = false;
        let oom_killed = child.text.contains("oom");
        if let Some(connection) = child.connection.take() {
            let event = LocalEvent::Closed;
            self.answer(0, agent, AgentEvent::Local { connection, event });
        }
        let exit = Exit {
            status,
            tail: "its last words\n".to_owned(),
            oom_killed,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        self.answer(1, agent, AgentEvent::Exited { pid, exit });
    }

    fn run_tool(&mut self, agent: &AgentName, ticket: Ticket, spec: &ToolSpec) {
        let (wait, end, output) = if spec.program == Path::new("/bin/next") {
            (50, self.successor.clone(), "no such setting")
        } else if let Some(asked) = spec
            .args
            .iter()
            .find(|it| *it == "health" || *it == "proof")
        {
            let text = self.rooms[agent].told_text();
            let well = match asked.as_str() {
                "health" => self.is_well(agent),
                _ => !text.contains("silent"),
            };
            (10, ToolEnd::Exited(i32::from(!well)), "")
        } else {
            let text = self.rooms[agent].judged(spec);
            match () {
                () if text.contains("hangs") => (
                    u64::try_from(spec.timeout.as_millis()).unwrap(),
                    ToolEnd::TimedOut,
                    "",
                ),
                () if text.contains("crashes-it") => (20, ToolEnd::Signalled(11), "panic"),
                () if text.contains("unstartable") => {
                    (20, ToolEnd::NotStarted("no such file".to_owned()), "")
                }
                () if text.contains("invalid") => (20, ToolEnd::Exited(1), " no such word\n"),
                () => (20, ToolEnd::Exited(0), ""),
            }
        };
        let outcome = ToolOutcome {
            end,
            output: output.to_owned(),
        };
        self.answer(wait, agent, AgentEvent::ToolDone { ticket, outcome });
    }

    fn probe(&mut self, agent: &AgentName, ticket: Ticket, url: &str) {
        let well = self.is_well(agent);
        let room = &self.rooms[agent];
        let living = room.children.values().find(|it| it.alive);
        let answer = living.map(|child| match url.ends_with("/health") {
            true => (if well { 200 } else { 503 }, String::new()),
            false if child.text.contains("not-json") => (200, "hello".to_owned()),
            false if child.text.contains("not-found") => (404, String::new()),
            false => {
                let shown = if child.text.contains("silent") {
                    "nothing"
                } else {
                    &child.marker
                };
                let count = child.reloads;
                let body =
                    format!("{{\"revision\": \"{shown}\", \"reloads\": {{\"count\": {count}}}}}");
                (200, body)
            }
        });
        let answer = answer.filter(|_| !room.no_http);
        let outcome = answer
            .map(|(status, body)| HttpAnswer { status, body })
            .ok_or_else(|| "nobody answers".to_owned());
        self.answer(15, agent, AgentEvent::HttpProbed { ticket, outcome });
    }
}

fn places(agent: &AgentName, settings: &Agent) -> Places {
    Places {
        state_dir: format!("/s/agents/{agent}").into(),
        link: places_link(Some(settings)).then(|| format!("/run/{agent}.sock")),
        reserved_ports: Vec::new(),
        certificates: "/s/certificates".into(),
        supervisor: String::new(),
    }
}

/// Whether its program speaks OpAMP with us.
fn places_link(settings: Option<&Agent>) -> bool {
    settings.is_some_and(|it| it.profile.local_link == config::LocalLink::Unix)
}

impl Room {
    fn new(uid: [u8; 16]) -> Self {
        Self {
            disk: Shelf::default(),
            drift: Vec::new(),
            faults: Vec::new(),
            children: BTreeMap::new(),
            server: There::Up,
            link: None,
            watch: None,
            listening: None,
            shortage: None,
            no_spawn: None,
            unheard: None,
            no_http: false,
            inheritance: None,
            frozen: None,
            start_drift: Vec::new(),
            leftover_note: None,
            uid,
        }
    }

    /// What an earlier life left running.
    fn leftover(&mut self) -> Option<Leftover> {
        let note = self.leftover_note.take();
        let living = self.children.iter().find(|(_, child)| child.alive);
        living.map(|(pid, child)| Leftover {
            child: ChildIdentity {
                pid: *pid,
                start_ticks: 1,
                started: WallTime::from_unix_millis(EPOCH_MS),
            },
            note: note.unwrap_or_else(|| Ok(child.note.clone())),
        })
    }

    /// What somebody reads who reads what is current: the text, and the revision that is named in it.
    fn shown(&self) -> (String, String) {
        let Some(id) = &self.disk.current else {
            return (String::new(), String::new());
        };
        let revision = &self.disk.revisions[id];
        let hash = revision.hash.to_hex();
        (self.disk.text(id), hash)
    }

    fn told_text(&self) -> &str {
        let living = self.children.values().find(|child| child.alive);
        living.map_or("", |child| &child.text)
    }

    /// What a validator is shown.
    fn judged(&self, spec: &ToolSpec) -> String {
        let args = spec.args.iter();
        let at = args.filter_map(|it| it.split_once("/revisions/"));
        let id = at.filter_map(|(_, rest)| rest.split('/').next()).next();
        match id {
            Some(id) => self.disk.text(&id.parse().unwrap()),
            None => text(&self.disk.trial),
        }
    }

    fn disk_work(&mut self, work: DiskWork) -> Result<DiskDone, DiskFault> {
        let kind = format!("{work:?}");
        if let Some(at) = self.faults.iter().position(|it| kind.starts_with(it.0)) {
            let (what, kind) = self.faults.remove(at);
            let reason = format!("{what}: no space left");
            return Err(DiskFault { kind, reason });
        }
        match work {
            DiskWork::Verify(id) => {
                let drift = self.drift.clone();
                Ok(DiskDone::Verified { id, drift })
            }
            DiskWork::Restore(_) => {
                self.drift.clear();
                Ok(DiskDone::Durable)
            }
            work => Ok(self.disk.perform(work)),
        }
    }
}

/// A hash as people read it.
pub(super) fn offer_word(offer: &crate::units::OfferHash) -> String {
    let text = std::str::from_utf8(offer.as_bytes());
    text.map_or_else(|_| hex(offer.as_bytes()), str::to_owned)
}
