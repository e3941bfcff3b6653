//! The transaction: policy → stage → certificates → validate → promote → reload → proof → probation → commit, or back.
//!
//! Promises: one at a time; the latest offer wins; each step is on disk before the next begins; what failed is
//! remembered and answered at once when it comes again; a config that was never proven is never the only config.
//! Must never: decide how a child is started or stopped (`lifecycle`), or what a message looks like (`report`).

mod back;
mod commit;
mod disk_answer;
#[cfg(feature = "layers")]
mod fault;
mod forward;
mod gate;
mod offer;
mod proof;
mod replaced;
#[cfg(feature = "layers")]
mod search;

use std::time::Duration;

pub(crate) use gate::DomainEntry;

use crate::engine::Engine;
use crate::engine::desired::Candidate;
use crate::engine::message::{
    Exit, LayerKind, OfferedFile, Origin, Record, Revision, Step, StoredRevision,
};
use crate::engine::watch::{Watch, died};
use crate::units::{Moment, Now, OfferHash, RevisionId, Ticket};

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

impl Job {
    /// Whether it brings something from outside. What the operator's own files say is not remembered as bad.
    pub(crate) fn is_theirs(&self) -> bool {
        matches!(self.origin, Origin::Offer | Origin::Manual)
    }

    /// Whether it brings what the operator's own files say.
    fn is_of_files(&self) -> bool {
        self.origin == Origin::Local && !matches!(self.source, Source::OwnTelemetry)
    }
}

/// Where its content comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// An offer, or files given by hand.
    Files(Vec<OfferedFile>),
    /// What runs now, with the local layers as they are on disk now.
    Recompose,
    /// What runs now, as it is, with the destinations of own telemetry that are on trial.
    #[cfg_attr(
        not(feature = "telemetry"),
        expect(dead_code, reason = "nothing is on trial")
    )]
    OwnTelemetry,
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
    MarkingAwaiting {
        until: Moment,
    },
    Awaiting {
        until: Moment,
    },
    Validating {
        ticket: Ticket,
    },
    /// The config of the last good revision is read, to compare with what was refused.
    #[cfg(feature = "layers")]
    FetchingBaseline,
    /// Other combinations of the refused files are laid out.
    #[cfg(feature = "layers")]
    StagingTrial {
        files: Vec<crate::engine::message::RevisionFile>,
    },
    /// And judged.
    #[cfg(feature = "layers")]
    Trying {
        ticket: Ticket,
    },
    MarkingValidated,
    Promoting,
    /// Reads what a child of an earlier life was told last, to tell it what is current now.
    Recalling,
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
    /// Last good is not what it was: its bytes are put back before it is gone back to.
    #[cfg(feature = "layers")]
    RestoringGood,
    Returning {
        retry_at: Option<Moment>,
    },
    MarkingRolledBack,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Self::Gathering => "gathering",
            Self::Recalling => "recalling",
            Self::Fetching => "fetching",
            Self::Intent => "intent",
            Self::Staging => "staging",
            Self::MarkingStaged => "marking staged",
            Self::MarkingAwaiting { .. } => "marking awaiting",
            Self::Awaiting { .. } => "awaiting",
            Self::Validating { .. } => "validating",
            #[cfg(feature = "layers")]
            Self::FetchingBaseline => "fetching baseline",
            #[cfg(feature = "layers")]
            Self::StagingTrial { .. } => "staging trial",
            #[cfg(feature = "layers")]
            Self::Trying { .. } => "trying",
            Self::MarkingValidated => "marking validated",
            Self::Promoting => "promoting",
            Self::MarkingPromoted => "marking promoted",
            Self::MarkingSignalled => "marking signalled",
            Self::Proving => "proving",
            Self::MarkingProbation => "marking probation",
            Self::Probation { .. } => "probation",
            Self::MarkingGood { .. } => "marking good",
            Self::MarkingCommitted => "marking committed",
            Self::Rejecting => "rejecting",
            Self::FetchingGood => "fetching good",
            Self::StagingBase => "staging base",
            #[cfg(feature = "layers")]
            Self::RestoringGood => "restoring good",
            Self::Returning { .. } => "returning",
            Self::MarkingRolledBack => "marking rolled back",
        }
    }
}

