//! The whole product in one value: `Host` and its store on a disk that forgets, a scripted server, children and
//! validators.
//!
//! Promises: everything follows from the seed. Each effect may succeed, fail, be late, be lost with the process or
//! be answered twice; the process may die between any two effects and inside any disk work. The invariants are
//! checked after every step.

#[path = "world/birth.rs"]
mod birth;
#[path = "world/children.rs"]
mod children;
#[path = "world/effects.rs"]
mod effects;
#[path = "world/look.rs"]
mod look;
#[path = "world/order.rs"]
mod order;
#[path = "world/server.rs"]
mod server;
#[path = "world/storage.rs"]
mod storage;
#[path = "world/strike.rs"]
mod strike;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adjutant::config::{
    self, Acme, Certificate, CertificateSource, Config, Domains, Environment, Overrides, ReportWhen,
};
use adjutant::engine::host::{Host, HostSetup};
use adjutant::engine::message::{
    AgentEffect, AgentEvent, CertificateDone, CertificateOrder, CertificateWork, ChildIdentity,
    ChildNote, ClockLook, Command, CommandId, DiskWork, Effect, Event, Exit, ExitStatus,
    HostSignal, Identity, Leftover, LinkEvent, LinkLoss, LocalEvent, LossKind, OfferedFile,
    RegistrationCall, SpawnSpec, ToolEnd, ToolOutcome, ToolSpec, WatchedBy,
};
use adjutant::engine::random::Random;
use adjutant::engine::{CertificatesSetup, ClockSetup, Places, Setup};
use adjutant::port::store::{AgentLayout, AgentStore, PairStore};
use adjutant::sys::durable::{Disk as _, Kind};
use adjutant::units::{AgentName, CertificateName, LinkId, Moment, Now, Ticket, WallTime};
use nix::libc;
use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AgentRemoteConfig, AgentToServer, AnyValue,
    ComponentHealth, KeyValue, RemoteConfigStatus, RemoteConfigStatuses, ServerToAgent,
    ServerToAgentCommand, any_value,
};

use super::authority::Authority;
use super::connection::Network;
use super::coverage::Visits;
use super::disk::ModelDisk;
use super::registration::Service;
pub(crate) use birth::name_of;
use children::identity;

const MAX: usize = frame::MAX_MESSAGE_DEFAULT;
const EPOCH_MS: u64 = 1_800_000_000_000;
const TRACE_MAX: usize = 600;

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
    /// Good, and counts what flows.
    Flows,
    /// Healthy, and nothing comes in: found out only where something flowed for a while before.
    Starves,
}

impl Behaviour {
    pub(crate) const ALL: [(Self, &'static str); 12] = [
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
        (Self::Flows, "flows"),
        (Self::Starves, "starves"),
    ];

    fn of(text: &str) -> Self {
        let line = text.split_once("behave: ").map(|(_, rest)| rest);
        let said = line
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let named = Self::ALL.iter().find(|(_, word)| *word == said);
        named.map_or(Self::Ok, |(behaviour, _)| *behaviour)
    }

    pub(crate) fn text(self, number: u64) -> String {
        let word = Self::ALL.iter().find(|(b, _)| *b == self).unwrap().1;
        format!("number: {number}\nbehave: {word}\n")
    }

    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::Slow | Self::Flows | Self::Starves)
    }
}

#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of a model that do not depend on each other"
)]
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
    /// What is written down about it.
    note: ChildNote,
    /// It was told to end, and that is written down.
    ending: bool,
    /// When it first says something about the config it has, if it ever does.
    talks_at: Option<u64>,
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
}

/// One agent of the host: what it has of its own.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a model that do not depend on each other"
)]
pub(crate) struct Agent {
    name: AgentName,
    uid: [u8; 16],
    store: Option<AgentStore<ModelDisk>>,
    watch: Option<Ticket>,
    children: BTreeMap<u32, Child>,
    pub(super) server: Server,
    pub(super) network: Network,
    seen_current: bool,
    /// A child that runs what it should, across a death of ours: nobody may stop it.
    pub(super) protected: Option<u32>,
    pub(crate) reported: Vec<(Vec<u8>, i32)>,
    pub(crate) phases: Vec<String>,
    pub(crate) signals: u64,
    /// The validator that was asked last.
    tool: Option<Ticket>,
    /// The next start of a process fails.
    no_spawn: bool,
    /// The next disk work fails.
    no_disk: bool,
    order: order::Order,
    /// Nobody does anything to it and nothing of its own fails: what becomes of the others must not reach it.
    spared: bool,
    /// Something of the whole host is a reason for a new process of a spared agent.
    may_start: bool,
    /// The config that a spared agent has to keep.
    keeps: Option<String>,
    /// Looked at its directory since it was written to.
    checked: bool,
}

