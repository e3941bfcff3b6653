//! What the product wants done, done by the world.
//!
//! Promises: every effect has its answer sooner or later, unless its process dies; the process may die before any of
//! them.

use super::*;

impl World {
    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.effects += 1;
            if let Some((at, death)) = self.kill_at_effect
                && self.effects == at
            {
                self.kill_at_effect = None;
                // The signal goes out before it is written down what it said.
                if let Effect::Agent {
                    effect:
                        AgentEffect::Signal {
                            pid,
                            signal,
                            group: false,
                            ..
                        },
                    ..
                } = &effect
                    && self.random.below(2) == 0
                {
                    let (pid, signal) = (*pid, *signal);
                    self.signal(pid, signal, false, None);
                }
                self.die(death);
            }
            if self.host.is_none() {
                return;
            }
            match effect {
                Effect::Agent { agent, effect } => {
                    self.at = self.place_of(&agent);
                    self.agent_effect(effect);
                }
                Effect::Register { ticket, call, .. } => {
                    let wait = self.latency(200);
                    self.later(wait, What::Call { ticket, call });
                }
                Effect::SaveCredential { ticket } => {
                    self.later(1, What::SaveCredential { ticket });
                }
                Effect::SaveIdentity { ticket, .. } => {
                    self.later(
                        5,
                        What::Host(Event::IdentitySaved {
                            ticket,
                            result: Ok(()),
                        }),
                    );
                }
                Effect::Note(note) => {
                    if let Some(agent) = &note.agent {
                        self.at = self.place_of(agent);
                    }
                    if note.message == "rollout phase" {
                        let to = note.fields.iter().find(|(key, _)| *key == "to");
                        self.phases.push(to.unwrap().1.clone());
                    }
                    if note.message == "no config left to try" {
                        self.order.failures += 1;
                    }
                    let stopped = |(_, words): &(_, String)| words.contains("data stopped to flow");
                    if note.message == "config did not hold"
                        && note.fields.iter().any(stopped)
                        && self
                            .current()
                            .is_some_and(|text| Behaviour::of(&text) == Behaviour::Flows)
                    {
                        self.violated("rolled back for a flow that is there");
                    }
                    self.say(format_args!("note {} {:?}", note.message, note.fields));
                }
                Effect::LastWords(words) => self.say(format_args!("last words: {words}")),
                Effect::Announce(milestone) => self.say(format_args!("announce {milestone:?}")),
                Effect::LookAtClock { ticket, .. } => {
                    let look = ClockLook {
                        skew_ms: Some(Ok(0)),
                        ..ClockLook::default()
                    };
                    self.later(20, What::Host(Event::Clock { ticket, look }));
                }
                Effect::Certificate { ticket, name, work } => self.certificate(ticket, name, work),
                Effect::CancelCertificate { ticket } => {
                    self.say(format_args!("order {ticket:?} called off"));
                    self.cancelled.insert(ticket);
                }
                Effect::Reply { .. } => {}
                Effect::ReadSettings => {
                    let settings = Ok(Box::new(self.config.clone()));
                    self.later(1, What::Host(Event::Settings(settings)));
                }
                Effect::Admit { .. } | Effect::Dismiss { .. } => {
                    unreachable!("the agents of a world stay the same")
                }
                Effect::Exit(reason) => {
                    self.say(format_args!("exit {reason:?}"));
                    self.stop = None;
                    self.exited = true;
                    self.host = None;
                    return;
                }
            }
        }
    }

    fn agent_effect(&mut self, effect: AgentEffect) {
        self.say_short("effect", &effect);
        match effect {
            AgentEffect::Disk { ticket, work } => {
                let wait = self.latency(15);
                self.later(
                    wait,
                    What::Disk {
                        ticket,
                        work: Box::new(work),
                    },
                );
            }
            AgentEffect::Spawn { ticket, spec } => self.spawn(ticket, &spec),
            AgentEffect::Signal {
                pid,
                signal,
                group,
                note,
            } => self.signal(pid, signal, group, note.as_deref()),
            AgentEffect::RunTool { ticket, spec } => self.run_tool(ticket, &spec),
            // It may have ended already: then its answer is on its way.
            AgentEffect::CancelTool { .. } => {}
            AgentEffect::WatchFiles { ticket, paths } => self.watch_files(ticket, &paths),
            #[cfg(feature = "flow")]
            AgentEffect::ReadCounters { .. } => {
                unreachable!("the profile counts over its own link")
            }
            AgentEffect::LookAtRoom { ticket, .. } => {
                let short = self.strikes(|faults| faults.spawns);
                if short {
                    // A reason of its own for a new process.
                    self.protected = None;
                }
                let room = if short {
                    Err("all of its descriptors are open".to_owned())
                } else {
                    Ok(())
                };
                self.agent_event(0, AgentEvent::RoomSeen { ticket, room });
            }
            AgentEffect::WatchOutput { .. } => unreachable!("the profile has no proof by output"),
            AgentEffect::HttpProbe { .. } => unreachable!("the profile has no HTTP probe"),
            AgentEffect::Dial {
                link,
                authorize,
                server,
                offered,
                ..
            } => {
                if self.network.dialled(link, &server, offered.as_deref()) {
                    self.dial(link, authorize);
                } else {
                    self.link_down(link, LossKind::Network, 5);
                }
            }
            AgentEffect::Send { link, frame } => self.server_hears(link, &frame),
            AgentEffect::Hangup { link } => {
                let ours = LossKind::Ours;
                self.link_down(link, ours, 2);
            }
            AgentEffect::LocalSend { .. } => {}
            AgentEffect::LocalClose { connection } => {
                for child in self.children.values_mut() {
                    if child.connection == Some(connection) {
                        child.connection = None;
                    }
                }
            }
        }
    }
}
