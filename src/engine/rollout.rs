//! The transaction: policy → stage → validate → promote → reload → proof → probation → commit, or back.
//!
//! Promises: one at a time; the latest offer wins; each step is on disk before the next begins; what failed is remembered
//! and answered at once when it comes again; a config that was never proven is never the only config.
//! Must never: decide how a child is started or stopped (`lifecycle`), or what a message looks like (`report`).

use std::time::Duration;

use crate::config::{AfterRollback, EmptyConfig, Layer, Proof, Reload, ReportWhen};
use crate::engine::desired::{self, Candidate, Refused};
use crate::engine::disk::Purpose;
use crate::engine::message::{
    AgentEffect, DiskDone, DiskFault, DiskWork, Exit, LayerKind, NoteLevel, OfferedFile, Origin,
    Outcome, Record, Rejection, RemoteStatus, Revision, Step, StoredRevision, ToolEnd, ToolOutcome,
    ToolSpec,
};
use crate::engine::watch::{Verdict, Watch, died};
use crate::engine::{Engine, SIGHUP, report, seen_of};
use crate::units::{Moment, Now, OfferHash, RevisionHash, RevisionId, Ticket};

/// Rejections that are remembered; the oldest goes first.
const REJECTED_MAX: usize = 200;
/// Offers that are remembered for one rejection.
const OFFERS_MAX: usize = 16;
/// How long a disk that refused an unavoidable write is left alone.
const DISK_RETRY: Duration = Duration::from_secs(5);
/// Output of a validator that is kept.
const VALIDATOR_OUTPUT_MAX: usize = 16 * 1024;

/// What is to be made to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) origin: Origin,
    pub(crate) offer: Option<OfferHash>,
    pub(crate) source: Source,
    /// The last step of a fallback: when it fails too, nothing further is tried.
    pub(crate) last_resort: bool,
}

/// Where its content comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// An offer, or files given by hand.
    Files(Vec<OfferedFile>),
    /// What runs now, with the local layers as they are on disk now.
    Recompose,
    /// The local layers alone; without any, the built-in default.
    Base,
    /// Nothing: the child is to be stopped.
    Nothing,
    /// A revision that is on disk already.
    Stored(RevisionId),
}

#[derive(Debug)]
enum Stage {
    Gathering,
    Fetching,
    Intent,
    Staging,
    MarkingStaged,
    Validating {
        ticket: Ticket,
    },
    MarkingValidated,
    Promoting,
    MarkingPromoted,
    MarkingSignalled,
    Proving,
    MarkingProbation,
    Probation {
        until: Moment,
        unhealthy_since: Option<Moment>,
    },
    MarkingGood {
        retry_at: Option<Moment>,
    },
    MarkingCommitted,
    Rejecting,
    FetchingGood,
    StagingBase,
    Returning {
        retry_at: Option<Moment>,
    },
    MarkingRolledBack,
}

/// The transaction under way.
#[derive(Debug)]
pub(crate) struct Transaction {
    number: u64,
    job: Job,
    stage: Stage,
    /// What is to run; none until it is composed.
    revision: Option<Revision>,
    /// What ran before, to see what changes.
    previous: Option<Revision>,
    /// Whether the revision is on disk already.
    stored: bool,
    watch: Option<Watch>,
    proven: bool,
    died: Option<String>,
    failure: String,
    refused_by_child: bool,
    /// Earlier lives died on it too often: it is undone as soon as the disk has answered.
    doomed: bool,
    /// Where a rollback goes.
    target: Option<Revision>,
}

impl Transaction {
    fn new(number: u64, job: Job, stage: Stage) -> Self {
        Self {
            number,
            job,
            stage,
            revision: None,
            previous: None,
            stored: false,
            watch: None,
            proven: false,
            died: None,
            failure: String::new(),
            refused_by_child: false,
            doomed: false,
            target: None,
        }
    }

