//! Builds nodes from a text, and is the guard that stands in front of every reader.
//!
//! Promises: at most [`Limits`] nodes, levels and bytes are ever held, aliases included, because each is
//! counted before it is copied; a map holds each key once; a plain `<<` key is resolved as the programs we run
//! resolve it (explicit keys win, then the earlier map), so nothing hides behind a merge, while a quoted `"<<"`
//! stays a key.
//! Must never: recurse over the text, or keep a byte that was not counted.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Span as Place, Tag};

use super::node::{Node, Span, Style, Value};
use super::{Error, Limits};
use crate::units::order;

/// Reads one document. An empty text is a null scalar.
///
/// # Errors
/// A text over `limits`, a second document, a key that occurs twice, a tag outside YAML's core, NUL, or no YAML at all.
pub fn parse(origin: &str, text: &str, limits: Limits) -> Result<Node, Error> {
    if text.len() > limits.bytes {
        let message = format!("{} bytes; the limit is {}", text.len(), limits.bytes);
        return Err(Error::at(origin, 0, 0, message));
    }
    if let Some(at) = text.find('\0') {
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        let line = before.matches('\n').count();
        return Err(Error::at(origin, line + 1, column + 1, "a NUL byte"));
    }
    // One level more than we allow: our own message comes first wherever the scanner has not run ahead.
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: limits.depth + 1,
        block_nesting_limit: limits.depth + 1,
    };
    let mut builder = Builder::new(origin, limits);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, place) = next.map_err(|cause| {
            let (line, column) = position(cause.marker());
            let message = if matches!(cause.kind(), ErrorKind::RecursionLimitExceeded) {
                builder.too_deep()
            } else {
                cause.kind().to_string()
            };
            Error::at(origin, line, column, message)
        })?;
        builder.take(event, &place)?;
    }
    Ok(builder.root.unwrap_or_else(|| Node {
        span: Span::default(),
        value: Value::Scalar {
            text: String::new(),
            style: Style::Plain,
        },
    }))
}

fn position(marker: &Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}

fn span(place: &Place) -> Span {
    let (line, column) = position(&place.start);
    Span {
        start: place.start.byte_offset().unwrap_or_default(),
        end: place.end.byte_offset().unwrap_or_default(),
        line,
        column,
    }
}

/// A finished node and what a copy of it would cost.
#[derive(Clone)]
struct Built {
    node: Node,
    nodes: usize,
    bytes: usize,
    height: usize,
}

/// A list or map whose end has not been seen.
struct Open {
    span: Span,
    anchor: usize,
    nodes: usize,
    bytes: usize,
    height: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map(Vec<(Node, Node)>, Option<Node>),
}

struct Builder<'o> {
    origin: &'o str,
    limits: Limits,
    /// Nodes and bytes held so far, copies kept for aliases included: `nodes <= limits.nodes`.
    nodes: usize,
    bytes: usize,
    stack: Vec<Open>,
    anchors: HashMap<usize, Built>,
    documents: usize,
    root: Option<Node>,
}

impl<'o> Builder<'o> {
    fn new(origin: &'o str, limits: Limits) -> Self {
        Self {
            origin,
            limits,
            nodes: 0,
            bytes: 0,
            stack: Vec::new(),
            anchors: HashMap::new(),
            documents: 0,
            root: None,
        }
    }

    fn too_deep(&self) -> String {
        format!("nested deeper than {} levels", self.limits.depth)
    }

    fn error(&self, span: Span, message: impl Into<String>) -> Error {
        Error::at(self.origin, span.line, span.column, message)
    }

