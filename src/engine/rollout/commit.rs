//! The good end: last good moves, the server reads APPLIED, old revisions go.
//!
//! Promises: last good is set only after the window; what `current` and `last-good` name is never pruned.
//! Must never: decide whether the window was passed.

use super::Stage;
use crate::engine::Engine;
use crate::engine::disk::Purpose;
use crate::engine::message::{DiskWork, Origin, Outcome, Step};
use crate::units::{Now, RevisionHash, RevisionId, order};

impl Engine {
    pub(super) fn mark_good(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        let id = revision.id.clone();
        transaction.stage = Stage::MarkingGood { retry_at: None };
        self.push_disk(Purpose::Transaction, DiskWork::MarkGood(id));
    }

    pub(super) fn good(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.last_good = transaction
            .revision
            .as_ref()
            .map(|revision| revision.id.clone());
        transaction.stage = Stage::MarkingCommitted;
        let flow = self.flow_words().to_owned();
        self.mark(now, Step::Committed, &flow);
    }

    pub(super) fn committed(&mut self, now: Now) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        self.count("commits");
        self.flow_commits();
        self.inheritance = None;
        if let Some(revision) = &transaction.revision {
            self.forgive(revision.hash);
        }
        match transaction.job.offer {
            Some(offer) => self.answer(&offer, Outcome::Applied, ""),
            None if transaction.job.origin == Origin::Manual => self.order_stands(),
            None => {}
        }
        self.layers_accepted();
        self.enter("committed");
        self.prune();
        self.begin_pending(now);
    }

    /// A config that proved itself after all is no longer rejected.
    pub(super) fn forgive(&mut self, hash: RevisionHash) {
        let before = self.rejected.len();
        self.rejected.retain(|rejection| rejection.hash != hash);
        if self.rejected.len() != before {
            let rejected = self.rejected.clone();
            self.push_disk(Purpose::Memory, DiskWork::SaveRejected(rejected));
        }
    }

    pub(super) fn prune(&mut self) {
        let mut ids: Vec<RevisionId> = self
            .revisions
            .iter()
            .map(|stored| stored.id.clone())
            .collect();
        order::sort(&mut ids);
        ids.reverse();
        let referenced = |id: &RevisionId| {
            self.current
                .as_ref()
                .is_some_and(|current| &current.id == id)
                || self.last_good.as_ref() == Some(id)
        };
        // What a newer offer overtook before it ran is of no use to anybody, and offers may come faster than they end.
        let of = |id: &RevisionId, step: fn(Step) -> bool| {
            let mut records = self.history.iter();
            records.any(|record| record.revision.as_ref() == Some(id) && step(record.step))
        };
        let overtaken = |id: &RevisionId| {
            of(id, |step| step == Step::Superseded) && !of(id, |step| step == Step::Promoted)
        };
        let mut spare = self.settings.apply.keep_revisions;
        let mut keep = Vec::new();
        for id in ids.iter().cloned() {
            if referenced(&id) {
                keep.push(id);
            } else if spare > 0 && !overtaken(&id) {
                spare = spare.saturating_sub(1);
                keep.push(id);
            }
        }
        if keep.len() < ids.len() {
            self.push_disk(Purpose::Prune, DiskWork::Prune { keep });
        }
    }
}
