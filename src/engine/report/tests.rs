//! What the server reads of an agent.

use super::*;

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    attributes
        .iter()
        .map(|item| (item.key.as_str(), item.as_text().unwrap()))
        .collect()
}

// what the child calls itself in its own telemetry, unless the settings say otherwise; the uid is ours.
#[test]
fn child_and_supervisor_are_one_agent_with_one_uid() {
    let child = AgentDescription {
        identifying_attributes: vec![
            attribute("service.name", "otelcol"),
            attribute("service.instance.id", "the-childs-own"),
        ],
        non_identifying_attributes: vec![attribute("os.type", "linux")],
    };
    let host = BTreeMap::from([("host.name".to_owned(), "h1".to_owned())]);
    let mut settings = Description::default();
    let told = description("adjutant", &host, Some(&child), &settings, "ours");
    let wanted = BTreeMap::from([("service.instance.id", "ours"), ("service.name", "otelcol")]);
    assert_eq!(texts(&told.identifying_attributes), wanted);
    let wanted = BTreeMap::from([("host.name", "h1"), ("os.type", "linux")]);
    assert_eq!(texts(&told.non_identifying_attributes), wanted);

    settings
        .identifying
        .insert("service.name".to_owned(), "edge".to_owned());
    let told = description("adjutant", &host, Some(&child), &settings, "ours");
    assert_eq!(texts(&told.identifying_attributes)["service.name"], "edge");
    let told = description("adjutant", &host, None, &Description::default(), "ours");
    assert_eq!(
        texts(&told.identifying_attributes)["service.name"],
        "adjutant"
    );
}

//
#[test]
fn what_does_not_run_has_no_start_time_and_what_is_healthy_no_error() {
    let facts = |healthy, child_started| HealthFacts {
        healthy,
        status: "x",
        last_error: "exit code 1",
        child_started,
        at: WallTime::from_unix_millis(5),
        phase: "idle",
        rollout_healthy: true,
        rollout_error: "",
        rollout_attributes: Vec::new(),
        child: None,
        more: Vec::new(),
    };
    let down = health(&facts(false, None));
    assert_eq!(
        (down.start_time_unix_nano, down.last_error.as_str()),
        (0, "exit code 1")
    );
    let up = health(&facts(true, Some(WallTime::from_unix_millis(3))));
    assert_eq!(
        (up.start_time_unix_nano, up.last_error.as_str()),
        (3_000_000, "")
    );
}

//
#[test]
fn files_have_the_type_they_came_with_and_yaml_else() {
    let file = |path: &str, content_type: &str| RevisionFile {
        layer: LayerKind::Remote,
        path: path.to_owned(),
        source: path.to_owned(),
        content_type: content_type.to_owned(),
        bytes: b"a: 1".to_vec(),
    };
    let told = effective_config(&[file("a", ""), file("b", "application/json")]);
    let types: Vec<_> = told
        .config_map
        .unwrap()
        .config_map
        .into_values()
        .map(|file| file.content_type)
        .collect();
    assert_eq!(types, ["text/yaml", "application/json"]);
}

#[test]
fn secrets_of_a_child_whose_config_is_no_yaml_stay_on_the_host() {
    let cases = [
        ("vector.yaml", "sinks: {a: {default_api_key: hush}}\n"),
        (
            "vector.toml",
            "data_dir = \"/x\"\n[sinks.a]\nauth.password = \"hush\"\n",
        ),
        ("one.toml", "password = \"a: hush\"\n"),
        (
            "telegraf.conf",
            "[[outputs.influxdb_v2]]\n  token = \"hush\"\n",
        ),
        ("telegraf.conf", "a: 1\napi_key hush: x\n"),
        (
            "fluent-bit.conf",
            "[OUTPUT]\n  Name es\n  HTTP_Passwd hush\n",
        ),
        ("plain", "secret hush\n"),
    ];
    for (path, text) in cases {
        let file = RevisionFile {
            layer: LayerKind::Remote,
            path: path.to_owned(),
            source: path.to_owned(),
            content_type: String::new(),
            bytes: text.as_bytes().to_vec(),
        };
        let told = effective_config(&[file]).config_map.unwrap();
        let body = String::from_utf8_lossy(&told.config_map[path].body).into_owned();
        assert!(!body.contains("hush"), "{path}: {body}");
        assert!(body.contains("[REDACTED]"), "{path}: {body}");
    }
}
