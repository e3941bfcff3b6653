//! The receiver on a real socket: what it takes, what it refuses and with which words, and what no stranger can do.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::dataplane::admission::Takers;
use crate::dataplane::book::{Book, Reason};
use crate::dataplane::collect::tests::{BOUNDS, buffer};
use crate::dataplane::config::Bounds;
use crate::dataplane::otlp as wire;
use crate::dataplane::record::{Record, Signal};
use crate::dataplane::upload::queue::{self, Inlet, Queued};

const KIB: usize = 1024;
const PROTOBUF: &str = "Content-Type: application/x-protobuf\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const GZIP: &str = "Content-Encoding: gzip\r\n";
const LOG: &str = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"x"}]}]}]}"#;

struct Fixture {
    source: Otlp,
    events: Events,
    book: Arc<Book>,
    at: SocketAddr,
    inlet: Inlet,
    takers: watch::Sender<Takers>,
    _queue: tokio::sync::mpsc::Receiver<Queued>,
}

fn config(at: SocketAddr) -> OtlpConfig {
    OtlpConfig {
        listen: at,
        body_bytes_max: 64 * KIB,
        connections_max: 8,
        timeout: Duration::from_secs(20),
    }
}

/// A receiver on a port of the system's choice, with one upload of so many records behind it.
async fn started(records: usize, change: impl FnOnce(&mut OtlpConfig)) -> Fixture {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let mut config = config(at);
    change(&mut config);
    let (buffer, book) = buffer(BOUNDS);
    let (takers, gate) = Gate::new();
    let bounds = Bounds { records, ..BOUNDS };
    let (inlet, queue) = queue::open(bounds, Arc::default());
    let mut all = Takers::default();
    all.add(&"far".into(), Signal::ALL.to_vec(), inlet.room());
    takers.send_replace(all);
    let health = HealthCell::new("otlp", Arc::default());
    let mut source = Otlp::new("in", &config, buffer, gate, health);
    source.socket = Some(socket);
    source.start().await.unwrap();
    let events = source.events().unwrap();
    Fixture {
        source,
        events,
        book,
        at,
        inlet,
        takers,
        _queue: queue,
    }
}

/// An answer: status, head in lower case, body.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn head(line: &str, headers: &str, length: usize) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n")
        .into_bytes()
}

async fn read(stream: &mut TcpStream) -> Said {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset after the answer is the server's way not to read the rest of a body.
    drop(
        tokio::time::timeout(Duration::from_secs(30), reading)
            .await
            .expect("an answer"),
    );
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let split = split.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8_lossy(&bytes[..split]).to_lowercase();
    Said {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: bytes[split + 4..].to_vec(),
        head,
    }
}

async fn ask(at: SocketAddr, line: &str, headers: &str, body: &[u8]) -> Said {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut request = head(line, headers, body.len());
    request.extend_from_slice(body);
    // A refusal may come before everything is written.
    drop(stream.write_all(&request).await);
    read(&mut stream).await
}

