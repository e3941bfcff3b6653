//! Our own log and telemetry: set up before anything is logged, told where it leads once that is known, ended last.
//!
//! Promises: in a build without the feature there is the log alone. Must never: fail a start because of a receiver.

use crate::config::{Config, LogFormat};
use crate::perform::Ports;
use crate::port::admin::Questions;
use crate::port::host::HostFacts;
use crate::sys::log;
use crate::units::Now;

use super::{AppError, AppErrorKind};

/// Own telemetry before the loop runs.
#[cfg(feature = "telemetry")]
pub(super) type Starting = crate::telemetry::Starting;
/// Nothing.
#[cfg(not(feature = "telemetry"))]
#[derive(Debug)]
pub(super) struct Starting;

/// Starts the log, and copies it where the settings send logs.
pub(super) fn begin(config: &Config) -> Result<Starting, AppError> {
    let level = log::parse_level(&config.log.level).map_err(|error| AppError {
        kind: AppErrorKind::Settings,
        cause: error.into(),
    })?;
    let format = match config.log.format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    if let Some(outputs) = &config.log.outputs {
        let streams = (outputs.stdout, outputs.stderr);
        log::only_to(streams, &outputs.files, config.log.rotation).map_err(|error| AppError {
            kind: AppErrorKind::Settings,
            cause: error.into(),
        })?;
    }
    let taken = |error: log::LogError| AppError {
        kind: AppErrorKind::System,
        cause: error.into(),
    };
    #[cfg(feature = "telemetry")]
    {
        let (starting, extra) = Starting::new(config.telemetry.clone());
        match extra {
            Some(extra) => log::init_with(level, format, extra),
            None => log::init(level, format),
        }
        .map_err(taken)?;
        Ok(starting)
    }
    #[cfg(not(feature = "telemetry"))]
    {
        log::init(level, format).map_err(taken)?;
        Ok(Starting)
    }
}

/// Starts what sends.
#[cfg(feature = "telemetry")]
pub(super) fn run(
    starting: Starting,
    took: (Now, Now),
    config: &Config,
    (facts, instance): (&HostFacts, &str),
    questions: &Questions,
    ports: &mut Ports,
) {
    let known = crate::telemetry::Known {
        service: match config.form {
            crate::config::Form::Agent => "opamp-supervisor",
            crate::config::Form::Agents => "adjutant",
        },
        instance,
        facts: &facts.attributes,
        variable: &|name| std::env::var(name).ok(),
    };
    let proxies = crate::port::link::proxies(|name| std::env::var(name).ok());
    ports.telemetry = starting.run(took, &known, &proxies, questions);
}

/// Starts what sends.
#[cfg(not(feature = "telemetry"))]
pub(super) fn run(
    _starting: Starting,
    _took: (Now, Now),
    _config: &Config,
    _who: (&HostFacts, &str),
    _questions: &Questions,
    _ports: &mut Ports,
) {
}

/// Sends what is left.
#[cfg_attr(
    not(feature = "telemetry"),
    expect(clippy::unused_async, reason = "as in the other build")
)]
pub(super) async fn finish(ports: &mut Ports, budget: std::time::Duration) {
    let telemetry = std::mem::take(&mut ports.telemetry);
    #[cfg(feature = "telemetry")]
    telemetry.finish(crate::sys::clock::now(), budget).await;
    #[cfg(not(feature = "telemetry"))]
    {
        _ = (telemetry, budget);
    }
}
