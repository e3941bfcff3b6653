//! An onboarding service as the field has them, defects included: a token may be used again and again, an instance that
//! is known is updated in place whoever asks, the returned endpoint is the address it listens on, and mistakes come as
//! `{"detail": …}`.
//!
//! Promises: loopback only; it ends with its owner; every request is kept as it came.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// One request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// `POST /path?query`.
    pub(super) line: String,
    pub(super) authorization: String,
    pub(super) body: Value,
}

/// An answer that is given instead of the right one.
#[derive(Debug, Clone)]
pub(super) enum Canned {
    /// Status, further headers, body.
    Answer(u16, &'static str, String),
    /// The connection is closed without a word.
    Nothing,
    /// The gateway is registered and its token issued, and the answer gets lost.
    Lost,
}

#[derive(Debug, Default)]
struct Gateway {
    id: String,
    org: String,
    token: String,
    status: &'static str,
}

/// A year, as the field has it.
const LIFE_SECONDS: i64 = 365 * 24 * 3600;

type OnIssue = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
struct State {
    /// Registration tokens and their organisations.
    tokens: BTreeMap<String, String>,
    /// By instance id.
    gateways: BTreeMap<String, Gateway>,
    asked: Vec<Asked>,
    canned: VecDeque<Canned>,
    held: bool,
    issued: Vec<String>,
    endpoint: Option<String>,
    on_issue: Option<OnIssue>,
    stopping: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A service that runs.
pub(super) struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.state.lock().unwrap().stopping {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                // Not joined: it ends with its connection.
                std::thread::spawn(move || serve(&shared, stream.unwrap()));
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.notify_all();
        changed
    }

    /// Takes this registration token from now on.
    pub(super) fn allow(&self, token: &str, org: &str) {
        self.change(|state| state.tokens.insert(token.to_owned(), org.to_owned()));
    }

    /// Takes this registration token no more: revoked or expired, the answer is the same.
    pub(super) fn forbid(&self, token: &str) {
        self.change(|state| state.tokens.remove(token));
    }

    /// Answers the next request so.
    pub(super) fn next(&self, canned: Canned) {
        self.change(|state| state.canned.push_back(canned));
    }

    /// Keeps every answer back until [`Service::release`].
    pub(super) fn hold(&self) {
        self.change(|state| state.held = true);
    }

    pub(super) fn release(&self) {
        self.change(|state| state.held = false);
    }

    /// Names this endpoint in place of the address it listens on.
    pub(super) fn name_endpoint(&self, url: &str) {
        self.change(|state| state.endpoint = Some(url.to_owned()));
    }

    /// Calls this with every token when it is issued, which revokes the one before.
    pub(super) fn on_issue(&self, act: impl Fn(&str) + Send + 'static) {
        self.change(|state| state.on_issue = Some(Box::new(act)));
    }

    /// Issues a new token for a gateway behind everybody's back, as a person at another console may.
    pub(super) fn reissue(&self, instance: &str) -> String {
        self.change(|state| state.issue(instance))
    }

    /// Forgets a gateway.
    pub(super) fn forget(&self, instance: &str) {
        self.change(|state| state.gateways.remove(instance));
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.change(|state| state.asked.clone())
    }

    /// The tokens it issued, oldest first.
    pub(super) fn issued(&self) -> Vec<String> {
        self.change(|state| state.issued.clone())
    }

    /// What it calls an instance.
    pub(super) fn gateway(&self, instance: &str) -> Option<String> {
        self.change(|state| Some(state.gateways.get(instance)?.id.clone()))
    }

