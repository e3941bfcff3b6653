//! Given servers of every mood, when we dial, then the outcome is a connection or a class to act on.

use std::sync::Arc;

use http::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixListener;
use tokio_rustls::TlsAcceptor;

use super::*;

//
#[tokio::test]
async fn upgrade_request_has_path_version_and_headers() {
    let (listener, target) = listen().await;
    let target = target
        .with_path("/x/y?z=1")
        .and_then(|target| target.with_header("Authorization", "Bearer t"))
        .unwrap();
    let busy = "HTTP/1.1 400 Bad Request\r\n\r\n";
    let (result, request) = in_time(async {
        tokio::join!(
            dial(&target, DialOptions::default()),
            answer_once(&listener, busy)
        )
    })
    .await;
    assert!(
        matches!(result, Err(DialError::Status { status: 400 })),
        "{result:?}"
    );
    let lower = request.to_ascii_lowercase();
    assert!(
        request.starts_with("GET /x/y?z=1 HTTP/1.1\r\n"),
        "{request}"
    );
    for line in [
        "sec-websocket-version: 13",
        "upgrade: websocket",
        "authorization: bearer t",
    ] {
        assert_eq!(lower.matches(line).count(), 1, "{line} in {request}");
    }
    let host = format!("host: {}", listener.local_addr().unwrap());
    assert!(lower.contains(&host), "{request}");
    assert!(!lower.contains("origin:"), "{request}");
}

