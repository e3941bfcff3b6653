//! Engine → documents: the state as the doors write it down.
//!
//! Promises: every moment becomes RFC 3339 in UTC, every span seconds, every enum one lower-case word.
//! Must never: leave out what the engine shows.

use std::time::Duration;

use super::{
    AgentDocument, AgentSnapshot, CertificateDocument, CertificateSnapshot, ChildDocument,
    ClockDocument, ClockSnapshot, ComponentDocument, ContentDocument, DriftDocument, FileDocument,
    LayerKind, LayersDocument, LinkDocument, Origin, Outcome, Record, RecordDocument,
    RegistrationDocument, RemoteDocument, RemoteStatus, Revision, RevisionDocument, RevisionFile,
    RevisionsDocument, Snapshot, StatusDocument, Step, StoredRevision, WallTime,
};
use crate::engine::message::LayersSnapshot;
use crate::units::order;

impl From<&Snapshot> for StatusDocument {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: snapshot.at.to_string(),
            uptime_seconds: seconds(snapshot.uptime),
            stopping: snapshot.stopping,
            previous_end: snapshot.previous_end.clone(),
            clock: snapshot.clock.as_ref().map(ClockDocument::from),
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

impl From<&ClockSnapshot> for ClockDocument {
    fn from(clock: &ClockSnapshot) -> Self {
        // A clock that is off by a year is off by 3e10 ms: far inside what this type says exactly.
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let seconds = |millis: i64| millis as f64 / 1000.0;
        Self {
            well: clock.well,
            message: clock.words.clone(),
            skew_seconds: clock.skew_ms.map(seconds),
            compared_at: clock.compared_at.map(|at| at.to_string()),
            compared_with: clock.compared_with.clone(),
            synchronised: clock.synchronised,
            jumps: clock.jumps,
            last_jump: clock.last_jump.map(|(at, _)| at.to_string()),
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
pub(in crate::port::admin) fn days_left(until: WallTime, at: WallTime) -> i64 {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let millis = |at: WallTime| i64::try_from(at.unix_millis()).unwrap_or(i64::MAX);
    millis(until).saturating_sub(millis(at)).div_euclid(DAY_MS)
}

impl From<&LayersSnapshot> for LayersDocument {
    fn from(layers: &LayersSnapshot) -> Self {
        let drift = layers.drift.iter().map(|file| DriftDocument {
            path: file.path.clone(),
            expected: file.expected.clone(),
            found: file.found.clone(),
        });
        Self {
            watched_by: layers.watched_by.clone(),
            refused: layers.refused.clone(),
            reason: layers.reason.clone(),
            drift: drift.collect(),
            drift_error: layers.drift_error.clone(),
        }
    }
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
                adopted: agent.adopted,
            }),
            restarts: agent.restarts,
            crashes: agent.crashes,
            last_exit: agent.last_exit.clone(),
            crash_loop: agent.crash_loop,
            phase: agent.phase.to_owned(),
            phase_error: agent.phase_error.clone(),
            flow: agent.flow.clone(),
            flow_baseline_seconds: agent.flow_baseline.as_secs_f64(),
            current: agent.current.as_ref().map(RevisionDocument::from),
            last_good: agent.last_good.as_ref().map(ToString::to_string),
            revisions: revisions(agent),
            history: agent.history.iter().map(RecordDocument::from).collect(),
            remote: agent.remote.as_ref().map(RemoteDocument::from),
            link: LinkDocument {
                state: agent.link.state.to_owned(),
                endpoint: agent.link.endpoint.clone(),
                settings: agent.link.settings.to_owned(),
                last_error: agent.link.last_error.clone(),
                attempt: agent.link.attempt,
                retry_in_seconds: agent.link.retry_in.map(seconds),
            },
            components: order::map(agent.components.iter().map(|(path, part)| {
                let component = ComponentDocument {
                    healthy: part.healthy,
                    status: part.words.clone(),
                };
                (path.clone(), component)
            })),
            on_default: agent.on_default,
            layers: LayersDocument::from(&agent.layers),
            rejected: agent.rejected.len(),
            frozen: agent.frozen.clone(),
            counters: order::map(
                agent
                    .counters
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), *value)),
            ),
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
