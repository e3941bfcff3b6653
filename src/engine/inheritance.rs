//! What the OpenTelemetry Collector's supervisor left in a state directory, taken up on the first start that finds
//! nothing of ours there.
//!
//! Promises: its last offer is applied like any other (policy, validation, proof) and reported under its own hash; what
//! it had judged bad is not tried again; the last one that worked comes next. Each is tried once, also over a crash.
//! Must never: take the place of what is stored in our own form.

use crate::engine::Engine;
use crate::engine::disk::Purpose;
use crate::engine::message::{
    DiskWork, Inheritance, InheritedOffer, NoteLevel, Origin, Outcome, Record, Revision, Step,
};
use crate::engine::rollout::{Job, Source};
use crate::units::{Now, OfferHash};

impl Engine {
    /// Begins with the next inherited config that is worth a try; false when there is none left.
    pub(crate) fn begin_inherited(&mut self, now: Now) -> bool {
        loop {
            let Some(left) = &mut self.inheritance else {
                return false;
            };
            let Inheritance {
                received,
                failed,
                working,
                ..
            } = left.as_mut();
            if let Some(offer) = received.take() {
                let failed = failed.take();
                if self.is_settled(&offer.hash) {
                    continue;
                }
                if let Some(why) = failed {
                    self.inherit_failure(now, &offer.hash, &why);
                    continue;
                }
                if self.take_received(now, offer) {
                    return true;
                }
            } else if let Some(offer) = working.take() {
                self.inheritance = None;
                if self.is_settled(&offer.hash) {
                    continue;
                }
                self.note_inherited("the last config that worked", &offer);
                // Under no offer: what was reported of the last one stands.
                self.propose(
                    now,
                    Job {
                        origin: Origin::Offer,
                        offer: None,
                        source: Source::Files(offer.files),
                        last_resort: false,
                    },
                );
                return true;
            } else {
                self.inheritance = None;
            }
        }
    }

    /// What was tried came to nothing, and nothing runs: what comes next?
    pub(crate) fn after_inherited(&mut self, now: Now) {
        if self.inheritance.is_none() {
            return;
        }
        let idle = self.transaction.is_none() && self.pending.is_none() && !self.stopping;
        let holds = |current: &Revision| match current.origin {
            Origin::Local | Origin::Default => false,
            // What failed is still current where there was nothing to go back to.
            Origin::Offer | Origin::Manual => self.held.is_none(),
        };
        if self.current.as_ref().is_some_and(holds) {
            // Somebody has offered something that holds.
            self.inheritance = None;
        } else if idle && !self.begin_inherited(now) && self.current.is_none() {
            self.begin_base(now);
        }
    }

    fn take_received(&mut self, now: Now, offer: InheritedOffer) -> bool {
        self.note_inherited("the last config that was received", &offer);
        self.on_offer(now, offer.hash, Some(offer.files));
        self.transaction.is_some()
    }

    fn note_inherited(&mut self, what: &str, offer: &InheritedOffer) {
        let hash: String = offer.hash.to_hex().chars().take(12).collect();
        self.note(
            NoteLevel::Info,
            "config of opampsupervisor taken over",
            vec![("from", what.to_owned()), ("offer_hash", hash)],
        );
    }

    /// The offer failed already, under the other supervisor: the server reads so, and it is not tried again.
    fn inherit_failure(&mut self, now: Now, offer: &OfferHash, why: &str) {
        self.answer(offer, Outcome::Failed, why);
        self.next_transaction = self.next_transaction.saturating_add(1);
        let record = Record {
            transaction: self.next_transaction,
            at: now.wall,
            step: Step::Failed,
            revision: None,
            hash: None,
            offer: Some(offer.clone()),
            origin: Origin::Offer,
            reason: why.to_owned(),
        };
        self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
        self.remember(record);
    }

    /// Whether it is known what became of an offer. One that was interrupted before it was on disk was not tried.
    fn is_settled(&self, offer: &OfferHash) -> bool {
        let mut records = self.history.iter();
        records.any(|record| {
            record.offer.as_ref() == Some(offer)
                && matches!(
                    record.step,
                    Step::Committed | Step::RolledBack | Step::Failed
                )
        })
    }
}
