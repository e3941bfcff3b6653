//! The shapes that the control socket and the HTTP doors speak: JSON documents, written by the server, read by the
//! client.
//!
//! Promises: engine types never appear on the wire; each is converted here, field by field, so that renaming one
//! inside cannot break a script outside. Times are RFC 3339 in UTC, spans are seconds, hashes are hexadecimal.
//! Must never: decide anything, or carry a secret.

mod shape;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::base64;
use super::registration::RegistrationDocument;
use crate::engine::message::{
    AgentSnapshot, CertificateSnapshot, ClockSnapshot, LayerKind, OfferedFile, Origin, Outcome,
    Record, RemoteStatus, Revision, RevisionFile, Snapshot, Step, StoredRevision,
};
use crate::units::WallTime;
pub(super) use shape::days_left;

/// `GET /status` and `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct StatusDocument {
    /// Version of the running supervisor.
    pub version: String,
    /// When the answer was made.
    pub at: String,
    /// Seconds since the supervisor started.
    pub uptime_seconds: f64,
    /// Whether it is stopping.
    pub stopping: bool,
    /// How the life before this one ended, unless that was in order.
    #[serde(default)]
    pub previous_end: Option<String>,
    /// The host's clock, where it is watched.
    #[serde(default)]
    pub clock: Option<ClockDocument>,
    /// Registration, where it is set up.
    #[serde(default)]
    pub registration: Option<RegistrationDocument>,
    /// Every agent, in start order.
    pub agents: Vec<AgentDocument>,
    /// Every certificate.
    #[serde(default)]
    pub certificates: Vec<CertificateDocument>,
}

/// The host's clock.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct ClockDocument {
    /// Whether nothing is wrong with it.
    pub well: bool,
    /// How it is, for people.
    pub message: String,
    /// How far it was ahead of the other clock when they were compared last.
    pub skew_seconds: Option<f64>,
    /// When that was.
    pub compared_at: Option<String>,
    /// Whose time it is compared with.
    pub compared_with: Option<String>,
    /// Whether the kernel says that something keeps it.
    pub synchronised: Option<bool>,
    /// How often it was set since the supervisor started.
    pub jumps: u64,
    /// When it was set last.
    pub last_jump: Option<String>,
}

/// One certificate.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct CertificateDocument {
    /// Its name.
    pub name: String,
    /// `acme` or `files`.
    pub source: String,
    /// `idle`, `waiting`, `ordering`, `live`, `renewing` or `expired`.
    pub state: String,
    /// The names it is wanted for.
    pub domains: Vec<String>,
    /// Serial number of the live pair, hexadecimal.
    pub serial: Option<String>,
    /// The DNS names of the live pair.
    pub names: Vec<String>,
    /// When the live pair begins and ends to be valid.
    pub not_before: Option<String>,
    /// When the live pair ends.
    pub not_after: Option<String>,
    /// Days until then, rounded down; negative when it is over.
    pub days_left: Option<i64>,
    /// When the live pair is renewed.
    pub renew_at: Option<String>,
    /// When the authority is asked next, after a failure.
    pub next_attempt: Option<String>,
    /// Why the last try failed; empty when it did not.
    pub last_error: String,
    /// Pairs made live since the supervisor started.
    pub renewals: u64,
    /// Tries that failed since the supervisor started.
    pub failures: u64,
    /// Looks since the supervisor started.
    pub checks: u64,
}

