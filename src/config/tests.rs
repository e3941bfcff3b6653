//! Tables for both forms of the settings, and the comparison of code, example file and documentation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::units::TextSource;

mod problems;

/// An environment made of maps.
#[derive(Debug, Default)]
pub(super) struct Env {
    vars: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<&'static str, &'static str>,
    root: bool,
    missing: Vec<&'static str>,
}

impl Env {
    /// Root on a machine where every executable exists.
    pub(super) fn rooted() -> Self {
        Self {
            root: true,
            ..Self::default()
        }
    }

    /// With these variables.
    pub(super) fn with(mut self, vars: &[(&'static str, &'static str)]) -> Self {
        self.vars.extend(vars.iter().copied());
        self
    }
}

impl Environment for Env {
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| (*value).to_owned())
    }

    fn file(&self, path: &str) -> io::Result<String> {
        let file = self.files.get(path).map(|text| (*text).to_owned());
        file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn own_executable(&self) -> PathBuf {
        PathBuf::from("/opt/adjutant")
    }

    fn is_root(&self) -> bool {
        self.root
    }

    #[cfg(feature = "isolation")]
    fn account(&self, user: &str, group: Option<&str>) -> Result<Account, (&'static str, String)> {
        match (user, group) {
            ("telegraf", None | Some("adm")) => Ok(Account {
                name: user.to_owned(),
                uid: 998,
                gid: if group.is_some() { 4 } else { 997 },
                groups: vec![997, 4],
                home: Some(PathBuf::from("/etc/telegraf")),
            }),
            ("telegraf", Some(other)) => Err(("group", format!("there is no group {other:?}"))),
            (other, _) => Err(("user", format!("there is no user {other:?} on this host"))),
        }
    }

    fn working_directory(&self) -> PathBuf {
        PathBuf::from("/srv/here")
    }

    fn is_executable(&self, path: &Path) -> bool {
        !self
            .missing
            .iter()
            .any(|missing| path == Path::new(missing))
    }

    fn directory(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        if path == Path::new("/etc/adjutant/profiles") {
            return Ok(Vec::new());
        }
        let files: Vec<PathBuf> = self
            .files
            .keys()
            .map(PathBuf::from)
            .filter(|file| file.parent() == Some(path))
            .collect();
        if files.is_empty() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(files)
    }
}

fn env() -> Env {
    Env {
        vars: BTreeMap::from([("HOME", "/home/u"), ("TOKEN", "hunter2"), ("PORT", "4555")]),
        missing: vec!["/missing"],
        ..Env::default()
    }
}

