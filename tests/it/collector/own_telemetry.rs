//! Given a Collector that takes OTLP and writes down what came,
//! when the settings or a server send own telemetry there,
//! then what the supervisor does, logs and measures arrives, and what the supervised Collector says about itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bench::{AgentForm, Bench, Reload, Supervisor};
use crate::fleet::Kind;
use crate::peers::{Process, eventually, free_port, otelcol};

/// A Collector that takes OTLP over HTTP, with TLS where `tls` says so.
struct Receiver {
    _process: Process,
    port: u16,
    out: PathBuf,
}

impl Receiver {
    fn start(bench: &Bench, name: &str, tls: &str) -> Self {
        let port = free_port();
        let out = bench.path(&format!("{name}.json"));
        let config = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'{tls}}}}}}}}}
exporters: {{file: {{path: '{}', flush_interval: 50ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [file]}}
    metrics: {{receivers: [otlp], exporters: [file]}}
    traces: {{receivers: [otlp], exporters: [file]}}
",
            out.display()
        );
        let path = bench.file(&format!("{name}.yaml"), &config);
        let args = ["--config".to_owned(), path.display().to_string()];
        let mut process = Process::start("receiver", &otelcol(), args.to_vec());
        process.line("it is ready", |line| {
            line.contains("Everything is ready").then_some(())
        });
        Self {
            _process: process,
            port,
            out,
        }
    }

    /// What came of a signal: each resource with its records.
    fn came(&self, resources: &str, scopes: &str, records: &str) -> Vec<(Value, Value)> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let mut found = Vec::new();
        for line in text.lines() {
            // The last line may be on its way.
            let Ok(request) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            for resource in list(&request, resources) {
                for scope in list(&resource, scopes) {
                    for record in list(&scope, records) {
                        found.push((resource["resource"].clone(), record));
                    }
                }
            }
        }
        found
    }

    fn spans(&self) -> Vec<(Value, Value)> {
        self.came("resourceSpans", "scopeSpans", "spans")
    }

    fn logs(&self) -> Vec<(Value, Value)> {
        self.came("resourceLogs", "scopeLogs", "logRecords")
    }

    fn metrics(&self) -> Vec<(Value, Value)> {
        self.came("resourceMetrics", "scopeMetrics", "metrics")
    }

    /// Waits for a record and returns it with its resource.
    fn until(
        &self,
        what: &str,
        came: impl Fn(&Self) -> Vec<(Value, Value)>,
        wanted: impl Fn(&Value) -> bool,
    ) -> (Value, Value) {
        eventually(what, || {
            let came = came(self);
            let names: Vec<_> = came.iter().map(|(_, it)| it["name"].clone()).collect();
            let mut found = came.into_iter();
            found
                .find(|(_, record)| wanted(record))
                .ok_or_else(|| format!("{} others: {names:?}", names.len()))
        })
    }
}

fn attribute(of: &Value, key: &str) -> Option<Value> {
    let attributes = of["attributes"].as_array()?;
    let found = attributes.iter().find(|it| it["key"] == key)?;
    found["value"].as_object()?.values().next().cloned()
}

fn named(name: &str) -> impl Fn(&Value) -> bool + '_ {
    move |record| record["name"] == name
}

fn body(text: &str) -> impl Fn(&Value) -> bool + '_ {
    move |record| record["body"]["stringValue"] == text
}

fn with_telemetry(port: u16) -> AgentForm {
    let otlp =
        format!("{{otlp: {{protocol: http/protobuf, endpoint: 'http://127.0.0.1:{port}'}}}}");
    AgentForm {
        more: format!(
            "telemetry:
  metrics: {{readers: [{{periodic: {{interval: 200, exporter: {otlp}}}}}]}}
  traces: {{propagators: [tracecontext], processors: [{{simple: {{exporter: {otlp}}}}}]}}
  logs: {{level: info, processors: [{{batch: {{schedule_delay: 100, exporter: {otlp}}}}}]}}
  resource: {{service.namespace: demo, detection: {{detectors: [host]}}}}
"
        ),
        ..AgentForm::with_remote(Reload::Restart)
    }
}

