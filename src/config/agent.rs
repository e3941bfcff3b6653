//! One agent of the `agents:` form.
//!
//! Promises: every default of an agent is written here once; the pieces that both forms share are read the same
//! way in both.
//! Must never: judge what an agent is offered; how that is applied is `apply`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::units::order;
use crate::yaml::Node;

use super::apply::{apply, count};
use super::load::{DEFAULT_AGENT, agent_name, executable};
use super::ours::LATER;
use super::profile;
use super::read::Section;
use super::registration::child_variable;
use super::{
    Agent, Composition, Description, Form, Layer, Log, OnDeath, Policy, Profile, Restart, Rotation,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// Restarts for ever with growing delay: telemetry that comes back by itself is worth more than a quiet process table.
pub(super) const RESTART: Restart = Restart {
    initial: SECOND,
    max: Duration::from_mins(1),
    stable_after: Duration::from_mins(1),
    give_up_after: 0,
};

/// At most 80 MiB of logs for each stream of each agent.
pub(super) const ROTATION: Rotation = Rotation {
    bytes: 16 * MIB,
    files: 4,
};

/// The agents in the order of the text; without any, the one that runs by default.
pub(super) fn agents(
    root: &mut Section<'_, '_, '_>,
    profiles: &BTreeMap<String, Profile>,
    log: &Log,
) -> Vec<Agent> {
    /// Agents of one host.
    const AGENTS_MAX: usize = 64;
    let named = root.named("agents");
    if named.len() > AGENTS_MAX {
        root.problem(
            "agents",
            format!("{} agents; the limit is {AGENTS_MAX}", named.len()),
        );
    }
    if named.is_empty() {
        return agent(
            root.entry("agents", DEFAULT_AGENT, None),
            DEFAULT_AGENT,
            profiles,
            (log, 1),
        )
        .into_iter()
        .collect();
    }
    let count = named.len() as u64;
    let agents: Vec<Agent> = named
        .iter()
        .filter_map(|(key, node)| {
            let name = key.text().unwrap_or_default();
            let section = root.entry("agents", name, Some(node));
            agent(section, name, profiles, (log, count))
        })
        .collect();
    let listed: Vec<(&str, &Node)> = named
        .iter()
        .map(|(key, node)| (key.text().unwrap_or_default(), *node))
        .collect();
    super::start::check(root, &listed, &agents);
    agents
}

fn agent(
    mut section: Section<'_, '_, '_>,
    name: &str,
    profiles: &BTreeMap<String, Profile>,
    (log, agents): (&Log, u64),
) -> Option<Agent> {
    let agent_name = agent_name(name)
        .map_err(|message| section.problem("", message))
        .ok();
    let known: Vec<&str> = profiles.keys().map(String::as_str).collect();
    let about = ("name", "what kind of program it is");
    let chosen = section.parsed("profile", about, "adjutant", |text| {
        profiles
            .get(text)
            .cloned()
            .ok_or_else(|| format!("no profile of this name, known: {}", known.join(", ")))
    });
    let wrong_profile = section.has("profile") && chosen.is_none();
    let mut profile = chosen.or_else(|| profiles.get("adjutant").cloned())?;
    profile_overrides(&mut section, &mut profile);
    let given = section.path_value("executable", "the program", "of the profile");
    let executable = if wrong_profile || (section.has("executable") && given.is_none()) {
        None
    } else {
        let found = executable(given, &profile, section.reader.env);
        found
            .map_err(|message| section.problem("executable", message))
            .ok()
    };
    let args = section.texts("args", "arguments after the profile's own", "none");
    let env = section.pairs("env", "environment on top of the profile's base", false);
    let layers = layers(&mut section, &profile);
    let fallback = fallback(&mut section, "fallback_configs");
    let description = description(section.sub("description"));
    let own_telemetry = super::telemetry::accepted(&mut section, &profile);
    let mut apply = apply(section.sub("apply"), &mut profile);
    let policy = policy(section.sub("policy"));
    let restart = restart(section.sub("restart"));
    let local_port = section.number(
        "opamp_server_port",
        "loopback port of the agent's own OpAMP; 0 lets the system choose",
        0,
        0..=65_535,
    );
    let about = (
        "true, false",
        "the child's output goes to ours instead of files",
    );
    let passthrough_logs = section.parsed("passthrough_logs", about, "as `log.to` says", |text| {
        text.parse().map_err(|_| "write true or false".to_owned())
    });
    let passthrough_logs = passthrough_logs.unwrap_or(!log.to_files);
    let log_rotation = rotation(section.sub("log_rotation"), log, agents);
    let on_our_death = on_our_death(&mut section);
    if profile.validate.is_none() {
        apply.validate = false;
    }
    let start = super::start::order(&mut section);
    let process = super::process::process(&mut section);
    section.not_built(&["packages"], LATER);
    section.not_built(
        &["certificates"],
        "certificates stand at the top level: name this agent in `certificates.<name>.agents`",
    );
    section.finish();
    Some(Agent {
        name: agent_name?,
        profile,
        executable: executable?,
        args: args.unwrap_or_default(),
        env: order::map(env),
        layers,
        fallback,
        description,
        apply,
        policy,
        restart,
        local_port: u16::try_from(local_port).unwrap_or(0),
        reports_components: false,
        instance_uid: None,
        shows_files: false,
        crash_words: None,
        passthrough_logs,
        log_rotation,
        on_our_death,
        start,
        process,
        domain_files: Vec::new(),
        own_telemetry,
    })
}

/// Children that live on when we are killed keep telemetry flowing, and the next life takes them over.
fn on_our_death(section: &mut Section<'_, '_, '_>) -> OnDeath {
    let adopts = cfg!(feature = "adopt");
    let fallback = if adopts {
        ("adopt", OnDeath::Adopt)
    } else {
        ("restart", OnDeath::Restart)
    };
    let chosen = section.choice(
        "on_supervisor_death",
        "what becomes of the agent when the supervisor is killed or crashes: adopt (it goes on and is taken over), \
         restart (it goes on until the next start restarts it), end (the kernel ends it at once)",
        &[
            ("adopt", OnDeath::Adopt),
            ("restart", OnDeath::Restart),
            ("end", OnDeath::End),
        ],
        fallback,
    );
    if chosen == OnDeath::Adopt && !adopts {
        section.problem(
            "on_supervisor_death",
            "this program was built without adoption, use restart or end",
        );
    }
    chosen
}

fn rotation(mut section: Section<'_, '_, '_>, log: &Log, agents: u64) -> Rotation {
    const LEAST: u64 = 64 * 1024;
    let files = count(
        &mut section,
        ("files", "files kept beside the current one"),
        ROTATION.files,
        0..=100,
    );
    // What is not said is an equal share of the budget.
    let share = Rotation { bytes: 1, files }
        .total()
        .saturating_mul(agents.max(1));
    let room = log.max_total.saturating_sub(log.own_bytes());
    let bytes = section.size(
        "size",
        "bytes of one log file; less where many agents share `log.max_total_size`",
        ROTATION.bytes.min(room / share.max(1)).max(LEAST),
        LEAST..=1024 * MIB,
    );
    section.finish();
    Rotation { bytes, files }
}

/// What the settings may say in place of the profile.
fn profile_overrides(section: &mut Section<'_, '_, '_>, profile: &mut Profile) {
    let about = "arguments of a validator run, in place of the profile's";
    if let Some(arguments) = section.texts("validate", about, "of the profile") {
        profile.validate = Some(arguments);
    }
    let about = (
        "file name",
        "the file of an entry without a name, in place of the profile's",
    );
    if let Some(name) = section.parsed("main_file", about, "of the profile", profile::main_file) {
        profile.main_file = name;
    }
    if let Some(proof) = profile::proof(section.sub("proof")) {
        profile.proof = proof;
    }
    if let Some(health) = profile::health(section.sub("health")) {
        profile.health = health;
    }
}

fn layers(section: &mut Section<'_, '_, '_>, profile: &Profile) -> Vec<Layer> {
    let about = (
        "list of paths",
        "local layers, lowest first, and where the magic ones go",
    );
    let layered = profile.composition == Composition::OtelLayers;
    let files = section
        .list("config_files", about, "none", |reader, text| {
            layer(text, reader.form, &reader.env.working_directory())
        })
        .unwrap_or_default();
    if layered {
        return ordered(files);
    }
    if files
        .iter()
        .any(|layer| matches!(layer, Layer::OwnTelemetry | Layer::Overlay))
    {
        section.problem(
            "config_files",
            "this profile has no layers but local files and $REMOTE_CONFIG",
        );
    }
    let mut files = files;
    if !files.contains(&Layer::Remote) {
        files.push(Layer::Remote);
    }
    files
}

/// The files for the time before the server was reached.
pub(super) fn fallback(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
) -> Vec<std::path::PathBuf> {
    let about = (
        "list of paths",
        "local layers while nothing is stored and the server was never reached, in place of config_files",
    );
    let read = |reader: &super::read::Reader<'_>, text: &str| {
        let path = super::value::resolve(reader.form, &reader.env.working_directory(), text)?;
        match reader.env.file(&path.to_string_lossy()) {
            Ok(_) => Ok(path),
            Err(cause) => Err(format!("read {}: {cause}", path.display())),
        }
    };
    section.list(key, about, "none", read).unwrap_or_default()
}

