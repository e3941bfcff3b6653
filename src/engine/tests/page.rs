//! The page with a child's counters: what is on it follows from its config and from the time it has been up.

use std::time::Duration;

use opamp_client::messages::{AnyValue, ComponentHealth, KeyValue, any_value};

use super::rig::{Bench, agent};
use crate::config::{Flow, FlowFormat, FlowRole, FlowSignal};
use crate::engine::message::{CountKey, Reading};

/// One page.
pub(super) struct Page {
    /// So many records come in a second, and go out; none under a config that says `starves`.
    pub(super) rate: u64,
    /// Nobody answers, and this is said.
    pub(super) gone: Option<String>,
    /// The answer takes so many milliseconds.
    pub(super) takes: u64,
    /// For so long the page says its process has been up, if it does.
    pub(super) uptime: Option<Duration>,
    /// When it was asked for, in milliseconds, and where.
    pub(super) asked: Vec<(u64, String)>,
    process: usize,
    at: u64,
    sum: u64,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            rate: 100,
            gone: None,
            takes: 2,
            uptime: None,
            asked: Vec::new(),
            process: 0,
            at: 0,
            sum: 0,
        }
    }

    /// Reads it at a moment; `runs` are the configs of the child's runs until then.
    pub(super) fn read(&mut self, now: u64, url: &str, runs: &[String]) -> Result<Reading, String> {
        self.asked.push((now, url.to_owned()));
        if self.process != runs.len() {
            (self.process, self.sum) = (runs.len(), 0);
        }
        if !runs.last().unwrap().contains("starves") {
            self.sum += (now - self.at) * self.rate / 1_000;
        }
        self.at = now;
        if let Some(reason) = &self.gone {
            return Err(reason.clone());
        }
        let mut reading = Reading {
            uptime: self.uptime,
            ..Reading::default()
        };
        for (role, part) in [(FlowRole::Accepted, "otlp"), (FlowRole::Sent, "out")] {
            let part = part.to_owned();
            let key = CountKey {
                signal: 0,
                role,
                part,
            };
            reading.add(key, self.sum);
        }
        Ok(reading)
    }

    /// When it was asked for since this was called last, in milliseconds.
    pub(super) fn moments(&mut self) -> Vec<u64> {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().map(|(at, _)| at).collect()
    }

    /// How long each question came after the one before it, of those since this was called last.
    pub(super) fn steps(&mut self) -> Vec<u64> {
        let moments = self.moments();
        moments.windows(2).map(|two| two[1] - two[0]).collect()
    }
}

/// A child that counts, started a while ago.
pub(super) fn counting(settings: &str, flow: Flow) -> Bench {
    let mut bench = Bench::new(settings, &[]);
    let mut settings = agent(settings);
    settings.0.profile.flow = Some(flow);
    bench.settings_of(settings);
    bench.boot();
    bench.run_s(60);
    bench
}

/// Where its profile says that it is.
pub(super) fn flow() -> Flow {
    let part = |text: &str| Some(text.to_owned());
    Flow {
        format: FlowFormat::Json,
        url: "http://127.0.0.1:8888/counters".to_owned(),
        address: Some(("telemetry.pages".to_owned(), "at".to_owned())),
        off: Some(("telemetry.level".to_owned(), "none".to_owned())),
        uptime: None,
        labels: [None, None],
        sections: [part("receivers"), part("exporters")],
        shared: Vec::new(),
        signals: vec![FlowSignal {
            name: "logs".to_owned(),
            counters: [const { Vec::new() }; 5],
            pipelines: None,
        }],
    }
}

/// The same numbers, given by the program over its own link.
pub(super) fn flow_of_link() -> Flow {
    let selectors = |text: &str| vec![text.to_owned()];
    let none = Vec::new;
    let usual = flow();
    Flow {
        format: FlowFormat::LocalLink,
        url: String::new(),
        address: None,
        off: None,
        signals: vec![FlowSignal {
            counters: [
                selectors("source.*.records.received"),
                none(),
                selectors("upload.*.records.delivered"),
                none(),
                none(),
            ],
            ..usual.signals[0].clone()
        }],
        ..usual
    }
}

/// What a program says of itself after so many records.
pub(super) fn health(records: i64) -> ComponentHealth {
    let part = |number: &str| ComponentHealth {
        healthy: true,
        attributes: vec![KeyValue {
            key: format!("adjutant.{number}"),
            value: Some(AnyValue {
                value: Some(any_value::Value::IntValue(records)),
            }),
        }],
        ..ComponentHealth::default()
    };
    let parts = [
        ("source.otlp", part("records.received")),
        ("upload.out", part("records.delivered")),
    ];
    ComponentHealth {
        healthy: true,
        component_health_map: parts.map(|(name, part)| (name.to_owned(), part)).into(),
        ..ComponentHealth::default()
    }
}
