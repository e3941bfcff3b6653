//! The whole product in one value: `Host` and its store on a disk that forgets, a scripted server, children and
//! validators.
//!
//! Promises: everything follows from the seed. Each effect may succeed, fail, be late, be lost with the process or
//! be answered twice; the process may die between any two effects and inside any disk work. The invariants are
//! checked after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adjutant::config::{
    self, Acme, Certificate, CertificateSource, Config, Domains, Environment, Overrides,
};
use adjutant::engine::host::{Host, HostSetup};
use adjutant::engine::message::{
    AgentEffect, AgentEvent, CertificateDone, CertificateOrder, CertificateWork, ChildIdentity,
    DiskWork, Effect, Event, Exit, ExitStatus, Identity, LinkEvent, LinkLoss, LocalEvent, LossKind,
    RegistrationCall, SpawnSpec, ToolEnd, ToolOutcome, ToolSpec,
};
use adjutant::engine::random::Random;
use adjutant::engine::{CertificatesSetup, Places, Setup};
use adjutant::port::store::{AgentLayout, AgentStore, PairStore};
use adjutant::sys::durable::{Disk as _, Kind};
use adjutant::units::{AgentName, CertificateName, LinkId, Moment, Now, Ticket, WallTime};
use nix::libc;
use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AgentRemoteConfig, AgentToServer,
    ComponentHealth, KeyValue, RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent,
    ServerToAgentCommand,
};

use super::authority::Authority;
use super::disk::ModelDisk;
use super::registration::Service;

const MAX: usize = frame::MAX_MESSAGE_DEFAULT;
const EPOCH_MS: u64 = 1_800_000_000_000;
const TRACE_MAX: usize = 600;
const AGENT_UID: [u8; 16] = [7; 16];

/// How a config behaves. The word stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Behaviour {
    Ok,
    Slow,
    Invalid,
    DiesAtStart,
    BlamesConfig,
    DiesLater,
    NeverHealthy,
    Silent,
    Refused,
    HangsValidator,
}

impl Behaviour {
    pub(crate) const ALL: [(Self, &'static str); 10] = [
        (Self::Ok, "ok"),
        (Self::Slow, "slow"),
        (Self::Invalid, "invalid"),
        (Self::DiesAtStart, "dies-at-start"),
        (Self::BlamesConfig, "blames-config"),
        (Self::DiesLater, "dies-later"),
        (Self::NeverHealthy, "never-healthy"),
        (Self::Silent, "silent"),
        (Self::Refused, "refused"),
        (Self::HangsValidator, "hangs-validator"),
    ];

    fn of(text: &str) -> Self {
        let named = Self::ALL
            .iter()
            .find(|(_, word)| text.contains(&format!("behave: {word}\n")));
        named.map_or(Self::Ok, |(behaviour, _)| *behaviour)
    }

    pub(crate) fn text(self, number: u64) -> String {
        let word = Self::ALL.iter().find(|(b, _)| *b == self).unwrap().1;
        format!("number: {number}\nbehave: {word}\n")
    }

    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::Slow)
    }
}

#[derive(Debug, Clone)]
struct Child {
    text: String,
    marker: String,
    connection: Option<u64>,
    alive: bool,
    /// The supervisor's life that is told about its end.
    reaped: bool,
    stubborn: bool,
    generation: u64,
    /// The pair it read when it read its config, or was told to again.
    pair: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) enum What {
    Host(Event),
    /// A call reaches the registration service.
    Call {
        ticket: Ticket,
        call: RegistrationCall,
    },
    /// Its answer reaches us: token number `token`.
    Issued {
        ticket: Ticket,
        token: u64,
        call: RegistrationCall,
    },
    /// The token in memory is to be stored again.
    SaveCredential {
        ticket: Ticket,
    },
    Disk {
        ticket: Ticket,
        work: Box<DiskWork>,
    },
    PairWork {
        ticket: Ticket,
        name: CertificateName,
        work: Box<CertificateWork>,
    },
    /// An order reaches the authority.
    Order {
        ticket: Ticket,
        order: Box<CertificateOrder>,
    },
    ChildTalks {
        pid: u32,
        generation: u64,
    },
    ChildDies {
        pid: u32,
        generation: u64,
        status: ExitStatus,
    },
    ServerAnswers {
        link: LinkId,
        message: Box<ServerToAgent>,
    },
}

/// What the world does to the product.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) disk: f64,
    pub(crate) duplicates: f64,
    pub(crate) late: f64,
    pub(crate) deaths: f64,
    pub(crate) child_deaths: f64,
    pub(crate) links: f64,
    pub(crate) spawns: f64,
}

/// An offer of the scripted server.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) hash: Vec<u8>,
    pub(crate) text: String,
}

#[derive(Debug, Default)]
pub(super) struct Server {
    up: bool,
    pub(super) link: Option<LinkId>,
    offer: Option<Offered>,
    offers: BTreeMap<Vec<u8>, String>,
    status: Option<RemoteConfigStatus>,
    effective: Option<String>,
    health: Option<ComponentHealth>,
    sequence: Option<u64>,
}

