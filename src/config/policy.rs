//! Judges an offered file by its parsed form: which components it names, which paths, ports and variables it
//! reaches for.
//!
//! Promises: quoting, flow style, anchors, merges and comments make no difference, because the parsed tree is
//! judged and not the text; each refusal names file, line and column; a file that is over the YAML budget is
//! refused with the budget's words.
//! Must never: change a file, read one from disk, or know a single component by name: the lists come from
//! profile and policy.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::units::order;
use crate::yaml::{Error, Node, Value};

use super::{Composition, Policy, Profile};

mod classic;
mod directory;
mod formats;
#[cfg(feature = "toml")]
mod toml;

pub use formats::{Format, format_of, read};

/// Refusals listed of one file.
const REFUSALS_MAX: usize = 20;

/// The sections of a Collector's config whose keys are component ids.
const SECTIONS: [&str; 5] = [
    "receivers",
    "processors",
    "exporters",
    "connectors",
    "extensions",
];

/// Line breaks of YAML 1.1 that YAML 1.2 reads as text: what is a comment to us would be a section to a Go program.
const ODD_BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// What a file is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The kind of program the file is for.
    pub profile: &'a Profile,
    /// What the operator wrote.
    pub policy: &'a Policy,
    /// Ports that we or another managed agent bind.
    pub reserved_ports: &'a [u16],
}

/// Judges the bytes of an offered file. A file that is no config by its name is judged only where a rule needs its
/// content.
pub fn judge_file(file: &str, body: &[u8], rules: Rules<'_>) -> Vec<Error> {
    let is_main = file == rules.profile.main_file;
    let format = match format_of(file, rules.profile) {
        Some(format) => format,
        None if is_main && !denied(rules).is_empty() => Format::Yaml,
        None => return Vec::new(),
    };
    let text = String::from_utf8_lossy(body);
    if let Some(odd) = text.chars().find(|c| ODD_BREAKS.contains(c)) {
        let code = u32::from(odd);
        let message = format!("U+{code:04X} ends a line for some readers only, remove it");
        return vec![refusal(file, None, message)];
    }
    match read(file, body, format) {
        Ok(tree) => {
            let mut refusals = judge(file, &tree, rules);
            refusals.extend(directory::expansions(file, &text, rules));
            order::sort_by(&mut refusals, |one, other| {
                (one.line, one.column).cmp(&(other.line, other.column))
            });
            refusals.truncate(REFUSALS_MAX);
            refusals
        }
        Err(error) => vec![error],
    }
}

/// Judges a parsed file.
pub fn judge(file: &str, tree: &Node, rules: Rules<'_>) -> Vec<Error> {
    let mut judge = Judge {
        file,
        rules,
        denied: denied(rules),
        folded: BTreeSet::new(),
        refusals: Vec::new(),
    };
    match rules.profile.composition {
        Composition::OtelLayers => judge.layered(tree),
        Composition::Directory => judge.directory(tree),
    }
    tree.walk(&mut |path, node| judge.value(path, node));
    order::sort_by(&mut judge.refusals, |one, other| {
        (one.line, one.column).cmp(&(other.line, other.column))
    });
    judge.refusals.dedup();
    judge.refusals.truncate(REFUSALS_MAX);
    judge.refusals
}

/// The component types that are refused: the profile's and the policy's, without those the operator allows.
fn denied(rules: Rules<'_>) -> BTreeSet<&str> {
    let allowed = &rules.policy.allowed_components;
    rules
        .profile
        .denied_components
        .iter()
        .filter(|name| !allowed.contains(name))
        .chain(&rules.policy.denied_components)
        .map(String::as_str)
        .collect()
}

fn refusal(file: &str, node: Option<&Node>, message: impl Into<String>) -> Error {
    let (line, column) = node.map_or((0, 0), |node| (node.span.line, node.span.column));
    Error {
        origin: file.to_owned(),
        line,
        column,
        message: message.into(),
    }
}

struct Judge<'a> {
    file: &'a str,
    rules: Rules<'a>,
    denied: BTreeSet<&'a str>,
    /// The same the way a lenient reader sees them.
    folded: BTreeSet<String>,
    refusals: Vec<Error>,
}

