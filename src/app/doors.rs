//! Opens the doors: control socket, HTTP addresses, and the way to the service manager.
//!
//! Promises: a door that cannot be opened ends the start, before any child, with the exit code of its cause; a service
//! manager that cannot be reached costs a line.
//! Must never: serve; `start` does that with what is opened here.

use super::{AppError, AppErrorKind};
use crate::config::Config;
use crate::port::admin::{Admin, BindError, Doors, Token};
use crate::port::notify::Notifier;
use crate::port::store::StateDir;

/// Binds the control socket and every address of the settings.
pub(super) fn open(config: &Config, state: &StateDir) -> Result<Admin, AppError> {
    let doors = Doors {
        state_dir: state.root().to_owned(),
        listen: config.listen.clone(),
        token: token(config)?,
        healthcheck: config.healthcheck,
        health_door: config.health_door.clone(),
    };
    Admin::bind(&doors).map_err(door_error)
}

/// The token of the doors that are not on loopback.
fn token(config: &Config) -> Result<Option<Token>, AppError> {
    let read = config.token_file.as_deref().map(Token::read).transpose();
    read.map_err(|error| AppError {
        kind: AppErrorKind::Settings,
        cause: anyhow::Error::new(error).context("http.token_file"),
    })
}

/// The way to the service manager. One that cannot be used costs a line, not the start.
pub(super) fn notifier() -> Notifier {
    let made = Notifier::new(|name| std::env::var(name).ok(), std::process::id());
    made.unwrap_or_else(|error| {
        tracing::warn!(error = %format_args!("{:#}", anyhow::Error::new(error)), "no service manager");
        Notifier::default()
    })
}

fn door_error(error: BindError) -> AppError {
    let kind = match &error {
        BindError::Control(_) => AppErrorKind::StateUnusable,
        BindError::Address { .. } => AppErrorKind::Address,
        #[cfg(feature = "opampsupervisor")]
        BindError::Tls(_) => AppErrorKind::Settings,
    };
    AppError {
        kind,
        cause: error.into(),
    }
}
