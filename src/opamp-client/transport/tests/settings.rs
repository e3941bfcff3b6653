//! Given a whole client that accepts connection settings, when its server sends it elsewhere, then it goes there over
//! one connection at a time, stays if that works, and is back with everything as it was if it does not.

use std::collections::VecDeque;

use rcgen::KeyPair;

use super::tls::{Authority, Clients};
use super::*;
use crate::backoff::BackoffConfig;
use crate::frame::{self, FrameRules};
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentDescription, AgentToServer, ComponentHealth,
    ConnectionSettingsOffers, ConnectionSettingsStatuses, Header, Headers, KeyValue,
    OpAmpConnectionSettings, ServerCapabilities, ServerToAgent, TlsCertificate,
    TlsConnectionSettings,
};
use crate::session::SessionConfig;
use crate::settings::csr;
use crate::settings::{SavedSettings, SettingsConfig, SettingsEffect};

const UID: [u8; 16] = [7; 16];
/// The middle of 2026.
const UNIX: Duration = Duration::from_secs(1_780_000_000);

type Wire = Box<dyn crate::transport::socket::Stream>;

/// One connection as the server sees it.
struct Peer {
    socket: WebSocketStream<Wire>,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let stream: Wire = Box::new(stream);
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        Self { socket }
    }

    async fn hear(&mut self) -> AgentToServer {
        loop {
            match self
                .socket
                .next()
                .await
                .expect("a message")
                .expect("no error")
            {
                Message::Binary(bytes) => {
                    return frame::decode(&bytes, FrameRules::default()).expect("a report");
                }
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn say(&mut self, message: &ServerToAgent) {
        let frame = frame::encode(message, 1 << 20).unwrap();
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .unwrap();
    }

    async fn offer(&mut self, hash: &str, opamp: OpAmpConnectionSettings) {
        self.say(&ServerToAgent {
            connection_settings: Some(ConnectionSettingsOffers {
                hash: hash.as_bytes().to_vec(),
                opamp: Some(opamp),
                ..ConnectionSettingsOffers::default()
            }),
            ..ServerToAgent::default()
        })
        .await;
    }

    /// The statuses reported up to the goodbye, which must be followed by a close and nothing else.
    async fn goodbye(&mut self) -> Vec<i32> {
        let mut statuses = Vec::new();
        loop {
            let report = self.hear().await;
            statuses.extend(
                report
                    .connection_settings_status
                    .map(|status| status.status),
            );
            if report.agent_disconnect.is_some() {
                break;
            }
        }
        let Message::Close(Some(close)) = self.socket.next().await.unwrap().unwrap() else {
            panic!("a close frame")
        };
        assert_eq!(u16::from(close.code), 1000);
        while let Some(Ok(_)) = self.socket.next().await {}
        statuses
    }

    /// Reads up to a report with a status other than APPLYING; that status, its hash and text.
    async fn verdict(&mut self) -> (i32, Vec<u8>, String) {
        loop {
            if let Some(status) = self.hear().await.connection_settings_status
                && status.status != ConnectionSettingsStatuses::Applying as i32
            {
                let hash = status.last_connection_settings_hash;
                return (status.status, hash, status.error_message);
            }
        }
    }
}

const APPLIED: i32 = ConnectionSettingsStatuses::Applied as i32;
const APPLYING: i32 = ConnectionSettingsStatuses::Applying as i32;
const FAILED: i32 = ConnectionSettingsStatuses::Failed as i32;

fn client(target: Target, saved: Option<SavedSettings>) -> (Client, ClientHandle) {
    let quick = BackoffConfig {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(20),
        ..BackoffConfig::default()
    };
    let mut settings = SettingsConfig::new(target.clone(), Duration::ZERO);
    settings.trial.quiet = Duration::from_millis(200);
    settings.renew = true;
    Client::new(ClientConfig {
        backoff: quick,
        settings: Some(SettingsStart {
            config: settings,
            saved,
            unix: UNIX,
        }),
        ..ClientConfig::new(SessionConfig::new(UID, AGENT_CAPABILITIES_ALL), target, 1)
    })
    .unwrap()
}

/// An embedder: stores what is to be stored, keeps what it was told.
struct Embedder {
    handle: ClientHandle,
    saved: Option<SavedSettings>,
    told: VecDeque<String>,
}

impl Embedder {
    fn new(handle: ClientHandle) -> Self {
        Self {
            handle,
            saved: None,
            told: VecDeque::new(),
        }
    }

    async fn step(&mut self) -> bool {
        match self.handle.next_event().await {
            Some(ClientEvent::Settings(SettingsEffect::Save { id, state })) => {
                self.saved = Some(state);
                let answer = SettingsAnswer::Saved { id, result: Ok(()) };
                _ = self.handle.set(Change::Settings(answer)).await;
            }
            Some(ClientEvent::Settings(SettingsEffect::CertificateDue { .. })) => {
                let request = csr::generate(&csr::Subject::default()).unwrap();
                let answer = SettingsAnswer::Request(request);
                _ = self.handle.set(Change::Settings(answer)).await;
            }
            Some(ClientEvent::Settings(effect)) => {
                let text = format!("{effect:?}");
                self.told
                    .push_back(text.split('(').next().unwrap_or_default().to_owned());
            }
            Some(_) => {}
            None => return false,
        }
        true
    }

    /// Serves the client until it was told to stop.
    async fn run(&mut self) {
        while self.step().await {}
    }
}

/// Runs client and embedder until the server's script ends; what the embedder has then.
async fn play<S: Future<Output = ()>>(
    (client, handle): (Client, ClientHandle),
    script: S,
) -> Embedder {
    let mut embedder = Embedder::new(handle);
    in_time(Box::pin(async {
        let mut run = Box::pin(client.run());
        let mut script = Box::pin(script);
        let mut serve = Box::pin(embedder.run());
        tokio::select! {
            () = &mut run => panic!("the client ended"),
            () = &mut serve => panic!("the handle ended"),
            () = &mut script => {}
        }
    }))
    .await;
    embedder
}

fn to(target: &Target) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        destination_endpoint: target.to_string(),
        ..OpAmpConnectionSettings::default()
    }
}

