//! Who sends own telemetry, in the words of the declarative configuration: attributes and what is looked up.
//!
//! Promises: a detector that cannot be honoured is an error that says what to write instead.
//! Must never: run a detector, or read the environment.

use super::forms::list;
use super::{Attribute, Detector, Resource};
use crate::config::read::Section;
use crate::yaml::{Node, Style, Value};

/// Detectors that ask the metadata service of a cloud.
const CLOUDS: [&str; 7] = [
    "aws",
    "aws/ec2",
    "aws/ecs",
    "aws/eks",
    "aws/lambda",
    "gcp",
    "azure",
];

pub(super) fn resource(mut section: Section<'_, '_, '_>) -> Resource {
    let mut resource = Resource::default();
    let about = (
        "text",
        "attributes of the sender, as `name=value,name=value`",
    );
    let listed = section.parsed("attributes_list", about, "none", list);
    let listed = listed.unwrap_or_default().into_iter();
    resource
        .attributes
        .extend(listed.map(|(name, value)| (name, Some(Attribute::Text(value)))));
    let schema = section.text(
        "schema_url",
        "the schema that the attributes follow",
        "none",
    );
    resource.schema_url = schema.unwrap_or_default();
    let items = section.items("attributes");
    for (index, item) in std::iter::once(None)
        .filter(|_| items.is_empty())
        .chain(items.iter().map(|item| Some(*item)))
        .enumerate()
    {
        let entry = attribute(section.item("attributes", index, item), item);
        resource.attributes.extend(entry);
    }
    for key in ["detection", "detection/development"] {
        let mut outer = section.sub(key);
        if key == "detection" && outer.has("development") {
            detection(outer.sub("development"), &mut resource);
            outer.finish();
        } else {
            detection(outer, &mut resource);
        }
    }
    section.not_built(&["detectors"], "write them below `detection`");
    for (name, node) in section.others() {
        let value = match &node.value {
            _ if node.is_null() => Ok(None),
            Value::Scalar { text, .. } => Ok(Some(Attribute::Text(text.clone()))),
            Value::List(_) | Value::Map(_) => {
                Err("a text belongs here; lists go below `attributes`")
            }
        };
        match value {
            Ok(value) => resource.attributes.push((name.to_owned(), value)),
            Err(message) => section.problem(name, message),
        }
    }
    resource
}

fn attribute(
    mut section: Section<'_, '_, '_>,
    node: Option<&Node>,
) -> Option<(String, Option<Attribute>)> {
    let name = section.text("name", "name of the attribute", "required");
    let kind = section.text(
        "type",
        "string, bool, int, double, or one of these with _array behind it",
        "as the value is written",
    );
    let value = node.and_then(|node| node.get("value"));
    section.note_key("value", "any", "its value; null takes the attribute away");
    let read = match value.filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => typed(value, kind.as_deref()).map(Some),
    };
    if section.is_present() && name.is_none() {
        section.problem("", "an attribute has a `name` and a `value`");
    }
    let read = read
        .map_err(|message| section.problem("value", message))
        .ok();
    section.finish();
    name.zip(read)
}

fn typed(node: &Node, kind: Option<&str>) -> Result<Attribute, String> {
    let of = kind.and_then(|kind| kind.strip_suffix("_array"));
    match (&node.value, kind, of) {
        (Value::List(items), None, _) | (Value::List(items), _, Some(_)) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| typed(item, of)).collect();
            items.map(Attribute::List)
        }
        (Value::Scalar { text, style }, kind, None) => match kind {
            None if *style != Style::Plain => Ok(Attribute::Text(text.clone())),
            None => Ok(guessed(text)),
            Some("string") => Ok(Attribute::Text(text.clone())),
            Some("bool") => text
                .parse()
                .map(Attribute::Bool)
                .map_err(|_| "write true or false".to_owned()),
            Some("int") => text
                .parse()
                .map(Attribute::Int)
                .map_err(|_| "a whole number belongs here".to_owned()),
            Some("double") => text
                .parse()
                .map(Attribute::Double)
                .map_err(|_| "a number belongs here".to_owned()),
            Some(_) => Err("its type is not one of string, bool, int, double".to_owned()),
        },
        _ => Err("value and type do not fit".to_owned()),
    }
}

fn guessed(text: &str) -> Attribute {
    match text {
        "true" => Attribute::Bool(true),
        "false" => Attribute::Bool(false),
        _ => text
            .parse()
            .map(Attribute::Int)
            .or_else(|_| text.parse().map(Attribute::Double))
            .unwrap_or_else(|_| Attribute::Text(text.to_owned())),
    }
}

fn detection(mut section: Section<'_, '_, '_>, resource: &mut Resource) {
    {
        let mut section = section.sub("attributes");
        let about = "patterns (`*`, `?`) of detected names that are taken";
        resource
            .included
            .extend(section.texts("included", about, "all").unwrap_or_default());
        let about = "patterns of detected names that are left out";
        resource
            .excluded
            .extend(section.texts("excluded", about, "none").unwrap_or_default());
        section.finish();
    }
    section.note_key(
        "detectors",
        "list of words",
        "env, host, process, service: what is looked up at start",
    );
    for (index, item) in section.items("detectors").into_iter().enumerate() {
        // `- host` and `- host: {}` mean the same.
        let name = item
            .text()
            .or_else(|| item.entries().first().and_then(|(name, _)| name.text()))
            .unwrap_or_default();
        let found = match name {
            "env" => Ok(Detector::Env),
            "host" => Ok(Detector::Host),
            "process" => Ok(Detector::Process),
            "service" => Ok(Detector::Service),
            cloud if CLOUDS.contains(&cloud) => Err(format!(
                "the detector {cloud} is not supported, because it asks a service of the cloud at start; name the \
                 attributes yourself"
            )),
            "container" => Err(
                "the detector container is not supported, name container.id yourself".to_owned(),
            ),
            _ => Err("not one of env, host, process, service".to_owned()),
        };
        match found {
            Ok(detector) => resource.detectors.push(detector),
            Err(message) => section.problem("detectors", format!("[{index}] {message}")),
        }
    }
    section.finish();
}
