//! `profile`: the kinds of agents that are known, the schema of a profile, and whether files are profiles.
//!
//! Promises: the schema is made of what the reader itself asks for; `check` reads a file the way `profiles:` would and
//! says everything that is wrong with it, each with its line.
//! Must never: need settings where only files are checked.

#[cfg(feature = "doctor")]
mod files;

use serde_json::json;

use super::args::ProfileCommand;
use super::settings::load;
use super::status::table;
use super::{Done, ExitCode, Failure, Out};
use crate::app;
use crate::config::{Composition, LocalLink, Profile, Proof, Tested};

pub(super) fn run(command: &ProfileCommand, out: &mut Out<'_>) -> Done {
    match command {
        ProfileCommand::List { place, json } => {
            let profiles = app::profiles(&load(place)?);
            if *json {
                let names: Vec<_> = profiles.iter().map(|profile| &profile.name).collect();
                out.line(&json!({ "profiles": names }).to_string());
            } else {
                out.text(&list(&profiles));
            }
        }
        ProfileCommand::Show { place, name } => {
            let profiles = app::profiles(&load(place)?);
            let Some(profile) = profiles.iter().find(|profile| profile.name == *name) else {
                let names: Vec<_> = profiles.iter().map(|it| it.name.as_str()).collect();
                return Err(Failure::new(
                    ExitCode::Failed,
                    format!("no profile {name:?}; there are: {}", names.join(", ")),
                ));
            };
            out.text(&profile_page(profile));
        }
        #[cfg(feature = "doctor")]
        ProfileCommand::Check { paths } => return files::check(paths, out),
        #[cfg(feature = "doctor")]
        ProfileCommand::Schema => {
            let schema = files::schema(&app::profile_keys());
            out.line(&format!("{schema:#}"));
        }
    }
    Ok(ExitCode::Ok)
}

fn list(profiles: &[Profile]) -> String {
    let rows = profiles.iter().map(|profile| {
        [
            profile.name.clone(),
            profile.executable.clone().unwrap_or_else(|| "-".to_owned()),
            (if profile.hup { "HUP" } else { "restart" }).to_owned(),
            proof(&profile.proof),
            (if profile.validate.is_some() {
                "yes"
            } else {
                "no"
            })
            .to_owned(),
            tested(profile.tested).to_owned(),
        ]
    });
    table(
        [
            "PROFILE",
            "EXECUTABLE",
            "RELOAD",
            "PROOF",
            "VALIDATOR",
            "TESTED WITH",
        ],
        rows,
    )
}

fn tested(tested: Tested) -> &'static str {
    match tested {
        Tested::No => "-",
        Tested::StandIn => "stand-ins",
        Tested::Program => "the program",
    }
}

fn profile_page(profile: &Profile) -> String {
    let none = || "-".to_owned();
    let words = |words: &[String]| {
        if words.is_empty() {
            none()
        } else {
            words.join(" ")
        }
    };
    let rows = [
        (
            "executable",
            profile.executable.clone().unwrap_or_else(none),
        ),
        ("args", words(&profile.args)),
        (
            "validate",
            profile.validate.as_deref().map_or_else(none, words),
        ),
        (
            "composition",
            match profile.composition {
                Composition::Directory => "the offered files are the config directory",
                Composition::OtelLayers => "one --config per layer, generated overlay",
            }
            .to_owned(),
        ),
        ("main file", profile.main_file.clone()),
        (
            "reload",
            (if profile.hup { "HUP" } else { "restart" }).to_owned(),
        ),
        ("proof", proof(&profile.proof)),
        (
            "local OpAMP",
            match profile.local_link {
                LocalLink::None => "none",
                LocalLink::Loopback => "loopback",
                LocalLink::Unix => "unix socket",
            }
            .to_owned(),
        ),
        (
            "default config",
            (if profile.default_config.is_some() {
                "built in"
            } else {
                "none"
            })
            .to_owned(),
        ),
        ("denied components", words(&profile.denied_components)),
        ("denied keys", words(&profile.denied_keys)),
        ("restart sections", words(&profile.restart_sections)),
        ("restart files", words(&profile.restart_files)),
        ("stop signal", profile.stop_signal.to_string()),
        ("environment", words(&profile.environment)),
        ("tested with", tested(profile.tested).to_owned()),
    ];
    table(
        ["profile", profile.name.as_str()],
        rows.map(|(key, value)| [key.to_owned(), value]),
    )
}

fn proof(proof: &Proof) -> String {
    match proof {
        Proof::LocalDescription => "description on the local link".to_owned(),
        Proof::LocalStatus => "status on the local link".to_owned(),
        Proof::Exec(command) => format!("exec {}", command.join(" ")),
        Proof::Http {
            url,
            counter: Some(counter),
            ..
        } => format!("GET {url}: {counter} has grown"),
        Proof::Http { url, .. } => format!("GET {url}"),
        Proof::Output { .. } => "a line in its output".to_owned(),
        Proof::FreshProcess { alive_for } => format!(
            "a new process that lives {}",
            crate::units::format_duration(*alive_for)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_holds_every_key_of_a_profile() {
        let keys = app::profile_keys();
        let schema = files::schema(&keys);
        let known = [
            "text",
            "list of texts",
            "list of numbers",
            "word",
            "file name",
            "true or false",
            "URL",
            "dotted path",
            "duration",
            "number",
        ];
        for key in &keys {
            assert!(known.contains(&key.kind), "{} is {}", key.path, key.kind);
            let pointer = format!("/properties/{}", key.path.replace('.', "/properties/"));
            let pointer = pointer.replace("/properties/<name>", "/additionalProperties");
            let found = schema
                .pointer(&pointer)
                .unwrap_or_else(|| panic!("{} is missing", key.path));
            assert!(
                found["description"]
                    .as_str()
                    .unwrap()
                    .starts_with(key.about),
                "{found}"
            );
        }
        assert!(!schema.to_string().contains("null"), "{schema}");
        assert_eq!(schema["properties"]["stop_signal"]["minimum"], 1);
        assert_eq!(schema["properties"]["stop_signal"]["maximum"], 64);
        let kinds = schema["properties"]["proof"]["properties"]["kind"]["enum"]
            .as_array()
            .unwrap();
        assert!(kinds.contains(&json!("output")), "{kinds:?}");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(
            schema["properties"]["health"]["additionalProperties"],
            false
        );
    }
}
