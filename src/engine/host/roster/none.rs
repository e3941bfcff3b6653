//! Without the feature `roster` the list of agents changes with a restart only.
//!
//! Promises: a list that changed is told. Must never: touch an agent for it.

use super::{Host, note};
use crate::config::Config;
use crate::engine::message::{Admission, DiskFault, Effect, NoteLevel};
use crate::engine::turn::Standing;
use crate::units::{AgentName, Moment, Now, Ticket};

/// Nobody comes or goes.
#[derive(Debug, Default)]
pub(super) struct Roster {}

#[expect(clippy::unused_self, reason = "the same calls as with the feature")]
impl Roster {
    pub(super) fn due(&self, _: Moment) -> Option<Moment> {
        None
    }

    pub(super) fn forget(&mut self) {}

    #[cfg(feature = "adopt")]
    pub(super) fn is_quiet(&self) -> bool {
        true
    }

    pub(super) fn standing(&self, _: &AgentName) -> Standing {
        Standing::Lost
    }

    pub(super) fn joins(&self, _: &AgentName) -> bool {
        false
    }

    pub(super) fn is_leaving(&self, _: &AgentName) -> bool {
        false
    }
}

#[expect(clippy::unused_self, reason = "the same calls as with the feature")]
impl Host {
    pub(super) fn reconcile(&mut self, _: Now, config: &Config, effects: &mut Vec<Effect>) {
        let is_known = |name: &AgentName| self.agents().any(|known| known == name);
        let same = config.agents.len() == self.engines.len()
            && config.agents.iter().all(|agent| is_known(&agent.name));
        if !same {
            let message = "the list of agents changed; restart adjutant for that, this build cannot do it by HUP";
            effects.push(Effect::Note(note(NoteLevel::Warn, message)));
        }
    }

    pub(super) fn follow_roster(&mut self, _: Now, _: &mut Vec<Effect>) {}

    pub(super) fn admitted(
        &mut self,
        _: Now,
        _: (&AgentName, Ticket),
        _: Result<Box<Admission>, String>,
        _: &mut Vec<Effect>,
    ) {
    }

    pub(super) fn joining_saved(
        &mut self,
        _: Now,
        _: Ticket,
        _: &Result<(), DiskFault>,
        _: &mut Vec<Effect>,
    ) -> bool {
        false
    }
}
