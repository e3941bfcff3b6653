//! TOML as the tree that rules walk.
//!
//! Promises: the same bounds as for YAML; every node knows its line; a duplicate key is an error.
//! Must never: accept what is no TOML: what another reader would make of it is nobody's guess.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::formats::Lines;
use crate::yaml::{Error, Limits, Node, Style, Value};

/// Reads a text that is inside the bound on bytes; depth is bounded by the reader.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, Error> {
    let lines = Lines::new(text);
    let failed = |start: usize, message: String| {
        let span = lines.span(start, start);
        Error {
            origin: file.to_owned(),
            line: span.line,
            column: span.column,
            message,
        }
    };
    let table = DeTable::parse(text).map_err(|cause| {
        let start = cause.span().map_or(0, |span| span.start);
        let told = cause.message().chars().filter(|c| !c.is_control());
        failed(start, told.take(300).collect())
    })?;
    let mut left = Limits::OFFERED.nodes;
    let span = table.span();
    let entries = entries(table.into_inner(), &lines, &mut left);
    if left == 0 {
        let message = format!("more than {} values", Limits::OFFERED.nodes);
        return Err(failed(0, message));
    }
    Ok(Node {
        span: lines.span(span.start, span.end),
        value: Value::Map(entries),
    })
}

fn entries(table: DeTable<'_>, lines: &Lines<'_>, left: &mut usize) -> Vec<(Node, Node)> {
    let mut entries = Vec::new();
    for (key, value) in table {
        if *left == 0 {
            break;
        }
        let span = key.span();
        let name = Node {
            span: lines.span(span.start, span.end),
            value: Value::Scalar {
                text: key.into_inner().into_owned(),
                style: Style::Quoted,
            },
        };
        entries.push((name, node(value, lines, left)));
    }
    entries
}

fn node(value: Spanned<DeValue<'_>>, lines: &Lines<'_>, left: &mut usize) -> Node {
    *left = left.saturating_sub(1);
    let span = value.span();
    let plain = |text: &str| Value::Scalar {
        text: text.to_owned(),
        style: Style::Plain,
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Scalar {
            text: text.into_owned(),
            style: Style::Quoted,
        },
        DeValue::Integer(number) => plain(number.as_str()),
        DeValue::Float(number) => plain(number.as_str()),
        DeValue::Boolean(flag) => plain(if flag { "true" } else { "false" }),
        DeValue::Datetime(moment) => plain(&moment.to_string()),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| node(item, lines, left));
            Value::List(items.collect())
        }
        DeValue::Table(table) => Value::Map(entries(table, lines, left)),
    };
    Node {
        span: lines.span(span.start, span.end),
        value,
    }
}
