//! One request and its answer, over a connection that is kept while it lasts.
//!
//! Promises: at most one request is out; a kept connection that turns out to be closed is replaced and the same bytes
//! are sent again, once, because the peer closing an idle connection says nothing about the message; answers
//! are bounded before and after they are inflated; redirects keep method and body.
//! Must never: send a request again that may have been read from a fresh connection, or pass on an answer that is no
//! 200: every other status is how the link ended.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::date::retry_after;
use super::dial::open;
use super::pump::{CODE_BROKEN, CODE_TOO_LARGE, Closed, ClosedBy, PumpConfig};
use super::redirect::{Location, too_many};
use super::socket::BoxStream;
use super::target::Target;
use super::{DialError, DialOptions};
use crate::frame;

/// Head of an answer; the least that the HTTP library takes is 8 KiB.
const HEAD_MAX: usize = 16 * 1024;

/// The header that names the instance.
const UID_HEADER: HeaderName = HeaderName::from_static("opamp-instance-uid");

/// What the protocol calls its bodies.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Somebody who is asked again and again.
pub(super) struct Exchanger {
    /// Where every fresh connection begins, whatever redirected the last one.
    target: Target,
    options: DialOptions,
    channel: Option<Channel>,
}

/// A connection to somewhere.
struct Channel {
    /// Where it leads; differs from the target after a redirect.
    target: Target,
    sender: http1::SendRequest<Full<Bytes>>,
    /// The connection itself, which somebody has to drive.
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Whether an answer came on it.
    used: bool,
}

/// What went wrong on a channel.
enum Failure {
    /// Nothing of an answer came.
    Unanswered(String),
    /// How the link ends.
    End(Closed),
}

/// A whole answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Exchanger {
    /// Connects, but asks nothing yet.
    pub(super) async fn connect(target: &Target, options: DialOptions) -> Result<Self, DialError> {
        let channel = Channel::open(target.clone(), options).await?;
        Ok(Self {
            target: target.clone(),
            options,
            channel: Some(channel),
        })
    }

    /// Waits for the end of a kept connection, then for ever: the next request makes another.
    pub(super) async fn idle(&mut self) {
        if let Some(channel) = &mut self.channel {
            (&mut channel.driver).await;
            self.channel = None;
        }
        std::future::pending::<()>().await;
    }

    /// Sends a frame without its header as the body of a POST; the answer's body as a frame.
    pub(super) async fn exchange(
        &mut self,
        frame: &[u8],
        config: PumpConfig,
    ) -> Result<Vec<u8>, Closed> {
        let uid = frame::instance_uid(frame).map(canonical);
        let (body, encoding) = coded(frame.get(1..).unwrap_or_default(), config.compress);
        let mut hops = 0;
        loop {
            let mut channel = match self.channel.take() {
                Some(channel) => channel,
                None => Channel::open(self.target.clone(), self.options)
                    .await
                    .map_err(|error| lost(&error))?,
            };
            let request = channel
                .request(&body, encoding.clone(), uid.as_deref())
                .map_err(|error| broken(&error.to_string()))?;
            let answer = channel.ask(request, self.options.max_message, config.request_timeout);
            let answer = match answer.await {
                Ok(answer) => answer,
                Err(Failure::Unanswered(_)) if channel.used => continue,
                Err(Failure::Unanswered(reason)) => return Err(broken(&reason)),
                Err(Failure::End(closed)) => return Err(closed),
            };
            if answer.status == StatusCode::OK {
                let frame = decoded(&answer, self.options.max_message)?;
                self.channel = channel.kept();
                return Ok(frame);
            }
            let location = Location::of(answer.status, &answer.headers)
                .filter(|_| self.options.redirects > 0)
                .ok_or_else(|| refused(&answer))?;
            if hops >= self.options.redirects {
                return Err(lost(&too_many(hops)));
            }
            hops += 1;
            let next = channel
                .target
                .redirected(&location)
                .map_err(|error| lost(&error))?;
            self.channel = if channel.target.is_same_origin(&next) {
                channel.target = next;
                channel.kept()
            } else {
                let opened = Channel::open(next, self.options).await;
                Some(opened.map_err(|error| lost(&error))?)
            };
            if self.channel.is_none() {
                return Err(broken("connection was closed in the middle of a redirect"));
            }
        }
    }
}

impl Channel {
    async fn open(target: Target, options: DialOptions) -> Result<Self, DialError> {
        let connect = async {
            let stream = open(&target, options).await?;
            handshake(stream).await
        };
        let late = DialError::Timeout {
            after: options.timeout,
        };
        let (sender, driver) = timeout(options.timeout, connect)
            .await
            .unwrap_or(Err(late))?;
        Ok(Self {
            target,
            sender,
            driver,
            used: false,
        })
    }

