//! The server over real TCP: a scripted agent on one side, plain HTTP on the other.

mod browser;
mod chromium;
mod support;

use std::net::{Ipv4Addr, SocketAddr};

use opamp_client::messages::{RemoteConfigStatuses, ServerToAgentFlags};
use opamp_client::transport::{Closed, ClosedBy};
use serde_json::{Value, json};

use self::support::{Agent, Listener, Running, WALL, rollout_health, status};
use super::*;

#[tokio::test]
async fn a_push_travels_to_the_agent_and_its_phases_come_back_live() {
    let server = Running::start().await;
    let mut events = Listener::open(&server, "/api/events").await;
    events.until("event: hello").await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    events.until("\"name\":\"scripted\"").await;

    let listed = server.get("/api/agents").await.json();
    assert_eq!(listed["agents"][0]["uid"], agent.uid());
    assert_eq!(listed["agents"][0]["connected"], true);
    assert_eq!(listed["agents"][0]["last_seen"], WALL.unix_millis());

    let body = json!({"files": {"collect.yaml": {"type": "text/yaml", "body": "sources: {}\n"}, "": {"body": "ü"}}});
    let path = format!("/api/agents/{}/config", agent.uid());
    let pushed = server.write("PUT", &path, &body).await;
    assert_eq!((pushed.status, &pushed.json()["sent"]), (200, &json!(true)));
    let offer = agent.receive().await.remote_config.expect("an offer");
    assert_eq!(pushed.json()["hash"], hex(&offer.config_hash));
    assert_eq!(offer.config_hash.len(), 32);
    let map = offer.config.expect("a config").config_map;
    assert_eq!(map["collect.yaml"].body, b"sources: {}\n");
    assert_eq!(map["collect.yaml"].content_type, "text/yaml");
    assert_eq!(map[""].body, "ü".as_bytes());

    let applying = RemoteConfigStatuses::Applying;
    agent
        .report(|message| {
            message.remote_config_status = Some(status(&offer.config_hash, applying, ""));
        })
        .await;
    let way = ["policy", "validating", "probation", "rolling back"];
    for word in way {
        agent
            .report(|message| message.health = Some(rollout_health(word, "")))
            .await;
        events.until(&format!("\"phase\":\"{word}\"")).await;
    }
    let failed = RemoteConfigStatuses::Failed;
    agent
        .report(|message| {
            message.remote_config_status = Some(status(&offer.config_hash, failed, "exit code 1"));
            message.health = Some(rollout_health("rolled back", "exit code 1"));
        })
        .await;
    events.until("\"phase\":\"rolled back\"").await;

    let path = format!("/api/agents/{}", agent.uid());
    let detail = server.get(&path).await.json();
    let apply = &detail["applies"][0];
    assert_eq!(apply["outcome"], "rolled back");
    assert_eq!(apply["reason"], "exit code 1");
    let phases: Vec<&str> = apply["phases"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["phase"].as_str())
        .collect();
    assert_eq!(
        phases,
        [
            "policy",
            "validating",
            "probation",
            "rolling back",
            "rolled back"
        ]
    );
    assert_eq!(detail["revision"], "1760000000000-abcdef01");
    assert_eq!(detail["remote_config"]["status"], "FAILED");
    assert_eq!(
        detail["identifying_attributes"],
        json!({"service.name": "scripted"})
    );
    assert_eq!(
        detail["health"]["components"]["rollout"]["status"],
        "rolled back"
    );
    assert_eq!(
        detail["effective_config"]["collect.yaml"]["body"],
        "sources: {}\n"
    );
    assert_eq!(detail["stored_config"]["files"][""]["bytes"], 2);
    let path = "/api/events?uid=0190a5c2-7b1e-7c3d-9f00-2a6b1c4d5e6f";
    let mut other = Listener::open(&server, path).await;
    other.until("event: hello").await;
    agent.report(|_| ()).await;
    events.until("\"changed\":[]").await;
    assert!(
        !other.so_far().contains("event: agent"),
        "only the uid asked for"
    );
}

