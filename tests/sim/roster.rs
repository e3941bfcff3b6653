//! Agents that come and go with the settings.
//!
//! Given the real `Host` over children of every kind; when its settings are read again with other agents in them, at
//! any moments; then those who stay are never told anything, those who go are stopped, dependants first, and never
//! started again, those who come start in their turn, and in the end exactly those who are listed are there.

use super::*;
use adjutant::engine::message::Admission;

/// Names to choose from.
const NAMES: usize = 8;

impl Play {
    pub(super) fn admit(&mut self, ticket: Ticket, agent: config::Agent, uid: Option<[u8; 16]>) {
        let name = agent.name;
        let result = if self.random.below(12) == 0 {
            Err("the disk said no".to_owned())
        } else {
            Ok(Box::new(Admission {
                instance_uid: uid.unwrap_or([2; 16]),
                state_dir: Self::places(&name).state_dir,
                link: None,
                reserved_ports: Vec::new(),
                certificates: "/state/certificates".into(),
                supervisor: String::new(),
                port: None,
                facts: BTreeMap::new(),
                persisted: self.persisted(&name),
                leftover: None,
                seed: self.random.next_u64(),
            }))
        };
        self.trace.push(format!(
            "{} admit {name}: {}",
            self.now,
            result.as_ref().map_or("refused", |_| "made")
        ));
        let delay = self.random.below(200);
        let event = Event::Admitted {
            agent: name,
            ticket,
            result,
        };
        self.later(delay, What::Host(event));
    }

    pub(super) fn dismissed(&mut self, agent: &AgentName) {
        self.trace.push(format!("{} dismissed {agent}", self.now));
        if self.children.values().any(|(of, _)| of == agent) {
            self.violated(&format!("{agent} is dismissed and its child runs"));
        }
        self.leaving.remove(agent);
        self.begun.remove(agent);
        self.healthy.remove(agent);
        self.failures.remove(agent);
    }

    /// Nothing of an agent is started that is on the way out.
    pub(super) fn check_listed(&self, agent: &AgentName) {
        if self.leaving.contains_key(agent) {
            self.violated(&format!("{agent} is started on its way out"));
        }
    }

    /// Who is told something before the stop leaves, and those that started after it are down, or had their time.
    pub(super) fn check_leave(&self, agent: &AgentName) {
        let looked_after = matches!(self.kinds[agent], Kind::Well(_) | Kind::Stubborn);
        if self.stop_at.is_some() || !looked_after {
            return;
        }
        let Some((told, _)) = self.leaving.get(agent) else {
            self.violated(&format!("{agent} stays and is told to stop"));
        };
        let budget = u64::try_from(self.config.stop.budget.as_millis()).unwrap();
        for (other, (_, after)) in &self.leaving {
            let runs = self.children.values().any(|(of, _)| of == other);
            if after.contains(agent) && runs && self.now < told + budget {
                self.violated(&format!(
                    "{agent} is stopped before {other}, which needs it"
                ));
            }
        }
    }

    /// It could not be added, and is tried again by the next HUP.
    pub(super) fn was_refused(&self, agent: &AgentName) -> bool {
        let begins = format!("admit {agent}: ");
        let mut last = self
            .trace
            .iter()
            .rev()
            .filter(|line| line.contains(&begins));
        last.next().is_some_and(|line| line.ends_with("refused"))
    }