/// The host with its agents. One of them is the one that is talked about: what is asked and said without a name is of
/// it, which is why it can be reached as if its fields were the world's.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a model that do not depend on each other"
)]
pub(crate) struct World {
    seed: u64,
    pub(super) random: Random,
    pub(super) now: u64,
    booted_at: u64,
    pub(super) disk: ModelDisk,
    agents: Vec<Agent>,
    /// The one that is talked about.
    at: usize,
    pub(super) authority: Authority,
    seen_pair: bool,
    cancelled: BTreeSet<Ticket>,
    /// How far the wall clock was put forward.
    pub(super) ahead: u64,
    pub(super) host: Option<Host>,
    pub(super) config: Config,
    queue: BTreeMap<(u64, u64), Due>,
    next_event: u64,
    life: u64,
    next_pid: u32,
    next_connection: u64,
    pub(super) service: Option<Service>,
    pub(crate) faults: Faults,
    /// Whether a protected child holds: not where the settings change between two lives.
    pub(crate) protects: bool,
    /// How long a child that lost us may take to find us again.
    pub(crate) redial_ms: u64,
    pub(crate) effects: u64,
    kill_at_effect: Option<(u64, Death)>,
    trace: VecDeque<String>,
    /// Whether anybody will read the trace.
    pub(crate) tracing: bool,
    pub(crate) visits: Visits,
    exited: bool,
    /// A stop that is under way.
    stop: Option<order::Stop>,
    /// The state of the agent that is talked about in which time stops.
    until: Option<&'static str>,
}

/// What is going to happen, to whom, and since which life.
struct Due {
    life: u64,
    at: usize,
    what: What,
}

impl Deref for World {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agents[self.at]
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Agent {
        &mut self.agents[self.at]
    }
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// kill -9: the system runs on, children too.
    Killed,
    /// The power is gone.
    Power,
}

impl World {
    /// The process ends here and now.
    pub(crate) fn die(&mut self, death: Death) {
        self.say(format_args!("death: {death:?}"));
        self.host = None;
        self.stop = None;
        for agent in &mut self.agents {
            agent.store = None;
            agent.server.link = None;
            agent.network.cleared();
        }
        match death {
            Death::Killed => self.disk.kill(),
            Death::Power => {
                let seed = self.random.next_u64();
                self.disk.crash(seed);
                for agent in &mut self.agents {
                    agent.may_start = true;
                    for child in agent.children.values_mut() {
                        child.alive = false;
                    }
                }
            }
        }
        self.queue
            .retain(|_, due| matches!(due.what, What::ChildDies { .. }));
    }

    /// Dies before effect number `effect` of all effects so far is performed.
    pub(crate) fn die_at_effect(&mut self, effect: u64, death: Death) {
        self.kill_at_effect = Some((effect, death));
    }

    /// Lets time pass. Dead supervisors are booted again after a moment.
    pub(crate) fn run(&mut self, span: Duration) {
        let at = self.at;
        self.pass(span);
        self.at = at;
    }

    /// Lets time pass until the agent that is talked about is in this state of its child or its transaction, if it
    /// comes there in time.
    pub(crate) fn run_until(&mut self, state: &'static str, span: Duration) -> bool {
        let at = self.at;
        self.until = Some(state);
        self.pass(span);
        self.until = None;
        self.at = at;
        self.is_in(state)
    }

    /// Whether the child or the transaction of the agent that is talked about is in this state.
    pub(crate) fn is_in(&self, state: &str) -> bool {
        let Some(host) = &self.host else { return false };
        host.positions().any(|(agent, child, rollout)| {
            agent == &self.name && (child == state || rollout == state)
        })
    }