fn read(text: &str) -> Config {
    load("s.yaml", text, &env(), &Overrides::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn no_file_runs_our_own_data_plane_with_the_documented_defaults() {
    let config = defaults(&env(), &Overrides::default()).unwrap();
    assert_eq!(config.form, Form::Agents);
    assert_eq!(config.server, None);
    assert_eq!(
        config.storage,
        PathBuf::from("/home/u/.local/state/adjutant")
    );
    assert_eq!(
        config.stop,
        Stop {
            grace: 7 * SECOND,
            budget: 9 * SECOND
        }
    );
    assert_eq!(config.give_up, GiveUp::Hold);
    assert_eq!(config.listen, ["127.0.0.1:4328".parse().unwrap()]);
    let [agent] = config.agents.as_slice() else {
        panic!("{:?}", config.agents);
    };
    assert_eq!(agent.name.as_str(), "collector");
    assert_eq!(agent.profile.name, "adjutant");
    assert_eq!(agent.executable, PathBuf::from("/opt/adjutant"));
    assert_eq!(agent.layers, [Layer::Remote]);
    assert_eq!(agent.apply.report, ReportWhen::AfterProbation);
    assert_eq!(agent.apply.proof_timeout, 30 * SECOND);
    assert_eq!(agent.apply.probation, 30 * SECOND);
    assert_eq!(agent.apply.empty_config, EmptyConfig::Keep);
    assert_eq!(agent.apply.reload, Reload::Hup);
    assert!(
        agent
            .profile
            .default_config
            .as_deref()
            .unwrap()
            .contains("host_metrics")
    );
    assert_eq!(agent.profile.config_exit_codes, [78]);
}

#[test]
fn the_state_directory_depends_on_who_we_are() {
    let storage = |root, vars: &[(&'static str, &'static str)]| {
        let env = Env {
            root,
            vars: vars.iter().copied().collect(),
            ..Env::default()
        };
        defaults(&env, &Overrides::default()).map(|config| config.storage)
    };
    assert_eq!(
        storage(true, &[("HOME", "/root")]).unwrap(),
        PathBuf::from("/var/lib/adjutant")
    );
    let both = [("HOME", "/home/u"), ("XDG_STATE_HOME", "/s")];
    assert_eq!(storage(false, &both).unwrap(), PathBuf::from("/s/adjutant"));
    assert_eq!(
        storage(false, &[]).unwrap_err().to_string(),
        "storage.directory: neither XDG_STATE_HOME nor HOME is set, name a directory for the state"
    );
}

#[test]
fn our_form_is_read_whole() {
    let config = read(
        "server:\n  endpoint: wss://fleet.example/v1/opamp\n  headers:\n    Authorization: 'Bearer \
        ${env:TOKEN}'\n    X-Two: [a, b]\n  \
         tls: {ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}\n  heartbeat_interval: 1m30s\n\
         storage: {directory: /state}\non_give_up: exit\nstop: {grace: 20s, budget: 25s}\n\
         http: {listen: ['localhost:${env:PORT}', '[::1]:80']}\nlog: {level: debug, format: json}\n\
         agents:\n  web:\n    profile: otelcol\n    executable: /bin/otelcol\n    args: [--feature-gates=x]\n    \
         env: {A: '1'}\n    \
         config_files: [$REMOTE_CONFIG, /etc/o.yaml]\n    description: {identifying_attributes: {a: b}}\n    \
         apply: {report: on_proof, reload: restart, probation: 0s, max_files: 3, max_file_size: 64KiB, \
         after_rollback: report_good}\n    \
         policy: {deny_components: [x], path_roots: [/var], ports: [1, 2], environment: [NODE]}\n    \
         restart: {give_up_after: 5}\n    opamp_server_port: 4444\n    passthrough_logs: true\n    log_rotation: \
         {size: 1MiB, files: 0}\n  \
         app:\n    profile: generic\n    executable: /bin/app\n    validate: [-t, '{config_file}']\n    \
         proof: {kind: http, url: 'http://127.0.0.1:1/{name}', expect_revision: true}\n    \
         health: {kind: exec, command: [/bin/true], failures: 1}\n    apply: {reload: hup}\n",
    );
    let server = config.server.unwrap();
    let headers: Vec<_> = server
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.expose()))
        .collect();
    assert_eq!(
        headers,
        [
            ("Authorization", "Bearer hunter2"),
            ("X-Two", "a"),
            ("X-Two", "b")
        ]
    );
    assert_eq!(server.heartbeat, 90 * SECOND);
    assert_eq!(
        server.tls.client_pair,
        Some((
            TextSource::File("/c.pem".into()),
            TextSource::File("/k.pem".into())
        ))
    );
    assert_eq!(config.give_up, GiveUp::Exit);
    assert_eq!(
        config.listen,
        [
            "127.0.0.1:4555".parse().unwrap(),
            "[::1]:80".parse().unwrap()
        ]
    );
    let names: Vec<_> = config
        .agents
        .iter()
        .map(|agent| agent.name.as_str())
        .collect();
    assert_eq!(names, ["web", "app"]);
    let (web, app) = (&config.agents[0], &config.agents[1]);
    assert_eq!(
        web.layers,
        [
            Layer::OwnTelemetry,
            Layer::Remote,
            Layer::Local(PathBuf::from("/etc/o.yaml")),
            Layer::Overlay
        ]
    );
    assert_eq!(web.apply.reload, Reload::Restart);
    assert_eq!(web.apply.probation, Duration::ZERO);
    assert_eq!(web.apply.limits.files, 3);
    assert_eq!(web.apply.limits.file_bytes, 65_536);
    assert_eq!(web.policy.ports, Some(vec![1, 2]));
    assert_eq!(web.restart.give_up_after, 5);
    assert_eq!(web.local_port, 4444);
    assert_eq!(
        web.log_rotation,
        Rotation {
            bytes: 1 << 20,
            files: 0
        }
    );
    assert_eq!(app.apply.reload, Reload::Hup);
    assert!(app.profile.hup);
    assert!(app.apply.validate);
    assert_eq!(
        app.profile.validate.as_deref().unwrap(),
        ["-t", "{config_file}"]
    );
    assert_eq!(
        app.profile.proof,
        Proof::Http {
            url: "http://127.0.0.1:1/{name}".to_owned(),
            expect_revision: true,
            counter: None,
        }
    );
}

