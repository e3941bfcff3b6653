//! One engine with a disk that keeps everything, a child and a validator that do what the texts of a config say, and a
//! server that is there or not.
//!
//! Promises: everything follows from what a test does; time passes in [`Bench::run`] alone, and an engine that asks
//! again and again for the same moment is found out there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, AgentToServer, ConnectionSettingsOffers,
    ConnectionSettingsStatus, EffectiveConfig, RemoteConfigStatus, ServerToAgent,
    TelemetryConnectionSettings,
};
use opamp_client::settings::SavedSettings;

use crate::config::{self, Agent, Layer, Overrides, Server};
use crate::engine::message::{
    AgentEffect, AgentEvent, ChildIdentity, DiskDone, DiskFault, DiskWork, Exit, ExitStatus,
    FaultKind, Inheritance, LinkEvent, LinkLoss, LocalFile, LossKind, Note, Persisted, Record,
    Rejection, Revision, RevisionFile, StoredRevision, ToolEnd, ToolOutcome, ToolSpec, WatchedBy,
};
use crate::engine::{Engine, Outcome, Places, Setup};
use crate::units::{LinkId, Moment, Now, RevisionId, Ticket, WallTime};

use super::page::Page;
use super::story::Story;
use super::words::Words;

/// What the server reads.
pub(super) const APPLIED: i32 = 1;
pub(super) const APPLYING: i32 = 2;
pub(super) const FAILED: i32 = 3;

const STATE: &str = "/s/agents/it";
const UID: [u8; 16] = [7; 16];
const STEPS_MAX: u32 = 20_000;
/// All but `AcceptsOpAMPConnectionSettings`.
const ALLOWED: u64 = !0x100;

/// Settings of an agent, its profile among them.
pub(super) fn agent(settings: &str) -> (Agent, Option<Server>) {
    agent_of("server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}", settings)
}

/// The same with another server, or none.
pub(super) fn agent_of(server: &str, settings: &str) -> (Agent, Option<Server>) {
    let text = format!(
        "{server}\nprofiles: /profiles\nagents: {{it: {{executable: /bin/sh, {settings}}}}}\n"
    );
    let config = config::load("test", &text, &Words, &Overrides::default());
    let mut config = config.unwrap_or_else(|errors| panic!("{errors}"));
    (config.agents.remove(0), config.server)
}

/// What is stored.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) local: BTreeMap<PathBuf, String>,
    pub(super) journal: Vec<Record>,
    pub(super) connection: Option<SavedSettings>,
    pub(super) revisions: BTreeMap<RevisionId, Revision>,
    pub(super) current: Option<RevisionId>,
    pub(super) good: Option<RevisionId>,
    pub(super) rejected: Vec<Rejection>,
    pub(super) frozen: Option<String>,
    pub(super) trial: Vec<RevisionFile>,
}

impl Shelf {
    fn read_local(&self, path: &Path) -> LocalFile {
        let bytes = self.local.get(path).map(|text| text.clone().into_bytes());
        LocalFile {
            path: path.to_owned(),
            bytes: bytes.ok_or_else(|| "no such file".to_owned()),
        }
    }

    pub(super) fn perform(&mut self, work: DiskWork) -> DiskDone {
        match work {
            DiskWork::Stage(revision) => {
                self.revisions.insert(revision.id.clone(), *revision);
            }
            DiskWork::Journal(record) => self.journal.push(record),
            DiskWork::Promote(id) => self.current = Some(id),
            DiskWork::MarkGood(id) => self.good = Some(id),
            DiskWork::SaveRejected(rejected) => self.rejected = rejected,
            DiskWork::SaveConnection(saved) => self.connection = Some(saved),
            DiskWork::Prune { keep } => {
                self.revisions.retain(|id, _| keep.contains(id));
                return DiskDone::Pruned(keep);
            }
            DiskWork::ReadLocal(paths) => {
                let read = paths.iter().map(|path| self.read_local(path));
                return DiskDone::Local(read.collect());
            }
            DiskWork::ReadRevision(id) => {
                let revision = Box::new(self.revisions[&id].clone());
                return DiskDone::Revision(revision);
            }
            DiskWork::StageTrial(files) => self.trial = files,
            DiskWork::DropTrial => self.trial.clear(),
            DiskWork::Verify(id) => {
                let drift = Vec::new();
                return DiskDone::Verified { id, drift };
            }
            DiskWork::Restore(_) | DiskWork::ShowEffective(_) | DiskWork::KeepMaterial(_) => {}
        }
        DiskDone::Durable
    }

