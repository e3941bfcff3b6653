//! The pure middle: `state + event → state + effects`. One [`Engine`] serves one agent; [`host::Host`] holds them all.
//!
//! Promises: `step` is total: it never fails, never blocks and never panics on input. Time, randomness, disk,
//! network and processes come in as events and go out as effects; nothing here can reach them.
//!
//! Invariants, checked after each step in debug builds and in the simulation:
//! 1. At most one transaction runs, and it is the only one that moves `current`.
//! 2. `current` and `last-good` are never pruned.
//! 3. APPLIED is never reported before proof; with `after_probation` never before the window has ended.
//! 4. Last good is never set before the window has ended.
//! 5. A rejected revision is not tried again without an order of a person.
//! 6. No effect names a process that was reaped.
//! 7. No event of the control plane (link, session) stops or restarts a child, but an order that says so and the first
//!    contact with the server, which ends a fallback config.
//! 8. Disk effects go out one at a time, and their answers always count.

#[cfg_attr(not(feature = "adopt"), path = "adoption/none.rs")]
mod adoption;
pub(crate) mod certificates;
mod child;
pub(crate) mod child_link;
pub(crate) mod clock;
#[cfg(feature = "connection")]
mod connection;
pub(crate) mod desired;
#[cfg(test)]
#[path = "tests/diary.rs"]
mod diary;
pub(crate) mod disk;
#[cfg(feature = "layers")]
mod drift;
mod evidence;
pub(crate) mod fallback;
#[cfg(feature = "flow")]
mod flow;
#[cfg(not(feature = "flow"))]
#[path = "no_flow.rs"]
mod flow;
pub mod host;
#[cfg(feature = "opampsupervisor")]
mod inheritance;
mod layers;
pub(crate) mod lifecycle;
pub mod message;
#[cfg(not(feature = "connection"))]
mod no_connection;
#[cfg(not(feature = "telemetry"))]
mod no_own_telemetry;
#[cfg(feature = "telemetry")]
pub(crate) mod own_telemetry;
pub(crate) mod pairs;
pub(crate) mod prober;
pub mod random;
mod recovery;
pub(crate) mod registration;
mod reload;
pub(crate) mod report;
mod rollout;
mod session;
mod shown;
pub(crate) mod turn;
pub(crate) mod uplink;
mod view;
pub(crate) mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use opamp_client::session::Session;
use opamp_client::settings::SavedSettings;

use crate::config::{self};
use crate::engine::adoption::Adoption;
use crate::engine::certificates::Known;
use crate::engine::child_link::ChildLink;
#[cfg(feature = "connection")]
use crate::engine::connection::Connection;
use crate::engine::disk::{DiskQueue, Purpose};
use crate::engine::fallback::Fallback;
use crate::engine::flow::FlowWatch;
use crate::engine::layers::Layers;
use crate::engine::lifecycle::{Lifecycle, Tickets};
use crate::engine::message::{
    AgentEffect, AgentEvent, CommandId, DiskDone, DiskFault, DiskWork, Inheritance, LocalFile,
    Note, NoteLevel, Persisted, Record, Rejection, RemoteStatus, Reply, Revision, StoredRevision,
};
#[cfg(not(feature = "connection"))]
use crate::engine::no_connection::Connection;
#[cfg(not(feature = "telemetry"))]
use crate::engine::no_own_telemetry::OwnTelemetry;
#[cfg(feature = "telemetry")]
use crate::engine::own_telemetry::OwnTelemetry;
use crate::engine::pairs::PairDebt;
use crate::engine::prober::Prober;
use crate::engine::random::Random;
use crate::engine::reload::ReloadMemory;
use crate::engine::rollout::{Job, Settling, Transaction};
use crate::engine::uplink::{LinkOrder, Uplink};
use crate::units::{AgentName, LinkId, Moment, Now, RevisionHash, RevisionId, Ticket};

pub use crate::engine::certificates::CertificatesSetup;
pub use crate::engine::clock::ClockSetup;
pub use crate::engine::desired::Places;
pub use crate::engine::registration::RegistrationSetup;

