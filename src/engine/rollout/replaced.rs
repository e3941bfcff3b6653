//! An order of a person in the place of an offer: what the server reads of that offer meanwhile, and afterwards.
//!
//! Promises: from the promotion of a person's config on the server reads that its offer was replaced; once what the
//! offer brought runs again, it reads that. The next life says the same, because it asks the same questions here.
//! Must never: touch what was said of an offer that failed for a reason of its own.

use crate::engine::Engine;
use crate::engine::message::{Origin, Outcome, Record, RemoteStatus};
use crate::units::OfferHash;

/// Why an offer that was good does not run.
const REPLACED: &str = "replaced by an order of the operator";

impl RemoteStatus {
    /// Its config gave way to that of a person.
    pub(crate) fn replace(&mut self) {
        if self.outcome != Outcome::Failed {
            self.outcome = Outcome::Failed;
            REPLACED.clone_into(&mut self.message);
        }
    }

    fn is_replaced(&self) -> bool {
        self.outcome == Outcome::Failed && self.message == REPLACED
    }
}

impl Record {
    /// Whether it is about what a person ordered, with no offer behind it.
    pub(crate) fn is_an_order(&self) -> bool {
        self.origin == Origin::Manual && self.offer.is_none()
    }
}

impl Engine {
    /// A person's order is carried out, or came to nothing: an offer that does not run is not on its way any more.
    pub(crate) fn offer_gives_way(&mut self) {
        if self.reported_offer().is_none()
            && self.pending.is_none()
            && let Some(remote) = &mut self.remote
        {
            remote.replace();
            self.remote_retryable = false;
        }
    }

    /// What runs is what the replaced offer brought: it was gone back to.
    pub(crate) fn offer_runs_again(&mut self) {
        let replaced = self.remote.as_ref().is_some_and(RemoteStatus::is_replaced);
        let Some(offer) = self.reported_offer().filter(|_| replaced) else {
            return;
        };
        let good = self.current.as_ref().map(|current| &current.id) == self.last_good.as_ref();
        let outcome = if good {
            Outcome::Applied
        } else {
            Outcome::Applying
        };
        self.answer(&offer, outcome, "");
    }

    /// A person's config is last good. The server's offer runs if it is a part of that, as after `rollback`.
    pub(super) fn order_stands(&mut self) {
        self.offer_gives_way();
        self.offer_runs_again();
        let awaited = self.remote.as_ref();
        let awaited = awaited.is_some_and(|remote| remote.outcome == Outcome::Applying);
        if let Some(offer) = self.reported_offer().filter(|_| awaited) {
            self.answer(&offer, Outcome::Applied, "");
        }
    }

    /// A person ordered what runs already. An offer that their order overtook does not come any more; one that was
    /// applied stays so, whichever offer brought these bytes first.
    pub(super) fn order_changes_nothing(&mut self) {
        let applied = self.remote.as_ref();
        if !applied.is_some_and(|remote| remote.outcome == Outcome::Applied) {
            self.order_stands();
        }
    }

    /// What was said on proof is not true from here on; whoever connects during the rollback must not read it.
    pub(super) fn proof_did_not_hold(&mut self, offer: Option<&OfferHash>, reason: &str) {
        let said = self.remote.as_ref();
        let said = said.filter(|remote| remote.outcome == Outcome::Applied);
        if let Some(offer) = offer.filter(|offer| said.is_some_and(|it| &it.offer == *offer)) {
            self.answer(offer, Outcome::Failed, reason);
        }
    }

    /// What was gone back to did not come up: whatever was said of its offer is not true any more.
    pub(super) fn offer_stays_down(&mut self, reason: &str) {
        let failed = self.remote.as_ref();
        let failed = failed.is_some_and(|remote| remote.outcome == Outcome::Failed);
        if let Some(offer) = self.reported_offer().filter(|_| !failed) {
            self.answer(&offer, Outcome::Failed, reason);
        }
    }
}