/// One agent.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct AgentDocument {
    /// Its name.
    pub name: String,
    /// Its profile.
    pub profile: String,
    /// Its OpAMP instance uid.
    pub instance_uid: String,
    /// Healthy over all.
    pub healthy: bool,
    /// One word or two.
    pub status: String,
    /// Why it is not healthy; empty otherwise.
    pub last_error: String,
    /// The child, if one runs.
    pub child: Option<ChildDocument>,
    /// Restarts since the supervisor started.
    pub restarts: u64,
    /// Unasked exits since the supervisor started.
    pub crashes: u64,
    /// How the last child ended.
    pub last_exit: Option<String>,
    /// How often the child died in a row without a stable time, once that is a loop.
    #[serde(default)]
    pub crash_loop: Option<u32>,
    /// The phase of the rollout.
    pub phase: String,
    /// What keeps the rollout in its phase; empty otherwise.
    #[serde(default)]
    pub phase_error: String,
    /// What is known about the flow of data; none where nobody looks.
    #[serde(default)]
    pub flow: Option<String>,
    /// Seconds of looks at what flows under the config that runs.
    #[serde(default)]
    pub flow_baseline_seconds: f64,
    /// What `current` points to.
    pub current: Option<RevisionDocument>,
    /// What `last-good` points to.
    pub last_good: Option<String>,
    /// Every stored revision, newest first.
    pub revisions: Vec<RevisionDocument>,
    /// The last steps of rollouts, newest first.
    pub history: Vec<RecordDocument>,
    /// The last remote config status as reported.
    pub remote: Option<RemoteDocument>,
    /// The link to the server.
    pub link: LinkDocument,
    /// Health of what lies below the child, by path.
    pub components: BTreeMap<String, ComponentDocument>,
    /// Whether the default config runs although a remote one was applied.
    pub on_default: bool,
    /// What is known of its layers on disk.
    #[serde(default)]
    pub layers: LayersDocument,
    /// How many revisions are not to be tried again.
    pub rejected: usize,
    /// Why applies are frozen.
    pub frozen: Option<String>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// What is known of an agent's layers on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct LayersDocument {
    /// `inotify`, or how often files are looked at and why; null when none are watched.
    pub watched_by: Option<String>,
    /// Local files whose content was refused.
    pub refused: Vec<String>,
    /// Why it was; empty otherwise.
    pub reason: String,
    /// Files of the running revision that somebody else has changed.
    pub drift: Vec<DriftDocument>,
    /// Why they could not be put back; empty otherwise.
    pub drift_error: String,
}

/// A file of the running revision that somebody else has changed.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct DriftDocument {
    /// Its path inside the revision.
    pub path: String,
    /// SHA-256 of what belongs there, hexadecimal; empty for the manifest.
    pub expected: String,
    /// SHA-256 of what is there; null when it cannot be read or is gone.
    pub found: Option<String>,
}

/// A running child.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ChildDocument {
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub started: String,
    /// Whether an earlier life of the supervisor started it.
    #[serde(default)]
    pub adopted: bool,
}

/// A stored revision.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RevisionDocument {
    /// Its directory name.
    pub id: String,
    /// Its hash.
    pub hash: String,
    /// The offer behind it.
    pub offer: Option<String>,
    /// `offer`, `manual`, `local` or `default`.
    pub origin: String,
    /// When it was staged.
    pub at: String,
    /// How many files it holds.
    pub files: usize,
    /// How many bytes they hold.
    pub bytes: u64,
    /// Why it is not tried again; absent when it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// One step of one transaction.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RecordDocument {
    /// Its number; rises.
    pub transaction: u64,
    /// When the step was done.
    pub at: String,
    /// The step.
    pub step: String,
    /// Whether the transaction is over.
    pub over: bool,
    /// The revision it is about.
    pub revision: Option<String>,
    /// The offer behind it.
    pub offer: Option<String>,
    /// `offer`, `manual`, `local` or `default`.
    pub origin: String,
    /// Why, for steps that end badly.
    pub reason: String,
}

/// The last remote config status as reported.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RemoteDocument {
    /// The server's hash.
    pub offer: String,
    /// `applying`, `applied` or `failed`.
    pub outcome: String,
    /// Why it failed; empty otherwise.
    pub message: String,
}

/// The link to the server.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct LinkDocument {
    /// `disabled`, `connecting`, `connected`, `waiting` or `rejected`.
    pub state: String,
    /// Endpoint without credentials.
    pub endpoint: String,
    /// Whose settings it uses: `local`, `offered` ones that were proven, or offered ones `on_trial`.
    #[serde(default)]
    pub settings: String,
    /// Why it is not connected; empty otherwise.
    pub last_error: String,
    /// Attempts in a row that failed.
    pub attempt: u32,
    /// Seconds until the next attempt.
    pub retry_in_seconds: Option<f64>,
}

/// Health of something below the child.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ComponentDocument {
    /// Whether it is healthy.
    pub healthy: bool,
    /// In its own words.
    pub status: String,
}

