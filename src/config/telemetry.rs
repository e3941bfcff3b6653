//! Where the supervisor sends its own telemetry: OTLP over HTTP, in the words of each form.
//!
//! Promises: in the `agent:` form the declarative configuration of OpenTelemetry 0.3 with its defaults; in ours one
//! short section. What cannot be honoured (gRPC, a console exporter, a pulled reader, detectors of clouds) is an error
//! with its name.
//! Must never: read the environment; detectors are run by whoever builds the resource.

use std::time::Duration;

use super::Tls;
#[cfg(not(feature = "telemetry"))]
use super::read::Section;
use crate::units::Secret;

/// What is said of these keys in a build without the feature.
#[cfg(not(feature = "telemetry"))]
pub(super) const NOT_PART: &str = "this program was built without own telemetry, remove it";

/// `ReportsOwnTraces`, `ReportsOwnMetrics`, `ReportsOwnLogs`.
#[cfg(feature = "opampsupervisor")]
pub(super) const OWN_TELEMETRY: u64 = 0x20 | 0x40 | 0x80;

/// What of an agent's own telemetry an offer may direct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Directed {
    /// `ReportsOwnTraces`, `ReportsOwnMetrics`, `ReportsOwnLogs`.
    pub kinds: u64,
    /// Whether an offer that names one kind withdraws those that it does not name, as the Collector's supervisor has
    /// it; otherwise what is not named stays as it is (OpAMP R-137).
    pub whole: bool,
}

/// Where own telemetry goes. Empty means nowhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Telemetry {
    /// Readers of metrics.
    pub metrics: Vec<Export>,
    /// Processors of spans.
    pub traces: Vec<Export>,
    /// Processors of log records.
    pub logs: Vec<Export>,
    /// Who sends it.
    pub resource: Resource,
}

impl Telemetry {
    /// Whether anything is sent anywhere.
    pub fn is_on(&self) -> bool {
        [&self.metrics, &self.traces, &self.logs]
            .iter()
            .any(|exports| !exports.is_empty())
    }
}

/// One destination of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// The whole URL.
    pub url: String,
    /// Go on every request.
    pub headers: Vec<(String, Secret)>,
    /// How to verify the other end and how to prove ourselves.
    pub tls: Tls,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// For one request.
    pub timeout: Duration,
    /// Between two readings, or the longest that a record waits for others.
    pub every: Duration,
    /// Records of one request.
    pub batch_max: usize,
    /// Records that wait; what comes on top is dropped and counted.
    pub queue_max: usize,
}

/// Attributes of the sender.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resource {
    /// Given by the settings; no value takes an attribute away.
    pub attributes: Vec<(String, Option<Attribute>)>,
    /// The schema that they follow; empty for none.
    pub schema_url: String,
    /// What is looked up at start.
    pub detectors: Vec<Detector>,
    /// Patterns of detected names that are taken; empty takes all.
    pub included: Vec<String>,
    /// Patterns of detected names that are left out.
    pub excluded: Vec<String>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// Several of one kind.
    List(Vec<Attribute>),
}

/// Something that knows attributes of where we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detector {
    /// `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    Env,
    /// The host.
    Host,
    /// Our own process.
    Process,
    /// Name and instance of the service, which are always there.
    Service,
}

/// What the settings of the `agent:` form say.
#[cfg(all(not(feature = "telemetry"), feature = "opampsupervisor"))]
pub(super) fn declarative(section: &mut Section<'_, '_, '_>, _logs: Vec<Export>) -> Telemetry {
    section.not_built(&["metrics", "traces", "resource"], NOT_PART);
    Telemetry::default()
}

/// The processors of log records.
#[cfg(all(not(feature = "telemetry"), feature = "opampsupervisor"))]
pub(super) fn log_processors(section: &mut Section<'_, '_, '_>) -> Vec<Export> {
    section.not_built(&["processors"], NOT_PART);
    Vec::new()
}

/// What an agent's own telemetry may be directed by offers.
#[cfg(not(feature = "telemetry"))]
pub(super) fn accepted(section: &mut Section<'_, '_, '_>, _profile: &super::Profile) -> Directed {
    section.not_built(&["own_telemetry"], NOT_PART);
    Directed::default()
}

/// The `telemetry:` section of our form.
#[cfg(not(feature = "telemetry"))]
pub(super) fn ours(root: &mut Section<'_, '_, '_>) -> Telemetry {
    root.not_built(&["telemetry"], NOT_PART);
    Telemetry::default()
}

#[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
mod declarative;
#[cfg(feature = "telemetry")]
mod forms;
#[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
mod sender;
#[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
pub(super) use declarative::{declarative, log_processors};
#[cfg(feature = "telemetry")]
pub(crate) use forms::list;
#[cfg(feature = "telemetry")]
pub(super) use forms::{accepted, ours};
#[cfg(all(test, feature = "telemetry"))]
mod tests;
