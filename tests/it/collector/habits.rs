//! Given the habits of people who ran opampsupervisor,
//! when they look into its files, at what it says of its Collector, or set the keys that decide what it says,
//! then they find what they are used to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::bench::{AgentForm, Bench, Reload};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;
use crate::peers::{eventually, now, otelcol, within};

in_both_modes!(effective_config_and_log_are_where_people_look);
on_both_servers!(collector_is_described_as_it_describes_itself);
in_both_modes!(listed_resource_attributes_stay_a_list);
on_both_servers!(resource_attributes_are_described_where_that_is_asked_for);
on_both_servers!(last_output_is_reported_as_long_as_the_settings_say);
on_both_servers!(own_log_goes_where_the_settings_say);
on_both_servers!(lines_of_the_collector_are_among_ours_where_they_are_passed_on);
in_both_modes!(last_good_that_cannot_run_any_more_is_no_hot_loop);

// E27
fn effective_config_and_log_are_where_people_look(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let state = bench.path("state");
    fs::create_dir(&state).unwrap();
    // The one before wrote a file of this name.
    let old = fs::File::create(state.join("agent.log"));
    old.and_then(|mut old| std::io::Write::write_all(&mut old, b"old\n"))
        .unwrap();
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);
    let effective = state.join("effective.yaml");
    let shows = |name: &str| {
        eventually(&format!("effective.yaml shows {name}"), || {
            let text = fs::read_to_string(&effective).map_err(|error| error.to_string())?;
            if text.contains(name) {
                Ok(text)
            } else {
                Err(text)
            }
        })
    };
    for name in ["first.json", "second.json"] {
        let hash = bench.push(&uid, &bench.pipeline(name));
        bench.status(&uid, &hash, "APPLIED");
        let text = shows(name);
        // Merged: what is offered and what links the Collector to us, in one text.
        assert!(text.contains("filelog") && text.contains("opamp"), "{text}");
        let mode = fs::metadata(&effective).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let log = state.join("agent.log");
    eventually("agent.log has the Collector's lines", || {
        let text = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if text.contains("Everything is ready") {
            Ok(())
        } else {
            Err(text)
        }
    });
    let target = fs::read_link(&log).unwrap();
    assert_eq!(target.to_str(), Some("agents/collector/logs/collector.log"));
    let kept = fs::read_to_string(state.join("agent.log.opampsupervisor")).unwrap();
    assert_eq!(kept, "old\n");
    let empty = bench.server().push(&uid, &[], None);
    bench.status(&uid, &empty, "APPLIED");
    assert_eq!(shows("nothing runs"), "# nothing runs\n");
    supervisor.stop();

    let settings = AgentForm {
        more: "  passthrough_logs: true\n".to_owned(),
        ..AgentForm::with_remote(reload)
    };
    let supervisor = bench.run(&settings);
    assert!(!log.exists(), "no log is kept that it could show");
    supervisor.stop();
}

/// What the Collector says of itself on its command line.
fn buildinfo(key: &str) -> String {
    let output = Command::new(otelcol()).arg("components").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
        .to_owned()
}

// E16: there is no bootstrap run, so it is the first real one that says it.
fn collector_is_described_as_it_describes_itself(kind: Kind) {
    for without_pipelines in [false, true] {
        let mut bench = Bench::new(kind);
        let text = if without_pipelines {
            "service: {telemetry: {metrics: {level: none}}}\n".to_owned()
        } else {
            bench.pipeline("local.json")
        };
        let file = bench.file("local.yaml", &text);
        let supervisor = bench.run(&AgentForm::with_local(Reload::Restart, file));
        let uid = bench.connected(&supervisor);
        let agent = bench.agent(&uid, "with the Collector's version", |agent| {
            agent.identifying.contains_key("service.version")
        });
        assert_eq!(agent.identifying["service.name"], buildinfo("command"));
        assert_eq!(agent.identifying["service.version"], buildinfo("version"));
        assert_eq!(agent.identifying["service.instance.id"], uid.as_str());
        supervisor.stop();
    }
}

