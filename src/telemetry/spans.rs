//! Transitions of rollouts → spans: one for a whole apply, one below it for each of its phases.
//!
//! Promises: a span ends when the next phase begins, so that children fill their parent; an apply that another takes
//! the place of says so. Names are few: what varies is in attributes. Pure but for the ids, which are random.
//! Must never: hold more than the applies under way.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::encode::text;
use crate::engine::message::Note;
use crate::units::{AgentName, Now};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: i32 = 1;
/// `STATUS_CODE_OK` and `STATUS_CODE_ERROR`.
const OK: i32 = 1;
const ERROR: i32 = 2;
/// Phases in which nothing is being applied.
const AT_REST: [&str; 4] = ["idle", "committed", "failed", "rolled back"];

/// The applies under way.
#[derive(Debug, Default)]
pub(super) struct Spans {
    random: fastrand::Rng,
    applies: BTreeMap<AgentName, Apply>,
    /// Why the last apply of an agent went wrong, until its span ends.
    reasons: BTreeMap<AgentName, String>,
}

#[derive(Debug)]
struct Apply {
    trace: Vec<u8>,
    root: Vec<u8>,
    began: Now,
    revision: String,
    phase: String,
    phase_began: Now,
}

/// How what a span stands for ended.
#[derive(Debug)]
enum Ending {
    /// Nothing is said of it.
    Unsaid,
    Well,
    /// What went wrong.
    Badly(String),
}

impl Spans {
    /// A span of its own.
    pub(super) fn single(
        &mut self,
        name: &str,
        (began, ended): (Now, Now),
        attributes: Vec<KeyValue>,
        failure: Option<&str>,
    ) -> Span {
        let (trace, id) = (self.id(16), self.id(8));
        finished(
            name,
            (trace, id, Vec::new()),
            (began, ended),
            attributes,
            failure.map_or(Ending::Well, |failure| Ending::Badly(failure.to_owned())),
        )
    }

    /// What a note ends.
    pub(super) fn note(&mut self, now: Now, note: &Note) -> Vec<Span> {
        let Some(agent) = &note.agent else {
            return Vec::new();
        };
        let field = |name: &str| {
            let mut fields = note.fields.iter();
            fields
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.as_str())
        };
        match note.message {
            "config not applied" | "config did not hold" => {
                let reason = field("reason").unwrap_or_default().to_owned();
                self.reasons.insert(agent.clone(), reason);
                Vec::new()
            }
            "rollout phase" => {
                let to = field("to").unwrap_or_default();
                let revision = field("revision").unwrap_or_default();
                self.phase(now, agent, to, revision)
            }
            _ => Vec::new(),
        }
    }

    fn phase(&mut self, now: Now, agent: &AgentName, to: &str, revision: &str) -> Vec<Span> {
        let mut done = Vec::new();
        let rests = AT_REST.contains(&to);
        if let Some(mut apply) = self.applies.remove(agent) {
            if !revision.is_empty() {
                revision.clone_into(&mut apply.revision);
            }
            let id = self.id(8);
            done.push(apply.end_of_phase(agent, id, now));
            // A new one begins with its policy, whatever became of the one before.
            if !rests && to != "policy" {
                to.clone_into(&mut apply.phase);
                apply.phase_began = now;
                self.applies.insert(agent.clone(), apply);
                return done;
            }
            let reason = self.reasons.remove(agent);
            let ending = match to {
                "committed" | "idle" => Ending::Well,
                "policy" => Ending::Unsaid,
                _ => Ending::Badly(reason.unwrap_or_default()),
            };
            done.push(apply.end(agent, now, to, ending));
        }
        if !rests {
            let apply = Apply {
                trace: self.id(16),
                root: self.id(8),
                began: now,
                revision: revision.to_owned(),
                phase: to.to_owned(),
                phase_began: now,
            };
            self.applies.insert(agent.clone(), apply);
        }
        done
    }

    fn id(&mut self, bytes: usize) -> Vec<u8> {
        let mut id = vec![0; bytes];
        self.random.fill(&mut id);
        // All zero means none.
        if let Some(last) = id.last_mut() {
            *last |= 1;
        }
        id
    }
}

impl Apply {
    fn end_of_phase(&self, agent: &AgentName, id: Vec<u8>, now: Now) -> Span {
        let name = format!("apply.{}", self.phase.replace(' ', "_"));
        let ids = (self.trace.clone(), id, self.root.clone());
        let attributes = vec![text("agent", agent.as_str())];
        finished(
            &name,
            ids,
            (self.phase_began, now),
            attributes,
            Ending::Unsaid,
        )
    }