/// One entry of `config_files`.
pub(super) fn layer(
    text: &str,
    form: Option<Form>,
    base: &std::path::Path,
) -> Result<Layer, String> {
    match text {
        "$OWN_TELEMETRY_CONFIG" => Ok(Layer::OwnTelemetry),
        "$OPAMP_EXTENSION_CONFIG" => Ok(Layer::Overlay),
        "$REMOTE_CONFIG" => Ok(Layer::Remote),
        _ if text.starts_with('$') => Err(
            "unknown, write $OWN_TELEMETRY_CONFIG, $OPAMP_EXTENSION_CONFIG, $REMOTE_CONFIG or a path".to_owned(),
        ),
        #[cfg(feature = "opampsupervisor")]
        _ if Form::is_theirs(form) => {
            let path = super::otel::file_of_uri(text)?;
            super::value::resolve(form, base, path).map(Layer::Local)
        }
        _ => super::value::resolve(form, base, text).map(Layer::Local),
    }
}

/// Puts in the layers that were not named: own telemetry lowest, then the files, the overlay, the offer.
pub(super) fn ordered(mut layers: Vec<Layer>) -> Vec<Layer> {
    if !layers.contains(&Layer::OwnTelemetry) {
        layers.insert(0, Layer::OwnTelemetry);
    }
    for last in [Layer::Overlay, Layer::Remote] {
        if !layers.contains(&last) {
            layers.push(last);
        }
    }
    layers
}

