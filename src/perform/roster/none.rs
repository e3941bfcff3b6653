//! Without the feature `roster` nobody asks for ports while agents run.
//!
//! Must never: be heard of.

use std::convert::Infallible;

use super::{Performed, Ports};
use crate::config::Agent;
use crate::engine::message::Event;
use crate::units::{AgentName, Ticket};

/// There is none.
pub(crate) type Admissions = Infallible;

#[expect(clippy::unused_self, reason = "the same calls as with the feature")]
impl Ports {
    pub(super) fn admit(&mut self, _: Ticket, _: Agent, _: Option<[u8; 16]>) -> Performed {
        Performed::Quietly
    }

    pub(crate) fn on_admitted(&mut self, made: Infallible) -> Event {
        match made {}
    }

    pub(super) fn dismiss(&mut self, _: &AgentName) {}
}
