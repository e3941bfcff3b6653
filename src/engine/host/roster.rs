//! Agents that come and go with the settings, while the others run.
//!
//! Come: its ports are made outside, a new identity is on disk before anybody hears of it, and it starts in its turn.
//! Go: no new process of it is started, its child is stopped by the ladder, those first that started after it, its
//! server is told goodbye, and what we hold for it is given back. Its state directory stays as it is, its identity too,
//! so that an agent that comes again goes on where it was.
//!
//! Promises: an agent that neither comes nor goes is not touched; one that cannot come is named, costs nobody else
//! anything, and is tried again by the next HUP; one that comes again before it has gone waits until it has. A stop of
//! the host ends all of it. Must never: remove anything from disk.

use std::collections::{BTreeMap, BTreeSet};

use super::{GOODBYE, Host, note};
use crate::config::{self, Config, Server};
use crate::engine::message::{Admission, DiskFault, Effect, NoteLevel};
use crate::engine::turn::Standing;
use crate::engine::{Engine, Places, Setup};
use crate::units::{AgentName, Moment, Now, Ticket, order};

/// Who is to come, and who is on the way out.
#[derive(Debug, Default)]
pub(super) struct Roster {
    joining: BTreeMap<AgentName, Joining>,
    /// Whose ports are being made, wanted or not: the next question about one waits for the answer to the last.
    asked: BTreeSet<AgentName>,
    leaving: BTreeMap<AgentName, Leaving>,
    /// Ports that those who joined brought with them, which nobody's config may bind.
    ports: BTreeMap<AgentName, u16>,
    /// The names in the order of the settings.
    listed: Vec<AgentName>,
}

#[derive(Debug)]
struct Joining {
    settings: config::Agent,
    server: Option<Server>,
    capabilities: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was asked for yet.
    Wanted,
    /// Its ports are being made, for these settings.
    Asked(Ticket, Box<config::Agent>),
    /// Its new identity is being written.
    Saving(Ticket, Box<config::Agent>, Box<Admission>),
}

#[derive(Debug)]
struct Leaving {
    /// Whom it started after, and so stops before.
    after: BTreeSet<AgentName>,
    /// When it is told to stop although others that go first are still there.
    end_by: Moment,
    told: bool,
    /// How long its goodbye may take; known once its child is down.
    goodbye_by: Option<Moment>,
}

impl Roster {
    /// The next moment something is to be done although nothing happened.
    pub(super) fn due(&self, now: Moment) -> Option<Moment> {
        let waits = self.leaving.values().filter_map(|leaving| {
            if leaving.told {
                // Once it is over, only the disk is waited for, and that answers.
                leaving.goodbye_by.filter(|by| *by > now)
            } else {
                Some(leaving.end_by)
            }
        });
        waits.min()
    }

    /// A stop of the host: who is to come does not, and who goes goes with the others.
    pub(super) fn forget(&mut self) {
        self.joining.clear();
        self.leaving.clear();
        // An answer that still comes finds nobody, and is given back.
    }

    /// Whether nobody comes or goes.
    #[cfg(feature = "adopt")]
    pub(super) fn is_quiet(&self) -> bool {
        self.joining.is_empty() && self.leaving.is_empty()
    }

    /// How somebody stands who is not there.
    pub(super) fn standing(&self, name: &AgentName) -> Standing {
        if self.joins(name) {
            Standing::Coming
        } else {
            Standing::Lost
        }
    }

    /// Whether it is about to be there. One that has yet to leave may never.
    pub(super) fn joins(&self, name: &AgentName) -> bool {
        self.joining.contains_key(name) && !self.leaving.contains_key(name)
    }

    pub(super) fn is_leaving(&self, name: &AgentName) -> bool {
        self.leaving.contains_key(name)
    }

    /// Those among the leaving whose turn to stop has come.
    fn turns(&self, now: Moment, is_down: impl Fn(&AgentName) -> bool) -> Vec<AgentName> {
        let waits_for = |name: &AgentName| {
            let mut others = self.leaving.iter();
            others.any(|(other, leaving)| leaving.after.contains(name) && !is_down(other))
        };
        self.leaving
            .iter()
            .filter(|(name, it)| !it.told && (it.end_by <= now || !waits_for(name)))
            .map(|(name, _)| name.clone())
            .collect()
    }
}

