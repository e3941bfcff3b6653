//! `status`: the state as a table, as JSON, once or whenever it changes.
//!
//! Promises: one row per agent; whatever is wrong is a line below the table, in words.
//! Must never: interpret more than the document says.

use std::time::Duration;

use super::{Done, ExitCode, Failure, Out};
use crate::port::admin::client::{Client, ClientError};
use crate::port::admin::registration::RegistrationDocument;
use crate::port::admin::wire::{AgentDocument, StatusDocument};

/// Time between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn show(client: &Client, json: bool, watch: bool, out: &mut Out<'_>) -> Done {
    let mut shown = String::new();
    loop {
        let document = client.status().await.map_err(Failure::from)?;
        let (key, text) = if json {
            let text = serde_json::to_string(&document)
                .map_err(|cause| Failure::new(ExitCode::Failed, cause.to_string()))?;
            (render(&document), format!("{text}\n"))
        } else {
            let text = render(&document);
            (text.clone(), text)
        };
        // Uptime changes with every look and is in neither key.
        if key != shown {
            if watch && !json && !shown.is_empty() {
                out.line("");
            }
            out.text(&text);
            shown = key;
        }
        if !watch || out.closed() {
            return Ok(ExitCode::Ok);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for the next look at a rollout.
pub(super) async fn look_again(client: &Client) -> Result<StatusDocument, ClientError> {
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.status().await
}

/// The table and the lines below it.
pub(super) fn render(document: &StatusDocument) -> String {
    let rows = document.agents.iter().map(row);
    let header = [
        "AGENT", "PROFILE", "STATUS", "PID", "REVISION", "ROLLOUT", "SERVER", "RESTARTS",
    ];
    let mut text = table(header, rows);
    if !document.certificates.is_empty() {
        text.push('\n');
        text.push_str(&super::certificates::render(&document.certificates));
    }
    if document.stopping {
        text.push_str("the supervisor is stopping\n");
    }
    if let Some(clock) = document.clock.as_ref().filter(|clock| !clock.well) {
        text.extend(["clock: ", &clock.message, "\n"]);
    }
    if let Some(registration) = &document.registration
        && let Some(remark) = of_registration(registration)
    {
        text.extend(["registration: ", &remark, "\n"]);
    }
    for agent in &document.agents {
        for remark in remarks(agent) {
            text.extend([agent.name.as_str(), ": ", &remark, "\n"]);
        }
    }
    text
}

/// One line, unless all is well.
fn of_registration(registration: &RegistrationDocument) -> Option<String> {
    let well = registration.state == "registered" && registration.reason.is_empty();
    if well && registration.phase == "idle" {
        return None;
    }
    let state = match registration.phase.as_str() {
        "idle" | "held" => registration.state.clone(),
        phase => format!("{}, {phase}", registration.state),
    };
    Some(if registration.reason.is_empty() {
        state
    } else {
        format!("{state}: {}", in_short(&registration.reason))
    })
}

fn row(agent: &AgentDocument) -> [String; 8] {
    let dash = || "-".to_owned();
    [
        agent.name.clone(),
        agent.profile.clone(),
        if agent.healthy {
            agent.status.clone()
        } else {
            format!("{} (unhealthy)", agent.status)
        },
        agent.child.as_ref().map_or_else(dash, |child| {
            let adopted = if child.adopted { " adopted" } else { "" };
            format!("{}{adopted}", child.pid)
        }),
        agent
            .current
            .as_ref()
            .map_or_else(dash, |current| current.id.clone()),
        agent.phase.clone(),
        agent.link.state.clone(),
        agent.restarts.to_string(),
    ]
}

fn remarks(agent: &AgentDocument) -> Vec<String> {
    let mut remarks = Vec::new();
    if !agent.last_error.is_empty() {
        remarks.push(agent.last_error.clone());
    }
    for (path, component) in &agent.components {
        // What a part cannot do here, or not now, makes nobody unhealthy, and yet somebody may be looking for it.
        let limited = ["degraded: ", "unsupported: "];
        if !component.healthy || limited.iter().any(|it| component.status.starts_with(it)) {
            remarks.push(format!("component {path}: {}", component.status));
        }
    }
    if agent.on_default {
        remarks.push("the default config runs although a remote one was applied".to_owned());
    } else if let Some(current) = &agent.current
        && current.origin == "default"
    {
        remarks.push("waiting for config; the built-in default runs".to_owned());
    }
    if let Some(frozen) = &agent.frozen {
        remarks.push(format!("applies are frozen: {frozen}"));
    }
    if !agent.layers.refused.is_empty() {
        remarks.push(format!(
            "local config refused ({}), what runs keeps its own copy: {}",
            agent.layers.refused.join(", "),
            in_short(&agent.layers.reason)
        ));
    }
    for file in &agent.layers.drift {
        remarks.push(format!(
            "{} of what runs was changed by somebody else",
            file.path
        ));
    }
    if !agent.layers.drift_error.is_empty() {
        remarks.push(format!("not put back: {}", agent.layers.drift_error));
    }
    if let Some(deaths) = agent.crash_loop {
        remarks.push(format!("crash loop: {deaths} deaths in a row"));
    }
    if !agent.phase_error.is_empty() && agent.history.first().is_some_and(|last| !last.over) {
        remarks.push(format!(
            "rollout in {}: {}",
            agent.phase,
            in_short(&agent.phase_error)
        ));
    }
    if let Some(last) = agent.history.first()
        && !last.reason.is_empty()
    {
        remarks.push(format!(
            "last rollout {} at {}: {}",
            last.step.replace('_', " "),
            last.at,
            in_short(&last.reason)
        ));
    }
    if !matches!(agent.link.settings.as_str(), "" | "local") {
        let settings = agent.link.settings.replace('_', " ");
        remarks.push(format!(
            "server {}: connection settings {settings}",
            agent.link.endpoint
        ));
    }
    if !agent.link.last_error.is_empty() {
        remarks.push(format!(
            "server {}: {}",
            agent.link.endpoint, agent.link.last_error
        ));
    }
    remarks
}

/// Columns without lines, two blanks apart, nothing at the end of a line.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows);
    let width = |cell: &String| cell.chars().count();
    let mut widths = [0; N];
    for line in &lines {
        for (widest, cell) in widths.iter_mut().zip(line) {
            *widest = width(cell).max(*widest);
        }
    }
    lines.iter().fold(String::new(), |mut text, line| {
        for (widest, cell) in widths.iter().zip(line) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', widest - width(cell) + 2));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        text
    })
}

/// A reason in one line: how it begins and, where it quotes an output, how that ends. `--json` has all of it.
fn in_short(reason: &str) -> String {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first} … {last}"),
        None => first.to_owned(),
    }
}
