//! The shape of a section: what is below a key, what stands there at all, and what nobody asked for.

use super::{Section, join};
use crate::config::Form;
use crate::config::hint::unknown;
use crate::yaml::{Node, Value};

impl<'e, 'n> Section<'_, 'e, 'n> {
    /// The section below a key; absent ones are read too, so that their defaults apply and their keys are known.
    pub(in crate::config) fn sub(&mut self, key: &'static str) -> Section<'_, 'e, 'n> {
        self.known.push(key);
        let mut section = Section {
            path: join(&self.path, key),
            doc: join(&self.doc, key),
            node: self.node.and_then(|node| node.get(key)),
            around: self.node.or(self.around),
            known: Vec::new(),
            later: Vec::new(),
            reader: self.reader,
        };
        section.require_map();
        section
    }

    /// The names and sections below a key whose keys the user chooses.
    pub(in crate::config) fn named(&mut self, key: &'static str) -> Vec<(&'n Node, &'n Node)> {
        let section = self.sub(key);
        section
            .node
            .map(|node| {
                node.entries()
                    .iter()
                    .map(|(name, value)| (name, value))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// One of [`Section::named`], or with `None` the section an absent one would be.
    pub(in crate::config) fn entry(
        &mut self,
        key: &str,
        name: &str,
        node: Option<&'n Node>,
    ) -> Section<'_, 'e, 'n> {
        let mut section = Section {
            path: join(&join(&self.path, key), name),
            doc: join(&join(&self.doc, key), "<name>"),
            node,
            around: self.node.or(self.around),
            known: Vec::new(),
            later: Vec::new(),
            reader: self.reader,
        };
        section.require_map();
        section
    }

    /// Takes note of a key whose value is read by other means.
    #[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
    pub(in crate::config) fn note_key(
        &mut self,
        key: &'static str,
        kind: &'static str,
        about: &'static str,
    ) {
        self.take(key, kind, "none", String::new(), about);
    }

    /// Whether a key holds a list.
    #[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
    pub(in crate::config) fn is_list(&self, key: &str) -> bool {
        let value = self.node.and_then(|node| node.get(key));
        value.is_some_and(|value| matches!(value.value, Value::List(_)))
    }

    /// The items of a list.
    #[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
    pub(in crate::config) fn items(&mut self, key: &'static str) -> Vec<&'n Node> {
        /// More entries than any hand-written list has.
        const ITEMS_MAX: usize = 100;
        self.known.push(key);
        let node = self.node.and_then(|node| node.get(key));
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return Vec::new();
        };
        if !matches!(node.value, Value::List(_)) {
            self.problem(key, "a list belongs here, write `- ` before each entry");
        } else if node.items().len() > ITEMS_MAX {
            self.problem(
                key,
                format!("{} entries; at most {ITEMS_MAX}", node.items().len()),
            );
            return Vec::new();
        }
        node.items().iter().collect()
    }

    /// One of [`Section::items`] as a section, or with `None` the section an absent one would be.
    #[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
    pub(in crate::config) fn item(
        &mut self,
        key: &'static str,
        index: usize,
        node: Option<&'n Node>,
    ) -> Section<'_, 'e, 'n> {
        let mut section = Section {
            path: format!("{}[{index}]", join(&self.path, key)),
            doc: format!("{}[]", join(&self.doc, key)),
            node,
            around: self.node.or(self.around),
            known: Vec::new(),
            later: Vec::new(),
            reader: self.reader,
        };
        section.require_map();
        section
    }

    /// The entries that nothing has asked for, where the user chooses keys beside ours.
    #[cfg(all(feature = "telemetry", feature = "opampsupervisor"))]
    pub(in crate::config) fn others(&mut self) -> Vec<(&'n str, &'n Node)> {
        let entries = self.node.map(Node::entries).unwrap_or_default();
        let named = entries
            .iter()
            .map(|(key, value)| (key.text().unwrap_or_default(), value));
        named
            .filter(|(key, _)| !self.known.contains(key) && !self.later.contains(key))
            .collect()
    }

    /// A key that is known and not built: an error. The form of the Collector's supervisor may leave it at what it
    /// would be anyway, because generated settings do; in ours nobody has a reason to write it.
    pub(in crate::config) fn not_built(&mut self, keys: &[&'static str], why: &str) {
        for key in keys {
            self.later.push(key);
            self.reader.not_built.push(join(&self.doc, key));
            let lenient = Form::is_theirs(self.reader.form);
            let idle = |node: &Node| match &node.value {
                // A header whose content is commented out says nothing.
                _ if !lenient => node.is_null(),
                Value::Scalar { text, .. } => {
                    node.is_null() || matches!(text.as_str(), "" | "false" | "0")
                }
                Value::List(items) => items.is_empty(),
                Value::Map(entries) => entries.is_empty(),
            };
            if self
                .node
                .and_then(|node| node.get(key))
                .is_some_and(|node| !idle(node))
            {
                self.problem(key, why);
            }
        }
    }

    /// Whether a key stands in the text with a value.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        let value = self.node.and_then(|node| node.get(key));
        value.is_some_and(|value| !value.is_null())
    }

    /// Whether a map below a key has an entry of this name.
    pub(in crate::config) fn has_named(&self, key: &str, name: &str) -> bool {
        let map = self.node.and_then(|node| node.get(key));
        map.is_some_and(|map| map.get(name).is_some())
    }

    /// Whether something is wrong with a value of this section already.
    pub(in crate::config) fn has_problem(&self) -> bool {
        let below = format!("{}.", self.path);
        let mut errors = self.reader.errors.iter();
        errors.any(|error| error.message.starts_with(&below))
    }

    /// Refuses every key that nothing asked for.
    pub(in crate::config) fn finish(self) {
        let Self {
            reader,
            path,
            node,
            known,
            later,
            doc: _,
            around: _,
        } = self;
        for (key, _) in node.map(Node::entries).unwrap_or_default() {
            let name = key.text().unwrap_or_default();
            if !known.contains(&name) && !later.contains(&name) {
                let hint = unknown(name, &known, reader.form);
                reader.problem(Some(key), &join(&path, name), hint);
            }
        }
    }
}
