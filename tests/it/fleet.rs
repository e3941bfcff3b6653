//! A fleet server, whichever: our dev server or the one made with opamp-go, behind the same questions and orders.
//!
//! Promises: answers come from the server's own API, so they show what a fleet server could know and nothing else.
//! Must never: look into the supervisor.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use adjutant::dev_server::{DevServer, Options};
use adjutant::sys::clock;
use adjutant::units::Secret;
use serde_json::{Value, json};

use crate::peers::{Answer, Door, OpampServer};

/// Which server a scenario is played against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, inside `adjutant run --dev-server`.
    Dev,
    /// The one made with opamp-go, a process of its own.
    OpampGo,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) enum Server {
    /// Inside the supervisor: it lives and dies with it.
    Embedded {
        /// Its API.
        api: Door,
        /// What writes must show.
        token: String,
    },
    /// Ours, alone, so that it can come late and go away.
    Alone(Alone),
    /// The one made with opamp-go.
    Go(OpampServer),
}

/// Our dev server on a thread of the test.
#[derive(Debug)]
pub(crate) struct Alone {
    api: Door,
    port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const TOKEN: &str = "token-of-the-tests";

impl Alone {
    fn start(port: u16) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let server = DevServer::bind(Options {
                    address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
                    token: Some(Secret::new(TOKEN)),
                    clock: clock::wall,
                })
                .await
                .unwrap();
                tell.send(server.local_addr()).unwrap();
                server.serve(async { _ = stopped.await }).await;
            });
        });
        let address = told.recv().unwrap();
        Self {
            api: Door::Tcp(address),
            port: address.port(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What a server knows of an agent.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// Whether it is connected.
    pub(crate) connected: bool,
    /// Capability bits.
    pub(crate) capabilities: u64,
    /// Identifying attributes.
    pub(crate) identifying: BTreeMap<String, Value>,
    /// Other attributes.
    pub(crate) other: BTreeMap<String, Value>,
    /// Root of the health tree; none when never reported.
    pub(crate) health: Option<Health>,
    /// Texts of the effective config by name, joined.
    pub(crate) effective: String,
    /// Names of components by their kind, where a server that shows them was told all.
    pub(crate) components: Option<BTreeMap<String, Vec<String>>>,
    /// The remote config status: hash, word, error.
    pub(crate) status: Option<(String, String, String)>,
}

/// Health over all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// Healthy or not.
    pub(crate) healthy: bool,
    /// One word or two.
    pub(crate) status: String,
    /// Why not.
    pub(crate) last_error: String,
    /// The phase of the rollout.
    pub(crate) phase: String,
}

impl Server {
    /// Starts a server of its own on a port, 0 for any.
    pub(crate) fn start(kind: Kind, port: u16) -> Self {
        match kind {
            Kind::Dev => Self::Alone(Alone::start(port)),
            Kind::OpampGo => Self::Go(OpampServer::start(port)),
        }
    }

    /// The URL that agents connect to.
    pub(crate) fn endpoint(&self) -> String {
        match self {
            Self::Embedded { api, .. } => panic!("{api:?} is known to its supervisor only"),
            Self::Alone(alone) => endpoint(alone.port),
            Self::Go(server) => endpoint(server.port),
        }
    }

