//! The server of the world: links, what it hears, what it offers.

use super::*;

impl World {
    pub(crate) fn dial(&mut self, link: LinkId, authorize: bool) {
        if self.server.up && self.is_rejected(authorize) {
            self.link_down(link, LossKind::Rejected, 5);
        } else if self.server.up && !self.strikes(|faults| faults.links) {
            if self.server.link.is_none() {
                self.server.link = Some(link);
            }
            self.network.let_in(link);
            self.agent_event(
                10,
                AgentEvent::Link {
                    link,
                    event: LinkEvent::Up,
                },
            );
        } else {
            self.link_down(link, LossKind::Network, 5);
        }
    }

    pub(crate) fn link_down(&mut self, link: LinkId, kind: LossKind, wait: u64) {
        if self.server.link == Some(link) {
            self.server.link = None;
        }
        self.network.gone(link);
        let loss = LinkLoss {
            kind,
            reason: "gone".to_owned(),
            retry_after: None,
        };
        self.agent_event(
            wait,
            AgentEvent::Link {
                link,
                event: LinkEvent::Down(loss),
            },
        );
    }

    pub(crate) fn server_hears(&mut self, link: LinkId, bytes: &[u8]) {
        if !self.network.stands(link) {
            return;
        }
        // A server talks where it is talked to.
        self.server.link = Some(link);
        let message: AgentToServer = frame::decode(bytes, FrameRules::default()).unwrap();
        assert_eq!(message.instance_uid, self.uid, "its own session");
        assert_ne!(
            message.capabilities & 1,
            0,
            "capabilities in every message (R-078)"
        );
        if let Some(before) = self.network.count(link, message.sequence_num) {
            assert_eq!(
                message.sequence_num,
                before + 1,
                "sequence without holes (R-061)"
            );
        }
        if let Some(health) = message.health {
            self.server.health = Some(health);
        }
        if let Some(effective) = message.effective_config {
            let map = effective.config_map.unwrap_or_default().config_map;
            let body = map.get("collect.yaml").map(|file| file.body.clone());
            self.server.effective = body.map(|body| String::from_utf8(body).unwrap());
        }
        if let Some(status) = message.remote_config_status {
            self.status_reported(status);
        }
        match message.connection_settings_status {
            Some(status) => {
                self.say(format_args!("server reads of settings: {status:?}"));
                self.network.status = Some(status);
            }
            // Another life, which knows of no offer.
            None if message.sequence_num == 0 => self.network.status = None,
            None => {}
        }
        let mut answer = ServerToAgent {
            connection_settings: self.network.owed(),
            instance_uid: self.uid.to_vec(),
            capabilities: 0x7,
            ..ServerToAgent::default()
        };
        let known = self
            .server
            .status
            .as_ref()
            .map(|s| s.last_remote_config_hash.clone());
        if let Some(offer) = &self.server.offer
            && known.as_ref() != Some(&offer.hash)
        {
            answer.remote_config = Some(remote_config(offer));
        }
        if self.strikes(|faults| faults.duplicates) {
            answer.flags = 1;
        }
        let wait = self.latency(20);
        self.later(
            wait,
            What::ServerAnswers {
                link,
                message: Box::new(answer),
            },
        );
        if self.strikes(|faults| faults.links) {
            self.link_down(link, LossKind::Network, 3);
        }
    }

    pub(crate) fn status_reported(&mut self, status: RemoteConfigStatus) {
        let hash = status.last_remote_config_hash.clone();
        // What was sent without files has no text.
        let text = self.server.offers.get(&hash).cloned();
        // Said again, it is about the moment in which it was said first: a person may have applied another since.
        let again = self.reported.last() == Some(&(hash.clone(), status.status));
        if let Some(text) = text
            && status.status == RemoteConfigStatuses::Applied as i32
            && !again
        {
            // On proof, before it is last good, it is what runs, and may yet turn out to be bad.
            let on_proof = self.settings().apply.report == ReportWhen::OnProof;
            let promoting = self.is_promoting();
            let runs = self.current().as_deref() == Some(text.as_str()) || promoting;
            let turns_bad = matches!(
                Behaviour::of(&text),
                Behaviour::DiesLater | Behaviour::NeverHealthy | Behaviour::Starves
            );
            if !(Behaviour::of(&text).is_good() || on_proof && turns_bad) {
                self.violated(&format!("APPLIED reported for {text:?}"));
            }
            if !(on_proof && runs) && self.text_at("last-good").as_deref() != Some(text.as_str()) {
                self.violated(&format!(
                    "APPLIED reported for {text:?}, which is not last good"
                ));
            }
            let living = self.children.values().filter(|child| child.alive);
            let mut living = living.filter(|_| !promoting);
            if let Some(other) = living.find(|child| !child.ending && child.text != text) {
                self.violated(&format!(
                    "APPLIED reported for {text:?}, and {:?} runs",
                    other.text
                ));
            }
        }
        self.say(format_args!(
            "server reads status {} {:?}",
            status.status, status.error_message
        ));
        self.reported.push((hash, status.status));
        self.server.status = Some(status);
    }

