//! Walks the maps of a config: typed look-ups that collect every error with its place instead of stopping at the first.
//!
//! Promises: a key that nobody asked for is an error with the nearest known key; a bare number is no duration and
//! no size.
//! Must never: decide what a key means.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ConfigError;
use crate::units;
use crate::yaml::{Node, Value, nearest};

/// The shortest and longest duration that any key accepts.
const DURATION_MIN: Duration = Duration::from_millis(100);
const DURATION_MAX: Duration = Duration::from_hours(24);

/// Collects what is wrong with one file.
#[derive(Debug)]
pub(super) struct Errors {
    file: String,
    found: Vec<ConfigError>,
}

impl Errors {
    pub(super) fn of(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            found: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        self.found.push(ConfigError {
            file: self.file.clone(),
            line: node.span.line,
            column: node.span.column,
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// All errors in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<ConfigError> {
        self.found.sort_by_key(|error| (error.line, error.column));
        self.found
    }
}

/// Joins a key to the path it stands under.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// One map being read.
#[derive(Debug)]
pub(super) struct Fields<'a, 'e> {
    /// The map itself.
    pub(super) node: &'a Node,
    /// The keys that lead to it.
    pub(super) path: String,
    /// Where errors go.
    pub(super) errors: &'e mut Errors,
    asked: Vec<&'static str>,
}

impl<'a, 'e> Fields<'a, 'e> {
    /// Opens a map; anything else is an error, and an absent value is an empty map.
    pub(super) fn open(node: &'a Node, path: &str, errors: &'e mut Errors) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) && !node.is_null() {
            errors.add(node, path, "a map belongs here");
            return None;
        }
        Some(Self {
            node,
            path: path.to_owned(),
            errors,
            asked: Vec::new(),
        })
    }

    /// The path of one of its keys.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports an error at a node below a key.
    pub(super) fn fail(&mut self, node: &Node, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.errors.add(node, &path, message);
    }

    /// A value, if the key is there and not null.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.node.get(key).filter(|value| !value.is_null())
    }

    /// A value that must be there.
    pub(super) fn required(&mut self, key: &'static str) -> Option<&'a Node> {
        let found = self.get(key);
        if found.is_none() {
            let node = self.node;
            self.fail(node, key, "this key is missing");
        }
        found
    }

    /// The scalar under a key.
    pub(super) fn text(&mut self, key: &'static str) -> Option<(&'a Node, &'a str)> {
        let node = self.get(key)?;
        self.scalar(node, key).map(|text| (node, text))
    }

    fn scalar(&mut self, node: &'a Node, key: &str) -> Option<&'a str> {
        let text = node.text();
        if text.is_none() {
            self.fail(node, key, "a single value belongs here");
        }
        text
    }

    /// A duration such as `10s`, from 100 ms to 24 h.
    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        let Some((node, text)) = self.text(key) else {
            return default;
        };
        match units::parse_duration(text) {
            Ok(span) if (DURATION_MIN..=DURATION_MAX).contains(&span) => span,
            Ok(_) => {
                self.fail(node, key, format!("{text:?} is not from 100ms to 24h"));
                default
            }
            Err(error) => {
                self.fail(node, key, error.to_string());
                default
            }
        }
    }

    /// A size such as `64KiB` within bounds.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: usize,
        (min, max): (usize, usize),
    ) -> usize {
        let Some((node, text)) = self.text(key) else {
            return default;
        };
        let bytes =
            units::parse_size(text).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        match bytes {
            Ok(bytes) if (min..=max).contains(&bytes) => bytes,
            Ok(_) => {
                let message = format!("{text:?} is not from {} to {}", size(min), size(max));
                self.fail(node, key, message);
                default
            }
            Err(error) => {
                self.fail(node, key, error.to_string());
                default
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        default: usize,
        (min, max): (usize, usize),
    ) -> usize {
        let Some((node, text)) = self.text(key) else {
            return default;
        };
        match text.parse() {
            Ok(count) if (min..=max).contains(&count) => count,
            _ => {
                let message = format!("{text:?} is not a whole number from {min} to {max}");
                self.fail(node, key, message);
                default
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some((node, text)) = self.text(key) else {
            return default;
        };
        match text {
            "true" => true,
            "false" => false,
            _ => {
                self.fail(node, key, format!("{text:?} is neither true nor false"));
                default
            }
        }
    }

    /// An absolute path without `..`.
    pub(super) fn path(&mut self, key: &'static str) -> Option<(&'a Node, PathBuf)> {
        let (node, text) = self.text(key)?;
        let path = Path::new(text);
        let climbs = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if !path.is_absolute() || climbs || text.contains('\0') {
            self.fail(
                node,
                key,
                format!("{text:?} is not an absolute path without .."),
            );
            return None;
        }
        Some((node, path.to_owned()))
    }

    /// The texts of a list.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<(&'a Node, &'a str)>> {
        let node = self.get(key)?;
        if !matches!(node.value, Value::List(_)) {
            self.fail(node, key, "a list belongs here, such as [a, b]");
            return None;
        }
        let mut texts = Vec::new();
        for (index, item) in node.items().iter().enumerate() {
            if let Some(text) = self.scalar(item, &format!("{key}[{index}]")) {
                texts.push((item, text));
            }
        }
        Some(texts)
    }

    /// The keys and texts of a map.
    pub(super) fn pairs(
        &mut self,
        key: &'static str,
    ) -> Vec<(&'a Node, &'a str, &'a Node, &'a str)> {
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        if !matches!(node.value, Value::Map(_)) {
            self.fail(node, key, "a map belongs here");
            return Vec::new();
        }
        let mut pairs = Vec::new();
        for (name, value) in node.entries() {
            let name_text = name.text().unwrap_or_default();
            if let Some(text) = self.scalar(value, &join(key, name_text)) {
                pairs.push((name, name_text, value, text));
            }
        }
        pairs
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.node.entries() {
            let text = name.text().unwrap_or_default();
            if self.asked.contains(&text) {
                continue;
            }
            let message = match nearest(text, self.asked.iter().copied()) {
                Some(near) => format!("unknown key, did you mean {near:?}?"),
                None => format!("unknown key, known here: {}", self.asked.join(", ")),
            };
            self.errors.add(name, &join(&self.path, text), message);
        }
    }
}

/// Prints a bound the way it is written.
fn size(bytes: usize) -> String {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;
    match bytes {
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}
