//! The first step after a start: finish or undo what an earlier life left unfinished, then bring the child up.
//!
//! Promises: whatever byte the earlier life died at, one step later there is one truth: `current` is what the child
//! is given, the remote config status is what came of the last offer, and an interrupted transaction is taken up or
//! closed.
//! Must never: wait. A child whose config is on disk is started in this very step.

use crate::engine::disk::Purpose;
use crate::engine::message::{
    DiskWork, Origin, Outcome as OfferOutcome, Record, RemoteStatus, Step,
};
use crate::engine::rollout::{Job, Source};
use crate::engine::{Engine, Outcome, desired};
use crate::units::{Now, OfferHash};

/// A transaction that was taken up this often, and each time ended by a death of ours, is undone: it may be what kills
/// the host.
const RESUMES_MAX: usize = 3;

impl Engine {
    /// Starts: repairs, the unfinished transaction, the child.
    pub(crate) fn start(
        &mut self,
        now: Now,
        leftover: Option<super::message::Leftover>,
    ) -> Outcome {
        self.remote = remote_of(self.history.make_contiguous());
        self.phase = phase_of(self.history.make_contiguous());
        self.take_later_offer();
        self.own_up();
        // Before the local files are looked at: those of a fallback are not among them.
        self.take_fallback();
        self.begin_layers();
        if let Some(leftover) = leftover {
            self.take_over(now, leftover);
            if self.life.running().is_some() {
                // It runs already: there is nothing that could wait.
                self.turn = None;
                self.life.unbar();
            }
        }
        // What was offered before is a part of what is composed now.
        self.begin_connection(now);
        if !self.is_held_back() {
            self.bring_up(now);
        }
        self.tick(now)
    }

    /// What a start does once it is this agent's turn.
    pub(super) fn bring_up(&mut self, now: Now) {
        if self.frozen.is_some() {
            self.raise(now);
        } else {
            self.take_up(now);
        }
    }

    fn take_up(&mut self, now: Now) {
        let unfinished = self
            .history
            .back()
            .filter(|record| !record.step.is_final())
            .cloned();
        let Some(record) = unfinished else {
            return self.take_up_finished(now);
        };
        let resumes = self
            .history
            .iter()
            .rev()
            .take_while(|r| {
                // An ordered stop and a wait for a certificate are no mark against a config.
                r.transaction == record.transaction
                    && !matches!(r.step, Step::Suspended | Step::Awaiting)
            })
            .filter(|r| r.step == Step::Resumed)
            .count();
        let promoted = self.current.as_ref().map(|current| &current.id) == record.revision.as_ref();
        let reached = self
            .history
            .iter()
            .filter(|r| r.transaction == record.transaction)
            .any(|r| matches!(r.step, Step::Promoted | Step::Signalled | Step::Probation));
        let on_disk = record
            .revision
            .as_ref()
            .is_some_and(|id| self.revisions.iter().any(|stored| &stored.id == id));
        match (promoted, reached) {
            (true, _) => {
                self.raise(now);
                self.resume(now, &record, true);
                let elsewhere = self.last_good.is_some() && self.last_good != record.revision;
                if resumes >= RESUMES_MAX && elsewhere {
                    self.interrupted_too_often();
                }
            }
            // It had been promoted and is not what `current` shows: the way back was interrupted after its one rename.
            (false, true) => {
                self.raise(now);
                self.close(
                    now,
                    &record,
                    Step::RolledBack,
                    "went back; interrupted before this was recorded",
                );
            }
            (false, false) if on_disk && resumes < RESUMES_MAX => {
                self.raise(now);
                self.resume(now, &record, false);
            }
            (false, false) => {
                self.close(
                    now,
                    &record,
                    Step::Superseded,
                    "interrupted before it was on disk",
                );
                self.take_up_finished(now);
            }
        }
    }