// R-147…R-152, R-158 (numbers go on), R-164, R-276
#[tokio::test]
async fn an_offer_that_works_is_moved_to_with_a_goodbye_and_one_connection() {
    let (old, old_target) = listen().await;
    let (new, new_target) = listen().await;
    let (client, handle) = client(old_target, None);
    let health = ComponentHealth {
        healthy: true,
        ..ComponentHealth::default()
    };
    handle.set(Change::Health(health.clone())).await.unwrap();
    let script = async {
        let mut first = Peer::accept(&old).await;
        first.hear().await;
        let offer = OpAmpConnectionSettings {
            headers: Some(Headers {
                headers: vec![Header {
                    key: "Authorization".to_owned(),
                    value: "Bearer offered".to_owned(),
                }],
            }),
            ..to(&new_target)
        };
        first.offer("h", offer).await;
        assert_eq!(first.goodbye().await, [APPLYING]);
        let mut second = Peer::accept(&new).await;
        let report = second.hear().await;
        assert!(report.sequence_num >= 2, "{}", report.sequence_num);
        assert_eq!(report.health, Some(health), "all is told anew");
        let status = report.connection_settings_status.unwrap();
        assert_eq!(status.status, APPLYING);
        second.say(&ServerToAgent::default()).await;
        assert_eq!(
            second.verdict().await,
            (APPLIED, b"h".to_vec(), String::new())
        );
        // Whoever loses this connection finds the way back here, not to the old place.
        drop(second);
        Peer::accept(&new).await.hear().await;
    };
    let embedder = play((client, handle), script).await;
    assert_eq!(embedder.told, ["Accepted"]);
    assert!(embedder.saved.is_some());
}

//
#[tokio::test]
async fn an_offer_that_does_not_work_is_undone_and_told() {
    let refusing = |status: &'static str| {
        move |new: TcpListener| async move {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            loop {
                answer_once(&new, &answer).await;
            }
        }
    };
    for (status, words) in [
        (
            "401 Unauthorized",
            "credentials were refused with status 401",
        ),
        (
            "404 Not Found",
            "server answered the upgrade with status 404",
        ),
    ] {
        let (old, old_target) = listen().await;
        let (new, new_target) = listen().await;
        let script = async {
            let mut first = Peer::accept(&old).await;
            first.hear().await;
            let offer = OpAmpConnectionSettings {
                heartbeat_interval_seconds: 1,
                ..to(&new_target)
            };
            first.offer("h", offer).await;
            first.goodbye().await;
            let back = async {
                let mut again = Peer::accept(&old).await;
                let (verdict, hash, text) = again.verdict().await;
                assert_eq!((verdict, hash), (FAILED, b"h".to_vec()));
                assert!(text.contains(words), "{text}");
            };
            tokio::select! {
                () = back => {}
                () = refusing(status)(new) => {}
            }
        };
        let embedder = play(client(old_target, None), script).await;
        assert_eq!(embedder.told, ["Reverted"]);
    }
}

