//! Given `adjutant collect` with its OTLP receiver between two real Collectors and a real VictoriaMetrics,
//! when logs, metrics and traces of every shape are sent through,
//! then the second Collector has exactly what the first one had, the metrics can be queried, and the books close.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::rig::{Collector, Process, Rig, Victoria, eventually, http, put};
use crate::peers::free_port;

/// Records of one round: two logs, two spans, and ten data points.
const LOGS: u64 = 2;
const SPANS: u64 = 2;
const POINTS: u64 = 8;
/// A sum of differences and an exponential histogram, which have no form as import lines.
const POINTS_WITHOUT_SERIES: u64 = 2;

fn attributes() -> Value {
    json!([
        {"key": "text", "value": {"stringValue": "zwölf"}},
        {"key": "int", "value": {"intValue": "-9007199254740993"}},
        {"key": "float", "value": {"doubleValue": 0.5}},
        {"key": "bit", "value": {"boolValue": true}},
        {"key": "bytes", "value": {"bytesValue": "AP8="}},
        {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"doubleValue": -1.5}}]}}},
    ])
}

fn resource(name: &str) -> Value {
    let mut all = attributes();
    let own = json!({"key": "service.name", "value": {"stringValue": name}});
    all.as_array_mut().unwrap().push(own);
    json!({"attributes": all})
}

fn scope() -> Value {
    json!({"name": "lib", "version": "1.2", "attributes": attributes()})
}

/// Nanoseconds since 1970 as OTLP/JSON writes them.
fn nanos(millis: u64) -> String {
    format!("{millis}000001")
}

fn logs(now: u64) -> Value {
    let log = |body: Value, name: &str| {
        json!({
            "timeUnixNano": nanos(now), "observedTimeUnixNano": nanos(now + 1),
            "severityNumber": 17, "severityText": "Error", "body": body, "attributes": attributes(),
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "flags": 1,
            "eventName": name,
        })
    };
    let logs = [
        log(json!({"stringValue": "eins\nzwei"}), "first"),
        log(json!({"kvlistValue": {"values": attributes()}}), "second"),
    ];
    json!({"resourceLogs": [
        {"resource": resource("one"), "schemaUrl": "https://example.test/1", "scopeLogs": [
            {"scope": scope(), "schemaUrl": "https://example.test/2", "logRecords": [logs[0]]},
        ]},
        {"resource": resource("two"), "scopeLogs": [{"scope": scope(), "logRecords": [logs[1]]}]},
    ]})
}

fn traces(now: u64) -> Value {
    let span = |id: &str| {
        json!({
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": id, "parentSpanId": "eee19b7ec3c1b173",
            "traceState": "a=b", "name": "GET /", "kind": 2, "flags": 257,
            "startTimeUnixNano": nanos(now), "endTimeUnixNano": nanos(now + 5), "attributes": attributes(),
            "events": [{"timeUnixNano": nanos(now + 1), "name": "e", "attributes": attributes()}],
            "links": [{"traceId": "5b8efff798038103d269b633813fc60d", "spanId": "eee19b7ec3c1b175",
                "attributes": attributes()}],
            "droppedEventsCount": 2,
            "status": {"code": 2, "message": "no"},
        })
    };
    json!({"resourceSpans": [{"resource": resource("one"), "scopeSpans": [
        {"scope": scope(), "spans": [span("eee19b7ec3c1b174"), span("eee19b7ec3c1b176")]},
    ]}]})
}

