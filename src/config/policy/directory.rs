//! Judges the configs of programs that take a directory of files as it was offered.
//!
//! What is a component's type in them, the profile says: the value of a key (`type: exec`), or a key of a section
//! (`[[inputs.exec]]`). Names are compared without case, `_`, `-` and a `scheme://`, because some readers are that
//! lenient, and what one of them takes for `exec` is refused for all.
//! Promises: nothing hides behind an expansion: with one, types and keys are written out, and what is expanded is a
//! name that is open to offers.
//! Must never: know a component by name.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::{Error, Judge, Rules, denial, format_of, refusal};
use crate::config::Expansion;
use crate::yaml::Node;

/// A name the way the most lenient reader sees it.
pub(super) fn lenient(name: &str) -> String {
    let name = name.trim().trim_matches(['"', '\'']);
    let name = name.split("://").next().unwrap_or_default();
    let parts = name.chars().filter(|c| !matches!(c, '_' | '-'));
    parts.collect::<String>().to_uppercase().to_lowercase()
}

impl Judge<'_> {
    /// The rules of a config whose layout only its profile knows.
    pub(super) fn directory(&mut self, tree: &Node) {
        self.folded = self.denied.iter().map(|name| lenient(name)).collect();
        let profile = self.rules.profile;
        if profile.component_sections.is_empty() {
            self.kinds(tree);
        } else {
            self.keyed(tree);
        }
        let allowed = &self.rules.policy.allowed_components;
        for path in profile
            .denied_keys
            .iter()
            .filter(|path| !allowed.contains(path))
        {
            let steps: Vec<String> = path.split('.').map(lenient).collect();
            self.denied_path(tree, &steps, path);
        }
        if profile.expands != Expansion::None {
            self.written_keys(tree);
        }
        if !profile.include_keys.is_empty() {
            self.includes(tree);
        }
    }

    /// `type: exec`, at any depth.
    fn kinds(&mut self, node: &Node) {
        let keys: BTreeSet<String> = self
            .rules
            .profile
            .component_keys
            .iter()
            .map(|key| lenient(key))
            .collect();
        self.kinds_of(node, &keys);
    }

    fn kinds_of(&mut self, node: &Node, keys: &BTreeSet<String>) {
        let named = |(key, value): &(Node, Node)| {
            let is_kind = key.text().is_some_and(|key| keys.contains(&lenient(key)));
            value
                .text()
                .filter(|_| is_kind)
                .map(|kind| kind.trim().to_owned())
        };
        for entry in node.entries() {
            if let Some(kind) = named(entry) {
                self.component(&entry.1, &kind, node);
            }
            self.kinds_of(&entry.1, keys);
        }
        for item in node.items() {
            self.kinds_of(item, keys);
        }
    }

    /// `[[inputs.exec]]`: keys of sections, and at the top, where an old config has its inputs.
    fn keyed(&mut self, tree: &Node) {
        let sections = &self.rules.profile.component_sections;
        let sections: BTreeSet<String> = sections.iter().map(|name| lenient(name)).collect();
        for (name, section) in tree.entries() {
            let word = name.text().unwrap_or_default();
            if !sections.contains(&lenient(word)) {
                self.component(name, word, section);
                continue;
            }
            for (kind, body) in section.entries() {
                let word = kind.text().unwrap_or_default();
                self.component(kind, word, body);
            }
        }
    }

    /// One component: its type, and keys of its body that are refused by `type.key`.
    fn component(&mut self, at: &Node, kind: &str, body: &Node) {
        if self.rules.profile.expands != Expansion::None && kind.contains('$') {
            self.refuse(
                at,
                "a component's type may not come from an expansion, write it out",
            );
        }
        let folded = lenient(kind);
        if self.folded.contains(&folded) {
            self.refuse(at, denial(kind.trim()));
        }
        let bodies = std::iter::once(body).chain(body.items());
        let keys: Vec<&Node> = bodies
            .flat_map(|body| body.entries().iter().map(|(key, _)| key))
            .collect();
        for key in keys {
            let word = key.text().unwrap_or_default();
            if self.folded.contains(&format!("{folded}.{}", lenient(word))) {
                self.refuse(key, denial(&format!("{}.{word}", kind.trim())));
            }
        }
    }

    /// A path of keys that is refused, through lists as well.
    fn denied_path(&mut self, node: &Node, steps: &[String], path: &str) {
        for item in node.items() {
            self.denied_path(item, steps, path);
        }
        let Some((step, rest)) = steps.split_first() else {
            return;
        };
        for (key, value) in node.entries() {
            if lenient(key.text().unwrap_or_default()) != *step {
                continue;
            }
            if rest.is_empty() {
                self.refuse(key, denial(path));
            } else {
                self.denied_path(value, rest, path);
            }
        }
    }

    /// A key that is expanded could become any other.
    fn written_keys(&mut self, node: &Node) {
        for (key, value) in node.entries() {
            if key.text().is_some_and(|key| key.contains("${")) {
                self.refuse(key, "a key may not come from an expansion, write it out");
            }
            self.written_keys(value);
        }
        for item in node.items() {
            self.written_keys(item);
        }
    }

    /// Files that a config brings in: those of the offer, which are judged too.
    fn includes(&mut self, node: &Node) {
        let keys = &self.rules.profile.include_keys;
        let keys: BTreeSet<String> = keys.iter().map(|key| lenient(key)).collect();
        self.includes_of(node, &keys);
    }

    fn includes_of(&mut self, node: &Node, keys: &BTreeSet<String>) {
        for (key, value) in node.entries() {
            if key.text().is_some_and(|key| keys.contains(&lenient(key))) {
                let named = std::iter::once(value).chain(value.items());
                let named: Vec<(&Node, &str)> = named
                    .filter_map(|node| node.text().map(|text| (node, text)))
                    .collect();
                for (at, name) in named {
                    self.include(at, name.trim());
                }
            }
            self.includes_of(value, keys);
        }
        for item in node.items() {
            self.includes_of(item, keys);
        }
    }

    fn include(&mut self, at: &Node, name: &str) {
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || name.contains('$') {
            self.refuse(
                at,
                "a config may include files of its own offer only, by their names",
            );
        } else if format_of(name, self.rules.profile).is_none() {
            self.refuse(
                at,
                "an included file is judged by its name, call it *.yaml, *.toml or *.conf",
            );
        }
    }
}

