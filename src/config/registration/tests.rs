//! Given settings and variables, when they are read, then one wins, contradictions are refused, and URLs come to what
//! the tables say.

use std::time::Duration;

use super::super::tests::Env;
use super::*;
use crate::config::{Config, Overrides, load};
use crate::units::TextSource;

fn read(text: &str, vars: &[(&'static str, &'static str)]) -> Result<Config, String> {
    let env = Env::rooted().with(vars);
    load("s.yaml", text, &env, &Overrides::default()).map_err(|errors| errors.to_string())
}

fn config(text: &str, vars: &[(&'static str, &'static str)]) -> Config {
    read(text, vars).unwrap_or_else(|errors| panic!("{errors}"))
}

const AGENT: &str = "agent: {executable: /bin/otelcol}\n";

#[test]
fn nothing_asks_for_a_registration_by_itself() {
    for vars in [
        &[][..],
        &[
            ("HOSTNAME", "h"),
            ("INSTANCE_ID", "i"),
            ("BACKEND_URL", "http://b:8000"),
        ],
        &[("REGISTRATION_TOKEN", " "), ("OPAMP_TOKEN", "")],
    ] {
        assert_eq!(config("", vars).registration, None, "{vars:?}");
    }
}

#[test]
#[cfg(not(feature = "registration"))]
fn a_build_without_registration_says_so() {
    for (text, vars) in [
        (
            "registration: {url: 'https://r', token_file: /t}\n",
            &[][..],
        ),
        (
            "",
            &[("BACKEND_URL", "https://b"), ("REGISTRATION_TOKEN", "t")],
        ),
    ] {
        let errors = read(text, vars).unwrap_err();
        assert!(errors.contains("this build cannot register"), "{errors}");
    }
    // A token that somebody else obtained needs no call.
    assert!(config("", &[("OPAMP_TOKEN", "t")]).registration.is_some());
}

#[test]
#[cfg(feature = "registration")]
fn keys_win_over_variables() {
    let vars = &[
        ("BACKEND_URL", "https://env:8000/"),
        ("INSTANCE_ID", "env-instance"),
        ("GATEWAY_NAME", "env-name"),
        ("IP_ADDRESS", "192.0.2.1"),
    ];
    let of_env = config("registration: {token_file: /t}\n", vars);
    let found = of_env.registration.unwrap();
    assert_eq!(found.url.as_deref(), Some("https://env:8000"));
    assert_eq!(found.instance_id.as_deref(), Some("env-instance"));
    assert_eq!(found.name.as_deref(), Some("env-name"));
    assert_eq!(found.ip_address.as_deref(), Some("192.0.2.1"));
    assert_eq!(found.token, TokenSource::File("/t".into()));
    assert_eq!(found.on_rejected, OnRejected::Hold);
    assert!(found.can_register());

    let text = "registration:
  url: https://key/api/v1/
  token_file: /t
  instance_id: key-instance
  name: 'a \"b\"'
  ip_address: 192.0.2.2
  metadata: {team: a}
  on_rejected: register
  tls: {ca_file: /ca.pem}
";
    let found = config(text, vars).registration.unwrap();
    assert_eq!(found.url.as_deref(), Some("https://key"));
    assert_eq!(found.instance_id.as_deref(), Some("key-instance"));
    assert_eq!(found.name.as_deref(), Some("a \"b\""));
    assert_eq!(found.ip_address.as_deref(), Some("192.0.2.2"));
    assert_eq!(found.metadata["team"], "a");
    assert_eq!(found.on_rejected, OnRejected::Register);
    assert_eq!(found.tls.ca, Some(TextSource::File("/ca.pem".into())));
}

#[test]
fn the_environment_alone_is_enough_in_both_forms() {
    let vars = &[
        ("OPAMP_SERVER_URL", "https://fleet:8000"),
        ("REGISTRATION_TOKEN", "planted"),
        ("HEARTBEAT_INTERVAL", "20"),
    ];
    for text in ["", AGENT] {
        let config = config(text, vars);
        let found = config.registration.unwrap();
        assert_eq!(found.url.as_deref(), Some("https://fleet:8000"), "{text}");
        assert_eq!(found.token, TokenSource::Environment);
        assert!(!format!("{found:?}").contains("planted"));
        let server = config.server.unwrap();
        assert_eq!(server.endpoint, "wss://fleet:8000/api/v1/opamp/v1/opamp");
        assert_eq!(server.heartbeat, Duration::from_secs(20));
    }
}

#[test]
fn a_seed_alone_is_a_registration_that_cannot_register() {
    let vars = &[("OPAMP_TOKEN", "planted"), ("OPAMP_WS_URL", "ws://fleet/x")];
    let config = config("", vars);
    let found = config.registration.unwrap();
    assert!(found.seed && !found.can_register());
    assert_eq!(config.server.unwrap().endpoint, "ws://fleet/x");
}

