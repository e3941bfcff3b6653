//! Given settings with a mistake in them,
//! when they are checked or run,
//! then each mistake is one line with file, line, column, key and remedy, the exit code is the documented one, nothing
//! is started, and no text makes the program take more memory than it should.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

use super::rig::{Rig, agent, done, wait_until};

/// The address space for data of a check, in KiB. A full-size debug build takes a third of it to start.
const DATA_KIB: u32 = 48 * 1024;

/// Settings and what the lines on standard error say after the file name.
fn mistakes() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        (
            "stopp: {}\n",
            &["1:1: stopp: unknown key, did you mean \"stop\"?"],
        ),
        (
            "stop: {grace: 30}\n",
            &["1:15: stop.grace: duration \"30\" is not a number with a unit"],
        ),
        (
            "agent: {executable: /bin/true}\nagents: {}\n",
            &["2:1: `agent:` is the form of the OpenTelemetry Collector's supervisor"],
        ),
        (
            "agents:\n  web: {}\n  web: {}\n",
            &["3:3: the key \"web\" occurs twice, first at 2:3"],
        ),
        (
            "agents:\n  web: {profile: generic, executable: /no/such/program}\n",
            &["2:39: agents.web.executable: /no/such/program is not an executable file"],
        ),
        (
            "agents:\n  web:\n    restart: {give_up_after: many}\n    log_rotation: {size: 16}\n",
            &[
                "3:30: agents.web.restart.give_up_after: ",
                "4:26: agents.web.log_rotation.size: size \"16\"",
            ],
        ),
        (
            "server: {endpoint: 'wss://user:secret-word@host/'}\n",
            &["1:20: server.endpoint: no user or password in a URL"],
        ),
        ("agents: [\n", &["1:9: "]),
    ]
}

#[test]
fn every_mistake_in_settings_is_one_line_with_its_place() {
    for (text, wanted) in mistakes() {
        let rig = Rig::generic();
        rig.set_all(text);
        let file = rig.settings();
        for command in ["validate", "run", "status"] {
            let done = rig.cli(&[command]);
            assert_eq!(done.code, Some(78), "{command} {text}: {}", done.err);
            let lines: Vec<_> = done
                .err
                .lines()
                .map(|line| line.strip_prefix("adjutant: ").unwrap_or(line))
                .filter(|line| line.starts_with(file.to_str().unwrap()))
                .collect();
            assert_eq!(lines.len(), wanted.len(), "{command} {text}: {}", done.err);
            for (line, wanted) in lines.iter().zip(wanted) {
                let place = format!("{}:{wanted}", file.display());
                assert!(line.starts_with(&place), "{command} {text}: {line}");
            }
            assert!(!done.err.contains("secret-word"), "{}", done.err);
        }
        assert!(!rig.state().exists(), "{text}: something was written");
    }
}

#[test]
fn a_settings_file_that_is_not_there_is_named() {
    let rig = Rig::generic();
    fs::remove_file(rig.settings()).unwrap();
    let done = rig.cli(&["run"]);
    assert_eq!(done.code, Some(78), "{}", done.err);
    let name = rig.settings();
    assert!(done.err.contains(name.to_str().unwrap()), "{}", done.err);
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
}

#[test]
fn a_server_that_is_not_there_is_said_and_the_child_runs() {
    // A port on which nobody listens: bound once, so that it was free.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let server = format!("server: {{endpoint: 'ws://127.0.0.1:{port}/v1/opamp'}}\n");
    let rig = Rig::new(&format!("{server}{}", agent("one", "")));
    let supervisor = rig.start();
    rig.commit("mode: offline");
    let child = rig.child();
    wait_until("attempts", || {
        rig.agent_status("one")
            .is_some_and(|it| it["link"]["attempt"].as_u64() >= Some(2))
    });
    let status = rig.agent_status("one").unwrap();
    let error = status["link"]["last_error"].as_str().unwrap();
    assert!(error.contains("refused"), "{status}");
    assert!(error.contains(&port.to_string()), "{status}");
    assert_eq!(status["healthy"], true, "{status}");
    assert_eq!(rig.child(), child);
    assert_eq!(rig.cli(&["healthcheck"]).code, Some(0));
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn nobody_to_ask_is_exit_code_6() {
    let rig = Rig::generic();
    for command in [["status"], ["restart"], ["healthcheck"]] {
        let done = rig.cli(&command);
        assert_eq!(done.code, Some(6), "{command:?}: {}", done.err);
        assert!(done.err.contains("adjutant run"), "{}", done.err);
    }
}

#[test]
fn an_address_that_is_taken_is_exit_code_11_and_starts_nothing() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let rig = Rig::generic();
    rig.write("local.yaml", "mode: local\n");
    rig.set_all(&format!(
        "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: ['{address}']}}\n{}",
        agent("one", "    config_files: ['{dir}/local.yaml']\n")
    ));
    let done = rig.cli(&["run"]);
    assert_eq!(done.code, Some(11), "{}", done.err);
    assert!(done.err.contains(&address.to_string()), "{}", done.err);
    assert_eq!(rig.children(), Vec::<u32>::new());
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth))
}

