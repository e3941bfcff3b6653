//! Given servers of every mood on loopback, when something is fetched, then there is an answer or a class to act on.

use std::sync::Arc;

use hyper::StatusCode;
use opamp_client::transport::ClientCertificate;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::units::TextSource;

const LONG: Duration = Duration::from_secs(20);

fn post(url: &str) -> FetchRequest {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer planted-token".parse().unwrap());
    FetchRequest {
        method: Method::POST,
        url: url.to_owned(),
        headers,
        body: Bytes::from_static(b"{\"name\":\"a\"}"),
        deadline: LONG,
        body_max: 32,
    }
}

/// Reads one request with its body, answers, and hands the request back.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"{\"name\":\"a\"}") {
        seen.push(stream.read_u8().await.unwrap());
    }
    // The asker may have read enough and gone.
    drop(stream.write_all(answer).await);
    drop(stream.shutdown().await);
    String::from_utf8(seen).unwrap()
}

async fn asked(answer: &[u8]) -> (Result<Fetched, FetchError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/api/v1/gateways?org_id=planted-query");
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, answer).await
    };
    let proxies = ProxyRules::default();
    tokio::join!(fetch(post(&url), TlsOptions::default(), &proxies), server)
}

#[tokio::test]
async fn a_request_arrives_whole_and_its_answer_comes_back_whatever_the_status() {
    let answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}";
    let (fetched, seen) = asked(answer).await;
    let fetched = fetched.unwrap();
    assert_eq!(fetched.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(fetched.body, "{}");
    assert_eq!(fetched.retry_after(), Some(Duration::from_secs(7)));
    let line = "POST /api/v1/gateways?org_id=planted-query HTTP/1.1\r\n";
    assert!(seen.starts_with(line), "{seen}");
    for header in [
        "host: 127.0.0.1:",
        "authorization: Bearer planted-token\r\n",
        "content-length: 12\r\n",
        "connection: close\r\n",
        "user-agent: adjutant/",
        "accept: */*\r\n",
    ] {
        assert!(seen.contains(header), "{header} in {seen}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let answer =
        b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let (fetched, _) = asked(answer).await;
    assert_eq!(fetched.unwrap().status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn a_body_up_to_the_bound_is_taken_and_a_longer_one_is_not() {
    let body = |length: usize| {
        let text = "x".repeat(length);
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}").into_bytes()
    };
    let (fetched, _) = asked(&body(32)).await;
    assert_eq!(fetched.unwrap().body.len(), 32);
    let (fetched, _) = asked(&body(33)).await;
    let error = fetched.unwrap_err();
    assert_eq!(error.class, FetchClass::TooLarge);
    assert!(
        error.to_string().contains("longer than 32 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn failures_have_classes_and_hide_query_and_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    let cases = [
        (
            format!("http://{nobody}/a?planted-query"),
            FetchClass::Network,
        ),
        (
            format!("http://{silent_at}/a?planted-query"),
            FetchClass::Timeout,
        ),
        ("ws://h/a?planted-query".to_owned(), FetchClass::Request),
        ("unix:/tmp/x?planted-query".to_owned(), FetchClass::Request),
        (
            "http://u:planted-password@h/".to_owned(),
            FetchClass::Request,
        ),
        ("not a URL ?planted-query".to_owned(), FetchClass::Request),
    ];
    for (url, class) in cases {
        let mut request = post(&url);
        if class == FetchClass::Timeout {
            request.deadline = Duration::from_millis(200);
        }
        let shown = format!("{request:?}");
        assert!(!shown.contains("planted"), "{shown}");
        let error = fetch(request, TlsOptions::default(), &ProxyRules::default())
            .await
            .unwrap_err();
        assert_eq!(error.class, class, "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("planted"), "{text}");
        assert!(text.starts_with("POST "), "{text}");
    }
}

#[tokio::test]
async fn half_an_answer_and_something_else_than_http_are_network_failures() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf".as_slice(),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ] {
        let (fetched, _) = asked(answer).await;
        assert_eq!(fetched.unwrap_err().class, FetchClass::Network);
    }
}

#[tokio::test]
async fn a_plain_request_goes_through_the_proxy_that_is_set() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxies = ProxyRules {
        http_proxy: Some(listener.local_addr().unwrap().to_string()),
        ..ProxyRules::default()
    };
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 Go\r\n\r\n").await.unwrap();
        serve(stream, b"HTTP/1.1 204 Done\r\n\r\n").await;
        String::from_utf8(head).unwrap()
    };
    let request = post("http://backend.invalid:8000/x");
    let (fetched, head) = tokio::join!(fetch(request, TlsOptions::default(), &proxies), proxy);
    assert_eq!(fetched.unwrap().status, StatusCode::NO_CONTENT);
    assert!(head.starts_with("CONNECT backend.invalid:8000 "), "{head}");
    assert!(!head.contains("planted-token"), "{head}");
}

/// A CA of ours, and an acceptor with a pair of it for `localhost`.
fn authority() -> (Vec<u8>, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (ca.pem().into_bytes(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn tls_is_verified_against_the_given_authority() {
    let (ca_pem, acceptor) = authority();
    let (other_ca, _) = authority();
    for (ca_pem, wanted) in [(ca_pem, Ok(200)), (other_ca, Err(FetchClass::Tls))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        };
        let tls = TlsOptions {
            ca_pem: Some(ca_pem),
            ..TlsOptions::default()
        };
        let request = post(&format!("https://localhost:{port}/x"));
        let proxies = ProxyRules::default();
        let (fetched, ()) = tokio::join!(fetch(request, tls, &proxies), server);
        let seen = fetched.map(|it| it.status).map_err(|error| error.class);
        assert_eq!(seen, wanted);
    }
}

#[tokio::test]
async fn a_missing_client_pair_is_named() {
    let tls = Tls {
        client_pair: Some((
            TextSource::File("/nonexistent/own.pem".into()),
            TextSource::File("/nonexistent/own.key".into()),
        )),
        ..Tls::default()
    };
    let error = tls_options(tls).await.unwrap_err();
    assert!(error.contains("/nonexistent/own.pem"), "{error}");
    let shown = format!(
        "{:?}",
        ClientCertificate {
            chain_pem: b"planted".to_vec(),
            key_pem: b"planted".to_vec(),
        }
    );
    assert!(!shown.contains("planted"), "{shown}");
}
