//! Acts on the engine's effects: one arm per effect, each one call of a port.
//!
//! Promises: every effect with a ticket is answered once, at once or later; no call here waits; tasks live in one
//! set and their end, even by panic, is an event. What a full queue means is written where it is filled: a link or
//! a local connection whose peer does not read is dropped, a writer thread that takes no more is a disk fault.
//! Must never: look at the host, retry, or branch on what the engine thinks.

#[cfg(feature = "layers")]
mod files;
mod question;
#[cfg_attr(not(feature = "roster"), path = "perform/roster/none.rs")]
mod roster;
mod tasks;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use opamp_client::transport::{FrameSender, SendError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::authenticator::Authenticator;
use crate::config::{Config, Registration};
use crate::engine::message::{
    AgentEffect, AgentEvent, CertificateDone, CertificateFault, CertificateFaultKind,
    CertificateOrder, CertificateWork, ChildIdentity, ClockQuestion, Command, CommandId,
    Credential, DiskFault, DiskWork, Effect, Event, ExitReason, FailureClass, FaultKind, Identity,
    LinkEvent, LocalEvent, LossKind, Note, RegistrationCall, RegistrationFailure, Reply,
};
use crate::port::child::{ChildDirs, Children, SpawnFailure};
use crate::port::events::Events;
use crate::port::link::{self, Attempt, LinkKey, LinkReport, LinkReports};
use crate::port::local::{LocalDoor, LocalKey, LocalReport, LocalReports};
use crate::port::notify::Notifier;
use crate::port::store::Writer;
use crate::port::termination::Termination;
use crate::registrar::Registrar;
use crate::sys::clock;
use crate::telemetry::Telemetry;
use crate::units::{AgentName, CertificateName, LinkId, Ticket};
pub(crate) use roster::Admissions;
#[cfg(feature = "roster")]
pub(crate) use roster::{Admit, Admitted, Joins};
use tasks::CANCELLED;
pub(crate) use tasks::Tasks;

/// Reads the settings again.
pub(crate) type ReadSettings = Arc<dyn Fn() -> Result<Box<Config>, String> + Send + Sync>;

/// What performing an effect came to.
#[derive(Debug)]
pub(crate) enum Performed {
    /// Done; if there is an answer it comes later.
    Quietly,
    /// The answer is there already.
    Answered(Event),
    /// Something to be logged.
    Noted(Note),
    /// The loop is to be left.
    Left(ExitReason),
}

/// The ports of one agent.
#[derive(Debug)]
pub(crate) struct AgentPorts {
    pub(crate) dirs: ChildDirs,
    pub(crate) writer: Writer<DiskWork>,
}

/// Work of the certificates' writer thread.
pub(crate) type CertificateJob = (CertificateName, CertificateWork);

/// What certificates are kept and ordered with.
#[derive(Debug)]
pub(crate) struct CertificatePorts {
    pub(crate) writer: Writer<CertificateJob>,
    /// `certificates/` in the state directory.
    #[cfg_attr(
        not(feature = "acme"),
        expect(dead_code, reason = "only accounts at authorities are kept from here")
    )]
    pub(crate) directory: std::path::PathBuf,
}

/// A link that was dialled and is not known to be gone.
#[derive(Debug)]
struct Link {
    task: AbortHandle,
    /// There once it is up, until we hang up.
    sender: Option<FrameSender>,
}

/// Everything an effect may need.
pub(crate) struct Ports {
    pub(crate) children: Children,
    pub(crate) tasks: Tasks,
    pub(crate) agents: BTreeMap<AgentName, AgentPorts>,
    pub(crate) identity: Writer<Identity>,
    pub(crate) certificates: CertificatePorts,
    pub(crate) link_reports: LinkReports,
    pub(crate) settings: ReadSettings,
    /// Makes the ports of an agent that joins; set once, before the loop.
    #[cfg(feature = "roster")]
    pub(crate) joins: Option<Joins>,
    pub(crate) notifier: Notifier,
    pub(crate) events: Events,
    pub(crate) termination: Termination,
    pub(crate) telemetry: Telemetry,
    /// What was written for the orchestrator last.
    pub(crate) last_words: Option<String>,
    registrar: Registrar,
    authenticator: Authenticator,
    links: BTreeMap<LinkKey, Link>,
    orders: BTreeMap<Ticket, AbortHandle>,
    /// What watches files, by agent.
    #[cfg(feature = "layers")]
    watches: BTreeMap<AgentName, [AbortHandle; 2]>,
    locals: BTreeMap<LocalKey, FrameSender>,
    /// What serves the own OpAMP of children, by agent.
    doors: BTreeMap<AgentName, AbortHandle>,
    questions: BTreeMap<CommandId, oneshot::Sender<Reply>>,
    next_question: u64,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports")
            .field("agents", &self.agents.keys())
            .field("links", &self.links.keys())
            .field("locals", &self.locals.keys())
            .finish_non_exhaustive()
    }
}

