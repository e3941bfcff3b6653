//! The `agent:` form, as the OpenTelemetry Collector's `opampsupervisor` reads it.
//!
//! Promises: its keys, its defaults and its meaning, but for what is unsafe: validation, rollback and log
//! rotation are on. A key of it that this version cannot honour is an error that says so, told apart from a key
//! that does not exist.
//! Must never: accept a key silently and then do nothing with it.

use std::path::PathBuf;
use std::time::Duration;

use crate::units::{Secret, order};
use crate::yaml::Node;

use super::agent::{RESTART, ROTATION, description, fallback, layer, ordered};
use super::apply::APPLY;
use super::auth::auth;
use super::health_door;
use super::load::{DEFAULT_AGENT, agent_name, executable};
use super::ours::{ACCEPTS_CONNECTION_SETTINGS, AUTH, connection_settings, endpoint};
use super::profile;
use super::read::{Reader, Section};
use super::registration;
use super::telemetry::{Directed, OWN_TELEMETRY, Telemetry};
use super::tls::tls;
use super::{
    Agent, Apply, CgroupRoot, Config, EmptyConfig, Form, GiveUp, Layer, Log, LogFormat, LogOutputs,
    OnDeath, Policy, Profile, Reload, ReportWhen, Server, StartOrder, Stop,
};

const SECOND: Duration = Duration::from_secs(1);
const ACCEPTS_REMOTE_CONFIG: u64 = 0x2;

/// Defaults of that program which are not safe, and so are not ours.
pub(super) const THEIRS: [(&str, &str); 4] = [
    ("telemetry.logs.output_paths", "stdout"),
    ("agent.collector_crash_log_snippet_kib", "0"),
    ("agent.validate_config", "false"),
    ("agent.automatic_config_rollback", "false"),
];

/// What is said of a key of that program which we do not have.
pub(super) const LATER: &str =
    "known key of opampsupervisor, not supported in this version, remove it";

/// Key, default and bit of each capability that can be asked for.
const CAPABILITIES: [(&str, &str, bool, u64); 11] = [
    ("accepts_remote_config", "take offered configs", false, 0x2),
    (
        "reports_effective_config",
        "report the running config",
        true,
        0x4,
    ),
    (
        "reports_own_traces",
        "send own traces where offered",
        false,
        0x20,
    ),
    (
        "reports_own_metrics",
        "send own metrics where offered",
        true,
        0x40,
    ),
    (
        "reports_own_logs",
        "send own logs where offered",
        false,
        0x80,
    ),
    (
        "accepts_opamp_connection_settings",
        "take an offered server",
        false,
        0x100,
    ),
    (
        "accepts_restart_command",
        "restart the agent on command",
        false,
        0x400,
    ),
    ("reports_health", "report health", true, 0x800),
    (
        "reports_remote_config",
        "report what became of an offer",
        false,
        0x1000,
    ),
    ("reports_heartbeat", "send heartbeats", true, 0x2000),
    (
        "reports_available_components",
        "report what the agent is made of",
        false,
        0x4000,
    ),
];

/// Of these, the ones that this build has no means for. Asking for one is a warning, not an error: most are
/// on by habit, and what is announced to the server stays true either way.
const fn is_not_built(capability: u64) -> bool {
    !cfg!(feature = "telemetry") && OWN_TELEMETRY & capability != 0
}
const REPORTS_COMPONENTS: u64 = 0x4000;

/// Reads the whole form. Problems are left in the reader; what is returned then is not to be used.
pub(super) fn read(tree: &Node, reader: &mut Reader<'_>) -> Config {
    let mut root = reader.root(tree);
    let from_environment = registration::server_of_environment(root.reader);
    let (mut server, named) = server(root.sub("server"), from_environment);
    let auth = auth(&mut root, named);
    if let Some(server) = &mut server {
        server.auth = auth;
    }
    let registration = registration::of_environment(root.reader);
    if registration.is_some() {
        registration::drop_empty_authorization(&mut server);
    }
    let capabilities = capabilities(root.sub("capabilities"));
    let storage = {
        let mut section = root.sub("storage");
        let default = "/var/lib/otelcol/supervisor";
        let directory = section.path_value("directory", "where all state lives", default);
        section.finish();
        directory.unwrap_or_else(|| default.into())
    };
    let agent = agent(root.sub("agent"), capabilities);
    let (healthcheck, health_door) = health_door::read(root.sub("healthcheck"));
    let (log, telemetry) = telemetry(root.sub("telemetry"));
    root.finish();
    Config {
        form: Form::Agent,
        server,
        registration,
        capabilities,
        storage,
        agents: agent.into_iter().collect(),
        certificates: Vec::new(),
        clock: None,
        stop: Stop {
            grace: 7 * SECOND,
            budget: 9 * SECOND,
        },
        cgroup_root: CgroupRoot::Auto,
        give_up: GiveUp::Hold,
        listen: Vec::new(),
        termination_message: None,
        token_file: None,
        healthcheck,
        health_door,
        log,
        telemetry,
        warnings: Vec::new(),
    }
}

