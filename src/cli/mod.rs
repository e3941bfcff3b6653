//! The command line: arguments → one command → what a person reads and one exit code.
//!
//! Promises: every failure is one line on standard error (settings may have several problems, a line each) that says
//! what was tried, on what and what to do; results go to standard output and nothing else does; the exit code is one
//! of [`ExitCode`].
//! Must never: read the environment or a settings file itself, keep state, or colour anything.

mod args;
mod certificates;
mod config;
#[cfg(feature = "doctor")]
mod doctor;
mod events;
mod exit;
#[cfg(feature = "doctor")]
mod explain;
#[cfg(feature = "layers")]
mod export;
mod health;
mod logs;
mod orders;
mod out;
mod prepare;
mod profile;
#[cfg(feature = "registration")]
mod register;
mod settings;
mod status;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

pub use args::{
    CertificatesCommand, Command, ConfigCommand, FeatureGate, Place, ProfileCommand, Wait,
};
pub use exit::ExitCode;
pub use out::Out;

#[cfg(feature = "registration")]
use crate::engine::message::RegistrationOrder;
use crate::port::admin::client::Client;

/// A command that did not do what was asked, with the line to print.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    code: ExitCode,
    text: String,
}

impl Failure {
    fn new(code: ExitCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// How a command ends.
type Done = Result<ExitCode, Failure>;

/// Reads the arguments, program name first. Help, the version and usage errors are printed here.
///
/// # Errors
/// The exit code with which the program ends when there is nothing to perform.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    out: &mut Out<'_>,
) -> Result<Command, ExitCode> {
    args::parse(args).map_err(|error| {
        if error.use_stderr() {
            out.raw_problem(&error.to_string());
            ExitCode::Usage
        } else {
            out.text(&error.to_string());
            ExitCode::Ok
        }
    })
}

/// Performs a command inside the runtime and reports how it ended.
pub async fn perform(command: Command, out: &mut Out<'_>) -> ExitCode {
    let done = dispatch(command, out).await;
    finish(done, out)
}

/// Performs the commands that bring their own runtime; hands back the others.
///
/// # Errors
/// The exit code, when the command was one of them.
pub fn perform_outside(command: Command, out: &mut Out<'_>) -> Result<Command, ExitCode> {
    #[cfg(feature = "collect")]
    if let Command::Collect {
        directory,
        validate,
    } = &command
    {
        return Err(finish(
            settings::collect(directory.as_deref(), *validate, out),
            out,
        ));
    }
    // Without the data plane nothing brings its own runtime.
    _ = out;
    Ok(command)
}

fn finish(done: Done, out: &mut Out<'_>) -> ExitCode {
    done.unwrap_or_else(|failure| {
        out.problem(&failure.text);
        failure.code
    })
}

async fn dispatch(command: Command, out: &mut Out<'_>) -> Done {
    match command {
        Command::Run { place, dev_server } => settings::run(&place, dev_server).await,
        Command::Validate {
            place,
            directory,
            agent,
            json,
        } => settings::validate(&place, directory.as_deref(), agent.as_ref(), json, out).await,
        #[cfg(feature = "doctor")]
        Command::Explain {
            place,
            key,
            changed,
            json,
        } => explain::show(&place, key.as_deref(), (changed, json), out),
        Command::Status { place, json, watch } => {
            status::show(&client(&place)?, json, watch, out).await
        }
        Command::Apply {
            place,
            directory,
            agent,
            wait,
        } => orders::apply(&client(&place)?, &directory, agent, &wait, out).await,
        Command::Rollback {
            place,
            agent,
            to,
            wait,
        } => orders::rollback(&client(&place)?, agent, to, &wait, out).await,
        Command::Restart { place, agent } => orders::restart(&client(&place)?, agent, out).await,
        #[cfg(feature = "adopt")]
        Command::Upgrade { place } => orders::upgrade(&client(&place)?, out).await,
        Command::Reload { place, agent } => orders::reload(&client(&place)?, agent, out).await,
        Command::Certificates { command } => match command {
            CertificatesCommand::List { place, json } => {
                certificates::list(&client(&place)?, json, out).await
            }
            CertificatesCommand::Renew { place, name, wait } => {
                certificates::renew(&client(&place)?, name, &wait, out).await
            }
        },
        #[cfg(feature = "registration")]
        Command::Onboard { place } => {
            register::register(&place, RegistrationOrder::Onboard, out).await
        }
        #[cfg(feature = "registration")]
        Command::RestartRegistration { place } => {
            register::register(&place, RegistrationOrder::Restart, out).await
        }
        Command::Config { command } => revisions(command, out).await,
        Command::Healthcheck { place, url } => match url {
            Some(url) => health::check_url(&url, out).await,
            None => health::check(&client(&place)?, out).await,
        },
        Command::Logs {
            place,
            agent,
            supervisor,
            lines,
            follow,
        } => {
            let state_dir = settings::state_dir(&place)?;
            let log = if supervisor {
                logs::of_supervisor(&state_dir)?
            } else {
                logs::of_agent(&state_dir, agent.as_ref())?
            };
            logs::show(log, lines, follow, out).await
        }
        Command::Events {
            place,
            agent,
            lines,
            follow,
            json,
        } => {
            let state_dir = settings::state_dir(&place)?;
            events::show(&state_dir, agent.as_ref(), lines, (follow, json), out).await
        }
        #[cfg(feature = "doctor")]
        Command::Doctor { place, json } => {
            let findings = crate::app::doctor(&settings::given(&place)).await;
            Ok(doctor::show(&findings, json, out))
        }
        Command::PrepareState { state_dir, owner } => prepare::state(&state_dir, owner, out),
        Command::Profile { command } => profile::run(&command, out),
        #[cfg(feature = "collect")]
        Command::Collect {
            directory,
            validate,
        } => settings::collect(directory.as_deref(), validate, out),
    }
}

async fn revisions(command: ConfigCommand, out: &mut Out<'_>) -> Done {
    match command {
        ConfigCommand::List { place, agent, json } => {
            config::list(&client(&place)?, agent.as_ref(), json, out).await
        }
        ConfigCommand::Show {
            place,
            agent,
            revision,
            json,
        } => {
            let client = client(&place)?;
            config::show(&client, agent.as_ref(), revision.as_ref(), json, out).await
        }
        ConfigCommand::Diff {
            place,
            agent,
            from,
            to,
        } => {
            let client = client(&place)?;
            config::diff(&client, agent.as_ref(), from.as_ref(), to.as_ref(), out).await
        }
        #[cfg(feature = "layers")]
        ConfigCommand::Export {
            place,
            agent,
            revision,
            target,
        } => {
            let client = client(&place)?;
            export::export(&client, agent.as_ref(), revision.as_ref(), &target, out).await
        }
    }
}

fn client(place: &Place) -> Result<Client, Failure> {
    settings::state_dir(place).map(Client::new)
}