impl Ports {
    /// Joins the ports that the composition root made.
    pub(crate) fn new(
        children: Children,
        agents: BTreeMap<AgentName, AgentPorts>,
        (identity, certificates): (Writer<Identity>, CertificatePorts),
        link_reports: LinkReports,
        settings: ReadSettings,
        (notifier, events, termination): (Notifier, Events, Termination),
        registrar: Registrar,
    ) -> Self {
        Self {
            children,
            tasks: Tasks::default(),
            agents,
            identity,
            certificates,
            link_reports,
            settings,
            #[cfg(feature = "roster")]
            joins: None,
            notifier,
            events,
            termination,
            telemetry: Telemetry::default(),
            last_words: None,
            authenticator: Authenticator::new(registrar.proxies().clone()),
            registrar,
            links: BTreeMap::new(),
            orders: BTreeMap::new(),
            #[cfg(feature = "layers")]
            watches: BTreeMap::new(),
            locals: BTreeMap::new(),
            doors: BTreeMap::new(),
            questions: BTreeMap::new(),
            next_question: 0,
        }
    }

    /// Serves the own OpAMP of an agent's children.
    pub(crate) fn serve_child(
        &mut self,
        agent: &AgentName,
        door: LocalDoor,
        reports: LocalReports,
    ) {
        let task = self.tasks.serve("local endpoint", async move {
            door.serve(reports).await;
            "it does not accept any more".to_owned()
        });
        self.doors.insert(agent.clone(), task);
    }