/// The transaction under way.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact with its own reader; the state is the stage"
)]
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
    /// It died once in its window, where nothing is there to go back to.
    spared: bool,
    failure: String,
    refused_by_child: bool,
    /// Earlier lives died on it too often: it is undone as soon as the disk has answered.
    doomed: bool,
    /// What was to be gone back to could not be read.
    unread: bool,
    /// Where a rollback goes.
    target: Option<Revision>,
    /// The search for the file that the validator refused.
    #[cfg(feature = "layers")]
    search: Option<Box<fault::FaultSearch>>,
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
            spared: false,
            failure: String::new(),
            refused_by_child: false,
            doomed: false,
            unread: false,
            target: None,
            #[cfg(feature = "layers")]
            search: None,
        }
    }

    /// Its number in the journal.
    #[cfg(feature = "telemetry")]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The validator that runs for it.
    pub(crate) fn tool(&self) -> Option<Ticket> {
        match self.stage {
            Stage::Validating { ticket } => Some(ticket),
            #[cfg(feature = "layers")]
            Stage::Trying { ticket } => Some(ticket),
            _ => None,
        }
    }

    /// The name of the step it is at.
    pub(crate) fn stage_name(&self) -> &'static str {
        self.stage.name()
    }

    /// The offer behind it.
    pub(crate) fn offer(&self) -> Option<&OfferHash> {
        self.job.offer.as_ref()
    }

    /// Whether the child has proven it and its window has not ended.
    #[cfg(feature = "flow")]
    pub(crate) fn is_on_probation(&self) -> bool {
        matches!(self.stage, Stage::Probation { .. })
    }

    /// Who wants it, and whether it was chosen among the stored ones.
    #[cfg(feature = "flow")]
    pub(crate) fn wants(&self) -> (Origin, bool) {
        let stored = matches!(self.job.source, Source::Stored(_));
        (self.job.origin, stored)
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

    /// Whether it waits for a certificate.
    pub(crate) fn is_awaiting(&self) -> bool {
        matches!(
            self.stage,
            Stage::MarkingAwaiting { .. } | Stage::Awaiting { .. }
        )
    }

    /// Whether a person gave it, and no offer stands behind it.
    fn is_an_order(&self) -> bool {
        self.job.origin == Origin::Manual && self.job.offer.is_none()
    }

    fn is_before_promotion(&self) -> bool {
        #[cfg(feature = "layers")]
        if self.search.is_some() {
            return true;
        }
        matches!(
            self.stage,
            Stage::Gathering
                | Stage::Fetching
                | Stage::Intent
                | Stage::Staging
                | Stage::MarkingStaged
                | Stage::MarkingAwaiting { .. }
                | Stage::Awaiting { .. }
                | Stage::Validating { .. }
                | Stage::MarkingValidated
        )
    }
}

/// The time after a rollback in which the config gone back to has to come up.
#[derive(Debug)]
pub(crate) struct Settling {
    watch: Watch,
    /// The offer behind it, where it was another offer that failed.
    offer: Option<OfferHash>,
    last_resort: bool,
}

impl Settling {
    /// The watch over the child.
    pub(crate) fn watch_mut(&mut self) -> &mut Watch {
        &mut self.watch
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
    // That a person ordered it outweighs where its content came from: what the server is told hangs on it.
    let origin = match (transaction.job.origin, revision) {
        (Origin::Manual, _) | (_, None) => transaction.job.origin,
        (_, Some(revision)) => revision.origin,
    };
    Record {
        transaction: transaction.number,
        at: now.wall,
        step,
        revision: revision.map(|revision| revision.id.clone()),
        hash: revision.map(|revision| revision.hash),
        offer: transaction.job.offer.clone(),
        origin,
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
