//! Orders of people and new settings, as the host takes them.
//!
//! Promises: every order is answered once: taken, or refused with a reason. Must never: stop the child of an agent that
//! stays for new settings.

use super::{Host, note};
use crate::config::Config;
use crate::engine::message::{Command, CommandId, Effect, NoteLevel, RefusalKind, Reply};
use crate::engine::registration::Steps;
use crate::engine::view;
use crate::units::{AgentName, Now};

impl Host {
    pub(super) fn settings(
        &mut self,
        now: Now,
        settings: Result<Box<Config>, String>,
        effects: &mut Vec<Effect>,
    ) {
        let config = match settings {
            Ok(config) => config,
            Err(error) => {
                let mut note = note(
                    NoteLevel::Error,
                    "settings not taken over, the old ones stay",
                );
                note.fields.push(("error", error));
                effects.push(Effect::Note(note));
                return;
            }
        };
        effects.push(Effect::Note(note(NoteLevel::Info, "settings read again")));
        self.stop = config.stop;
        self.give_up = config.give_up;
        self.reconcile(now, &config, effects);
        self.certificates.set(config.certificates);
        self.order.set(config.agents.iter());
        self.has_server = config.server.is_some();
        let steps = self.registration.set_settings(now, config.registration);
        self.follow(now, steps, effects);
        self.share_token(now, false, effects);
        let hinted = self.registration.server();
        let fleet = config.server.clone().or_else(|| hinted.clone());
        self.clock.set(now, config.clock, fleet);
        for agent in config.agents {
            let name = agent.name.clone();
            let server = config.server.clone().or_else(|| hinted.clone());
            let grace = config.stop.grace;
            if let Some(engine) = self
                .engines
                .iter_mut()
                .find(|engine| engine.name() == &name && !self.roster.is_leaving(&name))
            {
                let outcome = engine.set_settings(now, agent, server, grace);
                self.collect(now, &name, outcome, effects);
            }
        }
    }

    pub(super) fn command(
        &mut self,
        now: Now,
        id: CommandId,
        command: Command,
        effects: &mut Vec<Effect>,
    ) {
        let named = match &command {
            Command::Status => {
                let reply = Reply::Status(Box::new(self.snapshot(now)));
                effects.push(Effect::Reply { id, reply });
                return;
            }
            Command::Upgrade => return self.order_handover(id, effects),
            Command::RenewCertificate { name } => {
                let reply = match self.certificates.renew(now, name.as_ref()) {
                    _ if self.stopping.is_some() => view::refusal(
                        RefusalKind::Conflict,
                        "adjutant is stopping; nothing is changed any more",
                    ),
                    Ok(what) => Reply::Accepted { what },
                    Err(reason) => view::refusal(RefusalKind::Conflict, &reason),
                };
                effects.push(Effect::Reply { id, reply });
                return;
            }
            Command::Register(what) => {
                let mut steps = Steps::default();
                let reply = self.registration.order(now, *what, &mut steps);
                self.follow(now, steps, effects);
                effects.push(Effect::Reply { id, reply });
                return;
            }
            Command::Rollback { agent, .. }
            | Command::Apply { agent, .. }
            | Command::Restart { agent }
            | Command::Reload { agent }
            | Command::Show { agent, .. } => agent.clone(),
        };
        match self.choose(named) {
            Ok(name) => {
                if let Some(engine) = self
                    .engines
                    .iter_mut()
                    .find(|engine| engine.name() == &name)
                {
                    let outcome = engine.command(now, id, command);
                    self.collect(now, &name, outcome, effects);
                }
            }
            Err(reply) => effects.push(Effect::Reply { id, reply }),
        }
    }

    pub(super) fn choose(&self, named: Option<AgentName>) -> Result<AgentName, Reply> {
        let listed = || {
            self.agents()
                .map(AgentName::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (named, self.engines.as_slice()) {
            (Some(name), engines) if engines.iter().any(|engine| engine.name() == &name) => {
                Ok(name)
            }
            (Some(name), _) => {
                let reason = format!("no agent is named {name}; there are: {}", listed());
                Err(view::refusal(RefusalKind::NotFound, &reason))
            }
            (None, [engine]) => Ok(engine.name().clone()),
            (None, _) => {
                let reason = format!("several agents run, name one of: {}", listed());
                Err(view::refusal(RefusalKind::Invalid, &reason))
            }
        }
    }
}