/// Records that stay in memory for doors; the journal has more.
const HISTORY_MAX: usize = 200;
/// How often a proof is asked for while a child is expected to give one.
const PROOF_INTERVAL: Duration = Duration::from_millis(500);
/// How long one question for a proof may take.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// Output of probes that is kept.
const PROBE_OUTPUT_MAX: usize = 64 * 1024;
const SIGHUP: i32 = 1;
/// Every kind that is counted, so that a series exists before its first event and an alert can see the step from 0.
const COUNTED: [&str; 26] = [
    "adoptions",
    "certificate_reloads",
    "certificate_waits",
    "commits",
    "connection_settings_accepted",
    "connection_settings_failed",
    "crashes",
    "disk_faults",
    "drift_restores",
    "drifts",
    "failed_applies",
    "failed_reloads",
    "flow_collapses",
    "flow_passes",
    "flow_unknown",
    "ignored_session_events",
    "local_changes",
    "malformed_frames",
    "rejected_again",
    "reloads",
    "restart_commands",
    "rollbacks",
    "server_errors",
    "spawn_failures",
    "stale_answers",
    "superseded",
];

/// What an engine is built from.
#[derive(Debug)]
pub struct Setup {
    /// The agent's settings.
    pub settings: config::Agent,
    /// The server, if there is one.
    pub server: Option<config::Server>,
    /// Capability bits the user left on.
    pub capabilities: u64,
    /// Stop signal to KILL.
    pub grace: Duration,
    /// Its OpAMP instance uid.
    pub instance_uid: [u8; 16],
    /// Where its things are.
    pub places: Places,
    /// Host attributes for the description.
    pub facts: BTreeMap<String, String>,
    /// What the state directory knows.
    pub persisted: Persisted,
    /// What another supervisor left, where nothing of ours is there.
    pub inheritance: Option<Box<Inheritance>>,
    /// Seed of its randomness.
    pub seed: u64,
}

/// What an engine tells its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostRequest {
    /// The server gave a new identity: store it, then confirm.
    NewInstanceUid([u8; 16]),
    /// The child was given up.
    GaveUp(String),
    /// The server rejected the token of the registration, and how it put that.
    TokenRejected(String),
    /// The server took the token of the registration.
    TokenAccepted,
}

/// What a step came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) effects: Vec<AgentEffect>,
    pub(crate) notes: Vec<Note>,
    pub(crate) replies: Vec<(CommandId, Reply)>,
    pub(crate) requests: Vec<HostRequest>,
}

/// One agent.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact with its own reader; together they are no state"
)]
#[derive(Debug)]
pub struct Engine {
    name: AgentName,
    settings: config::Agent,
    capabilities: u64,
    places: Places,
    facts: BTreeMap<String, String>,
    instance_uid: [u8; 16],
    tickets: Tickets,
    random: Random,
    out: Outcome,

    life: Lifecycle,
    /// The child, as long as it is one of an earlier life.
    adoption: Option<Adoption>,
    child: ChildLink,
    health_probe: Prober,
    proof_probe: Prober,
    reload: ReloadMemory,
    flow: FlowWatch,
    uplink: Uplink,
    session: Option<Session>,
    /// Offered connection settings, where the settings accept any.
    #[cfg_attr(
        not(feature = "connection"),
        expect(dead_code, reason = "nothing is offered in this build")
    )]
    connection: Option<Box<Connection>>,
    /// What an earlier life stored of them, until it is taken up.
    #[cfg_attr(
        not(feature = "connection"),
        expect(dead_code, reason = "nothing is offered in this build")
    )]
    stored_connection: Option<SavedSettings>,

    disk: DiskQueue,
    current: Option<Revision>,
    last_good: Option<RevisionId>,
    revisions: Vec<StoredRevision>,
    rejected: Vec<Rejection>,
    local: Vec<LocalFile>,
    history: VecDeque<Record>,
    next_transaction: u64,
    frozen: Option<String>,

    certificates: Known,
    debt: PairDebt,
    #[cfg_attr(
        not(feature = "layers"),
        expect(dead_code, reason = "nothing is known of them")
    )]
    layers: Layers,
    fallback: Option<Fallback>,
    inheritance: Option<Box<Inheritance>>,
    own: OwnTelemetry,

    transaction: Option<Transaction>,
    pending: Option<Job>,
    settling: Option<Settling>,
    /// When everything that has come due was looked at last.
    looked_at: Moment,
    /// What runs is to be composed again once nothing else is being tried.
    follow_later: bool,
    remote: Option<RemoteStatus>,
    remote_retryable: bool,
    phase: &'static str,
    phase_error: String,
    held: Option<String>,
    /// Why it is held back from its first start.
    turn: Option<String>,
    stopping: bool,
    goodbye: bool,
    effective_stale: bool,
    counters: BTreeMap<&'static str, u64>,
    previous_end: Option<String>,
    /// What `effective.yaml` holds, hashed; only where there is one.
    shown: Option<RevisionHash>,
    /// How the host's clock is, where it is watched.
    clock: Option<(bool, String)>,
}