    fn charge(&mut self, span: Span, nodes: usize, bytes: usize) -> Result<(), Error> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        let Limits {
            nodes,
            bytes,
            depth: _,
        } = self.limits;
        if self.nodes > nodes {
            let message = format!("more than {nodes} values, repeated ones counted");
            return Err(self.error(span, message));
        }
        if self.bytes > bytes.saturating_mul(2) {
            let message = format!("aliases repeat more than {bytes} bytes");
            return Err(self.error(span, message));
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, place: &Place) -> Result<(), Error> {
        let span = span(place);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.error(span, "a second document; one is allowed"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let style = self.style(span, style, tag.as_deref())?;
                let bytes = text.len();
                self.charge(span, 1, bytes)?;
                let text = text.into_owned();
                let built = Built {
                    node: Node {
                        span,
                        value: Value::Scalar { text, style },
                    },
                    nodes: 1,
                    bytes,
                    height: 0,
                };
                self.finish(built, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(
                span,
                anchor,
                tag.as_deref(),
                "seq",
                Inside::List(Vec::new()),
            ),
            Event::MappingStart(_, anchor, tag) => {
                let inside = Inside::Map(Vec::new(), None);
                self.open(span, anchor, tag.as_deref(), "map", inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.end),
            Event::Alias(id) => {
                let (nodes, bytes, height) = self
                    .anchors
                    .get(&id)
                    .map(|built| (built.nodes, built.bytes, built.height))
                    .ok_or_else(|| self.error(span, "an alias inside its own anchor"))?;
                if self.stack.len() + height > self.limits.depth {
                    return Err(self.error(span, self.too_deep()));
                }
                // Counted before the copy is made: the bomb goes off in arithmetic, not in memory.
                self.charge(span, nodes, bytes)?;
                let copy = self.anchors.get(&id).cloned();
                copy.map_or(Ok(()), |built| self.finish(built, 0))
            }
            // The other events carry no node; unresolved aliases and anchor names are off by our options.
            _ => Ok(()),
        }
    }

    fn style(&self, span: Span, style: ScalarStyle, tag: Option<&Tag>) -> Result<Style, Error> {
        match tag.map(|tag| (tag, tag.core_suffix())) {
            None => Ok(match style {
                ScalarStyle::Plain => Style::Plain,
                ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
            }),
            Some((_, Some("str"))) => Ok(Style::Quoted),
            Some((_, Some("int" | "float" | "bool" | "null"))) => Ok(Style::Plain),
            Some((tag, _)) => Err(self.unknown_tag(span, tag)),
        }
    }

    fn unknown_tag(&self, span: Span, tag: &Tag) -> Error {
        let tag: String = tag.original().chars().take(64).collect();
        self.error(span, format!("the tag {tag:?} is not supported"))
    }

    fn open(
        &mut self,
        span: Span,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        inside: Inside,
    ) -> Result<(), Error> {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(core)) {
            return Err(self.unknown_tag(span, tag));
        }
        if self.stack.len() >= self.limits.depth {
            return Err(self.error(span, self.too_deep()));
        }
        self.charge(span, 1, 0)?;
        self.stack.push(Open {
            span,
            anchor,
            nodes: 1,
            bytes: 0,
            height: 1,
            inside,
        });
        Ok(())
    }

    fn close(&mut self, end: usize) -> Result<(), Error> {
        let Some(open) = self.stack.pop() else {
            return Ok(());
        };
        let value = match open.inside {
            Inside::List(items) => Value::List(items),
            Inside::Map(entries, _) => Value::Map(self.settle(entries)?),
        };
        let span = Span {
            end: end.max(open.span.start),
            ..open.span
        };
        let built = Built {
            node: Node { span, value },
            nodes: open.nodes,
            bytes: open.bytes,
            height: open.height,
        };
        self.finish(built, open.anchor)
    }

    /// Puts a finished node where it belongs, and keeps a counted copy when it has an anchor.
    fn finish(&mut self, built: Built, anchor: usize) -> Result<(), Error> {
        if anchor != 0 {
            self.charge(built.node.span, built.nodes, built.bytes)?;
            self.anchors.insert(anchor, built.clone());
        }
        let Built {
            node,
            nodes,
            bytes,
            height,
        } = built;
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.nodes += nodes;
        open.bytes += bytes;
        open.height = open.height.max(height + 1);
        match &mut open.inside {
            Inside::List(items) => items.push(node),
            Inside::Map(entries, key) => match key.take() {
                Some(key) => entries.push((key, node)),
                None if node.text().is_some() => *key = Some(node),
                None => {
                    let span = node.span;
                    return Err(self.error(span, "a list or map as a key"));
                }
            },
        }
        Ok(())
    }

    /// Refuses a key that occurs twice, then resolves `<<`.
    fn settle(&self, entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, Error> {
        let mut keys: Vec<&Node> = entries.iter().map(|(key, _)| key).collect();
        order::sort_by(&mut keys, |one, other| {
            (one.text(), one.span.start).cmp(&(other.text(), other.span.start))
        });
        for (first, second) in keys.iter().zip(keys.iter().skip(1)) {
            if first.text() == second.text() {
                let name: String = second.text().unwrap_or_default().chars().take(64).collect();
                let message = format!(
                    "the key {name:?} occurs twice, first at {}:{}",
                    first.span.line, first.span.column
                );
                return Err(self.error(second.span, message));
            }
        }
        let is_merge = |key: &Node| matches!(&key.value, Value::Scalar { text, style: Style::Plain } if text == "<<");
        let Some(at) = entries.iter().position(|(key, _)| is_merge(key)) else {
            return Ok(entries);
        };
        let mut entries = entries;
        let (_, merged) = entries.remove(at);
        let place = merged.span;
        let sources = match merged.value {
            Value::Map(source) => vec![source],
            Value::List(items) => items
                .into_iter()
                .map(|item| match item.value {
                    Value::Map(source) => Ok(source),
                    Value::Scalar { .. } | Value::List(_) => Err(()),
                })
                .collect::<Result<_, ()>>()
                .map_err(|()| self.error(place, MERGE))?,
            Value::Scalar { .. } => return Err(self.error(place, MERGE)),
        };
        let mut known: std::collections::HashSet<String> = entries
            .iter()
            .filter_map(|(key, _)| key.text().map(str::to_owned))
            .collect();
        for (key, value) in sources.into_iter().flatten() {
            if known.insert(key.text().unwrap_or_default().to_owned()) {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }
}

const MERGE: &str = "`<<` takes a map or a list of maps";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        parse("f", text, Limits::SETTINGS).unwrap()
    }

    fn refused(text: &str) -> String {
        parse("f", text, Limits::SETTINGS).unwrap_err().to_string()
    }

    #[test]
    fn nodes_know_their_bytes() {
        let text =
            "a: plain text  # note\nb: 'quo ted'\nc: |\n  one\n  two\nd: [x, \"y\"]\ne: é\nf: g\n";
        let tree = read(text);
        let slice = |path: &[&str]| {
            let span = tree.at(path).unwrap().span;
            &text[span.start..span.end]
        };
        assert_eq!(slice(&["a"]), "plain text");
        assert_eq!(slice(&["b"]), "'quo ted'");
        assert_eq!(slice(&["c"]), "one\n  two\n");
        assert_eq!(slice(&["d"]), "[x, \"y\"]");
        assert_eq!(slice(&["e"]), "é");
        assert_eq!(slice(&["f"]), "g");
        let span = tree.get("d").unwrap().items()[1].span;
        assert_eq!((span.line, span.column), (6, 8));
        assert_eq!(tree.get("c").unwrap().text(), Some("one\ntwo\n"));
    }

    #[test]
    fn files_of_other_editors_read_the_same() {
        let tree = read("\u{feff}a: 1\r\nb: |\r\n  x\r\n  y\r\nc: 2\r\n");
        let text = |key: &str| tree.get(key).and_then(Node::text);
        assert_eq!(text("a"), Some("1"));
        assert_eq!(text("b"), Some("x\ny\n"));
        let span = tree.get("c").unwrap().span;
        assert_eq!((span.line, span.column), (5, 4));
    }

    #[test]
    fn scalars_keep_text_and_style() {
        let tree =
            read("a: yes\nb: 'yes'\nc: !!str 5\nd: !!int \"5\"\ne:\nf: ~\ng: '~'\nh: >\n  x\n");
        let style = |key: &str| match &tree.get(key).unwrap().value {
            Value::Scalar { style, .. } => *style,
            other => panic!("{other:?}"),
        };
        assert_eq!(style("a"), Style::Plain);
        assert_eq!(style("b"), Style::Quoted);
        assert_eq!(style("c"), Style::Quoted);
        assert_eq!(style("d"), Style::Plain);
        assert_eq!(style("h"), Style::Block);
        let null = |key: &str| tree.get(key).unwrap().is_null();
        assert_eq!(
            [null("e"), null("f"), null("g"), null("a")],
            [true, true, false, false]
        );
        assert!(read("").is_null());
        assert!(read("# only a comment\n").is_null());
    }

    #[test]
    fn aliases_are_copied_and_merges_resolved() {
        let tree = read(
            "b: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}\nd: *b\ne: {<<: [{y: 9}, *b]}\nf: {\"<<\": *b}\n",
        );
        let at = |path: &[&str]| tree.at(path).and_then(Node::text);
        assert_eq!(at(&["c", "x"]), Some("1"));
        assert_eq!(at(&["c", "y"]), Some("3"));
        assert_eq!(at(&["d", "y"]), Some("2"));
        assert_eq!(at(&["e", "y"]), Some("9"));
        assert_eq!(at(&["e", "x"]), Some("1"));
        assert_eq!(at(&["f", "<<", "x"]), Some("1"));
        assert!(tree.at(&["c", "<<"]).is_none());
    }

    #[test]
    fn refusals_name_the_place() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let cases: [(&str, &str); 14] = [
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: the key \"a\" occurs twice, first at 1:1",
            ),
            (
                "{a: 1, 'a': 2}",
                "f:1:8: the key \"a\" occurs twice, first at 1:2",
            ),
            (
                "a: 1\n---\nb: 2\n",
                "f:2:1: a second document; one is allowed",
            ),
            ("a: !exec ls", "f:1:10: the tag \"!exec\" is not supported"),
            (
                "a: !!binary aGk=",
                "f:1:13: the tag \"!!binary\" is not supported",
            ),
            ("a: !x {b: 1}", "f:1:7: the tag \"!x\" is not supported"),
            ("a: 1\nbé: \0\n", "f:2:5: a NUL byte"),
            ("{[a]: 1}", "f:1:2: a list or map as a key"),
            ("a: &a [*a]", "f:1:8: an alias inside its own anchor"),
            (
                "a: *nowhere",
                "f:1:4: while parsing node, found unknown anchor",
            ),
            ("a: {<<: 1}", "f:1:9: `<<` takes a map or a list of maps"),
            ("a: {<<: [1]}", "f:1:9: `<<` takes a map or a list of maps"),
            ("a: [1, 2", "f:1:4: unclosed bracket '['"),
            (&deep, "f:1:65: nested deeper than 64 levels"),
        ];
        for (text, wanted) in cases {
            let error = refused(text);
            assert!(error.starts_with(wanted), "{text}: {error}");
        }
        let level = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(parse("f", &level, Limits::SETTINGS).is_ok());
    }