#[test]
fn a_generic_agent_has_no_validator_and_restarts() {
    let config = read("agents: {a: {profile: generic, executable: /bin/x}}");
    let agent = &config.agents[0];
    assert!(!agent.apply.validate);
    assert_eq!(agent.apply.reload, Reload::Restart);
    assert_eq!(
        agent.profile.proof,
        Proof::FreshProcess {
            alive_for: 3 * SECOND
        }
    );
    assert_eq!(agent.profile.main_file, "config.yaml");
}

#[test]
fn the_other_form_is_read_as_its_program_reads_it() {
    let env = Env {
        vars: BTreeMap::from([
            ("EP", "ws://h/v1/opamp"),
            ("BOOL", "true"),
            ("P", "4444"),
            ("LIST", "[a, b]"),
        ]),
        files: BTreeMap::from([("/srv/here/tok", "hunter2\n")]),
        ..Env::default()
    };
    let text = "server:\n  endpoint: ${env:EP}\n  headers: {Authorization: ['Bearer ${file:tok}'], X: '${UNSET}'}\n\
                capabilities: {accepts_remote_config: '${BOOL}', reports_remote_config: true, \
                reports_own_metrics: true}\n\
                storage: {directory: state}\n\
                agent:\n  executable: ./otelcol\n  args: ${LIST}\n  env: {A: $$x}\n  config_files: [a.yaml, \
                $REMOTE_CONFIG]\n  \
                config_apply_timeout: 2m\n  opamp_server_port: ${env:P}\n  use_hup_config_reload: true\n  \
                automatic_config_rollback: false\n  startup_fallback_configs: []\n\
                healthcheck: {endpoint: 'localhost:13133'}\ntelemetry: {logs: {level: dpanic, encoding: console}}\n";
    let config =
        load("s.yaml", text, &env, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.form, Form::Agent);
    let server = config.server.unwrap();
    assert_eq!(server.endpoint, "ws://h/v1/opamp");
    let headers: Vec<_> = server
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.expose()))
        .collect();
    assert_eq!(headers, [("Authorization", "Bearer hunter2"), ("X", "")]);
    assert_eq!(
        config.warnings,
        ["s.yaml: the variable UNSET is not set, read as empty"]
    );
    assert_eq!(
        config.capabilities,
        0x1 | 0x2 | 0x4 | 0x40 | 0x800 | 0x1000 | 0x2000
    );
    assert_eq!(config.storage, PathBuf::from("/srv/here/state"));
    let agent = &config.agents[0];
    assert_eq!(agent.name.as_str(), "collector");
    assert_eq!(agent.executable, PathBuf::from("/srv/here/./otelcol"));
    assert_eq!(agent.args, ["a", "b"]);
    assert_eq!(
        agent.env,
        BTreeMap::from([("A".to_owned(), "$x".to_owned())])
    );
    assert_eq!(agent.policy.environment, ["A"]);
    assert_eq!(
        agent.layers,
        [
            Layer::OwnTelemetry,
            Layer::Local(PathBuf::from("/srv/here/a.yaml")),
            Layer::Remote,
            Layer::Overlay
        ]
    );
    assert_eq!(agent.apply.proof_timeout, 120 * SECOND);
    assert_eq!(agent.apply.reload, Reload::Hup);
    assert!(agent.apply.accept_remote && agent.apply.validate && !agent.apply.rollback);
    assert_eq!(agent.local_port, 4444);
    assert_eq!(config.healthcheck, Some("127.0.0.1:13133".parse().unwrap()));
    assert_eq!(config.log.level, "error");
    assert_eq!(config.log.format, LogFormat::Text);
}

