//! Another executable takes this one's place, in the same process: the children stay children and notice nothing.
//!
//! Promises: it is asked first whether it starts and takes the settings; what is under way is written down as put off,
//! not as failed; the wait for the disk is bounded. Every order is answered.
//! Must never: stop a child.

use std::time::Duration;

use super::{Host, note};
use crate::engine::message::{
    AgentEffect, AgentEvent, CommandId, Effect, ExitReason, NoteLevel, RefusalKind, Reply, ToolEnd,
    ToolOutcome, ToolSpec,
};
use crate::engine::{Engine, view};
use crate::units::{Moment, Now, Ticket};

/// Of the question to the successor; no engine counts as far.
const TICKET: Ticket = Ticket(u64::MAX);
/// How long the answer to whoever ordered it is given to arrive.
const SAY: Duration = Duration::from_millis(200);
/// How long the disk may take to finish what it has begun. What it does not finish is found by the next life.
const SETTLE: Duration = Duration::from_secs(2);

/// How far it is.
#[derive(Debug)]
pub(super) enum Handover {
    /// The successor is asked.
    Asking(CommandId),
    /// As soon as the disk is idle.
    Leaving { from: Moment, until: Moment },
}

impl Host {
    /// A person wants the successor to take over.
    pub(super) fn order_handover(&mut self, id: CommandId, effects: &mut Vec<Effect>) {
        let refused = |reason: &str| Effect::Reply {
            id,
            reply: view::refusal(RefusalKind::Conflict, reason),
        };
        let asked = match (&self.successor, self.engines.first()) {
            _ if self.stopping.is_some() => Err("adjutant is stopping"),
            _ if self.handover.is_some() => Err("it is under way already"),
            _ if !self.roster.is_quiet() => Err("agents are joining or leaving"),
            (Some(spec), Some(engine)) => Ok((engine.name().clone(), spec.clone())),
            _ => Err("it is not known which executable would take over"),
        };
        match asked {
            Err(reason) => effects.push(refused(reason)),
            Ok((agent, spec)) => {
                self.handover = Some(Handover::Asking(id));
                effects.push(Effect::Agent {
                    agent,
                    effect: AgentEffect::RunTool {
                        ticket: TICKET,
                        spec,
                    },
                });
            }
        }
    }

    /// Takes the successor's answer; hands any other event back.
    pub(super) fn successor_answered(
        &mut self,
        now: Now,
        event: AgentEvent,
        effects: &mut Vec<Effect>,
    ) -> Option<AgentEvent> {
        match (event, &self.handover) {
            (AgentEvent::ToolDone { ticket, outcome }, Some(Handover::Asking(id)))
                if ticket == TICKET =>
            {
                let id = *id;
                self.handover = None;
                self.hand_over(now, id, &outcome, effects);
                None
            }
            (event, _) => Some(event),
        }
    }

    fn hand_over(
        &mut self,
        now: Now,
        id: CommandId,
        outcome: &ToolOutcome,
        effects: &mut Vec<Effect>,
    ) {
        if outcome.end != ToolEnd::Exited(0) || self.stopping.is_some() {
            let reason = format!(
                "the executable that would take over does not start with these settings ({}): {}",
                ended(&outcome.end),
                outcome.output.trim()
            );
            let mut refused = note(NoteLevel::Error, "upgrade refused, everything stays");
            refused.fields.push(("reason", reason.clone()));
            effects.push(Effect::Note(refused));
            let reply = view::refusal(RefusalKind::Conflict, &reason);
            return effects.push(Effect::Reply { id, reply });
        }
        effects.push(Effect::Note(note(
            NoteLevel::Info,
            "another executable takes over, the agents go on",
        )));
        let what = "upgrading; the agents go on".to_owned();
        effects.push(Effect::Reply {
            id,
            reply: Reply::Accepted { what },
        });
        self.handover = Some(Handover::Leaving {
            from: now.mono.after(SAY),
            until: now.mono.after(SETTLE),
        });
        self.each(now, effects, Engine::put_off);
    }

    /// Leaves when everything is written.
    pub(super) fn settle_handover(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(Handover::Leaving { from, until }) = self.handover else {
            return;
        };
        let idle = self.engines.iter().all(Engine::disk_is_idle);
        let over = (idle && from <= now.mono) || until <= now.mono;
        if over && self.stopping.is_none() && !self.exited {
            self.exited = true;
            effects.push(Effect::Exit(ExitReason::Replaced));
        }
    }

    /// When that has to be looked at.
    pub(super) fn handover_due(&self) -> Option<Moment> {
        match self.handover {
            // A stop that was ordered meanwhile comes first, and has deadlines of its own.
            _ if self.stopping.is_some() => None,
            Some(Handover::Leaving { from, until }) => {
                let idle = self.engines.iter().all(Engine::disk_is_idle);
                Some(if idle { from } else { until })
            }
            Some(Handover::Asking(_)) | None => None,
        }
    }

    /// Who would take over, and how it is asked whether it starts.
    pub fn set_successor(&mut self, successor: ToolSpec) {
        self.successor = Some(successor);
    }
}

fn ended(end: &ToolEnd) -> String {
    match end {
        ToolEnd::Exited(code) => format!("exit code {code}"),
        ToolEnd::Signalled(signal) => format!("signal {signal}"),
        ToolEnd::TimedOut => "it took too long".to_owned(),
        ToolEnd::NotStarted(reason) => reason.clone(),
    }
}
