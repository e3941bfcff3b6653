//! A running server, a scripted agent, and HTTP by hand.

use std::time::Duration;

use opamp_client::frame::{FrameRules, decode, encode};
use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AgentConfigMap, AgentDescription, AgentToServer,
    ComponentHealth, EffectiveConfig, KeyValue, RemoteConfigStatus, RemoteConfigStatuses,
    ServerToAgent,
};
use opamp_client::transport::{
    Closed, DialOptions, FrameReceiver, FrameSender, Pump, PumpConfig, dial,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::uid::Uid;
use super::super::{DevServer, Options};
use crate::units::WallTime;

/// What the server takes for now.
pub(super) const WALL: WallTime = WallTime::from_unix_millis(1_760_000_000_000);
const DEADLINE: Duration = Duration::from_secs(10);

/// A server that serves until it is stopped or dropped.
pub(super) struct Running {
    pub(super) address: std::net::SocketAddr,
    pub(super) token: String,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

/// An HTTP answer. The head is in lower case.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Running {
    pub(super) async fn start() -> Self {
        Self::start_with(|| WALL).await
    }

    pub(super) async fn start_with(clock: fn() -> WallTime) -> Self {
        let options = Options {
            address: Some(([127, 0, 0, 1], 0).into()),
            token: None,
            clock,
        };
        let server = DevServer::bind(options).await.expect("binds");
        let (address, token) = (server.local_addr(), server.token().expose().to_owned());
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(async {
            stopped.await.ok();
        }));
        Self {
            address,
            token,
            stop: Some(stop),
            tasks,
        }
    }

    pub(super) async fn stop(&mut self) {
        drop(self.stop.take());
        let ended = timeout(DEADLINE, self.tasks.join_next()).await;
        ended.expect("in time").expect("a task").expect("no panic");
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        let host = format!("Host: {}", self.address);
        self.raw_request("GET", path, &[&host], "").await
    }

    pub(super) async fn write(&self, method: &str, path: &str, body: &Value) -> Answer {
        let host = format!("Host: {}", self.address);
        let token = format!("Authorization: Bearer {}", self.token);
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.raw_request(method, path, &[&host, &token], &body)
            .await
    }

    /// A WebSocket handshake; `Host` is ours unless given.
    pub(super) async fn upgrade(&self, headers: &[&str]) -> Answer {
        let host = format!("Host: {}", self.address);
        let mut all = vec![
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        all.extend(headers);
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            all.push(&host);
        }
        self.raw_request("GET", "/v1/opamp", &all, "").await
    }

    pub(super) async fn raw_request(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.expect("connects");
            let head = request_head(method, path, headers, body.len());
            stream.write_all(head.as_bytes()).await.expect("writes");
            // A server that refuses a body early may close before all of it is written.
            stream.write_all(body.as_bytes()).await.ok();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.ok();
            String::from_utf8(bytes).expect("text")
        };
        let text = timeout(DEADLINE, exchange).await.expect("in time");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let head = head.to_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            body: body.to_owned(),
            head,
        }
    }
}

fn request_head(method: &str, path: &str, headers: &[&str], length: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head + &format!("Connection: close\r\nContent-Length: {length}\r\n\r\n")
}

/// An open event stream.
pub(super) struct Listener {
    stream: TcpStream,
    heard: String,
    read_to: usize,
}

impl Listener {
    pub(super) async fn open(server: &Running, path: &str) -> Self {
        let mut stream = TcpStream::connect(server.address).await.expect("connects");
        let host = format!("Host: {}", server.address);
        let head = request_head("GET", path, &[&host], 0);
        stream.write_all(head.as_bytes()).await.expect("writes");
        Self {
            stream,
            heard: String::new(),
            read_to: 0,
        }
    }

    /// Reads on until `needle` was heard.
    pub(super) async fn until(&mut self, needle: &str) {
        let found = async {
            loop {
                if let Some(at) = self.heard[self.read_to..].find(needle) {
                    self.read_to += at + needle.len();
                    return;
                }
                let mut bytes = vec![0; 64 * 1024];
                let count = self.stream.read(&mut bytes).await.expect("reads");
                assert_ne!(count, 0, "the stream ended before {needle:?}");
                self.heard += &String::from_utf8_lossy(&bytes[..count]);
            }
        };
        let found = timeout(DEADLINE, found).await;
        assert!(found.is_ok(), "no {needle:?} in {}", self.heard);
    }

    pub(super) fn so_far(&self) -> &str {
        &self.heard
    }
}

