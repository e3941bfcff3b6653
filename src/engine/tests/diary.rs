//! A text of what a machine does: calls with what came of them, and which words of its state changed.
//!
//! Promises: nothing is left out, so a text that stays the same is a machine that does the same. A text is compared
//! whole with a file beside the test; one that differs is printed whole, to be read and, where it is better, taken
//! over.

use crate::units::OfferHash;

/// Bytes of a text that is not repeated.
const LONG: usize = 60;

#[derive(Default)]
pub(super) struct Diary {
    text: String,
    /// The state as it was told last, field by field.
    shown: Vec<(String, String)>,
    /// Long texts that stand in it already; where one comes again, its number is enough.
    long: Vec<String>,
}

impl Diary {
    /// What the test does next.
    pub(super) fn chapter(&mut self, title: &str) {
        self.line(&format!("\n## {title}"));
    }

    pub(super) fn line(&mut self, text: &str) {
        let mut rest = text;
        while let Some((before, quoted, after)) = first_quoted(rest) {
            self.text.push_str(before);
            if quoted.len() < LONG {
                self.text.push_str(quoted);
            } else if let Some(known) = self.long.iter().position(|long| long == quoted) {
                self.text.push_str("\"…\" #");
                self.text.push_str(&known.to_string());
            } else {
                self.text.push_str(quoted);
                self.text.push_str(" #");
                self.text.push_str(&self.long.len().to_string());
                self.long.push(quoted.to_owned());
            }
            rest = after;
        }
        self.text.push_str(rest);
        self.text.push('\n');
    }

    /// What of the state is other than it was.
    pub(super) fn news(&mut self, state: Vec<(String, String)>) -> Vec<String> {
        let news = state.iter().filter(|field| !self.shown.contains(field));
        let news = news
            .map(|(name, value)| format!("= {name}: {value}"))
            .collect();
        self.shown = state;
        news
    }

    /// A call, what came of it, and what of the state is other than it was.
    pub(super) fn call(&mut self, what: &str, state: Vec<(String, String)>) {
        let mut lines = vec![readable(what)];
        lines.extend(self.news(state));
        self.line(&lines.join("\n    "));
    }

    /// What was written so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Compares with the text of a file.
    #[track_caller]
    pub(super) fn is(&self, name: &str, wanted: &str) {
        same(name, &self.text, wanted);
    }
}

/// Fails with the first line that differs, and the whole text.
#[track_caller]
fn same(name: &str, told: &str, wanted: &str) {
    if told == wanted {
        return;
    }
    let more = std::iter::repeat("(the end)");
    let lines = told.lines().zip(wanted.lines().chain(more)).enumerate();
    println!("<<<<<<<< {name}\n{told}>>>>>>>> {name}");
    let mut others = lines.filter(|(_, (told, wanted))| told != wanted);
    let (at, (told, wanted)) = others.next().expect("it is told less than was wanted");
    panic!("{name}, line {}:\n told   {told}\n wanted {wanted}", at + 1);
}

/// What stands before the first text in quotes, it, and what stands behind it.
fn first_quoted(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find('"')?;
    let mut escaped = false;
    let end = text[begin + 1..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let end = begin + 1 + end? + 1;
    Some((&text[..begin], &text[begin..end], &text[end..]))
}

/// The fields of a value that was printed in the long form, each on one line.
pub(super) fn fields(pretty: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in pretty.lines() {
        let inner = line.strip_prefix("    ").unwrap_or_default();
        match inner.split_once(": ") {
            Some((name, value)) if !inner.starts_with(' ') => {
                fields.push((name.to_owned(), value.to_owned()));
            }
            _ => {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(inner.trim());
                }
            }
        }
    }
    for (_, value) in &mut fields {
        *value = readable(value.trim_end().trim_end_matches(','));
    }
    fields
}

/// A printed value without what is not there, and with bytes as the text that they are.
pub(super) fn readable(printed: &str) -> String {
    let mut text = String::new();
    let mut rest = printed;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        let list = after
            .split_once(']')
            .map(|(list, rest)| (bytes(list), rest));
        if let Some((Some(bytes), after)) = list {
            text.push_str(&bytes);
            rest = after;
        } else {
            text.push('[');
            rest = after;
        }
    }
    text.push_str(rest);
    for nothing in ["None", "[]", "{}", "\"\""] {
        text = without(&text, nothing);
    }
    let plain = "KeyValue { key: ";
    let value = ", value: Some(AnyValue { value: Some(StringValue(";
    text.replace(plain, "")
        .replace(value, "=")
        .replace(")) }) }", "")
}

fn bytes(list: &str) -> Option<String> {
    let numbers: Result<Vec<u8>, _> = list
        .split(',')
        .map(str::trim)
        .filter(|number| !number.is_empty())
        .map(str::parse)
        .collect();
    let bytes = numbers.ok().filter(|bytes| bytes.len() > 1)?;
    let text = std::str::from_utf8(&bytes).ok();
    let text = text.filter(|text| text.chars().all(|c| !c.is_control() || c == '\n'));
    Some(match text {
        Some(text) => format!("{text:?}"),
        None => OfferHash::new(bytes).to_hex(),
    })
}

/// Takes out the fields that have this value.
fn without(text: &str, value: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    let sought = format!(": {value}");
    while let Some((before, after)) = rest.split_once(&sought) {
        let ends = after.starts_with([',', ' ', '}', '\n']) || after.is_empty();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let kept = before.trim_end_matches(is_word);
        if ends && kept.len() < before.len() {
            if let Some(after) = after.strip_prefix(',') {
                left.push_str(kept);
                rest = after.trim_start();
            } else {
                left.push_str(kept.trim_end_matches([',', ' ', '\n']));
                rest = after;
            }
        } else {
            left.push_str(before);
            left.push_str(&sought);
            rest = after;
        }
    }
    left.push_str(rest);
    left
}