    fn request(
        &self,
        body: &Bytes,
        encoding: Option<HeaderValue>,
        uid: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.target.path)
            .body(Full::new(body.clone()))?;
        let headers = request.headers_mut();
        headers.extend(self.target.headers.clone());
        headers.insert(
            header::HOST,
            HeaderValue::from_str(&self.target.host_header)?,
        );
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        if cfg!(feature = "gzip") {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, encoding);
        }
        if let Some(uid) = uid {
            headers.insert(UID_HEADER, HeaderValue::from_str(uid)?);
        }
        Ok(request)
    }

    /// Asks and reads the whole answer, driving the connection meanwhile.
    async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
        body_max: usize,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let Self { sender, driver, .. } = self;
        let answer = async {
            let unanswered = |error: hyper::Error| Failure::Unanswered(chain(&error));
            sender.ready().await.map_err(unanswered)?;
            let response = sender.send_request(request).await.map_err(unanswered)?;
            read(response, body_max).await.map_err(Failure::End)
        };
        let driven = async {
            tokio::pin!(answer);
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                // The connection has ended, and its last bytes are with the answer.
                () = driver => answer.await,
            }
        };
        let late = || {
            let reason = format!("no answer within {} ms", limit.as_millis());
            Err(Failure::End(broken(&reason)))
        };
        timeout(limit, driven).await.unwrap_or_else(|_| late())
    }

    /// The connection, if it can be asked again.
    fn kept(mut self) -> Option<Self> {
        self.used = true;
        (!self.sender.is_closed()).then_some(self)
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn handshake(
    stream: BoxStream,
) -> Result<(http1::SendRequest<Full<Bytes>>, Driver), DialError> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| DialError::Upgrade {
            reason: chain(&error),
        })?;
    let driver = Box::pin(async {
        // How it ended is told to whoever waits for an answer.
        _ = connection.await;
    });
    Ok((sender, driver))
}

/// Reads a body up to its limit.
async fn read(response: Response<Incoming>, body_max: usize) -> Result<Answer, Closed> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = incoming.frame().await {
        let piece = piece.map_err(|error| broken(&chain(&error)))?;
        let Some(data) = piece.data_ref() else {
            continue;
        };
        if data.len() > body_max.saturating_sub(body.len()) {
            // What an error page has to say is not worth more than its status.
            if head.status != StatusCode::OK {
                break;
            }
            return Err(too_large(body_max));
        }
        body.extend_from_slice(data);
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// The body of a good answer as a frame, with the header that HTTP does without.
fn decoded(answer: &Answer, max: usize) -> Result<Vec<u8>, Closed> {
    let value = |name: HeaderName| {
        let value = answer
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().trim().to_ascii_lowercase()
    };
    let kind = value(header::CONTENT_TYPE);
    // A proxy's login page is a 200, too. Servers that name no type are taken at their word.
    if kind.starts_with("text/") || kind.starts_with("application/json") {
        let kind: String = kind.chars().take(40).collect();
        return Err(ended(
            &answer.headers,
            StatusCode::OK,
            &format!("the answer is {kind}, not protobuf"),
        ));
    }
    let mut frame = vec![frame::HEADER];
    match value(header::CONTENT_ENCODING).as_str() {
        "" | "identity" => frame.extend_from_slice(&answer.body),
        #[cfg(feature = "gzip")]
        "gzip" | "x-gzip" => inflate(&answer.body, &mut frame, max)?,
        other => {
            let other: String = other.chars().take(40).collect();
            let reason = format!("the answer is coded as {other}, which was not asked for");
            return Err(ended(&answer.headers, StatusCode::OK, &reason));
        }
    }
    if frame.len() > max.saturating_add(1) {
        return Err(too_large(max));
    }
    Ok(frame)
}

#[cfg(feature = "gzip")]
#[expect(
    clippy::disallowed_types,
    reason = "the one place that inflates answers; what it reads is cut right below"
)]
fn inflate(body: &[u8], frame: &mut Vec<u8>, max: usize) -> Result<(), Closed> {
    use std::io::Read as _;
    let cap = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = flate2::bufread::GzDecoder::new(body)
        .take(cap)
        .read_to_end(frame);
    match read {
        Ok(bytes) if bytes > max => Err(too_large(max)),
        Ok(_) => Ok(()),
        Err(error) => Err(broken(&format!("inflate the answer: {error}"))),
    }
}

/// The body to send, and how it is coded.
#[cfg(feature = "gzip")]
fn coded(body: &[u8], compress: bool) -> (Bytes, Option<HeaderValue>) {
    use std::io::Write as _;
    if compress {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        if encoder.write_all(body).is_ok()
            && let Ok(coded) = encoder.finish()
        {
            return (coded.into(), Some(HeaderValue::from_static("gzip")));
        }
    }
    (Bytes::copy_from_slice(body), None)
}

#[cfg(not(feature = "gzip"))]
fn coded(body: &[u8], _: bool) -> (Bytes, Option<HeaderValue>) {
    (Bytes::copy_from_slice(body), None)
}

/// A UUID in its canonical form.
fn canonical(uid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for half in [byte >> 4, byte & 0x0F] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
    }
    text
}

fn broken(reason: &str) -> Closed {
    Closed::new(ClosedBy::Failure, CODE_BROKEN, reason)
}

/// A connection that could not be made anew.
fn lost(error: &DialError) -> Closed {
    broken(&chain(error))
}

fn too_large(max: usize) -> Closed {
    let reason = format!("the answer has more than {max} bytes");
    Closed::new(ClosedBy::Us, CODE_TOO_LARGE, &reason)
}

fn refused(answer: &Answer) -> Closed {
    let status = answer.status;
    let reason = format!("the server answered with status {}", status.as_u16());
    ended(&answer.headers, status, &reason)
}

fn ended(headers: &HeaderMap, status: StatusCode, reason: &str) -> Closed {
    let throttled = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    Closed {
        retry_after: retry_after(headers).filter(|_| throttled),
        ..Closed::new(ClosedBy::Peer, status.as_u16(), reason)
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
