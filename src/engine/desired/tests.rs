//! Given layers, local and offered; when they are composed; then bytes stay, order holds, and one content has one hash.

use super::*;
use crate::config::{self, Environment, Overrides};

struct Nothing;

impl Environment for Nothing {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::other(path.to_owned()))
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }
}

fn agent(settings: &str) -> Agent {
    let text = format!("agents: {{it: {settings}}}\n");
    let config = config::load("test", &text, &Nothing, &Overrides::default());
    config
        .unwrap_or_else(|errors| panic!("{errors}"))
        .agents
        .remove(0)
}

fn places() -> Places {
    Places {
        state_dir: "/s/agents/it".into(),
        link: None,
        certificates: "/state/certificates".into(),
        supervisor: "sup".to_owned(),
        reserved_ports: vec![4328],
    }
}

fn offered(files: &[(&str, &str)]) -> Vec<OfferedFile> {
    files
        .iter()
        .map(|(name, body)| OfferedFile {
            name: (*name).to_owned(),
            content_type: "text/yaml".to_owned(),
            body: body.as_bytes().to_vec(),
        })
        .collect()
}

fn local(path: &str, text: &str) -> LocalFile {
    LocalFile {
        path: path.into(),
        bytes: Ok(text.as_bytes().to_vec()),
    }
}

fn paths(candidate: &Candidate) -> Vec<&str> {
    candidate
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect()
}

fn collector() -> Agent {
    agent(
        "{profile: otelcol, executable: /bin/sh, args: [--x], config_files: [/etc/a.yaml, /etc/b.yaml]}",
    )
}

#[test]
fn builtin_default_passes_its_own_policy_and_is_found_again_by_its_hash() {
    let agent = agent("{profile: adjutant}");
    let compose = || compose_default(&agent, &places(), None).unwrap().unwrap();
    let (once, twice) = (compose(), compose());
    assert_eq!(once.hash, twice.hash);
    assert_eq!(paths(&once), ["collect.yaml", MARKER_FILE]);
}

#[test]
fn marker_names_the_hash_and_is_not_part_of_it() {
    let agent = agent("{profile: adjutant}");
    let files = offered(&[("", "sources: {}\n")]);
    let candidate = compose(&agent, &places(), &[], &files).unwrap();
    let marker = candidate.files.last().unwrap();
    assert_eq!(marker.layer, LayerKind::Marker);
    assert_eq!(marker.bytes, format!("{}\n", candidate.hash).into_bytes());
    let bare = [("collect.yaml", "text/yaml", b"sources: {}\n".as_slice())];
    assert_eq!(candidate.hash, RevisionHash::of(bare));
}

#[test]
fn collector_layers_keep_their_order_and_the_overlay_is_last() {
    let files = offered(&[("", "z: 1\n"), ("b", "b: 1\n"), ("a", "a: 1\n")]);
    let locals = [
        local("/etc/a.yaml", "x: 1\n"),
        local("/etc/b.yaml", "service: {extensions: [zpages, opamp]}\n"),
    ];
    let candidate = compose(&collector(), &places(), &locals, &files).unwrap();
    let expected = [
        "local/0-a.yaml",
        "local/1-b.yaml",
        "remote/a",
        "remote/b",
        "remote/config.yaml",
        OVERLAY_FILE,
        OTEL_MARKER_FILE,
    ];
    assert_eq!(paths(&candidate), expected);
    let overlay = String::from_utf8(candidate.files[5].bytes.clone()).unwrap();
    assert!(
        overlay.contains("extensions: [\"zpages\",\"opamp\"]"),
        "{overlay}"
    );
}

