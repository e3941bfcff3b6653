//! Profiles: what kind of program an agent is, as data. Six are built in, more come from a directory.
//!
//! Promises: a profile is checked when it is read, with file, line and key path in each error; a profile file
//! cannot replace a built-in one silently, because the same name in both is an error.
//! Must never: know one program from another in code.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::yaml::{self, Limits, parse};

use super::read::{Key, Reader, Section};
use super::registration::child_variable;
use super::{
    Composition, ConfFiles, Environment, Expansion, HealthProbe, LocalLink, Profile, Proof, Tested,
};

mod probes;
#[cfg(test)]
mod tests;

#[cfg(feature = "flow")]
pub(super) use probes::probe_url;
pub(super) use probes::{health, proof};

/// The built-in profiles: name, text, default config.
const BUILT_IN: [(&str, &str, Option<&str>); 6] = [
    (
        "adjutant",
        include_str!("profiles/adjutant.yaml"),
        Some(include_str!("../dataplane/config/default.yaml")),
    ),
    ("otelcol", include_str!("profiles/otelcol.yaml"), None),
    ("vector", include_str!("profiles/vector.yaml"), None),
    ("fluent-bit", include_str!("profiles/fluent-bit.yaml"), None),
    ("telegraf", include_str!("profiles/telegraf.yaml"), None),
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
        let Some(name) = named(&file) else {
            continue;
        };
        let origin = file.display().to_string();
        if profiles.contains_key(name) {
            refuse(origin, taken(name));
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

#[expect(
    clippy::too_many_lines,
    reason = "one entry per key, in the order of the manual"
)]
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
        flow: super::flow::flow(root.sub("flow")),
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
        denied_keys: root
            .texts("denied_keys", "key paths that are refused, such as `plugins`", "none")
            .unwrap_or_default(),
        component_keys: root
            .texts(
                "component_keys",
                "keys whose value is the type of the component they stand in",
                "type, kind",
            )
            .unwrap_or_else(|| vec!["type".to_owned(), "kind".to_owned()]),
        component_sections: root
            .texts(
                "component_sections",
                "sections whose keys are component types; with any, `component_keys` are not looked at",
                "none",
            )
            .unwrap_or_default(),
        include_keys: root
            .texts(
                "include_keys",
                "keys that name more files of the config; an offer may name its own files only",
                "none",
            )
            .unwrap_or_default(),
        expands: root.choice(
            "expands",
            "what the program replaces in a config: `${NAME}` (braces), or `$NAME` in the text as well (text)",
            &[
                ("none", Expansion::None),
                ("braces", Expansion::Braces),
                ("text", Expansion::Text),
            ],
            ("none", Expansion::None),
        ),
        conf_files: root.choice(
            "conf_files",
            "what `*.conf` holds: TOML, `[SECTION]` lines of Fluent Bit, or something nobody here reads",
            &[
                ("unknown", ConfFiles::Unknown),
                ("toml", ConfFiles::Toml),
                ("classic", ConfFiles::Classic),
            ],
            ("unknown", ConfFiles::Unknown),
        ),
        restart_sections: root
            .texts(
                "restart_sections",
                "sections whose change needs a restart; `a.*.b`: of any entry; `a[key=value]`: \
                 entries of `a` that say so",
                "none",
            )
            .unwrap_or_default(),
        restart_files: root
            .texts(
                "restart_files",
                "ends of names of files whose change needs a restart, because a reload does not read them",
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
        tested: root.choice(
            "tested",
            "what the profile was tried with",
            &[
                ("no", Tested::No),
                ("stand_in", Tested::StandIn),
                ("program", Tested::Program),
            ],
            ("no", Tested::No),
        ),
    };
    if profile.hup && !profile.proof.proves_hup() {
        root.problem(
            "hup",
            "a proof of kind fresh_process cannot prove a HUP, write another proof or hup: false",
        );
    }
    root.finish();
    profile
}

/// Every key of a profile, as the reader itself asks for it: what the manual and the schema are made of.
pub fn profile_keys(env: &dyn Environment) -> Vec<Key> {
    let mut reader = Reader::new("", None, env);
    if let Ok(empty) = parse("", "", Limits::SETTINGS) {
        drop(take(reader.root(&empty), ""));
    }
    reader.keys
}

/// A file that is meant to be a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFile {
    /// Where it lies.
    pub path: std::path::PathBuf,
    /// Its text, or why there is none.
    pub text: Result<String, String>,
}

/// Checks one file the way `profiles:` would read it.
///
/// # Errors
/// Everything that is wrong with it, each with its line.
pub fn check_profile(
    file: &ProfileFile,
    env: &dyn Environment,
) -> Result<Profile, Vec<yaml::Error>> {
    let origin = file.path.display().to_string();
    let whole = |message: String| {
        vec![yaml::Error {
            origin: origin.clone(),
            line: 0,
            column: 0,
            message,
        }]
    };
    let name =
        named(&file.path).ok_or_else(|| whole("not NAME.yaml, and so not read".to_owned()))?;
    if built_in_names().any(|known| known == name) {
        return Err(whole(taken(name)));
    }
    match &file.text {
        Ok(text) => read(&origin, name, text, env),
        Err(cause) => Err(whole(format!("read the profile: {cause}"))),
    }
}

/// The name that a profile file gives its profile.
fn named(file: &Path) -> Option<&str> {
    match file.extension().and_then(|part| part.to_str()) {
        Some("yaml" | "yml") => file.file_stem().and_then(|part| part.to_str()),
        _ => None,
    }
}

fn taken(name: &str) -> String {
    format!("a profile named {name:?} exists already, rename the file")
}

/// A name that can stand in a revision: one level, nothing hidden.
pub(super) fn main_file(text: &str) -> Result<String, String> {
    match super::names::check(text) {
        Ok(()) if !text.contains('/') => Ok(text.to_owned()),
        Ok(()) => Err("one file name belongs here, without directories".to_owned()),
        Err(reason) => Err(reason.to_string()),
    }
}