/// An agent that says what it is told to say.
pub(super) struct Agent {
    uid: Uid,
    sequence_num: u64,
    sender: FrameSender,
    receiver: FrameReceiver,
    pump: JoinSet<Closed>,
}

impl Agent {
    pub(super) async fn connect(server: &Running) -> Self {
        let url = format!("ws://{}/v1/opamp", server.address);
        let target = url.parse().expect("a target");
        let connection = dial(&target, DialOptions::default())
            .await
            .expect("connects");
        let (pump, sender, receiver) = Pump::new(connection, PumpConfig::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(pump.run());
        Self {
            uid: Uid::fresh(WALL, [7; 10]),
            sequence_num: 0,
            sender,
            receiver,
            pump: tasks,
        }
    }

    pub(super) fn uid(&self) -> String {
        self.uid.to_string()
    }

    pub(super) fn rename(&mut self, uid: &[u8]) {
        self.uid = Uid::from_wire(uid).expect("a uid");
    }

    fn message(&mut self) -> AgentToServer {
        let capabilities = [
            AgentCapabilities::ReportsStatus,
            AgentCapabilities::AcceptsRemoteConfig,
            AgentCapabilities::ReportsEffectiveConfig,
            AgentCapabilities::ReportsHealth,
            AgentCapabilities::ReportsRemoteConfig,
            AgentCapabilities::AcceptsRestartCommand,
        ];
        let message = AgentToServer {
            instance_uid: self.uid.to_wire(),
            sequence_num: self.sequence_num,
            capabilities: capabilities.iter().fold(0, |mask, bit| mask | bit.bit()),
            ..AgentToServer::default()
        };
        self.sequence_num += 1;
        message
    }

    pub(super) fn message_bytes(&mut self) -> Vec<u8> {
        encode(&self.message(), usize::MAX).expect("encodes")
    }

    pub(super) async fn send_bytes(&self, bytes: Vec<u8>) {
        self.sender.send(bytes).await.expect("sends");
    }

    /// Sends a message and takes the answer.
    pub(super) async fn report(&mut self, fill: impl FnOnce(&mut AgentToServer)) -> ServerToAgent {
        let mut message = self.message();
        fill(&mut message);
        self.send_bytes(encode(&message, usize::MAX).expect("encodes"))
            .await;
        self.receive().await
    }

    /// Sends a full report.
    pub(super) async fn introduce(&mut self) -> ServerToAgent {
        self.report(|message| {
            message.agent_description = Some(AgentDescription {
                identifying_attributes: vec![KeyValue::text("service.name", "scripted")],
                non_identifying_attributes: vec![KeyValue::text("os.type", "linux")],
            });
            message.health = Some(rollout_health("idle", ""));
            message.effective_config = Some(effective("sources: {}\n"));
        })
        .await
    }

    pub(super) async fn receive_bytes(&mut self) -> Vec<u8> {
        let received = timeout(DEADLINE, self.receiver.recv()).await;
        received.expect("in time").expect("a message")
    }

    pub(super) async fn receive(&mut self) -> ServerToAgent {
        decode(&self.receive_bytes().await, FrameRules::default()).expect("decodes")
    }

    /// Waits for the end of the link.
    pub(super) async fn closed(&mut self) -> Closed {
        let ended = timeout(DEADLINE, self.pump.join_next()).await;
        ended.expect("in time").expect("a task").expect("no panic")
    }
}

pub(super) fn effective(body: &str) -> EffectiveConfig {
    let file = AgentConfigFile {
        body: body.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [("collect.yaml".to_owned(), file)].into(),
        }),
    }
}

pub(super) fn status(hash: &[u8], status: RemoteConfigStatuses, error: &str) -> RemoteConfigStatus {
    RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: status as i32,
        error_message: error.to_owned(),
    }
}

/// A healthy agent whose rollout is in phase `word`.
pub(super) fn rollout_health(word: &str, error: &str) -> ComponentHealth {
    let component = |healthy: bool, status: &str, error: &str| ComponentHealth {
        healthy,
        status: status.to_owned(),
        last_error: error.to_owned(),
        ..ComponentHealth::default()
    };
    let mut rollout = component(error.is_empty(), word, error);
    rollout.attributes = vec![
        KeyValue::text("adjutant.revision", "1760000000000-abcdef01"),
        KeyValue::text("adjutant.last_good", "1759999990000-01234567"),
    ];
    let child = component(true, "running", "");
    ComponentHealth {
        component_health_map: [("rollout".to_owned(), rollout), ("child".to_owned(), child)].into(),
        ..component(true, "running", "")
    }
}
