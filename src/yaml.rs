//! The guarded YAML door: every YAML text, ours or a server's, is read here and nowhere else.
//!
//! Promises: size, depth, node count, alias growth and document count are bounded before anything is built;
//! duplicate keys, unknown tags and NUL are errors; every error has a place and none quotes a value. One guard
//! ([`parse`]) stands in front of both ways in, so what is refused as an offered file is refused as settings
//! too.
//! Must never: write YAML (offered files are kept byte for byte), read a file, or let a foreign type into its
//! signatures.
//! These files are the only ones that name the YAML crates.

mod guard;
mod node;
mod redact;
mod suggest;

use serde::de::DeserializeOwned;
use serde_yaml::{DefaultMessageFormatter, Error as Cause, MessageFormatter};

pub use guard::parse;
use node::Prefer;
pub use node::{Node, Span, Style, Value};
pub use redact::{REDACTED, is_secret_path, redact, redact_lines};
pub use suggest::nearest;

/// Bounds of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the text. Aliases may repeat at most as many bytes again.
    pub bytes: usize,
    /// Lists and maps inside each other.
    pub depth: usize,
    /// Scalars, lists and maps, counted after aliases are expanded.
    pub nodes: usize,
}

impl Limits {
    /// Bounds of settings, profiles and everything else that [`from_str`] reads.
    pub const SETTINGS: Self = Self {
        bytes: 1024 * 1024,
        depth: 64,
        nodes: 20_000,
    };

    /// Bounds of a file that a server offers: larger, because lists of targets and hosts are.
    pub const OFFERED: Self = Self {
        bytes: 4 * 1024 * 1024,
        depth: 64,
        nodes: 100_000,
    };
}

/// A text that is not the YAML that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What the text is: a path, or the name of an offered file.
    pub origin: String,
    /// Line, counted from 1; 0 when the error has no place.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the error has no place.
    pub column: usize,
    /// What is wrong, with the key path where there is one. Quotes keys, never values.
    pub message: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.origin, self.message)
        } else {
            let Self {
                origin,
                line,
                column,
                message,
            } = self;
            write!(f, "{origin}:{line}:{column}: {message}")
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    fn at(origin: &str, line: usize, column: usize, message: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            line,
            column,
            message: message.into(),
        }
    }
}

/// Reads `text` into `T`. `origin` names the text in errors.
///
/// # Errors
/// A text over [`Limits::SETTINGS`], not YAML, or not a `T`; the error names the key path where it can.
pub fn from_str<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T, Error> {
    let tree = parse(origin, text, Limits::SETTINGS)?;
    serde_yaml::from_str_with_options(text, options()).map_err(|cause| place(origin, &tree, &cause))
}

/// The typed reader's own limits. The guard has already refused everything beyond them; they stay as the second wall.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_reader_input_bytes: Some(Limits::SETTINGS.bytes),
            flow_nesting_limit: Limits::SETTINGS.depth,
            max_depth: Limits::SETTINGS.depth,
            max_nodes: Limits::SETTINGS.nodes,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_documents: 1,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: 2 * Limits::SETTINGS.bytes,
        },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn place(origin: &str, tree: &Node, cause: &Cause) -> Error {
    let cause = cause.without_snippet();
    let number = |n: u64| usize::try_from(n).unwrap_or(0);
    let (line, column) = cause.location().map_or((0, 0), |location| {
        (number(location.line()), number(location.column()))
    });
    let what = describe(cause);
    let prefer = match cause {
        Cause::SerdeUnknownField { .. } => Prefer::Key,
        _ => Prefer::Value,
    };
    let message = match tree.path_at(line, column, prefer) {
        Some(path) if !path.is_empty() => format!("{path}: {what}"),
        _ => what,
    };
    Error::at(origin, line, column, message)
}

/// Says what is wrong without quoting a value: serde's own texts for a wrong type carry it.
fn describe(cause: &Cause) -> String {
    match cause {
        Cause::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Cause::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => format!("{} where {expected} belongs", kind_of(unexpected)),
        Cause::SerdeUnknownField {
            field, expected, ..
        } => match nearest(field, expected.iter().copied()) {
            Some(near) => format!("unknown key, did you mean {near:?}?"),
            None if expected.is_empty() => "unknown key, none is known here".to_owned(),
            None => format!("unknown key, known here: {}", expected.join(", ")),
        },
        Cause::SerdeMissingField { field, .. } => format!("the key {field:?} is missing"),
        Cause::AliasError { error, .. } => describe(error),
        other => DefaultMessageFormatter
            .format_message(other)
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect(),
    }
}

/// `string "hunter2"` becomes `string`: the value may be a secret in the wrong place.
fn kind_of(unexpected: &str) -> &str {
    unexpected
        .split(['"', '`'])
        .next()
        .unwrap_or(unexpected)
        .trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Upload {
        endpoint: String,
        #[serde(default)]
        retries: u32,
        #[serde(default)]
        gzip: bool,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        uploads: std::collections::BTreeMap<String, Upload>,
    }

    #[test]
    fn reads_what_it_should() {
        let read: Settings = from_str(
            "f.yaml",
            "uploads:\n  vm: {endpoint: http://x, retries: 3, gzip: true}\n",
        )
        .unwrap();
        let upload = read.uploads.get("vm").unwrap();
        assert_eq!(upload.retries, 3);
        assert_eq!(upload.endpoint, "http://x");
    }

    #[test]
    fn errors_name_file_place_and_key_and_never_the_value() {
        let cases = [
            (
                "uploads:\n  vm:\n    endpoint: x\n    retrys: 3\n",
                "f.yaml:4:5: uploads.vm.retrys: unknown key, did you mean \"retries\"?",
            ),
            (
                "uploads:\n  vm:\n    endpoint: x\n    zzz: 3\n",
                "f.yaml:4:5: uploads.vm.zzz: unknown key, known here: endpoint, retries, gzip",
            ),
            (
                "uploads:\n  vm:\n    retries: 3\n",
                "f.yaml:3:5: uploads.vm: the key \"endpoint\" is missing",
            ),
            ("uploads:\n  vm: hunter2\n", "f.yaml:2:7: uploads.vm: "),
            (
                "uploads:\n  vm:\n    endpoint: x\n    retries: hunter2\n",
                "f.yaml:4:14: uploads.vm.retries: ",
            ),
            (
                "uploads:\n  vm: {endpoint: x, gzip: yes}\n",
                "f.yaml:2:27: uploads.vm.gzip: ",
            ),
            (
                "uploads: {a: 1, a: 2}\n",
                "f.yaml:1:17: the key \"a\" occurs twice, first at 1:11",
            ),
            ("uploads: [\n", "f.yaml:1:10: unclosed bracket '['"),
        ];
        for (text, wanted) in cases {
            let error = from_str::<Settings>("f.yaml", text)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(wanted),
                "{text}\n  got    {error}\n  wanted {wanted}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn both_ways_in_share_one_guard() {
        for text in ["a: &x 1\n---\nb: 2\n", "a: !exec ls\n", "a: \0\n"] {
            let typed = from_str::<Settings>("f", text).unwrap_err();
            let judged = parse("f", text, Limits::SETTINGS).unwrap_err();
            assert_eq!(typed, judged);
        }
    }
}