    pub(super) fn persisted(&self, agent: &Agent) -> Persisted {
        let layers = agent.layers.iter().filter_map(|layer| match layer {
            Layer::Local(path) => Some(path),
            _ => None,
        });
        let paths = layers.chain(&agent.fallback);
        Persisted {
            journal: self.journal.clone(),
            current: self.current.as_ref().map(|id| self.revisions[id].clone()),
            last_good: self.good.clone(),
            revisions: self.revisions.values().map(stored).collect(),
            rejected: self.rejected.clone(),
            local: paths.map(|path| self.read_local(path)).collect(),
            connection: self.connection.clone(),
            frozen: self.frozen.clone(),
            ..Persisted::default()
        }
    }

    /// The files of a revision, one after the other.
    pub(super) fn text(&self, id: &RevisionId) -> String {
        text(&self.revisions[id].files)
    }
}

fn stored(revision: &Revision) -> StoredRevision {
    crate::engine::rollout::stored_of(revision)
}

pub(super) fn text(files: &[RevisionFile]) -> String {
    let texts = files
        .iter()
        .map(|file| String::from_utf8_lossy(&file.bytes));
    texts.collect()
}

/// The server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Up,
    /// Nobody listens.
    Away,
    /// Nobody says anything.
    Silent,
    /// Whoever comes is sent away.
    Lost(LossKind, Option<Duration>),
}

pub(super) struct Bench {
    pub(super) engine: Engine,
    settings: (Agent, Option<Server>),
    now: u64,
    queue: BTreeMap<(u64, u64), AgentEvent>,
    next: u64,
    pub(super) disk: Shelf,
    child: Option<u32>,
    pids: u32,
    /// The config of each process that was started.
    pub(super) started: Vec<String>,
    /// What each run of the validator was given.
    pub(super) validated: Vec<String>,
    notes: Vec<Note>,
    watch: Option<Ticket>,
    /// Every watch that was asked for: by which ticket, and for which files.
    pub(super) watches: Vec<(Ticket, Vec<PathBuf>)>,
    /// Its counters.
    pub(super) page: Page,
    server: There,
    link: Option<LinkId>,
    /// Every status of an offer that the server has read.
    pub(super) read: Vec<RemoteConfigStatus>,
    /// The same of offered destinations.
    pub(super) read_of_settings: Vec<ConnectionSettingsStatus>,
    /// What it read last as the config that runs.
    pub(super) shown: Option<EffectiveConfig>,
    capabilities: u64,
    pub(super) inheritance: Option<Box<Inheritance>>,
    /// What whoever asks the child for a proof ends with.
    pub(super) proves: i32,
    /// What it says to each message; nothing where there is none.
    pub(super) answer: Option<ServerToAgent>,
    /// Disk work whose name begins like this is refused.
    pub(super) refuses: &'static str,
    /// Capability bits that the settings leave on.
    pub(super) allowed: u64,
    /// Everything that it does, where somebody wants to read that.
    story: Option<Story>,
}

