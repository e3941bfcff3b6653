//! When to look at the child's counters, and what becomes of a config by what they say.
//!
//! Promises: one question at a time, none while nothing runs or nobody wants to know; after three that came to
//! nothing the next ones are far apart. The baseline is of one config: it begins anew with each commit, and goes on
//! after a rollback.
//! Must never: keep anything on disk. After a start of ours there is no baseline, and no verdict until there is.

use std::time::Duration;

use super::judge::{Decision, Evidence, Verdict};
use super::meter::Meter;
use super::shape::{Counters, Shape};
use crate::config::{Flow, FlowFormat, FlowMode, part_by_path};
use crate::engine::message::{AgentEffect, CountKey, CounterQuestion, NoteLevel, Origin, Reading};
use crate::engine::rollout::Transaction;
use crate::engine::{Engine, report};
use crate::units::{Moment, Now, RevisionId, Ticket};

/// How long one reading may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Readings in a row that came to nothing, after which there is no hurry.
const FAILURES: u32 = 3;
/// Between two readings then.
const RARELY: Duration = Duration::from_mins(5);
/// Looks in one probation, or one window.
const LOOKS: u32 = 6;
/// Closer together is no use.
const LEAST: Duration = Duration::from_millis(100);
/// What a program's uptime may be ahead of ours of it.
const UPTIME_SLACK: Duration = Duration::from_secs(10);

/// What the flow of data says at a moment of probation.
#[derive(Debug)]
pub(crate) enum Judged {
    /// Nothing yet.
    Wait,
    /// Nothing against the config.
    Pass,
    /// The config did not hold, and why.
    Back(String),
}

/// What is known about what flows.
#[derive(Debug, Default)]
pub(crate) struct FlowWatch {
    /// Under the config that was committed last.
    before: Meter,
    old: Shape,
    /// Which config that is.
    of: Option<RevisionId>,
    /// Under the one on probation.
    trial: Option<Trial>,
    next_at: Option<Moment>,
    asked: Option<Ticket>,
    failures: u32,
    /// Why the counters are not known.
    trouble: Option<String>,
    /// What was said last.
    words: String,
}

/// A config on probation.
#[derive(Debug)]
struct Trial {
    after: Meter,
    new: Shape,
    since: Moment,
    /// Probation is over but for this.
    waits: bool,
}

impl Engine {
    fn flow_counters(&self) -> Option<&Flow> {
        let wanted = self.settings.apply.flow.mode != FlowMode::Off;
        self.settings.profile.flow.as_ref().filter(|_| wanted)
    }

    /// When it wants to look, or to decide.
    pub(crate) fn flow_due(&self) -> Option<Moment> {
        if self.stopping {
            return None;
        }
        let trial = self.flow.trial.as_ref();
        let on_probation = self
            .transaction
            .as_ref()
            .is_some_and(Transaction::is_on_probation);
        let end = trial
            .filter(|trial| trial.waits && on_probation)
            .map(|trial| trial.since.after(self.settings.apply.flow.window));
        let asks = self
            .flow_counters()
            .is_some_and(|flow| flow.format != FlowFormat::LocalLink);
        let asks = asks && self.life.running().is_some() && self.flow.asked.is_none();
        let look = self.flow.next_at.filter(|_| asks);
        [look, end].into_iter().flatten().min()
    }

    /// Asks for the counters when it is time to.
    pub(crate) fn flow_look(&mut self, now: Moment) {
        if self.flow_counters().is_none() || self.life.running().is_none() || self.stopping {
            self.flow.next_at = None;
            return;
        }
        if self.flow.trial.is_none() {
            self.flow_follow(now);
        }
        if self.flow.asked.is_some() || self.flow.next_at.is_none_or(|at| now < at) {
            return;
        }
        self.flow.next_at = None;
        let Some(flow) = self.flow_counters().cloned() else {
            return;
        };
        if flow.format == FlowFormat::LocalLink {
            // It comes by itself, with the child's health.
            return;
        }
        let shape = self
            .flow
            .trial
            .as_ref()
            .map_or(&self.flow.old, |it| &it.new);
        let url = match &shape.counters {
            Counters::Usual => flow.url.clone(),
            Counters::At(address) => moved(&flow.url, address),
            Counters::Off(why) => {
                self.flow.trouble = Some(why.clone());
                return;
            }
        };
        let ticket = self.tickets.next();
        self.flow.asked = Some(ticket);
        let question = CounterQuestion {
            url: self.address(&url),
            timeout: TIMEOUT,
            flow: Box::new(flow),
        };
        self.out
            .effects
            .push(AgentEffect::ReadCounters { ticket, question });
    }