#[expect(clippy::too_many_lines, reason = "one table")]
#[tokio::test]
async fn strangers_and_mistakes_are_refused_with_words() {
    let server = Running::start().await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    let uid = agent.uid();
    let host = format!("Host: {}", server.address);
    let token = format!("X-Adjutant-Token: {}", server.token);
    let ours = [host.as_str(), token.as_str()];
    let config = format!("/api/agents/{uid}/config");
    let raw = format!("/api/agents/{uid}/raw");
    let heartbeat = format!("/api/agents/{uid}/heartbeat");
    let nobody = "/api/agents/0190a5c2-7b1e-7c3d-9f00-2a6b1c4d5e6f";
    let cases = vec![
        (
            "GET",
            "/",
            vec!["Host: example.com"],
            "",
            403,
            "Host header names neither",
        ),
        (
            "GET",
            "/api/agents",
            vec!["Host: rebound.example:80"],
            "",
            403,
            "Host header names",
        ),
        ("GET", "/api/agents", vec![], "", 400, "no usable Host"),
        (
            "GET",
            "/api/agents",
            vec![&host, "Host: localhost"],
            "",
            400,
            "",
        ),
        (
            "GET",
            "/api/agents",
            vec![&host, "Origin: https://example.com"],
            "",
            403,
            "another origin",
        ),
        (
            "GET",
            "/api/agents",
            vec![&host, "Sec-Fetch-Site: cross-site"],
            "",
            403,
            "another origin",
        ),
        (
            "GET",
            "/api/events",
            vec![&host, "Origin: null"],
            "",
            403,
            "another origin",
        ),
        (
            "PUT",
            &config,
            vec![&host],
            "{}",
            401,
            "token printed at start",
        ),
        (
            "PUT",
            &config,
            vec![&host, "X-Adjutant-Token: guess"],
            "{}",
            401,
            "token",
        ),
        (
            "PUT",
            &config,
            vec![&host, &token, "Origin: http://localhost:1"],
            "{}",
            403,
            "another origin",
        ),
        (
            "POST",
            "/api/mode",
            vec![&host],
            "{\"reject\": 0}",
            401,
            "token",
        ),
        ("DELETE", "/nowhere", vec![&host], "", 401, "token"),
        ("PUT", &config, ours.to_vec(), "", 400, "not JSON"),
        (
            "PUT",
            &config,
            ours.to_vec(),
            "[{}]",
            400,
            "not a JSON object",
        ),
        (
            "PUT",
            &config,
            ours.to_vec(),
            "{\"file\": {}}",
            400,
            "unknown field `file`",
        ),
        (
            "PUT",
            &config,
            ours.to_vec(),
            "{\"files\": {\"a\": {}}}",
            400,
            "missing field `body`",
        ),
        (
            "PUT",
            &config,
            ours.to_vec(),
            "{\"files\": {}, \"hash\": \"xyz\"}",
            400,
            "not hexadecimal",
        ),
        (
            "PUT",
            &config,
            ours.to_vec(),
            "{\"files\": {}, \"hash\": \"\"}",
            400,
            "not hexadecimal",
        ),
        (
            "PUT",
            "/api/agents/x/config",
            ours.to_vec(),
            "{\"files\": {}}",
            400,
            "a UUID",
        ),
        ("GET", nobody, ours.to_vec(), "", 404, "no agent 0190a5c2"),
        (
            "GET",
            "/api/nothing",
            ours.to_vec(),
            "",
            404,
            "nothing is served here",
        ),
        (
            "POST",
            &raw,
            ours.to_vec(),
            "{\"hex\": \"0\"}",
            400,
            "not hexadecimal",
        ),
        (
            "POST",
            &raw,
            ours.to_vec(),
            "{\"hex\": \"00\", \"repeat\": 99999999999}",
            400,
            "is over",
        ),
        (
            "POST",
            &heartbeat,
            ours.to_vec(),
            "{\"seconds\": 1}",
            409,
            "accepts OpAMP connection",
        ),
        (
            "POST",
            "/api/mode",
            ours.to_vec(),
            "{\"reject\": 200}",
            400,
            "from 400 to 599",
        ),
        (
            "GET",
            "/v1/opamp",
            ours.to_vec(),
            "",
            426,
            "over WebSocket only",
        ),
        ("POST", "/api/agents", ours.to_vec(), "", 405, ""),
    ];
    for (method, path, headers, body, status, words) in cases {
        let answer = server.raw_request(method, path, &headers, body).await;
        let case = format!("{method} {path} {headers:?} {body}");
        assert_eq!(answer.status, status, "{case}: {}", answer.body);
        assert!(answer.body.contains(words), "{case}: {}", answer.body);
    }
    let large = format!("{{\"hex\": \"{}\"}}", "00".repeat(2 * 1024 * 1024));
    let answer = server.raw_request("POST", &raw, &ours, &large).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn the_page_is_served_with_headers_that_forbid_the_outside() {
    let server = Running::start().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer.head.contains(&format!("content-type: {kind}")),
            "{}",
            answer.head
        );
        assert!(
            answer.head.contains("default-src 'none'"),
            "{}",
            answer.head
        );
        assert!(
            !answer.body.contains(&server.token),
            "{path} carries the token"
        );
    }
}