async fn post(at: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Said {
    ask(at, &format!("POST {path}"), headers, body).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn next(events: &mut Events) -> Vec<wire::OtlpRecord> {
    let records = tokio::time::timeout(Duration::from_secs(10), events.next());
    let records = records.await.expect("records come").unwrap();
    let came = records.into_iter().map(|record| match record {
        Record::Otlp(record) => record,
        other => panic!("{other:?}"),
    });
    came.collect()
}

#[tokio::test]
async fn every_signal_comes_in_in_every_form() {
    let mut fixture = started(1000, |_| {}).await;
    let requests = [
        (
            Signal::Logs,
            "/v1/logs",
            wire::samples::logs().encode_to_vec(),
        ),
        (
            Signal::Traces,
            "/v1/traces",
            wire::samples::traces().encode_to_vec(),
        ),
        (
            Signal::Metrics,
            "/v1/metrics",
            wire::samples::metrics().encode_to_vec(),
        ),
    ];
    let mut count = 0;
    for (signal, path, body) in requests {
        let expected = wire::split(signal, &body, 100).unwrap();
        for (headers, body) in [
            (PROTOBUF.to_owned(), body.clone()),
            (format!("{PROTOBUF}{GZIP}"), gzip(&body)),
            (
                "content-type: Application/X-Protobuf; x=y\r\n".to_owned(),
                body.clone(),
            ),
        ] {
            let said = post(fixture.at, path, &headers, &body).await;
            assert_eq!((said.status, said.body.len()), (200, 0), "{}", said.text());
            assert!(
                said.head.contains("content-type: application/x-protobuf"),
                "{}",
                said.head
            );
            assert_eq!(next(&mut fixture.events).await, expected);
            count += expected.len() as u64;
        }
        let record = &expected[0];
        let text = wire::samples::as_json(record).to_string();
        for (headers, body) in [
            (JSON.to_owned(), text.clone().into_bytes()),
            (format!("{JSON}{GZIP}"), gzip(text.as_bytes())),
        ] {
            let said = post(fixture.at, path, &headers, &body).await;
            assert_eq!((said.status, said.text()), (200, "{}".to_owned()));
            assert!(
                said.head.contains("content-type: application/json"),
                "{}",
                said.head
            );
            let came = next(&mut fixture.events).await;
            assert_eq!(came.len(), 1);
            assert_eq!(wire::print(&came[0]), wire::print(record));
            count += 1;
        }
    }
    let said = post(fixture.at, "/v1/logs", PROTOBUF, b"").await;
    assert_eq!(said.status, 200, "nothing at all is a good request");
    fixture.source.stop().await;
    let totals = fixture.book.totals();
    assert_eq!((totals.received, totals.delivered), (count, count));
    assert_eq!(fixture.source.healthy(), Health::Ok);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_in_words_and_the_next_one_is_taken() {
    let mut fixture = started(1000, |_| {}).await;
    let at = fixture.at;
    let good = wire::samples::logs().encode_to_vec();
    let mut cut = gzip(&good);
    cut.truncate(cut.len() - 9);
    let bomb = gzip(&vec![0; 64 * 1024 * KIB]);
    let large = vec![b'x'; 65 * KIB];
    let nested = format!("{{\"resourceLogs\":{}", "[".repeat(10_000));
    let both = format!("{PROTOBUF}{GZIP}");
    let zstd = format!("{JSON}Content-Encoding: zstd\r\n");
    let cases: [(&str, &str, &[u8], u16, &str); 13] = [
        (
            "POST /v1/profiles",
            PROTOBUF,
            &good,
            404,
            "there are /v1/logs",
        ),
        ("POST /", "", b"", 404, "there are /v1/logs"),
        ("GET /v1/logs", PROTOBUF, b"", 405, "only POST"),
        (
            "POST /v1/logs",
            "",
            &good,
            415,
            "the content type is neither",
        ),
        (
            "POST /v1/logs",
            "Content-Type: text/plain\r\n",
            &good,
            415,
            "the content type is neither",
        ),
        (
            "POST /v1/logs",
            &zstd,
            &good,
            415,
            "the content encoding is neither",
        ),
        (
            "POST /v1/logs",
            PROTOBUF,
            b"garbage",
            400,
            "this is no request with logs",
        ),
        (
            "POST /v1/traces",
            JSON,
            b"{\"resourceSpans\":7}",
            400,
            "a list belongs here",
        ),
        (
            "POST /v1/traces",
            JSON,
            nested.as_bytes(),
            400,
            "this is no request with traces",
        ),
        ("POST /v1/logs", &both, &cut, 400, "the body is no gzip"),
        ("POST /v1/logs", &both, &good, 400, "the body is no gzip"),
        ("POST /v1/logs", &both, &bomb, 413, "more than 65536 bytes"),
        (
            "POST /v1/logs",
            PROTOBUF,
            &large,
            413,
            "more than 65536 bytes",
        ),
    ];
    for (line, headers, body, status, words) in cases {
        let said = ask(at, line, headers, body).await;
        assert_eq!(said.status, status, "{line} {headers}: {}", said.text());
        assert!(said.text().contains(words), "{line}: {}", said.text());
        let retry = said.head.contains("retry-after");
        assert!(!retry, "{status} must not be tried again");
        let said = post(at, "/v1/logs", PROTOBUF, &good).await;
        assert_eq!(said.status, 200, "after {line}: {}", said.text());
        assert_eq!(next(&mut fixture.events).await.len(), 4);
    }
    let said = ask(at, "GET /v1/logs", "", b"").await;
    assert!(said.head.contains("allow: post"), "{}", said.head);
    // The refusal has the form of the request.
    let said = post(at, "/v1/logs", JSON, b"{").await;
    let status: serde_json::Value = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(status["code"], 3, "{status}");
    let said = post(at, "/v1/logs", PROTOBUF, b"garbage").await;
    assert_eq!(said.body[..3], [8, 3, 0x12]);
    let totals = fixture.book.totals();
    assert_eq!((totals.received, totals.dropped_total()), (13 * 4, 0));
}

#[tokio::test]
async fn a_length_that_is_only_claimed_is_refused_before_anything_is_read() {
    let fixture = started(1000, |_| {}).await;
    let mut stream = TcpStream::connect(fixture.at).await.unwrap();
    let claim = head("POST /v1/logs", PROTOBUF, 64 * 1024 * KIB);
    stream.write_all(&claim).await.unwrap();
    assert_eq!(read(&mut stream).await.status, 413);
    // One that does not say how long it is, is read up to the limit.
    let mut stream = TcpStream::connect(fixture.at).await.unwrap();
    let start = format!(
        "POST /v1/logs HTTP/1.1\r\nHost: x\r\n{PROTOBUF}Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(start.as_bytes()).await.unwrap();
    let chunk = [b"4000\r\n".as_slice(), &vec![0; 16 * KIB], b"\r\n"].concat();
    for _ in 0..5 {
        drop(stream.write_all(&chunk).await);
    }
    assert_eq!(read(&mut stream).await.status, 413);
}

#[tokio::test]
async fn a_full_queue_tells_senders_to_come_again_and_loses_nothing() {
    let mut fixture = started(5, |_| {}).await;
    let taken = fixture.inlet.room().reserve(4, 1).unwrap();
    let body = wire::samples::traces().encode_to_vec();
    for _ in 0..3 {
        let said = post(fixture.at, "/v1/traces", PROTOBUF, &body).await;
        assert_eq!(said.status, 503);
        assert!(said.head.contains("retry-after: 5"), "{}", said.head);
        assert!(
            said.text().contains("the queue of the upload far is full"),
            "{}",
            said.text()
        );
    }
    assert_eq!(fixture.book.totals().received, 0, "they still have it");
    assert_eq!(
        fixture.source.healthy().error(),
        "senders are answered 503: the queue of the upload far is full"
    );
    drop(taken);
    let said = post(fixture.at, "/v1/traces", PROTOBUF, &body).await;
    assert_eq!(said.status, 200);
    assert_eq!(next(&mut fixture.events).await.len(), 2);
    // More than could ever fit will not get better.
    let many = wire::samples::metrics().encode_to_vec();
    let said = post(fixture.at, "/v1/metrics", PROTOBUF, &many).await;
    assert_eq!(said.status, 413);
    assert!(
        said.text().contains("however empty it is"),
        "{}",
        said.text()
    );
    // After some calm all is well.
    tokio::time::pause();
    tokio::time::advance(CALM + Duration::from_secs(1)).await;
    tokio::time::resume();
    let calm = async {
        while fixture.source.healthy() != Health::Ok {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), calm)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_nobody_takes_is_said_to_the_sender_and_counted() {
    let fixture = started(1000, |_| {}).await;
    let mut all = Takers::default();
    all.add(&"far".into(), vec![Signal::Metrics], fixture.inlet.room());
    fixture.takers.send_replace(all);
    let body = wire::samples::traces().encode_to_vec();
    let said = post(fixture.at, "/v1/traces", PROTOBUF, &body).await;
    assert_eq!(said.status, 200);
    let answer = ExportTraceServiceResponse::decode(&*said.body).unwrap();
    let partial = answer.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert_eq!(
        partial.error_message,
        "no upload takes traces: they are dropped until a config names one that does"
    );
    let said = post(fixture.at, "/v1/logs", JSON, LOG.as_bytes()).await;
    let answer: serde_json::Value = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(answer["partialSuccess"]["rejectedLogRecords"], "1");
    let totals = fixture.book.totals();
    assert!(totals.closed());
    assert_eq!((totals.received, totals.dropped(Reason::NoUpload)), (3, 3));
}

#[tokio::test]
async fn who_sends_too_slowly_is_cut_off() {
    let fixture = started(1000, |config| config.timeout = Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(fixture.at).await.unwrap();
    let mut slow_head = TcpStream::connect(fixture.at).await.unwrap();
    slow_head
        .write_all(b"POST /v1/logs HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut slow_body = TcpStream::connect(fixture.at).await.unwrap();
    slow_body
        .write_all(&head("POST /v1/logs", PROTOBUF, 100))
        .await
        .unwrap();
    slow_body.write_all(b"x").await.unwrap();
    let said = read(&mut slow_body).await;
    assert_eq!(said.status, 408);
    assert!(
        said.text().contains("did not come within 200ms"),
        "{}",
        said.text()
    );
    let mut idle = TcpStream::connect(fixture.at).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    for stream in [&mut silent, &mut slow_head, &mut idle] {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        drop(
            tokio::time::timeout(Duration::from_secs(10), ended)
                .await
                .expect("it is closed"),
        );
    }
    let said = post(fixture.at, "/v1/logs", JSON, LOG.as_bytes()).await;
    assert_eq!(said.status, 200);
}

#[tokio::test]
async fn who_never_reads_its_answers_loses_the_connection_at_last() {
    let fixture = started(1000, |_| {}).await;
    let mut stream = TcpStream::connect(fixture.at).await.unwrap();
    let requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    // Until its answers have nowhere to go, and it is not listened to any more.
    let stuck = Duration::from_secs(1);
    while let Ok(written) = tokio::time::timeout(stuck, stream.write_all(&requests)).await {
        written.unwrap();
    }
    tokio::time::pause();
    tokio::time::advance(AGE_MAX).await;
    tokio::time::resume();
    // What is under way then still has its time, which runs from when its task hears of it.
    let patience = fixture.source.config.timeout * 6;
    let closed = async { while stream.write_all(&requests).await.is_ok() {} };
    tokio::time::timeout(patience, closed)
        .await
        .expect("it is closed");
}

#[tokio::test]
async fn connections_and_bodies_under_way_are_bounded() {
    let fixture = started(1000, |config| {
        config.connections_max = 3;
        config.body_bytes_max = KIB;
    })
    .await;
    // Two bodies that are nearly whole fill the budget of two.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(fixture.at).await.unwrap();
        stream
            .write_all(&head("POST /v1/logs", PROTOBUF, KIB))
            .await
            .unwrap();
        stream.write_all(&[0; KIB - 1]).await.unwrap();
        held.push(stream);
    }
    let said = post(fixture.at, "/v1/logs", JSON, LOG.as_bytes()).await;
    assert_eq!(said.status, 429, "{}", said.text());
    assert!(said.head.contains("retry-after: 1"), "{}", said.head);
    // A third connection is the last one; the fourth is told so.
    held.push(TcpStream::connect(fixture.at).await.unwrap());
    let said = post(fixture.at, "/v1/logs", JSON, LOG.as_bytes()).await;
    assert_eq!(said.status, 429);
    assert!(
        said.text().contains("too many connections"),
        "{}",
        said.text()
    );
    assert!(said.head.contains("retry-after: 1"), "{}", said.head);
    assert_eq!(
        fixture.source.healthy().error(),
        "all 3 connections are taken; further senders are answered 429"
    );
    drop(held);
    let free = async {
        while post(fixture.at, "/v1/logs", JSON, LOG.as_bytes())
            .await
            .status
            != 200
        {}
    };
    tokio::time::timeout(Duration::from_secs(10), free)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_taken_port_degrades_names_its_holder_and_is_bound_when_it_is_free() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let (buffer, _book) = buffer(BOUNDS);
    let (_takers, gate) = Gate::new();
    let changed = Arc::new(Notify::new());
    let health = HealthCell::new("otlp", Arc::clone(&changed));
    let mut source = Otlp::new("in", &config(at), buffer, gate, health);
    source.start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), changed.notified())
        .await
        .unwrap();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let (name, pid) = (name.trim(), std::process::id());
    assert_eq!(
        source.healthy(),
        Health::Degraded(format!(
            "nothing is received: {at} is taken by {name} (pid {pid}); tried again every 2 s"
        ))
    );
    drop(other);
    tokio::time::timeout(Duration::from_secs(10), changed.notified())
        .await
        .unwrap();
    assert_eq!(source.healthy(), Health::Ok);
    assert_eq!(post(at, "/v1/logs", PROTOBUF, b"").await.status, 200);
    source.stop().await;
    // A stop while it waits for the port ends at once.
    drop(source);
    let _other = std::net::TcpListener::bind(at).unwrap();
    let fresh = Fixture::waiting(at).await;
    assert!(fresh.is_none());
}

impl Fixture {
    /// Starts and stops a receiver whose port is taken; the socket it has then.
    async fn waiting(at: SocketAddr) -> Option<Parked> {
        let (buffer, _book) = buffer(BOUNDS);
        let (_takers, gate) = Gate::new();
        let health = HealthCell::new("otlp", Arc::default());
        let mut source = Otlp::new("in", &config(at), buffer, gate, health);
        source.start().await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), source.stop())
            .await
            .unwrap();
        source.park()
    }
}

#[tokio::test]
async fn an_address_that_is_not_ours_cannot_be_started() {
    let (buffer, _book) = buffer(BOUNDS);
    let (_takers, gate) = Gate::new();
    let health = HealthCell::new("otlp", Arc::default());
    let at = "192.0.2.1:4318".parse().unwrap();
    let mut source = Otlp::new("in", &config(at), buffer, gate, health);
    let error = source.start().await.unwrap_err().to_string();
    assert!(error.starts_with("listen on 192.0.2.1:4318: "), "{error}");
}

#[tokio::test]
async fn a_stop_lets_the_request_under_way_end_and_the_socket_goes_on() {
    let mut fixture = started(1000, |_| {}).await;
    let mut stream = TcpStream::connect(fixture.at).await.unwrap();
    stream
        .write_all(&head("POST /v1/logs", JSON, LOG.len()))
        .await
        .unwrap();
    let (first, last) = LOG.as_bytes().split_at(10);
    stream.write_all(first).await.unwrap();
    // Whoever holds the last connection proves that the head was read.
    let other = post(fixture.at, "/v1/logs", PROTOBUF, b"").await;
    assert_eq!(other.status, 200);
    let (said, ()) = tokio::join!(
        async {
            stream.write_all(last).await.unwrap();
            read(&mut stream).await
        },
        fixture.source.stop()
    );
    assert_eq!(said.status, 200);
    assert_eq!(next(&mut fixture.events).await.len(), 1);

    // Nobody serves it at this moment, and nobody is refused.
    let mut early = TcpStream::connect(fixture.at).await.unwrap();
    let mut parked: Vec<_> = fixture.source.park().into_iter().collect();
    let (buffer, _book) = buffer(BOUNDS);
    let (_takers, gate) = Gate::new();
    let health = HealthCell::new("otlp", Arc::default());
    let mut next = Otlp::new("renamed", &config(fixture.at), buffer, gate, health);
    next.inherit(&mut parked);
    assert!(parked.is_empty());
    next.start().await.unwrap();
    early
        .write_all(&head("POST /v1/logs", PROTOBUF, 0))
        .await
        .unwrap();
    assert_eq!(read(&mut early).await.status, 200);
}
