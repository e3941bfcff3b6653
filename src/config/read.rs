//! Reads typed values out of a parsed settings text, and collects every problem instead of stopping at the first.
//!
//! Promises: each problem names file, line, column, key path and what to do; each key that is asked for is also
//! recorded with type, default, bounds and meaning, so the documentation is checked against the reading itself,
//! not against a second list.
//! Must never: hold a default of its own, or quote a value of a key that may be a secret.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::units::{format_duration, parse_duration, parse_size};
use crate::yaml::{self, Node, Value, nearest};

use super::explain::Found;
use super::value::{between, format_size, plain, resolve, scalar, within};
use super::{Environment, Form};

mod shape;

/// One key of a form, as the reader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Dotted path; `<name>` stands for a name the user chooses.
    pub path: String,
    /// What its value is.
    pub kind: &'static str,
    /// What holds when the key is absent.
    pub default: String,
    /// Limits of the value; empty when its kind says all.
    pub bounds: String,
    /// What it decides.
    pub about: &'static str,
}

/// The state of one reading.
pub(super) struct Reader<'e> {
    pub(super) origin: String,
    pub(super) form: Option<Form>,
    pub(super) env: &'e dyn Environment,
    pub(super) errors: Vec<yaml::Error>,
    pub(super) warnings: Vec<String>,
    pub(super) keys: Vec<Key>,
    pub(super) not_built: Vec<String>,
    /// Feature gates of the command line that are on.
    pub(super) gates: Vec<String>,
    /// Where each of `keys` was found; only while settings are explained.
    pub(super) found: Option<Vec<Found>>,
}

/// A map of the text, or the place where one would be.
pub(super) struct Section<'r, 'e, 'n> {
    pub(super) reader: &'r mut Reader<'e>,
    path: String,
    doc: String,
    node: Option<&'n Node>,
    /// What to point at when the section itself is absent: the nearest map around it.
    around: Option<&'n Node>,
    known: Vec<&'static str>,
    /// Known and not built: no typo, but nothing to suggest either.
    later: Vec<&'static str>,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'e> Reader<'e> {
    pub(super) fn new(origin: &str, form: Option<Form>, env: &'e dyn Environment) -> Self {
        Self {
            origin: origin.to_owned(),
            form,
            env,
            errors: Vec::new(),
            warnings: Vec::new(),
            keys: Vec::new(),
            not_built: Vec::new(),
            gates: Vec::new(),
            found: None,
        }
    }

    pub(super) fn root<'n>(&mut self, node: &'n Node) -> Section<'_, 'e, 'n> {
        let mut section = Section {
            reader: self,
            path: String::new(),
            doc: String::new(),
            node: Some(node),
            around: Some(node),
            known: Vec::new(),
            later: Vec::new(),
        };
        section.require_map();
        section
    }

    pub(super) fn has_gate(&self, gate: &str) -> bool {
        self.gates.iter().any(|on| on == gate)
    }

    fn problem(&mut self, node: Option<&Node>, path: &str, message: impl Display) {
        let (line, column) = node.map_or((0, 0), |node| (node.span.line, node.span.column));
        let message = if path.is_empty() {
            message.to_string()
        } else {
            format!("{path}: {message}")
        };
        self.errors.push(yaml::Error {
            origin: self.origin.clone(),
            line,
            column,
            message,
        });
    }
}

