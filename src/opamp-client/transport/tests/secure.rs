//! Given servers that want a certificate of ours, or that send us elsewhere, when we dial, then we prove ourselves to
//! those who may know us, and to nobody else.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority, a server it vouches for, and a client it vouches for.
struct World {
    ca_pem: Vec<u8>,
    client: ClientCertificate,
    acceptor: TlsAcceptor,
}

fn world() -> World {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::default();
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca_params, ca_key);
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (own, own_key) = leaf("agent");
    let (server, server_key) = leaf("127.0.0.1");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der())),
        )
        .unwrap();
    World {
        ca_pem: ca.pem().into_bytes(),
        client: ClientCertificate {
            chain_pem: own.pem().into_bytes(),
            key_pem: own_key.serialize_pem().into_bytes(),
        },
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

//
#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_ours_and_nobody_elses() {
    let here = world();
    let cases = [
        ("ours", Some(here.client.clone()), true),
        ("none", None, false),
        ("of another authority", Some(world().client), false),
    ];
    for (name, client_certificate, connects) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}", listener.local_addr().unwrap());
        let target = url.parse::<Target>().unwrap().with_tls(TlsOptions {
            ca_pem: Some(here.ca_pem.clone()),
            client_certificate,
            ..TlsOptions::default()
        });
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = here.acceptor.accept(stream).await.ok()?;
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
            // TLS 1.3 refuses a client after the handshake, when it reads.
            Err(error) => {
                assert!(!connects, "{name}: {error}");
                assert_eq!(error.class(), DialClass::Unexpected, "{name}: {error}");
            }
        }
    }
}

/// Answers one upgrade request with a redirect; the request.
async fn redirect(listener: &TcpListener, status: &str, location: &str) -> String {
    let answer = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    answer_once(listener, &answer).await
}

//
#[tokio::test]
async fn an_upgrade_is_redirected_and_leaves_credentials_behind() {
    let (first, target) = listen().await;
    let (second, other) = listen().await;
    let target = target.with_header("Authorization", "Bearer t").unwrap();
    let place = other.to_string().replacen("ws", "http", 1);
    let serve = async {
        let moved = redirect(&first, "302 Found", "/next").await;
        let again = redirect(&first, "301 Moved", &place).await;
        let (stream, _) = second.accept().await.unwrap();
        let connection = accept(stream, &AcceptRules::default(), |_| Ok(()))
            .await
            .unwrap();
        (moved, again, connection.head().clone())
    };
    let (result, (moved, again, head)) = in_time(Box::pin(async {
        tokio::join!(dial(&target, DialOptions::default()), serve)
    }))
    .await;
    assert!(result.is_ok(), "{result:?}");
    assert!(moved.starts_with("GET /v1/opamp "), "{moved}");
    assert!(again.starts_with("GET /next "), "{again}");
    assert!(
        again
            .to_ascii_lowercase()
            .contains("authorization: bearer t")
    );
    assert_eq!(head.path, "/v1/opamp");
    assert!(!head.headers.contains_key("authorization"), "{head:?}");
}

//
#[tokio::test]
async fn redirects_have_an_end_and_can_be_turned_off() {
    for (redirects, asked) in [(0, 1), (3, 4)] {
        let (listener, target) = listen().await;
        let options = DialOptions {
            redirects,
            ..DialOptions::default()
        };
        let serve = async {
            for _ in 0..asked {
                redirect(&listener, "302 Found", "/again").await;
            }
        };
        let (result, ()) = in_time(Box::pin(async {
            tokio::join!(dial(&target, options), serve)
        }))
        .await;
        let error = result.unwrap_err();
        assert_eq!(error.class(), DialClass::Unexpected);
        let wanted = match redirects {
            0 => "server answered the upgrade with status 302".to_owned(),
            most => format!("redirect: more than {most} in one attempt"),
        };
        assert_eq!(error.to_string(), wanted);
    }
}
