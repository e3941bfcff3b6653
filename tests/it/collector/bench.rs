//! A bench to play scenarios on: a directory, a server, settings, and the supervisor on top of them.
//!
//! Promises: settings of the `agent:` form are written out whole, so that no row hangs on a default it does not name;
//! configs for the Collector read `in.log` and write to a file, so that what flows can be seen from outside.
//! Must never: decide what is right; scenarios do.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::init;
use crate::fleet::{Agent, Kind, Server, endpoint};
use crate::peers::{Door, Place, Process, eventually, otelcol};

/// How a new config is made to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// A new process.
    Restart,
    /// SIGHUP.
    Hup,
    /// A new process, under a supervisor that is process 1.
    RestartBelowInit,
    /// SIGHUP, under a supervisor that is process 1.
    HupBelowInit,
}

impl Reload {
    /// Whether the process is kept.
    pub(crate) fn is_hup(self) -> bool {
        matches!(self, Self::Hup | Self::HupBelowInit)
    }

    fn is_below_init(self) -> bool {
        matches!(self, Self::RestartBelowInit | Self::HupBelowInit)
    }
}

/// Settings in opampsupervisor's form, every key that a row may depend on written out.
#[derive(Debug, Clone)]
pub(crate) struct AgentForm {
    /// `use_hup_config_reload`.
    pub(crate) reload: Reload,
    /// `accepts_remote_config` and `reports_remote_config`.
    pub(crate) remote: bool,
    /// `validate_config`.
    pub(crate) validate: bool,
    /// `automatic_config_rollback`.
    pub(crate) rollback: bool,
    /// `config_files`.
    pub(crate) files: Vec<PathBuf>,
    /// Lines of YAML put at the end.
    pub(crate) more: String,
}

impl AgentForm {
    /// What opampsupervisor does by default, with remote config on.
    pub(crate) fn with_remote(reload: Reload) -> Self {
        Self {
            reload,
            remote: true,
            validate: false,
            rollback: false,
            files: Vec::new(),
            more: String::new(),
        }
    }

    /// What it does by default, with one local file.
    pub(crate) fn with_local(reload: Reload, file: PathBuf) -> Self {
        Self {
            remote: false,
            files: vec![file],
            ..Self::with_remote(reload)
        }
    }

    fn render(&self, endpoint: &str, state: &Path) -> String {
        let Self {
            reload,
            remote,
            validate,
            rollback,
            files,
            more,
        } = self;
        let hup = reload.is_hup();
        let files = serde_json::to_string(files).unwrap();
        format!(
            "server: {{endpoint: {endpoint}}}
capabilities:
  accepts_remote_config: {remote}
  reports_remote_config: {remote}
  accepts_restart_command: true
  reports_effective_config: true
  reports_health: true
  reports_heartbeat: true
storage: {{directory: {state}}}
agent:
  executable: {otelcol}
  config_files: {files}
  config_apply_timeout: 30s
  use_hup_config_reload: {hup}
  validate_config: {validate}
  automatic_config_rollback: {rollback}
{more}",
            state = state.display(),
            otelcol = otelcol().display(),
        )
    }
}

/// Settings in our own form with the Collector as agent `collector`; `apply` are further keys of its `apply`, `more`
/// further lines of the agent.
pub(crate) fn own_form(reload: Reload, apply: &str, more: &str) -> String {
    let reload = if reload.is_hup() { "hup" } else { "restart" };
    format!(
        "server: {{endpoint: SERVER}}
storage: {{directory: STATE}}
http: {{listen: []}}
stop: {{grace: 1s, budget: 5s}}
agents:
  collector:
    profile: otelcol
    executable: {}
    apply: {{reload: {reload}, {apply}}}
{more}",
        otelcol().display()
    )
}

/// A directory and a server to play on.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: Place,
    kind: Kind,
    server: Option<Server>,
    fed: AtomicUsize,
    below_init: bool,
}

