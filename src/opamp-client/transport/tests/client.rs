//! Given a whole client, when its server talks, throttles, rejects or goes away, then it behaves and comes back.

use tokio::net::UnixListener;

use super::*;
use crate::backoff::BackoffConfig;
use crate::frame::{self, FrameRules};
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentDescription, AgentRemoteConfig, AgentToServer, ComponentHealth,
    KeyValue, RemoteConfigStatus, RetryInfo, ServerErrorResponse, ServerToAgent,
    server_error_response,
};
use crate::session::{SessionConfig, SessionEvent};

const UID: [u8; 16] = [7; 16];

/// One connection as the server sees it.
struct Peer {
    socket: WebSocketStream<TcpStream>,
}

impl Peer {
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
}

fn client(target: Target) -> (Client, ClientHandle) {
    let quick = BackoffConfig {
        initial: Duration::from_millis(2),
        max: Duration::from_millis(20),
        ..BackoffConfig::default()
    };
    Client::new(ClientConfig {
        backoff: quick,
        ..ClientConfig::new(SessionConfig::new(UID, AGENT_CAPABILITIES_ALL), target, 1)
    })
    .unwrap()
}

fn description() -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![KeyValue::text("service.name", "x")],
        ..AgentDescription::default()
    }
}

fn health(status: &str) -> ComponentHealth {
    ComponentHealth {
        status: status.to_owned(),
        ..ComponentHealth::default()
    }
}

/// The next event that is not about capabilities.
async fn event(handle: &mut ClientHandle) -> ClientEvent {
    handle.next_event().await.expect("an event")
}