    fn pass(&mut self, span: Duration) {
        let looked_at = self.at;
        let end = self.now + u64::try_from(span.as_millis()).unwrap();
        let mut steps = 0u64;
        while self.now < end {
            steps += 1;
            if steps > 20_000 * self.agents.len() as u64 {
                self.violated("no progress in time: too many steps");
            }
            if self.exited {
                break;
            }
            self.check_budget();
            self.at = looked_at;
            if self.until.is_some_and(|state| self.is_in(state)) {
                return;
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
                    let (_, due) = self.queue.pop_first().unwrap();
                    self.at = due.at;
                    self.happen(due.what);
                }
                (_, Some(due)) => {
                    if due >= end {
                        break;
                    }
                    // A deadline in the past is served now; the host must then move it on.
                    self.now = self.now.max(due);
                    self.step(Event::Tick);
                }
                (None, None) => {
                    self.check_nothing_waits();
                    break;
                }
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
                if self.network.stands(link) {
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
        self.say_short("event", &event);
        if let Event::Signal(HostSignal::Terminate) = &event {
            self.stop_begins();
        }
        let Some(host) = &mut self.host else { return };
        self.visits.see(host, &event);
        let effects = host.step(clock, event);
        self.perform(effects);
    }

    pub(crate) fn terminate(&mut self) {
        self.unprotect();
        self.later(0, What::Host(Event::Signal(HostSignal::Terminate)));
    }

    /// There is a reason for new processes.
    fn unprotect(&mut self) {
        for agent in &mut self.agents {
            agent.protected = None;
            agent.may_start = true;
        }
    }

    /// Talks about the agent of that number from here on.
    pub(crate) fn of(&mut self, number: usize) -> &mut Self {
        self.at = number;
        self
    }

    /// From here on nobody does anything to the agent that is talked about.
    pub(crate) fn spare(&mut self) {
        self.spared = true;
    }

    pub(crate) fn is_spared(&self) -> bool {
        self.spared
    }

    /// How many agents there are.
    pub(crate) fn count(&self) -> usize {
        self.agents.len()
    }

    fn place_of(&self, name: &AgentName) -> usize {
        let place = self.agents.iter().position(|agent| &agent.name == name);
        place.unwrap_or_else(|| self.violated(&format!("nobody is named {name}")))
    }

    /// The directory of the agent that is talked about.
    fn root(&self) -> PathBuf {
        Path::new("/state/agents").join(self.name.as_str())
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

    /// Whether a fault of the agent that is talked about strikes.
    fn strikes(&mut self, fault: impl Fn(&Faults) -> f64) -> bool {
        let probability = fault(&self.faults);
        !self.spared && self.chance(probability)
    }

    pub(super) fn latency(&mut self, usual: u64) -> u64 {
        if self.strikes(|faults| faults.late) {
            self.random.below(15_000)
        } else {
            1 + self.random.below(usual)
        }
    }

    pub(super) fn later(&mut self, wait: u64, what: What) {
        self.next_event += 1;
        let due = Due {
            life: self.life,
            at: self.at,
            what,
        };
        self.queue.insert((self.now + wait, self.next_event), due);
    }

    fn agent_event(&mut self, wait: u64, event: AgentEvent) {
        if let AgentEvent::Exited { pid, .. } = &event {
            // From the moment the event is handled the number may belong to anybody.
            if let Some(child) = self.children.get_mut(pid) {
                child.reaped = false;
            }
        }
        let agent = self.name.clone();
        self.later(wait, What::Host(Event::Agent { agent, event }));
    }

    /// The beginning of a long value; its text is made only when somebody reads it.
    fn say_short(&mut self, what: &str, value: &impl std::fmt::Debug) {
        if self.tracing {
            let text: String = format!("{value:?}").chars().take(160).collect();
            self.say(format_args!("{what} {text}"));
        }
    }

    pub(super) fn say(&mut self, line: impl std::fmt::Display) {
        if !self.tracing {
            return;
        }
        if self.trace.len() >= TRACE_MAX {
            self.trace.pop_front();
        }
        let who = match self.agents.len() {
            1 => String::new(),
            _ => format!("{} ", self.name),
        };
        let line = format!("{:>9} ms {who}{line}", self.now);
        if self.trace.back() != Some(&line) {
            self.trace.push_back(line);
        }
    }
}
