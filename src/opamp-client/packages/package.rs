//! One package: what is held, what is offered, which step is under way, and what that comes to as a status.
//!
//! Promises: a status follows from these three alone, and keeps to what the protocol says of each of its values
//! (R-231…R-239).
//! Must never: know of other packages, or of the caller.

use std::time::Duration;

use super::progress::Progress;
use super::{Removal, Ticket};
use crate::backoff::Backoff;
use crate::messages::{Header, PackageStatus, PackageStatusEnum, PackageType};

/// A package that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) version: String,
    pub(super) hash: Vec<u8>,
    pub(super) content_hash: Vec<u8>,
    pub(super) kind: PackageType,
    /// Installed because a server offered it.
    pub(super) from_offer: bool,
}

/// A package that the server wants to be there.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) kind: PackageType,
    pub(super) version: String,
    /// Never empty.
    pub(super) hash: Vec<u8>,
    pub(super) url: String,
    pub(super) content_hash: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) headers: Vec<Header>,
}

// Headers and URLs may be secrets.
impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer")
            .field("kind", &self.kind)
            .field("version", &self.version)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Offer {
    /// Whether what is being done for `other` serves this one too: where the file is fetched from does not matter.
    pub(super) fn same_file(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.hash == other.hash
            && self.content_hash == other.content_hash
            && self.signature == other.signature
    }

    pub(super) fn installed(&self) -> Held {
        Held {
            version: self.version.clone(),
            hash: self.hash.clone(),
            content_hash: self.content_hash.clone(),
            kind: self.kind,
            from_offer: true,
        }
    }
}

/// Where a package is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Goal {
    Nothing,
    Install,
    Remove,
}

/// Why a package is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) goal: Goal,
    /// What was tried; another offer is another matter. None of a removal.
    pub(super) offer: Option<Offer>,
    pub(super) message: String,
    /// From when on the same may be tried again; never, if there is none.
    pub(super) retry_at: Option<Duration>,
}

/// A download that did not come to its end, and is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) offer: Offer,
    /// The one that comes.
    pub(super) attempt: u32,
    /// Whose partial file may be continued.
    pub(super) continues: Ticket,
    pub(super) backoff: Backoff,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Step {
    /// Nothing is to be done.
    #[default]
    Rest,
    /// Waits for its turn, and not before `after`.
    Pending {
        goal: Goal,
        after: Duration,
        retry: Option<Retry>,
    },
    Downloading {
        ticket: Ticket,
        offer: Offer,
        attempt: u32,
        backoff: Backoff,
        progress: Progress,
    },
    Verifying {
        ticket: Ticket,
        offer: Offer,
    },
    Installing {
        ticket: Ticket,
        offer: Offer,
    },
    Removing {
        ticket: Ticket,
    },
    Failed(Failure),
}

impl Step {
    pub(super) fn pending(goal: Goal) -> Self {
        Self::Pending {
            goal,
            after: Duration::ZERO,
            retry: None,
        }
    }

