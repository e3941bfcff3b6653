//! A program that counts, second by second: sources with their habits, processors that let through, destinations that
//! take or do not. Everything follows from the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::FlowRole;
use crate::engine::message::{CountKey, Reading};

/// How much comes in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Habit {
    /// So much a second, give or take what chance does.
    Steady(f64),
    /// As steady, and less with every minute: what is left of it after one.
    Fading(f64, f64),
    /// Seconds of work at a rate, seconds of rest.
    Bursts(f64, u64, u64),
    /// Points at once, every so many seconds.
    Scrape(u64, f64),
    /// Steady until this second of the phase.
    Until(f64, u64),
    /// As steady as daily life: what comes swings around the rate.
    Swinging(f64),
}

/// What a destination does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Taking {
    /// Takes it.
    All,
    /// Takes a part; the rest waits.
    Part(f64),
    /// Refuses it, and says so.
    Refuses,
    /// Does not answer; everything waits and is tried again.
    Silent,
}

/// Where something comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) signal: usize,
    pub(super) part: &'static str,
    pub(super) habit: Habit,
}

/// Where something goes out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    pub(super) signal: usize,
    pub(super) part: &'static str,
    pub(super) taking: Taking,
    /// What it gets of what comes in, by a filter or a sampler.
    pub(super) share: f64,
}

/// One life of the program, or one config of it.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    pub(super) sources: Vec<Source>,
    pub(super) destinations: Vec<Destination>,
    /// Everything that comes is turned away from this second on.
    pub(super) refuses: Option<u64>,
    /// Seconds before anything comes in.
    pub(super) warm_up: u64,
    /// Seconds that everything is held back before it goes out.
    pub(super) hold: u64,
    /// Goes out every so many seconds.
    pub(super) batch: u64,
}

/// The program.
#[derive(Debug)]
pub(super) struct Program {
    random: fastrand::Rng,
    counts: Vec<(CountKey, u64)>,
    held: BTreeMap<(usize, usize), f64>,
    due: Vec<(u64, usize, f64)>,
    /// Where in its period each source is.
    offset: u64,
    clock: u64,
    swing: f64,
    /// Wider than chance alone would have it.
    wild: bool,
}

impl Program {
    pub(super) fn new(seed: u64, wild: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let offset = random.u64(0..3_600);
        Self {
            random,
            counts: Vec::new(),
            held: BTreeMap::new(),
            due: Vec::new(),
            offset,
            clock: 0,
            swing: 1.0,
            wild,
        }
    }

    /// Counters begin at zero again.
    pub(super) fn restarts(&mut self) {
        self.counts.clear();
        self.held.clear();
        self.due.clear();
    }

    pub(super) fn reading(&self) -> Reading {
        let mut reading = Reading {
            uptime: Some(Duration::ZERO),
            counts: Vec::new(),
        };
        for (key, value) in &self.counts {
            reading.add(key.clone(), *value);
        }
        reading
    }

    fn count(&mut self, signal: usize, role: FlowRole, part: &str, count: f64) {
        let same = |(key, _): &(CountKey, u64)| {
            (key.signal, key.role, key.part.as_str()) == (signal, role, part)
        };
        let index = self.counts.iter().position(same).unwrap_or_else(|| {
            let part = part.to_owned();
            self.counts.push((CountKey { signal, role, part }, 0));
            self.counts.len() - 1
        });
        let value = &mut self.counts[index].1;
        *value = match role {
            FlowRole::Waiting => count as u64,
            _ => *value + count as u64,
        };
    }

    /// One second of a phase, `at` seconds after its beginning.
    pub(super) fn second(&mut self, phase: &Phase, at: u64) {
        self.clock += 1;
        let mut came = [0.0; 8];
        for source in &phase.sources {
            let count = self.comes(source.habit, at);
            if at < phase.warm_up {
                continue;
            }
            if phase.refuses.is_some_and(|from| from <= at) {
                self.count(source.signal, FlowRole::Refused, source.part, count);
            } else {
                came[source.signal] += count;
                self.count(source.signal, FlowRole::Accepted, source.part, count);
            }
        }
        for (signal, count) in came.into_iter().enumerate() {
            self.due.push((at + phase.hold, signal, count));
        }
        let due = std::mem::take(&mut self.due);
        let (now, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(when, ..)| *when <= at);
        self.due = later;
        for (index, destination) in phase.destinations.iter().enumerate() {
            let of = |(_, signal, count): &(u64, usize, f64)| {
                (*signal == destination.signal).then_some(*count)
            };
            let count: f64 = now.iter().filter_map(of).sum();
            let kept = self.thinned(count, destination.share);
            let held = self.held.entry((index, destination.signal)).or_default();
            *held += kept;
            if !(self.clock + self.offset).is_multiple_of(phase.batch.max(1)) {
                continue;
            }
            let all = std::mem::take(held);
            self.goes(destination, (index, all));
        }
    }

    fn goes(&mut self, destination: &Destination, (index, all): (usize, f64)) {
        let Destination {
            signal,
            part,
            taking,
            ..
        } = *destination;
        let sent = match taking {
            Taking::All => all,
            Taking::Part(share) => (all * share).floor(),
            Taking::Refuses | Taking::Silent => 0.0,
        };
        self.count(signal, FlowRole::Sent, part, sent);
        let left = all - sent;
        if taking == Taking::Refuses {
            self.count(signal, FlowRole::Failed, part, left);
        } else {
            self.held.insert((index, signal), left);
            self.count(signal, FlowRole::Waiting, part, left);
        }
    }

    /// A part of so many, each on its own.
    fn thinned(&mut self, count: f64, share: f64) -> f64 {
        match share {
            0.0 => 0.0,
            1.0 => count,
            share => self.chance(count * share).min(count),
        }
    }

    fn comes(&mut self, habit: Habit, at: u64) -> f64 {
        let clock = self.clock + self.offset;
        match habit {
            Habit::Steady(rate) => self.chance(rate),
            Habit::Fading(rate, left) => {
                let minutes = self.clock as f64 / 60.0;
                self.chance(rate * left.powf(minutes))
            }
            Habit::Bursts(rate, work, rest) => {
                if clock % (work + rest) < work {
                    self.chance(rate)
                } else {
                    0.0
                }
            }
            Habit::Scrape(period, points) => {
                if clock.is_multiple_of(period) {
                    points
                } else {
                    0.0
                }
            }
            Habit::Until(rate, end) => {
                if at < end {
                    self.chance(rate)
                } else {
                    0.0
                }
            }
            Habit::Swinging(rate) => {
                let step = 1.0 + (self.random.f64() - 0.5) * 0.3;
                self.swing = (self.swing * step).clamp(0.3, 3.0);
                self.chance(rate * self.swing)
            }
        }
    }

    /// Around `mean`, as rare events are; `wild` has a heavy tail and seconds without anything.
    fn chance(&mut self, mean: f64) -> f64 {
        let mean = match self.random.u8(0..10) {
            0 if self.wild => mean * 4.0,
            1 if self.wild => 0.0,
            _ => mean,
        };
        if mean <= 0.0 {
            return 0.0;
        }
        if mean > 30.0 {
            let bell: f64 = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
            return (mean + bell * mean.sqrt()).max(0.0).round();
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.random.f64(), 0.0);
        while product > limit {
            product *= self.random.f64();
            count += 1.0;
        }
        count
    }
}
