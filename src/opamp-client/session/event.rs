//! What a session tells its caller: events and counters.
//!
//! Promises: the queue is bounded; when it is full the oldest event goes and is counted. Text from the server is
//! bounded and printable.
//! Must never: hold a decision. A refusal is reported here, made in `receive.rs`.

use std::collections::VecDeque;
use std::time::Duration;

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

/// The bounded queue of events.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<SessionEvent>,
    /// Refusals already told on this connection.
    told: Vec<Refusal>,
}

impl Events {
    /// Appends; false if an older event had to go.
    pub(super) fn push(&mut self, event: SessionEvent) -> bool {
        match &event {
            SessionEvent::Restart if self.queue.contains(&event) => return true,
            SessionEvent::Refused(refusal) if self.told.contains(refusal) => return true,
            SessionEvent::Refused(refusal) => self.told.push(*refusal),
            // Only the latest offer matters, and it may be large.
            SessionEvent::RemoteConfig(_) => {
                self.queue
                    .retain(|old| !matches!(old, SessionEvent::RemoteConfig(_)));
            }
            _ => {}
        }
        let fits = self.queue.len() < EVENTS_MAX;
        if !fits {
            self.queue.pop_front();
        }
        self.queue.push_back(event);
        fits
    }

    pub(super) fn pop(&mut self) -> Option<SessionEvent> {
        self.queue.pop_front()
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