#[test]
fn service_extensions_of_all_layers_are_united_once_each() {
    let agent = agent("{profile: otelcol, executable: /bin/sh}");
    let files = offered(&[
        ("a", "service: {extensions: [health_check, file_storage]}\n"),
        (
            "b",
            "service:\n  extensions:\n    - health_check\n    - pprof\n",
        ),
    ]);
    let candidate = compose(&agent, &places(), &[], &files).unwrap();
    let overlay = candidate
        .files
        .iter()
        .find(|file| file.path == OVERLAY_FILE)
        .unwrap();
    let overlay = String::from_utf8(overlay.bytes.clone()).unwrap();
    let list = "extensions: [\"health_check\",\"file_storage\",\"pprof\",\"opamp\"]";
    assert!(overlay.contains(list), "{overlay}");
}

#[test]
fn command_line_names_every_layer_and_then_the_operators_arguments() {
    let locals = [
        local("/etc/a.yaml", "x: 1\n"),
        local("/etc/b.yaml", "service: {pipelines: {logs: {}}}\n"),
    ];
    let agent = collector();
    let candidate = compose(&agent, &places(), &locals, &[]).unwrap();
    let directory = places().config_dir();
    let line = arguments(&agent, &places(), &[], &directory, &candidate.files);
    assert_eq!(line.len(), 4 * 2 + 1);
    assert_eq!(
        line[0..2],
        ["--config", "/s/agents/it/current/local/0-a.yaml"]
    );
    assert_eq!(line[8], "--x");
}

#[test]
fn config_without_pipelines_gets_the_gate_that_lets_it_start() {
    let agent = agent("{profile: otelcol, executable: /bin/sh}");
    let candidate = compose(
        &agent,
        &places(),
        &[],
        &offered(&[("", "extensions: {}\n")]),
    )
    .unwrap();
    let line = arguments(
        &agent,
        &places(),
        &[],
        &places().config_dir(),
        &candidate.files,
    );
    assert_eq!(
        line.last().unwrap(),
        "--feature-gates=service.AllowNoPipelines"
    );
}

#[test]
fn nothing_given_is_an_empty_candidate_and_a_missing_local_file_is_named() {
    let agent = agent("{profile: otelcol, executable: /bin/sh}");
    assert!(compose(&agent, &places(), &[], &[]).unwrap().is_empty());
    let missing = LocalFile {
        path: "/etc/a.yaml".into(),
        bytes: Err("no such file".to_owned()),
    };
    let Refused(reason) = compose(&collector(), &places(), &[missing], &[]).unwrap_err();
    let expected =
        "local config file /etc/a.yaml: no such file; local config file /etc/b.yaml: not read";
    assert_eq!(reason, expected);
}

#[test]
fn reload_needs_a_restart_when_the_set_of_layers_changes_and_not_when_a_file_does() {
    let agent = agent("{profile: otelcol, executable: /bin/sh}");
    let pipelines = "service: {pipelines: {logs: {receivers: [nop]}}}\n";
    let one = compose(&agent, &places(), &[], &offered(&[("a", pipelines)]))
        .unwrap()
        .files;
    let longer = format!("{pipelines}# changed\n");
    let two = compose(&agent, &places(), &[], &offered(&[("a", &longer)]))
        .unwrap()
        .files;
    let more = compose(
        &agent,
        &places(),
        &[],
        &offered(&[("a", pipelines), ("b", "x: 1\n")]),
    )
    .unwrap()
    .files;
    assert_eq!(needs_restart(&agent, &places(), &one, &two), None);
    let reason = needs_restart(&agent, &places(), &one, &more);
    assert_eq!(reason.as_deref(), Some("the command line changes"));
}

#[test]
fn a_change_of_kernel_events_restarts_the_data_plane_and_no_other_change_does() {
    let agent = agent("{profile: adjutant}");
    let files = |text: &str| {
        let offer = offered(&[("collect.yaml", text)]);
        compose(&agent, &places(), &[], &offer).unwrap().files
    };
    let plain = files("sources: {h: {kind: host_metrics}}\n");
    let kernel = files("sources: {h: {kind: host_metrics}, k: {kind: kernel, events: [exec]}}\n");
    let slower = files(
        "sources: {h: {kind: host_metrics, interval: 1m}, k: {kind: kernel, events: [exec]}}\n",
    );
    let renamed = files("sources: {h: {kind: host_metrics}, j: {kind: kernel, events: [exec]}}\n");
    let wider =
        files("sources: {h: {kind: host_metrics}, k: {kind: kernel, events: [exec, oom]}}\n");
    let reason = "section sources[kind=kernel] changes";
    for (old, new, wanted) in [
        (&plain, &kernel, Some(reason)),
        (&kernel, &slower, None),
        (&kernel, &renamed, Some(reason)),
        (&kernel, &wider, Some(reason)),
        (&wider, &plain, Some(reason)),
    ] {
        assert_eq!(
            needs_restart(&agent, &places(), old, new).as_deref(),
            wanted
        );
    }
}

