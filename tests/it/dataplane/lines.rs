//! Given `adjutant collect` with a Unix socket and host metrics, and a real OpenTelemetry Collector,
//! when two programs write ten thousand lines each,
//! then the Collector has each of them once and whole, metrics beside them, and the books close.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::rig::{Collector, Process, eventually, put};

const WRITERS: usize = 2;
const LINES: usize = 10_000;

/// Line `number` of a writer; lengths differ, so that reads and lines never fall together.
fn line(writer: usize, number: usize) -> String {
    let fill = "x".repeat((number * 37 + writer) % 211);
    format!("{{\"writer\":{writer},\"number\":{number},\"fill\":\"{fill}\"}}")
}

/// The values of one key at any depth.
fn collect<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if name == key {
                    found.push(value);
                }
                collect(value, key, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}

fn all<'a>(requests: &'a [Value], key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    for request in requests {
        collect(request, key, &mut found);
    }
    found
}

/// All lines of all writers at once, in pieces that end anywhere in a line.
fn write_all(socket: &Path) {
    let writers = (0..WRITERS).map(|writer| {
        let mut stream = UnixStream::connect(socket).unwrap();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            for number in 0..LINES {
                bytes.extend_from_slice(line(writer, number).as_bytes());
                bytes.push(b'\n');
            }
            for piece in bytes.chunks(4093) {
                stream.write_all(piece).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().unwrap();
    }
}

#[test]
fn two_writers_lose_no_line_and_merge_none_on_the_way_to_a_collector() {
    let collector = Collector::start();
    let dir = tempfile::tempdir().unwrap();
    let (socket, log) = (dir.path().join("app.sock"), dir.path().join("log"));
    let config = dir.path().join("config");
    std::fs::create_dir(&config).unwrap();
    put(
        &config.join("collect.yaml"),
        &format!(
            "sources:
  app: {{kind: unix_socket, path: {}}}
  host: {{kind: host_metrics, interval: 1s, collectors: [memory, cpu]}}
uploads:
  logs: {{kind: otlp_http, endpoint: \"http://{at}\", from: [app], interval: 100ms}}
  metrics: {{kind: otlp_http, endpoint: \"http://{at}\", from: [host], interval: 100ms}}
",
            socket.display(),
            at = collector.at,
        ),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
    let mut plane = Process::start(command.arg("collect").arg(&config), &log);
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the socket", || {
        UnixStream::connect(&socket)
            .map(drop)
            .map_err(|error| format!("{error}; log:\n{}", text()))
    });

    write_all(&socket);
    let requests = eventually("all lines and some metrics", || {
        let requests = collector.received();
        let metrics = all(&requests, "dataPoints").len();
        let lines: usize = all(&requests, "logRecords")
            .iter()
            .filter_map(|list| list.as_array())
            .map(Vec::len)
            .sum();
        if lines >= WRITERS * LINES && metrics > 0 {
            Ok(requests)
        } else {
            Err(format!(
                "{lines} lines, {metrics} metrics; log:\n{}",
                text()
            ))
        }
    });

    // Each line once, byte for byte.
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for writer in 0..WRITERS {
        expected.extend((0..LINES).map(|number| (line(writer, number), 1)));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for body in all(&requests, "body") {
        let text = body["stringValue"].as_str();
        let text = text.unwrap_or_else(|| panic!("not text: {body}"));
        *seen.entry(text.to_owned()).or_default() += 1;
    }
    let wrong: Vec<_> = seen
        .iter()
        .filter(|(text, count)| expected.get(*text) != Some(*count))
        .take(3)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(seen.len(), expected.len());

    // Metrics by the same way, with kind and unit.
    let usage = requests
        .iter()
        .flat_map(|request| all(std::slice::from_ref(request), "metrics"))
        .filter_map(|list| list.as_array())
        .flatten()
        .find(|metric| metric["name"] == "system.memory.limit");
    let usage = usage.expect("system.memory.limit");
    assert_eq!(usage["unit"], "By", "{usage}");
    let point = &usage["gauge"]["dataPoints"][0];
    let bytes: u64 = point["asInt"].as_str().unwrap().parse().unwrap();
    assert!(bytes > 1_000_000, "{usage}");

    plane.signal(Signal::SIGTERM);
    assert_eq!(plane.ended().code(), Some(0), "{}", text());
    let log = text();
    let source = log
        .lines()
        .find(|line| line.contains("source stopped") && line.contains("\"source\":\"app\""));
    let count = WRITERS * LINES;
    let books = format!("received {count} delivered {count} pending 0 dropped 0");
    assert!(source.is_some_and(|line| line.contains(&books)), "{log}");
    let last = log.lines().find(|line| line.contains("data plane stopped"));
    let last = last.unwrap_or_else(|| panic!("{log}"));
    assert!(last.contains("\"closed\":true"), "{last}");
    assert!(last.contains("pending 0 dropped 0"), "{last}");
    assert!(!socket.exists(), "its socket goes with it");
}
