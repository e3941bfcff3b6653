//! Given `adjutant collect` by itself, or its supervisor gone,
//! when it is told to stop, only asked to validate, or left alone,
//! then it ends with its documented code, touches nothing, or goes on collecting.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use super::rig::{Process, Rig, Victoria, eventually, put};

fn adjutant() -> Command {
    Command::new(env!("CARGO_BIN_EXE_adjutant"))
}

fn validate(dir: &Path) -> Output {
    let mut command = adjutant();
    command.args(["collect", "--validate"]).arg(dir);
    command.output().unwrap()
}

#[test]
fn term_and_int_end_it_with_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let text = "sources: {host: {kind: host_metrics, interval: 1s}}\nuploads: {out: {kind: console, from: [host]}}\n";
        put(&config.join("collect.yaml"), text);
        let log = dir.path().join("log");
        let mut plane = Process::start(adjutant().arg("collect").arg(&config), &log);
        let said = || fs::read_to_string(&log).unwrap();
        eventually("a first reading on the console", || {
            if said().contains("system.memory.limit") {
                Ok(())
            } else {
                Err(said())
            }
        });
        plane.signal(signal);
        assert_eq!(plane.ended().code(), Some(0), "{}", said());
        assert!(said().contains("\"closed\":true"), "{}", said());
    }
}

#[test]
fn a_config_that_cannot_run_ends_it_with_code_78() {
    let dir = tempfile::tempdir().unwrap();
    put(
        &dir.path().join("collect.yaml"),
        "sources: {a: {kind: fish}}\n",
    );
    let output = adjutant().arg("collect").arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("collect.yaml:1:21: sources.a.kind"), "{said}");
}

#[test]
fn validation_has_no_side_effects() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    fs::create_dir(&config).unwrap();
    let socket = dir.path().join("app.sock");
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    door.set_nonblocking(true).unwrap();
    let text = format!(
        "sources:
  app: {{kind: unix_socket, path: {}}}
  host: {{kind: host_metrics, interval: 100ms}}
uploads:
  vm: {{kind: victoria_metrics, endpoint: \"http://{at}\", from: [host], interval: 100ms}}
  logs: {{kind: otlp_http, endpoint: \"http://{at}\", from: [app], bearer_token_file: /nowhere/token}}
",
        socket.display(),
        at = door.local_addr().unwrap()
    );
    put(&config.join("collect.yaml"), &text);
    let output = validate(&config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    put(
        &config.join("collect.yaml"),
        &text.replace("interval", "intervall"),
    );
    let output = validate(&config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    for place in [
        "collect.yaml:3:30: sources.host.intervall",
        "collect.yaml:5:",
    ] {
        assert!(said.contains(place), "{said}");
    }
    assert!(!socket.exists());
    assert_eq!(door.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let left = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!((left(dir.path()), left(&config)), (1, 1));
}

#[test]
fn the_data_plane_outlives_its_supervisor_and_the_next_start_takes_it_over() {
    let victoria = Victoria::start();
    let mut rig = Rig::own("probation: 1s");
    let socket = rig.path("app.sock");
    let config = format!(
        "sources:
  host: {{kind: host_metrics, interval: 500ms}}
  app: {{kind: unix_socket, path: {}}}
uploads:
  vm: {{kind: victoria_metrics, endpoint: \"http://{}\", from: [host], interval: 200ms}}
  out: {{kind: console, from: [app]}}
",
        socket.display(),
        victoria.at
    );
    let verdict = rig.push("collect.yaml", &config);
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    let good = rig.status()["current"]["id"].clone();
    let child = rig.child();
    let mut writer = UnixStream::connect(&socket).unwrap();
    rig.supervisor().signal(Signal::SIGKILL);
    rig.supervisor().ended();

    // It goes on by itself: samples of after the kill arrive, and its writer is still connected.
    let seen = victoria.times("system_memory_limit_bytes");
    let last = seen.unwrap_or_default().last().copied().unwrap_or(0);
    eventually("four more samples without a supervisor", || {
        let times = victoria.times("system_memory_limit_bytes")?;
        if times.iter().filter(|time| **time > last).count() >= 4 {
            Ok(())
        } else {
            Err(format!("{times:?}"))
        }
    });
    writeln!(writer, "{{\"supervisor\":\"gone\"}}").unwrap();
    assert_eq!(rig.data_planes(), [child]);

    rig.start();
    eventually("exactly one data plane, the one that was there", || {
        let (running, next) = (rig.data_planes(), rig.child());
        if running == [child] && next == child {
            Ok(())
        } else {
            Err(format!("{running:?}, it was {child}, said to be {next}"))
        }
    });
    eventually("the same revision, healthy", || {
        let status = rig.status();
        if status["current"]["id"] == good && status["healthy"] == true {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}
