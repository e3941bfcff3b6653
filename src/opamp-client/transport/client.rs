//! A whole OpAMP client for embedders without a loop of their own: session, pump and back-off in one future.
//!
//! Promises: [`Client::run`] keeps one connection at a time and comes back for ever, until told to stop; state set
//! while offline is what the server hears first. The scheme of the target decides the transport; identity and
//! sequence numbers go on when it changes. No task is spawned and nothing runs unless the caller drives the future.
//! Must never: decide what an offer means. Offers are events; the handle answers by setting state. Connection settings
//! are the one exception, if the embedder wants it so: [`crate::settings`] decides, and the client carries out.

mod conversation;
mod places;
mod run;
mod settings;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use settings::{SettingsAnswer, SettingsStart};

use super::pump::{Closed, PumpConfig};
use super::{DialError, DialOptions, Target};
use crate::backoff::{Backoff, BackoffConfig};
use crate::frame::FrameError;
use crate::messages::{
    AgentDescription, AvailableComponents, ComponentHealth, ConnectionSettingsStatus,
    CustomCapabilities, CustomMessage, EffectiveConfig, PackageStatuses, RemoteConfigStatus,
};
use crate::session::{
    ConfigError, CustomMessageError, Session, SessionConfig, SessionEvent, SessionStats,
};
use crate::settings::{RequestError, SavedError, SettingsEffect};

/// Changes and events that wait.
const QUEUE: usize = 64;

/// Events that wait for room in that queue; see [`Worth`] for which go first.
const WAITING_MAX: usize = 256;

/// What a client is built from.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Identity, capabilities, limits.
    pub session: SessionConfig,
    /// Where to.
    pub target: Target,
    /// Limits of one attempt to connect.
    pub dial: DialOptions,
    /// Clocks of a connection.
    pub pump: PumpConfig,
    /// Delays between attempts.
    pub backoff: BackoffConfig,
    /// Accept connection settings that the server offers. Without this, offers are events like any other.
    pub settings: Option<SettingsStart>,
    /// Start of the jitter; any number that differs between clients.
    pub seed: u64,
}

impl ClientConfig {
    /// A configuration with all defaults.
    pub fn new(session: SessionConfig, target: Target, seed: u64) -> Self {
        Self {
            session,
            target,
            dial: DialOptions::default(),
            pump: PumpConfig::default(),
            backoff: BackoffConfig::default(),
            settings: None,
            seed,
        }
    }
}

/// New state of the agent, or something to say. See the setters of [`Session`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// Who the agent is.
    Description(AgentDescription),
    /// Its health.
    Health(ComponentHealth),
    /// The configuration that runs.
    EffectiveConfig(EffectiveConfig),
    /// What became of the last remote configuration.
    RemoteConfigStatus(RemoteConfigStatus),
    /// States of all packages.
    PackageStatuses(PackageStatuses),
    /// What became of the last connection settings.
    ConnectionSettingsStatus(ConnectionSettingsStatus),
    /// What the agent is built from.
    AvailableComponents(AvailableComponents),
    /// Its custom capabilities.
    CustomCapabilities(CustomCapabilities),
    /// One custom message; [`ClientEvent::CustomMessageRefused`] if the session refuses it.
    CustomMessage(CustomMessage),
    /// Its capability bits.
    Capabilities(u64),
    /// An identity that was stored.
    InstanceUid([u8; 16]),
    /// Ask the server for an identity until it gives one.
    RequestInstanceUid,
    /// Where to connect. Another place is gone to at once, with a goodbye to the present one, but not sooner than a
    /// second after the last such move, nor while the server there has asked us to wait; new headers, TLS options or
    /// proxies for the same place are used from the next attempt on.
    /// Settings that a server offered stay on top of it.
    Target(Box<Target>),
    /// The answer to a [`ClientEvent::Settings`].
    Settings(SettingsAnswer),
    /// Say goodbye, close, end [`Client::run`].
    Stop,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few, short-lived and moved once"
)]
pub enum ClientEvent {
    /// A connection stands. To a server that is polled it is a TCP or TLS connection on which nothing was asked yet: a
    /// refusal of the first request ends it.
    Connected,
    /// What the server wants or told.
    Session(SessionEvent),
    /// The server sent something that is no message.
    Malformed(FrameError),
    /// Something about connection settings that is for the embedder to do or to know.
    Settings(SettingsEffect),
    /// The saved connection settings cannot be read; the client began with its local ones.
    SavedUnusable(SavedError),
    /// A certificate cannot be asked for.
    RequestRefused(RequestError),
    /// A custom message was not queued; it is gone.
    CustomMessageRefused(CustomMessageError),
    /// The connection ended.
    Disconnected {
        /// How.
        closed: Closed,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// An attempt failed.
    DialFailed {
        /// Why.
        error: DialError,
        /// When the next one is made.
        retry_in: Duration,
    },
}

/// What becomes of an event that nobody reads, in the order in which they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Custom messages: their peer is told nothing about delivery anyway.
    Message,
    /// What happened; the next such event tells as much.
    News,
    /// An offer or a command: the server repeats it at best after a reconnect.
    Order,
    /// Work on connection settings waits for the answer. There is one of a kind at most.
    Owed,
}

impl ClientEvent {
    /// About what it takes in memory.
    fn size(&self) -> usize {
        match self {
            Self::Session(event) => event.size(),
            Self::Settings(effect) => size_of::<Self>().saturating_add(held_by(effect)),
            Self::Disconnected { closed, .. } => {
                size_of::<Self>().saturating_add(closed.reason.len())
            }
            _ => size_of::<Self>(),
        }
    }

