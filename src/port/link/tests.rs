//! Given a server of ours on loopback, when the link dials it; then what it says and how it fails is told.

use std::time::Duration;

use opamp_client::transport::{AcceptRules, accept};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::units::TextSource;

const PATIENCE: Duration = Duration::from_secs(10);

fn attempt(endpoint: String) -> Attempt {
    Attempt {
        key: LinkKey {
            agent: "a".parse().unwrap(),
            link: LinkId(7),
        },
        server: Box::new(Server {
            endpoint,
            headers: vec![("Authorization".to_owned(), Secret::new("Bearer t"))],
            tls: Tls::default(),
            heartbeat: Duration::from_secs(30),
            proxy: None,
            auth: None,
        }),
        instance_uid: [1; 16],
        token: None,
        proxies: ProxyRules::default(),
        auth: None,
        offered: None,
    }
}

async fn next(reports: &mut mpsc::Receiver<(LinkKey, LinkReport)>) -> LinkReport {
    let (key, report) = timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
    assert_eq!(key.link, LinkId(7));
    report
}

async fn loss_of(attempt: Attempt) -> LinkLoss {
    let (tx, mut rx) = mpsc::channel(4);
    timeout(PATIENCE, run(attempt, tx)).await.unwrap();
    match next(&mut rx).await {
        LinkReport::Down(loss) => loss,
        other => panic!("{other:?}"),
    }
}

/// Answers one request with a fixed HTTP answer.
async fn answering(answer: &'static str) -> (String, JoinSet<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/opamp", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    (url, server)
}

#[tokio::test(flavor = "local")]
async fn a_link_carries_messages_both_ways_and_closes_when_its_sender_is_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let (tx, mut rx) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(run(attempt(url), tx));
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let server = accept(stream, &AcceptRules::default(), |_| Ok(()))
        .await
        .unwrap();
    let header = |name: &str| server.head().headers.get(name).unwrap().to_str().unwrap();
    assert_eq!(
        header("opamp-instance-uid"),
        "01010101-0101-0101-0101-010101010101"
    );
    assert_eq!(header("authorization"), "Bearer t");

    let (pump, to_link, mut from_link) = Pump::new(server, PumpConfig::default());
    tasks.spawn_local(async move {
        drop(pump.run().await);
    });
    let LinkReport::Up(sender) = next(&mut rx).await else {
        panic!("not up");
    };
    // More than the reports' queue holds: they wait, and none is lost.
    for number in 0..5u8 {
        to_link.send(vec![number]).await.unwrap();
    }
    for number in 0..5u8 {
        match next(&mut rx).await {
            LinkReport::Frame(frame) => assert_eq!(frame, [number]),
            other => panic!("{other:?}"),
        }
    }
    sender.try_send(vec![9]).unwrap();
    drop(sender);
    assert_eq!(
        timeout(PATIENCE, from_link.recv()).await.unwrap(),
        Some(vec![9])
    );
    match next(&mut rx).await {
        LinkReport::Down(loss) => assert_eq!(loss, ours()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "local")]