impl Bench {
    /// A host with these local files that has not been started.
    pub(super) fn new(settings: &str, local: &[(&str, &str)]) -> Self {
        let settings = agent(settings);
        let mut disk = Shelf::default();
        for (path, text) in local {
            disk.local.insert((*path).into(), (*text).to_owned());
        }
        Self {
            engine: engine(&settings, Persisted::default(), None),
            settings,
            now: 0,
            queue: BTreeMap::new(),
            next: 0,
            disk,
            child: None,
            pids: 100,
            started: Vec::new(),
            validated: Vec::new(),
            notes: Vec::new(),
            watch: None,
            watches: Vec::new(),
            page: Page::new(),
            server: There::Up,
            link: None,
            read: Vec::new(),
            read_of_settings: Vec::new(),
            shown: None,
            capabilities: 0,
            inheritance: None,
            proves: 0,
            answer: Some(ServerToAgent::default()),
            refuses: "nothing",
            allowed: ALLOWED,
            story: None,
        }
    }

    /// One of which everything is written down.
    pub(super) fn told(settings: &str, local: &[(&str, &str)]) -> Self {
        Self {
            story: Some(Story::default()),
            ..Self::new(settings, local)
        }
    }

    /// Other settings, before a start.
    pub(super) fn settings_of(&mut self, settings: (Agent, Option<Server>)) {
        self.settings = settings;
    }

    /// What the test does next.
    pub(super) fn chapter(&mut self, title: &str) {
        if let Some(story) = &mut self.story {
            story.chapter(title);
        }
    }

    /// Compares what was written down.
    #[track_caller]
    pub(super) fn is(mut self, name: &str, wanted: &str) {
        let clock = self.clock();
        let mut story = self.story.take().unwrap();
        story.ends(clock, &self.engine);
        story.is(name, wanted);
    }

    /// The supervisor is started, after its host if it ran before.
    pub(super) fn boot(&mut self) {
        self.prepare();
        self.start();
    }

    /// What comes before its start.
    pub(super) fn prepare(&mut self) {
        self.queue.clear();
        self.child = None;
        self.link = None;
        self.watch = None;
        let persisted = self.disk.persisted(&self.settings.0);
        let setup = setup(&self.settings, persisted, self.inheritance.take());
        self.engine = Engine::new(Setup {
            capabilities: self.allowed,
            ..setup
        });
    }

    pub(super) fn start(&mut self) {
        self.with(|engine, now| engine.start(now, None));
    }

    /// Started a while ago, and nothing moves.
    pub(super) fn calm(settings: &str, local: &[(&str, &str)]) -> Self {
        let mut bench = Self::new(settings, local);
        bench.boot();
        bench.run_s(60);
        bench
    }

    pub(super) fn clock(&self) -> Now {
        Now {
            mono: Moment::from_millis(self.now),
            wall: WallTime::from_unix_millis(1_800_000_000_000 + self.now),
        }
    }

    /// One step of the engine, and what follows from it at once.
    pub(super) fn with(&mut self, step: impl FnOnce(&mut Engine, Now) -> Outcome) {
        let clock = self.clock();
        let outcome = step(&mut self.engine, clock);
        if let Some(story) = &mut self.story {
            story.tell(clock, &outcome, &self.engine);
        }
        self.notes.extend(outcome.notes);
        for effect in outcome.effects {
            self.perform(effect);
        }
    }

