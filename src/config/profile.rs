//! Profiles: what kind of program an agent is, as data. Three are built in, more come from a directory.
//!
//! Promises: a profile is checked when it is read, with file, line and key path in each error; a profile file
//! cannot replace a built-in one silently, because the same name in both is an error.
//! Must never: know one program from another in code.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::yaml::{self, Limits, parse};

use super::read::{Reader, Section};
use super::registration::child_variable;
use super::{Composition, Environment, HealthProbe, LocalLink, Profile, Proof};

/// The built-in profiles: name, text, default config.
const BUILT_IN: [(&str, &str, Option<&str>); 3] = [
    (
        "adjutant",
        include_str!("profiles/adjutant.yaml"),
        Some(include_str!("../dataplane/config/default.yaml")),
    ),
    ("otelcol", include_str!("profiles/otelcol.yaml"), None),
    ("generic", include_str!("profiles/generic.yaml"), None),
];

/// Files read from a profile directory; more is somebody's mistake about the path.
const FILES_MAX: usize = 200;

const SECOND: Duration = Duration::from_secs(1);

/// Names of the built-in profiles.
pub fn built_in_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _, _)| *name)
}

/// The built-in profiles, by name.
pub fn built_in(env: &dyn Environment) -> Vec<Profile> {
    all(None, env).0.into_values().collect()
}

/// The built-in profiles and those of `directory`, by name, and what is wrong with any of them.
pub(super) fn all(
    directory: Option<&Path>,
    env: &dyn Environment,
) -> (BTreeMap<String, Profile>, Vec<yaml::Error>) {
    let mut profiles = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, text, default_config) in BUILT_IN {
        let origin = format!("built-in profile {name}");
        match read(&origin, name, text, env) {
            Ok(mut profile) => {
                profile.default_config = default_config.map(str::to_owned);
                profiles.insert(name.to_owned(), profile);
            }
            Err(more) => errors.extend(more),
        }
    }
    let Some(directory) = directory else {
        return (profiles, errors);
    };
    let mut refuse = |origin: String, message: String| {
        errors.push(yaml::Error {
            origin,
            line: 0,
            column: 0,
            message,
        });
    };
    let files = match env.directory(directory) {
        Ok(files) if files.len() > FILES_MAX => {
            let message = format!("{} files; the limit is {FILES_MAX}", files.len());
            refuse(directory.display().to_string(), message);
            return (profiles, errors);
        }
        Ok(files) => files,
        Err(cause) => {
            let message = format!("read the profile directory: {cause}");
            refuse(directory.display().to_string(), message);
            return (profiles, errors);
        }
    };
    let mut more = Vec::new();
    for file in files {
        let extension = file.extension().and_then(|part| part.to_str());
        let name = file.file_stem().and_then(|part| part.to_str());
        let (Some("yaml" | "yml"), Some(name)) = (extension, name) else {
            continue;
        };
        let origin = file.display().to_string();
        if profiles.contains_key(name) {
            refuse(
                origin,
                format!("a profile named {name:?} exists already, rename the file"),
            );
            continue;
        }
        match env.file(&origin) {
            Ok(text) => match read(&origin, name, &text, env) {
                Ok(profile) => {
                    profiles.insert(name.to_owned(), profile);
                }
                Err(problems) => more.extend(problems),
            },
            Err(cause) => refuse(origin, format!("read the profile: {cause}")),
        }
    }
    errors.extend(more);
    (profiles, errors)
}

/// Reads one profile.
pub(super) fn read(
    origin: &str,
    name: &str,
    text: &str,
    env: &dyn Environment,
) -> Result<Profile, Vec<yaml::Error>> {
    let tree = parse(origin, text, Limits::SETTINGS).map_err(|error| vec![error])?;
    let mut reader = Reader::new(origin, None, env);
    let profile = take(reader.root(&tree), name);
    if reader.errors.is_empty() {
        Ok(profile)
    } else {
        Err(reader.errors)
    }
}

fn take(mut root: Section<'_, '_, '_>, name: &str) -> Profile {
    let profile = Profile {
        name: name.to_owned(),
        executable: root.text("executable", "program, when the settings name none", "none"),
        args: root
            .texts("args", "arguments before the settings' own", "none")
            .unwrap_or_default(),
        validate: root.texts("validate", "arguments of a validator run", "no validator"),
        composition: root.choice(
            "composition",
            "how a revision is laid out",
            &[
                ("directory", Composition::Directory),
                ("otel_layers", Composition::OtelLayers),
            ],
            ("directory", Composition::Directory),
        ),
        main_file: root
            .parsed(
                "main_file",
                ("file name", "file of an entry without a name"),
                "config.yaml",
                main_file,
            )
            .unwrap_or_else(|| "config.yaml".to_owned()),
        hup: root.switch("hup", "whether the program reloads on SIGHUP", false),
        local_link: root.choice(
            "local_link",
            "where the program's own OpAMP is served",
            &[
                ("none", LocalLink::None),
                ("loopback", LocalLink::Loopback),
                ("unix", LocalLink::Unix),
            ],
            ("none", LocalLink::None),
        ),
        proof: proof(root.sub("proof")).unwrap_or(Proof::FreshProcess {
            alive_for: 3 * SECOND,
        }),
        health: health(root.sub("health")).unwrap_or(HealthProbe::Process),
        default_config: root.text(
            "default_config",
            "config when nothing is stored or offered",
            "none",
        ),
        denied_components: root
            .texts(
                "denied_components",
                "component types that are refused",
                "none",
            )
            .unwrap_or_default(),
        restart_sections: root
            .texts(
                "restart_sections",
                "sections whose change needs a restart; `a[key=value]`: entries of `a` that say so",
                "none",
            )
            .unwrap_or_default(),
        stop_signal: i32::try_from(root.number(
            "stop_signal",
            "signal that asks to stop",
            15,
            1..=64,
        ))
        .unwrap_or(15),
        environment: root
            .list(
                "environment",
                ("list of texts", "names of our environment the child gets"),
                "none",
                |_, name| child_variable(name),
            )
            .unwrap_or_default(),
        config_exit_codes: root
            .list(
                "config_exit_codes",
                ("list of numbers", "exit codes that blame the config"),
                "none",
                |_, text| {
                    text.parse::<u8>()
                        .map(i32::from)
                        .map_err(|_| "an exit code is 0 to 255".to_owned())
                },
            )
            .unwrap_or_default(),
    };
    root.finish();
    profile
}

