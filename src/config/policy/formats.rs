//! Which offered files are configs, and how each is read into a tree that rules can walk.
//!
//! Promises: a file is read by what its name says it holds, as the program would; every reader has the bounds of the
//! YAML door; a format that this build cannot read is an error, not a pass.
//! Must never: judge.

use std::path::Path;

use super::{Composition, Profile};
use crate::config::ConfFiles;
use crate::yaml::{self, Error, Limits, Node, Span};

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML, and JSON, which is YAML.
    Yaml,
    /// TOML.
    Toml,
    /// The classic mode of Fluent Bit.
    Classic,
}

/// What a file holds, by its name and the profile; none when it is no config.
pub fn format_of(file: &str, profile: &Profile) -> Option<Format> {
    if profile.composition == Composition::OtelLayers {
        return Some(Format::Yaml);
    }
    let extension = Path::new(file).extension().and_then(|part| part.to_str());
    match (
        extension.map(str::to_ascii_lowercase).as_deref(),
        profile.conf_files,
    ) {
        (Some("yaml" | "yml" | "json"), _) => Some(Format::Yaml),
        (Some("toml"), _) | (Some("conf"), ConfFiles::Toml) => Some(Format::Toml),
        (Some("conf"), ConfFiles::Classic) => Some(Format::Classic),
        _ => None,
    }
}

/// Reads a file.
///
/// # Errors
/// A text over the bounds of an offered file, or not what it should be.
pub fn read(file: &str, body: &[u8], format: Format) -> Result<Node, Error> {
    let error = |message: String| Error {
        origin: file.to_owned(),
        line: 0,
        column: 0,
        message,
    };
    let text = std::str::from_utf8(body).map_err(|_| error("not UTF-8 text".to_owned()))?;
    let limit = Limits::OFFERED.bytes;
    if format != Format::Yaml && text.len() > limit {
        return Err(error(format!("{} bytes; the limit is {limit}", text.len())));
    }
    if format != Format::Yaml && text.contains('\0') {
        return Err(error("a NUL byte".to_owned()));
    }
    match format {
        Format::Yaml => yaml::parse(file, text, Limits::OFFERED),
        Format::Toml => toml(file, text),
        Format::Classic => super::classic::parse(file, text),
    }
}

#[cfg(feature = "toml")]
fn toml(file: &str, text: &str) -> Result<Node, Error> {
    super::toml::parse(file, text)
}

#[cfg(not(feature = "toml"))]
fn toml(file: &str, _: &str) -> Result<Node, Error> {
    Err(Error {
        origin: file.to_owned(),
        line: 0,
        column: 0,
        message: "this build reads no TOML (feature `toml`), so nobody could judge it".to_owned(),
    })
}

/// Where bytes of a text stand.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(breaks).collect();
        Self { text, starts }
    }

    /// The span of these bytes.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let line = self.starts.partition_point(|at| *at <= start);
        let from = line
            .checked_sub(1)
            .and_then(|at| self.starts.get(at))
            .copied();
        let before = self.text.get(from.unwrap_or(0)..start).unwrap_or_default();
        Span {
            start,
            end,
            line,
            column: before.chars().count() + 1,
        }
    }
}
