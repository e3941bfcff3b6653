//! Everything that goes into the engine and everything that comes out of it.
//!
//! Promises: two closed enums and the plain data they carry; no behaviour beyond small constructors.
//! Must never: name a port, a file descriptor or a clock. Every effect that has an answer carries a ticket.
//! Disk effects are issued one at a time per agent, never expire, and their answers always count.

mod certificate;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, Registration, Server};
use crate::units::{
    AgentName, CertificateName, LinkId, OfferHash, RevisionHash, RevisionId, Ticket, WallTime,
};

mod registration;

pub use certificate::{
    Attempts, CertificateDone, CertificateFault, CertificateFaultKind, CertificateOrder,
    CertificateSnapshot, CertificateWork, NoPairId, Pair, PairId, PemPair, StoredPairs,
};

pub use registration::{
    Credential, CredentialSource, FailureClass, OrderSnapshot, RegistrationCall,
    RegistrationFailure, RegistrationOrder, RegistrationSnapshot,
};

/// What happened outside.
#[derive(Debug)]
pub enum Event {
    /// A deadline passed.
    Tick,
    /// Something happened to one agent.
    Agent {
        /// Whose event it is.
        agent: AgentName,
        /// What happened.
        event: AgentEvent,
    },
    /// The identity file is on disk, or could not be written.
    IdentitySaved {
        /// Of the effect.
        ticket: Ticket,
        /// What went wrong, if anything.
        result: Result<(), DiskFault>,
    },
    /// Work for a certificate was done, or not.
    Certificate {
        /// Of the effect.
        ticket: Ticket,
        /// What came of it.
        result: Result<CertificateDone, CertificateFault>,
    },
    /// A call to the registration service ended. What it brought is on disk, or says why it is not.
    Registration {
        /// Of the effect.
        ticket: Ticket,
        /// What came of it.
        outcome: Result<Box<Credential>, RegistrationFailure>,
    },
    /// A signal reached us.
    Signal(HostSignal),
    /// The settings were read again.
    Settings(Result<Box<Config>, String>),
    /// A person or a probe asks through a door.
    Command {
        /// Echoed in the reply.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
}

/// What happened to one agent.
#[derive(Debug)]
pub enum AgentEvent {
    /// The writer thread finished a piece of work.
    Disk {
        /// Of the effect.
        ticket: Ticket,
        /// What came of it.
        result: Result<DiskDone, DiskFault>,
    },
    /// The child runs.
    Spawned {
        /// Of the effect.
        ticket: Ticket,
        /// Its process.
        child: ChildIdentity,
    },
    /// The child could not be started.
    SpawnFailed {
        /// Of the effect.
        ticket: Ticket,
        /// What was tried and why it failed.
        reason: String,
        /// Whether trying again may help.
        transient: bool,
    },
    /// A child, or a left-over that was watched, is gone.
    Exited {
        /// Its process id; valid until this event.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// A validator or another short-lived tool ended.
    ToolDone {
        /// Of the effect.
        ticket: Ticket,
        /// What came of it.
        outcome: ToolOutcome,
    },
    /// An HTTP probe was answered.
    HttpProbed {
        /// Of the effect.
        ticket: Ticket,
        /// Status code and the beginning of the body, or why there is none.
        outcome: Result<HttpAnswer, String>,
    },
    /// Something happened on a link to the server.
    Link {
        /// Which link.
        link: LinkId,
        /// What happened.
        event: LinkEvent,
    },
    /// Something happened on a connection of the child's own OpAMP.
    Local {
        /// Which connection; numbers are not used twice.
        connection: u64,
        /// What happened.
        event: LocalEvent,
    },
}

/// What happened on a link to the server.
#[derive(Debug)]
pub enum LinkEvent {
    /// Connected and authorised.
    Up,
    /// One WebSocket message, header included.
    Frame(Vec<u8>),
    /// The link is gone, or could not be made.
    Down(LinkLoss),
}

/// Why a link is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLoss {
    /// The class that decides what happens next.
    pub kind: LossKind,
    /// For people.
    pub reason: String,
    /// How long the server asked us to stay away.
    pub retry_after: Option<Duration>,
}

/// The class of a lost link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossKind {
    /// The server could not be reached, or the connection broke.
    Network,
    /// TLS refused the peer.
    Tls,
    /// 401, 403, or close 1008: the credentials were rejected.
    Rejected,
    /// 429 or 503.
    Throttled,
    /// The server closed in good order.
    Closed,
    /// Another HTTP status, or a broken protocol.
    Protocol,
    /// We closed it.
    Ours,
}

