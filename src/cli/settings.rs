//! Commands around the settings: `run`, `validate`, `profile`, `collect`, and where the state directory is.
//!
//! Promises: `--state-dir` wins and then no settings are read for it, so that a broken settings file hides no state.
//! Must never: decide what is valid; `app` asks those who know.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{Place, ProfileCommand};
use super::status::table;
use super::{Done, ExitCode, Failure, Out};
use crate::app::{self, BundleVerdict, Ended, Given, RunOptions};
use crate::config::{Composition, Config, Form, LocalLink, Profile, Proof};
use crate::engine::message::ExitReason;
use crate::port::termination::Termination;
use crate::units::AgentName;

/// What the command line says about settings and state.
pub(super) fn given(place: &Place) -> Given {
    Given {
        settings: place.config.clone(),
        state_dir: place.state_dir.clone(),
    }
}

pub(super) fn load(place: &Place) -> Result<Config, Failure> {
    Ok(app::settings(&given(place))?)
}

/// The state directory a command is about.
pub(super) fn state_dir(place: &Place) -> Result<PathBuf, Failure> {
    match &place.state_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(load(place)?.storage),
    }
}

pub(super) async fn run(place: &Place, dev_server: Option<SocketAddr>) -> Done {
    let config = load(place);
    let setting = config.as_ref().ok();
    let setting = setting.and_then(|config| config.termination_message.clone());
    let done = match config {
        Ok(config) => run_with(config, place, dev_server).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &done {
        Termination::new(setting.as_deref()).write(&failure.text);
    }
    done
}

async fn run_with(config: Config, place: &Place, dev_server: Option<SocketAddr>) -> Done {
    let options = RunOptions {
        dev_server,
        settings_path: place.config.clone(),
    };
    ended(&app::run(config, options).await?)
}

/// What the end of a run is to whoever started it. Everything but an ordered stop gets its line.
fn ended(ended: &Ended) -> Done {
    let (code, text) = match ended.reason {
        ExitReason::Stopped => return Ok(ExitCode::Ok),
        ExitReason::Forced => (
            ExitCode::Forced,
            "stopping was forced: by a second signal, or because an agent did not stop in time and was killed or left \
             behind; see the log"
                .to_owned(),
        ),
        ExitReason::GaveUp => (
            ExitCode::GaveUp,
            format!(
                "{}; on_give_up says to exit then",
                in_one_line(ended.last_words.as_deref().unwrap_or("an agent was given up"))
            ),
        ),
    };
    Err(Failure::new(code, text))
}

/// A reason with a dead agent's last output in it, as one line.
fn in_one_line(text: &str) -> String {
    /// Characters that a terminal and an orchestrator show.
    const SHOWN: usize = 1000;
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(SHOWN).collect()
}

pub(super) async fn validate(
    place: &Place,
    directory: Option<&Path>,
    agent: Option<&AgentName>,
    json: bool,
    out: &mut Out<'_>,
) -> Done {
    let config = load(place)?;
    let Some(directory) = directory else {
        describe(place, &config, json, out);
        return Ok(ExitCode::Ok);
    };
    match app::validate_bundle(&config, directory, agent).await? {
        BundleVerdict::Acceptable if json => {
            out.line(&json!({ "bundle": directory, "valid": true }).to_string());
        }
        BundleVerdict::Acceptable => {
            out.line(&format!("bundle {}: valid", directory.display()));
        }
        BundleVerdict::Unacceptable(reasons) => {
            return Err(Failure::new(
                ExitCode::Settings,
                format!("bundle {}: {reasons}", directory.display()),
            ));
        }
    }
    Ok(ExitCode::Ok)
}

fn describe(place: &Place, config: &Config, json: bool, out: &mut Out<'_>) {
    let origin = app::settings_path(place.config.as_deref()).map_or_else(
        || "built-in defaults".to_owned(),
        |path| path.display().to_string(),
    );
    let form = match config.form {
        Form::Agent => "agent",
        Form::Agents => "agents",
    };
    if json {
        let agents: Vec<_> = config
            .agents
            .iter()
            .map(|agent| json!({ "name": agent.name.as_str(), "profile": agent.profile.name }))
            .collect();
        let document = json!({
            "settings": origin,
            "valid": true,
            "form": form,
            "storage": config.storage,
            "agents": agents,
            "warnings": config.warnings,
        });
        out.line(&document.to_string());
        return;
    }
    for warning in &config.warnings {
        out.raw_problem(&format!("adjutant: warning: {warning}\n"));
    }
    let agents: Vec<_> = config
        .agents
        .iter()
        .map(|agent| format!("{} ({})", agent.name, agent.profile.name))
        .collect();
    out.line(&format!(
        "{origin}: valid; `{form}:` form, state in {}, agents: {}",
        config.storage.display(),
        agents.join(", ")
    ));
}

#[cfg(feature = "collect")]
pub(super) fn collect(directory: Option<&Path>, validate: bool, out: &mut Out<'_>) -> Done {
    app::collect(directory, validate)?;
    if let Some(directory) = directory
        && validate
    {
        out.line(&format!("{}: valid", directory.display()));
    }
    Ok(ExitCode::Ok)
}

pub(super) fn profile(command: &ProfileCommand, out: &mut Out<'_>) -> Done {
    let place = match command {
        ProfileCommand::List { place, .. } | ProfileCommand::Show { place, .. } => place,
    };
    let profiles = app::profiles(&load(place)?);
    match command {
        ProfileCommand::List { json: true, .. } => {
            let names: Vec<_> = profiles.iter().map(|profile| &profile.name).collect();
            out.line(&json!({ "profiles": names }).to_string());
        }
        ProfileCommand::List { json: false, .. } => out.text(&profile_list(&profiles)),
        ProfileCommand::Show { name, .. } => {
            let found = profiles.iter().find(|profile| profile.name == *name);
            let Some(profile) = found else {
                let names: Vec<_> = profiles.iter().map(|it| it.name.as_str()).collect();
                return Err(Failure::new(
                    ExitCode::Failed,
                    format!("no profile {name:?}; there are: {}", names.join(", ")),
                ));
            };
            out.text(&profile_page(profile));
        }
    }
    Ok(ExitCode::Ok)
}

fn profile_list(profiles: &[Profile]) -> String {
    let rows = profiles.iter().map(|profile| {
        [
            profile.name.clone(),
            profile.executable.clone().unwrap_or_else(|| "-".to_owned()),
            (if profile.hup { "HUP" } else { "restart" }).to_owned(),
            proof(&profile.proof),
            (if profile.validate.is_some() {
                "yes"
            } else {
                "no"
            })
            .to_owned(),
        ]
    });
    table(
        ["PROFILE", "EXECUTABLE", "RELOAD", "PROOF", "VALIDATOR"],
        rows,
    )
}

fn profile_page(profile: &Profile) -> String {
    let none = || "-".to_owned();
    let words = |words: &[String]| {
        if words.is_empty() {
            none()
        } else {
            words.join(" ")
        }
    };
    let rows = [
        (
            "executable",
            profile.executable.clone().unwrap_or_else(none),
        ),
        ("args", words(&profile.args)),
        (
            "validate",
            profile.validate.as_deref().map_or_else(none, words),
        ),
        (
            "composition",
            match profile.composition {
                Composition::Directory => "the offered files are the config directory",
                Composition::OtelLayers => "one --config per layer, generated overlay",
            }
            .to_owned(),
        ),
        ("main file", profile.main_file.clone()),
        (
            "reload",
            (if profile.hup { "HUP" } else { "restart" }).to_owned(),
        ),
        ("proof", proof(&profile.proof)),
        (
            "local OpAMP",
            match profile.local_link {
                LocalLink::None => "none",
                LocalLink::Loopback => "loopback",
                LocalLink::Unix => "unix socket",
            }
            .to_owned(),
        ),
        (
            "default config",
            (if profile.default_config.is_some() {
                "built in"
            } else {
                "none"
            })
            .to_owned(),
        ),
        ("denied components", words(&profile.denied_components)),
        ("restart sections", words(&profile.restart_sections)),
        ("stop signal", profile.stop_signal.to_string()),
        ("environment", words(&profile.environment)),
    ];
    table(
        ["profile", profile.name.as_str()],
        rows.map(|(key, value)| [key.to_owned(), value]),
    )
}

fn proof(proof: &Proof) -> String {
    match proof {
        Proof::LocalDescription => "description on the local link".to_owned(),
        Proof::LocalStatus => "status on the local link".to_owned(),
        Proof::Exec(command) => format!("exec {}", command.join(" ")),
        Proof::Http { url, .. } => format!("GET {url}"),
        Proof::FreshProcess { alive_for } => format!(
            "a new process that lives {}",
            crate::units::format_duration(*alive_for)
        ),
    }
}
