//! Given a real Collector in opampsupervisor's form, and servers made with opamp-go;
//! when a server offers connection settings (E22, E36, E41's fourth case and the field's accidents with them);
//! then those that work are used and kept, those that do not are undone and said so, the child notices nothing, and
//! no offer makes the connection weaker or strands the agent.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::bench::{Bench, Supervisor};
use crate::fleet::{Kind, Server, endpoint};
use crate::peers::{eventually, free_port, otelcol, within};

/// opampsupervisor's settings with its capability on, and one local pipeline.
fn settings(bench: &Bench, server: &str) -> String {
    let pipeline = bench.pipeline("out.json");
    let file = bench.file("local.yaml", &pipeline);
    format!(
        "server: {server}
capabilities: {{accepts_opamp_connection_settings: true}}
storage: {{directory: STATE}}
agent:
  executable: {otelcol}
  config_files: ['{file}']
  config_apply_timeout: 30s
",
        otelcol = otelcol().display(),
        file = file.display(),
    )
}

/// What a server knows of the agent, once it is as wanted.
fn known(server: &Server, uid: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("the server sees {what}"), || {
        let agent = server.known(uid)?;
        if wanted(&agent) {
            Ok(agent)
        } else {
            Err(format!("{agent:#}"))
        }
    })
}

fn outcome(server: &Server, uid: &str, hash: &str, word: &str) -> String {
    let agent = known(server, uid, &format!("{word} of {hash}"), |agent| {
        let status = &agent["connection_settings_status"];
        status["hash"] == hash
            && status["status"]
                .as_str()
                .is_some_and(|it| it.contains(word))
    });
    let text = &agent["connection_settings_status"]["error_message"];
    text.as_str().unwrap_or_default().to_owned()
}

fn connected(server: &Server, uid: &str) -> Value {
    known(server, uid, "it connected", |agent| {
        agent["connected"] == true && agent["description"].is_object()
    })
}

/// A supervisor with a healthy child, connected to the server of the bench.
fn begun() -> (Bench, Supervisor, String, u64) {
    let mut bench = Bench::new(Kind::OpampGo);
    let text = settings(&bench, "{endpoint: SERVER, headers: {X-Base: base}}");
    let supervisor = bench.run_text(&text);
    let uid = bench.connected(&supervisor);
    let pid = supervisor.healthy();
    (bench, supervisor, uid, pid)
}

// E22; …
#[test]
fn offered_endpoint_and_headers_are_moved_to_and_kept_over_a_restart() {
    let (mut bench, supervisor, uid, pid) = begun();
    let agent = connected(bench.server(), &uid);
    let bits = agent["capabilities"].as_u64().unwrap();
    assert_eq!(bits & 0x8100, 0x8100, "{bits:#x}");
    let second = Server::start(Kind::OpampGo, 0);
    bench.server().offer(json!({
        "uid": uid,
        "hash": "0a",
        "destination_endpoint": second.endpoint(),
        "headers": {"Authorization": "Bearer offered-secret"},
    }));
    connected(&second, &uid);
    outcome(&second, &uid, "0a", "APPLIED");
    let headers = &second.all_connections()[0]["headers"];
    assert_eq!(headers["Authorization"], "Bearer offered-secret");
    assert_eq!(
        headers["X-Base"],
        Value::Null,
        "a set of headers is replaced as a whole"
    );
    let left = known(bench.server(), &uid, "the goodbye", |agent| {
        agent["agent_disconnect"] == true && agent["connected"] == false
    });
    assert_eq!(left["connections"], 1);
    assert_eq!(supervisor.healthy(), pid, "the child did not notice");
    assert_eq!(connected(&second, &uid)["health"]["healthy"], true);
    let status = supervisor.status().unwrap();
    assert_eq!(status["link"]["endpoint"], second.endpoint());
    assert_eq!(status["link"]["settings"], "offered");
    let told = supervisor.command(&["status"]);
    assert!(told.contains("connection settings offered"), "{told}");

    let file = bench.path("state/agents/collector/connection-settings");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let log = supervisor.log().join("\n");
    assert!(!log.contains("offered-secret"), "{log}");
    assert!(!status.to_string().contains("offered-secret"), "{status}");

    // The next life begins where this one ended, and says what it knows before it is asked.
    supervisor.stop();
    let text = settings(&bench, "{endpoint: SERVER, headers: {X-Base: base}}");
    let first = bench.server().all_connections().len();
    let supervisor = bench.run_text(&text);
    known(&second, &uid, "the second life", |agent| {
        agent["connections"] == 2
    });
    outcome(&second, &uid, "0a", "APPLIED");
    assert_eq!(
        bench.server().all_connections().len(),
        first,
        "the old one is not asked"
    );

    // The way back: without the file, the local settings.
    supervisor.stop();
    std::fs::remove_file(&file).unwrap();
    let supervisor = bench.run_text(&text);
    connected(bench.server(), &uid);
    assert_eq!(supervisor.status().unwrap()["link"]["settings"], "local");
    supervisor.stop();
}

