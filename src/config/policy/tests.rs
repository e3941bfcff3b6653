//! Tables of offered files and what is refused in them.

use super::*;
use crate::config::profile;
use crate::yaml::Limits;

mod programs;

fn profile(name: &str) -> Profile {
    let (profiles, errors) = profile::all(None, &crate::config::tests::Env::default());
    assert_eq!(errors, []);
    profiles.get(name).unwrap().clone()
}

fn judged(profile: &Profile, policy: &Policy, text: &str) -> Vec<String> {
    let rules = Rules {
        profile,
        policy,
        reserved_ports: &[4320],
    };
    judge_file("f.yaml", text.as_bytes(), rules)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn denied_components_are_found_however_they_are_written() {
    let otelcol = profile("otelcol");
    let denied = |at: &str, name: &str| {
        format!(
            "f.yaml:{at}: {name:?} is denied, an operator can allow it under policy.allow_components"
        )
    };
    let cases = [
        (
            "receivers:\n  exec:\n    command: ls\n",
            vec![denied("2:3", "exec")],
        ),
        (
            "receivers: {exec/foo: {command: ls}}",
            vec![denied("1:13", "exec")],
        ),
        (
            "receivers:\n  \"exec/x\": {command: ls}\n",
            vec![denied("2:3", "exec")],
        ),
        (
            "\"receivers\" : { 'exec' : {} }\n",
            vec![denied("1:17", "exec")],
        ),
        (
            "\"rece\\u0069vers\": {\"ex\\u0065c\": {}}\n",
            vec![denied("1:20", "exec")],
        ),
        (
            "receivers: {! exec: {}}",
            vec!["f.yaml:1:15: the tag \"!\" is not supported".to_owned()],
        ),
        ("receivers: {!!str exec: {}}", vec![denied("1:19", "exec")]),
        ("receivers: {exec /x: {}}", vec![denied("1:13", "exec")]),
        (
            "x: &x {exec: {}}\nreceivers: *x\n",
            vec![denied("1:8", "exec")],
        ),
        (
            "x: &x {exec: {}}\nreceivers: {<<: *x}\n",
            vec![denied("1:8", "exec")],
        ),
        (
            "extensions: {fluentbit: {}}\n",
            vec![denied("1:14", "fluentbit")],
        ),
        (
            "receivers: {journald: {journalctl_path: /tmp/x}}",
            vec![denied("1:24", "journald.journalctl_path")],
        ),
        (
            "receivers: {receiver_creator: {receivers: {exec/a: {rule: x}}}}",
            vec![denied("1:44", "exec")],
        ),
        (
            "receivers::exec::command: ls\n",
            vec!["f.yaml:1:1: a key with `::` hides what it names, write nested maps".to_owned()],
        ),
        (
            "receivers: {\"exec::command\": ls}\n",
            vec!["f.yaml:1:13: a key with `::` hides what it names, write nested maps".to_owned()],
        ),
        (
            "receivers: ${file:/x}\n",
            vec!["f.yaml:1:12: a section may not come from an expansion, write it out".to_owned()],
        ),
        (
            "receivers: {a: \"${file:/x}\"}\n",
            vec![
                "f.yaml:1:16: a component may not come from an expansion, write it out".to_owned(),
            ],
        ),
        (
            "${file:/x}\n",
            vec!["f.yaml:1:1: the config is not a map".to_owned()],
        ),
        ("RECEIVERS: {exec: {}}", vec![denied("1:13", "exec")]),
        ("receiver\u{17f}: {exec: {}}", vec![denied("1:13", "exec")]),
        (
            "# comment\rreceivers: {exec: {}}",
            vec![denied("2:13", "exec")],
        ),
        (
            "# comment\u{2028}receivers: {exec: {}}",
            vec!["f.yaml: U+2028 ends a line for some readers only, remove it".to_owned()],
        ),
        (
            "receivers: {journald: {Journalctl_Path: /tmp/x}}",
            vec![denied("1:24", "journald.journalctl_path")],
        ),
        (
            "# exec: command\nreceivers: {otlp: {note: 'exec: command:'}}\n",
            vec![],
        ),
        (
            "receivers: {execution: {}, journald: {directory: /x}}\nservice: {pipelines: {logs: {receivers: \
            [exec]}}}\n",
            vec![],
        ),
        ("", vec![]),
    ];
    for (text, wanted) in cases {
        assert_eq!(judged(&otelcol, &Policy::default(), text), wanted, "{text}");
    }
}

#[test]
fn an_operator_can_widen_and_narrow_the_list() {
    let otelcol = profile("otelcol");
    let policy = Policy {
        denied_components: vec!["otlp".to_owned()],
        allowed_components: vec!["exec".to_owned()],
        ..Policy::default()
    };
    let refusals = judged(
        &otelcol,
        &policy,
        "receivers: {exec: {}, otlp: {}, jmx: {}}",
    );
    assert_eq!(refusals.len(), 2);
    assert!(
        refusals[0].starts_with("f.yaml:1:23: \"otlp\" is denied"),
        "{refusals:?}"
    );
    assert!(
        refusals[1].starts_with("f.yaml:1:33: \"jmx\" is denied"),
        "{refusals:?}"
    );
}

#[test]
fn other_configs_name_components_by_kind_or_type() {
    let adjutant = profile("adjutant");
    let refusals = judged(
        &adjutant,
        &Policy::default(),
        "sources:\n  a: {kind: \"exec\", command: [ls]}\n  b: {type: exec}\n  exec: {kind: host_metrics}\n",
    );
    assert_eq!(refusals.len(), 2);
    assert!(
        refusals[0].starts_with("f.yaml:2:13: \"exec\" is denied"),
        "{refusals:?}"
    );
    assert!(
        refusals[1].starts_with("f.yaml:3:13: \"exec\" is denied"),
        "{refusals:?}"
    );
    let generic = profile("generic");
    assert_eq!(
        judged(&generic, &Policy::default(), "a: {kind: exec}"),
        [""; 0]
    );
    let rules = Rules {
        profile: &generic,
        policy: &Policy::default(),
        reserved_ports: &[],
    };
    assert_eq!(
        judge_file("nginx.conf", b"server { listen 80; }", rules),
        []
    );
    assert_eq!(judge_file("table.csv", b"a,b\n\xff", rules), []);
}

#[test]
fn variables_are_closed_unless_the_policy_opens_them() {
    let otelcol = profile("otelcol");
    let policy = Policy {
        environment: vec!["NODE".to_owned()],
        ..Policy::default()
    };
    let closed = |at: &str, name: &str| {
        format!(
            "f.yaml:{at}: the variable {name:?} is not open to offers, list it under policy.environment"
        )
    };
    let cases = [
        ("a: ${env:NODE}/x\n", vec![]),
        ("a: ${NODE}\n", vec![]),
        ("a: ${env:NODE:-none}\n", vec![]),
        ("a: ${env:TOKEN}\n", vec![closed("1:4", "TOKEN")]),
        ("a: \"x${TOKEN:-y}\"\n", vec![closed("1:4", "TOKEN")]),
        ("a: ['$$${TOKEN}']\n", vec![closed("1:5", "TOKEN")]),
        (
            "a: ${env:${TOKEN}}\n",
            vec![closed("1:4", ""), closed("1:4", "TOKEN")],
        ),
        ("a: $${TOKEN} $1\n", vec![]),
        (
            "a: ${https://x/y}\n",
            vec!["f.yaml:1:4: `${https:…}` brings in a config that nobody judged".to_owned()],
        ),
        (
            "a: \"${yaml:{b: c}}\"\n",
            vec!["f.yaml:1:4: `${yaml:…}` brings in a config that nobody judged".to_owned()],
        ),
        ("a: ${file:/any/where}\n", vec![]),
    ];
    for (text, wanted) in cases {
        assert_eq!(judged(&otelcol, &policy, text), wanted, "{text}");
    }
}

#[test]
fn paths_and_ports_are_bound_where_the_operator_says_so() {
    let otelcol = profile("otelcol");
    let policy = Policy {
        path_roots: Some(vec![PathBuf::from("/var/log"), PathBuf::from("/data")]),
        ports: Some(vec![4317]),
        ..Policy::default()
    };
    let text = "receivers:\n  filelog: {include: [/var/log/a, /etc/shadow, /var/log/../../etc/x]}\n  \
                otlp: {protocols: {grpc: {endpoint: 0.0.0.0:4317}, http: {endpoint: localhost:4318}}}\n  \
                redis: {endpoint: db.example:6379}\n  admin: {endpoint: '[::1]:4320'}\n\
                exporters:\n  file: {path: /tmp/x}\n  prom: {metrics_path: /metrics, endpoint: 'http://x:9'}\n\
                x: {key_file: \"${file:/root/k}\"}\n";
    assert_eq!(
        judged(&otelcol, &policy, text),
        [
            "f.yaml:2:35: the path of \"include\" lies outside the allowed roots",
            "f.yaml:2:48: the path of \"include\" lies outside the allowed roots",
            "f.yaml:3:71: port 4318 is not among policy.ports",
            "f.yaml:5:21: port 4320 is taken by this supervisor or another of its agents",
            "f.yaml:7:16: the path of \"path\" lies outside the allowed roots",
            "f.yaml:9:15: `${file:…}` names a path outside the allowed roots",
        ]
    );
    let open = judged(&otelcol, &Policy::default(), text);
    assert_eq!(
        open,
        ["f.yaml:5:21: port 4320 is taken by this supervisor or another of its agents"]
    );
}

#[test]
fn what_does_not_parse_is_refused_and_the_list_of_refusals_is_short() {
    let otelcol = profile("otelcol");
    let judged = |body: &[u8]| {
        judge_file(
            "f",
            body,
            Rules {
                profile: &otelcol,
                policy: &Policy::default(),
                reserved_ports: &[],
            },
        )
    };
    assert_eq!(judged(b"a: \xff")[0].to_string(), "f: not UTF-8 text");
    assert_eq!(
        judged("[".repeat(100_000).as_bytes())[0].message,
        "nested deeper than 64 levels"
    );
    let many: Vec<String> = (0..1000).map(|i| format!("k{i}: ${{env:X{i}}}")).collect();
    assert_eq!(judged(many.join("\n").as_bytes()).len(), 20);
}
