//! Processes that run programs and end.

use std::process::{Command, Stdio};

use serde_json::json;

use super::rig::{Cgroup, Plane, is};

#[test]
fn a_program_that_runs_and_ends_is_told_with_its_words_and_its_code() {
    let plane = Plane::start("events: [exec, exit], command_args: true");
    let mut child = Command::new("/bin/sh")
        .args(["-c", "exit 7", "a word", ""])
        .spawn()
        .unwrap();
    let pid = child.id();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let exec = plane.record("process.exec", |attributes| {
        is(attributes, "process.pid", pid)
    });
    let attributes = &exec["attributes"];
    assert_eq!(
        attributes["process.command_args"],
        json!(["/bin/sh", "-c", "exit 7", "a word", ""])
    );
    assert_eq!(attributes["process.executable.path"], "/bin/sh");
    assert_eq!(attributes["process.executable.name"], "sh");
    assert_eq!(attributes["process.parent_pid"], std::process::id());
    assert_eq!(attributes["process.user.id"], 0);
    assert_eq!(exec["severity"], "INFO");
    assert_eq!(exec["body"], format!("process {pid} runs /bin/sh"));
    let exit = plane.record("process.exit", |attributes| {
        is(attributes, "process.pid", pid)
    });
    let attributes = &exit["attributes"];
    assert_eq!(attributes["process.exit.code"], 7);
    assert_eq!(attributes["process.parent_pid"], std::process::id());
    assert!(
        attributes["adjutant.process.exit.signal"].is_null(),
        "{exit}"
    );
    let lifetime = attributes["adjutant.process.lifetime"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&lifetime), "{exit}");
    assert!(
        exec["@timestamp"].as_str() <= exit["@timestamp"].as_str(),
        "{exec} {exit}"
    );
    let apart = |record: &serde_json::Value| {
        let time: jiff::Timestamp = record["@timestamp"].as_str().unwrap().parse().unwrap();
        (jiff::Timestamp::now() - time)
            .total(jiff::Unit::Second)
            .unwrap()
    };
    assert!((-1.0..60.0).contains(&apart(&exec)), "{exec}");
}

#[test]
fn a_process_that_a_signal_ends_is_told_with_the_signal() {
    let plane = Plane::start("events: [exec, exit]");
    let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let pid = child.id();
    let exec = plane.event("process.exec", |attributes| {
        is(attributes, "process.pid", pid)
    });
    // Command lines may hold secrets: nobody asked for them.
    assert!(exec["process.command_args"].is_null(), "{exec}");
    child.kill().unwrap();
    child.wait().unwrap();
    let exit = plane.event("process.exit", |attributes| {
        is(attributes, "process.pid", pid)
    });
    assert_eq!(exit["adjutant.process.exit.signal"], 9);
    assert_eq!(exit["adjutant.process.exit.signal_name"], "SIGKILL");
    assert!(exit["process.exit.code"].is_null(), "{exit}");
}

/// Given a process whose first thread ends before the others,
/// when the last one ends it with a code,
/// then there is one event, and it has that code.
#[test]
fn a_process_ends_when_its_last_thread_does() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("threads.c");
    super::rig::put(
        &source,
        "#include <pthread.h>\n#include <unistd.h>\n\
         static void *last(void *x) { usleep(200000); _exit(5); return x; }\n\
         int main(void) { pthread_t t; pthread_create(&t, 0, last, 0); pthread_exit(0); }\n",
    );
    let program = dir.path().join("threads");
    let built = Command::new("cc")
        .arg("-pthread")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(built.unwrap().success());
    let plane = Plane::start("events: [exit]");
    let mut child = Command::new(&program).spawn().unwrap();
    let pid = child.id();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let exit = plane.event("process.exit", |attributes| {
        is(attributes, "process.pid", pid)
    });
    assert_eq!(exit["process.exit.code"], 5);
    assert!(
        exit["adjutant.process.lifetime"].as_f64().unwrap() >= 0.2,
        "{exit}"
    );
    // The one after it has passed the same ring, so a second event would be there by now.
    let mut next = Command::new("/bin/true").spawn().unwrap();
    next.wait().unwrap();
    plane.event("process.exit", |attributes| {
        is(attributes, "process.pid", next.id())
    });
    assert_eq!(
        plane
            .events("process.exit", |attributes| is(
                attributes,
                "process.pid",
                pid
            ))
            .len(),
        1
    );
}

/// Given a control group that may use 48 MiB,
/// when a process in it takes more,
/// then the kill is told with its victim, and the victim's end follows.
#[test]
fn a_kill_for_memory_names_its_victim() {
    let plane = Plane::start("events: [oom, exit]");
    let group = Cgroup::memory("oom", 48 << 20);
    let script = group.enter("/usr/bin/python3 -S -c 'x = bytearray(512 << 20)'");
    let mut child = Command::new("/bin/sh")
        .args([
            "-c",
            &format!("echo 500 > /proc/self/oom_score_adj; {script}"),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{status}"
    );
    let kill = plane.record("process.oom_kill", |attributes| {
        is(attributes, "process.pid", pid)
    });
    let attributes = &kill["attributes"];
    assert_eq!(kill["severity"], "ERROR");
    assert_eq!(attributes["process.executable.name"], "python3");
    assert_eq!(attributes["process.parent_pid"], std::process::id());
    assert_eq!(attributes["process.user.id"], 0);
    assert_eq!(attributes["adjutant.oom.score_adj"], 500);
    let exit = plane.event("process.exit", |attributes| {
        is(attributes, "process.pid", pid)
    });
    assert_eq!(exit["adjutant.process.exit.signal_name"], "SIGKILL");
}
