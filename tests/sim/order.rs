//! One to five agents in every order: who starts after whom, and who stops before whom.
//!
//! Given the real `Host` over children that come up late, never, die at once, or do not heed a signal; when it starts
//! and is told to stop at any moment; then a dependant is never started before what it waits for, nobody waits for
//! ever, and the stop ends inside its budget with the dependants first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use adjutant::config::{self, Config, Environment, Overrides};
use adjutant::engine::host::{Host, HostSetup};
use adjutant::engine::message::{
    AgentEffect, AgentEvent, ChildIdentity, Command, CommandId, DiskDone, DiskWork, Effect, Event,
    Exit, ExitStatus, HostSignal, Identity, LayerKind, Origin, Persisted, Reply, Revision,
    RevisionFile, StoredRevision, ToolEnd, ToolOutcome,
};
use adjutant::engine::random::Random;
use adjutant::engine::{CertificatesSetup, ClockSetup, Places, RegistrationSetup, Setup};
use adjutant::units::{AgentName, Moment, Now, RevisionHash, RevisionId, Ticket, WallTime};

#[path = "roster.rs"]
mod roster;

/// What a child does with its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Healthy after so many milliseconds.
    Well(u64),
    /// Runs, never healthy.
    Sick,
    /// Dies so many milliseconds after each start.
    Dies(u64),
    /// Healthy at once, and heeds nothing but KILL.
    Stubborn,
    /// Healthy at once, and cannot even be killed.
    Unkillable,
    /// Cannot be started.
    Missing,
    /// Has no config, so there is nothing to start.
    Nothing,
}