    /// Of the work under way.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Downloading { ticket, .. }
            | Self::Verifying { ticket, .. }
            | Self::Installing { ticket, .. }
            | Self::Removing { ticket } => Some(*ticket),
            Self::Rest | Self::Pending { .. } | Self::Failed(_) => None,
        }
    }

    /// What is to be cancelled when this step is given up.
    pub(super) fn leftover(&self) -> Option<Ticket> {
        match self {
            Self::Downloading { ticket, .. }
            | Self::Verifying { ticket, .. }
            | Self::Removing { ticket } => Some(*ticket),
            Self::Pending { retry, .. } => retry.as_ref().map(|retry| retry.continues),
            Self::Rest | Self::Installing { .. } | Self::Failed(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Package {
    pub(super) held: Option<Held>,
    /// The last offer of it.
    pub(super) offer: Option<Offer>,
    /// The last offer of packages does not name it.
    pub(super) withdrawn: bool,
    pub(super) step: Step,
    /// Was being installed when an earlier life ended: it may be there, whole or not.
    pub(super) interrupted: Option<Offer>,
}

impl Package {
    pub(super) fn kind(&self) -> PackageType {
        let held = self.held.as_ref().map(|held| held.kind);
        let offered = self.offer.as_ref().map(|offer| offer.kind);
        offered.or(held).unwrap_or(PackageType::Addon)
    }

    /// Takes over an offer of the file that is there already.
    pub(super) fn adopt(&mut self) {
        if let (Some(held), Some(offer), false) = (&mut self.held, &self.offer, self.withdrawn)
            && held.kind == offer.kind
            && !offer.content_hash.is_empty()
            && held.content_hash == offer.content_hash
        {
            held.version.clone_from(&offer.version);
            held.hash.clone_from(&offer.hash);
        }
        // Found by hand and not offered any more: purely local again.
        if self.withdrawn && self.held.as_ref().is_some_and(|held| !held.from_offer) {
            self.offer = None;
        }
    }

    /// Where it is to go, and whether it stays only because the settings forbid its removal.
    pub(super) fn goal(&self, removal: Removal, remove_top_level: bool) -> (Goal, bool) {
        let offer = self.offer.as_ref().filter(|_| !self.withdrawn);
        match (&self.held, offer) {
            // Another type is another package under the same name.
            (Some(held), Some(offer)) if held.hash == offer.hash && held.kind == offer.kind => {
                (Goal::Nothing, false)
            }
            (_, Some(_)) => (Goal::Install, false),
            (None, None) if self.interrupted.is_some() => (Goal::Remove, false),
            (None, None) => (Goal::Nothing, false),
            (Some(held), None) => {
                let removable = self.withdrawn && (held.from_offer || removal == Removal::All);
                let kept = removable && held.kind == PackageType::TopLevel && !remove_top_level;
                if removable && !kept {
                    (Goal::Remove, false)
                } else {
                    (Goal::Nothing, kept)
                }
            }
        }
    }

    /// Nothing is left to be said of it.
    pub(super) fn is_forgotten(&self) -> bool {
        self.is_gone() && self.step == Step::Rest && (self.withdrawn || self.offer.is_none())
    }

    /// Surely not there.
    pub(super) fn is_gone(&self) -> bool {
        self.held.is_none() && self.interrupted.is_none()
    }

    /// The caller knows what is there, or made it so.
    pub(super) fn is_now(&mut self, held: Option<Held>) {
        self.held = held;
        self.interrupted = None;
    }

    /// `None` if there is nothing to be said of it.
    pub(super) fn status(&self, name: &str) -> Option<PackageStatus> {
        let (goal, _) = self.goal(Removal::Offered, true);
        if self.is_forgotten() || self.held.is_none() && goal == Goal::Remove {
            return None;
        }
        let mut status = PackageStatus {
            name: name.to_owned(),
            ..PackageStatus::default()
        };
        if let Some(held) = &self.held {
            status.agent_has_version.clone_from(&held.version);
            status.agent_has_hash.clone_from(&held.hash);
        }
        // While an older offer is being put in place, that one is spoken of.
        let spoken_of = match &self.step {
            Step::Installing { offer, .. } => Some(offer),
            _ => self.offer.as_ref(),
        };
        if let Some(offer) = spoken_of {
            status.server_offered_version.clone_from(&offer.version);
            status.server_offered_hash.clone_from(&offer.hash);
        }
        let word = match &self.step {
            Step::Pending {
                goal: Goal::Install,
                ..
            } => PackageStatusEnum::InstallPending,
            Step::Downloading { progress, .. } => {
                status.download_details = Some(progress.details());
                PackageStatusEnum::Downloading
            }
            Step::Verifying { .. } | Step::Installing { .. } => PackageStatusEnum::Installing,
            Step::Failed(failure) => {
                status.error_message.clone_from(&failure.message);
                PackageStatusEnum::InstallFailed
            }
            // What is to be removed is there until it is not.
            Step::Rest | Step::Removing { .. } | Step::Pending { .. } => {
                PackageStatusEnum::Installed
            }
        };
        status.status = word as i32;
        Some(status)
    }
}
