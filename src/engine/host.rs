//! Everything that concerns the whole host, decided once: start order, identity, ordered stop, the exit.
//!
//! Promises: engines share nothing and see only the events passed on to them; an order through a door always gets
//! an answer; once a stop has begun it ends inside its budget, whatever a child, a disk or a server does. A second
//! TERM forces.
//! Must never: look into an engine's rollout or session.

mod command;
#[cfg_attr(not(feature = "adopt"), path = "host/handover/none.rs")]
mod handover;
mod order;
#[cfg_attr(not(feature = "roster"), path = "host/roster/none.rs")]
mod roster;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{GiveUp, Stop};
use crate::engine::certificates::{self, Certificates, CertificatesSetup, Known};
use crate::engine::clock::{Clock, ClockSetup};
#[cfg(feature = "adopt")]
use crate::engine::host::handover::Handover;
#[cfg(feature = "adopt")]
use crate::engine::message::ToolSpec;
use crate::engine::message::{
    AgentEvent, DiskFault, Effect, Event, ExitReason, HostSignal, Identity, Leftover, Milestone,
    Note, NoteLevel, Snapshot,
};
use crate::engine::registration::{Registration, RegistrationSetup, Steps};
use crate::engine::rollout::DomainEntry;
use crate::engine::{Engine, HostRequest, Outcome, Setup};
use crate::units::{AgentName, Moment, Now, Ticket};

/// How long a link may take to say goodbye once every child is gone.
const GOODBYE: Duration = Duration::from_secs(1);
/// After a forced stop: how long KILL may take to be confirmed.
const FORCED: Duration = Duration::from_secs(1);
/// When the host counts as started although a child has neither come up nor said why not. A service manager that
/// waits for us must not end what can still be asked and ordered; systemd waits 90 s by default.
const READY_BY: Duration = Duration::from_secs(30);

/// What a host is built from.
#[derive(Debug)]
pub struct HostSetup {
    /// The agents, in start order, each with the child an earlier life left behind.
    pub agents: Vec<(Setup, Option<Leftover>)>,
    /// The identity file as it is on disk.
    pub identity: Identity,
    /// The certificates.
    pub certificates: CertificatesSetup,
    /// How long a stop may take.
    pub stop: Stop,
    /// What a given-up child means.
    pub give_up: GiveUp,
    /// How the life before this one ended, unless that was in order.
    pub previous_end: Option<String>,
    /// The watch over the clock.
    pub clock: ClockSetup,
    /// Registration with a fleet.
    pub registration: RegistrationSetup,
    /// Whether the settings name a server; the one that a registration names is used otherwise.
    pub has_server: bool,
}

#[derive(Debug, Clone, Copy)]
struct Stopping {
    reason: ExitReason,
    exit_at: Moment,
    goodbye_at: Option<Moment>,
    forced: bool,
}

/// The whole host.
#[derive(Debug)]
pub struct Host {
    engines: Vec<Engine>,
    leftovers: Vec<Option<Leftover>>,
    identity: Identity,
    certificates: Certificates,
    /// What the engines were told last.
    known: Known,
    clock: Clock,
    /// What the engines were told of it last.
    clock_told: Option<(bool, String)>,
    registration: Registration,
    has_server: bool,
    saves: BTreeMap<Ticket, (AgentName, [u8; 16])>,
    next_ticket: u64,
    order: order::Order,
    roster: roster::Roster,
    stop: Stop,
    give_up: GiveUp,
    /// Until when the first children are waited for; none once the host counts as started.
    ready_by: Option<Moment>,
    previous_end: Option<String>,
    stopping: Option<Stopping>,
    /// Who would take our place, and how it is asked whether it starts.
    #[cfg(feature = "adopt")]
    successor: Option<ToolSpec>,
    #[cfg(feature = "adopt")]
    handover: Option<Handover>,
    exited: bool,
}

impl Host {
    /// A host that has not started anything yet.
    pub fn new(setup: HostSetup) -> Self {
        let order = order::Order::new(setup.agents.iter().map(|(agent, _)| &agent.settings));
        let (setups, leftovers): (Vec<_>, Vec<_>) = setup.agents.into_iter().unzip();
        let mut engines: Vec<Engine> = setups.into_iter().map(Engine::new).collect();
        let registration = Registration::new(setup.registration);
        let (needed, known) = registration.needs();
        for engine in &mut engines {
            engine.set_previous_end(setup.previous_end.clone());
            engine.begin_with_token(needed, known);
        }
        Self {
            engines,
            leftovers,
            identity: setup.identity,
            certificates: Certificates::new(setup.certificates),
            known: Known::default(),
            clock: Clock::new(setup.clock),
            clock_told: None,
            registration,
            has_server: setup.has_server,
            saves: BTreeMap::new(),
            next_ticket: 0,
            order,
            roster: roster::Roster::default(),
            stop: setup.stop,
            give_up: setup.give_up,
            ready_by: None,
            previous_end: setup.previous_end,
            stopping: None,
            #[cfg(feature = "adopt")]
            successor: None,
            #[cfg(feature = "adopt")]
            handover: None,
            exited: false,
        }
    }

