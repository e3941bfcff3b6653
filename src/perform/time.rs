//! A look at the clock: what the kernel says of it, and how far it is from that of a site, by the date of an answer.
//!
//! Promises: one request without credentials, of ten seconds at most; the middle of the exchange is what is compared,
//! and an answer that is not the site's own (of a proxy, of a cache) is not believed.
//! Must never: judge how far is too far.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AGE, DATE};
use hyper::{HeaderMap, Method};
use opamp_client::transport::ProxyRules;

use crate::engine::message::{ClockLook, ClockQuestion};
use crate::port::fetch::{FetchRequest, Fetched, fetch, shown, tls_options};
use crate::sys::clock;
use crate::units::date::Date;

/// For the whole request.
const DEADLINE: Duration = Duration::from_secs(10);
/// A longer exchange says nothing: the date may be of its beginning or of its end.
const EXCHANGE_MAX_MS: u64 = 3_000;

/// Looks once.
pub(super) async fn look(question: Option<Box<ClockQuestion>>, proxies: &ProxyRules) -> ClockLook {
    let skew_ms = match question {
        Some(question) => Some(ask(*question, proxies).await),
        None => None,
    };
    ClockLook {
        skew_ms,
        synchronised: clock::synchronised(),
        asleep: clock::asleep(),
    }
}

/// Stands for a look that ended without an answer.
pub(super) fn broken(reason: &str) -> ClockLook {
    ClockLook {
        skew_ms: Some(Err(format!("the look at the clock broke: {reason}"))),
        synchronised: None,
        asleep: clock::asleep(),
    }
}

async fn ask(question: ClockQuestion, proxies: &ProxyRules) -> Result<i64, String> {
    let place = shown(&question.url);
    let tls = tls_options(question.tls)
        .await
        .map_err(|reason| format!("ask {place} for the time: {reason}"))?;
    let request = FetchRequest {
        method: Method::HEAD,
        url: question.url,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        deadline: DEADLINE,
        body_max: 64 * 1024,
    };
    let before = clock::wall().unix_millis();
    let began = clock::monotonic();
    let answer = fetch(request, tls, proxies)
        .await
        .map_err(|error| error.to_string())?;
    let took = clock::monotonic().since(began);
    let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if took > EXCHANGE_MAX_MS {
        return Err(format!(
            "{place} took over {} s to answer, too long to compare clocks",
            EXCHANGE_MAX_MS / 1000
        ));
    }
    skew(&answer, before.saturating_add(took / 2)).map_err(|why| format!("{place} {why}"))
}

/// How far `ours`, in Unix milliseconds, is ahead of the date of an answer.
///
/// # Errors
/// Why the date is none to compare with, as what follows the name of who answered.
pub(crate) fn skew(answer: &Fetched, ours: u64) -> Result<i64, String> {
    let status = answer.status;
    // A proxy's words about itself carry the proxy's date.
    if status == 407 || status >= 500 {
        return Err(format!("answers {status}, which may not be its own word"));
    }
    if answer.headers.contains_key(AGE) {
        return Err("answers out of a cache, whose date is old".to_owned());
    }
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(Date::of_http);
    let date = date
        .and_then(Date::unix_millis)
        .ok_or("sends no date to compare with")?;
    // The date is cut to whole seconds; half of one is the best guess for what was cut.
    let theirs = date.saturating_add(500);
    let ours = i64::try_from(ours).unwrap_or(i64::MAX);
    Ok(ours.saturating_sub(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a second after 2023-11-14 22:13:20.
    const OURS: u64 = 1_700_000_000_500;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Fetched {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Fetched {
            status,
            headers: headers.collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn skew_has_sign_and_size() {
        for (date, wanted) in [
            ("Tue, 14 Nov 2023 22:13:20 GMT", 0),
            ("Tue, 14 Nov 2023 22:12:20 GMT", 60_000),
            ("Tue, 14 Nov 2023 22:13:25 GMT", -5_000),
        ] {
            assert_eq!(skew(&answer(426, &[("date", date)]), OURS), Ok(wanted));
        }
    }

    #[test]
    fn a_date_that_may_be_anothers_is_not_compared() {
        let date = ("date", "Tue, 14 Nov 2023 22:12:20 GMT");
        for (status, headers, why) in [
            (200, vec![], "no date"),
            (200, vec![("date", "soon")], "no date"),
            (502, vec![date], "answers 502"),
            (407, vec![date], "answers 407"),
            (200, vec![date, ("age", "60")], "a cache"),
        ] {
            let found = skew(&answer(status, &headers), OURS).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_answer() {
        let question = ClockQuestion {
            url: "http://127.0.0.1:9/".to_owned(),
            tls: crate::config::Tls::default(),
        };
        let look = look(Some(Box::new(question)), &ProxyRules::default()).await;
        let reason = look.skew_ms.unwrap().unwrap_err();
        assert!(reason.starts_with("HEAD http://127.0.0.1:9/: "), "{reason}");
    }
}