    #[test]
    fn aliases_count_before_they_are_copied() {
        let small = Limits {
            bytes: 100,
            depth: 4,
            nodes: 20,
        };
        let refused = |text: &str| parse("f", text, small).unwrap_err().message;
        assert_eq!(
            refused("a: &a [1,1,1,1]\nb: [*a,*a,*a]\n"),
            "more than 20 values, repeated ones counted"
        );
        let long = format!("a: &a {}\nb: [*a, *a]\n", "x".repeat(75));
        assert_eq!(refused(&long), "aliases repeat more than 100 bytes");
        assert_eq!(
            refused("a: &a [[1]]\nb: [[[*a]]]\n"),
            "nested deeper than 4 levels"
        );
        assert_eq!(refused(&"x".repeat(101)), "101 bytes; the limit is 100");
    }

    #[test]
    fn walks_every_scalar_with_its_path() {
        let tree = read("a: {b: [1, {c: 2}]}\nd: 3\n");
        let mut seen = Vec::new();
        tree.walk(&mut |path, node| {
            seen.push(format!("{}={}", path.join("."), node.text().unwrap()));
        });
        assert_eq!(seen, ["a.b.[]=1", "a.b.[].c=2", "d=3"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_spans_stay_inside(text in "[ a-c:\\-\\[\\]{}&*<|>'\"#\n,!é?%~]{0,80}") {
            if let Ok(tree) = parse("f", &text, Limits::SETTINGS) {
                tree.walk(&mut |_, node| {
                    assert!(text.get(node.span.start..node.span.end).is_some(), "{:?}", node.span);
                });
            }
        }
    }
}
