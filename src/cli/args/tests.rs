//! Lines that are typed, and the mistakes in them; the documents know every command.

use clap::CommandFactory as _;

use super::*;

fn parsed(line: &str) -> Result<Command, String> {
    parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_consistent() {
    Line::command().debug_assert();
}

#[test]
fn lines_become_commands() {
    let place = |config: Option<&str>, state: Option<&str>| Place {
        feature_gates: Vec::new(),
        config: config.map(PathBuf::from),
        state_dir: state.map(PathBuf::from),
    };
    let none = place(None, None);
    let agent = || Some("otel".parse().unwrap());
    let revision = |text: &str| Some(text.parse().unwrap());
    let wait = |wait| Wait {
        wait,
        timeout: Duration::from_mins(if wait { 1 } else { 5 }),
    };
    let cases = [
        (
            "adjutant run",
            Command::Run {
                place: none.clone(),
                dev_server: None,
            },
        ),
        (
            "adjutant run --config a.yaml --state-dir /s --dev-server",
            Command::Run {
                place: place(Some("a.yaml"), Some("/s")),
                dev_server: Some("127.0.0.1:4319".parse().unwrap()),
            },
        ),
        (
            "adjutant run --dev-server [::1]:9",
            Command::Run {
                place: none.clone(),
                dev_server: Some("[::1]:9".parse().unwrap()),
            },
        ),
        (
            "adjutant validate bundle --agent otel -c a.yaml",
            Command::Validate {
                place: place(Some("a.yaml"), None),
                directory: Some("bundle".into()),
                agent: agent(),
                json: false,
            },
        ),
        (
            "adjutant explain agents.otel.apply --changed --json",
            Command::Explain {
                place: none.clone(),
                key: Some("agents.otel.apply".to_owned()),
                changed: true,
                json: true,
            },
        ),
        (
            "adjutant rollback --agent otel --to 1700000000000-00c0ffee --wait --timeout 1m",
            Command::Rollback {
                place: none.clone(),
                agent: agent(),
                to: revision("1700000000000-00c0ffee"),
                wait: wait(true),
            },
        ),
        (
            "adjutant apply dir",
            Command::Apply {
                place: none.clone(),
                directory: "dir".into(),
                agent: None,
                wait: wait(false),
            },
        ),
        (
            "adjutant config diff 1700000000000-00c0ffee",
            Command::Config {
                command: ConfigCommand::Diff {
                    place: none.clone(),
                    agent: None,
                    from: revision("1700000000000-00c0ffee"),
                    to: None,
                },
            },
        ),
        (
            "adjutant logs -n 5 -f",
            Command::Logs {
                place: none,
                supervisor: false,
                agent: None,
                lines: 5,
                follow: true,
            },
        ),
    ];
    for (line, wanted) in cases {
        assert_eq!(parsed(line), Ok(wanted), "{line}");
    }
}

#[test]
fn mistakes_name_the_argument() {
    let cases = [
        ("adjutant", "Usage"),
        ("adjutant stauts", "'status'"),
        ("adjutant run --dev-server 0.0.0.0:1", "loopback only"),
        ("adjutant restart --agent UPPER", "1 to 63 of a-z"),
        (
            "adjutant rollback --to latest",
            "<utc-ms>-<8 hexadecimal digits>",
        ),
        ("adjutant apply d --wait --timeout 30", "number with a unit"),
        ("adjutant apply d --timeout 30s", "--wait"),
        ("adjutant validate --agent a", "<DIR>"),
        (
            "adjutant healthcheck --url u --state-dir d",
            "cannot be used with",
        ),
    ];
    for (line, wanted) in cases {
        let said = parsed(line).unwrap_err();
        assert!(said.contains(wanted), "{line}: {said}");
    }
}

#[test]
fn every_command_is_in_its_document() {
    let document = include_str!("../../../docs/cli.md");
    let line = Line::command();
    for command in line.get_subcommands() {
        let heading = format!("\n## `adjutant {}", command.get_name());
        assert!(document.contains(&heading), "{heading} is missing");
        for argument in command.get_arguments().chain(
            command
                .get_subcommands()
                .flat_map(clap::Command::get_arguments),
        ) {
            if let Some(long) = argument.get_long() {
                assert!(
                    document.contains(&format!("`--{long}")),
                    "--{long} of {} is missing",
                    command.get_name()
                );
            }
        }
    }
}

#[test]
fn the_runbook_names_commands_that_exist() {
    let document = include_str!("../../../docs/runbook.md");
    let rows = document.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let lines: Vec<&str> = quoted.filter(|it| it.starts_with("adjutant ")).collect();
    assert!(lines.len() > 20, "only {} commands", lines.len());
    for line in lines {
        // What it prints instead of a command is help or the version, or a mistake.
        let words = line.replace("NAME", "name");
        let parsed = parse(words.split_whitespace().map(OsString::from));
        if let Err(error) = parsed {
            assert!(!error.use_stderr(), "{line}: {error}");
        }
    }
}
