//! What became of each config that was pushed: the phases it went through, its outcome, the reason.
//!
//! Promises: one record per apply, newest last, at most [`APPLIES_MAX`]; the record is built only from what this server
//! offered and from what the agent reported, so that it shows exactly what a fleet server could know.
//! Must never: guess an outcome that nobody reported, or grow with the life of the agent.

use std::collections::VecDeque;

use opamp_client::messages::RemoteConfigStatuses;

use crate::units::{OfferHash, WallTime};

/// Applies remembered per agent.
pub(super) const APPLIES_MAX: usize = 50;
/// Phases remembered per apply; a whole rollout with roll-back takes eleven.
const PHASES_MAX: usize = 64;

/// How an apply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Pushed; the agent has not said anything about it yet.
    Offered,
    /// The agent reported APPLYING.
    Applying,
    /// The agent reported APPLIED.
    Applied,
    /// The rollout ended in `committed`.
    Committed,
    /// The rollout ended in `rolled back`.
    RolledBack,
    /// The agent reported FAILED, or the rollout ended in `failed`.
    Failed,
    /// The rollout ended in `held`.
    Held,
    /// A newer push took its place before it ended.
    Superseded,
}

impl Outcome {
    /// The word of the API and the page.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Applying => "applying",
            Self::Applied => "applied",
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::Superseded => "superseded",
        }
    }
}

/// One phase word and when it was first heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PhaseSeen {
    pub(super) word: String,
    pub(super) at: WallTime,
}

/// One config on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Apply {
    /// `None` when the agent began it by itself (`adjutant apply`, `adjutant rollback`).
    pub(super) hash: Option<OfferHash>,
    /// Names of the files that were pushed.
    pub(super) files: Vec<String>,
    pub(super) started: WallTime,
    pub(super) ended: Option<WallTime>,
    pub(super) outcome: Outcome,
    pub(super) reason: String,
    pub(super) phases: Vec<PhaseSeen>,
}

impl Apply {
    fn new(hash: Option<OfferHash>, files: Vec<String>, started: WallTime) -> Self {
        Self {
            hash,
            files,
            started,
            ended: None,
            outcome: Outcome::Offered,
            reason: String::new(),
            phases: Vec::new(),
        }
    }

    fn end(&mut self, now: WallTime, outcome: Outcome, reason: &str) {
        if self.outcome == Outcome::Superseded {
            // It went on after all; what was said about its end is void.
            self.ended = None;
            self.reason.clear();
        }
        self.outcome = outcome;
        self.ended.get_or_insert(now);
        if !reason.is_empty() {
            reason.clone_into(&mut self.reason);
        }
    }

    /// Whether it ever became the running config.
    fn was_promoted(&self) -> bool {
        self.phases.iter().any(|seen| after_promotion(&seen.word))
    }

    fn went_back(&self) -> bool {
        self.phases
            .iter()
            .any(|seen| matches!(seen.word.as_str(), "rolling back" | "rolled back"))
    }
}

/// Phases that only a promoted config goes through.
fn after_promotion(word: &str) -> bool {
    matches!(
        word,
        "promoting"
            | "reloading"
            | "proving"
            | "probation"
            | "committed"
            | "rolling back"
            | "rolled back"
    )
}

/// The applies of one agent, oldest first.
#[derive(Debug, Default)]
pub(super) struct Applies(VecDeque<Apply>);

