//! One accepted connection: an agent's WebSocket, or HTTP for people and scripts. One port serves both.
//!
//! Promises: a connection that does not say what it wants in time is dropped; an OpAMP handshake passes the same origin
//! rules as every request; a link ends when its agent leaves, when it does not read, and when the server stops.
//! Must never: understand a message (that is `fleet.rs`), or keep a link after the hub dropped its sender.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::AgentToServer;
use opamp_client::transport::{AcceptRules, FrameReceiver, FrameSender, Pump, PumpConfig, accept};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::fleet::Outgoing;
use super::guard::{self, Claims, Turned};
use super::hub::{Admitted, Door, Mode};
use super::prefixed::Prefixed;
use crate::units::LinkId;

/// For the head of the first request, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head that is looked at.
const HEAD_MAX: usize = 16 * 1024;
/// Largest message taken from an agent: its effective config is the largest part.
pub(super) const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Close codes of RFC 6455: going away, and a message that breaks the rules.
const CODE_GOING_AWAY: u16 = 1001;
const CODE_POLICY: u16 = 1008;

/// What every connection gets.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    pub(super) door: Door,
    pub(super) routes: Router,
    /// Becomes true when the server stops.
    pub(super) stop: watch::Receiver<bool>,
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, ways: Ways) {
    // Small messages in both directions; a connection that refuses this works all the same.
    stream.set_nodelay(true).ok();
    let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, Prefixed::read_head(stream, HEAD_MAX)).await else {
        return;
    };
    match Caller::of(stream.prefix()) {
        Caller::Agent(verdict) => serve_agent(stream, verdict, ways).await,
        Caller::Other => serve_http(stream, ways).await,
    }
}

/// Who calls, told from the head of the first request.
#[derive(Debug, PartialEq, Eq)]
enum Caller {
    /// An upgrade on the OpAMP path, and whether it may.
    Agent(Result<(), Turned>),
    Other,
}

impl Caller {
    fn of(head: &[u8]) -> Self {
        // Bytes that are no text cannot be part of what is looked for here.
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let target = lines.next().and_then(|first| first.split(' ').nth(1));
        let path = target.and_then(|target| target.split('?').next());
        let (mut host, mut hosts, mut origin, mut fetch_site) = (None, 0_u32, None, None);
        let mut upgrades = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "host" => {
                    hosts = hosts.saturating_add(1);
                    host = Some(value);
                }
                "origin" => origin = Some(value),
                "sec-fetch-site" => fetch_site = Some(value),
                "upgrade" => upgrades = value.eq_ignore_ascii_case("websocket"),
                _ => {}
            }
        }
        if path != Some(super::OPAMP_PATH) || !upgrades {
            return Self::Other;
        }
        let host = host.filter(|_| hosts == 1);
        Self::Agent(guard::check_origin(Claims {
            host,
            origin,
            fetch_site,
        }))
    }
}

async fn serve_http(stream: Prefixed<TcpStream>, ways: Ways) {
    let service = TowerToHyperService::new(ways.routes);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "http connection ended");
    }
}

async fn serve_agent(stream: Prefixed<TcpStream>, verdict: Result<(), Turned>, ways: Ways) {
    if let Err(turned) = verdict {
        turn_away(stream, 403, None, &turned.to_string()).await;
        return;
    }
    let admitted = match ways.door.ask(super::hub::Hub::admit).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(Mode::Reject {
            status,
            retry_after,
        })) => {
            let words = "this server was told to refuse connections";
            turn_away(stream, status, retry_after, words).await;
            return;
        }
        Ok(Err(Mode::Accept)) | Err(_) => return,
    };
    let link = admitted.link;
    let why = talk(stream, admitted, &ways).await;
    // A hub that is gone has nothing to note.
    ways.door.ask(move |hub| hub.gone(link, &why)).await.ok();
}

