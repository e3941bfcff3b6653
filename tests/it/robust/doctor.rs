//! Given a host on which something is in the way of a supervisor,
//! when `doctor` looks at it, with or without a running supervisor,
//! then the thing is named with what to do, and the exit code says whether it has to be done.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::proc;
use super::rig::{Done, Rig, agent, done, have, lacks, wait_for};

/// The findings of one look, and its exit code.
struct Look {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Look {
    fn of(done: &Done) -> Self {
        let document: Value = serde_json::from_str(&done.out)
            .unwrap_or_else(|error| panic!("{error}: {} {}", done.out, done.err));
        Self {
            code: done.code,
            findings: document["findings"].as_array().unwrap().clone(),
        }
    }

    /// The findings of one check as level and text with remedy.
    fn about(&self, check: &str) -> Vec<(String, String)> {
        let word = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
        let found = self.findings.iter().filter(|it| it["check"] == check);
        let found = found.map(|it| {
            let text = format!("{}; {}", word(it, "text"), word(it, "remedy"));
            (word(it, "level"), text)
        });
        found.collect()
    }

    fn one(&self, check: &str, level: &str, part: &str) {
        let found = self.about(check);
        let fits = found
            .iter()
            .any(|(found, text)| found == level && text.contains(part));
        assert!(fits, "{check} {level} {part:?} in {found:?}");
    }
}

fn look(rig: &Rig) -> Look {
    Look::of(&rig.cli(&["doctor", "--json"]))
}

/// Settings with one agent and what is given for the host.
fn set(rig: &Rig, host: &str) {
    let entry = agent("one", "");
    rig.set_all(&format!(
        "storage: {{directory: '{{dir}}/state'}}\n{host}{entry}"
    ));
}

#[test]
fn without_a_supervisor_it_looks_at_everything_and_changes_nothing() {
    let rig = Rig::generic();
    let look = look(&rig);
    assert_eq!(look.code, Some(0), "{:?}", look.findings);
    for check in [
        "version",
        "settings",
        "kernel",
        "state directory",
        "disk space",
        "inodes",
        "control socket",
        "supervisor",
        "open files",
        "seccomp",
        "cgroup",
        "kernel events",
        "agent",
        "trust roots",
        "server",
    ] {
        assert!(!look.about(check).is_empty(), "{check}");
    }
    look.one("state directory", "ok", "the first start makes it");
    look.one("supervisor", "ok", "none runs");
    look.one("server", "ok", "none is set up");
    assert!(!rig.state().exists(), "it made something");
    let lines = rig.cli(&["doctor"]).out;
    assert_eq!(lines.lines().count(), look.findings.len());
    assert!(
        lines
            .lines()
            .all(|it| it.starts_with("ok") || it.starts_with("warn")),
        "{lines}"
    );
}

#[test]
fn a_running_supervisor_is_named_and_one_that_hangs_is_told_apart() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    let pid = supervisor.pid();
    look(&rig).one("supervisor", "ok", &format!("process {pid} runs, version "));
    // The second one names the same holder.
    let second = rig.cli(&["run"]);
    assert_eq!(second.code, Some(4));
    assert!(
        second.err.contains(&format!("held by process {pid};")),
        "{}",
        second.err
    );
    supervisor.send(Signal::SIGSTOP);
    wait_for("the freeze", || {
        (proc::process(pid)?.state == 'T').then_some(())
    });
    let frozen = look(&rig);
    assert_eq!(frozen.code, Some(1));
    frozen.one(
        "supervisor",
        "fail",
        &format!("process {pid} holds the state directory"),
    );
    supervisor.send(Signal::SIGCONT);
    assert_eq!(supervisor.stop().code(), Some(0));
    look(&rig).one("supervisor", "ok", "none runs");
}

#[test]
fn a_port_is_free_ours_or_taken_by_somebody_with_a_name() {
    let rig = Rig::generic();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    set(&rig, &format!("http: {{listen: ['{address}']}}\n"));
    let found = look(&rig);
    assert_eq!(found.code, Some(1));
    let own = std::process::id();
    found.one(
        "port",
        "fail",
        &format!("{address} (http.listen) is taken by "),
    );
    found.one("port", "fail", &format!("(pid {own})"));
    drop(taken);
    look(&rig).one("port", "ok", "is free");
    let supervisor = rig.start();
    let found = look(&rig);
    assert_eq!(found.code, Some(0), "{:?}", found.findings);
    found.one("port", "ok", &format!("(pid {})", supervisor.pid()));
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn wrong_modes_a_long_path_and_broken_settings_are_found_with_what_to_do() {
    let rig = Rig::generic();
    assert_eq!(rig.start().stop().code(), Some(0));
    let identity = rig.state().join("identity.json");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(rig.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let found = look(&rig);
    assert_eq!(found.code, Some(0), "warnings are no failure");
    found.one("modes and owners", "warn", "identity.json (mode 0644)");
    found.one("state directory", "warn", "chmod 0700");

    let long = rig.path().join("x".repeat(120));
    let done = rig.cli(&["doctor", "--json", "--state-dir", long.to_str().unwrap()]);
    Look::of(&done).one("control socket", "warn", "a socket address holds 107");

    rig.set("agents:\n  one:\n    profle: generic\n");
    let found = look(&rig);
    assert_eq!(found.code, Some(1));
    found.one("settings", "fail", "profile");
    assert!(!found.about("disk space").is_empty(), "and it went on");
}

#[test]
fn a_missing_capability_is_named() {
    if !have(lacks("setpriv")) {
        return;
    }
    let rig = Rig::generic();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
    command.arg(env!("CARGO_BIN_EXE_adjutant"));
    command
        .args(["doctor", "--json", "--config"])
        .arg(rig.settings());
    let look = Look::of(&done(&mut command));
    assert_eq!(
        look.code,
        Some(0),
        "the rest works without: {:?}",
        look.findings
    );
    let btf = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    let part = if btf {
        "has no CAP_PERFMON and CAP_BPF"
    } else {
        "no type information"
    };
    look.one("kernel events", "warn", part);
}

#[test]
fn the_servers_clock_is_compared_and_no_credential_is_sent() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let answer = "HTTP/1.1 426 Upgrade Required\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n\
                      Content-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let rig = Rig::generic();
    let host = format!(
        "http: {{listen: []}}\nserver: {{endpoint: 'ws://{address}/v1/opamp', headers: {{Authorization: Bearer planted}}}}\n"
    );
    set(&rig, &host);
    let found = look(&rig);
    assert_eq!(found.code, Some(0), "{:?}", found.findings);
    found.one("server", "ok", "answers (status 426 to a plain request)");
    found.one("clock", "warn", "ahead of the server's; set the clock");
    let request = answering.join().unwrap();
    assert!(request.starts_with("GET /v1/opamp "), "{request}");
    assert!(!request.contains("planted"), "{request}");
    // Nobody is there any more.
    let found = look(&rig);
    assert_eq!(found.code, Some(1));
    found.one("server", "fail", "cannot be reached");
    assert!(
        found
            .findings
            .iter()
            .all(|it| !it.to_string().contains("planted"))
    );
}
