//! The watch over an agent's files: one at a time, replaced by the next.
//!
//! Promises: two answers, the first when the watch is armed, the second when a file may have changed; none for a watch
//! that was replaced. Must never: wait for a disk on the loop's thread.

use std::path::PathBuf;

use tokio::sync::oneshot;

use super::Ports;
use crate::engine::message::{AgentEvent, Event, WatchedBy};
use crate::port::watch::{FileWatch, LOOK_EVERY};
use crate::units::{AgentName, Ticket};

impl Ports {
    /// Watches files in place of those that were watched; none ends the watch.
    pub(super) fn watch_files(&mut self, agent: AgentName, ticket: Ticket, paths: Vec<PathBuf>) {
        if let Some(old) = self.watches.remove(&agent) {
            for task in &old {
                self.tasks.abort_silently(task);
            }
        }
        if paths.is_empty() {
            return;
        }
        let (armed, begun) = oneshot::channel::<FileWatch>();
        let of = |agent: AgentName, event| Some(Event::Agent { agent, event });
        let arming = {
            let agent = agent.clone();
            async move {
                // Links and directories may be on a slow disk.
                let made = tokio::task::spawn_blocking(|| FileWatch::begin(paths, LOOK_EVERY));
                let watch = made.await.ok()?;
                let by = watch.by();
                // Nobody takes it when this watch was replaced meanwhile.
                armed.send(watch).ok()?;
                of(agent, AgentEvent::FilesWatched { ticket, by })
            }
        };
        let broken = {
            let agent = agent.clone();
            move |reason: &str| {
                let by = WatchedBy::Looks {
                    every: LOOK_EVERY,
                    reason: format!("the watch broke: {reason}"),
                };
                of(agent, AgentEvent::FilesWatched { ticket, by })
            }
        };
        let arming = self.tasks.spawn(arming, broken);
        let touched = AgentEvent::FilesTouched { ticket };
        let waiting = {
            let agent = agent.clone();
            async move {
                begun.await.ok()?.changed().await;
                of(agent, touched)
            }
        };
        let waiting = self.tasks.spawn(waiting, |_| None);
        self.watches.insert(agent, [arming, waiting]);
    }
}