impl Engine {
    /// An engine that has not started anything yet; [`Engine::start`] does.
    pub(crate) fn new(setup: Setup) -> Self {
        let Setup {
            settings,
            server,
            capabilities,
            grace,
            places,
            facts,
            persisted,
            inheritance,
            seed,
            ..
        } = setup;
        let stop_signal = settings.profile.stop_signal;
        let session = server.as_ref().and_then(|server| {
            session::build(
                setup.instance_uid,
                session::mask(capabilities, &settings),
                server,
            )
        });
        let own = OwnTelemetry::of(persisted.current.as_ref());
        let next_transaction = persisted
            .journal
            .iter()
            .map(|record| record.transaction)
            .max()
            .unwrap_or(0);
        Self {
            name: settings.name.clone(),
            life: Lifecycle::new(settings.restart, grace, stop_signal),
            settings,
            capabilities,
            places,
            facts,
            instance_uid: setup.instance_uid,
            tickets: Tickets::default(),
            random: Random::seeded(seed),
            out: Outcome::default(),
            adoption: None,
            child: ChildLink::default(),
            health_probe: Prober::default(),
            proof_probe: Prober::default(),
            reload: ReloadMemory::default(),
            flow: FlowWatch::default(),
            uplink: Uplink::new(server),
            session,
            connection: None,
            stored_connection: persisted.connection,
            disk: DiskQueue::default(),
            current: persisted.current,
            last_good: persisted.last_good,
            revisions: persisted.revisions,
            rejected: persisted.rejected,
            local: persisted.local,
            history: persisted.journal.into_iter().collect(),
            next_transaction,
            frozen: persisted.frozen,
            certificates: Known::default(),
            debt: PairDebt::default(),
            layers: Layers::of(persisted.drift),
            fallback: None,
            inheritance,
            own,
            transaction: None,
            pending: None,
            settling: None,
            looked_at: Moment::START,
            follow_later: false,
            remote: None,
            remote_retryable: false,
            phase: "idle",
            phase_error: String::new(),
            held: None,
            turn: None,
            stopping: false,
            goodbye: false,
            effective_stale: true,
            previous_end: None,
            shown: None,
            clock: None,
            counters: COUNTED.iter().map(|kind| (*kind, 0)).collect(),
        }
    }

    /// The host's clock is seen in another way than before.
    pub(crate) fn set_clock(&mut self, now: Now, clock: Option<(bool, String)>) -> Outcome {
        self.clock = clock;
        self.tick(now)
    }

    /// How the supervisor's life before this one ended, for the report.
    pub(crate) fn set_previous_end(&mut self, told: Option<String>) {
        self.previous_end = told;
    }

    /// Takes an event and says what is to be done.
    pub(crate) fn step(&mut self, now: Now, event: AgentEvent) -> Outcome {
        match event {
            AgentEvent::Disk { ticket, result } => self.on_disk(now, ticket, result),
            AgentEvent::Spawned { ticket, child } => {
                let (fact, orders) = self.life.spawned(now.mono, ticket, child);
                self.obey(orders);
                self.on_facts(now, fact);
            }
            AgentEvent::SpawnFailed { reason, .. } => {
                let facts = self.life.spawn_failed(now.mono, reason, &mut self.random);
                self.on_facts(now, facts);
            }
            AgentEvent::Exited { pid, mut exit } => {
                exit.tail = watch::last_words(&exit.tail, self.settings.crash_words);
                let (facts, orders) =
                    self.life
                        .exited(now.mono, pid, exit, &mut self.tickets, &mut self.random);
                // The facts first: what follows from a death decides what the new process is given.
                self.on_facts(now, facts);
                self.obey(orders);
            }
            AgentEvent::ToolDone { ticket, outcome } => self.on_tool(now, ticket, &outcome),
            AgentEvent::HttpProbed { ticket, outcome } => self.on_http(now, ticket, outcome),
            #[cfg(feature = "flow")]
            AgentEvent::CountersRead { ticket, result } => {
                self.on_counters(now, ticket, result);
            }
            AgentEvent::RoomSeen { ticket, room } => self.on_room_seen(now, ticket, room),
            AgentEvent::OutputWatched { ticket, result } => {
                self.on_output_watched(now, ticket, result);
            }
            AgentEvent::OutputSaid { ticket, said } => self.on_output_said(ticket, said),
            AgentEvent::FilesWatched { ticket, by } => self.on_files_watched(now, ticket, by),
            AgentEvent::FilesTouched { ticket } => self.on_files_touched(now, ticket),
            AgentEvent::Link { link, event } => self.on_link(now, link, event),
            AgentEvent::Local { connection, event } => self.on_local(now, connection, event),
        }
        self.finish(now)
    }

