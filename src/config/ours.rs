//! The `agents:` form: ours, strict, several agents.
//!
//! Promises: every default of this form is written here once and nowhere else; a key of a later version is a
//! named error.
//! Must never: accept a bare number where a unit belongs, or a relative path.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::units::Secret;
use crate::yaml::Node;

use super::agent::agents;
use super::auth::auth;
use super::certificates::certificates;
use super::process;
use super::profile;
use super::proxy::proxy;
use super::read::{Reader, Section};
use super::registration;
use super::tls::tls;
use super::value::format_size;
use super::{
    Agent, Config, Environment, Form, GiveUp, HealthDoor, Log, LogFormat, Rotation, Server, Stop,
    Tls,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;
/// Our own log: two files, years of a quiet host.
pub(super) const OWN_ROTATION: Rotation = Rotation {
    bytes: 4 * MIB,
    files: 1,
};
/// Not 8686, 8888, 9090, 9100, 13133, 4317, 4318 or 4320, which agents and their neighbours use.
const PORT: u16 = 4328;

/// `ReportsStatus`, `AcceptsRemoteConfig`, `ReportsEffectiveConfig`, `AcceptsRestartCommand`, `ReportsHealth`,
/// `ReportsRemoteConfig`, `ReportsHeartbeat`.
const CAPABILITIES: u64 = 0x1 | 0x2 | 0x4 | 0x400 | 0x800 | 0x1000 | 0x2000;

/// `AcceptsOpAMPConnectionSettings`, where the settings ask for it.
pub(super) const ACCEPTS_CONNECTION_SETTINGS: u64 = 0x100;

/// Whether this build can take connection settings from a server.
pub(super) fn connection_settings() -> Result<(), &'static str> {
    if cfg!(feature = "connection") {
        Ok(())
    } else {
        Err(
            "this program was built without offered connection settings (feature connection), remove it",
        )
    }
}

/// What `server.auth` is.
pub(super) const AUTH: &str = "the entry of `extensions` that says who we are";

/// What is said of a key of a later version.
pub(super) const LATER: &str = "not supported in this version, remove it";

/// Reads the whole form. Problems are left in the reader; what is returned then is not to be used.
pub(super) fn read(tree: &Node, reader: &mut Reader<'_>) -> Config {
    let env = reader.env;
    let mut root = reader.root(tree);
    let from_environment = registration::server_of_environment(root.reader);
    let mut capabilities = CAPABILITIES;
    let (mut server, named) = server(root.sub("server"), from_environment, &mut capabilities);
    let auth = auth(&mut root, named);
    if let Some(server) = &mut server {
        server.auth = auth;
    }
    let (given, present) = registration::read(root.sub("registration"));
    let registration = registration::complete(given, present, root.reader);
    if registration.is_some() {
        registration::drop_empty_authorization(&mut server);
    }
    let storage = {
        let mut section = root.sub("storage");
        let default = "/var/lib/adjutant for root, else $XDG_STATE_HOME/adjutant or $HOME/.local/state/adjutant";
        let directory = section.path_value("directory", "where all state lives", default);
        section.finish();
        directory.unwrap_or_else(|| default_storage(env))
    };
    let directory = root.path_value(
        "profiles",
        "directory of more profiles, one YAML file each",
        "none",
    );
    let (profiles, problems) = profile::all(directory.as_deref(), env);
    root.reader.errors.extend(problems);
    let log = log(root.sub("log"));
    let mut agents = agents(&mut root, &profiles, &log);
    check_log_budget(&mut root, &log, &agents);
    check_directories(&mut root, &storage, &agents);
    let certificates = certificates(&mut root, &agents);
    for agent in &mut agents {
        let files = certificates
            .iter()
            .filter_map(|certificate| certificate.domain_file_of(&agent.name));
        agent.domain_files = files.map(str::to_owned).collect();
    }
    let clock = super::clock::health(root.sub("health"));
    let cgroup_root = process::cgroup_root(&mut root);
    let stop = stop(root.sub("stop"));
    let give_up = root.choice(
        "on_give_up",
        "what happens when an agent's restarts are used up",
        &[("hold", GiveUp::Hold), ("exit", GiveUp::Exit)],
        ("hold", GiveUp::Hold),
    );
    let termination_message = root.path_value(
        "termination_message",
        "file for the reason of an end that was not asked for",
        "/dev/termination-log where it exists",
    );
    let (listen, token_file) = http(root.sub("http"));
    let telemetry = super::telemetry::ours(&mut root);
    root.not_built(&["packages", "api"], LATER);
    root.finish();
    Config {
        form: Form::Agents,
        server,
        registration,
        capabilities,
        storage,
        agents,
        certificates,
        clock,
        stop,
        cgroup_root,
        give_up,
        termination_message,
        listen,
        token_file,
        healthcheck: None,
        health_door: HealthDoor::default(),
        log,
        telemetry,
        warnings: Vec::new(),
    }
}