    pub(super) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + u64::try_from(span.as_millis()).unwrap();
        for _ in 0..STEPS_MAX {
            let due = self.engine.deadline(self.clock()).map(Moment::as_millis);
            let next = self.queue.first_key_value().map(|(key, _)| key.0);
            match (next, due) {
                (Some(at), due) if at <= end && due.is_none_or(|due| at <= due) => {
                    let (_, event) = self.queue.pop_first().unwrap();
                    self.now = self.now.max(at);
                    if let AgentEvent::Exited { pid, .. } = &event {
                        if self.child != Some(*pid) {
                            continue;
                        }
                        self.child = None;
                    }
                    if let Some(story) = &mut self.story {
                        story.happens(&event);
                    }
                    self.with(|engine, now| engine.step(now, event));
                }
                (_, Some(due)) if due <= end => {
                    self.now = self.now.max(due);
                    self.with(Engine::tick);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("{STEPS_MAX} steps, and it is {} ms", self.now);
    }

    fn later(&mut self, wait: u64, event: AgentEvent) {
        self.next += 1;
        self.queue.insert((self.now + wait, self.next), event);
    }

    fn perform(&mut self, effect: AgentEffect) {
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let result = if format!("{work:?}").starts_with(self.refuses) {
                    Err(DiskFault {
                        kind: FaultKind::Full,
                        reason: "no space".to_owned(),
                    })
                } else {
                    Ok(self.disk.perform(work))
                };
                self.later(2, AgentEvent::Disk { ticket, result });
            }
            AgentEffect::Spawn { ticket, .. } => self.spawn(ticket),
            AgentEffect::Signal { pid, signal, .. } => {
                if matches!(signal, 9 | 15) {
                    self.dies(10, pid, ExitStatus::Signal(signal));
                }
            }
            AgentEffect::RunTool { ticket, spec } if spec.program == Path::new("prove") => {
                let outcome = ToolOutcome {
                    end: ToolEnd::Exited(self.proves),
                    output: String::new(),
                };
                self.later(20, AgentEvent::ToolDone { ticket, outcome });
            }
            AgentEffect::RunTool { ticket, spec } => self.validate(ticket, &spec),
            AgentEffect::WatchFiles { ticket, paths } => {
                self.watch = (!paths.is_empty()).then_some(ticket);
                self.watches.push((ticket, paths));
                if self.watch.is_some() {
                    let by = WatchedBy::Events;
                    self.later(1, AgentEvent::FilesWatched { ticket, by });
                }
            }
            AgentEffect::Dial { link, offered, .. } => match self.server {
                There::Up if format!("{offered:?}").contains("refused.example") => {
                    self.down(link, LossKind::Network);
                }
                There::Up if format!("{offered:?}").contains("silent.example") => {}
                There::Up => {
                    self.link = Some(link);
                    let event = LinkEvent::Up;
                    self.later(5, AgentEvent::Link { link, event });
                }
                There::Away => self.down(link, LossKind::Network),
                There::Lost(kind, retry_after) => self.lose(link, kind, retry_after),
                There::Silent => {}
            },
            AgentEffect::Hangup { link } => self.down(link, LossKind::Ours),
            AgentEffect::Send { link, frame } => self.hear(link, &frame),
            AgentEffect::LookAtRoom { ticket, .. } => {
                let room = Ok(());
                self.later(1, AgentEvent::RoomSeen { ticket, room });
            }
            AgentEffect::ReadCounters { ticket, question } => {
                assert!(self.child.is_some(), "nobody counts");
                let result = self.page.read(self.now, &question.url, &self.started);
                self.later(self.page.takes, AgentEvent::CountersRead { ticket, result });
            }
            other @ (AgentEffect::HttpProbe { .. } | AgentEffect::WatchOutput { .. }) => {
                unreachable!("the profile asks for no {other:?}")
            }
            AgentEffect::CancelTool { .. }
            | AgentEffect::LocalSend { .. }
            | AgentEffect::LocalClose { .. } => {}
        }
    }

    fn spawn(&mut self, ticket: Ticket) {
        assert_eq!(self.child, None, "two children");
        self.pids += 1;
        let pid = self.pids;
        self.child = Some(pid);
        let text = self.current();
        let child = ChildIdentity {
            pid,
            start_ticks: 1,
            started: self.clock().wall,
        };
        self.later(1, AgentEvent::Spawned { ticket, child });
        if text.contains("dies-at-start") {
            self.dies(40, pid, ExitStatus::Code(1));
        }
        if text.contains("dies-later") {
            self.dies(6_000, pid, ExitStatus::Code(1));
        }
        self.started.push(text);
    }

    /// Somebody kills the child.
    pub(super) fn kill(&mut self) {
        let pid = self.child.unwrap();
        self.dies(1, pid, ExitStatus::Signal(9));
    }