impl Bench {
    /// With a server that is there from the start (ours: as long as the supervisor runs).
    pub(crate) fn new(kind: Kind) -> Self {
        let server = match kind {
            Kind::Dev => None,
            Kind::OpampGo => Some(Server::start(kind, 0)),
        };
        Self {
            server,
            ..Self::without_server(kind)
        }
    }

    /// Without one, until [`Bench::server_comes`].
    pub(crate) fn without_server(kind: Kind) -> Self {
        Self {
            dir: Place::new(),
            kind,
            server: None,
            fed: AtomicUsize::new(0),
            below_init: false,
        }
    }

    /// Starts a server, apart from any supervisor.
    pub(crate) fn server_comes(&mut self, port: u16) {
        self.server = Some(Server::start(self.kind, port));
    }

    /// Ends the server without a word.
    pub(crate) fn server_goes(&mut self) {
        self.server.take().unwrap().stop();
    }

    /// The server.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .unwrap();
        path
    }

    /// Runs the supervisor with settings in opampsupervisor's form and the server of the bench.
    pub(crate) fn run(&mut self, settings: &AgentForm) -> Supervisor {
        self.below_init = settings.reload.is_below_init();
        let text = settings.render("SERVER", Path::new("STATE"));
        self.run_text(&text)
    }

    /// As [`Bench::run`], with a server that is not there.
    pub(crate) fn run_alone(&mut self, settings: &AgentForm, port: u16) -> Supervisor {
        self.below_init = settings.reload.is_below_init();
        let text = settings.render(&endpoint(port), &self.path("state"));
        self.start(&text, false, &[])
    }

    /// Starts the supervisor with settings that it refuses; its exit code and what it said.
    pub(crate) fn refused(&self, settings: &AgentForm) -> (i32, String) {
        let text = settings.render(&endpoint(1), &self.path("state"));
        let config = self.file("supervisor.yaml", &text);
        let output = Command::new(env!("CARGO_BIN_EXE_adjutant"))
            .args(["run", "--config"])
            .arg(config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }

    /// Runs the supervisor with a settings file that names its server, whether that is there or not.
    pub(crate) fn run_without(&mut self, settings: &str) -> Supervisor {
        let text = settings.replace("STATE", &self.path("state").display().to_string());
        self.start(&text, false, &[])
    }

    /// As [`Bench::run`], with this endpoint of the server.
    pub(crate) fn run_polled(&mut self, settings: &AgentForm, endpoint: &str) -> Supervisor {
        let text = settings.render(endpoint, &self.path("state"));
        self.start(&text, false, &[])
    }

    /// Runs the supervisor with a settings file; `SERVER` and `STATE` in it are filled in.
    pub(crate) fn run_text(&mut self, settings: &str) -> Supervisor {
        let text = self.fill(settings);
        let embedded = matches!(self.server, None | Some(Server::Embedded { .. }));
        self.start(&text, embedded, &[])
    }

    /// Writes a settings file with `SERVER` and `STATE` filled in, for whoever is to read it.
    pub(crate) fn settings(&self, settings: &str) -> PathBuf {
        self.file("supervisor.yaml", &self.fill(settings))
    }

    /// Puts another settings file in the place of the one a supervisor runs with, and has it read.
    pub(crate) fn settings_change(&self, supervisor: &mut Supervisor, settings: &str) {
        self.file("supervisor.yaml", &self.fill(settings));
        supervisor.process.signal("HUP");
        let read = |line: &str| line.contains("settings read again").then_some(());
        supervisor.process.line("it reads its settings", read);
    }

    fn fill(&self, settings: &str) -> String {
        // An embedded server takes the place of whatever stands there.
        let endpoint = match &self.server {
            None | Some(Server::Embedded { .. }) => endpoint(1),
            Some(server) => server.endpoint(),
        };
        settings
            .replace("SERVER", &endpoint)
            .replace("STATE", &self.path("state").display().to_string())
    }

    /// As [`Bench::run_text`], with more arguments.
    pub(crate) fn run_with(&mut self, settings: &str, more: &[&str]) -> Supervisor {
        let text = self.fill(settings);
        self.start(&text, false, more)
    }

    /// Runs one more supervisor with the server of the bench, in a directory `name` of its own.
    pub(crate) fn run_beside(&mut self, name: &str, settings: &str) -> Supervisor {
        fs::create_dir(self.path(name)).unwrap();
        let state = self.path(name).display().to_string();
        let text = self.fill(&settings.replace("STATE", &state));
        let config = self.file(&format!("{name}.yaml"), &text);
        self.start_at(config, self.path(name).join("control.sock"), false, &[])
    }

    fn start(&mut self, settings: &str, embedded: bool, more: &[&str]) -> Supervisor {
        let config = self.file("supervisor.yaml", settings);
        let control = self.path("state/control.sock");
        self.start_at(config, control, embedded, more)
    }

    fn start_at(
        &mut self,
        config: PathBuf,
        control: PathBuf,
        embedded: bool,
        more: &[&str],
    ) -> Supervisor {
        let mut args = vec!["run".to_owned(), "--config".to_owned()];
        args.push(config.display().to_string());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        if embedded {
            args.extend(["--dev-server".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        let mut program = Path::new(env!("CARGO_BIN_EXE_adjutant"));
        if self.below_init {
            args = init::arguments(program, args);
            program = Path::new("unshare");
        }
        let mut process = Process::start("adjutant", program, args);
        if embedded {
            let (api, token) = process.line("the address of the page", page);
            self.server = Some(Server::Embedded { api, token });
        }
        let mut supervisor = Supervisor {
            process,
            control: Door::Unix(control),
            config,
            init: None,
        };
        eventually("the control socket answers", || {
            supervisor.status().map(drop)
        });
        if self.below_init {
            let init = init::below(supervisor.process.id());
            supervisor.process.aim(init);
            supervisor.init = Some(init);
        }
        supervisor
    }

    /// Waits until the server has the agent connected and told about; returns its uid.
    pub(crate) fn connected(&self, supervisor: &Supervisor) -> String {
        let uid = supervisor.uid();
        self.agent(&uid, "connected and described", |agent| {
            agent.connected && agent.identifying.contains_key("service.name")
        });
        uid
    }

    /// Waits until what the server knows of the agent is as wanted.
    pub(crate) fn agent(&self, uid: &str, what: &str, wanted: impl Fn(&Agent) -> bool) -> Agent {
        eventually(&format!("the server sees the agent {what}"), || {
            let agent = self.server().agent(uid)?;
            if wanted(&agent) {
                Ok(agent)
            } else {
                Err(format!("{agent:#?}"))
            }
        })
    }

    /// Waits until the agent has reported a status for an offer; returns its error text.
    pub(crate) fn status(&self, uid: &str, hash: &str, word: &str) -> String {
        let agent = self.agent(uid, &format!("{word} {hash}"), |agent| {
            agent
                .status
                .as_ref()
                .is_some_and(|(about, seen, _)| about == hash && seen == word)
        });
        agent.status.unwrap().2
    }

    /// Waits until the agent is reported healthy or not; returns the error text.
    pub(crate) fn healthy(&self, uid: &str, healthy: bool) -> String {
        let what = if healthy {
            "healthy"
        } else {
            "unhealthy, with a reason"
        };
        let agent = self.agent(uid, what, |agent| {
            agent.health.as_ref().is_some_and(|health| {
                health.healthy == healthy && (healthy || !health.last_error.is_empty())
            })
        });
        agent.health.unwrap().last_error
    }

    /// Pushes a config as one file.
    pub(crate) fn push(&self, uid: &str, config: &str) -> String {
        self.server().push(uid, &[("config.yaml", config)], None)
    }

    /// A config that carries lines of `in.log` to a file of this name.
    pub(crate) fn pipeline(&self, out: &str) -> String {
        pipeline(&self.path("in.log"), &self.path(out))
    }

    /// Writes a new line to `in.log` and waits until it has come out.
    pub(crate) fn flows(&self, out: &str) {
        let number = self.fed.fetch_add(1, Ordering::Relaxed);
        let line = format!("line-{number}-of-{out}");
        let mut input = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("in.log"))
            .unwrap();
        writeln!(input, "{line}").unwrap();
        let path = self.path(out);
        eventually(&format!("{line} comes out"), || {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            if text.contains(&line) {
                Ok(())
            } else {
                Err(format!("{} bytes of other lines", text.len()))
            }
        });
    }
}

/// A config of the Collector that carries lines from one file to another.
pub(crate) fn pipeline(input: &Path, out: &Path) -> String {
    format!(
        "receivers:
  filelog:
    include: ['{}']
    start_at: beginning
    poll_interval: 50ms
exporters:
  file:
    path: '{}'
    flush_interval: 50ms
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [filelog], exporters: [file]}}
",
        input.display(),
        out.display()
    )
}

