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

fn number(key: &str, value: i64) -> KeyValue {
    let value = AnyValue {
        value: Some(any_value::Value::IntValue(value)),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(value),
    }
}

fn part(healthy: bool, status: &str, error: &str, attributes: Vec<KeyValue>) -> ComponentHealth {
    ComponentHealth {
        healthy,
        status: status.to_owned(),
        last_error: error.to_owned(),
        attributes,
        ..ComponentHealth::default()
    }
}

fn with(mut parent: ComponentHealth, parts: Vec<(&str, ComponentHealth)>) -> ComponentHealth {
    for (name, part) in parts {
        parent.component_health_map.insert(name.to_owned(), part);
    }
    parent
}

#[test]
fn health_tree_holds_the_childs_parts_the_rollout_and_what_is_of_the_host() {
    let child = with(
        part(true, "up", "", vec![]),
        vec![
            ("exporter", part(false, "down", "no route", vec![])),
            (
                "rollout",
                part(false, "the childs own", "is replaced", vec![]),
            ),
        ],
    );
    let told = health(&HealthFacts {
        healthy: false,
        status: "held",
        last_error: " bell\u{7} and\ttab\n",
        child_started: Some(WallTime::from_unix_millis(2)),
        at: WallTime::from_unix_millis(7),
        phase: "probation",
        rollout_healthy: false,
        rollout_error: "frozen\u{1b}",
        rollout_attributes: vec![("adjutant.revision", "1-2".to_owned())],
        child: Some(&child),
        more: vec![("clock".to_owned(), part(true, "well", "", vec![]))],
    });
    let at = 7_000_000;
    let rollout = ComponentHealth {
        status_time_unix_nano: at,
        ..part(
            false,
            "probation",
            "frozen",
            vec![attribute("adjutant.revision", "1-2")],
        )
    };
    let wanted = ComponentHealth {
        start_time_unix_nano: 2_000_000,
        status_time_unix_nano: at,
        ..with(
            part(false, "held", "bell and\ttab", vec![]),
            vec![
                ("exporter", part(false, "down", "no route", vec![])),
                ("rollout", rollout),
                ("clock", part(true, "well", "", vec![])),
            ],
        )
    };
    assert_eq!(told, wanted);
}

