//! Where each value of the settings comes from: the text, the environment, the command line or a default.
//!
//! Promises: speaks of exactly the keys that the reader asks for, in its order, with its own defaults and bounds; a
//! value is shown as it was written, so that what `${…}` stands for and what may be a secret stays where it is.
//! Must never: explain settings that would be refused.

use crate::yaml::{Limits, Node, REDACTED, Value, is_secret_path, nearest, parse};

use super::auth::SECRET_TEXT;
use super::load::{self, ConfigErrors, Overrides, form_of};
use super::read::{Key, Reader};
use super::registration::SECRET_VARIABLES;
use super::tls::PEM_TEXT;
use super::{Config, Environment, otel};

/// A key as it was found in a text that is being explained.
pub(super) struct Found {
    /// Dotted path, with the names that the user chose.
    path: String,
    /// Line, column and what stands there.
    value: Option<(usize, usize, String)>,
}

impl Found {
    pub(super) fn new(path: String, kind: &str, node: Option<&Node>) -> Self {
        let value = node.map(|node| {
            let shown = shown(&path, kind, node);
            (node.span.line, node.span.column, shown)
        });
        Self { path, value }
    }
}

/// One key, its value and where that comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Dotted path, with the names that the user chose.
    pub key: String,
    /// The value as it was written, or what holds without one.
    pub value: String,
    /// The layer that decided.
    pub decided_by: DecidedBy,
    /// What is known of the key itself.
    pub about: Key,
    /// The default of the Collector's supervisor, where ours is another.
    pub theirs: Option<&'static str>,
}

/// What decided a value, highest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecidedBy {
    /// An argument of the command line.
    CommandLine(&'static str),
    /// The settings text.
    Text {
        /// The text, usually a path.
        origin: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// Nobody.
    Default,
}

impl std::fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CommandLine(argument) => write!(f, "{argument}"),
            Self::Text {
                origin,
                line,
                column,
            } => write!(f, "{origin}:{line}:{column}"),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Explains every key of a settings text, or of no text at all.
///
/// # Errors
/// Those of [`super::load()`]: what would be refused is not explained.
pub fn explain(
    text: Option<(&str, &str)>,
    env: &dyn Environment,
    overrides: &Overrides,
) -> Result<Vec<Explained>, ConfigErrors> {
    let (origin, written, config) = if let Some((origin, text)) = text {
        let config = load::load(origin, text, env, overrides)?;
        let tree = parse(origin, text, Limits::SETTINGS).map_err(ConfigErrors::one)?;
        (origin, tree, config)
    } else {
        let config = load::defaults(env, overrides)?;
        ("defaults", load::nothing(), config)
    };
    let form = form_of(origin, &written).map_err(ConfigErrors::one)?;
    let mut reader = Reader::new(origin, Some(form), env);
    reader.found = Some(Vec::new());
    reader.gates.clone_from(&overrides.feature_gates);
    // As it was written: problems of values that only `${…}` makes right were ruled out above.
    drop(load::read(form, &written, &mut reader));
    let Reader { keys, found, .. } = reader;
    let found = found.unwrap_or_default();
    let explained = keys.into_iter().zip(found);
    Ok(explained
        .map(|(about, found)| one(about, found, origin, env, (overrides, &config)))
        .collect())
}

/// The key that a mistyped one was probably meant to be.
pub fn nearest_key<'a>(key: &str, all: &'a [Explained]) -> Option<&'a str> {
    nearest(key, all.iter().map(|it| it.key.as_str()))
}