/// What happened on a local connection.
#[derive(Debug)]
pub enum LocalEvent {
    /// A child connected.
    Opened {
        /// Its process id where the socket tells (Unix sockets).
        peer_pid: Option<u32>,
    },
    /// One WebSocket message, header included.
    Frame(Vec<u8>),
    /// The connection is gone.
    Closed,
}

/// Signals that mean something to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSignal {
    /// TERM or INT: stop in order; a second one forces.
    Terminate,
    /// HUP: read the settings again.
    Hangup,
}

/// Numbers a request through a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// What a door may ask. Each is legal at any time; the reply says what came of it.
#[derive(Debug)]
pub enum Command {
    /// The whole state, for status, health and metrics.
    Status,
    /// Roll back one agent: to `to`, else to the revision before the current one.
    Rollback {
        /// Which agent; `None` when there is only one.
        agent: Option<AgentName>,
        /// Which revision.
        to: Option<RevisionId>,
    },
    /// Apply files by hand.
    Apply {
        /// Which agent.
        agent: Option<AgentName>,
        /// The files, as an offer would bring them.
        files: Vec<OfferedFile>,
    },
    /// Restart the child.
    Restart {
        /// Which agent.
        agent: Option<AgentName>,
    },
    /// Compose again from the local layers and apply what changed.
    Reload {
        /// Which agent.
        agent: Option<AgentName>,
    },
    /// Get a new pair now, whatever the age of the live one.
    RenewCertificate {
        /// Which; `None` means all.
        name: Option<CertificateName>,
    },
    /// Obtain a token from the registration service.
    Register(RegistrationOrder),
    /// The files of a stored revision; `None` means the current one.
    Show {
        /// Which agent.
        agent: Option<AgentName>,
        /// Which revision.
        revision: Option<RevisionId>,
    },
}

/// What the engine wants done.
#[derive(Debug)]
pub enum Effect {
    /// For one agent.
    Agent {
        /// Whose effect it is.
        agent: AgentName,
        /// What to do.
        effect: AgentEffect,
    },
    /// Write the identity file durably.
    SaveIdentity {
        /// Echoed in the answer.
        ticket: Ticket,
        /// What to write.
        identity: Identity,
    },
    /// Work for a certificate: on the writer of the state directory, or over the network.
    Certificate {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Which certificate.
        name: CertificateName,
        /// What to do.
        work: CertificateWork,
    },
    /// End an order whose answer is no longer wanted.
    CancelCertificate {
        /// Of the order.
        ticket: Ticket,
    },
    /// Call the registration service and put what it issues on disk before anything else is done with it.
    Register {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Where and as whom.
        settings: Box<Registration>,
        /// What to ask for.
        call: RegistrationCall,
    },
    /// Put the token that the disk refused on disk; answered like a call.
    SaveCredential {
        /// Echoed in the answer.
        ticket: Ticket,
    },
    /// Answer a door.
    Reply {
        /// Of the command.
        id: CommandId,
        /// The answer.
        reply: Reply,
    },
    /// Read the settings again and send them as an event.
    ReadSettings,
    /// A transition worth a log line and an entry in the event history.
    Note(Note),
    /// Tell the service manager.
    Announce(Milestone),
    /// Write down for the orchestrator why an end may be near: the agent that was given up, and why.
    LastWords(String),
    /// Leave the loop.
    Exit(ExitReason),
}

/// What a service manager waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// Every child was started or has a reason not to be; also the end of a reload.
    Ready,
    /// The settings are being read again.
    Reloading,
    /// The way down has begun.
    Stopping,
}

/// Why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Asked to, and everything stopped in order.
    Stopped,
    /// Asked to, and something had to be killed or left behind.
    Forced,
    /// An agent was given up and the settings say to exit.
    GaveUp,
}

