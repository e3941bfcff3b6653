//! What a session tells its caller: events and counters.
//!
//! Promises: the queue is bounded in number and in bytes; when it is full the oldest event goes and is counted, custom
//! messages before offers. Text from the server is bounded and printable.
//! Must never: hold a decision. A refusal is reported here, made in `receive.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;

use crate::messages::{
    AgentRemoteConfig, ConnectionSettingsOffers, CustomMessage, PackagesAvailable,
};

/// Events that wait to be read.
const EVENTS_MAX: usize = 256;

/// Bytes of a server's error text that are kept.
const ERROR_TEXT_MAX: usize = 1024;

/// Something the server wants or told, already checked against the agent's capabilities.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "events are few, short-lived and moved once"
)]
pub enum SessionEvent {
    /// A configuration offer. Offers are not compared here: the same one may come again.
    RemoteConfig(AgentRemoteConfig),
    /// Restart the agent. Repeated commands that were not read yet are one.
    Restart,
    /// A command of a type that this version does not know; nothing is to be done.
    UnknownCommand(i32),
    /// The server gave another identity: store it, then call [`super::Session::set_instance_uid`].
    /// Messages wait for that call, but no longer than ten seconds.
    NewInstanceUid([u8; 16]),
    /// The heartbeat interval was changed by an offer and is in force. An agent that accepts settings
    /// of the server's own connection never sees this: there the interval is part of the offer, for the caller to
    /// carry out as a whole and to set by [`super::Session::set_heartbeat`].
    HeartbeatInterval(Duration),
    /// Connection settings of the kinds that the agent accepts.
    ConnectionSettings(ConnectionSettingsOffers),
    /// A package offer.
    PackagesAvailable(PackagesAvailable),
    /// The server's capability bits, when they change.
    ServerCapabilities(u64),
    /// The server's custom capabilities, when they change.
    ServerCustomCapabilities(Vec<String>),
    /// A custom message of a capability that the agent announced.
    CustomMessage(CustomMessage),
    /// The server could not process a message; it is not sent again.
    ServerError {
        /// What kind of error it reports.
        kind: ServerErrorKind,
        /// Its words, bounded and printable.
        message: String,
    },
    /// The server is overloaded: disconnect, wait, connect again. Nothing more is sent on this connection.
    Unavailable {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// Something was ignored on purpose; told once per kind and connection.
    Refused(Refusal),
    /// The server addresses us by an identity that is not ours; told once, counted always.
    /// At most 32 bytes of it.
    ForeignInstanceUid(Vec<u8>),
    /// A field was left out of a message because it would have been too large.
    Oversize {
        /// The field of `AgentToServer`.
        field: &'static str,
        /// Its size in bytes.
        bytes: usize,
    },
}

/// Kinds of errors that a server reports about our messages; kinds yet unknown count as `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// The server does not say.
    Unknown,
    /// Our message was wrong.
    BadRequest,
}

/// What was ignored, and by that why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A remote configuration without `AcceptsRemoteConfig`.
    RemoteConfig,
    /// Connection settings of kinds that the agent does not accept.
    ConnectionSettings,
    /// Packages without `AcceptsPackages`.
    Packages,
    /// A command without `AcceptsRestartCommand`.
    Command,
    /// A command addressed to another identity.
    ForeignCommand,
    /// A new identity addressed to another one.
    ForeignIdentification,
    /// A new identity that is not 16 bytes or all zero.
    Identification,
    /// A custom message of a capability that the agent did not announce.
    CustomMessage,
}

/// Counters since a session was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SessionStats {
    /// Messages handed out.
    pub sent: u64,
    /// Messages decoded.
    pub received: u64,
    /// Frames that are no messages.
    pub malformed: u64,
    /// Fields left out because the message would have been over the limit.
    pub dropped_oversize: u64,
    /// Messages that address another identity.
    pub foreign_uid: u64,
    /// Full reports among the sent ones.
    pub full_states: u64,
    /// Custom messages handed out.
    pub custom_messages_sent: u64,
    /// Events that nobody read in time.
    pub events_dropped: u64,
    /// Messages that came without a connection or after goodbye, and were ignored.
    pub late: u64,
    /// Offers, commands and the like that were ignored on purpose.
    pub refused: u64,
}

impl SessionEvent {
    /// About what it takes in memory.
    pub(crate) fn size(&self) -> usize {
        let held = match self {
            Self::RemoteConfig(offer) => offer.encoded_len(),
            Self::ConnectionSettings(offers) => offers.encoded_len(),
            Self::PackagesAvailable(offer) => offer.encoded_len(),
            Self::CustomMessage(message) => message.encoded_len(),
            Self::ServerCustomCapabilities(list) => {
                let text: usize = list.iter().map(String::len).sum();
                text.saturating_add(list.len().saturating_mul(size_of::<String>()))
            }
            Self::ServerError { message, .. } => message.len(),
            Self::ForeignInstanceUid(uid) => uid.len(),
            _ => 0,
        };
        held.saturating_add(size_of::<Self>())
    }
}

/// The bounded queue of events.
#[derive(Debug)]
pub(super) struct Events {
    /// With the size of each.
    queue: VecDeque<(SessionEvent, usize)>,
    /// Of all of them.
    bytes: usize,
    /// They may be more than this only if the newest alone is.
    bytes_max: usize,
    /// Refusals already told on this connection.
    told: Vec<Refusal>,
}

impl Events {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            bytes_max,
            told: Vec::new(),
        }
    }

    /// Appends; how many older events had to go.
    pub(super) fn push(&mut self, event: SessionEvent) -> u64 {
        let is_there = |(old, _): &(SessionEvent, usize)| *old == event;
        match &event {
            SessionEvent::Restart if self.queue.iter().any(is_there) => return 0,
            SessionEvent::Refused(refusal) if self.told.contains(refusal) => return 0,
            SessionEvent::Refused(refusal) => self.told.push(*refusal),
            // Only the latest offer matters, and it may be large.
            SessionEvent::RemoteConfig(_) => {
                self.forget(|old| matches!(old, SessionEvent::RemoteConfig(_)));
            }
            SessionEvent::PackagesAvailable(_) => {
                self.forget(|old| matches!(old, SessionEvent::PackagesAvailable(_)));
            }
            _ => {}
        }
        let size = event.size();
        let mut dropped = 0;
        while self.queue.len() >= EVENTS_MAX
            || self.bytes.saturating_add(size) > self.bytes_max && !self.queue.is_empty()
        {
            let custom = self
                .queue
                .iter()
                .position(|(old, _)| matches!(old, SessionEvent::CustomMessage(_)));
            let gone = self.queue.remove(custom.unwrap_or(0));
            self.bytes = self.bytes.saturating_sub(gone.map_or(0, |(_, size)| size));
            dropped += 1;
        }
        self.bytes = self.bytes.saturating_add(size);
        self.queue.push_back((event, size));
        dropped
    }

    fn forget(&mut self, which: impl Fn(&SessionEvent) -> bool) {
        self.queue.retain(|(old, _)| !which(old));
        self.bytes = self.queue.iter().map(|(_, size)| size).sum();
    }

    pub(super) fn pop(&mut self) -> Option<SessionEvent> {
        let (event, size) = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(size);
        Some(event)
    }

    /// Bytes that wait to be read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn new_connection(&mut self) {
        self.told.clear();
    }
}

/// Cuts text to a bound on a character boundary and replaces what would not print.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        let char = if char.is_control() { ' ' } else { char };
        if out.len() + char.len_utf8() > ERROR_TEXT_MAX {
            break;
        }
        out.push(char);
    }
    out
}
