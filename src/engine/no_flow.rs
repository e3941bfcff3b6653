//! A build that does not watch what flows: every config passes.
//!
//! Promises: the same questions as with the feature, answered by "nobody looks". Must never: keep anything.

use std::time::Duration;

use crate::engine::Engine;
use crate::units::Moment;

/// Nothing.
#[derive(Debug, Default)]
pub(crate) struct FlowWatch {}

/// What the flow of data says at a moment of probation.
#[derive(Debug)]
#[expect(dead_code, reason = "the callers are the same in every build")]
pub(crate) enum Judged {
    /// Nothing yet.
    Wait,
    /// Nothing against the config.
    Pass,
    /// The config did not hold, and why.
    Back(String),
}

#[expect(
    clippy::unused_self,
    reason = "the same signatures as where somebody looks"
)]
impl Engine {
    pub(crate) fn flow_due(&self) -> Option<Moment> {
        None
    }

    pub(crate) fn flow_look(&mut self, _: Moment) {}

    pub(crate) fn flow_heard(&mut self, _: Moment) {}

    pub(crate) fn flow_begins(&mut self, _: Moment) {}

    pub(crate) fn flow_judged(&mut self, _: Moment, over: bool) -> Judged {
        if over { Judged::Pass } else { Judged::Wait }
    }

    pub(crate) fn flow_waits(&self) -> bool {
        false
    }

    pub(crate) fn flow_pauses(&mut self) {}

    pub(crate) fn flow_commits(&mut self) {}

    pub(crate) fn flow_words(&self) -> &'static str {
        ""
    }

    pub(crate) fn flow_baseline(&self) -> Duration {
        Duration::ZERO
    }

    pub(crate) fn flow_told(&self) -> Option<String> {
        None
    }
}