/// Nine references each, nine levels deep: a hundred million words.
fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let row = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{row}]").unwrap();
    }
    text
}

fn long_scalars() -> String {
    let mut text = format!("a: &a {}\nb:\n", "x".repeat(500_000));
    for _ in 0..2_000 {
        text.push_str("  - *a\n");
    }
    text
}

/// A check of settings that may not have more data than [`DATA_KIB`].
fn bounded(rig: &Rig, data_kib: u32) -> Command {
    let inner = rig.command(&["validate"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -d \"$1\" && shift && exec \"$@\"", "sh"])
        .arg(data_kib.to_string())
        .arg(inner.get_program())
        .args(inner.get_args());
    command
}

#[test]
fn hostile_yaml_as_settings_is_refused_in_little_memory() {
    let cases: [(&str, String, &str); 8] = [
        ("deep maps", nested(100_000), "nested deeper than 64 levels"),
        (
            "deep lists",
            "[".repeat(200_000),
            "nested deeper than 64 levels",
        ),
        ("alias bomb", bomb(), "more than 20000 values"),
        ("long scalars repeated", long_scalars(), "1048576"),
        (
            "two megabytes",
            "#".repeat(2 * 1024 * 1024),
            "the limit is 1048576",
        ),
        (
            "many keys",
            (0..50_000).fold(String::new(), |text, key| format!("{text}k{key}: 1\n")),
            "more than 20000 values",
        ),
        ("self reference", "a: &a [*a]\n".to_owned(), "a"),
        ("no text", "\u{0}\u{1}\u{2}".to_owned(), "1:1"),
    ];
    let rig = Rig::generic();
    for (name, text, said) in cases {
        rig.write("supervisor.yaml", &text);
        let done = done(&mut bounded(&rig, DATA_KIB));
        assert_eq!(done.code, Some(78), "{name}: {}", shown(&done.err));
        assert!(done.err.contains(said), "{name}: {}", shown(&done.err));
        assert!(
            done.err.len() < 8 * 1024,
            "{name}: {} bytes",
            done.err.len()
        );
    }
    // The bound is one: what is fine above does not fit into nothing.
    let done = done(&mut bounded(&rig, 64));
    assert_ne!(done.code, Some(78), "{}", done.err);
}

fn shown(text: &str) -> String {
    text.chars().take(500).collect()
}

#[test]
fn the_settings_file_may_be_named_by_a_variable() {
    let rig = Rig::generic();
    let check = |file: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        done(command.arg("validate").env("SUPERVISOR_CONFIG", file))
    };
    let named = check(&rig.settings());
    assert_eq!(named.code, Some(0), "{named:?}");
    let file = rig.settings().display().to_string();
    assert!(named.out.contains(&file), "{named:?}");
    let missing = check(std::path::Path::new("/nonexistent/supervisor.yaml"));
    assert_eq!(missing.code, Some(78), "{missing:?}");
    assert!(
        missing.err.contains("/nonexistent/supervisor.yaml"),
        "{missing:?}"
    );
}

#[test]
fn explain_says_where_a_value_comes_from_and_what_it_would_be() {
    let rig = Rig::generic();
    let text = "stop: {grace: 3s}\nserver: {endpoint: 'ws://127.0.0.1:9', headers: {Authorization: hush}}\n\
                agents: {web: {profile: generic, executable: /bin/true}}\n";
    rig.write("supervisor.yaml", text);
    let file = rig.settings().display().to_string();
    let explain = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        done(command.args(["explain", "--config", &file]).args(args))
    };
    let page = explain(&["stop.grace"]);
    assert_eq!(page.code, Some(0), "{page:?}");
    let words: Vec<&str> = page.out.split_whitespace().collect();
    let place = format!("{file}:1:15");
    assert_eq!(
        &words[..6],
        ["stop.grace", "3s", "from", &place, "default", "7s"]
    );
    let changed = explain(&["--changed"]);
    let keys: Vec<&str> = changed
        .out
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let written = [
        "server.endpoint",
        "server.headers",
        "agents.web.profile",
        "agents.web.executable",
        "stop.grace",
    ];
    assert_eq!(keys, written, "{}", changed.out);
    assert!(!changed.out.contains("hush"), "{}", changed.out);
    let document: serde_json::Value =
        serde_json::from_str(&explain(&["stop", "--json"]).out).unwrap();
    assert_eq!(document["keys"][0]["layer"], "settings", "{document}");
    assert_eq!(document["keys"][0]["line"], 1, "{document}");
    assert_eq!(document["keys"][1]["layer"], "default", "{document}");
    let typo = explain(&["stop.grce"]);
    assert_eq!(typo.code, Some(1), "{typo:?}");
    assert!(
        typo.err.contains("did you mean \"stop.grace\"?"),
        "{typo:?}"
    );
    rig.write("supervisor.yaml", "stopp: {}\n");
    let refused = explain(&[]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused.err.contains("1:1: stopp: unknown key"),
        "{refused:?}"
    );
}
