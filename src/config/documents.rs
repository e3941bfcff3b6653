//! Compares what is documented with what the reader asks for: the example file and the tables of `docs/settings.md`.
//!
//! Promises: a key, default or bound that changes in the code and not in a document fails a test, and the other
//! way round.

use std::fmt::Write as _;

use super::tests::Env;
use super::*;
use crate::yaml::{self, Limits};

const EXAMPLE: &str = include_str!("../../supervisor.yaml");
const MANUAL: &str = include_str!("../../docs/settings.md");

fn env() -> Env {
    Env::rooted()
}

/// The example with every commented setting switched on.
pub(super) fn everything() -> String {
    EXAMPLE
        .lines()
        .map(|line| {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            match text.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                    format!("{}{setting}\n", &line[..indent])
                }
                _ => format!("{line}\n"),
            }
        })
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn the_example_is_the_default() {
    let read = load("supervisor.yaml", EXAMPLE, &env(), &Overrides::default());
    let read = read.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(read, defaults(&env(), &Overrides::default()).unwrap());
}

/// Extensions of the example; their keys are those of its entries.
const EXTENSIONS: [&str; 3] = ["basicauth", "bearertokenauth", "oauth2client"];

/// Whether a key is given instead of another one: the example shows it behind a space.
fn is_alternative(path: &str) -> bool {
    ["ca_pem", "cert_pem", "key_pem"]
        .iter()
        .any(|key| path.ends_with(&format!(".tls.{key}")))
}

#[test]
fn the_example_names_every_key_with_its_default() {
    let text = everything();
    load("supervisor.yaml", &text, &env(), &Overrides::default())
        .unwrap_or_else(|errors| panic!("{errors}"));
    let tree = yaml::parse("supervisor.yaml", &text, Limits::SETTINGS).unwrap();
    for key in keys(Form::Agents) {
        // An agent, and two certificates between which every key of one is shown.
        let names = ["collector", "web", "own"].iter().chain(&EXTENSIONS);
        let mut names = names.filter(|_| !is_alternative(&key.path));
        if is_alternative(&key.path) {
            let last = key.path.rsplit('.').next().unwrap();
            assert!(
                EXAMPLE.contains(&format!("# {last}: ")),
                "{} is not in it",
                key.path
            );
            continue;
        }
        let found = names.find_map(|name| {
            let steps = key.path.split('.');
            let steps = steps.map(|step| if step == "<name>" { name } else { step });
            tree.at(&steps.collect::<Vec<&str>>())
        });
        let node = found.unwrap_or_else(|| panic!("{} is not in it", key.path));
        let exact = matches!(key.kind, "duration" | "size" | "number" | "true or false")
            || (key.kind == "word" && key.bounds.split(", ").any(|word| word == key.default));
        if exact {
            assert_eq!(node.text(), Some(key.default.as_str()), "{}", key.path);
        }
    }
}

fn table(keys: &[Key]) -> String {
    let mut text =
        String::from("| Key | Value | Default | Bounds | Meaning |\n|---|---|---|---|---|\n");
    for Key {
        path,
        kind,
        default,
        bounds,
        about,
    } in keys
    {
        writeln!(
            text,
            "| `{path}` | {kind} | {default} | {bounds} | {about} |"
        )
        .unwrap();
    }
    text
}

fn names(keys: &[String]) -> String {
    let mut text = String::new();
    for key in keys {
        writeln!(text, "- `{key}`").unwrap();
    }
    text
}

fn bounds() -> String {
    let (settings, offered) = (Limits::SETTINGS, Limits::OFFERED);
    let mut text =
        String::from("| Of a text | Settings, profiles | Offered file |\n|---|---|---|\n");
    for (what, ours, theirs) in [
        ("bytes", settings.bytes, offered.bytes),
        (
            "lists and maps inside each other",
            settings.depth,
            offered.depth,
        ),
        (
            "values, repeated ones counted",
            settings.nodes,
            offered.nodes,
        ),
    ] {
        writeln!(text, "| {what} | {ours} | {theirs} |").unwrap();
    }
    let (bytes, depth) = (names::NAME_BYTES_MAX, names::DEPTH_MAX);
    writeln!(text, "| bytes of an entry's name | | {bytes} |").unwrap();
    writeln!(text, "| directories in an entry's name | | {depth} |").unwrap();
    text
}

fn denied() -> String {
    let (profiles, _) = profile::all(None, &env());
    let mut text = String::new();
    for (name, profile) in profiles {
        let list = match [&profile.denied_components[..], &profile.denied_keys[..]]
            .concat()
            .as_slice()
        {
            [] => "none".to_owned(),
            list => format!("`{}`", list.join("`, `")),
        };
        writeln!(text, "- `{name}`: {list}").unwrap();
    }
    text
}

#[test]
fn the_manual_says_what_the_code_does() {
    let sections = [
        ("agents", table(&keys(Form::Agents))),
        ("agents, not built", names(&keys_not_built(Form::Agents))),
        ("agent", table(&keys(Form::Agent))),
        ("agent, not built", names(&keys_not_built(Form::Agent))),
        ("profile", table(&profile_keys(&env()))),
        ("bounds", bounds()),
        ("denied", denied()),
    ];
    let mut differing = String::new();
    for (name, wanted) in sections {
        let (begin, end) = (
            format!("<!-- begin {name} -->\n"),
            format!("<!-- end {name} -->"),
        );
        let found = MANUAL
            .split_once(&begin)
            .and_then(|(_, rest)| rest.split_once(&end))
            .map_or_else(
                || panic!("docs/settings.md has no part {name:?}"),
                |(found, _)| found,
            );
        if found != wanted {
            writeln!(differing, "{begin}{wanted}{end}").unwrap();
        }
    }
    assert!(
        differing.is_empty(),
        "parts of docs/settings.md differ; they should be\n{differing}"
    );
}
