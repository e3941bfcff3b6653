//! Given real handshakes under authorities of our own, when certificates, names, times, versions and suites differ,
//! then a connection stands only if all of the options are met.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Whether clients show certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    None,
    Optional,
    Required,
}

/// What a server is like.
struct Nature {
    names: Vec<&'static str>,
    clients: Clients,
    year: i32,
    versions: Vec<&'static SupportedProtocolVersion>,
    suite: Option<rustls::CipherSuite>,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            names: vec!["127.0.0.1"],
            clients: Clients::None,
            year: 2020,
            versions: vec![&rustls::version::TLS12, &rustls::version::TLS13],
            suite: None,
        }
    }
}

static NUMBER: AtomicUsize = AtomicUsize::new(1);

/// A certificate authority.
pub(super) struct Authority {
    pub(super) pem: Vec<u8>,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own; who has the name of another is found out by its signature instead.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem().into_bytes(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn acceptor(&self, names: &[&'static str], clients: Clients) -> TlsAcceptor {
        self.serving(&Nature {
            names: names.to_vec(),
            clients,
            ..Nature::default()
        })
    }

    /// A certificate for a client's key.
    pub(super) fn client(&self, key: &KeyPair) -> Certificate {
        let mut params = CertificateParams::new(vec!["agent".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(key, &self.issuer).unwrap()
    }

    /// The same for a signing request.
    pub(super) fn issue(&self, csr_pem: &[u8]) -> Certificate {
        let csr = std::str::from_utf8(csr_pem).unwrap();
        let csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.signed_by(&self.issuer).unwrap()
    }

    fn serving(&self, nature: &Nature) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = nature.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2015, 1, 1);
        // rcgen's default ends in 4096.
        if nature.year != 2020 {
            params.not_after = rcgen::date_time_ymd(nature.year, 1, 1);
        }
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        if let Some(only) = nature.suite {
            provider.cipher_suites.retain(|suite| suite.suite() == only);
        }
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&nature.versions)
            .unwrap();
        let builder = if nature.clients == Clients::None {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if nature.clients == Clients::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().unwrap())
        };
        let config = builder
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn trusted(&self) -> TlsOptions {
        TlsOptions {
            ca_pem: Some(self.pem.clone()),
            ..TlsOptions::default()
        }
    }
}

/// Dials a server of this nature; the protocol version that was agreed on, or why there is no connection.
async fn handshake(
    authority: &Authority,
    nature: &Nature,
    options: TlsOptions,
) -> Result<rustls::ProtocolVersion, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    let target = url.parse::<Target>().unwrap().with_tls(options);
    let acceptor = authority.serving(nature);
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.ok()?;
        let version = stream.get_ref().1.protocol_version();
        let accepted = accept(stream, &AcceptRules::default(), |_| Ok(())).await;
        accepted.ok().and(version)
    };
    let (dialled, served) = in_time(Box::pin(async {
        tokio::join!(dial(&target, DialOptions::default()), serve)
    }))
    .await;
    match dialled {
        Ok(_) => Ok(served.expect("both sides agree")),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            Err(format!("{error}: {}", source.unwrap_or_default()))
        }
    }
}

fn at_least(version: TlsVersion, options: TlsOptions) -> TlsOptions {
    TlsOptions {
        min_version: Some(version),
        ..options
    }
}

//
#[tokio::test]
async fn names_times_authorities_and_versions_must_be_right() {
    let authority = Authority::new();
    let trusted = || authority.trusted();
    let wrong_name = Nature {
        names: vec!["other.example"],
        ..Nature::default()
    };
    let expired = Nature {
        year: 2016,
        ..Nature::default()
    };
    let old = || Nature {
        versions: vec![&rustls::version::TLS12],
        ..Nature::default()
    };
    let up_to = |version| TlsOptions {
        max_version: Some(version),
        ..trusted()
    };
    let v1_2 = rustls::ProtocolVersion::TLSv1_2;
    let v1_3 = rustls::ProtocolVersion::TLSv1_3;
    let cases = [
        ("right", Nature::default(), trusted(), Ok(v1_3)),
        (
            "wrong name",
            wrong_name,
            trusted(),
            Err("not valid for name"),
        ),
        ("expired", expired, trusted(), Err("certificate expired")),
        (
            "foreign",
            Nature::default(),
            Authority::new().trusted(),
            Err("UnknownIssuer"),
        ),
        ("old server", old(), trusted(), Ok(v1_2)),
        (
            "downgraded",
            old(),
            at_least(TlsVersion::V1_3, trusted()),
            Err("HandshakeFailure"),
        ),
        (
            "not the newest",
            Nature::default(),
            up_to(TlsVersion::V1_2),
            Ok(v1_2),
        ),
    ];
    for (name, nature, options, wanted) in cases {
        let seen = handshake(&authority, &nature, options).await;
        match (&seen, wanted) {
            (Ok(seen), Ok(wanted)) => assert_eq!(*seen, wanted, "{name}"),
            (Err(seen), Err(words)) => {
                // Which of two alerts it is depends on who notices first.
                let told = seen.contains(words)
                    || name == "downgraded" && seen.contains("ProtocolVersion");
                assert!(told, "{name}: {seen}");
            }
            _ => panic!("{name}: {seen:?}"),
        }
    }
}

