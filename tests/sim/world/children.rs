//! Children of the world: they start, talk, take signals and die as their config says.

use super::*;

impl World {
    pub(crate) fn spawn(&mut self, ticket: Ticket, spec: &SpawnSpec) {
        let living: Vec<u32> = self
            .children
            .iter()
            .filter(|(_, child)| child.alive)
            .map(|(pid, _)| *pid)
            .collect();
        if !living.is_empty() {
            self.violated(&format!("spawned although {living:?} lives"));
        }
        let current = self.root().join("current");
        assert_eq!(spec.args, ["collect", current.to_str().unwrap()]);
        self.check_turn();
        self.check_spared_start();
        if std::mem::take(&mut self.no_spawn) || self.strikes(|faults| faults.spawns) {
            let reason = "cannot allocate memory".to_owned();
            self.order.failures += 1;
            return self.agent_event(
                3,
                AgentEvent::SpawnFailed {
                    ticket,
                    reason,
                    transient: true,
                },
            );
        }
        let pid = self.next_pid;
        self.next_pid += 1;
        let text = self.text_at("current").unwrap_or_default();
        let child = Child {
            marker: self.marker(),
            text,
            connection: None,
            alive: true,
            reaped: false,
            stubborn: !self.spared && self.chance(0.1),
            generation: 1,
            pair: self.live_pair(),
            note: ChildNote {
                pairs: self.noted_pairs(),
                ..spec.note.clone()
            },
            ending: false,
            talks_at: None,
        };
        self.children.insert(pid, child);
        self.agent_event(
            1,
            AgentEvent::Spawned {
                ticket,
                child: identity(pid),
            },
        );
        self.child_begins(pid, false);
    }

    /// The children that live now do not listen to TERM.
    pub(crate) fn be_stubborn(&mut self) {
        for child in self.children.values_mut() {
            child.stubborn = child.alive;
        }
    }

    pub(crate) fn marker(&self) -> String {
        let target = self.link_target("current");
        let text = target.and_then(|target| self.read(&target.join("adjutant.revision")));
        text.unwrap_or_default().trim().to_owned()
    }

    /// A child reads its config: at its start or at a HUP.
    pub(crate) fn child_begins(&mut self, pid: u32, by_hup: bool) {
        let child = self.children.get(&pid).unwrap().clone();
        let generation = child.generation;
        let die = |code| What::ChildDies {
            pid,
            generation,
            status: ExitStatus::Code(code),
        };
        let talk = What::ChildTalks { pid, generation };
        let talks_at = match Behaviour::of(&child.text) {
            Behaviour::Slow => Some(self.now + 9_000),
            Behaviour::Ok
            | Behaviour::NeverHealthy
            | Behaviour::DiesLater
            | Behaviour::Refused
            | Behaviour::Flows
            | Behaviour::Starves => Some(self.now + 60),
            _ => None,
        };
        self.children.get_mut(&pid).unwrap().talks_at = talks_at;
        match Behaviour::of(&child.text) {
            Behaviour::Slow => self.later(9_000, talk),
            Behaviour::DiesAtStart => self.later(40, die(1)),
            Behaviour::BlamesConfig => self.later(40, die(78)),
            Behaviour::Refused if !by_hup => self.later(40, die(78)),
            Behaviour::Ok
            | Behaviour::Refused
            | Behaviour::NeverHealthy
            | Behaviour::Flows
            | Behaviour::Starves => self.later(60, talk),
            Behaviour::DiesLater => {
                self.later(60, talk);
                self.later(3_060, die(1));
            }
            Behaviour::Silent | Behaviour::Invalid | Behaviour::HangsValidator => {}
        }
        if self.strikes(|faults| faults.child_deaths) {
            let wait = self.random.below(60_000);
            let status = ExitStatus::Signal(11);
            self.later(
                wait,
                What::ChildDies {
                    pid,
                    generation,
                    status,
                },
            );
        }
    }