#[test]
fn the_endpoint_of_the_settings_wins_over_both_variables() {
    let vars = &[
        ("OPAMP_WS_URL", "ws://ws/x"),
        ("OPAMP_SERVER_URL", "http://server"),
    ];
    let endpoint = |text: &str, vars| config(text, vars).server.unwrap().endpoint;
    assert_eq!(
        endpoint("server: {endpoint: 'ws://key/y'}\n", vars),
        "ws://key/y"
    );
    assert_eq!(endpoint("", vars), "ws://ws/x");
    assert_eq!(
        endpoint("server: {heartbeat_interval: 5s}\n", &vars[1..]),
        "ws://server/api/v1/opamp/v1/opamp"
    );
    let interval = &[("HEARTBEAT_INTERVAL", "20"), ("OPAMP_WS_URL", "ws://ws")];
    let server = config("server: {heartbeat_interval: 5s}\n", interval).server;
    assert_eq!(server.unwrap().heartbeat, Duration::from_secs(5));
}

#[test]
fn an_authorization_that_came_out_empty_makes_room_for_the_token() {
    let text = format!(
        "{AGENT}server: {{endpoint: 'ws://h', headers: {{Authorization: 'Bearer ${{env:OPAMP_TOKEN}}', X: y}}}}\n"
    );
    let registering = &[("REGISTRATION_TOKEN", "r"), ("BACKEND_URL", "https://b")];
    let server = config(&text, registering).server.unwrap();
    assert!(!server.has_own_authorization());
    assert_eq!(server.headers.len(), 1);
    let with_token = &[("OPAMP_TOKEN", "o")];
    assert!(
        config(&text, with_token)
            .server
            .unwrap()
            .has_own_authorization()
    );
    // Without a registration the header is sent as it is written.
    assert!(config(&text, &[]).server.unwrap().has_own_authorization());
}

#[test]
fn contradictions_and_mistakes_are_one_sentence_each() {
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let cases: [Case; 14] = [
        (
            "registration: {url: 'https://b', token_file: /t}\n",
            &[("REGISTRATION_TOKEN", "planted")],
            "s.yaml: registration.token_file names /t and the variable REGISTRATION_TOKEN is set too; keep one of them",
        ),
        (
            "registration: {token_file: /t}\n",
            &[],
            "s.yaml: there is a registration token but no service to register with; set registration.url or BACKEND_URL",
        ),
        (
            "registration: {url: 'ws://b', token_file: /t}\n",
            &[],
            "s.yaml:1:21: registration.url: begin the URL with http:// or https://",
        ),
        (
            "registration: {url: 'https://u:p@b', token_file: /t}\n",
            &[],
            "s.yaml:1:21: registration.url: no user or password in a URL",
        ),
        (
            "registration: {url: 'https://b?token=planted', token_file: /t}\n",
            &[],
            "s.yaml:1:21: registration.url: no query and no fragment here; a token in a URL ends up in logs",
        ),
        (
            "registration: {url: 'https://', token_file: /t}\n",
            &[],
            "s.yaml:1:21: registration.url: a URL with a host belongs here",
        ),
        (
            "registration: {url: 'https://b', token_file: t}\n",
            &[],
            "s.yaml:1:46: registration.token_file: not an absolute path, begin it with `/`",
        ),
        (
            "registration: {url: 'https://b', token: x}\n",
            &[],
            "s.yaml:1:34: registration.token: unknown key, known here: instance_id, ip_address, metadata, name, on_rejected, \
             tls, token_file, url",
        ),
        (
            "registration: {url: 'https://b', name: \"a\\nb\"}\n",
            &[],
            "s.yaml:1:40: registration.name: a text of 1 to 255 characters without line breaks belongs here",
        ),
        (
            "",
            &[("REGISTRATION_TOKEN", "r"), ("BACKEND_URL", "ftp://b")],
            "the variable BACKEND_URL: begin the URL with http:// or https://",
        ),
        (
            "",
            &[("USE_SUPERVISOR", "false")],
            "the variable USE_SUPERVISOR: asks for a collector that speaks to the server by itself; adjutant is always \
             the supervisor, unset the variable or start the collector without adjutant",
        ),
        (
            "",
            &[("HEARTBEAT_INTERVAL", "0"), ("OPAMP_WS_URL", "ws://h")],
            "the variable HEARTBEAT_INTERVAL: a whole number of seconds from 1 to 3600 belongs here",
        ),
        (
            "",
            &[("OPAMP_WS_URL", "tcp://h")],
            "the variable OPAMP_WS_URL: begin the URL with ws://, wss://, http:// or https://",
        ),
        (
            "agents: {a: {policy: {environment: [HOME, OPAMP_TOKEN]}}}\n",
            &[],
            "s.yaml:1:43: agents.a.policy.environment[1]: OPAMP_TOKEN holds a secret of ours and is given to no child, \
             remove it",
        ),
    ];
    for (text, vars, wanted) in cases {
        let errors = read(text, vars).expect_err(wanted);
        assert_eq!(errors, wanted);
    }
}

