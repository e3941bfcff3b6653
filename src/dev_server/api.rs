//! The page and the HTTP API.
//!
//! Promises: every answer of `/api` is JSON, an error is `{"error": "…"}` and says what to do; every request passes
//! `guard`; every request that is not a read needs the token; every body has a limit.
//! Must never: decide anything about agents (that is `fleet.rs`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use futures_util::Stream;
use futures_util::stream::unfold;
use opamp_client::messages::AgentConfigFile;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::fleet::{Refused, Request as Ask};
use super::guard::{self, Claims, Turned};
use super::hub::{Door, Event, Mode, Stopping};
use super::page;
use super::uid::{NotUid, Uid};
use super::view::{Detail, Summary};
use crate::units::{OfferHash, Secret, unhex};

/// Largest body of a config push.
pub(super) const CONFIG_BODY_MAX: usize = 32 * 1024 * 1024;
/// Largest body of any other request.
pub(super) const BODY_MAX: usize = 2 * 1024 * 1024;
/// Files in one push.
pub(super) const FILES_MAX: usize = 20_000;
/// Bytes that `/raw` may send after repeating: enough to pass OpAMP's usual limit of 64 MiB.
pub(super) const RAW_MAX: usize = 72 * 1024 * 1024;
/// Event streams at one time.
pub(super) const STREAMS_MAX: usize = 32;

/// What the routes share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    door: Door,
    token: Arc<Secret>,
    streams: Arc<Semaphore>,
}

/// Builds the routes.
pub(super) fn routes(door: Door, token: Arc<Secret>) -> Router {
    let shared = Shared {
        door,
        token,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
    };
    let push_config = put(push).layer(DefaultBodyLimit::max(CONFIG_BODY_MAX));
    Router::new()
        .route("/", get(page::index))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/api/agents", get(list))
        .route("/api/agents/{uid}", get(detail))
        .route("/api/agents/{uid}/config", push_config)
        .route("/api/agents/{uid}/restart", post(restart))
        .route("/api/agents/{uid}/full-state", post(full_state))
        .route("/api/agents/{uid}/identify", post(identify))
        .route("/api/agents/{uid}/raw", post(raw))
        .route("/api/agents/{uid}/drop", post(drop_link))
        .route("/api/agents/{uid}/heartbeat", post(heartbeat))
        .route("/api/mode", post(mode))
        .route("/api/events", get(events))
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(shared.clone(), check))
        .with_state(shared)
}

/// An error as the API shows it.
#[derive(Debug)]
struct Failure(StatusCode, String);