    /// The port that agents connect to.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Embedded { api, .. } => panic!("{api:?} is known to its supervisor only"),
            Self::Alone(alone) => alone.port,
            Self::Go(server) => server.port,
        }
    }

    /// Goes away without a word to anybody.
    pub(crate) fn stop(self) {
        if let Self::Go(mut server) = self {
            server.kill();
        }
    }

    fn api(&self) -> &Door {
        match self {
            Self::Embedded { api, .. } => api,
            Self::Alone(alone) => &alone.api,
            Self::Go(server) => &server.api,
        }
    }

    fn is_go(&self) -> bool {
        matches!(self, Self::Go(_))
    }

    fn headers(&self) -> String {
        match self {
            Self::Embedded { token, .. } => format!("Authorization: Bearer {token}\r\n"),
            Self::Alone(_) => format!("Authorization: Bearer {TOKEN}\r\n"),
            Self::Go(_) => String::new(),
        }
    }

    fn path(&self, uid: &str, rest: &str) -> String {
        if self.is_go() {
            format!("/agents/{uid}{rest}")
        } else {
            format!("/api/agents/{uid}{rest}")
        }
    }

    fn order(&self, method: &str, path: &str, body: &Value) -> Result<Answer, String> {
        let answer = self.api().send(method, path, &self.headers(), body)?;
        if (200..300).contains(&answer.status) {
            Ok(answer)
        } else {
            Err(format!("{method} {path}: {answer:?}"))
        }
    }

    fn must(&self, path: &str, body: &Value) {
        self.order("POST", path, body).unwrap();
    }

    /// The uids of all agents it has heard of.
    pub(crate) fn uids(&self) -> Vec<String> {
        let path = if self.is_go() {
            "/agents"
        } else {
            "/api/agents"
        };
        let answer = self.api().get(path).unwrap().json;
        match answer["agents"].as_array() {
            Some(list) if !self.is_go() => {
                let uid = |agent: &Value| agent["uid"].as_str().unwrap().to_owned();
                list.iter().map(uid).collect()
            }
            _ => answer.as_object().unwrap().keys().cloned().collect(),
        }
    }

    /// What it knows of an agent.
    pub(crate) fn agent(&self, uid: &str) -> Result<Agent, String> {
        let answer = self.api().get(&self.path(uid, ""))?;
        if answer.status != 200 {
            return Err(format!("{answer:?}"));
        }
        Ok(if self.is_go() {
            of_go(&answer.json)
        } else {
            of_dev(&answer.json)
        })
    }

    /// Every remote config status in the order of its reports, as word and hash, repeats left out.
    pub(crate) fn statuses(&self, uid: &str) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = if self.is_go() {
            let answer = self.api().get(&self.path(uid, "/messages")).unwrap();
            let messages = answer.json;
            let status = |message: &Value| {
                let status = message.get("remote_config_status")?;
                Some((text(&status["status"]), text(&status["hash"])))
            };
            messages
                .as_array()
                .unwrap()
                .iter()
                .filter_map(status)
                .collect()
        } else {
            // Its timeline shortens hashes.
            self.timeline(uid, "remote_config")
                .into_iter()
                .filter_map(|line| {
                    let (word, hash) = line.split_once(' ')?;
                    Some((word.to_owned(), hash.to_owned()))
                })
                .collect()
        };
        for (_, hash) in &mut found {
            hash.truncate(12);
        }
        found.dedup();
        found
    }

    /// Every message of an agent in order, as opamp-go's server logged it.
    pub(crate) fn messages(&self, uid: &str) -> Vec<Value> {
        let answer = self.api().get(&self.path(uid, "/messages")).unwrap();
        answer.json.as_array().cloned().unwrap_or_default()
    }

    /// Every connection that was asked for, as opamp-go's server logged it.
    pub(crate) fn all_connections(&self) -> Vec<Value> {
        let answer = self.api().get("/connections").unwrap();
        answer.json.as_array().cloned().unwrap_or_default()
    }

    fn timeline(&self, uid: &str, kind: &str) -> Vec<String> {
        let answer = self.api().get(&self.path(uid, "")).unwrap().json;
        let lines = answer["timeline"].as_array().cloned().unwrap_or_default();
        lines
            .iter()
            .filter(|line| line["kind"] == kind)
            .map(|line| text(&line["text"]))
            .collect()
    }

    /// On how many connections it has heard this agent.
    pub(crate) fn connections(&self, uid: &str) -> usize {
        if self.is_go() {
            let answer = self.api().get(&self.path(uid, "")).unwrap().json;
            return usize::try_from(answer["connections"].as_u64().unwrap()).unwrap();
        }
        let lines = self.timeline(uid, "connection");
        lines.iter().filter(|line| *line == "connected").count()
    }

    /// Offers a config. Returns its hash.
    pub(crate) fn push(&self, uid: &str, files: &[(&str, &str)], hash: Option<&str>) -> String {
        let type_key = if self.is_go() { "content_type" } else { "type" };
        let files: BTreeMap<&str, Value> = files
            .iter()
            .map(|(name, body)| (*name, json!({type_key: "text/yaml", "body": body})))
            .collect();
        let mut body = json!({ "files": files });
        if let Some(hash) = hash {
            body["hash"] = json!(hash);
        }
        let path = self.path(uid, "/config");
        text(&self.order("PUT", &path, &body).unwrap().json["hash"])
    }

    /// Sends the restart command.
    pub(crate) fn restart(&self, uid: &str) {
        self.must(&self.path(uid, "/restart"), &json!({}));
    }

    /// Sends any message, in protobuf's JSON form; opamp-go's server alone can.
    pub(crate) fn message(&self, uid: &str, message: &Value) {
        self.must(&self.path(uid, "/message"), message);
    }

    /// Gives the agent another uid.
    pub(crate) fn identify(&self, uid: &str, new: &str) {
        let rest = if self.is_go() {
            "/identification"
        } else {
            "/identify"
        };
        self.must(&self.path(uid, rest), &json!({"new_instance_uid": new}));
    }

    /// Asks for all components; opamp-go's server alone can.
    pub(crate) fn ask_for_components(&self, uid: &str) {
        // `ReportAvailableComponents`
        self.must(&self.path(uid, "/message"), &json!({"flags": "2"}));
    }

    /// Sends bytes as one WebSocket message, whatever they are.
    pub(crate) fn raw(&self, uid: &str, bytes: u8, count: usize) {
        let hex = format!("{bytes:02x}");
        let body = if self.is_go() {
            json!({"hex": hex.repeat(count)})
        } else {
            json!({"hex": hex, "repeat": count})
        };
        // A frame that the agent refuses may break the connection before it is sent whole.
        let sent = self.order("POST", &self.path(uid, "/raw"), &body);
        assert!(
            sent.is_ok() || sent.as_ref().is_err_and(|error| error.contains("502")),
            "{sent:?}"
        );
    }

    /// Refuses new connections, and drops those that are there.
    pub(crate) fn refuse(&self) {
        if self.is_go() {
            self.must("/mode", &json!({"reject": 503, "retry_after": 1}));
            for uid in self.uids() {
                // Not connected is what is wanted.
                self.order("POST", &format!("/drop/{uid}"), &json!({})).ok();
            }
        } else {
            let body = json!({"reject": 503, "retry_after": 1, "drop": true});
            self.must("/api/mode", &body);
        }
    }

    /// Everything that opamp-go's server knows of an agent.
    pub(crate) fn known(&self, uid: &str) -> Result<Value, String> {
        let answer = self.api().get(&self.path(uid, ""))?;
        if answer.status == 200 {
            Ok(answer.json)
        } else {
            Err(format!("{answer:?}"))
        }
    }

    /// Offers connection settings, as opamp-go's server takes them.
    #[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
    pub(crate) fn offer(&self, settings: Value) {
        self.must("/settings", &settings);
    }

    /// Drops the connection of an agent, as opamp-go's server can.
    pub(crate) fn drop_agent(&self, uid: &str) {
        self.must(&format!("/drop/{uid}"), &json!({}));
    }

    /// Refuses new connections with this HTTP status.
    pub(crate) fn refuse_with(&self, status: u16) {
        self.must("/mode", &json!({ "reject": status }));
    }

    /// Accepts connections again.
    pub(crate) fn accept(&self) {
        if self.is_go() {
            self.must("/mode", &json!({"reject": 0}));
        } else {
            self.must("/api/mode", &json!({"reject": 0}));
        }
    }
}