    /// Outside of a rollout what runs is what is measured.
    fn flow_follow(&mut self, now: Moment) {
        let busy = self.transaction.is_some() || self.settling.is_some();
        let current = self.current.as_ref().filter(|_| !busy);
        let Some(current) = current else {
            self.flow.next_at = None;
            return;
        };
        if self.flow.of.as_ref() != Some(&current.id) {
            let id = current.id.clone();
            let shape = self.flow_shape();
            self.flow.before = Meter::default();
            self.flow.old = shape;
            self.flow.of = Some(id);
            self.flow.failures = 0;
            self.flow.trouble = None;
            self.flow.next_at = Some(now);
        } else if self.flow.next_at.is_none()
            && self.flow.asked.is_none()
            && !matches!(self.flow.old.counters, Counters::Off(_))
        {
            self.flow.next_at = Some(now.after(self.settings.apply.flow.interval));
        }
    }

    fn flow_shape(&self) -> Shape {
        match (&self.current, self.flow_counters()) {
            (Some(current), Some(flow)) => Shape::of(&self.settings, &current.files, flow),
            _ => Shape::default(),
        }
    }

    /// Between two looks, on probation.
    fn flow_step(&self) -> Duration {
        let apply = &self.settings.apply;
        let shorter = apply.probation.min(apply.flow.window) / LOOKS;
        shorter.min(apply.flow.interval).max(LEAST)
    }

    /// The counters were read, or not.
    pub(crate) fn on_counters(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<Reading, String>,
    ) {
        if self.flow.asked != Some(ticket) {
            return self.count("stale_answers");
        }
        self.flow.asked = None;
        let read = result.and_then(|reading| self.is_of_child(now, reading));
        self.flow_read(now.mono, read);
    }

    /// A page may be another process's: one that has been up for longer than ours.
    fn is_of_child(&self, now: Now, reading: Reading) -> Result<Reading, String> {
        let up = self.life.up_since();
        let known = up.map_or(Duration::ZERO, |up| now.mono.since(up));
        // A child that was adopted is older than we know it.
        let started = self.life.running().map(|child| child.started.unix_millis());
        let age = started.map_or(0, |at| now.wall.unix_millis().saturating_sub(at));
        let ours = known.max(Duration::from_millis(age));
        match reading.uptime {
            Some(uptime) if uptime > ours.saturating_add(UPTIME_SLACK) => Err(format!(
                "the counters there are of another process, which has been up for {}",
                crate::units::format_duration(Duration::from_secs(uptime.as_secs()))
            )),
            _ => Ok(reading),
        }
    }

    fn flow_read(&mut self, now: Moment, read: Result<Reading, String>) {
        let on_trial = self.flow.trial.is_some();
        let interval = if on_trial {
            self.flow_step()
        } else {
            self.settings.apply.flow.interval
        };
        match read {
            Ok(reading) => {
                self.flow.failures = 0;
                self.flow.trouble = None;
                let meter = match &mut self.flow.trial {
                    Some(trial) => &mut trial.after,
                    None => &mut self.flow.before,
                };
                // A program may say its numbers by itself, at an interval of its own.
                let gap = interval.max(self.settings.apply.flow.interval.saturating_mul(2));
                meter.read(now, &reading, gap);
            }
            Err(reason) => {
                self.flow.failures = self.flow.failures.saturating_add(1);
                self.flow.trouble = Some(report::bounded(&reason));
            }
        }
        let rarely = !on_trial && self.flow.failures >= FAILURES;
        self.flow.next_at = Some(now.after(if rarely { RARELY } else { interval }));
    }

    /// The child has said how it is, and its numbers with it.
    pub(crate) fn flow_heard(&mut self, now: Moment) {
        let Some(flow) = self
            .flow_counters()
            .filter(|it| it.format == FlowFormat::LocalLink)
        else {
            return;
        };
        let settled = self.transaction.is_none() && self.settling.is_none();
        if self.flow.trial.is_none() && !settled {
            return;
        }
        let mut reading = Reading::default();
        for (path, part) in report::components(self.child.health.as_ref()) {
            for (name, value) in &part.numbers {
                take(&mut reading, flow, &format!("{path}.{name}"), *value);
            }
        }
        self.flow_read(now, Ok(reading));
    }

    /// The child is told something: what it counts from here on is of neither config.
    pub(crate) fn flow_pauses(&mut self) {
        self.flow.before.pause();
        self.flow.trial = None;
        self.flow.asked = None;
        self.flow.next_at = None;
    }

    /// Probation begins.
    pub(crate) fn flow_begins(&mut self, now: Moment) {
        self.flow.words.clear();
        if self.flow_counters().is_none() {
            return;
        }
        self.flow.failures = 0;
        self.flow.trouble = None;
        self.flow.asked = None;
        self.flow.next_at = Some(now);
        self.flow.trial = Some(Trial {
            after: Meter::default(),
            new: self.flow_shape(),
            since: now,
            waits: false,
        });
    }

    /// Whether probation waits for this alone.
    pub(crate) fn flow_waits(&self) -> bool {
        self.flow.trial.as_ref().is_some_and(|trial| trial.waits)
    }

