//! Given a server that is polled over plain HTTP, when the client talks, then every message is one request.

use http::HeaderMap;

use super::*;
use crate::backoff::BackoffConfig;
use crate::frame::Wire as _;
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentDescription, AgentIdentification, AgentRemoteConfig,
    AgentToServer, EffectiveConfig, KeyValue, RemoteConfigStatus, RetryInfo, ServerErrorResponse,
    ServerToAgent, server_error_response,
};
use crate::session::{SessionConfig, SessionEvent};

const UID: [u8; 16] = [0xAB; 16];
const UID_TEXT: &str = "abababab-abab-abab-abab-abababababab";

/// One request as the server read it.
#[derive(Debug)]
pub(super) struct Asked {
    line: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    pub(super) fn report(&self) -> AgentToServer {
        AgentToServer::from_wire(&self.body).expect("a report without header")
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Reads HTTP by hand, so that nothing is taken for granted.
pub(super) struct Server {
    listener: TcpListener,
    stream: Option<TcpStream>,
    connections: usize,
}

impl Server {
    pub(super) async fn start() -> (Self, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self {
            listener,
            stream: None,
            connections: 0,
        };
        (server, url.parse().unwrap())
    }

    /// The next request, on the kept connection or on a new one.
    pub(super) async fn asked(&mut self) -> Asked {
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.listener.accept().await.unwrap().0);
                self.connections += 1;
            }
            if let Some(asked) = read_request(self.stream.as_mut().unwrap()).await {
                return asked;
            }
            self.stream = None;
        }
    }

    async fn answer(&mut self, head: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
        let stream = self.stream.as_mut().unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
    }

    pub(super) async fn say(&mut self, message: &ServerToAgent) {
        let head = "200 OK\r\nContent-Type: application/x-protobuf";
        self.answer(head, &message.to_wire()).await;
    }

    pub(super) async fn ack(&mut self) {
        self.say(&ServerToAgent::default()).await;
    }
}

/// `None` when the connection ended instead.
async fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        let name: http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let length = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        line,
        headers,
        body,
    })
}

fn config(target: Target) -> ClientConfig {
    let quick = BackoffConfig {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(20),
        ..BackoffConfig::default()
    };
    ClientConfig {
        backoff: quick,
        ..ClientConfig::new(SessionConfig::new(UID, AGENT_CAPABILITIES_ALL), target, 1)
    }
}

fn client(target: Target) -> (Client, ClientHandle) {
    Client::new(config(target)).unwrap()
}

fn description() -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![KeyValue::text("service.name", "x")],
        ..AgentDescription::default()
    }
}

fn applied(hash: &[u8]) -> RemoteConfigStatus {
    RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: 1,
        ..RemoteConfigStatus::default()
    }
}

