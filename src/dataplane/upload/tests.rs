//! The upload core against a scripted endpoint: retry classes, isolation, bounds, and books that close.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::dataplane::book::{Book, Totals};
use crate::dataplane::config::{Bounds, HttpConfig, Thresholds};
use crate::dataplane::record::{Metric, Number, Point, Unit};
use crate::units::WallTime;

static VALUE: Metric = Metric::gauge("test.value", Unit::Count("{x}"));

/// One request as the endpoint saw it.
#[derive(Debug, Clone)]
pub(in crate::dataplane) struct Seen {
    pub(in crate::dataplane) head: String,
    pub(in crate::dataplane) lines: Vec<serde_json::Value>,
}

impl Seen {
    fn values(&self) -> Vec<u64> {
        self.lines
            .iter()
            .flat_map(|line| line["values"].as_array().unwrap())
            .map(|value| value.as_u64().unwrap())
            .collect()
    }
}

/// An endpoint that answers by a script over what it reads; anything after the script is 204.
pub(in crate::dataplane) struct Endpoint {
    pub(in crate::dataplane) address: std::net::SocketAddr,
    seen: mpsc::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Endpoint {
    pub(in crate::dataplane) async fn start(
        answer: impl Fn(usize, &Seen) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tx, seen) = mpsc::channel(10_000);
        let answer = Arc::new(answer);
        let count = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (tx, answer, count) = (tx.clone(), Arc::clone(&answer), Arc::clone(&count));
                connections.spawn(async move {
                    while let Some(seen) = read(&mut stream).await {
                        let index = count.fetch_add(1, Ordering::Relaxed);
                        let reply = answer(index, &seen);
                        tx.send(seen).await.unwrap();
                        stream.write_all(reply.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    pub(in crate::dataplane) async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_mins(2), self.seen.recv())
            .await
            .expect("a request comes")
            .unwrap()
    }
}

pub(in crate::dataplane) fn reply(status: u16, extra: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{extra}content-length: 0\r\n\r\n")
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?
        .parse()
        .ok()?;
    while bytes.len() < head_end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    #[expect(clippy::disallowed_types, reason = "a test reads what it wrote itself")]
    let mut decoder = flate2::read::GzDecoder::new(&bytes[head_end + 4..]);
    let mut text = String::new();
    io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Some(Seen {
        head,
        lines: lines.collect(),
    })
}

struct Fixture {
    inlet: queue::Inlet,
    book: Arc<Book>,
    orders: watch::Sender<Order>,
    task: JoinSet<Vec<Queued>>,
    health: HealthCell,
}

fn start(
    address: &str,
    chunk: usize,
    bounds: Bounds,
    tweak: impl FnOnce(&mut HttpConfig),
) -> Fixture {
    let mut http = HttpConfig {
        endpoint: format!("http://{address}").parse().unwrap(),
        headers: Vec::new(),
        bearer_token_file: None,
        ca_file: None,
        timeout: Duration::from_secs(5),
    };
    tweak(&mut http);
    let config = UploadConfig {
        from: vec!["s".to_owned()],
        queue: bounds,
        interval: Duration::from_millis(100),
        batch: 1000,
        chunk,
        thresholds: Thresholds {
            degraded_after: Duration::from_mins(1),
            error_after: Duration::from_mins(10),
            degraded_backlog: 50,
            error_backlog: 90,
        },
        kind: UploadKind::VictoriaMetrics(http),
    };
    let (inlet, rx) = queue::open(bounds, Arc::default());
    let health = HealthCell::new("upload.u", Arc::default());
    let resource = Resource {
        attributes: vec![("service.instance.id".to_owned(), "me".to_owned())],
    };
    let uploader = Uploader::new(
        config,
        &resource,
        rx,
        Vec::new(),
        (health.clone(), Arc::default()),
    );
    let orders = watch::Sender::new(Order::Run);
    let mut task = JoinSet::new();
    task.spawn(uploader.run(orders.subscribe()));
    Fixture {
        inlet,
        book: Arc::default(),
        orders,
        task,
        health,
    }
}

const ROOMY: Bounds = Bounds {
    records: 10_000,
    bytes: 64 * 1024 * 1024,
};

impl Fixture {
    fn push(&self, values: std::ops::Range<u64>) {
        for value in values {
            let record = Arc::new(Record::Point(Point {
                metric: &VALUE,
                attributes: Vec::new(),
                value: Number::Int(value),
                time: WallTime::from_unix_millis(1_700_000_000_000 + value),
                start: WallTime::default(),
            }));
            self.inlet.push(&record, &"s".into(), &self.book, None);
        }
    }

    /// Waits until nothing is pending.
    async fn settled(&self) -> Totals {
        tokio::time::timeout(Duration::from_mins(5), async {
            while self.book.totals().pending > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("everything settles");
        let totals = self.book.totals();
        assert!(totals.closed(), "{totals}");
        totals
    }

    async fn end(&mut self, order: Order) -> Vec<Queued> {
        self.orders.send_replace(order);
        tokio::time::timeout(Duration::from_secs(20), self.task.join_next())
            .await
            .expect("the uploader ends")
            .unwrap()
            .unwrap()
    }
}

#[tokio::test]
async fn a_batch_goes_in_chunks_in_the_order_of_time() {
    let mut endpoint = Endpoint::start(|_, _| reply(204, "")).await;
    let mut fixture = start(&endpoint.address.to_string(), 50, ROOMY, |_| {});
    fixture.push(0..120);
    let mut values = Vec::new();
    for (index, size) in [50, 50, 20].into_iter().enumerate() {
        let seen = endpoint.next().await;
        assert!(
            seen.head.starts_with("post /api/v1/import http/1.1"),
            "{}",
            seen.head
        );
        for line in [
            "content-type: application/x-ndjson".to_owned(),
            "content-encoding: gzip".to_owned(),
            "user-agent: adjutant/".to_owned(),
            "x-device-id: me".to_owned(),
            format!("x-chunk-index: {index}"),
            format!("x-chunk-metrics: {size}"),
            "x-attempt: 1".to_owned(),
        ] {
            assert!(seen.head.contains(&line), "{line} in {}", seen.head);
        }
        values.extend(seen.values());
    }
    assert_eq!(values, (0..120).collect::<Vec<_>>());
    let totals = fixture.settled().await;
    assert_eq!((totals.received, totals.delivered), (120, 120));
    assert_eq!(fixture.health.get(), Health::Ok);
    assert!(fixture.end(Order::HandOver).await.is_empty());
}

#[tokio::test]
async fn one_bad_record_costs_itself_alone() {
    let mut endpoint = Endpoint::start(|_, seen| {
        let bad = seen.values().contains(&77);
        reply(if bad { 400 } else { 204 }, "")
    })
    .await;
    let fixture = start(&endpoint.address.to_string(), 100, ROOMY, |_| {});
    fixture.push(0..100);
    let totals = fixture.settled().await;
    assert_eq!(totals.delivered, 99);
    assert_eq!(totals.dropped(Reason::Rejected), 1);
    let mut stored = Vec::new();
    while let Ok(seen) = endpoint.seen.try_recv() {
        if !seen.values().contains(&77) {
            stored.extend(seen.values());
        }
    }
    stored.sort_unstable();
    let wanted: Vec<_> = (0..100).filter(|value| *value != 77).collect();
    assert_eq!(stored, wanted, "each of the others exactly once");
}

#[tokio::test]
async fn too_large_a_body_is_halved() {
    let endpoint =
        Endpoint::start(|_, seen| reply(if seen.values().len() > 10 { 413 } else { 204 }, ""))
            .await;
    let fixture = start(&endpoint.address.to_string(), 100, ROOMY, |_| {});
    fixture.push(0..100);
    let totals = fixture.settled().await;
    assert_eq!((totals.delivered, totals.dropped_total()), (100, 0));
}

#[tokio::test]
async fn a_wrong_path_drops_with_a_reason_and_is_down() {
    let endpoint = Endpoint::start(|_, _| reply(404, "")).await;
    let fixture = start(&endpoint.address.to_string(), 100, ROOMY, |_| {});
    fixture.push(0..10);
    let totals = fixture.settled().await;
    assert_eq!(totals.dropped(Reason::Rejected), 10);
    assert_eq!(
        fixture.health.get(),
        Health::Down("records are dropped: answer 404 Not Found".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn throttling_is_obeyed_and_nothing_is_lost() {
    let mut endpoint = Endpoint::start(|index, _| match index {
        0 => reply(429, "retry-after: 100\r\n"),
        1 => reply(503, ""),
        2 => reply(503, "retry-after: 100000\r\n"),
        _ => reply(204, ""),
    })
    .await;
    let fixture = start(&endpoint.address.to_string(), 100, ROOMY, |_| {});
    fixture.push(0..10);
    let mut waited = Vec::new();
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let began = tokio::time::Instant::now();
        let seen = endpoint.next_paused().await;
        waited.push(began.elapsed().as_secs());
        attempts.push(
            seen.head
                .lines()
                .find(|line| line.starts_with("x-attempt"))
                .unwrap()
                .to_owned(),
        );
    }
    let [_, first, second, third] = waited.as_slice() else {
        panic!("{waited:?}")
    };
    assert!((100..=101).contains(first), "{waited:?}");
    assert!((1..=3).contains(second), "{waited:?}");
    assert!(
        (300..=301).contains(third),
        "capped at 5 minutes: {waited:?}"
    );
    assert_eq!(
        attempts,
        [
            "x-attempt: 1",
            "x-attempt: 2",
            "x-attempt: 3",
            "x-attempt: 4"
        ]
    );
    assert_eq!(fixture.settled().await.delivered, 10);
}

impl Endpoint {
    /// Like `next` under a paused clock, where a limit of time would come at once.
    async fn next_paused(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_keep_the_data_and_the_token_is_read_anew() {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"old").unwrap();
    let mut endpoint = Endpoint::start(|_, seen| {
        let good = seen.head.contains("authorization: bearer new");
        reply(if good { 204 } else { 401 }, "")
    })
    .await;
    let path = file.path().to_owned();
    let fixture = start(&endpoint.address.to_string(), 100, ROOMY, |http| {
        http.bearer_token_file = Some(path);
    });
    fixture.push(0..10);
    let seen = endpoint.next_paused().await;
    assert!(
        seen.head.contains("authorization: bearer old"),
        "{}",
        seen.head
    );
    while fixture.health.get().is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        fixture.health.get().error(),
        "records are kept: answer 401 Unauthorized"
    );
    assert_eq!(fixture.book.totals().pending, 10);
    std::fs::File::create(file.path())
        .unwrap()
        .write_all(b"new\n")
        .unwrap();
    let began = tokio::time::Instant::now();
    endpoint.next_paused().await;
    assert!(
        began.elapsed() >= Duration::from_secs(45),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(fixture.settled().await.delivered, 10);
}

#[tokio::test]
async fn a_server_error_that_stays_is_isolated_after_some_attempts() {
    tokio::time::pause();
    let endpoint =
        Endpoint::start(|_, seen| reply(if seen.values().contains(&3) { 500 } else { 204 }, ""))
            .await;
    let fixture = start(&endpoint.address.to_string(), 4, ROOMY, |_| {});
    fixture.push(0..8);
    let totals = fixture.settled().await;
    assert_eq!((totals.delivered, totals.dropped(Reason::Rejected)), (7, 1));
}

#[tokio::test]
async fn an_endpoint_that_is_down_fills_the_queue_and_the_books_close() {
    // A port that nobody listens on.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let bounds = Bounds {
        records: 50,
        bytes: 64 * 1024 * 1024,
    };
    let mut fixture = start(&address, 10, bounds, |_| {});
    fixture.push(0..80);
    let totals = fixture.book.totals();
    assert!(totals.closed(), "{totals}");
    assert_eq!(
        (totals.pending, totals.dropped(Reason::QueueFull)),
        (50, 30)
    );
    // Taken out of the channel and still held: the bound counts it.
    fixture
        .health
        .wait_for(|health| !health.error().is_empty())
        .await;
    fixture.push(80..90);
    assert_eq!(fixture.book.totals().dropped(Reason::QueueFull), 40);

    let left = fixture.end(Order::Drain(Duration::from_secs(5))).await;
    assert_eq!(
        left.len(),
        50,
        "a stop does not wait for an endpoint that is down"
    );
    for queued in left {
        queued.give_up(Reason::Shutdown);
    }
    let totals = fixture.book.totals();
    assert!(totals.closed(), "{totals}");
    assert_eq!((totals.pending, totals.dropped(Reason::Shutdown)), (0, 50));
}

#[tokio::test]
async fn a_server_that_hangs_ends_the_attempt_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fixture = start(&address, 10, ROOMY, |http| {
        http.timeout = Duration::from_millis(200);
    });
    fixture.push(0..5);
    let (_held, _) = listener.accept().await.unwrap();
    let wanted = format!("no answer from {address} in 200ms");
    fixture
        .health
        .wait_for(|health| health.error() == wanted)
        .await;
    assert_eq!(fixture.book.totals().pending, 5);
}

#[tokio::test]
async fn a_hand_over_in_the_middle_of_a_request_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fixture = start(
        &listener.local_addr().unwrap().to_string(),
        10,
        ROOMY,
        |_| {},
    );
    fixture.push(0..25);
    let (_held, _) = listener.accept().await.unwrap();
    let left = fixture.end(Order::HandOver).await;
    assert_eq!(left.len(), 25);
    assert_eq!(fixture.book.totals().pending, 25);
}