    /// The status of an instance.
    pub(super) fn status(&self, instance: &str) -> Option<&'static str> {
        self.change(|state| Some(state.gateways.get(instance)?.status))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.change(|state| {
            state.stopping = true;
            state.held = false;
        });
        // Wakes the accept loop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl State {
    /// A new token for a gateway; the one before is worth nothing from now on.
    fn issue(&mut self, instance: &str) -> String {
        let number = self.issued.len() + 1;
        let at = i64::try_from(adjutant::sys::clock::wall().unix_millis() / 1000).unwrap();
        let gateway = self.gateways.get_mut(instance).unwrap();
        let claims = json!({
            "sub": gateway.id, "org_id": gateway.org, "type": "opamp_token",
            "iat": at, "exp": at + LIFE_SECONDS,
        });
        let token = format!(
            "{}.{}.planted-signature-{number}",
            url_base64(br#"{"alg":"HS256","typ":"JWT"}"#),
            url_base64(claims.to_string().as_bytes())
        );
        gateway.token.clone_from(&token);
        self.issued.push(token.clone());
        if let Some(act) = &self.on_issue {
            act(&token);
        }
        token
    }

    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        let detail = |status, text: &str| (status, json!({"detail": text}));
        let bearer = asked
            .authorization
            .strip_prefix("Bearer ")
            .unwrap_or_default();
        let Some(org) = self.tokens.get(bearer).cloned() else {
            // It echoes what it was sent; that must not get into a log.
            return detail(
                401,
                &format!("Invalid or expired registration token {bearer}"),
            );
        };
        let line = asked.line.clone();
        if line == "POST /api/v1/gateways" {
            let text = |key: &str| asked.body[key].as_str().map(str::to_owned);
            let (Some(_), Some(instance)) = (text("name"), text("instance_id")) else {
                let mistake =
                    json!({"loc": ["body", "name"], "msg": "Field required", "input": asked.body});
                return (422, json!({"detail": [mistake]}));
            };
            let next = self.gateways.len() + 1;
            let status = if self.gateways.contains_key(&instance) {
                "active"
            } else {
                "registered"
            };
            let gateway = self.gateways.entry(instance.clone()).or_default();
            gateway.status = status;
            if gateway.id.is_empty() {
                gateway.id = format!("gateway/{next}");
                gateway.org = org;
            }
            return (201, self.record(&instance, &asked.body));
        }
        let restart = line
            .strip_prefix("POST /api/v1/gateways/")
            .and_then(|rest| rest.split_once("/restart-registration"));
        let Some((id, query)) = restart else {
            return detail(404, "Not Found");
        };
        let id = id.replace("%2F", "/");
        let known = self.gateways.iter().find(|(_, gateway)| gateway.id == id);
        let Some((instance, gateway)) = known else {
            return detail(404, "Gateway not found");
        };
        if gateway.org != org || query != format!("?org_id={org}") {
            return detail(403, "Token belongs to another organization");
        }
        let instance = instance.clone();
        (200, self.record(&instance, &json!({})))
    }

    fn record(&mut self, instance: &str, body: &Value) -> Value {
        let token = self.issue(instance);
        let gateway = &self.gateways[instance];
        json!({
            "id": gateway.id, "name": body["name"], "instance_id": instance, "org_id": gateway.org,
            "status": gateway.status, "last_seen": null, "current_config_version": null,
            "metadata": body["metadata"], "hostname": body["hostname"], "ip_address": body["ip_address"],
            "opamp_token": token,
            "opamp_endpoint": self.endpoint.as_deref().unwrap_or("http://0.0.0.0:4320/api/v1/opamp"),
            "management_mode": "supervisor", "created_at": "2026-01-01T00:00:00", "updated_at": "2026-01-01T00:00:00",
        })
    }
}

fn serve(shared: &Shared, mut stream: TcpStream) {
    let Some(asked) = read(&mut stream) else {
        return;
    };
    let mut state = shared.state.lock().unwrap();
    state.asked.push(asked.clone());
    shared.changed.notify_all();
    let state = &mut *shared
        .changed
        .wait_while(state, |state| state.held)
        .unwrap();
    let (status, headers, body) = match state.canned.pop_front() {
        Some(Canned::Answer(status, headers, body)) => (status, headers, body),
        Some(Canned::Nothing) => return,
        Some(Canned::Lost) => {
            state.answer(&asked);
            return;
        }
        None => {
            let (status, body) = state.answer(&asked);
            (status, "", body.to_string())
        }
    };
    let answer = format!(
        "HTTP/1.1 {status} Answer\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // Whoever asked may have been killed.
    drop(stream.write_all(answer.as_bytes()));
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let line = head.lines().next()?.strip_suffix(" HTTP/1.1")?.to_owned();
    Some(Asked {
        line,
        authorization: header("authorization").unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

fn url_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |word, byte| (word << 8) | u32::from(*byte));
        for place in 0..=chunk.len() {
            let index = (word >> (18 - 6 * place)) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}