/// Talks with an agent until one side leaves; says why it ended.
async fn talk(stream: Prefixed<TcpStream>, admitted: Admitted, ways: &Ways) -> String {
    let rules = AcceptRules {
        path: Some(super::OPAMP_PATH.to_owned()),
        // Looked at already, by the rule that holds for all of this server.
        allow_origin: true,
        timeout: HEAD_TIMEOUT,
        max_message: MESSAGE_MAX,
    };
    let connection = match accept(stream, &rules, |_| Ok(())).await {
        Ok(connection) => connection,
        Err(error) => return error.to_string(),
    };
    let (pump, sender, receiver) = Pump::new(connection, PumpConfig::default());
    let Admitted { link, outgoing } = admitted;
    let hear = hear(link, receiver, &sender, &ways.door);
    let tell = tell(outgoing, &sender);
    let mut stop = ways.stop.clone();
    let stopped = async {
        // An error means that the server is gone already.
        stop.wait_for(|stop| *stop).await.ok();
        let words = "the server is stopping";
        sender.close(CODE_GOING_AWAY, words).await.ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        closed = pump.run() => {
            if closed.reason.is_empty() {
                format!("closed with code {}", closed.code)
            } else {
                closed.reason
            }
        }
        () = hear => "closed".to_owned(),
        why = tell => why.to_owned(),
        () = stopped => String::new(),
    }
}

/// Hands every message of the agent to the hub. Goes on until the pump is dropped.
async fn hear(link: LinkId, mut receiver: FrameReceiver, sender: &FrameSender, door: &Door) {
    let rules = FrameRules {
        max_message: MESSAGE_MAX,
        ..FrameRules::default()
    };
    while let Some(bytes) = receiver.recv().await {
        match frame::decode::<AgentToServer>(&bytes, rules) {
            Ok(message) => {
                if door.ask(move |hub| hub.heard(link, message)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(error = %error, "message of an agent refused");
                sender.close(CODE_POLICY, &error.to_string()).await.ok();
            }
        }
    }
    // The pump says how it ended.
    std::future::pending::<()>().await;
}

/// Sends what the hub has for the agent; ends when the link is to be dropped.
async fn tell(mut outgoing: mpsc::Receiver<Outgoing>, sender: &FrameSender) -> &'static str {
    while let Some(next) = outgoing.recv().await {
        let bytes = match next {
            Outgoing::Message(message) => {
                match frame::encode(&*message, frame::MAX_MESSAGE_DEFAULT) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::debug!(error = %error, "message for an agent not sent");
                        continue;
                    }
                }
            }
            Outgoing::Raw(bytes) => bytes,
            Outgoing::Close => return "dropped on request",
        };
        if sender.send(bytes).await.is_err() {
            // The pump says how it ended.
            std::future::pending::<()>().await;
        }
    }
    "the agent does not read what it is sent"
}

/// Answers a handshake with an HTTP error.
async fn turn_away<S>(mut stream: S, status: u16, retry_after: Option<u64>, words: &str)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = axum::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Refused");
    let retry_after = retry_after
        .map(|seconds| format!("Retry-After: {seconds}\r\n"))
        .unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\n{retry_after}Content-Type: text/plain\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    // Whoever was turned away may be gone already.
    stream.write_all(answer.as_bytes()).await.ok();
    stream.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_by_path_and_upgrade() {
        let upgrade = "Host: 127.0.0.1:1\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n";
        let agent = Caller::Agent(Ok(()));
        let turned = Caller::Agent(Err(Turned::ForeignOrigin));
        let cases = [
            (format!("GET /v1/opamp HTTP/1.1\r\n{upgrade}\r\n"), agent),
            (
                format!("GET /v1/opamp?x=1 HTTP/1.1\r\n{upgrade}\r\n"),
                Caller::Agent(Ok(())),
            ),
            (
                format!("GET /v1/opamp HTTP/1.1\r\n{upgrade}oRiGiN: https://example.com\r\n\r\n"),
                turned,
            ),
            (
                "GET /v1/opamp HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".to_owned(),
                Caller::Agent(Err(Turned::NoHost)),
            ),
            (
                format!("GET /v1/opamp HTTP/1.1\r\n{upgrade}Host: localhost\r\n\r\n"),
                Caller::Agent(Err(Turned::NoHost)),
            ),
            (
                "GET /v1/opamp HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
                Caller::Other,
            ),
            (
                format!("GET /v1/opampx HTTP/1.1\r\n{upgrade}\r\n"),
                Caller::Other,
            ),
            (String::new(), Caller::Other),
            ("\u{0}\u{1}garbage".to_owned(), Caller::Other),
        ];
        for (head, wanted) in cases {
            assert_eq!(Caller::of(head.as_bytes()), wanted, "{head}");
        }
    }
}