/// Judges what a program expands in the text itself, comments included: it does not know them either.
pub(super) fn expansions(file: &str, text: &str, rules: Rules<'_>) -> Vec<Error> {
    let bare = match rules.profile.expands {
        Expansion::None => return Vec::new(),
        Expansion::Braces => false,
        Expansion::Text => true,
    };
    let mut refusals = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let mut rest = line;
        while let Some(at) = rest.find('$') {
            let after = rest.get(at + 1..).unwrap_or_default();
            let column = line.len() - after.len();
            rest = after;
            if after.starts_with('$') && bare {
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
            let Some(said) = reference(after, bare, rules) else {
                continue;
            };
            let mut error = refusal(file, None, said);
            error.line = number + 1;
            error.column = line
                .get(..column)
                .map_or(column, |before| before.chars().count());
            refusals.push(error);
        }
    }
    refusals
}

/// What is wrong with the reference that begins after a `$`; none when it is fine, or no reference.
fn reference(after: &str, bare: bool, rules: Rules<'_>) -> Option<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let name = match after.strip_prefix('{') {
        Some(inside) => {
            let Some((inside, _)) = inside.split_once('}') else {
                return Some("`${` without its `}` in the same line".to_owned());
            };
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            let harmless = |c: char| c.is_ascii_alphanumeric() || "_./:@%+-".contains(c);
            if !default.chars().all(harmless) {
                return Some(
                    "a default in `${NAME:-…}` may hold letters, digits and _./:@%+- only"
                        .to_owned(),
                );
            }
            name
        }
        None if bare => {
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            match after.get(..end) {
                Some("") | None => return None,
                Some(name) => name,
            }
        }
        None => return None,
    };
    let open = &rules.policy.environment;
    let own = ["ADJUTANT_CERTIFICATES_DIR", "ADJUTANT_CONFIG_DIR"];
    if own.contains(&name)
        || open
            .iter()
            .chain(&rules.profile.environment)
            .any(|known| known == name)
    {
        return None;
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    let dollar = if bare { "; a dollar sign is `$$`" } else { "" };
    Some(format!(
        "the variable {shown:?} is not open to offers, list it under policy.environment{dollar}"
    ))
}
