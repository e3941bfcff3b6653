//! The resolved settings: what `supervisor.yaml` (either form), the profiles and the defaults come to.
//!
//! Promises: every field here is resolved and inside its bounds; there is no default anywhere else in the program.
//! Must never: read the process environment directly (values come through [`Environment`]) or touch the network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use opamp_client::transport::ProxyRules;

use crate::units::{AgentName, Secret, order};

pub use crate::units::Rotation;

mod agent;
mod apply;
pub mod auth;
pub mod certificates;
mod clock;
#[cfg(test)]
mod documents;
mod expand;
mod explain;
mod flow;
mod health_door;
mod hint;
mod load;
pub mod names;
#[cfg(feature = "opampsupervisor")]
mod otel;
/// What sections that both forms share need of the other form, in a build that does not read it.
#[cfg(not(feature = "opampsupervisor"))]
mod otel {
    pub(super) const THEIRS: [(&str, &str); 0] = [];
}
mod ours;
pub mod policy;
mod process;
mod profile;
mod program;
mod proxy;
mod read;
pub mod registration;
mod start;
pub mod telemetry;
#[cfg(test)]
mod tests;
mod tls;
mod value;

pub use auth::{Auth, OAuth2};
pub use certificates::{Acme, Certificate, CertificateSource, Domains};
pub use clock::ClockWatch;
pub use explain::{DecidedBy, Explained, explain, nearest_key};
#[cfg(feature = "flow")]
pub use flow::part_by_path;
pub use flow::{Flow, FlowCheck, FlowFormat, FlowMode, FlowRole, FlowSignal};
pub use health_door::{DoorTls, HealthDoor};
pub use load::{ConfigErrors, Overrides, defaults, keys, keys_not_built, load};
pub use ours::server_at;
pub use process::{Account, CgroupLimits, CgroupRoot, Limit, LimitKind, Process};
pub use profile::{ProfileFile, built_in, built_in_names, check_profile, profile_keys};
pub use program::{
    Composition, ConfFiles, Expansion, HealthProbe, LocalLink, Profile, Proof, Tested,
};
pub use proxy::Proxy;
pub use read::Key;
pub use registration::{OnRejected, Registration, TokenSource};
pub use tls::Tls;

/// Everything `adjutant run` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which of the two forms the settings were written in.
    pub form: Form,
    /// The OpAMP server; `None` runs without one.
    pub server: Option<Server>,
    /// How to register with a fleet; `None` without.
    pub registration: Option<Registration>,
    /// Which OpAMP capabilities the user left on (bits of `AgentCapabilities`). A wish: the engine announces
    /// those of them that this version has the means for.
    pub capabilities: u64,
    /// The state directory.
    pub storage: PathBuf,
    /// The managed agents, in start order. Never empty.
    pub agents: Vec<Agent>,
    /// Key pairs that are kept fresh.
    pub certificates: Vec<Certificate>,
    /// How the host's clock is watched; `None` does not watch it.
    pub clock: Option<ClockWatch>,
    /// How long stopping may take.
    pub stop: Stop,
    /// Below which control group each child gets its own.
    pub cgroup_root: CgroupRoot,
    /// What happens when an agent's restarts are used up.
    pub give_up: GiveUp,
    /// Where the reason of an end that was not asked for is written; `None` where the orchestrator has its usual file.
    pub termination_message: Option<PathBuf>,
    /// Addresses of the health, metrics and status doors.
    pub listen: Vec<SocketAddr>,
    /// File with the token that every address of `listen` but loopback asks for.
    pub token_file: Option<PathBuf>,
    /// Address of the plain `/health` door of the `agent:` form.
    pub healthcheck: Option<SocketAddr>,
    /// How that door answers.
    pub health_door: HealthDoor,
    /// Our own log.
    pub log: Log,
    /// Where our own telemetry goes.
    pub telemetry: telemetry::Telemetry,
    /// Things worth a line at start, such as an unset variable in the `agent:` form.
    pub warnings: Vec<String>,
}

/// The two forms of `supervisor.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `agent:`, the form of the OpenTelemetry Collector's supervisor.
    Agent,
    /// `agents:`, ours.
    Agents,
}

impl Form {
    /// The key that tells this form.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Agents => "agents",
        }
    }

    /// Whether a text is in the other program's form, with its rules.
    pub const fn is_theirs(form: Option<Self>) -> bool {
        cfg!(feature = "opampsupervisor") && matches!(form, Some(Self::Agent))
    }
}

/// The OpAMP server and how to reach it.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// `ws://`, `wss://`, `http://` or `https://` URL.
    pub endpoint: String,
    /// Headers of the upgrade request, or of every poll; a name may repeat.
    pub headers: Vec<(String, Secret)>,
    /// How the server's identity is verified.
    pub tls: Tls,
    /// Heartbeat interval unless the server offers another.
    pub heartbeat: Duration,
    /// The proxy, instead of what the environment names.
    pub proxy: Option<Proxy>,
    /// How we prove who we are.
    pub auth: Option<Auth>,
}

