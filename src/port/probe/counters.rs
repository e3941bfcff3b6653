//! A program's own counters out of the page that it serves.
//!
//! Promises: a page is read up to [`PAGE_MAX`], and one that is longer is an error, because half a page gives half a
//! sum; what cannot be read is passed over; counters of one part are added up over their other labels.
//! Must never: know a program, or keep anything between two readings.

use std::time::Duration;

use crate::config::{Flow, FlowFormat, FlowRole, part_by_path};
use crate::engine::message::{CountKey, CounterQuestion, Reading};

/// Bytes of a page of counters.
const PAGE_MAX: usize = 4 * 1024 * 1024;
/// Counters that are kept of one page.
const COUNTS_MAX: usize = 512;

/// Asks for the page and reads it.
///
/// # Errors
/// A sentence for people: no answer, or one that holds none of the counters.
///
/// # Cancel safety
/// Dropping the future ends the question.
pub async fn read_counters(question: &CounterQuestion) -> Result<Reading, String> {
    let CounterQuestion { url, timeout, flow } = question;
    let (answer, whole) = super::fetch(url, *timeout, PAGE_MAX).await?;
    let failed = |reason: &str| format!("GET {url}: {reason}");
    if !(200..=299).contains(&answer.status) {
        return Err(failed(&format!("the answer has status {}", answer.status)));
    }
    if !whole {
        return Err(failed(&format!("the page is longer than {PAGE_MAX} bytes")));
    }
    parse(&answer.body, flow).map_err(|reason| failed(&reason))
}

fn parse(page: &str, flow: &Flow) -> Result<Reading, String> {
    let reading = match flow.format {
        FlowFormat::Prometheus => prometheus(page, flow),
        FlowFormat::Json => {
            let tree: serde_json::Value =
                serde_json::from_str(page).map_err(|_| "the page is not JSON".to_owned())?;
            let mut reading = Reading::default();
            json(&tree, &mut String::new(), flow, &mut reading);
            reading
        }
        FlowFormat::LocalLink => Reading::default(),
    };
    if reading.counts.len() > COUNTS_MAX {
        return Err(format!("more than {COUNTS_MAX} counters"));
    }
    Ok(reading)
}

/// Lines of `name{label="value",…} number`, comments passed over.
fn prometheus(page: &str, flow: &Flow) -> Reading {
    let mut reading = Reading::default();
    for line in page.lines() {
        let Some(sample) = Sample::parse(line) else {
            continue;
        };
        if flow.uptime.as_deref().is_some_and(|name| sample.is(name)) {
            reading.uptime = Duration::try_from_secs_f64(sample.value).ok();
        }
        for_each(flow, |signal, role, selector| {
            if !sample.fits(selector) {
                return;
            }
            let label = flow.labels.get(role.side()).and_then(Option::as_deref);
            let part = label.and_then(|label| sample.label(label));
            add(
                &mut reading,
                signal,
                role,
                &part.unwrap_or_default(),
                sample.value,
            );
        });
    }
    reading
}

fn json(node: &serde_json::Value, path: &mut String, flow: &Flow, reading: &mut Reading) {
    match node {
        serde_json::Value::Object(entries) => {
            for (name, node) in entries {
                let length = path.len();
                if length > 0 {
                    path.push('.');
                }
                path.push_str(name);
                json(node, path, flow, reading);
                path.truncate(length);
            }
        }
        serde_json::Value::Number(number) => {
            let Some(value) = number.as_f64() else { return };
            if flow.uptime.as_deref() == Some(path) {
                reading.uptime = Duration::try_from_secs_f64(value).ok();
            }
            for_each(flow, |signal, role, selector| {
                if let Some(part) = part_by_path(selector, path) {
                    add(reading, signal, role, part, value);
                }
            });
        }
        _ => {}
    }
}

fn for_each(flow: &Flow, mut look: impl FnMut(usize, FlowRole, &str)) {
    for (index, signal) in flow.signals.iter().enumerate() {
        for (role, selectors) in FlowRole::ALL.iter().zip(&signal.counters) {
            for selector in selectors {
                look(index, *role, selector);
            }
        }
    }
}

fn add(reading: &mut Reading, signal: usize, role: FlowRole, part: &str, value: f64) {
    // One too many says that there are too many.
    if reading.counts.len() > COUNTS_MAX {
        return;
    }
    let part = part.to_owned();
    let key = CountKey { signal, role, part };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates, and a count is never negative"
    )]
    reading.add(key, value as u64);
}

/// One line of a page.
#[derive(Debug)]
struct Sample<'l> {
    name: &'l str,
    labels: &'l str,
    value: f64,
}

impl<'l> Sample<'l> {
    fn parse(line: &'l str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(['{', ' ', '\t'])?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_at(end_of_labels(rest)?),
            None => ("", rest),
        };
        let rest = rest.strip_prefix('}').unwrap_or(rest);
        // A time may follow.
        let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
        value.is_finite().then_some(Self {
            name,
            labels,
            value,
        })
    }

    /// Whether it has this name, or this name with what exporters hang on to it: `_total`, `_seconds_total` and the
    /// like.
    fn is(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| {
            rest.is_empty()
                || rest == "_seconds"
                || rest.starts_with('_') && rest.ends_with("_total")
        })
    }

    fn fits(&self, selector: &str) -> bool {
        let Some((name, label)) = selector.split_once('{') else {
            return self.is(selector);
        };
        let wanted = label.trim_end_matches('}').split_once('=');
        self.is(name)
            && wanted.is_some_and(|(label, value)| self.label(label).as_deref() == Some(value))
    }

    /// The value of a label, its escapes undone.
    fn label(&self, wanted: &str) -> Option<String> {
        let mut rest = self.labels;
        while let Some((name, after)) = rest.split_once("=\"") {
            let end = end_of_text(after)?;
            let (value, after) = after.split_at(end);
            if name.trim_matches([',', ' ']) == wanted {
                return Some(unescaped(value));
            }
            rest = after.strip_prefix('"')?;
        }
        None
    }
}

/// Where `}` stands that is in no text.
fn end_of_labels(labels: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in labels.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn end_of_text(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match c {
            'n' if escaped => text.push('\n'),
            c if escaped => text.push(c),
            '\\' => {
                escaped = true;
                continue;
            }
            c => text.push(c),
        }
        escaped = false;
    }
    text
}

#[cfg(test)]
mod tests;
