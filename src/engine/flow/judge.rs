//! Whether data still flows: what was counted under the config before against what is counted under the new one.
//!
//! Promises: pure judgement. A collapse is said only where a stretch of the same length never held so little before,
//! and where the config can have done it: something that takes this data in, or sends it out, is another thing than
//! it was, or what came in is lost inside. Everything else is "no verdict", with the reason.
//! Must never: act, or take what was removed on purpose for a loss while anything else flows.

use std::collections::BTreeSet;
use std::time::Duration;

use super::meter::{Meter, Series, real};
use super::shape::{Change, Shape};
use crate::config::{Flow, FlowCheck, FlowRole};
use crate::units::format_duration;

/// Fewer than so many in a stretch may well be none in the next by chance alone.
const LEAST: f64 = 5.0;

/// What it comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Data flows.
    Flows,
    /// It does not, and the config did it.
    Collapsed(Collapse),
    /// Nobody can tell, and why.
    Unknown(String),
}

/// What collapsed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Collapse {
    /// The signal.
    signal: String,
    /// `in` or `out`.
    side: usize,
    /// Of one part, or of all.
    part: String,
    /// Of a second, at least, before.
    from: f64,
    /// Of a second, now.
    to: f64,
    span: Duration,
}

impl std::fmt::Display for Collapse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            signal,
            side,
            part,
            from,
            to,
            span,
        } = self;
        let way = if *side == 0 { "come in" } else { "go out" };
        let of = match (part.is_empty(), side) {
            (true, _) => String::new(),
            (false, 0) => format!(" through {part}"),
            (false, _) => format!(" to {part}"),
        };
        write!(
            f,
            "{signal} do not {way}{of} any more: {} a second in the last {}, at least {} before the change",
            short(*to),
            moment(*span),
            short(*from)
        )
    }
}

fn short(rate: f64) -> String {
    if rate >= 100.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.2}")
    }
}

/// Everything that is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) before: &'a Meter,
    pub(crate) after: &'a Meter,
    pub(crate) old: &'a Shape,
    pub(crate) new: &'a Shape,
    pub(crate) flow: &'a Flow,
    pub(crate) check: &'a FlowCheck,
}

/// What one signal comes to.
#[derive(Debug, Clone, PartialEq)]
enum Signal {
    /// Too little to tell.
    Quiet,
    /// Too little to tell in this stretch, and in one as long as the window it would be too little to be chance.
    Silent,
    /// Nothing carries it any more.
    Removed,
    Flows,
    /// It stands still, and the config cannot have done that.
    Innocent(&'static str),
    Collapsed(Collapse),
}

const NOT_THE_SOURCE: &str = "nothing comes in any more, and nothing that takes it in has changed";
const NOT_THE_DESTINATION: &str =
    "it is not taken where it goes, and nothing that sends it there has changed";

/// What is told in a stretch, and how that stands to the stretches before.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// Too little before to tell.
    Nothing,
    /// As much as a stretch held before, or some of it.
    Some,
    /// Next to nothing.
    Collapsed { from: f64, to: f64 },
}

/// Parts of one side of a signal, by what became of them.
#[derive(Debug, Default)]
struct Parts {
    /// Those that are still there, under the old name or under a new one.
    kept: BTreeSet<String>,
    /// Of those, the ones that are not what they were: old names, and the new names of the same.
    changed: Vec<(BTreeSet<String>, BTreeSet<String>)>,
    /// Whether any of them may be another thing than it was.
    suspect: bool,
    /// Whether some are gone, and nothing like them came.
    gone: bool,
    /// Whether new ones came.
    came: bool,
}

impl Parts {
    fn is_removed(&self) -> bool {
        self.kept.is_empty() && self.gone && !self.came
    }

    /// Whether the config can have done something to what goes through them.
    fn is_suspect(&self) -> bool {
        self.suspect || self.came || self.kept.is_empty()
    }
}

/// What there is to say at a moment of probation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Nothing yet.
    Wait,
    /// Nothing yet, and probation has to last longer for it.
    Look,
    /// This.
    Say(Verdict),
}