// E22's other half: proven by connecting, and the link that stands is kept all the while.
#[test]
fn a_place_that_does_not_answer_is_failed_and_the_link_stays() {
    let (bench, supervisor, uid, _) = begun();
    let nowhere = endpoint(free_port());
    bench
        .server()
        .offer(json!({"uid": uid, "hash": "0b", "destination_endpoint": nowhere}));
    let reason = outcome(bench.server(), &uid, "0b", "FAILED");
    assert!(reason.starts_with("opamp: "), "{reason}");
    let agent = connected(bench.server(), &uid);
    assert_eq!(agent["connections"], 1, "{agent:#}");
    assert_eq!(supervisor.status().unwrap()["link"]["settings"], "local");

    // Nor for one that refuses us.
    let strict = Server::start(Kind::OpampGo, 0);
    strict.refuse_with(401);
    bench
        .server()
        .offer(json!({"uid": uid, "hash": "0c", "destination_endpoint": strict.endpoint()}));
    let reason = outcome(bench.server(), &uid, "0c", "FAILED");
    assert!(reason.contains("401"), "{reason}");
    assert_eq!(connected(bench.server(), &uid)["connections"], 1);
    supervisor.stop();
}

// whoever dies in the middle begins with what was on trial, and comes back from it.
#[test]
fn a_trial_that_was_killed_is_taken_up_and_settled() {
    let (mut bench, mut supervisor, uid, _) = begun();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = endpoint(silent.local_addr().unwrap().port());
    bench
        .server()
        .offer(json!({"uid": uid, "hash": "0d", "destination_endpoint": place}));
    supervisor.until("on trial", |status| {
        status["link"]["settings"] == "on_trial"
    });
    let (_stream, _) = silent.accept().unwrap();
    supervisor.kill();
    // Nobody is there any more.
    drop(silent);
    let text = settings(&bench, "{endpoint: SERVER, headers: {X-Base: base}}");
    let supervisor = bench.run_text(&text);
    outcome(bench.server(), &uid, "0d", "FAILED");
    connected(bench.server(), &uid);
    supervisor.healthy();
    supervisor.stop();
}

// E36: an interval is in force at once, without another connection.
#[test]
fn offered_heartbeat_of_one_second_beats_within_three() {
    let (bench, supervisor, uid, _) = begun();
    bench
        .server()
        .offer(json!({"uid": uid, "hash": "0e", "heartbeat_interval_seconds": 1}));
    outcome(bench.server(), &uid, "0e", "APPLIED");
    let before = bench.server().messages(&uid).len();
    let beat = within(Duration::from_secs(3), "an empty heartbeat", || {
        let messages = bench.server().messages(&uid);
        let told = [
            "description",
            "health",
            "effective_config",
            "remote_config_status",
            "connection_settings_status",
        ];
        let mut later = messages.iter().skip(before);
        let is_told =
            |message: &Value, field: &str| message.get(field).is_some_and(|it| !it.is_null());
        let empty = later.find(|message| !told.iter().any(|field| is_told(message, field)));
        empty
            .cloned()
            .ok_or_else(|| format!("{:?}", messages.last()))
    });
    assert!(beat["sequence_num"].as_u64().is_some(), "{beat}");
    assert_eq!(connected(bench.server(), &uid)["connections"], 1);
    supervisor.stop();
}