    fn dies(&mut self, wait: u64, pid: u32, status: ExitStatus) {
        let exit = Exit {
            status,
            tail: String::new(),
            oom_killed: false,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        self.later(wait, AgentEvent::Exited { pid, exit });
    }

    fn validate(&mut self, ticket: Ticket, spec: &ToolSpec) {
        let first = spec.args.iter().find(|it| it.starts_with(STATE)).unwrap();
        let rest = first.strip_prefix("/s/agents/it/").unwrap();
        let text = match rest.strip_prefix("revisions/") {
            Some(rest) => {
                let (id, _) = rest.split_once('/').unwrap();
                self.disk.text(&id.parse().unwrap())
            }
            None => text(&self.disk.trial),
        };
        let code = i32::from(text.contains("invalid"));
        self.validated.push(text);
        let outcome = ToolOutcome {
            end: ToolEnd::Exited(code),
            output: "no such word".to_owned(),
        };
        self.later(20, AgentEvent::ToolDone { ticket, outcome });
    }

    fn down(&mut self, link: LinkId, kind: LossKind) {
        self.lose(link, kind, None);
    }

    /// The link is lost.
    pub(super) fn loses(&mut self, kind: LossKind, retry_after: Option<Duration>) {
        let link = self.link.expect("there is none");
        self.lose(link, kind, retry_after);
    }

    fn lose(&mut self, link: LinkId, kind: LossKind, retry_after: Option<Duration>) {
        if self.link == Some(link) {
            self.link = None;
        }
        let loss = LinkLoss {
            kind,
            reason: "gone".to_owned(),
            retry_after,
        };
        let event = LinkEvent::Down(loss);
        self.later(3, AgentEvent::Link { link, event });
    }

    fn hear(&mut self, link: LinkId, frame: &[u8]) {
        let message: AgentToServer = frame::decode(frame, FrameRules::default()).unwrap();
        self.capabilities = message.capabilities;
        if message.effective_config.is_some() {
            self.shown = message.effective_config;
        }
        self.read.extend(message.remote_config_status);
        self.read_of_settings
            .extend(message.connection_settings_status);
        if let Some(answer) = self.answer.clone() {
            self.talk(link, answer);
        }
    }

    /// The server says something; what it offers, it offers once.
    fn talk(&mut self, link: LinkId, message: ServerToAgent) {
        let message = ServerToAgent {
            instance_uid: UID.to_vec(),
            capabilities: 0x7,
            ..message
        };
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        let event = LinkEvent::Frame(frame);
        self.later(5, AgentEvent::Link { link, event });
    }

    /// The server says this.
    pub(super) fn says(&mut self, message: ServerToAgent) {
        self.talk(self.link.expect("nobody to say it to"), message);
    }

    /// Lets time pass until there is a link.
    pub(super) fn waits_for_link(&mut self) {
        for _ in 0..600 {
            if self.link.is_some() {
                return;
            }
            self.run_s(1);
        }
        panic!("no link in ten minutes");
    }

    /// Something else happens.
    pub(super) fn happens(&mut self, event: AgentEvent) {
        self.later(1, event);
        self.run(Duration::from_millis(1));
    }

    /// The server offers a config.
    pub(super) fn offer(&mut self, hash: &str, text: &str) {
        let message = ServerToAgent {
            remote_config: Some(remote_config(hash, text)),
            ..ServerToAgent::default()
        };
        self.talk(self.link.expect("nobody to offer it to"), message);
    }

    /// The server wants the agent's metrics there; nowhere if that is empty.
    pub(super) fn direct(&mut self, hash: &str, endpoint: &str) {
        let message = ServerToAgent {
            connection_settings: Some(destinations(hash, endpoint)),
            ..ServerToAgent::default()
        };
        self.talk(self.link.expect("nobody to offer it to"), message);
    }

    pub(super) fn server_is(&mut self, there: There) {
        self.server = there;
        if let (There::Away | There::Silent, Some(link)) = (there, self.link) {
            self.down(link, LossKind::Network);
        }
    }

    /// Whoever comes from now on is sent away.
    pub(super) fn sends_away(&mut self, kind: LossKind, retry_after: Option<Duration>) {
        self.server = There::Lost(kind, retry_after);
    }

    /// Somebody edits a local file.
    pub(super) fn edit(&mut self, path: &str, text: &str) {
        self.disk.local.insert(path.into(), text.to_owned());
        if let Some(ticket) = self.watch {
            self.later(1, AgentEvent::FilesTouched { ticket });
        }
    }

    /// The settings are read again, and are others.
    pub(super) fn hup(&mut self, settings: &str) {
        self.hup_with(agent(settings));
    }

    /// The same with another server.
    pub(super) fn hup_with(&mut self, settings: (Agent, Option<Server>)) {
        self.settings = settings;
        let (agent, server) = self.settings.clone();
        self.with(|engine, now| engine.set_settings(now, agent, server, Duration::from_secs(7)));
    }

    /// The files of what is current, one after the other.
    pub(super) fn current(&self) -> String {
        let current = self.disk.current.as_ref();
        current.map_or_else(String::new, |id| self.disk.text(id))
    }

    /// Whether what is current is last good.
    pub(super) fn is_good(&self) -> bool {
        self.disk.current.is_some() && self.disk.current == self.disk.good
    }

    pub(super) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// What the server read last: of which offer, and what.
    pub(super) fn status(&self) -> (String, i32) {
        let read = self.read.last().expect("nothing was reported");
        let hash = String::from_utf8(read.last_remote_config_hash.clone());
        (hash.unwrap(), read.status)
    }

    /// What the server read last of destinations.
    pub(super) fn directed(&self) -> Option<(String, i32)> {
        let status = self.read_of_settings.last()?;
        let hash = String::from_utf8(status.last_connection_settings_hash.clone());
        Some((hash.unwrap(), status.status))
    }

    pub(super) fn announces(&self, bit: u64) -> bool {
        self.capabilities & bit != 0
    }

    /// How often a note was written.
    pub(super) fn noted(&self, message: &str) -> usize {
        let notes = self.notes.iter();
        notes.filter(|note| note.message == message).count()
    }

    pub(super) fn counted(&self, counter: &'static str) -> u64 {
        self.engine.counters[counter]
    }
}

/// An offer of a place for metrics.
pub(super) fn destinations(hash: &str, endpoint: &str) -> ConnectionSettingsOffers {
    ConnectionSettingsOffers {
        hash: hash.as_bytes().to_vec(),
        own_metrics: Some(TelemetryConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            ..TelemetryConnectionSettings::default()
        }),
        ..ConnectionSettingsOffers::default()
    }
}

pub(super) fn remote_config(hash: &str, text: &str) -> AgentRemoteConfig {
    let file = AgentConfigFile {
        body: text.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    let config_map = [("config.yaml".to_owned(), file)].into_iter().collect();
    AgentRemoteConfig {
        config: Some(AgentConfigMap { config_map }),
        config_hash: hash.as_bytes().to_vec(),
    }
}

fn engine(
    settings: &(Agent, Option<Server>),
    persisted: Persisted,
    inheritance: Option<Box<Inheritance>>,
) -> Engine {
    Engine::new(setup(settings, persisted, inheritance))
}

/// What the engine is built from.
pub(super) fn setup(
    (agent, server): &(Agent, Option<Server>),
    persisted: Persisted,
    inheritance: Option<Box<Inheritance>>,
) -> Setup {
    Setup {
        settings: agent.clone(),
        server: server.clone(),
        capabilities: ALLOWED,
        grace: Duration::from_secs(7),
        instance_uid: UID,
        places: Places {
            state_dir: STATE.into(),
            link: None,
            reserved_ports: Vec::new(),
            certificates: "/s/certificates".into(),
            supervisor: String::new(),
        },
        facts: BTreeMap::new(),
        persisted,
        inheritance,
        seed: 1,
    }
}
