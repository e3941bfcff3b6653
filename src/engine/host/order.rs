//! The order of several agents: who starts after whom, and who stops before whom.
//!
//! Start: an agent is started when every agent it names is healthy with a proven config, or is lost (given up, held,
//! dying in a loop, nothing to run), or its `start_wait` is over, counted from the moment the last of them was let
//! start. Stop: the reverse; an agent is told to stop when all that start after it are down. The time of a stop is cut
//! into as many equal slots as the longest chain has agents; who does not need its slot leaves the rest to the next.
//!
//! Promises: nobody waits for ever, and every order ends inside its time; what is named and is not there is not waited
//! for. Must never: start or stop anything itself, or hold anybody back after the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Host;
use crate::config;
use crate::engine::Engine;
use crate::engine::message::Effect;
use crate::engine::turn::Standing;
use crate::units::{AgentName, Moment, Now};

/// Who starts after whom, and who still waits.
#[derive(Debug, Default)]
pub(super) struct Order {
    after: BTreeMap<AgentName, config::StartOrder>,
    /// Those that wait; with the end of their wait once all they wait for were let start.
    waiting: BTreeMap<AgentName, Option<Moment>>,
    /// Those that were not told to stop yet, while a stop is under way.
    to_stop: BTreeSet<AgentName>,
}

impl Order {
    pub(super) fn new<'a>(agents: impl Iterator<Item = &'a config::Agent>) -> Self {
        let mut order = Self::default();
        order.set(agents);
        let here = &order.after;
        let waits = |start: &config::StartOrder| start.after.iter().any(|on| here.contains_key(on));
        let waiting = here.iter().filter(|(_, start)| waits(start));
        order.waiting = waiting.map(|(name, _)| (name.clone(), None)).collect();
        order
    }

    /// Takes over new settings. Who waits goes on by them, counted anew where they changed; nobody begins to.
    pub(super) fn set<'a>(&mut self, agents: impl Iterator<Item = &'a config::Agent>) {
        let named = agents.map(|agent| (agent.name.clone(), agent.start.clone()));
        let before = std::mem::replace(&mut self.after, named.collect());
        for (name, until) in &mut self.waiting {
            if before.get(name) != self.after.get(name) {
                *until = None;
            }
        }
    }

    /// Whom it names, there or not.
    #[cfg(feature = "roster")]
    pub(super) fn named_by(&self, name: &AgentName) -> BTreeSet<AgentName> {
        let start = self.after.get(name);
        start.into_iter().flat_map(|it| it.after.clone()).collect()
    }

    /// Why one that joins is held back, if it is.
    #[cfg(feature = "roster")]
    pub(super) fn waits(&mut self, name: &AgentName) -> Option<String> {
        if self.of(name).next().is_some() {
            self.waiting.insert(name.clone(), None);
        }
        self.reason(name)
    }

    /// It runs already, taken over from an earlier life, or is not waited with any longer.
    pub(super) fn has_begun(&mut self, name: &AgentName) {
        self.waiting.remove(name);
    }

    pub(super) fn due(&self) -> Option<Moment> {
        self.waiting.values().flatten().min().copied()
    }

    /// Why it waits, for people; none when it does not.
    pub(super) fn reason(&self, name: &AgentName) -> Option<String> {
        self.waiting.contains_key(name).then(|| {
            let on: Vec<&str> = self.of(name).map(AgentName::as_str).collect();
            format!("starts after {}", on.join(", "))
        })
    }

    /// Whom it names, of those that are there.
    fn of(&self, name: &AgentName) -> impl Iterator<Item = &AgentName> {
        let named = self.after.get(name).map(|start| start.after.iter());
        named
            .into_iter()
            .flatten()
            .filter(|on| self.after.contains_key(*on))
    }

    /// The next one whose turn has come.
    fn next_to_start(
        &mut self,
        now: Moment,
        standing: impl Fn(&AgentName) -> Standing,
        joins: impl Fn(&AgentName) -> bool,
    ) -> Option<AgentName> {
        let names: Vec<AgentName> = self.waiting.keys().cloned().collect();
        for name in names {
            let settled = self
                .of(&name)
                .all(|on| !self.waiting.contains_key(on) && standing(on) != Standing::Coming);
            let is_to_come = |on: &AgentName| self.waiting.contains_key(on) || joins(on);
            let all_begun = !self.of(&name).any(is_to_come);
            let wait = self.after.get(&name).map(|start| start.wait);
            let until = self.waiting.get(&name).copied().flatten();
            let until = match until {
                None if all_begun => Some(now.after(wait.unwrap_or_default())),
                known => known,
            };
            if settled || until.is_some_and(|until| until <= now) {
                self.waiting.remove(&name);
                return Some(name);
            }
            self.waiting.insert(name, until);
        }
        None
    }

    /// How many agents stand between this one and the first to stop, itself not counted.
    fn level(&self, name: &AgentName, depth: usize) -> u32 {
        // The settings refuse circles; the depth bounds what they might ever let through.
        if depth == 0 {
            return 0;
        }
        let before = self.dependants(name);
        before
            .map(|first| self.level(first, depth.saturating_sub(1)).saturating_add(1))
            .max()
            .unwrap_or(0)
    }

    /// Those that start after it, and so stop before it.
    fn dependants<'a>(&'a self, name: &'a AgentName) -> impl Iterator<Item = &'a AgentName> {
        let names = |start: &config::StartOrder| start.after.contains(name);
        self.after
            .iter()
            .filter(move |(_, start)| names(start))
            .map(|(first, _)| first)
    }

    /// Slots of a stop.
    fn levels(&self) -> u32 {
        let depth = self.after.len();
        let levels = self.after.keys().map(|name| self.level(name, depth));
        levels.max().unwrap_or(0).saturating_add(1)
    }
}

