//! The child has been told: proof, probation, and the time after a rollback. Everything here is level-triggered: it
//! looks at what is.
//!
//! Promises: a config passes only when the child has proven it, stayed alive and stayed healthy for its window.
//! Must never: touch the disk without a stage that waits for the answer.

use std::time::Duration;

use super::{Job, Source, Stage, Transaction, sooner};
use crate::config::{AfterRollback, ReportWhen};
use crate::engine::Engine;
use crate::engine::desired::{self};
use crate::engine::evidence::seen_of;
use crate::engine::flow::Judged;
use crate::engine::message::{NoteLevel, Origin, Outcome, Revision, Step};
use crate::engine::watch::{Verdict, Watch};
use crate::units::{Moment, Now, RevisionHash};

impl Engine {
    /// Looks at everything that has a deadline or waits for the child. Called in every step.
    pub(crate) fn drive(&mut self, now: Now) {
        if self.stopping {
            return;
        }
        // Each round can only move forward; the bound is a belt, not a brace.
        for _ in 0..8 {
            if !self.drive_once(now) {
                return;
            }
        }
    }

    pub(super) fn drive_once(&mut self, now: Now) -> bool {
        if self.settling.is_some() {
            return self.drive_settling(now);
        }
        let Some(transaction) = &self.transaction else {
            return false;
        };
        match &transaction.stage {
            Stage::Awaiting { until } => {
                let until = *until;
                self.drive_awaiting(now, until)
            }
            Stage::Proving => {
                if self.pending.is_some() {
                    return self.supersede(now);
                }
                self.drive_proving(now)
            }
            Stage::Probation {
                until,
                unhealthy_since,
            } => {
                if self.pending.is_some() {
                    return self.supersede(now);
                }
                let (until, unhealthy_since) = (*until, *unhealthy_since);
                self.drive_probation(now, until, unhealthy_since)
            }
            Stage::MarkingGood { retry_at: Some(at) } if *at <= now.mono => {
                self.mark_good();
                true
            }
            Stage::Returning { retry_at: Some(at) } if *at <= now.mono => {
                if let Some(target) = transaction.target.clone() {
                    self.return_to(target);
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn drive_proving(&mut self, now: Now) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        let nothing = transaction
            .revision
            .as_ref()
            .is_some_and(|next| desired::is_empty(&next.files));
        if nothing {
            if self.life.is_down() {
                if let Some(transaction) = &mut self.transaction {
                    transaction.proven = true;
                }
                self.mark_good();
                return true;
            }
            return false;
        }
        let Some(watch) = &transaction.watch else {
            return false;
        };
        let seen = self.seen(now.mono, watch);
        let refused = seen.3.is_some();
        match watch.judge(now.mono, &seen_of(&seen)) {
            Verdict::Wait => false,
            Verdict::Proven => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.proven = true;
                    transaction.died = None;
                    transaction.stage = Stage::MarkingProbation;
                }
                self.reload_proven();
                self.enter("probation");
                self.mark(now, Step::Probation, "");
                true
            }
            Verdict::Restart => {
                if let Some(watch) = self.transaction.as_mut().and_then(|t| t.watch.as_mut()) {
                    watch.restarted(now.mono);
                }
                self.note(NoteLevel::Warn, "no proof in time, child restarted", vec![]);
                self.renew_child(now);
                true
            }
            Verdict::Failed(reason) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.refused_by_child = refused;
                }
                self.go_back(now, &reason);
                true
            }
        }
    }

    /// Forgets old proofs and begins to ask for new ones.
    pub(super) fn expect_proof(&mut self, now: Now) {
        self.child.expect_proof();
        if self.settings.profile.proof.is_asked() {
            self.proof_probe.begin(now.mono);
        }
    }

    pub(crate) fn renew_child(&mut self, now: Now) {
        self.expect_proof(now);
        let orders = self.life.restart(now.mono, &mut self.tickets);
        self.obey(orders);
    }

    pub(super) fn begin_probation(&mut self, now: Now) {
        self.flow_begins(now.mono);
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let until = now.mono.after(self.settings.apply.probation);
        transaction.stage = Stage::Probation {
            until,
            unhealthy_since: None,
        };
        if self.settings.apply.report == ReportWhen::OnProof
            && let Some(offer) = transaction.job.offer.clone()
        {
            self.answer(&offer, Outcome::Applied, "");
        }
    }

    /// A reload or a slow backend may look unhealthy for a moment; a third of the window in a row is no moment. In
    /// whole milliseconds, as moments are: a deadline between two of them would never be reached by its own timer.
    fn patience(&self) -> Duration {
        let third = self.settings.apply.probation.as_millis() / 3;
        Duration::from_millis(u64::try_from(third).unwrap_or(u64::MAX))
    }

    pub(super) fn drive_probation(
        &mut self,
        now: Now,
        until: Moment,
        unhealthy_since: Option<Moment>,
    ) -> bool {
        let (healthy, trouble) = self.child_health();
        let patience = self.patience();
        let ordered_down = self.life.is_restarting();
        let died = self
            .transaction
            .as_ref()
            .is_some_and(|it| it.died.is_some());
        let is_all_there_is = died && !self.has_refuge();
        let Some(transaction) = &mut self.transaction else {
            return false;
        };
        if let Some(died) = transaction.died.take() {
            if transaction.spared || !is_all_there_is {
                self.go_back(now, &format!("in probation {died}"));
                return true;
            }
            // It ran, and the way back leads to nothing at all. Somebody may have killed it: it gets a second window.
            transaction.spared = true;
            transaction.stage = Stage::Probation {
                until: now.mono.after(self.settings.apply.probation),
                unhealthy_since: None,
            };
            self.flow_begins(now.mono);
            let fields = vec![("reason", died)];
            self.note(
                NoteLevel::Warn,
                "nothing to go back to, started again",
                fields,
            );
            return false;
        }
        if ordered_down {
            // Somebody ordered a restart, and the old process takes its time: no mark against the config. What the new
            // process does with it has yet to be seen: it gets a window of its own.
            transaction.stage = Stage::Probation {
                until: now.mono.after(self.settings.apply.probation),
                unhealthy_since: None,
            };
            self.flow_begins(now.mono);
            return false;
        }
        let since = if healthy {
            None
        } else {
            Some(unhealthy_since.unwrap_or(now.mono))
        };
        transaction.stage = Stage::Probation {
            until,
            unhealthy_since: since,
        };
        let lasting = since.is_some_and(|since| now.mono.since(since) >= patience);
        if !healthy && (lasting || now.mono >= until) {
            self.go_back(
                now,
                &format!("in probation the child became unhealthy: {trouble}"),
            );
            return true;
        }
        match self.flow_judged(now.mono, now.mono >= until) {
            Judged::Wait => false,
            Judged::Back(reason) => {
                self.go_back(now, &reason);
                true
            }
            Judged::Pass => {
                self.mark_good();
                true
            }
        }
    }

    pub(super) fn drive_settling(&mut self, now: Now) -> bool {
        let Some(settling) = &self.settling else {
            return false;
        };
        let seen = self.seen(now.mono, &settling.watch);
        match settling.watch.judge(now.mono, &seen_of(&seen)) {
            Verdict::Wait => false,
            Verdict::Proven => {
                self.reload_proven();
                let offer = self.settling.take().and_then(|settling| settling.offer);
                if self.settings.apply.after_rollback == AfterRollback::ReportGood
                    && let Some(offer) = offer
                {
                    self.answer(&offer, Outcome::Applied, "");
                }
                // Gone back to before its own window had ended: it gets one.
                self.resume_probation(now);
                false
            }
            Verdict::Restart => {
                if let Some(settling) = &mut self.settling {
                    settling.watch.restarted(now.mono);
                }
                self.renew_child(now);
                true
            }
            Verdict::Failed(reason) => {
                let last_resort = self
                    .settling
                    .take()
                    .is_none_or(|settling| settling.last_resort);
                let base = self.compose_base().ok().filter(|base| !base.is_empty());
                let runs = self.current.as_ref().map(|current| current.hash);
                if last_resort || base.is_none_or(|base| Some(base.hash) == runs) {
                    // The child stays under its restart policy: what keeps it down may go away.
                    self.offer_stays_down(&reason);
                    self.config_stays_unproven(now, &reason);
                    self.hold(format!(
                        "the config gone back to did not come up either: {reason}"
                    ));
                } else {
                    self.offer_stays_down(&reason);
                    let source = Source::Base;
                    let origin = Origin::Default;
                    self.begin(
                        now,
                        Job {
                            origin,
                            offer: None,
                            source,
                            last_resort: true,
                        },
                    );
                }
                true
            }
        }
    }

    /// What runs was promoted and never came to an end: a newer offer took its place and then failed itself. It
    /// gets its window now, because a config that was never proven must not run unwatched.
    pub(crate) fn resume_probation(&mut self, now: Now) {
        let busy = self.transaction.is_some() || self.settling.is_some() || self.held.is_some();
        let Some(current) = self.current.clone() else {
            return;
        };
        let rejected = self
            .rejected
            .iter()
            .any(|rejection| rejection.hash == current.hash);
        if busy || self.stopping || rejected || self.last_good.as_ref() == Some(&current.id) {
            return;
        }
        self.next_transaction = self.next_transaction.saturating_add(1);
        let job = Job {
            origin: current.origin,
            // None if a later offer has been answered meanwhile: its answer stays.
            offer: self.reported_offer(),
            source: Source::Stored(current.id.clone()),
            last_resort: false,
        };
        let mut transaction = Transaction::new(self.next_transaction, job, Stage::MarkingSignalled);
        // Where APPLIED is said on proof, it was said already, and it was true.
        transaction.proven = transaction.offer().is_some_and(|offer| {
            let remote = self.remote.as_ref();
            remote.is_some_and(|it| &it.offer == offer && it.outcome == Outcome::Applied)
        });
        self.transaction = Some(transaction);
        self.watch_current(now, current);
    }

    /// A watch over a child that was told before. One of an earlier life gets the time to find us again, and what it
    /// shows counts from before we were there.
    pub(super) fn watch_over(&self, now: Now, hash: RevisionHash) -> Watch {
        let watch = Watch::new(hash, now.mono, self.settings.apply.proof_timeout);
        let watch = match self.adoption_patience() {
            Some(until) => watch.patient(until),
            None => watch,
        };
        if self.is_adopted() {
            watch.of_old()
        } else {
            watch
        }
    }

    /// The transaction watches what runs, without telling the child again: what it showed counts.
    pub(super) fn watch_current(&mut self, now: Now, mut current: Revision) {
        let watch = self.watch_over(now, current.hash).of_old();
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if self.settings.profile.proof.is_asked() {
            self.proof_probe.begin(now.mono);
        }
        if let Some(offer) = &transaction.job.offer {
            current.offer = Some(offer.clone());
            self.current = Some(current.clone());
        }
        transaction.stage = Stage::MarkingSignalled;
        transaction.stored = true;
        transaction.watch = Some(watch);
        transaction.previous = Some(current.clone());
        transaction.revision = Some(current);
        self.mark(now, Step::Signalled, "its window begins anew");
    }

    /// A transaction that was interrupted again and again is undone instead of taken up once more.
    pub(crate) fn interrupted_too_often(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.doomed = true;
        }
    }

    /// When the rollout wants to be called.
    pub(crate) fn rollout_due(&self) -> Option<Moment> {
        if self.stopping {
            return None;
        }
        let alive_for = self.settings.profile.proof.alive_for();
        let up = self.life.up_since();
        let alive = alive_for.and_then(|span| up.map(|up| up.after(span)));
        // What it came to was seen then; what it still lacks comes as an event.
        let alive = alive.filter(|at| *at > self.looked_at);
        if let Some(settling) = &self.settling {
            return sooner(Some(settling.watch.due()), alive);
        }
        let transaction = self.transaction.as_ref()?;
        match &transaction.stage {
            Stage::Awaiting { until } => Some(*until),
            Stage::Proving => {
                let watch = transaction.watch.as_ref();
                sooner(watch.map(Watch::due), alive)
            }
            Stage::Probation {
                until,
                unhealthy_since,
            } => sooner(
                Some(*until).filter(|_| !self.flow_waits()),
                unhealthy_since.map(|since| since.after(self.patience())),
            ),
            Stage::MarkingGood { retry_at } | Stage::Returning { retry_at } => *retry_at,
            _ => None,
        }
    }

    /// The hash that the child is expected to prove.
    pub(crate) fn watched_hash(&self) -> Option<RevisionHash> {
        let of_transaction = self.transaction.as_ref().and_then(|t| t.watch.as_ref());
        let watch =
            of_transaction.or_else(|| self.settling.as_ref().map(|settling| &settling.watch));
        watch.map(|watch| watch.hash)
    }
}