    pub(crate) fn child_talks(&mut self, pid: u32, generation: u64) {
        let Some(child) = self.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || child.generation != generation {
            return;
        }
        let fresh = child.connection.is_none();
        let uid = self.uid;
        if fresh {
            self.next_connection += 1;
            let number = self.next_connection;
            self.children.get_mut(&pid).unwrap().connection = Some(number);
        }
        let child = self.children.get(&pid).unwrap();
        let connection = child.connection.unwrap();
        let behaviour = Behaviour::of(&child.text);
        let hash = adjutant::units::unhex(&child.marker).unwrap_or_default();
        let refused = behaviour == Behaviour::Refused;
        let status = RemoteConfigStatus {
            last_remote_config_hash: hash,
            status: if refused {
                RemoteConfigStatuses::Failed as i32
            } else {
                RemoteConfigStatuses::Applied as i32
            },
            error_message: if refused {
                "sources.x: no".to_owned()
            } else {
                String::new()
            },
        };
        let healthy = behaviour != Behaviour::NeverHealthy;
        let health = ComponentHealth {
            healthy,
            last_error: if healthy {
                String::new()
            } else {
                "backend is away".to_owned()
            },
            component_health_map: books(
                behaviour,
                self.now.saturating_sub(child.talks_at.unwrap_or(self.now)),
            ),
            ..ComponentHealth::default()
        };
        let message = AgentToServer {
            instance_uid: uid.to_vec(),
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "adjutant.collect")],
                non_identifying_attributes: Vec::new(),
            }),
            capabilities: 1,
            health: Some(health),
            remote_config_status: Some(status),
            ..AgentToServer::default()
        };
        let frame = frame::encode(&message, MAX).unwrap();
        if healthy && !refused {
            self.order.healthy = true;
        }
        if fresh {
            let event = LocalEvent::Opened {
                peer_pid: Some(pid),
            };
            self.agent_event(0, AgentEvent::Local { connection, event });
        }
        let event = LocalEvent::Frame(frame);
        self.agent_event(1, AgentEvent::Local { connection, event });
        if matches!(behaviour, Behaviour::Flows | Behaviour::Starves) {
            self.later(5_000, What::ChildTalks { pid, generation });
        }
    }

    pub(crate) fn child_dies(&mut self, pid: u32, generation: u64, status: ExitStatus) {
        let Some(child) = self.children.get_mut(&pid) else {
            return;
        };
        if !child.alive || (child.generation != generation && generation != 0) {
            return;
        }
        child.alive = false;
        let connection = child.connection.take();
        if self.protected == Some(pid) {
            self.protected = None;
        }
        self.order.failures += 1;
        if self.host.is_none() {
            return;
        }
        if let Some(connection) = connection {
            self.agent_event(
                0,
                AgentEvent::Local {
                    connection,
                    event: LocalEvent::Closed,
                },
            );
        }
        let exit = Exit {
            status,
            tail: "last words".to_owned(),
            oom_killed: false,
            cpu: Duration::ZERO,
            max_resident: 0,
        };
        self.agent_event(2, AgentEvent::Exited { pid, exit });
    }

    /// Every child dies, whether or not anybody watches.
    pub(crate) fn end_children(&mut self) {
        let living: Vec<u32> = self.living().into_iter().map(|(pid, _)| pid).collect();
        for pid in living {
            self.child_dies(pid, 0, ExitStatus::Signal(9));
        }
    }

    /// The live pair, as it is written down when a child is told something.
    fn noted_pairs(&self) -> BTreeMap<String, String> {
        let live = self.live_pair();
        let id = live.as_ref().and_then(|path| path.file_name());
        let id = id.map(|id| ("web".to_owned(), id.to_string_lossy().into_owned()));
        id.into_iter().collect()
    }

    pub(crate) fn signal(&mut self, pid: u32, signal: i32, group: bool, note: Option<&ChildNote>) {
        self.signals += 1;
        if group && self.protected == Some(pid) {
            self.violated("a child that runs what it should is stopped because we had died");
        }
        if self.spared && !self.may_start && self.stop.is_none() {
            self.violated(&format!(
                "signal {signal} to the child of an agent that nobody touched"
            ));
        }
        if group {
            self.check_stop(pid);
        }
        let pairs = self.noted_pairs();
        if let Some(child) = self.children.get_mut(&pid) {
            child.ending |= group;
            if let Some(note) = note {
                child.note = ChildNote {
                    start: child.note.start.clone(),
                    link: child.note.link.clone(),
                    pairs,
                    ..note.clone()
                };
            }
        }
        let Some(child) = self.children.get_mut(&pid) else {
            self.violated(&format!("signal {signal} to unknown process {pid}"));
        };
        if child.reaped {
            self.violated(&format!(
                "signal {signal} to process {pid}, which was reaped"
            ));
        }
        if !child.alive {
            return;
        }
        match signal {
            libc::SIGHUP => {
                child.generation += 1;
                let keeps = child.text.clone();
                let text = self.text_at("current").unwrap_or_default();
                let marker = self.marker();
                let pair = self.live_pair();
                let child = self.children.get_mut(&pid).unwrap();
                child.pair = pair;
                child.text = text;
                child.marker = marker;
                self.child_begins(pid, true);
                if Behaviour::of(&self.children.get(&pid).unwrap().text) == Behaviour::Refused {
                    // It says no and keeps running what it ran; what it would say next is about the new one.
                    self.say(format_args!("child keeps {keeps:?}"));
                }
            }
            libc::SIGKILL => {
                let status = ExitStatus::Signal(9);
                self.later(
                    3,
                    What::ChildDies {
                        pid,
                        generation: 0,
                        status,
                    },
                );
            }
            _ if child.stubborn => {}
            signal => {
                let status = ExitStatus::Signal(signal);
                let wait = self.latency(30);
                self.later(
                    wait,
                    What::ChildDies {
                        pid,
                        generation: 0,
                        status,
                    },
                );
            }
        }
    }

    pub(crate) fn run_tool(&mut self, ticket: Ticket, spec: &ToolSpec) {
        assert_eq!(spec.args.first().map(String::as_str), Some("collect"));
        let directory = PathBuf::from(spec.args.last().unwrap());
        let text = self.read(&directory.join("collect.yaml"));
        if text.is_none() && !directory.ends_with("trial") {
            self.violated("the validator finds no config");
        }
        let behaviour = text.map_or(Behaviour::Invalid, |text| Behaviour::of(&text));
        let (wait, end, output) = match behaviour {
            Behaviour::Invalid => (
                30,
                ToolEnd::Exited(78),
                "collect.yaml:2:1: behave: no such word",
            ),
            Behaviour::HangsValidator => (
                u64::try_from(spec.timeout.as_millis()).unwrap(),
                ToolEnd::TimedOut,
                "",
            ),
            _ => (30, ToolEnd::Exited(0), ""),
        };
        self.tool = Some(ticket);
        let outcome = ToolOutcome {
            end,
            output: output.to_owned(),
        };
        self.agent_event(wait, AgentEvent::ToolDone { ticket, outcome });
    }
}

pub(crate) fn identity(pid: u32) -> ChildIdentity {
    ChildIdentity {
        pid,
        start_ticks: u64::from(pid),
        started: WallTime::from_unix_millis(EPOCH_MS),
    }
}

/// What a child has counted in so many milliseconds, where it counts.
fn books(behaviour: Behaviour, millis: u64) -> BTreeMap<String, ComponentHealth> {
    let count = match behaviour {
        Behaviour::Flows => i64::try_from(millis / 50).unwrap(),
        Behaviour::Starves => 0,
        _ => return BTreeMap::new(),
    };
    let part = |key: &str| ComponentHealth {
        healthy: true,
        attributes: vec![KeyValue {
            key: format!("adjutant.records.{key}"),
            value: Some(AnyValue {
                value: Some(any_value::Value::IntValue(count)),
            }),
        }],
        ..ComponentHealth::default()
    };
    BTreeMap::from([
        ("source.app".to_owned(), part("received")),
        ("upload.out".to_owned(), part("delivered")),
    ])
}