#[test]
fn fluent_bit_is_restarted_for_what_its_reload_keeps_however_the_key_is_written() {
    let agent = agent("{profile: fluent-bit, executable: /bin/sh}");
    let check = |file: &str, old: &str, new: &str| {
        let files = |text: &str| {
            let offer = offered(&[(file, text)]);
            compose(&agent, &places(), &[], &offer).unwrap().files
        };
        needs_restart(&agent, &places(), &files(old), &files(new))
    };
    let cases = [
        ("storage.path: /a", "storage.path: /b", Some("storage.path")),
        ("Storage.Path: /a", "storage.path: /b", Some("storage.path")),
        (
            "storage: {path: /a}",
            "storage: {path: /b}",
            Some("storage.path"),
        ),
        ("HTTP_Server: on", "HTTP_Server: off", Some("http_server")),
        ("HTTP_Server: on", "http_server: on", None),
        ("flush: 1", "flush: 1\n  Hot_Reload: on", Some("hot_reload")),
        ("flush: 1", "flush: 2", None),
    ];
    for (old, new, section) in cases {
        let reason = section.map(|section| format!("section service.{section} changes"));
        let yaml = |entry: &str| format!("service:\n  {entry}\n");
        let found = check("fluent-bit.yaml", &yaml(old), &yaml(new));
        assert_eq!(found, reason, "{old} -> {new}");
        // The same in classic mode, which knows no maps.
        if !old.contains('{') {
            let classic = |entry: &str| format!("[SERVICE]\n  {}\n", entry.replace(": ", " "));
            let found = check("more.conf", &classic(old), &classic(new));
            assert_eq!(found, reason, "classic, {old} -> {new}");
        }
    }
}

#[test]
fn hostile_names_and_programs_are_refused_with_file_and_place() {
    let agent = agent("{profile: otelcol, executable: /bin/sh}");
    for name in ["../x", "/etc/x", "a/../../b", "a\0b", &"x".repeat(300)] {
        let refused = compose(&agent, &places(), &[], &offered(&[(name, "x: 1\n")]));
        assert!(refused.is_err(), "{name:?}");
    }
    let exec = "receivers:\n  exec/evil:\n    command: reboot\n";
    let Refused(reason) =
        compose(&agent, &places(), &[], &offered(&[("a.yaml", exec)])).unwrap_err();
    assert!(reason.starts_with("a.yaml:2:3:"), "{reason}");
}

#[test]
fn offered_file_takes_the_place_of_a_local_one_of_its_name() {
    let agent = agent(
        "{profile: generic, executable: /bin/sh, config_files: [/etc/it/config.yaml, /etc/it/extra.conf]}",
    );
    let locals = [
        local("/etc/it/config.yaml", "local\n"),
        local("/etc/it/extra.conf", "extra\n"),
    ];
    let candidate = compose(&agent, &places(), &locals, &offered(&[("", "remote\n")])).unwrap();
    assert_eq!(
        paths(&candidate),
        ["config.yaml", "extra.conf", MARKER_FILE]
    );
    assert_eq!(candidate.files[0].bytes, b"remote\n");
}