    /// A deadline passed, or the host wants the engine to look around.
    pub(crate) fn tick(&mut self, now: Now) -> Outcome {
        self.finish(now)
    }

    /// The state of the child and the step of the transaction, by name.
    pub(crate) fn position(&self) -> (&'static str, &'static str) {
        let rollout = match (&self.transaction, &self.settling) {
            (Some(transaction), _) => transaction.stage_name(),
            (None, Some(_)) => "settling",
            (None, None) => "idle",
        };
        (self.life.state_name(), rollout)
    }

    /// The next moment the engine wants to be called.
    pub(crate) fn deadline(&self, now: Now) -> Option<Moment> {
        let session = self
            .session
            .as_ref()
            .filter(|_| self.uplink.live().is_some());
        let session = session.and_then(Session::poll_timeout).map(from_session);
        [
            self.life.due(),
            self.uplink.due(),
            session,
            self.rollout_due(),
            // A child that is being stopped is not asked, however long it takes to go.
            self.life.running().and_then(|_| self.health_probe.due()),
            self.proof_probe.due(),
            self.flow_due(),
            self.disk.due(now.mono),
            self.debt_due(),
            self.adoption_due(),
            self.connection_due(),
            self.layers_due(),
            self.fallback_due(),
            self.own.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Another executable takes over: what is under way is put off, and the child goes on.
    #[cfg(feature = "adopt")]
    pub(crate) fn put_off(&mut self, now: Now) -> Outcome {
        if let Some(transaction) = &self.transaction
            && let Some(ticket) = transaction.tool()
        {
            self.out.effects.push(AgentEffect::CancelTool { ticket });
        }
        self.suspend(now);
        self.finish(now)
    }

    /// Whether nothing is on its way to the disk.
    #[cfg(feature = "adopt")]
    pub(crate) fn disk_is_idle(&self) -> bool {
        self.disk.is_idle()
    }

    /// Kills the child and drops the link.
    pub(crate) fn force(&mut self, now: Now) -> Outcome {
        let orders = self.life.force(now.mono);
        self.obey(orders);
        self.finish(now)
    }

    /// Whether the child is gone and the goodbye was said.
    pub(crate) fn is_stopped(&self) -> bool {
        let silent = self.session.is_none() || self.uplink.is_down();
        self.stopping && self.life.is_down() && silent && self.disk.is_idle()
    }

    /// Whether the child is gone.
    pub(crate) fn child_is_down(&self) -> bool {
        self.life.is_down()
    }

    /// Whether the child had to be killed when it was last told to stop.
    pub(crate) fn was_killed(&self) -> bool {
        self.life.was_killed()
    }

    /// Whether links need a token of the registration and whether there is one; a new one makes them anew.
    pub(crate) fn set_token(&mut self, now: Now, needed: bool, known: bool, new: bool) -> Outcome {
        let order = self.uplink.set_token(now.mono, needed, known, new);
        self.part(now, order.as_ref());
        self.finish(now)
    }

    /// The same, before the start.
    pub(crate) fn begin_with_token(&mut self, needed: bool, known: bool) {
        // Nothing is dialled yet, so there is nothing to close.
        self.uplink.set_token(Moment::START, needed, known, false);
    }

    /// Closes the link that an order gives up; what comes on it from now on is not ours any more.
    fn part(&mut self, now: Now, order: Option<&LinkOrder>) {
        if let (Some(LinkOrder::Hangup(_)), Some(session)) = (order, &mut self.session) {
            session.handle_disconnected(to_session(now.mono));
        }
        self.order_link(order);
    }

    /// Its name.
    pub(crate) fn name(&self) -> &AgentName {
        &self.name
    }

    /// Does what has come due and reports what has changed. Ends every step.
    fn finish(&mut self, now: Now) -> Outcome {
        self.looked_at = now.mono;
        let orders = self.life.handle_timeout(now.mono, &mut self.tickets);
        self.obey(orders);
        self.follow_adoption(now);
        self.drive_fallback(now);
        self.drive(now);
        self.follow_files_later(now);
        self.follow_own_telemetry(now);
        self.pay_debt(now);
        self.drive_layers(now);
        self.probe(now.mono);
        self.flow_look(now.mono);
        self.serve_link(now);
        if let Some((ticket, work)) = self.disk.issue(now.mono, &mut self.tickets) {
            self.out.effects.push(AgentEffect::Disk { ticket, work });
        }
        self.check();
        std::mem::take(&mut self.out)
    }

    fn note(
        &mut self,
        level: NoteLevel,
        message: &'static str,
        fields: Vec<(&'static str, String)>,
    ) {
        let agent = Some(self.name.clone());
        self.out.notes.push(Note {
            level,
            agent,
            message,
            fields,
        });
    }

    fn count(&mut self, counter: &'static str) {
        debug_assert!(COUNTED.contains(&counter), "{counter} is not in the list");
        let count = self.counters.entry(counter).or_default();
        *count = count.saturating_add(1);
    }

    fn remember(&mut self, record: Record) {
        while self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(record);
    }

    fn on_disk(&mut self, now: Now, ticket: Ticket, result: Result<DiskDone, DiskFault>) {
        let Some(purpose) = self.disk.answered(ticket) else {
            self.count("stale_answers");
            return;
        };
        match purpose {
            Purpose::Transaction => self.transaction_disk(now, result),
            Purpose::Record | Purpose::Memory => {
                if let Err(fault) = result {
                    self.note(
                        NoteLevel::Error,
                        "state not written",
                        vec![("error", fault.reason)],
                    );
                    self.count("disk_faults");
                }
            }
            Purpose::Connection(id) => self.connection_saved(now, id, result.map(drop)),
            #[cfg(feature = "layers")]
            Purpose::Layers => self.on_layers_read(now, result),
            #[cfg(feature = "layers")]
            Purpose::Verify => self.on_verified(result),
            #[cfg(feature = "layers")]
            Purpose::Restore => self.on_restored(now, result),
            #[cfg(feature = "telemetry")]
            Purpose::Material => self.material_kept(result.err().as_ref()),
            Purpose::Prune => match result {
                Ok(DiskDone::Pruned(left)) => {
                    self.revisions.retain(|stored| left.contains(&stored.id));
                }
                Ok(_) => {}
                Err(fault) => {
                    self.note(
                        NoteLevel::Warn,
                        "old revisions not removed",
                        vec![("error", fault.reason)],
                    );
                }
            },
            Purpose::Show(id) => {
                let reply = match result {
                    Ok(DiskDone::Revision(revision)) => Reply::Revision(revision),
                    Ok(_) => {
                        view::refusal(message::RefusalKind::Disk, "the store gave another answer")
                    }
                    Err(fault) => view::refusal(message::RefusalKind::Disk, &fault.reason),
                };
                self.out.replies.push((id, reply));
            }
        }
    }

    /// The invariants that can be seen from inside. The simulation checks the others from outside.
    fn check(&self) {
        debug_assert!(
            self.transaction.is_none() || self.settling.is_none(),
            "one rollout at a time"
        );
        if let Some(remote) = &self.remote
            && let Some(transaction) = &self.transaction
            && transaction.offer() == Some(&remote.offer)
        {
            debug_assert!(
                remote.outcome != message::Outcome::Applied || transaction.is_proven(),
                "APPLIED before proof"
            );
        }
    }

    fn order_link(&mut self, order: Option<&LinkOrder>) {
        let effect = match order {
            Some(&LinkOrder::Dial(link)) => return self.dial(link, self.uplink.uses_token()),
            Some(&LinkOrder::Hangup(link)) => AgentEffect::Hangup { link },
            None => return,
        };
        self.out.effects.push(effect);
    }

    /// Connects a link of that number with the settings whose turn it is.
    fn dial(&mut self, link: LinkId, authorize: bool) {
        let Some(server) = self.uplink.server() else {
            return;
        };
        self.out.effects.push(AgentEffect::Dial {
            link,
            server: Box::new(server.clone()),
            instance_uid: self.instance_uid,
            authorize,
            offered: self.offered(),
        });
    }

    fn push_disk(&mut self, purpose: Purpose, work: DiskWork) {
        self.disk.push(purpose, work);
    }
}

/// The session counts from the same start as the engine, and finer: a moment of ours is never before its own, or it
/// would be asked for again and again.
fn from_session(span: Duration) -> Moment {
    Moment::START.after(span.saturating_add(Duration::from_nanos(999_999)))
}

fn to_session(moment: Moment) -> Duration {
    moment.since(Moment::START)
}

#[cfg(all(
    feature = "adopt",
    feature = "flow",
    feature = "layers",
    feature = "opampsupervisor",
    feature = "telemetry"
))]
#[cfg(test)]
mod tests;