impl Judge<'_> {
    fn refuse(&mut self, node: &Node, message: impl Into<String>) {
        self.refusals.push(refusal(self.file, Some(node), message));
    }

    /// A Collector's config: component ids are keys of the five sections, also inside a component that makes others
    /// (`receiver_creator`).
    fn layered(&mut self, tree: &Node) {
        if !matches!(tree.value, Value::Map(_)) && !tree.is_null() {
            self.refuse(tree, "the config is not a map");
        }
        for (key, value) in tree.entries() {
            self.plain_key(key);
            if is_section(key) {
                self.section(value);
            }
        }
    }

    fn section(&mut self, section: &Node) {
        self.written_out(section, "a section");
        for (id, body) in section.entries() {
            self.plain_key(id);
            let kind = id
                .text()
                .unwrap_or_default()
                .split('/')
                .next()
                .unwrap_or_default()
                .trim();
            if self.denied.contains(kind) {
                self.refuse(id, denial(kind));
            }
            self.written_out(body, "a component");
            for (key, _) in body.entries() {
                self.plain_key(key);
                let name = format!("{kind}.{}", folded(key));
                if self.denied.contains(name.as_str()) {
                    self.refuse(key, denial(&name));
                }
            }
            self.nested(body);
        }
    }

    fn nested(&mut self, body: &Node) {
        for (key, value) in body.entries() {
            if is_section(key) && matches!(value.value, Value::Map(_)) {
                self.section(value);
            } else {
                self.nested(value);
            }
        }
        for item in body.items() {
            self.nested(item);
        }
    }

    /// `receivers: ${file:x}` would bring in components that nobody has judged.
    fn written_out(&mut self, node: &Node, what: &str) {
        if node.text().is_some_and(|text| text.contains("${")) {
            self.refuse(
                node,
                format!("{what} may not come from an expansion, write it out"),
            );
        }
    }

    /// The Collector reads `receivers::exec::command` as three nested keys.
    fn plain_key(&mut self, key: &Node) {
        if key.text().is_some_and(|text| text.contains("::")) {
            self.refuse(
                key,
                "a key with `::` hides what it names, write nested maps",
            );
        }
    }

    fn value(&mut self, path: &[&str], node: &Node) {
        let Some(text) = node.text() else { return };
        if self.rules.profile.composition == Composition::OtelLayers {
            for reference in references(text) {
                self.reference(node, reference);
            }
        }
        let key = path
            .iter()
            .rev()
            .find(|step| **step != "[]")
            .copied()
            .unwrap_or_default();
        if let Some(roots) = &self.rules.policy.path_roots {
            let path = text.strip_prefix("file://").unwrap_or(text);
            if names_a_path(key) && !path.is_empty() && !is_below(path, roots) {
                self.refuse(
                    node,
                    format!("the path of {key:?} lies outside the allowed roots"),
                );
            }
        }
        let binds = ["receivers", "extensions", "sources", "inputs"];
        if path.first().is_some_and(|section| binds.contains(section)) {
            self.port(key, node, text);
        }
    }

    fn reference(&mut self, node: &Node, reference: &str) {
        let name = match reference.split_once(':') {
            Some(("env", name)) => name,
            Some((_, default)) if default.starts_with('-') => reference,
            None => reference,
            Some(("file", path)) => {
                let roots = self.rules.policy.path_roots.as_deref();
                if roots.is_some_and(|roots| !is_below(path, roots)) {
                    self.refuse(node, "`${file:…}` names a path outside the allowed roots");
                }
                return;
            }
            Some((scheme @ ("http" | "https" | "yaml"), _)) => {
                let message = format!("`${{{scheme}:…}}` brings in a config that nobody judged");
                self.refuse(node, message);
                return;
            }
            // A provider of the distribution, such as a secret store: it fills a value, and sections are written out.
            Some(_) => return,
        };
        let name = name.split_once(":-").map_or(name, |(name, _)| name);
        let known = |names: &[String]| names.iter().any(|allowed| allowed == name);
        // Where the certificates lie is no secret, and a config that uses one has to say it.
        let ours = name == "ADJUTANT_CERTIFICATES_DIR";
        if !ours
            && !known(&self.rules.policy.environment)
            && !known(&self.rules.profile.environment)
        {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            self.refuse(
                node,
                format!(
                    "the variable {shown:?} is not open to offers, list it under policy.environment"
                ),
            );
        }
    }

    fn port(&mut self, key: &str, node: &Node, text: &str) {
        const ADDRESSES: [&str; 6] = [
            "endpoint",
            "listen",
            "listen_address",
            "listen_endpoint",
            "address",
            "bind_address",
        ];
        if !ADDRESSES.contains(&key) || text.contains("://") {
            return;
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let own = matches!(host, "" | "0.0.0.0" | "::" | "::1" | "localhost")
            || host.starts_with("127.")
            || host.starts_with("${");
        let Ok(port) = port.parse::<u16>() else {
            return;
        };
        if !own || port == 0 {
            return;
        }
        if self.rules.reserved_ports.contains(&port) {
            self.refuse(
                node,
                format!("port {port} is taken by this supervisor or another of its agents"),
            );
        } else if self
            .rules
            .policy
            .ports
            .as_ref()
            .is_some_and(|ports| !ports.contains(&port))
        {
            self.refuse(node, format!("port {port} is not among policy.ports"));
        }
    }
}

/// A key without case, the way `strings.EqualFold` of Go sees it: `ſ` is an `s`, the Kelvin sign a `k`.
fn folded(key: &Node) -> String {
    let text = key.text().unwrap_or_default();
    text.trim().to_uppercase().to_lowercase()
}

/// Older Collectors find their sections without case.
fn is_section(key: &Node) -> bool {
    SECTIONS.contains(&folded(key).as_str())
}

fn denial(name: &str) -> String {
    format!("{name:?} is denied, an operator can allow it under policy.allow_components")
}

/// What stands in each `${…}` of a value, the inner ones of nested ones too; `$$` is a dollar sign.
fn references(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let from = rest.get(at..).unwrap_or_default();
        if from.starts_with("$$") {
            rest = from.get(2..).unwrap_or_default();
        } else if let Some(inside) = from.strip_prefix("${") {
            let end = inside.find(['}', '$']).unwrap_or(inside.len());
            found.push(inside.get(..end).unwrap_or_default());
            rest = inside;
        } else {
            rest = from.get(1..).unwrap_or_default();
        }
    }
    found
}

/// Whether a key's value is a path on this host, by the names such keys have.
fn names_a_path(key: &str) -> bool {
    let ends = ["_file", "_dir", "_directory", "_path"];
    let whole = [
        "path",
        "file",
        "directory",
        "dir",
        "include",
        "exclude",
        "filename",
    ];
    let elsewhere = [
        "metrics_path",
        "url_path",
        "http_path",
        "traces_path",
        "logs_path",
    ];
    !elsewhere.contains(&key) && (whole.contains(&key) || ends.iter().any(|end| key.ends_with(end)))
}

fn is_below(path: &str, roots: &[PathBuf]) -> bool {
    let path = Path::new(path);
    let straight = path
        .components()
        .all(|part| !matches!(part, Component::ParentDir));
    straight && (path.is_relative() || roots.iter().any(|root| path.starts_with(root)))
}

#[cfg(test)]
mod tests;
