//! What connection settings tell their caller to do, and what the caller tells them.
//!
//! Plain data. Must never: decide anything.

use std::fmt;
use std::time::Duration;

use super::{Destination, Refused, SavedSettings};
use crate::messages::{ConnectionSettingsRequest, ConnectionSettingsStatus};

/// The time, in both of its kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// A span since any fixed start; never goes back.
    pub now: Duration,
    /// A span since 1970-01-01 UTC, as the wall clock has it.
    pub unix: Duration,
}

/// Connections that a server can set beside its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Where metrics about the agent go to.
    OwnMetrics,
    /// Its traces.
    OwnTraces,
    /// Its logs.
    OwnLogs,
    /// A connection that the agent knows by this name.
    Other(String),
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnMetrics => f.write_str("own_metrics"),
            Self::OwnTraces => f.write_str("own_traces"),
            Self::OwnLogs => f.write_str("own_logs"),
            Self::Other(name) => write!(f, "other_connections.{name}"),
        }
    }
}

/// Why settings were given up, bounded and printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble(pub(super) String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SettingsEffect {
    /// Store this state durably in place of the one before, then call [`super::Settings::handle_saved`].
    Save {
        /// Names it in the answer.
        id: u64,
        /// All there is to store. It holds keys and tokens.
        state: SavedSettings,
    },
    /// Report this as the status of connection settings.
    Report(ConnectionSettingsStatus),
    /// End the present connection politely, or the present attempt at once; then call
    /// [`super::Settings::handle_left`] and connect with [`super::Settings::target`].
    Leave,
    /// Beat at this interval from now on.
    Heartbeat(Duration),
    /// Use this destination from now on, or none; then call [`super::Settings::handle_outcome`].
    Destination {
        /// Names it in the answer.
        ticket: u64,
        /// Which connection.
        class: Class,
        /// Where to; `None` means stop.
        settings: Option<Box<Destination>>,
    },
    /// Send this request to the server.
    Request(ConnectionSettingsRequest),
    /// No certificate is asked for, because the key of the request could not be stored. The caller may call
    /// [`super::Settings::request_certificate`] again when it can store.
    RequestGivenUp(Trouble),
    /// The client certificate should be replaced: make a key and a request and call
    /// [`super::Settings::request_certificate`].
    CertificateDue {
        /// When it ends, as a span since 1970-01-01 UTC.
        not_after: Duration,
    },
    /// For the log: offered settings were proven and are in force.
    Accepted,
    /// For the log: offered settings did not work, the ones before are tried again.
    Reverted(Trouble),
    /// For the log: saved settings are not used any more, because the local ones do not allow them.
    Dropped(Refused),
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What it says about the settings.
    pub kind: LossKind,
    /// For people; without secrets.
    pub reason: String,
}

/// What a lost connection or a failed attempt says about the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossKind {
    /// Nobody is there, or not any more.
    Lost,
    /// The server is overloaded: this is no proof of bad settings.
    Throttled {
        /// When the next attempt will be made.
        retry_in: Duration,
    },
    /// The server does not want our credentials.
    Rejected,
    /// The settings cannot be used at all.
    Settings,
}