    /// Starts every agent, in order.
    pub fn start(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.ready_by = Some(now.mono.after(READY_BY));
        let mut started = note(NoteLevel::Info, "supervisor started");
        if let Some(previous) = &self.previous_end {
            started = note(
                NoteLevel::Warn,
                "supervisor started after an end without a goodbye",
            );
            started.fields.push(("reason", previous.clone()));
        }
        effects.push(Effect::Note(started));
        let known = self.certificates.known();
        for engine in &mut self.engines {
            engine.know_certificates(&known);
        }
        self.known = known;
        self.hold_back();
        let leftovers = std::mem::take(&mut self.leftovers);
        for (index, leftover) in leftovers.into_iter().enumerate() {
            if let Some(engine) = self.engines.get_mut(index) {
                let name = engine.name().clone();
                let outcome = engine.start(now, leftover);
                if !engine.is_held_back() {
                    self.order.has_begun(&name);
                }
                self.collect(now, &name, outcome, &mut effects);
            }
        }
        self.follow_order(now, &mut effects);
        self.follow_certificates(now, &mut effects);
        self.look_whether_ready(now, &mut effects);
        self.clock.start(now);
        // After the children: they never wait for it.
        let steps = self.registration.start(now);
        self.follow(now, steps, &mut effects);
        effects
    }

