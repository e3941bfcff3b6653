//! Files of profiles: whether they are any, and the schema that says what one may hold.
//!
//! Must never: need settings.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::app;
use crate::cli::{Done, ExitCode, Failure, Out};
use crate::config::Key;

pub(super) fn check(paths: &[PathBuf], out: &mut Out<'_>) -> Done {
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
pub(super) fn schema(keys: &[Key]) -> Value {
    let mut root = object(Map::new());
    for key in keys {
        put(&mut root, &key.path, key);
    }
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

/// Puts a key at the end of its path; below `<name>` is what any name may hold.
fn put(section: &mut Value, path: &str, key: &Key) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let slot = match section.as_object_mut() {
        Some(section) if name == "<name>" => section.get_mut("additionalProperties"),
        Some(section) => match section.get_mut("properties") {
            Some(Value::Object(properties)) => {
                Some(properties.entry(name).or_insert(Value::Bool(false)))
            }
            _ => None,
        },
        None => None,
    };
    let Some(slot) = slot else { return };
    match rest {
        None => *slot = of_key(key),
        Some(rest) => {
            if !slot.is_object() {
                *slot = object(Map::new());
            }
            put(slot, rest, key);
        }
    }
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