fn server(
    mut section: Section<'_, '_, '_>,
    otherwise: Option<String>,
) -> (Option<Server>, Option<String>) {
    let about = (
        "URL",
        "the OpAMP server: ws or wss for a WebSocket, http or https to poll it",
    );
    let endpoint = section.parsed("endpoint", about, "required", endpoint);
    let headers = section.pairs("headers", "sent when connecting; values are secrets", true);
    let (tls, insecure) = tls(section.sub("tls"));
    let encrypted = endpoint.as_deref().unwrap_or_default();
    if insecure && (encrypted.starts_with("wss") || encrypted.starts_with("https")) {
        let warning = format!(
            "{}.tls.insecure does not turn TLS off: the scheme of the endpoint asks for it, and the server is verified",
            section.path()
        );
        section.reader.warnings.push(warning);
    }
    let named = section.text("auth", AUTH, "none");
    if !section.has("endpoint") && otherwise.is_none() {
        section.problem("endpoint", "required, name the OpAMP server");
    }
    let seconds = registration::heartbeat_of_environment(section.reader);
    section.finish();
    let server = endpoint.or(otherwise).map(|endpoint| Server {
        endpoint,
        headers: headers
            .into_iter()
            .map(|(name, value)| (name, Secret::new(value)))
            .collect(),
        tls,
        heartbeat: Duration::from_secs(seconds.unwrap_or(30)),
        proxy: None,
        auth: None,
    });
    (server, named)
}

fn capabilities(mut section: Section<'_, '_, '_>) -> u64 {
    // ReportsStatus is not asked for: an agent without it is none.
    let mut bits = 0x1;
    for (key, about, default, bit) in CAPABILITIES {
        if section.switch(key, about, default) {
            bits |= bit;
            if bit == ACCEPTS_CONNECTION_SETTINGS
                && let Err(why) = connection_settings()
            {
                section.problem(key, why);
            }
            if is_not_built(bit) && section.has(key) {
                let path = section.path();
                let warning =
                    format!("{path}.{key}: this build has no own telemetry, it is not announced");
                section.reader.warnings.push(warning);
            }
        }
    }
    section.not_built(&["accepts_packages", "reports_package_statuses"], LATER);
    section.finish();
    bits
}

