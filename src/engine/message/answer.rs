//! What the doors are shown: replies, refusals, the state as a whole, lines for the log.
//!
//! Promises: plain data; doors decide on the wire shape. Must never: hold a secret.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    CertificateSnapshot, ChildIdentity, ClockSnapshot, Record, RegistrationSnapshot, Revision,
    StoredRevision,
};
use crate::units::{AgentName, OfferHash, RevisionHash, RevisionId, WallTime};

/// What a door reads back.
#[derive(Debug)]
pub enum Reply {
    /// The whole state.
    Status(Box<Snapshot>),
    /// The order was taken; what comes of it shows in the status.
    Accepted {
        /// What will happen, for people.
        what: String,
    },
    /// The order makes no sense now, and why.
    Refused(Refusal),
    /// A stored revision.
    Revision(Box<Revision>),
}

/// Why an order was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class.
    pub kind: RefusalKind,
    /// For people: what was asked, why not, what to do.
    pub reason: String,
}

/// The class of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// No such agent or revision.
    NotFound,
    /// Not now: stopping, frozen, or already there.
    Conflict,
    /// The input is not acceptable.
    Invalid,
    /// The disk did not do it.
    Disk,
}

/// The state as a door may show it. Plain data; doors decide on the wire shape.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Time since the process started.
    pub uptime: Duration,
    /// When the snapshot was taken.
    pub at: WallTime,
    /// Whether we are stopping.
    pub stopping: bool,
    /// How the life before this one ended, unless that was in order.
    pub previous_end: Option<String>,
    /// The clock, where it is watched.
    pub clock: Option<ClockSnapshot>,
    /// Registration, where it is set up.
    pub registration: Option<RegistrationSnapshot>,
    /// Every agent.
    pub agents: Vec<AgentSnapshot>,
    /// Every certificate.
    pub certificates: Vec<CertificateSnapshot>,
}

/// One agent as a door may show it.
#[derive(Debug, Clone)]
pub struct AgentSnapshot {
    /// Its name.
    pub name: AgentName,
    /// Its profile.
    pub profile: String,
    /// Its OpAMP instance uid.
    pub instance_uid: [u8; 16],
    /// Healthy over all.
    pub healthy: bool,
    /// One word: `running`, `starting`, `stopped`, `backing off`, `given up`, …
    pub status: String,
    /// Why it is not healthy.
    pub last_error: String,
    /// The child, if one runs.
    pub child: Option<ChildIdentity>,
    /// Whether that child was started by an earlier life of ours.
    pub adopted: bool,
    /// Restarts since we started, asked for or not.
    pub restarts: u64,
    /// Unasked exits since we started.
    pub crashes: u64,
    /// How the last child ended, for people.
    pub last_exit: Option<String>,
    /// How often the child died in a row without a stable time, once that is a loop.
    pub crash_loop: Option<u32>,
    /// The word of the rollout's phase.
    pub phase: &'static str,
    /// What keeps the rollout in its phase, such as a disk that refuses; empty otherwise.
    pub phase_error: String,
    /// What is known about the flow of data; none where nobody looks.
    pub flow: Option<String>,
    /// How long was looked at what flows under the config that runs.
    pub flow_baseline: Duration,
    /// What `current` points to.
    pub current: Option<StoredRevision>,
    /// What `last-good` points to.
    pub last_good: Option<RevisionId>,
    /// Every stored revision, newest first.
    pub revisions: Vec<StoredRevision>,
    /// The last transactions, newest first.
    pub history: Vec<Record>,
    /// The last remote config status as reported.
    pub remote: Option<RemoteStatus>,
    /// The link to the server.
    pub link: LinkSnapshot,
    /// Health of components below the child, by path.
    pub components: BTreeMap<String, PartSnapshot>,
    /// Whether the default config runs although a remote one was applied.
    pub on_default: bool,
    /// What is known of its layers on disk.
    pub layers: super::LayersSnapshot,
    /// Revisions that are not tried again, with the reason of each.
    pub rejected: Vec<(RevisionHash, String)>,
    /// Why applies are frozen.
    pub frozen: Option<String>,
    /// Counters by metric name (without prefix and `_total`).
    pub counters: BTreeMap<&'static str, u64>,
}

/// Something below a child, as the child says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartSnapshot {
    /// Whether it is healthy.
    pub healthy: bool,
    /// One word of its state, where it says one: `ok`, `degraded`, `error` …
    pub state: String,
    /// In its own words.
    pub words: String,
    /// Numbers that it gives, by those of our names that it uses.
    pub numbers: BTreeMap<&'static str, u64>,
}

/// The last remote config status as reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteStatus {
    /// Echo of the server's hash.
    pub offer: OfferHash,
    /// Its outcome so far.
    pub outcome: Outcome,
    /// Why it failed; empty otherwise.
    pub message: String,
}

/// The outcome of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Under way.
    Applying,
    /// It runs.
    Applied,
    /// It does not.
    Failed,
}

/// The link to the server as a door may show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkSnapshot {
    /// `disabled`, `unregistered`, `connecting`, `connected`, `waiting`, `rejected`, `closing`.
    pub state: &'static str,
    /// Endpoint without credentials.
    pub endpoint: String,
    /// Whose settings the link uses: `local`, `offered` ones that were proven, or offered ones `on_trial`.
    pub settings: &'static str,
    /// Why it is not connected.
    pub last_error: String,
    /// Attempts in a row that failed.
    pub attempt: u32,
    /// Until the next attempt.
    pub retry_in: Option<Duration>,
}

/// A transition worth a log line. Text is constant; what varies is in the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: NoteLevel,
    /// About which agent.
    pub agent: Option<AgentName>,
    /// A constant, lower-case fragment.
    pub message: &'static str,
    /// Field names are constant too.
    pub fields: Vec<(&'static str, String)>,
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteLevel {
    /// Decisions.
    Debug,
    /// Milestones.
    Info,
    /// Degraded, self-healing.
    Warn,
    /// A person must act.
    Error,
}
