//! The periodic reader: what the metrics page says, what our process takes, what became of our own telemetry.
//!
//! Promises: one reading under way at a time; one that a receiver does not take is not kept, because the next says as
//! much; a receiver that asks for time gets it.
//! Must never: read anything by itself; the page is asked from the loop like any other door's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    Metric, NumberDataPoint, Sum, metric::Data, number_data_point::Value,
};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::encode::{self, text};
use super::page::{self, CUMULATIVE};
use super::pipeline::{Again, Counts, Mood, Outlet};
use super::process;
use crate::engine::message::{Command, Reply, Snapshot};
use crate::port::admin::{Questions, metrics_page};
use crate::sys::clock;

/// What a reader reads.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) questions: Questions,
    /// When counting began.
    pub(super) started: u64,
    /// The queues of logs and traces, by signal.
    pub(super) queues: Vec<(&'static str, Arc<Counts>)>,
}

impl Reader {
    /// Reads and sends until the stop, and once more then.
    pub(super) async fn run(self, outlet: Outlet, mut stop: watch::Receiver<bool>) {
        let mut mood = Mood::default();
        let mut wait = outlet.export.every;
        loop {
            let is_last = timeout(wait, stop.changed()).await.is_ok() || *stop.borrow();
            wait = outlet.export.every;
            let limit = outlet.export.timeout;
            let Some(snapshot) = timeout(limit, self.ask()).await.ok().flatten() else {
                if is_last {
                    return;
                }
                continue;
            };
            let body = encode::metrics(&outlet.sender, self.metrics(&snapshot));
            let result = outlet.send(body).await;
            mood.tell(&outlet, result.as_ref().copied());
            if let Err(refusal) = result
                && let Again::After(asked) = refusal.again
            {
                wait = wait.max(asked);
            }
            if is_last {
                return;
            }
        }
    }

    async fn ask(&self) -> Option<Snapshot> {
        let (answer, reply) = oneshot::channel();
        self.questions.send((Command::Status, answer)).await.ok()?;
        match reply.await.ok()? {
            Reply::Status(snapshot) => Some(*snapshot),
            Reply::Accepted { .. } | Reply::Refused(_) | Reply::Revision(_) => None,
        }
    }

    fn metrics(&self, snapshot: &Snapshot) -> Vec<Metric> {
        let now = clock::wall().unix_nanos();
        let page = metrics_page(snapshot).unwrap_or_default();
        let mut metrics = page::metrics(&page, self.started, now);
        metrics.extend(process::metrics(self.started, now));
        let point = |value: u64, attributes: Vec<KeyValue>| NumberDataPoint {
            attributes,
            start_time_unix_nano: self.started,
            time_unix_nano: now,
            value: Some(Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        };
        // By the name that dashboards of the Collector's own supervisor use.
        let healthy = snapshot.agents.iter().map(|agent| {
            point(
                u64::from(agent.healthy),
                vec![text("agent", agent.name.as_str())],
            )
        });
        metrics.push(sum(
            "supervisor.agent.health_status",
            "1 when the agent is healthy over all",
            healthy.collect(),
            false,
        ));
        let queues = self.queues.iter().flat_map(|(signal, counts)| {
            [("sent", &counts.sent), ("dropped", &counts.dropped)].map(|(outcome, count)| {
                let attributes = vec![text("signal", *signal), text("outcome", outcome)];
                point(count.load(Ordering::Relaxed), attributes)
            })
        });
        metrics.push(sum(
            "adjutant.telemetry.records",
            "Records of own logs and traces, by what became of them",
            queues.collect(),
            true,
        ));
        metrics.retain(
            |metric| !matches!(&metric.data, Some(Data::Sum(sum)) if sum.data_points.is_empty()),
        );
        metrics
    }
}

fn sum(name: &str, about: &str, data_points: Vec<NumberDataPoint>, is_monotonic: bool) -> Metric {
    Metric {
        name: name.to_owned(),
        description: about.to_owned(),
        unit: "1".to_owned(),
        data: Some(Data::Sum(Sum {
            data_points,
            aggregation_temporality: CUMULATIVE,
            is_monotonic,
        })),
        ..Metric::default()
    }
}