impl Server {
    /// Whether the settings say themselves how to prove who we are.
    pub fn has_own_authorization(&self) -> bool {
        let mut headers = self.headers.iter();
        self.authenticates() || headers.any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    }

    /// Whether an authenticator says who we are, whatever headers go along.
    pub fn authenticates(&self) -> bool {
        let auth = self.auth.as_ref();
        auth.is_some_and(|auth| auth.header().eq_ignore_ascii_case("authorization"))
    }

    /// The proxies of a connection, where the environment names `otherwise`.
    pub fn proxies(&self, otherwise: &ProxyRules) -> ProxyRules {
        match &self.proxy {
            Some(proxy) => proxy.rules(otherwise),
            None => otherwise.clone(),
        }
    }

    /// Whether the server is polled over plain HTTP instead of spoken to over a WebSocket.
    pub fn is_polled(&self) -> bool {
        let scheme = self.endpoint.split("://").next().unwrap_or_default();
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    }
}

/// One managed agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its name; also its directory under `agents/`.
    pub name: AgentName,
    /// What kind of program it is.
    pub profile: Profile,
    /// The program. Resolved and checked to exist when the settings are read.
    pub executable: PathBuf,
    /// Arguments after the profile's own.
    pub args: Vec<String>,
    /// Environment on top of the profile's base environment.
    pub env: BTreeMap<String, String>,
    /// The layers of its config, lowest first; later wins.
    pub layers: Vec<Layer>,
    /// Files that run instead of the local layers while nothing is stored and the server was never reached.
    pub fallback: Vec<PathBuf>,
    /// Attributes added to or overriding the reported description.
    pub description: Description,
    /// How offers are applied.
    pub apply: Apply,
    /// What an offer may contain.
    pub policy: Policy,
    /// How a dead child is restarted.
    pub restart: Restart,
    /// Loopback port of the local OpAMP endpoint for this child; 0 lets the system choose.
    pub local_port: u16,
    /// Whether the child is asked what it is made of.
    pub reports_components: bool,
    /// The uid on a state directory that has none; one is made up otherwise.
    pub instance_uid: Option<[u8; 16]>,
    /// Whether `effective.yaml` and `agent.log` stand in the state directory for people who look there.
    pub shows_files: bool,
    /// Bytes of its last output that a report of its death has; none of ours says how many.
    pub crash_words: Option<usize>,
    /// Whether the child's output goes to our own output instead of files in `logs/`.
    pub passthrough_logs: bool,
    /// Rotation of the child's log files.
    pub log_rotation: Rotation,
    /// What becomes of the child when we die.
    pub on_our_death: OnDeath,
    /// After which other agents it starts.
    pub start: StartOrder,
    /// As whom and within which limits it runs.
    pub process: Process,
    /// What of its own telemetry an offer may direct.
    pub own_telemetry: telemetry::Directed,
    /// Entries of its bundles that name domains of certificates: read by us, not by the program.
    pub domain_files: Vec<String>,
}

/// What becomes of a child when its supervisor is killed or crashes. An ordered stop ends it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDeath {
    /// It lives on, and the next life takes it over.
    Adopt,
    /// It lives on, and the next life stops it and starts a new one.
    Restart,
    /// The kernel sends it the stop signal at once.
    End,
}

/// After which other agents one starts; it stops before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// Those that come first.
    pub after: Vec<AgentName>,
    /// How long they may take to be well before it is started anyway.
    pub wait: Duration,
}

impl Default for StartOrder {
    fn default() -> Self {
        Self {
            after: Vec::new(),
            wait: Duration::from_secs(30),
        }
    }
}

/// One layer of an agent's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A local file.
    Local(PathBuf),
    /// Where offered own-telemetry settings go.
    OwnTelemetry,
    /// Where the generated overlay goes.
    Overlay,
    /// Where the offered files go.
    Remote,
}

/// Attributes given in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Identifying attributes.
    pub identifying: BTreeMap<String, String>,
    /// Non-identifying attributes.
    pub non_identifying: BTreeMap<String, String>,
    /// Whether the resource attributes of the child's telemetry count among its own.
    pub include_resource: bool,
}