//
#[tokio::test]
async fn only_the_named_suites_are_spoken() {
    let authority = Authority::new();
    let suites = |names: &[&str]| TlsOptions {
        cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
        ..authority.trusted()
    };
    let only = |suite| Nature {
        suite: Some(suite),
        ..Nature::default()
    };
    let chacha = rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    let old = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let old_server = |suite| Nature {
        versions: vec![&rustls::version::TLS12],
        ..only(suite)
    };
    let new_server = |suite| Nature {
        versions: vec![&rustls::version::TLS13],
        ..only(suite)
    };
    let cases = [
        (
            new_server(chacha),
            suites(&["TLS_CHACHA20_POLY1305_SHA256"]),
            true,
        ),
        (
            new_server(chacha),
            suites(&["TLS_AES_128_GCM_SHA256"]),
            false,
        ),
        (
            old_server(old),
            suites(&["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_UNKNOWN"]),
            true,
        ),
        (
            old_server(old),
            suites(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]),
            false,
        ),
        // A list of old suites must not be what turns the new version off.
        (
            new_server(chacha),
            suites(&["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]),
            true,
        ),
        // A list of new suites alone leaves no old ones.
        (old_server(old), suites(&["TLS_AES_128_GCM_SHA256"]), false),
    ];
    for (index, (nature, options, connects)) in cases.into_iter().enumerate() {
        let seen = handshake(&authority, &nature, options).await;
        assert_eq!(seen.is_ok(), connects, "{index}: {seen:?}");
    }
    let none = suites(&["TLS_NULL_WITH_NULL_NULL"]);
    let error = handshake_settings(none).await;
    assert!(error.contains("cipher suites"), "{error}");
    let crossed = TlsOptions {
        max_version: Some(TlsVersion::V1_2),
        ..at_least(TlsVersion::V1_3, TlsOptions::default())
    };
    let error = handshake_settings(crossed).await;
    assert!(error.contains("tls versions"), "{error}");
}

/// What is wrong with options that no handshake can begin with.
async fn handshake_settings(options: TlsOptions) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    let target = url.parse::<Target>().unwrap().with_tls(options);
    let error = in_time(dial(&target, DialOptions::default()))
        .await
        .unwrap_err();
    assert_eq!(error.class(), DialClass::Settings);
    error.to_string()
}

//
#[tokio::test]
async fn a_server_that_wants_certificates_gets_ours_and_no_others() {
    let authority = Authority::new();
    let mutual = Nature {
        clients: Clients::Required,
        versions: vec![&rustls::version::TLS12],
        ..Nature::default()
    };
    let with = |signer: &Authority| {
        let key = KeyPair::generate().unwrap();
        TlsOptions {
            client_certificate: Some(ClientCertificate {
                chain_pem: signer.client(&key).pem().into_bytes(),
                key_pem: key.serialize_pem().into_bytes(),
            }),
            ..authority.trusted()
        }
    };
    let seen = handshake(&authority, &mutual, with(&authority)).await;
    assert!(seen.is_ok(), "{seen:?}");
    for options in [authority.trusted(), with(&Authority::new())] {
        let seen = handshake(&authority, &mutual, options).await;
        assert!(seen.is_err(), "{seen:?}");
    }
}

//
#[test]
fn versions_are_read_in_all_their_spellings() {
    let cases = [
        ("1.2", Some(TlsVersion::V1_2)),
        ("TLSv1.2", Some(TlsVersion::V1_2)),
        ("tls 1.3", Some(TlsVersion::V1_3)),
        (" TLS1.3 ", Some(TlsVersion::V1_3)),
        ("1.1", None),
        ("1.4", None),
        ("", None),
        ("SSLv3", None),
    ];
    for (text, wanted) in cases {
        assert_eq!(text.parse::<TlsVersion>().ok(), wanted, "{text}");
    }
}