impl Host {
    /// Takes over who is listed. Before the new settings reach anybody who stays.
    pub(super) fn reconcile(&mut self, now: Now, config: &Config, effects: &mut Vec<Effect>) {
        let listed: Vec<AgentName> = config.agents.iter().map(|it| it.name.clone()).collect();
        let gone: Vec<AgentName> = self
            .agents()
            .filter(|name| !listed.contains(name) && !self.roster.is_leaving(name))
            .cloned()
            .collect();
        self.roster.joining.retain(|name, joining| {
            let stays = listed.contains(name);
            if !stays && matches!(joining.stage, Stage::Saving(..)) {
                effects.push(Effect::Dismiss {
                    agent: name.clone(),
                });
            }
            stays
        });
        self.roster.listed = listed;
        if self.stopping.is_some() {
            return;
        }
        let end_by = now.mono.after(self.stop.budget);
        for name in &gone {
            let leaving = Leaving {
                after: self.order.named_by(name),
                end_by,
                told: false,
                goodbye_by: None,
            };
            self.roster.leaving.insert(name.clone(), leaving);
            self.order.has_begun(name);
            effects.push(about(name, NoteLevel::Info, "agent leaves", None));
        }
        for name in &gone {
            self.with(now, name, effects, Engine::wind_down);
        }
        for settings in &config.agents {
            let name = &settings.name;
            let stays = self.engines.iter().any(|engine| engine.name() == name)
                && !self.roster.is_leaving(name);
            if stays {
                continue;
            }
            let server = config.server.clone();
            let server = server.or_else(|| self.registration.server());
            let stage = match self.roster.joining.remove(name) {
                Some(joining) => joining.stage,
                None => Stage::Wanted,
            };
            let joining = Joining {
                settings: settings.clone(),
                server,
                capabilities: config.capabilities,
                stage,
            };
            self.roster.joining.insert(name.clone(), joining);
        }
    }