#[test]
fn what_is_not_ideal_is_a_warning() {
    let warnings = |text: &str, vars| config(text, vars).warnings;
    let plain = warnings(
        "registration: {url: 'http://b:8000', token_file: /t}\n",
        &[],
    );
    assert!(plain[0].contains("travels readable"), "{plain:?}");
    for url in ["https://b", "http://localhost:8000", "http://[::1]:8000"] {
        let text = format!("registration: {{url: '{url}', token_file: /t}}\n");
        assert_eq!(warnings(&text, &[]), Vec::<String>::new(), "{url}");
    }
    let tokenless = warnings("registration: {url: 'https://b'}\n", &[]);
    assert!(
        tokenless[0].contains("no token to register with"),
        "{tokenless:?}"
    );
    let file = &[
        ("CONFIG_FILE", "/etc/otelcol/config.yaml"),
        ("OPAMP_TOKEN", "o"),
    ];
    assert!(warnings("", file)[0].contains("CONFIG_FILE is set and not used"));
}

#[test]
fn the_address_of_a_server_comes_to_a_socket() {
    let cases = [
        (
            "http://backend:8000",
            Ok("ws://backend:8000/api/v1/opamp/v1/opamp"),
        ),
        (
            "http://backend:8000/",
            Ok("ws://backend:8000/api/v1/opamp/v1/opamp"),
        ),
        ("https://backend", Ok("wss://backend/api/v1/opamp/v1/opamp")),
        ("https://h/flow/", Ok("wss://h/flow/api/v1/opamp/v1/opamp")),
        ("ws://h:4320", Ok("ws://h:4320/api/v1/opamp/v1/opamp")),
        ("ws://h:4320/v1/opamp", Ok("ws://h:4320/v1/opamp")),
        ("wss://h/own/path/", Ok("wss://h/own/path")),
        (
            "http://h:4320/api/v1/opamp",
            Ok("ws://h:4320/api/v1/opamp/v1/opamp"),
        ),
        (
            "http://h:4320/api/v1/opamp/",
            Ok("ws://h:4320/api/v1/opamp/v1/opamp"),
        ),
        (
            "wss://h:443/api/v1/opamp/v1/opamp",
            Ok("wss://h:443/api/v1/opamp/v1/opamp"),
        ),
        ("http://h/v1/opamp", Ok("ws://h/v1/opamp")),
        (
            "http://[::1]:8000",
            Ok("ws://[::1]:8000/api/v1/opamp/v1/opamp"),
        ),
        (" http://h ", Ok("ws://h/api/v1/opamp/v1/opamp")),
        (
            "backend:8000",
            Err("begin the URL with http:// or https://"),
        ),
        ("http:///x", Err("a URL with a host belongs here")),
        ("http://a b", Err("a URL with a host belongs here")),
        (
            "http://h?token=t",
            Err("no query and no fragment here; a token in a URL ends up in logs"),
        ),
    ];
    for (text, wanted) in cases {
        let wanted = wanted.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(opamp_url(text), wanted, "{text}");
    }
}

#[test]
fn a_returned_endpoint_is_used_only_if_it_can_be_meant() {
    let cases = [
        ("https://fleet:4320/api/v1/opamp", "https://fleet", true),
        ("https://other:4320", "https://fleet", true),
        ("http://fleet:4320", "https://fleet", false),
        ("http://fleet:4320", "http://fleet:8000", true),
        ("http://other:4320", "http://fleet:8000", false),
        (
            "http://0.0.0.0:4320/api/v1/opamp",
            "http://fleet:8000",
            false,
        ),
        ("http://[::]:4320", "http://fleet:8000", false),
        ("https://0.0.0.0:4320", "https://fleet", false),
        ("localhost", "http://fleet", false),
        ("", "http://fleet", false),
    ];
    for (text, service, used) in cases {
        let found = returned_endpoint(text, service);
        assert_eq!(found.is_ok(), used, "{text} of {service}: {found:?}");
    }
    assert_eq!(
        returned_endpoint("http://fleet:4321/api/v1/opamp", "http://fleet:8000"),
        Ok("ws://fleet:4321/api/v1/opamp/v1/opamp".to_owned())
    );
}

#[test]
fn every_variable_is_in_the_manual_and_the_other_way_round() {
    let manual = include_str!("../../../docs/registration.md");
    let documented: Vec<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(documented, VARIABLES);
}
