//! The same without exporters, for builds without the feature: everything is told to nobody.
//!
//! Promises: costs nothing. Must never: differ in what callers have to do.

use crate::engine::message::{Event, Note};
use crate::units::Now;

/// Sends nothing.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {}

#[expect(clippy::unused_self, reason = "as in the other build")]
impl Telemetry {
    pub(crate) const fn note(&self, _now: Now, _note: &Note) {}

    pub(crate) const fn watch(&self, _event: &Event) -> Option<String> {
        None
    }

    pub(crate) const fn handled(&self, _agent: &str, _took: (Now, Now)) {}
}
