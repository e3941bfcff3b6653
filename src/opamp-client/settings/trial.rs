//! Settings on trial: connect with them, and keep them or go back.
//!
//! Promises: a candidate has a bounded number of attempts and a bounded time; an overloaded server costs it neither,
//! within a longer bound. Going back gives up nothing but the candidate; when the old settings do not
//! work either, both get their turns for ever. What connects and is answered, or stands for a while in front
//! of a server that says nothing, is proven.
//! Must never: connect. It says with what, the caller does.

use std::time::Duration;

use super::offer::Failures;
use super::saved::SavedCandidate;
use super::{Clock, Loss, LossKind, REJECTIONS_MAX, Settings, SettingsEffect, Trouble};
use crate::messages::{ConnectionSettingsStatus, OpAmpConnectionSettings};
use crate::session::printable;
use crate::transport::Target;

/// How long settings have to prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialLimits {
    /// Attempts that may fail.
    pub attempts: u32,
    /// For all of them.
    pub time: Duration,
    /// The same when the server says that it is overloaded.
    pub throttled_time: Duration,
    /// A connection that stands this long in front of a silent server is proven.
    pub quiet: Duration,
    /// For the caller to store a candidate, and to carry out what concerns other connections.
    pub outcome: Duration,
}

impl Default for TrialLimits {
    fn default() -> Self {
        Self {
            attempts: 3,
            time: Duration::from_mins(1),
            throttled_time: Duration::from_mins(10),
            quiet: Duration::from_secs(10),
            outcome: Duration::from_mins(1),
        }
    }
}

/// Settings that are to be proven. They hold keys and tokens, so there is no `Debug`.
#[derive(Clone)]
pub(super) struct Candidate {
    /// Everything that was offered so far.
    pub(super) opamp: OpAmpConnectionSettings,
    /// The same on top of the local settings.
    pub(super) target: Target,
    pub(super) hash: Vec<u8>,
    /// The local settings themselves, tried because the offered ones are refused.
    local: bool,
    /// Holds the certificate that the pending key belongs to.
    answers_request: bool,
    /// Why it was given up.
    failed: Option<Trouble>,
    /// What else of its offer failed, once the rest of the offer is done.
    pub(super) beside: Failures,
}

impl Candidate {
    pub(super) fn new(opamp: OpAmpConnectionSettings, target: Target, hash: Vec<u8>) -> Self {
        Self {
            opamp,
            target,
            hash,
            local: false,
            answers_request: false,
            failed: None,
            beside: Failures::default(),
        }
    }

    pub(super) fn answering_request(mut self, answers: bool) -> Self {
        self.answers_request = answers;
        self
    }

    pub(super) fn failed_before(mut self, trouble: Option<Trouble>, beside: Failures) -> Self {
        self.failed = trouble;
        self.beside = beside;
        self
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// A trial in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) side: Side,
    attempts: u32,
    /// The first turn of the candidate ends here; later turns end by attempts.
    until: Option<Duration>,
    last_until: Duration,
}

impl Trial {
    pub(super) fn new(side: Side, clock: Clock, limits: TrialLimits) -> Self {
        Self {
            side,
            attempts: 0,
            until: (side == Side::New).then(|| clock.now.saturating_add(limits.time)),
            last_until: clock.now.saturating_add(limits.throttled_time),
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.until.is_some()
    }

    fn turn(&mut self, side: Side) {
        self.side = side;
        self.attempts = 0;
        self.until = None;
    }
}

/// Where the settings of the server's own connection stand.
pub(super) enum Phase {
    /// What is in force is all there is.
    Settled,
    /// The candidate is being saved; `save` is known once the state was handed out.
    Saving {
        candidate: Candidate,
        save: Option<u64>,
        /// A store that has not answered by then has failed.
        until: Duration,
    },
    /// The old connection is being left.
    Leaving { candidate: Candidate },
    /// One of the two is being tried.
    Trying { candidate: Candidate, trial: Trial },
}

impl Phase {
    pub(super) fn candidate_mut(&mut self) -> Option<&mut Candidate> {
        match self {
            Self::Settled => None,
            Self::Saving { candidate, .. }
            | Self::Leaving { candidate }
            | Self::Trying { candidate, .. } => Some(candidate),
        }
    }