fn agent(mut section: Section<'_, '_, '_>, capabilities: u64) -> Option<Agent> {
    let (profiles, problems) = profile::all(None, section.reader.env);
    section.reader.errors.extend(problems);
    let profile = profiles.get("otelcol").cloned()?;
    let given = section.path_value("executable", "the Collector", "required");
    let executable = program(&mut section, given, &profile);
    let args = section.texts("args", "arguments after the config layers", "none");
    let env = section.pairs(
        "env",
        "environment of the child, open to offers as well",
        false,
    );
    let about = (
        "list of paths",
        "local layers, lowest first, and where the magic ones go",
    );
    let files: Option<Vec<Layer>> = section.list("config_files", about, "none", |reader, text| {
        layer(text, reader.form, &reader.env.working_directory())
    });
    let fallback = fallback(&mut section, "startup_fallback_configs");
    let apply = apply(&mut section, capabilities);
    let local_port = section.number(
        "opamp_server_port",
        "loopback port of the agent's own OpAMP; 0 lets the system choose",
        0,
        0..=65_535,
    );
    let passthrough_logs = section.switch(
        "passthrough_logs",
        "the Collector's lines become lines of our log instead of going to files",
        false,
    );
    let description = description(section.sub("description"));
    let crash_words = crash_words(&mut section);
    section.not_built(&["package"], LATER);
    section.not_built(
        &["opamp_server_socket"],
        "no released opamp extension dials a Unix socket, the Collector is served on loopback, remove it",
    );
    let about = (
        "UUID",
        "the uid on a state directory that has none; afterwards the one that is stored there",
    );
    let instance_uid = section.parsed("instance_id", about, "made up", uid);
    let process = super::process::run_as(&mut section);
    section.not_built(
        &["access_dirs"],
        "specified for opampsupervisor and never built there, nor here, remove it",
    );
    section.not_built(
        &["health_check_port"],
        "removed from opampsupervisor in May 2025, health comes from the opamp extension, remove it",
    );
    section.finish();
    let env = order::map(env);
    Some(Agent {
        name: agent_name(DEFAULT_AGENT).ok()?,
        executable: executable?,
        args: args.unwrap_or_default(),
        layers: ordered(files.unwrap_or_default()),
        fallback,
        description,
        apply,
        // This form has no policy of its own: what the user hands to the child by name is what an offer may name.
        policy: Policy {
            environment: env.keys().cloned().collect(),
            ..Policy::default()
        },
        env,
        restart: RESTART,
        local_port: u16::try_from(local_port).unwrap_or(0),
        reports_components: capabilities & REPORTS_COMPONENTS != 0,
        instance_uid,
        shows_files: true,
        crash_words,
        passthrough_logs,
        log_rotation: ROTATION,
        on_our_death: if cfg!(feature = "adopt") {
            OnDeath::Adopt
        } else {
            OnDeath::Restart
        },
        start: StartOrder::default(),
        process,
        domain_files: Vec::new(),
        own_telemetry: Directed {
            kinds: capabilities & OWN_TELEMETRY,
            whole: true,
        },
        profile,
    })
}

fn uid(text: &str) -> Result<[u8; 16], String> {
    let uid = text.parse::<uuid::Uuid>().ok().filter(|uid| !uid.is_nil());
    let wrong = "a UUID belongs here, such as 0190a6d0-0000-7000-8000-00000000002a";
    uid.map(uuid::Uuid::into_bytes)
        .ok_or_else(|| wrong.to_owned())
}

/// The file that an entry of `config_files` names. That program reads URIs there: `file:` as well as a plain path, and
/// `env:` for a variable that holds a whole config.
pub(super) fn file_of_uri(text: &str) -> Result<&str, String> {
    if text.starts_with("env:") {
        return Err(
            "a config inside a variable is not read here, write it to a file and name that"
                .to_owned(),
        );
    }
    Ok(text.strip_prefix("file:").unwrap_or(text))
}

/// How much of its last output the report of a death has; none when the key is not there.
fn crash_words(section: &mut Section<'_, '_, '_>) -> Option<usize> {
    /// What a report has room for, in KiB.
    const KIB_MAX: u32 = 4;
    let key = "collector_crash_log_snippet_kib";
    let kib = section.optional_number(
        key,
        "KiB of the child's last output in the report of its death, 4 at most; 0 leaves it out",
        "2 KiB, 8 lines",
        0..=1024,
    )?;
    if kib > KIB_MAX {
        let path = section.path();
        let warning =
            format!("{path}.{key}: {KIB_MAX} KiB of it leave the host, the log has the rest");
        section.reader.warnings.push(warning);
    }
    usize::try_from(kib.min(KIB_MAX).saturating_mul(1024)).ok()
}

fn program(
    section: &mut Section<'_, '_, '_>,
    given: Option<PathBuf>,
    profile: &Profile,
) -> Option<PathBuf> {
    if given.is_none() {
        if !section.has("executable") {
            section.problem("executable", "required, name the Collector's executable");
        }
        return None;
    }
    executable(given, profile, section.reader.env)
        .map_err(|message| section.problem("executable", message))
        .ok()
}

