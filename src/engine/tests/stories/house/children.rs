//! Children and tools of a house: they start, talk, take signals and die as the words in their config say.

use super::*;

impl House {
    pub(crate) fn spawn(&mut self, agent: &AgentName, ticket: Ticket, spec: SpawnSpec) {
        self.pids += 1;
        let (pid, now) = (self.pids, self.now);
        let started = self.clock().wall;
        let room = self.rooms.get_mut(agent).unwrap();
        if let Some(reason) = room.no_spawn {
            let event = AgentEvent::SpawnFailed {
                ticket,
                reason: reason.to_owned(),
                transient: true,
            };
            return self.answer(2, agent, event);
        }
        let alive = room.children.values().any(|child| child.alive);
        assert!(!alive, "two children: {}", self.tape.text());
        let (text, marker) = room.shown();
        let child = Child {
            text,
            marker,
            alive: true,
            told: 1,
            told_at: now,
            reloads: 0,
            note: spec.note,
            dies_with_us: spec.death_signal.is_some(),
            connection: None,
        };
        room.children.insert(pid, child);
        let child = ChildIdentity {
            pid,
            start_ticks: 1,
            started,
        };
        self.answer(1, agent, AgentEvent::Spawned { ticket, child });
        self.child_begins(agent, pid, false);
    }

    pub(crate) fn child_begins(&mut self, agent: &AgentName, pid: u32, by_hup: bool) {
        let links = places_link(self.config.agents.iter().find(|it| &it.name == agent));
        let room = self.rooms.get_mut(agent).unwrap();
        let child = &room.children[&pid];
        let (text, told) = (child.text.clone(), child.told);
        let has = |word: &str| text.contains(word);
        let listening = room.listening.take_if(|_| by_hup && !has("silent"));
        let dies = |code| What::Dies {
            agent: agent.clone(),
            pid,
            told,
            status: ExitStatus::Code(code),
        };
        if let Some(ticket) = listening {
            let said = if has("refused") {
                Err("bad config in line 1".to_owned())
            } else {
                Ok(())
            };
            self.answer(80, agent, AgentEvent::OutputSaid { ticket, said });
        }
        if links && !has("silent") {
            for wait in [60, 4_060]
                .into_iter()
                .take(1 + usize::from(has("sickens")))
            {
                let agent = agent.clone();
                self.later(wait, What::Talks { agent, pid, told });
            }
        }
        if has("dies-at-start") {
            self.later(40, dies(1));
        }
        if has("blames-config") {
            self.later(40, dies(78));
        }
        if has("dies-later") {
            self.later(6_000, dies(1));
        }
    }

    /// Its health as it would answer now.
    pub(crate) fn is_well(&self, agent: &AgentName) -> bool {
        let living = self.rooms[agent].children.values().find(|it| it.alive);
        living.is_some_and(|child| {
            let sick = child.text.contains("sickens") && self.now >= child.told_at + 4_000;
            !sick && !child.text.contains("unwell")
        })
    }

    /// The child of an earlier life finds us again.
    pub(crate) fn child_comes_back(&mut self, agent: &str) {
        self.tell(format_args!("the child of {agent} comes back"));
        let agent = name(agent);
        let mut children = self.rooms[&agent].children.iter();
        let (&pid, child) = children.find(|(_, child)| child.alive).unwrap();
        let told = child.told;
        self.child_talks(&agent, pid, told);
    }

    /// It says what it made of its layers.
    pub(crate) fn child_reports(&mut self, agent: &str, effective: &str) {
        self.tell(format_args!("the child of {agent} runs {effective:?}"));
        let agent = name(agent);
        let room = &self.rooms[&agent];
        let mut children = room.children.values();
        let connection = children.find_map(|child| child.connection);
        let connection = connection.unwrap_or_else(|| panic!("{}", self.tape.text()));
        let message = AgentToServer {
            instance_uid: room.uid.to_vec(),
            sequence_num: 1,
            capabilities: 5,
            effective_config: Some(EffectiveConfig {
                config_map: remote_config("", effective).config,
            }),
            ..AgentToServer::default()
        };
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        let event = LocalEvent::Frame(frame);
        self.answer(1, &agent, AgentEvent::Local { connection, event });
    }

    /// It closes its connection.
    pub(crate) fn child_hangs_up(&mut self, agent: &str) {
        self.tell(format_args!("the child of {agent} hangs up"));
        let agent = name(agent);
        let mut children = self.rooms.get_mut(&agent).unwrap().children.values_mut();
        let connection = children.find_map(|child| child.connection.take());
        let (connection, event) = (connection.unwrap(), LocalEvent::Closed);
        self.answer(0, &agent, AgentEvent::Local { connection, event });
    }

