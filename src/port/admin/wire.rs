//! The shapes that the control socket and the HTTP doors speak: JSON documents, written by the server, read by the
//! client.
//!
//! Promises: engine types never appear on the wire; each is converted here, field by field, so that renaming one
//! inside cannot break a script outside. Times are RFC 3339 in UTC, spans are seconds, hashes are hexadecimal.
//! Must never: decide anything, or carry a secret.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::base64;
use super::registration::RegistrationDocument;
use crate::engine::message::{
    AgentSnapshot, CertificateSnapshot, LayerKind, OfferedFile, Origin, Outcome, Record,
    RemoteStatus, Revision, RevisionFile, Snapshot, Step, StoredRevision,
};
use crate::units::WallTime;

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
    /// Registration, where it is set up.
    #[serde(default)]
    pub registration: Option<RegistrationDocument>,
    /// Every agent, in start order.
    pub agents: Vec<AgentDocument>,
    /// Every certificate.
    #[serde(default)]
    pub certificates: Vec<CertificateDocument>,
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
    /// How many revisions are not to be tried again.
    pub rejected: usize,
    /// Why applies are frozen.
    pub frozen: Option<String>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
}

/// A running child.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ChildDocument {
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub started: String,
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

impl From<&Snapshot> for StatusDocument {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: snapshot.at.to_string(),
            uptime_seconds: seconds(snapshot.uptime),
            stopping: snapshot.stopping,
            previous_end: snapshot.previous_end.clone(),
            registration: snapshot
                .registration
                .as_ref()
                .map(RegistrationDocument::from),
            agents: snapshot.agents.iter().map(AgentDocument::from).collect(),
            certificates: snapshot
                .certificates
                .iter()
                .map(|certificate| CertificateDocument::of(certificate, snapshot.at))
                .collect(),
        }
    }
}

impl CertificateDocument {
    /// What is true at `at`.
    fn of(certificate: &CertificateSnapshot, at: WallTime) -> Self {
        let pair = certificate.pair.as_ref();
        Self {
            name: certificate.name.to_string(),
            source: certificate.source.to_owned(),
            state: certificate.state.to_owned(),
            domains: certificate
                .domains
                .iter()
                .map(ToString::to_string)
                .collect(),
            serial: pair.map(|pair| pair.serial.clone()),
            names: pair.map(|pair| pair.names.clone()).unwrap_or_default(),
            not_before: pair.map(|pair| pair.not_before.to_string()),
            not_after: pair.map(|pair| pair.not_after.to_string()),
            days_left: pair.map(|pair| days_left(pair.not_after, at)),
            renew_at: certificate.renew_at.map(|at| at.to_string()),
            next_attempt: certificate.next_attempt.map(|at| at.to_string()),
            last_error: certificate.last_error.clone(),
            renewals: certificate.renewals,
            failures: certificate.failures,
            checks: certificate.checks,
        }
    }
}

/// Whole days from `at` to `until`; negative when that is over.
pub(super) fn days_left(until: WallTime, at: WallTime) -> i64 {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let millis = |at: WallTime| i64::try_from(at.unix_millis()).unwrap_or(i64::MAX);
    millis(until).saturating_sub(millis(at)).div_euclid(DAY_MS)
}

impl From<&AgentSnapshot> for AgentDocument {
    fn from(agent: &AgentSnapshot) -> Self {
        Self {
            name: agent.name.to_string(),
            profile: agent.profile.clone(),
            instance_uid: uuid::Uuid::from_bytes(agent.instance_uid).to_string(),
            healthy: agent.healthy,
            status: agent.status.clone(),
            last_error: agent.last_error.clone(),
            child: agent.child.as_ref().map(|child| ChildDocument {
                pid: child.pid,
                started: child.started.to_string(),
            }),
            restarts: agent.restarts,
            crashes: agent.crashes,
            last_exit: agent.last_exit.clone(),
            crash_loop: agent.crash_loop,
            phase: agent.phase.to_owned(),
            phase_error: agent.phase_error.clone(),
            current: agent.current.as_ref().map(RevisionDocument::from),
            last_good: agent.last_good.as_ref().map(ToString::to_string),
            revisions: revisions(agent),
            history: agent.history.iter().map(RecordDocument::from).collect(),
            remote: agent.remote.as_ref().map(RemoteDocument::from),
            link: LinkDocument {
                state: agent.link.state.to_owned(),
                endpoint: agent.link.endpoint.clone(),
                last_error: agent.link.last_error.clone(),
                attempt: agent.link.attempt,
                retry_in_seconds: agent.link.retry_in.map(seconds),
            },
            components: agent
                .components
                .iter()
                .map(|(path, (healthy, status))| {
                    let component = ComponentDocument {
                        healthy: *healthy,
                        status: status.clone(),
                    };
                    (path.clone(), component)
                })
                .collect(),
            on_default: agent.on_default,
            rejected: agent.rejected.len(),
            frozen: agent.frozen.clone(),
            counters: agent
                .counters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        }
    }
}

