//! Given local files, arguments, environment and stored offers for one Collector,
//! when it is started with all of them, or an offer changes what it says about itself,
//! then each has its effect, and the server reads the sum.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use super::bench::{AgentForm, Bench, Reload};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;
use crate::peers::{Door, eventually, free_port};

on_both_servers!(stored_offer_files_arguments_and_environment_all_count);
on_both_servers!(references_to_files_are_resolved_in_the_effective_config);
in_both_modes!(changed_description_of_the_collector_is_passed_on);
on_both_servers!(pinned_port_of_the_local_server_is_used);

fn answers(port: u16) {
    let door = Door::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    eventually("a health endpoint of the Collector answers", || {
        let answer = door.get("/")?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
}

// E11
fn stored_offer_files_arguments_and_environment_all_count(kind: Kind) {
    let mut bench = Bench::new(kind);
    let (by_environment, by_argument) = (free_port(), free_port());
    let local = "extensions:
  health_check: {endpoint: '127.0.0.1:${env:HEALTH_PORT}'}
  health_check/second: {endpoint: '127.0.0.1:1'}
service: {extensions: [health_check, health_check/second]}
";
    let file = bench.file("local.yaml", local);
    let second = format!("extensions::health_check/second::endpoint: '127.0.0.1:{by_argument}'");
    let settings = AgentForm {
        files: vec![file],
        more: format!(
            "  env: {{HEALTH_PORT: '{by_environment}'}}
  args: [--config, \"yaml:{second}\"]
"
        ),
        ..AgentForm::with_remote(Reload::Restart)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    supervisor.stop();

    let supervisor = bench.run(&settings);
    bench.connected(&supervisor);
    supervisor.healthy();
    answers(by_environment);
    answers(by_argument);
    bench.flows("remote.json");
}

// E18
fn references_to_files_are_resolved_in_the_effective_config(kind: Kind) {
    let mut bench = Bench::new(kind);
    let out = bench.path("out.json").display().to_string();
    let named = bench.file("named.txt", &out);
    let config = bench.pipeline("out.json").replace(
        &format!("path: '{out}'"),
        &format!("path: ${{file:{}}}", named.display()),
    );
    let file = bench.file("local.yaml", &config);
    let supervisor = bench.run(&AgentForm::with_local(Reload::Restart, file));
    let uid = bench.connected(&supervisor);
    bench.flows("out.json");
    bench.agent(&uid, "with the resolved path", |agent| {
        agent.effective.contains(&out) && !agent.effective.contains("named.txt")
    });
}

// E20
fn changed_description_of_the_collector_is_passed_on(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let settings = AgentForm {
        more: "  description: {non_identifying_attributes: {env: prod}}\n".to_owned(),
        ..AgentForm::with_remote(reload)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");

    let resource = "telemetry: {resource: {service.name: renamed, service.version: 9.9.9}, ";
    let renamed = bench.pipeline("out.json").replace("telemetry: {", resource);
    let hash = bench.push(&uid, &renamed);
    bench.status(&uid, &hash, "APPLIED");
    let agent = bench.agent(&uid, "under its new name", |agent| {
        let name = agent.identifying.get("service.name");
        name.is_some_and(|name| name == "renamed")
    });
    assert_eq!(agent.identifying["service.version"], "9.9.9");
    assert_eq!(agent.identifying["service.instance.id"], uid.as_str());
    assert_eq!(agent.other["env"], "prod");
}

// E32
fn pinned_port_of_the_local_server_is_used(kind: Kind) {
    let mut bench = Bench::new(kind);
    let port = free_port();
    let file = bench.file("local.yaml", &bench.pipeline("out.json"));
    let settings = AgentForm {
        more: format!("  opamp_server_port: {port}\n"),
        ..AgentForm::with_local(Reload::Restart, file)
    };
    let supervisor = bench.run(&settings);
    bench.connected(&supervisor);
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // Its health comes over that port, and from nowhere else.
    supervisor.healthy();
}