fn one(
    about: Key,
    found: Found,
    origin: &str,
    env: &dyn Environment,
    (overrides, config): (&Overrides, &Config),
) -> Explained {
    let theirs = otel::THEIRS
        .iter()
        .find(|(key, _)| *key == about.path)
        .map(|(_, default)| *default);
    let (layer, value) = if let Some(directory) = overrides.storage.as_ref()
        && about.path == "storage.directory"
    {
        let directory = directory.display().to_string();
        (DecidedBy::CommandLine("--state-dir"), directory)
    } else if let Some((line, column, value)) = found.value {
        let layer = DecidedBy::Text {
            origin: origin.to_owned(),
            line,
            column,
        };
        (layer, value)
    } else if about.path == "storage.directory" {
        // Its default depends on who asks, and is in the settings as they came out.
        let directory = config.storage.display().to_string();
        (DecidedBy::Default, directory)
    } else if let Some((name, value)) = variable(&about, env) {
        (DecidedBy::Environment(name), value)
    } else {
        (DecidedBy::Default, about.default.clone())
    };
    Explained {
        key: found.path,
        value,
        decided_by: layer,
        about,
        theirs,
    }
}

/// The first variable that the default of a key speaks of and that is set.
fn variable(key: &Key, env: &dyn Environment) -> Option<(String, String)> {
    if key.path == "server.heartbeat_interval"
        && let Some(seconds) = env.var("HEARTBEAT_INTERVAL")
        && !seconds.trim().is_empty()
    {
        let name = "HEARTBEAT_INTERVAL".to_owned();
        return Some((name, format!("{}s", seconds.trim())));
    }
    let words = key
        .default
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || "_$".contains(letter)));
    words
        .filter_map(|word| word.strip_prefix('$'))
        .find_map(|name| {
            let value = env.var(name).filter(|value| !value.trim().is_empty())?;
            let secret = SECRET_VARIABLES.contains(&name) || is_secret_path(&[name]);
            let shown = if secret {
                REDACTED.to_owned()
            } else {
                plain_words(&value)
            };
            Some((name.to_owned(), shown))
        })
}

/// A value as people may see it.
fn shown(path: &str, kind: &str, node: &Node) -> String {
    // An item of a list of headers is as secret as the list.
    let name = |step| str::split(step, '[').next().unwrap_or_default();
    let steps: Vec<&str> = path.split('.').map(name).collect();
    let secret = is_secret_path(&steps)
        || kind.starts_with("map of texts")
        || kind == SECRET_TEXT
        || kind == PEM_TEXT;
    match &node.value {
        Value::Scalar { .. } | Value::List(_) if secret => REDACTED.to_owned(),
        Value::Scalar { text, .. } => plain_words(text),
        Value::List(items) => {
            format!("[{}]", plain_arguments(items).join(", "))
        }
        Value::Map(entries) => {
            let names: Vec<String> = entries
                .iter()
                .filter_map(|(name, _)| name.text())
                .map(|name| format!("{name}: {REDACTED}"))
                .collect();
            format!("{{{}}}", names.join(", "))
        }
    }
}

/// Items of a list without credentials: the value of an argument whose name is one of a secret is not shown, be it
/// written behind `=` or as the next item.
fn plain_arguments(items: &[Node]) -> Vec<String> {
    let mut hidden = false;
    let mut shown = Vec::new();
    for text in items.iter().filter_map(Node::text) {
        let (name, value) = text
            .split_once('=')
            .map_or((text, None), |(name, value)| (name, Some(value)));
        let secret = is_secret_path(&[name.trim_start_matches('-')]);
        shown.push(match value {
            _ if hidden && !text.starts_with('-') => REDACTED.to_owned(),
            Some(_) if secret => format!("{name}={REDACTED}"),
            _ => plain_words(text),
        });
        hidden = secret && value.is_none() && text.starts_with('-');
    }
    shown
}

/// A text with each of its URLs without what may hold a credential.
fn plain_words(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(plain_url).collect();
    words.join(" ")
}

/// A URL without what may hold a credential; any other text as it is.
fn plain_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (place, path) = rest
        .split_once('/')
        .map_or((rest, None), |(place, path)| (place, Some(path)));
    let place = place.rsplit('@').next().unwrap_or_default();
    match path {
        Some(path) => format!("{scheme}://{place}/{path}"),
        None => format!("{scheme}://{place}"),
    }
}

#[cfg(test)]
mod tests;
