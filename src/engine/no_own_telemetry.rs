//! A build that sends no own telemetry anywhere (without feature `telemetry`).
//!
//! Promises: no capability bit is announced, so nothing is offered; configs have no layer of it.
//! Must never: differ in what callers have to do.

use crate::engine::Engine;
use crate::engine::desired::{self, Candidate, Refused};
use crate::engine::message::{OfferedFile, Revision};
use crate::units::{Moment, Now};

/// There is none.
#[derive(Debug)]
pub(crate) struct OwnTelemetry;

impl OwnTelemetry {
    pub(crate) const fn of(_current: Option<&Revision>) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "stands in for the real one")]
    pub(super) const fn due(&self) -> Option<Moment> {
        None
    }
}

#[expect(
    clippy::unused_self,
    clippy::needless_pass_by_ref_mut,
    reason = "stands in for the real ones"
)]
impl Engine {
    pub(crate) fn composed(&self, files: &[OfferedFile]) -> Result<Candidate, Refused> {
        desired::compose(&self.settings, &self.places, &self.local, files)
    }

    #[cfg(feature = "layers")]
    pub(crate) fn composed_of(
        &self,
        local: &[super::message::LocalFile],
        files: &[OfferedFile],
    ) -> Result<Candidate, Refused> {
        desired::compose(&self.settings, &self.places, local, files)
    }

    pub(crate) fn composed_on_trial(&self) -> Result<Candidate, Refused> {
        self.composed(&[])
    }

    pub(crate) fn composed_default(&self) -> Option<Result<Candidate, Refused>> {
        desired::compose_default(&self.settings, &self.places, None)
    }

    pub(super) fn direct_anew(&mut self, _now: Now) {}

    pub(super) fn follow_own_telemetry(&mut self, _now: Now) {}
}