/// Address and token out of the line that names the page.
fn page(line: &str) -> Option<(Door, String)> {
    let (_, rest) = line.split_once("http://")?;
    let (address, rest) = rest.split_once('/')?;
    let (_, token) = rest.split_once("token=")?;
    let token = token.chars().take_while(char::is_ascii_alphanumeric);
    Some((Door::Tcp(address.parse().ok()?), token.collect()))
}

/// A running supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    process: Process,
    control: Door,
    config: PathBuf,
    /// Its process id, where it is process 1 to itself.
    init: Option<u32>,
}

impl Supervisor {
    /// Its own process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// The only agent's part of `GET /v1/status`.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let answer = self.control.get("/v1/status")?;
        match answer.json["agents"].get(0) {
            Some(agent) if answer.status == 200 => Ok(agent.clone()),
            _ => Err(format!("{answer:?}")),
        }
    }

    /// The agent's uid.
    pub(crate) fn uid(&self) -> String {
        let status = self.status().unwrap();
        status["instance_uid"].as_str().unwrap().to_owned()
    }

    /// The pid of the child, if one runs.
    pub(crate) fn pid(&self) -> Option<u64> {
        let pid = self.status().unwrap()["child"]["pid"].as_u64()?;
        match self.init {
            Some(init) => init::outside(init, pid),
            None => Some(pid),
        }
    }

    /// Waits until the status is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the supervisor says {what}"), || {
            let status = self.status()?;
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{status:#}"))
            }
        })
    }

    /// Waits until a child runs and is healthy; returns its pid.
    pub(crate) fn healthy(&self) -> u64 {
        self.until("healthy with a child", |status| {
            status["healthy"] == true && status["child"]["pid"].is_u64() && self.pid().is_some()
        });
        self.pid().unwrap()
    }

    /// Waits until the rollout is in a phase.
    pub(crate) fn phase(&self, phase: &str) -> Value {
        self.until(phase, |status| status["phase"] == phase)
    }

    /// Runs a command of ours against it and returns its standard output.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_adjutant"))
            .args(words)
            .arg("--config")
            .arg(&self.config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.lines()
    }

    /// Ends it without a chance to say anything.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it, and its child with it.
    pub(crate) fn stop(mut self) {
        let child = self.pid();
        let status = self.process.stop();
        assert!(
            !child.is_some_and(alive),
            "the child outlived an orderly stop"
        );
        assert_eq!(status.code(), Some(0), "{:#?}", self.process.lines());
    }
}

/// Whether a process runs. One that has ended and that nobody has reaped, as a child of a supervisor that was killed,
/// does not.
pub(crate) fn alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| rest);
    !state.starts_with(['Z', 'X'])
}
