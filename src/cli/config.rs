//! `config list|show|diff`: stored revisions, read from the running supervisor.
//!
//! Promises: a diff is bounded in time and size, says so where it gives up, and leaves out the file that carries the
//! proof marker, because that one always differs.
//! Must never: read the state directory behind the supervisor's back.

use std::collections::BTreeMap;
#[cfg(feature = "doctor")]
use std::time::Duration;

#[cfg(feature = "doctor")]
use similar::TextDiff;

use super::status::table;
use super::{Done, ExitCode, Failure, Out};
use crate::port::admin::client::Client;
use crate::port::admin::wire::{ContentDocument, FileDocument, RevisionsDocument, StatusDocument};
use crate::units::{AgentName, RevisionId, order};

/// Files above this are compared for equality only.
const DIFF_BYTES_MAX: usize = 1024 * 1024;
/// After this a diff is coarse but still correct.
#[cfg(feature = "doctor")]
const DIFF_TIMEOUT: Duration = Duration::from_secs(2);
/// Unchanged lines around a change.
#[cfg(feature = "doctor")]
const CONTEXT: usize = 3;

pub(super) async fn list(
    client: &Client,
    agent: Option<&AgentName>,
    json: bool,
    out: &mut Out<'_>,
) -> Done {
    let document = client.revisions(agent.map(AgentName::as_str)).await?;
    if json {
        out.line(&to_json(&document)?);
    } else {
        out.text(&render_list(&document));
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn show(
    client: &Client,
    agent: Option<&AgentName>,
    revision: Option<&RevisionId>,
    json: bool,
    out: &mut Out<'_>,
) -> Done {
    let document = read(client, agent, revision).await?;
    if json {
        out.line(&to_json(&document)?);
    } else {
        out.text(&render_content(&document));
    }
    Ok(ExitCode::Ok)
}

pub(super) async fn diff(
    client: &Client,
    agent: Option<&AgentName>,
    from: Option<&RevisionId>,
    to: Option<&RevisionId>,
    out: &mut Out<'_>,
) -> Done {
    if from.is_none() {
        let status = client.status().await?;
        let drift = render_drift(&status, agent);
        out.text(&drift);
        let list = client.revisions(agent.map(AgentName::as_str)).await?;
        if !drift.is_empty() && before_current(&list).is_err() {
            return Ok(ExitCode::Ok);
        }
    }
    let older = if let Some(from) = from {
        read(client, agent, Some(from)).await?
    } else {
        let list = client.revisions(agent.map(AgentName::as_str)).await?;
        read(client, agent, Some(&before_current(&list)?)).await?
    };
    let newer = read(client, agent, to).await?;
    out.text(&render_diff(&older, &newer));
    Ok(ExitCode::Ok)
}

pub(super) async fn read(
    client: &Client,
    agent: Option<&AgentName>,
    revision: Option<&RevisionId>,
) -> Result<ContentDocument, Failure> {
    let agent = agent.map(AgentName::as_str);
    let id = revision.map(RevisionId::as_str);
    Ok(client.revision(agent, id).await?)
}

/// The newest revision that is older than the current one.
fn before_current(list: &RevisionsDocument) -> Result<RevisionId, Failure> {
    let older = list
        .revisions
        .iter()
        .map(|revision| revision.id.as_str())
        .filter(|id| list.current.as_deref().is_some_and(|current| *id < current))
        .max();
    older.and_then(|id| id.parse().ok()).ok_or_else(|| {
        Failure::new(
            ExitCode::Failed,
            format!(
                "{}: nothing older than the current revision is stored; name two of `adjutant config list`",
                list.agent
            ),
        )
    })
}

fn to_json(document: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(document)
        .map_err(|cause| Failure::new(ExitCode::Failed, format!("write JSON: {cause}")))
}

pub(super) fn render_list(document: &RevisionsDocument) -> String {
    let rows = document.revisions.iter().map(|revision| {
        let mut marks = Vec::new();
        if document.current.as_ref() == Some(&revision.id) {
            marks.push("current");
        }
        if document.last_good.as_ref() == Some(&revision.id) {
            marks.push("last-good");
        }
        if revision.rejected.is_some() {
            marks.push("rejected");
        }
        [
            revision.id.clone(),
            revision.at.clone(),
            revision.origin.clone(),
            revision.files.to_string(),
            revision.bytes.to_string(),
            marks.join(", "),
        ]
    });
    table(["REVISION", "STAGED", "ORIGIN", "FILES", "BYTES", ""], rows)
}

pub(super) fn render_content(document: &ContentDocument) -> String {
    let mut text = format!(
        "# revision {} ({}), staged {}\n",
        document.id, document.origin, document.at
    );
    for file in &document.files {
        text.extend(["# ---- ", &file.name, " (", &file.layer, ")\n"]);
        match &file.text {
            Some(body) => {
                text.push_str(body);
                if !body.ends_with('\n') {
                    text.push('\n');
                }
            }
            None => text.push_str("# not text; see --json\n"),
        }
    }
    text
}

/// What of the running revision somebody else has changed on disk: the diff is of what was proven.
pub(super) fn render_drift(status: &StatusDocument, agent: Option<&AgentName>) -> String {
    let mut text = String::new();
    let wanted = status
        .agents
        .iter()
        .filter(|it| agent.is_none_or(|agent| it.name == agent.as_str()));
    for file in wanted.flat_map(|agent| &agent.layers.drift) {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let found = file.found.as_deref().map_or_else(
            || "it is gone or cannot be read".to_owned(),
            |found| format!("it is {}", short(found)),
        );
        text.extend([
            "# ",
            &file.path,
            " of what runs was changed by somebody else: ",
            &found,
            ", belongs ",
            &short(&file.expected),
            "\n",
        ]);
    }
    text
}

pub(super) fn render_diff(older: &ContentDocument, newer: &ContentDocument) -> String {
    let (old, new) = (by_name(older), by_name(newer));
    let mut names: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    order::sort(&mut names);
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let place = |document: &ContentDocument, file: Option<&&FileDocument>| {
                file.map_or_else(
                    || "/dev/null".to_owned(),
                    |_| format!("{}/{name}", document.id),
                )
            };
            let (before, after) = (old.get(name), new.get(name));
            let places = (place(older, before), place(newer, after));
            file_diff(&places, before.copied(), after.copied())
        })
        .collect()
}