    fn worth(&self) -> Worth {
        match self {
            Self::Session(SessionEvent::CustomMessage(_)) | Self::CustomMessageRefused(_) => {
                Worth::Message
            }
            Self::Session(
                SessionEvent::RemoteConfig(_)
                | SessionEvent::PackagesAvailable(_)
                | SessionEvent::ConnectionSettings(_)
                | SessionEvent::NewInstanceUid(_)
                | SessionEvent::Restart,
            )
            | Self::SavedUnusable(_) => Worth::Order,
            Self::Settings(
                SettingsEffect::Accepted | SettingsEffect::Reverted(_) | SettingsEffect::Dropped(_),
            ) => Worth::News,
            Self::Settings(_) => Worth::Owed,
            _ => Worth::News,
        }
    }

    /// Whether `later` makes this one superfluous: an answer to the later one answers for both.
    fn is_replaced_by(&self, later: &Self) -> bool {
        use SettingsEffect::{CertificateDue, Destination, Save};
        let (Self::Settings(before), Self::Settings(later)) = (self, later) else {
            return false;
        };
        match (before, later) {
            (Save { .. }, Save { .. }) | (CertificateDue { .. }, CertificateDue { .. }) => true,
            (Destination { class: before, .. }, Destination { class: later, .. }) => {
                before == later
            }
            _ => false,
        }
    }
}

/// About how many bytes an effect holds on the heap.
fn held_by(effect: &SettingsEffect) -> usize {
    match effect {
        SettingsEffect::Save { state, .. } => state.0.len(),
        SettingsEffect::Destination { settings, .. } => {
            let Some(settings) = settings else {
                return 0;
            };
            let headers = settings.headers.iter();
            let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
            let others = settings.other_settings.iter();
            let others = others.map(|(name, value)| name.len() + value.len());
            let tls = &settings.tls;
            let pair = tls.client_certificate.as_ref();
            size_of_val(&**settings)
                + settings.endpoint.len()
                + headers.chain(others).sum::<usize>()
                + tls.ca_pem.as_ref().map_or(0, Vec::len)
                + pair.map_or(0, |pair| pair.chain_pem.len() + pair.key_pem.len())
        }
        SettingsEffect::Reverted(trouble) => trouble.to_string().len(),
        _ => 0,
    }
}

/// The client has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("client has ended")]
pub struct Stopped;

/// Sets state and receives events. Dropping it stops the client.
#[derive(Debug)]
pub struct ClientHandle {
    changes: mpsc::Sender<Change>,
    events: mpsc::Receiver<Box<ClientEvent>>,
    stats: watch::Receiver<SessionStats>,
}

impl ClientHandle {
    /// Passes a change to the client; waits while 64 of them wait.
    ///
    /// # Errors
    /// [`Stopped`] if the client has ended.
    pub async fn set(&self, change: Change) -> Result<(), Stopped> {
        self.changes.send(change).await.map_err(|_| Stopped)
    }

    /// The next event; `None` when the client has ended. At most 320 unread events are
    /// kept, and of 256 of them no more bytes than one message may have. Of those custom messages go first, then news
    /// such as a lost connection, then offers and commands, the oldest of each first; what is to be answered about
    /// connection settings stays.
    ///
    /// # Cancel safety
    /// Safe; no event is lost.
    pub async fn next_event(&mut self) -> Option<ClientEvent> {
        self.events.recv().await.map(|event| *event)
    }

    /// Counters since the client was built, as they are after its last step. Events that were dropped because nobody
    /// read them in time are counted wherever that happened.
    pub fn stats(&self) -> SessionStats {
        *self.stats.borrow()
    }
}

/// A whole client. Drive [`Client::run`].
#[derive(Debug)]
pub struct Client {
    session: Session,
    target: Target,
    dial: DialOptions,
    pump: PumpConfig,
    backoff: Backoff,
    random: u64,
    start: Instant,
    changes: mpsc::Receiver<Change>,
    /// Boxed: a queue reserves room for 32, and an event may be a thousand bytes long.
    events: mpsc::Sender<Box<ClientEvent>>,
    /// Events that found no room yet.
    waiting: VecDeque<Box<ClientEvent>>,
    /// Events that nobody read in time, besides those that the session counts.
    dropped: u64,
    stats: watch::Sender<SessionStats>,
    stopping: bool,
    /// The present connection leads to a place that is no longer the target.
    moving: bool,
    accepting: Option<settings::Accepting>,
    places: places::Places,
}

impl Client {
    /// Builds a client that does nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] as [`Session::new`] has it.
    pub fn new(config: ClientConfig) -> Result<(Self, ClientHandle), ConfigError> {
        let ClientConfig {
            session,
            target,
            mut dial,
            pump,
            backoff,
            settings,
            seed,
        } = config;
        dial.max_message = dial.max_message.min(session.max_message);
        let (change_tx, changes) = mpsc::channel(QUEUE);
        let (events, event_rx) = mpsc::channel(QUEUE);
        let (stats, stats_rx) = watch::channel(SessionStats::default());
        let mut client = Self {
            session: Session::new(session)?,
            target,
            dial,
            pump,
            backoff: Backoff::new(backoff),
            random: seed,
            start: Instant::now(),
            changes,
            events,
            waiting: VecDeque::new(),
            dropped: 0,
            stats,
            stopping: false,
            moving: false,
            accepting: None,
            places: places::Places::default(),
        };
        if let Some(start) = settings {
            client.accept_settings(start);
        }
        let handle = ClientHandle {
            changes: change_tx,
            events: event_rx,
            stats: stats_rx,
        };
        Ok((client, handle))
    }
}
