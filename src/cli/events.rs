//! `events`: what happened, from the file in the state directory.
//!
//! Promises: works without a running supervisor and shows earlier lives as well; a line that does not read (cut off by
//! a death, or written by a newer version) is passed over.
//! Must never: interpret an event.

use std::path::Path;

use super::logs::LOOK_EVERY;
use super::{Done, ExitCode, Out};
use crate::port::events::{EventDocument, file};
use crate::port::logs::Log;
use crate::units::AgentName;

pub(super) async fn show(
    state_dir: &Path,
    agent: Option<&AgentName>,
    lines: usize,
    (follow, json): (bool, bool),
    out: &mut Out<'_>,
) -> Done {
    let mut log = Log::at(file(state_dir))?;
    // The whole history is small; which of its lines are wanted is known only after reading them.
    let all = String::from_utf8_lossy(&log.tail(usize::MAX)?).into_owned();
    let shown: Vec<String> = all
        .lines()
        .filter_map(|line| rendered(line, agent, json))
        .collect();
    for line in shown.iter().skip(shown.len().saturating_sub(lines)) {
        out.line(line);
    }
    let mut rest = Vec::new();
    while follow && !out.closed() {
        rest.extend(log.more()?);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let whole: Vec<u8> = rest.drain(..=end).collect();
        for line in String::from_utf8_lossy(&whole).lines() {
            if let Some(line) = rendered(line, agent, json) {
                out.line(&line);
            }
        }
    }
    Ok(ExitCode::Ok)
}

fn rendered(line: &str, agent: Option<&AgentName>, json: bool) -> Option<String> {
    let event: EventDocument = serde_json::from_slice(line.as_bytes()).ok()?;
    if agent.is_some_and(|wanted| event.agent.as_deref() != Some(wanted.as_str())) {
        return None;
    }
    if json {
        return Some(line.to_owned());
    }
    let about = event.agent.as_deref().unwrap_or("-");
    let mut text = format!("{}  {:<5}  {about}  {}", event.at, event.level, event.event);
    for (name, value) in event.fields.iter().filter(|(_, value)| !value.is_empty()) {
        let value = value.replace('\n', " | ");
        text.extend(["  ", name, "=", &value]);
    }
    Some(text)
}