    /// The validator that runs for it.
    pub(crate) fn tool(&self) -> Option<Ticket> {
        match self.stage {
            Stage::Validating { ticket } => Some(ticket),
            _ => None,
        }
    }

    /// The offer behind it.
    pub(crate) fn offer(&self) -> Option<&OfferHash> {
        self.job.offer.as_ref()
    }

    /// Whether the child has proven it.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The child died.
    pub(crate) fn crashed(&mut self, exit: &Exit) {
        self.died = Some(died(exit));
    }

    /// The watch over the child, while it counts.
    pub(crate) fn watch_mut(&mut self) -> Option<&mut Watch> {
        match self.stage {
            Stage::MarkingSignalled | Stage::Proving => self.watch.as_mut(),
            _ => None,
        }
    }

    fn is_before_promotion(&self) -> bool {
        matches!(
            self.stage,
            Stage::Gathering
                | Stage::Fetching
                | Stage::Intent
                | Stage::Staging
                | Stage::MarkingStaged
                | Stage::Validating { .. }
                | Stage::MarkingValidated
        )
    }
}

/// The time after a rollback in which the config gone back to has to come up.
#[derive(Debug)]
pub(crate) struct Settling {
    watch: Watch,
    offer: Option<OfferHash>,
    last_resort: bool,
}

impl Settling {
    /// The watch over the child.
    pub(crate) fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }
}

impl Engine {
    /// An offer of the server.
    pub(crate) fn on_offer(&mut self, now: Now, offer: OfferHash, files: Option<Vec<OfferedFile>>) {
        if self.stopping {
            return;
        }
        let known = self
            .remote
            .as_ref()
            .is_some_and(|remote| remote.offer == offer);
        if known && !offer.is_empty() && !self.remote_retryable {
            return;
        }
        let Some(files) = files else {
            self.answer(&offer, Outcome::Failed, "the offer has no config");
            return;
        };
        if let Some(frozen) = self.frozen.clone() {
            self.answer(&offer, Outcome::Failed, &frozen);
            return;
        }
        let source = match (files.is_empty(), self.settings.apply.empty_config) {
            (false, _) => Source::Files(files),
            (true, EmptyConfig::Stop) => Source::Nothing,
            (true, EmptyConfig::Default) => Source::Base,
            (true, EmptyConfig::Keep) => {
                let kept =
                    "empty config map: the running config is kept (apply.empty_config: keep)";
                self.answer(&offer, Outcome::Failed, kept);
                return;
            }
        };
        self.propose(
            now,
            Job {
                origin: Origin::Offer,
                offer: Some(offer),
                source,
                last_resort: false,
            },
        );
    }

    /// Begins a job, or lets it wait until the running transaction has come to a safe place. The latest wins.
    pub(crate) fn propose(&mut self, now: Now, job: Job) {
        if self.transaction.is_some() {
            if let Some(offer) = job.offer.clone() {
                self.answer(&offer, Outcome::Applying, "");
            }
            self.pending = Some(job);
            self.supersede(now);
        } else {
            self.settling = None;
            self.begin(now, job);
        }
    }

    fn begin(&mut self, now: Now, job: Job) {
        if let Some(offer) = job.offer.clone() {
            self.answer(&offer, Outcome::Applying, "");
        }
        self.next_transaction = self.next_transaction.saturating_add(1);
        self.held = None;
        let (stage, work) = match &job.source {
            Source::Stored(id) => (Stage::Fetching, DiskWork::ReadRevision(id.clone())),
            Source::Files(_) | Source::Recompose | Source::Base | Source::Nothing => {
                (Stage::Gathering, DiskWork::ReadLocal(self.local_paths()))
            }
        };
        let mut transaction = Transaction::new(self.next_transaction, job, stage);
        transaction.previous.clone_from(&self.current);
        self.transaction = Some(transaction);
        self.enter("policy");
        self.push_disk(Purpose::Transaction, work);
        _ = now;
    }