//
#[tokio::test]
async fn statuses_become_classes() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let cases = [
        ("401 Unauthorized", "", DialClass::Rejected, None),
        ("403 Forbidden", "", DialClass::Rejected, None),
        (
            "503 Unavailable",
            "Retry-After: 7\r\n",
            DialClass::Throttled,
            Some(7),
        ),
        (
            "429 Too Many",
            "Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n",
            DialClass::Throttled,
            Some(30),
        ),
        (
            "503 Unavailable",
            "Retry-After: never\r\n",
            DialClass::Throttled,
            None,
        ),
        (
            "404 Not Found",
            "Retry-After: 7\r\n",
            DialClass::Unexpected,
            None,
        ),
        ("302 Found", "", DialClass::Unexpected, None),
        ("200 OK", "", DialClass::Unexpected, None),
    ];
    for (status, header, class, retry) in cases {
        let (listener, target) = listen().await;
        let answer = format!("HTTP/1.1 {status}\r\n{date}{header}Content-Length: 0\r\n\r\n");
        let (result, _) = in_time(async {
            tokio::join!(
                dial(&target, DialOptions::default()),
                answer_once(&listener, &answer)
            )
        })
        .await;
        let error = result.expect_err(status);
        assert_eq!(error.class(), class, "{status}: {error}");
        assert_eq!(
            error.retry_after(),
            retry.map(Duration::from_secs),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_http_is_unexpected() {
    let (listener, target) = listen().await;
    let (result, _) = in_time(async {
        tokio::join!(
            dial(&target, DialOptions::default()),
            answer_once(&listener, "SSH-2.0-x\r\n\r\n")
        )
    })
    .await;
    assert!(
        matches!(result, Err(DialError::Upgrade { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_names_the_place() {
    let (listener, target) = listen().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = in_time(dial(&target, DialOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.class(), DialClass::Unreachable);
    assert_eq!(error.to_string(), format!("connect to {address}"));
    let socket = Target::unix("/nonexistent/adjutant.sock").unwrap();
    let error = in_time(dial(&socket, DialOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "connect to /nonexistent/adjutant.sock");
}

//
#[tokio::test]
async fn a_server_that_never_answers_ends_at_the_deadline() {
    let (_listener, target) = listen().await;
    let options = DialOptions {
        timeout: Duration::from_millis(50),
        ..DialOptions::default()
    };
    let error = in_time(dial(&target, options)).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { .. }), "{error:?}");
    assert_eq!(error.class(), DialClass::Unreachable);
}

struct Ca {
    pem: Vec<u8>,
    acceptor: TlsAcceptor,
}

/// A CA of its own and a server certificate for 127.0.0.1 signed by it.
fn ca() -> Ca {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::default();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, &issuer))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    Ca {
        pem: ca.pem().into_bytes(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

//
#[tokio::test]
async fn tls_trusts_the_given_ca_and_nothing_else_unless_told_so() {
    let authority = ca();
    let trusting = |pem: &[u8]| TlsOptions {
        ca_pem: Some(pem.to_vec()),
        ..TlsOptions::default()
    };
    let blind = TlsOptions {
        insecure_skip_verify: true,
        ..TlsOptions::default()
    };
    let cases = [
        ("its CA", trusting(&authority.pem), true),
        ("another CA", trusting(&ca().pem), false),
        ("no verification", blind, true),
    ];
    for (name, options, connects) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}", listener.local_addr().unwrap());
        let target = url.parse::<Target>().unwrap().with_tls(options);
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = authority.acceptor.accept(stream).await.ok()?;
            accept(stream, &AcceptRules::default(), |_| Ok(()))
                .await
                .ok()
        };
        let (result, served) = in_time(Box::pin(async {
            tokio::join!(dial(&target, DialOptions::default()), serve)
        }))
        .await;
        assert_eq!(served.is_some(), connects, "{name}");
        match result {
            Ok(_) => assert!(connects, "{name}"),
            Err(error) => {
                assert!(!connects, "{name}: {error}");
                assert!(matches!(error, DialError::Tls { .. }), "{name}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn unusable_tls_settings_say_which() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    let options = TlsOptions {
        ca_pem: Some(b"not pem".to_vec()),
        ..TlsOptions::default()
    };
    let target = url.parse::<Target>().unwrap().with_tls(options);
    let error = in_time(dial(&target, DialOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.class(), DialClass::Settings);
    assert!(error.to_string().contains("ca certificate"), "{error}");
}

//
#[tokio::test]
async fn a_proxy_sees_connect_and_none_of_our_headers() {
    let (listener, target) = listen().await;
    let server = listener.local_addr().unwrap();
    let (proxy, _) = listen().await;
    // Loopback is exempt from proxies, so the destination gets a name that only the proxy knows.
    let url = format!("ws://opamp.example:{}", server.port());
    let rules = ProxyRules {
        http_proxy: Some(format!("http://user:pass@{}", proxy.local_addr().unwrap())),
        ..ProxyRules::default()
    };
    drop(target);
    let target = url
        .parse::<Target>()
        .and_then(|target| target.with_header("Authorization", "Bearer secret"))
        .unwrap()
        .with_proxies(rules);
    let tunnel = async {
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(near.read_u8().await.unwrap());
        }
        near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await
            .unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        String::from_utf8(request).unwrap()
    };
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, &AcceptRules::default(), |_| Ok(()))
            .await
            .unwrap()
            .head()
            .clone()
    };
    let dialled = async { dial(&target, DialOptions::default()).await.map(drop) };
    let (request, head, result) =
        in_time(Box::pin(async { tokio::join!(tunnel, serve, dialled) })).await;
    assert!(result.is_ok(), "{result:?}");
    let first = format!("CONNECT opamp.example:{} HTTP/1.1\r\n", server.port());
    assert!(request.starts_with(&first), "{request}");
    assert!(
        request.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"),
        "{request}"
    );
    assert!(!request.contains("secret"), "{request}");
    assert_eq!(head.headers["authorization"], "Bearer secret");
    assert!(!head.headers.contains_key("proxy-authorization"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let (proxy, _) = listen().await;
    let address = proxy.local_addr().unwrap();
    let rules = ProxyRules {
        http_proxy: Some(address.to_string()),
        ..ProxyRules::default()
    };
    let target = "ws://opamp.example"
        .parse::<Target>()
        .unwrap()
        .with_proxies(rules);
    let answer = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    let (result, _) = in_time(async {
        tokio::join!(
            dial(&target, DialOptions::default()),
            answer_once(&proxy, answer)
        )
    })
    .await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("proxy {address}: answered CONNECT with status 407")
    );
}

#[tokio::test]
async fn local_endpoint_serves_its_path_and_refuses_the_rest() {
    let directory = std::env::temp_dir().join(format!("opamp-accept-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("local.sock");
    _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let target = Target::unix(&path).unwrap();
    let token = |head: &RequestHead| match head.headers.get("authorization") {
        Some(value) if value == "Bearer t" => Ok(()),
        _ => Err(StatusCode::UNAUTHORIZED),
    };
    let with_token = target
        .clone()
        .with_header("Authorization", "Bearer t")
        .unwrap();
    let cases = [
        ("right", with_token.clone(), None),
        (
            "wrong path",
            with_token.with_path("/other").unwrap(),
            Some(404),
        ),
        ("no token", target, Some(401)),
    ];
    for (name, target, status) in cases {
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            accept(stream, &AcceptRules::default(), token).await
        };
        let (dialled, served) =
            in_time(async { tokio::join!(dial(&target, DialOptions::default()), serve) }).await;
        match status {
            None => assert_eq!(served.unwrap().head().path, "/v1/opamp"),
            Some(status) => {
                assert_eq!(
                    served.unwrap_err(),
                    AcceptError::Refused { status },
                    "{name}"
                );
                assert!(dialled.is_err(), "{name}");
            }
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn a_browser_page_is_not_let_in() {
    let (listener, _) = listen().await;
    let address = listener.local_addr().unwrap();
    let visit = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /v1/opamp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Origin: https://evil.example\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        accept(stream, &AcceptRules::default(), |_| Ok(()))
            .await
            .map(drop)
    };
    let (answer, served) = in_time(async { tokio::join!(visit, serve) }).await;
    assert_eq!(served, Err(AcceptError::Refused { status: 403 }));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}