/// What the engine wants done for one agent.
#[derive(Debug)]
pub enum AgentEffect {
    /// Hand work to the agent's writer thread.
    Disk {
        /// Echoed in the answer.
        ticket: Ticket,
        /// The work.
        work: DiskWork,
    },
    /// Start the child.
    Spawn {
        /// Echoed in the answer.
        ticket: Ticket,
        /// How.
        spec: SpawnSpec,
    },
    /// Send a signal to the child's process group, or to the process alone.
    Signal {
        /// The process; not reaped yet.
        pid: u32,
        /// The signal's number.
        signal: i32,
        /// Whether the whole group gets it.
        group: bool,
    },
    /// Run a validator or another short-lived tool.
    RunTool {
        /// Echoed in the answer.
        ticket: Ticket,
        /// How.
        spec: ToolSpec,
    },
    /// End a tool whose answer is no longer wanted.
    CancelTool {
        /// Of the tool.
        ticket: Ticket,
    },
    /// Probe over HTTP on loopback.
    HttpProbe {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Where.
        url: String,
        /// How long it may take.
        timeout: Duration,
    },
    /// Connect to the server.
    Dial {
        /// Number of the new link.
        link: LinkId,
        /// Where and how.
        server: Box<Server>,
        /// `OpAMP-Instance-UID`.
        instance_uid: [u8; 16],
        /// Whether the token of the registration goes along.
        authorize: bool,
    },
    /// Send one WebSocket message.
    Send {
        /// On which link.
        link: LinkId,
        /// Header included.
        frame: Vec<u8>,
    },
    /// Close a link in good order.
    Hangup {
        /// Which link.
        link: LinkId,
    },
    /// Send one WebSocket message to the child.
    LocalSend {
        /// On which connection.
        connection: u64,
        /// Header included.
        frame: Vec<u8>,
    },
    /// Close a local connection.
    LocalClose {
        /// Which connection.
        connection: u64,
    },
}

/// Work for an agent's writer thread. Each is durable when it is answered.
#[derive(Debug, Clone)]
pub enum DiskWork {
    /// Write a revision directory: staged beside the others, complete and synced before it gets its name.
    Stage(Box<Revision>),
    /// Append one record to the journal.
    Journal(Record),
    /// Point `current` at a revision by one rename.
    Promote(RevisionId),
    /// Point `last-good` at a revision by one rename.
    MarkGood(RevisionId),
    /// Replace the memory of rejected revisions.
    SaveRejected(Vec<Rejection>),
    /// Remove every revision that is not listed.
    Prune {
        /// Those that stay.
        keep: Vec<RevisionId>,
    },
    /// Read the local layers again.
    ReadLocal(Vec<PathBuf>),
    /// Read a stored revision.
    ReadRevision(RevisionId),
}

/// What came of disk work.
#[derive(Debug)]
pub enum DiskDone {
    /// It is on disk.
    Durable,
    /// These revisions are still there after pruning.
    Pruned(Vec<RevisionId>),
    /// The local layers, in the order asked for.
    Local(Vec<LocalFile>),
    /// A stored revision.
    Revision(Box<Revision>),
}

/// A local layer as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it was read.
    pub path: PathBuf,
    /// What it holds, or why it could not be read.
    pub bytes: Result<Vec<u8>, String>,
}

/// Why disk work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFault {
    /// The class that decides what happens next.
    pub kind: FaultKind,
    /// What was tried, on what, and what the system said.
    pub reason: String,
}

/// The class of a disk fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No space, or a quota.
    Full,
    /// Read-only, or not permitted.
    Denied,
    /// Something that ought to be there is not, or is damaged.
    Missing,
    /// The device failed.
    Device,
}

/// The files of one revision with its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its directory name.
    pub id: RevisionId,
    /// Over all layers, without the proof marker.
    pub hash: RevisionHash,
    /// The offer that brought it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// When it was staged.
    pub at: WallTime,
    /// Every file, in layer order.
    pub files: Vec<RevisionFile>,
}

/// One file of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionFile {
    /// Path inside the revision directory; relative, checked, without `..`.
    pub path: String,
    /// Which layer it belongs to.
    pub layer: LayerKind,
    /// The offer's key, or the local path.
    pub source: String,
    /// The offer's content type.
    pub content_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// Which layer a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A file of the operator.
    Local,
    /// A file of the offer.
    Remote,
    /// Generated by us, and part of the revision hash.
    Generated,
    /// Generated by us to carry the proof marker; not part of the revision hash.
    Marker,
}

/// Where a revision came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The server offered it.
    Offer,
    /// A person applied it.
    Manual,
    /// The local layers changed.
    Local,
    /// The built-in default.
    Default,
}

/// One entry of an offer, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedFile {
    /// The key in the config map; may be empty.
    pub name: String,
    /// The content type; may be empty.
    pub content_type: String,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Number of the transaction; rises.
    pub transaction: u64,
    /// When it was written.
    pub at: WallTime,
    /// What has been done.
    pub step: Step,
    /// The revision it is about; none for an offer that never became one.
    pub revision: Option<RevisionId>,
    /// Its hash.
    pub hash: Option<RevisionHash>,
    /// The offer behind it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// Why, for steps that end badly; bounded.
    pub reason: String,
}

