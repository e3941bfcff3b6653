//! The composition root: settings → ports → run.
//!
//! Promises: the only file that names concrete ports; every failure says which exit code it deserves.
//! Must never: branch on the engine's state.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::engine::message::{Credential, ExitReason, RegistrationFailure, RegistrationOrder};
use crate::units::AgentName;

mod bundle;
mod container;
#[cfg(feature = "dev-server")]
mod dev;
#[cfg(feature = "doctor")]
mod doctor;
mod doors;
mod fallback;
mod identity;
#[cfg(feature = "opampsupervisor")]
mod inherit;
#[cfg(feature = "roster")]
mod joining;
mod leftover;
mod records;
mod register;
mod settings;
mod start;
#[cfg(feature = "adopt")]
mod successor;
mod telemetry;

#[cfg(feature = "doctor")]
pub use doctor::doctor;
pub use settings::{
    Given, Process, check_profile, explain, profile_files, profile_keys, profiles, settings,
    settings_path,
};

/// How to run, beside the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where to serve the embedded server for trying.
    pub dev_server: Option<SocketAddr>,
    /// The file that a HUP reads again.
    pub settings_path: Option<PathBuf>,
    /// Feature gates that are on.
    pub feature_gates: Vec<String>,
}

/// What a bundle came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleVerdict {
    /// It could be applied.
    Acceptable,
    /// It could not, with the reasons, a line each.
    Unacceptable(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: ExitReason,
    /// Which agent was given up last, and why.
    pub last_words: Option<String>,
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

/// Runs the supervisor until it is told to stop. To be awaited on the main thread, inside a current-thread runtime with
/// timers and I/O, which is shut down without waiting for its blocking threads: a name that does not resolve must not
/// hold up the end.
///
/// # Errors
/// It could not start; nothing of ours runs then.
pub async fn run(config: Config, options: RunOptions) -> Result<Ended, AppError> {
    // Everything that lives as long as the program is in this one future: it is large.
    Box::pin(start::run(config, options)).await
}

/// Lets the executable at the path of ours take over in this very process. Comes back only when it cannot, with the
/// reason; the children go on in any case.
#[cfg(feature = "adopt")]
pub fn replace() -> std::io::Error {
    successor::take_over()
}

/// Registers without a supervisor, on its state directory and under its lock; `progress` gets a line for each thing
/// that happens.
///
/// # Errors
/// The state directory cannot be used. What the service answered is the inner result.
pub async fn register(
    config: &Config,
    what: RegistrationOrder,
    progress: impl FnMut(&str),
) -> Result<Result<Credential, RegistrationFailure>, AppError> {
    register::register(config, what, progress).await
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
    bundle::validate(config, directory, agent).await
}

/// Runs the data plane, or only validates its config; brings its own runtime.
///
/// # Errors
/// The config is not acceptable, or it could not start.
#[cfg(feature = "collect")]
pub fn collect(directory: Option<&Path>, validate_only: bool) -> Result<(), AppError> {
    use crate::dataplane::{self, Args, Exit};
    use crate::sys::log;

    let failed = |kind, cause| Err(AppError { kind, cause });
    if let Some(directory) = directory
        && validate_only
    {
        return dataplane::validate(directory).or_else(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            failed(AppErrorKind::Settings, anyhow::Error::msg(lines.join("\n")))
        });
    }
    let level = log::parse_level("info").and_then(|level| log::init(level, log::Format::Json));
    if let Err(error) = level {
        return failed(AppErrorKind::System, error.into());
    }
    let args = match Args::resolve(directory.map(Path::to_owned), |name| std::env::var_os(name)) {
        Ok(args) => args,
        Err(error) => return failed(AppErrorKind::Settings, error.into()),
    };
    match dataplane::run(args) {
        Exit::Stopped => Ok(()),
        Exit::Failed => failed(
            AppErrorKind::System,
            anyhow::anyhow!("the data plane could not run; its log says why"),
        ),
        Exit::Config => failed(
            AppErrorKind::Settings,
            anyhow::anyhow!("the config has nothing that can run; the log says why"),
        ),
    }
}
