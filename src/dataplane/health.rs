//! How one part of the data plane feels, and how others hear of a change.
//!
//! Promises: a change is logged once and wakes the reporter once; setting the same again does neither.
//! Must never: decide what to do about it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// The state of one source or upload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Health {
    /// Built, not started.
    #[default]
    Starting,
    /// Does its job.
    Ok,
    /// Does part of its job, or does it again soon.
    Degraded(String),
    /// This host cannot do its job, and nothing is wrong with the config: the same one may run on many hosts.
    Unsupported(String),
    /// Does not keep up with its job. Whoever is on the far side is to blame, so this says nothing about the config.
    Behind(String),
    /// Does not do its job; somebody may have to act.
    Down(String),
}

impl Health {
    /// Whether it does its whole job.
    #[cfg(test)]
    pub(crate) const fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }

    /// The word in reports.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) => "unsupported",
            Self::Behind(_) | Self::Down(_) => "error",
        }
    }

    /// What is wrong; empty when nothing is.
    pub(crate) fn error(&self) -> &str {
        match self {
            Self::Starting | Self::Ok => "",
            Self::Degraded(error)
            | Self::Unsupported(error)
            | Self::Behind(error)
            | Self::Down(error) => error,
        }
    }
}

/// Where a part writes its health; clones write to the same place.
#[derive(Debug, Clone)]
pub(crate) struct HealthCell {
    part: Arc<str>,
    state: Arc<watch::Sender<Health>>,
    changed: Arc<Notify>,
}

impl HealthCell {
    /// A cell of a part such as `source host`; `changed` is woken at every change.
    pub(crate) fn new(part: &str, changed: Arc<Notify>) -> Self {
        Self {
            part: part.into(),
            state: Arc::new(watch::Sender::new(Health::Starting)),
            changed,
        }
    }

    /// Writes the health.
    pub(crate) fn set(&self, health: Health) {
        let changed = self.state.send_if_modified(|state| {
            if *state == health {
                return false;
            }
            *state = health;
            true
        });
        if !changed {
            return;
        }
        let part = &*self.part;
        match &*self.state.borrow() {
            Health::Starting => {}
            Health::Ok => tracing::info!(part, "part healthy"),
            Health::Degraded(reason) => tracing::warn!(part, reason, "part degraded"),
            Health::Unsupported(reason) => tracing::warn!(part, reason, "part unsupported"),
            Health::Behind(reason) => tracing::error!(part, reason, "part behind"),
            Health::Down(reason) => tracing::error!(part, reason, "part down"),
        }
        self.changed.notify_one();
    }

    /// Waits until the health is as wanted, for half a minute.
    #[cfg(test)]
    pub(crate) async fn wait_for(&self, mut wanted: impl FnMut(&Health) -> bool) {
        let mut state = self.state.subscribe();
        let found = state.wait_for(|health| wanted(health));
        let found = tokio::time::timeout(std::time::Duration::from_secs(30), found).await;
        let found = found.map(|state| state.is_ok());
        assert_eq!(found, Ok(true), "it is {:?}", self.get());
    }

    /// Reads the health.
    pub(crate) fn get(&self) -> Health {
        self.state.borrow().clone()
    }
}