/// Where the HTTP surface is, and the file with its token.
fn http(mut section: Section<'_, '_, '_>) -> (Vec<SocketAddr>, Option<PathBuf>) {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let about = (
        "list of addresses",
        "where health, metrics and status are served; [] turns it off",
    );
    let listen = section.list("listen", about, format!("[{default}]"), |_, text| {
        address(text)
    });
    let token_file = section.path_value(
        "token_file",
        "file with the token that every address but loopback asks for",
        "none",
    );
    let listen = listen.unwrap_or_else(|| vec![default]);
    let open = listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(open) = open.filter(|_| !section.has("token_file")) {
        section.problem(
            "listen",
            format!("{open} is not loopback; name a file with a token in http.token_file, or listen on 127.0.0.1"),
        );
    }
    section.finish();
    (listen, token_file)
}

/// Where our own log goes, and how much of the disk all logs may take.
fn log(mut section: Section<'_, '_, '_>) -> Log {
    let about = ("level", "error, warn, info, debug or trace");
    let level = section.parsed("level", about, "info", level);
    let format = section.choice(
        "format",
        "text for people, json for machines",
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        ("text", LogFormat::Text),
    );
    let contained = section.reader.env.in_container();
    let to_files = section.choice(
        "to",
        "files: rotated files, besides our own log on standard error; output: standard streams alone; auto: output in \
         a container, else files",
        &[("auto", !contained), ("output", false), ("files", true)],
        ("auto", !contained),
    );
    let max_total = section.size(
        "max_total_size",
        "bytes of all log files together, ours and those of every agent",
        256 * MIB,
        16 * MIB..=1024 * 1024 * MIB,
    );
    section.finish();
    Log {
        level: level.unwrap_or_else(|| "info".to_owned()),
        format,
        to_files,
        rotation: OWN_ROTATION,
        max_total,
        outputs: None,
    }
}

/// A child's own directory is no part of a revision.
fn check_directories(root: &mut Section<'_, '_, '_>, storage: &Path, agents: &[Agent]) {
    for agent in agents {
        let directory = agent.process.directory.as_deref();
        if directory.is_some_and(|it| process::inside_a_revision(storage, it)) {
            let key = format!("agents.{}.working_directory", agent.name);
            root.problem(
                "agents",
                format!("{key}: a revision goes away, name another directory"),
            );
        }
    }
}

/// One budget for all logs: what the settings allow the files together must fit into it.
fn check_log_budget(root: &mut Section<'_, '_, '_>, log: &Log, agents: &[Agent]) {
    let files = agents.iter().filter(|agent| !agent.passthrough_logs);
    let children: u64 = files.map(|agent| agent.log_rotation.total()).sum();
    let total = children.saturating_add(log.own_bytes());
    if total > log.max_total {
        root.problem(
            "log",
            format!(
                "the log files may grow to {} together, which is more than log.max_total_size ({}); lower \
                 log_rotation of an agent, or raise the total",
                format_size(total),
                format_size(log.max_total)
            ),
        );
    }
}

