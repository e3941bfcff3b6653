//! Judges a bundle without applying it: composed, checked by the policy, and shown to the agent's own validator.
//!
//! Promises: the state directory is not touched and no lock is needed; the files given to the validator lie in a
//! private temporary directory that is removed again.
//! Must never: start the agent itself.

use std::path::{Path, PathBuf};

use super::start::{choose, local_layers, system};
use super::{AppError, AppErrorKind, BundleVerdict};
use crate::config::{Agent, CgroupRoot, Config, LocalLink, Process};
use crate::engine::Places;
use crate::engine::desired::{self, Candidate};
use crate::engine::message::{LocalFile, OfferedFile, RevisionFile, ToolEnd, ToolSpec};
use crate::port::bundle;
use crate::port::child::{self, ChildDirs, Children, ChildrenEvent};
use crate::port::store::FILE_BYTES_MAX;
use crate::sys::durable::{DIR_MODE, Disk as _, FILE_MODE, RealDisk, remove_tree};
use crate::units::{AgentName, Ticket, format_duration};

/// Bytes of a validator's output that are shown.
const OUTPUT_MAX: usize = 16 * 1024;

/// Composes a bundle for an agent and asks the agent's own validator.
pub(super) async fn validate(
    config: &Config,
    directory: &Path,
    agent: Option<&AgentName>,
) -> Result<BundleVerdict, AppError> {
    let agent = choose(config, agent)?;
    let files = bundle::read(directory).map_err(|error| AppError {
        kind: AppErrorKind::Settings,
        cause: error.into(),
    })?;
    let offered: Vec<OfferedFile> = files
        .into_iter()
        .map(|file| OfferedFile {
            name: file.name,
            content_type: String::new(),
            body: file.bytes,
        })
        .collect();
    let local: Vec<LocalFile> = local_layers(agent).into_iter().map(read_local).collect();
    let pid1 = std::process::id() == 1;
    let mut children = Children::new(&child::Options {
        pid1,
        cgroup_root: CgroupRoot::Off,
    })
    .map_err(|error| system("prepare for child processes", error))?;
    judge(&mut children, config, agent, &local, &offered).await
}

/// Composes layers and an offer, and asks the agent's own validator what it thinks of them.
pub(super) async fn judge(
    children: &mut Children,
    config: &Config,
    agent: &Agent,
    local: &[LocalFile],
    offered: &[OfferedFile],
) -> Result<BundleVerdict, AppError> {
    let scratch = Scratch::new()?;
    let places = Places {
        state_dir: scratch.0.clone(),
        link: link(agent, &scratch.0),
        certificates: config.storage.join("certificates"),
        reserved_ports: config
            .listen
            .iter()
            .map(std::net::SocketAddr::port)
            .collect(),
        supervisor: String::new(),
    };
    let candidate = match desired::compose(agent, &places, local, offered) {
        Ok(candidate) => candidate,
        Err(refused) => return Ok(BundleVerdict::Unacceptable(refused.0)),
    };
    let Some(arguments) = &agent.profile.validate else {
        return Ok(BundleVerdict::Acceptable);
    };
    let staged = scratch.0.join("candidate");
    write(&staged, &candidate.files)?;
    let spec = tool(agent, &places, arguments, &staged, &candidate);
    ask(children, agent, &scratch.0, &spec).await
}

pub(super) fn read_local(path: PathBuf) -> LocalFile {
    let bytes = RealDisk
        .read(&path, FILE_BYTES_MAX)
        .map_err(|error| error.to_string());
    LocalFile { path, bytes }
}

/// What the agent would be told about its local endpoint; a validator connects to nothing.
fn link(agent: &Agent, directory: &Path) -> Option<String> {
    match agent.profile.local_link {
        LocalLink::None => None,
        LocalLink::Loopback => Some(format!("ws://127.0.0.1:{}/v1/opamp", agent.local_port)),
        LocalLink::Unix => Some(directory.join("link.sock").display().to_string()),
    }
}

fn tool(
    agent: &Agent,
    places: &Places,
    arguments: &[String],
    staged: &Path,
    candidate: &Candidate,
) -> ToolSpec {
    let inherit = agent.profile.environment.iter();
    let nobody = uuid::Uuid::nil().to_string();
    ToolSpec {
        program: agent.executable.clone(),
        args: desired::arguments(agent, places, arguments, staged, &candidate.files),
        env: desired::environment(agent, places, staged, &nobody),
        inherit: inherit.chain(&agent.policy.environment).cloned().collect(),
        timeout: agent.apply.validate_timeout,
        output_max: OUTPUT_MAX,
        // A person asks, and the copy that is judged is that person's.
        process: Process::default(),
    }
}

async fn ask(
    children: &mut Children,
    agent: &Agent,
    scratch: &Path,
    spec: &ToolSpec,
) -> Result<BundleVerdict, AppError> {
    let dirs = ChildDirs::below(scratch, agent.log_rotation);
    children.run_tool(&agent.name, &dirs, Ticket(1), spec);
    let outcome = loop {
        // Nothing else runs, but an orphan of the validator may end first.
        if let ChildrenEvent::ToolDone { outcome, .. } = children.next().await {
            break outcome;
        }
    };
    let words = outcome.output.trim();
    let refused = match outcome.end {
        ToolEnd::Exited(0) => return Ok(BundleVerdict::Acceptable),
        ToolEnd::Exited(code) => {
            format!("the validator refused the config (exit code {code}): {words}")
        }
        ToolEnd::Signalled(signal) => {
            format!("the validator died with signal {signal}: {words}")
        }
        ToolEnd::TimedOut => {
            let limit = format_duration(spec.timeout);
            format!("the validator took longer than {limit}: {words}")
        }
        ToolEnd::NotStarted(reason) => {
            return Err(AppError {
                kind: AppErrorKind::System,
                cause: anyhow::Error::msg(reason).context("start the validator"),
            });
        }
    };
    Ok(BundleVerdict::Unacceptable(refused))
}

fn write(staged: &Path, files: &[RevisionFile]) -> Result<(), AppError> {
    for file in files {
        let path = staged.join(&file.path);
        let parent = path.parent().unwrap_or(staged);
        let written =
            create_dirs(parent).and_then(|()| RealDisk.write_file(&path, &file.bytes, FILE_MODE));
        written.map_err(|error| system("write a file for the validator", error))?;
    }
    Ok(())
}

fn create_dirs(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
}

/// A private directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, AppError> {
        let template = std::env::temp_dir().join("adjutant-validate-XXXXXX");
        nix::unistd::mkdtemp(&template)
            .map(Self)
            .map_err(|error| system("make a temporary directory", error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is lost by what is left in a temporary directory.
        remove_tree(&RealDisk, &self.0).ok();
    }
}
