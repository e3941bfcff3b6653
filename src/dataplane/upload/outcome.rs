//! What became of one request, in the classes that decide what happens next (F-090).
//!
//! Promises: the class is decided here once for all HTTP uploads. 2xx is accepted; the network, 408, 429 and 5xx
//! are tried again;
//! 401 and 403 blame the endpoint and keep the data; 413 halves; 400 and its like isolate the record to blame;
//! every other definite answer drops the chunk with a reason.
//! Must never: wait, count or drop.

use std::time::Duration;

use hyper::StatusCode;

use super::http::{Answer, HttpError};
use crate::units::WallTime;

/// Characters of a server's answer that are shown.
const EXCERPT_CHARS: usize = 200;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Taken, but for so many records that the endpoint says it left out.
    Accepted {
        /// Records left out.
        left_out: u64,
        /// What the endpoint said of them.
        why: String,
    },
    /// Too large: try half.
    Split(String),
    /// One record at least is wrong: try half, to find it.
    Poison(String),
    /// The endpoint will never take this request, whatever is in it.
    Refused(String),
    /// Try the same again.
    Retry {
        /// What went wrong.
        why: String,
        /// How long the endpoint asks us to wait.
        after: Option<Duration>,
        /// Whether the data may be to blame: after some attempts it is isolated.
        suspect: bool,
    },
    /// Try the same again, slowly: somebody must change a credential or a setting.
    Denied(String),
}

impl Outcome {
    /// Everything was taken.
    pub(crate) const ACCEPTED: Self = Self::Accepted {
        left_out: 0,
        why: String::new(),
    };

    /// A plain try-again.
    pub(crate) const fn retry(why: String) -> Self {
        Self::Retry {
            why,
            after: None,
            suspect: false,
        }
    }
}

/// The class of an answer.
pub(crate) fn of_answer(answer: &Answer, now: WallTime) -> Outcome {
    let status = answer.status;
    if status.is_success() {
        return Outcome::ACCEPTED;
    }
    let why = words(status, &answer.body);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied(why),
        StatusCode::PAYLOAD_TOO_LARGE => Outcome::Split(why),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Poison(why),
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Retry {
            why,
            after: answer.retry_after(now),
            suspect: false,
        },
        _ if status.is_server_error() => Outcome::Retry {
            why,
            after: answer.retry_after(now),
            suspect: true,
        },
        // A redirect is a wrong endpoint or a login page in between: the data is not to blame.
        _ if status.is_redirection() => Outcome::Denied(why),
        _ => Outcome::Refused(why),
    }
}

/// The class of a request without an answer.
pub(crate) fn of_error(error: &HttpError) -> Outcome {
    match error {
        HttpError::Token { .. } | HttpError::Tls(_) => Outcome::Denied(error.to_string()),
        HttpError::Build(_) => Outcome::Refused(error.to_string()),
        HttpError::Connect { .. } | HttpError::Talk { .. } | HttpError::Timeout { .. } => {
            Outcome::retry(error.to_string())
        }
    }
}

fn words(status: StatusCode, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body.get(..4 * EXCERPT_CHARS).unwrap_or(body));
    let excerpt: String = body
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(EXCERPT_CHARS)
        .collect();
    if excerpt.is_empty() {
        format!("answer {status}")
    } else {
        format!("answer {status}: {excerpt}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::header::{HeaderMap, RETRY_AFTER};

    #[test]
    fn every_status_has_its_class() {
        let class = |code: u16| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, 7.into());
            let answer = Answer {
                status: StatusCode::from_u16(code).unwrap(),
                headers,
                body: Bytes::from_static(b"no\nway"),
            };
            match of_answer(&answer, WallTime::default()) {
                Outcome::Accepted { .. } => "accepted",
                Outcome::Split(_) => "split",
                Outcome::Poison(_) => "poison",
                Outcome::Refused(_) => "refused",
                Outcome::Retry { after, suspect, .. } => {
                    assert_eq!(after, Some(Duration::from_secs(7)));
                    if suspect { "suspect" } else { "retry" }
                }
                Outcome::Denied(_) => "denied",
            }
        };
        let table = [
            ("accepted", &[200, 202, 204][..]),
            ("denied", &[401, 403, 301, 302, 307]),
            ("split", &[413]),
            ("poison", &[400, 422]),
            ("refused", &[404, 405, 410, 415]),
            ("retry", &[408, 429, 502, 503, 504]),
            ("suspect", &[500, 501, 507]),
        ];
        for (wanted, codes) in table {
            for code in codes {
                assert_eq!(class(*code), wanted, "{code}");
            }
        }
    }

    #[test]
    fn what_the_server_says_is_one_bounded_line() {
        let text = words(StatusCode::BAD_REQUEST, "a\nb".repeat(1000).as_bytes());
        assert!(text.starts_with("answer 400 Bad Request: a ba b"), "{text}");
        assert!(text.len() < 300);
    }
}
