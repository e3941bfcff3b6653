//! The way forward: compose, decide, stage, validate, promote, tell the child.
//!
//! Promises: what is validated is exactly what is promoted; a child is told by HUP only where its profile, the
//! settings, the change and its own state allow it.
//! Must never: judge what the child does with it (`proof`).

use super::{
    OFFERS_MAX, Remember, Source, Stage, Transaction, VALIDATOR_OUTPUT_MAX, only_default,
    record_of, transaction_source,
};
use crate::config::Reload;
use crate::engine::desired::{self, Candidate, Refused};
use crate::engine::disk::Purpose;
use crate::engine::message::{
    AgentEffect, DiskWork, LayerKind, NoteLevel, Origin, Outcome, Revision, RevisionFile, Step,
    ToolEnd, ToolOutcome, ToolSpec,
};
use crate::engine::watch::Watch;
use crate::engine::{Engine, report};
use crate::units::{Now, RevisionHash, RevisionId, Ticket};

impl Engine {
    pub(super) fn compose(&mut self, now: Now) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let composed: Result<Candidate, Refused> = match &transaction.job.source {
            Source::Files(files) => self.composed(files),
            Source::OwnTelemetry => self.composed_on_trial(),
            Source::Recompose => {
                let current = self.current.as_ref();
                let is_default = current.is_none_or(|current| current.origin == Origin::Default);
                let files = current.map(|current| desired::offered(&current.files));
                if is_default {
                    self.compose_base()
                } else {
                    self.composed(&files.unwrap_or_default())
                }
            }
            Source::Base => self.compose_base(),
            Source::Nothing => Ok(Candidate {
                hash: RevisionHash::of([]),
                files: Vec::new(),
            }),
            Source::Stored(_) => return,
        };
        let candidate = match composed {
            Ok(candidate) => candidate,
            Err(Refused(reason)) => return self.fail(now, &reason, Remember::No),
        };
        let nothing = matches!(transaction_source(self), Some(Source::Nothing));
        if candidate.is_empty() && !nothing {
            return self.nothing_to_run(now);
        }
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        // What somebody gave and that runs stays his, whatever of ours is put around it.
        let is_given = matches!(
            transaction.job.source,
            Source::Recompose | Source::OwnTelemetry
        ) && self.current.as_ref().is_some_and(|current| {
            let given = |file: &RevisionFile| file.layer == LayerKind::Remote;
            current.origin != Origin::Default && current.files.iter().any(given)
        });
        let origin = match (transaction.job.origin, &transaction.job.source) {
            (Origin::Local | Origin::Default, _) | (Origin::Offer, Source::Base)
                if !is_given && only_default(&candidate, &self.local) =>
            {
                Origin::Default
            }
            (origin, _) => origin,
        };
        // A local change keeps the offer it was made under, whether or not the server is told about it.
        let offer = match transaction.job.source {
            Source::Recompose | Source::OwnTelemetry if origin != Origin::Default => self
                .current
                .as_ref()
                .and_then(|current| current.offer.clone()),
            _ => transaction.job.offer.clone(),
        };
        let mut id = RevisionId::new(now.wall, candidate.hash);
        let mut wall = now.wall.unix_millis();
        while self.revisions.iter().any(|stored| stored.id == id) {
            wall = wall.saturating_add(1);
            id = RevisionId::new(
                crate::units::WallTime::from_unix_millis(wall),
                candidate.hash,
            );
        }
        transaction.revision = Some(Revision {
            id,
            hash: candidate.hash,
            offer,
            origin,
            at: now.wall,
            files: candidate.files,
        });
        self.decide(now);
    }

    /// Says which local files are left out of what is composed, because they cannot be read.
    pub(super) fn tell_left_out(&mut self) {
        if !self.settings.apply.without_unreadable {
            return;
        }
        let unread = self.local.iter();
        let unread: Vec<String> = unread
            .filter_map(|file| file.bytes.as_ref().err().cloned())
            .collect();
        if !unread.is_empty() {
            let fields = vec![("error", unread.join("; "))];
            self.note(NoteLevel::Warn, "local config file left out", fields);
        }
    }

    pub(crate) fn compose_base(&self) -> Result<Candidate, Refused> {
        let base = self.composed(&[])?;
        if !base.is_empty() {
            return Ok(base);
        }
        self.composed_default().unwrap_or(Ok(base))
    }

    pub(super) fn nothing_to_run(&mut self, now: Now) {
        let origin = self
            .transaction
            .as_ref()
            .map(|transaction| transaction.job.origin);
        if matches!(origin, Some(Origin::Local | Origin::Default)) {
            self.transaction = None;
            let current = self.current.as_ref().map(|current| current.hash);
            let known = self.rejected.iter().find(|bad| Some(bad.hash) == current);
            if let Some(reason) = known.map(|bad| bad.reason.clone()) {
                self.hold(reason);
            } else {
                self.enter("idle");
                let from = if self.uplink.server().is_some() {
                    "an offer of the server"
                } else {
                    "`adjutant apply`: there is no server, and no config file in the settings"
                };
                self.note(
                    NoteLevel::Warn,
                    "nothing to run yet, waiting for a config",
                    vec![("from", from.to_owned())],
                );
            }
            self.begin_pending(now);
        } else {
            self.fail(now, "the config holds nothing to run", Remember::No);
        }
    }

    /// The candidate is known: is it news, and may it be tried?
    pub(super) fn decide(&mut self, now: Now) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        let (hash, manual) = (revision.hash, transaction.job.origin == Origin::Manual);
        let offered = transaction.job.origin == Origin::Offer;
        let same = self.current.as_ref().filter(|current| {
            current.hash == hash
                || offered
                    && desired::says_the_same(&self.settings, &current.files, &revision.files)
        });
        let is_good = same.is_some_and(|it| self.last_good.as_ref() == Some(&it.id));
        if is_good && self.settling.is_none() {
            return self.already_running(now);
        }
        let is_rejected = |hash| self.rejected.iter().any(|bad| bad.hash == hash);
        let current = same.filter(|it| !is_rejected(it.hash) && !is_rejected(hash));
        if let Some(current) = current.cloned()
            && self.settling.is_none()
        {
            // The child was told already, and says nothing new when it is told the same again.
            return self.watch_current(now, current);
        }
        let rejected = self
            .rejected
            .iter_mut()
            .find(|rejection| rejection.hash == hash);
        if let Some(rejection) = rejected
            && !manual
        {
            let reason = format!("rejected before, not tried again: {}", rejection.reason);
            if let Some(offer) = &transaction.job.offer
                && !rejection.offers.contains(offer)
                && rejection.offers.len() < OFFERS_MAX
            {
                rejection.offers.push(offer.clone());
                let rejected = self.rejected.clone();
                self.push_disk(Purpose::Memory, DiskWork::SaveRejected(rejected));
            }
            self.count("rejected_again");
            return self.fail(now, &reason, Remember::No);
        }
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.stage = Stage::Intent;
        self.mark(now, Step::Intent, "");
    }

    pub(super) fn already_running(&mut self, now: Now) {
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        // The revision that runs is the one on disk, not the twin that was just composed.
        transaction.revision.clone_from(&self.current);
        let record = record_of(&transaction, now, Step::Committed, "already running");
        self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
        self.remember(record);
        match transaction.job.offer {
            Some(offer) => {
                self.answer(&offer, Outcome::Applied, "");
                if let Some(current) = &mut self.current {
                    current.offer = Some(offer);
                }
            }
            None if transaction.job.origin == Origin::Manual => self.order_changes_nothing(),
            None => {}
        }
        self.layers_accepted();
        self.enter("committed");
        self.begin_pending(now);
    }

    pub(super) fn staged(&mut self, now: Now, step: Step) {
        if let Some(transaction) = &mut self.transaction {
            transaction.stage = Stage::MarkingStaged;
            self.mark(now, step, "");
        }
    }

    pub(super) fn validate(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        let trusted = revision.origin == Origin::Default || revision.files.is_empty();
        let validator = self.settings.profile.validate.as_ref();
        let Some(own) = validator.filter(|_| self.settings.apply.validate && !trusted) else {
            return self.promote();
        };
        let directory = self.places.revision_dir(&revision.id);
        let args = desired::arguments(
            &self.settings,
            &self.places,
            own,
            &directory,
            &revision.files,
        );
        let uid = report::uid_text(self.instance_uid);
        let env = desired::environment(&self.settings, &self.places, &directory, &uid);
        let ticket = self.tickets.next();
        transaction.stage = Stage::Validating { ticket };
        let spec = ToolSpec {
            program: self.settings.executable.clone(),
            args,
            env,
            inherit: self.inherit(),
            timeout: self.settings.apply.validate_timeout,
            output_max: VALIDATOR_OUTPUT_MAX,
            process: self.settings.process.clone(),
        };
        self.out.effects.push(AgentEffect::RunTool { ticket, spec });
        self.enter("validating");
        _ = now;
    }

    /// A tool ended. True when it was the validator of the running transaction.
    pub(crate) fn validated(&mut self, now: Now, ticket: Ticket, outcome: &ToolOutcome) -> bool {
        let awaited = self.transaction.as_ref().and_then(Transaction::tool);
        if awaited != Some(ticket) {
            return false;
        }
        #[cfg(feature = "layers")]
        if let Some(Stage::Trying { .. }) = self.transaction.as_ref().map(|it| &it.stage) {
            self.tried(now, &outcome.end);
            return true;
        }
        let words = outcome.output.trim();
        match &outcome.end {
            ToolEnd::Exited(0) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.stage = Stage::MarkingValidated;
                    self.enter("promoting");
                    self.mark(now, Step::Validated, "");
                }
            }
            ToolEnd::Exited(code) => {
                #[cfg(feature = "layers")]
                self.refused(now, *code, words);
                #[cfg(not(feature = "layers"))]
                {
                    let reason =
                        format!("the validator refused the config (exit code {code}): {words}");
                    self.fail(now, &reason, Remember::Yes);
                }
            }
            ToolEnd::Signalled(signal) => {
                self.fail(
                    now,
                    &format!("the validator died with signal {signal}: {words}"),
                    Remember::No,
                );
            }
            ToolEnd::TimedOut => {
                let limit = crate::units::format_duration(self.settings.apply.validate_timeout);
                self.fail(
                    now,
                    &format!("the validator took longer than {limit}: {words}"),
                    Remember::No,
                );
            }
            ToolEnd::NotStarted(reason) => {
                self.fail(
                    now,
                    &format!("the validator did not start: {reason}"),
                    Remember::No,
                );
            }
        }
        true
    }

    pub(super) fn promote(&mut self) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        let id = revision.id.clone();
        transaction.stage = Stage::Promoting;
        self.enter("promoting");
        self.push_disk(Purpose::Transaction, DiskWork::Promote(id));
    }

    pub(super) fn promoted(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.current.clone_from(&transaction.revision);
        self.effective_stale = true;
        transaction.stage = Stage::MarkingPromoted;
        if transaction.is_an_order() {
            self.offer_gives_way();
        }
        self.mark(now, Step::Promoted, "");
    }

    /// Tells the child what to run: HUP where that is enough, else a new process, or none.
    pub(super) fn tell_child(&mut self, now: Now) {
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        transaction.watch = Some(Watch::new(
            revision.hash,
            now.mono,
            self.settings.apply.proof_timeout,
        ));
        transaction.died = None;
        transaction.stage = Stage::MarkingSignalled;
        let how = self.change_child(now, transaction.previous.as_ref(), revision, false);
        self.transaction = Some(transaction);
        self.enter("reloading");
        self.mark(now, Step::Signalled, &how);
    }

    /// Makes the child run `next`, and says how, for the journal.
    pub(super) fn change_child(
        &mut self,
        now: Now,
        previous: Option<&Revision>,
        next: &Revision,
        anew: bool,
    ) -> String {
        self.child.expect_proof();
        self.flow_pauses();
        if self.stopping {
            return "stopping".to_owned();
        }
        // Whichever way it is told, it reads the live pairs with its config.
        self.forget_debt();
        if desired::is_empty(&next.files) {
            let orders = self.life.want_down(now.mono);
            self.obey(orders);
            return "stop".to_owned();
        }
        if self.settings.profile.proof.is_asked() {
            self.proof_probe.begin(now.mono);
        }
        let running = self.life.running().map(|child| child.pid);
        let by_hup = self.settings.apply.reload == Reload::Hup
            && !anew
            // A program that has not come up yet may not have its handler: HUP would end it.
            && self.child_health().0;
        let reason = match (running, previous) {
            (Some(pid), Some(previous)) if by_hup => self.why_no_hup(pid).or_else(|| {
                desired::needs_restart(&self.settings, &self.places, &previous.files, &next.files)
            }),
            _ if anew => Some("what went wrong ends with its process".to_owned()),
            _ => Some("the profile, the settings or the child's state ask for it".to_owned()),
        };
        self.forget_hup();
        match (running, reason) {
            (Some(pid), None) => {
                self.count("reloads");
                self.hup(pid);
                "hup".to_owned()
            }
            (Some(_), Some(reason)) => {
                let orders = self.life.restart(now.mono, &mut self.tickets);
                self.obey(orders);
                format!("restart: {reason}")
            }
            (None, _) => {
                let orders = self.life.restart(now.mono, &mut self.tickets);
                self.obey(orders);
                "start".to_owned()
            }
        }
    }
}
