//! What the product wants done, done by a house.

use super::*;

impl House {
    pub(crate) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.tape.effect(self.now, &effect);
            match effect {
                Effect::Agent { agent, effect } => self.for_agent(&agent, effect),
                Effect::SaveIdentity { ticket, identity } => {
                    let result = self.no_identity.map_or(Ok(()), |reason| {
                        Err(DiskFault {
                            kind: FaultKind::Full,
                            reason: reason.to_owned(),
                        })
                    });
                    if result.is_ok() {
                        self.identity = identity;
                    }
                    self.later(3, What::Host(Event::IdentitySaved { ticket, result }));
                }
                Effect::ReadSettings => {
                    let settings = Ok(Box::new(self.config.clone()));
                    self.later(1, What::Host(Event::Settings(settings)));
                }
                Effect::Admit {
                    ticket,
                    agent,
                    instance_uid,
                } => self.admit(ticket, &agent, instance_uid),
                Effect::Certificate { ticket, work, .. } => self.certificate(ticket, &work),
                Effect::Register { ticket, .. } => self.registers(ticket),
                Effect::Exit(_) => self.exited = true,
                _ => {}
            }
        }
    }

    pub(crate) fn certificate(&mut self, ticket: Ticket, work: &CertificateWork) {
        let result = match work {
            CertificateWork::Look => Ok(CertificateDone::Found(StoredPairs {
                pairs: self.live.iter().cloned().collect(),
                current: self.live.as_ref().map(|pair| pair.id.clone()),
                ..StoredPairs::default()
            })),
            CertificateWork::Remember(_) => Ok(CertificateDone::Remembered),
            _ => match self.pair {
                Some(not_after) => {
                    let pair = Pair {
                        id: PairId::new("07", "0123456789"),
                        serial: "07".to_owned(),
                        names: vec!["www.example.com".to_owned()],
                        not_before: WallTime::from_unix_millis(EPOCH_MS),
                        not_after,
                    };
                    let before = self.live.replace(pair.clone());
                    let changed = before.as_ref() != Some(&pair);
                    Ok(CertificateDone::Live { pair, changed })
                }
                None => Err(CertificateFault {
                    kind: CertificateFaultKind::Pair,
                    reason: "no such file".to_owned(),
                    retry_after: None,
                }),
            },
        };
        self.later(3, What::Host(Event::Certificate { ticket, result }));
    }

    /// The service issues a token, and names a server.
    fn registers(&mut self, ticket: Ticket) {
        let credential = Credential {
            source: CredentialSource::Registered,
            at: self.clock().wall,
            expires: None,
            gateway: Some("7".to_owned()),
            org: None,
            endpoint: Some("ws://named.by.service/v1/opamp".to_owned()),
            management_mode: None,
            unsaved: None,
        };
        self.credential = Some(credential.clone());
        let outcome = Ok(Box::new(credential));
        self.later(20, What::Host(Event::Registration { ticket, outcome }));
    }

    /// A pair is there that is valid for so long, and somebody says so.
    pub(crate) fn issue(&mut self, span: Duration) {
        let until = self.clock().wall.unix_millis() + u64::try_from(span.as_millis()).unwrap();
        self.pair = Some(WallTime::from_unix_millis(until));
        self.command(Command::RenewCertificate { name: None });
    }

    pub(crate) fn admit(&mut self, ticket: Ticket, settings: &Agent, uid: Option<[u8; 16]>) {
        let agent = settings.name.clone();
        let result = if let Some(reason) = self.no_admission {
            Err(reason.to_owned())
        } else {
            let room = self.rooms.get_mut(&agent).unwrap();
            let uid = uid.unwrap_or(room.uid);
            let leftover = room.leftover();
            let places = places(&agent, settings);
            Ok(Box::new(Admission {
                instance_uid: uid,
                state_dir: places.state_dir,
                link: places.link,
                reserved_ports: Vec::new(),
                certificates: places.certificates,
                supervisor: places.supervisor,
                port: Some(4000),
                facts: BTreeMap::new(),
                persisted: room.disk.persisted(settings),
                leftover,
                seed: 1,
            }))
        };
        let slow = self.slow_admission.filter(|it| it.0 == agent.as_str());
        let event = Event::Admitted {
            agent,
            ticket,
            result,
        };
        self.later(slow.map_or(4, |it| it.1), What::Host(event));
    }

    pub(crate) fn for_agent(&mut self, agent: &AgentName, effect: AgentEffect) {
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let result = self.rooms.get_mut(agent).unwrap().disk_work(work);
                self.answer(2, agent, AgentEvent::Disk { ticket, result });
            }
            AgentEffect::Spawn { ticket, spec } => self.spawn(agent, ticket, spec),
            AgentEffect::Signal {
                pid, signal, note, ..
            } => self.signal(agent, pid, signal, note.as_deref()),
            AgentEffect::RunTool { ticket, spec } => self.run_tool(agent, ticket, &spec),
            AgentEffect::HttpProbe { ticket, url, .. } => self.probe(agent, ticket, &url),
            AgentEffect::LookAtRoom { ticket, .. } => {
                let shortage = self.rooms[agent].shortage;
                let room = shortage.map_or(Ok(()), |it| Err(it.to_owned()));
                self.answer(1, agent, AgentEvent::RoomSeen { ticket, room });
            }
            AgentEffect::WatchOutput { ticket, .. } => {
                let room = self.rooms.get_mut(agent).unwrap();
                room.listening = Some(ticket);
                let result = room.unheard.map_or(Ok(()), |it| Err(it.to_owned()));
                self.answer(1, agent, AgentEvent::OutputWatched { ticket, result });
            }
            AgentEffect::WatchFiles { ticket, paths } => {
                let watch = (!paths.is_empty()).then_some(ticket);
                self.rooms.get_mut(agent).unwrap().watch = watch;
                if watch.is_some() {
                    let by = WatchedBy::Events;
                    self.answer(1, agent, AgentEvent::FilesWatched { ticket, by });
                }
            }
            AgentEffect::Dial { link, .. } => match self.rooms[agent].server {
                There::Up => {
                    self.rooms.get_mut(agent).unwrap().link = Some(link);
                    let event = LinkEvent::Up;
                    self.answer(5, agent, AgentEvent::Link { link, event });
                }
                There::Away => self.down(agent, link, LossKind::Network),
                There::Lost(kind, _) => self.down(agent, link, kind),
                There::Silent => {}
            },
            AgentEffect::Hangup { .. } if self.deaf_server => {}
            AgentEffect::Hangup { link } => self.down(agent, link, LossKind::Ours),
            AgentEffect::Send { link, frame } => self.hear(agent, link, &frame),
            AgentEffect::ReadCounters { .. } => unreachable!("no profile here counts"),
            AgentEffect::CancelTool { .. }
            | AgentEffect::LocalSend { .. }
            | AgentEffect::LocalClose { .. } => {}
        }
    }

    pub(crate) fn hear(&mut self, agent: &AgentName, link: LinkId, frame: &[u8]) {
        let message: AgentToServer = frame::decode(frame, FrameRules::default()).unwrap();
        self.tape.read(self.now, agent, &message);
        if self.rooms[agent].link == Some(link) {
            self.talk(agent, ServerToAgent::default());
        }
    }
}