    /// What the flow of data says; `over` is whether probation is otherwise at its end.
    pub(crate) fn flow_judged(&mut self, now: Moment, over: bool) -> Judged {
        let nothing = if over { Judged::Pass } else { Judged::Wait };
        let (Some(flow), Some(trial)) = (self.flow_counters(), &self.flow.trial) else {
            return nothing;
        };
        let check = &self.settings.apply.flow;
        let elapsed = now.since(trial.since);
        let evidence = Evidence {
            before: &self.flow.before,
            after: &trial.after,
            old: &self.flow.old,
            new: &trial.new,
            flow,
            check,
        };
        let decision = match &self.flow.trouble {
            Some(_) if !over => Decision::Wait,
            Some(why) => Decision::Say(Verdict::Unknown(why.clone())),
            None => evidence.decide(elapsed, over),
        };
        match decision {
            Decision::Wait => Judged::Wait,
            Decision::Look => {
                if let Some(trial) = &mut self.flow.trial {
                    trial.waits = over;
                }
                Judged::Wait
            }
            Decision::Say(Verdict::Collapsed(collapse)) => {
                self.flow_collapsed(&collapse.to_string(), over)
            }
            Decision::Say(Verdict::Flows) => {
                self.count("flow_passes");
                "flow: as before".clone_into(&mut self.flow.words);
                Judged::Pass
            }
            Decision::Say(Verdict::Unknown(why)) => {
                self.count("flow_unknown");
                self.flow.words = format!("flow: no verdict, {why}");
                Judged::Pass
            }
        }
    }

    fn flow_collapsed(&mut self, what: &str, over: bool) -> Judged {
        let reason = format!("data stopped to flow: {what}");
        let job = self.transaction.as_ref().map(Transaction::wants);
        // Somebody who goes back by hand, or to nothing, knows what stops.
        let meant = matches!(job, Some((Origin::Default, _) | (Origin::Manual, true)));
        if self.settings.apply.flow.mode == FlowMode::Rollback && !meant {
            self.count("flow_collapses");
            self.flow.words = format!("flow: collapsed, {what}");
            return Judged::Back(reason);
        }
        if !over {
            return Judged::Wait;
        }
        self.count("flow_collapses");
        self.flow.words = format!("flow: collapsed, kept all the same, {what}");
        self.note(
            NoteLevel::Warn,
            "data stopped to flow under a config that is kept",
            vec![("reason", reason)],
        );
        Judged::Pass
    }

    /// What is committed is what is measured from here on.
    pub(crate) fn flow_commits(&mut self) {
        if let Some(trial) = self.flow.trial.take() {
            self.flow.before = trial.after;
            self.flow.old = trial.new;
            self.flow.of = self.current.as_ref().map(|current| current.id.clone());
        }
    }

    /// What was said last.
    pub(crate) fn flow_words(&self) -> &str {
        &self.flow.words
    }

    /// How long was looked.
    pub(crate) fn flow_baseline(&self) -> Duration {
        self.flow.before.span()
    }

    /// What was said last, or how far the baseline is; nothing where nobody looks.
    pub(crate) fn flow_told(&self) -> Option<String> {
        self.flow_counters()?;
        if !self.flow.words.is_empty() && self.flow.trial.is_none() {
            return Some(self.flow.words.clone());
        }
        if let Some(trouble) = &self.flow.trouble {
            return Some(format!("flow: not known, {trouble}"));
        }
        let seen = Duration::from_secs(self.flow.before.span().as_secs());
        let seen = crate::units::format_duration(seen);
        Some(format!("flow: {seen} of baseline"))
    }
}

fn take(reading: &mut Reading, flow: &Flow, path: &str, value: u64) {
    for (index, signal) in flow.signals.iter().enumerate() {
        for (role, selectors) in crate::config::FlowRole::ALL.iter().zip(&signal.counters) {
            for selector in selectors {
                if let Some(part) = part_by_path(selector, path) {
                    let key = CountKey {
                        signal: index,
                        role: *role,
                        part: part.to_owned(),
                    };
                    reading.add(key, value);
                }
            }
        }
    }
}

/// A URL at another host and port.
fn moved(url: &str, address: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/");
    format!("http://{address}{path}")
}

#[cfg(test)]
mod tests {
    use super::moved;

    #[test]
    fn counters_are_read_where_the_child_shows_them_by_the_same_path() {
        for (url, wanted) in [
            (
                "http://127.0.0.1:8888/metrics?x=1",
                "http://127.0.0.1:9/metrics?x=1",
            ),
            ("http://127.0.0.1:8888", "http://127.0.0.1:9/"),
            ("127.0.0.1:8888/a/b", "http://127.0.0.1:9/a/b"),
        ] {
            assert_eq!(moved(url, "127.0.0.1:9"), wanted);
        }
    }
}
