//! What outlives a restart: one opaque text of bytes, written and read whole.
//!
//! Promises: an older text is read, a newer one and garbage are errors and never guessed at; unknown fields survive
//! nothing here, because the format number says who wrote them. It holds keys and tokens: `Debug` shows its size only.
//! Must never: touch a file. Where it is kept, and that nobody else can read it, is the caller's part.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;

use super::request::Pending;
use super::{Class, Trouble};
use crate::messages::{ConnectionSettingsStatus, OpAmpConnectionSettings, OtherConnectionSettings};

const FORMAT: u32 = 1;

/// The whole state of [`super::Settings`], to be kept by the caller in one place that only it can read, replaced
/// atomically.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedSettings(pub Vec<u8>);

impl fmt::Debug for SavedSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SavedSettings({} bytes)", self.0.len())
    }
}

/// Why a saved state is not used. The client goes on with its local settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Not what was ever handed out for saving.
    #[error("saved connection settings are damaged")]
    Damaged,
    /// Written by a later version.
    #[error("saved connection settings have format {format}, newer than {FORMAT}")]
    Newer {
        /// Its number.
        format: u32,
    },
}

/// What is in it. Holds keys and tokens, so there is no `Debug`.
#[derive(Default, Clone)]
pub(super) struct State {
    /// The local endpoint that the settings were offered under.
    pub(super) base: String,
    pub(super) opamp: OpAmpConnectionSettings,
    pub(super) candidate: Option<SavedCandidate>,
    pub(super) status: ConnectionSettingsStatus,
    pub(super) destinations: BTreeMap<Class, OtherConnectionSettings>,
    pub(super) pending: Option<Pending>,
}

/// Settings on trial.
#[derive(Clone)]
pub(super) struct SavedCandidate {
    pub(super) opamp: OpAmpConnectionSettings,
    pub(super) hash: Vec<u8>,
    /// Why it was given up, while the old settings have not been proven again.
    pub(super) failed: Option<Trouble>,
    /// What else of its offer failed, and what was not answered for yet.
    pub(super) beside: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RawState {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    base: String,
    #[prost(message, optional, tag = "3")]
    opamp: Option<OpAmpConnectionSettings>,
    #[prost(message, optional, tag = "4")]
    candidate: Option<RawCandidate>,
    #[prost(message, optional, tag = "5")]
    status: Option<ConnectionSettingsStatus>,
    #[prost(message, optional, tag = "6")]
    own_metrics: Option<OtherConnectionSettings>,
    #[prost(message, optional, tag = "7")]
    own_traces: Option<OtherConnectionSettings>,
    #[prost(message, optional, tag = "8")]
    own_logs: Option<OtherConnectionSettings>,
    #[prost(btree_map = "string, message", tag = "9")]
    other: BTreeMap<String, OtherConnectionSettings>,
    #[prost(message, optional, tag = "10")]
    pending: Option<RawPending>,
}

#[derive(Clone, PartialEq, Message)]
struct RawCandidate {
    #[prost(message, optional, tag = "1")]
    opamp: Option<OpAmpConnectionSettings>,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    #[prost(string, optional, tag = "3")]
    failed: Option<String>,
    #[prost(string, repeated, tag = "4")]
    beside: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RawPending {
    #[prost(bytes = "vec", tag = "1")]
    csr: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

impl State {
    pub(super) fn encode(&self) -> SavedSettings {
        let Self {
            base,
            opamp,
            candidate,
            status,
            destinations,
            pending,
        } = self.clone();
        let mut raw = RawState {
            format: FORMAT,
            base,
            opamp: Some(opamp),
            candidate: candidate.map(|candidate| RawCandidate {
                opamp: Some(candidate.opamp),
                hash: candidate.hash,
                failed: candidate.failed.map(|trouble| trouble.0),
                beside: candidate.beside,
            }),
            status: Some(status),
            pending: pending.map(|pending| RawPending {
                csr: pending.csr_pem,
                key: pending.key_pem,
            }),
            ..RawState::default()
        };
        for (class, settings) in destinations {
            match class {
                Class::OwnMetrics => raw.own_metrics = Some(settings),
                Class::OwnTraces => raw.own_traces = Some(settings),
                Class::OwnLogs => raw.own_logs = Some(settings),
                Class::Other(name) => {
                    raw.other.insert(name, settings);
                }
            }
        }
        SavedSettings(raw.encode_to_vec())
    }

    pub(super) fn decode(saved: &SavedSettings) -> Result<Self, SavedError> {
        let raw = RawState::decode(saved.0.as_slice()).map_err(|_| SavedError::Damaged)?;
        match raw.format {
            0 => return Err(SavedError::Damaged),
            FORMAT => {}
            format => return Err(SavedError::Newer { format }),
        }
        let own = [
            (Class::OwnMetrics, raw.own_metrics),
            (Class::OwnTraces, raw.own_traces),
            (Class::OwnLogs, raw.own_logs),
        ];
        let other = raw
            .other
            .into_iter()
            .map(|(name, settings)| (Class::Other(name), settings));
        Ok(Self {
            base: raw.base,
            opamp: raw.opamp.unwrap_or_default(),
            candidate: raw.candidate.map(|candidate| SavedCandidate {
                opamp: candidate.opamp.unwrap_or_default(),
                hash: candidate.hash,
                failed: candidate.failed.map(Trouble),
                beside: candidate.beside,
            }),
            status: raw.status.unwrap_or_default(),
            destinations: own
                .into_iter()
                .filter_map(|(class, settings)| Some((class, settings?)))
                .chain(other)
                .collect(),
            pending: raw
                .pending
                .map(|pending| Pending::restored(pending.csr, pending.key)),
        })
    }
}