    /// Takes up a transaction that an earlier life left unfinished.
    pub(crate) fn resume(&mut self, now: Now, record: &Record, promoted: bool) {
        if let Some(offer) = record.offer.clone() {
            self.answer(&offer, Outcome::Applying, "");
        }
        let Some(id) = record.revision.clone() else {
            return;
        };
        let job = Job {
            origin: record.origin,
            offer: record.offer.clone(),
            source: Source::Stored(id.clone()),
            last_resort: false,
        };
        let mut transaction = Transaction::new(record.transaction, job, Stage::Fetching);
        transaction.previous.clone_from(&self.current);
        transaction.stored = true;
        if promoted {
            transaction.revision = self.current.clone();
            transaction.stage = Stage::MarkingPromoted;
            self.transaction = Some(transaction);
            self.enter("promoting");
            self.mark(now, Step::Resumed, "");
        } else {
            self.transaction = Some(transaction);
            self.enter("staging");
            self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(id));
        }
    }

    pub(crate) fn local_paths(&self) -> Vec<std::path::PathBuf> {
        let layers = self.settings.layers.iter();
        layers
            .filter_map(|layer| match layer {
                Layer::Local(path) => Some(path.clone()),
                Layer::OwnTelemetry | Layer::Overlay | Layer::Remote => None,
            })
            .collect()
    }

    /// An answer of the disk for the running transaction.
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
                self.local = local;
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
                    self.validate(now);
                }
            }
            (Stage::MarkingValidated, _) => {
                if !self.overtaken(now) {
                    self.promote();
                }
            }
            (Stage::Promoting, _) => self.promoted(now),
            (Stage::MarkingPromoted, _) if transaction.doomed => {
                let reason = "interrupted again and again while it was being applied".to_owned();
                transaction.watch = transaction.revision.as_ref().map(|revision| {
                    Watch::new(revision.hash, now.mono, self.settings.apply.proof_timeout)
                });
                self.go_back(now, reason);
            }
            (Stage::MarkingPromoted, _) => self.tell_child(now),
            (Stage::MarkingSignalled, _) => {
                transaction.stage = Stage::Proving;
                self.enter("proving");
            }
            (Stage::MarkingProbation, _) => self.begin_probation(now),
            (Stage::MarkingGood { .. }, _) => self.good(now),
            (Stage::MarkingCommitted, _) => self.committed(now),
            (Stage::Rejecting, _) => self.choose_target(now),
            (Stage::FetchingGood, DiskDone::Revision(revision)) => self.return_to(*revision),
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

    fn transaction_fault(&mut self, now: Now, fault: DiskFault) {
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
            Stage::Promoting => {
                // The link may or may not have moved. Point it back; the child was not told anything.
                transaction.failure = fault.reason;
                match transaction.previous.clone() {
                    Some(previous) => {
                        transaction.target = Some(previous.clone());
                        self.return_to(previous);
                    }
                    None => {
                        let reason = transaction.failure.clone();
                        self.fail(now, &reason, Remember::No);
                    }
                }
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
            Stage::FetchingGood => self.fall_to_base(now),
            Stage::StagingBase => self.nowhere_to_go(now),
            Stage::Returning { .. } => {
                transaction.stage = Stage::Returning {
                    retry_at: Some(now.mono.after(DISK_RETRY)),
                };
                self.phase_error = fault.reason;
            }
            Stage::MarkingRolledBack => self.rolled_back(now),
            Stage::Validating { .. } | Stage::Proving | Stage::Probation { .. } => {
                debug_assert!(false, "no disk work is under way");
            }
        }
    }

    fn compose(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let composed: Result<Candidate, Refused> = match &transaction.job.source {
            Source::Files(files) => {
                desired::compose(&self.settings, &self.places, &self.local, files)
            }
            Source::Recompose => {
                let current = self.current.as_ref();
                let is_default = current.is_none_or(|current| current.origin == Origin::Default);
                let files = current.map(|current| desired::offered(&current.files));
                if is_default {
                    self.compose_base()
                } else {
                    desired::compose(
                        &self.settings,
                        &self.places,
                        &self.local,
                        &files.unwrap_or_default(),
                    )
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
        let origin = match (transaction.job.origin, &transaction.job.source) {
            (Origin::Local | Origin::Default, _) if only_default(&candidate, &self.local) => {
                Origin::Default
            }
            (Origin::Offer, Source::Base) if only_default(&candidate, &self.local) => {
                Origin::Default
            }
            (origin, _) => origin,
        };
        // A local change keeps the offer it was made under, whether or not the server is told about it.
        let offer = match transaction.job.source {
            Source::Recompose if origin != Origin::Default => self
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

    pub(crate) fn compose_base(&self) -> Result<Candidate, Refused> {
        let base = desired::compose(&self.settings, &self.places, &self.local, &[])?;
        if !base.is_empty() {
            return Ok(base);
        }
        desired::compose_default(&self.settings, &self.places).unwrap_or(Ok(base))
    }

    fn nothing_to_run(&mut self, now: Now) {
        let origin = self
            .transaction
            .as_ref()
            .map(|transaction| transaction.job.origin);
        if matches!(origin, Some(Origin::Local | Origin::Default)) {
            self.transaction = None;
            self.enter("idle");
            self.begin_pending(now);
        } else {
            self.fail(now, "the config holds nothing to run", Remember::No);
        }
    }

    /// The candidate is known: is it news, and may it be tried?
    fn decide(&mut self, now: Now) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let Some(revision) = &transaction.revision else {
            return;
        };
        let (hash, manual) = (revision.hash, transaction.job.origin == Origin::Manual);
        let is_current = self.current.as_ref().is_some_and(|current| {
            current.hash == hash && self.last_good.as_ref() == Some(&current.id)
        });
        if is_current && self.settling.is_none() {
            return self.already_running(now);
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

    fn already_running(&mut self, now: Now) {
        let Some(mut transaction) = self.transaction.take() else {
            return;
        };
        // The revision that runs is the one on disk, not the twin that was just composed.
        transaction.revision.clone_from(&self.current);
        let record = record_of(&transaction, now, Step::Committed, "already running");
        self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
        self.remember(record);
        if let Some(offer) = transaction.job.offer {
            self.answer(&offer, Outcome::Applied, "");
        }
        self.enter("committed");
        self.begin_pending(now);
    }

    fn staged(&mut self, now: Now, step: Step) {
        if let Some(transaction) = &mut self.transaction {
            transaction.stage = Stage::MarkingStaged;
            self.mark(now, step, "");
        }
    }

    fn validate(&mut self, now: Now) {
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
                let reason =
                    format!("the validator refused the config (exit code {code}): {words}");
                self.fail(now, &reason, Remember::Yes);
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

    fn promote(&mut self) {
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

    fn promoted(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.current.clone_from(&transaction.revision);
        self.effective_stale = true;
        transaction.stage = Stage::MarkingPromoted;
        self.mark(now, Step::Promoted, "");
    }

    /// Tells the child what to run: HUP where that is enough, else a new process, or none.
    fn tell_child(&mut self, now: Now) {
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
    fn change_child(
        &mut self,
        now: Now,
        previous: Option<&Revision>,
        next: &Revision,
        anew: bool,
    ) -> String {
        self.child.expect_proof();
        if self.stopping {
            return "stopping".to_owned();
        }
        if desired::is_empty(&next.files) {
            let orders = self.life.want_down(now.mono);
            self.obey(orders);
            return "stop".to_owned();
        }
        if matches!(
            self.settings.profile.proof,
            Proof::Exec(_) | Proof::Http { .. }
        ) {
            self.proof_probe.begin(now.mono);
        }
        let running = self.life.running().map(|child| child.pid);
        let by_hup = self.settings.apply.reload == Reload::Hup
            && self.settings.profile.hup
            && !anew
            // A program that has not come up yet may not have its handler: HUP would end it.
            && self.child_health().0
            && !matches!(self.settings.profile.proof, Proof::FreshProcess { .. });
        let reason = match (running, previous) {
            (Some(_), Some(previous)) if by_hup => {
                desired::needs_restart(&self.settings, &self.places, &previous.files, &next.files)
            }
            _ => Some("the profile or the settings say so".to_owned()),
        };
        match (running, reason) {
            (Some(pid), None) => {
                self.count("reloads");
                self.note(
                    NoteLevel::Info,
                    "child told to reload",
                    vec![("process.pid", pid.to_string())],
                );
                self.out.effects.push(AgentEffect::Signal {
                    pid,
                    signal: SIGHUP,
                    group: false,
                });
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

    fn drive_once(&mut self, now: Now) -> bool {
        if self.settling.is_some() {
            return self.drive_settling(now);
        }
        let Some(transaction) = &self.transaction else {
            return false;
        };
        match &transaction.stage {
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

    fn drive_proving(&mut self, now: Now) -> bool {
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
                self.go_back(now, reason);
                true
            }
        }
    }

    fn renew_child(&mut self, now: Now) {
        self.child.expect_proof();
        if matches!(
            self.settings.profile.proof,
            Proof::Exec(_) | Proof::Http { .. }
        ) {
            self.proof_probe.begin(now.mono);
        }
        let orders = self.life.restart(now.mono, &mut self.tickets);
        self.obey(orders);
    }

    fn begin_probation(&mut self, now: Now) {
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

    fn drive_probation(
        &mut self,
        now: Now,
        until: Moment,
        unhealthy_since: Option<Moment>,
    ) -> bool {
        let (healthy, trouble) = self.child_health();
        let Some(transaction) = &mut self.transaction else {
            return false;
        };
        if let Some(died) = transaction.died.take() {
            self.go_back(now, format!("in probation {died}"));
            return true;
        }
        // A reload or a slow backend may look unhealthy for a moment; a third of the window in a row is no moment.
        let patience = self.settings.apply.probation / 3;
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
                format!("in probation the child became unhealthy: {trouble}"),
            );
            return true;
        }
        if now.mono >= until {
            self.mark_good();
            return true;
        }
        false
    }

    fn mark_good(&mut self) {
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

    fn good(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.last_good = transaction
            .revision
            .as_ref()
            .map(|revision| revision.id.clone());
        transaction.stage = Stage::MarkingCommitted;
        self.mark(now, Step::Committed, "");
    }

    fn committed(&mut self, now: Now) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        self.count("commits");
        if let Some(revision) = &transaction.revision {
            self.forgive(revision.hash);
        }
        match (transaction.job.offer, &mut self.remote) {
            (Some(offer), _) => self.answer(&offer, Outcome::Applied, ""),
            // A person changed what runs: the server's last offer is not what runs any more.
            (None, Some(remote)) if transaction.job.origin == Origin::Manual => {
                let offer = remote.offer.clone();
                self.answer(
                    &offer,
                    Outcome::Failed,
                    "replaced by an order of the operator",
                );
            }
            (None, _) => {}
        }
        self.enter("committed");
        self.prune();
        self.begin_pending(now);
    }

    /// A config that proved itself after all is no longer rejected.
    fn forgive(&mut self, hash: RevisionHash) {
        let before = self.rejected.len();
        self.rejected.retain(|rejection| rejection.hash != hash);
        if self.rejected.len() != before {
            let rejected = self.rejected.clone();
            self.push_disk(Purpose::Memory, DiskWork::SaveRejected(rejected));
        }
    }

    fn prune(&mut self) {
        let mut ids: Vec<RevisionId> = self
            .revisions
            .iter()
            .map(|stored| stored.id.clone())
            .collect();
        ids.sort_unstable();
        ids.reverse();
        let referenced = |id: &RevisionId| {
            self.current
                .as_ref()
                .is_some_and(|current| &current.id == id)
                || self.last_good.as_ref() == Some(id)
        };
        let mut spare = self.settings.apply.keep_revisions;
        let mut keep = Vec::new();
        for id in ids.iter().cloned() {
            if referenced(&id) {
                keep.push(id);
            } else if spare > 0 {
                spare = spare.saturating_sub(1);
                keep.push(id);
            }
        }
        if keep.len() < ids.len() {
            self.push_disk(Purpose::Prune, DiskWork::Prune { keep });
        }
    }

    /// A failure before promotion: nothing was touched.
    fn fail(&mut self, now: Now, reason: &str, remember: Remember) {
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
        if let (Remember::Yes, Some(revision)) = (remember, &transaction.revision) {
            self.reject(now, revision.hash, &reason, transaction.job.offer.as_ref());
            let rejected = self.rejected.clone();
            self.push_disk(Purpose::Memory, DiskWork::SaveRejected(rejected));
        }
        if let Some(offer) = &transaction.job.offer {
            self.answer(offer, Outcome::Failed, &reason);
            // What the host could not do today it may be able to do tomorrow; what the config is, it stays.
            self.remote_retryable = remember == Remember::No && transaction.is_before_promotion();
        }
        self.enter_with("failed", reason.clone());
        if transaction.job.last_resort || self.current.is_none() {
            self.hold(reason);
        }
        self.prune();
        self.begin_pending(now);
        self.resume_probation(now);
    }

    /// What runs was promoted and never came to an end: a newer offer took its place and then failed itself. It gets its window
    /// now, because a config that was never proven must not run unwatched.
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
        let watch = Watch::new(current.hash, now.mono, self.settings.apply.proof_timeout).of_old();
        if matches!(
            self.settings.profile.proof,
            Proof::Exec(_) | Proof::Http { .. }
        ) {
            self.proof_probe.begin(now.mono);
        }
        let job = Job {
            origin: current.origin,
            offer: None,
            source: Source::Stored(current.id.clone()),
            last_resort: false,
        };
        let mut transaction = Transaction::new(self.next_transaction, job, Stage::MarkingSignalled);
        transaction.stored = true;
        transaction.watch = Some(watch);
        transaction.previous = Some(current.clone());
        transaction.revision = Some(current);
        self.transaction = Some(transaction);
        self.mark(now, Step::Signalled, "its window begins anew");
    }

    fn hold(&mut self, reason: String) {
        self.note(
            NoteLevel::Error,
            "no config left to try",
            vec![("reason", reason.clone())],
        );
        self.held = Some(reason);
    }

    fn reject(&mut self, now: Now, hash: RevisionHash, reason: &str, offer: Option<&OfferHash>) {
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
    fn go_back(&mut self, now: Now, reason: String) {
        let reason = report::bounded(&reason);
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
        let (hash, offer) = match &transaction.revision {
            Some(revision) => (revision.hash, transaction.job.offer.clone()),
            None => return,
        };
        self.enter_with("rolling back", reason.clone());
        self.reject(now, hash, &reason, offer.as_ref());
        let rejected = self.rejected.clone();
        self.push_disk(Purpose::Transaction, DiskWork::SaveRejected(rejected));
    }

    fn choose_target(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let bad = transaction.revision.as_ref().map(|revision| &revision.id);
        match self.last_good.clone() {
            Some(good) if Some(&good) != bad && !transaction.job.last_resort => {
                transaction.stage = Stage::FetchingGood;
                self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(good));
            }
            _ => self.fall_to_base(now),
        }
    }

    fn fall_to_base(&mut self, now: Now) {
        let base = self.compose_base();
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let bad = transaction.revision.as_ref().map(|revision| revision.hash);
        let base = base.ok().filter(|base| {
            !base.is_empty()
                && Some(base.hash) != bad
                && !transaction.job.last_resort
                && !self
                    .rejected
                    .iter()
                    .any(|rejection| rejection.hash == base.hash)
        });
        let Some(base) = base else {
            return self.nowhere_to_go(now);
        };
        let origin = if only_default(&base, &self.local) {
            Origin::Default
        } else {
            Origin::Local
        };
        let stored = self
            .revisions
            .iter()
            .find(|stored| stored.hash == base.hash);
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

    fn nowhere_to_go(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.target = None;
        transaction.stage = Stage::MarkingRolledBack;
        let reason = transaction.failure.clone();
        self.mark(now, Step::RolledBack, &reason);
    }

    fn return_to(&mut self, target: Revision) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let id = target.id.clone();
        transaction.target = Some(target);
        transaction.stage = Stage::Returning { retry_at: None };
        self.enter("rolling back");
        self.push_disk(Purpose::Transaction, DiskWork::Promote(id));
    }

    fn returned(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        self.current.clone_from(&transaction.target);
        self.effective_stale = true;
        transaction.stage = Stage::MarkingRolledBack;
        let reason = transaction.failure.clone();
        self.mark(now, Step::RolledBack, &reason);
    }

    fn rolled_back(&mut self, now: Now) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let reason = transaction.failure;
        if let Some(offer) = &transaction.job.offer {
            self.answer(offer, Outcome::Failed, &reason);
        }
        self.enter_with("rolled back", reason.clone());
        let Some(target) = transaction.target else {
            let orders = self.life.want_down(now.mono);
            self.obey(orders);
            self.hold(reason);
            return self.begin_pending(now);
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
                self.settling = Some(Settling {
                    watch,
                    offer: target.offer,
                    last_resort,
                });
            }
        }
        self.prune();
        self.begin_pending(now);
    }

    fn drive_settling(&mut self, now: Now) -> bool {
        let Some(settling) = &self.settling else {
            return false;
        };
        let seen = self.seen(now.mono, &settling.watch);
        match settling.watch.judge(now.mono, &seen_of(&seen)) {
            Verdict::Wait => false,
            Verdict::Proven => {
                let offer = self.settling.take().and_then(|settling| settling.offer);
                if self.settings.apply.after_rollback == AfterRollback::ReportGood
                    && let Some(offer) = offer
                {
                    self.answer(&offer, Outcome::Applied, "");
                }
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
                    self.hold(format!(
                        "the config gone back to did not come up either: {reason}"
                    ));
                } else {
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

    /// A newer job takes the place of the running one, where that is safe. True when it did.
    fn supersede(&mut self, now: Now) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        match transaction.stage {
            Stage::Validating { ticket } => {
                self.out.effects.push(AgentEffect::CancelTool { ticket });
            }
            Stage::Proving | Stage::Probation { .. } => {}
            // A piece of disk work is under way: its answer comes first.
            _ => return false,
        }
        self.close_superseded(now);
        true
    }

    /// After a disk answer before promotion: is there something newer?
    fn overtaken(&mut self, now: Now) -> bool {
        if self.pending.is_none() {
            return false;
        }
        self.close_superseded(now);
        true
    }

    fn close_superseded(&mut self, now: Now) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let record = record_of(
            &transaction,
            now,
            Step::Superseded,
            "a newer offer took its place",
        );
        self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
        self.remember(record);
        self.count("superseded");
        self.begin_pending(now);
    }

    pub(crate) fn begin_pending(&mut self, now: Now) {
        if self.stopping {
            return;
        }
        if let Some(job) = self.pending.take() {
            self.settling = None;
            self.begin(now, job);
        }
    }

    /// A transaction that was interrupted again and again is undone instead of taken up once more.
    pub(crate) fn interrupted_too_often(&mut self, now: Now) {
        if let Some(transaction) = &mut self.transaction {
            transaction.doomed = true;
        }
        _ = now;
    }

    /// When the rollout wants to be called.
    pub(crate) fn rollout_due(&self) -> Option<Moment> {
        if self.stopping {
            return None;
        }
        let alive = match self.settings.profile.proof {
            Proof::FreshProcess { alive_for } => self.life.up_since().map(|up| up.after(alive_for)),
            _ => None,
        };
        if let Some(settling) = &self.settling {
            return sooner(
                Some(settling.watch.due()),
                alive.filter(|at| *at > settling.watch.since),
            );
        }
        let transaction = self.transaction.as_ref()?;
        match &transaction.stage {
            Stage::Proving => {
                let watch = transaction.watch.as_ref();
                sooner(watch.map(Watch::due), alive)
            }
            Stage::Probation {
                until,
                unhealthy_since,
            } => {
                let patience = self.settings.apply.probation / 3;
                sooner(
                    Some(*until),
                    unhealthy_since.map(|since| since.after(patience)),
                )
            }
            Stage::MarkingGood { retry_at } | Stage::Returning { retry_at } => *retry_at,
            _ => None,
        }
    }

    /// The hash that the child is expected to prove.
    pub(crate) fn watched_hash(&self) -> Option<RevisionHash> {
        let of_transaction = self.transaction.as_ref().and_then(|t| t.watch.as_ref());
        let watch = of_transaction.or(self.settling.as_ref().map(|settling| &settling.watch));
        watch.map(|watch| watch.hash)
    }

    /// Sets what the server is told about an offer.
    pub(crate) fn answer(&mut self, offer: &OfferHash, outcome: Outcome, message: &str) {
        self.remote_retryable = false;
        let message = report::bounded(message);
        self.remote = Some(RemoteStatus {
            offer: offer.clone(),
            outcome,
            message,
        });
    }

    pub(crate) fn enter(&mut self, phase: &'static str) {
        self.enter_with(phase, String::new());
    }

    pub(crate) fn enter_with(&mut self, phase: &'static str, error: String) {
        if self.phase != phase {
            let revision = self.transaction.as_ref().and_then(|t| t.revision.as_ref());
            let revision = revision.map(|revision| revision.id.to_string());
            self.note(
                NoteLevel::Info,
                "rollout phase",
                vec![
                    ("from", self.phase.to_owned()),
                    ("to", phase.to_owned()),
                    ("revision", revision.unwrap_or_default()),
                ],
            );
        }
        self.phase = phase;
        self.phase_error = error;
    }

    fn mark(&mut self, now: Now, step: Step, reason: &str) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let record = record_of(transaction, now, step, reason);
        self.remember(record.clone());
        self.push_disk(Purpose::Transaction, DiskWork::Journal(record));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remember {
    Yes,
    No,
}

fn transaction_source(engine: &Engine) -> Option<&Source> {
    engine
        .transaction
        .as_ref()
        .map(|transaction| &transaction.job.source)
}

/// Whether a candidate is the built-in default: nobody on this host wrote a layer of it.
pub(crate) fn only_default(candidate: &Candidate, local: &[super::message::LocalFile]) -> bool {
    let has_local = candidate
        .files
        .iter()
        .any(|file| file.layer == LayerKind::Local);
    !has_local && local.is_empty()
}

fn record_of(transaction: &Transaction, now: Now, step: Step, reason: &str) -> Record {
    let revision = transaction.revision.as_ref();
    Record {
        transaction: transaction.number,
        at: now.wall,
        step,
        revision: revision.map(|revision| revision.id.clone()),
        hash: revision.map(|revision| revision.hash),
        offer: transaction.job.offer.clone(),
        origin: revision.map_or(transaction.job.origin, |revision| revision.origin),
        reason: reason.to_owned(),
    }
}

pub(crate) fn stored_of(revision: &Revision) -> StoredRevision {
    StoredRevision {
        id: revision.id.clone(),
        hash: revision.hash,
        offer: revision.offer.clone(),
        origin: revision.origin,
        at: revision.at,
        files: revision.files.len(),
        bytes: revision
            .files
            .iter()
            .map(|file| file.bytes.len() as u64)
            .sum(),
    }
}

fn sooner(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    [a, b].into_iter().flatten().min()
}
