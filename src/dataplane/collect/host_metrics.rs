//! Host metrics: runs the collectors once at start and then by interval.
//!
//! Promises (S2-16, S2-22): the first sample is taken at start; one collector that fails turns the source degraded
//! with its name and its failure counter up, and the others go on; a scrape that comes late is not made up for.
//! Must never: run anything, or read outside its root prefix.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::cpu::Cpu;
use super::disk::Disk;
use super::host::{Collector, Files, Scrape};
use super::memory::Memory;
use super::network::Network;
use super::thermal::Thermal;
use super::{Buffer, Events, Outlet, Source, StartError};
use crate::dataplane::config::{CollectorKind, HostMetricsConfig};
use crate::dataplane::health::{Health, HealthCell};
use crate::dataplane::record::{Metric, Number, Unit};
use crate::sys::clock;
use crate::units::WallTime;

static FAILURES: Metric = Metric::sum("adjutant.collector.failures", Unit::Count("{failure}"));

/// The source of host metrics.
#[derive(Debug)]
pub(crate) struct HostMetrics {
    id: Arc<str>,
    config: HostMetricsConfig,
    buffer: Buffer,
    health: HealthCell,
    running: Option<Running>,
}

/// What a start owns: dropping `stop` ends the task, dropping the set aborts it.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
    events: Option<Events>,
}

impl HostMetrics {
    /// Builds the source.
    pub(crate) fn new(
        id: &str,
        config: &HostMetricsConfig,
        buffer: Buffer,
        health: HealthCell,
    ) -> Self {
        Self {
            id: id.into(),
            config: config.clone(),
            buffer,
            health,
            running: None,
        }
    }
}

impl Source for HostMetrics {
    fn name(&self) -> &str {
        &self.id
    }

    async fn start(&mut self) -> Result<(), StartError> {
        if self.running.is_some() {
            return Err(StartError::AlreadyStarted(Arc::clone(&self.id)));
        }
        let (outlet, events) = self.buffer.open();
        let (stop, stopped) = oneshot::channel();
        let scraper = Scraper::new(&self.config, outlet, self.health.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(scraper.run(self.config.interval, stopped));
        self.running = Some(Running {
            stop,
            tasks,
            events: Some(events),
        });
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

/// The task: collectors with their memories of the last reading.
struct Scraper {
    root: PathBuf,
    files: Files,
    collectors: Vec<(Box<dyn Collector>, u64)>,
    since: WallTime,
    outlet: Outlet,
    health: HealthCell,
}

impl Scraper {
    fn new(config: &HostMetricsConfig, outlet: Outlet, health: HealthCell) -> Self {
        Self {
            root: config.root.clone(),
            files: Files::below(&config.root),
            collectors: config
                .collectors
                .iter()
                .map(|kind| (build(*kind), 0))
                .collect(),
            since: clock::wall(),
            outlet,
            health,
        }
    }

    async fn run(mut self, interval: Duration, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                _ = ticks.tick() => self.scrape(clock::wall()),
            }
        }
    }

    fn scrape(&mut self, now: WallTime) {
        let mut out = Scrape::at(now);
        let mut wrong = Vec::new();
        for (collector, failures) in &mut self.collectors {
            let name = collector.name();
            if let Err(error) = collector.collect(&mut self.files, &mut out) {
                *failures += 1;
                wrong.push(format!("collector.{name}: {error}"));
            }
            if *failures > 0 {
                let of = vec![("collector", name.into())];
                out.sum(&FAILURES, Number::Int(*failures), of, self.since);
            }
        }
        self.outlet.offer(out.records);
        let all = wrong.len() == self.collectors.len();
        let words = wrong.join("; ");
        self.health.set(match (words.is_empty(), all) {
            (true, _) => Health::Ok,
            (false, false) => Health::Degraded(words),
            (false, true) => {
                let root = self.root.display();
                Health::Down(format!("nothing can be read below {root}: {words}"))
            }
        });
    }
}

fn build(kind: CollectorKind) -> Box<dyn Collector> {
    match kind {
        CollectorKind::Cpu => Box::<Cpu>::default(),
        CollectorKind::Memory => Box::<Memory>::default(),
        CollectorKind::Disk => Box::<Disk>::default(),
        CollectorKind::Network => Box::<Network>::default(),
        CollectorKind::Thermal => Box::<Thermal>::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::{Host, lines};
    use crate::dataplane::collect::tests::{BOUNDS, buffer};
    use crate::dataplane::record::Record;

    fn source(host: &Host, collectors: &[CollectorKind], interval: Duration) -> HostMetrics {
        let config = HostMetricsConfig {
            interval,
            collectors: collectors.to_vec(),
            root: host.root().to_owned(),
        };
        let health = HealthCell::new("source host", Arc::default());
        HostMetrics::new("host", &config, buffer(BOUNDS).0, health)
    }

    #[tokio::test(start_paused = true)]
    async fn samples_are_taken_at_start_and_then_by_interval() {
        let host = Host::new(&[("proc/meminfo", "MemTotal: 4 kB\nMemAvailable: 1 kB\n")]);
        let mut source = source(&host, &[CollectorKind::Memory], Duration::from_secs(10));
        let began = tokio::time::Instant::now();
        source.start().await.unwrap();
        let mut events = source.events().unwrap();
        for wanted_secs in [0, 10, 20, 30] {
            let records = events.next().await.unwrap();
            assert_eq!(records.len(), 4);
            assert_eq!(began.elapsed().as_secs(), wanted_secs);
        }
        source.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_broken_collector_degrades_and_the_others_go_on() {
        let host = Host::new(&[("proc/meminfo", "MemTotal: 4 kB\nMemAvailable: 1 kB\n")]);
        let kinds = [CollectorKind::Cpu, CollectorKind::Memory];
        let mut source = source(&host, &kinds, Duration::from_secs(10));
        source.start().await.unwrap();
        let mut events = source.events().unwrap();
        for failures in 1..=3 {
            let records: Vec<Record> = events.next().await.unwrap();
            let lines = lines(&records);
            let counter = format!("adjutant.collector.failures{{collector=cpu}} {failures}");
            assert!(lines.contains(&counter), "{lines:?}");
            assert!(lines.contains(&"system.memory.limit{} 4096".to_owned()));
            let Health::Degraded(error) = source.healthy() else {
                panic!("{:?}", source.healthy())
            };
            assert!(error.starts_with("collector.cpu: read "), "{error}");
        }
        host.put("proc/stat", "cpu  1 1 1 1\n");
        events.next().await.unwrap();
        assert_eq!(source.healthy(), Health::Ok);
        source.stop().await;
    }

    #[tokio::test]
    async fn a_root_without_a_host_is_down_and_says_so() {
        let host = Host::new(&[]);
        let mut source = source(&host, &[CollectorKind::Memory], Duration::from_secs(10));
        source.start().await.unwrap();
        source.events().unwrap().next().await.unwrap();
        let Health::Down(error) = source.healthy() else {
            panic!("{:?}", source.healthy())
        };
        assert!(error.starts_with("nothing can be read below "), "{error}");
        source.stop().await;
    }
}