    pub(super) fn to_be_saved(&self) -> Option<SavedCandidate> {
        let (Self::Saving { candidate, .. }
        | Self::Leaving { candidate }
        | Self::Trying { candidate, .. }) = self
        else {
            return None;
        };
        (!candidate.local).then(|| SavedCandidate {
            opamp: candidate.opamp.clone(),
            hash: candidate.hash.clone(),
            failed: candidate.failed.clone(),
            beside: candidate.beside.lines(),
        })
    }
}

impl Settings {
    /// Saves a candidate, or leaves at once if nothing can be saved.
    pub(super) fn try_candidate(&mut self, clock: Clock, candidate: Candidate) {
        self.unsaved = true;
        if self.config.policy.can_save {
            self.phase = Phase::Saving {
                candidate,
                save: None,
                until: clock.now.saturating_add(self.config.trial.outcome),
            };
        } else {
            self.phase = Phase::Leaving { candidate };
            self.effect(SettingsEffect::Leave);
        }
    }

    pub(super) fn candidate_saved(&mut self, id: u64, result: Result<(), String>) {
        let Phase::Saving {
            save: Some(save), ..
        } = &self.phase
        else {
            return;
        };
        if id < *save {
            return;
        }
        let Phase::Saving { candidate, .. } = std::mem::replace(&mut self.phase, Phase::Settled)
        else {
            return;
        };
        match result {
            Ok(()) => {
                self.phase = Phase::Leaving { candidate };
                self.effect(SettingsEffect::Leave);
            }
            Err(reason) => {
                self.unsaved = true;
                self.opamp_done(Err(format!("opamp: could not be saved: {reason}")));
            }
        }
    }

    pub(super) fn left(&mut self, clock: Clock) {
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Leaving { candidate } => {
                let trial = Trial::new(Side::New, clock, self.config.trial);
                self.phase = Phase::Trying { candidate, trial };
            }
            other => self.phase = other,
        }
    }

    /// The connection works.
    pub(super) fn proven(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Trying { candidate, trial } => match trial.side {
                Side::New => self.commit(candidate),
                // The old ones work: the candidate is forgotten for good.
                Side::Old => {
                    self.rejections = 0;
                    self.unsaved = true;
                }
            },
            other => self.phase = other,
        }
    }

    fn commit(&mut self, candidate: Candidate) {
        let interval = self.heartbeat();
        self.current = candidate.target;
        self.state.opamp = candidate.opamp;
        self.rejections = 0;
        self.unsaved = true;
        if candidate.answers_request {
            self.state.pending = None;
        }
        self.look_at_certificate();
        self.effect(SettingsEffect::Accepted);
        if self.heartbeat() != interval {
            self.effect(SettingsEffect::Heartbeat(self.heartbeat()));
        }
        if candidate.local {
            // Without its hash the server offers anew what it thinks we have.
            self.state.status = ConnectionSettingsStatus::default();
            self.effect(SettingsEffect::Report(self.state.status.clone()));
        } else if let Some(work) = &mut self.work
            && candidate.failed.is_some()
        {
            // The rest of the offer is not done yet.
            work.opamp_works();
        } else if candidate.failed.is_some() {
            self.report_end(candidate.hash, None, &candidate.beside);
        } else {
            self.opamp_done(Ok(()));
        }
    }

    /// Gives the old settings their turn; says what failed if that is news.
    fn revert(&mut self, reason: &str) {
        let Phase::Trying { candidate, trial } = &mut self.phase else {
            return;
        };
        trial.turn(Side::Old);
        let trouble = Trouble(printable(reason));
        let first = candidate.failed.is_none();
        candidate.failed = Some(trouble.clone());
        let local = candidate.local;
        if first && !local {
            self.unsaved = true;
            self.opamp_done(Err(format!("opamp: {reason}")));
            self.effect(SettingsEffect::Reverted(trouble));
        }
    }

