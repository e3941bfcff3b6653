//! Kernel events under the supervisor, and on the way to a Collector.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::dataplane::rig::{Collector, Rig, eventually};
use crate::peers::Place;

fn config(events: &str, interval: &str, collector: &Collector) -> String {
    format!(
        "sources:
  k: {{kind: kernel, events: [{events}], command_args: true}}
  h: {{kind: host_metrics, interval: {interval}}}
uploads:
  out: {{kind: otlp_http, endpoint: \"http://{}\", from: [k], interval: 100ms}}
",
        collector.at
    )
}

/// All log records of one event name that the Collector has.
fn arrived(collector: &Collector, event: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for request in collector.received() {
        for resource in request["resourceLogs"].as_array().into_iter().flatten() {
            for scope in resource["scopeLogs"].as_array().into_iter().flatten() {
                let records = scope["logRecords"].as_array().into_iter().flatten();
                found.extend(
                    records
                        .filter(|record| record["eventName"] == event)
                        .cloned(),
                );
            }
        }
    }
    found
}

/// An attribute of a log record, as JSON writes it.
fn attribute<'a>(record: &'a Value, name: &str) -> &'a Value {
    let attributes = record["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|one| one["key"] == name);
    found.map_or(&Value::Null, |one| &one["value"])
}

/// Whole numbers are texts in OTLP's JSON.
fn is_number(value: &Value, number: u32) -> bool {
    let text = value["intValue"].as_str().unwrap_or_default();
    text.parse() == Ok(number)
}

fn of_pid(record: &Value, pid: u32) -> bool {
    is_number(attribute(record, "process.pid"), pid)
}

/// Given a data plane under the supervisor,
/// when kernel events are pushed, then other settings, then other kernel events,
/// then the first and the last restart it, the second does not, events arrive at a real Collector with their names and
/// attributes, and nothing of the supervisor's own is among them.
#[test]
fn a_push_of_kernel_events_restarts_the_data_plane_and_they_arrive() {
    let collector = Collector::start();
    let rig = Rig::own("probation: 1s");
    let before = rig.child();
    let verdict = rig.push(
        "collect.yaml",
        &config("exec, exit, tcp", "10s", &collector),
    );
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    let attached = rig.child();
    assert_ne!(
        attached, before,
        "privileges are needed, which only a new process has"
    );
    assert!(
        rig.part("source.k").unwrap().starts_with("ok: "),
        "{:?}",
        rig.part("source.k")
    );

    let mut child = Command::new("/bin/sh")
        .args(["-c", "exit 3"])
        .spawn()
        .unwrap();
    let pid = child.id();
    child.wait().unwrap();
    let exec = eventually("the event at the Collector", || {
        let found = arrived(&collector, "process.exec")
            .into_iter()
            .find(|record| of_pid(record, pid));
        found.ok_or_else(|| format!("{} requests", collector.received().len()))
    });
    let args = attribute(&exec, "process.command_args")["arrayValue"]["values"].clone();
    let args: Vec<_> = args
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word["stringValue"].clone())
        .collect();
    assert_eq!(args, ["/bin/sh", "-c", "exit 3"]);
    assert_eq!(exec["severityText"], "INFO");
    let exit = eventually("its end at the Collector", || {
        let found = arrived(&collector, "process.exit")
            .into_iter()
            .find(|record| of_pid(record, pid));
        found.ok_or_else(|| "not there".to_owned())
    });
    assert_eq!(attribute(&exit, "process.exit.code")["intValue"], "3");

    let verdict = rig.push(
        "collect.yaml",
        &config("exec, exit, tcp", "11s", &collector),
    );
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    assert_eq!(
        rig.child(),
        attached,
        "nothing that needs privileges changed"
    );
    let verdict = rig.push("collect.yaml", &config("exec", "11s", &collector));
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    assert_ne!(rig.child(), attached);

    // Pushes made the supervisor run validators, answer us and speak to the data plane.
    let mut rig = rig;
    let supervisor = u32::try_from(rig.supervisor().pid()).unwrap();
    let (attached, server) = (
        u32::try_from(attached).unwrap(),
        u32::from(rig.server.port()),
    );
    let ours: Vec<Value> = [
        "process.exec",
        "process.exit",
        "tcp.connect",
        "tcp.accept",
        "tcp.close",
    ]
    .into_iter()
    .flat_map(|event| arrived(&collector, event))
    .filter(|record| {
        let parent = attribute(record, "process.parent_pid");
        let local = attribute(record, "network.local.port");
        let accepted = attribute(record, "adjutant.tcp.side")["stringValue"] == "server";
        of_pid(record, supervisor)
            || of_pid(record, attached)
            || is_number(parent, supervisor)
            || accepted && is_number(local, server)
    })
    .collect();
    assert_eq!(ours, Vec::<Value>::new());
}

/// Given a supervisor that may not load kernel programs,
/// when kernel events are pushed,
/// then the config is committed, the agent is healthy, and health and `adjutant status` say what is missing.
#[test]
fn an_unsupported_host_says_so_in_health_and_status_and_keeps_the_config() {
    let dir = Place::new();
    let at = dir.path().display().to_string();
    let config = dir.path().join("supervisor.yaml");
    let local = dir.path().join("collect.yaml");
    super::rig::put(
        &local,
        "sources: {k: {kind: kernel}, h: {kind: host_metrics}}\nuploads: {out: {kind: console, from: [k, h]}}\n",
    );
    super::rig::put(
        &config,
        &format!(
            "storage: {{directory: {at}/state}}\nhttp: {{listen: []}}\n\
             agents: {{a: {{profile: adjutant, config_files: [{at}/collect.yaml], apply: {{probation: 1s}}}}}}\n"
        ),
    );
    fs::create_dir(dir.path().join("state")).unwrap();
    let nobody = Some(super::rig::NOBODY);
    std::os::unix::fs::chown(dir.path().join("state"), nobody, nobody).unwrap();
    let mut command = super::rig::Plane::as_nobody(dir.path());
    command.arg("run").arg("--config").arg(&config);
    let log = dir.path().join("log");
    let mut supervisor = crate::dataplane::rig::Process::start(&mut command, &log);
    let said = eventually("the reason in the status", || {
        let status = Command::new(dir.path().join("adjutant"))
            .arg("status")
            .arg("--config")
            .arg(&config)
            .output();
        let said = String::from_utf8_lossy(&status.unwrap().stdout).into_owned();
        if said.contains("unsupported") {
            Ok(said)
        } else {
            Err(format!("{said}\n{}", fs::read_to_string(&log).unwrap()))
        }
    });
    let wanted = "a: component source.k: unsupported: needs CAP_BPF and CAP_PERFMON; user 65534 lacks CAP_BPF and \
                  CAP_PERFMON";
    assert!(said.contains(wanted), "{said}");
    assert!(!said.contains("unhealthy"), "{said}");
    // In order, so that its child ends with it.
    supervisor.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(supervisor.ended().code(), Some(0));
}
