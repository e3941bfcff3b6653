//! The OpAMP conversation of one agent with one server: what to say, and what was meant.
//!
//! Promises: owns no socket, no clock and no randomness. The caller brings frames and the time (a span since any fixed
//! start) and takes frames, events and the next deadline; `handle_*` first, then [`Session::poll_transmit`] and
//! [`Session::poll_event`] until both give nothing, then sleep until [`Session::poll_timeout`].
//!
//! Invariants:
//! 1. `sequence_num` rises by one for each message handed out and for no other (R-061…R-063).
//! 2. Every message carries uid, sequence number and capabilities; a field whose capability
//!    bit is clear on our side, or known to be clear on the server's, is never in one.
//! 3. A server message alone causes a message of ours only if it asks for one; equal values are not sent twice
//!
//! 4. After a loss, whatever was not followed by an answer is sent again.
//! 5. While polling, one message at a time is out, and one that was not taken gives its number and its content back
//!
//!
//! Must never: carry out anything. Offers, commands and identities are events; the caller answers by setting state.

mod event;
mod fields;
mod pace;
mod poll;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

pub use event::{Refusal, ServerErrorKind, SessionEvent, SessionStats};

pub(crate) use event::printable;

use crate::frame;
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentCapabilities, AgentDescription, AvailableComponents,
    ComponentHealth, ConnectionSettingsRequest, ConnectionSettingsStatus, CustomCapabilities,
    CustomMessage, EffectiveConfig, PackageStatuses, RemoteConfigStatus, RemoteConfigStatuses,
};
use event::Events;
use fields::{Fields, Report};
use pace::{OnRequest, Pace};
use poll::Exchange;

/// Custom messages that wait to be sent; one message carries one of them.
const CUSTOM_MESSAGES_MAX: usize = 64;

/// The least message limit that leaves room for uid, sequence number, capabilities and small fields.
const MESSAGE_LIMIT_MIN: usize = 1024;

/// How long a message waits for the caller to store a new identity before the old one is used once more.
const REKEY_HOLD: Duration = Duration::from_secs(10);

/// Bounds of the heartbeat interval, whoever sets it. A configured interval may be shorter than an offered one.
pub(crate) const HEARTBEAT_OFFER_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_hours(24);

/// What a session is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Identity of the agent, never all zero.
    pub instance_uid: [u8; 16],
    /// Agent capability bits. Undefined bits are cleared, `ReportsStatus` is always set.
    pub capabilities: u64,
    /// Heartbeat interval; zero means none until the server offers one.
    pub heartbeat: Duration,
    /// Largest message in both directions, header included.
    pub max_message: usize,
    /// Least span between two answers to `ReportFullState`.
    pub full_state_min_gap: Duration,
}

impl SessionConfig {
    /// A configuration with the documented defaults: 30 s, 64 MiB, 5 s.
    pub const fn new(instance_uid: [u8; 16], capabilities: u64) -> Self {
        Self {
            instance_uid,
            capabilities,
            heartbeat: Duration::from_secs(30),
            max_message: frame::MAX_MESSAGE_DEFAULT,
            full_state_min_gap: Duration::from_secs(5),
        }
    }
}

/// Why a session cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The identity is all zero.
    #[error("instance uid is all zero")]
    ZeroInstanceUid,
    /// The message limit leaves no room for a report.
    #[error("message limit of {limit} bytes is below {MESSAGE_LIMIT_MIN}")]
    MessageLimit {
        /// The limit that was given.
        limit: usize,
    },
}

/// Why a custom message is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CustomMessageError {
    /// Too many are waiting.
    #[error("{CUSTOM_MESSAGES_MAX} custom messages are waiting already")]
    QueueFull,
    /// Our own list of custom capabilities lacks its capability.
    #[error("capability of the custom message was not announced by this agent")]
    NotAnnounced,
    /// The server's list lacks its capability.
    #[error("server does not support the capability of the custom message")]
    NotSupported,
}

/// Where the conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// No connection.
    Down,
    /// Connected; our first message, a status report, is due.
    Greeting,
    /// Reports flow.
    Open,
    /// The server is overloaded: silence until the caller reconnects.
    Held,
    /// The next message is the last; it carries this report.
    Leaving { last: Report },
    /// The last message was handed out.
    Left,
}

/// The conversation of one agent. See the top of this file.
#[derive(Debug)]
pub struct Session {
    uid: [u8; 16],
    previous_uid: Option<[u8; 16]>,
    /// Until when messages wait for [`Session::set_instance_uid`] after the server gave a new identity.
    rekey: Option<Rekey>,
    uid_wanted: bool,
    capabilities: u64,
    /// The last non-zero mask of the server; unknown until one came.
    server_capabilities: Option<u64>,
    server_custom: Option<Vec<String>>,
    heartbeat: Duration,
    max_message: usize,
    full_state_min_gap: Duration,

