//! One table of what can be wrong with settings, and what is said about it.

use super::super::documents;
use super::{Overrides, env, load};

fn problems(text: &str) -> Vec<String> {
    let errors = load("s.yaml", text, &env(), &Overrides::default()).unwrap_err();
    errors.all().iter().map(ToString::to_string).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn problems_name_place_key_and_remedy() {
    let cases: &[(&str, &[&str])] = &[
        (
            "agent: {executable: /x}\nagents: {}\n",
            &[
                "s.yaml:2:1: `agent:` is the form of the OpenTelemetry Collector's supervisor, `agents:` is \
                ours; keep one of them",
            ],
        ),
        (
            "agents:\n  web: {}\n  web: {}\n",
            &["s.yaml:3:3: the key \"web\" occurs twice, first at 2:3"],
        ),
        (
            "agents:\n  Web: {}\n",
            &[
                "s.yaml:2:8: agents.Web: agent name \"Web\" is not 1 to 63 of a-z 0-9 - _ . starting with a \
                letter or digit",
            ],
        ),
        (
            "agents:\n  a: {profile: otelcol, executable: /missing}\n  b: {executable: rel}\n  c: {profile: generic}\n",
            &[
                "s.yaml:2:37: agents.a.executable: /missing is not an executable file, install it or correct the path",
                "s.yaml:3:19: agents.b.executable: not an absolute path, begin it with `/`",
                "s.yaml:4:6: agents.c.executable: the profile \"generic\" has no program of its own, name one",
            ],
        ),
        (
            "agents: {a: {profile: nowhere}}\n",
            &[
                "s.yaml:1:23: agents.a.profile: no profile of this name, known: adjutant, fluent-bit, generic, otelcol, telegraf, vector",
            ],
        ),
        (
            "stopp: {}\nstop: {grace: 30}\nlog: {level: loud}\n",
            &[
                "s.yaml:1:1: stopp: unknown key, did you mean \"stop\"?",
                "s.yaml:2:15: stop.grace: duration \"30\" is not a number with a unit (ns, us, ms, s, m, h), \
                such as 30s",
                "s.yaml:3:14: log.level: write error, warn, info, debug or trace",
            ],
        ),
        (
            "api: {}\npackages: []\nagents: {a: {packages: false}}\n",
            &[
                "s.yaml:1:6: api: not supported in this version, remove it",
                "s.yaml:2:11: packages: not supported in this version, remove it",
                "s.yaml:3:24: agents.a.packages: not supported in this version, remove it",
            ],
        ),
        (
            "agents:\n  a: {start_after: [b, a, dd]}\n  b: {start_after: [c]}\n  c: {start_after: [a], start_wait: 2h}\n",
            &[
                "s.yaml:2:21: agents.a.start_after[0]: a circle, so none of them could be first: a after b after c \
                after a",
                "s.yaml:2:24: agents.a.start_after[1]: an agent cannot start after itself",
                "s.yaml:2:27: agents.a.start_after[2]: no agent is named \"dd\"",
                "s.yaml:4:37: agents.c.start_wait: out of bounds, write 0s to 1h",
            ],
        ),
        (
            "http: {listen: ['127.0.0.1:1', '0.0.0.0:2']}\n",
            &[
                "s.yaml:1:16: http.listen: 0.0.0.0:2 is not loopback; name a file with a token in \
                http.token_file, or listen on 127.0.0.1",
            ],
        ),
        (
            "stop: {grace: 10s, budget: 5s}\n",
            &["s.yaml:1:28: stop.budget: not longer than stop.grace, leave time for KILL after it"],
        ),
        (
            "stop: {grace: 1h}\nagents: {a: {restart: {give_up_after: 2000}, log_rotation: {size: 16}}}\n",
            &[
                "s.yaml:1:15: stop.grace: out of bounds, write 100ms to 10m",
                "s.yaml:2:39: agents.a.restart.give_up_after: out of bounds, write 0 to 1000",
                "s.yaml:2:67: agents.a.log_rotation.size: size \"16\" is not a whole number with a unit (B, KB, \
                KiB, MB, MiB, GB, GiB), such as 16MiB",
            ],
        ),
        (
            "agents: {a: {use_hup_config_reload: true, report: on_proof, zzzzzz: 1}}\n",
            &[
                "s.yaml:1:14: agents.a.use_hup_config_reload: unknown key, it exists only in the `agent:` form, \
                as `agent.use_hup_config_reload`",
                "s.yaml:1:43: agents.a.report: unknown key here, it belongs at `agents.<name>.apply.report`",
                "s.yaml:1:61: agents.a.zzzzzz: unknown key, known here: apply, args, cgroup, \
                config_files, description, env, executable, fallback_configs, group, health, log_rotation, main_file, \
                no_new_privileges, on_supervisor_death, opamp_server_port, own_telemetry, passthrough_logs, policy, profile, proof, \
                restart, rlimits, start_after, start_wait, umask, user, validate, working_directory",
            ],
        ),
        (
            "certificates: {a: 1}\napi:\n  x: 1\npackages:\n",
            &[
                "s.yaml:1:1: certificates.a: a certificate needs a `source`: acme or files",
                "s.yaml:1:19: certificates.a: a map of keys belongs here, write `key: value` lines below it",
                "s.yaml:3:3: api: not supported in this version, remove it",
            ],
        ),
        (
            "server: {endpoint: 'ftp://x', headers: [a]}\n",
            &[
                "s.yaml:1:20: server.endpoint: begin the URL with ws://, wss://, http:// or https://",
                "s.yaml:1:40: server.headers: a map belongs here, write `name: value` lines below it",
            ],
        ),
        (
            "server: {endpoint: 'ws://u:p@x', tls: {cert_file: /c}}\nhttp: {listen: ['4328']}\n",
            &[
                "s.yaml:1:20: server.endpoint: no user or password in a URL, use `headers`",
                "s.yaml:1:39: server.tls: `cert_file` and `key_file` (or `cert_pem` and `key_pem`) come together, \
                 give both or neither",
                "s.yaml:2:17: http.listen[0]: an address and port belongs here, such as 127.0.0.1:4328",
            ],
        ),
        (
            "server: {headers: {A: '${env:NOPE}', B: '${HOME}', C: '${env:HOME'}}\n",
            &[
                "s.yaml:1:9: server: a server needs an `endpoint`",
                "s.yaml:1:23: server.headers.A: the variable NOPE is not set, set it or write ${env:NOPE:-default}",
                "s.yaml:1:41: server.headers.B: `${HOME}` is not expanded, write ${env:NAME}, \
                ${env:NAME:-default} or ${file:/path}, and `$${` for the characters themselves",
                "s.yaml:1:55: server.headers.C: `${` without `}`, write `$${` for the characters themselves",
            ],
        ),
        (
            "agents: {a: {profile: generic, executable: /x, apply: {reload: hup}}}\n",
            &[
                "s.yaml:1:64: agents.a.apply.reload: a HUP needs a proof that sees it, give `proof:` of kind \
                exec or http",
            ],
        ),
        (
            "agents: {a: {proof: {kind: exec}, health: {url: 'https://x'}, apply: {rollback: 'yes', report: \
            on_prof}}}\n",
            &[
                "s.yaml:1:21: agents.a.proof.command: kind `exec` needs a command",
                "s.yaml:1:43: agents.a.health.kind: say which kind of probe",
                "s.yaml:1:49: agents.a.health.url: a URL that begins with http:// belongs here; probes stay on \
                the host",
                "s.yaml:1:81: agents.a.apply.rollback: write true or false, without quotes",
                "s.yaml:1:96: agents.a.apply.report: not one of after_probation, on_proof; did you mean \"on_proof\"?",
            ],
        ),
        (
            "agents: {a: {config_files: [$REMOTE, $OWN_TELEMETRY_CONFIG, rel]}}\n",
            &[
                "s.yaml:1:28: agents.a.config_files: this profile has no layers but local files and $REMOTE_CONFIG",
                "s.yaml:1:29: agents.a.config_files[0]: unknown, write $OWN_TELEMETRY_CONFIG, \
                $OPAMP_EXTENSION_CONFIG, $REMOTE_CONFIG or a path",
                "s.yaml:1:61: agents.a.config_files[2]: not an absolute path, begin it with `/`",
            ],
        ),
        (
            "- a\n",
            &["s.yaml:1:1: a map of keys belongs here, write `key: value` lines below it"],
        ),
        // The other form.
        (
            "server: {endpoint: '${UNSET}'}\nagent: {executable: }\n",
            &[
                "s.yaml:1:20: server.endpoint: required, name the OpAMP server",
                "s.yaml:2:19: agent.executable: required, name the Collector's executable",
            ],
        ),
        (
            "agent: {}\n",
            &[
                "s.yaml:1:1: server.endpoint: required, name the OpAMP server",
                "s.yaml:1:8: agent.executable: required, name the Collector's executable",
            ],
        ),
        (
            "server: {endpoint: 'ws://h', tls: {min_version: '1.0', insecure: false}}\n\
             agent: {executable: /x, startup_fallback_configs: [a], health_check_port: 1, run_as: {user: x}, \
             access_dirs: {}, opamp_server_socket: {transport: unix}, \
             collector_crash_log_snippet_kib: 1025, args_: [], apply: 1}\n\
             capabilities: {accepts_packages: true}\nextensions: {basicauth: {}}\n",
            &[
                "s.yaml:1:49: server.tls.min_version: TLS 1.0 is broken and not spoken here; the oldest version is 1.2",
                "s.yaml:2:52: agent.startup_fallback_configs[0]: read /srv/here/a: entity not found",
                "s.yaml:2:75: agent.health_check_port: removed from opampsupervisor in May 2025, health comes \
                from the opamp extension, remove it",
                "s.yaml:2:86: agent.run_as: one value belongs here, not a list or map",
                "s.yaml:2:135: agent.opamp_server_socket: no released opamp extension dials a Unix socket, the \
                Collector is served on loopback, remove it",
                "s.yaml:2:187: agent.collector_crash_log_snippet_kib: out of bounds, write 0 to 1024",
                "s.yaml:2:193: agent.args_: unknown key, did you mean \"args\"?",
                "s.yaml:2:204: agent.apply: unknown key, it exists only in the `agents:` form, as \
                `agents.<name>.apply`",
                "s.yaml:3:34: capabilities.accepts_packages: known key of opampsupervisor, not supported in this \
                version, remove it",
                "s.yaml:4:13: extensions: the feature gate opampsupervisor.Extensions is off; start with \
                --feature-gates=opampsupervisor.Extensions, as opampsupervisor wants it",
                "s.yaml:4:25: extensions.basicauth: needs `client_auth` with a username and a password",
            ],
        ),
        (
            "server: {endpoint: 'ws://h', tls: {tpm: {enabled: true}}}\n\
             agent: {executable: /x, run_as: nobody2, instance_id: 7, access_dirs: {read: {allow: [/x]}},\n  \
             config_files: ['env:X', 'file:/x', $NOPE]}\n\
             healthcheck: {transport: unix, tls: {cert_file: /c, min_version: '1.3', max_version: '1.2', ca_file: /x}, \
             cors: {allowed_origins: [x]}}\n",
            &[
                "s.yaml:1:41: server.tls.tpm: broken cipher suites are not spoken and keys in a TPM not used here, \
                remove it",
                "s.yaml:2:33: agent.run_as: there is no user \"nobody2\" on this host",
                "s.yaml:2:55: agent.instance_id: a UUID belongs here, such as 0190a6d0-0000-7000-8000-00000000002a",
                "s.yaml:2:71: agent.access_dirs: specified for opampsupervisor and never built there, nor here, remove it",
                "s.yaml:3:18: agent.config_files[0]: a config inside a variable is not read here, write it to a file and \
                name that",
                "s.yaml:3:38: agent.config_files[2]: unknown, write $OWN_TELEMETRY_CONFIG, $OPAMP_EXTENSION_CONFIG, \
                $REMOTE_CONFIG or a path",
                "s.yaml:4:26: healthcheck.transport: the door is served over TCP, write tcp or remove it",
                "s.yaml:4:37: healthcheck.tls: TLS needs `cert_file` and `key_file`, or `cert_pem` and `key_pem`",
                "s.yaml:4:66: healthcheck.tls.min_version: newer than max_version, nothing is left",
                "s.yaml:4:102: healthcheck.tls.ca_file: means nothing to this door or cannot be had here, remove it",
                "s.yaml:4:113: healthcheck.cors: the door serves one plain GET on one address and keeps nothing of a \
                request; put a reverse proxy before it, or remove it",
            ],
        ),
        (
            "server: {endpoint: 'ws://h'}\nagent: {executable: /missing, bootstrap_timeout: 3, \
            config_apply_timeout: 0s, opamp_server_port: 70000}\n",
            &[
                "s.yaml:2:21: agent.executable: /missing is not an executable file, install it or correct the path",
                "s.yaml:2:50: agent.bootstrap_timeout: duration \"3\" is not a number with a unit (ns, us, ms, \
                s, m, h), such as 30s",
                "s.yaml:2:75: agent.config_apply_timeout: out of bounds, write 1ms to 1h",
                "s.yaml:2:98: agent.opamp_server_port: out of bounds, write 0 to 65535",
            ],
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(problems(text), *wanted, "\n{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_settings_text_panics_the_reader(
        at in 0usize..5000, cut in 0usize..40,
        put in "[ a:{}\\[\\]\\-&*!$\"'\n|0-9]{0,6}", other in proptest::bool::ANY,
    ) {
        let text = if other {
            "server: {endpoint: 'ws://h', headers: {A: [b]}}\nagent:\n  executable: /x\n  args: [a, '${env:B}']\n\
             capabilities: {reports_health: true}\ntelemetry: {logs: {level: info}}\n".to_owned()
        } else {
            documents::everything()
        };
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        let damaged = format!("{}{put}{}", &text[..at], &text[end..]);
        match load("s.yaml", &damaged, &env(), &Overrides::default()) {
            Ok(config) => assert!(!config.agents.is_empty()),
            Err(errors) => assert!(!errors.all().is_empty() && !errors.to_string().is_empty()),
        }
    }
}

#[cfg(not(feature = "opampsupervisor"))]
#[test]
fn the_other_form_names_the_feature_that_this_build_lacks() {
    let problems = problems("server: {endpoint: ws://a:1}\nagent: {executable: /x}\n");
    assert_eq!(
        problems,
        [
            "s.yaml:2:1: this build does not read the form of the OpenTelemetry Collector's supervisor: it was made \
            without the feature `opampsupervisor`; write the settings in the `agents:` form"
        ]
    );
}
