//! Layers, secrets, and the keys that are explained.

use super::super::tests::Env;
use super::*;
use crate::config::{Form, keys};

fn explained(text: &str, env: &Env) -> Vec<Explained> {
    explain(Some(("s.yaml", text)), env, &Overrides::default())
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn of<'a>(all: &'a [Explained], key: &str) -> (&'a str, String) {
    let one = all.iter().find(|it| it.key == key);
    let one = one.unwrap_or_else(|| panic!("no key {key}"));
    (one.value.as_str(), one.decided_by.to_string())
}

#[test]
fn every_value_has_the_layer_that_decided_it() {
    let env = Env::rooted().with(&[("OPAMP_SERVER_URL", "wss://fleet.example/x"), ("A", "1")]);
    let text = "agents:\n  web.a:\n    profile: otelcol\n    executable: /bin/otelcol\n    args: [--a, '${env:A}']\n    \
                env: {KEY: hush}\n    apply:\n      probation: 10s\n";
    let all = explained(text, &env);
    let place = |line: u32, column: u32| format!("s.yaml:{line}:{column}");
    assert_eq!(
        of(&all, "agents.web.a.apply.probation"),
        ("10s", place(8, 18))
    );
    assert_eq!(
        of(&all, "agents.web.a.args"),
        ("[--a, ${env:A}]", place(5, 11))
    );
    assert_eq!(
        of(&all, "agents.web.a.env"),
        ("{KEY: [REDACTED]}", place(6, 10))
    );
    assert_eq!(of(&all, "stop.grace"), ("7s", "default".to_owned()));
    let server = ("wss://fleet.example/x", "$OPAMP_SERVER_URL".to_owned());
    assert_eq!(of(&all, "server.endpoint"), server);
    let over = Overrides {
        storage: Some("/elsewhere".into()),
        ..Overrides::default()
    };
    let all = explain(None, &env, &over).unwrap();
    let storage = ("/elsewhere", "--state-dir".to_owned());
    assert_eq!(of(&all, "storage.directory"), storage);
}

#[test]
fn nothing_secret_is_shown() {
    let text = "server:\n  endpoint: 'wss://fleet.example/v1?key=hush1'\n  headers: {Authorization: Bearer hush2, \
                X: [hush3]}\nagents: {a: {profile: otelcol, executable: /bin/otelcol, env: {K: hush4}, args: [--url, \
                'https://fleet.example/?key=hush7', --password, hush8, --api-key=hush9, 'x postgres://u:hush0@db']}}\n";
    let env = Env::rooted().with(&[
        ("OPAMP_TOKEN", "hush5"),
        ("BACKEND_URL", "http://fleet.example"),
    ]);
    let all = explained(text, &env);
    let shown = format!("{all:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert_eq!(of(&all, "server.endpoint").0, "wss://fleet.example/v1");
}

#[test]
fn a_registration_token_of_the_environment_is_not_shown() {
    let env = Env::rooted().with(&[
        ("REGISTRATION_TOKEN", "hush"),
        ("BACKEND_URL", "http://fleet.example"),
    ]);
    let all = explain(None, &env, &Overrides::default()).unwrap();
    let shown = format!("{all:?}");
    assert!(!shown.contains("hush"), "{shown}");
    let token = of(&all, "registration.token_file");
    assert_eq!(token, (REDACTED, "$REGISTRATION_TOKEN".to_owned()));
}

#[test]
fn the_other_form_names_the_defaults_that_differ() {
    let text = "server: {endpoint: 'ws://h'}\nagent: {executable: /bin/otelcol}\n";
    let all = explained(text, &Env::rooted());
    let differing: Vec<_> = all
        .iter()
        .filter_map(|it| Some((it.key.as_str(), it.about.default.as_str(), it.theirs?)))
        .collect();
    assert_eq!(
        differing,
        [
            ("agent.validate_config", "true", "false"),
            ("agent.automatic_config_rollback", "true", "false"),
            (
                "agent.collector_crash_log_snippet_kib",
                "2 KiB, 8 lines",
                "0"
            ),
            ("telemetry.logs.output_paths", "stderr", "stdout"),
        ]
    );
}

#[test]
fn exactly_the_documented_keys_are_explained() {
    for (form, text) in [
        (Form::Agents, "agents: {collector: {}}\n"),
        (
            Form::Agent,
            "server: {endpoint: 'ws://h'}\nagent: {executable: /bin/otelcol}\n",
        ),
    ] {
        let mut all: Vec<String> = explained(text, &Env::rooted())
            .into_iter()
            .map(|it| it.about.path)
            .collect();
        let mut documented: Vec<String> = keys(form).into_iter().map(|key| key.path).collect();
        // Names that nobody chose are not there to be explained.
        documented.retain(|key| !key.starts_with("certificates."));
        all.retain(|key| !key.starts_with("certificates."));
        all.sort();
        documented.sort();
        assert_eq!(all, documented);
    }
}

#[test]
fn settings_that_are_refused_are_not_explained() {
    let refused = explain(
        Some(("s.yaml", "stop: {grace: 7}\n")),
        &Env::rooted(),
        &Overrides::default(),
    );
    let said = refused.unwrap_err().to_string();
    assert!(said.starts_with("s.yaml:1:15: stop.grace: "), "{said}");
}
