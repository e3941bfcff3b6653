//! The order of start and stop, counted here a second time.
//!
//! Promises: who starts after others is started when each of them was healthy once, is in trouble, or was given its
//! time; who stops is told so when those after it are down, or their slot is over; a stop ends inside its budget.

use super::*;

/// What one life has seen of an agent.
#[derive(Debug, Default)]
pub(super) struct Order {
    begun: bool,
    pub(super) healthy: bool,
    /// It died, or could not be started.
    pub(super) failures: u32,
}

/// A stop that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    since: u64,
    forced: bool,
}

impl World {
    /// A life begins; the child runs already, or not.
    pub(super) fn order_begins(&mut self, runs: bool) {
        self.order = Order {
            begun: runs,
            healthy: runs,
            failures: 0,
        };
    }

    /// The child of the agent that is talked about is started.
    pub(super) fn check_turn(&mut self) {
        if std::mem::replace(&mut self.order.begun, true) {
            return;
        }
        let start = self.settings().start.clone();
        let waited = u64::try_from(start.wait.as_millis()).unwrap();
        for on in &start.after {
            let order = &self.agents[self.place_of(on)].order;
            let over = self.now >= self.booted_at + waited;
            if !(order.healthy || order.failures > 0 || over || self.is_lost(on)) {
                self.violated(&format!("started while {on} is still coming"));
            }
        }
    }

    /// Nothing is left to try for it.
    fn is_lost(&self, name: &AgentName) -> bool {
        let host = self.host.as_ref().unwrap();
        let lost = ("down", "idle");
        host.positions().any(|(agent, child, rollout)| {
            agent == name && ((child, rollout) == lost || child == "given up")
        })
    }

    fn budget(&self) -> u64 {
        u64::try_from(self.config.stop.budget.as_millis()).unwrap()
    }

    pub(super) fn stop_begins(&mut self) {
        self.stop = match self.stop {
            Some(stop) => Some(Stop {
                forced: true,
                ..stop
            }),
            None => Some(Stop {
                since: self.now,
                forced: false,
            }),
        };
    }

    /// The agent that is talked about is told to end.
    pub(super) fn check_stop(&self, pid: u32) {
        let Some(stop) = self.stop.filter(|stop| !stop.forced) else {
            return;
        };
        // The shortest slot there can be.
        let slot = self.budget() / self.agents.len() as u64;
        let told = self.children.get(&pid).is_none_or(|child| child.ending);
        if told || self.now >= stop.since + slot {
            return;
        }
        let dependants = self.config.agents.iter();
        for agent in dependants.filter(|agent| agent.start.after.contains(&self.name)) {
            let dependant = &self.agents[self.place_of(&agent.name)];
            if dependant.children.values().any(|child| child.alive) {
                self.violated(&format!("stopped while {} still runs", agent.name));
            }
        }
    }

    /// Looked at as long as the stop has not come to its end.
    pub(super) fn check_budget(&self) {
        if self
            .stop
            .is_some_and(|stop| self.now > stop.since + self.budget() + 1)
        {
            self.violated("the stop did not end inside its budget");
        }
    }
}