    /// Moves everybody along who comes or goes. Ends every step but those of a stop.
    pub(super) fn follow_roster(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            return;
        }
        let engines = &self.engines;
        let is_down = |name: &AgentName| {
            let engine = engines.iter().find(|engine| engine.name() == name);
            engine.is_none_or(Engine::child_is_down)
        };
        let grace = self.stop.grace;
        for name in self.roster.turns(now.mono, is_down) {
            if let Some(leaving) = self.roster.leaving.get_mut(&name) {
                leaving.told = true;
            }
            self.with(now, &name, effects, |engine, now| engine.end(now, grace));
        }
        let leaving: Vec<AgentName> = self.roster.leaving.keys().cloned().collect();
        for name in leaving {
            if self.is_gone(now, &name) {
                self.let_go(&name, effects);
            }
        }
        self.ask_for_those_who_join(effects);
    }

    /// Whether its child is down and its goodbye was said, or is not waited for any longer.
    fn is_gone(&mut self, now: Now, name: &AgentName) -> bool {
        let Some(engine) = self.engines.iter().find(|engine| engine.name() == name) else {
            return true;
        };
        let Some(leaving) = self.roster.leaving.get_mut(name) else {
            return false;
        };
        if !leaving.told || !engine.child_is_down() {
            return false;
        }
        let begins = || now.mono.after(GOODBYE);
        let by = leaving.goodbye_by.get_or_insert_with(begins);
        engine.is_stopped() || (*by <= now.mono && engine.disk.is_idle())
    }

    fn let_go(&mut self, name: &AgentName, effects: &mut Vec<Effect>) {
        self.roster.leaving.remove(name);
        let port = self.roster.ports.remove(name);
        let place = self.engines.iter().position(|engine| engine.name() == name);
        let Some(engine) = place.map(|place| self.engines.remove(place)) else {
            return;
        };
        for other in &mut self.engines {
            other.places.reserved_ports.retain(|it| Some(*it) != port);
        }
        let kept = engine.places.state_dir.display().to_string();
        effects.push(about(
            name,
            NoteLevel::Info,
            "agent left",
            Some(("state", kept)),
        ));
        effects.push(Effect::Dismiss {
            agent: name.clone(),
        });
    }

    fn ask_for_those_who_join(&mut self, effects: &mut Vec<Effect>) {
        let engines = &self.engines;
        for (name, joining) in &mut self.roster.joining {
            let is_there = engines.iter().any(|engine| engine.name() == name);
            let is_wanted = matches!(joining.stage, Stage::Wanted);
            if !is_wanted || is_there || !self.roster.asked.insert(name.clone()) {
                continue;
            }
            self.next_ticket = self.next_ticket.saturating_add(1);
            let ticket = Ticket(self.next_ticket);
            let settings = Box::new(joining.settings.clone());
            joining.stage = Stage::Asked(ticket, settings.clone());
            effects.push(Effect::Admit {
                ticket,
                agent: settings,
                instance_uid: self.identity.instance_uids.get(name.as_str()).copied(),
            });
        }
    }

    /// Its ports are there, or cannot be made.
    pub(super) fn admitted(
        &mut self,
        now: Now,
        (name, ticket): (&AgentName, Ticket),
        result: Result<Box<Admission>, String>,
        effects: &mut Vec<Effect>,
    ) {
        self.roster.asked.remove(name);
        let joining = self.roster.joining.get_mut(name);
        let asked = joining.and_then(|joining| match &joining.stage {
            Stage::Asked(of, settings) if *of == ticket => Some((settings.clone(), joining)),
            _ => None,
        });
        let (Some((settings, joining)), true) = (asked, result.is_ok()) else {
            match result {
                // Not wanted any more.
                Ok(_) => effects.push(Effect::Dismiss {
                    agent: name.clone(),
                }),
                Err(reason) => self.cannot_join(name, ticket, reason, effects),
            }
            return;
        };
        let Ok(admission) = result else { return };
        let uid = admission.instance_uid;
        let known = self.identity.instance_uids.insert(name.to_string(), uid);
        if known == Some(uid) {
            self.join(now, name, *settings, *admission, effects);
            return;
        }
        self.next_ticket = self.next_ticket.saturating_add(1);
        let saving = Ticket(self.next_ticket);
        joining.stage = Stage::Saving(saving, settings, admission);
        effects.push(Effect::SaveIdentity {
            ticket: saving,
            identity: self.identity.clone(),
        });
    }

    /// The identity is on disk, or not; says whether that was about somebody who joins.
    pub(super) fn joining_saved(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: &Result<(), DiskFault>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let found = self.roster.joining.iter_mut().find_map(|(name, joining)| {
            let is_it = matches!(&joining.stage, Stage::Saving(of, ..) if *of == ticket);
            is_it.then(|| {
                (
                    name.clone(),
                    std::mem::replace(&mut joining.stage, Stage::Wanted),
                )
            })
        });
        let Some((name, Stage::Saving(_, settings, admission))) = found else {
            return false;
        };
        match result {
            Ok(()) => self.join(now, &name, *settings, *admission, effects),
            Err(fault) => {
                self.roster.joining.remove(&name);
                // Nobody has heard of it: the next attempt makes a new one.
                self.identity.instance_uids.remove(name.as_str());
                effects.push(refused(&name, fault.reason.clone()));
                effects.push(Effect::Dismiss { agent: name });
            }
        }
        true
    }

    fn cannot_join(
        &mut self,
        name: &AgentName,
        ticket: Ticket,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        let joining = self.roster.joining.get(name);
        let is_it =
            joining.is_some_and(|it| matches!(&it.stage, Stage::Asked(of, _) if *of == ticket));
        if is_it {
            self.roster.joining.remove(name);
            effects.push(refused(name, reason));
        }
    }

    /// It is one of us from here on, and starts in its turn.
    fn join(
        &mut self,
        now: Now,
        name: &AgentName,
        asked: config::Agent,
        admission: Admission,
        effects: &mut Vec<Effect>,
    ) {
        let Some(joining) = self.roster.joining.remove(name) else {
            return;
        };
        let Admission {
            instance_uid,
            state_dir,
            link,
            mut reserved_ports,
            certificates,
            supervisor,
            port,
            facts,
            persisted,
            leftover,
            seed,
        } = admission;
        reserved_ports.extend(self.roster.ports.values());
        if let Some(port) = port {
            self.roster.ports.insert(name.clone(), port);
            for other in &mut self.engines {
                other.places.reserved_ports.push(port);
            }
        }
        let newest = joining.settings;
        let changed = (newest != asked).then_some(newest);
        let mut engine = Engine::new(Setup {
            settings: asked,
            server: joining.server.clone(),
            capabilities: joining.capabilities,
            grace: self.stop.grace,
            instance_uid,
            places: Places {
                state_dir,
                link,
                reserved_ports,
                certificates,
                supervisor,
            },
            facts,
            persisted,
            inheritance: None,
            seed,
        });
        let (needed, known) = self.registration.needs();
        engine.begin_with_token(needed, known);
        engine.know_certificates(&self.known);
        if let Some(reason) = self.order.waits(name) {
            engine.hold_back(reason);
        }
        self.engines.push(engine);
        let listed = &self.roster.listed;
        let place = |engine: &Engine| {
            let place = listed.iter().position(|name| name == engine.name());
            place.unwrap_or(listed.len())
        };
        order::sort_by(&mut self.engines, |one, other| {
            place(one).cmp(&place(other))
        });
        effects.push(about(name, NoteLevel::Info, "agent joins", None));
        self.with(now, name, effects, |engine, now| {
            engine.start(now, leftover)
        });
        let held = self.engines.iter().find(|engine| engine.name() == name);
        if held.is_some_and(|engine| !engine.is_held_back()) {
            self.order.has_begun(name);
        }
        let clock = self.clock_told.clone();
        self.with(now, name, effects, |engine, now| {
            engine.set_clock(now, clock)
        });
        if let Some(newest) = changed {
            let (server, grace) = (joining.server, self.stop.grace);
            self.with(now, name, effects, |engine, now| {
                engine.set_settings(now, newest, server, grace)
            });
        }
    }

    fn with(
        &mut self,
        now: Now,
        name: &AgentName,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Engine, Now) -> crate::engine::Outcome,
    ) {
        let engine = self.engines.iter_mut().find(|engine| engine.name() == name);
        if let Some(engine) = engine {
            let outcome = act(engine, now);
            self.collect(now, name, outcome, effects);
        }
    }
}

fn refused(name: &AgentName, reason: String) -> Effect {
    let message = "agent cannot join; the next reading of the settings tries again";
    about(name, NoteLevel::Error, message, Some(("error", reason)))
}

fn about(
    name: &AgentName,
    level: NoteLevel,
    message: &'static str,
    field: Option<(&'static str, String)>,
) -> Effect {
    let mut note = note(level, message);
    note.agent = Some(name.clone());
    note.fields.extend(field);
    Effect::Note(note)
}
