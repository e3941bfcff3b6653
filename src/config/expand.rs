//! Puts environment values and files in place of `${…}`, on parsed values only, so that the environment cannot
//! write YAML in our own form.
//!
//! Promises: keys are never touched; an expanded value keeps its place in the text, so errors point at what the
//! user wrote. The `agent:` form follows the Collector's confmap: unset is empty with a warning, and a value
//! that is nothing but one `${…}` takes the type of what it expands to. Ours is strict: unset without a default
//! is an error.
//! Must never: expand the result again.

use crate::yaml::{self, Limits, Node, Span, Style, Value};

use super::read::Reader;
use super::{Environment, Form};

/// Bytes one expansion may bring in: a token or a certificate, not a book.
const EXPANDED_BYTES_MAX: usize = 64 * 1024;

/// Expands every scalar value below `node`.
pub(super) fn expand(node: &mut Node, reader: &mut Reader<'_>) {
    let mut path = Vec::new();
    descend(node, reader, &mut path);
}

fn descend(node: &mut Node, reader: &mut Reader<'_>, path: &mut Vec<String>) {
    match &mut node.value {
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                path.push(format!("[{i}]"));
                descend(item, reader, path);
                path.pop();
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                path.push(key.text().unwrap_or_default().to_owned());
                descend(value, reader, path);
                path.pop();
            }
        }
        Value::Scalar { text, style } if text.contains('$') => {
            let quoted = *style != Style::Plain;
            match pieces(text, reader) {
                Ok(pieces) => put(node, &pieces, quoted, reader.form),
                Err(message) => reader.errors.push(yaml::Error {
                    origin: reader.origin.clone(),
                    line: node.span.line,
                    column: node.span.column,
                    message: format!("{}: {message}", path.join(".").replace(".[", "[")),
                }),
            }
        }
        Value::Scalar { .. } => {}
    }
}

/// A stretch of a value.
enum Piece {
    Literal(String),
    Expanded(String),
}

fn put(node: &mut Node, pieces: &[Piece], quoted: bool, form: Option<Form>) {
    if let ([Piece::Expanded(text)], true) = (pieces, Form::is_theirs(form))
        && let Ok(mut typed) = yaml::parse("", text, Limits::SETTINGS)
    {
        stamp(&mut typed, node.span);
        node.value = typed.value;
        return;
    }
    let expanded = pieces
        .iter()
        .any(|piece| matches!(piece, Piece::Expanded(_)));
    let text = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Literal(text) | Piece::Expanded(text) => text.as_str(),
        })
        .collect();
    let style = match form {
        _ if expanded && Form::is_theirs(form) => Style::Plain,
        _ if quoted => Style::Quoted,
        _ => Style::Plain,
    };
    node.value = Value::Scalar { text, style };
}

fn stamp(node: &mut Node, span: Span) {
    node.span = span;
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(|item| stamp(item, span)),
        Value::Map(entries) => {
            for (key, value) in entries {
                stamp(key, span);
                stamp(value, span);
            }
        }
    }
}

fn pieces(text: &str, reader: &mut Reader<'_>) -> Result<Vec<Piece>, String> {
    let confmap = Form::is_theirs(reader.form);
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        if from.starts_with("$${") || (confmap && from.starts_with("$$")) {
            literal.push('$');
            rest = from.get(2..).unwrap_or_default();
        } else if let Some(inside) = from.strip_prefix("${") {
            let Some((name, after)) = inside.split_once('}') else {
                return Err(
                    "`${` without `}`, write `$${` for the characters themselves".to_owned(),
                );
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Expanded(lookup(name, confmap, reader)?));
            rest = after;
        } else {
            literal.push('$');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn lookup(reference: &str, confmap: bool, reader: &mut Reader<'_>) -> Result<String, String> {
    let name = match reference.split_once(':') {
        Some(("file", path)) => return read_file(path, confmap, reader.env),
        Some(("env", name)) => name,
        Some((name, default)) if confmap && default.starts_with('-') && is_name(name) => reference,
        None if confmap => reference,
        _ => {
            return Err(format!(
                "`${{{reference}}}` is not expanded, write ${{env:NAME}}, ${{env:NAME:-default}} or ${{file:/path}}, \
                 and `$${{` for the characters themselves"
            ));
        }
    };
    let (name, default) = match name.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (name, None),
    };
    if !is_name(name) {
        return Err(format!("{name:?} is not the name of a variable"));
    }
    match (reader.env.var(name), default) {
        (Some(value), _) if value.len() > EXPANDED_BYTES_MAX => Err(format!(
            "the variable {name} holds more than {EXPANDED_BYTES_MAX} bytes"
        )),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) if confmap => {
            let warning = format!(
                "{}: the variable {name} is not set, read as empty",
                reader.origin
            );
            if !reader.warnings.contains(&warning) {
                reader.warnings.push(warning);
            }
            Ok(String::new())
        }
        (None, None) => Err(format!(
            "the variable {name} is not set, set it or write ${{env:{name}:-default}}"
        )),
    }
}

fn is_name(name: &str) -> bool {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.chars().next().is_some_and(start) && name.chars().all(|c| start(c) || c.is_ascii_digit())
}

fn read_file(path: &str, confmap: bool, env: &dyn Environment) -> Result<String, String> {
    let form = if confmap { Form::Agent } else { Form::Agents };
    let resolved = super::value::resolve(Some(form), &env.working_directory(), path)?;
    let shown = resolved.display();
    let text = env
        .file(&resolved.to_string_lossy())
        .map_err(|cause| format!("read {shown}: {cause}"))?;
    if text.len() > EXPANDED_BYTES_MAX {
        return Err(format!(
            "{shown} holds more than {EXPANDED_BYTES_MAX} bytes"
        ));
    }
    // Editors and `echo` end a file with a line break that no header or token has.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
