//! Own telemetry: what the supervisor measures, logs and does, sent as OTLP over HTTP. No other file names an exporter.
//!
//! Promises: nobody ever waits for a receiver; queues are bounded and what does not fit is dropped and counted; a
//! receiver that is away is told of once in the log and tried again, with what it asks for in `Retry-After`; nothing is
//! allocated where the settings send nothing.
//! Must never: decide anything, or let an export log at a level that is exported again and again.

#[cfg(feature = "telemetry")]
mod encode;
#[cfg(feature = "telemetry")]
mod logs;
#[cfg(feature = "telemetry")]
mod metrics;
#[cfg(feature = "telemetry")]
mod on;
#[cfg(feature = "telemetry")]
mod page;
#[cfg(feature = "telemetry")]
mod pipeline;
#[cfg(feature = "telemetry")]
mod process;
#[cfg(feature = "telemetry")]
mod resource;
#[cfg(feature = "telemetry")]
mod spans;

#[cfg(feature = "telemetry")]
pub(crate) use on::{Known, Starting, Telemetry};

#[cfg(not(feature = "telemetry"))]
mod off;
#[cfg(not(feature = "telemetry"))]
pub(crate) use off::Telemetry;