    fn end(self, agent: &AgentName, now: Now, to: &str, ending: Ending) -> Span {
        let outcome = if to == "policy" { "superseded" } else { to };
        let mut attributes = vec![text("agent", agent.as_str()), text("outcome", outcome)];
        if !self.revision.is_empty() {
            attributes.push(text("revision", self.revision));
        }
        let ids = (self.trace, self.root, Vec::new());
        finished("apply", ids, (self.began, now), attributes, ending)
    }
}

fn finished(
    name: &str,
    (trace_id, span_id, parent_span_id): (Vec<u8>, Vec<u8>, Vec<u8>),
    (began, ended): (Now, Now),
    attributes: Vec<KeyValue>,
    ending: Ending,
) -> Span {
    let start = began.wall.unix_nanos();
    // By the clock that does not jump.
    let took = ended.mono.since(began.mono).as_nanos();
    let status = match ending {
        Ending::Unsaid => None,
        Ending::Well => Some((String::new(), OK)),
        Ending::Badly(failure) => Some((failure, ERROR)),
    };
    let status = status.map(|(message, code)| Status { message, code });
    Span {
        trace_id,
        span_id,
        parent_span_id,
        name: name.to_owned(),
        kind: INTERNAL,
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(u64::try_from(took).unwrap_or(u64::MAX)),
        attributes,
        status,
        ..Span::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::message::NoteLevel;
    use crate::units::{Moment, WallTime};

    fn at(ms: u64) -> Now {
        Now {
            mono: Moment::START.after(Duration::from_millis(ms)),
            wall: WallTime::from_unix_millis(1_000_000 + ms),
        }
    }

    fn note(message: &'static str, fields: &[(&'static str, &str)]) -> Note {
        Note {
            level: NoteLevel::Info,
            agent: Some("it".parse().unwrap()),
            message,
            fields: fields
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned()))
                .collect(),
        }
    }

    /// Names, parents' names and status codes in order of their end, for a row of phases 10 ms apart.
    fn spans_of(phases: &[&str], reason: Option<&str>) -> Vec<Span> {
        let mut spans = Spans::default();
        let mut all = Vec::new();
        for (index, phase) in phases.iter().enumerate() {
            if let Some(reason) = reason {
                all.extend(spans.note(at(0), &note("config not applied", &[("reason", reason)])));
            }
            let note = note("rollout phase", &[("to", phase), ("revision", "7-ab")]);
            all.extend(spans.note(at(index as u64 * 10), &note));
        }
        all
    }

    #[test]
    fn an_apply_is_a_span_with_its_phases_below() {
        let spans = spans_of(&["policy", "validating", "committed"], None);
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["apply.policy", "apply.validating", "apply"]);
        let root = &spans[2];
        assert_eq!(root.status.as_ref().unwrap().code, OK);
        assert_eq!(
            root.end_time_unix_nano - root.start_time_unix_nano,
            20_000_000
        );
        assert!(root.attributes.contains(&text("revision", "7-ab")));
        assert!(root.attributes.contains(&text("outcome", "committed")));
        for child in &spans[..2] {
            assert_eq!(child.parent_span_id, root.span_id);
            assert_eq!(child.trace_id, root.trace_id);
            assert_eq!(
                child.end_time_unix_nano - child.start_time_unix_nano,
                10_000_000
            );
        }
        assert!(root.parent_span_id.is_empty());
    }

    #[test]
    fn a_failed_apply_says_why() {
        let spans = spans_of(&["policy", "failed"], Some("no such receiver"));
        let status = spans.last().unwrap().status.clone().unwrap();
        assert_eq!(
            (status.code, status.message.as_str()),
            (ERROR, "no such receiver")
        );
    }

    #[test]
    fn an_apply_that_another_takes_the_place_of_ends_and_a_new_trace_begins() {
        let spans = spans_of(&["policy", "probation", "policy", "committed"], None);
        let roots: Vec<&Span> = spans.iter().filter(|span| span.name == "apply").collect();
        assert_eq!(roots.len(), 2);
        assert!(roots[0].attributes.contains(&text("outcome", "superseded")));
        assert_eq!(roots[0].status, None);
        assert_ne!(roots[0].trace_id, roots[1].trace_id);
    }
}
