//! The ports of agents that come and go while the others run.
//!
//! Promises: what is slow (the disk) happens beside the loop; an answer brings ports that are ready before the host
//! hears of it; what was held for an agent that has left is given back at once.
//! Must never: say who comes or goes.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{AgentPorts, Performed, Ports};
use crate::config::Agent;
use crate::engine::message::{Admission, Event};
use crate::port::local::{LocalDoor, LocalReports};
use crate::units::{AgentName, Ticket};

/// Makes the ports of an agent.
pub(crate) type Admit =
    Arc<dyn Fn(&Agent, Option<[u8; 16]>) -> Result<Admitted, String> + Send + Sync>;

/// What came of making them.
pub(crate) type Admissions = (AgentName, Ticket, Result<Admitted, String>);

/// An agent with its ports.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) admission: Admission,
    pub(crate) ports: AgentPorts,
    pub(crate) door: Option<LocalDoor>,
    /// Whether what its child writes is passed through.
    pub(crate) passthrough: bool,
}

/// What agents that join are made with.
pub(crate) struct Joins {
    pub(crate) admit: Admit,
    /// Back to the loop.
    pub(crate) answers: mpsc::Sender<Admissions>,
    /// Where the own OpAMP of their children goes.
    pub(crate) locals: LocalReports,
}

impl Ports {
    pub(super) fn admit(
        &mut self,
        ticket: Ticket,
        agent: Agent,
        instance_uid: Option<[u8; 16]>,
    ) -> Performed {
        let name = agent.name.clone();
        let answered = {
            let agent = name.clone();
            move |reason: &str| {
                Some(Event::Admitted {
                    agent,
                    ticket,
                    result: Err(reason.to_owned()),
                })
            }
        };
        let Some(joins) = &self.joins else {
            let event = answered("nothing is there to make its ports with");
            return event.map_or(Performed::Quietly, Performed::Answered);
        };
        let (admit, answers) = (Arc::clone(&joins.admit), joins.answers.clone());
        let task = async move {
            let made = tokio::task::spawn_blocking(move || admit(&agent, instance_uid)).await;
            let made = made.unwrap_or_else(|error| Err(error.to_string()));
            // Nobody listening means that the program ends.
            answers.send((name, ticket, made)).await.ok();
            None
        };
        self.tasks.spawn(task, answered);
        Performed::Quietly
    }

    /// Takes the ports of an agent over, and tells the host.
    pub(crate) fn on_admitted(&mut self, (agent, ticket, made): Admissions) -> Event {
        let result = made.and_then(|made| self.take_over(&agent, made));
        Event::Admitted {
            agent,
            ticket,
            result,
        }
    }

    fn take_over(&mut self, agent: &AgentName, made: Admitted) -> Result<Box<Admission>, String> {
        let Admitted {
            admission,
            ports,
            door,
            passthrough,
        } = made;
        if let Some(leftover) = &admission.leftover {
            let child = leftover.child.clone();
            self.children
                .watch_leftover(agent, &ports.dirs, child, passthrough)
                .map_err(|error| format!("watch the child of an earlier life: {error}"))?;
        }
        self.agents.insert(agent.clone(), ports);
        let locals = self.joins.as_ref().map(|joins| joins.locals.clone());
        if let Some((door, locals)) = door.zip(locals) {
            self.serve_child(agent, door, locals);
        }
        Ok(Box::new(admission))
    }

    /// Gives back what was held for an agent. Its writer ends with what it has begun.
    pub(super) fn dismiss(&mut self, agent: &AgentName) {
        drop(self.agents.remove(agent));
        if let Some(door) = self.doors.remove(agent) {
            self.tasks.abort_silently(&door);
        }
        self.locals.retain(|key, _| key.agent != *agent);
        #[cfg(feature = "layers")]
        for watch in self.watches.remove(agent).into_iter().flatten() {
            self.tasks.abort_silently(&watch);
        }
        let links = self.links.keys().filter(|key| key.agent == *agent);
        for key in links.cloned().collect::<Vec<_>>() {
            if let Some(link) = self.links.remove(&key) {
                self.tasks.abort_silently(&link.task);
            }
        }
    }
}
