//! The arguments: what can be typed, and nothing of what comes of it.
//!
//! Promises: names, revisions, durations and addresses are parsed here, so that a mistake is a usage error (exit code
//! 2) that names the argument; help texts are the documentation of the commands.
//! Must never: read a file or the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::auth::EXTENSIONS_GATE;
use crate::port::store::Owner;
use crate::units::{AgentName, CertificateName, RevisionId, parse_duration};

/// Supervises telemetry agents and speaks OpAMP to their fleet server.
#[derive(Debug, Parser)]
#[command(name = "adjutant", version, max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// Where settings and state are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Place {
    /// Settings file; without it the one that `SUPERVISOR_CONFIG` names, else the built-in defaults
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// State directory, instead of the one in the settings
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Feature gates of opampsupervisor to turn on, or with a minus in front off: opampsupervisor.Extensions
    #[arg(long, value_name = "GATES", value_delimiter = ',', value_parser = feature_gate)]
    #[arg(allow_hyphen_values = true)]
    pub feature_gates: Vec<FeatureGate>,
}

impl Place {
    /// The gates that are on; the last word about one counts.
    pub(super) fn gates(&self) -> Vec<String> {
        let mut on = Vec::new();
        for gate in &self.feature_gates {
            on.retain(|id| *id != gate.id);
            if gate.on {
                on.push(gate.id.clone());
            }
        }
        on
    }
}

/// A gate that is turned on or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGate {
    /// Its id.
    pub id: String,
    /// Whether it is on.
    pub on: bool,
}

fn feature_gate(text: &str) -> Result<FeatureGate, String> {
    let (id, on) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(id), _) => (id, false),
        (None, Some(id)) => (id, true),
        (None, None) => (text, true),
    };
    if id != EXTENSIONS_GATE {
        return Err(format!("no such feature gate; there is {EXTENSIONS_GATE}"));
    }
    let id = id.to_owned();
    Ok(FeatureGate { id, on })
}

/// Whether to wait for the rollout.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Wait {
    /// Wait until the rollout is committed or has failed; progress goes to a terminal's standard error
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration, requires = "wait")]
    pub timeout: Duration,
}