#[cfg(feature = "opampsupervisor")]
#[test]
fn a_local_file_that_cannot_be_read_is_left_out_where_the_settings_say_so_and_the_others_keep_their_place()
 {
    let listed = "{profile: otelcol, executable: /bin/sh, config_files: \
                  [/etc/a.yaml, $REMOTE_CONFIG, /etc/gone.yaml, /etc/b.yaml]}";
    let gone = LocalFile {
        path: "/etc/gone.yaml".into(),
        bytes: Err("read /etc/gone.yaml: not there".to_owned()),
    };
    let files = [local("/etc/a.yaml", "{}"), gone, local("/etc/b.yaml", "{}")];
    let offer = offered(&[("", "{}")]);
    let mut agent = agent(listed);
    let refused = compose(&agent, &places(), &files, &offer).unwrap_err();
    assert_eq!(
        refused.0,
        "local config file /etc/gone.yaml: read /etc/gone.yaml: not there"
    );
    agent.apply.without_unreadable = true;
    let candidate = compose(&agent, &places(), &files, &offer).unwrap();
    assert_eq!(
        paths(&candidate),
        [
            "local/0-a.yaml",
            "remote/config.yaml",
            "local/2-b.yaml",
            OVERLAY_FILE,
            OTEL_MARKER_FILE
        ]
    );
}

#[test]
fn files_and_sections_that_a_reload_does_not_read_need_a_new_process() {
    let mut agent = agent("{profile: generic, executable: /bin/sh}");
    agent.profile.restart_files = vec![".lua".to_owned()];
    agent.profile.restart_sections = vec!["spool".to_owned()];
    let layer = |path: &str, layer, text: &str| RevisionFile {
        path: path.to_owned(),
        layer,
        source: path.to_owned(),
        content_type: String::new(),
        bytes: text.as_bytes().to_vec(),
    };
    let remote = |path: &str, text: &str| vec![layer(path, LayerKind::Remote, text)];
    let unknown = "file config.yaml changes, and which of its sections is not known";
    let script = "file a.lua changes, which a reload does not read";
    let cases = [
        (remote("a.lua", "1"), remote("a.lua", "1"), None),
        (remote("a.lua", "1"), remote("a.lua", "2"), Some(script)),
        (remote("a.lua", "1"), Vec::new(), Some(script)),
        (Vec::new(), remote("a.lua", "1"), Some(script)),
        (
            vec![layer("a.lua", LayerKind::Generated, "1")],
            vec![layer("a.lua", LayerKind::Generated, "2")],
            None,
        ),
        (remote("a.txt", "1"), remote("a.txt", "2"), None),
        (
            remote("config.yaml", "a: 1"),
            remote("config.yaml", "a: 2"),
            None,
        ),
        (
            remote("config.yaml", "a: 1"),
            remote("config.yaml", "a: ["),
            Some(unknown),
        ),
        (
            remote("config.yaml", "a: ["),
            remote("config.yaml", "a: 1"),
            Some(unknown),
        ),
        (
            remote("b.yaml", "a: ["),
            remote("b.yaml", "a: 1"),
            Some("file b.yaml changes, and which of its sections is not known"),
        ),
        (
            remote("config.yaml", "spool: {a: 1}"),
            remote("config.yaml", "spool: {a: 2}"),
            Some("section spool changes"),
        ),
        // The text counts as it stands there.
        (
            remote("config.yaml", "spool: {a: 1}"),
            remote("config.yaml", "spool: {a:  1}"),
            Some("section spool changes"),
        ),
    ];
    // In TOML a section is no stretch of the text.
    let of_toml = [
        (
            remote("a.toml", "[spool]\na = 1\n"),
            remote("a.toml", "[other]\nb = 1\n[spool]\na =  1\n"),
            None,
        ),
        (
            remote("a.toml", "[spool]\na = 1\n"),
            remote("a.toml", "[spool]\na = 2\n"),
            Some("section spool changes"),
        ),
    ];
    let of_toml = cfg!(feature = "toml").then_some(of_toml);
    for (old, new, wanted) in cases.into_iter().chain(of_toml.into_iter().flatten()) {
        let found = needs_restart(&agent, &places(), &old, &new);
        assert_eq!(found.as_deref(), wanted, "{old:?} -> {new:?}");
    }
    agent.profile.restart_sections.clear();
    let broken = (remote("config.yaml", "a: 1"), remote("config.yaml", "a: ["));
    assert_eq!(needs_restart(&agent, &places(), &broken.0, &broken.1), None);
    agent.profile.main_file = "main".to_owned();
    agent.profile.restart_sections = vec!["spool".to_owned()];
    let found = needs_restart(
        &agent,
        &places(),
        &remote("main", "a"),
        &remote("main", "b"),
    );
    let wanted = "file main changes, and which of its sections is not known";
    assert_eq!(found.as_deref(), Some(wanted));
}

