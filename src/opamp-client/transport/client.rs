//! A whole OpAMP client for embedders without a loop of their own: session, pump and back-off in one future.
//!
//! Promises: [`Client::run`] keeps one connection at a time and comes back for ever, until told to stop; state set
//! while offline is what the server hears first. No task is spawned and nothing runs unless the caller drives the
//! future.
//! Must never: decide what an offer means. Offers are events; the handle answers by setting state.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::pump::{Closed, ClosedClass, FrameSender, Pump, PumpConfig};
use super::{Connection, DialClass, DialError, DialOptions, Target, dial};
use crate::backoff::{Backoff, BackoffConfig, LinkLife};
use crate::frame::FrameError;
use crate::messages::{
    AgentDescription, AvailableComponents, ComponentHealth, ConnectionSettingsStatus,
    CustomCapabilities, CustomMessage, EffectiveConfig, PackageStatuses, RemoteConfigStatus,
};
use crate::session::{ConfigError, Session, SessionConfig, SessionEvent};

/// Changes and events that wait.
const QUEUE: usize = 64;

/// Events that wait for room in that queue; the oldest goes first.
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
    /// One custom message; dropped if the session refuses it.
    CustomMessage(CustomMessage),
    /// Its capability bits.
    Capabilities(u64),
    /// An identity that was stored.
    InstanceUid([u8; 16]),
    /// Where to connect from the next attempt on.
    Target(Box<Target>),
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
    /// A connection stands.
    Connected,
    /// What the server wants or told.
    Session(SessionEvent),
    /// The server sent something that is no message.
    Malformed(FrameError),
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

/// The client has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("client has ended")]
pub struct Stopped;