#[derive(Debug)]
enum What {
    Host(Event),
    Dies(AgentName, u32, ExitStatus),
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

/// One history.
pub(super) struct Play {
    seed: u64,
    random: Random,
    now: u64,
    host: Option<Host>,
    config: Config,
    kinds: BTreeMap<AgentName, Kind>,
    queue: BTreeMap<(u64, u64), What>,
    next: u64,
    next_pid: u32,
    /// Living children with their start.
    children: BTreeMap<u32, (AgentName, u64)>,
    /// When each was let start first, and when it was healthy first.
    begun: BTreeMap<AgentName, u64>,
    healthy: BTreeMap<AgentName, u64>,
    /// Those that died or could not be started, with how often.
    failures: BTreeMap<AgentName, u32>,
    told: BTreeMap<AgentName, u64>,
    down: BTreeMap<AgentName, u64>,
    stop_at: Option<u64>,
    exit_at: Option<u64>,
    /// Those that are on the way out, with when they were told, and whom they started after.
    leaving: BTreeMap<AgentName, (u64, Vec<AgentName>)>,
    /// When the settings changed last: one that waits for somebody who first has to leave counts from there.
    reread_at: u64,
    trace: Vec<String>,
}

fn name(number: usize) -> AgentName {
    format!("a{number}").parse().unwrap()
}

fn revision(files: usize) -> Revision {
    let files: Vec<_> = (0..files)
        .map(|_| RevisionFile {
            path: "config.yaml".to_owned(),
            layer: LayerKind::Remote,
            source: "config.yaml".to_owned(),
            content_type: String::new(),
            bytes: b"a: 1\n".to_vec(),
        })
        .collect();
    let parts = files
        .iter()
        .map(|it| (it.path.as_str(), "", it.bytes.as_slice()));
    let hash = RevisionHash::of(parts);
    let at = WallTime::from_unix_millis(1_700_000_000_000);
    Revision {
        id: RevisionId::new(at, hash),
        hash,
        offer: None,
        origin: Origin::Manual,
        at,
        files,
    }
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let count = 1 + usize::try_from(random.below(5)).unwrap();
        // Edges go from later to earlier ones of a random row, so there is no circle.
        let mut row: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            row.swap(i, usize::try_from(random.below(i as u64 + 1)).unwrap());
        }
        let mut text = String::from("agents:\n");
        let mut kinds = BTreeMap::new();
        for number in 0..count {
            let place = row.iter().position(|it| *it == number).unwrap();
            let after: Vec<String> = row[..place]
                .iter()
                .filter(|_| random.unit() < 0.5)
                .map(|it| name(*it).to_string())
                .collect();
            let wait = [2, 5, 30][usize::try_from(random.below(3)).unwrap()];
            let kind = match random.below(12) {
                0 => Kind::Sick,
                1 => Kind::Dies(random.below(3_000)),
                2 => Kind::Stubborn,
                3 if random.unit() < 0.3 => Kind::Unkillable,
                4 => Kind::Missing,
                5 => Kind::Nothing,
                _ => Kind::Well(random.below(4_000)),
            };
            kinds.insert(name(number), kind);
            writeln!(
                text,
                "  {}: {{profile: generic, executable: /bin/sh, start_after: [{}], start_wait: {wait}s, \
                 restart: {{give_up_after: {}}}, health: {{kind: exec, command: [/bin/look], interval: 1s, failures: 1}}}}",
                name(number),
                after.join(", "),
                random.below(2) * 4,
            )
            .unwrap();
        }
        let overrides = Overrides::default();
        let config = config::load("sim", &text, &NoEnvironment, &overrides).unwrap();
        Self {
            seed,
            random,
            now: 0,
            host: None,
            config,
            kinds,
            queue: BTreeMap::new(),
            next: 0,
            next_pid: 100,
            children: BTreeMap::new(),
            begun: BTreeMap::new(),
            healthy: BTreeMap::new(),
            failures: BTreeMap::new(),
            told: BTreeMap::new(),
            down: BTreeMap::new(),
            stop_at: None,
            exit_at: None,
            leaving: BTreeMap::new(),
            reread_at: u64::MAX,
            trace: vec![text],
        }
    }

    fn clock(&self) -> Now {
        Now {
            mono: Moment::from_millis(self.now),
            wall: WallTime::from_unix_millis(1_800_000_000_000 + self.now),
        }
    }

    fn violated(&self, what: &str) -> ! {
        let kinds = &self.kinds;
        panic!(
            "seed {}: {what}\n{kinds:?}\n{}",
            self.seed,
            self.trace.join("\n")
        );
    }

    fn later(&mut self, delay: u64, what: What) {
        self.next += 1;
        self.queue.insert((self.now + delay, self.next), what);
    }

    fn answer(&mut self, delay: u64, agent: &AgentName, event: AgentEvent) {
        let agent = agent.clone();
        self.later(delay, What::Host(Event::Agent { agent, event }));
    }

    /// What the disk knows of an agent.
    fn persisted(&self, agent: &AgentName) -> Persisted {
        let files = usize::from(self.kinds[agent] != Kind::Nothing);
        let current = revision(files);
        let stored = StoredRevision {
            id: current.id.clone(),
            hash: current.hash,
            offer: None,
            origin: current.origin,
            at: current.at,
            files,
            bytes: 5,
        };
        Persisted {
            last_good: Some(current.id.clone()),
            current: Some(current),
            revisions: vec![stored],
            ..Persisted::default()
        }
    }

    fn places(agent: &AgentName) -> Places {
        Places {
            state_dir: PathBuf::from(format!("/state/agents/{agent}")),
            link: None,
            reserved_ports: Vec::new(),
            certificates: "/state/certificates".into(),
            supervisor: String::new(),
        }
    }

    fn boot(&mut self) {
        let mut agents = Vec::new();
        for settings in self.config.agents.clone() {
            let setup = Setup {
                server: None,
                capabilities: 0,
                grace: self.config.stop.grace,
                instance_uid: [1; 16],
                places: Self::places(&settings.name),
                facts: BTreeMap::new(),
                persisted: self.persisted(&settings.name),
                settings,
                seed: self.random.next_u64(),
                inheritance: None,
            };
            agents.push((setup, None));
        }
        let mut host = Host::new(HostSetup {
            agents,
            identity: Identity::default(),
            certificates: CertificatesSetup {
                list: Vec::new(),
                directory: "/state/certificates".into(),
                seed: 1,
            },
            stop: self.config.stop,
            give_up: self.config.give_up,
            previous_end: None,
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
            has_server: false,
        });
        let effects = host.start(self.clock());
        self.host = Some(host);
        self.perform(effects);
    }

    fn step(&mut self, event: Event) {
        let now = self.clock();
        let effects = self.host.as_mut().unwrap().step(now, event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Agent { agent, effect } => self.for_agent(&agent, effect),
                Effect::SaveIdentity { ticket, .. } => {
                    let result = Ok(());
                    self.later(3, What::Host(Event::IdentitySaved { ticket, result }));
                }
                Effect::Admit {
                    ticket,
                    agent,
                    instance_uid,
                } => self.admit(ticket, *agent, instance_uid),
                Effect::Dismiss { agent } => self.dismissed(&agent),
                Effect::Exit(reason) => {
                    self.trace.push(format!("{} exit {reason:?}", self.now));
                    self.exit_at = Some(self.now);
                }
                _ => {}
            }
        }
    }

    fn for_agent(&mut self, agent: &AgentName, effect: AgentEffect) {
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let done = match work {
                    DiskWork::Prune { keep } => DiskDone::Pruned(keep),
                    DiskWork::ReadLocal(_) => DiskDone::Local(Vec::new()),
                    DiskWork::ReadRevision(_) => DiskDone::Revision(Box::new(revision(1))),
                    _ => DiskDone::Durable,
                };
                let event = AgentEvent::Disk {
                    ticket,
                    result: Ok(done),
                };
                let delay = self.random.below(40);
                self.answer(delay, agent, event);
            }
            AgentEffect::Spawn { ticket, .. } => self.spawn(agent, ticket),
            AgentEffect::Signal { pid, signal, .. } => self.signal(agent, pid, signal),
            AgentEffect::RunTool { ticket, .. } => {
                let up = self.children.values().find(|(of, _)| of == agent);
                let well = match (self.kinds[agent], up) {
                    (Kind::Well(after), Some((_, since))) => self.now >= since + after,
                    (Kind::Stubborn | Kind::Unkillable, Some(_)) => true,
                    _ => false,
                };
                if well {
                    self.healthy.entry(agent.clone()).or_insert(self.now);
                }
                let outcome = ToolOutcome {
                    end: ToolEnd::Exited(i32::from(!well)),
                    output: String::new(),
                };
                let delay = self.random.below(30);
                self.answer(delay, agent, AgentEvent::ToolDone { ticket, outcome });
            }
            _ => {}
        }
    }

    fn spawn(&mut self, agent: &AgentName, ticket: Ticket) {
        if let Some(stop) = self.stop_at {
            self.violated(&format!("{agent} is started after the stop at {stop}"));
        }
        if self.children.values().any(|(of, _)| of == agent) {
            self.violated(&format!("a second child of {agent}"));
        }
        self.check_listed(agent);
        self.trace.push(format!("{} spawn {agent}", self.now));
        if !self.begun.contains_key(agent) {
            self.check_turn(agent);
            self.begun.insert(agent.clone(), self.now);
        }
        if self.kinds[agent] == Kind::Missing {
            *self.failures.entry(agent.clone()).or_default() += 1;
            let event = AgentEvent::SpawnFailed {
                ticket,
                reason: "no such file".to_owned(),
                transient: false,
            };
            return self.answer(1, agent, event);
        }
        self.next_pid += 1;
        let pid = self.next_pid;
        self.children.insert(pid, (agent.clone(), self.now));
        let child = ChildIdentity {
            pid,
            start_ticks: u64::from(pid),
            started: self.clock().wall,
        };
        self.answer(1, agent, AgentEvent::Spawned { ticket, child });
        if let Kind::Dies(after) = self.kinds[agent] {
            self.later(
                2 + after,
                What::Dies(agent.clone(), pid, ExitStatus::Code(1)),
            );
        }
    }

    /// The rule, counted here a second time: each one it names was healthy, or has failed, or has nothing to run, or
    /// was given its time.
    fn check_turn(&self, agent: &AgentName) {
        let settings = self
            .config
            .agents
            .iter()
            .find(|it| &it.name == agent)
            .unwrap();
        for on in &settings.start.after {
            if self.was_refused(on) {
                continue;
            }
            let nothing = self.kinds[on] == Kind::Nothing;
            let Some(begun) = self.begun.get(on).copied().or_else(|| nothing.then_some(0)) else {
                self.violated(&format!("{agent} is started before {on} was"));
            };
            let failing = self.failures.get(on).is_some_and(|times| *times >= 3);
            let wait = u64::try_from(settings.start.wait.as_millis()).unwrap();
            let waited = self.now >= begun.min(self.reread_at) + wait;
            if !(self.healthy.contains_key(on) || nothing || failing || waited) {
                self.violated(&format!("{agent} is started while {on} is still coming"));
            }
        }
    }

    fn signal(&mut self, agent: &AgentName, pid: u32, signal: i32) {
        self.trace
            .push(format!("{} signal {signal} to {agent}", self.now));
        if signal != 9 {
            self.check_leave(agent);
        }
        if self.stop_at.is_some() && self.told.insert(agent.clone(), self.now).is_none() {
            self.check_stop(agent);
        }
        let dies = match self.kinds[agent] {
            Kind::Unkillable => false,
            Kind::Stubborn => signal == 9,
            _ => true,
        };
        if dies && self.children.contains_key(&pid) {
            let delay = self.random.below(300);
            self.later(
                delay,
                What::Dies(agent.clone(), pid, ExitStatus::Signal(signal)),
            );
        }
    }

    /// Those after it are down, or its slot has come: it has as many slots behind it as the chain below it is long.
    fn check_stop(&self, agent: &AgentName) {
        let after: BTreeSet<&AgentName> = self
            .config
            .agents
            .iter()
            .filter(|it| it.start.after.contains(agent))
            .map(|it| &it.name)
            .collect();
        let alive: Vec<&AgentName> = self
            .children
            .values()
            .map(|(of, _)| of)
            .filter(|of| after.contains(of))
            .collect();
        let budget = u64::try_from(self.config.stop.budget.as_millis()).unwrap();
        let count = self.config.agents.len() as u64;
        // The shortest slot there can be.
        let slot = budget / count;
        let early = self.now < self.stop_at.unwrap() + slot;
        if early && !alive.is_empty() {
            self.violated(&format!("{agent} is stopped while {alive:?} still run"));
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Host(event) => self.step(event),
            What::Dies(agent, pid, status) => {
                if self.children.remove(&pid).is_none() {
                    return;
                }
                self.trace
                    .push(format!("{} {agent} ends: {status}", self.now));
                *self.failures.entry(agent.clone()).or_default() += 1;
                self.down.insert(agent.clone(), self.now);
                let exit = Exit {
                    status,
                    tail: String::new(),
                    oom_killed: false,
                    cpu: Duration::ZERO,
                    max_resident: 0,
                };
                self.step(Event::Agent {
                    agent,
                    event: AgentEvent::Exited { pid, exit },
                });
            }
        }
    }

    /// Lets time pass until `end` or the exit.
    fn run(&mut self, end: u64) {
        let mut steps = 0;
        while self.exit_at.is_none() {
            steps += 1;
            if steps > 100_000 {
                self.violated("no progress in time");
            }
            let due = self.host.as_ref().unwrap().deadline(self.clock());
            let due = due.map(Moment::as_millis);
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let at = [due, next].into_iter().flatten().min().unwrap_or(end);
            if at >= end {
                break;
            }
            self.now = self.now.max(at);
            if next.is_some_and(|next| next <= self.now) {
                let (_, what) = self.queue.pop_first().unwrap();
                self.happen(what);
            } else {
                self.step(Event::Tick);
            }
        }
        self.now = self.now.max(end);
    }
}