async fn refusals_have_classes_that_decide_what_happens_next() {
    let cases = [
        (
            "HTTP/1.1 401 Unauthorized\r\n\r\n",
            LossKind::Rejected,
            None,
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", LossKind::Rejected, None),
        (
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n",
            LossKind::Throttled,
            Some(Duration::from_secs(7)),
        ),
        ("HTTP/1.1 404 Not Found\r\n\r\n", LossKind::Protocol, None),
    ];
    for (answer, kind, retry_after) in cases {
        let (url, _server) = answering(answer).await;
        let loss = loss_of(attempt(url)).await;
        assert_eq!(
            (loss.kind, loss.retry_after),
            (kind, retry_after),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "local")]
async fn a_server_that_is_not_there_is_a_network_loss_that_names_the_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let loss = loss_of(attempt(format!("ws://{address}"))).await;
    assert_eq!(loss.kind, LossKind::Network);
    assert!(loss.reason.contains(&address.to_string()), "{loss:?}");
}

#[cfg(feature = "polling")]
#[tokio::test(flavor = "local")]
async fn what_ends_the_polling_decides_what_happens_next() {
    let cases = [
        ("HTTP/1.1 401 Unauthorized", LossKind::Rejected, None),
        (
            "HTTP/1.1 429 Slow\r\nRetry-After: 7",
            LossKind::Throttled,
            Some(Duration::from_secs(7)),
        ),
        ("HTTP/1.1 413 Large", LossKind::TooLarge, None),
        ("HTTP/1.1 500 Oops", LossKind::Protocol, None),
    ];
    for (head, kind, retry_after) in cases {
        let answer = format!("{head}\r\nContent-Length: 0\r\n\r\n");
        let (url, _server) = answering(answer.leak()).await;
        let (tx, mut rx) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(run(attempt(url.replace("ws://", "http://")), tx));
        let LinkReport::Up(sender) = next(&mut rx).await else {
            panic!("not up");
        };
        sender.try_send(vec![0]).unwrap();
        let LinkReport::Down(loss) = next(&mut rx).await else {
            panic!("not down");
        };
        assert_eq!((loss.kind, loss.retry_after), (kind, retry_after), "{head}");
        let said = loss.reason.starts_with("the server answered with status ");
        assert!(said, "{loss:?}");
    }
}

#[cfg(not(feature = "polling"))]
#[tokio::test(flavor = "local")]
async fn a_build_without_polling_says_so() {
    let loss = loss_of(attempt("http://127.0.0.1:1".to_owned())).await;
    assert_eq!(loss.kind, LossKind::Protocol);
    assert!(loss.reason.contains("polling is not built in"), "{loss:?}");
}

#[tokio::test(flavor = "local")]
async fn a_missing_ca_file_is_named() {
    let mut attempt = attempt("wss://127.0.0.1:1".to_owned());
    attempt.server.tls.ca = Some(TextSource::File("/nonexistent/ca.pem".into()));
    let loss = loss_of(attempt).await;
    assert!(loss.reason.contains("read /nonexistent/ca.pem"), "{loss:?}");
}

#[test]
fn how_a_link_ended_decides_what_happens_next() {
    let closed = |by, code, reason: &str| Closed {
        code,
        reason: reason.to_owned(),
        by,
        retry_after: None,
    };
    let cases = [
        (closed(ClosedBy::Us, 1000, ""), LossKind::Ours),
        (closed(ClosedBy::Peer, 1000, "bye"), LossKind::Closed),
        (closed(ClosedBy::Peer, 1008, "token"), LossKind::Rejected),
        (closed(ClosedBy::Peer, 1013, ""), LossKind::Throttled),
        (closed(ClosedBy::Us, 1009, "too large"), LossKind::Protocol),
        (closed(ClosedBy::Us, 1003, "text"), LossKind::Protocol),
        (closed(ClosedBy::Failure, 1006, "reset"), LossKind::Network),
    ];
    for (closed, kind) in cases {
        assert_eq!(ended(&closed).kind, kind, "{closed:?}");
    }
    let peer = ended(&closed(ClosedBy::Peer, 1008, "token"));
    assert_eq!(peer.reason, "the server closed with code 1008: token");
}

#[test]
fn proxies_come_from_either_spelling() {
    let variable = |name: &str| {
        let value = match name {
            "https_proxy" => "lower",
            "HTTP_PROXY" => "upper",
            "http_proxy" => "ignored",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let rules = proxies(variable);
    assert_eq!(rules.https_proxy.as_deref(), Some("lower"));
    assert_eq!(rules.http_proxy.as_deref(), Some("upper"));
    assert_eq!(rules.no_proxy, None);
}

#[tokio::test(flavor = "local")]
async fn the_token_of_the_registration_is_sent_unless_the_settings_have_their_own() {
    let own = ("authorization".to_owned(), Secret::new("Basic own"));
    for (headers, wanted) in [(vec![], "Bearer issued"), (vec![own], "Basic own")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut attempt = attempt(format!("ws://{}", listener.local_addr().unwrap()));
        attempt.server.headers = headers;
        attempt.token = Some(Secret::new("issued"));
        assert!(!format!("{attempt:?}").contains("issued"));
        let (tx, _rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(run(attempt, tx));
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let server = accept(stream, &AcceptRules::default(), |_| Ok(()))
            .await
            .unwrap();
        let seen: Vec<_> = server
            .head()
            .headers
            .get_all("authorization")
            .iter()
            .collect();
        assert_eq!(seen, [wanted]);
    }
}