impl Host {
    /// Holds back who starts after others, before anything is started.
    pub(super) fn hold_back(&mut self) {
        for engine in &mut self.engines {
            if let Some(reason) = self.order.reason(engine.name()) {
                engine.hold_back(reason);
            }
        }
    }

    /// Starts those whose turn has come.
    pub(super) fn follow_order(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            return;
        }
        while !self.order.waiting.is_empty() {
            let (engines, roster) = (&self.engines, &self.roster);
            let standing = |name: &AgentName| {
                let engine = engines.iter().find(|engine| engine.name() == name);
                engine.map_or_else(|| roster.standing(name), |engine| engine.standing(now))
            };
            let joins = |name: &AgentName| roster.joins(name);
            let Some(name) = self.order.next_to_start(now.mono, standing, joins) else {
                return;
            };
            let engine = self.engines.iter_mut().find(|it| it.name() == &name);
            if let Some(engine) = engine {
                let outcome = engine.let_start(now);
                self.collect(now, &name, outcome, effects);
            }
        }
    }

    /// A stop begins: everybody winds down, and those go first after whom nobody else goes.
    pub(super) fn begin_ordered_stop(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.order.waiting.clear();
        self.roster.forget();
        self.order.to_stop = self.engines.iter().map(|it| it.name().clone()).collect();
        self.each(now, effects, Engine::wind_down);
        self.follow_stop(now, effects);
    }

    /// Tells those to stop whose turn has come.
    pub(super) fn follow_stop(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(stopping) = self.stopping else {
            return;
        };
        if self.order.to_stop.is_empty() {
            return;
        }
        let down = |name: &AgentName| {
            let engine = self.engines.iter().find(|engine| engine.name() == name);
            engine.is_none_or(Engine::child_is_down)
        };
        let turns: Vec<(AgentName, Duration)> = self
            .order
            .to_stop
            .iter()
            .filter(|name| {
                stopping.forced
                    || self.stop_by(name, stopping.exit_at) <= now.mono
                    || self.order.dependants(name).all(down)
            })
            .map(|name| (name.clone(), self.grace_of(name, stopping.exit_at, now)))
            .collect();
        for (name, grace) in turns {
            self.order.to_stop.remove(&name);
            if let Some(engine) = self.engines.iter_mut().find(|it| it.name() == &name) {
                let outcome = engine.end(now, grace);
                self.collect(now, &name, outcome, effects);
            }
        }
    }

    /// The next moment at which an agent stops although others that go first are still there.
    pub(super) fn order_due(&self) -> Option<Moment> {
        let stopping = self.stopping.as_ref();
        let stops = stopping.and_then(|stopping| {
            let waiting = self.order.to_stop.iter();
            waiting
                .map(|name| self.stop_by(name, stopping.exit_at))
                .min()
        });
        [stops, self.order.due()].into_iter().flatten().min()
    }

    /// The beginning of an agent's slot.
    fn stop_by(&self, name: &AgentName, exit_at: Moment) -> Moment {
        let level = self.order.level(name, self.engines.len());
        self.slot_end(level, exit_at)
    }

    /// When the slots of so many levels are over.
    fn slot_end(&self, levels_over: u32, exit_at: Moment) -> Moment {
        let levels = self.order.levels();
        let budget = self.stop.budget;
        let left = budget
            .checked_div(levels)
            .unwrap_or_default()
            .saturating_mul(levels.saturating_sub(levels_over));
        Moment::from_millis(
            exit_at
                .as_millis()
                .saturating_sub(Moment::START.after(left).as_millis()),
        )
    }

    /// From the stop signal to KILL: as set, or the same share of what is left of the agent's time.
    fn grace_of(&self, name: &AgentName, exit_at: Moment, now: Now) -> Duration {
        let level = self.order.level(name, self.engines.len());
        let left = self
            .slot_end(level.saturating_add(1), exit_at)
            .since(now.mono);
        let share = self.stop.grace.as_secs_f64() / self.stop.budget.as_secs_f64();
        self.stop.grace.min(left.mul_f64(share.clamp(0.0, 1.0)))
    }
}