    link: Link,
    /// One request at a time, over plain HTTP; `None` over WebSocket.
    exchange: Option<Exchange>,
    /// The largest field of the message that was handed out last, with its size.
    largest: Option<(&'static str, usize)>,
    fields: Fields,
    /// Something outside `fields` changed that the server must hear: capabilities or flags.
    header_changed: bool,
    custom_messages: VecDeque<CustomMessage>,
    settings_request: Option<ConnectionSettingsRequest>,
    full_state: OnRequest,
    components: OnRequest,
    health_pace: Pace,

    sequence_num: u64,
    last_sent: Duration,
    /// Messages of this connection that the server has not answered. Answers name nothing, so they are counted: each
    /// stands for the oldest message. Not zero at first, so that the first report is full.
    unanswered: u64,
    /// The latest time the caller told.
    now: Duration,
    events: Events,
    stats: SessionStats,
}

/// A new identity that the caller has not confirmed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rekey {
    uid: [u8; 16],
    hold_until: Duration,
}

impl Session {
    /// Builds a session that is not connected.
    ///
    /// # Errors
    /// [`ConfigError`] for an all-zero identity or an impossible limit.
    pub fn new(config: SessionConfig) -> Result<Self, ConfigError> {
        let SessionConfig {
            instance_uid,
            capabilities,
            heartbeat,
            max_message,
            full_state_min_gap,
        } = config;
        if instance_uid == [0; 16] {
            return Err(ConfigError::ZeroInstanceUid);
        }
        if max_message < MESSAGE_LIMIT_MIN {
            return Err(ConfigError::MessageLimit { limit: max_message });
        }
        Ok(Self {
            uid: instance_uid,
            previous_uid: None,
            rekey: None,
            uid_wanted: false,
            capabilities: defined(capabilities),
            server_capabilities: None,
            server_custom: None,
            heartbeat: heartbeat.min(HEARTBEAT_MAX),
            max_message,
            full_state_min_gap,
            link: Link::Down,
            exchange: None,
            largest: None,
            fields: Fields::default(),
            header_changed: false,
            custom_messages: VecDeque::new(),
            settings_request: None,
            full_state: OnRequest::default(),
            components: OnRequest::default(),
            health_pace: Pace::default(),
            sequence_num: 0,
            last_sent: Duration::ZERO,
            unanswered: 1,
            now: Duration::ZERO,
            events: Events::new(max_message),
            stats: SessionStats::default(),
        })
    }

    /// The identity that the next message carries.
    pub fn instance_uid(&self) -> [u8; 16] {
        self.uid
    }

    /// Uses another identity from the next message on; confirms [`SessionEvent::NewInstanceUid`] once it is stored
    /// . Giving the present identity refuses the new one. An all-zero identity is ignored.
    pub fn set_instance_uid(&mut self, uid: [u8; 16]) {
        if uid == [0; 16] {
            return;
        }
        self.rekey = None;
        if uid != self.uid {
            self.previous_uid = Some(self.uid);
            self.uid = uid;
        }
    }

    /// Asks the server for an identity until it gives one.
    pub fn request_instance_uid(&mut self) {
        self.header_changed |= !self.uid_wanted;
        self.uid_wanted = true;
    }

    /// The capability bits that every message carries.
    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// Changes the capability bits; the server hears of it at once. Fields of a bit that is new are sent again.
    pub fn set_capabilities(&mut self, mask: u64) {
        let mask = defined(mask);
        if mask != self.capabilities {
            self.fields.owe(mask & !self.capabilities);
            self.capabilities = mask;
            self.header_changed = true;
        }
    }

    /// The server's capability bits; `None` until it told them.
    pub fn server_capabilities(&self) -> Option<u64> {
        self.server_capabilities
    }

    /// The server's custom capabilities; `None` until it told them.
    pub fn server_custom_capabilities(&self) -> Option<&[String]> {
        self.server_custom.as_deref()
    }

    /// The heartbeat interval in force; zero means none.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Sets the heartbeat interval, for example back to what it was before an offer; at once.
    pub fn set_heartbeat(&mut self, interval: Duration) {
        self.heartbeat = interval.min(HEARTBEAT_MAX);
    }

    /// Sets who the agent is.
    pub fn set_description(&mut self, description: AgentDescription) {
        self.fields.description.set(description);
    }

    /// Sets the health tree. A change of observation times alone is not sent; levels below the 32nd are cut
    ///
    pub fn set_health(&mut self, health: ComponentHealth) {
        self.fields.set_health(health);
    }

    /// Sets the configuration that runs.
    pub fn set_effective_config(&mut self, config: EffectiveConfig) {
        self.fields.effective_config.set(config);
    }