fn metrics(now: u64) -> Value {
    let point = |more: Value| {
        let mut point = json!({
            "startTimeUnixNano": nanos(now - 1000), "timeUnixNano": nanos(now),
            "attributes": [{"key": "http.route", "value": {"stringValue": "/a"}}],
        });
        let all = point.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        point
    };
    let exemplar = json!([{"timeUnixNano": nanos(now), "asDouble": 0.25, "spanId": "eee19b7ec3c1b174",
        "traceId": "5b8efff798038103d269b633813fc60c"}]);
    let buckets = json!({"count": "6", "sum": 9.5, "bucketCounts": ["1", "2", "3"], "explicitBounds": [0.5, 10.0],
        "min": 0.1, "max": 11.0, "exemplars": exemplar});
    let exponential = json!({"count": "4", "sum": 1.5, "scale": -2, "zeroCount": "1", "zeroThreshold": 0.01,
        "positive": {"offset": -3, "bucketCounts": ["1", "2"]}, "negative": {"offset": 0}});
    let summary =
        json!({"count": "2", "sum": 3.0, "quantileValues": [{"quantile": 0.5, "value": 1.5}]});
    let sum = |temporality: u8, monotonic: bool, value: &str| {
        json!({"aggregationTemporality": temporality, "isMonotonic": monotonic,
            "dataPoints": [point(json!({"asInt": value}))]})
    };
    json!({"resourceMetrics": [{"resource": resource("one"), "scopeMetrics": [{"scope": scope(), "metrics": [
        {"name": "queue.fill", "unit": "1", "description": "how full", "gauge": {"dataPoints": [
            point(json!({"asDouble": 0.5})),
            point(json!({"asDouble": 0.75, "attributes": []})),
        ]}},
        {"name": "http.requests", "unit": "{request}", "sum": sum(2, true, "41")},
        {"name": "connections", "unit": "", "sum": sum(2, false, "-3")},
        {"name": "written", "unit": "By", "sum": sum(1, true, "100")},
        {"name": "latency", "unit": "ms", "histogram": {"aggregationTemporality": 2, "dataPoints": [point(buckets)]}},
        {"name": "fine", "unit": "s",
            "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [point(exponential)]}},
        {"name": "old", "unit": "s", "summary": {"dataPoints": [point(summary)]}},
    ]}]}]})
}

/// Every record with all that stands around it, and how often it occurs.
fn records(requests: &[Value]) -> BTreeMap<String, usize> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let without = |value: &Value, key: &str| {
        let mut rest = value.clone();
        rest.as_object_mut().unwrap().remove(key);
        rest
    };
    let mut found = BTreeMap::new();
    let mut note = |around: [&Value; 3], item: &Value| {
        let text = json!([around[0], around[1], around[2], item]).to_string();
        *found.entry(text).or_default() += 1;
    };
    for request in requests {
        for (resources, scopes, items) in [
            ("resourceLogs", "scopeLogs", "logRecords"),
            ("resourceSpans", "scopeSpans", "spans"),
            ("resourceMetrics", "scopeMetrics", "metrics"),
        ] {
            for resource in list(request, resources) {
                let outer = without(&resource, scopes);
                for scope in list(&resource, scopes) {
                    let inner = without(&scope, items);
                    for item in list(&scope, items) {
                        if items != "metrics" {
                            note([&outer, &inner, &Value::Null], &item);
                            continue;
                        }
                        let kinds = [
                            "gauge",
                            "sum",
                            "histogram",
                            "exponentialHistogram",
                            "summary",
                        ];
                        let kind = kinds.iter().find(|kind| !item[**kind].is_null()).unwrap();
                        let data = without(&item[*kind], "dataPoints");
                        let mut metric = without(&item, kind);
                        metric[*kind] = data;
                        for point in list(&item[*kind], "dataPoints") {
                            note([&outer, &inner, &metric], &point);
                        }
                    }
                }
            }
        }
    }
    found
}