#[tokio::test]
async fn agents_are_asked_restarted_renamed_and_dropped() {
    let server = Running::start().await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    let path = |uid: &str, what: &str| format!("/api/agents/{uid}/{what}");
    let uid = agent.uid();
    let none = Value::Null;
    assert_eq!(
        server
            .write("POST", &path(&uid, "restart"), &none)
            .await
            .status,
        200
    );
    assert!(agent.receive().await.command.is_some());
    server.write("POST", &path(&uid, "full-state"), &none).await;
    assert!(ServerToAgentFlags::ReportFullState.is_in(agent.receive().await.flags));
    let raw = json!({"hex": "ff00", "repeat": 3});
    server.write("POST", &path(&uid, "raw"), &raw).await;
    assert_eq!(agent.receive_bytes().await, [0xff, 0, 0xff, 0, 0xff, 0]);
    let wanted = "0190a5c2-7b1e-7c3d-9f00-2a6b1c4d5e6f";
    let body = json!({"new_instance_uid": wanted});
    server.write("POST", &path(&uid, "identify"), &body).await;
    let given = agent.receive().await.agent_identification.expect("a uid");
    agent.rename(&given.new_instance_uid);
    agent.report(|_| ()).await;
    let old = server.get(&format!("/api/agents/{uid}")).await;
    assert_eq!(old.status, 404);
    let listed = server.get("/api/agents").await.json();
    assert_eq!(listed["agents"][0]["uid"], wanted);
    server.write("POST", &path(wanted, "drop"), &none).await;
    let closed = agent.closed().await;
    assert_eq!(
        closed.by,
        ClosedBy::Failure,
        "dropped without a word: {closed:?}"
    );
}

#[tokio::test]
async fn links_are_refused_on_request_and_taken_again() {
    let server = Running::start().await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    let mode = json!({"reject": 503, "retry_after": 7, "drop": true});
    assert_eq!(server.write("POST", "/api/mode", &mode).await.status, 200);
    agent.closed().await;
    let upgrade = server.upgrade(&[]).await;
    assert_eq!(upgrade.status, 503);
    assert!(upgrade.head.contains("retry-after: 7"), "{}", upgrade.head);
    server
        .write("POST", "/api/mode", &json!({"reject": 401}))
        .await;
    let upgrade = server.upgrade(&[]).await;
    assert_eq!(upgrade.status, 401);
    assert!(!upgrade.head.contains("retry-after"), "{}", upgrade.head);
    server
        .write("POST", "/api/mode", &json!({"reject": 0}))
        .await;
    agent = Agent::connect(&server).await;
    agent.introduce().await;
}

#[tokio::test]
async fn a_page_from_elsewhere_cannot_pose_as_an_agent() {
    let server = Running::start().await;
    for header in [
        "Origin: https://example.com",
        "Origin: null",
        "Host: example.com",
    ] {
        assert_eq!(server.upgrade(&[header]).await.status, 403, "{header}");
    }
}

