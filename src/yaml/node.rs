//! A parsed text as nodes that know where they stand, so that a rule can judge an offered file and point at a line.
//!
//! Promises: a map holds each key once and every key is a scalar; depth is bounded, so walking may recurse.
//! Must never: guess types. A scalar is its text and its style; who needs a number parses one.

use std::collections::BTreeMap;

/// Where a node stands in the text. An aliased node stands where its anchor is, a block scalar at its first
/// line of text, after the `|`, and it reaches to the next node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Byte offset of the first byte.
    pub start: usize,
    /// Byte offset after the last byte.
    pub end: usize,
    /// Line of the first byte, counted from 1.
    pub line: usize,
    /// Column of the first byte in characters, counted from 1.
    pub column: usize,
}

/// One node of a parsed text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is. An absent value is a plain scalar with an empty text; see [`Node::is_null`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, after escapes and folding.
    Scalar {
        /// The text.
        text: String,
        /// How it was written.
        style: Style,
    },
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the text; every key is a scalar and occurs once.
    Map(Vec<(Node, Node)>),
}

/// How a scalar was written. A tag counts: `!!str 5` is `Quoted`, `!!int "5"` is `Plain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: the reader may see a number, a boolean or null in it.
    Plain,
    /// In quotes: a string.
    Quoted,
    /// `|` or `>`: a string.
    Block,
}

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether this is a plain scalar that YAML 1.2 reads as null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, style: Style::Plain }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The items of a list; nothing for anything else.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Scalar { .. } | Value::Map(_) => &[],
        }
    }

    /// The entries of a map; nothing for anything else.
    pub fn entries(&self) -> &[(Self, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Scalar { .. } | Value::List(_) => &[],
        }
    }

    /// The value under `key` of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|(name, _)| name.text() == Some(key))
            .map(|(_, value)| value)
    }

    /// The value at the end of a path of map keys.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Whether both say the same to a reader: comments, blanks, the kind of quotes and the order of keys are no
    /// difference; quotes or none are one, since `"5"` is no number.
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Scalar { text, .. }, Value::Scalar { text: theirs, .. }) => {
                text == theirs && self.is_plain() == other.is_plain()
            }
            (Value::List(items), Value::List(theirs)) => {
                items.len() == theirs.len()
                    && std::iter::zip(items, theirs).all(|(one, two)| one.says_the_same(two))
            }
            (Value::Map(_), Value::Map(_)) => {
                let (ours, theirs) = (self.by_key(), other.by_key());
                ours.len() == theirs.len()
                    && std::iter::zip(ours, theirs)
                        .all(|((key, one), (name, two))| key == name && one.says_the_same(two))
            }
            _ => false,
        }
    }

    fn by_key(&self) -> BTreeMap<(&str, bool), &Self> {
        let entries = self.entries().iter();
        entries
            .map(|(key, value)| ((key.text().unwrap_or_default(), key.is_plain()), value))
            .collect()
    }

    fn is_plain(&self) -> bool {
        matches!(
            &self.value,
            Value::Scalar {
                style: Style::Plain,
                ..
            }
        )
    }

    /// Calls `visit` with every scalar value (keys are not values) and the path to it. A list item's step is `[]`.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&[&'a str], &'a Self)) {
        self.walk_from(&mut Vec::new(), visit);
    }

    fn walk_from<'a>(
        &'a self,
        path: &mut Vec<&'a str>,
        visit: &mut impl FnMut(&[&'a str], &'a Self),
    ) {
        match &self.value {
            Value::Scalar { .. } => visit(path, self),
            Value::List(items) => {
                for item in items {
                    path.push("[]");
                    item.walk_from(path, visit);
                    path.pop();
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    path.push(key.text().unwrap_or_default());
                    value.walk_from(path, visit);
                    path.pop();
                }
            }
        }
    }

    /// The dotted path of what starts at a place, such as `agents.web.args[2]`. A block map starts where its first key
    /// does; `prefer` says which of the two is meant.
    pub(super) fn path_at(&self, line: usize, column: usize, prefer: Prefer) -> Option<String> {
        let here = |node: &Self| node.span.line == line && node.span.column == column;
        match &self.value {
            Value::Map(_) if here(self) && prefer == Prefer::Value => Some(String::new()),
            Value::Scalar { .. } => here(self).then(String::new),
            Value::List(items) => items
                .iter()
                .enumerate()
                .find_map(|(i, item)| {
                    Some(format!(
                        "[{i}]{}",
                        dotted(&item.path_at(line, column, prefer)?)
                    ))
                })
                .or_else(|| here(self).then(String::new)),
            Value::Map(entries) => entries
                .iter()
                .find_map(|(key, value)| {
                    let name = key.text().unwrap_or_default();
                    if here(key) {
                        return Some(name.to_owned());
                    }
                    let rest = value.path_at(line, column, prefer)?;
                    Some(format!("{name}{}", dotted(&rest)))
                })
                .or_else(|| here(self).then(String::new)),
        }
    }
}

/// What [`Node::path_at`] means when a map and its first key start at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    /// The key.
    Key,
    /// The map.
    Value,
}

fn dotted(rest: &str) -> String {
    if rest.is_empty() || rest.starts_with('[') {
        rest.to_owned()
    } else {
        format!(".{rest}")
    }
}

#[cfg(test)]
mod tests {
    use crate::yaml::{Limits, parse};

    #[test]
    fn comments_blanks_and_the_order_of_keys_say_nothing() {
        for (one, two, same) in [
            ("a: 1 # one\nb: [x, y]\n", "b:\n- x\n- y\n\na: 1\n", true),
            ("a: \"x\"", "a: 'x'", true),
            ("a: |\n  x\n", "a: \"x\\n\"", true),
            ("a: {b: {c: 1, d: 2}}", "a: {b: {d: 2, c: 1}}", true),
            ("a: 5", "a: '5'", false),
            ("a: x", "a: y", false),
            ("a: [x, y]", "a: [y, x]", false),
            ("a: [x]", "a: [x, x]", false),
            ("a: x", "a: [x]", false),
            ("a: 1", "b: 1", false),
            ("a: 1", "'a': 1", false),
            ("a: 1", "a: 1\nb: 1", false),
            ("a: {}", "a: []", false),
            ("a:", "a: ''", false),
        ] {
            let read = |text| parse("it", text, Limits::SETTINGS).unwrap();
            assert_eq!(read(one).says_the_same(&read(two)), same, "{one} | {two}");
            assert_eq!(read(two).says_the_same(&read(one)), same, "{two} | {one}");
        }
    }
}
