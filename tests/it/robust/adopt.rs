//! Given agents that run what they should,
//! when the supervisor is killed and another one starts,
//! then the same children go on: no request is refused, no line is lost, nothing is restarted; and what cannot be taken
//! over is stopped before a new one starts, with the reason in the log.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::proc;
use super::rig::{Rig, agent, agent_entry, now, wait_for, wait_until};
use crate::peers::{free_port, otelcol};

/// Waits for a child that runs and is well, and answers the agent's status.
fn well(rig: &Rig, name: &str) -> Value {
    wait_for("a healthy child", || {
        let status = rig.agent_status(name)?;
        (status["healthy"] == true && status["child"]["pid"].is_u64()).then_some(status)
    })
}

fn pid(status: &Value) -> u32 {
    status["child"]["pid"].as_u64().unwrap().try_into().unwrap()
}

/// Waits until an agent has another child than this one, alone.
fn replaced(rig: &Rig, name: &str, old: u32) -> Value {
    let status = wait_for("another child", || {
        let status = well(rig, name);
        (pid(&status) != old).then_some(status)
    });
    assert!(!proc::is_alive(old), "{old} is still there");
    assert_eq!(status["child"]["adopted"], false, "{status}");
    status
}

#[test]
fn the_next_supervisor_goes_on_with_the_same_child() {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    let started = well(&rig, "one")["child"]["started"].clone();
    first.kill();
    for round in 0..3 {
        let next = rig.start();
        let status = well(&rig, "one");
        assert_eq!(pid(&status), child, "round {round}");
        assert_eq!(status["child"]["adopted"], true, "{status}");
        assert_eq!(status["child"]["started"], started, "{status}");
        assert_eq!(status["counters"]["adoptions"], 1, "{status}");
        assert_eq!(status["restarts"], 0, "{status}");
        assert_eq!(status["phase"], "committed", "{status}");
        next.logs("child adopted");
        next.kill();
    }
    let last = rig.start();
    well(&rig, "one");
    let table = rig.cli(&["status"]).out;
    assert!(table.contains(&format!("{child} adopted")), "{table}");
    // It is ours in every way: told, watched, restarted, stopped.
    rig.commit("mode: better");
    assert_eq!(rig.running("one").as_deref(), Some("mode: better"));
    let second = rig.child();
    assert_ne!(second, child, "its configs need a new process");
    last.kill();
    let last = rig.start();
    assert_eq!(pid(&well(&rig, "one")), second);
    proc::send(second, Signal::SIGKILL);
    let status = replaced(&rig, "one", second);
    assert_eq!(status["crashes"], 1, "{status}");
    assert_eq!(status["last_exit"], "unknown exit status", "{status}");
    assert_eq!(last.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
}

#[test]
fn an_ordered_stop_ends_an_adopted_child() {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: good");
    first.kill();
    let next = rig.start();
    well(&rig, "one");
    assert_eq!(next.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
}

/// Says a number on each line as fast as it can, until there is a file `enough` beside its settings.
const COUNTER: &str = r#"#!/bin/sh
i=0
while [ ! -e "$2/enough" ]; do
  j=0; while [ $j -lt 500 ]; do echo "number $i"; i=$((i+1)); j=$((j+1)); done
done
echo "the end $i"
exec sleep 86400
"#;

/// All log files of an agent, oldest first, as one text.
fn logs(rig: &Rig, name: &str) -> String {
    let directory = rig.agent(name).join("logs");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
        .collect();
    files.sort();
    let mut text = String::new();
    for (_, path) in files {
        text.push_str(&fs::read_to_string(path).unwrap());
    }
    text
}

#[test]
fn no_line_of_a_child_that_never_pauses_is_lost() {
    let rig = Rig::new(
        "agents:\n  one:\n    profile: generic\n    executable: '{dir}/counter.sh'\n    args: ['{config_dir}', '{dir}']\n    \
         config_files: ['{dir}/local.yaml']\n    proof: {kind: fresh_process, alive_for: 100ms}\n    apply: {probation: 100ms}\n    \
         log_rotation: {size: 64MiB, files: 1}\n",
    );
    rig.write("local.yaml", "mode: local\n");
    rig.program("counter.sh", COUNTER);
    let mut supervisor = rig.start();
    wait_until("the commit", || well(&rig, "one")["phase"] == "committed");
    let child = rig.child();
    let log = rig.agent("one").join("logs/one.log");
    let length = || fs::metadata(&log).map_or(0, |data| data.len());
    for _ in 0..10 {
        let before = length();
        wait_until("more lines", || length() > before + 50_000);
        supervisor.kill();
        supervisor = rig.start();
        assert_eq!(pid(&well(&rig, "one")), child);
    }
    // Long enough without anybody that the pipe is full and it waits.
    supervisor.kill();
    wait_until("it waits for a reader", || {
        let waits = fs::read_to_string(format!("/proc/{child}/wchan"));
        waits.is_ok_and(|word| word.contains("pipe")) || written(child) > 1024 * 1024
    });
    assert!(proc::is_alive(child));
    let supervisor = rig.start();
    rig.write("enough", "");
    wait_until("the last line", || logs(&rig, "one").contains("the end"));
    let text = logs(&rig, "one");
    let end = text.lines().find_map(|line| line.strip_prefix("the end "));
    let count: usize = end.unwrap().parse().unwrap();
    let mut twice = 0;
    let mut next = 0;
    for line in text.lines().filter(|line| !line.starts_with("the end")) {
        let number = line.strip_prefix("number ").map(str::parse::<usize>);
        let Some(Ok(number)) = number else {
            panic!("a torn line: {line:?}");
        };
        assert!(number <= next, "{next} to {number} are lost");
        if number < next {
            twice += 1;
        }
        next = number + 1;
    }
    assert_eq!(next, count);
    // What was written and not taken out of the pipe yet: less than one reading for each death.
    assert!(twice < 11 * 4_000, "{twice} of {count} lines came twice");
    assert_eq!(pid(&well(&rig, "one")), child);
    assert_eq!(supervisor.stop().code(), Some(0));
}

/// Bytes that a process has written, and was not answered yet for.
fn written(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn a_child_that_died_while_nobody_watched_is_replaced_and_the_other_goes_on() {
    let rig = Rig::new(&format!("{}{}", agent("one", ""), agent_entry("two", "")));
    let supervisor = rig.start();
    for name in ["one", "two"] {
        let bundle = rig.write(&format!("bundle-{name}/config.yaml"), "mode: good\n");
        let directory = bundle.parent().unwrap().to_str().unwrap().to_owned();
        let done = rig.cli(&["apply", &directory, "--agent", name, "--wait"]);
        assert_eq!(done.code, Some(0), "{}", done.err);
    }
    let (one, two) = (pid(&well(&rig, "one")), pid(&well(&rig, "two")));
    supervisor.kill();
    proc::send(one, Signal::SIGKILL);
    wait_until("its end", || !proc::is_alive(one));
    let supervisor = rig.start();
    replaced(&rig, "one", one);
    let status = well(&rig, "two");
    assert_eq!(pid(&status), two);
    assert_eq!(status["child"]["adopted"], true, "{status}");
    supervisor.logs("child died while nobody watched");
    assert_eq!(rig.children().len(), 2);
    assert_eq!(supervisor.stop().code(), Some(0));
}

/// Kills the supervisor of a committed child, does something, and starts another supervisor that must not adopt it.
fn not_adopted(rig: &Rig, meanwhile: impl FnOnce(&Rig, u32), reason: &str) {
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    first.kill();
    meanwhile(rig, child);
    let next = rig.start();
    replaced(rig, "one", child);
    next.logs(reason);
    assert_eq!(rig.children().len(), 1);
    assert_eq!(next.stop().code(), Some(0));
}

#[test]
fn a_child_without_a_readable_record_is_stopped_first() {
    not_adopted(
        &Rig::generic(),
        |rig, _| {
            rig.write("state/agents/one/child.json", "{\"format\":1,\"sta");
        },
        "what it was started with was not written down",
    );
}

#[test]
fn a_stopped_child_is_ended_and_not_adopted() {
    not_adopted(
        &Rig::generic(),
        |_, child| {
            proc::send(child, Signal::SIGSTOP);
            wait_until("it is stopped", || {
                proc::process(child).is_some_and(|it| it.state == 'T')
            });
        },
        "somebody has stopped it",
    );
}

#[test]
fn settings_that_name_another_executable_or_argument_get_a_new_child() {
    let why = "program, arguments or environment changed";
    not_adopted(
        &Rig::generic(),
        |rig, _| {
            let text = fs::read_to_string(rig.settings()).unwrap();
            rig.program("other.sh", super::rig::CHILD);
            rig.write("supervisor.yaml", &text.replace("/child.sh", "/other.sh"));
        },
        why,
    );
    not_adopted(
        &Rig::generic(),
        |rig, _| {
            let text = fs::read_to_string(rig.settings()).unwrap();
            rig.write(
                "supervisor.yaml",
                &text.replace("['{config_dir}']", "['{config_dir}', more]"),
            );
        },
        why,
    );
}

#[test]
fn a_program_that_was_replaced_on_disk_is_no_reason_for_a_restart() {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    first.kill();
    fs::remove_file(rig.path().join("child.sh")).unwrap();
    rig.program("child.sh", super::rig::CHILD);
    let next = rig.start();
    assert_eq!(pid(&well(&rig, "one")), child);
    assert_eq!(next.stop().code(), Some(0));
}

#[test]
fn a_stranger_who_has_the_number_of_the_child_is_left_alone() {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    first.kill();
    proc::send(child, Signal::SIGKILL);
    wait_until("its end", || !proc::is_alive(child));
    let mut stranger = Command::new("sleep")
        .arg("86400")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let record = rig.agent("one").join("child.json");
    let text = fs::read_to_string(&record).unwrap();
    let reused = text.replace(
        &format!("\"pid\":{child},"),
        &format!("\"pid\":{},", stranger.id()),
    );
    assert_ne!(reused, text);
    rig.write("state/agents/one/child.json", &reused);
    let next = rig.start();
    replaced(&rig, "one", child);
    assert_eq!(next.stop().code(), Some(0));
    assert_eq!(stranger.try_wait().unwrap(), None, "it was not ours");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn settings_can_ask_for_a_new_child_or_for_none_to_be_left() {
    let rig = Rig::new(&agent("one", "    on_supervisor_death: restart\n"));
    not_adopted(
        &rig,
        |_, child| assert!(proc::is_alive(child)),
        "on_supervisor_death",
    );

    let rig = Rig::new(&agent("one", "    on_supervisor_death: end\n"));
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    first.kill();
    wait_until("the kernel to end it", || !proc::is_alive(child));
    let next = rig.start();
    replaced(&rig, "one", child);
    assert_eq!(next.stop().code(), Some(0));
}

/// One request; whether it was taken.
fn post(port: u16, body: &str) -> Result<(), String> {
    let mut stream =
        TcpStream::connect(("127.0.0.1", port)).map_err(|error| format!("connect: {error}"))?;
    let length = body.len();
    write!(
        stream,
        "POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .map_err(|error| format!("write: {error}"))?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| format!("read: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(answer.lines().next().unwrap_or_default().to_owned())
    }
}

fn record(number: usize) -> String {
    format!(
        "{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{{\"stringValue\":\"load {number};\"}}}}]}}]}}]}}"
    )
}

/// Requests one after another, from the first that is taken until it is stopped.
struct Load {
    enough: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Load {
    fn on(port: u16) -> Self {
        wait_until("the port to answer", || post(port, &record(0)).is_ok());
        let (enough, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(1)),
        );
        let (stop, count) = (Arc::clone(&enough), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                if let Err(failure) = post(port, &record(number)) {
                    failures.push(format!("{number}: {failure}"));
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self {
            enough,
            sent,
            thread,
        }
    }

    /// Lets some more be sent.
    fn more(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        wait_until("more load", || {
            self.sent.load(Ordering::Relaxed) > before + 100
        });
    }

    /// How many were sent; all must have been taken.
    fn taken(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        let failures = self.thread.join().unwrap();
        assert_eq!(failures, Vec::<String>::new());
        self.sent.load(Ordering::Relaxed)
    }
}

/// Every number of the load is in the text.
fn has_all(text: &str, count: usize) -> Result<(), String> {
    let numbers = text.split("load ").skip(1);
    let found: BTreeSet<usize> = numbers
        .filter_map(|rest| rest.split_once(';')?.0.parse().ok())
        .collect();
    match (0..count).find(|number| !found.contains(number)) {
        Some(number) => Err(format!(
            "{number} of {count} is missing, {} are there",
            found.len()
        )),
        None => Ok(()),
    }
}

/// Kills the supervisor under load, several times; the child stays, and every request is taken.
fn under_load(rig: &Rig, port: u16, out: impl Fn() -> String) {
    let mut supervisor = rig.start();
    wait_until("the commit", || well(rig, "one")["phase"] == "committed");
    let child = rig.child();
    let load = Load::on(port);
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..5 {
        load.more();
        supervisor.kill();
        load.more();
        let before = now();
        supervisor = rig.start();
        slowest = slowest.max(before.elapsed());
        let status = well(rig, "one");
        assert_eq!(pid(&status), child);
        assert_eq!(status["child"]["adopted"], true, "{status}");
        load.more();
    }
    // It speaks with us again, and takes a config without a restart where it did before.
    wait_until("its own health report", || {
        rig.agent_status("one").is_some_and(|it| {
            it["components"]
                .as_object()
                .is_some_and(|all| !all.is_empty())
        })
    });
    let count = load.taken();
    wait_until("everything to come out", || has_all(&out(), count).is_ok());
    assert_eq!(rig.child(), child);
    assert_eq!(supervisor.stop().code(), Some(0));
    let line =
        format!("{count} requests over 5 deaths, 0 refused; start to answer at most {slowest:?}");
    writeln!(std::io::stderr(), "{line}").ok();
}

#[test]
fn a_collector_takes_every_request_while_its_supervisor_is_killed() {
    let port = free_port();
    let rig = Rig::new(&format!(
        "agents:\n  one:\n    profile: otelcol\n    executable: '{}'\n    config_files: ['{{dir}}/local.yaml']\n    \
         apply: {{probation: 200ms, reload: hup}}\n",
        otelcol().display()
    ));
    let out = rig.path().join("out.json");
    rig.write(
        "local.yaml",
        &format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters: {{file: {{path: '{}', flush_interval: 50ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [file]}}
",
            out.display()
        ),
    );
    under_load(&rig, port, || fs::read_to_string(&out).unwrap_or_default());
}

#[test]
fn the_data_plane_takes_every_request_while_its_supervisor_is_killed() {
    let port = free_port();
    let rig = Rig::new(
        "agents:\n  one:\n    profile: adjutant\n    config_files: ['{dir}/collect.yaml']\n    \
         apply: {probation: 200ms}\n    log_rotation: {size: 64MiB, files: 1}\n",
    );
    let socket = rig.path().join("lines.sock");
    rig.write(
        "collect.yaml",
        &format!(
            "sources:
  lines: {{kind: unix_socket, path: '{}'}}
  otlp: {{kind: otlp, listen: '127.0.0.1:{port}'}}
uploads:
  out: {{kind: console, from: [otlp, lines], interval: 100ms}}
",
            socket.display()
        ),
    );
    under_load(&rig, port, || logs(&rig, "one"));
    let text = logs(&rig, "one");
    let last = text
        .lines()
        .rev()
        .find(|line| line.contains("data plane stopped"));
    let last = last.unwrap_or_else(|| panic!("it did not say goodbye"));
    assert!(last.contains("\"closed\":true"), "{last}");
}

#[test]
fn lines_on_a_socket_of_the_data_plane_survive_the_death_of_its_supervisor() {
    const LINES: usize = 20_000;
    let rig = Rig::new(
        "agents:\n  one:\n    profile: adjutant\n    config_files: ['{dir}/collect.yaml']\n    \
         apply: {probation: 200ms}\n    log_rotation: {size: 64MiB, files: 1}\n",
    );
    let socket = rig.path().join("lines.sock");
    rig.write(
        "collect.yaml",
        &format!(
            "sources:\n  lines: {{kind: unix_socket, path: '{}'}}\nuploads:\n  out: {{kind: console, from: [lines], interval: 100ms}}\n",
            socket.display()
        ),
    );
    let first = rig.start();
    wait_until("the commit", || well(&rig, "one")["phase"] == "committed");
    let child = rig.child();
    let stream = wait_for("the socket", || UnixStream::connect(&socket).ok());
    let writer = thread::spawn(move || write_lines(&stream, LINES));
    first.kill();
    let next = rig.start();
    writer.join().unwrap();
    wait_until("every line", || has_all(&logs(&rig, "one"), LINES).is_ok());
    assert_eq!(rig.child(), child);
    assert_eq!(next.stop().code(), Some(0));
    assert!(!proc::is_alive(child));
}

fn write_lines(mut stream: &UnixStream, count: usize) {
    for number in 0..count {
        writeln!(stream, "load {number};").unwrap();
    }
}

/// A rig whose supervisor runs from a file of its own, which can be replaced.
fn installed(rig: &Rig) -> std::path::PathBuf {
    let path = rig.path().join("bin/adjutant");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_adjutant"), &path).unwrap();
    path
}

fn run_from(rig: &Rig, program: &std::path::Path) -> super::rig::Supervisor {
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(rig.settings());
    let supervisor = rig.launch(&mut command);
    supervisor.answers(rig);
    supervisor
}

#[test]
fn an_upgrade_replaces_the_executable_and_nothing_else() {
    let port = free_port();
    let rig = Rig::new(
        "agents:\n  one:\n    profile: adjutant\n    config_files: ['{dir}/collect.yaml']\n    \
         apply: {probation: 200ms}\n    log_rotation: {size: 64MiB, files: 1}\n",
    );
    rig.write(
        "collect.yaml",
        &format!(
            "sources:\n  otlp: {{kind: otlp, listen: '127.0.0.1:{port}'}}\nuploads:\n  out: {{kind: console, from: [otlp], interval: 100ms}}\n"
        ),
    );
    let program = installed(&rig);
    let mut supervisor = run_from(&rig, &program);
    wait_until("the commit", || well(&rig, "one")["phase"] == "committed");
    let (child, parent) = (rig.child(), supervisor.pid());
    let load = Load::on(port);
    for round in 0..3 {
        load.more();
        // As a package manager does it: another file under the same name.
        fs::remove_file(&program).unwrap();
        installed(&rig);
        let done = rig.cli(&["upgrade"]);
        assert_eq!(done.code, Some(0), "{round}: {}", done.err);
        assert!(done.out.contains("1 of 1 agents went on"), "{}", done.out);
        assert_eq!(supervisor.ended(), None);
        let exe = fs::read_link(format!("/proc/{parent}/exe")).unwrap();
        assert_eq!(exe, program, "not the deleted one");
        let status = well(&rig, "one");
        assert_eq!(pid(&status), child);
        assert_eq!(rig.status().unwrap()["previous_end"], Value::Null);
    }
    supervisor.logs("its program was replaced, and a restart runs the new one");
    let count = load.taken();
    wait_until("everything to come out", || {
        has_all(&logs(&rig, "one"), count).is_ok()
    });
    // It is its child as before: how it ends is known.
    proc::send(child, Signal::SIGTERM);
    let status = replaced(&rig, "one", child);
    assert_ne!(status["last_exit"], "unknown exit status", "{status}");
    assert_eq!(supervisor.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
}

#[test]
fn an_upgrade_to_what_does_not_start_or_takes_other_settings_is_refused() {
    let rig = Rig::generic();
    let program = installed(&rig);
    let supervisor = run_from(&rig, &program);
    rig.commit("mode: good");
    let child = rig.child();
    fs::remove_file(&program).unwrap();
    let refused = |what: &str| {
        let done = rig.cli(&["upgrade"]);
        assert_eq!(done.code, Some(7), "{}", done.err);
        assert!(done.err.contains(what), "{}", done.err);
        assert_eq!(rig.child(), child);
        assert!(proc::is_alive(supervisor.pid()));
    };
    refused("no such file");
    rig.program(
        "bin/adjutant",
        "#!/bin/sh\necho 'agents.one.colour: unknown key' >&2\nexit 78\n",
    );
    refused("agents.one.colour: unknown key");
    supervisor.logs("upgrade refused, everything stays");
    assert_eq!(well(&rig, "one")["child"]["adopted"], false);
    assert_eq!(supervisor.stop().code(), Some(0));
}
