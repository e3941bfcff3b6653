//! Kernel events as a source: process exec and exit, TCP connections, OOM kills (F-104…F-106).
//!
//! Promises: what the programs in the kernel saw is emitted or counted as lost, and each loss leaves a gap record where
//! it happened; a host that cannot do it is unsupported with the reason, and neither down nor tried again.
//! Must never: attach anything itself — [`prepare`] does, before the process has a second thread, and what was
//! detached stays detached for this life.

#[cfg(feature = "ebpf")]
mod drain;
#[cfg(feature = "ebpf")]
mod event;

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Buffer, Events, Outlet, Source, StartError};
use crate::dataplane::config::Config;
use crate::dataplane::ebpf::{self, Attached};
use crate::dataplane::health::{Health, HealthCell};

/// What became of the programs: attached, or the reason why not.
pub(crate) type Prepared = Result<Box<Attached>, String>;

/// Attaches what a config asks for and gives up every capability of this thread and those it will start. Without a
/// kernel source nothing happens at all.
pub(crate) fn prepare(config: &Config, supervised: bool) -> Option<Prepared> {
    let (id, _, kernel) = config.kernel()?;
    let prepared = ebpf::attach(kernel, supervised);
    Some(match ebpf::drop_all() {
        Ok(()) => {
            tracing::info!(source = id, "capabilities given up");
            prepared
        }
        // What was attached goes with this: to run on with all privileges is not what was asked for.
        Err(error) => Err(format!("give up the capabilities of this process: {error}")),
    })
}

/// The source of kernel events.
#[derive(Debug)]
pub(crate) struct Kernel {
    id: Arc<str>,
    prepared: Option<Prepared>,
    buffer: Buffer,
    health: HealthCell,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
    events: Option<Events>,
    /// Keeps the stream open where nobody writes to it.
    _idle: Option<Outlet>,
}

impl Kernel {
    /// Builds the source around what was prepared for it.
    pub(crate) fn new(
        id: &str,
        prepared: Option<Prepared>,
        buffer: Buffer,
        health: HealthCell,
    ) -> Self {
        Self {
            id: id.into(),
            prepared,
            buffer,
            health,
            running: None,
        }
    }
}

impl Source for Kernel {
    fn name(&self) -> &str {
        &self.id
    }

    async fn start(&mut self) -> Result<(), StartError> {
        if self.running.is_some() {
            return Err(StartError::AlreadyStarted(Arc::clone(&self.id)));
        }
        let detached = || StartError::Detached(Arc::clone(&self.id));
        let attached = match self.prepared.take().ok_or_else(detached)? {
            Ok(attached) => attached,
            Err(why) => {
                let (outlet, events) = self.buffer.open();
                self.health.set(Health::Unsupported(why.clone()));
                self.prepared = Some(Err(why));
                self.running = Some(Running {
                    stop: None,
                    tasks: JoinSet::new(),
                    events: Some(events),
                    _idle: Some(outlet),
                });
                return Ok(());
            }
        };
        self.running = Some(run(attached, &self.buffer, &self.health)?);
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(Running { stop, tasks, .. }) = self.running.take() {
            drop(stop);
            super::finish(tasks).await;
        }
    }

    fn events(&mut self) -> Option<Events> {
        self.running.as_mut()?.events.take()
    }

    fn healthy(&self) -> Health {
        self.health.get()
    }
}

#[cfg(feature = "ebpf")]
fn run(
    attached: Box<Attached>,
    buffer: &Buffer,
    health: &HealthCell,
) -> Result<Running, StartError> {
    let (outlet, events) = buffer.open();
    let (stop, stopped) = oneshot::channel();
    let without: Vec<_> = attached
        .without
        .iter()
        .map(|(what, why)| format!("no events of kind {what} here: {why}"))
        .collect();
    let drain =
        drain::Drain::new(attached, outlet, health.clone()).map_err(|source| StartError::Io {
            what: "watch",
            path: "the ring of kernel events".into(),
            source,
        })?;
    let mut tasks = JoinSet::new();
    tasks.spawn(drain.run(stopped));
    health.set(if without.is_empty() {
        Health::Ok
    } else {
        Health::Degraded(without.join("; "))
    });
    Ok(Running {
        stop: Some(stop),
        tasks,
        events: Some(events),
        _idle: None,
    })
}

#[cfg(not(feature = "ebpf"))]
#[expect(
    clippy::boxed_local,
    clippy::needless_pass_by_value,
    reason = "stands in for the real one"
)]
fn run(attached: Box<Attached>, _: &Buffer, _: &HealthCell) -> Result<Running, StartError> {
    match *attached {}
}