impl Failure {
    fn bad(words: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, words.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<Stopping> for Failure {
    fn from(error: Stopping) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<NotUid> for Failure {
    fn from(error: NotUid) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(error: Refused) -> Self {
        let status = match error {
            Refused::NoSuchAgent { .. } => StatusCode::NOT_FOUND,
            Refused::NotConnected { .. }
            | Refused::NotCapable { .. }
            | Refused::UidTaken { .. } => StatusCode::CONFLICT,
        };
        Self(status, error.to_string())
    }
}

/// Turns away what does not come from this host, and writes without the token.
async fn check(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = match admit(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(turned) => {
            let status = match turned {
                Turned::NoToken => StatusCode::UNAUTHORIZED,
                Turned::NoHost => StatusCode::BAD_REQUEST,
                Turned::ForeignHost | Turned::ForeignOrigin => StatusCode::FORBIDDEN,
            };
            Failure(status, turned.to_string()).into_response()
        }
    };
    let headers = response.headers_mut();
    for (name, value) in page::SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn admit(shared: &Shared, request: &Request) -> Result<(), Turned> {
    let headers = request.headers();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let page_itself = reads && request.uri().path() == "/";
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|value| value.to_str().ok());
    if hosts.next().is_some() {
        return Err(Turned::NoHost);
    }
    guard::check_origin(Claims {
        host,
        origin: text(headers, "origin"),
        // A link to the page may stand anywhere; it shows nothing by itself.
        fetch_site: text(headers, "sec-fetch-site").filter(|_| !page_itself),
    })?;
    if reads {
        return Ok(());
    }
    let authorization = text(headers, "authorization");
    guard::check_token(
        &shared.token,
        authorization,
        text(headers, "x-adjutant-token"),
    )
}

/// A header as text; one that is no text reads as empty, which no rule accepts.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or(""))
}

async fn nothing_here(request: Request) -> Failure {
    if request.uri().path() == super::OPAMP_PATH {
        let words = "OpAMP is spoken here over WebSocket only, on a connection of its own";
        return Failure(StatusCode::UPGRADE_REQUIRED, words.to_owned());
    }
    let words = "nothing is served here; the page is at / and the list of agents at /api/agents";
    Failure(StatusCode::NOT_FOUND, words.to_owned())
}

async fn list(State(shared): State<Shared>) -> Result<Response, Failure> {
    let agents = shared
        .door
        .ask(|hub| hub.fleet.agents().map(Summary::of).collect::<Vec<_>>())
        .await?;
    Ok(Json(json!({"agents": agents})).into_response())
}

async fn detail(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
) -> Result<Response, Failure> {
    let uid: Uid = uid.parse()?;
    let shown = shared
        .door
        .ask(move |hub| hub.fleet.agent(uid).map(Detail::of))
        .await??;
    Ok(Json(shown).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody {
    files: BTreeMap<String, PushFile>,
    hash: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PushFile {
    #[serde(default)]
    r#type: String,
    body: String,
}

async fn push(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let uid: Uid = uid.parse()?;
    let wanted: PushBody = parse(&body)?;
    if wanted.files.len() > FILES_MAX {
        let words = format!(
            "{} files; at most {FILES_MAX} are taken",
            wanted.files.len()
        );
        return Err(Failure::bad(words));
    }
    let hash = match wanted.hash {
        Some(digits) => Some(
            OfferHash::from_hex(&digits)
                .filter(|hash| !hash.is_empty())
                .ok_or_else(|| {
                    Failure::bad("\"hash\" is not hexadecimal; leave it out to have it made")
                })?,
        ),
        None => None,
    };
    let files = wanted
        .files
        .into_iter()
        .map(|(name, file)| {
            let file = AgentConfigFile {
                body: file.body.into_bytes(),
                content_type: file.r#type,
            };
            (name, file)
        })
        .collect();
    let pushed = shared
        .door
        .ask(move |hub| {
            let (pushed, reaction) = hub.fleet.push(hub.now(), uid, files, hash)?;
            hub.perform(reaction);
            Ok::<_, Refused>(pushed)
        })
        .await??;
    let status = if pushed.sent {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let shown = json!({"hash": pushed.hash.to_hex(), "sent": pushed.sent});
    Ok((status, Json(shown)).into_response())
}

async fn request(shared: Shared, uid: String, request: Ask) -> Result<Response, Failure> {
    let uid: Uid = uid.parse()?;
    shared
        .door
        .ask(move |hub| {
            let reaction = hub.fleet.request(hub.now(), uid, request)?;
            hub.perform(reaction);
            Ok::<_, Refused>(())
        })
        .await??;
    Ok(Json(json!({"sent": true})).into_response())
}

async fn restart(State(shared): State<Shared>, Path(uid): Path<String>) -> impl IntoResponse {
    request(shared, uid, Ask::Restart).await
}

async fn full_state(State(shared): State<Shared>, Path(uid): Path<String>) -> impl IntoResponse {
    request(shared, uid, Ask::FullState).await
}

async fn drop_link(State(shared): State<Shared>, Path(uid): Path<String>) -> impl IntoResponse {
    request(shared, uid, Ask::Drop).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentifyBody {
    new_instance_uid: Option<String>,
}

async fn identify(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let wanted: IdentifyBody = if body.is_empty() {
        IdentifyBody::default()
    } else {
        parse(&body)?
    };
    let new_uid = wanted
        .new_instance_uid
        .map(|text| text.parse::<Uid>())
        .transpose()?;
    request(shared, uid, Ask::Identify(new_uid)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBody {
    hex: String,
    repeat: Option<usize>,
}

async fn raw(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let wanted: RawBody = parse(&body)?;
    let bytes = unhex(&wanted.hex).ok_or_else(|| Failure::bad("\"hex\" is not hexadecimal"))?;
    let repeat = wanted.repeat.unwrap_or(1);
    if bytes.len().saturating_mul(repeat) > RAW_MAX {
        let words = format!("\"hex\" times \"repeat\" is over {RAW_MAX} bytes");
        return Err(Failure::bad(words));
    }
    request(shared, uid, Ask::Raw(bytes.repeat(repeat))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    seconds: u64,
}

async fn heartbeat(
    State(shared): State<Shared>,
    Path(uid): Path<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    let HeartbeatBody { seconds } = parse(&body)?;
    request(shared, uid, Ask::Heartbeat { seconds }).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeBody {
    reject: u16,
    retry_after: Option<u64>,
    #[serde(default)]
    drop: bool,
}

async fn mode(State(shared): State<Shared>, body: Bytes) -> Result<Response, Failure> {
    let wanted: ModeBody = parse(&body)?;
    let mode = match wanted.reject {
        0 => Mode::Accept,
        status @ 400..=599 => Mode::Reject {
            status,
            retry_after: wanted.retry_after,
        },
        _ => {
            let words = "\"reject\" is an HTTP status from 400 to 599, or 0 to accept again";
            return Err(Failure::bad(words));
        }
    };
    shared
        .door
        .ask(move |hub| {
            hub.mode = mode;
            if wanted.drop {
                hub.drop_links();
            }
        })
        .await?;
    Ok(Json(json!({"reject": wanted.reject})).into_response())
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    uid: Option<String>,
}

/// One open event stream.
struct Listening {
    events: broadcast::Receiver<Arc<Event>>,
    only: Option<Uid>,
    hello: bool,
    /// Given back when the stream ends.
    _permit: OwnedSemaphorePermit,
}

async fn events(
    State(shared): State<Shared>,
    Query(query): Query<EventsQuery>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Failure> {
    let only = query.uid.map(|text| text.parse::<Uid>()).transpose()?;
    let permit = Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_| {
            let words = format!("{STREAMS_MAX} event streams are open; close one first");
            Failure(StatusCode::SERVICE_UNAVAILABLE, words)
        })?;
    let listening = Listening {
        events: shared.door.listen(),
        only,
        hello: true,
        _permit: permit,
    };
    Ok(Sse::new(unfold(listening, next_event)).keep_alive(KeepAlive::default()))
}

async fn next_event(mut from: Listening) -> Option<(Result<SseEvent, Infallible>, Listening)> {
    if from.hello {
        from.hello = false;
        return Some((Ok(SseEvent::default().event("hello").data("{}")), from));
    }
    loop {
        let event = match from.events.recv().await {
            Ok(event) if from.only.is_none_or(|uid| uid == event.uid) => {
                SseEvent::default().event("agent").data(&event.data)
            }
            Ok(_) => continue,
            Err(RecvError::Lagged(missed)) => SseEvent::default()
                .event("lagged")
                .data(json!({"missed": missed}).to_string()),
            Err(RecvError::Closed) => return None,
        };
        return Some((Ok(event), from));
    }
}

/// Reads a JSON object; the error names line and column.
fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Failure> {
    // A list would also fit a struct; only objects are documented.
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad(format!("the body is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(Failure::bad("the body is not a JSON object"));
    }
    T::deserialize(value).map_err(|error| Failure::bad(format!("the body does not fit: {error}")))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_slow_stream_is_told_how_much_it_missed() {
        let uid = Uid::from_wire(&[1; 16]).expect("a uid");
        let (tx, events) = broadcast::channel(2);
        let streams = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&streams).try_acquire_owned().expect("one");
        let listening = Listening {
            events,
            only: None,
            hello: true,
            _permit: permit,
        };
        for number in 0..5 {
            let data = number.to_string();
            tx.send(Arc::new(Event { uid, data })).expect("heard");
        }
        drop(tx);
        let response = Sse::new(unfold(listening, next_event)).into_response();
        let body = response.into_body().collect().await.expect("a body");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        let wanted = "event: hello\ndata: {}\n\nevent: lagged\ndata: {\"missed\":3}\n\n\
                      event: agent\ndata: 3\n\nevent: agent\ndata: 4\n\n";
        assert_eq!(text, wanted);
        assert_eq!(streams.available_permits(), 1, "given back at the end");
    }
}
