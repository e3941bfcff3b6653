//! How a job begins: an offer is taken or answered, waits its turn, or takes the place of an older one.
//!
//! Promises: the latest wins, at a place where nothing is half done; what the server is told about an offer is set
//! here.
//! Must never: look into a config.

use super::{Job, Source, Stage, Transaction, record_of};
use crate::config::{EmptyConfig, Layer};
use crate::engine::disk::Purpose;
use crate::engine::message::{
    AgentEffect, DiskWork, NoteLevel, OfferedFile, Origin, Outcome, Record, RemoteStatus, Step,
};
use crate::engine::{Engine, report};
use crate::units::{Now, OfferHash};

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
        if job.is_theirs() {
            self.leave_fallback();
        }
        if self.transaction.is_some() || self.is_held_back() {
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

    /// Whether something from outside is being tried, or will be, or what was there before it has to come up again.
    pub(crate) fn is_trying_theirs(&self) -> bool {
        let tried = self.transaction.as_ref().map(|it| &it.job);
        let mut jobs = tried.into_iter().chain(&self.pending);
        jobs.any(Job::is_theirs) || self.settling.is_some()
    }

    /// Whether nothing is being tried, and something could be.
    pub(crate) fn is_between_configs(&self) -> bool {
        self.transaction.is_none()
            && self.pending.is_none()
            && self.settling.is_none()
            && self.frozen.is_none()
            && !self.stopping
            && !self.is_held_back()
    }

    /// What came from outside and is not promoted yet.
    pub(crate) fn coming(&self) -> Option<Job> {
        let begun = self.transaction.as_ref();
        let begun = begun.filter(|transaction| transaction.is_before_promotion());
        let begun = begun.map(|transaction| &transaction.job);
        let next = self.pending.as_ref().or(begun);
        next.filter(|job| job.is_theirs()).cloned()
    }

    pub(super) fn begin(&mut self, now: Now, mut job: Job) {
        if matches!(job.source, Source::Recompose) {
            // What runs now, which need not be what ran when it was asked for: that may have been rolled back since.
            // Where the server has read APPLIED that is true whatever becomes of a local change.
            job.offer = self.unsettled_offer();
        }
        if let Some(offer) = job.offer.clone() {
            self.answer(&offer, Outcome::Applying, "");
        }
        self.next_transaction = self.next_transaction.saturating_add(1);
        self.held = None;
        let (stage, work) = match &job.source {
            Source::Stored(id) => (Stage::Fetching, DiskWork::ReadRevision(id.clone())),
            Source::OwnTelemetry => (Stage::Gathering, DiskWork::ReadLocal(Vec::new())),
            Source::Files(_) | Source::Recompose | Source::Base | Source::Nothing => {
                (Stage::Gathering, DiskWork::ReadLocal(self.local_paths()))
            }
        };
        let mut transaction = Transaction::new(self.next_transaction, job, stage);
        transaction.previous.clone_from(&self.current);
        self.transaction = Some(transaction);
        self.enter("policy");
        self.verify();
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
        // As when it began: a local change answers for the offer it was made under, while the server waits for that.
        let offer = match record.origin {
            Origin::Local => self.unsettled_offer(),
            Origin::Offer | Origin::Manual | Origin::Default => None,
        };
        let job = Job {
            origin: record.origin,
            offer: record.offer.clone().or(offer),
            source: Source::Stored(id.clone()),
            last_resort: false,
        };
        let mut transaction = Transaction::new(record.transaction, job, Stage::Fetching);
        transaction.previous.clone_from(&self.current);
        transaction.stored = true;
        if promoted {
            // The child that this start brings up has read it already: no need to tell it again.
            transaction.revision.clone_from(&self.current);
            if let Some(told) = self.take_behind() {
                // It runs on from an earlier life, which did not come to telling it.
                transaction.stage = Stage::Recalling;
                self.enter("reloading");
                let record = record_of(&transaction, now, Step::Resumed, "");
                self.transaction = Some(transaction);
                self.remember(record.clone());
                self.push_disk(Purpose::Record, DiskWork::Journal(record));
                return self.recall(told);
            }
            transaction.stage = Stage::MarkingSignalled;
            if let Some(revision) = &transaction.revision {
                transaction.watch = Some(self.watch_over(now, revision.hash));
            }
            self.transaction = Some(transaction);
            self.expect_proof(now);
            self.enter("proving");
            self.mark(now, Step::Resumed, "");
        } else {
            self.transaction = Some(transaction);
            self.enter("staging");
            self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(id));
        }
    }

    /// An ordered stop: what is under way is not to blame for its end.
    pub(crate) fn suspend(&mut self, now: Now) {
        if let Some(transaction) = &self.transaction
            && transaction.revision.is_some()
        {
            let record = record_of(transaction, now, Step::Suspended, "");
            self.push_disk(Purpose::Record, DiskWork::Journal(record.clone()));
            self.remember(record);
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

    /// A newer job takes the place of the running one, where that is safe. True when it did.
    pub(crate) fn supersede(&mut self, now: Now) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        match transaction.stage {
            Stage::Validating { ticket } => {
                self.out.effects.push(AgentEffect::CancelTool { ticket });
            }
            // It was refused already; what it is refused for does not change any more.
            #[cfg(feature = "layers")]
            Stage::Trying { ticket } => {
                self.out.effects.push(AgentEffect::CancelTool { ticket });
                self.search_overtaken(now);
                return true;
            }
            Stage::Awaiting { .. } | Stage::Proving | Stage::Probation { .. } => {}
            // A piece of disk work is under way: its answer comes first.
            _ => return false,
        }
        self.close_superseded(now);
        true
    }

    /// After a disk answer before promotion: is there something newer?
    pub(super) fn overtaken(&mut self, now: Now) -> bool {
        if self.pending.is_none() {
            return false;
        }
        self.close_superseded(now);
        true
    }

    pub(super) fn close_superseded(&mut self, now: Now) {
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
        self.prune();
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

    pub(super) fn mark(&mut self, now: Now, step: Step, reason: &str) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let record = record_of(transaction, now, step, reason);
        self.remember(record.clone());
        self.push_disk(Purpose::Transaction, DiskWork::Journal(record));
    }
}