/// `GET /v1/revisions`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RevisionsDocument {
    /// Whose they are.
    pub agent: String,
    /// What `current` points to.
    pub current: Option<String>,
    /// What `last-good` points to.
    pub last_good: Option<String>,
    /// Newest first.
    pub revisions: Vec<RevisionDocument>,
}

/// `GET /v1/revision`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ContentDocument {
    /// Its directory name.
    pub id: String,
    /// Its hash.
    pub hash: String,
    /// `offer`, `manual`, `local` or `default`.
    pub origin: String,
    /// When it was staged.
    pub at: String,
    /// Its files, in layer order.
    pub files: Vec<FileDocument>,
}

/// One file, stored or to be applied. Exactly one of `text` and `base64` is present.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileDocument {
    /// Its name in the bundle.
    pub name: String,
    /// Its content type; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// `local`, `remote`, `generated` or `marker`; only in answers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub layer: String,
    /// The content, when it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The content in base64, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// Body of `POST /v1/restart` and `POST /v1/reload`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AgentOrder {
    /// Which agent; may be left out when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// Body of `POST /v1/rollback`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RollbackOrder {
    /// Which agent; may be left out when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which revision; the one before the current one when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Body of `POST /v1/apply`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ApplyOrder {
    /// Which agent; may be left out when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The bundle.
    pub files: Vec<FileDocument>,
}

/// Body of `POST /v1/certificates/renew`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RenewOrder {
    /// Which certificate; all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Answer to an order that was taken.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct AcceptedDocument {
    /// What will happen, for people.
    pub accepted: String,
}

/// Every answer that is not 2xx, `/health` apart.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ErrorDocument {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ErrorBody {
    /// The class, one word.
    pub kind: String,
    /// For people.
    pub reason: String,
}

impl ErrorDocument {
    /// Builds an error answer.
    pub fn new(kind: &str, reason: impl Into<String>) -> Self {
        Self {
            error: ErrorBody {
                kind: kind.to_owned(),
                reason: reason.into(),
            },
        }
    }
}

impl FileDocument {
    /// A file with a name and a content, as text where the bytes allow it.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let (text, base64) = match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(base64::encode(error.as_bytes()))),
        };
        Self {
            name: name.into(),
            text,
            base64,
            ..Self::default()
        }
    }

    /// The content.
    ///
    /// # Errors
    /// Says which rule of [`FileDocument`] was broken, naming the file.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(coded)) => base64::decode(coded)
                .ok_or_else(|| format!("file {:?}: `base64` does not decode", self.name)),
            (Some(_), Some(_)) | (None, None) => Err(format!(
                "file {:?}: give exactly one of `text` and `base64`",
                self.name
            )),
        }
    }

    /// The file as the engine takes it.
    ///
    /// # Errors
    /// As [`FileDocument::bytes`].
    pub fn offered(self) -> Result<OfferedFile, String> {
        Ok(OfferedFile {
            body: self.bytes()?,
            name: self.name,
            content_type: self.content_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_carries_text_as_text_and_everything_else_as_base64() {
        let text = FileDocument::new("a.yaml", b"x: 1\n".to_vec());
        assert_eq!(text.text.as_deref(), Some("x: 1\n"));
        let binary = FileDocument::new("b.bin", vec![0xff, 0x00]);
        assert_eq!(binary.text, None);
        assert_eq!(binary.bytes(), Ok(vec![0xff, 0x00]));
    }

    #[test]
    fn a_file_with_both_contents_or_none_is_refused_by_name() {
        for (text, base64) in [(None, None), (Some("x"), Some("eA=="))] {
            let file = FileDocument {
                name: "a.yaml".to_owned(),
                text: text.map(str::to_owned),
                base64: base64.map(str::to_owned),
                ..FileDocument::default()
            };
            assert_eq!(
                file.bytes(),
                Err("file \"a.yaml\": give exactly one of `text` and `base64`".to_owned())
            );
        }
    }

    #[test]
    fn a_misspelt_order_is_refused() {
        let error = serde_json::from_str::<RollbackOrder>(r#"{"agnet":"x"}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `agnet`"),
            "{error}"
        );
    }
}