#[cfg(all(feature = "opampsupervisor", feature = "isolation"))]
#[test]
fn a_user_a_uid_and_the_urls_of_files_are_read_as_its_specification_has_them() {
    let uid = "0190A6D0-0000-7000-8000-00000000002A";
    let text = format!(
        "server: {{endpoint: 'ws://h'}}\nagent: {{executable: /x, run_as: telegraf, instance_id: {uid}, \
         config_files: ['file:a.yaml', 'file:/b.yaml']}}\n\
         telemetry: {{logs: {{level: 1, encoding: JSON}}}}\n\
         healthcheck: {{endpoint: ':1', transport: tcp, tls: {{cert_file: c.pem, key_file: /k.pem, \
         max_version: '1.2', reload_interval: 1h}}, compression_algorithms: ['', gzip]}}\n"
    );
    let config = load("s.yaml", &text, &Env::rooted(), &Overrides::default());
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let agent = &config.agents[0];
    let account = agent.process.account.as_ref().unwrap();
    assert_eq!(
        (account.uid, account.gid, account.groups.as_slice()),
        (998, 997, &[997, 4][..])
    );
    assert_eq!(agent.process.no_new_privileges, Some(true));
    let uid = uid.parse::<uuid::Uuid>().unwrap().into_bytes();
    assert_eq!(agent.instance_uid, Some(uid));
    let local = agent.layers.iter().filter_map(|layer| match layer {
        Layer::Local(path) => Some(path.to_str().unwrap()),
        Layer::OwnTelemetry | Layer::Overlay | Layer::Remote => None,
    });
    assert_eq!(local.collect::<Vec<_>>(), ["/srv/here/a.yaml", "/b.yaml"]);
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.healthcheck, Some("0.0.0.0:1".parse().unwrap()));
    let tls = config.health_door.tls.unwrap();
    assert_eq!(tls.certificate, TextSource::File("/srv/here/c.pem".into()));
    assert_eq!(tls.versions, [opamp_client::transport::TlsVersion::V1_2]);
}

#[test]
fn all_log_files_fit_into_one_budget() {
    let agents = |count: usize| -> String {
        let lines: Vec<_> = (0..count)
            .map(|number| format!("  a{number}: {{executable: /bin/otelcol}}\n"))
            .collect();
        lines.concat()
    };
    for (count, size) in [(1, 16), (2, 16), (10, 16)] {
        let config = read(&format!("agents:\n{}", agents(count)));
        let children: u64 = config.agents.iter().map(|it| it.log_rotation.total()).sum();
        assert!(
            children + config.log.own_bytes() <= config.log.max_total,
            "{count} agents"
        );
        assert!(config.agents[0].log_rotation.bytes <= size << 20);
    }
    let said = load(
        "s.yaml",
        "log: {max_total_size: 64MiB}\nagents: {a: {executable: /bin/otelcol, log_rotation: {size: 32MiB, files: 1}}}\n",
        &env(),
        &Overrides::default(),
    );
    assert_eq!(
        said.unwrap_err().to_string(),
        "s.yaml:1:6: log: the log files may grow to 72MiB together, which is more than log.max_total_size (64MiB); \
         lower log_rotation of an agent, or raise the total"
    );
}

#[test]
fn in_a_container_logs_go_to_the_output_unless_the_settings_say_otherwise() {
    struct Contained(Env);
    impl Environment for Contained {
        fn var(&self, name: &str) -> Option<String> {
            self.0.var(name)
        }
        fn file(&self, path: &str) -> io::Result<String> {
            self.0.file(path)
        }
        fn own_executable(&self) -> PathBuf {
            self.0.own_executable()
        }
        fn is_root(&self) -> bool {
            self.0.is_root()
        }
        fn is_executable(&self, path: &Path) -> bool {
            self.0.is_executable(path)
        }
        fn in_container(&self) -> bool {
            true
        }
    }
    let to_files = |env: &dyn Environment, text: &str| {
        let config = load("s.yaml", text, env, &Overrides::default()).unwrap();
        (config.log.to_files, !config.agents[0].passthrough_logs)
    };
    let contained = Contained(env());
    let own = "agents: {a: {executable: /bin/otelcol, passthrough_logs: false}}\n";
    assert_eq!(to_files(&env(), ""), (true, true));
    assert_eq!(to_files(&contained, ""), (false, false));
    assert_eq!(to_files(&contained, own), (false, true));
    assert_eq!(to_files(&contained, "log: {to: files}\n"), (true, true));
    assert_eq!(to_files(&env(), "log: {to: output}\n"), (false, false));
}

#[test]
fn the_other_form_has_its_own_defaults() {
    let config = read("server: {endpoint: 'ws://h'}\nagent: {executable: /bin/otelcol}\n");
    assert_eq!(config.capabilities, 0x1 | 0x4 | 0x40 | 0x800 | 0x2000);
    assert_eq!(config.storage, PathBuf::from("/var/lib/otelcol/supervisor"));
    assert_eq!(config.listen, []);
    assert_eq!(config.warnings, [""; 0]);
    let apply = &config.agents[0].apply;
    assert!(!apply.accept_remote && apply.validate && apply.rollback);
    assert_eq!(apply.report, ReportWhen::OnProof);
    assert_eq!(apply.empty_config, EmptyConfig::Stop);
    assert_eq!(apply.reload, Reload::Restart);
    assert_eq!(
        (apply.proof_timeout, apply.probation),
        (5 * SECOND, 30 * SECOND)
    );
    assert_eq!(
        config.agents[0].layers,
        [Layer::OwnTelemetry, Layer::Overlay, Layer::Remote]
    );
}

