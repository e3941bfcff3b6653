//! Questions to a child: over HTTP on loopback, and of what it writes.
//!
//! Promises: each is answered once by an event, also when its task breaks, and a watch over output besides when there
//! is something to say. Must never: wait on the loop's thread, or judge an answer.

use std::time::Duration;

use super::Ports;
#[cfg(feature = "flow")]
use crate::engine::message::CounterQuestion;
use crate::engine::message::{AgentEvent, Event};
use crate::port::probe;
use crate::units::{AgentName, Ticket};

impl Ports {
    pub(super) fn probe(
        &mut self,
        agent: AgentName,
        ticket: Ticket,
        url: String,
        timeout: Duration,
    ) {
        let probed = move |agent, outcome| Event::Agent {
            agent,
            event: AgentEvent::HttpProbed { ticket, outcome },
        };
        let lost = {
            let agent = agent.clone();
            move |reason: &str| Some(probed(agent, Err(format!("the probe broke: {reason}"))))
        };
        let task = async move {
            let outcome = probe::http_get(&url, timeout).await;
            Some(probed(agent, outcome))
        };
        self.tasks.spawn(task, lost);
    }

    #[cfg(feature = "flow")]
    pub(super) fn read_counters(
        &mut self,
        agent: AgentName,
        ticket: Ticket,
        question: CounterQuestion,
    ) {
        let read = move |agent, result| Event::Agent {
            agent,
            event: AgentEvent::CountersRead { ticket, result },
        };
        let lost = {
            let agent = agent.clone();
            move |reason: &str| Some(read(agent, Err(format!("the question broke: {reason}"))))
        };
        let task = async move {
            let result = probe::read_counters(&question).await;
            Some(read(agent, result))
        };
        self.tasks.spawn(task, lost);
    }

    /// Two answers, each from a task of its own; neither comes when the child ends before.
    pub(super) fn watch_output(
        &mut self,
        agent: &AgentName,
        ticket: Ticket,
        reloaded: Vec<String>,
        failed: Vec<String>,
    ) -> Option<AgentEvent> {
        let watch = match self.children.watch_output(agent, reloaded, failed) {
            Ok(watch) => watch,
            Err(reason) => {
                let result = Err(reason);
                return Some(AgentEvent::OutputWatched { ticket, result });
            }
        };
        let of = |event| {
            let agent = agent.clone();
            Some(Event::Agent { agent, event })
        };
        let begun = of(AgentEvent::OutputWatched {
            ticket,
            result: Ok(()),
        });
        let has_begun = watch.has_begun;
        self.tasks
            .spawn(async move { has_begun.await.ok().and(begun) }, |_| None);
        let (heard, agent) = (watch.said, agent.clone());
        let said = async move {
            let said = heard.await.ok()?;
            let event = AgentEvent::OutputSaid { ticket, said };
            Some(Event::Agent { agent, event })
        };
        self.tasks.spawn(said, |_| None);
        None
    }
}