/// One history from its seed: start, some time, TERM, exit.
pub(super) fn history(seed: u64) -> Play {
    let mut play = Play::new(seed);
    play.boot();
    let patience = match seed % 4 {
        0 => play.random.below(3_000),
        1 => play.random.below(30_000),
        2 => play.random.below(60_000),
        _ => 200_000,
    };
    play.run(patience);
    if patience == 200_000 {
        for agent in &play.config.agents {
            let began = play.begun.contains_key(&agent.name);
            if !began && play.kinds[&agent.name] != Kind::Nothing {
                play.violated(&format!("{} waits for ever", agent.name));
            }
        }
    }
    let stop = play.now;
    play.stop_at = Some(stop);
    play.step(Event::Signal(HostSignal::Terminate));
    let budget = u64::try_from(play.config.stop.budget.as_millis()).unwrap();
    play.run(stop + budget + 1);
    match play.exit_at {
        Some(at) if at <= stop + budget => {}
        _ => play.violated("the stop did not end inside its budget"),
    }
    for (pid, (agent, _)) in &play.children {
        if play.kinds[agent] != Kind::Unkillable {
            play.violated(&format!("process {pid} of {agent} outlived the stop"));
        }
    }
    play
}

#[test]
fn a_dependant_is_never_started_before_and_a_stop_ends_within_its_budget() {
    let (mut edges, mut stops) = (0, 0);
    for seed in 0..800 {
        let play = history(seed);
        edges += play
            .config
            .agents
            .iter()
            .map(|it| it.start.after.len())
            .sum::<usize>();
        stops += play.told.len();
    }
    assert!(
        edges > 1_000 && stops > 1_000,
        "{edges} edges, {stops} stops"
    );
}

