//! Where the transaction goes from each answer of the disk, good or bad.
//!
//! Promises: every stage that waits for the disk has an arm for its answer and one for its fault; a fault before
//! promotion touches nothing, a fault after it never leaves the child without a config.
//! Must never: wait for anything but the disk.

use super::{DISK_RETRY, Remember, Source, Stage, stored_of};
use crate::engine::Engine;
use crate::engine::disk::Purpose;
use crate::engine::message::{DiskDone, DiskFault, DiskWork, NoteLevel, Step};
use crate::units::Now;

impl Engine {
    /// An answer of the disk for the running transaction.
    #[expect(clippy::too_many_lines, reason = "one arm per stage, each short")]
    pub(crate) fn transaction_disk(&mut self, now: Now, result: Result<DiskDone, DiskFault>) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let done = match result {
            Ok(done) => done,
            Err(fault) => return self.transaction_fault(now, fault),
        };
        match (&transaction.stage, done) {
            (Stage::Gathering, DiskDone::Local(local)) => {
                // Destinations are tried with what runs, whatever became of the files on disk.
                if !matches!(transaction.job.source, Source::OwnTelemetry) {
                    let theirs = transaction.job.is_theirs();
                    self.local = self.accepted_layers(local, theirs);
                    self.tell_left_out();
                }
                if !self.overtaken(now) {
                    self.compose(now);
                }
            }
            (Stage::Fetching, DiskDone::Revision(revision)) => {
                transaction.revision = Some(*revision);
                let resumed = std::mem::replace(&mut transaction.stored, true);
                if self.overtaken(now) {
                    return;
                }
                if resumed {
                    self.staged(now, Step::Resumed);
                } else {
                    self.decide(now);
                }
            }
            (Stage::Intent, _) => {
                let Some(revision) = transaction.revision.clone() else {
                    return;
                };
                if transaction.stored {
                    return self.staged(now, Step::Staged);
                }
                transaction.stage = Stage::Staging;
                self.enter("staging");
                self.push_disk(Purpose::Transaction, DiskWork::Stage(Box::new(revision)));
            }
            (Stage::Staging, _) => {
                if let Some(revision) = &transaction.revision {
                    let stored = stored_of(revision);
                    self.revisions.push(stored);
                }
                self.staged(now, Step::Staged);
            }
            (Stage::MarkingStaged, _) => {
                if !self.overtaken(now) {
                    self.gate(now);
                }
            }
            (Stage::MarkingAwaiting { until }, _) => {
                let until = *until;
                if !self.overtaken(now) {
                    self.await_certificate(until);
                }
            }
            #[cfg(feature = "layers")]
            (Stage::FetchingBaseline, DiskDone::Revision(revision)) => {
                if self.pending.is_some() {
                    self.search_overtaken(now);
                } else {
                    self.baseline(now, *revision);
                }
            }
            #[cfg(feature = "layers")]
            (Stage::StagingTrial { .. }, _) => {
                if self.pending.is_some() {
                    self.search_overtaken(now);
                } else {
                    self.judge_trial(now);
                }
            }
            (Stage::MarkingValidated, _) => {
                if !self.overtaken(now) {
                    self.promote();
                }
            }
            (Stage::Promoting, _) => self.promoted(now),
            (Stage::Recalling, DiskDone::Revision(told)) => {
                transaction.previous = Some(*told);
                self.tell_child(now);
            }
            (Stage::MarkingPromoted, _) => self.tell_child(now),
            (Stage::MarkingSignalled, _) if transaction.doomed => {
                self.go_back(
                    now,
                    "interrupted again and again while it was being applied",
                );
            }
            (Stage::MarkingSignalled, _) => {
                transaction.stage = Stage::Proving;
                self.enter("proving");
            }
            (Stage::MarkingProbation, _) => self.begin_probation(now),
            (Stage::MarkingGood { .. }, _) => self.good(now),
            (Stage::MarkingCommitted, _) => self.committed(now),
            (Stage::Rejecting, _) => self.choose_target(now),
            (Stage::FetchingGood, DiskDone::Revision(revision)) => self.return_to(*revision),
            #[cfg(feature = "layers")]
            (Stage::RestoringGood, _) => {
                if let Some(target) = transaction.target.clone() {
                    self.count("drift_restores");
                    self.return_to(target);
                }
            }
            (Stage::StagingBase, _) => {
                if let Some(target) = transaction.target.clone() {
                    self.revisions.push(stored_of(&target));
                    self.return_to(target);
                }
            }
            (Stage::Returning { .. }, _) => self.returned(now),
            (Stage::MarkingRolledBack, _) => self.rolled_back(now),
            (stage, done) => {
                debug_assert!(false, "unexpected disk answer {done:?} in {stage:?}");
            }
        }
    }

    pub(super) fn transaction_fault(&mut self, now: Now, fault: DiskFault) {
        self.count("disk_faults");
        self.note(
            NoteLevel::Error,
            "disk work not done",
            vec![("error", fault.reason.clone())],
        );
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        match transaction.stage {
            Stage::Gathering
            | Stage::Fetching
            | Stage::Intent
            | Stage::Staging
            | Stage::MarkingStaged
            | Stage::MarkingValidated => self.fail(now, &fault.reason, Remember::No),
            #[cfg(feature = "layers")]
            Stage::FetchingBaseline | Stage::StagingTrial { .. } => {
                self.search_breaks(now, &fault.reason);
            }
            Stage::Promoting => {
                // The link may or may not have moved. Point it back; the child was not told anything.
                transaction.failure = fault.reason;
                if let Some(previous) = transaction.previous.clone() {
                    transaction.target = Some(previous.clone());
                    self.return_to(previous);
                } else {
                    let reason = transaction.failure.clone();
                    self.fail(now, &reason, Remember::No);
                }
            }
            // The wait goes on in this life; the next one begins it anew.
            Stage::MarkingAwaiting { until } => self.await_certificate(until),
            // What it runs is gone: then nobody can say that a HUP is enough.
            Stage::Recalling => {
                transaction.previous = None;
                self.tell_child(now);
            }
            // The record is missing but `current` tells a next start as much.
            Stage::MarkingPromoted => self.tell_child(now),
            Stage::MarkingSignalled => transaction.stage = Stage::Proving,
            Stage::MarkingProbation => self.begin_probation(now),
            Stage::MarkingCommitted => self.committed(now),
            Stage::MarkingGood { .. } => {
                transaction.stage = Stage::MarkingGood {
                    retry_at: Some(now.mono.after(DISK_RETRY)),
                };
                self.phase_error = fault.reason;
            }
            Stage::Rejecting => self.choose_target(now),
            Stage::FetchingGood => {
                transaction.unread = true;
                #[cfg(feature = "layers")]
                self.good_not_read(now, &fault.reason);
                #[cfg(not(feature = "layers"))]
                self.fall_to_base(now);
            }
            #[cfg(feature = "layers")]
            Stage::RestoringGood => {
                transaction.target = None;
                self.fall_to_base(now);
            }
            Stage::StagingBase => self.nowhere_to_go(now),
            Stage::Returning { .. } => {
                transaction.stage = Stage::Returning {
                    retry_at: Some(now.mono.after(DISK_RETRY)),
                };
                self.phase_error = fault.reason;
            }
            Stage::MarkingRolledBack => self.rolled_back(now),
            #[cfg(feature = "layers")]
            Stage::Trying { .. } => debug_assert!(false, "no disk work is under way"),
            Stage::Awaiting { .. }
            | Stage::Validating { .. }
            | Stage::Proving
            | Stage::Probation { .. } => {
                debug_assert!(false, "no disk work is under way");
            }
        }
    }
}