impl Applies {
    /// All records, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Apply> {
        self.0.iter()
    }

    /// A config was pushed. Offering the same one again while it is on its way is no new apply.
    pub(super) fn offered(&mut self, now: WallTime, hash: &OfferHash, files: Vec<String>) {
        if let Some(newest) = self.0.back_mut().filter(|newest| newest.ended.is_none()) {
            if newest.hash.as_ref() == Some(hash) {
                return;
            }
            newest.end(now, Outcome::Superseded, "a newer push took its place");
        }
        self.push(Apply::new(Some(hash.clone()), files, now));
    }

    /// The agent's rollout changed its phase.
    pub(super) fn phase(&mut self, now: WallTime, word: &str, reason: &str) {
        let begins = matches!(word, "policy" | "staging" | "validating" | "promoting");
        let idle = self.0.back().is_none_or(|newest| newest.ended.is_some());
        if begins && idle {
            self.push(Apply::new(None, Vec::new(), now));
        }
        let Some(newest) = self.meant_by(word) else {
            return;
        };
        if word != "idle" && newest.phases.len() < PHASES_MAX {
            newest.phases.push(PhaseSeen {
                word: word.to_owned(),
                at: now,
            });
        }
        match word {
            "committed" => newest.end(now, Outcome::Committed, ""),
            "rolled back" => newest.end(now, Outcome::RolledBack, reason),
            "failed" => newest.end(now, Outcome::Failed, reason),
            "held" => newest.end(now, Outcome::Held, reason),
            "rolling back" if !reason.is_empty() => reason.clone_into(&mut newest.reason),
            _ => {}
        }
    }

    /// The apply that a phase is about. A config that failed before it was promoted leaves the one before it in its
    /// probation, so what comes after promotion is about that one.
    fn meant_by(&mut self, word: &str) -> Option<&mut Apply> {
        let refused = self.0.back().is_some_and(|newest| {
            newest.outcome == Outcome::Failed && !newest.was_promoted() && after_promotion(word)
        });
        if !refused {
            return self.0.back_mut();
        }
        let before = self
            .0
            .iter()
            .rposition(|apply| apply.outcome == Outcome::Superseded && apply.was_promoted());
        match before {
            Some(index) => self.0.get_mut(index),
            None => self.0.back_mut(),
        }
    }

    /// The agent reported a remote config status.
    pub(super) fn reported(
        &mut self,
        now: WallTime,
        hash: &OfferHash,
        status: RemoteConfigStatuses,
        reason: &str,
    ) {
        let known = self
            .0
            .iter_mut()
            .rev()
            .find(|apply| apply.hash.as_ref() == Some(hash));
        let Some(apply) = known else { return };
        let ended = apply.ended.is_some();
        match status {
            RemoteConfigStatuses::Applying if !ended => apply.outcome = Outcome::Applying,
            // With a visible rollout APPLIED may come before probation ends; the phase has the last word then.
            RemoteConfigStatuses::Applied if !ended && !apply.phases.is_empty() => {
                apply.outcome = Outcome::Applied;
            }
            RemoteConfigStatuses::Applied if !ended => apply.end(now, Outcome::Applied, ""),
            RemoteConfigStatuses::Failed if apply.went_back() => {
                apply.end(now, Outcome::RolledBack, reason);
            }
            RemoteConfigStatuses::Failed => apply.end(now, Outcome::Failed, reason),
            RemoteConfigStatuses::Applying
            | RemoteConfigStatuses::Applied
            | RemoteConfigStatuses::Unset => {}
        }
    }

    fn push(&mut self, apply: Apply) {
        if self.0.len() >= APPLIES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(apply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Offer(&'static str),
        Phase(&'static str, &'static str),
        Status(&'static str, RemoteConfigStatuses, &'static str),
    }
    use Step::{Offer, Phase, Status};

    fn check(script: &[Step]) -> Vec<(Outcome, String, usize, bool)> {
        let mut applies = Applies::default();
        for (index, step) in script.iter().enumerate() {
            let now = WallTime::from_unix_millis(index as u64);
            match step {
                Offer(hash) => {
                    applies.offered(now, &OfferHash::new(*hash), vec!["a.yaml".to_owned()]);
                }
                Phase(word, reason) => applies.phase(now, word, reason),
                Status(hash, status, reason) => {
                    applies.reported(now, &OfferHash::new(*hash), *status, reason);
                }
            }
        }
        applies
            .iter()
            .map(|a| {
                (
                    a.outcome,
                    a.reason.clone(),
                    a.phases.len(),
                    a.ended.is_some(),
                )
            })
            .collect()
    }

    #[expect(clippy::too_many_lines, reason = "one table")]
    #[test]
    fn outcome_follows_what_the_agent_reported() {
        use RemoteConfigStatuses::{Applied, Applying, Failed};
        let none = String::new;
        let cases = [
            (vec![Offer("A")], vec![(Outcome::Offered, none(), 0, false)]),
            (
                vec![
                    Offer("A"),
                    Status("A", Applying, ""),
                    Phase("policy", ""),
                    Phase("validating", ""),
                    Phase("proving", ""),
                    Status("A", Applied, ""),
                    Phase("probation", ""),
                    Phase("committed", ""),
                ],
                vec![(Outcome::Committed, none(), 5, true)],
            ),
            // Refused by the validator: the reason is the agent's.
            (
                vec![
                    Offer("A"),
                    Phase("validating", ""),
                    Status("A", Failed, "line 3: what?"),
                    Phase("failed", ""),
                ],
                vec![(Outcome::Failed, "line 3: what?".to_owned(), 2, true)],
            ),
            // FAILED before and after the phases of the way back both end as rolled back.
            (
                vec![
                    Offer("A"),
                    Phase("probation", ""),
                    Status("A", Failed, "died"),
                    Phase("rolling back", ""),
                    Phase("rolled back", ""),
                    Phase("idle", ""),
                ],
                vec![(Outcome::RolledBack, "died".to_owned(), 3, true)],
            ),
            (
                vec![
                    Offer("A"),
                    Phase("rolling back", "x"),
                    Phase("rolled back", ""),
                    Status("A", Failed, ""),
                ],
                vec![(Outcome::RolledBack, "x".to_owned(), 2, true)],
            ),
            // No rollout component at all, as other supervisors report.
            (
                vec![
                    Offer("A"),
                    Status("A", Applying, ""),
                    Status("A", Applied, ""),
                ],
                vec![(Outcome::Applied, none(), 0, true)],
            ),
            // The newest push wins; the same push again is the same apply.
            (
                vec![Offer("A"), Offer("A"), Offer("B"), Status("B", Applied, "")],
                vec![
                    (
                        Outcome::Superseded,
                        "a newer push took its place".to_owned(),
                        0,
                        true,
                    ),
                    (Outcome::Applied, none(), 0, true),
                ],
            ),
            // The push after it was refused: the first one goes on and is committed.
            (
                vec![
                    Offer("A"),
                    Phase("promoting", ""),
                    Phase("probation", ""),
                    Offer("B"),
                    Phase("validating", ""),
                    Status("B", Failed, "no"),
                    Phase("failed", "no"),
                    Phase("probation", ""),
                    Phase("committed", ""),
                ],
                vec![
                    (Outcome::Committed, none(), 4, true),
                    (Outcome::Failed, "no".to_owned(), 2, true),
                ],
            ),
            // A roll-back by hand starts at its promotion.
            (
                vec![
                    Offer("A"),
                    Phase("committed", ""),
                    Phase("promoting", ""),
                    Phase("committed", ""),
                ],
                vec![
                    (Outcome::Committed, none(), 1, true),
                    (Outcome::Committed, none(), 2, true),
                ],
            ),
            // Begun by hand on the host.
            (
                vec![
                    Phase("idle", ""),
                    Phase("validating", ""),
                    Phase("committed", ""),
                ],
                vec![(Outcome::Committed, none(), 2, true)],
            ),
        ];
        for (index, (script, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(check(&script), wanted, "case {index}");
        }
    }

    #[test]
    fn history_is_bounded() {
        let mut applies = Applies::default();
        let now = WallTime::default();
        for number in 0..200_u32 {
            applies.offered(now, &OfferHash::new(number.to_be_bytes()), Vec::new());
            for _ in 0..200 {
                applies.phase(now, "validating", "");
            }
        }
        assert_eq!(applies.iter().count(), APPLIES_MAX);
        assert!(applies.iter().all(|a| a.phases.len() == PHASES_MAX));
        let newest = applies.iter().next_back().and_then(|a| a.hash.clone());
        assert_eq!(newest, Some(OfferHash::new(199_u32.to_be_bytes())));
    }
}
