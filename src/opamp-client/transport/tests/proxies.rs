//! Given proxies of each kind, when we dial through them, then they see what is theirs and nothing else.

use std::sync::Arc;

use super::tls::{Authority, Clients};
use super::*;

const NAME: &str = "opamp.example";

/// A destination that only a proxy can find, and the socket that it is behind.
async fn destination(proxy: &str, tls: TlsOptions) -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connect_headers = http::HeaderMap::new();
    connect_headers.insert("x-tenant", "fleet-7".parse().unwrap());
    let rules = ProxyRules {
        http_proxy: Some(proxy.to_owned()),
        connect_headers,
        ..ProxyRules::default()
    };
    let target = format!("ws://{NAME}:{port}")
        .parse::<Target>()
        .and_then(|target| target.with_header("Authorization", "Bearer secret"))
        .unwrap()
        .with_tls(tls)
        .with_proxies(rules);
    (listener, target)
}

/// Connects what is left of `near` with the destination.
async fn tunnel<S>(mut near: S, port: u16)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn served(listener: &TcpListener) -> RequestHead {
    let (stream, _) = listener.accept().await.unwrap();
    let accepted = accept(stream, &AcceptRules::default(), |_| Ok(())).await;
    accepted.unwrap().head().clone()
}

// TLS to the proxy, verified as the connection's own options say.
#[tokio::test]
async fn a_proxy_behind_tls_gets_its_headers_and_not_ours() {
    let authority = Arc::new(Authority::new());
    for trusted in [true, false] {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", proxy.local_addr().unwrap());
        let anchor = if trusted {
            authority.pem.clone()
        } else {
            Authority::new().pem
        };
        let options = TlsOptions {
            ca_pem: Some(anchor),
            ..TlsOptions::default()
        };
        let (listener, target) = destination(&url, options).await;
        let port = listener.local_addr().unwrap().port();
        let acceptor = authority.acceptor(&["127.0.0.1"], Clients::None);
        let relay = async {
            let (stream, _) = proxy.accept().await.unwrap();
            let mut near = acceptor.accept(stream).await.ok()?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(near.read_u8().await.unwrap());
            }
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tunnel(near, port).await;
            Some(String::from_utf8(request).unwrap())
        };
        let dialled = async { dial(&target, DialOptions::default()).await.map(drop) };
        if trusted {
            let (request, head, dialled) = in_time(Box::pin(async {
                tokio::join!(relay, served(&listener), dialled)
            }))
            .await;
            assert!(dialled.is_ok(), "{dialled:?}");
            let request = request.unwrap();
            assert!(request.contains("\r\nx-tenant: fleet-7\r\n"), "{request}");
            assert!(!request.contains("secret"), "{request}");
            assert!(!head.headers.contains_key("x-tenant"));
            assert_eq!(head.headers["authorization"], "Bearer secret");
        } else {
            let (request, dialled) =
                in_time(Box::pin(async { tokio::join!(relay, dialled) })).await;
            assert_eq!(request, None);
            assert!(matches!(dialled, Err(DialError::Tls { .. })), "{dialled:?}");
        }
    }
}

//
#[tokio::test]
async fn a_socks_proxy_is_told_the_name_and_asked_with_credentials_if_it_wants_them() {
    for (user, method) in [("", 0_u8), ("user:pa%3Ass@", 2)] {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("socks5://{user}{}", proxy.local_addr().unwrap());
        let (listener, target) = destination(&url, TlsOptions::default()).await;
        let port = listener.local_addr().unwrap().port();
        let relay = async {
            let (mut near, _) = proxy.accept().await.unwrap();
            let mut hello = [0; 2];
            near.read_exact(&mut hello).await.unwrap();
            let mut methods = vec![0; usize::from(hello[1])];
            near.read_exact(&mut methods).await.unwrap();
            assert!(methods.contains(&method), "{methods:?}");
            near.write_all(&[5, method]).await.unwrap();
            if method == 2 {
                let mut credentials = [0; 12];
                near.read_exact(&mut credentials).await.unwrap();
                assert_eq!(&credentials, b"\x01\x04user\x05pa:ss");
                near.write_all(&[1, 0]).await.unwrap();
            }
            let mut request = vec![0; 5 + NAME.len() + 2];
            near.read_exact(&mut request).await.unwrap();
            near.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 9])
                .await
                .unwrap();
            tunnel(near, port).await;
            request
        };
        let dialled = async { dial(&target, DialOptions::default()).await.map(drop) };
        let (request, head, dialled) = in_time(Box::pin(async {
            tokio::join!(relay, served(&listener), dialled)
        }))
        .await;
        assert!(dialled.is_ok(), "{dialled:?}");
        let mut wanted = vec![5, 1, 0, 3, u8::try_from(NAME.len()).unwrap()];
        wanted.extend_from_slice(NAME.as_bytes());
        wanted.extend_from_slice(&port.to_be_bytes());
        assert_eq!(request, wanted);
        assert_eq!(head.headers["authorization"], "Bearer secret");
    }
}

#[tokio::test]
async fn a_socks_proxy_that_refuses_says_why() {
    let cases: [(&[u8], &str); 4] = [
        (&[5, 0xFF], "wants credentials"),
        (b"HTTP/1.1 400", "did not answer with SOCKS5"),
        (&[5, 0, 5, 2, 0, 1], "does not allow the connection"),
        (&[5, 0, 5, 4, 0, 1], "cannot reach the host"),
    ];
    for (answer, words) in cases {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("socks5://{}", proxy.local_addr().unwrap());
        let (_listener, target) = destination(&url, TlsOptions::default()).await;
        let relay = async {
            let (mut near, _) = proxy.accept().await.unwrap();
            near.write_all(answer).await.unwrap();
            near
        };
        let (error, _near) = in_time(Box::pin(async {
            tokio::join!(dial(&target, DialOptions::default()), relay)
        }))
        .await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.class(), DialClass::Unreachable);
    }
}
