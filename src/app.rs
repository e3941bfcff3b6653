//! The composition root: settings → ports → run.
//!
//! Promises: the only file that names concrete ports; every failure says which exit code it deserves.
//! Must never: branch on the engine's state.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::engine::message::ExitReason;
use crate::units::AgentName;

mod settings;

pub use settings::{Given, Process, profiles, settings};

/// How to run, beside the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where to serve the embedded server for trying.
    pub dev_server: Option<SocketAddr>,
    /// The file that a HUP reads again.
    pub settings_path: Option<PathBuf>,
}

/// What a bundle came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleVerdict {
    /// It could be applied.
    Acceptable,
    /// It could not, with the reasons, a line each.
    Unacceptable(String),
}

/// A failure, with the class that decides the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{cause:#}")]
pub struct AppError {
    /// The class.
    pub kind: AppErrorKind,
    /// What was tried, on what, and why it did not work.
    pub cause: anyhow::Error,
}

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppErrorKind {
    /// The settings cannot be read or are not acceptable.
    Settings,
    /// Another supervisor holds the lock of the state directory.
    StateLocked,
    /// The state directory cannot be used: owner, read-only, damaged.
    StateUnusable,
    /// An address is taken or not ours.
    Address,
    /// The system refused something else.
    System,
}

fn missing(what: &str) -> AppError {
    AppError {
        kind: AppErrorKind::System,
        cause: anyhow::anyhow!("{what}: not part of this build"),
    }
}

/// Runs the supervisor until it is told to stop.
///
/// # Errors
/// It could not start.
pub async fn run(config: Config, options: RunOptions) -> Result<ExitReason, AppError> {
    drop((config, options));
    std::future::ready(Err(missing("run"))).await
}

/// Composes a bundle for an agent and asks the agent's own validator.
///
/// # Errors
/// It could not be asked.
pub async fn validate_bundle(
    config: &Config,
    directory: &Path,
    agent: Option<&AgentName>,
) -> Result<BundleVerdict, AppError> {
    let wanted = (config.agents.len(), directory, agent);
    std::future::ready(Err(missing(&format!("validate {wanted:?}")))).await
}

/// Runs the data plane, or only validates its config; brings its own runtime.
///
/// # Errors
/// The config is not acceptable, or it could not start.
#[cfg(feature = "collect")]
pub fn collect(directory: &Path, validate_only: bool) -> Result<(), AppError> {
    Err(missing(&format!(
        "collect {} {validate_only}",
        directory.display()
    )))
}