//
#[tokio::test]
async fn an_interval_alone_does_not_cost_the_connection() {
    let (old, target) = listen().await;
    let script = async {
        let mut peer = Peer::accept(&old).await;
        peer.hear().await;
        let offer = OpAmpConnectionSettings {
            heartbeat_interval_seconds: 1,
            ..OpAmpConnectionSettings::default()
        };
        peer.offer("h", offer).await;
        assert_eq!(peer.verdict().await.0, APPLIED);
        let beat = peer.hear().await;
        assert!(beat.agent_disconnect.is_none() && beat.health.is_none());
    };
    play(client(target, None), script).await;
}

// nothing is left before the offer has been looked at.
#[tokio::test]
async fn a_bad_offer_is_refused_on_the_connection_that_brought_it() {
    let (old, target) = listen().await;
    let script = async {
        let mut peer = Peer::accept(&old).await;
        peer.hear().await;
        let offer = OpAmpConnectionSettings {
            certificate: Some(TlsCertificate {
                cert: b"garbage".to_vec(),
                private_key: b"garbage".to_vec(),
                ca_cert: Vec::new(),
            }),
            ..OpAmpConnectionSettings::default()
        };
        peer.offer("h", offer).await;
        let (verdict, _, text) = peer.verdict().await;
        assert_eq!(verdict, FAILED);
        assert!(text.starts_with("opamp.certificate.cert: "), "{text}");
        peer.offer("i", OpAmpConnectionSettings::default()).await;
        assert_eq!(peer.verdict().await.0, APPLIED);
    };
    play(client(target, None), script).await;
}

// killed after the candidate was saved, before it was tried.
#[tokio::test]
async fn a_client_that_was_killed_tries_the_candidate_first() {
    let (old, old_target) = listen().await;
    let (new, new_target) = listen().await;
    let script = async {
        let mut first = Peer::accept(&old).await;
        first.hear().await;
        first.offer("h", to(&new_target)).await;
        first.goodbye().await;
    };
    let killed = play(client(old_target.clone(), None), script).await;
    let script = async {
        let mut peer = Peer::accept(&new).await;
        let status = peer.hear().await.connection_settings_status.unwrap();
        assert_eq!(
            (status.status, status.last_connection_settings_hash),
            (APPLYING, b"h".to_vec())
        );
        peer.say(&ServerToAgent::default()).await;
        assert_eq!(peer.verdict().await.0, APPLIED);
    };
    play(client(old_target, killed.saved), script).await;
}

//
#[tokio::test]
async fn when_both_are_down_the_one_that_comes_up_is_found() {
    async fn refuse_a_turn(listener: &TcpListener) {
        for _ in 0..crate::settings::TrialLimits::default().attempts {
            drop(listener.accept().await.unwrap());
        }
    }
    for old_comes_up in [true, false] {
        let (old, old_target) = listen().await;
        let (new, new_target) = listen().await;
        let script = async {
            let mut first = Peer::accept(&old).await;
            first.hear().await;
            first.offer("h", to(&new_target)).await;
            first.goodbye().await;
            refuse_a_turn(&new).await;
            for _ in 0..2 {
                refuse_a_turn(&old).await;
                refuse_a_turn(&new).await;
            }
            if old_comes_up {
                let mut again = Peer::accept(&old).await;
                assert_eq!(again.verdict().await.0, FAILED);
            } else {
                refuse_a_turn(&old).await;
                let mut again = Peer::accept(&new).await;
                assert_eq!(again.verdict().await.0, FAILED, "nothing is proven yet");
                again.say(&ServerToAgent::default()).await;
                assert_eq!(again.verdict().await.0, APPLIED);
            }
        };
        play(client(old_target, None), script).await;
    }
}

