//! What each door answers: four small routers over one question to the loop.
//!
//! Promises: every non-2xx answer but the health ones is `{"error":{"kind","reason"}}`; on loopback the `Host` must be
//! a loopback name or the address itself, so that no web page can reach us by a name it made up; on any other address
//! every path asks for the token; orders exist on the Unix socket only.
//! Must never: answer from anything but the loop's reply.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::health::{HealthDocument, ReadyDocument};
use super::registration::RegisterOrder;
use super::wire::{
    AcceptedDocument, AgentOrder, ApplyOrder, ContentDocument, ErrorDocument, RenewOrder,
    RevisionsDocument, RollbackOrder, StatusDocument,
};
use super::{BODY_BYTES_MAX, Questions, Token, metrics};
use crate::engine::message::{
    AgentSnapshot, Command, Refusal, RefusalKind, RegistrationOrder, Reply, Snapshot,
};
use crate::units::AgentName;

/// How late the loop may answer a look at its state before it counts as stuck.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How late it may answer an order, which may have to read a disk.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// The control socket, for root and for our own user.
pub(crate) fn control(questions: Questions) -> Router {
    common()
        .route("/v1/status", get(status))
        .route("/v1/revisions", get(revisions))
        .route("/v1/revision", get(revision))
        .route("/v1/rollback", post(rollback))
        .route("/v1/apply", post(apply))
        .route("/v1/restart", post(restart))
        .route("/v1/reload", post(reload))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/certificates/renew", post(renew_certificates))
        .route("/v1/register", post(register))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(check_length))
        .with_state(questions)
}

/// The control socket, for everybody else.
pub(crate) fn strangers() -> Router {
    Router::new().fallback(|| async {
        denial(
            StatusCode::FORBIDDEN,
            "forbidden",
            "only root and the user of the supervisor may use this socket",
        )
    })
}

/// Who gets in through an address of `listen`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Guard {
    /// On loopback: whoever calls us by a name that only this host has.
    Names(IpAddr),
    /// Anywhere else: whoever has the token; nobody when there is none.
    Token(Option<Token>),
}

/// An address of `listen`.
pub(crate) fn pages(questions: Questions, guard: Guard) -> Router {
    common()
        .route("/", get(page))
        .route("/page.js", get(page_script))
        .route("/page.css", get(page_style))
        .layer(from_fn_with_state(guard, check_guest))
        .with_state(questions)
}

/// The plain door of the `agent:` form: it tells whether the supervisor works, whatever its server or agent does.
pub(crate) fn healthcheck(questions: Questions, headers: &[(String, String)]) -> Router {
    // The settings have looked at them; what HTTP refuses all the same is left out.
    let headers = headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    let more: HeaderMap = headers.collect();
    let add = move |mut response: Response| {
        response.headers_mut().extend(more.clone());
        std::future::ready(response)
    };
    Router::new()
        .route("/health", get(plain_health))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(map_response(add))
        .with_state(questions)
}

fn common() -> Router<Questions> {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/status", get(status))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

async fn unknown() -> Denial {
    denial(
        StatusCode::NOT_FOUND,
        "not_found",
        "no such path; orders go to the control socket",
    )
}

async fn wrong_method() -> Denial {
    denial(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "this path takes another method",
    )
}

/// Refuses an announced length over the cap before a byte of the body is read; the body's own limit catches the rest.
async fn check_length(request: Request, next: Next) -> Response {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX) {
        let reason = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        return denial(StatusCode::PAYLOAD_TOO_LARGE, "too_large", reason).into_response();
    }
    next.run(request).await
}

/// Refuses names that only a rebound DNS entry would bring here (HTTP/1.0 probes send none and pass: browsers always
/// do).
async fn check_guest(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refuses(request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

impl Guard {
    fn refuses(self, headers: &HeaderMap) -> Option<Response> {
        let header = |name| headers.get(name).map(HeaderValue::to_str);
        match self {
            Self::Names(ip) => {
                let allowed = match header(HOST) {
                    None => true,
                    Some(Ok(host)) => is_ours(host, ip),
                    Some(Err(_)) => false,
                };
                let reason = "the Host header names neither localhost nor this address";
                let denied = denial(StatusCode::MISDIRECTED_REQUEST, "host", reason);
                (!allowed).then(|| denied.into_response())
            }
            Self::Token(token) => {
                let presented = header(AUTHORIZATION).and_then(Result::ok);
                let known = presented.is_some_and(|it| token.is_some_and(|token| token.is_in(it)));
                let reason =
                    "this address asks for the token of http.token_file, as a bearer or a password";
                let denied = denial(StatusCode::UNAUTHORIZED, "token", reason);
                // A browser asks for the password then, which makes the page usable.
                let ask = [(
                    WWW_AUTHENTICATE,
                    "Basic realm=\"adjutant\", charset=\"UTF-8\"",
                )];
                (!known).then(|| (ask, denied).into_response())
            }
        }
    }
}

fn is_ours(host: &str, ip: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|host| host.is_loopback() || host == ip)
}

async fn ask(questions: &Questions, command: Command, patience: Duration) -> Result<Reply, Denial> {
    let silent = || {
        denial(
            StatusCode::SERVICE_UNAVAILABLE,
            "unresponsive",
            "the loop is not answering",
        )
    };
    let (sender, answer) = oneshot::channel();
    match questions.try_send((command, sender)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Closed(_)) => return Err(silent()),
    }
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) | Err(_) => Err(silent()),
    }
}