/// What can be asked of the program.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the supervisor in the foreground
    Run {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Also serve a small OpAMP server with a page, for trying; loopback only
        #[arg(long, value_name = "ADDRESS", num_args = 0..=1)]
        #[arg(default_missing_value = "127.0.0.1:4319", value_parser = loopback)]
        dev_server: Option<SocketAddr>,
    },
    /// Check the settings, or a bundle for an agent, without running anything but the agent's validator
    Validate {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// A bundle to check, as a directory
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// For which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME", requires = "directory")]
        agent: Option<AgentName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say where each value of the settings comes from, and what its key means
    #[cfg(feature = "doctor")]
    Explain {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// One key, or a section such as `agents.collector.apply`; without it all keys
        key: Option<String>,
        /// Leave out what is at its default
        #[arg(long)]
        changed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show agents, revisions, rollouts and links
    Status {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Keep printing whenever something changes
        #[arg(long, short)]
        watch: bool,
    },
    /// Apply the files of a directory by hand, as if the server had offered them
    Apply {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// The bundle, as a directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// To which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Go back to an older revision
    Rollback {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Which revision; the one before the current one without it
        #[arg(long, value_name = "REVISION")]
        to: Option<RevisionId>,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
    /// Restart an agent's process
    Restart {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
    },
    /// Read the local config files again and apply what changed
    Reload {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
    },
    /// Let the executable that was installed meanwhile take over; the agents go on
    #[cfg(feature = "adopt")]
    Upgrade {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
    },
    /// List the certificates, or get new ones now
    Certificates {
        /// What of them.
        #[command(subcommand)]
        command: CertificatesCommand,
    },
    /// Register with the fleet now, whether registered already or not, and store the token
    #[cfg(feature = "registration")]
    Onboard {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
    },
    /// Get a new token for this gateway, store it and reconnect; the agents are not touched
    #[cfg(feature = "registration")]
    RestartRegistration {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
    },
    /// List, show, compare and export stored revisions
    Config {
        /// What of them.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Exit 0 when healthy or waiting for a first config; for container probes
    Healthcheck {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Ask this http:// address instead of the control socket; `/health` is added to a bare host and port
        #[arg(long, conflicts_with_all = ["config", "state_dir"])]
        url: Option<String>,
    },
    /// Print what happened: applies, restarts, deaths, links; also of earlier lives
    Events {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Only those of one agent
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// How many of the last ones
        #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
        lines: usize,
        /// Go on with what happens from now on
        #[arg(long, short)]
        follow: bool,
        /// Print JSON, one object per line
        #[arg(long)]
        json: bool,
    },
    /// Print the output of an agent, or the log of the supervisor
    Logs {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// The log of the supervisor itself
        #[arg(long, conflicts_with = "agent")]
        supervisor: bool,
        /// How many of the last lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        lines: usize,
        /// Go on with what is written from now on
        #[arg(long, short)]
        follow: bool,
    },
    /// Look for what could be in the way, and say what to do; needs no running supervisor
    #[cfg(feature = "doctor")]
    Doctor {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Hand a state directory to the user who will run the supervisor, creating it if need be; needs root
    PrepareState {
        /// The state directory
        #[arg(long, value_name = "DIR", default_value = "/var/lib/adjutant")]
        state_dir: PathBuf,
        /// Who is to have it, by number
        #[arg(long, value_name = "UID[:GID]", value_parser = super::prepare::owner)]
        owner: Owner,
    },
    /// List, show and check the kinds of agents that are known
    Profile {
        /// What of them.
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Run the data plane; normally the supervisor does
    #[cfg(feature = "collect")]
    Collect {
        /// Directory that holds collect.yaml; without one the directory of the environment, or the built-in default
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Only check the config, without side effects
        #[arg(long, requires = "directory")]
        validate: bool,
    },
}

/// What can be asked about certificates.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CertificatesCommand {
    /// List the certificates with the days they have left
    List {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Get a new pair now, whatever the age of the live one
    Renew {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which certificate; all of them without it
        #[arg(value_name = "NAME")]
        name: Option<CertificateName>,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
    },
}

/// What can be asked about stored revisions.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// List the stored revisions, newest first
    List {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the files of a revision
    Show {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Which revision; the current one without it
        revision: Option<RevisionId>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare two revisions: the one before the current with the current, FROM with the current, or FROM with TO
    Diff {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// The older revision
        from: Option<RevisionId>,
        /// The newer revision
        to: Option<RevisionId>,
    },
    /// Write the files of a revision, all layers, as `apply` takes them; secrets as they are
    #[cfg(feature = "layers")]
    Export {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Which agent; may be left out when there is only one
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Which revision; the current one without it
        #[arg(long, value_name = "REVISION")]
        revision: Option<RevisionId>,
        /// A directory that is empty or not there yet, or `-` for a tar archive on standard output
        #[arg(value_name = "DIR|-")]
        target: PathBuf,
    },
}

/// What can be asked about profiles.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ProfileCommand {
    /// List the profiles
    List {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one profile
    Show {
        /// Where settings and state are.
        #[command(flatten)]
        place: Place,
        /// Its name
        name: String,
    },
    /// Check profile files, or all of a directory, without settings
    #[cfg(feature = "doctor")]
    Check {
        /// Files NAME.yaml, or directories of them
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
    },
    /// Print a JSON schema of profiles, for editors
    #[cfg(feature = "doctor")]
    Schema,
}

/// Reads a command line, program name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    Line::try_parse_from(args).map(|line| line.command)
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "not an address with a port, such as 127.0.0.1:4319".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the server for trying listens on loopback only".to_owned())
    }
}

#[cfg(test)]
mod tests;
