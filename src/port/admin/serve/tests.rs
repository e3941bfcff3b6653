//! The doors over real sockets, with a loop task that answers as the engine would.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::engine::message::{Command, Refusal, RefusalKind, Reply};
use crate::port::admin::client::{Client, ClientError, health_of};
use crate::port::admin::health::Level;
use crate::port::admin::wire::{AgentOrder, ApplyOrder, FileDocument, RollbackOrder};
use crate::port::admin::{QUEUE_MAX, Question, SOCKET, testing};
use crate::sys::durable::{Disk as _, RealDisk};

/// Doors in a directory of their own, served by one task and answered by another.
struct House {
    dir: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

/// How the loop behaves.
#[derive(Clone, Copy)]
enum Loop {
    Answers,
    Stuck,
    Refuses(RefusalKind),
}

impl House {
    fn open(behaviour: Loop) -> Self {
        Self::open_to(behaviour, None)
    }

    fn open_to(behaviour: Loop, peers: Option<Vec<u32>>) -> Self {
        let (dir, mut admin) = bound("127.0.0.1:0".parse().unwrap(), None);
        if let Some(peers) = peers {
            admin.peers = peers;
        }
        Self::serve(dir, admin, behaviour)
    }

    fn open_at(address: SocketAddr, token: Option<Token>) -> Self {
        let (dir, admin) = bound(address, token);
        Self::serve(dir, admin, Loop::Answers)
    }

    fn serve(dir: tempfile::TempDir, admin: Admin, behaviour: Loop) -> Self {
        let addresses = admin.addresses();
        let (questions, queue) = mpsc::channel(QUEUE_MAX);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_all(queue, behaviour, Arc::clone(&asked)));
        tasks.spawn_local(async move {
            admin.serve(questions).await.unwrap();
        });
        Self {
            dir,
            addresses,
            asked,
            _tasks: tasks,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.dir.path())
    }

    async fn page(&self, path: &str, host: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        raw_tcp(self.addresses[0], &request).await
    }
}

fn bound(address: SocketAddr, token: Option<Token>) -> (tempfile::TempDir, Admin) {
    let dir = tempfile::tempdir().unwrap();
    let admin = Admin::bind(&Doors {
        state_dir: dir.path().to_owned(),
        listen: vec![address],
        token,
        healthcheck: Some("127.0.0.1:0".parse().unwrap()),
        health_door: HealthDoor {
            headers: vec![("X-Served-By".to_owned(), "adjutant".to_owned())],
            ..HealthDoor::default()
        },
    });
    (dir, admin.unwrap())
}

async fn answer_all(
    mut queue: mpsc::Receiver<Question>,
    behaviour: Loop,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut kept = Vec::new();
    while let Some((command, answer)) = queue.recv().await {
        asked.lock().unwrap().push(format!("{command:?}"));
        let reply = match (behaviour, &command) {
            (Loop::Stuck, _) => {
                kept.push(answer);
                continue;
            }
            (_, Command::Status) => Reply::Status(Box::new(testing::snapshot())),
            (Loop::Refuses(kind), _) => Reply::Refused(Refusal {
                kind,
                reason: "not this one".to_owned(),
            }),
            (Loop::Answers, Command::Show { .. }) => {
                Reply::Revision(Box::new(testing::revision(5, "interval: 15s\n")))
            }
            (Loop::Answers, _) => Reply::Accepted {
                what: "will do".to_owned(),
            },
        };
        // A door that gave up waiting is one of the cases.
        drop(answer.send(reply));
    }
}

async fn raw_tcp(address: SocketAddr, request: &str) -> (u16, String) {
    raw(TcpStream::connect(address).await.unwrap(), request).await
}

async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.expect("a status line"), answer)
}

/// Runs a test where `serve`, which is not `Send`, can be a task.
async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