    fn take_up_finished(&mut self, now: Now) {
        let Some(current) = &self.current else {
            return self.begin_base(now);
        };
        let rejected = self
            .rejected
            .iter()
            .any(|rejection| rejection.hash == current.hash);
        if rejected && self.last_good.as_ref() != Some(&current.id) && self.settings.apply.rollback
        {
            // Nothing better was there when it failed. Perhaps there is now.
            return self.begin_base(now);
        }
        self.raise(now);
        self.follow_local_layers(now);
        self.resume_probation(now);
    }

    /// What runs may have been offered again under another hash: then it is what that offer is.
    fn take_later_offer(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let later = self.history.iter().rev().find(|record| {
            record.step == Step::Committed
                && record.offer.is_some()
                && record.revision.as_ref() == Some(&current.id)
        });
        if let Some(offer) = later.and_then(|record| record.offer.clone()) {
            current.offer = Some(offer);
        }
    }

    /// What is said of the last offer is true of what `current` shows, before anybody asks.
    fn own_up(&mut self) {
        let runs = self.current.as_ref().map(|current| &current.id);
        let begun = self.history.back();
        let begun = begun.filter(|it| !it.step.is_final() && it.revision.as_ref() == runs);
        if let Some(offer) = begun.and_then(|record| record.offer.clone()) {
            // It is taken up again when it is the agent's turn, also where it was about to be gone back from.
            self.answer(&offer, OfferOutcome::Applying, "");
        } else if begun.is_some_and(Record::is_an_order) || self.runs_an_order() {
            // The journal need not have been reached any more.
            self.offer_gives_way();
        }
        self.offer_runs_again();
        self.own_up_to_current();
        self.own_up_to_a_loss();
    }

    /// Reports the offer that runs where the journal knows only of an earlier one: its own window was cut short by a
    /// later offer that never came to anything, or its commit was not journaled any more.
    fn own_up_to_current(&mut self) {
        let Some(current) = &self.current else { return };
        let rejected = self.rejected.iter().find(|bad| bad.hash == current.hash);
        if let Some(rejection) = rejected
            && self.last_good.as_ref() != Some(&current.id)
        {
            let (offer, reason) = (current.offer.clone(), rejection.reason.clone());
            return self.own_up_to_a_failure(offer, reason);
        }
        let Some(offer) = &current.offer else { return };
        let earlier = self
            .remote
            .as_ref()
            .is_none_or(|remote| remote.outcome == OfferOutcome::Applied && &remote.offer != offer);
        if earlier {
            let outcome = if self.last_good.as_ref() == Some(&current.id) {
                OfferOutcome::Applied
            } else {
                OfferOutcome::Applying
            };
            self.remote = Some(RemoteStatus {
                offer: offer.clone(),
                outcome,
                message: String::new(),
            });
        }
    }

    /// What `current` shows was rejected: no offer before it runs either.
    fn own_up_to_a_failure(&mut self, offer: Option<OfferHash>, reason: String) {
        let Some(remote) = &mut self.remote else {
            return;
        };
        if remote.outcome != OfferOutcome::Applied {
            return;
        }
        match offer {
            Some(offer) => {
                *remote = RemoteStatus {
                    offer,
                    outcome: OfferOutcome::Failed,
                    message: reason,
                };
            }
            None => remote.replace(),
        }
    }

    /// The host's own config took the place of an offer that the server reads as applied.
    pub(crate) fn own_up_to_a_loss(&mut self) {
        let Some(current) = &self.current else { return };
        let Some(remote) = &mut self.remote else {
            return;
        };
        if current.offer.is_some() || remote.outcome != OfferOutcome::Applied {
            return;
        }
        let applied = self.history.iter().rev().find(|record| {
            record.step == Step::Committed && record.offer.as_ref() == Some(&remote.offer)
        });
        let hash = applied.and_then(|record| record.hash);
        if hash.is_some_and(|hash| hash != current.hash) {
            remote.outcome = OfferOutcome::Failed;
            "it does not run any more, the host's own config does".clone_into(&mut remote.message);
        }
    }

