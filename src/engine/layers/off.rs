//! A build without the feature `layers`: files are read when somebody asks for it, and nobody watches them.

use crate::engine::Engine;
use crate::engine::message::{DriftedFile, LayersSnapshot, LocalFile, WatchedBy};
use crate::units::{Moment, Now, Ticket};

/// Nothing is known.
#[derive(Debug, Default)]
pub(in crate::engine) struct Layers;

impl Layers {
    pub(in crate::engine) fn of(_: Vec<DriftedFile>) -> Self {
        Self
    }
}

#[expect(clippy::unused_self, reason = "each stands for one of the other build")]
impl Engine {
    pub(in crate::engine) fn begin_layers(&mut self) {}

    pub(in crate::engine) fn watch_again(&mut self) {}

    pub(in crate::engine) fn drive_layers(&mut self, _: Now) {}

    pub(in crate::engine) fn layers_due(&self) -> Option<Moment> {
        None
    }

    pub(in crate::engine) fn on_files_watched(&mut self, _: Now, _: Ticket, _: WatchedBy) {}

    pub(in crate::engine) fn on_files_touched(&mut self, _: Now, _: Ticket) {}

    pub(in crate::engine) fn accepted_layers(
        &mut self,
        local: Vec<LocalFile>,
        _: bool,
    ) -> Vec<LocalFile> {
        local
    }

    pub(in crate::engine) fn layers_refused(&mut self, _: &str) {}

    pub(in crate::engine) fn layers_accepted(&mut self) {}

    pub(in crate::engine) fn layers_trouble(&self) -> Option<String> {
        None
    }

    pub(in crate::engine) fn layers_snapshot(&self) -> LayersSnapshot {
        LayersSnapshot::default()
    }

    pub(in crate::engine) fn verify(&mut self) {}

    pub(in crate::engine) fn child_has_read(&mut self) {}
}