    /// `current` moves, or has moved and the disk has yet to say so: the order of a person takes the place of what was
    /// reported, and what is reported stays so for this one moment.
    fn is_promoting(&self) -> bool {
        let host = self.host.as_ref().unwrap();
        host.positions()
            .any(|(agent, _, rollout)| agent == &self.name && rollout == "promoting")
    }

    /// The server offers a config, now and whenever the agent does not report its hash.
    pub(crate) fn offer(&mut self, text: String) {
        self.protected = None;
        let hash = adjutant::units::RevisionHash::of([("", "", text.as_bytes())]).to_hex();
        let hash = format!("{hash}-{}", self.server.offers.len()).into_bytes();
        let offer = Offered {
            hash: hash.clone(),
            text: text.clone(),
        };
        self.say(format_args!("server offers {text:?}"));
        self.server.offers.insert(hash, text);
        self.server.offer = Some(offer.clone());
        if let Some(link) = self.server.link {
            let message = ServerToAgent {
                remote_config: Some(remote_config(&offer)),
                ..ServerToAgent::default()
            };
            self.later(
                5,
                What::ServerAnswers {
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    /// The server says the same again.
    pub(crate) fn offer_again(&mut self) {
        let offer = self.server.offer.clone().unwrap();
        let link = self.server.link.unwrap();
        let message = Box::new(ServerToAgent {
            remote_config: Some(remote_config(&offer)),
            ..ServerToAgent::default()
        });
        self.later(5, What::ServerAnswers { link, message });
    }

    /// The server says this of its config, once, and insists on nothing.
    pub(crate) fn send_config(&mut self, hash: &[u8], config: Option<AgentConfigMap>) {
        self.protected = None;
        self.server.offer = None;
        if let Some(link) = self.server.link {
            let message = ServerToAgent {
                remote_config: Some(AgentRemoteConfig {
                    config,
                    config_hash: hash.to_vec(),
                }),
                ..ServerToAgent::default()
            };
            self.later(
                1,
                What::ServerAnswers {
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    pub(crate) fn order_restart(&mut self) {
        self.protected = None;
        if let Some(link) = self.server.link {
            let message = ServerToAgent {
                command: Some(ServerToAgentCommand::default()),
                ..ServerToAgent::default()
            };
            self.later(
                1,
                What::ServerAnswers {
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    pub(crate) fn server_up(&mut self, up: bool) {
        self.server.up = up;
        self.say(format_args!("server up: {up}"));
        if !up && let Some(link) = self.server.link {
            self.link_down(link, LossKind::Network, 1);
        }
    }

    /// The link breaks; the server stays.
    pub(crate) fn break_link(&mut self) {
        if let Some(link) = self.server.link {
            self.link_down(link, LossKind::Network, 1);
        }
    }
}

pub(crate) fn remote_config(offer: &Offered) -> AgentRemoteConfig {
    let file = AgentConfigFile {
        body: offer.text.clone().into_bytes(),
        content_type: "text/yaml".to_owned(),
    };
    let mut config_map = BTreeMap::from([("collect.yaml".to_owned(), file)]);
    if let Some((_, rest)) = offer.text.split_once("# domain: ") {
        let file = AgentConfigFile {
            body: rest.lines().next().unwrap().as_bytes().to_vec(),
            content_type: "text/plain".to_owned(),
        };
        config_map.insert("ssl_certificate_host.txt".to_owned(), file);
    }
    if let Some((_, rest)) = offer.text.split_once("# with: ") {
        let file = AgentConfigFile {
            body: rest.lines().next().unwrap().as_bytes().to_vec(),
            content_type: "text/plain".to_owned(),
        };
        config_map.insert("extra.txt".to_owned(), file);
    }
    AgentRemoteConfig {
        config: Some(AgentConfigMap { config_map }),
        config_hash: offer.hash.clone(),
    }
}
