//! An agent's turn: it is held back until those it starts after have come up, and stops when those after it have.
//!
//! Promises: while it is held back no process of it is started, whatever is ordered or offered; the latest of that is
//! taken up when its turn comes. Once a stop has begun nothing of it is started again.
//! Must never: know whose turn it is; that is the host's.

use std::time::Duration;

use crate::engine::message::AgentEffect;
use crate::engine::rollout::Transaction;
use crate::engine::{Engine, Outcome, desired};
use crate::units::Now;

/// How an agent looks to those that wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It runs, is healthy, and nothing about its config is unproven.
    Well,
    /// It may come to that by itself.
    Coming,
    /// It will not without somebody's doing: given up, held, dying in a loop, or with nothing to run.
    Lost,
}

impl Engine {
    /// Holds it back from its first start, with the reason that people read.
    pub(crate) fn hold_back(&mut self, reason: String) {
        self.turn = Some(reason);
        self.life.bar();
    }

    /// Its turn has come: what it would have done at the start, and what was asked of it since.
    pub(crate) fn let_start(&mut self, now: Now) -> Outcome {
        if self.turn.take().is_some() && !self.stopping {
            self.life.unbar();
            let waited = self.pending.take();
            self.bring_up(now);
            match waited {
                // An offer that was taken up from the journal comes first, or nobody would say what became of it.
                Some(job) if !job.is_theirs() && self.is_trying_theirs() => {
                    self.follow_later = true;
                }
                Some(job) => self.propose(now, job),
                None => {}
            }
        }
        self.finish(now)
    }

    /// Whether it is held back.
    pub(crate) fn is_held_back(&self) -> bool {
        self.turn.is_some()
    }

    /// How it looks to those that start after it.
    pub(crate) fn standing(&self, now: Now) -> Standing {
        let proven = self.transaction.as_ref().is_none_or(Transaction::is_proven);
        let runs = self.life.running().is_some();
        if runs && proven && self.is_healthy(now) {
            return Standing::Well;
        }
        let nothing_to_run = self.transaction.is_none()
            && self.life.is_down()
            && self
                .current
                .as_ref()
                .is_none_or(|current| desired::is_empty(&current.files));
        let lost = self.life.given_up().is_some()
            || self.life.crash_loop(now.mono).is_some()
            || self.held.is_some()
            || (nothing_to_run && self.turn.is_none());
        if lost {
            Standing::Lost
        } else {
            Standing::Coming
        }
    }

    /// A stop has begun: nothing new is begun and nothing started; the child runs until [`Engine::end`].
    pub(crate) fn wind_down(&mut self, now: Now) -> Outcome {
        self.stopping = true;
        self.turn = None;
        self.pending = None;
        self.stop_connection();
        self.life.bar();
        if let Some(transaction) = &self.transaction
            && let Some(ticket) = transaction.tool()
        {
            self.out.effects.push(AgentEffect::CancelTool { ticket });
        }
        self.suspend(now);
        self.finish(now)
    }

    /// Stops the child; the link stays until the end, so that the stop is reported.
    pub(crate) fn end(&mut self, now: Now, grace: Duration) -> Outcome {
        self.life.set_grace(grace);
        let orders = self.life.want_down(now.mono);
        self.obey(orders);
        self.finish(now)
    }
}
