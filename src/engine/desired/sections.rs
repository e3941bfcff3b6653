//! The parts of a config whose change needs a new process, as a profile names them.
//!
//! A name is a path of keys joined by dots, such as `spool`; `sources[kind=kernel]` are those entries of the map
//! `sources` that say `kind: kernel`, with their names.
//! Promises: what is compared is the text as it stands in the files, so that nothing about it is guessed.
//! Must never: judge whether a config is good.

use super::parse;
use crate::config::Agent;
use crate::engine::message::{LayerKind, RevisionFile};
use crate::yaml::Node;

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
        let Some(node) = root.at(&path) else {
            continue;
        };
        let text = |node: &Node| {
            let bytes = file.bytes.get(node.span.start..node.span.end)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
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
    texts
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