// each offer works and is one too many.
#[tokio::test]
async fn servers_that_send_us_to_each_other_cannot_make_us_hurry() {
    let (one, one_target) = listen().await;
    let (other, other_target) = listen().await;
    let script = async {
        let start = tokio::time::Instant::now();
        let places = [(&one, &other_target), (&other, &one_target)];
        for (index, (here, there)) in places.into_iter().cycle().take(4).enumerate() {
            let mut peer = Peer::accept(here).await;
            peer.hear().await;
            peer.say(&ServerToAgent::default()).await;
            peer.offer(&index.to_string(), to(there)).await;
            peer.goodbye().await;
        }
        // The first of three moves is free.
        let least = Duration::from_millis(1900);
        assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    };
    play(client(one_target.clone(), None), script).await;
}

//
#[tokio::test]
async fn local_settings_that_change_are_acted_upon_at_once() {
    let (listener, target) = listen().await;
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["agent".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 6, 15);
    let old = params.self_signed(&key).unwrap();
    let with_old = target.clone().with_tls(TlsOptions {
        client_certificate: Some(ClientCertificate {
            chain_pem: old.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }),
        ..TlsOptions::default()
    });
    let (client, mut handle) = client(target, None);
    let script = async {
        let mut peer = Peer::accept(&listener).await;
        peer.hear().await;
        handle
            .set(Change::Target(Box::new(with_old)))
            .await
            .unwrap();
        // The server says nothing, and the connection stays.
        loop {
            match handle.next_event().await.unwrap() {
                ClientEvent::Settings(SettingsEffect::CertificateDue { .. }) => break,
                ClientEvent::Disconnected { .. } => panic!("the connection was left"),
                _ => {}
            }
        }
    };
    in_time(Box::pin(async {
        tokio::select! {
            () = client.run() => panic!("the client ended"),
            () = script => {}
        }
    }))
    .await;
}

//
#[cfg(feature = "gzip")]
#[tokio::test]
async fn an_offer_may_change_the_transport() {
    use super::poll::Server;
    let (old, old_target) = listen().await;
    let (mut new, new_target) = Server::start().await;
    let script = async {
        let mut first = Peer::accept(&old).await;
        first.hear().await;
        first.offer("h", to(&new_target)).await;
        let statuses = first.goodbye().await;
        assert_eq!(statuses, [APPLYING]);
        let report = new.asked().await.report();
        assert!(report.sequence_num >= 2);
        new.ack().await;
        let report = new.asked().await.report();
        assert_eq!(report.connection_settings_status.unwrap().status, APPLIED);
        // And back: the poll's answer brings the offer.
        new.say(&ServerToAgent {
            connection_settings: Some(ConnectionSettingsOffers {
                hash: b"i".to_vec(),
                opamp: Some(to(&old_target)),
                ..ConnectionSettingsOffers::default()
            }),
            ..ServerToAgent::default()
        })
        .await;
        let serve_goodbye = async {
            loop {
                new.asked().await;
                new.ack().await;
            }
        };
        let back = async {
            let mut again = Peer::accept(&old).await;
            again.hear().await;
            again.say(&ServerToAgent::default()).await;
            assert_eq!(
                again.verdict().await,
                (APPLIED, b"i".to_vec(), String::new())
            );
        };
        tokio::select! {
            () = serve_goodbye => {}
            () = back => {}
        }
    };
    let (client, handle) = client(old_target.clone(), None);
    let description = AgentDescription {
        identifying_attributes: vec![KeyValue::text("service.name", "x")],
        ..AgentDescription::default()
    };
    handle.set(Change::Description(description)).await.unwrap();
    play((client, handle), script).await;
}

