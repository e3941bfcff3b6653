//! The parts of a config whose change needs a new process, as a profile names them.
//!
//! A name is a path of keys joined by dots, such as `spool`; `sources[kind=kernel]` are those entries of the map
//! `sources` that say `kind: kernel`, with their names; `sinks.*.buffer` is that key of every entry of `sinks`.
//! Keys are compared without case, and one that holds dots itself (`storage.path`) is found too: a match too many costs
//! a restart, one too few a config that is never taken up.
//! Promises: what is compared is the text as it stands in the files, so that nothing about it is guessed.
//! Must never: judge whether a config is good.

use super::parse;
use crate::config::Agent;
use crate::config::policy::{self, Format};
use crate::engine::message::{LayerKind, RevisionFile};
use crate::yaml::{Node, Value};

/// The texts of a section in all files that somebody wrote, in order.
pub(super) fn texts(settings: &Agent, files: &[RevisionFile], section: &str) -> Vec<String> {
    let (path, filter) = split(section);
    let path: Vec<&str> = path.split('.').collect();
    let mut texts = Vec::new();
    for file in files {
        if !matches!(file.layer, LayerKind::Local | LayerKind::Remote) {
            continue;
        }
        let Some(root) = parse(settings, file).ok().flatten() else {
            continue;
        };
        let is_yaml = policy::format_of(&file.path, &settings.profile) == Some(Format::Yaml);
        let text = |node: &Node| {
            if !is_yaml {
                return Some(shape(node));
            }
            let bytes = file.bytes.get(node.span.start..node.span.end)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        for (names, node) in at(&root, &path) {
            texts.extend(names);
            match filter {
                None => texts.extend(text(node)),
                Some((key, wanted)) => {
                    for (name, entry) in node.entries() {
                        if entry.get(key).and_then(Node::text) == Some(wanted) {
                            texts.extend(text(name));
                            texts.extend(text(entry));
                        }
                    }
                }
            }
        }
    }
    texts
}

/// What a node says, without where it stands: in TOML a table is no stretch of the text.
fn shape(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => format!("{text:?}"),
        Value::List(items) => items.iter().map(|item| shape(item) + ",").collect(),
        Value::Map(entries) => {
            let entry = |(key, value): &(Node, Node)| format!("{}:{};", shape(key), shape(value));
            let entries: String = entries.iter().map(entry).collect();
            format!("{{{entries}}}")
        }
    }
}

/// A file that somebody wrote, read.
#[cfg(feature = "flow")]
#[derive(Debug)]
pub(crate) struct Tree(Node);

#[cfg(feature = "flow")]
impl Tree {
    /// The nodes at the end of a path of keys joined by dots.
    pub(crate) fn find(&self, path: &str) -> Vec<&Node> {
        let path: Vec<&str> = path.split('.').filter(|key| !key.is_empty()).collect();
        let found = at(&self.0, &path).into_iter();
        found.map(|(_, node)| node).collect()
    }
}

/// What a node says, whatever stands around it.
#[cfg(feature = "flow")]
pub(crate) fn meaning(node: &Node) -> String {
    shape(node)
}

/// Every file that somebody wrote and that can be read, in order.
#[cfg(feature = "flow")]
pub(crate) fn trees(settings: &Agent, files: &[RevisionFile]) -> Vec<Tree> {
    let written = files
        .iter()
        .filter(|file| matches!(file.layer, LayerKind::Local | LayerKind::Remote));
    let read = written.filter_map(|file| parse(settings, file).ok().flatten());
    read.map(Tree).collect()
}

/// The nodes at the end of a path, each with the keys that `*` stood for.
fn at<'n>(root: &'n Node, path: &[&str]) -> Vec<(Vec<String>, &'n Node)> {
    if path.is_empty() {
        return vec![(Vec::new(), root)];
    }
    // A list on the way stands for all its items.
    let nodes = std::iter::once(root).chain(root.items());
    let mut found = Vec::new();
    for (name, value) in nodes.flat_map(Node::entries) {
        let Some(name) = name.text() else { continue };
        let any = path.first() == Some(&"*");
        // `storage.path` may be one key.
        for steps in 1..=path.len() {
            let (key, rest) = path.split_at(steps);
            let is_any = any && steps == 1;
            if !is_any && !name.eq_ignore_ascii_case(&key.join(".")) {
                continue;
            }
            for (mut names, node) in at(value, rest) {
                if is_any {
                    names.insert(0, name.to_owned());
                }
                found.push((names, node));
            }
        }
    }
    found
}

/// `path[key=value]` or just a path.
fn split(section: &str) -> (&str, Option<(&str, &str)>) {
    let parts = section
        .strip_suffix(']')
        .and_then(|rest| rest.split_once('['))
        .and_then(|(path, filter)| Some((path, filter.split_once('=')?)));
    match parts {
        Some((path, filter)) => (path, Some(filter)),
        None => (section, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_a_path_or_the_entries_that_say_something() {
        let cases = [
            ("spool", ("spool", None)),
            ("a.b", ("a.b", None)),
            (
                "sources[kind=kernel]",
                ("sources", Some(("kind", "kernel"))),
            ),
            ("odd[x]", ("odd[x]", None)),
        ];
        for (section, wanted) in cases {
            assert_eq!(split(section), wanted, "{section}");
        }
    }
}
