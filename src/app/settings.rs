//! From the command line to resolved settings: reads the file and answers for the process's environment.
//!
//! Promises: the only place where the process environment and the settings file are read; a file over its limit is
//! refused before it is parsed; without a file the built-in defaults hold.
//! Must never: judge a setting.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{AppError, AppErrorKind};
use crate::config::{self, Config, Environment, Explained, Key, Overrides, Profile, ProfileFile};
use crate::units::order;
use crate::yaml::{self, Limits};

/// What the command line says about the place of settings and state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The settings file; the built-in defaults without one.
    pub settings: Option<PathBuf>,
    /// The state directory, over the one of the settings.
    pub state_dir: Option<PathBuf>,
    /// Feature gates that are on.
    pub feature_gates: Vec<String>,
}

/// Reads and resolves the settings.
///
/// # Errors
/// The file cannot be read, or every problem of its text, a line each.
pub fn settings(given: &Given) -> Result<Config, AppError> {
    let (text, overrides) = text_of(given)?;
    let resolved = match &text {
        None => config::defaults(&Process, &overrides),
        Some((origin, text)) => config::load(origin, text, &Process, &overrides),
    };
    resolved.map_err(|errors| refused(errors.into()))
}

/// Where each value of the settings comes from.
///
/// # Errors
/// As [`settings`].
pub fn explain(given: &Given) -> Result<Vec<Explained>, AppError> {
    let (text, overrides) = text_of(given)?;
    let text = text
        .as_ref()
        .map(|(origin, text)| (origin.as_str(), text.as_str()));
    config::explain(text, &Process, &overrides).map_err(|errors| refused(errors.into()))
}

/// The settings file with its name, and what the command line says over it.
fn text_of(given: &Given) -> Result<(Option<(String, String)>, Overrides), AppError> {
    let overrides = Overrides {
        storage: given.state_dir.as_deref().map(absolute).transpose()?,
        feature_gates: given.feature_gates.clone(),
        ..Overrides::default()
    };
    let text = match &settings_path(given.settings.as_deref()) {
        None => None,
        Some(path) => {
            let text = read(path).map_err(|cause| {
                let what = format!("read the settings {}", path.display());
                refused(anyhow::Error::new(cause).context(what))
            })?;
            Some((path.display().to_string(), text))
        }
    };
    Ok((text, overrides))
}

fn refused(cause: anyhow::Error) -> AppError {
    AppError {
        kind: AppErrorKind::Settings,
        cause,
    }
}

/// The settings file: the one that is named, else the one in `SUPERVISOR_CONFIG`.
pub fn settings_path(named: Option<&Path>) -> Option<PathBuf> {
    named.map(Path::to_owned).or_else(|| {
        let value = std::env::var_os("SUPERVISOR_CONFIG")?;
        (!value.is_empty()).then(|| PathBuf::from(value))
    })
}

/// The built-in profiles and those that the settings use, by name.
pub fn profiles(config: &Config) -> Vec<Profile> {
    let used = config.agents.iter().map(|agent| agent.profile.clone());
    let by_name = order::map(
        config::built_in(&Process)
            .into_iter()
            .chain(used)
            .map(|profile| (profile.name.clone(), profile)),
    );
    by_name.into_values().collect()
}

/// The profile files that a path names: itself, or those in the directory that it is.
///
/// # Errors
/// A directory that cannot be read.
pub fn profile_files(path: &Path) -> Result<Vec<ProfileFile>, String> {
    let files = if path.is_dir() {
        let failed =
            |cause: io::Error| format!("read the profile directory {}: {cause}", path.display());
        let mut files = Process.directory(path).map_err(failed)?;
        files.retain(|file| {
            matches!(
                file.extension().and_then(|it| it.to_str()),
                Some("yaml" | "yml")
            )
        });
        files
    } else {
        vec![path.to_owned()]
    };
    let read = |path: PathBuf| {
        let text = read(&path).map_err(|cause| cause.to_string());
        ProfileFile { path, text }
    };
    Ok(files.into_iter().map(read).collect())
}

/// Checks one of them the way `profiles:` would read it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_profile(file: &ProfileFile) -> Result<Profile, Vec<yaml::Error>> {
    config::check_profile(file, &Process)
}

/// Every key that a profile may have.
pub fn profile_keys() -> Vec<Key> {
    config::profile_keys(&Process)
}

fn absolute(path: &Path) -> Result<PathBuf, AppError> {
    std::path::absolute(path).map_err(|cause| AppError {
        kind: AppErrorKind::StateUnusable,
        cause: anyhow::Error::new(cause).context(format!("find {}", path.display())),
    })
}

/// Reads a text that is to be parsed; one byte over the limit is read, so that the parser refuses it by its size.
fn read(path: &Path) -> io::Result<String> {
    let limit = u64::try_from(Limits::SETTINGS.bytes).unwrap_or(u64::MAX);
    let mut text = String::new();
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The process itself.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Environment for Process {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> io::Result<String> {
        read(Path::new(path))
    }

    fn own_executable(&self) -> PathBuf {
        // Resolved by the kernel even when the file was replaced by an upgrade.
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"))
    }

    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn in_container(&self) -> bool {
        crate::port::host::container(|name| std::env::var(name).ok()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(settings: &Path) -> Given {
        Given {
            settings: Some(settings.to_owned()),
            state_dir: None,
            feature_gates: Vec::new(),
        }
    }

    fn put(text: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, text).unwrap();
        file
    }

    #[test]
    fn the_state_directory_of_the_command_line_wins() {
        let file = put(b"storage:\n  directory: /from/settings\n");
        let from_file = settings(&given(file.path())).unwrap();
        assert_eq!(from_file.storage, Path::new("/from/settings"));
        let over = Given {
            state_dir: Some("/from/line".into()),
            ..given(file.path())
        };
        assert_eq!(settings(&over).unwrap().storage, Path::new("/from/line"));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_a_settings_error() {
        let error = settings(&given(Path::new("/nonexistent.yaml"))).unwrap_err();
        assert_eq!(error.kind, AppErrorKind::Settings);
        assert_eq!(
            error.to_string(),
            "read the settings /nonexistent.yaml: No such file or directory (os error 2)"
        );
        let file = put(b"storage:\n  directroy: /x\n");
        let error = settings(&given(file.path())).unwrap_err();
        assert_eq!(error.kind, AppErrorKind::Settings);
        let place = format!("{}:2:3", file.path().display());
        assert!(error.to_string().starts_with(&place), "{error}");
    }

    #[test]
    fn a_file_over_the_limit_is_refused_by_its_size() {
        let file = put(&vec![b'#'; Limits::SETTINGS.bytes + 4096]);
        let error = settings(&given(file.path())).unwrap_err();
        assert_eq!(error.kind, AppErrorKind::Settings);
        assert!(error.to_string().contains("limit"), "{error}");
    }

    #[test]
    fn the_built_in_profiles_are_listed() {
        let file = put(b"storage:\n  directory: /x\n");
        let config = settings(&given(file.path())).unwrap();
        let names: Vec<_> = profiles(&config).into_iter().map(|it| it.name).collect();
        assert_eq!(
            names,
            [
                "adjutant",
                "fluent-bit",
                "generic",
                "otelcol",
                "telegraf",
                "vector"
            ]
        );
    }
}