/// Every key of a profile, as the reader itself asks for it.
#[cfg(test)]
pub(super) fn keys(env: &dyn Environment) -> Vec<super::Key> {
    let mut reader = Reader::new("", None, env);
    let empty = parse("", "", Limits::SETTINGS).unwrap();
    drop(take(reader.root(&empty), ""));
    reader.keys
}

/// A name that can stand in a revision: one level, nothing hidden.
pub(super) fn main_file(text: &str) -> Result<String, String> {
    match super::names::check(text) {
        Ok(()) if !text.contains('/') => Ok(text.to_owned()),
        Ok(()) => Err("one file name belongs here, without directories".to_owned()),
        Err(reason) => Err(reason.to_string()),
    }
}

/// The `proof:` section, or `None` when there is none.
pub(super) fn proof(mut section: Section<'_, '_, '_>) -> Option<Proof> {
    let present = section.is_present();
    let kind = section.optional_choice(
        "kind",
        "how a reload is proven",
        &[
            ("local_description", "local_description"),
            ("local_status", "local_status"),
            ("exec", "exec"),
            ("http", "http"),
            ("fresh_process", "fresh_process"),
        ],
        "of the profile",
    );
    let command = section.texts(
        "command",
        "`exec`: program and arguments; exit 0 is the proof",
        "none",
    );
    let url = section.parsed(
        "url",
        ("URL", "`http`: answers 2xx when the new config runs"),
        "none",
        probe_url,
    );
    let expect_revision = section.switch(
        "expect_revision",
        "`http`: the body must contain the revision hash",
        false,
    );
    let alive_for = section.duration(
        "alive_for",
        "`fresh_process`: how long the new process must stay up",
        3 * SECOND,
        Duration::from_millis(100)..=600 * SECOND,
    );
    let proof = match (kind, command, url) {
        (Some("local_description"), _, _) => Some(Proof::LocalDescription),
        (Some("local_status"), _, _) => Some(Proof::LocalStatus),
        (Some("exec"), Some(command), _) if !command.is_empty() => Some(Proof::Exec(command)),
        (Some("exec"), _, _) => {
            section.problem("command", "kind `exec` needs a command");
            None
        }
        (Some("http"), _, Some(url)) => Some(Proof::Http {
            url,
            expect_revision,
        }),
        (Some("http"), _, None) => {
            if !section.has("url") {
                section.problem("url", "kind `http` needs a url");
            }
            None
        }
        (Some(_), _, _) => Some(Proof::FreshProcess { alive_for }),
        (None, _, _) => {
            if present && !section.has("kind") {
                section.problem("kind", "say which kind of proof");
            }
            None
        }
    };
    section.finish();
    proof
}

/// The `health:` section, or `None` when there is none.
pub(super) fn health(mut section: Section<'_, '_, '_>) -> Option<HealthProbe> {
    let present = section.is_present();
    let kind = section.optional_choice(
        "kind",
        "how health is seen",
        &[
            ("local_link", "local_link"),
            ("http", "http"),
            ("exec", "exec"),
            ("process", "process"),
        ],
        "of the profile",
    );
    let command = section.texts(
        "command",
        "`exec`: program and arguments; exit 0 is healthy",
        "none",
    );
    let url = section.parsed(
        "url",
        ("URL", "`http`: answers 2xx when healthy"),
        "none",
        probe_url,
    );
    let interval = section.duration(
        "interval",
        "time between probes",
        10 * SECOND,
        Duration::from_millis(100)..=3600 * SECOND,
    );
    let timeout = section.duration(
        "timeout",
        "time one probe may take",
        5 * SECOND,
        Duration::from_millis(100)..=600 * SECOND,
    );
    let failures = section.number(
        "failures",
        "failures in a row that make it unhealthy",
        3,
        1..=100,
    );
    let probe = match (kind, command, url) {
        (Some("local_link"), _, _) => Some(HealthProbe::LocalLink),
        (Some("http"), _, Some(url)) => Some(HealthProbe::Http {
            url,
            interval,
            timeout,
            failures,
        }),
        (Some("http"), _, None) => {
            if !section.has("url") {
                section.problem("url", "kind `http` needs a url");
            }
            None
        }
        (Some("exec"), Some(command), _) if !command.is_empty() => Some(HealthProbe::Exec {
            command,
            interval,
            timeout,
            failures,
        }),
        (Some("exec"), _, _) => {
            section.problem("command", "kind `exec` needs a command");
            None
        }
        (Some(_), _, _) => Some(HealthProbe::Process),
        (None, _, _) => {
            if present && !section.has("kind") {
                section.problem("kind", "say which kind of probe");
            }
            None
        }
    };
    section.finish();
    probe
}

fn probe_url(text: &str) -> Result<String, String> {
    if text.starts_with("http://") {
        Ok(text.to_owned())
    } else {
        Err("a URL that begins with http:// belongs here; probes stay on the host".to_owned())
    }
}