impl Evidence<'_> {
    /// Decides `elapsed` after the beginning of probation; `over` is whether probation is otherwise at its end. A
    /// collapse is believed when it has lasted for the window; until then it keeps the config on probation.
    pub(crate) fn decide(&self, elapsed: Duration, over: bool) -> Decision {
        // In whole milliseconds, as moments are.
        let lasted = elapsed.as_millis() >= self.check.window.as_millis();
        if !over && !lasted {
            return Decision::Wait;
        }
        let verdict = self.judge(elapsed);
        let collapsed = matches!(verdict, Verdict::Collapsed(_));
        let doubtful = collapsed || self.is_silent(elapsed) || self.has_just_stopped();
        match verdict {
            _ if doubtful && !lasted => Decision::Look,
            Verdict::Flows | Verdict::Unknown(_) if !over => Decision::Wait,
            verdict => Decision::Say(verdict),
        }
    }

    /// Judges what was counted in the last `elapsed` since the change.
    fn judge(&self, elapsed: Duration) -> Verdict {
        match self.signals(elapsed) {
            Ok(signals) => self.sum_up(&signals),
            Err(why) => Verdict::Unknown(why),
        }
    }

    /// Whether it is worth to look for longer before anything is said.
    fn is_silent(&self, elapsed: Duration) -> bool {
        let signals = self.signals(elapsed);
        signals.is_ok_and(|signals| {
            let flows = signals.contains(&Signal::Flows);
            !flows && signals.contains(&Signal::Silent)
        })
    }

    /// Whether nothing at all was told in the last moments. No reason to go back, and one to look on.
    fn has_just_stopped(&self) -> bool {
        let moment = self.check.interval;
        let mut signals = 0..self.flow.signals.len();
        signals.any(|signal| {
            [FlowRole::Accepted, FlowRole::Sent]
                .into_iter()
                .any(|role| {
                    let parts = self.parts(signal, role);
                    let series = |parts| Series {
                        signal,
                        role,
                        parts,
                    };
                    let kept = (!parts.kept.is_empty()).then_some(&parts.kept);
                    let least = self.before.floor(series(kept), None, moment * 6 / 5);
                    let silent = self.after.latest(series(None), moment).0 == 0;
                    silent && !parts.is_removed() && least.is_some_and(|least| least >= LEAST)
                })
        })
    }

    fn signals(&self, elapsed: Duration) -> Result<Vec<Signal>, String> {
        let seen = self.before.span();
        if seen < self.check.min_baseline {
            return Err(format!(
                "{} of baseline, {} wanted",
                seconds(seen),
                format_duration(self.check.min_baseline)
            ));
        }
        let looked = self.after.span().min(elapsed).min(self.check.window);
        if looked.is_zero() {
            return Err("no counters since the change".to_owned());
        }
        let signals = 0..self.flow.signals.len();
        Ok(signals
            .map(|signal| {
                // The first half may be a program that warms up; all of it is what little there is to tell by.
                match self.signal(signal, looked / 2) {
                    Signal::Quiet | Signal::Silent => self.signal(signal, looked),
                    told => told,
                }
            })
            .collect())
    }

    fn sum_up(&self, signals: &[Signal]) -> Verdict {
        let collapsed = signals.iter().find_map(|signal| match signal {
            Signal::Collapsed(collapse) => Some(collapse.clone()),
            _ => None,
        });
        if let Some(collapse) = collapsed {
            return Verdict::Collapsed(collapse);
        }
        let innocent = signals.iter().find_map(|signal| match signal {
            Signal::Innocent(why) => Some(*why),
            _ => None,
        });
        if let Some(why) = innocent {
            return Verdict::Unknown(why.to_owned());
        }
        if signals.contains(&Signal::Flows) {
            return Verdict::Flows;
        }
        // What was removed was meant to be, as long as anything flows.
        let removed = signals.iter().position(|signal| *signal == Signal::Removed);
        match removed {
            Some(signal) if !self.anything_flows() => {
                let name = self.flow.signals.get(signal);
                Verdict::Collapsed(Collapse {
                    signal: name.map_or_else(String::new, |signal| signal.name.clone()),
                    side: 0,
                    part: String::new(),
                    from: self.removed_rate(signal),
                    to: 0.0,
                    span: self.check.window.min(self.after.span()),
                })
            }
            Some(_) => Verdict::Flows,
            None => Verdict::Unknown("too little flows to tell".to_owned()),
        }
    }

    fn anything_flows(&self) -> bool {
        (0..self.flow.signals.len()).any(|signal| {
            [FlowRole::Accepted, FlowRole::Sent]
                .into_iter()
                .any(|role| {
                    let series = Series {
                        signal,
                        role,
                        parts: None,
                    };
                    self.after.latest(series, self.check.window).0 > 0
                })
        })
    }

    fn removed_rate(&self, signal: usize) -> f64 {
        let roles = [FlowRole::Accepted, FlowRole::Sent].into_iter();
        let rates = roles.map(|role| {
            let series = Series {
                signal,
                role,
                parts: None,
            };
            let (count, millis) = self.before.latest(series, Duration::MAX);
            real(count) * 1_000.0 / real(millis)
        });
        rates.fold(0.0, f64::max)
    }

    fn signal(&self, signal: usize, span: Duration) -> Signal {
        let sources = self.parts(signal, FlowRole::Accepted);
        let accepted = self.whole(signal, FlowRole::Accepted, &sources, None, span);
        let before = Series {
            signal,
            role: FlowRole::Accepted,
            parts: None,
        };
        let comes_in = self.after.latest(before, span).0;
        if sources.is_removed() && self.flowed(signal, FlowRole::Accepted) {
            return Signal::Removed;
        }
        match accepted {
            Told::Collapsed { from, to } => {
                return self.came_to_nothing(signal, &sources, (from, to), span);
            }
            Told::Some => {
                if let Some(collapse) =
                    self.one_part(signal, FlowRole::Accepted, &sources, None, span)
                {
                    return Signal::Collapsed(collapse);
                }
            }
            Told::Nothing => {}
        }
        let destinations = self.parts(signal, FlowRole::Sent);
        // Against what comes in, where that is counted: less of it is no fault of what goes out.
        let countable = self.flowed(signal, FlowRole::Accepted);
        let by = countable.then_some((before, comes_in));
        match self.whole(signal, FlowRole::Sent, &destinations, by, span) {
            Told::Collapsed { from, to } => {
                let blamed = destinations.is_suspect() || !self.is_stuck(signal, span);
                if !blamed {
                    return Signal::Innocent(NOT_THE_DESTINATION);
                }
                return Signal::Collapsed(self.collapse(
                    signal,
                    1,
                    String::new(),
                    (from, to),
                    span,
                ));
            }
            Told::Some => {
                if let Some(collapse) =
                    self.one_part(signal, FlowRole::Sent, &destinations, by, span)
                {
                    return Signal::Collapsed(collapse);
                }
                return Signal::Flows;
            }
            Told::Nothing => {}
        }
        match accepted {
            Told::Some => Signal::Flows,
            _ if self.would_be_told(signal) => Signal::Silent,
            _ => Signal::Quiet,
        }
    }

    /// Nothing comes in: whose doing that is.
    fn came_to_nothing(
        &self,
        signal: usize,
        sources: &Parts,
        rates: (f64, f64),
        span: Duration,
    ) -> Signal {
        let refused = Series {
            signal,
            role: FlowRole::Refused,
            parts: None,
        };
        let turned_away = self.after.latest(refused, span).0 > 0;
        let destinations = self.parts(signal, FlowRole::Sent);
        if turned_away
            && self.is_stuck(signal, span)
            && !destinations.is_suspect()
            && !sources.is_suspect()
        {
            // Full up to the door, because nobody takes it.
            return Signal::Innocent(NOT_THE_DESTINATION);
        }
        if !turned_away && !sources.is_suspect() {
            return Signal::Innocent(NOT_THE_SOURCE);
        }
        Signal::Collapsed(self.collapse(signal, 0, String::new(), rates, span))
    }

    fn collapse(
        &self,
        signal: usize,
        side: usize,
        part: String,
        (from, to): (f64, f64),
        span: Duration,
    ) -> Collapse {
        let name = self.flow.signals.get(signal);
        Collapse {
            signal: name.map_or_else(String::new, |signal| signal.name.clone()),
            side,
            part,
            from,
            to,
            span,
        }
    }

    /// Whether it ever flowed enough to be told from nothing.
    fn flowed(&self, signal: usize, role: FlowRole) -> bool {
        let series = Series {
            signal,
            role,
            parts: None,
        };
        real(self.before.latest(series, Duration::MAX).0) >= LEAST
    }

    /// Whether what should go out fails, or waits for longer lines than ever before.
    fn is_stuck(&self, signal: usize, span: Duration) -> bool {
        let of = |role| Series {
            signal,
            role,
            parts: None,
        };
        let fails = self.after.latest(of(FlowRole::Failed), span).0 > 0;
        let waits = self.after.level(of(FlowRole::Waiting));
        fails || waits > self.before.highest(of(FlowRole::Waiting))
    }

    /// Whether nothing in a stretch as long as the window would be told from chance.
    fn would_be_told(&self, signal: usize) -> bool {
        let window = self.check.window;
        let part = f64::from(self.check.collapse_below_percent) / 100.0;
        [FlowRole::Accepted, FlowRole::Sent]
            .into_iter()
            .any(|role| {
                let parts = self.parts(signal, role);
                let series = |parts| Series {
                    signal,
                    role,
                    parts,
                };
                let kept = (!parts.kept.is_empty()).then_some(&parts.kept);
                let expected = self.before.floor(series(kept), None, window).unwrap_or(0.0);
                let count = self.after.latest(series(None), window).0;
                expected >= LEAST && real(count) < expected * part
            })
    }

    /// Everything of one role of a signal.
    fn whole(
        &self,
        signal: usize,
        role: FlowRole,
        parts: &Parts,
        by: Option<(Series<'_>, u64)>,
        span: Duration,
    ) -> Told {
        // What was removed on purpose is not missed, unless nothing else is left to compare with.
        let kept = (!parts.kept.is_empty()).then_some(&parts.kept);
        let before = Series {
            signal,
            role,
            parts: kept,
        };
        let now = Series {
            signal,
            role,
            parts: None,
        };
        self.told(before, now, by, span)
    }

    /// A part that is there and not what it was, and that nothing goes through any more.
    fn one_part(
        &self,
        signal: usize,
        role: FlowRole,
        parts: &Parts,
        by: Option<(Series<'_>, u64)>,
        span: Duration,
    ) -> Option<Collapse> {
        parts.changed.iter().find_map(|(old, new)| {
            let of = |parts| Series {
                signal,
                role,
                parts: Some(parts),
            };
            match self.told(of(old), of(new), by, span) {
                Told::Collapsed { from, to } => {
                    let names: Vec<&str> = new.iter().map(String::as_str).collect();
                    let part = names.join(", ");
                    Some(self.collapse(signal, role.side(), part, (from, to), span))
                }
                Told::Nothing | Told::Some => None,
            }
        })
    }

    fn told(
        &self,
        before: Series<'_>,
        now: Series<'_>,
        by: Option<(Series<'_>, u64)>,
        span: Duration,
    ) -> Told {
        let (count, millis) = self.after.latest(now, span);
        let time = Duration::from_millis(millis);
        let base = by.map(|(series, _)| series);
        let Some(least) = self.before.floor(before, base, time) else {
            return Told::Nothing;
        };
        let expected = least * by.map_or(1.0, |(_, count)| real(count));
        if expected < LEAST {
            return Told::Nothing;
        }
        let part = f64::from(self.check.collapse_below_percent) / 100.0;
        if real(count) >= expected * part {
            return Told::Some;
        }
        let per_second = |count: f64| count * 1_000.0 / real(millis.max(1));
        Told::Collapsed {
            from: per_second(expected),
            to: per_second(real(count)),
        }
    }

    fn parts(&self, signal: usize, role: FlowRole) -> Parts {
        let side = role.side();
        let series = Series {
            signal,
            role,
            parts: None,
        };
        let came = self.new.came(self.old, signal, side);
        let mut parts = Parts {
            came: !came.is_empty(),
            ..Parts::default()
        };
        let mut gone: Vec<String> = Vec::new();
        for part in self.before.parts(series) {
            match self.new.change(self.old, signal, side, &part) {
                Change::Gone => {
                    gone.push(part);
                    continue;
                }
                Change::Same => {}
                Change::Changed => {
                    let one = BTreeSet::from([part.clone()]);
                    parts.changed.push((one.clone(), one));
                    parts.suspect = true;
                }
                Change::Unknown => parts.suspect = true,
            }
            parts.kept.insert(part);
        }
        // One that went while another of its type came was renamed, for all that can be known.
        while let Some(one) = gone.pop() {
            let alike = |part: &String| kind(part) == kind(&one);
            let new: BTreeSet<String> = came.iter().filter(|part| alike(part)).cloned().collect();
            if new.is_empty() {
                parts.gone = true;
                continue;
            }
            let (also, others): (Vec<_>, Vec<_>) = gone.into_iter().partition(alike);
            gone = others;
            let old: BTreeSet<String> = also.into_iter().chain([one]).collect();
            parts.kept.extend(old.iter().cloned());
            parts.suspect = true;
            parts.changed.push((old, new));
        }
        parts
    }
}

/// The type in the name of a part: `otlp` of `otlp/2`.
fn kind(part: &str) -> &str {
    part.split('/').next().unwrap_or(part)
}

fn moment(span: Duration) -> String {
    format_duration(Duration::from_millis(
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
    ))
}

fn seconds(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs()))
}