async fn look(questions: &Questions) -> Result<Box<Snapshot>, Denial> {
    match ask(questions, Command::Status, STATUS_TIMEOUT).await? {
        Reply::Status(snapshot) => Ok(snapshot),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Accepted { .. } | Reply::Revision(_) => Err(denial(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the loop answered another question",
        )),
    }
}

async fn order(questions: &Questions, command: Command) -> Answer {
    answer(ask(questions, command, ORDER_TIMEOUT).await?)
}

fn answer(reply: Reply) -> Answer {
    match reply {
        Reply::Status(snapshot) => Ok(Json(StatusDocument::from(&*snapshot)).into_response()),
        Reply::Accepted { what } => {
            let document = AcceptedDocument { accepted: what };
            Ok((StatusCode::ACCEPTED, Json(document)).into_response())
        }
        Reply::Revision(revision) => Ok(Json(ContentDocument::from(*revision)).into_response()),
        Reply::Refused(refusal) => Err(Denial::from(refusal)),
    }
}

/// An answer that is not 2xx.
struct Denial {
    status: StatusCode,
    kind: &'static str,
    reason: String,
}

fn denial(status: StatusCode, kind: &'static str, reason: impl Into<String>) -> Denial {
    Denial {
        status,
        kind,
        reason: reason.into(),
    }
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let document = ErrorDocument::new(self.kind, self.reason);
        (self.status, Json(document)).into_response()
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        let (status, kind) = match refusal.kind {
            RefusalKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            RefusalKind::Conflict => (StatusCode::CONFLICT, "conflict"),
            RefusalKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            RefusalKind::Disk => (StatusCode::INSUFFICIENT_STORAGE, "disk"),
        };
        denial(status, kind, refusal.reason)
    }
}

fn with_status(status: u16, document: impl serde::Serialize) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(document)).into_response()
}

type Answer = Result<Response, Denial>;

async fn health(State(questions): State<Questions>) -> Answer {
    let document = HealthDocument::of(&*look(&questions).await?);
    Ok(with_status(document.http_status(), document))
}

async fn live(State(questions): State<Questions>) -> Answer {
    look(&questions).await?;
    Ok(Json(json!({ "status": "alive" })).into_response())
}

async fn ready(State(questions): State<Questions>) -> Answer {
    let (status, document) = ReadyDocument::of(&*look(&questions).await?);
    Ok(with_status(status, document))
}

async fn plain_health(State(questions): State<Questions>) -> Answer {
    let document = HealthDocument::of(&*look(&questions).await?);
    Ok(Json(json!({ "status": document.status.word() })).into_response())
}

async fn status(State(questions): State<Questions>) -> Answer {
    let snapshot = look(&questions).await?;
    Ok(Json(StatusDocument::from(&*snapshot)).into_response())
}

async fn metrics_page(State(questions): State<Questions>) -> Answer {
    let snapshot = look(&questions).await?;
    let page = metrics::page(&snapshot).map_err(|cause| {
        denial(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("write the metrics page: {cause}"),
        )
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response())
}

/// Everything the status page may load: itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; frame-ancestors 'none'";

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, include_str!("page/page.html")).into_response()
}

async fn page_script() -> Response {
    let headers = [(CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("page/page.js")).into_response()
}

async fn page_style() -> Response {
    let headers = [(CONTENT_TYPE, "text/css; charset=utf-8")];
    (headers, include_str!("page/page.css")).into_response()
}

/// `?agent=&id=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    agent: Option<String>,
    id: Option<String>,
}

fn which(query: Result<Query<Which>, QueryRejection>) -> Result<Which, Denial> {
    match query {
        Ok(Query(which)) => Ok(which),
        Err(rejection) => Err(unacceptable(rejection.body_text())),
    }
}

