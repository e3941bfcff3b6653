//! What the API shows: the JSON shapes, made from the state and from nothing else.
//!
//! Promises: times are Unix milliseconds, hashes hexadecimal, uids UUIDs; bodies are text, with every byte that is not
//! UTF-8 replaced; what an agent reported is shown as reported (redaction is the agent's).
//! Must never: be read back; requests have their own shapes in `api.rs`.

use std::collections::BTreeMap;

use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AnyValue, ComponentHealth, KeyValue, any_value::Value,
};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::agent::{Agent, Entry, status_word};
use super::fleet::Part;
use crate::units::{OfferHash, hex};

/// Levels of nesting shown of health trees and attribute values.
const DEPTH_MAX: usize = 16;

/// The line of one agent in the list.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    uid: String,
    name: String,
    connected: bool,
    healthy: Option<bool>,
    status: String,
    last_error: String,
    phase: Option<String>,
    phase_error: String,
    revision: Option<String>,
    last_good: Option<String>,
    remote_config: Option<RemoteConfig>,
    first_seen: u64,
    last_seen: u64,
}

#[derive(Debug, Serialize)]
struct RemoteConfig {
    status: &'static str,
    hash: String,
    error: String,
}

/// Everything about one agent.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    #[serde(flatten)]
    summary: Summary,
    sequence_num: Option<u64>,
    messages: u64,
    capabilities: Vec<&'static str>,
    identifying_attributes: BTreeMap<String, Json>,
    non_identifying_attributes: BTreeMap<String, Json>,
    health: Option<Health>,
    effective_config: Option<BTreeMap<String, File>>,
    stored_config: Option<StoredConfig>,
    applies: Vec<ApplyLine>,
    timeline: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Health {
    healthy: bool,
    status: String,
    last_error: String,
    start_time: u64,
    status_time: u64,
    attributes: BTreeMap<String, Json>,
    components: BTreeMap<String, Health>,
}

#[derive(Debug, Serialize)]
struct File {
    r#type: String,
    body: String,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct StoredConfig {
    hash: String,
    pushed: u64,
    files: BTreeMap<String, File>,
}

#[derive(Debug, Serialize)]
struct ApplyLine {
    hash: Option<String>,
    files: Vec<String>,
    started: u64,
    ended: Option<u64>,
    outcome: &'static str,
    reason: String,
    phases: Vec<Json>,
}

/// One entry of the timeline.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    number: u64,
    at: u64,
    kind: &'static str,
    text: String,
    detail: String,
}

impl Summary {
    /// Shows an agent in one line.
    pub(super) fn of(agent: &Agent) -> Self {
        let health = agent.health.as_ref();
        Self {
            uid: agent.uid.to_string(),
            name: name_of(agent),
            connected: agent.link().is_some(),
            healthy: health.map(|h| h.healthy),
            status: health.map(|h| h.status.clone()).unwrap_or_default(),
            last_error: health.map(|h| h.last_error.clone()).unwrap_or_default(),
            phase: agent.phase().map(str::to_owned),
            phase_error: agent
                .rollout()
                .map(|component| component.last_error.clone())
                .unwrap_or_default(),
            revision: attribute_of(agent, "adjutant.revision"),
            last_good: attribute_of(agent, "adjutant.last_good"),
            remote_config: agent.remote_config.as_ref().map(|status| RemoteConfig {
                status: status_word(status.status()),
                hash: hex(&status.last_remote_config_hash),
                error: status.error_message.clone(),
            }),
            first_seen: agent.first_seen.unix_millis(),
            last_seen: agent.last_seen.unix_millis(),
        }
    }
}

impl Detail {
    /// Shows all of an agent.
    pub(super) fn of(agent: &Agent) -> Self {
        let description = agent.description.as_ref();
        let effective = agent.effective_config.as_ref();
        Self {
            summary: Summary::of(agent),
            sequence_num: agent.sequence_num,
            messages: agent.messages,
            capabilities: capability_names(agent.capabilities),
            identifying_attributes: description
                .map(|d| attributes(&d.identifying_attributes))
                .unwrap_or_default(),
            non_identifying_attributes: description
                .map(|d| attributes(&d.non_identifying_attributes))
                .unwrap_or_default(),
            health: agent.health.as_ref().map(|h| health_tree(h, DEPTH_MAX)),
            effective_config: effective
                .map(|c| c.config_map.as_ref().map(|m| files(&m.config_map)))
                .map(Option::unwrap_or_default),
            stored_config: agent.stored.as_ref().map(|stored| StoredConfig {
                hash: stored.hash.to_hex(),
                pushed: stored.at.unix_millis(),
                files: files(&stored.files),
            }),
            applies: apply_lines(agent),
            timeline: agent.entries_from(0).map(Line::of).collect(),
        }
    }
}

