//! HTTP below ACME: every request goes through the one client for outside services.
//!
//! Promises: each answer is bounded and has its deadline; verification is never off; a Retry-After of a refusal is kept
//! for whoever paces the orders; an answer that is an error page instead of ACME is a failure with its status.
//! Must never: follow a redirect, or retry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request, Response, StatusCode};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use opamp_client::transport::{ProxyRules, TlsOptions};
use tokio::sync::{mpsc, oneshot};

use crate::port::fetch::{FetchRequest, Fetched, fetch, shown};

/// One exchange with an authority.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answers are chains, a few KiB each.
const BODY_MAX: usize = 256 * 1024;
/// Requests follow each other; more than this at once are a mistake of ours.
const QUEUE_MAX: usize = 4;

type Answer = Result<Fetched, Failure>;
type Job = (FetchRequest, oneshot::Sender<Answer>);

/// Why there is no ACME answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    reason: String,
    unreached: bool,
}

impl Failure {
    pub(super) fn unreached(reason: String) -> Self {
        Self {
            reason,
            unreached: true,
        }
    }

    /// The authority looked and said no.
    pub(super) fn refused(reason: String) -> Self {
        Self {
            reason,
            unreached: false,
        }
    }

    /// Whether the authority was not reached, or did not come to look.
    pub(super) fn is_unreached(&self) -> bool {
        self.unreached
    }
}

/// The wait that the authority asked for last; zero for none.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<AtomicU64>);

impl Asked {
    fn keep(&self, wait: Option<Duration>) {
        let seconds = wait.map_or(0, |wait| wait.as_secs());
        self.0.store(seconds, Ordering::Relaxed);
    }

    /// The wait, if there is one.
    pub(super) fn take(&self) -> Option<Duration> {
        let seconds = self.0.swap(0, Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// The near end: what the ACME library is given. It wants futures that may move between threads, and ours may not, so
/// requests are handed over.
#[derive(Clone)]
pub(super) struct Wire {
    jobs: mpsc::Sender<Job>,
    asked: Asked,
}

/// The far end, which does the requests.
pub(super) struct Requests(mpsc::Receiver<Job>);

impl Wire {
    pub(super) fn new(asked: Asked) -> (Self, Requests) {
        let (jobs, requests) = mpsc::channel(QUEUE_MAX);
        (Self { jobs, asked }, Requests(requests))
    }
}

impl Requests {
    /// Does requests until nobody can make any more.
    pub(super) async fn serve(mut self, tls: TlsOptions, proxies: &ProxyRules) {
        while let Some((request, answer)) = self.0.recv().await {
            let result = fetch(request, tls.clone(), proxies).await;
            let result = result.map_err(|error| Failure::unreached(error.to_string()));
            // Whoever asked may have given up.
            answer.send(result).ok();
        }
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for Wire {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pending {
        let wire = self.clone();
        Box::pin(async move {
            wire.exchange(request)
                .await
                .map_err(|failure| Error::Other(Box::new(failure)))
        })
    }
}

impl Wire {
    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, Failure> {
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let url = head.uri.to_string();
        let mut headers = HeaderMap::new();
        if let Some(kind) = head.headers.get(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, kind.clone());
        }
        let request = FetchRequest {
            method: head.method,
            url: url.clone(),
            headers,
            body,
            deadline: DEADLINE,
            body_max: BODY_MAX,
        };
        let (tx, rx) = oneshot::channel();
        let gone = |_| Failure::unreached("the order is over".to_owned());
        self.jobs
            .send((request, tx))
            .await
            .map_err(|_| Failure::unreached("the order is over".to_owned()))?;
        let fetched = rx.await.map_err(gone)??;
        let refusal = matches!(fetched.status, 429 | 500..=599);
        self.asked.keep(fetched.retry_after().filter(|_| refusal));
        let kind = fetched.headers.get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let problem =
            kind.starts_with("application/problem+json") || kind.starts_with("application/json");
        if fetched.status >= 300 && !problem {
            let reason = format!("{} answered with status {}", shown(&url), fetched.status);
            return Err(Failure::unreached(reason));
        }
        let mut response = Response::new(Full::new(fetched.body));
        let status = StatusCode::from_u16(fetched.status);
        *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = fetched.headers;
        Ok(BytesResponse::from(response))
    }
}