//
#[tokio::test]
async fn a_conversation_survives_a_reconnect_and_ends_politely() {
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    let script = async {
        handle
            .set(Change::Description(description()))
            .await
            .unwrap();
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        let first = peer.hear().await;
        assert_eq!(
            (first.sequence_num, first.agent_description),
            (0, Some(description()))
        );
        let offer = AgentRemoteConfig {
            config_hash: b"h".to_vec(),
            ..AgentRemoteConfig::default()
        };
        peer.say(&ServerToAgent {
            remote_config: Some(offer.clone()),
            ..ServerToAgent::default()
        })
        .await;
        assert!(matches!(event(&mut handle).await, ClientEvent::Connected));
        let ClientEvent::Session(SessionEvent::RemoteConfig(seen)) = event(&mut handle).await
        else {
            panic!("an offer")
        };
        assert_eq!(seen, offer);
        let status = RemoteConfigStatus {
            last_remote_config_hash: b"h".to_vec(),
            status: 1,
            ..RemoteConfigStatus::default()
        };
        handle
            .set(Change::RemoteConfigStatus(status.clone()))
            .await
            .unwrap();
        let second = peer.hear().await;
        assert_eq!(
            (second.sequence_num, second.remote_config_status.clone()),
            (1, Some(status.clone()))
        );
        // The server dies without an answer: the next connection repeats what it may not have stored.
        drop(peer);
        let ClientEvent::Disconnected { closed, .. } = event(&mut handle).await else {
            panic!("a loss")
        };
        assert_eq!(closed.class(), ClosedClass::Lost);
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        let third = peer.hear().await;
        assert_eq!(
            (third.sequence_num, third.remote_config_status),
            (2, Some(status))
        );
        assert_eq!(third.agent_description, Some(description()));
        handle
            .set(Change::Health(health("stopping")))
            .await
            .unwrap();
        assert_eq!(peer.hear().await.health, Some(health("stopping")));
        handle.set(Change::Stop).await.unwrap();
        let last = peer.hear().await;
        assert!(last.agent_disconnect.is_some());
        let Message::Close(Some(close)) = peer.socket.next().await.unwrap().unwrap() else {
            panic!("a close frame")
        };
        assert_eq!(u16::from(close.code), 1000);
        while let Some(Ok(_)) = peer.socket.next().await {}
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

//
#[tokio::test]
async fn an_overloaded_server_is_left_with_a_goodbye_and_given_its_time() {
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    let script = async {
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        peer.hear().await;
        let retry = RetryInfo {
            retry_after_nanoseconds: 5_000_000_000,
        };
        let error = ServerErrorResponse {
            r#type: 2,
            details: Some(server_error_response::Details::RetryInfo(retry)),
            ..ServerErrorResponse::default()
        };
        peer.say(&ServerToAgent {
            error_response: Some(error),
            ..ServerToAgent::default()
        })
        .await;
        assert!(peer.hear().await.agent_disconnect.is_some());
        while let Some(Ok(_)) = peer.socket.next().await {}
        loop {
            if let ClientEvent::Disconnected { retry_in, .. } = event(&mut handle).await {
                assert_eq!(retry_in, Duration::from_secs(5));
                break;
            }
        }
        handle.set(Change::Stop).await.unwrap();
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

// accepted and then closed with 1008 is no good connection.
#[tokio::test]
async fn refused_credentials_wait_long_at_either_stage() {
    for after_upgrade in [false, true] {
        let (listener, target) = listen().await;
        let (client, mut handle) = client(target);
        let script = async {
            if after_upgrade {
                let mut socket = plain_server(&listener).await;
                let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                    code: 1008.into(),
                    reason: "token".into(),
                };
                socket.close(Some(close)).await.unwrap();
                while let Some(Ok(_)) = socket.next().await {}
            } else {
                answer_once(
                    &listener,
                    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
                )
                .await;
            }
            let retry_in = loop {
                match event(&mut handle).await {
                    ClientEvent::Disconnected { retry_in, .. }
                    | ClientEvent::DialFailed { retry_in, .. } => {
                        break retry_in;
                    }
                    _ => {}
                }
            };
            assert!(retry_in >= Duration::from_secs(30), "{retry_in:?}");
            drop(handle);
        };
        in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
    }
}

//
#[tokio::test]
async fn failed_attempts_are_told_with_their_delay_and_go_on() {
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    let script = async {
        answer_once(&listener, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
        let ClientEvent::DialFailed { error, retry_in } = event(&mut handle).await else {
            panic!("a failure")
        };
        assert!(
            matches!(error, DialError::Status { status: 500 }),
            "{error:?}"
        );
        assert!(retry_in <= Duration::from_millis(3), "{retry_in:?}");
        let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n";
        answer_once(&listener, busy).await;
        let ClientEvent::DialFailed { retry_in, .. } = event(&mut handle).await else {
            panic!("a failure")
        };
        assert_eq!(retry_in, Duration::from_secs(9));
        drop(handle);
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

//
#[tokio::test]
async fn garbage_is_told_and_the_connection_goes_on() {
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    let script = async {
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        peer.hear().await;
        peer.socket
            .send(Message::Binary(vec![0, 0xFF].into()))
            .await
            .unwrap();
        assert!(matches!(event(&mut handle).await, ClientEvent::Connected));
        let told = event(&mut handle).await;
        assert!(matches!(told, ClientEvent::Malformed(_)), "{told:?}");
        handle.set(Change::Health(health("fine"))).await.unwrap();
        assert_eq!(peer.hear().await.health, Some(health("fine")));
        handle.set(Change::Stop).await.unwrap();
        while let Some(Ok(_)) = peer.socket.next().await {}
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

// over a Unix socket, as a child reports to its supervisor, against our own accepting side.
#[tokio::test]
async fn a_child_reports_and_beats_over_a_unix_socket() {
    let directory = std::env::temp_dir().join(format!("opamp-client-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("child.sock");
    _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let session = SessionConfig {
        heartbeat: Duration::from_millis(20),
        ..SessionConfig::new(UID, AGENT_CAPABILITIES_ALL)
    };
    let config = ClientConfig::new(session, Target::unix(&path).unwrap(), 2);
    let (client, handle) = Client::new(config).unwrap();
    let script = async {
        handle.set(Change::Health(health("up"))).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let connection = accept(stream, &AcceptRules::default(), |_| Ok(()))
            .await
            .unwrap();
        let (pump, sender, mut receiver) = Pump::new(connection, PumpConfig::default());
        let serve = async {
            let mut reports = Vec::new();
            while reports.len() < 4 {
                let frame = receiver.recv().await.unwrap();
                reports
                    .push(frame::decode::<AgentToServer>(&frame, FrameRules::default()).unwrap());
            }
            handle.set(Change::Stop).await.unwrap();
            // Reads on, so that the goodbye arrives.
            let mut last = None;
            while let Some(frame) = receiver.recv().await {
                last = frame::decode::<AgentToServer>(&frame, FrameRules::default()).ok();
            }
            drop(sender);
            (reports, last)
        };
        let (closed, (reports, last)) = tokio::join!(pump.run(), serve);
        assert_eq!(reports[0].health, Some(health("up")));
        let numbers: Vec<_> = reports.iter().map(|report| report.sequence_num).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert!(reports[3].health.is_none(), "a heartbeat");
        assert!(last.is_some_and(|last| last.agent_disconnect.is_some()));
        assert_eq!((closed.code, closed.by), (1000, ClosedBy::Peer));
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
    std::fs::remove_dir_all(&directory).unwrap();
}

//
#[tokio::test]
async fn a_client_that_is_told_to_stop_before_it_runs_connects_to_nobody() {
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    handle.set(Change::Stop).await.unwrap();
    in_time(Box::pin(client.run())).await;
    assert!(handle.next_event().await.is_none());
    assert!(handle.set(Change::Stop).await.is_err(), "it has ended");
    let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err());
}

//
#[tokio::test]
async fn with_nobody_there_it_tries_until_its_handle_is_gone() {
    let (listener, target) = listen().await;
    drop(listener);
    let (client, mut handle) = client(target);
    let script = async {
        for _ in 0..3 {
            let told = event(&mut handle).await;
            assert!(matches!(told, ClientEvent::DialFailed { .. }), "{told:?}");
        }
        drop(handle);
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

// what is set before there is a connection is what the server hears first.
#[tokio::test]
async fn everything_set_before_the_connection_is_in_the_first_message() {
    let (listener, target) = listen().await;
    let (client, handle) = client(target);
    let script = async {
        handle.set(Change::Capabilities(0x801)).await.unwrap();
        handle
            .set(Change::Description(description()))
            .await
            .unwrap();
        handle.set(Change::Health(health("up"))).await.unwrap();
        let list = crate::messages::CustomCapabilities::named(["org.example.echo"]).unwrap();
        handle
            .set(Change::CustomCapabilities(list.clone()))
            .await
            .unwrap();
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        let first = peer.hear().await;
        assert_eq!((first.sequence_num, first.capabilities), (0, 0x801));
        assert_eq!(first.agent_description, Some(description()));
        assert_eq!(first.health, Some(health("up")));
        assert_eq!(first.custom_capabilities, Some(list));
        handle.set(Change::Stop).await.unwrap();
        while peer.socket.next().await.is_some_and(|read| read.is_ok()) {}
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

//
#[tokio::test]
async fn a_custom_message_that_is_refused_is_told_and_counters_are_seen() {
    use crate::messages::CustomMessage;
    use crate::session::CustomMessageError;
    let (listener, target) = listen().await;
    let (client, mut handle) = client(target);
    let script = async {
        let message = CustomMessage {
            capability: "org.example.echo".to_owned(),
            ..CustomMessage::default()
        };
        handle.set(Change::CustomMessage(message)).await.unwrap();
        handle.set(Change::RequestInstanceUid).await.unwrap();
        let told = event(&mut handle).await;
        let wanted = CustomMessageError::NotAnnounced;
        assert!(
            matches!(told, ClientEvent::CustomMessageRefused(error) if error == wanted),
            "{told:?}"
        );
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        assert_eq!(peer.hear().await.flags, 1, "an identity is asked for");
        peer.say(&ServerToAgent::default()).await;
        while handle.stats().received == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(handle.stats().sent, 1);
        handle.set(Change::Stop).await.unwrap();
        while peer.socket.next().await.is_some_and(|read| read.is_ok()) {}
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}

// another path of the same server is the same server.
#[tokio::test]
async fn a_throttled_server_is_not_asked_sooner_because_the_target_changed() {
    let (listener, target) = listen().await;
    let (other, other_target) = listen().await;
    let (client, mut handle) = client(target.clone());
    let script = async {
        answer_once(
            &listener,
            "HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let since = tokio::time::Instant::now();
        let told = event(&mut handle).await;
        let least = Duration::from_secs(2);
        assert!(
            matches!(told, ClientEvent::DialFailed { retry_in, .. } if retry_in == least),
            "{told:?}"
        );
        let moved = |url: String| Change::Target(Box::new(url.parse().unwrap()));
        handle.set(moved(format!("{target}moved"))).await.unwrap();
        let too_early = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        assert!(too_early.is_err());
        // Nobody there has asked for anything.
        handle.set(moved(other_target.to_string())).await.unwrap();
        let mut peer = Peer {
            socket: plain_server(&other).await,
        };
        peer.hear().await;
        assert!(since.elapsed() < least);
        handle.set(moved(format!("{target}again"))).await.unwrap();
        while peer.socket.next().await.is_some_and(|read| read.is_ok()) {}
        let mut peer = Peer {
            socket: plain_server(&listener).await,
        };
        peer.hear().await;
        assert!(since.elapsed() >= Duration::from_millis(1900));
        handle.set(Change::Stop).await.unwrap();
        while peer.socket.next().await.is_some_and(|read| read.is_ok()) {}
    };
    in_time(Box::pin(async { tokio::join!(client.run(), script) })).await;
}
