//! Given a supervisor whose agent dies again and again, or that was itself killed,
//! when an orchestrator, a scraper or a person asks,
//! then each is told through its own door: readiness, metric, last words, history, log.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::rig::{Rig, Supervisor, agent, wait_for, wait_until};

/// An agent that dies three times and is given up, and doors on a port.
struct Doors {
    rig: Rig,
    port: u16,
}

impl Doors {
    fn new(agents: &str, more: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let rig = Rig::new(agents);
        rig.set_all(&format!(
            "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: ['127.0.0.1:{port}']}}\n\
             log: {{to: files}}\nstop: {{grace: 1s, budget: 5s}}\n{more}{agents}"
        ));
        Self { rig, port }
    }

    /// Status and body of a page.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }
}

const GIVES_UP: &str = "    restart: {initial_delay: 10ms, max_delay: 20ms, give_up_after: 3}\n";

fn start_with_config(rig: &Rig) -> Supervisor {
    let before = rig.start();
    rig.commit("mode: good");
    assert_eq!(before.stop().code(), Some(0));
    rig.program("child.sh", "#!/bin/sh\necho no such database >&2\nexit 3\n");
    let supervisor = rig.launch(&mut rig.command(&["run"]));
    supervisor.answers(rig);
    supervisor
}

#[test]
fn a_crash_loop_is_not_ready_and_has_a_metric_last_words_and_a_history() {
    let more = "termination_message: '{dir}/last-words'\n";
    let doors = Doors::new(&agent("one", GIVES_UP), more);
    let rig = &doors.rig;
    let supervisor = start_with_config(rig);
    wait_until("the give-up", || {
        rig.agent_status("one").unwrap()["status"] == "given up"
    });

    let (status, ready) = doors.json("/health/ready");
    assert_eq!(status, 503);
    let reason = "agent one: crash loop, 3 deaths in a row, the last: exit code 3";
    assert_eq!(ready["message"], reason);
    let (status, health) = doors.json("/health");
    assert_eq!((status, health["status"].as_str()), (503, Some("error")));
    let (_, metrics) = doors.get("/metrics").unwrap();
    let metric = "adjutant_agent_crash_loop{agent=\"one\"} 1";
    assert!(metrics.lines().any(|line| line == metric), "{metrics}");
    assert_eq!(
        doors.json("/health/live").0,
        200,
        "nobody should kill the supervisor"
    );
    let check = rig.cli(&["healthcheck", "--url"]);
    assert_eq!(check.code, Some(2), "an address is needed");
    assert_eq!(rig.cli(&["healthcheck"]).code, Some(1));

    let words = rig.path().join("last-words");
    let words = wait_for("last words", || {
        fs::read_to_string(&words).ok().filter(|it| !it.is_empty())
    });
    assert!(
        words.starts_with("agent one was given up: 3 failed starts in a row: "),
        "{words}"
    );
    assert!(words.contains("no such database"), "{words}");

    assert_eq!(supervisor.stop().code(), Some(0));
    let done = rig.cli(&["events", "--json"]);
    assert_eq!(done.code, Some(0), "no supervisor is needed: {}", done.err);
    let events: Vec<Value> = done
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |event: &str| events.iter().filter(|it| it["event"] == event).count();
    assert_eq!(count("child died"), 3);
    assert_eq!(count("child given up"), 1);
    assert_eq!(
        count("supervisor started"),
        2,
        "earlier lives are in it: {}",
        done.out
    );
    let died = events
        .iter()
        .find(|it| it["event"] == "child died")
        .unwrap();
    assert_eq!(
        (died["agent"].as_str(), died["level"].as_str()),
        (Some("one"), Some("warn"))
    );
    assert_eq!(died["fields"]["status"], "exit code 3");
    let last = rig.cli(&["events", "-n", "1"]);
    assert!(last.out.contains("stopp"), "{}", last.out);
    assert_eq!(last.out.lines().count(), 1);
}