// E30, E35
#[test]
fn what_the_supervisor_does_logs_and_measures_arrives() {
    let mut bench = Bench::new(Kind::OpampGo);
    let receiver = Receiver::start(&bench, "receiver", "");
    let supervisor = bench.run(&with_telemetry(receiver.port));
    let uid = bench.connected(&supervisor);

    let (resource, span) = receiver.until("the start", Receiver::spans, named("GetBootstrapInfo"));
    assert_eq!(
        attribute(&resource, "service.name"),
        Some(json!("opamp-supervisor"))
    );
    assert_eq!(
        attribute(&resource, "service.namespace"),
        Some(json!("demo"))
    );
    assert!(attribute(&resource, "host.name").is_some(), "{resource}");
    let instance = attribute(&resource, "service.instance.id").unwrap();
    assert_ne!(instance, json!(uid), "the supervisor is not its agent");
    assert_eq!(span["status"]["code"], 1, "{span}");

    let good = bench.push(&uid, &bench.pipeline("first.json"));
    bench.status(&uid, &good, "APPLIED");
    receiver.until(
        "a message of the server",
        Receiver::spans,
        named("onMessage"),
    );
    let (_, apply) = receiver.until("the apply", Receiver::spans, |span| {
        span["name"] == "apply" && attribute(span, "outcome") == Some(json!("committed"))
    });
    assert_eq!(apply["status"]["code"], 1, "{apply}");
    let (_, phase) = receiver.until("a phase of it", Receiver::spans, |span| {
        span["name"] == "apply.proving" && span["traceId"] == apply["traceId"]
    });
    assert_eq!(phase["parentSpanId"], apply["spanId"]);

    let bad = bench.push(&uid, "receivers: {nothing_like_this: {}}\n");
    bench.status(&uid, &bad, "FAILED");
    receiver.until("the failed apply", Receiver::spans, |span| {
        span["name"] == "apply" && span["status"]["code"] == 2
    });

    let (_, record) = receiver.until(
        "a log record",
        Receiver::logs,
        body("connected to the server"),
    );
    assert_eq!(record["severityText"], "INFO");
    assert_eq!(attribute(&record, "agent"), Some(json!("collector")));
    let (of_metrics, up) = receiver.until("metrics", Receiver::metrics, |metric| {
        metric["name"] == "adjutant.agent.up" && metric["gauge"]["dataPoints"][0]["asInt"] == "1"
    });
    assert_eq!(
        attribute(&up["gauge"]["dataPoints"][0], "agent"),
        Some(json!("collector"))
    );
    assert_eq!(
        attribute(&of_metrics, "service.instance.id"),
        Some(instance)
    );
    receiver.until(
        "our process",
        Receiver::metrics,
        named("process.memory.usage"),
    );

    supervisor.stop();
    // What is said on the way down is sent before the end.
    receiver.until("the last words", Receiver::logs, body("stopping"));
}

#[test]
fn a_receiver_that_is_away_hurts_nothing() {
    let mut bench = Bench::new(Kind::OpampGo);
    let supervisor = bench.run(&with_telemetry(free_port()));
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &bench.pipeline("first.json"));
    bench.status(&uid, &good, "APPLIED");
    bench.flows("first.json");
    eventually("each signal is told of once", || {
        let log = supervisor.log();
        let told = |signal: &str| {
            let told = |line: &&String| {
                line.contains("own telemetry is not taken") && line.contains(signal)
            };
            log.iter().filter(told).count()
        };
        let counts = ["logs", "traces", "metrics"].map(told);
        if counts == [1, 1, 1] {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    });
    supervisor.stop();
}

