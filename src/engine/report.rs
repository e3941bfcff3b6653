//! Engine → OpAMP messages: description, health, effective config, remote config status. Nothing else builds them.
//!
//! Promises: what is reported is what runs; texts are bounded; values of secret keys are redacted.
//! Must never: change the engine, or send anything.

use std::collections::BTreeMap;
use std::path::Path;

use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AnyValue, ComponentHealth, EffectiveConfig,
    KeyValue, RemoteConfigStatus, RemoteConfigStatuses, any_value,
};

use crate::config::Description;
use crate::engine::message::{LayerKind, Outcome, PartSnapshot, RemoteStatus, RevisionFile};
use crate::units::{WallTime, order};
use crate::yaml;

/// Bytes of one error text that leave the host.
pub(crate) const ERROR_BYTES_MAX: usize = 4 * 1024;
/// Components of a child's health tree that are shown and forwarded.
const COMPONENTS_MAX: usize = 256;
/// Depth of a child's health tree that is shown.
const DEPTH_MAX: usize = 16;
/// The attribute by which our data plane says the state of a part in one word.
const STATE: &str = "adjutant.state";
/// The attributes, behind `adjutant.`, by which it gives numbers of a part.
const NUMBERS: [&str; 6] = [
    "records.received",
    "records.delivered",
    "records.pending",
    "records.dropped",
    "queue.percent",
    "acknowledged.unix_ms",
];
/// Bytes of the effective config that are reported.
const EFFECTIVE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Cuts a text to what may leave the host, at a character boundary, with a mark, without control characters.
pub(crate) fn bounded(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect();
    if clean.len() > ERROR_BYTES_MAX {
        let mut end = ERROR_BYTES_MAX;
        while !clean.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        clean.truncate(end);
        clean.push('…');
    }
    clean.trim().to_owned()
}

/// One text attribute.
pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue {
        value: Some(any_value::Value::StringValue(value.to_owned())),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(value),
    }
}

/// The description: what the host is, what the child says about itself, what the settings say about it; later wins
/// . The uid is always ours.
pub(crate) fn description(
    service_name: &str,
    host: &BTreeMap<String, String>,
    child: Option<&AgentDescription>,
    settings: &Description,
    instance_uid: &str,
) -> AgentDescription {
    let mut identifying = BTreeMap::new();
    identifying.insert(
        "service.name".to_owned(),
        attribute("service.name", service_name),
    );
    let mut other: BTreeMap<String, KeyValue> = BTreeMap::new();
    for (key, value) in host {
        other.insert(key.clone(), attribute(key, value));
    }
    if let Some(child) = child {
        for item in &child.identifying_attributes {
            identifying.insert(item.key.clone(), item.clone());
        }
        for item in &child.non_identifying_attributes {
            other.insert(item.key.clone(), item.clone());
        }
    }
    // The proof marker travels as an attribute of the rollout component, where a change of it is no change of identity.
    other.remove(crate::engine::desired::REVISION_ATTRIBUTE);
    identifying.insert(
        "service.instance.id".to_owned(),
        attribute("service.instance.id", instance_uid),
    );
    for (key, value) in &settings.identifying {
        identifying.insert(key.clone(), attribute(key, value));
    }
    for (key, value) in &settings.non_identifying {
        other.insert(key.clone(), attribute(key, value));
    }
    AgentDescription {
        identifying_attributes: identifying.into_values().collect(),
        non_identifying_attributes: other.into_values().collect(),
    }
}

/// What the root of the health tree is made of.
#[derive(Debug)]
pub(crate) struct HealthFacts<'a> {
    pub(crate) healthy: bool,
    pub(crate) status: &'a str,
    pub(crate) last_error: &'a str,
    pub(crate) child_started: Option<WallTime>,
    pub(crate) at: WallTime,
    pub(crate) phase: &'a str,
    pub(crate) rollout_healthy: bool,
    pub(crate) rollout_error: &'a str,
    pub(crate) rollout_attributes: Vec<(&'static str, String)>,
    pub(crate) child: Option<&'a ComponentHealth>,
    /// More components of ours, by name.
    pub(crate) more: Vec<(String, ComponentHealth)>,
}

/// The health tree: the agent over all, the rollout as a component, and the child's own components.
pub(crate) fn health(facts: &HealthFacts<'_>) -> ComponentHealth {
    let theirs = facts.child.map(|child| &child.component_health_map);
    let mut components = order::map(
        theirs
            .into_iter()
            .flatten()
            .take(COMPONENTS_MAX)
            .map(|(name, health)| (name.clone(), health.clone())),
    );
    let rollout = ComponentHealth {
        healthy: facts.rollout_healthy,
        start_time_unix_nano: 0,
        last_error: bounded(facts.rollout_error),
        status: facts.phase.to_owned(),
        status_time_unix_nano: facts.at.unix_nanos(),
        component_health_map: BTreeMap::new(),
        attributes: facts
            .rollout_attributes
            .iter()
            .map(|(key, value)| attribute(key, value))
            .collect(),
    };
    components.insert("rollout".to_owned(), rollout);
    components.extend(facts.more.iter().cloned());
    ComponentHealth {
        healthy: facts.healthy,
        start_time_unix_nano: facts.child_started.map_or(0, WallTime::unix_nanos),
        last_error: if facts.healthy {
            String::new()
        } else {
            bounded(facts.last_error)
        },
        status: facts.status.to_owned(),
        status_time_unix_nano: facts.at.unix_nanos(),
        component_health_map: components,
        attributes: Vec::new(),
    }
}

