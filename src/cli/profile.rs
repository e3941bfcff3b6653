//! `profile`: the kinds of agents that are known, the schema of a profile, and whether files are profiles.
//!
//! Promises: the schema is made of what the reader itself asks for; `check` reads a file the way `profiles:` would and
//! says everything that is wrong with it, each with its line.
//! Must never: need settings where only files are checked.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::ProfileCommand;
use super::settings::load;
use super::status::table;
use super::{Done, ExitCode, Failure, Out};
use crate::app;
use crate::config::{Composition, Key, LocalLink, Profile, Proof, Tested};

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
        ProfileCommand::Check { paths } => return check(paths, out),
        ProfileCommand::Schema => {
            let schema = schema(&app::profile_keys());
            out.line(&format!("{schema:#}"));
        }
    }
    Ok(ExitCode::Ok)
}

fn check(paths: &[PathBuf], out: &mut Out<'_>) -> Done {
    let mut problems = Vec::new();
    let mut names: Vec<(String, PathBuf)> = Vec::new();
    for path in paths {
        let files =
            app::profile_files(path).map_err(|reason| Failure::new(ExitCode::Settings, reason))?;
        if files.is_empty() {
            problems.push(format!("{}: no *.yaml in it", path.display()));
        }
        for file in files {
            match app::check_profile(&file) {
                Ok(profile) => {
                    if let Some(first) = first_of(&names, &profile.name) {
                        problems.push(format!(
                            "{}: a profile named {:?} is in {} already, rename the file",
                            file.path.display(),
                            profile.name,
                            first.display()
                        ));
                    } else {
                        out.line(&format!("{}: valid", file.path.display()));
                        names.push((profile.name, file.path));
                    }
                }
                Err(errors) => problems.extend(errors.iter().map(ToString::to_string)),
            }
        }
    }
    if problems.is_empty() {
        Ok(ExitCode::Ok)
    } else {
        Err(Failure::new(ExitCode::Settings, problems.join("\n")))
    }
}

fn first_of<'n>(names: &'n [(String, PathBuf)], name: &str) -> Option<&'n Path> {
    names
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, path)| path.as_path())
}

/// A JSON schema (draft 2020-12) of a profile, for editors.
fn schema(keys: &[Key]) -> Value {
    let mut properties = Map::new();
    for key in keys {
        match key.path.split_once('.') {
            None => {
                properties.insert(key.path.clone(), of_key(key));
            }
            Some((section, name)) => {
                let entry = properties
                    .entry(section)
                    .or_insert_with(|| object(Map::new()));
                if let Some(Value::Object(inner)) = entry.get_mut("properties") {
                    inner.insert(name.to_owned(), of_key(key));
                }
            }
        }
    }
    let mut root = object(properties);
    if let Value::Object(root) = &mut root {
        let draft = "https://json-schema.org/draft/2020-12/schema";
        root.insert("$schema".to_owned(), json!(draft));
        root.insert(
            "title".to_owned(),
            json!("A profile of Adjutant: one kind of program"),
        );
    }
    root
}

fn object(properties: Map<String, Value>) -> Value {
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("additionalProperties".to_owned(), json!(false));
    Value::Object(object)
}

/// What one key may be. Every kind of value that a profile has is here; a test looks for others.
fn of_key(key: &Key) -> Value {
    let numbers = key.bounds.split_once(" to ");
    let number = |text: &str| text.parse::<u64>().ok();
    let mut schema = match key.kind {
        "true or false" => json!({ "type": "boolean" }),
        "number" => {
            let bounds = numbers.map(|(least, most)| [("minimum", least), ("maximum", most)]);
            let known = bounds.into_iter().flatten();
            let known =
                known.filter_map(|(name, text)| Some((name.to_owned(), json!(number(text)?))));
            let kind = ("type".to_owned(), json!("integer"));
            Value::Object(std::iter::once(kind).chain(known).collect())
        }
        "word" => json!({ "enum": key.bounds.split(", ").collect::<Vec<_>>() }),
        "duration" => json!({ "type": "string", "pattern": "^[0-9]" }),
        "list of texts" => json!({ "type": "array", "items": { "type": "string" } }),
        "list of numbers" => json!({ "type": "array", "items": { "type": "integer" } }),
        "URL" => json!({ "type": "string", "pattern": "^http://" }),
        _ => json!({ "type": "string" }),
    };
    if let Value::Object(schema) = &mut schema {
        let mut about = key.about.to_owned();
        if key.kind == "duration" {
            about = format!("{about}; {}", key.bounds);
        }
        schema.insert(
            "description".to_owned(),
            json!(format!("{about}. Default: {}.", key.default)),
        );
    }
    schema
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
        let schema = schema(&keys);
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