    /// Acts on one effect.
    pub(crate) fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Agent { agent, effect } => self.perform_for(agent, effect),
            Effect::SaveIdentity { ticket, identity } => {
                match self.identity.submit(ticket, identity) {
                    Ok(()) => Performed::Quietly,
                    Err(overrun) => Performed::Answered(Event::IdentitySaved {
                        ticket,
                        result: Err(overrun_fault(&overrun)),
                    }),
                }
            }
            Effect::Certificate { ticket, name, work } => self.certificate(ticket, name, work),
            Effect::CancelCertificate { ticket } => {
                if let Some(order) = self.orders.remove(&ticket) {
                    self.tasks.abort_silently(&order);
                }
                Performed::Quietly
            }
            Effect::Register {
                ticket,
                settings,
                call,
            } => {
                self.register(ticket, settings, call);
                Performed::Quietly
            }
            Effect::SaveCredential { ticket } => {
                self.save_credential(ticket);
                Performed::Quietly
            }
            Effect::LookAtClock { ticket, question } => {
                self.look_at_clock(ticket, question);
                Performed::Quietly
            }
            Effect::Reply { id, reply } => {
                if let Some(question) = self.questions.remove(&id) {
                    // Whoever asked may have gone away meanwhile.
                    question.send(reply).ok();
                }
                Performed::Quietly
            }
            Effect::ReadSettings => {
                self.read_settings();
                Performed::Quietly
            }
            Effect::Admit {
                ticket,
                agent,
                instance_uid,
            } => self.admit(ticket, *agent, instance_uid),
            Effect::Dismiss { agent } => {
                self.dismiss(&agent);
                Performed::Quietly
            }
            Effect::Note(note) => Performed::Noted(note),
            Effect::LastWords(words) => {
                self.last_words = Some(words.clone());
                let termination = self.termination.clone();
                let task = async move {
                    // The file belongs to somebody else and may be on any disk.
                    let write = tokio::task::spawn_blocking(move || termination.write(&words));
                    write.await.err().map(|_| Event::Tick)
                };
                self.tasks.spawn(task, |_| None);
                Performed::Quietly
            }
            Effect::Announce(milestone) => {
                self.notifier.announce(clock::monotonic(), milestone);
                Performed::Quietly
            }
            Effect::Exit(reason) => Performed::Left(reason),
        }
    }

    fn perform_for(&mut self, agent: AgentName, effect: AgentEffect) -> Performed {
        let Some(ports) = self.agents.get(&agent) else {
            tracing::error!(%agent, "effect for an agent that is not there");
            return Performed::Quietly;
        };
        let event = match effect {
            AgentEffect::Disk { ticket, work } => match ports.writer.submit(ticket, work) {
                Ok(()) => None,
                Err(overrun) => Some(AgentEvent::Disk {
                    ticket,
                    result: Err(overrun_fault(&overrun)),
                }),
            },
            AgentEffect::Spawn { ticket, spec } => {
                let result = self.children.spawn(&agent, &ports.dirs, &spec);
                Some(spawned(ticket, result))
            }
            AgentEffect::Signal {
                pid,
                signal,
                group,
                note,
            } => {
                if let Err(failure) = self.children.signal(pid, signal, group, note.as_deref()) {
                    // Its end is on the way, or was seen already.
                    tracing::debug!(%agent, error = %failure, "signal not sent");
                }
                None
            }
            AgentEffect::RunTool { ticket, spec } => {
                self.children.run_tool(&agent, &ports.dirs, ticket, &spec);
                None
            }
            AgentEffect::CancelTool { ticket } => {
                self.children.cancel_tool(&agent, ticket);
                None
            }
            AgentEffect::HttpProbe {
                ticket,
                url,
                timeout,
            } => {
                self.probe(agent.clone(), ticket, url, timeout);
                None
            }
            #[cfg(feature = "flow")]
            AgentEffect::ReadCounters { ticket, question } => {
                self.read_counters(agent.clone(), ticket, question);
                None
            }
            AgentEffect::LookAtRoom { ticket, pid } => {
                let room = self.children.room(pid);
                Some(AgentEvent::RoomSeen { ticket, room })
            }
            AgentEffect::WatchOutput {
                ticket,
                reloaded,
                failed,
            } => self.watch_output(&agent, ticket, reloaded, failed),
            AgentEffect::WatchFiles { ticket, paths } => {
                self.watch_files(agent.clone(), ticket, paths);
                None
            }
            AgentEffect::Dial {
                link,
                server,
                instance_uid,
                authorize,
                offered,
            } => {
                let key = link_key(&agent, link);
                let proxies = self.registrar.proxies().clone();
                let token = authorize.then(|| self.registrar.vault().token()).flatten();
                self.dial(Attempt {
                    key,
                    server,
                    instance_uid,
                    token,
                    proxies,
                    auth: None,
                    offered,
                });
                None
            }
            AgentEffect::Send { link, frame } => self.send(&agent, link, frame),
            AgentEffect::Hangup { link } => {
                self.hang_up(&agent, link);
                None
            }
            AgentEffect::LocalSend { connection, frame } => {
                self.local_send(&agent, connection, frame);
                None
            }
            AgentEffect::LocalClose { connection } => {
                // Dropping the sender closes the connection after what is queued; `Closed` follows.
                drop(self.locals.remove(&local_key(&agent, connection)));
                None
            }
        };
        event.map_or(Performed::Quietly, |event| {
            Performed::Answered(Event::Agent { agent, event })
        })
    }

    #[cfg(not(feature = "layers"))]
    #[expect(
        clippy::unused_self,
        clippy::needless_pass_by_value,
        reason = "as in the other build"
    )]
    fn watch_files(&mut self, agent: AgentName, _: Ticket, _: Vec<std::path::PathBuf>) {
        tracing::error!(%agent, "watch files: not part of this build");
    }

    fn dial(&mut self, attempt: Attempt) {
        let key = attempt.key.clone();
        let reports = self.link_reports.clone();
        let authenticator = self.authenticator.clone();
        let lost = {
            let key = key.clone();
            move |reason: &str| {
                let loss = match reason {
                    CANCELLED => link::ours(),
                    reason => link::broken(reason),
                };
                Some(link_event(key, LinkEvent::Down(loss)))
            }
        };
        let task = self.tasks.spawn(
            async move {
                authenticated(attempt, &authenticator, reports).await;
                None
            },
            lost,
        );
        self.links.insert(key, Link { task, sender: None });
    }

    fn send(&mut self, agent: &AgentName, link: LinkId, frame: Vec<u8>) -> Option<AgentEvent> {
        let key = link_key(agent, link);
        let sender = self.links.get(&key)?.sender.as_ref()?;
        match sender.try_send(frame) {
            Err(SendError::Full) => {
                let gone = self.links.remove(&key)?;
                self.tasks.abort_silently(&gone.task);
                Some(AgentEvent::Link {
                    link,
                    event: LinkEvent::Down(link::congested()),
                })
            }
            // Ended: why, its last report says.
            Ok(()) | Err(_) => None,
        }
    }

    fn hang_up(&mut self, agent: &AgentName, link: LinkId) {
        let key = link_key(agent, link);
        let Some(entry) = self.links.get_mut(&key) else {
            return;
        };
        if entry.sender.take().is_none() {
            // Still dialling: there is nobody to say goodbye to. Its end is reported as an abort of ours.
            entry.task.abort();
            self.links.remove(&key);
        }
    }

    fn local_send(&mut self, agent: &AgentName, connection: u64, frame: Vec<u8>) {
        let key = local_key(agent, connection);
        let Some(sender) = self.locals.get(&key) else {
            return;
        };
        if sender.try_send(frame) == Err(SendError::Full) {
            tracing::debug!(%agent, connection, "child does not read its local link");
            drop(self.locals.remove(&key));
        }
    }

    fn certificate(
        &mut self,
        ticket: Ticket,
        name: CertificateName,
        work: CertificateWork,
    ) -> Performed {
        match work {
            CertificateWork::Order(order) => {
                self.orders.retain(|_, order| !order.is_finished());
                self.order(ticket, &order);
                Performed::Quietly
            }
            work => match self.certificates.writer.submit(ticket, (name, work)) {
                Ok(()) => Performed::Quietly,
                Err(overrun) => Performed::Answered(Event::Certificate {
                    ticket,
                    result: Err(CertificateFault::from(overrun_fault(&overrun))),
                }),
            },
        }
    }

    fn order(&mut self, ticket: Ticket, order: &CertificateOrder) {
        let done = move |result: Result<CertificateDone, CertificateFault>| {
            Some(Event::Certificate { ticket, result })
        };
        let lost = move |reason: &str| {
            done(Err(CertificateFault {
                kind: CertificateFaultKind::Unreachable,
                reason: format!("the order broke: {reason}"),
                retry_after: None,
            }))
        };
        #[cfg(feature = "acme")]
        let task = {
            let place = crate::port::cert::Place {
                directory: self.certificates.directory.clone(),
                proxies: self.registrar.proxies().clone(),
            };
            let order = order.clone();
            async move { done(crate::port::cert::order(place, order).await) }
        };
        #[cfg(not(feature = "acme"))]
        let task = {
            // The settings refuse such a certificate before anything starts.
            let reason = format!("ask {}: not part of this build", order.acme.directory);
            async move {
                done(Err(CertificateFault {
                    kind: CertificateFaultKind::Refused,
                    reason,
                    retry_after: None,
                }))
            }
        };
        let task = self.tasks.spawn(task, lost);
        self.orders.insert(ticket, task);
    }

    fn register(&mut self, ticket: Ticket, settings: Box<Registration>, call: RegistrationCall) {
        let registrar = self.registrar.clone();
        self.tasks.spawn(
            async move { Some(registered(ticket, registrar.call(&settings, &call).await)) },
            move |reason| Some(registered(ticket, Err(broken_call(reason)))),
        );
    }

    fn look_at_clock(&mut self, ticket: Ticket, question: Option<Box<ClockQuestion>>) {
        let proxies = self.registrar.proxies().clone();
        let seen = move |look| Some(Event::Clock { ticket, look });
        self.tasks.spawn(
            async move { seen(time::look(question, &proxies).await) },
            move |reason| seen(time::broken(reason)),
        );
    }

    fn save_credential(&mut self, ticket: Ticket) {
        let registrar = self.registrar.clone();
        self.tasks.spawn(
            async move { Some(registered(ticket, registrar.save_again().await)) },
            move |reason| Some(registered(ticket, Err(broken_call(reason)))),
        );
    }

    fn read_settings(&mut self) {
        let read = Arc::clone(&self.settings);
        let task = async move {
            // The file may be on a slow disk.
            let settings = tokio::task::spawn_blocking(move || read()).await;
            Some(Event::Settings(
                settings.unwrap_or_else(|error| Err(error.to_string())),
            ))
        };
        self.tasks
            .spawn(task, |reason| Some(Event::Settings(Err(reason.to_owned()))));
    }

    /// Takes what a link reports; none when the engine was told already that it is gone.
    pub(crate) fn on_link(&mut self, key: LinkKey, report: LinkReport) -> Option<Event> {
        let event = match report {
            LinkReport::Up(sender) => {
                self.links.get_mut(&key)?.sender = Some(sender);
                LinkEvent::Up
            }
            LinkReport::Frame(frame) => {
                self.links.get(&key)?;
                LinkEvent::Frame(frame)
            }
            LinkReport::Down(loss) => {
                self.links.remove(&key)?;
                if loss.kind == LossKind::Rejected {
                    self.authenticator.forget();
                }
                LinkEvent::Down(loss)
            }
        };
        Some(link_event(key, event))
    }

    /// Takes what a local connection reports.
    pub(crate) fn on_local(&mut self, key: LocalKey, report: LocalReport) -> Event {
        let event = match report {
            LocalReport::Opened { sender, peer_pid } => {
                self.locals.insert(key.clone(), sender);
                LocalEvent::Opened { peer_pid }
            }
            LocalReport::Frame(frame) => LocalEvent::Frame(frame),
            LocalReport::Closed => {
                self.locals.remove(&key);
                LocalEvent::Closed
            }
        };
        let LocalKey { agent, connection } = key;
        Event::Agent {
            agent,
            event: AgentEvent::Local { connection, event },
        }
    }

    /// Takes a question of a door and keeps the place for its answer.
    pub(crate) fn on_question(
        &mut self,
        command: Command,
        answer: oneshot::Sender<Reply>,
    ) -> Event {
        self.next_question = self.next_question.saturating_add(1);
        let id = CommandId(self.next_question);
        self.questions.insert(id, answer);
        Event::Command { id, command }
    }
}