/// What has been done in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// About to stage.
    Intent,
    /// The revision is on disk.
    Staged,
    /// It waits for a certificate that it names.
    Awaiting,
    /// The validator accepted it.
    Validated,
    /// `current` points to it.
    Promoted,
    /// The child was told.
    Signalled,
    /// The child has proven it; the window runs.
    Probation,
    /// It is last good.
    Committed,
    /// It failed after promotion, and `current` points elsewhere again (or nothing better was there).
    RolledBack,
    /// It failed before promotion.
    Failed,
    /// A newer offer took its place.
    Superseded,
    /// A start found it unfinished and took it up again.
    Resumed,
    /// An ordered stop came before its end; the next start takes it up, and the stop is no mark against it.
    Suspended,
}

impl Step {
    /// Whether the transaction is over.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Committed | Self::RolledBack | Self::Failed | Self::Superseded
        )
    }
}

/// A revision that is not to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its hash.
    pub hash: RevisionHash,
    /// Why; bounded.
    pub reason: String,
    /// When.
    pub at: WallTime,
    /// The offers that led to it.
    pub offers: Vec<OfferHash>,
}

/// Everything the state directory knows about one agent at start.
#[derive(Debug, Clone, Default)]
pub struct Persisted {
    /// The journal, oldest first.
    pub journal: Vec<Record>,
    /// What `current` points to, read in full.
    pub current: Option<Revision>,
    /// What `last-good` points to.
    pub last_good: Option<RevisionId>,
    /// Every complete revision, oldest first, without contents.
    pub revisions: Vec<StoredRevision>,
    /// Revisions that are not to be tried again.
    pub rejected: Vec<Rejection>,
    /// The local layers as they are now.
    pub local: Vec<LocalFile>,
    /// Why applies are frozen: state written by a newer version.
    pub frozen: Option<String>,
    /// Repairs made while loading, for the log and the report.
    pub repairs: Vec<String>,
}

/// One line of `config list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRevision {
    /// Its directory name.
    pub id: RevisionId,
    /// Its hash.
    pub hash: RevisionHash,
    /// The offer that brought it.
    pub offer: Option<OfferHash>,
    /// Where it came from.
    pub origin: Origin,
    /// When it was staged.
    pub at: WallTime,
    /// How many files it holds.
    pub files: usize,
    /// How many bytes they hold.
    pub bytes: u64,
}

/// What identifies this host's agents; `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// `/etc/machine-id` or its substitute when the file was written.
    pub machine_id: String,
    /// Instance uid by agent name.
    pub instance_uids: BTreeMap<String, [u8; 16]>,
}

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildIdentity {
    /// Process id; also its process group.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub start_ticks: u64,
    /// Wall time of the start.
    pub started: WallTime,
}

/// How to start the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnSpec {
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Variables set on top of the inherited ones named in `inherit`.
    pub env: BTreeMap<String, String>,
    /// Names of our own variables that are passed on when set.
    pub inherit: Vec<String>,
    /// Whether output goes to our own output instead of log files.
    pub passthrough: bool,
}

/// How to run a short-lived tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolSpec {
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// As for a child.
    pub env: BTreeMap<String, String>,
    /// As for a child.
    pub inherit: Vec<String>,
    /// After which it is killed.
    pub timeout: Duration,
    /// Bytes of output that are kept, from the end.
    pub output_max: usize,
}

/// What came of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// How it ended.
    pub end: ToolEnd,
    /// Both streams together, the last `output_max` bytes, as text.
    pub output: String,
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEnd {
    /// It exited by itself.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It took too long and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status.
    pub status: ExitStatus,
    /// The last lines of its output, bounded.
    pub tail: String,
    /// Whether the kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// CPU time it used.
    pub cpu: Duration,
    /// Peak resident memory, bytes.
    pub max_resident: u64,
}

/// The status a child ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was not our child, so nobody knows.
    Unknown,
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// An HTTP probe's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The first 64 KiB of the body.
    pub body: String,
}

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
    pub components: BTreeMap<String, (bool, String)>,
    /// Whether the default config runs although a remote one was applied.
    pub on_default: bool,
    /// Revisions that are not tried again, with the reason of each.
    pub rejected: Vec<(RevisionHash, String)>,
    /// Why applies are frozen.
    pub frozen: Option<String>,
    /// Counters by metric name (without prefix and `_total`).
    pub counters: BTreeMap<&'static str, u64>,
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