struct Plane {
    process: Process,
    at: SocketAddr,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Plane {
    /// A data plane with an OTLP receiver on a free port; `config` is told which.
    fn start(config: impl FnOnce(SocketAddr) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let files = dir.path().join("config");
        std::fs::create_dir(&files).unwrap();
        put(&files.join("collect.yaml"), &config(at));
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        let process = Process::start(command.arg("collect").arg(&files), &log);
        eventually("the receiver", || {
            TcpStream::connect(at)
                .map(drop)
                .map_err(|error| format!("{error}; log:\n{}", text(&log)))
        });
        Self {
            process,
            at,
            log,
            _dir: dir,
        }
    }

    /// Stops it; what it said.
    fn stop(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        assert_eq!(self.process.ended().code(), Some(0), "{}", text(&self.log));
        text(&self.log)
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The line with the books of one part.
fn books<'a>(log: &'a str, event: &str, part: &str) -> &'a str {
    log.lines()
        .find(|line| line.contains(event) && line.contains(part))
        .unwrap_or_else(|| panic!("no {event} of {part}:\n{log}"))
}

fn send(at: SocketAddr, path: &str, body: &Value) {
    let headers = "Content-Type: application/json\r\n";
    let (status, answer) = http(at, "POST", path, headers, &body.to_string()).unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// Sends everything through: Collector → data plane → Collector and VictoriaMetrics.
fn through(exporter: &str) {
    let victoria = Victoria::start();
    let last = Collector::start();
    let plane = Plane::start(|at| {
        format!(
            "sources:
  otlp: {{kind: otlp, listen: \"{at}\"}}
uploads:
  far: {{kind: otlp_http, endpoint: \"http://{}\", from: [otlp], interval: 100ms}}
  vm: {{kind: victoria_metrics, endpoint: \"http://{}\", from: [otlp], interval: 100ms}}
",
            last.at, victoria.at
        )
    });
    let first = Collector::forwarding(&format!(
        "{{endpoint: \"http://{}\", {exporter}}}",
        plane.at
    ));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    send(first.at, "/v1/logs", &logs(now));
    send(first.at, "/v1/traces", &traces(now));
    send(first.at, "/v1/metrics", &metrics(now));

    let all = LOGS + SPANS + POINTS;
    let came = eventually("everything at the other end", || {
        let came = records(&last.received());
        let count = came.values().sum::<usize>() as u64;
        if count >= all {
            Ok(came)
        } else {
            Err(format!("{count} of {all}; log:\n{}", text(&plane.log)))
        }
    });
    let went = records(&first.received());
    assert_eq!(went.values().sum::<usize>() as u64, all, "{went:#?}");
    let missing = went.keys().find(|record| !came.contains_key(*record));
    assert!(missing.is_none(), "{missing:?} is not in {came:#?}");
    assert_eq!(came, went);

    let stored = |query: &str, wanted: &str| {
        eventually(query, || {
            let body = victoria.get(&format!("/api/v1/query?query={query}"))?;
            let answer: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let value = answer["data"]["result"][0]["value"][1].as_str();
            if value == Some(wanted) {
                Ok(())
            } else {
                Err(body)
            }
        });
    };
    stored("queue_fill_ratio%7Bhttp_route=%22/a%22%7D", "0.5");
    stored("queue_fill_ratio%7Bhttp_route=%22%22%7D", "0.75");
    stored(
        "http_requests_total%7Bservice_name=%22one%22,otel_scope_name=%22lib%22%7D",
        "41",
    );
    stored("connections", "-3");
    stored("latency_milliseconds_bucket%7Ble=%2210%22%7D", "3");
    stored("latency_milliseconds_bucket%7Ble=%22%2BInf%22%7D", "6");
    stored("latency_milliseconds_sum", "9.5");
    stored("old_seconds%7Bquantile=%220.5%22%7D", "1.5");
    stored(
        "count(%7B__name__=~%22written.*|fine.*%22%7D)%20or%20vector(0)",
        "0",
    );

    let log = plane.stop();
    let source = books(&log, "source stopped", "\"source\":\"otlp\"");
    let wanted = format!("received {all} delivered {all} pending 0 dropped 0");
    assert!(source.contains(&wanted), "{source}");
    let far = books(&log, "upload stopped", "\"upload\":\"far\"");
    assert!(far.contains(&wanted), "{far}");
    let vm = books(&log, "upload stopped", "\"upload\":\"vm\"");
    let series = POINTS - POINTS_WITHOUT_SERIES;
    let wanted = format!(
        "received {POINTS} delivered {series} pending 0 dropped {POINTS_WITHOUT_SERIES} (unsupported {POINTS_WITHOUT_SERIES})"
    );
    assert!(vm.contains(&wanted), "{vm}");
    let end = books(&log, "data plane stopped", "books");
    assert!(end.contains("\"closed\":true"), "{end}");
}

#[test]
fn everything_a_collector_sends_as_zipped_protobuf_arrives_at_the_next_one_unchanged() {
    through("encoding: proto, compression: gzip");
}

#[test]
fn everything_a_collector_sends_as_json_arrives_at_the_next_one_unchanged() {
    through("encoding: json, compression: none");
}

/// Given a Collector whose receiver is not there yet, and then says 503 because its own endpoint is away,
/// when the endpoint comes, then the Collector's retries bring everything, once.
#[test]
fn a_collector_is_told_to_wait_while_the_queue_is_full_and_loses_nothing() {
    const ROUNDS: u64 = 10;
    let last_at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let plane = Plane::start(|at| {
        format!(
            "sources: {{otlp: {{kind: otlp, listen: \"{at}\"}}}}
uploads:
  far: {{kind: otlp_http, endpoint: \"http://{last_at}\", from: [otlp], interval: 100ms, queue: {{records: 4}}}}
"
        )
    });
    let retry = "retry_on_failure: {initial_interval: 200ms, max_interval: 500ms}, sending_queue: {num_consumers: 1}";
    let first = Collector::forwarding(&format!("{{endpoint: \"http://{}\", {retry}}}", plane.at));
    for round in 0..ROUNDS {
        send(first.at, "/v1/traces", &traces(1_700_000_000_000 + round));
    }
    eventually("the receiver says that it is full", || {
        let log = text(&plane.log);
        if log.contains("senders are answered 503: the queue of the upload far is full") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let last = Collector::at(last_at);
    eventually("everything at the other end", || {
        let came = records(&last.received());
        let count = came.values().sum::<usize>() as u64;
        if count >= ROUNDS * SPANS {
            Ok(())
        } else {
            Err(format!("{count}; log:\n{}", text(&plane.log)))
        }
    });
    assert_eq!(records(&last.received()), records(&first.received()));
    let log = plane.stop();
    let all = ROUNDS * SPANS;
    let wanted = format!("received {all} delivered {all} pending 0 dropped 0");
    assert!(
        books(&log, "source stopped", "otlp").contains(&wanted),
        "{log}"
    );
    assert!(
        books(&log, "upload stopped", "far").contains(&wanted),
        "{log}"
    );
}

/// Given a Collector on the port, when a config with our receiver there is pushed,
/// then the rollout is committed, health says who has the port, the rest runs, and the port is taken when it is free.
#[test]
fn a_port_that_a_collector_has_is_said_and_fails_no_rollout() {
    let collector = Collector::start();
    let rig = Rig::own("probation: 1s");
    let config = format!(
        "sources:\n  otlp: {{kind: otlp, listen: \"{}\"}}\n  host: {{kind: host_metrics, interval: 1s}}\nuploads: {{out: {{kind: console, from: [host, otlp]}}}}\n",
        collector.at
    );
    let verdict = rig.push("collect.yaml", &config);
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    assert_eq!(verdict["status"], "APPLIED", "{verdict}");
    let (at, pid) = (collector.at, collector.pid());
    let wanted = format!(
        "degraded: nothing is received: {at} is taken by otelcol (pid {pid}); tried again every 2 s"
    );
    eventually("who has the port", || {
        let said = rig.part_error("source.otlp")?;
        if said == wanted { Ok(()) } else { Err(said) }
    });
    assert_eq!(rig.status()["healthy"], true);
    drop(collector);
    eventually("the port is ours", || {
        let state = rig.part("source.otlp")?;
        if state.starts_with("ok: ") {
            Ok(())
        } else {
            Err(state)
        }
    });
    send(at, "/v1/logs", &logs(1_700_000_000_000));
}

/// Given a network of its own, when the data plane runs without any config,
/// then a program that sends OTLP to the usual port is answered, and told that nobody takes it.
#[test]
fn without_a_config_the_usual_port_answers_and_says_that_nobody_takes_it() {
    let (status, answer, log) = std::thread::spawn(|| {
        // Only this thread and what it starts are in the new network.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network of its own: run the tests as root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_adjutant"));
        let mut plane = Process::start(command.arg("collect"), &log);
        let at = SocketAddr::from(([127, 0, 0, 1], 4318));
        let headers = "Content-Type: application/json\r\n";
        let body = traces(1_700_000_000_000).to_string();
        let (status, answer) = eventually("an answer", || {
            http(at, "POST", "/v1/traces", headers, &body)
                .map_err(|error| format!("{error}; log:\n{}", text(&log)))
        });
        // A second one beside it: it goes on, and says why it hears nothing.
        let other = dir.path().join("other");
        let mut second = Process::start(
            Command::new(env!("CARGO_BIN_EXE_adjutant")).arg("collect"),
            &other,
        );
        eventually("a sentence", || {
            let wanted = format!("127.0.0.1:4318 is taken by adjutant (pid {})", plane.pid());
            let said = text(&other);
            if said.contains(&wanted) {
                Ok(())
            } else {
                Err(said)
            }
        });
        for process in [&mut plane, &mut second] {
            process.signal(Signal::SIGTERM);
            assert_eq!(process.ended().code(), Some(0));
        }
        (status, answer, text(&log))
    })
    .join()
    .unwrap();
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "2", "{answer}");
    let source = books(&log, "source stopped", "\"source\":\"otlp\"");
    assert!(
        source.contains("received 2 delivered 0 pending 0 dropped 2 (no_upload 2)"),
        "{source}"
    );
}

/// Given a receiver with the limits of every day, when strangers send what they should not,
/// then each is answered or hung up on, the process lives, and a good request is taken at the end.
#[test]
fn hostile_senders_cost_nothing_but_their_own_connection() {
    let plane = Plane::start(|at| {
        format!(
            "sources: {{otlp: {{kind: otlp, listen: \"{at}\", max_connections: 8, timeout: 1s}}}}\nuploads: {{out: {{kind: console, from: [otlp]}}}}\n"
        )
    });
    let connect = || {
        let stream = TcpStream::connect(plane.at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    };
    let answer = |mut stream: TcpStream| {
        let mut bytes = Vec::new();
        // A reset is an answer too.
        stream.read_to_end(&mut bytes).ok();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // 64 MiB that are only announced, and a bomb of a few KiB that becomes 64 MiB.
    let head = |encoding: &str, length: usize| {
        format!(
            "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n{encoding}Content-Length: {length}\r\n\r\n"
        )
    };
    let mut stream = connect();
    stream.write_all(head("", 64 << 20).as_bytes()).unwrap();
    assert!(answer(stream).starts_with("HTTP/1.1 413 "));
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..64 {
            encoder.write_all(&zeros).unwrap();
        }
        encoder.finish().unwrap()
    };
    let mut stream = connect();
    let encoding = "Content-Encoding: gzip\r\nConnection: close\r\n";
    stream
        .write_all(head(encoding, bomb.len()).as_bytes())
        .unwrap();
    stream.write_all(&bomb).unwrap();
    assert!(answer(stream).starts_with("HTTP/1.1 413 "));
    // No HTTP at all; TLS to a plain port; a head without end.
    for garbage in [
        &b"\x00\xff\x00\xff\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        &vec![b'A'; 1 << 20],
    ] {
        let mut stream = connect();
        stream.write_all(garbage).ok();
        let said = answer(stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    // Slow ones fill every place, and lose it.
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"POST /v1/logs HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    eventually("too many connections", || {
        let mut stream = connect();
        stream.write_all(head("", 0).as_bytes()).unwrap();
        let said = answer(stream);
        if said.starts_with("HTTP/1.1 429 ") {
            Ok(())
        } else {
            Err(said)
        }
    });
    for stream in slow {
        answer(stream);
    }
    eventually("a good request", || {
        let headers = "Content-Type: application/json\r\n";
        match http(
            plane.at,
            "POST",
            "/v1/logs",
            headers,
            &logs(1_700_000_000_000).to_string(),
        ) {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let status = text(Path::new(&format!("/proc/{}/status", plane.process.pid())));
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak_kib < 96 * 1024, "{peak_kib} KiB at its peak");
    let log = plane.stop();
    assert!(
        books(&log, "source stopped", "otlp")
            .contains("received 2 delivered 2 pending 0 dropped 0"),
        "{log}"
    );
}