impl Line {
    /// Shows a timeline entry.
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            number: entry.number,
            at: entry.at.unix_millis(),
            kind: entry.kind.word(),
            text: entry.text.clone(),
            detail: entry.detail.clone(),
        }
    }
}

/// The data of an `agent` event: what changed, the new summary, the new timeline entries.
pub(super) fn change(agent: &Agent, entries_from: u64, parts: &[Part]) -> Json {
    json!({
        "uid": agent.uid.to_string(),
        "changed": parts.iter().map(|part| part.word()).collect::<Vec<_>>(),
        "summary": Summary::of(agent),
        "timeline": agent.entries_from(entries_from).map(Line::of).collect::<Vec<_>>(),
    })
}

fn apply_lines(agent: &Agent) -> Vec<ApplyLine> {
    let mut lines: Vec<_> = agent
        .applies
        .iter()
        .map(|apply| ApplyLine {
            hash: apply.hash.as_ref().map(OfferHash::to_hex),
            files: apply.files.clone(),
            started: apply.started.unix_millis(),
            ended: apply.ended.map(crate::units::WallTime::unix_millis),
            outcome: apply.outcome.word(),
            reason: apply.reason.clone(),
            phases: apply
                .phases
                .iter()
                .map(|seen| json!({"phase": seen.word, "at": seen.at.unix_millis()}))
                .collect(),
        })
        .collect();
    lines.reverse();
    lines
}

fn name_of(agent: &Agent) -> String {
    let find = |key: &str| {
        let description = agent.description.as_ref()?;
        description
            .identifying_attributes
            .iter()
            .find(|attribute| attribute.key == key)
            .and_then(KeyValue::as_text)
    };
    find("service.name").unwrap_or("(no name yet)").to_owned()
}

/// An attribute of the rollout component or, failing that, of the description.
fn attribute_of(agent: &Agent, key: &str) -> Option<String> {
    let rollout = agent.rollout().into_iter().flat_map(|c| &c.attributes);
    let described = agent
        .description
        .iter()
        .flat_map(|d| &d.non_identifying_attributes);
    rollout
        .chain(described)
        .find(|attribute| attribute.key == key)
        .and_then(KeyValue::as_text)
        .map(str::to_owned)
}

fn files(map: &BTreeMap<String, AgentConfigFile>) -> BTreeMap<String, File> {
    map.iter()
        .map(|(name, file)| {
            let shown = File {
                r#type: file.content_type.clone(),
                body: String::from_utf8_lossy(&file.body).into_owned(),
                bytes: file.body.len(),
            };
            (name.clone(), shown)
        })
        .collect()
}

fn health_tree(health: &ComponentHealth, depth: usize) -> Health {
    let components = match depth.checked_sub(1) {
        Some(depth) => health
            .component_health_map
            .iter()
            .map(|(name, child)| (name.clone(), health_tree(child, depth)))
            .collect(),
        None => BTreeMap::new(),
    };
    Health {
        healthy: health.healthy,
        status: health.status.clone(),
        last_error: health.last_error.clone(),
        start_time: health.start_time_unix_nano / 1_000_000,
        status_time: health.status_time_unix_nano / 1_000_000,
        attributes: attributes(&health.attributes),
        components,
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, Json> {
    list.iter()
        .map(|one| (one.key.clone(), json_of(one.value.as_ref(), DEPTH_MAX)))
        .collect()
}

fn json_of(value: Option<&AnyValue>, depth: usize) -> Json {
    let (Some(value), Some(depth)) = (value.and_then(|v| v.value.as_ref()), depth.checked_sub(1))
    else {
        return Json::Null;
    };
    match value {
        Value::StringValue(text) => json!(text),
        Value::BoolValue(flag) => json!(flag),
        Value::IntValue(number) => json!(number),
        Value::DoubleValue(number) => json!(number),
        Value::BytesValue(bytes) => json!(hex(bytes)),
        Value::ArrayValue(list) => list
            .values
            .iter()
            .map(|one| json_of(Some(one), depth))
            .collect(),
        Value::KvlistValue(list) => list
            .values
            .iter()
            .map(|one| (one.key.clone(), json_of(one.value.as_ref(), depth)))
            .collect(),
    }
}

fn capability_names(mask: u64) -> Vec<&'static str> {
    (0..i32::BITS - 1)
        .filter_map(|shift| AgentCapabilities::try_from(1 << shift).ok())
        .filter(|bit| bit.is_in(mask))
        .map(|bit| {
            let name = bit.as_str_name();
            name.strip_prefix("AgentCapabilities_").unwrap_or(name)
        })
        .collect()
}