#[test]
fn an_exit_after_a_give_up_says_why_in_the_termination_message_and_on_standard_error() {
    let more = "on_give_up: exit\ntermination_message: '{dir}/last-words'\n";
    let doors = Doors::new(&agent("one", GIVES_UP), more);
    let rig = &doors.rig;
    let mut supervisor = start_with_config(rig);
    assert_eq!(supervisor.end().code(), Some(8));
    let words = fs::read_to_string(rig.path().join("last-words")).unwrap();
    assert!(words.starts_with("agent one was given up: "), "{words}");
    assert!(words.contains("no such database"), "{words}");
    supervisor.logs("on_give_up says to exit then");
}

#[test]
fn a_start_that_fails_leaves_its_reason_as_the_termination_message() {
    let more = "termination_message: '{dir}/last-words'\n";
    let doors = Doors::new(&agent("one", ""), more);
    let taken = TcpListener::bind(("127.0.0.1", doors.port)).unwrap();
    let done = doors.rig.cli(&["run"]);
    assert_eq!(done.code, Some(11), "{}", done.err);
    let words = fs::read_to_string(doors.rig.path().join("last-words")).unwrap();
    assert!(
        words.contains(&taken.local_addr().unwrap().to_string()),
        "{words}"
    );
    assert!(done.err.contains(&words), "{} / {words}", done.err);
}

#[test]
fn a_killed_supervisor_is_told_of_by_the_next_one_and_an_ordered_end_is_not() {
    let doors = Doors::new(&agent("one", ""), "");
    let rig = &doors.rig;
    let told = || rig.status().unwrap()["previous_end"].clone();
    let first = rig.start();
    assert_eq!(told(), Value::Null);
    let pid = first.pid();
    first.kill();

    let second = rig.start();
    let reason = told();
    let reason = reason.as_str().unwrap();
    assert!(reason.contains(&format!("(process {pid}, ")), "{reason}");
    assert!(reason.contains("ended without a goodbye"), "{reason}");
    let (_, health) = doors.json("/health");
    let supervisor = &health["components"]["supervisor"];
    assert_eq!(supervisor["details"]["previous_end"], reason);
    assert_eq!(supervisor["status"], "ok", "it is over");
    let (_, metrics) = doors.get("/metrics").unwrap();
    let metric = "adjutant_previous_end_unclean 1";
    assert!(metrics.lines().any(|line| line == metric), "{metrics}");
    let events = rig.cli(&["events"]).out;
    let line = "warn   -  supervisor started after an end without a goodbye";
    assert!(events.contains(line), "{events}");
    assert_eq!(second.stop().code(), Some(0));

    let third = rig.start();
    assert_eq!(told(), Value::Null);
    assert_eq!(third.stop().code(), Some(0));
}

#[test]
fn the_supervisors_own_log_is_a_file_and_can_be_followed() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    assert_eq!(supervisor.stop().code(), Some(0));
    let done = rig.cli(&["logs", "--supervisor", "-n", "1000"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    for wanted in ["supervisor started", "child started", "stopping"] {
        assert!(done.out.contains(wanted), "{wanted} in {}", done.out);
    }
    assert!(
        !rig.cli(&["logs", "-n", "1000"])
            .out
            .contains("child started")
    );
}

#[test]
fn with_output_alone_no_log_file_is_written() {
    let rig = Rig::generic();
    rig.program(
        "child.sh",
        "#!/bin/sh\necho said by the child\ntouch running\nexec sleep 86400\n",
    );
    let entry = agent("one", "");
    rig.set_all(&format!(
        "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: []}}\nlog: {{to: output}}\n\
         stop: {{grace: 1s, budget: 5s}}\n{entry}"
    ));
    let supervisor = rig.start();
    rig.commit("mode: good");
    supervisor.logs("said by the child");
    assert_eq!(supervisor.stop().code(), Some(0));
    assert!(!rig.state().join("logs/adjutant.log").exists());
    assert!(!rig.agent("one").join("logs/one.log").exists());
    let done = rig.cli(&["logs", "--supervisor"]);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("standard error alone"), "{}", done.err);
    // The history is no log: it is small, and there after the container's output is gone.
    assert!(rig.cli(&["events"]).out.contains("child started"));
}

