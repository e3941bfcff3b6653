//! The data plane: `adjutant collect`. Sources → bounded queues in memory → uploads, reloaded by HUP with proof.
//!
//! Promises: one source or endpoint that fails degrades and stops nobody; every record received is delivered,
//! pending or dropped for a reason that is counted; a reload that is refused changes nothing.
//! Must never: import the engine, a port or a door. It is started by the supervisor, or alone; it knows only its
//! directory, a link that the environment may name, and `units`, `yaml`, `sys` and the client crate.

mod admission;
mod book;
mod collect;
mod config;
#[cfg(feature = "ebpf")]
mod ebpf;
#[cfg(not(feature = "ebpf"))]
#[path = "no_ebpf.rs"]
mod ebpf;
mod health;
mod link;
mod load;
mod otlp;
mod pipeline;
mod record;
mod reload;
mod run;
mod upload;

use std::path::{Path, PathBuf};

pub use config::{ConfigError, DEFAULT_CONFIG, FILE_NAME};
pub use load::MARKER_NAME;

/// Names the config directory when no argument does.
pub const ENV_CONFIG_DIR: &str = "ADJUTANT_CONFIG_DIR";
/// Names the supervisor's Unix socket.
pub const ENV_LINK: &str = "ADJUTANT_LINK";
/// Holds the instance uid that the supervisor gave us.
pub const ENV_INSTANCE_UID: &str = "ADJUTANT_INSTANCE_UID";

/// What the data plane is started with.
#[derive(Debug, Clone, Default)]
pub struct Args {
    /// The config directory, unresolved; without one the built-in default runs.
    pub dir: Option<PathBuf>,
    /// The supervisor's Unix socket; without one nothing is reported.
    pub link: Option<PathBuf>,
    /// Our identity; without one it is derived from the machine's.
    pub instance_uid: Option<uuid::Uuid>,
}

/// An environment variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {name} is not {wanted}")]
pub struct EnvError {
    name: &'static str,
    wanted: &'static str,
}

impl Args {
    /// Completes an argument of the command line from the environment; the argument wins. `lookup` reads one variable.
    ///
    /// # Errors
    /// The instance uid is no UUID.
    pub fn resolve(
        dir: Option<PathBuf>,
        lookup: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self, EnvError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let instance_uid = match set(ENV_INSTANCE_UID) {
            None => None,
            Some(text) => Some(
                text.to_str()
                    .and_then(|text| text.parse::<uuid::Uuid>().ok())
                    .filter(|uid| !uid.is_nil())
                    .ok_or(EnvError {
                        name: ENV_INSTANCE_UID,
                        wanted: "a UUID",
                    })?,
            ),
        };
        Ok(Self {
            dir: dir.or_else(|| set(ENV_CONFIG_DIR).map(PathBuf::from)),
            link: set(ENV_LINK).map(PathBuf::from),
            instance_uid,
        })
    }
}

/// How the data plane ends; `main` maps it to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Told to stop, and did. 0.
    Stopped,
    /// The system refused what every process needs. 1.
    Failed,
    /// There was nothing to run: the config is wrong. 78.
    Config,
}

impl Exit {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Failed => 1,
            Self::Config => 78,
        }
    }
}

/// Runs the data plane until TERM or INT. The log must be set up.
pub fn run(args: Args) -> Exit {
    run::run(args)
}

/// Checks a config directory without starting, binding, resolving or dialling anything.
///
/// # Errors
/// Everything that is wrong, one line each; the exit code is that of [`Exit::Config`].
pub fn validate(dir: &Path) -> Result<(), Vec<ConfigError>> {
    load::load(dir).map(|_| ()).map_err(|error| error.errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_wins_over_the_environment() {
        let env = |name: &str| match name {
            ENV_CONFIG_DIR => Some("/from/env".into()),
            ENV_LINK => Some("/run/link.sock".into()),
            ENV_INSTANCE_UID => Some("0190a6d0-0000-7000-8000-000000000001".into()),
            _ => None,
        };
        let args = Args::resolve(None, env).unwrap();
        assert_eq!(args.dir, Some("/from/env".into()));
        assert_eq!(args.link, Some("/run/link.sock".into()));
        assert!(args.instance_uid.is_some());
        let args = Args::resolve(Some("/arg".into()), env).unwrap();
        assert_eq!(args.dir, Some("/arg".into()));
        let error = Args::resolve(None, |_| Some("x".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable ADJUTANT_INSTANCE_UID is not a UUID"
        );
    }

    #[test]
    fn validation_says_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        load::testing::put(
            dir.path(),
            FILE_NAME,
            "spool: {}\nsources: {a: {kind: x}}\n",
        );
        let errors = validate(dir.path()).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        load::testing::put(dir.path(), FILE_NAME, DEFAULT_CONFIG);
        assert_eq!(validate(dir.path()), Ok(()));
    }
}
