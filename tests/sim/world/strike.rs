//! Events that meet a state which they would hardly ever meet by chance.
//!
//! Promises: what is done here can happen to a host: a disk takes its time, a validator answers late, a child dies,
//! says something or dials again, somebody gives an order. Nothing is told out of its order.

use super::*;

impl World {
    /// Waits for a state of the agent that is talked about, makes it last for a while, and lets the event happen.
    pub(crate) fn strike(&mut self, state: &'static str, event: &'static str) {
        if event == "lu" {
            // It dials again in a moment.
            self.break_link();
        }
        self.reach(state);
        if !self.is_in(state) || self.host.is_none() {
            return;
        }
        let natural =
            matches!(event, "di" | "df") || matches!((state, event), ("starting", "sp" | "sf"));
        match state {
            _ if natural => {}
            "validating" | "trying" => self.hold_up(2_000, |what| {
                matches!(
                    what,
                    What::Host(Event::Agent {
                        event: AgentEvent::ToolDone { .. },
                        ..
                    })
                )
            }),
            // Longer, and it would dial before it is known to run.
            "starting" => self.hold_up(30, |what| {
                let started = |event: &AgentEvent| {
                    matches!(
                        event,
                        AgentEvent::Spawned { .. } | AgentEvent::SpawnFailed { .. }
                    )
                };
                matches!(what, What::Host(Event::Agent { event, .. }) if started(event))
            }),
            "stopping" => self.hold_up(2_000, |what| matches!(what, What::ChildDies { .. })),
            _ => self.stall_disk(8_000),
        }
        self.provoke(event);
        self.run(Duration::from_secs(10));
        (self.no_spawn, self.no_disk) = (false, false);
    }

    /// What the disk is asked for now takes so many milliseconds longer.
    pub(crate) fn stall_disk(&mut self, wait: u64) {
        self.hold_up(wait, |what| {
            let answer = |event: &AgentEvent| matches!(event, AgentEvent::Disk { .. });
            matches!(what, What::Disk { .. })
                || matches!(what, What::Host(Event::Agent { event, .. }) if answer(event))
        });
    }

    /// What leads to a state that takes more than an offer and some patience.
    fn reach(&mut self, state: &'static str) {
        let patience = Duration::from_secs(40);
        match state {
            "fetching baseline" => {
                // Refused inside the window of another one, which is not last good yet.
                let refused = self.server.offer.clone().map(|offer| offer.text);
                self.offer(Behaviour::Ok.text(self.now));
                self.run_until("probation", patience);
                self.offer(refused.unwrap_or_default());
            }
            "recalling" if self.run_until("marking promoted", patience) => {
                self.die(Death::Killed);
            }
            "restoring good"
                if self.run_until("proving", patience) && self.last_good().is_some() =>
            {
                self.scribble_at("last-good");
            }
            "returning" | "settling" | "marking rolled back" => {
                self.run_until("rejecting", patience);
            }
            _ => {}
        }
        self.run_until(state, patience);
    }

    /// What of this kind is due for the agent comes later, in the same order.
    fn hold_up(&mut self, wait: u64, which: impl Fn(&What) -> bool) {
        let of = self.at;
        let held = self
            .queue
            .iter()
            .filter(|(_, due)| due.at == of && which(&due.what));
        let held: Vec<_> = held.map(|(key, _)| *key).collect();
        for key in held {
            let due = self.queue.remove(&key).unwrap();
            self.queue.insert((key.0 + wait, key.1), due);
        }
    }

    fn provoke(&mut self, event: &'static str) {
        match event {
            "di" => self.person_looks(),
            "df" => {
                self.no_disk = true;
                self.person_looks();
            }
            // Nobody hears of its end before they heard of its start.
            "sp" | "sf" if self.is_in("starting") => {}
            "sp" | "ex" => self.end_own_child(),
            "sf" => {
                self.no_spawn = true;
                self.end_own_child();
            }
            "to" => self.validator_answers_again(),
            "lm" => self.server_says_nothing_new(),
            "ld" => self.break_link(),
            "co" => self.child_dials_again(true),
            "cc" => self.child_dials_again(false),
            "cm" => self.child_says_it_again(),
            "ti" => self.jump(1_000),
            "te" => self.terminate(),
            "hu" | "se" => self.hang_up(),
            "or" => match self.random.below(4) {
                0 => self.person_restarts(),
                1 => self.person_reloads(),
                2 => self.person_rolls_back(),
                _ => self.person_applies(&Behaviour::Ok.text(700)),
            },
            // The link comes up by itself.
            _ => {}
        }
    }

    /// The child of the agent that is talked about dies, and the supervisor is told.
    fn end_own_child(&mut self) {
        let living: Vec<u32> = self.living().into_iter().map(|(pid, _)| pid).collect();
        for pid in living {
            self.child_dies(pid, 0, ExitStatus::Signal(11));
        }
    }

    /// As after it was called off when it had just ended.
    fn validator_answers_again(&mut self) {
        let Some(ticket) = self.tool else { return };
        let outcome = ToolOutcome {
            end: ToolEnd::Exited(0),
            output: String::new(),
        };
        self.agent_event(0, AgentEvent::ToolDone { ticket, outcome });
    }

    fn server_says_nothing_new(&mut self) {
        if let Some(link) = self.server.link {
            let message = Box::new(ServerToAgent::default());
            self.later(0, What::ServerAnswers { link, message });
        }
    }

    /// The connection of the living child, where it has come to speak.
    fn speaking(&self) -> Option<(u32, u64, Option<u64>)> {
        let (pid, child) = self.children.iter().find(|(_, child)| child.alive)?;
        let speaks = child.talks_at.is_some_and(|at| at < self.now);
        speaks.then_some((*pid, child.generation, child.connection))
    }

    fn child_dials_again(&mut self, at_once: bool) {
        let Some((pid, generation, connection)) = self.speaking() else {
            return;
        };
        if let Some(connection) = connection {
            self.children.get_mut(&pid).unwrap().connection = None;
            let event = LocalEvent::Closed;
            self.agent_event(0, AgentEvent::Local { connection, event });
        }
        let wait = if at_once { 0 } else { 3_000 };
        self.later(wait, What::ChildTalks { pid, generation });
    }

    fn child_says_it_again(&mut self) {
        if let Some((pid, generation, Some(_))) = self.speaking() {
            self.later(0, What::ChildTalks { pid, generation });
        }
    }
}