#[test]
fn star_stands_for_every_entry_of_its_place_and_for_no_more() {
    let mut agent = agent("{profile: generic, executable: /bin/sh}");
    agent.profile.restart_sections = vec!["sinks.*.buffer".to_owned()];
    let file = |text: &str| {
        vec![RevisionFile {
            path: "config.yaml".to_owned(),
            layer: LayerKind::Remote,
            source: "config.yaml".to_owned(),
            content_type: String::new(),
            bytes: text.as_bytes().to_vec(),
        }]
    };
    let old = "sinks:\n  a: {to: x, buffer: 1}\n  b: {to: y}\n";
    for (new, restarts) in [
        ("sinks:\n  a: {to: x, buffer: 2}\n  b: {to: y}\n", true),
        (
            "sinks:\n  a: {to: x, buffer: 1}\n  b: {to: y, buffer: 1}\n",
            true,
        ),
        ("sinks:\n  c: {to: x, buffer: 1}\n  b: {to: y}\n", true),
        ("sinks:\n  a: {to: z, buffer: 1}\n  b: {to: z}\n", false),
        ("sinks:\n  a: {to: x, buffer: 1}\nbuffer: 2\n", false),
    ] {
        let found = needs_restart(&agent, &places(), &file(old), &file(new));
        assert_eq!(found.is_some(), restarts, "{new}");
    }
}

#[test]
fn entry_that_names_domains_is_no_config_of_the_program() {
    let mut agent = collector();
    agent.domain_files = vec!["domains".to_owned()];
    let locals = [
        local("/etc/a.yaml", "x: 1\n"),
        local("/etc/b.yaml", "x: 2\n"),
    ];
    let files = offered(&[
        ("domains", "a.test: [\n"),
        ("b", "service: {pipelines: {logs: {}}}\n"),
    ]);
    let candidate = compose(&agent, &places(), &locals, &files).unwrap();
    let directory = PathBuf::from("/d");
    let line = arguments(&agent, &places(), &[], &directory, &candidate.files);
    let wanted = [
        "--config",
        "/d/local/0-a.yaml",
        "--config",
        "/d/local/1-b.yaml",
        "--config",
        "/d/remote/b",
        "--config",
        "/d/adjutant/overlay.yaml",
        "--config",
        "/d/adjutant/revision.yaml",
        "--x",
    ];
    assert_eq!(line, wanted);
    // A local file of that name is one of the program's.
    let mut of_local = agent.clone();
    of_local.domain_files = vec!["/etc/a.yaml".to_owned()];
    let line = arguments(&of_local, &places(), &[], &directory, &candidate.files);
    assert!(line.contains(&"/d/local/0-a.yaml".to_owned()), "{line:?}");
    assert!(line.contains(&"/d/remote/domains".to_owned()), "{line:?}");
}

#[test]
fn directories_of_an_agent_are_where_the_text_says() {
    let places = places();
    assert_eq!(places.config_dir(), PathBuf::from("/s/agents/it/current"));
    #[cfg(feature = "layers")]
    assert_eq!(places.trial_dir(), PathBuf::from("/s/agents/it/trial"));
    let id = "1800000000000-0123abcd".parse().unwrap();
    let wanted = PathBuf::from("/s/agents/it/revisions/1800000000000-0123abcd");
    assert_eq!(places.revision_dir(&id), wanted);
}