    /// Other settings, read by a HUP.
    fn reread(&mut self) {
        let mut listed: Vec<usize> = (0..NAMES).filter(|_| self.random.unit() < 0.4).collect();
        if listed.is_empty() {
            listed.push(0);
        }
        let mut text = String::from("agents:\n");
        for (place, number) in listed.iter().enumerate() {
            let after: Vec<String> = listed[..place]
                .iter()
                .filter(|_| self.random.unit() < 0.5)
                .map(|it| name(*it).to_string())
                .collect();
            writeln!(
                text,
                "  {}: {{profile: generic, executable: /bin/sh, start_after: [{}], start_wait: 2s, health: {{kind: exec, \
                 command: [/bin/look], interval: 1s, failures: 1}}}}",
                name(*number),
                after.join(", "),
            )
            .unwrap();
        }
        self.trace.push(format!("{} {text}", self.now));
        let config = config::load("sim", &text, &NoEnvironment, &Overrides::default()).unwrap();
        let before = std::mem::replace(&mut self.config, config);
        let host = self.host.as_ref().unwrap();
        let gone: Vec<AgentName> = host
            .agents()
            .filter(|name| !self.config.agents.iter().any(|it| it.name == **name))
            .cloned()
            .collect();
        for name in gone {
            let after = before.agents.iter().find(|it| it.name == name);
            let after = after.map(|it| it.start.after.clone()).unwrap_or_default();
            self.leaving.entry(name).or_insert((self.now, after));
        }
        self.reread_at = self.now;
        let config = Box::new(self.config.clone());
        self.step(Event::Settings(Ok(config)));
    }

    /// Exactly those who are listed are there, in the order of the settings, and each of them has begun.
    fn check_roster(&self) {
        let here: Vec<&AgentName> = self.host.as_ref().unwrap().agents().collect();
        let stays = |name: &AgentName| self.kinds[name] == Kind::Unkillable;
        let listed: Vec<&AgentName> = self.config.agents.iter().map(|it| &it.name).collect();
        let (here, left): (Vec<&AgentName>, Vec<&AgentName>) =
            here.into_iter().partition(|name| listed.contains(name));
        if let Some(name) = left.iter().find(|name| !stays(name)) {
            self.violated(&format!("{name} never leaves"));
        }
        // One that cannot leave cannot come again either.
        let can_come = |name: &&AgentName| !stays(name);
        for name in &listed {
            let began = self.begun.contains_key(*name) || self.kinds[*name] == Kind::Nothing;
            let is_here = here.contains(name);
            if can_come(name) && !self.was_refused(name) && !(is_here && began) {
                self.violated(&format!(
                    "{name} never comes: here {is_here}, began {began}"
                ));
            }
        }
        let order: Vec<&&AgentName> = listed.iter().filter(|name| here.contains(name)).collect();
        if order != here.iter().collect::<Vec<_>>() {
            self.violated(&format!(
                "another order than that of the settings: {here:?}"
            ));
        }
    }
}

/// One history from its seed: start, three other lists, and time.
fn history(seed: u64) -> Play {
    let mut play = Play::new(seed);
    for number in 0..NAMES {
        let kind = match play.random.below(8) {
            0 => Kind::Sick,
            1 => Kind::Stubborn,
            2 => Kind::Missing,
            3 => Kind::Nothing,
            _ => Kind::Well(play.random.below(3_000)),
        };
        play.kinds.entry(name(number)).or_insert(kind);
    }
    play.boot();
    for _ in 0..3 {
        let wait = [10, 500, 20_000][usize::try_from(play.random.below(3)).unwrap()];
        let until = play.now + play.random.below(wait);
        play.run(until);
        play.reread();
    }
    let until = play.now + 200_000;
    play.run(until);
    play.check_roster();
    play.stop_at = Some(play.now);
    play.step(Event::Signal(HostSignal::Terminate));
    let budget = u64::try_from(play.config.stop.budget.as_millis()).unwrap();
    let end = play.now + budget + 1;
    play.run(end);
    if play.exit_at.is_none() {
        play.violated("the stop did not end inside its budget");
    }
    play
}

#[cfg(feature = "roster")]
#[test]
fn who_is_listed_is_there_and_who_stays_is_never_told() {
    let (mut came, mut left) = (0, 0);
    for seed in 0..200 {
        let play = history(seed);
        let count = |word: &str| play.trace.iter().filter(|line| line.contains(word)).count();
        came += count("admit");
        left += count("dismissed");
    }
    assert!(came > 400 && left > 400, "{came} came, {left} left");
}
