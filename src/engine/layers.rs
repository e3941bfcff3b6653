//! Local layers under the same transaction: what the operator's files say is composed, proven and undone like an offer.
//!
//! Promises: a local change has no offer: what the server was told of its own stays true. An offer that is on its way
//! is composed with the local layers as they are.
//! Must never: read a file, or touch the child but through the rollout.

#[cfg(not(feature = "layers"))]
mod off;
#[cfg(feature = "layers")]
mod watched;

#[cfg(not(feature = "layers"))]
pub(super) use off::Layers;
#[cfg(feature = "layers")]
pub(super) use watched::{Layers, listed};

use super::rollout::{Job, Source};
use crate::engine::message::{Origin, Outcome};
use crate::engine::{Engine, desired};
use crate::units::{Now, OfferHash};

impl Engine {
    /// Composes again with the local layers as they are on disk. An offer that is on its way is composed with them.
    pub(super) fn follow_files(&mut self, now: Now) {
        if let Some(job) = self.coming() {
            return self.propose(now, job);
        }
        let source = if self.current.is_some() {
            Source::Recompose
        } else {
            Source::Base
        };
        self.propose(
            now,
            Job {
                origin: Origin::Local,
                // What runs when it begins is what it is of.
                offer: None,
                source,
                last_resort: false,
            },
        );
    }

    /// What the host has of its own and could not have its turn: composed again once nothing else is being tried.
    /// Called in every step.
    pub(super) fn follow_files_later(&mut self, now: Now) {
        if self.follow_later && self.is_between_configs() {
            self.follow_later = false;
            self.follow_files(now);
        }
    }

    /// The offer behind what runs, while the server waits for what becomes of it. Once it has read APPLIED, that is
    /// true whatever becomes of a local change.
    pub(super) fn unsettled_offer(&self) -> Option<OfferHash> {
        let settled = self.remote.as_ref();
        let settled = settled.is_some_and(|remote| remote.outcome == Outcome::Applied);
        self.reported_offer().filter(|_| !settled)
    }

    /// Whether composing from these local layers gives what runs.
    pub(super) fn runs_as_composed(&self) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        let offered = desired::offered(&current.files);
        let composed = if current.origin == Origin::Default {
            self.compose_base()
        } else {
            self.composed(&offered)
        };
        composed.is_ok_and(|candidate| candidate.hash == current.hash)
    }
}