/// Runs a link of somebody who says first who they are.
async fn authenticated(mut attempt: Attempt, authenticator: &Authenticator, reports: LinkReports) {
    if let Some(auth) = attempt.server.auth.clone() {
        match authenticator.header(auth).await {
            Ok(header) => attempt.auth = Some(header),
            Err(loss) => {
                let down = (attempt.key, LinkReport::Down(loss));
                // Nobody listening means that the program ends.
                reports.send(down).await.ok();
                return;
            }
        }
    }
    link::run(attempt, reports).await;
}

fn registered(ticket: Ticket, outcome: Result<Credential, RegistrationFailure>) -> Event {
    Event::Registration {
        ticket,
        outcome: outcome.map(Box::new),
    }
}

fn broken_call(reason: &str) -> RegistrationFailure {
    RegistrationFailure {
        class: FailureClass::Answer,
        reason: format!("the call to the registration service broke: {reason}"),
        retry_after: None,
    }
}

fn link_event(key: LinkKey, event: LinkEvent) -> Event {
    let LinkKey { agent, link } = key;
    Event::Agent {
        agent,
        event: AgentEvent::Link { link, event },
    }
}

fn spawned(ticket: Ticket, result: Result<ChildIdentity, SpawnFailure>) -> AgentEvent {
    match result {
        Ok(child) => AgentEvent::Spawned { ticket, child },
        Err(failure) => AgentEvent::SpawnFailed {
            ticket,
            reason: failure.reason,
            transient: failure.transient,
        },
    }
}

fn link_key(agent: &AgentName, link: LinkId) -> LinkKey {
    LinkKey {
        agent: agent.clone(),
        link,
    }
}

fn local_key(agent: &AgentName, connection: u64) -> LocalKey {
    LocalKey {
        agent: agent.clone(),
        connection,
    }
}

fn overrun_fault(overrun: &impl std::fmt::Display) -> DiskFault {
    DiskFault {
        kind: FaultKind::Device,
        reason: overrun.to_string(),
    }
}
