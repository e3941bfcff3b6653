//! The certificate gate: a config that needs a pair which is not there yet waits, and goes on when it arrives.
//!
//! Promises: the wait stands before the validator, which would only trip over missing files; it is in the journal and
//! survives restarts of ours without a mark against the config; a newer offer takes its place at once; it ends in
//! FAILED after `apply.certificate_wait`, counted from its beginning on the wall clock and within one life on the
//! monotonic one; no new push is needed when the pair arrives.
//! Must never: touch the child, or remember a config as bad because a pair did not come.

use std::time::Duration;

use super::{Remember, Stage};
use crate::engine::Engine;
use crate::engine::certificates::KnownCertificate;
use crate::engine::message::{LayerKind, Step};
use crate::units::{Moment, Now, format_duration};

/// The phase of a rollout that waits.
const PHASE: &str = "waiting for certificate";

/// The wait of a config that is all there is: as long as it takes. Nothing would run in its place.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_hours(24 * 365);

/// What an agent's bundle says about the domains of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DomainEntry<'a> {
    /// A transaction has not come far enough to say.
    Unsettled,
    /// The bundle has no such entry.
    Absent,
    /// It has.
    Present(&'a crate::engine::message::RevisionFile),
}

impl Engine {
    /// The revision is on disk: does it need a pair that is not there?
    pub(super) fn gate(&mut self, now: Now) {
        if self.goes_back_to_what_held() {
            return self.validate(now);
        }
        match self.missing(now) {
            Err(reason) => self.fail(now, &reason, Remember::No),
            Ok(missing) if missing.is_empty() => self.validate(now),
            Ok(missing) => {
                let mut wait = self.settings.apply.certificate_wait;
                if let Some(transaction) = &self.transaction {
                    let begun = self.history.iter().find(|record| {
                        record.transaction == transaction.number && record.step == Step::Awaiting
                    });
                    // What earlier lives waited counts; a clock that went back does not make it longer.
                    let waited = begun.map_or(0, |record| {
                        let begun = record.at.unix_millis();
                        now.wall.unix_millis().saturating_sub(begun)
                    });
                    wait = wait.saturating_sub(Duration::from_millis(waited));
                    if self.current.is_none() && !transaction.job.is_theirs() {
                        wait = AS_LONG_AS_IT_TAKES;
                    }
                }
                if let Some(transaction) = &mut self.transaction {
                    transaction.stage = Stage::MarkingAwaiting {
                        until: now.mono.after(wait),
                    };
                }
                self.count("certificate_waits");
                self.enter_with(PHASE, missing.clone());
                self.mark(now, Step::Awaiting, &missing);
            }
        }
    }

    /// A stored revision that was committed once is what somebody goes back to in trouble; it waits for nothing.
    fn goes_back_to_what_held(&self) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        let hash = transaction.revision.as_ref().map(|revision| revision.hash);
        transaction.stored
            && self
                .history
                .iter()
                .any(|record| record.step == Step::Committed && record.hash == hash)
    }

    /// The wait is in the journal.
    pub(super) fn await_certificate(&mut self, until: Moment) {
        if let Some(transaction) = &mut self.transaction {
            transaction.stage = Stage::Awaiting { until };
        }
    }

    /// Looks whether the wait is over. True when something moved.
    pub(super) fn drive_awaiting(&mut self, now: Now, until: Moment) -> bool {
        if self.pending.is_some() {
            return self.supersede(now);
        }
        match self.missing(now) {
            Err(reason) => {
                self.fail(now, &reason, Remember::No);
                true
            }
            Ok(missing) if missing.is_empty() => {
                self.validate(now);
                true
            }
            Ok(missing) if until <= now.mono => {
                let limit = format_duration(self.settings.apply.certificate_wait);
                let reason = format!("not there within {limit}: {missing}");
                self.fail(now, &reason, Remember::No);
                true
            }
            Ok(missing) => {
                self.phase_error = missing;
                false
            }
        }
    }

    /// What the candidate waits for, in words; empty when there is nothing.
    fn missing(&self, now: Now) -> Result<String, String> {
        let revision = self.transaction.as_ref().and_then(|t| t.revision.as_ref());
        let files = revision.map_or(&[][..], |revision| &revision.files);
        let missing = self.certificates.missing(&self.settings, files, now.wall)?;
        let words: Vec<String> = missing.into_iter().map(in_words).collect();
        Ok(words.join("; "))
    }

    /// What the bundle that runs, or is about to, says about the domains of a certificate.
    pub(crate) fn domain_entry(&self, name: &str) -> DomainEntry<'_> {
        let revision = match &self.transaction {
            Some(transaction) => match transaction.stage {
                Stage::Gathering
                | Stage::Fetching
                | Stage::Intent
                | Stage::Staging
                | Stage::MarkingStaged => return DomainEntry::Unsettled,
                Stage::MarkingAwaiting { .. }
                | Stage::Awaiting { .. }
                | Stage::Validating { .. }
                | Stage::MarkingValidated
                | Stage::Promoting => transaction.revision.as_ref(),
                #[cfg(feature = "layers")]
                Stage::FetchingBaseline | Stage::StagingTrial { .. } | Stage::Trying { .. } => {
                    transaction.revision.as_ref()
                }
                _ => self.current.as_ref(),
            },
            None => self.current.as_ref(),
        };
        let files = revision.map_or(&[][..], |revision| &revision.files);
        files
            .iter()
            .find(|file| file.layer == LayerKind::Remote && file.source == name)
            .map_or(DomainEntry::Absent, DomainEntry::Present)
    }
}

fn in_words(entry: &KnownCertificate) -> String {
    let name = &entry.name;
    if entry.error.is_empty() {
        format!("certificate {name}")
    } else {
        format!("certificate {name}: {}", entry.error)
    }
}