/// How offers are applied.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one setting of its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// Whether the agent takes remote configs at all.
    pub accept_remote: bool,
    /// When APPLIED is reported.
    pub report: ReportWhen,
    /// Whether the profile's validator runs first.
    pub validate: bool,
    /// How long the validator may take.
    pub validate_timeout: Duration,
    /// Whether a refused bundle is searched for the file that is to blame.
    pub find_fault: bool,
    /// Whether a failed apply goes back to last good by itself.
    pub rollback: bool,
    /// Whether a local layer that changes on disk is applied.
    pub watch_local_files: bool,
    /// Whether a local file that cannot be read is left out of the config instead of refusing it.
    pub without_unreadable: bool,
    /// What becomes of a file of the running revision that somebody else changed.
    pub drift: Drift,
    /// How the new config is made to run.
    pub reload: Reload,
    /// How long the child may take to prove the new config.
    pub proof_timeout: Duration,
    /// How long a proven config must hold before it becomes last good.
    pub probation: Duration,
    /// What the server reads after a rollback.
    pub after_rollback: AfterRollback,
    /// What an empty config map means.
    pub empty_config: EmptyConfig,
    /// How long a config may wait for a certificate that it names.
    pub certificate_wait: Duration,
    /// How many unreferenced revisions are kept.
    pub keep_revisions: usize,
    /// Limits of an offer.
    pub limits: OfferLimits,
    /// Whether data still flows.
    pub flow: FlowCheck,
}

/// When APPLIED is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportWhen {
    /// When the child has proven the config; a failure inside probation turns it into FAILED.
    OnProof,
    /// When probation has ended.
    AfterProbation,
}

/// What becomes of a file of the running revision that somebody else changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// It is said, and the proven bytes are put back.
    Restore,
    /// It is said.
    Report,
    /// Nobody looks.
    Off,
}

/// How a new config is made to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// SIGHUP where nothing restart-needed changed, else restart. Only where the program obeys one and its proof sees
    /// it.
    Hup,
    /// Always restart.
    Restart,
}

/// What the server reads after a rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRollback {
    /// FAILED of the bad offer stands.
    KeepFailed,
    /// APPLIED of the config that runs again.
    ReportGood,
}

/// What an empty config map means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyConfig {
    /// Keep the running config.
    Keep,
    /// Run the local or built-in default config.
    Default,
    /// Stop the child.
    Stop,
}

/// Limits of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferLimits {
    /// Files in one offer.
    pub files: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// What an offer may contain. A server can never widen it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Component types that are refused, beside the profile's own list.
    pub denied_components: Vec<String>,
    /// Component types taken off the profile's list by the operator.
    pub allowed_components: Vec<String>,
    /// When set, paths in an offer must lie under one of these.
    pub path_roots: Option<Vec<PathBuf>>,
    /// When set, the only ports an offer may bind.
    pub ports: Option<Vec<u16>>,
    /// Environment names that `${env:…}` in an offer may read; they are the only ones of ours a child gets.
    pub environment: Vec<String>,
}

/// How a dead child is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Delay before the second restart in a row; the first is at once.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Uptime that counts as stable and resets the count.
    pub stable_after: Duration,
    /// Failed starts in a row after which the child is given up; 0 never gives up.
    pub give_up_after: u32,
}

/// How long stopping may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// From the stop signal to KILL.
    pub grace: Duration,
    /// From our TERM to our exit.
    pub budget: Duration,
}

/// What happens when an agent's restarts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Stay up, report, wait for an order.
    Hold,
    /// Exit with the documented code, so that an orchestrator acts.
    Exit,
}

/// Our own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Text or JSON lines.
    pub format: LogFormat,
    /// Whether it also goes to a file in the state directory, and the output of children to files at all.
    pub to_files: bool,
    /// Rotation of our own file.
    pub rotation: Rotation,
    /// Bytes of all log files together.
    pub max_total: u64,
    /// Where it goes in place of standard error.
    pub outputs: Option<LogOutputs>,
}

/// Where our own log goes, besides its file in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOutputs {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Files, which are rotated.
    pub files: Vec<PathBuf>,
}

impl Log {
    /// Bytes that our own file takes at most; none when there is none.
    pub fn own_bytes(&self) -> u64 {
        if self.to_files {
            self.rotation.total()
        } else {
            0
        }
    }
}

/// The format of our own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where settings get environment values and files from, so that tests never touch the process.
pub trait Environment {
    /// The value of a variable.
    fn var(&self, name: &str) -> Option<String>;
    /// The text of a file named by `${file:…}`.
    fn file(&self, path: &str) -> std::io::Result<String>;
    /// Our own executable, for profiles that re-execute us.
    fn own_executable(&self) -> PathBuf;
    /// Whether we run as root, which decides the default storage directory.
    fn is_root(&self) -> bool;

    /// Whether somebody outside collects our standard streams, as container runtimes do.
    fn in_container(&self) -> bool {
        false
    }

    /// A user with its groups; else the key that is wrong, `user` or `group`, and why.
    ///
    /// # Errors
    /// Where there is no such user or group.
    #[cfg(feature = "isolation")]
    fn account(&self, user: &str, group: Option<&str>) -> Result<Account, (&'static str, String)> {
        process::find_account(user, group)
    }

    /// The directory that relative paths of the `agent:` form count from.
    fn working_directory(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
    }

    /// Whether a path names a file that may be executed.
    fn is_executable(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    }

    /// The files of a directory, sorted.
    fn directory(&self, path: &Path) -> std::io::Result<Vec<PathBuf>> {
        let mut files = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        order::sort(&mut files);
        Ok(files)
    }
}
