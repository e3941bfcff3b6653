//! A whole host for a story: disks that keep everything, children that do what the words in their config say, and a
//! server for each agent.
//!
//! Promises: everything follows from what a story does, and all of it that can be seen from outside is on the tape.
//! What the words in a config mean: `dies-at-start`, `dies-later` (after six seconds), `blames-config` (exit code 78),
//! `invalid` (the validator says no), `hangs` (it never ends), `unwell`, `sickens` (unwell after four seconds),
//! `silent` (no proof), `refused` (the child says no), `deaf` (heeds no TERM).

mod acts;
mod children;
mod effects;
mod words;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentDescription, AgentToServer, ComponentHealth, EffectiveConfig, KeyValue,
    RemoteConfigStatus, ServerToAgent, ServerToAgentCommand,
};

use super::super::rig::{Shelf, There, destinations, remote_config, text};
use super::tape::Tape;
use crate::config::{self, Agent, Config};
use crate::engine::host::{Host, HostSetup};
use crate::engine::message::{
    Admission, AgentEffect, AgentEvent, CertificateDone, CertificateFault, CertificateFaultKind,
    CertificateWork, ChildIdentity, ChildNote, Command, CommandId, Credential, CredentialSource,
    DiskDone, DiskFault, DiskWork, DriftedFile, Effect, Event, Exit, ExitStatus, FaultKind,
    HostSignal, HttpAnswer, Identity, Inheritance, Leftover, LinkEvent, LinkLoss, LocalEvent,
    LossKind, OfferedFile, Pair, PairId, Rejection, SpawnSpec, StoredPairs, ToolEnd, ToolOutcome,
    ToolSpec, WatchedBy,
};
use crate::engine::{CertificatesSetup, ClockSetup, Places, RegistrationSetup, Setup};
use crate::units::{AgentName, LinkId, Moment, Now, Ticket, WallTime, hex, unhex};
use words::load;

const STEPS_MAX: u32 = 20_000;
const EPOCH_MS: u64 = 1_800_000_000_000;

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
    /// How those that join fare, and whose ports take so many milliseconds to make.
    pub(super) no_admission: Option<&'static str>,
    pub(super) slow_admission: Option<(&'static str, u64)>,
    /// No server answers a goodbye.
    pub(super) deaf_server: bool,
    /// The identity file cannot be written.
    pub(super) no_identity: Option<&'static str>,
    /// How the next executable fares when it is asked.
    pub(super) successor: ToolEnd,
    pub(super) exited: bool,
    /// The pair that is in the operator's files, and until when it is valid.
    pub(super) pair: Option<WallTime>,
    /// The pair that was taken over from there.
    live: Option<Pair>,
    /// What is known of the token that is stored.
    credential: Option<Credential>,
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
            slow_admission: None,
            deaf_server: false,
            no_identity: None,
            successor: ToolEnd::Exited(0),
            exited: false,
            pair: None,
            live: None,
            credential: None,
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
            registration: self.registration(),
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

    fn registration(&self) -> RegistrationSetup {
        RegistrationSetup {
            settings: self.config.registration.clone(),
            credential: self.credential.clone(),
            unreadable: None,
            seed: 1,
        }
    }

    fn remembered(&mut self, agent: &AgentName) -> (Setup, Option<Leftover>) {
        let settings = self.config.agents.iter().find(|it| &it.name == agent);
        let settings = settings.unwrap().clone();
        let server = self.config.server.clone();
        let server = server.or_else(|| self.registration().server());
        let capabilities = self.config.capabilities;
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
        let mut args = spec.args.iter();
        let id = args.find_map(|it| it.split_once("/revisions/")?.1.split('/').next());
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