    pub(super) fn lost(&mut self, clock: Clock, loss: &Loss) {
        let limits = self.config.trial;
        match &mut self.phase {
            Phase::Settled => self.count_rejection(clock, loss),
            // The attempts of the old settings go on until the candidate is saved.
            Phase::Saving { .. } => {}
            Phase::Leaving { .. } => self.left(clock),
            Phase::Trying { trial, .. } => {
                // Without a deadline, waiting for an overloaded server would never end: it costs an attempt then.
                if let LossKind::Throttled { retry_in } = loss.kind
                    && let Some(until) = trial.until
                {
                    let later = clock
                        .now
                        .saturating_add(retry_in)
                        .saturating_add(limits.time);
                    trial.until = Some(until.max(later.min(trial.last_until)));
                    return;
                }
                trial.attempts = trial.attempts.saturating_add(1);
                let hopeless = matches!(loss.kind, LossKind::Rejected | LossKind::Settings);
                if trial.attempts < limits.attempts && !hopeless {
                    return;
                }
                match trial.side {
                    Side::New => self.revert(&loss.reason),
                    Side::Old => trial.turn(Side::New),
                }
            }
        }
    }

    /// Offered settings that are refused again and again give the local ones another chance.
    fn count_rejection(&mut self, clock: Clock, loss: &Loss) {
        if loss.kind != LossKind::Rejected {
            return;
        }
        self.rejections = self.rejections.saturating_add(1);
        let local = self.config.policy.fall_back && self.current != self.config.base;
        if local && self.rejections >= REJECTIONS_MAX {
            let opamp = OpAmpConnectionSettings::default();
            let target = self.config.base.clone();
            let mut candidate = Candidate::new(opamp, target, Vec::new());
            candidate.local = true;
            let trial = Trial::new(Side::New, clock, self.config.trial);
            self.phase = Phase::Trying { candidate, trial };
        }
    }

    /// The local endpoint is another one now: nothing that was offered before goes for it.
    pub(super) fn give_up_offers(&mut self, base: &Target) {
        let interval = self.heartbeat();
        let on_trial = !matches!(self.phase, Phase::Settled);
        if on_trial && self.work.is_some() {
            self.opamp_done(Err("opamp: the local endpoint was changed".to_owned()));
        } else {
            self.state.status = ConnectionSettingsStatus::default();
            self.effect(SettingsEffect::Report(self.state.status.clone()));
        }
        self.phase = Phase::Settled;
        self.state.opamp = OpAmpConnectionSettings::default();
        self.config.base = base.clone();
        self.rejections = 0;
        self.unsaved = true;
        if self.heartbeat() != interval {
            self.effect(SettingsEffect::Heartbeat(self.heartbeat()));
        }
    }

    /// The server of a candidate does not understand us.
    pub(super) fn refused_by_server(&mut self, reason: &str) {
        if matches!(&self.phase, Phase::Trying { trial, .. } if trial.side == Side::New) {
            self.revert(reason);
            self.effect(SettingsEffect::Leave);
        }
    }

    pub(super) fn trial_due(&self) -> Option<Duration> {
        let trial = match &self.phase {
            Phase::Settled | Phase::Leaving { .. } => return None,
            Phase::Saving { until, .. } => return Some(*until),
            Phase::Trying { trial, .. } => trial,
        };
        match self.link {
            Some(link) => Some(link.since.saturating_add(self.config.trial.quiet)),
            None => trial.until.filter(|_| trial.side == Side::New),
        }
    }

    pub(super) fn trial_timeout(&mut self, clock: Clock) {
        if self.trial_due().is_none_or(|due| due > clock.now) {
            return;
        }
        if matches!(self.phase, Phase::Saving { .. }) {
            self.phase = Phase::Settled;
            self.unsaved = true;
            return self.opamp_done(Err("opamp: was not stored in time".to_owned()));
        }
        if self.link.is_some() {
            return self.proven();
        }
        let seconds = self.config.trial.time.as_secs();
        self.revert(&format!("no connection within {seconds} s"));
        self.effect(SettingsEffect::Leave);
    }
}
