//! One piece of work at a time: what is begun next, what follows on a result, what is given up.
//!
//! Promises: a file is installed only after its digest was compared and, where the settings ask for it, its signature
//! was verified by the caller. What is given up is cancelled, once.
//! Must never: decide what is wanted; that is `settle`'s.

use super::package::{Failure, Goal, Retry, Step};
use super::progress::Progress;
use super::{PackageEffect, PackageFailure, Packages, Ticket};
use crate::backoff::Backoff;
use crate::messages::PackageType;
use crate::session::printable;

impl Packages {
    /// Work that is not wanted any more. What the caller never heard of needs no cancellation, but what it goes on from
    /// does.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        let unheard = self.effects.iter().find_map(|effect| match effect {
            PackageEffect::Download {
                ticket: own,
                continues,
                ..
            } if *own == ticket => Some(*continues),
            _ => None,
        });
        self.effects.retain(|effect| effect.ticket() != ticket);
        if let Some(ticket) = unheard.unwrap_or(Some(ticket)) {
            self.effects.push_back(PackageEffect::Cancel { ticket });
        }
    }

    /// Starts the next piece of work, if none is under way: installing before removing, the top level first.
    pub(super) fn begin(&mut self) {
        while !self.is_busy() {
            let next = self
                .known
                .iter()
                .filter_map(|(name, package)| match package.step {
                    Step::Pending { goal, after, .. } if after <= self.now => {
                        let addon = package.kind() == PackageType::Addon;
                        Some(((goal == Goal::Remove, addon, name.clone()), goal))
                    }
                    _ => None,
                })
                .min();
            let Some(((_, _, name), goal)) = next else {
                return;
            };
            match goal {
                Goal::Install => self.download(&name),
                Goal::Remove => self.remove(&name),
                Goal::Nothing => return,
            }
        }
    }

    fn download(&mut self, name: &str) {
        let ticket = self.ticket();
        let (now, config) = (self.now, self.config);
        let Some(package) = self.known.get_mut(name) else {
            return;
        };
        let Some(offer) = package.offer.clone() else {
            return;
        };
        if let Err(reason) = offer.is_fetchable(config.verification, config.without_digest) {
            package.step = Step::Failed(Failure {
                goal: Goal::Install,
                offer: Some(offer),
                message: reason.to_owned(),
                retry_at: None,
            });
            return;
        }
        let retry = match &package.step {
            Step::Pending { retry, .. } => retry.clone(),
            _ => None,
        };
        let continues = retry.as_ref().map(|retry| retry.continues);
        let (attempt, backoff) = match retry {
            Some(retry) => (retry.attempt, retry.backoff),
            None => (1, Backoff::new(config.backoff)),
        };
        package.step = Step::Downloading {
            ticket,
            offer: offer.clone(),
            attempt,
            backoff,
            progress: Progress::new(now),
        };
        self.effects.push_back(PackageEffect::Download {
            ticket,
            name: name.to_owned(),
            url: offer.url,
            headers: offer.headers,
            continues,
        });
    }

    fn remove(&mut self, name: &str) {
        let ticket = self.ticket();
        if let Some(package) = self.known.get_mut(name) {
            package.step = Step::Removing { ticket };
            self.effects.push_back(PackageEffect::Remove {
                ticket,
                name: name.to_owned(),
            });
        }
    }

    pub(super) fn downloaded(&mut self, name: &str, ticket: Ticket, sha256: [u8; 32]) {
        let verification = self.config.verification;
        let retry_at = Some(self.now.saturating_add(self.config.retry_pause));
        let Some(package) = self.known.get_mut(name) else {
            return;
        };
        let Step::Downloading { offer, .. } = &package.step else {
            return;
        };
        if offer.has_digest() && offer.content_hash != sha256 {
            // The offer may be right and the file damaged on its way, so this is not remembered for good.
            package.step = Step::Failed(Failure {
                goal: Goal::Install,
                offer: Some(offer.clone()),
                message: "downloaded file differs from the offered digest".to_owned(),
                retry_at,
            });
            self.effects.push_back(PackageEffect::Cancel { ticket });
            return;
        }
        if offer.must_be_verified(verification) {
            let signature = offer.signature.clone();
            package.step = Step::Verifying {
                ticket,
                offer: offer.clone(),
            };
            self.effects.push_back(PackageEffect::Verify {
                ticket,
                name: name.to_owned(),
                signature,
            });
        } else {
            self.install(name, ticket);
        }
    }

    pub(super) fn install(&mut self, name: &str, ticket: Ticket) {
        let Some(package) = self.known.get_mut(name) else {
            return;
        };
        let (Step::Downloading { offer, .. } | Step::Verifying { offer, .. }) = &package.step
        else {
            return;
        };
        let offer = offer.clone();
        self.effects.push_back(PackageEffect::Install {
            ticket,
            name: name.to_owned(),
            version: offer.version.clone(),
            kind: offer.kind,
        });
        package.step = Step::Installing { ticket, offer };
    }

    pub(super) fn failed(&mut self, name: &str, failure: PackageFailure) {
        let random = self.next_random();
        let PackageFailure {
            message,
            transient,
            retry_after,
        } = failure;
        let (now, config) = (self.now, self.config);
        let Some(package) = self.known.get_mut(name) else {
            return;
        };
        if let Step::Downloading {
            ticket,
            offer,
            attempt,
            backoff,
            ..
        } = &package.step
            && transient
            && *attempt < config.attempts_max
        {
            let mut backoff = backoff.clone();
            let delay = match retry_after {
                Some(_) => backoff.throttled(random, retry_after),
                None => backoff.next_delay(random),
            };
            package.step = Step::Pending {
                goal: Goal::Install,
                after: now.saturating_add(delay),
                retry: Some(Retry {
                    offer: offer.clone(),
                    attempt: attempt.saturating_add(1),
                    continues: *ticket,
                    backoff,
                }),
            };
            return;
        }
        let (goal, offer, file) = match &package.step {
            Step::Downloading { ticket, offer, .. }
            | Step::Verifying { ticket, offer }
            | Step::Installing { ticket, offer } => {
                (Goal::Install, Some(offer.clone()), Some(*ticket))
            }
            Step::Removing { .. } => (Goal::Remove, None, None),
            Step::Rest | Step::Pending { .. } | Step::Failed(_) => return,
        };
        let asked = retry_after.unwrap_or_default();
        let pause = config
            .retry_pause
            .max(asked.min(config.backoff.retry_after_max));
        package.step = Step::Failed(Failure {
            goal,
            offer,
            message: printable(&message),
            retry_at: transient.then(|| now.saturating_add(pause)),
        });
        if let Some(ticket) = file {
            self.effects.push_back(PackageEffect::Cancel { ticket });
        }
    }
}
