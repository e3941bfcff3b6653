//! One request: what it must look like, and what is answered.
//!
//! Promises: every answer is one the protocol knows, in the encoding of the request: 200, with the records left out if
//! there are any; 400, 404, 405, 408, 413, 415 for what will not get better; 429 and 503 with Retry-After for what
//! will. A refusal says in one sentence what was wrong.
//! Must never: answer with success what was not put in a queue.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};

use super::Shared;
use super::body::{Trouble, read, unzip};
use crate::dataplane::admission::Admission;
use crate::dataplane::book::Reason;
use crate::dataplane::otlp::{self, Malformed};
use crate::dataplane::record::{Record, Signal};

/// Seconds after which a sender may try again when an upload's queue is full: a round of an upload.
const RETRY_FULL_SECS: u16 = 5;
/// The same when others are sending too much.
const RETRY_CROWDED_SECS: u16 = 1;

type Answer = Response<Full<Bytes>>;

/// How a request is encoded, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json,
}

/// A request that is not taken.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// The code of `google.rpc.Status`.
    code: u32,
    why: String,
    retry_secs: Option<u16>,
}

impl Refusal {
    const fn of(status: StatusCode, why: String) -> Self {
        let code = match status {
            StatusCode::TOO_MANY_REQUESTS => 8,
            StatusCode::SERVICE_UNAVAILABLE => 14,
            StatusCode::REQUEST_TIMEOUT => 4,
            _ => 3,
        };
        let retry_secs = match status {
            StatusCode::TOO_MANY_REQUESTS => Some(RETRY_CROWDED_SECS),
            StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_FULL_SECS),
            _ => None,
        };
        Self {
            status,
            code,
            why,
            retry_secs,
        }
    }

    fn answer(self, form: Option<Form>) -> Answer {
        let Self {
            status,
            code,
            why,
            retry_secs,
        } = self;
        let (kind, body) = match form {
            Some(Form::Protobuf) => (PROTOBUF, otlp::status(code, &why)),
            Some(Form::Json) => {
                let body = serde_json::json!({"code": code, "message": why});
                (JSON, body.to_string().into_bytes())
            }
            None => ("text/plain; charset=utf-8", format!("{why}\n").into_bytes()),
        };
        let mut answer = reply(status, kind, body);
        if let Some(secs) = retry_secs {
            answer.headers_mut().insert(RETRY_AFTER, secs.into());
        }
        answer
    }
}

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
    answer
}

/// The answer to a connection that is one too many.
pub(super) fn turn_away() -> Answer {
    let why = "there are too many connections; try again".to_owned();
    let answer = Refusal::of(StatusCode::TOO_MANY_REQUESTS, why).answer(None);
    with(answer, CONNECTION, "close")
}

/// Takes a request, or says why not.
pub(super) async fn answer(request: Request<Incoming>, shared: &Shared) -> Answer {
    let signal = match request.uri().path() {
        "/v1/logs" => Signal::Logs,
        "/v1/metrics" => Signal::Metrics,
        "/v1/traces" => Signal::Traces,
        _ => {
            let why = "there are /v1/logs, /v1/metrics and /v1/traces".to_owned();
            return Refusal::of(StatusCode::NOT_FOUND, why).answer(None);
        }
    };
    if request.method() != Method::POST {
        let why = "only POST is possible here".to_owned();
        let answer = Refusal::of(StatusCode::METHOD_NOT_ALLOWED, why).answer(None);
        return with(answer, ALLOW, "POST");
    }
    let Some(form) = form(request.headers()) else {
        let why = format!("the content type is neither {PROTOBUF} nor {JSON}");
        return Refusal::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, why).answer(None);
    };
    let Some(packed) = packed(request.headers()) else {
        let why = "the content encoding is neither gzip nor identity".to_owned();
        let answer = Refusal::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, why).answer(Some(form));
        return with(answer, ACCEPT_ENCODING, "gzip");
    };
    match take(request.into_body(), shared, signal, form, packed).await {
        Ok(Taken { left_out, why }) => {
            let (kind, body) = match form {
                Form::Protobuf => (PROTOBUF, otlp::answer(left_out, &why)),
                Form::Json => (
                    JSON,
                    otlp::print_answer(signal, left_out, &why).into_bytes(),
                ),
            };
            reply(StatusCode::OK, kind, body)
        }
        Err(refusal) => refusal.answer(Some(form)),
    }
}

/// The form of a request by its content type; parameters do not matter.
fn form(headers: &HeaderMap) -> Option<Form> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(PROTOBUF) {
        Some(Form::Protobuf)
    } else if kind.eq_ignore_ascii_case(JSON) {
        Some(Form::Json)
    } else {
        None
    }
}

