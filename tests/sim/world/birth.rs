//! How a world begins, and how the product starts in it.

use std::cell::RefCell;

use super::*;

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

/// Many worlds have the same settings; reading them takes longer than a short history.
fn settings(text: String) -> Config {
    thread_local! {
        static READ: RefCell<BTreeMap<String, Config>> = const { RefCell::new(BTreeMap::new()) };
    }
    READ.with_borrow_mut(|read| {
        let read = read.entry(text).or_insert_with_key(|text| {
            config::load("sim", text, &NoEnvironment, &Overrides::default()).unwrap()
        });
        read.clone()
    })
}

/// The name of the agent of that number.
pub(crate) fn name_of(number: usize) -> String {
    match number {
        0 => "collector".to_owned(),
        _ => format!("agent-{number}"),
    }
}

impl Agent {
    fn new(number: usize) -> Self {
        Self {
            name: name_of(number).parse().unwrap(),
            uid: [7 + u8::try_from(number).unwrap(); 16],
            store: None,
            watch: None,
            children: BTreeMap::new(),
            server: Server {
                up: true,
                ..Server::default()
            },
            network: Network::default(),
            seen_current: false,
            protected: None,
            reported: Vec::new(),
            phases: Vec::new(),
            signals: 0,
            tool: None,
            no_spawn: false,
            no_disk: false,
            order: order::Order::default(),
            spared: false,
            may_start: true,
            keeps: None,
            checked: false,
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, "")
    }

    /// With further lines of settings.
    pub(crate) fn with(seed: u64, more: &str) -> Self {
        Self::of_agent(seed, "", more)
    }

    /// With further settings of the agent, in braces' notation, and further lines.
    pub(crate) fn of_agent(seed: u64, agent: &str, more: &str) -> Self {
        Self::of_agents(seed, &[agent.to_owned()], more)
    }

    /// With as many agents as there are settings of agents. All but the first are named by their number.
    pub(crate) fn of_agents(seed: u64, agents: &[String], more: &str) -> Self {
        let mut text = "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}\nagents:\n".to_owned();
        for (number, agent) in agents.iter().enumerate() {
            let name = name_of(number);
            text.extend(["  ", &name, ": {profile: adjutant, ", agent, "}\n"]);
        }
        let config = settings(text + more);
        let disk = ModelDisk::new(seed);
        disk.put_dir(Path::new("/state"));
        Self {
            seed,
            random: Random::seeded(seed),
            now: 0,
            booted_at: 0,
            disk,
            agents: (0..agents.len()).map(Agent::new).collect(),
            at: 0,
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
            service: None,
            faults: Faults::default(),
            protects: true,
            redial_ms: 5_000,
            effects: 0,
            kill_at_effect: None,
            trace: VecDeque::new(),
            tracing: true,
            visits: Visits::default(),
            exited: false,
            stop: None,
            until: None,
        }
    }

    /// A world whose host keeps the certificate `web` for a fixed domain or, without one, for what bundles say.
    pub(crate) fn with_certificate(seed: u64, domain: Option<&str>) -> Self {
        let mut world = Self::new(seed);
        let agent = world.name.clone();
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
        let looked_at = self.at;
        self.life += 1;
        self.booted_at = self.now;
        self.queue
            .retain(|_, due| due.life == 0 || matches!(due.what, What::ChildDies { .. }));
        self.cancelled.clear();
        self.check_pair();
        self.exited = false;
        self.say(format!("boot, life {}", self.life));
        let mut agents = Vec::new();
        for at in 0..self.agents.len() {
            self.at = at;
            agents.push(self.remembered());
        }
        let mut host = Host::new(HostSetup {
            agents,
            identity: Identity::default(),
            certificates: CertificatesSetup {
                list: self.config.certificates.clone(),
                directory: "/state/certificates".into(),
                seed: self.random.next_u64(),
            },
            stop: self.config.stop,
            give_up: self.config.give_up,
            previous_end: None,
            clock: ClockSetup {
                settings: self.config.clock.clone(),
                server: self.config.server.clone(),
                asleep: Duration::ZERO,
            },
            registration: self.known_registration(),
            has_server: true,
        });
        let effects = host.start(self.clock());
        self.host = Some(host);
        self.perform(effects);
        self.at = looked_at;
    }