/// Sets state and receives events. Dropping it stops the client.
#[derive(Debug)]
pub struct ClientHandle {
    changes: mpsc::Sender<Change>,
    events: mpsc::Receiver<ClientEvent>,
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
    /// kept; the oldest are dropped first.
    ///
    /// # Cancel safety
    /// Safe; no event is lost.
    pub async fn next_event(&mut self) -> Option<ClientEvent> {
        self.events.recv().await
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
    events: mpsc::Sender<ClientEvent>,
    /// Events that found no room yet.
    waiting: VecDeque<ClientEvent>,
    stopping: bool,
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
            seed,
        } = config;
        dial.max_message = dial.max_message.min(session.max_message);
        let (change_tx, changes) = mpsc::channel(QUEUE);
        let (events, event_rx) = mpsc::channel(QUEUE);
        let client = Self {
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
            stopping: false,
        };
        let handle = ClientHandle {
            changes: change_tx,
            events: event_rx,
        };
        Ok((client, handle))
    }

    /// Connects, talks, reconnects, until [`Change::Stop`] or until the handle is gone.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection without goodbye.
    pub async fn run(mut self) {
        let mut retry_in = Duration::ZERO;
        while !self.stopping {
            self.rest(retry_in).await;
            let Some(attempt) = self.attempt().await else {
                break;
            };
            match attempt {
                Ok(connection) => {
                    self.tell(ClientEvent::Connected);
                    let life_start = self.now();
                    let (closed, life) = self.converse(connection).await;
                    retry_in = self.delay_after(&closed, life, life_start);
                    self.tell(ClientEvent::Disconnected { closed, retry_in });
                }
                Err(error) => {
                    let random = self.next_random();
                    retry_in = match error.class() {
                        DialClass::Throttled => self.backoff.throttled(random, error.retry_after()),
                        DialClass::Rejected => self.backoff.rejected(random),
                        _ => self.backoff.next_delay(random),
                    };
                    self.tell(ClientEvent::DialFailed { error, retry_in });
                }
            }
        }
        while let Some(event) = self.waiting.pop_front() {
            // Whoever does not read any more does not miss them.
            _ = self.events.try_send(event);
        }
    }

    /// Waits, taking changes and delivering events meanwhile.
    async fn rest(&mut self, span: Duration) {
        let until = Instant::now() + span;
        let events = self.events.clone();
        while !self.stopping {
            tokio::select! {
                () = sleep_until(until) => return,
                change = self.changes.recv() => self.apply(change),
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    // A reader that is gone takes its events with it.
                    if let (Some(event), Ok(permit)) = (self.waiting.pop_front(), permit) {
                        permit.send(event);
                    }
                }
            }
        }
    }

    /// One attempt; `None` if told to stop meanwhile.
    async fn attempt(&mut self) -> Option<Result<Connection, DialError>> {
        let target = self.target.clone();
        let mut attempt = pin!(dial(&target, self.dial));
        while !self.stopping {
            tokio::select! {
                result = &mut attempt => return Some(result),
                change = self.changes.recv() => self.apply(change),
            }
        }
        None
    }

    async fn converse(&mut self, connection: Connection) -> (Closed, Life) {
        let (pump, sender, mut receiver) = Pump::new(connection, self.pump);
        let mut pump = pin!(pump.run());
        let mut sender = Some(sender);
        let mut life = Life::default();
        let events = self.events.clone();
        self.session.handle_connected(self.now());
        let closed = loop {
            let leaving = self.stopping || life.unavailable;
            if leaving {
                self.session.disconnect(self.now());
            }
            let wake = self.session.poll_timeout();
            let owes = wake.is_some_and(|at| at <= self.now());
            if leaving && !owes {
                // Goodbye is queued; without a sender the pump closes behind it.
                sender = None;
            }
            let wake = wake.filter(|_| !owes).map(|at| self.start + at);
            tokio::select! {
                closed = &mut pump => break closed,
                permit = reserve(sender.as_ref()), if owes => {
                    // A message is made only when it is certain to leave: it takes a sequence number.
                    if let Some(permit) = permit
                        && let Some(frame) = self.session.poll_transmit(self.now())
                    {
                        permit.send(frame);
                    }
                    self.collect(&mut life);
                }
                Some(frame) = receiver.recv() => self.hear(&frame, &mut life),
                change = self.changes.recv(), if !self.stopping => self.apply(change),
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    if let (Some(event), Ok(permit)) = (self.waiting.pop_front(), permit) {
                        permit.send(event);
                    }
                }
                () = wait(wake) => self.session.handle_timeout(self.now()),
            }
        };
        // What arrived before the end still counts.
        while let Some(frame) = receiver.recv().await {
            self.hear(&frame, &mut life);
        }
        self.session.handle_disconnected(self.now());
        (closed, life)
    }

    fn hear(&mut self, frame: &[u8], life: &mut Life) {
        match self.session.handle_frame(self.now(), frame) {
            Ok(()) => life.answered = true,
            Err(error) => self.tell(ClientEvent::Malformed(error)),
        }
        self.collect(life);
    }

    /// Takes the session's events at once: one of them ends the connection, however slow the reader is.
    fn collect(&mut self, life: &mut Life) {
        while let Some(event) = self.session.poll_event() {
            if let SessionEvent::Unavailable { retry_after } = event {
                life.unavailable = true;
                life.retry_after = retry_after;
            }
            self.tell(ClientEvent::Session(event));
        }
    }

    fn delay_after(&mut self, closed: &Closed, life: Life, life_start: Duration) -> Duration {
        let random = self.next_random();
        match closed.class() {
            _ if life.unavailable => self.backoff.throttled(random, life.retry_after),
            ClosedClass::Throttled => self.backoff.throttled(random, None),
            ClosedClass::Rejected => self.backoff.rejected(random),
            _ => {
                let life = LinkLife {
                    lasted: self.now().saturating_sub(life_start),
                    answered: life.answered,
                };
                self.backoff.link_lost(life, random)
            }
        }
    }

    fn apply(&mut self, change: Option<Change>) {
        let session = &mut self.session;
        match change {
            Some(Change::Description(value)) => session.set_description(value),
            Some(Change::Health(value)) => session.set_health(value),
            Some(Change::EffectiveConfig(value)) => session.set_effective_config(value),
            Some(Change::RemoteConfigStatus(value)) => session.set_remote_config_status(value),
            Some(Change::PackageStatuses(value)) => session.set_package_statuses(value),
            Some(Change::ConnectionSettingsStatus(value)) => {
                session.set_connection_settings_status(value);
            }
            Some(Change::AvailableComponents(value)) => session.set_available_components(value),
            Some(Change::CustomCapabilities(value)) => session.set_custom_capabilities(value),
            Some(Change::CustomMessage(message)) => {
                // Documented: refused ones are dropped. The caller knows both lists.
                _ = session.send_custom_message(message);
            }
            Some(Change::Capabilities(mask)) => session.set_capabilities(mask),
            Some(Change::InstanceUid(uid)) => session.set_instance_uid(uid),
            Some(Change::Target(target)) => self.target = *target,
            Some(Change::Stop) | None => self.stopping = true,
        }
    }

    fn tell(&mut self, event: ClientEvent) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(event);
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// `SplitMix64`: jitter needs spread, not secrecy.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// What was learnt on one connection.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    answered: bool,
    unavailable: bool,
    retry_after: Option<Duration>,
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn reserve(sender: Option<&FrameSender>) -> Option<super::Permit<'_>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => std::future::pending().await,
    }
}