    pub(crate) fn child_talks(&mut self, agent: &AgentName, pid: u32, told: u64) {
        let healthy = self.is_well(agent);
        let room = self.rooms.get_mut(agent).unwrap();
        let uid = room.uid;
        let Some(child) = room.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || child.told != told {
            return;
        }
        let refused = child.text.contains("refused");
        let status = RemoteConfigStatus {
            last_remote_config_hash: unhex(&child.marker).unwrap_or_default(),
            status: if refused { 3 } else { 1 },
            error_message: if refused { "sources.x: no" } else { "" }.to_owned(),
        };
        let health = ComponentHealth {
            healthy,
            last_error: if healthy { "" } else { "backend is away" }.to_owned(),
            ..ComponentHealth::default()
        };
        let message = AgentToServer {
            instance_uid: uid.to_vec(),
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "child")],
                non_identifying_attributes: Vec::new(),
            }),
            capabilities: 1,
            health: Some(health),
            remote_config_status: Some(status),
            ..AgentToServer::default()
        };
        let fresh = child.connection.is_none();
        self.connections += u64::from(fresh);
        let connection = *child.connection.get_or_insert(self.connections);
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        if fresh {
            let event = LocalEvent::Opened {
                peer_pid: Some(pid),
            };
            self.answer(0, agent, AgentEvent::Local { connection, event });
        }
        let event = LocalEvent::Frame(frame);
        self.answer(1, agent, AgentEvent::Local { connection, event });
    }

    pub(crate) fn signal(
        &mut self,
        agent: &AgentName,
        pid: u32,
        signal: i32,
        note: Option<&ChildNote>,
    ) {
        let now = self.now;
        let room = self.rooms.get_mut(agent).unwrap();
        let (text, marker) = room.shown();
        let child = room.children.get_mut(&pid).expect("no such process");
        if let Some(note) = note {
            child.note = ChildNote {
                start: child.note.start.clone(),
                ..note.clone()
            };
        }
        let status = ExitStatus::Signal(signal);
        match signal {
            1 => {
                (child.text, child.marker, child.told_at) = (text, marker, now);
                child.told += 1;
                child.reloads += u64::from(!child.text.contains("silent"));
                self.child_begins(agent, pid, true);
            }
            15 if child.text.contains("deaf") => {}
            _ => self.later(
                10,
                What::Dies {
                    agent: agent.clone(),
                    pid,
                    told: 0,
                    status,
                },
            ),
        }
    }

    /// Somebody kills the child.
    pub(crate) fn kill(&mut self, agent: &str) {
        self.tell(format_args!("somebody kills the child of {agent}"));
        let agent = name(agent);
        let children = self.rooms[&agent].children.iter();
        let pid = *children.rev().find(|(_, child)| child.alive).unwrap().0;
        self.child_dies(&agent, pid, 0, ExitStatus::Signal(9));
    }

    pub(crate) fn child_dies(
        &mut self,
        agent: &AgentName,
        pid: u32,
        told: u64,
        status: ExitStatus,
    ) {
        let room = self.rooms.get_mut(agent).unwrap();
        let child = room.children.get_mut(&pid).unwrap();
        if !child.alive || (told != 0 && told != child.told) {
            return;
        }
        child.alive = false;
        let oom_killed = child.text.contains("oom");
        if let Some(connection) = child.connection.take() {
            let event = LocalEvent::Closed;
            self.answer(0, agent, AgentEvent::Local { connection, event });
        }
        let exit = Exit {
            status,
            tail: "its last words\n".to_owned(),
            oom_killed,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        self.answer(1, agent, AgentEvent::Exited { pid, exit });
    }

    pub(crate) fn run_tool(&mut self, agent: &AgentName, ticket: Ticket, spec: &ToolSpec) {
        let (wait, end, output) = if spec.program == Path::new("/bin/next") {
            (50, self.successor.clone(), "no such setting")
        } else if let Some(asked) = spec
            .args
            .iter()
            .find(|it| *it == "health" || *it == "proof")
        {
            let text = self.rooms[agent].told_text();
            let well = match asked.as_str() {
                "health" => self.is_well(agent),
                _ => !text.contains("silent"),
            };
            (10, ToolEnd::Exited(i32::from(!well)), "")
        } else {
            let text = self.rooms[agent].judged(spec);
            match () {
                () if text.contains("hangs") => (
                    u64::try_from(spec.timeout.as_millis()).unwrap(),
                    ToolEnd::TimedOut,
                    "",
                ),
                () if text.contains("crashes-it") => (20, ToolEnd::Signalled(11), "panic"),
                () if text.contains("unstartable") => {
                    (20, ToolEnd::NotStarted("no such file".to_owned()), "")
                }
                () if text.contains("invalid") => (20, ToolEnd::Exited(1), " no such word\n"),
                () => (20, ToolEnd::Exited(0), ""),
            }
        };
        let outcome = ToolOutcome {
            end,
            output: output.to_owned(),
        };
        self.answer(wait, agent, AgentEvent::ToolDone { ticket, outcome });
    }

    pub(crate) fn probe(&mut self, agent: &AgentName, ticket: Ticket, url: &str) {
        let well = self.is_well(agent);
        let room = &self.rooms[agent];
        let living = room.children.values().find(|it| it.alive);
        let answer = living.map(|child| match url.ends_with("/health") {
            true => (if well { 200 } else { 503 }, String::new()),
            false if child.text.contains("not-json") => (200, "hello".to_owned()),
            false if child.text.contains("not-found") => (404, String::new()),
            false => {
                let shown = if child.text.contains("silent") {
                    "nothing"
                } else {
                    &child.marker
                };
                let count = child.reloads;
                let body =
                    format!("{{\"revision\": \"{shown}\", \"reloads\": {{\"count\": {count}}}}}");
                (200, body)
            }
        });
        let answer = answer.filter(|_| !room.no_http);
        let outcome = answer
            .map(|(status, body)| HttpAnswer { status, body })
            .ok_or_else(|| "nobody answers".to_owned());
        self.answer(15, agent, AgentEvent::HttpProbed { ticket, outcome });
    }
}