// E17
#[test]
fn components_are_reported_where_that_is_asked_for() {
    let mut bench = Bench::new(Kind::OpampGo);
    let file = bench.file("local.yaml", &bench.pipeline("local.json"));
    let settings = |bench: &Bench, ask: bool| {
        format!(
            "server: {{endpoint: SERVER}}
storage: {{directory: STATE}}
capabilities: {{reports_available_components: {ask}}}
agent: {{executable: '{}', config_files: ['{}']}}
",
            otelcol().display(),
            bench.path("local.yaml").display()
        )
    };
    assert!(file.exists());
    let supervisor = bench.run_text(&settings(&bench, true));
    let uid = bench.connected(&supervisor);
    // Over the agent's link only a hash goes until the server asks.
    supervisor.healthy();
    let agent = bench.agent(&uid, "with its components", |agent| {
        bench.server().ask_for_components(&uid);
        agent
            .components
            .as_ref()
            .is_some_and(|kinds| !kinds.is_empty())
    });
    assert_eq!(agent.capabilities & 0x4000, 0x4000);
    let components = agent.components.unwrap();
    let kinds: Vec<_> = components.keys().map(String::as_str).collect();
    assert_eq!(
        kinds,
        [
            "connectors",
            "exporters",
            "extensions",
            "processors",
            "receivers"
        ]
    );
    assert!(components["extensions"].contains(&"opamp".to_owned()));
    assert!(components["receivers"].contains(&"otlp".to_owned()));
    supervisor.stop();

    let supervisor = bench.run_text(&settings(&bench, false));
    let uid = bench.connected(&supervisor);
    supervisor.healthy();
    let agent = bench.agent(&uid, "connected again", |agent| {
        agent.connected && agent.capabilities & 0x4000 == 0
    });
    assert_eq!(agent.capabilities & 0x4000, 0);
}

// E04
fn listed_resource_attributes_stay_a_list(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let resource = "telemetry: {resource: {attributes: [{name: team, value: blue}]}, ";
    let text = bench
        .pipeline("local.json")
        .replace("telemetry: {", resource);
    let file = bench.file("local.yaml", &text);
    let supervisor = bench.run(&AgentForm::with_local(reload, file));
    let uid = bench.connected(&supervisor);
    supervisor.healthy();
    bench.flows("local.json");
    let agent = bench.agent(&uid, "with the listed attribute", |agent| {
        agent.effective.contains("name: team")
    });
    let (_, telemetry) = agent.effective.split_once("telemetry:").unwrap();
    let (_, telemetry) = telemetry.split_once("resource:").unwrap();
    let section: Vec<&str> = telemetry.lines().skip(1).take(12).collect();
    assert!(section[0].trim().starts_with("attributes:"), "{section:#?}");
    let legacy = section.iter().find(|line| line.trim().starts_with("team:"));
    assert_eq!(legacy, None, "{section:#?}");
    assert_eq!(agent.identifying["service.name"], "otelcol");
}

// E20
fn resource_attributes_are_described_where_that_is_asked_for(kind: Kind) {
    for ask in [false, true] {
        let mut bench = Bench::new(kind);
        let settings = AgentForm {
            more: format!("  description: {{include_resource_attributes: {ask}}}\n"),
            ..AgentForm::with_remote(Reload::Restart)
        };
        let supervisor = bench.run(&settings);
        let uid = bench.connected(&supervisor);
        let resource = "telemetry: {resource: {service.version: 9.9.9, team: blue}, ";
        let text = bench.pipeline("out.json").replace("telemetry: {", resource);
        let hash = bench.push(&uid, &text);
        bench.status(&uid, &hash, "APPLIED");
        let agent = bench.agent(&uid, "as the Collector describes itself", |agent| {
            agent
                .identifying
                .get("service.version")
                .is_some_and(|it| it == "9.9.9")
        });
        let team = agent.other.get("team").and_then(|it| it.as_str());
        assert_eq!(team, ask.then_some("blue"), "{:?}", agent.other);
        supervisor.stop();
    }
}

// E31
fn last_output_is_reported_as_long_as_the_settings_say(kind: Kind) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut lengths = Vec::new();
    for key in [
        "",
        "  collector_crash_log_snippet_kib: 0\n",
        "  collector_crash_log_snippet_kib: 4\n",
    ] {
        let mut bench = Bench::new(kind);
        let settings = AgentForm {
            more: key.to_owned(),
            ..AgentForm::with_remote(Reload::Restart)
        };
        let supervisor = bench.run(&settings);
        let uid = bench.connected(&supervisor);
        // Settings that a reader can tell from others: the Collector logs each extension that it starts.
        let bad = bench.push(&uid, &super::apply::port_taken(port));
        let words = bench.status(&uid, &bad, "FAILED");
        let health = bench.healthy(&uid, false);
        for text in [&words, &health] {
            assert!(
                text.starts_with("the child died with exit code 1"),
                "{key}: {text}"
            );
            let told = text.contains("address already in use");
            assert_eq!(told, !key.contains(": 0"), "{key}: {text}");
            assert!(text.len() <= 4096, "{key}: {} bytes", text.len());
        }
        lengths.push(words.len());
        supervisor.stop();
    }
    assert!(
        lengths[1] < lengths[0] && lengths[0] <= lengths[2],
        "{lengths:?}"
    );
}

