//! Who sends: the attributes of the settings over those that are looked up over our own.
//!
//! Promises: as the declarative configuration has it; what a pattern leaves out is not sent. Nothing asks the network.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::encode::{Sender, pair};
use crate::config::telemetry::{self as settings, Attribute, Detector};

/// Where attributes are looked up.
pub(crate) struct Known<'a> {
    /// The name of the service unless somebody says otherwise.
    pub(crate) service: &'a str,
    /// Our own instance.
    pub(crate) instance: &'a str,
    /// Facts of the host by their OpenTelemetry names.
    pub(crate) facts: &'a BTreeMap<String, String>,
    /// The environment.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Builds the sender of all that we send.
pub(super) fn sender(settings: &settings::Resource, known: &Known<'_>) -> Sender {
    let mut attributes: BTreeMap<String, Value> = BTreeMap::new();
    for detector in &settings.detectors {
        let found = detected(*detector, known).into_iter();
        attributes.extend(found.filter(|(name, _)| is_taken(settings, name)));
    }
    let own = [
        ("service.name", known.service),
        ("service.instance.id", known.instance),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let env = settings.detectors.contains(&Detector::Env);
    for (name, value) in own {
        // OTEL_SERVICE_NAME is there to name the service.
        if !(env && name == "service.name" && attributes.contains_key(name)) {
            attributes.insert(name.to_owned(), text(value));
        }
    }
    for (name, value) in &settings.attributes {
        match value {
            Some(value) => attributes.insert(name.clone(), printed(value)),
            None => attributes.remove(name),
        };
    }
    let attributes = attributes
        .into_iter()
        .map(|(name, value)| pair(&name, value));
    Sender {
        resource: Resource {
            attributes: attributes.collect(),
            ..Resource::default()
        },
        schema_url: settings.schema_url.clone(),
    }
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

fn detected(detector: Detector, known: &Known<'_>) -> Vec<(String, Value)> {
    match detector {
        Detector::Env => {
            let listed = (known.variable)("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
            // What cannot be read is left out, as with every fact.
            let mut pairs = settings::list(&listed).unwrap_or_default();
            let service = (known.variable)("OTEL_SERVICE_NAME").filter(|name| !name.is_empty());
            pairs.extend(service.map(|name| ("service.name".to_owned(), name)));
            pairs
                .into_iter()
                .map(|(name, value)| (name, Value::StringValue(value)))
                .collect()
        }
        Detector::Host => {
            let facts = known.facts.iter();
            let host =
                facts.filter(|(name, _)| name.starts_with("host.") || name.starts_with("os."));
            host.map(|(name, value)| (name.clone(), text(value)))
                .collect()
        }
        Detector::Process => {
            let path = std::env::current_exe().unwrap_or_default();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            vec![
                (
                    "process.pid".to_owned(),
                    Value::IntValue(i64::from(std::process::id())),
                ),
                (
                    "process.executable.path".to_owned(),
                    text(&path.to_string_lossy()),
                ),
                (
                    "process.executable.name".to_owned(),
                    text(&name.unwrap_or_default()),
                ),
            ]
        }
        Detector::Service => Vec::new(),
    }
}

fn is_taken(settings: &settings::Resource, name: &str) -> bool {
    let fits = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
    (settings.included.is_empty() || fits(&settings.included)) && !fits(&settings.excluded)
}

/// `*` stands for any text and `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // For each beginning of the name: whether the pattern so far fits it.
    let mut fits: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for step in pattern {
        let mut next = vec![false; fits.len()];
        let mut before = false;
        for (at, here) in next.iter_mut().enumerate() {
            let fit = fits.get(at).copied().unwrap_or_default();
            let previous = at.checked_sub(1);
            *here = if step == '*' {
                fit || before
            } else {
                let last = previous.and_then(|at| name.get(at));
                let fitted = previous
                    .and_then(|at| fits.get(at))
                    .copied()
                    .unwrap_or_default();
                fitted && last.is_some_and(|c| step == '?' || step == *c)
            };
            before = *here;
        }
        fits = next;
    }
    fits.last().copied().unwrap_or_default()
}

fn printed(value: &Attribute) -> Value {
    match value {
        Attribute::Text(value) => text(value),
        Attribute::Bool(value) => Value::BoolValue(*value),
        Attribute::Int(value) => Value::IntValue(*value),
        Attribute::Double(value) => Value::DoubleValue(*value),
        Attribute::List(values) => {
            let values = values.iter().map(|value| AnyValue {
                value: Some(printed(value)),
            });
            Value::ArrayValue(ArrayValue {
                values: values.collect(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(resource: &settings::Resource) -> BTreeMap<String, Value> {
        let facts: BTreeMap<String, String> = [
            ("host.name".to_owned(), "box".to_owned()),
            ("host.id".to_owned(), "7".to_owned()),
            ("k8s.pod.name".to_owned(), "p".to_owned()),
        ]
        .into();
        let known = Known {
            service: "opamp-supervisor",
            instance: "uid",
            facts: &facts,
            variable: &|name| match name {
                "OTEL_RESOURCE_ATTRIBUTES" => Some("deployment.environment=a%20b,x=y".to_owned()),
                _ => None,
            },
        };
        let attributes = sender(resource, &known).resource.attributes;
        attributes
            .into_iter()
            .map(|pair| (pair.key, pair.value.unwrap().value.unwrap()))
            .collect()
    }

    #[test]
    fn the_service_is_always_named_and_settings_win() {
        let plain = sent(&settings::Resource::default());
        assert_eq!(plain.get("service.name"), Some(&text("opamp-supervisor")));
        assert_eq!(plain.get("service.instance.id"), Some(&text("uid")));
        let given = sent(&settings::Resource {
            attributes: vec![
                (
                    "service.name".to_owned(),
                    Some(Attribute::Text("mine".to_owned())),
                ),
                ("service.version".to_owned(), None),
            ],
            ..settings::Resource::default()
        });
        assert_eq!(given.get("service.name"), Some(&text("mine")));
        assert_eq!(given.get("service.version"), None);
    }

    #[test]
    fn detected_attributes_pass_the_patterns() {
        let found = sent(&settings::Resource {
            detectors: vec![Detector::Env, Detector::Host, Detector::Process],
            included: vec!["host.*".to_owned(), "deployment.*".to_owned()],
            excluded: vec!["host.i?".to_owned()],
            ..settings::Resource::default()
        });
        assert_eq!(found.get("host.name"), Some(&text("box")));
        assert_eq!(found.get("deployment.environment"), Some(&text("a b")));
        for left_out in ["host.id", "x", "process.pid", "k8s.pod.name"] {
            assert_eq!(found.get(left_out), None, "{left_out}");
        }
    }

    #[test]
    fn patterns_have_stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**", "x", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