fn refusal(error: ClientError) -> (String, String) {
    match error {
        ClientError::Refused { kind, reason } => (kind, reason),
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test]
async fn orders_travel_from_client_to_loop_and_back() {
    local(async {
        let house = House::open(Loop::Answers);
        let client = house.client();
        let order = RollbackOrder {
            agent: Some("collector".to_owned()),
            to: Some("1700000000000-00c0ffee".to_owned()),
        };
        assert_eq!(client.rollback(&order).await.unwrap().accepted, "will do");
        let order = ApplyOrder {
            agent: None,
            files: vec![FileDocument::new("collect.yaml", vec![0xff])],
        };
        client.apply(&order).await.unwrap();
        client.restart(&AgentOrder::default()).await.unwrap();
        client.reload(&AgentOrder::default()).await.unwrap();
        let asked = house.asked.lock().unwrap().join("\n");
        assert_eq!(
            asked,
            "Rollback { agent: Some(AgentName(\"collector\")), to: Some(RevisionId(\"1700000000000-00c0ffee\")) }\n\
             Apply { agent: None, files: [OfferedFile { name: \"collect.yaml\", content_type: \"\", body: [255] }] }\n\
             Restart { agent: None }\n\
             Reload { agent: None }"
        );
    })
    .await;
}

#[tokio::test]
async fn revisions_and_their_files_can_be_read() {
    local(async {
        let house = House::open(Loop::Answers);
        let client = house.client();
        let list = client.revisions(None).await.unwrap();
        assert_eq!(list.agent, "collector");
        assert_eq!(list.revisions.len(), 2);
        assert_eq!(list.current.as_deref(), Some(list.revisions[0].id.as_str()));
        let content = client.revision(Some("collector"), None).await.unwrap();
        assert_eq!(content.files[0].text.as_deref(), Some("interval: 15s\n"));
        assert_eq!(content.files[0].layer, "remote");
        let (kind, reason) = refusal(client.revisions(Some("nobody")).await.unwrap_err());
        assert_eq!(
            (kind.as_str(), reason.as_str()),
            ("not_found", "no agent nobody; there are: collector")
        );
        let (kind, reason) = refusal(client.revision(None, Some("../x")).await.unwrap_err());
        assert_eq!(kind, "invalid");
        assert!(reason.contains("revision id \"../x\""), "{reason}");
    })
    .await;
}

#[tokio::test]
async fn a_refusal_has_the_status_of_its_class() {
    local(async {
        let cases = [
            (RefusalKind::NotFound, 404, "not_found"),
            (RefusalKind::Conflict, 409, "conflict"),
            (RefusalKind::Invalid, 422, "invalid"),
            (RefusalKind::Disk, 507, "disk"),
        ];
        for (class, status, kind) in cases {
            let house = House::open(Loop::Refuses(class));
            let error = house.client().restart(&AgentOrder::default()).await;
            let refused = refusal(error.unwrap_err());
            assert_eq!(refused, (kind.to_owned(), "not this one".to_owned()));
            let stream = UnixStream::connect(house.dir.path().join(SOCKET)).await;
            let request = "POST /v1/restart HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
            let (found, _) = raw(stream.unwrap(), request).await;
            assert_eq!(found, status, "{kind}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stranger_is_forbidden_and_asks_the_loop_nothing() {
    local(async {
        // The kernel tells our own uid, which is not on this list.
        let nobody_here = nix::unistd::geteuid().as_raw() + 1;
        let house = House::open_to(Loop::Answers, Some(vec![nobody_here]));
        let (kind, _) = refusal(house.client().status().await.unwrap_err());
        assert_eq!(kind, "forbidden");
        assert!(house.asked.lock().unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn health_doors_answer_on_tcp() {
    local(async {
        let house = House::open(Loop::Answers);
        for (path, wanted) in [
            ("/health", "\"status\":\"ok\""),
            ("/health/live", "{\"status\":\"alive\"}"),
            ("/health/ready", "{\"status\":\"ready\"}"),
            ("/status", "\"name\":\"collector\""),
            ("/metrics", "adjutant_agent_up{agent=\"collector\"} 1"),
            ("/", "default-src 'none'"),
            ("/page.js", "\"use strict\""),
            ("/page.css", "color-scheme"),
        ] {
            let (status, answer) = house.page(path, "localhost:1").await;
            assert_eq!(status, 200, "{path}");
            assert!(answer.contains(wanted), "{path}: {answer}");
        }
        for path in ["/health", "/", ""] {
            let health = health_of(&format!("http://{}{path}", house.addresses[0])).await;
            assert_eq!(health.unwrap().status, Level::Ok, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn tcp_takes_no_orders_and_no_foreign_names() {
    local(async {
        let house = House::open(Loop::Answers);
        assert_eq!(house.page("/health", "evil.example").await.0, 421);
        assert_eq!(house.page("/v1/status", "localhost").await.0, 404);
        let order = "POST /v1/restart HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(raw_tcp(house.addresses[0], order).await.0, 404);
        let order = "POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(raw_tcp(house.addresses[0], order).await.0, 405);
        assert!(house.asked.lock().unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_plain_health_door_answers_nothing_else() {
    local(async {
        let house = House::open(Loop::Answers);
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: any.example\r\n\r\n");
        let (status, answer) = raw_tcp(house.addresses[1], &get("/health")).await;
        assert_eq!(status, 200);
        assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
        let header = "x-served-by: adjutant\r\n";
        assert!(answer.to_lowercase().contains(header), "{answer}");
        assert_eq!(raw_tcp(house.addresses[1], &get("/status")).await.0, 404);
    })
    .await;
}

/// A pair for `localhost` in two files, and a connector that trusts it.
#[cfg(feature = "opampsupervisor")]
fn pair(directory: &Path) -> (crate::config::DoorTls, tokio_rustls::TlsConnector) {
    use opamp_client::transport::TlsVersion;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.join(name);
        RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
        crate::units::TextSource::File(path)
    };
    let tls = crate::config::DoorTls {
        certificate: file("chain.pem", certificate.pem()),
        key: file("key.pem", key.serialize_pem()),
        client_ca: None,
        versions: vec![TlsVersion::V1_2, TlsVersion::V1_3],
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (tls, tokio_rustls::TlsConnector::from(Arc::new(client)))
}

#[cfg(feature = "opampsupervisor")]
async fn health_by_tls(
    address: SocketAddr,
    connector: &tokio_rustls::TlsConnector,
) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let name = "localhost".try_into().unwrap();
    let stream = connector.connect(name, stream).await?;
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    Ok(raw(stream, request).await)
}

#[cfg(feature = "opampsupervisor")]
fn secured_doors(dir: &Path, tls: &crate::config::DoorTls) -> Doors {
    Doors {
        state_dir: dir.to_owned(),
        listen: Vec::new(),
        token: None,
        healthcheck: Some("127.0.0.1:0".parse().unwrap()),
        health_door: HealthDoor {
            tls: Some(tls.clone()),
            ..HealthDoor::default()
        },
    }
}

#[cfg(feature = "opampsupervisor")]
#[tokio::test]
async fn the_plain_health_door_proves_itself_with_the_pair_that_is_there_now() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let (tls, first) = pair(dir.path());
        let admin = Admin::bind(&secured_doors(dir.path(), &tls)).unwrap();
        let house = House::serve(dir, admin, Loop::Answers);
        let address = house.addresses[0];
        let (status, answer) = health_by_tls(address, &first).await.unwrap();
        assert_eq!(status, 200);
        assert!(answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
        // In the middle of a renewal.
        let key = house.dir.path().join("key.pem");
        RealDisk.write_file(&key, b"half", 0o600).unwrap();
        assert_eq!(health_by_tls(address, &first).await.unwrap().0, 200);
        let (_, second) = pair(house.dir.path());
        assert_eq!(health_by_tls(address, &second).await.unwrap().0, 200);
        health_by_tls(address, &first).await.unwrap_err();
        // Nothing in the clear: a peer that speaks no TLS gets at most an alert.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        stream.read_to_end(&mut answer).await.ok();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    })
    .await;
}

/// An authority, and a client's pair that it signed.
#[cfg(feature = "opampsupervisor")]
fn authority() -> (
    String,
    rustls::pki_types::CertificateDer<'static>,
    rcgen::KeyPair,
) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["prober".to_owned()]).unwrap();
    let chain = params.signed_by(&key, &issuer).unwrap();
    (ca, chain.der().clone(), key)
}

/// What a peer gets that trusts anybody's `chain.pem` in the directory and shows a pair of its own, if it has one.
#[cfg(feature = "opampsupervisor")]
async fn shown(
    house: &House,
    pair: Option<(rustls::pki_types::CertificateDer<'static>, Vec<u8>)>,
) -> String {
    use rustls::pki_types::pem::PemObject as _;
    let chain = house.dir.path().join("chain.pem");
    let mut roots = rustls::RootCertStore::empty();
    let chain = rustls::pki_types::CertificateDer::from_pem_file(chain).unwrap();
    roots.add(chain).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match pair {
        Some((chain, key)) => {
            let key = rustls::pki_types::PrivateKeyDer::try_from(key).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(house.addresses[0]).await.unwrap();
    // The door's no may come with the handshake or, as TLS 1.3 has it, after it.
    let mut answer = Vec::new();
    if let Ok(mut stream) = connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
    {
        let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok();
        stream.read_to_end(&mut answer).await.ok();
    }
    String::from_utf8(answer).unwrap()
}

#[cfg(feature = "opampsupervisor")]
#[tokio::test]
async fn the_plain_health_door_answers_only_peers_whose_certificate_leads_to_its_authority() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let (tls, _) = pair(dir.path());
        let (ca, chain, key) = authority();
        let path = dir.path().join("ca.pem");
        RealDisk.write_file(&path, ca.as_bytes(), 0o600).unwrap();
        let tls = crate::config::DoorTls {
            client_ca: Some(path),
            ..tls
        };
        let admin = Admin::bind(&secured_doors(dir.path(), &tls)).unwrap();
        let house = House::serve(dir, admin, Loop::Answers);
        let answer = shown(&house, Some((chain, key.serialize_der()))).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(shown(&house, None).await, "");
        let (ca, chain, key) = authority();
        let stranger = Some((chain.clone(), key.serialize_der()));
        assert_eq!(shown(&house, stranger).await, "");
        // The file is read anew: from the next connection on it is no stranger.
        let path = house.dir.path().join("ca.pem");
        RealDisk.write_file(&path, ca.as_bytes(), 0o600).unwrap();
        let answer = shown(&house, Some((chain, key.serialize_der()))).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    })
    .await;
}

#[cfg(feature = "opampsupervisor")]
#[tokio::test]
async fn a_pair_of_the_health_door_that_cannot_be_used_is_named_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, _) = pair(dir.path());
    let (other, _) = pair(dir.path());
    let missing = crate::config::DoorTls {
        key: crate::units::TextSource::File("/nonexistent/key.pem".into()),
        ..tls.clone()
    };
    let refused = |tls: &crate::config::DoorTls| {
        let error = Admin::bind(&secured_doors(dir.path(), tls)).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        refused(&missing),
        "serve health over TLS: healthcheck.tls: read /nonexistent/key.pem: No such file or directory (os error 2)"
    );
    let swapped = crate::config::DoorTls {
        certificate: other.key.clone(),
        ..tls
    };
    let words = refused(&swapped);
    assert!(words.ends_with("key.pem holds no certificate"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_loop_is_told_within_a_second_and_a_full_queue_at_once() {
    local(async {
        let house = House::open(Loop::Stuck);
        let before = tokio::time::Instant::now();
        let (status, answer) = house.page("/health/live", "localhost").await;
        assert_eq!(status, 503);
        assert!(answer.contains("the loop is not answering"), "{answer}");
        assert!(before.elapsed() <= Duration::from_millis(1100));
    })
    .await;
    let (questions, _queue) = mpsc::channel(1);
    let (answer, _) = tokio::sync::oneshot::channel();
    questions.try_send((Command::Status, answer)).unwrap();
    let request = axum::http::Request::get("/health/live")
        .body(axum::body::Body::empty())
        .unwrap();
    let before = tokio::time::Instant::now();
    let service = TowerToHyperService::new(routes::control(questions));
    let response = hyper::service::Service::call(&service, request).await;
    assert_eq!(response.unwrap().status(), 503);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused_and_asks_the_loop_nothing() {
    local(async {
        let house = House::open(Loop::Answers);
        let stream = UnixStream::connect(house.dir.path().join(SOCKET)).await;
        let request = format!(
            "POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            crate::port::admin::BODY_BYTES_MAX + 1
        );
        let (status, answer) = raw(stream.unwrap(), &request).await;
        assert_eq!(status, 413);
        assert!(answer.contains("\"kind\":\"too_large\""), "{answer}");
        assert!(house.asked.lock().unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_no_order_is_refused_with_its_place() {
    local(async {
        let house = House::open(Loop::Answers);
        let stream = UnixStream::connect(house.dir.path().join(SOCKET)).await;
        let request =
            "POST /v1/restart HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"agnet\":\"x\"}";
        let (status, answer) = raw(stream.unwrap(), request).await;
        assert_eq!(status, 422);
        assert!(answer.contains("unknown field `agnet`"), "{answer}");
        assert!(answer.contains("line 1 column 8"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_door_off_loopback_opens_for_the_token_and_for_nothing_else() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        RealDisk
            .write_file(&file, b"0123456789abcdef", 0o600)
            .unwrap();
        let anywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
        for token in [Some(Token::read(&file).unwrap()), None] {
            let house = House::open_at(anywhere, token);
            let port = house.addresses[0].port();
            let address: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
            let ask = async |path: &str, header: &str| {
                let request = format!("GET {path} HTTP/1.1\r\nHost: node-7:{port}\r\n{header}\r\n");
                raw_tcp(address, &request).await
            };
            for path in [
                "/",
                "/health",
                "/health/live",
                "/metrics",
                "/status",
                "/nothing",
            ] {
                let (status, answer) = ask(path, "").await;
                assert_eq!(status, 401, "{path}");
                assert!(answer.contains("www-authenticate: Basic"), "{answer}");
                let (status, _) = ask(path, "Authorization: Bearer 0123456789abcdeX\r\n").await;
                assert_eq!(status, 401, "{path}");
            }
            assert!(house.asked.lock().unwrap().is_empty());
            let (status, _) = ask("/health", "Authorization: Bearer 0123456789abcdef\r\n").await;
            assert_eq!(status, if token.is_some() { 200 } else { 401 });
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_no_request_is_hung_up_on() {
    local(async {
        let house = House::open(Loop::Answers);
        let mut stream = TcpStream::connect(house.addresses[0]).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        let before = tokio::time::Instant::now();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(before.elapsed() <= HEADER_TIMEOUT + Duration::from_millis(100));
    })
    .await;
}

#[tokio::test]
async fn nobody_and_stale_sockets_are_told_apart_from_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = |result: Result<_, ClientError>| matches!(result, Err(ClientError::Nobody { .. }));
    assert!(nobody(Client::new(dir.path()).status().await.map(drop)));
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    assert!(nobody(Client::new(dir.path()).status().await.map(drop)));
    let gone = Path::new("/nonexistent/state");
    assert!(nobody(Client::new(gone).status().await.map(drop)));
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = Admin::bind(&Doors {
        state_dir: dir.path().to_owned(),
        listen: vec![address],
        token: None,
        healthcheck: None,
        health_door: HealthDoor::default(),
    })
    .unwrap_err();
    let words = error.to_string();
    let begin = format!("listen on {address} for health and metrics: Address already in use");
    assert!(words.starts_with(&begin), "{words}");
    let own = format!("(pid {}); stop that, or set another", std::process::id());
    assert!(words.contains(&own), "{words}");
    assert!(!dir.path().join(SOCKET).exists());
}