    /// What a new life finds of one agent: its directory, and a child that lives on.
    fn remembered(&mut self) -> (Setup, Option<Leftover>) {
        self.watch = None;
        self.tool = None;
        self.checked = false;
        self.server.link = None;
        self.network.cleared();
        if self.nothing_proven() {
            // The start has to do without, and begins with the base config.
            self.seen_current = false;
        }
        let layout = AgentLayout::new(Path::new("/state"), &self.name);
        let (store, persisted) = match AgentStore::load(self.disk.clone(), layout, &[]) {
            Ok(loaded) => loaded,
            Err(error) => self.violated(&format!("state does not load: {error}")),
        };
        let living = self.living_pids();
        if living.len() > 1 {
            self.violated(&format!("more than one child lives: {living:?}"));
        }
        self.order_begins(!living.is_empty());
        let leftover = living.first().map(|pid| {
            let child = self.children.get(pid).unwrap();
            Leftover {
                child: identity(*pid),
                note: if child.ending {
                    Err("it was told to end already".to_owned())
                } else {
                    Ok(child.note.clone())
                },
            }
        });
        if let Some(pid) = living.first()
            && let Some(child) = self.children.get_mut(pid)
        {
            child.connection = None;
            child.reaped = false;
        }
        self.protected = living
            .first()
            .copied()
            .filter(|pid| self.is_protected(*pid, &persisted));
        if let Some(pid) = living.first() {
            // It dials again as long as nobody answers, ever more slowly.
            let child = self.children.get(pid).unwrap().clone();
            let wait = 1 + self.random.below(self.redial_ms);
            if let Some(at) = child.talks_at.filter(|_| child.alive) {
                let talk = What::ChildTalks {
                    pid: *pid,
                    generation: child.generation,
                };
                self.later(wait.max(at.saturating_sub(self.now)), talk);
            }
        }
        for repair in &persisted.repairs {
            self.say(format_args!("repair: {repair}"));
        }
        self.store = Some(store);
        let settings = self.config.agents.iter();
        let settings = settings.clone().find(|agent| agent.name == self.name);
        let setup = Setup {
            inheritance: None,
            settings: settings.unwrap().clone(),
            server: self.config.server.clone(),
            capabilities: self.config.capabilities,
            grace: self.config.stop.grace,
            instance_uid: self.uid,
            places: Places {
                state_dir: self.root(),
                link: Some(format!("/run/{}.sock", self.name)),
                reserved_ports: Vec::new(),
                certificates: "/state/certificates".into(),
                supervisor: String::new(),
            },
            facts: BTreeMap::new(),
            persisted,
            seed: self.random.next_u64(),
        };
        (setup, leftover)
    }

    fn living_pids(&self) -> Vec<u32> {
        self.children
            .iter()
            .filter(|(_, child)| child.alive)
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Whether nothing asks for the end of a child that lives on.
    fn is_protected(&self, pid: u32, persisted: &adjutant::engine::message::Persisted) -> bool {
        let runs = self.children.get(&pid).unwrap();
        let wanted = self
            .server
            .offer
            .as_ref()
            .is_none_or(|offer| offer.text == runs.text);
        let quiet = persisted
            .journal
            .last()
            .is_none_or(|record| record.step.is_final());
        let good =
            Behaviour::of(&runs.text).is_good() && self.last_good() == Some(runs.text.clone());
        self.protects
            && wanted
            && quiet
            && good
            && !runs.ending
            && self.current() == self.last_good()
    }

    /// A HUP; the settings have not changed.
    pub(crate) fn hang_up(&mut self) {
        self.later(0, What::Host(Event::Signal(HostSignal::Hangup)));
    }

    /// Boots again what ended in order: somebody starts it anew.
    pub(crate) fn begin_again(&mut self) {
        if self.exited {
            self.now += 1_000;
            self.boot();
        }
    }

    /// The wall clock is put forward.
    pub(crate) fn jump(&mut self, by: u64) {
        self.ahead += by;
        let asleep = Duration::ZERO;
        self.later(0, What::Host(Event::ClockJumped { asleep }));
    }

    fn person(&mut self, command: impl FnOnce(Option<AgentName>) -> Command) {
        let command = command(Some(self.name.clone()));
        // A reason of its own for a new process.
        self.protected = None;
        let id = CommandId(self.next_event);
        self.later(0, What::Host(Event::Command { id, command }));
    }

    /// Somebody wants to see what a revision holds, which is read from the disk.
    pub(crate) fn person_looks(&mut self) {
        let mut names = if self.seen_current {
            self.stored()
        } else {
            Vec::new()
        };
        let command = Command::Show {
            agent: Some(self.name.clone()),
            revision: names.pop().and_then(|name| name.parse().ok()),
        };
        let id = CommandId(self.next_event);
        self.later(0, What::Host(Event::Command { id, command }));
    }

    pub(crate) fn person_restarts(&mut self) {
        self.person(|agent| Command::Restart { agent });
    }

    pub(crate) fn person_reloads(&mut self) {
        self.person(|agent| Command::Reload { agent });
    }

    pub(crate) fn person_rolls_back(&mut self) {
        self.person(|agent| Command::Rollback { agent, to: None });
    }

    pub(crate) fn person_applies(&mut self, text: &str) {
        let file = OfferedFile {
            name: "collect.yaml".to_owned(),
            content_type: "text/yaml".to_owned(),
            body: text.as_bytes().to_vec(),
        };
        let files = vec![file];
        self.person(|agent| Command::Apply { agent, files });
    }
}
