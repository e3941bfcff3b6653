//! What people, servers and accidents do to a house.

use super::*;

impl House {
    /// The server offers a config.
    pub(crate) fn offer(&mut self, agent: &str, hash: &str, text: &str) {
        self.tell(format_args!("the server offers {agent} {hash}: {text:?}"));
        let config = remote_config(hash, text);
        self.talk(
            &name(agent),
            ServerToAgent {
                remote_config: Some(config),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server offers a bundle of several files, or of none.
    pub(crate) fn offer_files(&mut self, agent: &str, hash: &str, files: &[(&str, &str)]) {
        self.tell(format_args!("the server offers {agent} {hash}: {files:?}"));
        let mut offer = remote_config(hash, "");
        let map = &mut offer.config.as_mut().unwrap().config_map;
        map.clear();
        for (file, text) in files {
            let one = remote_config(hash, text).config.unwrap().config_map;
            map.insert((*file).to_owned(), one.into_values().next().unwrap());
        }
        self.talk(
            &name(agent),
            ServerToAgent {
                remote_config: Some(offer),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server wants its metrics there.
    pub(crate) fn direct(&mut self, agent: &str, hash: &str, endpoint: &str) {
        self.tell(format_args!(
            "the server wants metrics of {agent} at {endpoint}"
        ));
        self.talk(
            &name(agent),
            ServerToAgent {
                connection_settings: Some(destinations(hash, endpoint)),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server orders a restart.
    pub(crate) fn order_restart(&mut self, agent: &str) {
        self.tell(format_args!("the server orders a restart of {agent}"));
        self.talk(
            &name(agent),
            ServerToAgent {
                command: Some(ServerToAgentCommand::default()),
                ..ServerToAgent::default()
            },
        );
    }

    /// The server gives it another identity.
    pub(crate) fn rename(&mut self, agent: &str, uid: [u8; 16]) {
        self.tell(format_args!(
            "the server gives {agent} another instance uid"
        ));
        self.talk(
            &name(agent),
            ServerToAgent {
                agent_identification: Some(opamp_client::messages::AgentIdentification {
                    new_instance_uid: uid.to_vec(),
                }),
                ..ServerToAgent::default()
            },
        );
    }

    pub(crate) fn talk(&mut self, agent: &AgentName, message: ServerToAgent) {
        let room = &self.rooms[agent];
        let link = room.link.expect("nobody listens");
        let message = ServerToAgent {
            instance_uid: room.uid.to_vec(),
            capabilities: 0x7,
            ..message
        };
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        let event = LinkEvent::Frame(frame);
        self.answer(5, agent, AgentEvent::Link { link, event });
    }

    pub(crate) fn server_is(&mut self, agent: &str, there: There) {
        self.tell(format_args!("the server of {agent} is {there:?}"));
        let agent = name(agent);
        let room = self.rooms.get_mut(&agent).unwrap();
        room.server = there;
        let link = room.link.filter(|_| there != There::Up);
        if let Some(link) = link {
            self.down(&agent, link, LossKind::Network);
        }
    }

    pub(crate) fn down(&mut self, agent: &AgentName, link: LinkId, kind: LossKind) {
        let room = self.rooms.get_mut(agent).unwrap();
        room.link = room.link.filter(|it| *it != link);
        let loss = LinkLoss {
            kind,
            reason: "gone".to_owned(),
            retry_after: None,
        };
        let event = LinkEvent::Down(loss);
        self.answer(3, agent, AgentEvent::Link { link, event });
    }

    /// Somebody edits a local file.
    pub(crate) fn edit(&mut self, agent: &str, path: &str, text: &str) {
        self.tell(format_args!("somebody writes {path}: {text:?}"));
        self.file(agent, path, text);
        self.touched(agent);
    }

    /// Files of the running revision are changed by somebody else.
    pub(crate) fn spoil(&mut self, agent: &str, path: &str) {
        self.tell(format_args!("somebody changes {path} of what runs"));
        let drift = DriftedFile {
            path: path.to_owned(),
            expected: "aa".repeat(32),
            found: Some("bb".repeat(32)),
        };
        self.room(agent).drift.push(drift);
        self.touched(agent);
    }

    pub(crate) fn touched(&mut self, agent: &str) {
        if let Some(ticket) = self.room(agent).watch.take() {
            self.answer(1, &name(agent), AgentEvent::FilesTouched { ticket });
        }
    }

    /// Other settings, and a HUP.
    pub(crate) fn hup(&mut self, settings: &str) {
        self.tell("HUP, with other settings");
        self.config = load(settings);
        self.furnish();
        self.hang_up();
    }

    /// Whether the agent is known.
    #[cfg(feature = "roster")]
    pub(crate) fn has(&self, agent: &str) -> bool {
        self.rooms.contains_key(&name(agent))
    }

    /// Other agents, with their files, and a HUP.
    #[cfg(feature = "roster")]
    pub(crate) fn join(&mut self, settings: &str, files: impl Fn(&mut Self)) {
        self.config = load(settings);
        self.furnish();
        files(self);
        let names = self.config.agents.iter().map(|it| it.name.as_str());
        let names: Vec<_> = names.collect();
        let names = names.join(", ");
        self.tell(format_args!("HUP, with {names}"));
        self.hang_up();
    }

    /// What is written down about the child that lives.
    pub(crate) fn child_note(&self, agent: &str) -> ChildNote {
        let children = &self.rooms[&name(agent)].children;
        let living = children.values().find(|child| child.alive);
        living.unwrap().note.clone()
    }

    /// What is current counts as bad, and nothing is last good.
    pub(crate) fn reject_current(&mut self, agent: &str) {
        let at = self.clock().wall;
        let disk = &mut self.room(agent).disk;
        let hash = disk.revisions[disk.current.as_ref().unwrap()].hash;
        disk.good = None;
        disk.rejected.push(Rejection {
            hash,
            reason: "bad".to_owned(),
            at,
            offers: Vec::new(),
        });
    }

    /// A HUP; the settings have not changed.
    pub(crate) fn hang_up(&mut self) {
        self.step(Event::Signal(HostSignal::Hangup));
    }

    /// A HUP that finds settings which cannot be read.
    pub(crate) fn bad_settings(&mut self) {
        self.tell("HUP, with settings that cannot be read");
        self.step(Event::Settings(Err("line 1: no".to_owned())));
    }

    pub(crate) fn terminate(&mut self) {
        self.tell("TERM");
        self.step(Event::Signal(HostSignal::Terminate));
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.tell(format_args!("order: {command:?}"));
        self.commands += 1;
        let id = CommandId(self.commands);
        self.step(Event::Command { id, command });
    }

    /// A person applies a config.
    pub(crate) fn apply(&mut self, agent: &str, file: &str, text: &str) {
        self.tell(format_args!("a person applies {file}: {text:?}"));
        self.commands += 1;
        let id = CommandId(self.commands);
        let command = Command::Apply {
            agent: Some(name(agent)),
            files: vec![OfferedFile {
                name: file.to_owned(),
                content_type: "text/yaml".to_owned(),
                body: text.as_bytes().to_vec(),
            }],
        };
        self.step(Event::Command { id, command });
    }

    /// What the disk has answered does not arrive.
    pub(crate) fn lose_answers(&mut self) {
        self.tell("the disk does not answer");
        self.queue.retain(|_, what| {
            let disk = |event: &AgentEvent| matches!(event, AgentEvent::Disk { .. });
            !matches!(what, What::Host(Event::Agent { event, .. }) if disk(event))
        });
    }

    /// An answer that nobody waits for.
    pub(crate) fn stray(&mut self, agent: &str, event: AgentEvent) {
        self.tell(format_args!("stray: {event:?}"));
        let agent = name(agent);
        self.step(Event::Agent { agent, event });
    }

    /// What has changed of what people see.
    pub(crate) fn status(&mut self) {
        let clock = self.clock();
        let Some(host) = &self.host else { return };
        self.tape.say(self.now, "status, as far as it has changed:");
        self.tape.status(host, clock, true);
        let due = host.deadline(clock).map(|due| due.since(clock.mono));
        let line = format!("         {}; looks again in {due:?}", host.headline(clock));
        self.tape.write(line);
    }
}
