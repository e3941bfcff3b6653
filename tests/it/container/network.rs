//! Given the image, in which nothing of a system is but trusted roots,
//! when the settings name a server by a name of DNS or of the hosts file, with a certificate of a CA,
//! then names resolve and certificates are verified as on any host, and what is missing is said in a sentence.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::engine::{Container, Engine};
use super::life::{Files, SETTINGS};
use crate::fleet::{Kind, Server};
use crate::peers::eventually;

const NAME: &str = "fleet.adjutant.test";

/// Answers for one name, on an address of loopback that nobody else has.
struct Dns {
    address: Ipv4Addr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start() -> Self {
        let mut candidates = (1..=254).map(|last| Ipv4Addr::new(127, 53, 53, last));
        let (address, socket) = candidates
            .find_map(|address| Some((address, UdpSocket::bind((address, 53)).ok()?)))
            .unwrap_or_else(|| panic!("no port 53 on any address of loopback; it needs root"));
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut query) {
                    let answer = answer(&query[..length]);
                    socket.send_to(&answer, from).ok();
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// RFC 1035 §4.1: header, question; for the one name an address of loopback, for any other that there is none such.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += label.len() + 1;
    }
    let question = &query[12..at + 5];
    let (known, wants_v4) = (name.join(".") == NAME, query[at + 2] == 1);
    let (flags, answers) = match (known, wants_v4) {
        (true, true) => ([0x81, 0x80], 1),
        (true, false) => ([0x81, 0x80], 0),
        (false, _) => ([0x81, 0x83], 0),
    };
    let mut reply = query[..2].to_vec();
    reply.extend(flags);
    reply.extend([0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(question);
    if answers == 1 {
        // The name by reference, A, IN, a minute, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    reply
}

/// Speaks TLS for a server on loopback that does not, with a certificate of a CA of its own.
struct Tls {
    port: u16,
    ca: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tls {
    fn before(server: SocketAddr) -> Self {
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&authority).unwrap().pem();
        let issuer = Issuer::new(params, authority);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![NAME.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .await
                    .unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
                let mut connections = tokio::task::JoinSet::new();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let acceptor = acceptor.clone();
                        connections.spawn(async move {
                            // One that does not trust us hangs up here.
                            let mut inside = acceptor.accept(stream).await.ok()?;
                            let mut outside = tokio::net::TcpStream::connect(server).await.ok()?;
                            tokio::io::copy_bidirectional(&mut inside, &mut outside)
                                .await
                                .ok()
                        });
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            port: told.recv().unwrap(),
            ca,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn settings(endpoint: &str) -> String {
    format!(
        "server: {{endpoint: '{endpoint}'}}\nhttp: {{listen: []}}\nagents: {{collector: {{profile: adjutant}}}}\n"
    )
}

fn start(engine: &Arc<Engine>, image: &str, more: &[&str]) -> Container {
    let mut line = vec!["--read-only", "--cap-drop=ALL"];
    line.extend(more);
    line.extend([image, "run", "--config", SETTINGS]);
    engine.run(&line)
}

/// Whatever the link is missing, the data plane runs and the check says so.
fn telemetry_goes_on(container: &Container) {
    container.is_well();
    assert!(container.status()["agents"][0]["child"]["pid"].is_u64());
}

#[test]
fn names_resolve_and_certificates_are_verified_in_the_empty_image() {
    let engine = Engine::shared();
    let server = Server::start(Kind::OpampGo, 0);
    let endpoint = server.endpoint();
    let port = endpoint
        .rsplit_once(':')
        .and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
        .unwrap();
    let tls = Tls::before(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let dns = Dns::start();
    let dns_server = format!("--dns={}", dns.address);
    let files = Files::new();
    let mount = files.settings(&settings(&format!("wss://{NAME}:{}/v1/opamp", tls.port)));
    let network = ["--network=host", &dns_server, "--volume", &mount];

    // With the roots that are in the image: the name resolves, the certificate is none of theirs.
    let stranger = start(&engine, &engine.image, &network);
    stranger.says("invalid peer certificate: UnknownIssuer");
    telemetry_goes_on(&stranger);
    assert_eq!(server.uids(), [""; 0]);
    drop(stranger);

    // With roots that know the CA in their place.
    let bundle = files.mount("ca.crt", &tls.ca, "/etc/ssl/certs/ca-certificates.crt");
    let trusted = [&network[..], &["--volume", &bundle]].concat();
    let known = start(&engine, &engine.image, &trusted);
    let uid = eventually("the server hears of the agent", || {
        server.uids().pop().ok_or_else(|| known.logs())
    });
    assert!(server.agent(&uid).unwrap().connected);
    drop(known);

    // With no roots at all.
    let name = Engine::name("rootless");
    let rootless = engine.build(&["--name", &name, "--ca-bundle", "none"]);
    let lost = start(&engine, &rootless[0], &network);
    lost.says(
        "system roots: none found; install ca-certificates, set SSL_CERT_FILE, or name a CA file",
    );
    telemetry_goes_on(&lost);
    drop(lost);
    // And a CA of the settings is enough then.
    let own = settings(&format!("wss://{NAME}:{}/v1/opamp", tls.port)).replace(
        "/v1/opamp'}",
        "/v1/opamp', tls: {ca_file: /etc/adjutant/ca.crt}}",
    );
    let mount = files.mount("own.yaml", &own, SETTINGS);
    let ca = files.mount("ca.crt", &tls.ca, "/etc/adjutant/ca.crt");
    let mounts = [
        "--network=host",
        &dns_server,
        "--volume",
        &mount,
        "--volume",
        &ca,
    ];
    let before = server.uids().len();
    let own = start(&engine, &rootless[0], &mounts);
    eventually("the server hears of another agent", || {
        let count = server.uids().len();
        (count > before).then_some(()).ok_or_else(|| own.logs())
    });
    drop(own);
    engine.must(&["rmi", &rootless[0]]);
}

#[test]
fn a_name_that_nobody_knows_is_said_and_telemetry_goes_on() {
    let engine = Engine::shared();
    let dns = Dns::start();
    let dns_server = format!("--dns={}", dns.address);
    let files = Files::new();
    let mount = files.settings(&settings("wss://nobody.adjutant.test/v1/opamp"));
    let unknown = start(
        &engine,
        &engine.image,
        &["--network=host", &dns_server, "--volume", &mount],
    );
    unknown.says("resolve nobody.adjutant.test");
    telemetry_goes_on(&unknown);
}

#[test]
fn without_a_network_names_come_from_the_hosts_file() {
    let engine = Engine::shared();
    let files = Files::new();
    let mount = files.settings(&settings("ws://localhost:9/v1/opamp"));
    let alone = start(
        &engine,
        &engine.image,
        &["--network=none", "--volume", &mount],
    );
    // Found, and nobody is there.
    alone.says("connect to 127.0.0.1:9");
    telemetry_goes_on(&alone);
}

#[test]
fn listeners_are_out_of_reach_of_other_networks() {
    let engine = Engine::shared();
    let files = Files::new();
    let port = crate::peers::free_port();
    let text = format!(
        "http: {{listen: ['127.0.0.1:{port}']}}\nagents: {{collector: {{profile: adjutant}}}}\n"
    );
    let mount = files.settings(&text);
    let container = start(
        &engine,
        &engine.image,
        &["--network=host", "--volume", &mount],
    );
    container.is_well();
    let ask = |address: IpAddr| -> std::io::Result<String> {
        let limit = Duration::from_secs(5);
        let mut stream = std::net::TcpStream::connect_timeout(&(address, port).into(), limit)?;
        stream.write_all(
            format!("GET /health/live HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes(),
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    assert!(ask(Ipv4Addr::LOCALHOST.into()).unwrap().contains("alive"));
    // An address of this host that is not loopback, as others see it.
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    probe.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).unwrap();
    let outside = probe.local_addr().unwrap().ip();
    assert!(!outside.is_loopback(), "{outside}");
    let refused = ask(outside).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
