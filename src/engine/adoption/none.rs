//! Without the feature `adopt` a child of an earlier life is stopped by the ladder before a new one starts.
//!
//! Must never: let it go on.

use crate::engine::Engine;
use crate::engine::message::{ChildNote, Leftover, NoteLevel, SpawnSpec};
use crate::units::{Moment, Now, RevisionId};

/// There is none.
#[derive(Debug)]
pub(crate) enum Adoption {}

/// Nobody reads it.
pub(super) fn fingerprint(_: &SpawnSpec) -> String {
    String::new()
}

#[expect(clippy::unused_self, reason = "the same calls as with the feature")]
impl Engine {
    pub(super) fn child_note(&self, _: bool, _: String) -> ChildNote {
        ChildNote::default()
    }

    pub(super) fn take_over(&mut self, now: Now, leftover: Leftover) {
        let child = leftover.child;
        let fields = vec![("process.pid", child.pid.to_string())];
        self.note(NoteLevel::Warn, "left-over child found", fields);
        let orders = self.life.stop_leftover(now.mono, child);
        self.obey(orders);
    }

    pub(super) fn follow_adoption(&mut self, _: Now) {
        self.adoption = None;
    }

    pub(super) fn adoption_due(&self) -> Option<Moment> {
        None
    }

    pub(super) fn is_adopted(&self) -> bool {
        self.adoption.is_some()
    }

    pub(super) fn runs_old_program(&self) -> bool {
        false
    }

    pub(super) fn is_trusted(&self) -> bool {
        false
    }

    pub(super) fn adoption_patience(&self) -> Option<Moment> {
        None
    }

    pub(super) fn take_behind(&mut self) -> Option<RevisionId> {
        None
    }

    pub(super) fn recall(&mut self, _: RevisionId) {}

    pub(super) fn owe_unread_pairs(&mut self) {}
}
