//! Fluent Bit's classic mode as the tree that rules walk: `[SECTION]`, lines of a key and a value, `@` commands.
//!
//! A section becomes a map in the list under its name in lower case; a command becomes an entry at the top, under its
//! name with the `@`. Indentation makes no difference here: whatever section an entry is taken for, it is judged.
//! Promises: no line is left out but comments and empty ones; the bounds of an offered file.
//! Must never: resolve an include or a variable.

use super::formats::Lines;
use crate::yaml::{Error, Limits, Node, Style, Value};

/// Reads a text that is inside the bound on bytes.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, Error> {
    let lines = Lines::new(text);
    let scalar = |part: &str| {
        let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        Node {
            span: lines.span(start, start + part.len()),
            value: Value::Scalar {
                text: part.to_owned(),
                style: Style::Quoted,
            },
        }
    };
    let mut top: Vec<(Node, Node)> = Vec::new();
    let mut open: Option<usize> = None;
    let mut count = 0usize;
    for line in text.split('\n') {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        count += 1;
        if count > Limits::OFFERED.nodes / 3 {
            let message = format!("more than {} lines", Limits::OFFERED.nodes / 3);
            return Err(fault(file, &scalar(line), message));
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| {
                fault(
                    file,
                    &scalar(line),
                    "a section's name ends with `]`".to_owned(),
                )
            })?;
            open = Some(section(&mut top, scalar(name.trim())));
            continue;
        }
        let (key, value) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(key, value)| (key, value.trim()));
        let entry = (scalar(key), scalar(value));
        if key.starts_with('@') {
            top.push(entry);
            continue;
        }
        let Some(entries) = open
            .and_then(|at| top.get_mut(at))
            .and_then(|(_, list)| last_map(list))
        else {
            let message = "an entry before the first section".to_owned();
            return Err(fault(file, &scalar(line), message));
        };
        entries.push(entry);
    }
    Ok(Node {
        span: lines.span(0, text.len()),
        value: Value::Map(top),
    })
}

fn fault(file: &str, at: &Node, message: String) -> Error {
    Error {
        origin: file.to_owned(),
        line: at.span.line,
        column: at.span.column,
        message,
    }
}

/// Opens a section, and says where the list of its name is.
fn section(top: &mut Vec<(Node, Node)>, mut name: Node) -> usize {
    if let Value::Scalar { text, .. } = &mut name.value {
        *text = text.to_lowercase();
    }
    let new = Node {
        span: name.span,
        value: Value::Map(Vec::new()),
    };
    let known = top.iter().position(|(known, list)| {
        known.text() == name.text() && matches!(list.value, Value::List(_))
    });
    if let Some(at) = known {
        if let Some((_, list)) = top.get_mut(at)
            && let Value::List(items) = &mut list.value
        {
            items.push(new);
        }
        return at;
    }
    let list = Node {
        span: name.span,
        value: Value::List(vec![new]),
    };
    top.push((name, list));
    top.len() - 1
}

fn last_map(list: &mut Node) -> Option<&mut Vec<(Node, Node)>> {
    let Value::List(items) = &mut list.value else {
        return None;
    };
    match items.last_mut() {
        Some(Node {
            value: Value::Map(entries),
            ..
        }) => Some(entries),
        _ => None,
    }
}
