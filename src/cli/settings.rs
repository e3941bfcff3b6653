//! Commands around the settings: `run`, `validate`, `collect`, and where the state directory is.
//!
//! Promises: `--state-dir` wins and then no settings are read for it, so that a broken settings file hides no state.
//! Must never: decide what is valid; `app` asks those who know.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::Place;
use super::{Done, ExitCode, Failure, Out};
use crate::app::{self, BundleVerdict, Ended, Given, RunOptions};
use crate::config::{Config, Form};
use crate::engine::message::ExitReason;
use crate::port::termination::Termination;
use crate::units::AgentName;

/// What the command line says about settings and state.
pub(super) fn given(place: &Place) -> Given {
    Given {
        settings: place.config.clone(),
        state_dir: place.state_dir.clone(),
        feature_gates: place.gates(),
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
        feature_gates: place.gates(),
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
        #[cfg(feature = "adopt")]
        ExitReason::Replaced => {
            let error = app::replace();
            (
                ExitCode::Failed,
                format!(
                    "let the new executable take over: {error}; the agents go on, start adjutant again"
                ),
            )
        }
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