/// How offers are applied: that program's meaning, but validated and rolled back.
fn apply(section: &mut Section<'_, '_, '_>, capabilities: u64) -> Apply {
    let positive = Duration::from_millis(1)..=3600 * SECOND;
    let (bootstrap, orphans) = (
        "accepted; there is no bootstrap run whose time it could limit",
        "accepted; a child that outlives us goes on and is taken over by the next start",
    );
    section.duration("bootstrap_timeout", bootstrap, 3 * SECOND, positive.clone());
    section.duration(
        "orphan_detection_interval",
        orphans,
        5 * SECOND,
        positive.clone(),
    );
    let proof_timeout = section.duration(
        "config_apply_timeout",
        "how long the child may take to prove a config",
        5 * SECOND,
        positive,
    );
    let hup = section.switch(
        "use_hup_config_reload",
        "reload by HUP instead of a restart",
        false,
    );
    let validate = section.switch(
        "validate_config",
        "validate before anything is touched",
        true,
    );
    let rollback = section.switch(
        "automatic_config_rollback",
        "go back by itself after a failed apply",
        true,
    );
    Apply {
        accept_remote: capabilities & ACCEPTS_REMOTE_CONFIG != 0,
        report: ReportWhen::OnProof,
        validate,
        rollback,
        reload: if hup { Reload::Hup } else { Reload::Restart },
        proof_timeout,
        empty_config: EmptyConfig::Stop,
        // That program reads its files when it starts. Whoever edits one expects it to wait for a restart.
        watch_local_files: false,
        // It reads what there is, and its users have files in the list that not every host has.
        without_unreadable: true,
        flow: super::flow::NO_FLOW,
        ..APPLY
    }
}

/// Where our own log goes, as that program's logging library reads it.
fn outputs(logs: &mut Section<'_, '_, '_>) -> Option<LogOutputs> {
    let about = (
        "list of texts",
        "stdout, stderr or paths of files, which are rotated; for our own log",
    );
    let paths = logs.list("output_paths", about, "stderr", |reader, text| match text {
        "stdout" | "stderr" => Ok((text.to_owned(), None)),
        _ => {
            let path = text.strip_prefix("file://").unwrap_or(text);
            let base = reader.env.working_directory();
            let path = super::value::resolve(reader.form, &base, path)?;
            Ok((String::new(), Some(path)))
        }
    });
    let about = "accepted; a log that cannot be written has no words of its own";
    logs.texts("error_output_paths", about, "none");
    let mut outputs = LogOutputs::default();
    for (stream, file) in paths? {
        outputs.stdout |= stream == "stdout";
        outputs.stderr |= stream == "stderr";
        outputs.files.extend(file);
    }
    Some(outputs)
}

/// A level as zap reads one: in small letters, in capitals, or as its number.
fn level(text: &str) -> Result<&'static str, String> {
    match text {
        "debug" | "DEBUG" | "-1" => Ok("debug"),
        "" | "info" | "INFO" | "0" => Ok("info"),
        "warn" | "WARN" | "warning" | "WARNING" | "1" => Ok("warn"),
        "error" | "ERROR" | "2" => Ok("error"),
        "dpanic" | "DPANIC" | "3" | "panic" | "PANIC" | "4" | "fatal" | "FATAL" | "5" => {
            Ok("error")
        }
        _ => Err("not one of debug, info, warn, error, dpanic, panic, fatal".to_owned()),
    }
}

fn telemetry(mut section: Section<'_, '_, '_>) -> (Log, Telemetry) {
    let mut logs = section.sub("logs");
    let about = (
        "word",
        "what is logged: debug, info, warn, error, dpanic, panic or fatal, in capitals or as a number of zap as well",
    );
    let level = logs.parsed("level", about, "info", level);
    let about = ("word", "json for machines, console for people");
    let format = logs.parsed("encoding", about, "json", |text| {
        match text.trim().to_ascii_lowercase().as_str() {
            "" | "json" => Ok(LogFormat::Json),
            "console" => Ok(LogFormat::Text),
            _ => Err("not one of json, console".to_owned()),
        }
    });
    let format = format.unwrap_or(LogFormat::Json);
    let outputs = outputs(&mut logs);
    let processors = super::telemetry::log_processors(&mut logs);
    logs.finish();
    let to_files = !section.reader.env.in_container();
    let telemetry = super::telemetry::declarative(&mut section, processors);
    section.finish();
    let log = Log {
        level: level.unwrap_or("info").to_owned(),
        format,
        to_files,
        rotation: super::ours::OWN_ROTATION,
        max_total: u64::MAX,
        outputs,
    };
    (log, telemetry)
}