#[test]
fn all_capabilities_off_leave_status_and_heartbeat() {
    let config = read(
        "server: {endpoint: 'ws://h'}\nagent: {executable: /bin/otelcol}\n\
         capabilities: {accepts_remote_config: false, reports_effective_config: false, reports_own_traces: false, \
         reports_own_metrics: false, reports_own_logs: false, accepts_opamp_connection_settings: false, \
         accepts_restart_command: false, reports_health: false, reports_remote_config: false, \
         reports_available_components: false, accepts_packages: false, reports_package_statuses: false}\n",
    );
    assert_eq!(config.capabilities, 0x1 | 0x2000);
}

#[test]
fn expansion_cannot_write_yaml_in_our_form() {
    let env = Env {
        vars: BTreeMap::from([("EVIL", "a\nstorage: {directory: /evil}"), ("HOME", "/h")]),
        ..Env::default()
    };
    let config = load(
        "s",
        "agents: {a: {env: {X: '${env:EVIL}', Y: '$${env:EVIL} $', Z: '${env:NO:-}'}}}",
        &env,
        &Overrides::default(),
    )
    .unwrap();
    let agent = &config.agents[0];
    assert_eq!(agent.env["X"], "a\nstorage: {directory: /evil}");
    assert_eq!(agent.env["Y"], "${env:EVIL} $");
    assert_eq!(agent.env["Z"], "");
    assert_eq!(config.storage, PathBuf::from("/h/.local/state/adjutant"));
}

#[test]
fn profiles_come_from_a_directory_too() {
    let with = |text: &'static str| Env {
        files: BTreeMap::from([("/p/nginx.yaml", text), ("/p/note.txt", "no profile")]),
        ..env()
    };
    let settings = "profiles: /p\nagents: {w: {profile: nginx}}\n";
    let env = with(
        "executable: /usr/sbin/nginx\nargs: [-c, '{config_file}']\nvalidate: [-t]\nmain_file: nginx.conf\nhup: true\n\
         proof: {kind: exec, command: [/bin/check]}\nstop_signal: 3\nconfig_exit_codes: [1]\n",
    );
    let config = load("s", settings, &env, &Overrides::default()).unwrap();
    let agent = &config.agents[0];
    assert_eq!(agent.executable, PathBuf::from("/usr/sbin/nginx"));
    assert_eq!(agent.apply.reload, Reload::Hup);
    assert_eq!(agent.profile.stop_signal, 3);
    assert_eq!(agent.profile.composition, Composition::Directory);
    assert_eq!(agent.profile.main_file, "nginx.conf");
    let wrong = |text: &'static str| {
        let errors = load("s", settings, &with(text), &Overrides::default()).unwrap_err();
        errors.to_string()
    };
    assert_eq!(
        wrong("hupp: true\nmain_file: ../x\n"),
        "/p/nginx.yaml:1:1: hupp: unknown key, did you mean \"hup\"?\n\
         /p/nginx.yaml:2:12: main_file: the name walks through `.` or `..`\n\
         s:2:23: agents.w.profile: no profile of this name, known: adjutant, fluent-bit, generic, \
         otelcol, telegraf, vector"
    );
    let errors = load("s", "profiles: /none\n", &env, &Overrides::default()).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("/none: read the profile directory: "),
        "{errors}"
    );
}

#[test]
fn the_command_line_wins() {
    let overrides = Overrides {
        storage: Some(PathBuf::from("st")),
        endpoint: Some("ws://127.0.0.1:1/v1/opamp".to_owned()),
        listen: Some(vec![]),
        log_level: Some("debug".to_owned()),
        feature_gates: Vec::new(),
    };
    let config = load("s", "storage: {directory: /x}", &env(), &overrides).unwrap();
    assert_eq!(config.storage, PathBuf::from("/srv/here/st"));
    assert_eq!(config.server.unwrap().endpoint, "ws://127.0.0.1:1/v1/opamp");
    assert_eq!(config.listen, []);
    assert_eq!(config.log.level, "debug");
    let overrides = Overrides {
        endpoint: Some("x".to_owned()),
        ..Overrides::default()
    };
    let error = load("s", "", &env(), &overrides).unwrap_err().to_string();
    assert_eq!(
        error,
        "the server given on the command line: begin the URL with ws://, wss://, http:// or https://"
    );
}