/// Offers connection settings in protobuf's JSON form, and waits for what became of them: its error text.
fn offer(bench: &Bench, uid: &str, hash: u8, settings: &Value, status: &str) -> String {
    let mut settings = settings.clone();
    // One byte in base64.
    settings["hash"] = json!(format!("{}A==", char::from(b'A' + hash)));
    let wanted = format!("{:02x}", hash << 2);
    let message = json!({"connectionSettings": settings});
    bench.server().message(uid, &message);
    eventually(&format!("settings {wanted} are {status}"), || {
        let messages = bench.server().messages(uid);
        let mut told = messages
            .iter()
            .rev()
            .filter_map(|message| message.get("connection_settings_status"));
        let told = told.next().cloned().unwrap_or_default();
        if told["hash"] == wanted.as_str() && told["status"] == status {
            Ok(told["error_message"]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        } else {
            Err(told.to_string())
        }
    })
}

/// Runs the supervisor with all three kinds accepted.
fn run_directed(bench: &mut Bench) -> Supervisor {
    let executable = otelcol().display().to_string();
    bench.run_text(&format!(
        "server: {{endpoint: SERVER}}
capabilities:
  accepts_remote_config: true
  reports_remote_config: true
  reports_own_metrics: true
  reports_own_logs: true
  reports_own_traces: true
storage: {{directory: STATE}}
agent:
  executable: '{executable}'
  config_apply_timeout: 30s
  config_files: [$REMOTE_CONFIG, $OWN_TELEMETRY_CONFIG]
"
    ))
}

/// Every file of every stored revision.
fn revisions(bench: &Bench) -> String {
    fn read(path: &Path, text: &mut String) {
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).unwrap() {
                read(&entry.unwrap().path(), text);
            }
        } else {
            text.push_str(&fs::read_to_string(path).unwrap_or_default());
        }
    }
    let mut text = String::new();
    read(&bench.path("state/agents/collector/revisions"), &mut text);
    text
}

/// A config whose own metrics are pulled at a port of its own, over which the layer of own telemetry is put.
fn measured(bench: &Bench) -> String {
    let reader = format!(
        "{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {}}}}}}}}}",
        free_port()
    );
    bench.pipeline("first.json").replace(
        "{metrics: {level: none}}",
        &format!("{{metrics: {{readers: [{reader}]}}}}"),
    )
}

#[test]
fn offered_destinations_are_used_changed_kept_and_withdrawn() {
    let mut bench = Bench::new(Kind::OpampGo);
    let first = Receiver::start(&bench, "first-receiver", "");
    let second = Receiver::start(&bench, "second-receiver", "");
    let supervisor = run_directed(&mut bench);
    let uid = bench.connected(&supervisor);
    let config = bench.push(&uid, &measured(&bench));
    bench.status(&uid, &config, "APPLIED");

    let url = |receiver: &Receiver, path: &str| format!("http://127.0.0.1:{}{path}", receiver.port);
    let secret = "Bearer very-s3cret";
    let all = json!({
        "ownMetrics": {"destinationEndpoint": url(&first, "/v1/metrics"),
            "headers": {"headers": [{"key": "Authorization", "value": secret}]}},
        "ownLogs": {"destinationEndpoint": url(&first, "/v1/logs")},
    });
    assert_eq!(offer(&bench, &uid, 1, &all, "APPLIED"), "");
    let (resource, _) = first.until("its metrics", Receiver::metrics, |metric| {
        metric["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("otelcol_"))
    });
    // One instance, in reports and in telemetry, and whose it is.
    assert_eq!(
        attribute(&resource, "service.instance.id"),
        Some(json!(uid))
    );
    let over = attribute(&resource, "adjutant.supervisor.instance.id");
    assert!(over.is_some_and(|over| over != json!(uid)), "{resource}");
    first.until("its logs", Receiver::logs, |record| {
        record["body"]["stringValue"]
            .as_str()
            .is_some_and(|text| text.contains("ready"))
    });
    // The server's own config stands as it was, and what runs is shown, without the secret.
    let agent = bench.agent(&uid, "with the destination", |agent| {
        agent.effective.contains("/v1/metrics") && agent.effective.contains("/v1/logs")
    });
    assert_eq!(
        agent.status.map(|status| (status.0, status.1)),
        Some((config, "APPLIED".into()))
    );
    for (what, text) in [
        ("effective config", agent.effective),
        ("revisions", revisions(&bench)),
        ("log", supervisor.log().join("\n")),
    ] {
        assert!(!text.contains("very-s3cret"), "{what}: {text}");
    }

    // A destination that the child cannot take is refused, and the one before stays.
    let refused = json!({"ownMetrics": {"destinationEndpoint": "ftp://x/"},
        "ownLogs": {"destinationEndpoint": url(&first, "/v1/logs")}});
    let words = offer(&bench, &uid, 2, &refused, "FAILED");
    assert!(
        words.contains("own_metrics.destination_endpoint"),
        "{words}"
    );

    // Elsewhere, and without the logs.
    let moved = json!({"ownMetrics": {"destinationEndpoint": url(&second, "/v1/metrics")}});
    offer(&bench, &uid, 3, &moved, "APPLIED");
    second.until("its metrics", Receiver::metrics, |metric| {
        metric["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("otelcol_"))
    });
    bench.agent(&uid, "without the logs", |agent| {
        !agent.effective.contains("/v1/logs")
    });
    assert!(second.logs().is_empty());

    // Another life of ours begins where this one ended, without an offer and without a change.
    supervisor.stop();
    let revision = |supervisor: &Supervisor| supervisor.status().unwrap()["current"]["id"].clone();
    let supervisor = run_directed(&mut bench);
    supervisor.healthy();
    let before = revision(&supervisor);
    let came = second.metrics().len();
    eventually("metrics go on", || {
        let now = second.metrics().len();
        if now > came {
            Ok(())
        } else {
            Err(format!("{now}"))
        }
    });
    bench.agent(&uid, "as before", |agent| {
        agent.connected && agent.effective.contains("/v1/metrics")
    });
    assert_eq!(revision(&supervisor), before);

    // An empty endpoint withdraws.
    offer(&bench, &uid, 4, &json!({"ownMetrics": {}}), "APPLIED");
    bench.agent(&uid, "without a destination", |agent| {
        !agent.effective.is_empty() && !agent.effective.contains("/v1/metrics")
    });
    supervisor.stop();
}

/// Files of a small authority: its certificate, a server's pair, a client's pair.
struct Authority {
    ca: String,
    client: (String, String),
}

impl Authority {
    fn make(bench: &Bench) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let pair = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &issuer).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (chain, key) = pair("127.0.0.1");
        bench.file("ca.pem", &ca);
        bench.file("server.pem", &chain);
        bench.file("server.key", &key);
        Self {
            client: pair("agent"),
            ca,
        }
    }
}

