//! Without the feature `adopt` no other executable takes over.
//!
//! Must never: leave an order without an answer.

use super::Host;
use crate::engine::message::{AgentEvent, CommandId, Effect, RefusalKind};
use crate::engine::view;
use crate::units::{Moment, Now};

#[expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the same calls as with the feature"
)]
impl Host {
    pub(super) fn order_handover(&mut self, id: CommandId, effects: &mut Vec<Effect>) {
        let reason = "not part of this build: restart adjutant instead";
        let reply = view::refusal(RefusalKind::Conflict, reason);
        effects.push(Effect::Reply { id, reply });
    }

    pub(super) fn successor_answered(
        &mut self,
        _: Now,
        event: AgentEvent,
        _: &mut Vec<Effect>,
    ) -> Option<AgentEvent> {
        Some(event)
    }

    pub(super) fn settle_handover(&mut self, _: Now, _: &mut Vec<Effect>) {}

    pub(super) fn handover_due(&self) -> Option<Moment> {
        None
    }
}