/// The accident: an offer of headers alone has an interval of zero; its connection failed, and nobody was heard of
/// again.
#[test]
fn accident_50305_an_offer_with_interval_zero_strands_nobody() {
    let (bench, supervisor, uid, _) = begun();
    bench
        .server()
        .offer(json!({"uid": uid, "hash": "10", "heartbeat_interval_seconds": 1}));
    outcome(bench.server(), &uid, "10", "APPLIED");
    bench.server().offer(json!({
        "uid": uid,
        "hash": "11",
        "destination_endpoint": endpoint(free_port()),
        "headers": {"X-New": "1"},
        "heartbeat_interval_seconds": 0,
    }));
    outcome(bench.server(), &uid, "11", "FAILED");
    let before = bench.server().messages(&uid).len();
    within(Duration::from_secs(10), "the heartbeats go on", || {
        let count = bench.server().messages(&uid).len();
        if count >= before + 3 {
            Ok(())
        } else {
            Err(format!("{count} messages, {before} before"))
        }
    });
    // The same where the connection works.
    bench.server().offer(json!({
        "uid": uid, "hash": "12", "headers": {"X-New": "1"}, "heartbeat_interval_seconds": 0,
    }));
    outcome(bench.server(), &uid, "12", "APPLIED");
    let headers: Vec<_> = bench.server().all_connections();
    let headers: Vec<_> = headers.iter().map(|it| &it["headers"]["X-New"]).collect();
    assert_eq!(headers, [&Value::Null, &json!("1")]);
    let before = bench.server().messages(&uid).len();
    within(Duration::from_secs(10), "the heartbeats go on", || {
        let count = bench.server().messages(&uid).len();
        if count >= before + 3 {
            Ok(())
        } else {
            Err(count.to_string())
        }
    });
    supervisor.stop();
}

/// A server with a certificate of nobody we know; what it hears inside TLS is kept.
fn impostor() -> (u16, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let address = rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap());
    params.subject_alt_names.push(address);
    let certificate = params.self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = std::sync::Arc::new(config);
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = std::sync::Arc::clone(&heard);
    // Ends with the test's process; nobody waits for it.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut session =
                rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            let mut buffer = [0; 4096];
            while let Ok(count) = std::io::Read::read(&mut tls, &mut buffer) {
                if count == 0 {
                    break;
                }
                told.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        }
    });
    (port, heard)
}

/// The accident: an offer without a certificate turned verification off, and the token went to whoever answered.
#[test]
fn accident_50786_an_offer_without_certificate_never_turns_verification_off() {
    let (bench, supervisor, uid, _) = begun();
    let (port, heard) = impostor();
    let place = format!("wss://127.0.0.1:{port}/v1/opamp");
    bench.server().offer(json!({
        "uid": uid,
        "hash": "20",
        "destination_endpoint": place,
        "headers": {"Authorization": "Bearer for-nobody-else"},
    }));
    let reason = outcome(bench.server(), &uid, "20", "FAILED");
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(*heard.lock().unwrap(), b"", "not a byte was said inside");

    // Nor where it asks for that in so many words.
    bench.server().offer(json!({
        "uid": uid,
        "hash": "21",
        "destination_endpoint": place,
        "tls": {"insecureSkipVerify": true},
    }));
    let reason = outcome(bench.server(), &uid, "21", "FAILED");
    assert_eq!(
        reason,
        "opamp.tls.insecure_skip_verify: verification is turned off by local settings only"
    );
    assert_eq!(*heard.lock().unwrap(), b"");
    assert_eq!(connected(bench.server(), &uid)["connections"], 1);
    supervisor.stop();
}
