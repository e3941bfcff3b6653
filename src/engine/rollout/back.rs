//! The bad end: before promotion nothing was touched; after it the way goes to last good, then to the base config,
//! then to a hold.
//!
//! Promises: what failed is remembered before anything else is done; `current` always names something that was
//! there before; after the last resort failed nothing further is tried, and the reason stands in health.
//! Must never: lose the reason.

use super::{REJECTED_MAX, Remember, Settling, Stage, only_default, record_of};
use crate::engine::desired::{self, Candidate};
use crate::engine::disk::Purpose;
use crate::engine::message::{DiskWork, NoteLevel, Origin, Outcome, Rejection, Revision, Step};
use crate::engine::watch::Watch;
use crate::engine::{Engine, report};
use crate::units::{Now, OfferHash, RevisionHash, RevisionId};

impl Engine {
    /// A failure before promotion: nothing was touched.
    pub(super) fn fail(&mut self, now: Now, reason: &str, remember: Remember) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let reason = report::bounded(reason);
        self.count("failed_applies");
        self.note(
            NoteLevel::Warn,
            "config not applied",
            vec![("reason", reason.clone())],
        );
        let record = record_of(&transaction, now, Step::Failed, &reason);
        self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
        self.remember(record);
        if let (Remember::Yes, Some(revision)) = (remember, &transaction.revision)
            && transaction.job.is_theirs()
        {
            self.reject(now, revision.hash, &reason, transaction.job.offer.as_ref());
            let rejected = self.rejected.clone();
            self.push_disk(Purpose::Memory, DiskWork::SaveRejected(rejected));
        }
        if let Some(offer) = &transaction.job.offer {
            self.answer(offer, Outcome::Failed, &reason);
            // What the host could not do today it may be able to do tomorrow; what the config is, it stays.
            self.remote_retryable = remember == Remember::No && transaction.is_before_promotion();
        }
        if transaction.is_an_order() {
            self.offer_gives_way();
        }
        if transaction.job.is_of_files() {
            self.layers_refused(&reason);
        }
        self.enter_with("failed", reason.clone());
        let more = self.inheritance.is_some();
        if transaction.job.last_resort || (self.current.is_none() && !more) {
            self.hold(reason);
        }
        self.prune();
        self.begin_pending(now);
        #[cfg(feature = "opampsupervisor")]
        self.after_inherited(now);
        self.resume_probation(now);
    }

    pub(super) fn hold(&mut self, reason: String) {
        self.note(
            NoteLevel::Error,
            "no config left to try",
            vec![("reason", reason.clone())],
        );
        self.held = Some(reason);
    }

    pub(super) fn reject(
        &mut self,
        now: Now,
        hash: RevisionHash,
        reason: &str,
        offer: Option<&OfferHash>,
    ) {
        self.rejected.retain(|rejection| rejection.hash != hash);
        if self.rejected.len() >= REJECTED_MAX {
            self.rejected.remove(0);
        }
        let offers = offer.cloned().into_iter().collect();
        let reason = reason.to_owned();
        self.rejected.push(Rejection {
            hash,
            reason,
            at: now.wall,
            offers,
        });
    }

    /// A failure after promotion.
    pub(super) fn go_back(&mut self, now: Now, reason: &str) {
        let reason = report::bounded(reason);
        self.count("rollbacks");
        self.note(
            NoteLevel::Warn,
            "config did not hold",
            vec![("reason", reason.clone())],
        );
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.failure.clone_from(&reason);
        if !self.settings.apply.rollback {
            let Some(transaction) = self.transaction.take() else {
                return;
            };
            let record = record_of(&transaction, now, Step::Failed, &reason);
            self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
            self.remember(record);
            if let Some(offer) = &transaction.job.offer {
                self.answer(offer, Outcome::Failed, &reason);
            }
            self.enter_with("failed", reason);
            return self.begin_pending(now);
        }
        transaction.stage = Stage::Rejecting;
        let theirs = transaction.job.is_theirs();
        let (hash, offer) = match &transaction.revision {
            Some(revision) => (revision.hash, transaction.job.offer.clone()),
            None => return,
        };
        self.enter_with("rolling back", reason.clone());
        self.proof_did_not_hold(offer.as_ref(), &reason);
        if theirs {
            self.reject(now, hash, &reason, offer.as_ref());
        }
        let rejected = self.rejected.clone();
        self.push_disk(Purpose::Transaction, DiskWork::SaveRejected(rejected));
    }

    pub(super) fn choose_target(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let bad = transaction.revision.as_ref().map(|revision| &revision.id);
        match self.last_good.clone() {
            Some(good) if Some(&good) != bad && !transaction.job.last_resort => {
                transaction.stage = Stage::FetchingGood;
                self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(good));
            }
            _ => match self.proven_before() {
                Some(proven) => {
                    if let Some(transaction) = &mut self.transaction {
                        transaction.stage = Stage::FetchingGood;
                    }
                    self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(proven));
                }
                None => self.fall_to_base(now),
            },
        }
    }

    /// Where nothing is last good yet: the newest other config that was proven, as when an offer took the place of the
    /// first one inside its window. It ran, which cannot be said of the base.
    fn proven_before(&self) -> Option<RevisionId> {
        let transaction = self.transaction.as_ref()?;
        let bad = transaction.revision.as_ref().map(|revision| revision.hash);
        let proven = self.history.iter().rev().filter(|record| {
            record.step == Step::Probation
                && record.hash != bad
                && !self
                    .rejected
                    .iter()
                    .any(|rejection| Some(rejection.hash) == record.hash)
        });
        proven
            .filter(|_| self.last_good.is_none() && !transaction.job.last_resort)
            .filter_map(|record| record.revision.clone())
            .find(|id| self.revisions.iter().any(|stored| &stored.id == id))
    }

    #[cfg(feature = "layers")]
    /// Last good cannot be read as it was committed. Where its bytes are still known they are put back; as it is it is
    /// not gone back to.
    pub(super) fn good_not_read(&mut self, now: Now, reason: &str) {
        let Some(good) = self.known_good() else {
            return self.fall_to_base(now);
        };
        self.note(
            NoteLevel::Error,
            "last good is not what was committed, put back",
            vec![
                ("revision", good.id.to_string()),
                ("reason", reason.to_owned()),
            ],
        );
        if let Some(transaction) = &mut self.transaction {
            transaction.target = Some(good.clone());
            transaction.stage = Stage::RestoringGood;
            self.push_disk(Purpose::Transaction, DiskWork::Restore(Box::new(good)));
        }
    }

    #[cfg(feature = "layers")]
    /// The bytes of last good, where it is what ran before and is still known whole.
    fn known_good(&self) -> Option<Revision> {
        let previous = self.transaction.as_ref()?.previous.as_ref()?;
        (Some(&previous.id) == self.last_good.as_ref()).then(|| previous.clone())
    }

    /// What the host has of its own, where that may be gone back to.
    fn base_to_fall_to(&self) -> Option<Candidate> {
        let transaction = self.transaction.as_ref()?;
        let bad = transaction.revision.as_ref().map(|revision| revision.hash);
        self.compose_base().ok().filter(|base| {
            !base.is_empty()
                && Some(base.hash) != bad
                && !transaction.job.last_resort
                && !self
                    .rejected
                    .iter()
                    .any(|rejection| rejection.hash == base.hash)
        })
    }

    /// Whether something is there to go back to.
    pub(super) fn has_refuge(&self) -> bool {
        let transaction = self.transaction.as_ref();
        let bad = transaction.and_then(|it| it.revision.as_ref());
        let good = self.last_good.as_ref();
        let is_good = good.is_some_and(|good| Some(good) != bad.map(|revision| &revision.id));
        is_good || self.proven_before().is_some() || self.base_to_fall_to().is_some()
    }

    pub(super) fn fall_to_base(&mut self, now: Now) {
        let Some(base) = self.base_to_fall_to() else {
            return self.nowhere_to_go(now);
        };
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let origin = if only_default(&base, &self.local) {
            Origin::Default
        } else {
            Origin::Local
        };
        // Where one could not be read it may be this very one: then the base is written anew.
        let mut stored = self.revisions.iter().filter(|_| !transaction.unread);
        let stored = stored.find(|stored| stored.hash == base.hash);
        if let Some(stored) = stored {
            let id = stored.id.clone();
            transaction.stage = Stage::FetchingGood;
            return self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(id));
        }
        let target = Revision {
            id: RevisionId::new(now.wall, base.hash),
            hash: base.hash,
            offer: None,
            origin,
            at: now.wall,
            files: base.files,
        };
        transaction.target = Some(target.clone());
        transaction.stage = Stage::StagingBase;
        self.push_disk(Purpose::Transaction, DiskWork::Stage(Box::new(target)));
    }

    pub(super) fn nowhere_to_go(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.target = None;
        transaction.stage = Stage::MarkingRolledBack;
        let reason = transaction.failure.clone();
        self.mark(now, Step::RolledBack, &reason);
    }

    pub(super) fn return_to(&mut self, target: Revision) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let id = target.id.clone();
        transaction.target = Some(target);
        transaction.stage = Stage::Returning { retry_at: None };
        self.enter("rolling back");
        self.push_disk(Purpose::Transaction, DiskWork::Promote(id));
    }

    pub(super) fn returned(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.current.clone_from(&transaction.target);
        self.effective_stale = true;
        transaction.stage = Stage::MarkingRolledBack;
        let reason = transaction.failure.clone();
        self.mark(now, Step::RolledBack, &reason);
    }

    pub(super) fn rolled_back(&mut self, now: Now) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        if let Some(offer) = &transaction.job.offer {
            self.answer(offer, Outcome::Failed, &transaction.failure);
        }
        if transaction.is_an_order() {
            self.offer_runs_again();
        }
        // Where it could not be gone back to, what an offer brought does not run any more.
        self.own_up_to_a_loss();
        let reason = transaction.failure;
        if transaction.job.is_of_files() {
            self.layers_refused(&reason);
        }
        self.enter_with("rolled back", reason.clone());
        let Some(target) = transaction.target else {
            // An offer that never ran is worth nothing. The operator's own config stays under the restart policy: it is
            // all there is, and what keeps it from coming up may go away.
            if transaction.job.is_theirs() {
                let orders = self.life.want_down(now.mono);
                self.obey(orders);
            }
            self.hold(reason);
            self.begin_pending(now);
            #[cfg(feature = "opampsupervisor")]
            self.after_inherited(now);
            return;
        };
        // A promotion that the disk refused never told the child anything: it still runs what `current` shows again.
        if transaction.watch.is_some() {
            let anew = !transaction.refused_by_child;
            let previous = transaction.revision.as_ref();
            let how = self.change_child(now, previous, &target, anew);
            self.note(
                NoteLevel::Info,
                "went back",
                vec![("revision", target.id.to_string()), ("how", how)],
            );
            if !desired::is_empty(&target.files) {
                let watch = Watch::new(target.hash, now.mono, self.settings.apply.proof_timeout);
                let last_resort = transaction.job.last_resort || target.origin == Origin::Default;
                // What the server was told of an offer is not changed by what became of something else.
                let offer = target.offer.filter(|_| transaction.job.offer.is_some());
                self.settling = Some(Settling {
                    watch,
                    offer,
                    last_resort,
                });
            }
        }
        self.prune();
        self.begin_pending(now);
        #[cfg(feature = "opampsupervisor")]
        self.after_inherited(now);
    }
}
