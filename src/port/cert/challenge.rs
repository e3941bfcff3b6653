//! HTTP-01: answers an authority's challenges while an order runs.
//!
//! Promises: bound before the order begins and free when this is dropped; answers known tokens and nothing else, in
//! bounded time and for a bounded number of visitors at once.
//! Must never: serve a file, or outlive the order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::sys::holder;

/// Visitors at once; an authority looks from a handful of places.
const VISITORS_MAX: usize = 32;
/// A visitor that takes longer is let go.
const VISIT_MAX: Duration = Duration::from_secs(10);
/// How long who holds a port is looked for.
const SEARCH_MAX: Duration = Duration::from_secs(2);
const PREFIX: &str = "/.well-known/acme-challenge/";

/// What is answered: key authorizations by token.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Rc<RefCell<BTreeMap<String, String>>>);

impl Answers {
    pub(super) fn put(&self, token: &str, answer: &str) {
        self.0
            .borrow_mut()
            .insert(token.to_owned(), answer.to_owned());
    }

    fn to(&self, request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let known = request
            .uri()
            .path()
            .strip_prefix(PREFIX)
            .filter(|_| request.method() == Method::GET)
            .and_then(|token| self.0.borrow().get(token).cloned());
        let (status, body) = match known {
            Some(answer) => (StatusCode::OK, answer),
            None => (
                StatusCode::NOT_FOUND,
                "only challenges are answered here\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
    }
}

/// The bound address.
pub(super) struct Listener(TcpListener);

impl Listener {
    /// Binds; where IPv6 is not there, "any address" means IPv4.
    ///
    /// # Errors
    /// What was tried, why not, and who is in the way.
    pub(super) async fn bind(address: SocketAddr) -> Result<Self, String> {
        let mut bound = TcpListener::bind(address).await;
        let no_ipv6 = |error: &std::io::Error| {
            matches!(
                error.kind(),
                ErrorKind::AddrNotAvailable | ErrorKind::Unsupported
            ) || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
        };
        if address.is_ipv6() && address.ip().is_unspecified() && bound.as_ref().is_err_and(no_ipv6)
        {
            bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
        }
        let error = match bound {
            Ok(listener) => return Ok(Self(listener)),
            Err(error) => error,
        };
        let help = match error.kind() {
            ErrorKind::AddrInUse => held_by(address).await,
            ErrorKind::PermissionDenied => {
                "; ports below 1024 need CAP_NET_BIND_SERVICE, or forward port 80 to another `acme.listen`"
                    .to_owned()
            }
            _ => String::new(),
        };
        Err(format!("listen for challenges on {address}: {error}{help}"))
    }

    /// Answers until dropped.
    pub(super) async fn serve(self, answers: &Answers) {
        let mut visits = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.0.accept(), if visits.len() < VISITORS_MAX => match accepted {
                    Ok((stream, _)) => visits.push(visit(stream, answers.clone())),
                    // Out of descriptors, or the visitor has gone already; a short breath, then the next.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(()) = visits.next() => {}
            }
        }
    }
}

/// Says who is in the way, and what to do. The search reads every descriptor of every process, so it is not made on
/// this thread and not waited for without end.
async fn held_by(address: SocketAddr) -> String {
    let search = tokio::task::spawn_blocking(move || {
        holder::socket_at(address).map(|socket| holder::with_process(&socket))
    });
    let held = match tokio::time::timeout(SEARCH_MAX, search).await {
        Ok(Ok(Some(holder))) => format!("; it is held by {holder}"),
        Ok(Ok(None) | Err(_)) | Err(_) => String::new(),
    };
    format!("{held}; free the port, or set another `acme.listen`")
}

async fn visit(stream: TcpStream, answers: Answers) {
    let service = service_fn(move |request| {
        let response = answers.to(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who talks rubbish or hangs is only let go: the authority says what it saw.
    tokio::time::timeout(VISIT_MAX, connection).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_reported_with_who_holds_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let Err(reason) = Listener::bind(address).await else {
            panic!("the address is taken");
        };
        let us = std::process::id();
        assert!(
            reason.contains(&format!("listen for challenges on {address}")),
            "{reason}"
        );
        assert!(reason.contains(&format!("(pid {us})")), "{reason}");
    }

    #[tokio::test]
    async fn nobody_waits_while_the_holder_of_a_port_is_looked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut binding = std::pin::pin!(Listener::bind(address));
        let first = futures_util::poll!(&mut binding);
        assert!(first.is_pending(), "the loop's thread made the search");
        assert!(binding.await.is_err());
    }

    #[tokio::test]
    async fn only_known_tokens_are_answered() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = listener.0.local_addr().unwrap();
        let answers = Answers::default();
        answers.put("token", "token.thumbprint");
        let ask = |path: &'static str| async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let asked = async {
            let good = ask("/.well-known/acme-challenge/token").await;
            assert!(
                good.starts_with("HTTP/1.1 200") && good.ends_with("token.thumbprint"),
                "{good}"
            );
            for bad in [
                "/",
                "/.well-known/acme-challenge/",
                "/.well-known/acme-challenge/../x",
            ] {
                assert!(ask(bad).await.starts_with("HTTP/1.1 404"), "{bad}");
            }
        };
        tokio::select! {
            () = asked => {}
            () = listener.serve(&answers) => panic!("it serves until dropped"),
        }
    }
}