#[test]
fn own_telemetry_tls_is_honoured_or_refused_by_name_50767() {
    let mut bench = Bench::new(Kind::OpampGo);
    let authority = Authority::make(&bench);
    let path = |name: &str| bench.path(name).display().to_string();
    let tls = format!(
        ", tls: {{cert_file: '{}', key_file: '{}', client_ca_file: '{}'}}",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    // It knows its own authority alone and asks for a certificate of it.
    let receiver = Receiver::start(&bench, "receiver", &tls);
    let supervisor = run_directed(&mut bench);
    let uid = bench.connected(&supervisor);
    let config = bench.push(&uid, &measured(&bench));
    bench.status(&uid, &config, "APPLIED");
    let base64 = |text: &str| encode(text.as_bytes());
    let destination = |more: Value| {
        let mut tls = json!({"caPemContents": authority.ca});
        tls.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"ownMetrics": {
            "destinationEndpoint": format!("https://127.0.0.1:{}/v1/metrics", receiver.port),
            "certificate": {"cert": base64(&authority.client.0), "privateKey": base64(&authority.client.1)},
            "tls": tls,
        }})
    };
    for (hash, more, field) in [
        (1, json!({"minVersion": "1.3"}), "tls.min_version"),
        (
            2,
            json!({"includeSystemCaCertsPool": true}),
            "tls.include_system_ca_certs_pool",
        ),
        (
            3,
            json!({"insecureSkipVerify": true}),
            "tls.insecure_skip_verify",
        ),
        (
            4,
            json!({"cipherSuites": ["TLS_AES_256_GCM_SHA384"]}),
            "tls.cipher_suites",
        ),
    ] {
        let words = offer(&bench, &uid, hash, &destination(more), "FAILED");
        assert!(words.contains(&format!("own_metrics.{field}")), "{words}");
    }
    assert!(receiver.metrics().is_empty());

    offer(&bench, &uid, 5, &destination(json!({})), "APPLIED");
    receiver.until("metrics over TLS", Receiver::metrics, |metric| {
        metric["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("otelcol_"))
    });
    assert!(!revisions(&bench).contains("PRIVATE KEY"));
    let files = fs::read_dir(bench.path("state/agents/collector/telemetry")).unwrap();
    let modes: Vec<u32> = files
        .map(|file| file.unwrap().metadata().unwrap().permissions().mode() & 0o777)
        .collect();
    assert_eq!(modes, [0o600; 3], "authority, chain and key");
    supervisor.stop();
}

/// Base64 as protobuf's JSON form has it for bytes.
fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| usize::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() {
                char::from(DIGITS[index])
            } else {
                '='
            });
        }
    }
    text
}