impl From<&StoredRevision> for RevisionDocument {
    fn from(stored: &StoredRevision) -> Self {
        Self {
            id: stored.id.to_string(),
            hash: stored.hash.to_hex(),
            offer: stored.offer.as_ref().map(crate::units::OfferHash::to_hex),
            origin: origin(stored.origin).to_owned(),
            at: stored.at.to_string(),
            files: stored.files,
            bytes: stored.bytes,
            rejected: None,
        }
    }
}

impl From<&Record> for RecordDocument {
    fn from(record: &Record) -> Self {
        Self {
            transaction: record.transaction,
            at: record.at.to_string(),
            step: step(record.step).to_owned(),
            over: record.step.is_final(),
            revision: record.revision.as_ref().map(ToString::to_string),
            offer: record.offer.as_ref().map(crate::units::OfferHash::to_hex),
            origin: origin(record.origin).to_owned(),
            reason: record.reason.clone(),
        }
    }
}

impl From<&RemoteStatus> for RemoteDocument {
    fn from(remote: &RemoteStatus) -> Self {
        Self {
            offer: remote.offer.to_hex(),
            outcome: match remote.outcome {
                Outcome::Applying => "applying",
                Outcome::Applied => "applied",
                Outcome::Failed => "failed",
            }
            .to_owned(),
            message: remote.message.clone(),
        }
    }
}

impl From<&AgentSnapshot> for RevisionsDocument {
    fn from(agent: &AgentSnapshot) -> Self {
        Self {
            agent: agent.name.to_string(),
            current: agent.current.as_ref().map(|stored| stored.id.to_string()),
            last_good: agent.last_good.as_ref().map(ToString::to_string),
            revisions: revisions(agent),
        }
    }
}

impl From<Revision> for ContentDocument {
    fn from(revision: Revision) -> Self {
        Self {
            id: revision.id.to_string(),
            hash: revision.hash.to_hex(),
            origin: origin(revision.origin).to_owned(),
            at: revision.at.to_string(),
            files: revision.files.into_iter().map(FileDocument::from).collect(),
        }
    }
}

impl From<RevisionFile> for FileDocument {
    fn from(file: RevisionFile) -> Self {
        Self {
            content_type: file.content_type,
            layer: match file.layer {
                LayerKind::Local => "local",
                LayerKind::Remote => "remote",
                LayerKind::Generated => "generated",
                LayerKind::Marker => "marker",
            }
            .to_owned(),
            ..Self::new(file.path, file.bytes)
        }
    }
}

/// The stored revisions, each with what is held against it.
fn revisions(agent: &AgentSnapshot) -> Vec<RevisionDocument> {
    let marked = agent.revisions.iter().map(|stored| {
        let mut bad = agent
            .rejected
            .iter()
            .filter(|(hash, _)| *hash == stored.hash);
        RevisionDocument {
            rejected: bad.next().map(|(_, reason)| reason.clone()),
            ..RevisionDocument::from(stored)
        }
    });
    marked.collect()
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Offer => "offer",
        Origin::Manual => "manual",
        Origin::Local => "local",
        Origin::Default => "default",
    }
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Intent => "intent",
        Step::Staged => "staged",
        Step::Awaiting => "awaiting",
        Step::Validated => "validated",
        Step::Promoted => "promoted",
        Step::Signalled => "signalled",
        Step::Probation => "probation",
        Step::Committed => "committed",
        Step::RolledBack => "rolled_back",
        Step::Failed => "failed",
        Step::Superseded => "superseded",
        Step::Resumed => "resumed",
        Step::Suspended => "suspended",
    }
}

/// Seconds with millisecond resolution, so that documents compare and read well.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
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