fn unacceptable(reason: impl Into<String>) -> Denial {
    denial(StatusCode::UNPROCESSABLE_ENTITY, "invalid", reason)
}

async fn revisions(
    State(questions): State<Questions>,
    query: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let which = which(query)?;
    let snapshot = look(&questions).await?;
    let agent = find(&snapshot, parsed(which.agent)?.as_ref())?;
    Ok(Json(RevisionsDocument::from(agent)).into_response())
}

/// The agent that is named, or the only one there is.
fn find<'a>(
    snapshot: &'a Snapshot,
    wanted: Option<&AgentName>,
) -> Result<&'a AgentSnapshot, Denial> {
    let names = || {
        let names: Vec<_> = snapshot.agents.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    };
    match (wanted, snapshot.agents.as_slice()) {
        (Some(wanted), agents) => agents
            .iter()
            .find(|agent| agent.name == *wanted)
            .ok_or_else(|| {
                let reason = format!("no agent {wanted}; there are: {}", names());
                denial(StatusCode::NOT_FOUND, "not_found", reason)
            }),
        (None, [only]) => Ok(only),
        (None, _) => Err(unacceptable(format!("name one of the agents: {}", names()))),
    }
}

async fn revision(
    State(questions): State<Questions>,
    query: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let which = which(query)?;
    let command = Command::Show {
        agent: parsed(which.agent)?,
        revision: parsed(which.id)?,
    };
    order(&questions, command).await
}

async fn rollback(
    State(questions): State<Questions>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let wanted: RollbackOrder = read(body)?;
    let command = Command::Rollback {
        agent: parsed(wanted.agent)?,
        to: parsed(wanted.to)?,
    };
    order(&questions, command).await
}

async fn apply(State(questions): State<Questions>, body: Result<Bytes, BytesRejection>) -> Answer {
    let wanted: ApplyOrder = read(body)?;
    let files = wanted
        .files
        .into_iter()
        .map(super::wire::FileDocument::offered)
        .collect::<Result<Vec<_>, _>>()
        .map_err(unacceptable)?;
    let command = Command::Apply {
        agent: parsed(wanted.agent)?,
        files,
    };
    order(&questions, command).await
}

async fn restart(
    State(questions): State<Questions>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let wanted: AgentOrder = read(body)?;
    let agent = parsed(wanted.agent)?;
    order(&questions, Command::Restart { agent }).await
}

async fn reload(State(questions): State<Questions>, body: Result<Bytes, BytesRejection>) -> Answer {
    let wanted: AgentOrder = read(body)?;
    let agent = parsed(wanted.agent)?;
    order(&questions, Command::Reload { agent }).await
}

async fn upgrade(State(questions): State<Questions>) -> Answer {
    order(&questions, Command::Upgrade).await
}

async fn renew_certificates(
    State(questions): State<Questions>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let wanted: RenewOrder = read(body)?;
    let name = parsed(wanted.name)?;
    order(&questions, Command::RenewCertificate { name }).await
}

async fn register(
    State(questions): State<Questions>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let wanted: RegisterOrder = read(body)?;
    let what = [RegistrationOrder::Onboard, RegistrationOrder::Restart]
        .into_iter()
        .find(|order| order.word() == wanted.what)
        .ok_or_else(|| unacceptable("what: write onboard or restart-registration"))?;
    order(&questions, Command::Register(what)).await
}

/// Reads a JSON body; none at all stands for `{}`.
fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Denial> {
    let bytes = body.map_err(|rejection| {
        let status = rejection.status();
        let kind = if status == StatusCode::PAYLOAD_TOO_LARGE {
            "too_large"
        } else {
            "body"
        };
        denial(status, kind, rejection.body_text())
    })?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|cause| unacceptable(format!("body: {cause}")))
}

fn parsed<T>(text: Option<String>) -> Result<Option<T>, Denial>
where
    T: std::str::FromStr<Err = crate::units::ParseError>,
{
    text.map(|text| text.parse())
        .transpose()
        .map_err(|cause: crate::units::ParseError| unacceptable(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_and_the_own_address_pass_as_host() {
        let ip: IpAddr = "192.0.2.7".parse().unwrap();
        for good in [
            "localhost",
            "LocalHost:8700",
            "127.0.0.1:8700",
            "127.9.9.9",
            "[::1]:8700",
            "[::1]",
            "192.0.2.7:8700",
        ] {
            assert!(is_ours(good, ip), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "192.0.2.8",
            "localhost:8700:x",
        ] {
            assert!(!is_ours(bad, ip), "{bad}");
        }
    }
}
