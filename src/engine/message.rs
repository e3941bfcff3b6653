//! Everything that goes into the engine and everything that comes out of it.
//!
//! Promises: two closed enums and the plain data they carry; no behaviour beyond small constructors.
//! Must never: name a port, a file descriptor or a clock. Every effect that has an answer carries a ticket.
//! Disk effects are issued one at a time per agent, never expire, and their answers always count.

mod answer;
mod certificate;
mod clock;
mod disk;
#[cfg(feature = "flow")]
mod flow;
mod layers;
mod leftover;
mod offered;
mod process;
mod registration;
mod roster;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Agent, Config, Registration, Server};
use crate::units::{AgentName, CertificateName, LinkId, RevisionId, Ticket};

pub use answer::{
    AgentSnapshot, LinkSnapshot, Note, NoteLevel, Outcome, PartSnapshot, Refusal, RefusalKind,
    RemoteStatus, Reply, Snapshot,
};
pub use certificate::{
    Attempts, CertificateDone, CertificateFault, CertificateFaultKind, CertificateOrder,
    CertificateSnapshot, CertificateWork, NoPairId, Pair, PairId, PemPair, StoredPairs,
};
pub use clock::{ClockLook, ClockQuestion, ClockSnapshot};
#[cfg(feature = "telemetry")]
pub use disk::Material;
pub use disk::{
    DiskDone, DiskFault, DiskWork, FaultKind, Identity, Inheritance, InheritedOffer, LayerKind,
    LocalFile, OfferedFile, Origin, Persisted, Record, Rejection, Revision, RevisionFile, Step,
    StoredRevision,
};
#[cfg(feature = "flow")]
pub use flow::{Count, CountKey, CounterQuestion, Reading};
pub use layers::{DriftedFile, LayersSnapshot, WatchedBy};
pub use leftover::{ChildNote, Leftover};
pub use offered::Offered;
pub use process::{
    ChildIdentity, Exit, ExitStatus, HttpAnswer, SpawnSpec, ToolEnd, ToolOutcome, ToolSpec,
};
pub use registration::{
    Credential, CredentialSource, FailureClass, OrderSnapshot, RegistrationCall,
    RegistrationFailure, RegistrationOrder, RegistrationSnapshot,
};
pub use roster::Admission;

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
    /// A look at the clock ended.
    Clock {
        /// Of the effect.
        ticket: Ticket,
        /// What was seen.
        look: ClockLook,
    },
    /// The wall clock was set, or the machine woke up: what is due by the wall clock may be due now.
    ClockJumped {
        /// How long the machine has slept since it booted.
        asleep: Duration,
    },
    /// A signal reached us.
    Signal(HostSignal),
    /// The settings were read again.
    Settings(Result<Box<Config>, String>),
    /// The ports of an agent that joins are there, or cannot be made.
    Admitted {
        /// Who it is.
        agent: AgentName,
        /// Of the effect.
        ticket: Ticket,
        /// What it begins with, or why it cannot.
        result: Result<Box<Admission>, String>,
    },
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
    /// Whether a child has room for a reload, or what it is short of.
    RoomSeen {
        /// Of the look.
        ticket: Ticket,
        /// The shortage.
        room: Result<(), String>,
    },
    /// The output of the child is watched from here on, or cannot be.
    OutputWatched {
        /// Of the effect.
        ticket: Ticket,
        /// Why not.
        result: Result<(), String>,
    },
    /// The output of the child said what was watched for. Nothing follows if it never does.
    OutputSaid {
        /// Of the effect.
        ticket: Ticket,
        /// That it has reloaded, or the line that says it has not.
        said: Result<(), String>,
    },
    /// Files are watched from here on.
    FilesWatched {
        /// Of the effect.
        ticket: Ticket,
        /// How.
        by: WatchedBy,
    },
    /// A watched file may have changed; the watch is over.
    FilesTouched {
        /// Of the effect.
        ticket: Ticket,
    },
    /// An HTTP probe was answered.
    HttpProbed {
        /// Of the effect.
        ticket: Ticket,
        /// Status code and the beginning of the body, or why there is none.
        outcome: Result<HttpAnswer, String>,
    },
    /// The child's own counters were read, or could not be.
    #[cfg(feature = "flow")]
    CountersRead {
        /// Of the effect.
        ticket: Ticket,
        /// What they say, or why nobody knows.
        result: Result<Reading, String>,
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
    /// The server found what we sent too large.
    TooLarge,
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
    /// Let another executable take over, in the same process.
    Upgrade,
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
#[expect(
    clippy::large_enum_variant,
    reason = "most effects are for an agent, and each is moved once from a step to its port"
)]
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
    /// Look at the clock, and ask another one for the time.
    LookAtClock {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Whom to ask; none asks nobody.
        question: Option<Box<ClockQuestion>>,
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
    /// Make the ports of an agent that joins, and read what is known of it.
    Admit {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Its settings.
        agent: Box<Agent>,
        /// Its OpAMP instance uid, if it ever had one.
        instance_uid: Option<[u8; 16]>,
    },
    /// Give back what was held for an agent that has left.
    Dismiss {
        /// Who it was.
        agent: AgentName,
    },
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
    /// Another executable takes over, in the same process; the children go on.
    #[cfg(feature = "adopt")]
    Replaced,
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
        /// Whether the whole group gets it, as all of it is to end.
        group: bool,
        /// What is true of the child once it has the signal, for the life after this one.
        note: Option<Box<ChildNote>>,
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
    /// Read the child's own counters over HTTP on loopback.
    #[cfg(feature = "flow")]
    ReadCounters {
        /// Echoed in the answer.
        ticket: Ticket,
        /// Where, and which.
        question: CounterQuestion,
    },
    /// Look whether a child has room for a reload: descriptors, and what it watches files with.
    LookAtRoom {
        /// Echoed in the answer.
        ticket: Ticket,
        /// The process; not reaped yet.
        pid: u32,
    },
    /// Watch what the child writes from now on for one of these texts, until the first, or the child's end, or the next
    /// such order.
    WatchOutput {
        /// Echoed in both answers.
        ticket: Ticket,
        /// Texts that say it has reloaded.
        reloaded: Vec<String>,
        /// Texts that say it has not.
        failed: Vec<String>,
    },
    /// Watch these files until the first may have changed, in place of those that were watched; none ends the watch.
    WatchFiles {
        /// Echoed in both answers.
        ticket: Ticket,
        /// Which files.
        paths: Vec<PathBuf>,
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
        /// What a server offered, to be put on top of all that.
        offered: Option<Box<Offered>>,
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
