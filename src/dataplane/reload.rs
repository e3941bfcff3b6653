//! The plane: a pipeline and the config it runs, with the reload that leads from one to the next.
//!
//! Promises: a config that does not load changes nothing and is reported FAILED with its errors; one that loads is
//! APPLIED when every part of it was built, and parts whose definition did not change were not touched.
//! Must never: stop because a config is bad.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::collect::kernel;
use super::config::{self, Config};
use super::link::{ConfigStatus, Report};
use super::load::{self, LoadError, Loaded};
use super::pipeline::{Event, Pipeline};
use super::upload::Resource;
use crate::sys::clock;

/// Attributes that we add to a config's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// `host.name`.
    pub(crate) name: String,
    /// `service.instance.id`.
    pub(crate) instance_id: String,
    /// Whether our parent is the supervisor.
    pub(crate) supervised: bool,
}

impl Host {
    fn resource(&self, own: &[(String, String)]) -> Resource {
        let mut attributes = own.to_vec();
        for (name, value) in [
            ("host.name", &self.name),
            ("service.instance.id", &self.instance_id),
        ] {
            if !attributes.iter().any(|(known, _)| known == name) {
                attributes.push((name.to_owned(), value.clone()));
            }
        }
        Resource { attributes }
    }
}

/// A running data plane.
#[derive(Debug)]
pub(crate) struct Plane {
    dir: Option<PathBuf>,
    host: Host,
    pipeline: Pipeline,
    running: Loaded,
    status: ConfigStatus,
}

impl Plane {
    /// Starts what the directory says, or the built-in default without one.
    ///
    /// # Errors
    /// There is nothing to run.
    pub(crate) async fn start(
        dir: Option<PathBuf>,
        host: Host,
        changed: Arc<Notify>,
    ) -> Result<Self, LoadError> {
        let running = match &dir {
            Some(dir) => load::load(dir)?,
            None => load::built_in()?,
        };
        let prepared = kernel::prepare(&running.config, host.supervised);
        let mut plane = Self {
            dir,
            host,
            pipeline: Pipeline::new(changed).prepared(prepared),
            status: ConfigStatus::Applied(running.revision),
            running,
        };
        plane.apply().await;
        Ok(plane)
    }

    async fn apply(&mut self) {
        let resource = self.host.resource(&self.running.config.resource);
        self.pipeline.apply(&self.running.config, resource).await;
        tracing::info!(
            revision_hash = self.running.revision.short(),
            sources = self.running.config.sources.len(),
            uploads = self.running.config.uploads.len(),
            "config applied"
        );
    }

    /// Reads the directory again and goes over to what it says.
    pub(crate) async fn reload(&mut self) {
        let loaded = match &self.dir {
            Some(dir) => load::load(dir),
            None => load::built_in(),
        };
        match loaded.and_then(|loaded| self.needs_no_restart(loaded)) {
            Ok(loaded) => {
                self.status = ConfigStatus::Applied(loaded.revision);
                self.running = loaded;
                self.apply().await;
            }
            Err(error) => {
                let reason = error.text();
                tracing::error!(reason, "config refused, the last one goes on");
                self.status = ConfigStatus::Failed(error.revision, reason);
            }
        }
    }

    /// Refuses a config that asks for other kernel events: their programs were attached with privileges that this
    /// process no longer has. The supervisor knows this of the profile and restarts instead of asking.
    fn needs_no_restart(&self, loaded: Loaded) -> Result<Loaded, LoadError> {
        let part = |config: &Config| {
            let (id, source, _) = config.kernel()?;
            Some((id.to_owned(), source.clone()))
        };
        if part(&loaded.config) == part(&self.running.config) {
            return Ok(loaded);
        }
        Err(LoadError::one(
            Some(loaded.revision),
            config::FILE_NAME,
            "sources of kind kernel change, which needs a restart of the data plane".to_owned(),
        ))
    }

    /// Waits for something to handle.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next(&mut self) -> Event {
        self.pipeline.next().await
    }

    /// Does what an event asks for.
    pub(crate) async fn handle(&mut self, event: Event) {
        self.pipeline.handle(event).await;
    }

    /// Stops inside the budget; the last line says what became of everything.
    pub(crate) async fn stop(&mut self, budget: Duration) {
        self.pipeline.stop(budget).await;
        let books = self.pipeline.delivery_totals();
        tracing::info!(%books, closed = books.closed(), "data plane stopped");
    }

    /// The state as of now.
    pub(crate) fn report(&self) -> Report {
        let untaken = self.pipeline.untaken();
        let summary = match (self.dir.is_some(), untaken.is_empty()) {
            (false, _) => "waiting for config".to_owned(),
            (true, true) => "running".to_owned(),
            (true, false) => format!("running; no upload takes from {}", untaken.join(", ")),
        };
        Report {
            status: self.status.clone(),
            files: self.running.files.clone(),
            summary,
            parts: self.pipeline.parts(),
            at: clock::wall(),
        }
    }
}

#[cfg(test)]
mod tests;
