//! Single values of the settings: how bounds are printed and checked, and what a scalar may be.
//!
//! Promises: a bare number passes only where a number belongs, a quoted `"true"` is a text.
//! Must never: know a key.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::yaml::{Node, Style, Value};

use super::Form;

/// Prints bounds the way the values are written.
pub(super) fn between<T>(range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> String {
    format!("{} to {}", show(range.start()), show(range.end()))
}

/// Prints a size the way `parse_size` reads it.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit, scale) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    format!("{bytes}B")
}

/// Passes a value on when it is inside its bounds.
pub(super) fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    bounds: &str,
) -> Result<T, String> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("out of bounds, write {bounds}"))
    }
}

/// The text of a single value.
pub(super) fn scalar(node: &Node) -> Result<&str, String> {
    node.text()
        .ok_or_else(|| "one value belongs here, not a list or map".to_owned())
}

/// The text of a value without quotes.
pub(super) fn plain(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar {
            text,
            style: Style::Plain,
        } => Some(text),
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
    }
}

/// A path by the rules of the form.
pub(super) fn resolve(
    form: Option<Form>,
    base: &std::path::Path,
    text: &str,
) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path belongs here".to_owned());
    }
    let path = PathBuf::from(text);
    match form {
        Some(Form::Agent) => Ok(base.join(path)),
        _ if path.is_absolute() => Ok(path),
        _ => Err("not an absolute path, begin it with `/`".to_owned()),
    }
}