    /// Takes an event and says what is to be done.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {}
            Event::Agent { agent, event } => {
                if let Some(event) = self.successor_answered(now, event, &mut effects) {
                    self.pass(now, &agent, event, &mut effects);
                }
            }
            Event::IdentitySaved { ticket, result } => {
                self.identity_saved(now, ticket, result, &mut effects);
            }
            Event::Certificate { ticket, result } => {
                self.certificates.answered(now, ticket, result);
            }
            Event::Registration { ticket, outcome } => {
                let steps = self.registration.answered(now, ticket, outcome);
                self.follow(now, steps, &mut effects);
            }
            Event::Clock { ticket, look } => {
                effects.extend(self.clock.looked(now, ticket, look));
            }
            Event::ClockJumped { asleep } => {
                effects.extend(self.clock.jumped(now, asleep));
                self.certificates.look_at_files();
            }
            Event::Signal(HostSignal::Terminate) => self.terminate(now, &mut effects),
            Event::Signal(HostSignal::Hangup) => {
                self.announce(Milestone::Reloading, &mut effects);
                effects.push(Effect::ReadSettings);
            }
            Event::Settings(settings) => {
                self.settings(now, settings, &mut effects);
                self.announce(Milestone::Ready, &mut effects);
            }
            Event::Admitted {
                agent,
                ticket,
                result,
            } => self.admitted(now, (&agent, ticket), result, &mut effects),
            Event::Command { id, command } => self.command(now, id, command, &mut effects),
        }
        self.follow_certificates(now, &mut effects);
        self.follow_clock(now, &mut effects);
        self.follow_order(now, &mut effects);
        self.follow_roster(now, &mut effects);
        self.follow_stop(now, &mut effects);
        self.settle(now, &mut effects);
        self.look_whether_ready(now, &mut effects);
        effects
    }

    /// Tells the service manager, who hears nothing of reloads before the start is over or after the stop has begun.
    fn announce(&self, milestone: Milestone, effects: &mut Vec<Effect>) {
        if self.ready_by.is_none() && self.stopping.is_none() {
            effects.push(Effect::Announce(milestone));
        }
    }

    fn look_whether_ready(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(by) = self.ready_by else {
            return;
        };
        if by <= now.mono || self.engines.iter().all(|engine| engine.has_begun(now)) {
            self.ready_by = None;
            self.announce(Milestone::Ready, effects);
        }
    }

    /// The whole host in one line, for a service manager.
    pub fn headline(&self, now: Now) -> String {
        let agents: Vec<_> = self.engines.iter().map(|it| it.headline(now)).collect();
        let stopping = if self.stopping.is_some() {
            "stopping; "
        } else {
            ""
        };
        format!("{stopping}{}", agents.join("; "))
    }

    /// The next moment the host wants to be called; none means only events wake it.
    pub fn deadline(&self, now: Now) -> Option<Moment> {
        let stopping = self.stopping.map(|stopping| {
            stopping
                .goodbye_at
                .map_or(stopping.exit_at, |at| at.min(stopping.exit_at))
        });
        let engines = self
            .engines
            .iter()
            .filter_map(|engine| engine.deadline(now));
        let certificates = self.certificates.due(now);
        let registration = self.registration.due(now);
        let clock = self.clock.due();
        let handover = self.handover_due();
        let order = self.order_due();
        let host = [
            stopping,
            self.ready_by,
            certificates,
            registration,
            clock,
            handover,
            order,
            self.roster.due(now.mono),
        ];
        engines.chain(host.into_iter().flatten()).min()
    }

    /// The names of the agents, in start order.
    pub fn agents(&self) -> impl Iterator<Item = &AgentName> {
        self.engines.iter().map(Engine::name)
    }

    /// Where each agent is: its child's state and the step of its transaction. For those who count what they visited.
    pub fn positions(&self) -> impl Iterator<Item = (&AgentName, &'static str, &'static str)> {
        self.engines.iter().map(|engine| {
            let (child, rollout) = engine.position();
            (engine.name(), child, rollout)
        })
    }

    /// Everything a door may show.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        Snapshot {
            uptime: now.mono.since(Moment::START),
            at: now.wall,
            stopping: self.stopping.is_some(),
            previous_end: self.previous_end.clone(),
            clock: self.clock.snapshot(),
            registration: self.registration.snapshot(now),
            agents: self
                .engines
                .iter()
                .map(|engine| engine.snapshot(now))
                .collect(),
            certificates: self.certificates.snapshot(now),
        }
    }

    fn pass(&mut self, now: Now, agent: &AgentName, event: AgentEvent, effects: &mut Vec<Effect>) {
        if let Some(engine) = self
            .engines
            .iter_mut()
            .find(|engine| engine.name() == agent)
        {
            let outcome = engine.step(now, event);
            self.collect(now, agent, outcome, effects);
        }
    }

    fn collect(
        &mut self,
        now: Now,
        agent: &AgentName,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        effects.extend(outcome.notes.into_iter().map(Effect::Note));
        effects.extend(outcome.effects.into_iter().map(|effect| Effect::Agent {
            agent: agent.clone(),
            effect,
        }));
        effects.extend(
            outcome
                .replies
                .into_iter()
                .map(|(id, reply)| Effect::Reply { id, reply }),
        );
        for request in outcome.requests {
            match request {
                HostRequest::NewInstanceUid(uid) => {
                    self.next_ticket = self.next_ticket.saturating_add(1);
                    let ticket = Ticket(self.next_ticket);
                    let mut identity = self.identity.clone();
                    identity.instance_uids.insert(agent.to_string(), uid);
                    self.saves.insert(ticket, (agent.clone(), uid));
                    effects.push(Effect::SaveIdentity { ticket, identity });
                }
                HostRequest::GaveUp(reason) => {
                    let words = format!("agent {agent} was given up: {reason}");
                    effects.push(Effect::LastWords(words));
                    if self.give_up == GiveUp::Exit {
                        self.begin_stop(now, ExitReason::GaveUp, effects);
                    }
                }
                HostRequest::TokenRejected(reason) => {
                    let steps = self.registration.rejected(now, &reason);
                    self.follow(now, steps, effects);
                }
                HostRequest::TokenAccepted => {
                    let steps = self.registration.accepted(now);
                    self.follow(now, steps, effects);
                }
            }
        }
    }

    /// Does what registration wants; a new token makes every link that uses it anew.
    fn follow(&mut self, now: Now, steps: Steps, effects: &mut Vec<Effect>) {
        let Steps {
            effects: wanted,
            renewed,
        } = steps;
        effects.extend(wanted);
        if !renewed {
            return;
        }
        if !self.has_server
            && let Some(server) = self.registration.server()
        {
            self.clock.set_server(now, server.clone());
            self.each(now, effects, |engine, now| {
                engine.set_server(now, server.clone())
            });
        }
        self.share_token(now, true, effects);
    }

    fn share_token(&mut self, now: Now, new: bool, effects: &mut Vec<Effect>) {
        let (needed, known) = self.registration.needs();
        self.each(now, effects, |engine, now| {
            engine.set_token(now, needed, known, new)
        });
    }

    fn identity_saved(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<(), DiskFault>,
        effects: &mut Vec<Effect>,
    ) {
        if self.joining_saved(now, ticket, &result, effects) {
            return;
        }
        let Some((agent, uid)) = self.saves.remove(&ticket) else {
            return;
        };
        let Some(engine) = self
            .engines
            .iter_mut()
            .find(|engine| engine.name() == &agent)
        else {
            return;
        };
        let outcome = match result {
            Ok(()) => {
                self.identity.instance_uids.insert(agent.to_string(), uid);
                engine.confirm_instance_uid(now, uid)
            }
            Err(fault) => engine.refuse_instance_uid(now, &fault.reason),
        };
        self.collect(now, &agent, outcome, effects);
    }

    fn terminate(&mut self, now: Now, effects: &mut Vec<Effect>) {
        match &mut self.stopping {
            None => self.begin_stop(now, ExitReason::Stopped, effects),
            Some(stopping) => {
                stopping.forced = true;
                stopping.exit_at = stopping.exit_at.min(now.mono.after(FORCED));
                effects.push(Effect::Note(note(NoteLevel::Warn, "stop forced")));
                self.each(now, effects, Engine::force);
            }
        }
    }

    fn begin_stop(&mut self, now: Now, reason: ExitReason, effects: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            return;
        }
        effects.push(Effect::Note(note(NoteLevel::Info, "stopping")));
        effects.push(Effect::Announce(Milestone::Stopping));
        self.ready_by = None;
        let exit_at = now.mono.after(self.stop.budget);
        self.stopping = Some(Stopping {
            reason,
            exit_at,
            goodbye_at: None,
            forced: false,
        });
        self.certificates.stop();
        self.clock.stop();
        self.registration.stop();
        self.begin_ordered_stop(now, effects);
    }

    /// Looks at the clock when it is time, and tells the engines what is new.
    fn follow_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        effects.extend(self.clock.tick(now));
        let condition = self.clock.condition();
        if condition != self.clock_told {
            self.clock_told.clone_from(&condition);
            self.each(now, effects, |engine, now| {
                engine.set_clock(now, condition.clone())
            });
        }
    }

    /// Certificates follow the bundles, and engines follow the certificates.
    fn follow_certificates(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.certificates.are_none() && self.known.says_none() {
            return;
        }
        // What one round brings can ask for one more: a config that could go on names other domains.
        for _ in 0..3 {
            for (at, agent, file) in self.certificates.followed() {
                let engine = self.engines.iter().find(|engine| engine.name() == &agent);
                match engine.map(|engine| engine.domain_entry(&file)) {
                    Some(DomainEntry::Present(entry)) => {
                        // What names no domain is refused at the gate; the renewals of the old ones go on.
                        if let Ok(domains) = certificates::entry_domains(entry) {
                            self.certificates.want(at, domains);
                        }
                    }
                    Some(DomainEntry::Absent) => self.certificates.want(at, Vec::new()),
                    Some(DomainEntry::Unsettled) | None => {}
                }
            }
            let outcome = self.certificates.drive(now);
            effects.extend(outcome.effects);
            let known = self.certificates.known();
            if known == self.known && outcome.renewed.is_empty() {
                return;
            }
            self.known.clone_from(&known);
            let renewed = outcome.renewed;
            self.each(now, effects, |engine, now| {
                engine.set_certificates(now, &known, &renewed)
            });
        }
    }

    fn each(
        &mut self,
        now: Now,
        effects: &mut Vec<Effect>,
        act: impl Fn(&mut Engine, Now) -> Outcome,
    ) {
        for index in 0..self.engines.len() {
            if let Some(engine) = self.engines.get_mut(index) {
                let name = engine.name().clone();
                let outcome = act(engine, now);
                self.collect(now, &name, outcome, effects);
            }
        }
    }

    /// Moves a stop along. Ends every step.
    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        // Engines look at their own deadlines only when they are called; one call serves them all.
        let due = |engine: &Engine| engine.deadline(now).is_some_and(|at| at <= now.mono);
        for index in 0..self.engines.len() {
            if let Some(engine) = self.engines.get_mut(index)
                && due(engine)
            {
                let name = engine.name().clone();
                let outcome = engine.tick(now);
                self.collect(now, &name, outcome, effects);
            }
        }
        if self.registration.due(now).is_some_and(|at| at <= now.mono) {
            let steps = self.registration.tick(now);
            self.follow(now, steps, effects);
        }
        self.settle_handover(now, effects);
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        if self.exited {
            return;
        }
        let down = self.engines.iter().all(Engine::child_is_down);
        if down && stopping.goodbye_at.is_none() {
            stopping.goodbye_at = Some(now.mono.after(GOODBYE));
        }
        // An answer that may bring a token is given the time of a goodbye to arrive.
        let said = self.engines.iter().all(Engine::is_stopped) && !self.registration.is_calling();
        let patience = stopping.goodbye_at.is_some_and(|at| at <= now.mono);
        let over = stopping.exit_at <= now.mono;
        let killed = self.engines.iter().any(Engine::was_killed);
        let reason = match (down && (said || patience), over) {
            (true, _) if stopping.forced => ExitReason::Forced,
            (true, _) if stopping.reason == ExitReason::Stopped && killed => ExitReason::Forced,
            (true, _) => stopping.reason,
            (false, true) => ExitReason::Forced,
            (false, false) => return,
        };
        self.exited = true;
        effects.push(Effect::Exit(reason));
    }
}

fn note(level: NoteLevel, message: &'static str) -> Note {
    Note {
        level,
        agent: None,
        message,
        fields: Vec::new(),
    }
}
