//! What the loop tells, handed to the queues; what is started and how it ends.
//!
//! Promises and prohibitions are those of the module above.

use std::sync::Arc;
use std::time::Duration;

use opamp_client::transport::ProxyRules;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::encode::{Sender, text};
use super::logs::Copier;
use super::metrics::Reader;
use super::pipeline::{Counts, Intake, Outlet, Pipeline, Queue, Record};
pub(crate) use super::resource::Known;
use super::resource::sender;
use super::spans::Spans;
use crate::config::telemetry::{self as settings, Export};
use crate::engine::message::{AgentEvent, Event, LinkEvent, Note};
use crate::port::admin::Questions;
use crate::sys::log;
use crate::units::Now;

/// The most that the last requests may take at the stop.
const LAST_MAX: Duration = Duration::from_secs(2);
/// The least, whatever is left of the budget: a receiver on this host answers in less.
const LAST_MIN: Duration = Duration::from_millis(200);

/// Own telemetry before the loop runs: the log is copied from here on.
#[derive(Debug)]
pub(crate) struct Starting {
    settings: settings::Telemetry,
    logs: Vec<(Export, Queue, Arc<Counts>)>,
}

impl Starting {
    /// Takes the settings, and gives what is to be added to the log.
    pub(crate) fn new(settings: settings::Telemetry) -> (Self, Option<log::Extra>) {
        let mut intakes = Vec::new();
        let mut logs = Vec::new();
        for export in &settings.logs {
            let (intake, queue) = Intake::new(export.queue_max);
            logs.push((export.clone(), queue, Arc::clone(&intake.counts)));
            intakes.push(intake);
        }
        let extra = (!intakes.is_empty()).then(|| Box::new(Copier(intakes)) as log::Extra);
        (Self { settings, logs }, extra)
    }

    /// Starts what sends.
    pub(crate) fn run(
        self,
        (began, now): (Now, Now),
        known: &Known<'_>,
        proxies: &ProxyRules,
        questions: &Questions,
    ) -> Telemetry {
        if !self.settings.is_on() {
            return Telemetry::default();
        }
        let from: Arc<Sender> = Arc::new(sender(&self.settings.resource, known));
        let outlet = |signal, export| Outlet {
            signal,
            export,
            sender: Arc::clone(&from),
            proxies: proxies.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        let (last_reading, last) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut queues = Vec::new();
        for (export, queue, counts) in self.logs {
            queues.push(("logs", counts));
            let pipeline = Pipeline::new(queue, outlet("logs", export), stopped.clone());
            tasks.spawn_local(pipeline.run());
        }
        let mut traces = Vec::new();
        for export in self.settings.traces {
            let (intake, queue) = Intake::new(export.queue_max);
            queues.push(("traces", Arc::clone(&intake.counts)));
            traces.push(intake);
            let pipeline = Pipeline::new(queue, outlet("traces", export), stopped.clone());
            tasks.spawn_local(pipeline.run());
        }
        let reader = Reader {
            questions: questions.clone(),
            started: began.wall.unix_nanos(),
            queues,
        };
        for export in self.settings.metrics {
            let reader = reader.clone();
            tasks.spawn_local(reader.run(outlet("metrics", export), last.clone()));
        }
        let mut running = Running {
            spans: Spans::default(),
            traces,
            tasks,
            stop,
            last_reading,
            stopping: None,
        };
        // The name that the Collector's own supervisor has for finding out what it is going to run.
        running.single("GetBootstrapInfo", (began, now), None);
        Telemetry(Some(Box::new(running)))
    }
}

/// Own telemetry while the loop runs.
#[derive(Debug, Default)]
pub(crate) struct Telemetry(Option<Box<Running>>);

#[derive(Debug)]
struct Running {
    spans: Spans,
    traces: Vec<Intake>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    last_reading: watch::Sender<bool>,
    /// When the way down began.
    stopping: Option<Now>,
}

impl Telemetry {
    /// A transition, as it goes to the log.
    pub(crate) fn note(&mut self, now: Now, note: &Note) {
        let Some(running) = &mut self.0 else { return };
        if note.message == "stopping" && running.stopping.is_none() {
            running.stopping = Some(now);
            running.last_reading.send_replace(true);
        }
        if running.traces.is_empty() {
            return;
        }
        for span in running.spans.note(now, note) {
            running.push(&span);
        }
    }

    /// Whether the time that this event takes is told.
    pub(crate) fn watch(&self, event: &Event) -> Option<String> {
        let running = self
            .0
            .as_ref()
            .filter(|running| !running.traces.is_empty())?;
        _ = running;
        match event {
            Event::Agent {
                agent,
                event:
                    AgentEvent::Link {
                        event: LinkEvent::Frame(_),
                        ..
                    },
            } => Some(agent.to_string()),
            _ => None,
        }
    }

    /// A message of the server was handled.
    pub(crate) fn handled(&mut self, agent: &str, took: (Now, Now)) {
        if let Some(running) = &mut self.0 {
            running.single("onMessage", took, Some(agent));
        }
    }

    /// Sends what is left, inside what is left of the budget of the stop.
    pub(crate) async fn finish(self, now: Now, budget: Duration) {
        let Some(mut running) = self.0 else { return };
        let since = running.stopping.map(|began| now.mono.since(began.mono));
        let left = budget.saturating_sub(since.unwrap_or_default());
        running.traces.clear();
        running.stop.send_replace(true);
        running.last_reading.send_replace(true);
        let all = async { while running.tasks.join_next().await.is_some() {} };
        // Whoever is late is left behind.
        timeout(left.clamp(LAST_MIN, LAST_MAX), all).await.ok();
        running.tasks.abort_all();
    }
}

impl Running {
    fn single(&mut self, name: &str, took: (Now, Now), agent: Option<&str>) {
        let attributes = agent
            .map(|agent| text("agent", agent))
            .into_iter()
            .collect();
        let span = self.spans.single(name, took, attributes, None);
        self.push(&span);
    }

    fn push(&self, span: &opentelemetry_proto::tonic::trace::v1::Span) {
        for intake in &self.traces {
            intake.push(Record::Span(Box::new(span.clone())));
        }
    }
}