/// Runs a client beside its script.
async fn play(client: Client, script: impl Future<Output = ()>) {
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

/// Stops a client and answers its goodbye.
async fn stop(server: &mut Server, handle: &ClientHandle) -> AgentToServer {
    handle.set(Change::Stop).await.unwrap();
    let last = server.asked().await;
    server.ack().await;
    last.report()
}

//
#[tokio::test]
async fn every_message_is_a_post_and_every_answer_may_hold_an_offer() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target.with_header("Authorization", "Bearer t").unwrap());
    let script = async {
        let change = Change::Description(description());
        handle.set(change).await.unwrap();
        let first = server.asked().await;
        assert_eq!(first.line, "POST /v1/opamp HTTP/1.1");
        let wanted = [
            ("content-type", "application/x-protobuf"),
            ("opamp-instance-uid", UID_TEXT),
            ("authorization", "Bearer t"),
            ("content-encoding", ""),
            ("accept-encoding", "gzip"),
        ];
        for (name, value) in wanted {
            assert_eq!(first.header(name), value, "{name}");
        }
        let report = first.report();
        assert_eq!(
            (report.sequence_num, report.agent_description),
            (0, Some(description()))
        );
        let offer = AgentRemoteConfig {
            config_hash: b"h".to_vec(),
            ..AgentRemoteConfig::default()
        };
        let message = ServerToAgent {
            remote_config: Some(offer.clone()),
            ..ServerToAgent::default()
        };
        server.say(&message).await;
        let seen = loop {
            match handle.next_event().await.unwrap() {
                ClientEvent::Session(SessionEvent::RemoteConfig(seen)) => break seen,
                ClientEvent::Connected => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(seen, offer);
        let change = Change::RemoteConfigStatus(applied(b"h"));
        handle.set(change).await.unwrap();
        let second = server.asked().await.report();
        assert_eq!(
            (second.sequence_num, second.remote_config_status),
            (1, Some(applied(b"h")))
        );
        server.ack().await;
        let last = stop(&mut server, &handle).await;
        assert_eq!(
            (last.sequence_num, last.agent_disconnect.is_some()),
            (2, true)
        );
        assert_eq!(server.connections, 1, "kept between requests");
    };
    play(client, script).await;
}

/// The next end of a connection, or failed attempt, with the delay that follows.
async fn end(handle: &mut ClientHandle) -> (Closed, Duration) {
    loop {
        match handle.next_event().await.unwrap() {
            ClientEvent::Disconnected { closed, retry_in } => return (closed, retry_in),
            ClientEvent::DialFailed { error, .. } => panic!("{error:?}"),
            _ => {}
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    #[expect(clippy::disallowed_types, reason = "reads what this test sent")]
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    let mut out = Vec::new();
    decoder.read_to_end(&mut out).unwrap();
    out
}

fn offer() -> ServerToAgent {
    ServerToAgent {
        remote_config: Some(AgentRemoteConfig {
            config_hash: vec![7; 32],
            ..AgentRemoteConfig::default()
        }),
        ..ServerToAgent::default()
    }
}

//
#[tokio::test]
async fn bodies_are_compressed_when_wanted_and_inflated_always() {
    for compress in [false, true] {
        let (mut server, target) = Server::start().await;
        let mut config = config(target);
        config.pump.compress = compress;
        let (client, mut handle) = Client::new(config).unwrap();
        let script = async {
            let asked = server.asked().await;
            let coding = if compress { "gzip" } else { "" };
            assert_eq!(asked.header("content-encoding"), coding);
            let plain = if compress {
                gunzip(&asked.body)
            } else {
                asked.body
            };
            assert_eq!(AgentToServer::from_wire(&plain).unwrap().instance_uid, UID);
            let head = "200 OK\r\nContent-Encoding: gzip";
            server.answer(head, &gzip(&offer().to_wire())).await;
            let seen = loop {
                if let ClientEvent::Session(SessionEvent::RemoteConfig(seen)) =
                    handle.next_event().await.unwrap()
                {
                    break seen;
                }
            };
            assert_eq!(Some(seen), offer().remote_config);
            stop_unread(&mut server, &handle).await;
        };
        play(client, script).await;
    }
}

/// Stops a client whose goodbye may be compressed.
async fn stop_unread(server: &mut Server, handle: &ClientHandle) {
    handle.set(Change::Stop).await.unwrap();
    server.asked().await;
    server.ack().await;
}

//
#[tokio::test]
async fn answers_over_the_limit_are_not_processed_however_they_are_packed() {
    let large = ServerToAgent {
        remote_config: Some(AgentRemoteConfig {
            config_hash: vec![0; 8 << 20],
            ..AgentRemoteConfig::default()
        }),
        ..ServerToAgent::default()
    };
    let plain = large.to_wire();
    let bomb = gzip(&plain);
    assert!(bomb.len() < 16 * 1024, "{}", bomb.len());
    let cases = [
        ("200 OK", plain),
        ("200 OK\r\nContent-Encoding: gzip", bomb),
    ];
    for (head, body) in cases {
        let (mut server, target) = Server::start().await;
        let mut config = config(target);
        config.session.max_message = 64 * 1024;
        let (client, mut handle) = Client::new(config).unwrap();
        let script = async {
            let first = server.asked().await.report();
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
            let stream = server.stream.as_mut().unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            // The client may hang up before it has read all.
            _ = stream.write_all(&body).await;
            let (closed, _) = end(&mut handle).await;
            assert_eq!((closed.code, closed.by), (1009, ClosedBy::Us), "{closed:?}");
            // The next attempt says the same under the same number, and is answered.
            server.stream = None;
            assert_eq!(server.asked().await.report(), first);
            server.say(&offer()).await;
            let stopped = stop(&mut server, &handle).await;
            assert_eq!(stopped.sequence_num, 1);
        };
        play(client, script).await;
    }
}

//
#[tokio::test]
async fn what_a_server_found_too_large_is_not_sent_again() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target);
    let script = async {
        let large = EffectiveConfig {
            config_map: Some(crate::messages::AgentConfigMap {
                config_map: [(
                    "x".repeat(5000),
                    crate::messages::AgentConfigFile::default(),
                )]
                .into(),
            }),
        };
        handle.set(Change::EffectiveConfig(large)).await.unwrap();
        handle
            .set(Change::Description(description()))
            .await
            .unwrap();
        let first = server.asked().await;
        assert!(first.report().effective_config.is_some());
        server.answer("413 Payload Too Large", b"").await;
        let (closed, _) = end(&mut handle).await;
        assert_eq!(closed.class(), ClosedClass::TooLarge);
        let second = server.asked().await;
        assert_ne!(second.body, first.body);
        let report = second.report();
        assert!(report.effective_config.is_none() && report.agent_description.is_some());
        server.ack().await;
        stop(&mut server, &handle).await;
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn refusals_end_the_polling_with_their_delay_and_the_same_is_said_again() {
    let cases = [
        ("500 Oops", 500, Duration::ZERO, Duration::from_millis(30)),
        (
            "404 Not Found",
            404,
            Duration::ZERO,
            Duration::from_millis(30),
        ),
        (
            "204 No Content",
            204,
            Duration::ZERO,
            Duration::from_millis(30),
        ),
        (
            "503 Busy\r\nRetry-After: 0",
            503,
            Duration::ZERO,
            Duration::from_millis(30),
        ),
        (
            "503 Busy\r\nRetry-After: 9",
            503,
            Duration::from_secs(9),
            Duration::from_secs(9),
        ),
        (
            "429 Slow",
            429,
            Duration::from_secs(30),
            Duration::from_secs(30),
        ),
        (
            "429 Slow\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT",
            429,
            Duration::from_secs(30),
            Duration::from_secs(30),
        ),
        (
            "401 Unauthorized",
            401,
            Duration::from_secs(30),
            Duration::from_secs(90),
        ),
    ];
    for (head, status, least, most) in cases {
        let (mut server, target) = Server::start().await;
        let (client, mut handle) = client(target);
        let script = async {
            let change = Change::RemoteConfigStatus(applied(b"h"));
            handle.set(change).await.unwrap();
            let first = server.asked().await.report();
            assert_eq!(first.remote_config_status, Some(applied(b"h")), "{head}");
            server.answer(head, b"").await;
            let (closed, retry_in) = end(&mut handle).await;
            assert_eq!((closed.code, closed.by), (status, ClosedBy::Peer), "{head}");
            assert!((least..=most).contains(&retry_in), "{head}: {retry_in:?}");
            if most < Duration::from_secs(1) {
                assert_eq!(server.asked().await.report(), first, "{head}");
                server.ack().await;
                stop(&mut server, &handle).await;
            }
            drop(handle);
        };
        play(client, script).await;
    }
}

//
#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_asked_on_a_new_connection() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target);
    let script = async {
        for number in 0..3 {
            let report = server.asked().await.report();
            assert_eq!(report.sequence_num, number);
            server.answer("200 OK\r\nConnection: close", b"").await;
            server.stream = None;
            let change = Change::RemoteConfigStatus(applied(&[u8::try_from(number).unwrap()]));
            handle.set(change).await.unwrap();
        }
        server.asked().await;
        server.ack().await;
        stop(&mut server, &handle).await;
        assert_eq!(server.connections, 4);
        drop(server);
        let mut events = Vec::new();
        while let Some(event) = handle.next_event().await {
            events.push(event);
        }
        let connects = |event: &&ClientEvent| matches!(event, ClientEvent::Connected);
        assert_eq!(events.iter().filter(connects).count(), 1, "{events:?}");
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_replaced_with_the_same_bytes() {
    let (mut server, target) = Server::start().await;
    let (client, handle) = client(target);
    let script = async {
        server.asked().await;
        server.ack().await;
        let change = Change::RemoteConfigStatus(applied(b"h"));
        handle.set(change).await.unwrap();
        let second = server.asked().await;
        // Closed without an answer: a keep-alive limit of a proxy looks like this.
        server.stream = None;
        let again = server.asked().await;
        assert_eq!(again.body, second.body);
        server.ack().await;
        stop(&mut server, &handle).await;
        assert_eq!(server.connections, 2);
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn the_header_names_the_identity_of_the_body_after_a_change_too() {
    let (mut server, target) = Server::start().await;
    let target = target
        .with_header("OpAMP-Instance-UID", "of the embedder")
        .unwrap();
    let (client, mut handle) = client(target);
    let script = async {
        let first = server.asked().await;
        assert_eq!(
            first.headers.get_all("opamp-instance-uid").iter().count(),
            1
        );
        assert_eq!(first.header("opamp-instance-uid"), UID_TEXT);
        let new = [0x12; 16];
        let message = ServerToAgent {
            agent_identification: Some(AgentIdentification {
                new_instance_uid: new.to_vec(),
            }),
            flags: 1,
            ..ServerToAgent::default()
        };
        server.say(&message).await;
        loop {
            let event = handle.next_event().await.unwrap();
            if let ClientEvent::Session(SessionEvent::NewInstanceUid(uid)) = event {
                handle.set(Change::InstanceUid(uid)).await.unwrap();
                break;
            }
        }
        let second = server.asked().await;
        assert_eq!(second.report().instance_uid, new);
        let text = "12121212-1212-1212-1212-121212121212";
        assert_eq!(second.header("opamp-instance-uid"), text);
        server.ack().await;
        stop(&mut server, &handle).await;
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn redirects_keep_method_and_body_and_credentials_stay_with_their_origin() {
    let (mut server, target) = Server::start().await;
    let (mut other, other_target) = Server::start().await;
    let place = other_target.to_string();
    let (client, mut handle) = client(target.with_header("Authorization", "Bearer t").unwrap());
    let script = async {
        let first = server.asked().await;
        server
            .answer("307 Moved\r\nLocation: /elsewhere?a=1", b"")
            .await;
        let second = server.asked().await;
        assert_eq!(second.line, "POST /elsewhere?a=1 HTTP/1.1");
        assert_eq!(second.header("authorization"), "Bearer t");
        assert_eq!(second.body, first.body);
        let head = format!("301 Moved\r\nLocation: {place}");
        server.answer(&head, b"").await;
        let third = other.asked().await;
        assert_eq!(third.line, "POST /v1/opamp HTTP/1.1");
        assert_eq!(third.header("authorization"), "");
        assert_eq!(third.header("opamp-instance-uid"), UID_TEXT);
        assert_eq!(third.body, first.body);
        other.answer("200 OK\r\nConnection: close", b"").await;
        other.stream = None;
        // With the connection the memory of the redirects goes, too.
        server.stream = None;
        let change = Change::RemoteConfigStatus(applied(b"h"));
        handle.set(change).await.unwrap();
        let fourth = server.asked().await;
        assert_eq!(fourth.line, "POST /v1/opamp HTTP/1.1");
        server.answer("303 See Other\r\nLocation: /get", b"").await;
        let (closed, _) = end(&mut handle).await;
        assert_eq!(closed.code, 303, "{closed:?}");
        drop(handle);
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn redirects_in_a_circle_end_after_ten() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target);
    let script = async {
        for _ in 0..=10 {
            server.asked().await;
            server.answer("308 Moved\r\nLocation: /again", b"").await;
        }
        let (closed, _) = end(&mut handle).await;
        assert!(closed.reason.contains("more than 10"), "{closed:?}");
        drop(handle);
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn unavailable_in_an_answer_is_waited_for_in_silence() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target);
    let script = async {
        let first = server.asked().await.report();
        let retry = RetryInfo {
            retry_after_nanoseconds: 300_000_000,
        };
        let error = ServerErrorResponse {
            r#type: 2,
            details: Some(server_error_response::Details::RetryInfo(retry)),
            ..ServerErrorResponse::default()
        };
        let message = ServerToAgent {
            error_response: Some(error),
            ..ServerToAgent::default()
        };
        let before = tokio::time::Instant::now();
        server.say(&message).await;
        let (closed, retry_in) = end(&mut handle).await;
        assert_eq!(closed.class(), ClosedClass::Wanted, "{closed:?}");
        assert_eq!(retry_in, Duration::from_millis(300));
        assert_eq!(server.asked().await.report(), first);
        assert!(before.elapsed() >= Duration::from_millis(300));
        server.ack().await;
        stop(&mut server, &handle).await;
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn a_target_of_another_scheme_changes_the_transport_after_a_goodbye_and_numbers_go_on() {
    let (mut server, target) = Server::start().await;
    let (listener, socket) = listen().await;
    let (client, handle) = client(target.clone());
    let script = async {
        assert_eq!(server.asked().await.report().sequence_num, 0);
        server.ack().await;
        handle.set(Change::Target(Box::new(socket))).await.unwrap();
        let goodbye = server.asked().await.report();
        assert!(goodbye.agent_disconnect.is_some());
        assert_eq!(goodbye.sequence_num, 1);
        server.ack().await;
        let mut peer = plain_server(&listener).await;
        let hear = |message: Message| match message {
            Message::Binary(bytes) => AgentToServer::from_wire(&bytes[1..]).unwrap(),
            other => panic!("{other:?}"),
        };
        let first = hear(peer.next().await.unwrap().unwrap());
        assert_eq!((first.sequence_num, first.instance_uid), (2, UID.to_vec()));
        handle.set(Change::Target(Box::new(target))).await.unwrap();
        let goodbye = hear(peer.next().await.unwrap().unwrap());
        assert_eq!(
            (goodbye.sequence_num, goodbye.agent_disconnect.is_some()),
            (3, true)
        );
        while let Some(Ok(_)) = peer.next().await {}
        assert_eq!(server.asked().await.report().sequence_num, 4);
        server.ack().await;
        stop(&mut server, &handle).await;
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn a_request_that_is_never_answered_ends_at_its_deadline() {
    let (mut server, target) = Server::start().await;
    let mut config = config(target);
    config.pump.request_timeout = Duration::from_millis(50);
    let (client, mut handle) = Client::new(config).unwrap();
    let script = async {
        server.asked().await;
        let (closed, _) = end(&mut handle).await;
        assert_eq!(closed.by, ClosedBy::Failure);
        assert_eq!(closed.reason, "no answer within 50 ms");
        drop(handle);
    };
    play(client, script).await;
}

//
#[tokio::test]
async fn stopping_does_not_wait_for_a_silent_server_longer_than_closing_may_take() {
    let (mut server, target) = Server::start().await;
    let mut config = config(target);
    config.pump.close_timeout = Duration::from_millis(50);
    let (client, handle) = Client::new(config).unwrap();
    let script = async {
        server.asked().await;
        handle.set(Change::Stop).await.unwrap();
        // Neither the request that is out nor the goodbye is answered.
        handle
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

//
#[tokio::test]
async fn a_page_for_people_is_no_answer() {
    let (mut server, target) = Server::start().await;
    let (client, mut handle) = client(target);
    let script = async {
        let first = server.asked().await.report();
        let head = "200 OK\r\nContent-Type: text/html; charset=utf-8";
        server.answer(head, b"<html>please log in</html>").await;
        let (closed, _) = end(&mut handle).await;
        assert_eq!(
            closed.reason,
            "the answer is text/html; charset=utf-8, not protobuf"
        );
        assert_eq!(server.asked().await.report(), first);
        server.ack().await;
        stop(&mut server, &handle).await;
    };
    play(client, script).await;
}