pub(crate) struct World {
    seed: u64,
    pub(super) random: Random,
    pub(super) now: u64,
    booted_at: u64,
    pub(super) disk: ModelDisk,
    store: Option<AgentStore<ModelDisk>>,
    pub(super) authority: Authority,
    seen_pair: bool,
    cancelled: BTreeSet<Ticket>,
    /// How far the wall clock was put forward.
    pub(super) ahead: u64,
    pub(super) host: Option<Host>,
    pub(super) config: Config,
    queue: BTreeMap<(u64, u64), (u64, What)>,
    next_event: u64,
    life: u64,
    next_pid: u32,
    next_connection: u64,
    children: BTreeMap<u32, Child>,
    pub(super) server: Server,
    pub(super) service: Option<Service>,
    pub(crate) faults: Faults,
    seen_current: bool,
    pub(crate) effects: u64,
    kill_at_effect: Option<(u64, Death)>,
    trace: VecDeque<String>,
    pub(crate) reported: Vec<(Vec<u8>, i32)>,
    pub(crate) phases: Vec<String>,
    tools: BTreeSet<Ticket>,
    pub(crate) signals: u64,
    exited: bool,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// kill -9: the system runs on, children too.
    Killed,
    /// The power is gone.
    Power,
}

struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::other(path.to_owned()))
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, "")
    }

    /// With further lines of settings.
    pub(super) fn with(seed: u64, more: &str) -> Self {
        let text = format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{collector: {{profile: adjutant}}}}\n{more}"
        );
        let overrides = Overrides::default();
        let config = config::load("sim", &text, &NoEnvironment, &overrides).unwrap();
        let disk = ModelDisk::new(seed);
        disk.put_dir(Path::new("/state"));
        Self {
            seed,
            random: Random::seeded(seed),
            now: 0,
            booted_at: 0,
            disk,
            store: None,
            authority: Authority::default(),
            seen_pair: false,
            cancelled: BTreeSet::new(),
            ahead: 0,
            host: None,
            config,
            queue: BTreeMap::new(),
            next_event: 0,
            life: 0,
            next_pid: 100,
            next_connection: 0,
            children: BTreeMap::new(),
            server: Server {
                up: true,
                ..Server::default()
            },
            service: None,
            faults: Faults::default(),
            seen_current: false,
            effects: 0,
            kill_at_effect: None,
            trace: VecDeque::new(),
            reported: Vec::new(),
            phases: Vec::new(),
            tools: BTreeSet::new(),
            signals: 0,
            exited: false,
        }
    }

    /// A world whose host keeps the certificate `web` for a fixed domain or, without one, for what bundles say.
    pub(super) fn with_certificate(seed: u64, domain: Option<&str>) -> Self {
        let mut world = Self::new(seed);
        let agent = Self::name();
        let file = "ssl_certificate_host.txt".to_owned();
        world.config.agents[0].domain_files = vec![file.clone()];
        world.config.certificates = vec![Certificate {
            name: "web".parse().unwrap(),
            source: CertificateSource::Acme(Acme {
                directory: "https://authority.test/directory".to_owned(),
                ca_file: None,
                contact: None,
                listen: "127.0.0.1:80".parse().unwrap(),
                timeout: Duration::from_mins(1),
            }),
            domains: match domain {
                Some(domain) => Domains::Fixed(vec![domain.parse().unwrap()]),
                None => Domains::FromBundle { agent, file },
            },
            agents: None,
            check_interval: Duration::from_hours(6),
            renew_percent: 66,
            retry_delay: Duration::from_mins(15),
        }];
        world
    }

    pub(crate) fn boot(&mut self) {
        self.life += 1;
        self.booted_at = self.now;
        self.queue
            .retain(|_, (life, what)| *life == 0 || matches!(what, What::ChildDies { .. }));
        self.tools.clear();
        self.cancelled.clear();
        self.check_pair();
        self.server.link = None;
        self.exited = false;
        self.say(format!("boot, life {}", self.life));
        let layout = AgentLayout::new(Path::new("/state"), &Self::name());
        let (store, persisted) = match AgentStore::load(self.disk.clone(), layout, &[]) {
            Ok(loaded) => loaded,
            Err(error) => self.violated(&format!("state does not load: {error}")),
        };
        let living: Vec<u32> = self
            .children
            .iter()
            .filter(|(_, child)| child.alive)
            .map(|(pid, _)| *pid)
            .collect();
        if living.len() > 1 {
            self.violated(&format!("more than one child lives: {living:?}"));
        }
        let leftover = living.first().map(|pid| identity(*pid));
        if let Some(child) = living.first().and_then(|pid| self.children.get_mut(pid)) {
            child.connection = None;
            child.reaped = false;
        }
        for repair in persisted.repairs.clone() {
            self.say(format!("repair: {repair}"));
        }
        self.store = Some(store);
        let agent = self.config.agents.first().unwrap().clone();
        let setup = Setup {
            settings: agent,
            server: self.config.server.clone(),
            capabilities: self.config.capabilities,
            grace: self.config.stop.grace,
            instance_uid: AGENT_UID,
            places: Places {
                state_dir: "/state/agents/collector".into(),
                link: Some("/run/link.sock".to_owned()),
                reserved_ports: Vec::new(),
                certificates: "/state/certificates".into(),
            },
            facts: BTreeMap::new(),
            persisted,
            seed: self.random.next_u64(),
        };
        let mut host = Host::new(HostSetup {
            agents: vec![(setup, leftover)],
            identity: Identity::default(),
            certificates: CertificatesSetup {
                list: self.config.certificates.clone(),
                directory: "/state/certificates".into(),
                seed: self.random.next_u64(),
            },
            stop: self.config.stop,
            give_up: self.config.give_up,
            previous_end: None,
            registration: self.known_registration(),
            has_server: true,
        });
        let effects = host.start(self.clock());
        self.host = Some(host);
        self.perform(effects);
    }

    /// The process ends here and now.
    pub(crate) fn die(&mut self, death: Death) {
        self.say(format!("death: {death:?}"));
        self.host = None;
        self.store = None;
        self.server.link = None;
        match death {
            Death::Killed => self.disk.kill(),
            Death::Power => {
                let seed = self.random.next_u64();
                self.disk.crash(seed);
                for child in self.children.values_mut() {
                    child.alive = false;
                }
            }
        }
        self.queue
            .retain(|_, (_, what)| matches!(what, What::ChildDies { .. }));
    }

    /// Dies before effect number `effect` of all effects so far is performed.
    pub(crate) fn die_at_effect(&mut self, effect: u64, death: Death) {
        self.kill_at_effect = Some((effect, death));
    }

    /// Lets time pass. Dead supervisors are booted again after a moment.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + u64::try_from(span.as_millis()).unwrap();
        let mut steps = 0u64;
        while self.now < end {
            steps += 1;
            if steps > 200_000 {
                self.violated("no progress in time: too many steps");
            }
            if self.exited {
                break;
            }
            if self.host.is_none() {
                self.now += 1 + self.random.below(500);
                self.boot();
                continue;
            }
            if self.chance(self.faults.deaths) {
                let death = if self.chance(0.5) {
                    Death::Killed
                } else {
                    Death::Power
                };
                self.die(death);
                continue;
            }
            let clock = self.clock();
            let deadline = self.host.as_ref().and_then(|host| host.deadline(clock));
            let deadline = deadline.map(|at| self.booted_at + at.as_millis());
            let next = self.queue.keys().next().copied();
            match (next, deadline) {
                (Some((at, _)), deadline) if deadline.is_none_or(|due| at <= due) => {
                    if at >= end {
                        break;
                    }
                    self.now = self.now.max(at);
                    let (_, (_, what)) = self.queue.pop_first().unwrap();
                    self.happen(what);
                }
                (_, Some(due)) => {
                    if due >= end {
                        break;
                    }
                    // A deadline in the past is served now; the host must then move it on.
                    self.now = self.now.max(due);
                    self.step(Event::Tick);
                }
                (None, None) => break,
                (Some(_), None) => unreachable!("the first arm takes it"),
            }
            self.check();
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Host(event) => self.step(event),
            What::Call { ticket, call } => self.service_hears(ticket, call),
            What::Issued {
                ticket,
                token,
                call,
            } => self.issued(ticket, token, &call),
            What::SaveCredential { ticket } => self.save_again(ticket),
            What::Disk { ticket, work } => self.disk_work(ticket, *work),
            What::PairWork { ticket, name, work } => self.pair_work(ticket, &name, *work),
            What::Order { ticket, order } => self.ordered(ticket, &order),
            What::ChildTalks { pid, generation } => self.child_talks(pid, generation),
            What::ChildDies {
                pid,
                generation,
                status,
            } => self.child_dies(pid, generation, status),
            What::ServerAnswers { link, message } => {
                if self.server.link == Some(link) {
                    let frame = frame::encode(&*message, MAX).unwrap();
                    self.agent_event(
                        0,
                        AgentEvent::Link {
                            link,
                            event: LinkEvent::Frame(frame),
                        },
                    );
                }
            }
        }
    }

    /// The loop looks around, as when the kernel says that the clock jumped.
    pub(super) fn tick(&mut self) {
        self.step(Event::Tick);
    }

    fn step(&mut self, event: Event) {
        let clock = self.clock();
        let text = format!("{event:?}");
        self.say(format!(
            "event {}",
            text.chars().take(160).collect::<String>()
        ));
        let Some(host) = &mut self.host else { return };
        let effects = host.step(clock, event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.effects += 1;
            if let Some((at, death)) = self.kill_at_effect
                && self.effects == at
            {
                self.kill_at_effect = None;
                self.die(death);
            }
            if self.host.is_none() {
                return;
            }
            match effect {
                Effect::Agent { effect, .. } => self.agent_effect(effect),
                Effect::Register { ticket, call, .. } => {
                    let wait = self.latency(200);
                    self.later(wait, What::Call { ticket, call });
                }
                Effect::SaveCredential { ticket } => {
                    self.later(1, What::SaveCredential { ticket });
                }
                Effect::SaveIdentity { ticket, .. } => {
                    self.later(
                        5,
                        What::Host(Event::IdentitySaved {
                            ticket,
                            result: Ok(()),
                        }),
                    );
                }
                Effect::Note(note) => {
                    if note.message == "rollout phase" {
                        let to = note.fields.iter().find(|(key, _)| *key == "to");
                        self.phases.push(to.unwrap().1.clone());
                    }
                    self.say(format!("note {} {:?}", note.message, note.fields));
                }
                Effect::LastWords(words) => self.say(format!("last words: {words}")),
                Effect::Announce(milestone) => self.say(format!("announce {milestone:?}")),
                Effect::Certificate { ticket, name, work } => self.certificate(ticket, name, work),
                Effect::CancelCertificate { ticket } => {
                    self.say(format!("order {ticket:?} called off"));
                    self.cancelled.insert(ticket);
                }
                Effect::Reply { .. } | Effect::ReadSettings => {}
                Effect::Exit(reason) => {
                    self.say(format!("exit {reason:?}"));
                    self.exited = true;
                    self.host = None;
                    return;
                }
            }
        }
    }

    fn agent_effect(&mut self, effect: AgentEffect) {
        let text = format!("{effect:?}");
        self.say(format!(
            "effect {}",
            text.chars().take(160).collect::<String>()
        ));
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let wait = self.latency(15);
                self.later(
                    wait,
                    What::Disk {
                        ticket,
                        work: Box::new(work),
                    },
                );
            }
            AgentEffect::Spawn { ticket, spec } => self.spawn(ticket, &spec),
            AgentEffect::Signal { pid, signal, .. } => self.signal(pid, signal),
            AgentEffect::RunTool { ticket, spec } => self.run_tool(ticket, &spec),
            AgentEffect::CancelTool { ticket } => {
                self.tools.remove(&ticket);
            }
            AgentEffect::HttpProbe { .. } => unreachable!("the profile has no HTTP probe"),
            AgentEffect::Dial {
                link, authorize, ..
            } => self.dial(link, authorize),
            AgentEffect::Send { link, frame } => self.server_hears(link, &frame),
            AgentEffect::Hangup { link } => {
                let ours = LossKind::Ours;
                self.link_down(link, ours, 2);
            }
            AgentEffect::LocalSend { .. } => {}
            AgentEffect::LocalClose { connection } => {
                for child in self.children.values_mut() {
                    if child.connection == Some(connection) {
                        child.connection = None;
                    }
                }
            }
        }
    }

    // ---- disk

    fn disk_work(&mut self, ticket: Ticket, work: DiskWork) {
        if self.chance(self.faults.disk) {
            let step = self.disk.steps() + 1 + self.random.below(12);
            let errors = [libc::ENOSPC, libc::EIO, libc::EROFS];
            let index = usize::try_from(self.random.below(3)).unwrap();
            let last = step + self.random.below(3);
            self.disk.fail(step..=last, errors[index]);
        }
        let dies = self.chance(self.faults.deaths * 4.0);
        if dies {
            self.disk
                .die_after(self.disk.steps() + self.random.below(14));
        }
        let Some(store) = &mut self.store else { return };
        let promotes = matches!(work, DiskWork::Promote(_));
        let result = store.perform(work);
        self.seen_current |= promotes && result.is_ok();
        // A fault that did not strike now would strike the simulator's own look at the disk.
        self.disk.kill();
        if dies {
            // Whether or not the work came to its end before it: the process is gone.
            let death = if self.chance(0.5) {
                Death::Killed
            } else {
                Death::Power
            };
            return self.die(death);
        }
        if let Err(fault) = &result {
            self.say(format!("fault {}", fault.reason));
        }
        let wait = self.latency(5);
        if self.chance(self.faults.duplicates) {
            let result = Ok(adjutant::engine::message::DiskDone::Durable);
            self.agent_event(wait + 40, AgentEvent::Disk { ticket, result });
        }
        self.agent_event(wait, AgentEvent::Disk { ticket, result });
    }

    // ---- certificates

    fn certificate(&mut self, ticket: Ticket, name: CertificateName, work: CertificateWork) {
        let text = format!("{work:?}");
        let text: String = text.chars().take(120).collect();
        self.say(format!("effect certificate {ticket:?} {text}"));
        match work {
            CertificateWork::Order(order) => {
                let wait = self.latency(2_000);
                self.later(wait, What::Order { ticket, order });
            }
            work => {
                let wait = self.latency(15);
                let work = Box::new(work);
                self.later(wait, What::PairWork { ticket, name, work });
            }
        }
    }

    fn ordered(&mut self, ticket: Ticket, order: &CertificateOrder) {
        if self.cancelled.contains(&ticket) {
            return;
        }
        let result = self
            .authority
            .answer(EPOCH_MS + self.ahead + self.now, order);
        self.say(format!(
            "authority: {}",
            if result.is_ok() { "issued" } else { "no" }
        ));
        let wait = self.latency(2_000);
        if self.chance(self.faults.duplicates) {
            let result = result.clone();
            self.later(wait + 40, What::Host(Event::Certificate { ticket, result }));
        }
        self.later(wait, What::Host(Event::Certificate { ticket, result }));
    }

    fn pair_work(&mut self, ticket: Ticket, name: &CertificateName, work: CertificateWork) {
        if self.chance(self.faults.disk) {
            let step = self.disk.steps() + 1 + self.random.below(12);
            let last = step + self.random.below(3);
            self.disk.fail(step..=last, libc::EIO);
        }
        let dies = self.chance(self.faults.deaths * 4.0);
        if dies {
            self.disk
                .die_after(self.disk.steps() + self.random.below(20));
        }
        let now = self.clock().wall;
        let mut store = PairStore::new(self.disk.clone(), Path::new("/state"));
        let result = store.perform(name, work, now);
        let live = matches!(result, Ok(CertificateDone::Live { .. }));
        // As in `disk_work`.
        self.disk.kill();
        if dies {
            let death = if self.chance(0.5) {
                Death::Killed
            } else {
                Death::Power
            };
            return self.die(death);
        }
        self.seen_pair |= live;
        self.check_pair();
        if let Err(fault) = &result {
            self.say(format!("certificate fault {}", fault.reason));
        }
        let wait = self.latency(5);
        self.later(wait, What::Host(Event::Certificate { ticket, result }));
    }

    /// What readers find is a whole pair, at every moment from the first on.
    pub(super) fn check_pair(&mut self) {
        let link = Path::new("/state/certificates/web/current");
        let there = self.disk.kind(link).unwrap_or(Kind::Absent) != Kind::Absent;
        if !there {
            if self.seen_pair {
                self.violated("the live pair is gone");
            }
            return;
        }
        let mut store = PairStore::new(self.disk.clone(), Path::new("/state"));
        let name = "web".parse().unwrap();
        match store.perform(&name, CertificateWork::Look, self.clock().wall) {
            Ok(CertificateDone::Found(found)) if found.current.is_some() => {}
            other => self.violated(&format!("the live pair is not whole: {other:?}")),
        }
    }

    /// The directory of the live pair.
    pub(super) fn live_pair(&self) -> Option<PathBuf> {
        let link = Path::new("/state/certificates/web/current");
        self.disk.read_link(link).ok()
    }

    /// The pair that the living child has read.
    pub(super) fn child_pair(&self) -> Option<PathBuf> {
        let mut living = self.children.values().filter(|child| child.alive);
        living.next().and_then(|child| child.pair.clone())
    }

    fn read(&self, path: &Path) -> Option<String> {
        let bytes = self.disk.read(path, 1024 * 1024).ok()?;
        String::from_utf8(bytes).ok()
    }

    fn link_target(&self, link: &str) -> Option<PathBuf> {
        let root = Path::new("/state/agents/collector");
        let target = self.disk.read_link(&root.join(link)).ok()?;
        Some(root.join(target))
    }

    fn text_at(&self, link: &str) -> Option<String> {
        self.read(&self.link_target(link)?.join("collect.yaml"))
    }

    // ---- children

    fn spawn(&mut self, ticket: Ticket, spec: &SpawnSpec) {
        let living: Vec<u32> = self
            .children
            .iter()
            .filter(|(_, child)| child.alive)
            .map(|(pid, _)| *pid)
            .collect();
        if !living.is_empty() {
            self.violated(&format!("spawned although {living:?} lives"));
        }
        assert_eq!(spec.args, ["collect", "/state/agents/collector/current"]);
        if self.chance(self.faults.spawns) {
            let reason = "cannot allocate memory".to_owned();
            return self.agent_event(
                3,
                AgentEvent::SpawnFailed {
                    ticket,
                    reason,
                    transient: true,
                },
            );
        }
        let pid = self.next_pid;
        self.next_pid += 1;
        let text = self.text_at("current").unwrap_or_default();
        let child = Child {
            marker: self.marker(),
            text,
            connection: None,
            alive: true,
            reaped: false,
            stubborn: self.chance(0.1),
            generation: 1,
            pair: self.live_pair(),
        };
        self.children.insert(pid, child);
        self.agent_event(
            1,
            AgentEvent::Spawned {
                ticket,
                child: identity(pid),
            },
        );
        self.child_begins(pid, false);
    }

    fn marker(&self) -> String {
        let target = self.link_target("current");
        let text = target.and_then(|target| self.read(&target.join("adjutant.revision")));
        text.unwrap_or_default().trim().to_owned()
    }

    /// A child reads its config: at its start or at a HUP.
    fn child_begins(&mut self, pid: u32, by_hup: bool) {
        let child = self.children.get(&pid).unwrap().clone();
        let generation = child.generation;
        let die = |code| What::ChildDies {
            pid,
            generation,
            status: ExitStatus::Code(code),
        };
        let talk = What::ChildTalks { pid, generation };
        match Behaviour::of(&child.text) {
            Behaviour::Slow => self.later(9_000, talk),
            Behaviour::DiesAtStart => self.later(40, die(1)),
            Behaviour::BlamesConfig => self.later(40, die(78)),
            Behaviour::Refused if !by_hup => self.later(40, die(78)),
            Behaviour::Ok | Behaviour::Refused | Behaviour::NeverHealthy => self.later(60, talk),
            Behaviour::DiesLater => {
                self.later(60, talk);
                self.later(3_060, die(1));
            }
            Behaviour::Silent | Behaviour::Invalid | Behaviour::HangsValidator => {}
        }
        if self.chance(self.faults.child_deaths) {
            let wait = self.random.below(60_000);
            let status = ExitStatus::Signal(11);
            self.later(
                wait,
                What::ChildDies {
                    pid,
                    generation,
                    status,
                },
            );
        }
    }

    fn child_talks(&mut self, pid: u32, generation: u64) {
        let Some(child) = self.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || child.generation != generation {
            return;
        }
        let fresh = child.connection.is_none();
        if fresh {
            self.next_connection += 1;
            child.connection = Some(self.next_connection);
        }
        let connection = child.connection.unwrap();
        let behaviour = Behaviour::of(&child.text);
        let hash = adjutant::units::unhex(&child.marker).unwrap_or_default();
        let refused = behaviour == Behaviour::Refused;
        let status = RemoteConfigStatus {
            last_remote_config_hash: hash,
            status: if refused {
                RemoteConfigStatuses::Failed as i32
            } else {
                RemoteConfigStatuses::Applied as i32
            },
            error_message: if refused {
                "sources.x: no".to_owned()
            } else {
                String::new()
            },
        };
        let healthy = behaviour != Behaviour::NeverHealthy;
        let health = ComponentHealth {
            healthy,
            last_error: if healthy {
                String::new()
            } else {
                "backend is away".to_owned()
            },
            ..ComponentHealth::default()
        };
        let message = AgentToServer {
            instance_uid: AGENT_UID.to_vec(),
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "adjutant.collect")],
                non_identifying_attributes: Vec::new(),
            }),
            capabilities: 1,
            health: Some(health),
            remote_config_status: Some(status),
            ..AgentToServer::default()
        };
        let frame = frame::encode(&message, MAX).unwrap();
        if fresh {
            let event = LocalEvent::Opened {
                peer_pid: Some(pid),
            };
            self.agent_event(0, AgentEvent::Local { connection, event });
        }
        let event = LocalEvent::Frame(frame);
        self.agent_event(1, AgentEvent::Local { connection, event });
    }

    fn child_dies(&mut self, pid: u32, generation: u64, status: ExitStatus) {
        let Some(child) = self.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || (child.generation != generation && generation != 0) {
            return;
        }
        child.alive = false;
        let connection = child.connection.take();
        if self.host.is_none() {
            return;
        }
        if let Some(connection) = connection {
            self.agent_event(
                0,
                AgentEvent::Local {
                    connection,
                    event: LocalEvent::Closed,
                },
            );
        }
        let exit = Exit {
            status,
            tail: "last words".to_owned(),
            oom_killed: false,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        self.agent_event(2, AgentEvent::Exited { pid, exit });
    }

    fn signal(&mut self, pid: u32, signal: i32) {
        self.signals += 1;
        let Some(child) = self.children.get_mut(&pid) else {
            self.violated(&format!("signal {signal} to unknown process {pid}"));
        };
        if child.reaped {
            self.violated(&format!(
                "signal {signal} to process {pid}, which was reaped"
            ));
        }
        if !child.alive {
            return;
        }
        match signal {
            libc::SIGHUP => {
                child.generation += 1;
                let keeps = child.text.clone();
                let text = self.text_at("current").unwrap_or_default();
                let marker = self.marker();
                let pair = self.live_pair();
                let child = self.children.get_mut(&pid).unwrap();
                child.pair = pair;
                child.text = text;
                child.marker = marker;
                self.child_begins(pid, true);
                if Behaviour::of(&self.children.get(&pid).unwrap().text) == Behaviour::Refused {
                    // It says no and keeps running what it ran; what it would say next is about the new one.
                    self.say(format!("child keeps {keeps:?}"));
                }
            }
            libc::SIGKILL => {
                let status = ExitStatus::Signal(9);
                self.later(
                    3,
                    What::ChildDies {
                        pid,
                        generation: 0,
                        status,
                    },
                );
            }
            _ if child.stubborn => {}
            signal => {
                let status = ExitStatus::Signal(signal);
                let wait = self.latency(30);
                self.later(
                    wait,
                    What::ChildDies {
                        pid,
                        generation: 0,
                        status,
                    },
                );
            }
        }
    }

    fn run_tool(&mut self, ticket: Ticket, spec: &ToolSpec) {
        assert_eq!(spec.args.first().map(String::as_str), Some("collect"));
        let directory = PathBuf::from(spec.args.last().unwrap());
        let text = self.read(&directory.join("collect.yaml"));
        let text = text.unwrap_or_else(|| self.violated("the validator finds no config"));
        let (wait, end, output) = match Behaviour::of(&text) {
            Behaviour::Invalid => (
                30,
                ToolEnd::Exited(78),
                "collect.yaml:2:1: behave: no such word",
            ),
            Behaviour::HangsValidator => (
                u64::try_from(spec.timeout.as_millis()).unwrap(),
                ToolEnd::TimedOut,
                "",
            ),
            _ => (30, ToolEnd::Exited(0), ""),
        };
        self.tools.insert(ticket);
        let outcome = ToolOutcome {
            end,
            output: output.to_owned(),
        };
        self.agent_event(wait, AgentEvent::ToolDone { ticket, outcome });
    }

    // ---- server

    fn dial(&mut self, link: LinkId, authorize: bool) {
        if self.server.up && self.is_rejected(authorize) {
            self.link_down(link, LossKind::Rejected, 5);
        } else if self.server.up && !self.chance(self.faults.links) {
            self.server.link = Some(link);
            self.server.sequence = None;
            self.agent_event(
                10,
                AgentEvent::Link {
                    link,
                    event: LinkEvent::Up,
                },
            );
        } else {
            self.link_down(link, LossKind::Network, 5);
        }
    }

    fn link_down(&mut self, link: LinkId, kind: LossKind, wait: u64) {
        if self.server.link == Some(link) {
            self.server.link = None;
        }
        let loss = LinkLoss {
            kind,
            reason: "gone".to_owned(),
            retry_after: None,
        };
        self.agent_event(
            wait,
            AgentEvent::Link {
                link,
                event: LinkEvent::Down(loss),
            },
        );
    }

    fn server_hears(&mut self, link: LinkId, bytes: &[u8]) {
        if self.server.link != Some(link) {
            return;
        }
        let message: AgentToServer = frame::decode(bytes, FrameRules::default()).unwrap();
        assert_eq!(message.instance_uid, AGENT_UID);
        assert_ne!(
            message.capabilities & 1,
            0,
            "capabilities in every message (R-078)"
        );
        if let Some(before) = self.server.sequence {
            assert_eq!(
                message.sequence_num,
                before + 1,
                "sequence without holes (R-061)"
            );
        }
        self.server.sequence = Some(message.sequence_num);
        if let Some(health) = message.health {
            self.server.health = Some(health);
        }
        if let Some(effective) = message.effective_config {
            let map = effective.config_map.unwrap_or_default().config_map;
            let body = map.get("collect.yaml").map(|file| file.body.clone());
            self.server.effective = body.map(|body| String::from_utf8(body).unwrap());
        }
        if let Some(status) = message.remote_config_status {
            self.status_reported(status);
        }
        let mut answer = ServerToAgent {
            instance_uid: AGENT_UID.to_vec(),
            capabilities: 0x7,
            ..ServerToAgent::default()
        };
        let known = self
            .server
            .status
            .as_ref()
            .map(|s| s.last_remote_config_hash.clone());
        if let Some(offer) = &self.server.offer
            && known.as_ref() != Some(&offer.hash)
        {
            answer.remote_config = Some(remote_config(offer));
        }
        if self.chance(self.faults.duplicates) {
            answer.flags = 1;
        }
        let wait = self.latency(20);
        self.later(
            wait,
            What::ServerAnswers {
                link,
                message: Box::new(answer),
            },
        );
        if self.chance(self.faults.links) {
            self.link_down(link, LossKind::Network, 3);
        }
    }

    fn status_reported(&mut self, status: RemoteConfigStatus) {
        let hash = status.last_remote_config_hash.clone();
        if status.status == RemoteConfigStatuses::Applied as i32 {
            let text = self.server.offers.get(&hash).cloned().unwrap_or_default();
            if !Behaviour::of(&text).is_good() {
                self.violated(&format!("APPLIED reported for {text:?}"));
            }
            if self.text_at("last-good").as_deref() != Some(text.as_str()) {
                self.violated(&format!(
                    "APPLIED reported for {text:?}, which is not last good"
                ));
            }
        }
        self.say(format!(
            "server reads status {} {:?}",
            status.status, status.error_message
        ));
        self.reported.push((hash, status.status));
        self.server.status = Some(status);
    }

    /// The server offers a config, now and whenever the agent does not report its hash.
    pub(crate) fn offer(&mut self, text: String) {
        let hash = adjutant::units::RevisionHash::of([("", "", text.as_bytes())]).to_hex();
        let hash = format!("{hash}-{}", self.server.offers.len()).into_bytes();
        let offer = Offered {
            hash: hash.clone(),
            text: text.clone(),
        };
        self.say(format!("server offers {text:?}"));
        self.server.offers.insert(hash, text);
        self.server.offer = Some(offer.clone());
        if let Some(link) = self.server.link {
            let message = ServerToAgent {
                remote_config: Some(remote_config(&offer)),
                ..ServerToAgent::default()
            };
            self.later(
                5,
                What::ServerAnswers {
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    pub(crate) fn order_restart(&mut self) {
        if let Some(link) = self.server.link {
            let message = ServerToAgent {
                command: Some(ServerToAgentCommand::default()),
                ..ServerToAgent::default()
            };
            self.later(
                1,
                What::ServerAnswers {
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    pub(crate) fn server_up(&mut self, up: bool) {
        self.server.up = up;
        self.say(format!("server up: {up}"));
        if !up && let Some(link) = self.server.link {
            self.link_down(link, LossKind::Network, 1);
        }
    }

    /// The link breaks; the server stays.
    pub(super) fn break_link(&mut self) {
        if let Some(link) = self.server.link {
            self.link_down(link, LossKind::Network, 1);
        }
    }

    pub(crate) fn terminate(&mut self) {
        let signal = adjutant::engine::message::HostSignal::Terminate;
        self.later(0, What::Host(Event::Signal(signal)));
    }

    // ---- looking

    pub(crate) fn has_exited(&self) -> bool {
        self.exited
    }

    pub(crate) fn living(&self) -> Vec<(u32, String)> {
        let living = self.children.iter().filter(|(_, child)| child.alive);
        living
            .map(|(pid, child)| (*pid, child.text.clone()))
            .collect()
    }

    pub(crate) fn current(&self) -> Option<String> {
        self.text_at("current")
    }

    pub(crate) fn last_good(&self) -> Option<String> {
        self.text_at("last-good")
    }

    pub(crate) fn server_status(&self) -> Option<(i32, String)> {
        let status = self.server.status.as_ref()?;
        let hash = &self.server.offer.as_ref()?.hash;
        (&status.last_remote_config_hash == hash)
            .then(|| (status.status, status.error_message.clone()))
    }

    pub(crate) fn server_effective(&self) -> Option<String> {
        self.server.effective.clone()
    }

    pub(crate) fn server_health(&self) -> Option<ComponentHealth> {
        self.server.health.clone()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    pub(crate) fn check(&mut self) {
        let current = Path::new("/state/agents/collector/current");
        if self.host.is_none() {
            // Between two lives the link may be anything; what the next life makes of it counts.
            return;
        }
        let there = self.disk.kind(current).unwrap_or(Kind::Absent) != Kind::Absent;
        if there {
            let target = self.link_target("current").unwrap();
            if self.read(&target.join("manifest.json")).is_none() {
                self.violated(&format!(
                    "current points to {} without manifest",
                    target.display()
                ));
            }
        } else if self.seen_current {
            self.violated("current is gone");
        }
        if let Some(good) = self.last_good()
            && !Behaviour::of(&good).is_good()
        {
            self.violated(&format!("last good is {good:?}"));
        }
    }

    pub(crate) fn violated(&self, what: &str) -> ! {
        let shown = std::env::var("ADJUTANT_SIM_TRACE").map_or(60, |n| n.parse().unwrap());
        let skipped = self.trace.len().saturating_sub(shown);
        let trace: Vec<&str> = self
            .trace
            .iter()
            .skip(skipped)
            .map(String::as_str)
            .collect();
        panic!(
            "{}\n\ninvariant violated: {what}\nreplay: ADJUTANT_SIM_SEED={} cargo test --test sim replay",
            trace.join("\n"),
            self.seed
        );
    }

    // ---- small things

    fn name() -> AgentName {
        "collector".parse().unwrap()
    }

    pub(super) fn clock(&self) -> Now {
        Now {
            mono: Moment::from_millis(self.now - self.booted_at),
            wall: WallTime::from_unix_millis(EPOCH_MS + self.ahead + self.now),
        }
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.unit() < probability
    }

    pub(super) fn latency(&mut self, usual: u64) -> u64 {
        if self.chance(self.faults.late) {
            self.random.below(15_000)
        } else {
            1 + self.random.below(usual)
        }
    }

    pub(super) fn later(&mut self, wait: u64, what: What) {
        self.next_event += 1;
        self.queue
            .insert((self.now + wait, self.next_event), (self.life, what));
    }

    fn agent_event(&mut self, wait: u64, event: AgentEvent) {
        if let AgentEvent::Exited { pid, .. } = &event {
            // From the moment the event is handled the number may belong to anybody.
            if let Some(child) = self.children.get_mut(pid) {
                child.reaped = false;
            }
        }
        let agent = Self::name();
        self.later(wait, What::Host(Event::Agent { agent, event }));
    }

    pub(super) fn say(&mut self, line: impl std::fmt::Display) {
        if self.trace.len() >= TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>9} ms {line}", self.now));
    }
}

fn identity(pid: u32) -> ChildIdentity {
    ChildIdentity {
        pid,
        start_ticks: u64::from(pid),
        started: WallTime::from_unix_millis(EPOCH_MS),
    }
}

fn remote_config(offer: &Offered) -> AgentRemoteConfig {
    let file = AgentConfigFile {
        body: offer.text.clone().into_bytes(),
        content_type: "text/yaml".to_owned(),
    };
    let mut config_map = BTreeMap::from([("collect.yaml".to_owned(), file)]);
    if let Some((_, rest)) = offer.text.split_once("# domain: ") {
        let file = AgentConfigFile {
            body: rest.lines().next().unwrap().as_bytes().to_vec(),
            content_type: "text/plain".to_owned(),
        };
        config_map.insert("ssl_certificate_host.txt".to_owned(), file);
    }
    AgentRemoteConfig {
        config: Some(AgentConfigMap { config_map }),
        config_hash: offer.hash.clone(),
    }
}