fn default_storage(env: &dyn Environment) -> PathBuf {
    let absolute = |name: &str| {
        env.var(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if env.is_root() {
        PathBuf::from("/var/lib/adjutant")
    } else if let Some(state) = absolute("XDG_STATE_HOME") {
        state.join("adjutant")
    } else {
        // Left empty, the caller refuses it with the sentence that says what to set.
        absolute("HOME").map_or_else(PathBuf::new, |home| home.join(".local/state/adjutant"))
    }
}

fn server(
    mut section: Section<'_, '_, '_>,
    otherwise: Option<String>,
    capabilities: &mut u64,
) -> (Option<Server>, Option<String>) {
    let present = section.is_present();
    let about = (
        "URL",
        "the OpAMP server: ws or wss for a WebSocket, http or https to poll it",
    );
    let default =
        "$OPAMP_WS_URL, else what $OPAMP_SERVER_URL comes to, else none: run without a server";
    let endpoint = section.parsed("endpoint", about, default, endpoint);
    let headers = section.pairs("headers", "sent when connecting; values are secrets", true);
    let heartbeat = section.duration(
        "heartbeat_interval",
        "time between heartbeats, or polls, unless the server offers another",
        30 * SECOND,
        SECOND..=3600 * SECOND,
    );
    let (tls, _) = tls(section.sub("tls"));
    let proxy = proxy(section.sub("proxy"));
    let accept = section.switch(
        "accept_connection_settings",
        "whether the server may offer another endpoint, headers, TLS settings, proxy or interval; they can only be \
         tighter",
        false,
    );
    if accept {
        *capabilities |= ACCEPTS_CONNECTION_SETTINGS;
        if let Err(why) = connection_settings() {
            section.problem("accept_connection_settings", why);
        }
    }
    let named = section.text("auth", AUTH, "none");
    let seconds = registration::heartbeat_of_environment(section.reader);
    let heartbeat = match seconds {
        Some(seconds) if !section.has("heartbeat_interval") => Duration::from_secs(seconds),
        _ => heartbeat,
    };
    if present && !section.has("endpoint") && otherwise.is_none() {
        section.problem("", "a server needs an `endpoint`");
    }
    section.finish();
    let server = endpoint.or(otherwise).map(|endpoint| Server {
        endpoint,
        headers: headers
            .into_iter()
            .map(|(name, value)| (name, Secret::new(value)))
            .collect(),
        tls,
        heartbeat,
        proxy,
        auth: None,
    });
    (server, named)
}

/// A server of which only the endpoint is known.
pub fn server_at(endpoint: String, tls: Tls) -> Server {
    Server {
        endpoint,
        headers: Vec::new(),
        tls,
        heartbeat: 30 * SECOND,
        proxy: None,
        auth: None,
    }
}

/// A URL of an OpAMP server.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let rest = ["ws://", "wss://", "http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .ok_or("begin the URL with ws://, wss://, http:// or https://")?;
    if !cfg!(feature = "polling") && text.starts_with("http") {
        return Err("this program was built without polling, use ws:// or wss://".to_owned());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("no user or password in a URL, use `headers`".to_owned());
    }
    if authority.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a URL with a host belongs here".to_owned());
    }
    Ok(text.to_owned())
}

/// `127.0.0.1:4328`, `[::1]:80`, `localhost:80`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    literal
        .parse()
        .map_err(|_| "an address and port belongs here, such as 127.0.0.1:4328".to_owned())
}

/// A log level.
pub(super) fn level(text: &str) -> Result<String, String> {
    if matches!(text, "error" | "warn" | "info" | "debug" | "trace") {
        Ok(text.to_owned())
    } else {
        Err("write error, warn, info, debug or trace".to_owned())
    }
}

fn stop(mut section: Section<'_, '_, '_>) -> Stop {
    let grace = section.duration(
        "grace",
        "from the stop signal to KILL",
        7 * SECOND,
        100 * MILLISECOND..=600 * SECOND,
    );
    let budget = section.duration(
        "budget",
        "from our TERM to our exit",
        9 * SECOND,
        200 * MILLISECOND..=900 * SECOND,
    );
    if budget <= grace {
        section.problem(
            "budget",
            "not longer than stop.grace, leave time for KILL after it",
        );
    }
    section.finish();
    Stop { grace, budget }
}