/// A child's components by path, for doors.
pub(crate) fn components(child: Option<&ComponentHealth>) -> BTreeMap<String, PartSnapshot> {
    let mut found = BTreeMap::new();
    if let Some(child) = child {
        collect(child, "", 0, &mut found);
    }
    found
}

fn collect(
    health: &ComponentHealth,
    prefix: &str,
    depth: usize,
    found: &mut BTreeMap<String, PartSnapshot>,
) {
    for (name, part) in &health.component_health_map {
        if found.len() >= COMPONENTS_MAX || depth >= DEPTH_MAX {
            return;
        }
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}/{name}")
        };
        let words = if part.last_error.is_empty() {
            &part.status
        } else {
            &part.last_error
        };
        let snapshot = PartSnapshot {
            healthy: part.healthy,
            state: bounded(text_of(part, STATE).unwrap_or_default()),
            words: bounded(words),
            numbers: numbers(part),
        };
        found.insert(path.clone(), snapshot);
        collect(part, &path, depth.saturating_add(1), found);
    }
}

fn text_of<'a>(part: &'a ComponentHealth, key: &str) -> Option<&'a str> {
    let mut found = part.attributes.iter();
    found.find(|it| it.key == key)?.as_text()
}

/// The numbers among the attributes that have one of our names.
fn numbers(part: &ComponentHealth) -> BTreeMap<&'static str, u64> {
    let named = part.attributes.iter().filter_map(|attribute| {
        let name = attribute.key.strip_prefix("adjutant.")?;
        let name = NUMBERS.into_iter().find(|known| *known == name)?;
        match attribute.value.as_ref()?.value.as_ref()? {
            any_value::Value::IntValue(value) => Some((name, u64::try_from(*value).ok()?)),
            _ => None,
        }
    });
    named.collect()
}

/// The first error text in a child's tree.
pub(crate) fn first_error(child: &ComponentHealth) -> Option<String> {
    if !child.last_error.is_empty() {
        return Some(bounded(&child.last_error));
    }
    components(Some(child))
        .into_iter()
        .find(|(_, part)| !part.healthy && !part.words.is_empty())
        .map(|(path, part)| format!("{path}: {}", part.words))
}

/// The effective config from the files that run, redacted. The marker is ours alone and is left out.
pub(crate) fn effective_config(files: &[RevisionFile]) -> EffectiveConfig {
    let mut budget = EFFECTIVE_BYTES_MAX;
    let mut config_map = BTreeMap::new();
    for file in files.iter().filter(|file| file.layer != LayerKind::Marker) {
        let Ok(text) = std::str::from_utf8(&file.bytes) else {
            continue;
        };
        let Some(left) = budget.checked_sub(text.len()) else {
            break;
        };
        budget = left;
        let content_type = if file.content_type.is_empty() {
            "text/yaml"
        } else {
            &file.content_type
        };
        config_map.insert(
            file.path.clone(),
            config_file(&file.path, text, content_type),
        );
    }
    EffectiveConfig {
        config_map: Some(AgentConfigMap { config_map }),
    }
}

/// The child's own effective config, redacted again by our rules.
pub(crate) fn redacted(effective: &EffectiveConfig) -> EffectiveConfig {
    let files = effective.config_map.as_ref().map(|map| &map.config_map);
    let config_map = order::map(files.into_iter().flatten().map(|(name, file)| {
        let text = String::from_utf8_lossy(&file.body);
        (name.clone(), config_file(name, &text, &file.content_type))
    }));
    EffectiveConfig {
        config_map: Some(AgentConfigMap { config_map }),
    }
}

fn config_file(name: &str, text: &str, content_type: &str) -> AgentConfigFile {
    let mut text = yaml::redact(text, yaml::is_secret_path);
    // What is no YAML may still read as a tree of it, with keys that are none.
    if !is_yaml(name) {
        text = yaml::redact_lines(&text, yaml::is_secret_path);
    }
    AgentConfigFile {
        body: text.into_bytes(),
        content_type: content_type.to_owned(),
    }
}

/// Whether a file is YAML, or JSON, by its name; layers of a Collector may have names without an end.
fn is_yaml(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|part| part.to_str());
    extension.is_none_or(|end| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| end.eq_ignore_ascii_case(known))
    })
}

/// The remote config status as OpAMP carries it.
pub(crate) fn remote_config_status(status: &RemoteStatus) -> RemoteConfigStatus {
    let outcome = match status.outcome {
        Outcome::Applying => RemoteConfigStatuses::Applying,
        Outcome::Applied => RemoteConfigStatuses::Applied,
        Outcome::Failed => RemoteConfigStatuses::Failed,
    };
    RemoteConfigStatus {
        last_remote_config_hash: status.offer.as_bytes().to_vec(),
        status: outcome as i32,
        error_message: bounded(&status.message),
    }
}

/// The canonical text of an instance uid.
pub(crate) fn uid_text(uid: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(uid).hyphenated().to_string()
}

#[cfg(test)]
mod tests;