    /// Sets what became of the last remote configuration. The text is for failures alone.
    pub fn set_remote_config_status(&mut self, mut status: RemoteConfigStatus) {
        if status.status != RemoteConfigStatuses::Failed as i32 {
            status.error_message.clear();
        }
        self.fields.remote_config_status.set(status);
    }

    /// Sets the states of all packages.
    pub fn set_package_statuses(&mut self, statuses: PackageStatuses) {
        self.fields.package_statuses.set(statuses);
    }

    /// Sets what became of the last connection settings offer.
    pub fn set_connection_settings_status(&mut self, status: ConnectionSettingsStatus) {
        self.fields.connection_settings_status.set(status);
    }

    /// Sets what the agent is built from. Only the hash is sent until the server asks for all; an equal
    /// hash means nothing changed, and a list without hash is never sent.
    pub fn set_available_components(&mut self, components: AvailableComponents) {
        self.fields.set_components(components);
    }

    /// Sets the agent's custom capabilities.
    pub fn set_custom_capabilities(&mut self, capabilities: CustomCapabilities) {
        self.fields.custom_capabilities.set(capabilities);
    }

    /// Sends this request once, as soon as the server says that it takes requests; a connection that ends takes
    /// the request with it. Replaces one that has not left yet.
    pub fn request_connection_settings(&mut self, request: ConnectionSettingsRequest) {
        self.settings_request = Some(request);
    }

    /// Queues a custom message. Queued ones are sent in order, each in a message of its own and at most once.
    ///
    /// # Errors
    /// [`CustomMessageError`] if the queue is full or one side did not announce the capability. A server that has not
    /// told its list yet is given the benefit of the doubt.
    pub fn send_custom_message(
        &mut self,
        message: CustomMessage,
    ) -> Result<(), CustomMessageError> {
        let lists = |list: &[String]| list.contains(&message.capability);
        if !self
            .fields
            .custom_capabilities
            .get()
            .is_some_and(|own| lists(&own.capabilities))
        {
            return Err(CustomMessageError::NotAnnounced);
        }
        if !self.server_custom.as_deref().is_none_or(lists) {
            return Err(CustomMessageError::NotSupported);
        }
        if self.custom_messages.len() >= CUSTOM_MESSAGES_MAX {
            return Err(CustomMessageError::QueueFull);
        }
        self.custom_messages.push_back(message);
        Ok(())
    }

    /// A connection stands: a status report is due at once. It is full unless all that was ever sent was answered
    ///
    pub fn handle_connected(&mut self, now: Duration) {
        self.advance(now);
        self.link = Link::Greeting;
        self.exchange = None;
        self.events.new_connection();
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, now: Duration) {
        self.advance(now);
        self.take_back();
        self.exchange = None;
        self.settings_request = None;
        self.link = Link::Down;
    }

    /// A deadline of [`Session::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
    }

    /// Makes the next message the last of this connection. Without a connection there is nothing to say.
    pub fn disconnect(&mut self, now: Duration) {
        self.advance(now);
        self.link = match self.link {
            // A connection that was never greeted still owes its status report.
            Link::Greeting => Link::Leaving {
                last: self.greeting(),
            },
            Link::Open => Link::Leaving {
                last: Report::Delta,
            },
            // An overloaded server that is polled is left alone: a goodbye would be one more request.
            Link::Held if self.exchange.is_some() => Link::Left,
            Link::Held => Link::Leaving { last: Report::Bare },
            other @ (Link::Down | Link::Leaving { .. } | Link::Left) => other,
        };
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop()
    }

    /// When to call [`Session::handle_timeout`] and [`Session::poll_transmit`] again; `None` if nothing will become due
    /// by itself. A time in the past means that a message waits already.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.next_send_at()
    }

    /// Whether no event waits and nothing is left to hand out on the present connection, heartbeats aside.
    pub fn is_drained(&self) -> bool {
        self.events.is_empty() && self.owed_at().is_none()
    }

    /// About how many bytes wait in unread events. Never more than [`SessionConfig::max_message`], unless the newest
    /// event alone is larger; the oldest go first, custom messages before offers.
    pub fn queued_bytes(&self) -> usize {
        self.events.bytes()
    }

    /// Counters since the session was built.
    pub fn stats(&self) -> &SessionStats {
        &self.stats
    }

    /// Time never goes back; a caller's earlier time counts as the latest one.
    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.rekey.is_some_and(|rekey| rekey.hold_until <= self.now) {
            self.rekey = None;
        }
    }

    fn emit(&mut self, event: SessionEvent) {
        let dropped = self.events.push(event);
        self.stats.events_dropped = self.stats.events_dropped.saturating_add(dropped);
    }
}

/// Defined bits only, with the mandatory one.
fn defined(mask: u64) -> u64 {
    (mask & AGENT_CAPABILITIES_ALL) | AgentCapabilities::ReportsStatus.bit()
}