/// The URL of a server of ours on a port of loopback.
pub(crate) fn endpoint(port: u16) -> String {
    format!("ws://127.0.0.1:{port}/v1/opamp")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn map(value: &Value) -> BTreeMap<String, Value> {
    let object = value.as_object().cloned().unwrap_or_default();
    object.into_iter().collect()
}

fn health(value: &Value, children: &str) -> Option<Health> {
    value.is_object().then(|| Health {
        healthy: value["healthy"].as_bool().unwrap_or(false),
        status: text(&value["status"]),
        last_error: text(&value["last_error"]),
        phase: text(&value[children]["rollout"]["status"]),
    })
}

fn of_go(json: &Value) -> Agent {
    let status = &json["remote_config_status"];
    let effective = map(&json["effective_config"]);
    Agent {
        connected: json["connected"].as_bool().unwrap(),
        capabilities: json["capabilities"].as_u64().unwrap_or(0),
        identifying: map(&json["description"]["identifying"]),
        other: map(&json["description"]["non_identifying"]),
        health: health(&json["health"], "component_health_map"),
        effective: effective.values().map(text).collect(),
        components: components(&json["other"]["available_components"]["components"]),
        status: status.is_object().then(|| {
            let word = text(&status["status"]);
            (text(&status["hash"]), word, text(&status["error_message"]))
        }),
    }
}

fn of_dev(json: &Value) -> Agent {
    let status = &json["remote_config"];
    let effective = map(&json["effective_config"]);
    let names = json["capabilities"].as_array().cloned().unwrap_or_default();
    Agent {
        connected: json["connected"].as_bool().unwrap(),
        capabilities: names.iter().map(|name| bit(name.as_str().unwrap())).sum(),
        identifying: map(&json["identifying_attributes"]),
        other: map(&json["non_identifying_attributes"]),
        health: health(&json["health"], "components"),
        effective: effective.values().map(|file| text(&file["body"])).collect(),
        components: None,
        status: status.is_object().then(|| {
            let word = text(&status["status"]);
            (text(&status["hash"]), word, text(&status["error"]))
        }),
    }
}

fn components(json: &Value) -> Option<BTreeMap<String, Vec<String>>> {
    let kinds = json.as_object()?.iter().map(|(kind, one)| {
        let names = one["sub_component_map"].as_object();
        let names = names.into_iter().flat_map(|map| map.keys().cloned());
        (kind.clone(), names.collect())
    });
    Some(kinds.collect())
}

/// The bit of a capability that the dev server shows by name.
fn bit(name: &str) -> u64 {
    let full = format!("AgentCapabilities_{name}");
    let known = opamp_client::messages::AgentCapabilities::from_str_name(&full);
    known.unwrap_or_else(|| panic!("unknown capability {name}")) as u64
}
