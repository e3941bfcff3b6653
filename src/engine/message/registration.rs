//! What registration is told and what it wants done. Facts about a token travel here, the token itself never does.
//!
//! Promises: plain data; `Debug` of any of it may be printed.
//! Must never: hold a token.

use std::time::Duration;

use crate::units::WallTime;

/// What a call to the registration service is to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationCall {
    /// A registration; of an instance that is known there, an update in place with a new token.
    Register,
    /// A new token for a gateway that is known there.
    Restart {
        /// What the service calls it.
        gateway: String,
        /// Its organisation, if the service told.
        org: Option<String>,
    },
}

/// What is known of the token we hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where it came from.
    pub source: CredentialSource,
    /// When it was issued to us, or read from the environment.
    pub at: WallTime,
    /// When it expires, if it says so.
    pub expires: Option<WallTime>,
    /// What the service calls us.
    pub gateway: Option<String>,
    /// Our organisation there.
    pub org: Option<String>,
    /// The WebSocket URL that the service named, if one can be meant.
    pub endpoint: Option<String>,
    /// `supervisor` or `extension`, as the service has it; only shown.
    pub management_mode: Option<String>,
    /// Why it is not on disk, if it is not and ought to be.
    pub unsaved: Option<String>,
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// A registration.
    Registered,
    /// A restart of the registration.
    Restarted,
    /// The variable `OPAMP_TOKEN`; never written to disk.
    Environment,
}

impl CredentialSource {
    /// The word in documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Registered => "registration",
            Self::Restarted => "restart-registration",
            Self::Environment => "environment",
        }
    }

    /// Reads back what [`CredentialSource::word`] wrote.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Registered, Self::Restarted, Self::Environment]
            .into_iter()
            .find(|source| source.word() == word)
    }
}

/// A call that brought no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationFailure {
    /// The class that decides what happens next.
    pub class: FailureClass,
    /// For people: what was asked of whom, and what came back. Bounded, without secrets.
    pub reason: String,
    /// How long the service asked us to stay away.
    pub retry_after: Option<Duration>,
}

/// The class of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// Our settings do not allow a call, such as a registration token that cannot be read; nothing was asked.
    Settings,
    /// No answer.
    Network,
    /// 429.
    Throttled,
    /// 5xx.
    Server,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 422, or another 400.
    Invalid,
    /// A status that nobody expects, or a success without a usable token.
    Answer,
}

impl FailureClass {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Settings,
        Self::Network,
        Self::Throttled,
        Self::Server,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Invalid,
        Self::Answer,
    ];

    /// The word in documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Network => "network",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Answer => "answer",
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Network | Self::Throttled | Self::Server)
    }
}

/// What a person may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationOrder {
    /// Register now, whatever there is.
    Onboard,
    /// A new token for the gateway we are; a registration if we are none yet.
    Restart,
}

impl RegistrationOrder {
    /// The command's name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Onboard => "onboard",
            Self::Restart => "restart-registration",
        }
    }
}

/// Registration as a door may show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationSnapshot {
    /// `registered`, `unregistered` or `rejected`.
    pub state: &'static str,
    /// `idle`, `calling`, `waiting` or `held`.
    pub phase: &'static str,
    /// Why it is not as it should be; empty otherwise.
    pub reason: String,
    /// The service, without anything secret.
    pub url: String,
    /// What is known of the token.
    pub credential: Option<Credential>,
    /// Until the token expires; zero when it has.
    pub expires_in: Option<Duration>,
    /// Until the next call.
    pub retry_in: Option<Duration>,
    /// Calls since we started.
    pub calls: u64,
    /// Of these, the ones that brought no token.
    pub failures: u64,
    /// The last order of a person.
    pub order: Option<OrderSnapshot>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSnapshot {
    /// Its number; rises.
    pub number: u64,
    /// The command's name.
    pub what: &'static str,
    /// What came of it; none while it is under way.
    pub outcome: Option<Result<(), RegistrationFailure>>,
}