    /// Whether `current` shows what a person ordered, with nothing in it that was offered.
    fn runs_an_order(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|it| it.origin == Origin::Manual && it.offer.is_none())
    }

    pub(crate) fn begin_base(&mut self, now: Now) {
        #[cfg(feature = "opampsupervisor")]
        if self.begin_inherited(now) {
            return;
        }
        if !self.fallback_waits(now) {
            self.propose_base(now);
        }
    }

    /// What the host has of its own: its local layers, or the built-in default.
    pub(crate) fn propose_base(&mut self, now: Now) {
        let (origin, source) = (Origin::Local, Source::Base);
        self.propose(
            now,
            Job {
                origin,
                offer: None,
                source,
                last_resort: false,
            },
        );
    }

    /// Composes again from the local layers, if that would change anything.
    pub(crate) fn follow_local_layers(&mut self, now: Now) {
        let Some(current) = &self.current else { return };
        if current.files.is_empty()
            || (self.local_paths().is_empty() && current.origin != Origin::Default)
        {
            return;
        }
        // What cannot be composed now keeps what runs; the transaction says why.
        if !self.runs_as_composed() {
            let (origin, source) = (Origin::Local, Source::Recompose);
            self.propose(
                now,
                Job {
                    origin,
                    offer: None,
                    source,
                    last_resort: false,
                },
            );
        }
    }

    /// Brings the child up on what `current` shows, if that is anything.
    pub(crate) fn raise(&mut self, now: Now) {
        let runs = self
            .current
            .as_ref()
            .is_some_and(|current| !desired::is_empty(&current.files));
        if runs && !self.stopping {
            let orders = self.life.want_up(now.mono, &mut self.tickets);
            self.obey(orders);
        }
    }

    fn close(&mut self, now: Now, record: &Record, step: Step, reason: &str) {
        let record = Record {
            step,
            at: now.wall,
            reason: reason.to_owned(),
            ..record.clone()
        };
        if step == Step::RolledBack
            && let Some(offer) = record.offer.clone()
        {
            // What was rejected says why; the journal was not reached.
            let known = self
                .rejected
                .iter()
                .find(|rejection| Some(rejection.hash) == record.hash);
            let why = known
                .map_or(reason, |rejection| &rejection.reason)
                .to_owned();
            self.answer(&offer, OfferOutcome::Failed, &why);
            self.phase = "rolled back";
        }
        self.remember(record.clone());
        self.push_disk(Purpose::Record, DiskWork::Journal(record));
    }
}

/// What the last offer came to.
fn remote_of(history: &[Record]) -> Option<RemoteStatus> {
    let mut remote: Option<RemoteStatus> = None;
    let mut runs = None;
    for record in history {
        let ends = match record.step {
            Step::Committed => Some((OfferOutcome::Applied, String::new())),
            Step::RolledBack | Step::Failed => Some((OfferOutcome::Failed, record.reason.clone())),
            _ => None,
        };
        if let (Some(offer), Some((outcome, message))) = (record.offer.clone(), ends) {
            remote = Some(RemoteStatus {
                offer,
                outcome,
                message,
            });
        }
        match record.step {
            Step::Promoted | Step::Committed => {
                // An order to run what runs replaces nothing.
                let news = record.revision != runs;
                runs.clone_from(&record.revision);
                if let Some(remote) = remote.as_mut().filter(|_| news && record.is_an_order()) {
                    remote.replace();
                }
            }
            Step::RolledBack => runs = None,
            _ => {}
        }
    }
    remote
}

fn phase_of(history: &[Record]) -> &'static str {
    match history
        .iter()
        .rev()
        .find(|record| record.step.is_final())
        .map(|record| record.step)
    {
        Some(Step::Committed) => "committed",
        Some(Step::RolledBack) => "rolled back",
        Some(Step::Failed) => "failed",
        _ => "idle",
    }
}
