//! Given fallback configs in opampsupervisor's form,
//! when a supervisor starts with a server that is not there, or has been there once,
//! then the fallback runs only where nothing is stored and nobody was reached, and only what validates may be one.

use std::path::{Path, PathBuf};

use super::bench::{AgentForm, Bench, Reload};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;
use crate::peers::free_port;

in_both_modes!(fallback_runs_where_nothing_is_stored_and_nobody_is_reached);
in_both_modes!(first_contact_ends_the_fallback_for_good);
in_both_modes!(stored_config_runs_and_the_fallback_does_not);
on_both_servers!(server_that_answers_keeps_the_fallback_away);
on_both_servers!(fallback_goes_on_until_there_is_an_offer);

fn with_fallback(settings: AgentForm, file: &Path) -> AgentForm {
    AgentForm {
        more: format!("  startup_fallback_configs: ['{}']\n", file.display()),
        ..settings
    }
}

/// How many revisions were ever stored.
fn revisions(bench: &Bench) -> usize {
    std::fs::read_dir(bench.path("state/agents/collector/revisions"))
        .unwrap()
        .count()
}

// E37
fn fallback_runs_where_nothing_is_stored_and_nobody_is_reached(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let local = bench.file("local.yaml", &bench.pipeline("local.json"));
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = with_fallback(
        AgentForm {
            files: vec![local],
            ..AgentForm::with_remote(reload)
        },
        &fallback,
    );
    let port = free_port();
    let supervisor = bench.run_alone(&settings, port);
    let pid = supervisor.healthy();
    bench.flows("fallback.json");
    assert!(!bench.path("local.json").exists());
    assert_eq!(supervisor.pid(), Some(pid));
    supervisor.stop();

    // It is not what is meant by a stored config: the next life does the same.
    let supervisor = bench.run_alone(&settings, port);
    supervisor.healthy();
    bench.flows("fallback.json");
    assert!(!bench.path("local.json").exists());
    assert_eq!(revisions(&bench), 1);
    supervisor.stop();
}

// E38
fn first_contact_ends_the_fallback_for_good(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let local = bench.file("local.yaml", &bench.pipeline("local.json"));
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = with_fallback(AgentForm::with_local(reload, local), &fallback);
    let port = free_port();
    let supervisor = bench.run_alone(&settings, port);
    supervisor.healthy();
    bench.flows("fallback.json");

    bench.server_comes(port);
    let uid = bench.connected(&supervisor);
    bench.flows("local.json");
    bench.agent(&uid, "with the normal config", |agent| {
        agent.effective.contains("local.json") && !agent.effective.contains("fallback.json")
    });
    let pid = supervisor.healthy();

    bench.server_goes();
    supervisor.until("it has tried again a few times", |status| {
        status["link"]["attempt"].as_u64() >= Some(3)
    });
    bench.flows("local.json");
    assert_eq!(supervisor.pid(), Some(pid));
    assert_eq!(revisions(&bench), 2);
    supervisor.stop();
}

// E07
fn stored_config_runs_and_the_fallback_does_not(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = with_fallback(AgentForm::with_remote(reload), &fallback);
    let port = free_port();
    bench.server_comes(port);
    let supervisor = bench.run_alone(&settings, port);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    bench.server_goes();
    supervisor.stop();

    let supervisor = bench.run_alone(&settings, port);
    let pid = supervisor.healthy();
    bench.flows("remote.json");
    supervisor.until("it has tried a few times", |status| {
        status["link"]["attempt"].as_u64() >= Some(3)
    });
    assert_eq!(supervisor.pid(), Some(pid));
    bench.server_comes(port);
    bench.connected(&supervisor);
    bench.status(&uid, &hash, "APPLIED");
    assert_eq!(supervisor.pid(), Some(pid), "the Collector did not notice");
    assert!(!bench.path("fallback.json").exists());
}

fn server_that_answers_keeps_the_fallback_away(kind: Kind) {
    let mut bench = Bench::new(kind);
    let local = bench.file("local.yaml", &bench.pipeline("local.json"));
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = with_fallback(AgentForm::with_local(Reload::Restart, local), &fallback);
    let supervisor = bench.run(&settings);
    bench.connected(&supervisor);
    supervisor.healthy();
    bench.flows("local.json");
    assert_eq!(revisions(&bench), 1);
    assert!(!bench.path("fallback.json").exists());
    let status = supervisor.status().unwrap();
    assert_eq!(status["restarts"], 0, "{status:#}");
}

fn fallback_goes_on_until_there_is_an_offer(kind: Kind) {
    let mut bench = Bench::without_server(kind);
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = with_fallback(AgentForm::with_remote(Reload::Restart), &fallback);
    let port = free_port();
    let supervisor = bench.run_alone(&settings, port);
    let pid = supervisor.healthy();
    bench.server_comes(port);
    let uid = bench.connected(&supervisor);
    bench.flows("fallback.json");
    assert_eq!(supervisor.pid(), Some(pid));
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("remote.json");
    bench.agent(&uid, "without the fallback", |agent| {
        !agent.effective.contains("fallback.json")
    });
}

// E01
#[test]
fn file_that_needs_arguments_is_validated_with_them() {
    let profiles = "receivers: {otlp: {protocols: {http: {endpoint: '127.0.0.1:0'}}}}
exporters: {debug: {}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {profiles: {receivers: [otlp], exporters: [debug]}}
";
    let mut bench = Bench::without_server(Kind::OpampGo);
    let file = bench.file("profiles.yaml", profiles);
    let settings = with_fallback(AgentForm::with_remote(Reload::Restart), &file);
    let (code, words) = bench.refused(&settings);
    assert_eq!(code, 78, "{words}");
    let told = format!(
        "check the fallback config {}: the validator refused",
        file.display()
    );
    assert!(words.contains(&told), "{words}");
    assert!(words.contains("service.profilesSupport"), "{words}");

    let with_gate = AgentForm {
        more: format!(
            "{}  args: [--feature-gates=service.profilesSupport]\n",
            settings.more
        ),
        ..settings
    };
    let supervisor = bench.run_alone(&with_gate, free_port());
    supervisor.healthy();
}

// E01
#[test]
fn bad_file_is_a_named_error_at_the_start() {
    let bench = Bench::without_server(Kind::OpampGo);
    let good = bench.file("good.yaml", &bench.pipeline("out.json"));
    let broken = bench.pipeline("out.json").replace("start_at", "starts_at");
    let broken = bench.file("bad.yaml", &broken);
    let settings = |files: &[&PathBuf]| AgentForm {
        more: format!(
            "  startup_fallback_configs: {}\n",
            serde_json::to_string(files).unwrap()
        ),
        ..AgentForm::with_remote(Reload::Restart)
    };
    let (code, words) = bench.refused(&settings(&[&bench.path("missing.yaml")]));
    assert_eq!(code, 78, "{words}");
    let told = "agent.startup_fallback_configs[0]: read ";
    assert!(
        words.contains(told) && words.contains("missing.yaml"),
        "{words}"
    );
    assert!(!bench.path("state").exists(), "nothing was begun");

    let (code, words) = bench.refused(&settings(&[&good, &broken]));
    assert_eq!(code, 78, "{words}");
    let told = format!("check the fallback config {}", broken.display());
    assert!(
        words.contains(&told) && words.contains("starts_at"),
        "{words}"
    );
}