#[tokio::test]
async fn messages_without_header_are_understood_and_garbage_ends_the_link() {
    let server = Running::start().await;
    let mut agent = Agent::connect(&server).await;
    let bytes = agent.message_bytes();
    assert_eq!(bytes[0], 0, "the header");
    agent.send_bytes(bytes[1..].to_vec()).await;
    assert_eq!(
        hex(&agent.receive().await.instance_uid),
        agent.uid().replace('-', "")
    );
    agent.send_bytes(vec![0, 0xff, 0xff, 0xff]).await;
    let closed = agent.closed().await;
    assert_eq!(
        (closed.by, closed.code),
        (ClosedBy::Peer, 1008),
        "{closed:?}"
    );
}

#[tokio::test]
async fn event_streams_are_limited() {
    let server = Running::start().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut one = Listener::open(&server, "/api/events").await;
        one.until("event: hello").await;
        open.push(one);
    }
    assert_eq!(server.get("/api/events").await.status, 503);
}

#[tokio::test]
async fn stopping_says_goodbye_and_ends() {
    let mut server = Running::start().await;
    let mut events = Listener::open(&server, "/api/events").await;
    events.until("event: hello").await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    server.stop().await;
    let closed = agent.closed().await;
    let wanted = Closed {
        code: 1001,
        reason: "the server is stopping".to_owned(),
        by: ClosedBy::Peer,
        retry_after: None,
    };
    assert_eq!(closed, wanted);
}

#[tokio::test]
async fn the_address_is_loopback_and_a_taken_default_port_is_no_error() {
    let options = |address| Options {
        address,
        token: None,
        clock: || WALL,
    };
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let error = DevServer::bind(options(Some(everywhere)))
        .await
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "dev server address 0.0.0.0:0 is not loopback; use 127.0.0.1:PORT"
    );
    // Whoever has it, after this it is taken.
    let _taken = TcpListener::bind(loopback(DEFAULT_PORT)).await;
    let server = DevServer::bind(options(None)).await.expect("binds");
    assert!(server.default_port_taken());
    assert_ne!(server.local_addr().port(), DEFAULT_PORT);
    assert_eq!(
        server.page_url(),
        format!("http://{}/", server.local_addr())
    );
    let token = server.token().expose();
    assert_eq!(token.len(), 32);
    assert!(
        server
            .page_url_with_token()
            .expose()
            .ends_with(&format!("/#token={token}"))
    );
    let address = Some(server.local_addr());
    let error = DevServer::bind(options(address)).await.expect_err("taken");
    assert!(matches!(error, BindError::Listen { .. }), "{error}");
}

#[tokio::test]
async fn every_documented_route_is_served_and_every_number_is_true() {
    let document = include_str!("../../docs/dev-server.md");
    let server = Running::start().await;
    let mut agent = Agent::connect(&server).await;
    agent.introduce().await;
    let documented: Vec<(&str, &str)> = document
        .split('`')
        .filter_map(|text| text.split_once(' '))
        .filter(|(method, _)| ["GET", "PUT", "POST"].contains(method))
        .collect();
    assert!(documented.len() >= 11, "{documented:?}");
    for (method, path) in documented {
        let path = path.replace("{uid}", &agent.uid());
        if path == "/api/events" {
            Listener::open(&server, &path)
                .await
                .until("event: hello")
                .await;
            continue;
        }
        let answer = server.write(method, &path, &json!({})).await;
        let known = answer.status != 405 && !answer.body.contains("nothing is served here");
        assert!(known, "{method} {path}: {} {}", answer.status, answer.body);
    }
    let mib = |bytes: usize| format!("{} MiB", bytes / (1024 * 1024));
    for wanted in [
        format!("`127.0.0.1:{DEFAULT_PORT}`"),
        format!("{} agents", fleet::AGENTS_MAX),
        format!("last {} timeline entries", agent::TIMELINE_MAX),
        format!("last {} applies", apply::APPLIES_MAX),
        format!("{} event streams", api::STREAMS_MAX),
        format!("{} files", api::FILES_MAX),
        format!("push: {}", mib(api::CONFIG_BODY_MAX)),
        format!("any other request: {}", mib(api::BODY_MAX)),
        format!("message of an agent: {}", mib(connection::MESSAGE_MAX)),
        format!("`/raw`: {}", mib(api::RAW_MAX)),
    ] {
        assert!(
            document.contains(&wanted),
            "the document does not say {wanted:?}"
        );
    }
}
