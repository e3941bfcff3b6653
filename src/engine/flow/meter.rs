//! A program's counters over time: readings in, windows of what was counted between them out.
//!
//! Promises: bounded, the oldest window goes first; a counter that went back, or a gap in which nobody looked, makes no
//! window, so that neither a restart nor a host that slept looks like a flood or a drought.
//! Must never: judge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::config::FlowRole;
use crate::engine::message::{CountKey, Reading};
use crate::units::Moment;

/// Stretches of the baseline are so much shorter than what they are compared with that it does not matter at which
/// moment a program that works at intervals is looked at.
const SHORTER: (u32, u32) = (5, 6);
/// Windows that are kept: with one every 10 s, twenty minutes.
const WINDOWS_MAX: usize = 120;
/// Counters that are told apart; the program's further ones are not looked at.
const KEYS_MAX: usize = 512;
/// A window this many times longer than the interval is a gap.
const GAP: u32 = 3;

/// What was counted between two readings.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    millis: u64,
    /// Index of the key and count; what did not move is left out.
    counts: Vec<(usize, u64)>,
}

/// Readings of one config.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    keys: Vec<CountKey>,
    last: Option<(Moment, BTreeMap<CountKey, u64>)>,
    windows: VecDeque<Window>,
    millis: u64,
}

/// Some counters of one signal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Series<'a> {
    pub(crate) signal: usize,
    pub(crate) role: FlowRole,
    /// Of these parts; `None` of all.
    pub(crate) parts: Option<&'a BTreeSet<String>>,
}

impl Series<'_> {
    fn holds(&self, key: &CountKey) -> bool {
        key.signal == self.signal
            && key.role == self.role
            && self.parts.is_none_or(|parts| parts.contains(&key.part))
    }
}

impl Meter {
    /// Takes a reading that was asked for about every `interval`.
    pub(crate) fn read(&mut self, now: Moment, reading: &Reading, interval: Duration) {
        let mut levels = BTreeMap::new();
        for count in reading.counts.iter().take(KEYS_MAX) {
            levels.insert(count.key.clone(), count.value);
        }
        let Some((at, last)) = self.last.replace((now, levels)) else {
            return;
        };
        let Some((_, levels)) = &self.last else {
            return;
        };
        let span = now.since(at);
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let is_counter = |key: &CountKey| key.role != FlowRole::Waiting;
        // A counter goes back when its process, or what it counts in, is another one.
        let began_anew = last
            .iter()
            .filter(|(key, _)| is_counter(key))
            .any(|(key, before)| levels.get(key).is_none_or(|value| value < before));
        if millis == 0 || began_anew || span > interval.saturating_mul(GAP) {
            return;
        }
        let mut counts = Vec::new();
        for (key, value) in levels {
            let before = last.get(key).copied().unwrap_or(0);
            let count = match key.role {
                FlowRole::Waiting => *value,
                _ => value.saturating_sub(before),
            };
            if count > 0
                && let Some(index) = index_of(&mut self.keys, key)
            {
                counts.push((index, count));
            }
        }
        self.millis = self.millis.saturating_add(millis);
        self.windows.push_back(Window { millis, counts });
        if self.windows.len() > WINDOWS_MAX
            && let Some(oldest) = self.windows.pop_front()
        {
            self.millis = self.millis.saturating_sub(oldest.millis);
        }
    }

    /// What comes next is not measured from what was read last.
    pub(crate) fn pause(&mut self) {
        self.last = None;
    }

    /// How long was looked.
    pub(crate) fn span(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// Every part that a series has counts of.
    pub(crate) fn parts(&self, series: Series<'_>) -> BTreeSet<String> {
        let keys = self.keys.iter().filter(|key| series.holds(key));
        keys.map(|key| key.part.clone()).collect()
    }

    /// The last windows that come to at least `span`, as a meter that ends there: their count of a series and their
    /// time.
    pub(crate) fn latest(&self, series: Series<'_>, span: Duration) -> (u64, u64) {
        let wanted = self.wanted(series);
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (mut count, mut millis) = (0u64, 0u64);
        for window in self.windows.iter().rev() {
            if millis >= span {
                break;
            }
            millis = millis.saturating_add(window.millis);
            count = count.saturating_add(window.count(&wanted));
        }
        (count, millis)
    }

    /// The level that a series had last.
    pub(crate) fn level(&self, series: Series<'_>) -> u64 {
        let wanted = self.wanted(series);
        self.windows.back().map_or(0, |last| last.count(&wanted))
    }

    /// The highest level that a series had.
    pub(crate) fn highest(&self, series: Series<'_>) -> u64 {
        let wanted = self.wanted(series);
        let levels = self.windows.iter().map(|window| window.count(&wanted));
        levels.max().unwrap_or(0)
    }

    /// The least of a series in any stretch of somewhat less than `span`: its count, or its count for each of another
    /// series in the same stretch. None when there are not two such stretches one after the other, or nothing of the
    /// other series.
    pub(crate) fn floor(
        &self,
        series: Series<'_>,
        by: Option<Series<'_>>,
        span: Duration,
    ) -> Option<f64> {
        if self.span() < span.saturating_mul(2) {
            return None;
        }
        let limit = u64::try_from((span / SHORTER.1).saturating_mul(SHORTER.0).as_millis());
        let limit = limit.unwrap_or(u64::MAX);
        let wanted = self.wanted(series);
        let base = by.map(|by| self.wanted(by));
        let mut least: Option<f64> = None;
        let (mut count, mut of, mut millis) = (0u64, 0u64, 0u64);
        let mut oldest = self.windows.iter();
        for newest in &self.windows {
            let measure = |window: &Window| base.as_ref().map_or(1, |base| window.count(base));
            count = count.saturating_add(newest.count(&wanted));
            of = of.saturating_add(measure(newest));
            millis = millis.saturating_add(newest.millis);
            while millis > limit
                && let Some(gone) = oldest.next()
            {
                count = count.saturating_sub(gone.count(&wanted));
                of = of.saturating_sub(measure(gone));
                millis = millis.saturating_sub(gone.millis);
            }
            // Stretches that could be longer say nothing, nor do those in which nothing fits.
            let is_full = millis.saturating_add(newest.millis) > limit;
            if is_full && of > 0 {
                let of = base.as_ref().map_or(1.0, |_| real(of));
                let found = real(count) / of;
                least = Some(least.map_or(found, |least| least.min(found)));
            }
        }
        least
    }

    fn wanted(&self, series: Series<'_>) -> Vec<bool> {
        self.keys.iter().map(|key| series.holds(key)).collect()
    }
}

impl Window {
    fn count(&self, wanted: &[bool]) -> u64 {
        let counts = self.counts.iter();
        counts
            .filter(|(key, _)| wanted.get(*key) == Some(&true))
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

fn index_of(keys: &mut Vec<CountKey>, key: &CountKey) -> Option<usize> {
    if let Some(index) = keys.iter().position(|known| known == key) {
        return Some(index);
    }
    if keys.len() >= KEYS_MAX {
        return None;
    }
    keys.push(key.clone());
    keys.len().checked_sub(1)
}

/// Counts stay far below where a float would round them.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 53 bits"
)]
pub(crate) const fn real(count: u64) -> f64 {
    count as f64
}