/// Whether a body is packed; nothing if in a way that we cannot unpack.
fn packed(headers: &HeaderMap) -> Option<bool> {
    let Some(coding) = headers.get(CONTENT_ENCODING) else {
        return Some(false);
    };
    let coding = coding.to_str().ok()?.trim();
    if coding.eq_ignore_ascii_case("gzip") {
        Some(true)
    } else if coding.is_empty() || coding.eq_ignore_ascii_case("identity") {
        Some(false)
    } else {
        None
    }
}

/// What became of a request that is answered with success.
#[derive(Debug, Default)]
struct Taken {
    left_out: u64,
    why: String,
}

async fn take(
    body: Incoming,
    shared: &Shared,
    signal: Signal,
    form: Form,
    packed: bool,
) -> Result<Taken, Refusal> {
    let max = shared.config.body_bytes_max;
    let refuse = |trouble| refusal(trouble, shared);
    let bytes = read(body, max, shared.config.timeout, &shared.bodies)
        .await
        .map_err(refuse)?;
    let bytes = if packed {
        unzip(&bytes, max).map_err(refuse)?
    } else {
        bytes
    };
    let bytes = match form {
        Form::Protobuf => bytes,
        Form::Json => {
            otlp::transcode(signal, &bytes, max).map_err(|error| unreadable(signal, &error))?
        }
    };
    let bounds = shared.outlet.buffer().bounds;
    let records =
        otlp::split(signal, &bytes, bounds.records).map_err(|error| unreadable(signal, &error))?;
    let records: Vec<_> = records.into_iter().map(Record::Otlp).collect();
    store(records, shared, signal)
}

/// Puts records where they have room, all of them or none.
fn store(records: Vec<Record>, shared: &Shared, signal: Signal) -> Result<Taken, Refusal> {
    let count = records.len();
    let weight = records.iter().map(Record::weight).sum::<usize>();
    if count == 0 {
        return Ok(Taken::default());
    }
    let too_large = |what: &str| {
        let why = format!(
            "{count} records of {weight} bytes do not fit into {what}, however empty it is"
        );
        Refusal::of(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    let full = |what: String| {
        shared.trouble(format!("senders are answered 503: {what} is full"));
        Refusal::of(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{what} is full; try again"),
        )
    };
    if weight > shared.outlet.buffer().bounds.bytes {
        return Err(too_large("the buffer of this source"));
    }
    match shared.gate.admit(signal, count, weight) {
        Admission::Granted(reserved) => {
            if shared.outlet.offer_whole(records, weight, reserved) {
                Ok(Taken::default())
            } else {
                Err(full("the buffer of this source".to_owned()))
            }
        }
        Admission::Full(upload) => Err(full(format!("the queue of the upload {upload}"))),
        Admission::TooLarge => Err(too_large("the queue of any upload")),
        Admission::Nobody => {
            let book = &shared.outlet.buffer().book;
            let left_out = count as u64;
            book.receive(left_out);
            book.drop_pending(left_out, Reason::NoUpload);
            let word = signal.word();
            Ok(Taken {
                left_out,
                why: format!(
                    "no upload takes {word}: they are dropped until a config names one that does"
                ),
            })
        }
    }
}

fn refusal(trouble: Trouble, shared: &Shared) -> Refusal {
    let max = shared.config.body_bytes_max;
    match trouble {
        Trouble::Large => Refusal::of(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {max} bytes, as it came or unpacked"),
        ),
        Trouble::Crowded => {
            shared.trouble(
                "senders are answered 429: they send too much at the same time".to_owned(),
            );
            let why = "others are sending too much at this moment; try again".to_owned();
            Refusal::of(StatusCode::TOO_MANY_REQUESTS, why)
        }
        Trouble::Slow => {
            let within = shared.config.timeout;
            Refusal::of(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not come within {within:?}"),
            )
        }
        Trouble::Broken(why) => Refusal::of(StatusCode::BAD_REQUEST, format!("the body: {why}")),
        Trouble::Packing(why) => Refusal::of(
            StatusCode::BAD_REQUEST,
            format!("the body is no gzip: {why}"),
        ),
    }
}

fn unreadable(signal: Signal, error: &Malformed) -> Refusal {
    let status = match error {
        Malformed::Large(_) | Malformed::Many(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    let word = signal.word();
    Refusal::of(
        status,
        format!("this is no request with {word} that can be taken: {error}"),
    )
}
