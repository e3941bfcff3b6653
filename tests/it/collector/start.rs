//! Given a server and a Collector that has run nothing yet,
//! when a config comes from the server, from a local file, or says that nothing is to be done,
//! then the Collector runs exactly that, and the server reads what runs.

use std::fs;

use super::bench::{AgentForm, Bench, Reload};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;

in_both_modes!(remote_config_runs_and_is_reported, process_1);
on_both_servers!(files_of_an_offer_are_layers_in_the_order_of_their_names);
in_both_modes!(local_config_runs);
in_both_modes!(config_without_pipelines_runs);
on_both_servers!(capabilities_turned_off_are_not_announced);
on_both_servers!(description_of_the_settings_is_what_the_server_reads);

// E02
fn remote_config_runs_and_is_reported(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);
    assert_eq!(supervisor.pid(), None, "nothing to run yet");

    let first = bench.push(&uid, &bench.pipeline("first.json"));
    bench.status(&uid, &first, "APPLIED");
    bench.healthy(&uid, true);
    bench.flows("first.json");
    bench.agent(&uid, "with its effective config", |agent| {
        agent.effective.contains("first.json") && agent.effective.contains("filelog")
    });
    let pid = supervisor.healthy();

    let second = bench.push(&uid, &bench.pipeline("second.json"));
    bench.status(&uid, &second, "APPLIED");
    bench.agent(&uid, "with the other effective config", |agent| {
        agent.effective.contains("second.json") && !agent.effective.contains("first.json")
    });
    bench.flows("second.json");
    let same = supervisor.healthy() == pid;
    assert_eq!(
        same,
        reload.is_hup(),
        "a HUP keeps the process, a restart does not"
    );

    let names = fs::read_dir(bench.path("state")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let kept = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("last_working");
    assert!(!names.iter().any(kept), "{names:?}");
}

fn files_of_an_offer_are_layers_in_the_order_of_their_names(kind: Kind) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(Reload::Restart));
    let uid = bench.connected(&supervisor);
    let whole = bench.pipeline("first.json");
    let path = |name: &str| {
        let path = bench.path(name);
        format!("exporters: {{file: {{path: '{}'}}}}\n", path.display())
    };
    let files = [
        ("z.yaml", path("second.json")),
        ("", path("third.json")),
        ("a.yaml", whole),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(name, body)| (*name, body.as_str()))
        .collect();
    let hash = bench.server().push(&uid, &files, None);
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("third.json");
    assert!(!bench.path("first.json").exists());
    assert!(!bench.path("second.json").exists());
}

// E03
fn local_config_runs(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let file = bench.file("local.yaml", &bench.pipeline("local.json"));
    let supervisor = bench.run(&AgentForm::with_local(reload, file));
    let uid = bench.connected(&supervisor);
    supervisor.healthy();
    bench.healthy(&uid, true);
    bench.flows("local.json");
    // Only the Collector itself can say this: it has connected to the local server.
    bench.agent(&uid, "as the Collector describes itself", |agent| {
        agent
            .identifying
            .get("service.name")
            .is_some_and(|name| name == "otelcol")
            && agent.identifying.contains_key("service.version")
            && agent.effective.contains("local.json")
    });
}

// E05
fn config_without_pipelines_runs(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let text = "extensions: {health_check: {endpoint: '127.0.0.1:0'}}
service:
  telemetry: {metrics: {level: none}}
  extensions: [health_check]
";
    let file = bench.file("local.yaml", text);
    let supervisor = bench.run(&AgentForm::with_local(reload, file));
    let uid = bench.connected(&supervisor);
    supervisor.healthy();
    bench.healthy(&uid, true);
    bench.agent(&uid, "with its effective config", |agent| {
        agent.effective.contains("health_check") && agent.effective.contains("opamp")
    });
}

// E14
fn capabilities_turned_off_are_not_announced(kind: Kind) {
    let mut bench = Bench::new(kind);
    let settings = format!(
        "server: {{endpoint: SERVER}}
storage: {{directory: STATE}}
capabilities:
  accepts_remote_config: false
  reports_remote_config: false
  accepts_restart_command: false
  accepts_opamp_connection_settings: false
  reports_effective_config: false
  reports_own_metrics: false
  reports_own_logs: false
  reports_own_traces: false
  reports_health: false
  reports_available_components: false
agent: {{executable: '{}'}}
",
        crate::peers::otelcol().display()
    );
    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let agent = bench.agent(&uid, "connected", |agent| agent.connected);
    // ReportsStatus and ReportsHeartbeat.
    assert_eq!(agent.capabilities, 0x1 | 0x2000);
    assert_eq!(agent.health, None);
    assert_eq!(agent.status, None);
}

// E19
fn description_of_the_settings_is_what_the_server_reads(kind: Kind) {
    let mut bench = Bench::new(kind);
    let file = bench.file("local.yaml", &bench.pipeline("local.json"));
    let settings = AgentForm {
        more: "  description:
    identifying_attributes: {client.id: my-client-id, service.name: renamed}
    non_identifying_attributes: {env: prod, os.type: mine}
"
        .to_owned(),
        ..AgentForm::with_local(Reload::Restart, file)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    supervisor.healthy();
    // The Collector has described itself by now, and the settings still win.
    let agent = bench.agent(&uid, "with the Collector's own attributes", |agent| {
        agent.identifying.contains_key("service.version")
    });
    let identifying = |key: &str| agent.identifying[key].as_str().unwrap();
    assert_eq!(identifying("client.id"), "my-client-id");
    assert_eq!(identifying("service.name"), "renamed");
    assert_eq!(identifying("service.instance.id"), uid);
    let names: Vec<_> = agent.identifying.keys().map(String::as_str).collect();
    let wanted = [
        "client.id",
        "service.instance.id",
        "service.name",
        "service.version",
    ];
    assert_eq!(names, wanted);
    let other = |key: &str| agent.other[key].as_str().unwrap();
    assert_eq!(other("env"), "prod");
    assert_eq!(other("os.type"), "mine");
    assert!(agent.other.contains_key("host.name"), "{:?}", agent.other);
}