/// The `description:` section of both forms.
pub(super) fn description(mut section: Section<'_, '_, '_>) -> Description {
    let identifying = section.pairs(
        "identifying_attributes",
        "added to or replacing what the agent says",
        false,
    );
    let non_identifying = section.pairs(
        "non_identifying_attributes",
        "added to or replacing what the agent says",
        false,
    );
    let include_resource = Form::is_theirs(section.reader.form)
        && section.switch(
            "include_resource_attributes",
            "the resource attributes of the agent's telemetry are described, too",
            false,
        );
    section.finish();
    Description {
        identifying: order::map(identifying),
        non_identifying: order::map(non_identifying),
        include_resource,
    }
}

fn policy(mut section: Section<'_, '_, '_>) -> Policy {
    let denied_components = section.texts(
        "deny_components",
        "component types refused besides the profile's",
        "none",
    );
    let allowed_components = section.texts(
        "allow_components",
        "component types taken off the profile's list",
        "none",
    );
    let about = (
        "list of paths",
        "when set, paths in an offer must lie below one of these",
    );
    let path_roots = section.list("path_roots", about, "any path", |reader, text| {
        super::value::resolve(reader.form, &reader.env.working_directory(), text)
    });
    let about = (
        "list of ports",
        "when set, the only ports an offer may bind",
    );
    let ports = section.list("ports", about, "any port", |_, text| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| "a port is 1 to 65535".to_owned())
    });
    let about = (
        "list of texts",
        "names that an offer may read and the child gets from us",
    );
    let environment = section.list("environment", about, "none", |_, name| child_variable(name));
    section.finish();
    Policy {
        denied_components: denied_components.unwrap_or_default(),
        allowed_components: allowed_components.unwrap_or_default(),
        path_roots,
        ports,
        environment: environment.unwrap_or_default(),
    }
}

fn restart(mut section: Section<'_, '_, '_>) -> Restart {
    let short = 10 * MILLISECOND..=3600 * SECOND;
    let restart = Restart {
        initial: section.duration(
            "initial_delay",
            "delay before the second restart in a row; the first is at once",
            RESTART.initial,
            short.clone(),
        ),
        max: section.duration(
            "max_delay",
            "longest delay; it doubles up to this",
            RESTART.max,
            short.clone(),
        ),
        stable_after: section.duration(
            "stable_after",
            "uptime that resets the delay",
            RESTART.stable_after,
            short,
        ),
        give_up_after: section.number(
            "give_up_after",
            "failed starts in a row before giving up; 0 is never",
            RESTART.give_up_after,
            0..=1_000,
        ),
    };
    if restart.max < restart.initial {
        section.problem("max_delay", "shorter than initial_delay");
    }
    section.finish();
    restart
}