fn by_name(document: &ContentDocument) -> BTreeMap<&str, &FileDocument> {
    let files = document.files.iter();
    order::map(
        files
            .filter(|file| file.layer != "marker")
            .map(|file| (file.name.as_str(), file)),
    )
}

fn file_diff(
    (old_place, new_place): &(String, String),
    before: Option<&FileDocument>,
    after: Option<&FileDocument>,
) -> String {
    let content = |file: Option<&FileDocument>| match file {
        None => Some(String::new()),
        Some(file) => file.text.clone(),
    };
    if before.map(content_of) == after.map(content_of) {
        return String::new();
    }
    let (Some(old), Some(new)) = (content(before), content(after)) else {
        return format!("Binary files {old_place} and {new_place} differ\n");
    };
    if old.len().max(new.len()) > DIFF_BYTES_MAX {
        return format!("Files {old_place} and {new_place} differ, too large to compare\n");
    }
    unified(&old, &new, old_place, new_place)
}

#[cfg(feature = "doctor")]
fn unified(old: &str, new: &str, old_place: &str, new_place: &str) -> String {
    let diff = TextDiff::configure()
        .timeout(DIFF_TIMEOUT)
        .diff_lines(old, new);
    diff.unified_diff()
        .context_radius(CONTEXT)
        .header(old_place, new_place)
        .to_string()
}

/// The smallest build names what differs; `config show` has the files.
#[cfg(not(feature = "doctor"))]
fn unified(_: &str, _: &str, old_place: &str, new_place: &str) -> String {
    format!("Files {old_place} and {new_place} differ\n")
}

fn content_of(file: &FileDocument) -> (Option<&str>, Option<&str>) {
    (file.text.as_deref(), file.base64.as_deref())
}