impl<'e, 'n> Section<'_, 'e, 'n> {
    fn require_map(&mut self) {
        match self.node {
            Some(node) if node.is_null() => self.node = None,
            Some(node) if !matches!(node.value, Value::Map(_)) => {
                self.reader.problem(
                    Some(node),
                    &self.path,
                    "a map of keys belongs here, write `key: value` lines below it",
                );
                self.node = None;
            }
            _ => {}
        }
    }

    /// Whether the text holds this section at all.
    pub(super) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// The key path of this section.
    #[cfg(feature = "opampsupervisor")]
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Records a problem of a key, or of the section itself when `key` is empty.
    pub(super) fn problem(&mut self, key: &str, message: impl Display) {
        let node = self
            .node
            .and_then(|node| node.get(key))
            .or(self.node)
            .or(self.around);
        let path = if key.is_empty() {
            self.path.clone()
        } else {
            join(&self.path, key)
        };
        self.reader.problem(node, &path, message);
    }

    /// Records a problem of a value that was found already.
    pub(super) fn problem_at(&mut self, node: &Node, path: &str, message: impl Display) {
        self.reader.problem(Some(node), path, message);
    }

    /// Takes note of a key and returns its value unless it is absent or null.
    fn take(
        &mut self,
        key: &'static str,
        kind: &'static str,
        default: impl Display,
        bounds: String,
        about: &'static str,
    ) -> Option<&'n Node> {
        self.known.push(key);
        self.reader.keys.push(Key {
            path: join(&self.doc, key),
            kind,
            default: default.to_string(),
            bounds,
            about,
        });
        let node = self
            .node
            .and_then(|node| node.get(key))
            .filter(|node| !node.is_null());
        if let Some(found) = &mut self.reader.found {
            found.push(Found::new(join(&self.path, key), kind, node));
        }
        node
    }

    /// Parses a value that was taken; a problem leaves `None`.
    fn parse<T>(
        &mut self,
        key: &str,
        node: Option<&Node>,
        parse: impl FnOnce(&Node) -> Result<T, String>,
    ) -> Option<T> {
        let node = node?;
        match parse(node) {
            Ok(value) => Some(value),
            Err(message) => {
                let path = join(&self.path, key);
                self.reader.problem(Some(node), &path, message);
                None
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let show = |span: &Duration| format_duration(*span);
        let bounds = between(&range, show);
        let node = self.take(key, "duration", show(&default), bounds.clone(), about);
        self.parse(key, node, |node| {
            let span = scalar(node)
                .and_then(|text| parse_duration(text).map_err(|error| error.to_string()))?;
            within(span, &range, &bounds)
        })
        .unwrap_or(default)
    }

    pub(super) fn size(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let bounds = between(&range, |bytes| format_size(*bytes));
        let node = self.take(key, "size", format_size(default), bounds.clone(), about);
        self.parse(key, node, |node| {
            let bytes = scalar(node)
                .and_then(|text| parse_size(text).map_err(|error| error.to_string()))?;
            within(bytes, &range, &bounds)
        })
        .unwrap_or(default)
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let bounds = between(&range, u32::to_string);
        let node = self.take(key, "number", default, bounds.clone(), about);
        self.parse(key, node, |node| {
            let number = plain(node)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("a whole number from {bounds} belongs here"))?;
            within(number, &range, &bounds)
        })
        .unwrap_or(default)
    }

    /// A number whose absence means something of its own.
    #[cfg(feature = "opampsupervisor")]
    pub(super) fn optional_number(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let bounds = between(&range, u32::to_string);
        let node = self.take(key, "number", default, bounds.clone(), about);
        self.parse(key, node, |node| {
            let number = plain(node)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("a whole number from {bounds} belongs here"))?;
            within(number, &range, &bounds)
        })
    }

    pub(super) fn switch(&mut self, key: &'static str, about: &'static str, default: bool) -> bool {
        let node = self.take(key, "true or false", default, String::new(), about);
        self.parse(key, node, |node| {
            plain(node)
                .and_then(|text| match text {
                    "true" | "True" | "TRUE" => Some(true),
                    "false" | "False" | "FALSE" => Some(false),
                    _ => None,
                })
                .ok_or_else(|| "write true or false, without quotes".to_owned())
        })
        .unwrap_or(default)
    }

    /// One of a few words. The first is the default unless `default` says otherwise.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        about: &'static str,
        choices: &[(&'static str, T)],
        default: (&str, T),
    ) -> T {
        self.optional_choice(key, about, choices, default.0)
            .unwrap_or(default.1)
    }

    /// One of a few words, where absence means something of its own.
    pub(super) fn optional_choice<T: Copy>(
        &mut self,
        key: &'static str,
        about: &'static str,
        choices: &[(&'static str, T)],
        default: &str,
    ) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let node = self.take(key, "word", default, words.join(", "), about);
        self.parse(key, node, |node| {
            let text = scalar(node)?;
            choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| match nearest(text, words.iter().copied()) {
                    Some(near) => {
                        format!("not one of {}; did you mean {near:?}?", words.join(", "))
                    }
                    None => format!("not one of {}", words.join(", ")),
                })
        })
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: impl Display,
    ) -> Option<String> {
        let node = self.take(key, "text", default, String::new(), about);
        self.parse(key, node, |node| scalar(node).map(str::to_owned))
    }

    /// A text that must parse as something.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        (kind, about): (&'static str, &'static str),
        default: impl Display,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.take(key, kind, default, String::new(), about);
        self.parse(key, node, |node| scalar(node).and_then(read))
    }

    /// A file or directory. In `agents:` it must be absolute; in `agent:` it counts from the working directory.
    pub(super) fn path_value(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: impl Display,
    ) -> Option<PathBuf> {
        let (form, base) = (self.reader.form, self.reader.env.working_directory());
        let node = self.take(key, "path", default, String::new(), about);
        self.parse(key, node, |node| {
            scalar(node).and_then(|text| resolve(form, &base, text))
        })
    }

    /// A list of texts; `read` turns each into a value.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        (kind, about): (&'static str, &'static str),
        default: impl Display,
        mut read: impl FnMut(&Reader<'e>, &str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        /// More entries than any hand-written list has.
        const ENTRIES_MAX: usize = 1_000;
        let bounds = format!("at most {ENTRIES_MAX} entries");
        let node = self.take(key, kind, default, bounds.clone(), about)?;
        let Value::List(items) = &node.value else {
            self.problem(key, "a list belongs here, write `- value` lines or [a, b]");
            return None;
        };
        if items.len() > ENTRIES_MAX {
            self.problem(key, format!("{} entries; {bounds}", items.len()));
            return None;
        }
        let mut values = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match scalar(item).and_then(|text| read(self.reader, text)) {
                Ok(value) => values.push(value),
                Err(message) => {
                    let path = format!("{}[{i}]", join(&self.path, key));
                    self.reader.problem(Some(item), &path, message);
                }
            }
        }
        Some(values)
    }

    pub(super) fn texts(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: impl Display,
    ) -> Option<Vec<String>> {
        self.list(key, ("list of texts", about), default, |_, text| {
            Ok(text.to_owned())
        })
    }

    /// A map of texts, each value one text or, where `many`, a list of them.
    pub(super) fn pairs(
        &mut self,
        key: &'static str,
        about: &'static str,
        many: bool,
    ) -> Vec<(String, String)> {
        let kind = if many {
            "map of texts or lists of texts"
        } else {
            "map of texts"
        };
        let Some(node) = self.take(key, kind, "none", String::new(), about) else {
            return Vec::new();
        };
        if !matches!(node.value, Value::Map(_)) {
            self.problem(
                key,
                "a map belongs here, write `name: value` lines below it",
            );
            return Vec::new();
        }
        let mut pairs = Vec::new();
        for (name, value) in node.entries() {
            let name = name.text().unwrap_or_default();
            let values = match &value.value {
                Value::List(items) if many => items.iter().collect(),
                _ => vec![value],
            };
            for value in values {
                match scalar(value) {
                    Ok(text) => pairs.push((name.to_owned(), text.to_owned())),
                    Err(message) => {
                        let path = join(&join(&self.path, key), name);
                        self.reader.problem(Some(value), &path, message);
                    }
                }
            }
        }
        pairs
    }
}