#[test]
fn a_token_file_that_is_no_secret_is_refused_with_its_name() {
    let rig = Rig::generic();
    rig.write("token", "0123456789abcdef\n");
    let entry = agent("one", "");
    rig.set_all(&format!(
        "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: ['0.0.0.0:0'], token_file: '{{dir}}/token'}}\n{entry}"
    ));
    let done = rig.cli(&["run"]);
    assert_eq!(done.code, Some(78), "{}", done.err);
    assert!(
        done.err
            .contains("is open to everybody on this host (mode 0644)"),
        "{}",
        done.err
    );
    let mut command = rig.command(&["run"]);
    let token = rig.path().join("token");
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let supervisor = rig.launch(&mut command);
    supervisor.answers(&rig);
    supervisor.send(Signal::SIGTERM);
    let mut supervisor = supervisor;
    assert_eq!(supervisor.end().code(), Some(0));
}

/// Answers every request with a date, and keeps what was asked.
fn site(date: &'static str) -> (u16, std::sync::mpsc::Receiver<String>) {
    let site = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = site.local_addr().unwrap().port();
    let (asked, questions) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in site.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let answer =
                format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok();
            if asked.send(String::from_utf8(request).unwrap()).is_err() {
                return;
            }
        }
    });
    (port, questions)
}

#[test]
fn a_clock_that_is_off_degrades_health_and_stops_nothing() {
    let (port, questions) = site("Tue, 14 Nov 2023 22:13:20 GMT");
    let doors = Doors::new(
        &agent("one", ""),
        &format!(
            "server: {{endpoint: 'ws://127.0.0.1:{port}/v1/opamp', headers: {{Authorization: Bearer planted}}}}\n\
             health: {{clock: {{check_interval: 1s, max_skew: 1h}}}}\n"
        ),
    );
    let supervisor = doors.rig.start();
    doors.rig.commit("mode: good");
    let clock = wait_for("a clock that is off", || {
        let (status, body) = doors.get("/health")?;
        let health: Value = serde_json::from_str(&body).ok()?;
        let clock = health["components"]["clock"].clone();
        (status == 200 && clock["status"] == "degraded").then_some(clock)
    });
    let message = clock["message"].as_str().unwrap();
    assert!(
        message.contains(" s ahead of the other one; set the clock (NTP)"),
        "{message}"
    );
    assert!(
        clock["details"]["skew_ms"].as_i64().unwrap() > 1_000_000_000,
        "{clock}"
    );
    let (ready, _) = doors.get("/health/ready").unwrap();
    assert_eq!(ready, 200, "telemetry flows");
    let (_, page) = doors.get("/metrics").unwrap();
    assert!(page.contains("\nadjutant_clock_skew_seconds "), "{page}");
    supervisor.logs("clock is not right");
    let status = doors.rig.cli(&["status"]).out;
    assert!(status.contains("clock: the clock is "), "{status}");
    let plain = wait_for("the question", || {
        let asked = questions.try_recv().ok()?;
        asked.starts_with("HEAD ").then_some(asked)
    });
    assert!(
        plain.starts_with("HEAD / HTTP/1.1\r\n") && !plain.contains("planted"),
        "{plain}"
    );

    // The same difference is none where the settings allow none to matter.
    let text = fs::read_to_string(doors.rig.settings()).unwrap();
    fs::write(
        doors.rig.settings(),
        text.replace("{check_interval: 1s, max_skew: 1h}", "{watch: false}"),
    )
    .unwrap();
    supervisor.send(Signal::SIGHUP);
    wait_until("a health without a clock", || {
        let (_, body) = doors.get("/health").unwrap_or_default();
        body.contains("supervisor") && !body.contains("\"clock\"")
    });
    assert_eq!(supervisor.stop().code(), Some(0));
}