/// A row of well children: the words of the agent that waits, an order refused meanwhile, the order of start and stop.
#[test]
fn three_in_a_row_start_upwards_and_stop_downwards() {
    let mut play = Play::new(7);
    let text = "agents:\n  \
        a2: {profile: generic, executable: /bin/sh, start_after: [a1], health: {kind: exec, command: [/bin/look], interval: 1s}}\n  \
        a1: {profile: generic, executable: /bin/sh, start_after: [a0], health: {kind: exec, command: [/bin/look], interval: 1s}}\n  \
        a0: {profile: generic, executable: /bin/sh, health: {kind: exec, command: [/bin/look], interval: 1s}}\n";
    play.config = config::load("sim", text, &NoEnvironment, &Overrides::default()).unwrap();
    play.kinds = (0..3)
        .map(|number| (name(number), Kind::Well(1_500)))
        .collect();
    play.boot();
    play.run(1_000);
    let now = play.clock();
    let snapshot = play.host.as_ref().unwrap().snapshot(now);
    let words: Vec<_> = snapshot
        .agents
        .iter()
        .map(|it| (it.name.as_str(), it.status.as_str(), it.last_error.as_str()))
        .collect();
    assert_eq!(words[0], ("a2", "waiting", "starts after a1"));
    assert_eq!(words[1], ("a1", "waiting", "starts after a0"));
    let restart = Command::Restart {
        agent: Some(name(2)),
    };
    let effects = play.host.as_mut().unwrap().step(
        now,
        Event::Command {
            id: CommandId(1),
            command: restart,
        },
    );
    let refused = effects.iter().any(|effect| {
        matches!(effect, Effect::Reply { reply: Reply::Refused(refusal), .. } if refusal.reason == "starts after a1")
    });
    assert!(refused, "{effects:?}");
    play.perform(effects);
    play.run(20_000);
    let begun = |number| play.begun[&name(number)];
    assert!(
        begun(0) < begun(1) && begun(1) < begun(2),
        "{:?}",
        play.begun
    );
    play.stop_at = Some(play.now);
    play.step(Event::Signal(HostSignal::Terminate));
    let end = play.now + 9_001;
    play.run(end);
    let (told, down) = (&play.told, &play.down);
    assert!(down[&name(2)] <= told[&name(1)], "{told:?} {down:?}");
    assert!(down[&name(1)] <= told[&name(0)], "{told:?} {down:?}");
    assert!(
        play.exit_at.is_some_and(|at| at < end),
        "{:?}",
        play.exit_at
    );
}
