//! Whom a Collector's own telemetry comes from: the attributes of its resource.
//!
//! Promises: telemetry and reports name one instance; what the user wrote stays, in the shape that the user chose,
//! because a Collector refuses a mix of both shapes.
//! Must never: guess what the Collector would say of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{SUPERVISOR_ATTRIBUTE, SUPERVISOR_VARIABLE, UID_VARIABLE};
use crate::config::Description;
use crate::yaml::{Node, Style, Value};

/// Names the directory of the files that a layer refers to, in a Collector's environment.
pub(crate) const MATERIAL_VARIABLE: &str = "ADJUTANT_TELEMETRY_DIR";
/// That directory, below the agent's own.
pub(crate) const MATERIAL_DIRECTORY: &str = "telemetry";
/// The list of resource attributes that a config has in its newer shape, each with its name; none in the older shape.
pub(super) fn listed_attributes(config: &Node) -> Option<Vec<(String, String)>> {
    let list = config.at(&["service", "telemetry", "resource", "attributes"])?;
    if !matches!(list.value, Value::List(_)) {
        return None;
    }
    let entry = |item: &Node| {
        let name = item.get("name").and_then(Node::text)?;
        Some((name.to_owned(), flow(item)))
    };
    Some(list.items().iter().filter_map(entry).collect())
}

/// The lines below `service::telemetry::resource`: what the description says of the agent, and always who it is and
/// who watches over it, so that telemetry and reports name one instance. Lists are replaced when layers are merged, so
/// a list of the user's is taken over whole; otherwise the older shape is written, which every Collector reads.
pub(super) fn resource(description: &Description, listed: Option<Vec<(String, String)>>) -> String {
    let mut attributes = BTreeMap::new();
    for (name, value) in description
        .non_identifying
        .iter()
        .chain(&description.identifying)
    {
        attributes.insert(name.as_str(), quoted(value));
    }
    let ours = [
        ("service.instance.id", UID_VARIABLE),
        (SUPERVISOR_ATTRIBUTE, SUPERVISOR_VARIABLE),
    ];
    for (name, variable) in ours {
        attributes.insert(name, format!("\"${{env:{variable}}}\""));
    }
    let mut text = String::new();
    let Some(listed) = listed else {
        for (name, value) in attributes {
            writeln!(text, "      {}: {value}", quoted(name)).ok();
        }
        return text;
    };
    text.push_str("      attributes:\n");
    for (name, entry) in listed {
        if !attributes.contains_key(name.as_str()) {
            writeln!(text, "        - {entry}").ok();
        }
    }
    for (name, value) in attributes {
        writeln!(text, "        - {{name: {}, value: {value}}}", quoted(name)).ok();
    }
    text
}

/// A node in flow style; texts stay as they are, references in them included.
fn flow(node: &Node) -> String {
    match &node.value {
        _ if node.is_null() => "null".to_owned(),
        // Numbers and words keep their type.
        Value::Scalar {
            text,
            style: Style::Plain,
        } if text.chars().all(is_of_a_word) => text.clone(),
        Value::Scalar { text, .. } => serde_json::to_string(text).unwrap_or_default(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entry = |(key, value): &(Node, Node)| format!("{}: {}", flow(key), flow(value));
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')
}

/// A YAML string that the Collector takes as it stands: `$` begins a reference there.
pub(super) fn quoted(text: &str) -> String {
    // JSON strings are YAML strings.
    serde_json::to_string(&text.replace('$', "$$")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Limits, parse};

    fn description() -> Description {
        Description {
            identifying: [("service.name".to_owned(), "a$b".to_owned())].into(),
            non_identifying: BTreeMap::new(),
            include_resource: false,
        }
    }

    fn listed(config: &str) -> Option<Vec<(String, String)>> {
        listed_attributes(&parse("it", config, Limits::OFFERED).unwrap())
    }

    #[test]
    fn a_list_of_the_user_is_kept_and_added_to_and_no_map_stands_beside_it() {
        let config = "service: {telemetry: {resource: {attributes: [{name: team, value: '7'}, {name: level, value: 3}, \
                      {name: service.instance.id, value: mine}]}}}";
        let text = resource(&description(), listed(config));
        let wanted = "      attributes:
        - {name: team, value: \"7\"}
        - {name: level, value: 3}
        - {name: \"adjutant.supervisor.instance.id\", value: \"${env:ADJUTANT_SUPERVISOR_INSTANCE_ID}\"}
        - {name: \"service.instance.id\", value: \"${env:ADJUTANT_INSTANCE_UID}\"}
        - {name: \"service.name\", value: \"a$$b\"}
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn values_of_the_users_list_keep_their_type_and_their_shape() {
        let config = "service: {telemetry: {resource: {attributes: [{name: a, value: ~}, {name: b, value: null}, \
                      {name: c, value: -1.5e+3}, {name: d, value: two words}, {name: e, value: [x, {y: z w}]}, \
                      {value: nameless}, {name: f, value: 'true'}]}}}";
        let listed = listed(config).unwrap();
        let wanted = [
            ("a", "{name: a, value: null}"),
            ("b", "{name: b, value: null}"),
            ("c", "{name: c, value: -1.5e+3}"),
            ("d", "{name: d, value: \"two words\"}"),
            ("e", "{name: e, value: [x, {y: \"z w\"}]}"),
            ("f", "{name: f, value: \"true\"}"),
        ];
        let wanted = wanted.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(listed, wanted);
    }

    #[test]
    fn without_a_list_the_older_shape_is_written() {
        let config = "service: {telemetry: {resource: {team: x}}}";
        let text = resource(&description(), listed(config));
        let wanted =
            "      \"adjutant.supervisor.instance.id\": \"${env:ADJUTANT_SUPERVISOR_INSTANCE_ID}\"
      \"service.instance.id\": \"${env:ADJUTANT_INSTANCE_UID}\"
      \"service.name\": \"a$$b\"
";
        assert_eq!(text, wanted);
    }
}
