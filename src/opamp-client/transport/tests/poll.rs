//! Given a server that is polled over plain HTTP, when the client talks, then every message is one request.

use http::HeaderMap;

use super::*;
use crate::backoff::BackoffConfig;
use crate::frame::Wire as _;
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentDescription, AgentRemoteConfig, AgentToServer, KeyValue,
    RemoteConfigStatus, ServerToAgent,
};
use crate::session::{SessionConfig, SessionEvent};

const UID: [u8; 16] = [0xAB; 16];
const UID_TEXT: &str = "abababab-abab-abab-abab-abababababab";

/// One request as the server read it.
#[derive(Debug)]
struct Asked {
    line: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    fn report(&self) -> AgentToServer {
        AgentToServer::from_wire(&self.body).expect("a report without header")
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Reads HTTP by hand, so that nothing is taken for granted.
struct Server {
    listener: TcpListener,
    stream: Option<TcpStream>,
    connections: usize,
}

impl Server {
    async fn start() -> (Self, Target) {
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
    async fn asked(&mut self) -> Asked {
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

    async fn say(&mut self, message: &ServerToAgent) {
        let head = "200 OK\r\nContent-Type: application/x-protobuf";
        self.answer(head, &message.to_wire()).await;
    }

    async fn ack(&mut self) {
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
