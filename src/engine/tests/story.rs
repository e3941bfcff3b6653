//! Everything that one engine does in a situation, as a text: what happened, what it wanted done, what it told the
//! server and the log, and which words of its status changed.
//!
//! Promises: nothing is left out, so a text that stays the same is an engine that does the same. Texts are compared
//! whole with a file in `scenes/`; one that differs is printed whole, to be read and, where it is better, taken over.

use std::fmt::Debug;

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{AgentToServer, ServerToAgent};

use crate::engine::diary::{Diary, fields, readable};
use crate::engine::message::{AgentEffect, AgentEvent, LinkEvent, LocalEvent};
use crate::engine::{Engine, Outcome};
use crate::units::{Moment, Now};

#[derive(Default)]
pub(super) struct Story(Diary);

impl Story {
    /// What the test does next.
    pub(super) fn chapter(&mut self, title: &str) {
        self.0.chapter(title);
    }

    pub(super) fn happens(&mut self, event: &AgentEvent) {
        let told = match event {
            AgentEvent::Link {
                link,
                event: LinkEvent::Frame(bytes),
            } => {
                let read = frame::decode::<ServerToAgent>(bytes, FrameRules::default());
                format!("the server on link {}: {}", link.0, decoded(read.ok()))
            }
            AgentEvent::Local {
                connection,
                event: LocalEvent::Frame(bytes),
            } => {
                let read = frame::decode::<AgentToServer>(bytes, FrameRules::default());
                format!("the child on {connection}: {}", decoded(read.ok()))
            }
            AgentEvent::Disk {
                ticket,
                result: Ok(done),
            } => {
                let done = format!("{done:?}");
                let word = done.split(['(', ' ']).next().unwrap();
                format!("Disk {} {word}", ticket.0)
            }
            other => readable(&format!("{other:?}")),
        };
        self.0.line(&format!("\n* {told}"));
    }

    /// What came of a step.
    pub(super) fn tell(&mut self, now: Now, outcome: &Outcome, engine: &Engine) {
        let mut lines = Vec::new();
        for note in &outcome.notes {
            let fields = note
                .fields
                .iter()
                .map(|(key, value)| format!(" {key}={value:?}"));
            let fields: String = fields.collect();
            lines.push(format!("! {:?}: {}{fields}", note.level, note.message));
        }
        for effect in &outcome.effects {
            lines.push(format!("> {}", wanted(effect)));
        }
        for (id, reply) in &outcome.replies {
            lines.push(format!("< {}: {}", id.0, readable(&format!("{reply:?}"))));
        }
        for request in &outcome.requests {
            lines.push(format!("^ {}", readable(&format!("{request:?}"))));
        }
        lines.extend(self.0.news(status(now, engine)));
        let at = now.mono.as_millis();
        let (seconds, millis) = (at / 1000, at % 1000);
        if lines.is_empty() {
            lines.push("nothing".to_owned());
        }
        let lines = lines.join("\n    ");
        self.0.line(&format!("{seconds}.{millis:03}: {lines}"));
    }

    /// The whole status, at the end.
    pub(super) fn ends(&mut self, now: Now, engine: &Engine) {
        let snapshot = readable(&format!("{:#?}", engine.snapshot(now)));
        self.0.chapter("The status as a whole");
        self.0.line(&snapshot);
    }

    /// Compares with the text of a file in `scenes/`.
    #[track_caller]
    pub(super) fn is(&self, name: &str, wanted: &str) {
        self.0.is(name, wanted);
    }
}

fn wanted(effect: &AgentEffect) -> String {
    match effect {
        AgentEffect::Send { link, frame } => {
            let read = frame::decode::<AgentToServer>(frame, FrameRules::default());
            format!("Send {}: {}", link.0, decoded(read.ok()))
        }
        AgentEffect::LocalSend { connection, frame } => {
            let read = frame::decode::<ServerToAgent>(frame, FrameRules::default());
            format!("LocalSend {connection}: {}", decoded(read.ok()))
        }
        other => readable(&format!("{other:?}")),
    }
}

fn decoded<T: Debug>(read: Option<T>) -> String {
    read.map_or_else(
        || "no message".to_owned(),
        |read| {
            let text = readable(&format!("{read:?}"));
            text.replace("instance_uid: 07070707070707070707070707070707, ", "")
        },
    )
}

fn status(now: Now, engine: &Engine) -> Vec<(String, String)> {
    let snapshot = engine.snapshot(now);
    let mut status = fields(&format!("{snapshot:#?}"));
    // What only grows is told by its newest; the end of a story has all of it.
    for (name, value) in &mut status {
        let newest = match name.as_str() {
            "history" => format!("{} {:?}", snapshot.history.len(), snapshot.history.first()),
            "revisions" => {
                format!(
                    "{} {:?}",
                    snapshot.revisions.len(),
                    snapshot.revisions.first()
                )
            }
            _ => continue,
        };
        *value = readable(&newest);
    }
    let counters = snapshot.counters.iter().filter(|(_, count)| **count > 0);
    let counters = counters.map(|(name, count)| ((*name).to_owned(), count.to_string()));
    status.retain(|(name, _)| name != "counters");
    status.extend(counters);
    let more = [
        ("headline", engine.headline(now)),
        ("position", format!("{:?}", engine.position())),
        ("begun", engine.has_begun(now).to_string()),
        ("stopped", engine.is_stopped().to_string()),
        ("well", engine.is_healthy(now).to_string()),
        ("reload awaited", engine.reload_is_awaited().to_string()),
        (
            "due",
            format!("{:?}", engine.deadline(now).map(Moment::as_millis)),
        ),
    ];
    status.extend(more.map(|(name, value)| (name.to_owned(), value)));
    status
}