#[test]
fn parts_of_a_child_are_shown_by_path_with_their_words_and_numbers() {
    let numbers = vec![
        attribute("adjutant.state", "degraded"),
        number("adjutant.records.received", 7),
        number("adjutant.records.delivered", 6),
        number("adjutant.records.pending", 0),
        number("adjutant.records.dropped", -1),
        attribute("adjutant.queue.percent", "50"),
        number("adjutant.unknown", 3),
        number("acknowledged.unix_ms", 9),
    ];
    let child = with(
        part(false, "", "", vec![]),
        vec![
            (
                "a",
                with(
                    part(true, "ok", "", numbers),
                    vec![
                        ("b", part(false, "words", "error words", vec![])),
                        ("c", part(false, "only words", "", vec![])),
                    ],
                ),
            ),
            ("z", part(false, "", "", vec![])),
        ],
    );
    let shown = |healthy, state: &str, words: &str, numbers: &[(&'static str, u64)]| PartSnapshot {
        healthy,
        state: state.to_owned(),
        words: words.to_owned(),
        numbers: numbers.iter().copied().collect(),
    };
    let counted = [
        ("records.received", 7),
        ("records.delivered", 6),
        ("records.pending", 0),
    ];
    let wanted = [
        ("a", shown(true, "degraded", "ok", &counted)),
        ("a/b", shown(false, "", "error words", &[])),
        ("a/c", shown(false, "", "only words", &[])),
        ("z", shown(false, "", "", &[])),
    ];
    let wanted = wanted.map(|(path, part)| (path.to_owned(), part));
    assert_eq!(components(Some(&child)), BTreeMap::from(wanted));
    assert_eq!(components(None), BTreeMap::new());
    assert_eq!(first_error(&child).as_deref(), Some("a/b: error words"));
    let own = part(false, "", "its own", vec![]);
    assert_eq!(first_error(&own).as_deref(), Some("its own"));
    let well = with(
        part(true, "", "", vec![]),
        vec![
            ("a", part(true, "fine", "", vec![])),
            ("b", part(false, "", "", vec![])),
        ],
    );
    assert_eq!(first_error(&well), None);
}

#[test]
fn health_trees_are_cut_at_their_limits() {
    let wide = |parts: usize| {
        let mut child = part(true, "", "", vec![]);
        for number in 0..parts {
            let name = format!("{number:03}");
            child
                .component_health_map
                .insert(name, part(true, "", "", vec![]));
        }
        child
    };
    assert_eq!(components(Some(&wide(256))).len(), 256);
    assert_eq!(components(Some(&wide(257))).len(), 256);
    let under = with(
        part(true, "", "", vec![]),
        vec![("0", wide(255)), ("1", wide(3))],
    );
    let shown = components(Some(&under));
    assert_eq!((shown.len(), shown.contains_key("1")), (256, false));
    let mut deep = part(true, "", "", vec![]);
    for _ in 0..20 {
        deep = with(part(true, "", "", vec![]), vec![("d", deep)]);
    }
    let shown = components(Some(&deep));
    assert_eq!(
        shown.keys().map(|path| path.matches('d').count()).max(),
        Some(16)
    );
    let facts = HealthFacts {
        healthy: true,
        status: "",
        last_error: "",
        child_started: None,
        at: WallTime::from_unix_millis(0),
        phase: "",
        rollout_healthy: true,
        rollout_error: "",
        rollout_attributes: Vec::new(),
        child: Some(&wide(300)),
        more: Vec::new(),
    };
    assert_eq!(health(&facts).component_health_map.len(), 257);
}

#[test]
fn texts_that_leave_the_host_are_cut_between_characters() {
    let long = "x".repeat(ERROR_BYTES_MAX);
    assert_eq!(bounded(&long), long);
    assert_eq!(bounded(&format!("{long}y")), format!("{long}…"));
    let odd = "ä".repeat(ERROR_BYTES_MAX);
    assert_eq!(
        bounded(&odd),
        format!("{}…", "ä".repeat(ERROR_BYTES_MAX / 2))
    );
    let odd = format!("x{odd}");
    assert_eq!(
        bounded(&odd),
        format!("x{}…", "ä".repeat(ERROR_BYTES_MAX / 2 - 1))
    );
    assert_eq!(bounded(" a\0b\r\n\tc\u{7f} \n"), "ab\n\tc");
}

#[test]
fn effective_config_is_what_runs_without_the_marker_within_its_budget() {
    let file = |path: &str, layer, bytes: &[u8]| RevisionFile {
        layer,
        path: path.to_owned(),
        source: path.to_owned(),
        content_type: String::new(),
        bytes: bytes.to_vec(),
    };
    let told = |files: &[RevisionFile]| -> Vec<(String, usize)> {
        let told = effective_config(files).config_map.unwrap().config_map;
        told.into_iter()
            .map(|(name, file)| (name, file.body.len()))
            .collect()
    };
    let named = |names: &[(&str, usize)]| -> Vec<(String, usize)> {
        names
            .iter()
            .map(|(name, size)| ((*name).to_owned(), *size))
            .collect()
    };
    let files = [
        file("a", LayerKind::Local, b"a: 1"),
        file("b", LayerKind::Remote, &[0xff, 0xfe]),
        file("c", LayerKind::Generated, b"c: 11"),
        file("m", LayerKind::Marker, b"m: 1"),
    ];
    assert_eq!(told(&files), named(&[("a", 4), ("c", 5)]));
    let all = vec![b'#'; EFFECTIVE_BYTES_MAX];
    let files = [
        file("all", LayerKind::Local, &all[..EFFECTIVE_BYTES_MAX - 4]),
        file("fits", LayerKind::Local, b"a: 1"),
        file("empty", LayerKind::Local, b""),
        file("more", LayerKind::Local, b"a"),
        file("none", LayerKind::Local, b""),
    ];
    let wanted = [("all", EFFECTIVE_BYTES_MAX - 4), ("empty", 0), ("fits", 4)];
    assert_eq!(told(&files), named(&wanted));
}

#[test]
fn childs_own_effective_config_is_redacted_again() {
    let file = |text: &str| AgentConfigFile {
        body: text.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    let effective = |text: &str| EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(String::new(), file(text))].into(),
        }),
    };
    let told = redacted(&effective("a: {api_key: hush}\n"));
    let body = &told.config_map.as_ref().unwrap().config_map[""];
    let text = String::from_utf8_lossy(&body.body);
    assert_eq!(
        (text.as_ref(), body.content_type.as_str()),
        ("a: {api_key: [REDACTED]}\n", "text/yaml")
    );
    let nothing = EffectiveConfig { config_map: None };
    assert_eq!(redacted(&nothing).config_map.unwrap().config_map.len(), 0);
}

#[test]
fn outcome_of_an_offer_is_told_in_the_protocols_words() {
    for (outcome, status) in [
        (Outcome::Applied, 1),
        (Outcome::Applying, 2),
        (Outcome::Failed, 3),
    ] {
        let told = remote_config_status(&RemoteStatus {
            offer: crate::units::OfferHash::new(vec![1, 2]),
            outcome,
            message: "why\u{0}".to_owned(),
        });
        let wanted = RemoteConfigStatus {
            last_remote_config_hash: vec![1, 2],
            status,
            error_message: "why".to_owned(),
        };
        assert_eq!(told, wanted);
    }
    let uid = [
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 2, 3, 4, 5, 6, 7, 8,
    ];
    assert_eq!(uid_text(uid), "01234567-89ab-cdef-0102-030405060708");
}

#[test]
fn names_without_an_end_and_json_are_read_as_yaml() {
    for (name, yaml) in [
        ("a", true),
        ("a.yaml", true),
        ("a.YML", true),
        ("dir.x/a.json", true),
        ("a.toml", false),
        ("a.yaml.conf", false),
        (".yaml", true),
    ] {
        assert_eq!(is_yaml(name), yaml, "{name}");
    }
}