// E10
fn last_good_that_cannot_run_any_more_is_no_hot_loop(kind: Kind, reload: Reload) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bad_port = taken.local_addr().unwrap().port();
    let good_port = crate::peers::free_port();
    let mut bench = Bench::new(kind);
    let settings = AgentForm {
        rollback: true,
        ..AgentForm::with_remote(reload)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &super::apply::port_taken(good_port));
    bench.status(&uid, &good, "APPLIED");
    supervisor.healthy();
    let bad = bench.push(&uid, &super::apply::port_taken(bad_port));
    // As soon as the good one has let go of its port it is somebody else's.
    let thief = eventually("the port of the good config is free", || {
        std::net::TcpListener::bind(("127.0.0.1", good_port)).map_err(|error| error.to_string())
    });
    bench.status(&uid, &bad, "FAILED");
    let crashes = || {
        supervisor
            .status()
            .map(|status| status["crashes"].as_u64().unwrap())
    };
    let before = crashes().unwrap();
    let over = now() + std::time::Duration::from_secs(2);
    let seen = within(std::time::Duration::from_secs(30), "two seconds", || {
        let seen = crashes()?;
        if now() < over {
            Err(seen.to_string())
        } else {
            Ok(seen)
        }
    });
    // That of the roll-back itself, and two more.
    let launches = seen - before;
    assert!(launches <= 3, "{launches} launches in two seconds");
    // Whoever took the port gives it back, and the good config comes up by itself or by an order.
    drop(thief);
    supervisor.command(&["restart"]);
    supervisor.until("running again", |status| {
        status["child"]["pid"].is_u64() && status["healthy"] == true
    });
}

// E29
fn own_log_goes_where_the_settings_say(kind: Kind) {
    let mut bench = Bench::new(kind);
    let (log, second) = (bench.path("supervisor.log"), bench.path("second.log"));
    let paths = serde_json::json!([log, format!("file://{}", second.display())]);
    let settings = AgentForm {
        more: format!("telemetry: {{logs: {{level: info, output_paths: {paths}}}}}\n"),
        ..AgentForm::with_remote(Reload::Restart)
    };
    if kind == Kind::Dev {
        // Its embedded server is found by a line on standard error.
        bench.server_comes(0);
    }
    let endpoint = bench.server().endpoint();
    let supervisor = bench.run_polled(&settings, &endpoint);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    assert_eq!(supervisor.log(), Vec::<String>::new(), "standard error");
    supervisor.stop();
    for log in [log, second] {
        let text = fs::read_to_string(&log).unwrap();
        let mut messages = Vec::new();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let level = line["level"].as_str().unwrap();
            assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
            messages.push(line["message"].as_str().unwrap().to_owned());
        }
        assert!(
            messages.iter().any(|it| it == "config offered"),
            "{messages:?}"
        );
    }

    let settings = AgentForm {
        more: "telemetry: {logs: {output_paths: [/nonexistent/directory/x.log]}}\n".to_owned(),
        ..settings
    };
    let (code, words) = bench.refused(&settings);
    assert_eq!(code, 78, "{words}");
    assert!(
        words.contains("open the log file /nonexistent/directory/x.log: No such file"),
        "{words}"
    );
}

// E29
fn lines_of_the_collector_are_among_ours_where_they_are_passed_on(kind: Kind) {
    for encoding in ["console", "json"] {
        let mut bench = Bench::new(kind);
        let log = bench.path("supervisor.log");
        let settings = AgentForm {
            more: format!(
                "  passthrough_logs: true\ntelemetry: {{logs: {{level: info, output_paths: ['{}']}}}}\n",
                log.display()
            ),
            ..AgentForm::with_remote(Reload::Restart)
        };
        if kind == Kind::Dev {
            // Its embedded server is found by a line on standard error.
            bench.server_comes(0);
        }
        let endpoint = bench.server().endpoint();
        let supervisor = bench.run_polled(&settings, &endpoint);
        let uid = bench.connected(&supervisor);
        let telemetry = format!("telemetry: {{logs: {{encoding: {encoding}}}, ");
        let config = bench
            .pipeline("out.json")
            .replace("telemetry: {", &telemetry);
        let hash = bench.push(&uid, &config);
        bench.status(&uid, &hash, "APPLIED");
        assert_eq!(supervisor.log(), Vec::<String>::new(), "our own streams");
        supervisor.stop();
        let text = fs::read_to_string(&log).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let (theirs, ours): (Vec<_>, Vec<_>) =
            lines.partition(|line| line["logger"] == "collector");
        assert!(ours.iter().any(|line| line["message"] == "config offered"));
        let ready = |line: &&serde_json::Value| line.to_string().contains("Everything is ready");
        let ready = theirs.iter().find(ready);
        let ready = ready.unwrap_or_else(|| panic!("{encoding}: {text}"));
        // What the Collector writes for machines stays what it is, for people it becomes one line of ours.
        if encoding == "json" {
            assert!(ready["msg"].is_string(), "{ready}");
            assert_eq!(ready["level"], "info", "{ready}");
            assert_eq!(ready.get("message"), None);
        } else {
            assert!(ready["message"].is_string(), "{ready}");
            assert_eq!(ready["level"], "INFO", "{ready}");
        }
    }
}