// …R-187: trust on first use: without a certificate, then with one that was issued for our key.
#[tokio::test]
async fn a_certificate_is_asked_for_issued_and_used_from_then_on() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}", listener.local_addr().unwrap());
    let target: Target = url.parse().unwrap();
    let target = target.with_tls(TlsOptions {
        ca_pem: Some(authority.pem.clone()),
        ..TlsOptions::default()
    });
    let request = csr::generate(&csr::Subject {
        common_name: "agent".to_owned(),
        ..csr::Subject::default()
    })
    .unwrap();
    let (client, handle) = client(target, None);
    let answer = SettingsAnswer::Request(request);
    handle.set(Change::Settings(answer)).await.unwrap();
    let acceptor = authority.acceptor(&["127.0.0.1"], Clients::Optional);
    let accept = || async {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain[0].clone());
        let stream: Wire = Box::new(stream);
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        (Peer { socket }, shown)
    };
    let script = async {
        let (mut first, shown) = accept().await;
        assert!(shown.is_none(), "nothing to show yet");
        assert!(first.hear().await.connection_settings_request.is_none());
        first
            .say(&ServerToAgent {
                capabilities: ServerCapabilities::AcceptsStatus.bit()
                    | ServerCapabilities::AcceptsConnectionSettingsRequest.bit(),
                ..ServerToAgent::default()
            })
            .await;
        let asked = loop {
            if let Some(asked) = first.hear().await.connection_settings_request {
                break asked.opamp.unwrap().certificate_request.unwrap().csr;
            }
        };
        let issued = authority.issue(&asked);
        let offer = OpAmpConnectionSettings {
            certificate: Some(TlsCertificate {
                cert: issued.pem().into_bytes(),
                ..TlsCertificate::default()
            }),
            ..OpAmpConnectionSettings::default()
        };
        first.offer("h", offer).await;
        first.goodbye().await;
        let (mut second, shown) = accept().await;
        assert_eq!(shown.as_ref(), Some(issued.der()));
        second.hear().await;
        second.say(&ServerToAgent::default()).await;
        assert_eq!(second.verdict().await.0, APPLIED);
        // a pair offered later takes its place at the next connection.
        let key = KeyPair::generate().unwrap();
        let rotated = authority.client(&key);
        let offer = OpAmpConnectionSettings {
            certificate: Some(TlsCertificate {
                cert: rotated.pem().into_bytes(),
                private_key: key.serialize_pem().into_bytes(),
                ca_cert: authority.pem.clone(),
            }),
            ..OpAmpConnectionSettings::default()
        };
        second.offer("i", offer).await;
        second.goodbye().await;
        let (mut third, shown) = accept().await;
        assert_eq!(shown.as_ref(), Some(rotated.der()));
        third.hear().await;
        third.say(&ServerToAgent::default()).await;
        assert_eq!(
            third.verdict().await,
            (APPLIED, b"i".to_vec(), String::new())
        );
        // what does not mention it keeps it.
        drop(third);
        let (_, shown) = accept().await;
        assert_eq!(shown.as_ref(), Some(rotated.der()));
    };
    play((client, handle), script).await;
}

// the way is offered to a server that the local authority did not sign.
#[tokio::test]
async fn a_server_of_a_foreign_authority_is_not_believed_because_an_offer_says_so() {
    let authority = Authority::new();
    let foreign = Authority::new();
    let (old, far) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let url = |listener: &TcpListener| format!("wss://{}", listener.local_addr().unwrap());
    let target = url(&old).parse::<Target>().unwrap().with_tls(TlsOptions {
        ca_pem: Some(authority.pem.clone()),
        ..TlsOptions::default()
    });
    let key = KeyPair::generate().unwrap();
    let offer = OpAmpConnectionSettings {
        destination_endpoint: url(&far),
        // Who signed our certificate is no reason to believe a server.
        certificate: Some(TlsCertificate {
            cert: foreign.client(&key).pem().into_bytes(),
            private_key: key.serialize_pem().into_bytes(),
            ca_cert: foreign.pem.clone(),
        }),
        tls: Some(TlsConnectionSettings {
            min_version: "1.2".to_owned(),
            ..TlsConnectionSettings::default()
        }),
        ..OpAmpConnectionSettings::default()
    };
    let near = authority.acceptor(&["127.0.0.1"], Clients::None);
    let distant = foreign.acceptor(&["127.0.0.1"], Clients::None);
    let accept = || async {
        let (stream, _) = old.accept().await.unwrap();
        let stream: Wire = Box::new(near.accept(stream).await.unwrap());
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        Peer { socket }
    };
    let script = async {
        let mut first = accept().await;
        first.hear().await;
        first.offer("h", offer).await;
        first.goodbye().await;
        let handshakes = async {
            loop {
                let (stream, _) = far.accept().await.unwrap();
                assert!(distant.accept(stream).await.is_err());
            }
        };
        let back = async {
            let (verdict, _, text) = accept().await.verdict().await;
            assert_eq!(verdict, FAILED);
            assert!(text.contains("UnknownIssuer"), "{text}");
        };
        tokio::select! {
            () = handshakes => {}
            () = back => {}
        }
    };
    play(client(target, None), script).await;
}
