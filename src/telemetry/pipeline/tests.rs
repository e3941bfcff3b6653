//! Given a receiver that takes, delays, refuses or is away; when records are brought; then each is counted once.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::Tls;
use crate::units::Secret;

/// A receiver that answers with these heads in turn and keeps what it was sent.
async fn receiver(answers: &[&str]) -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/logs", listener.local_addr().unwrap());
    let answers: Vec<String> = answers.iter().map(|head| (*head).to_owned()).collect();
    let (tx, rx) = unbounded();
    tokio::task::spawn_local(async move {
        for head in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                stream.read_buf(&mut request).await.unwrap();
            }
            tx.send(request).ok();
            let answer =
                format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, rx)
}

#[expect(clippy::disallowed_methods, reason = "a test reads all of it")]
fn unbounded() -> (
    mpsc::UnboundedSender<Vec<u8>>,
    mpsc::UnboundedReceiver<Vec<u8>>,
) {
    mpsc::unbounded_channel()
}

fn parts(request: &[u8]) -> Option<(String, &[u8])> {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    Some((head, &request[end..]))
}

fn is_whole(request: &[u8]) -> bool {
    let Some((head, body)) = parts(request) else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
}

fn outlet(url: String, gzip: bool) -> Outlet {
    Outlet {
        signal: "logs",
        export: Export {
            url,
            headers: vec![("x-key".to_owned(), Secret::new("k"))],
            tls: Tls::default(),
            gzip,
            timeout: Duration::from_secs(5),
            every: Duration::from_millis(20),
            batch_max: 3,
            queue_max: 4,
        },
        sender: Arc::default(),
        proxies: ProxyRules::default(),
    }
}

fn record(number: u64) -> Record {
    Record::Log(Box::new(LogRecord {
        time_unix_nano: number,
        ..LogRecord::default()
    }))
}

fn numbers(request: &[u8]) -> Vec<u64> {
    let (head, body) = parts(request).unwrap();
    let mut plain = Vec::new();
    if head.contains("content-encoding: gzip") {
        use std::io::Read as _;
        #[expect(clippy::disallowed_types, reason = "a test reads what it wrote itself")]
        let mut decoder = flate2::read::GzDecoder::new(body);
        decoder.read_to_end(&mut plain).unwrap();
    } else {
        plain.extend(body);
    }
    let request = ExportLogsServiceRequest::decode(plain.as_slice()).unwrap();
    let records = &request.resource_logs[0].scope_logs[0].log_records;
    records.iter().map(|record| record.time_unix_nano).collect()
}

/// Runs a pipeline to its end over records that are there at once. Returns sent and dropped.
async fn run(outlet: Outlet, count: u64, until: impl Future<Output = ()>) -> (u64, u64) {
    let (intake, queue) = Intake::new(outlet.export.queue_max);
    for number in 1..=count {
        intake.push(record(number));
    }
    let (stop, stopped) = watch::channel(false);
    let counts = Arc::clone(&intake.counts);
    let pipeline = tokio::task::spawn_local(Pipeline::new(queue, outlet, stopped).run());
    until.await;
    stop.send_replace(true);
    pipeline.await.unwrap();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    (of(&counts.sent), of(&counts.dropped))
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}

#[test]
fn records_come_in_batches_with_headers_compressed_and_the_rest_at_the_stop() {
    local(async {
        let (url, mut requests) = receiver(&["200 OK", "200 OK"]).await;
        let (first, rest) = tokio::sync::oneshot::channel();
        let taken = async {
            first.send(requests.recv().await.unwrap()).ok();
        };
        // The fifth does not fit into the queue.
        assert_eq!(run(outlet(url, true), 5, taken).await, (4, 1));
        let first = rest.await.unwrap();
        let (head, _) = parts(&first).unwrap();
        for line in [
            "post /v1/logs",
            "x-key: k",
            "content-type: application/x-protobuf",
            "content-encoding: gzip",
        ] {
            assert!(head.contains(line), "{head}");
        }
        assert_eq!(numbers(&first), [1, 2, 3]);
        assert_eq!(numbers(&requests.recv().await.unwrap()), [4]);
    });
}

#[test]
fn a_receiver_that_asks_for_time_gets_it_and_then_the_same_batch() {
    local(async {
        let (url, mut requests) = receiver(&["503 Busy\r\nRetry-After: 1", "200 OK"]).await;
        let began = crate::sys::clock::monotonic();
        let both = async {
            assert_eq!(numbers(&requests.recv().await.unwrap()), [1]);
            assert_eq!(numbers(&requests.recv().await.unwrap()), [1]);
        };
        assert_eq!(run(outlet(url, false), 1, both).await, (1, 0));
        let took = crate::sys::clock::monotonic().since(began);
        assert!(took >= Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn what_is_refused_for_good_is_dropped_at_once() {
    local(async {
        let (url, mut requests) = receiver(&["400 Bad", "200 OK"]).await;
        let both = async {
            assert_eq!(numbers(&requests.recv().await.unwrap()), [1, 2, 3]);
            assert_eq!(numbers(&requests.recv().await.unwrap()), [4]);
        };
        assert_eq!(run(outlet(url, false), 4, both).await, (1, 3));
    });
}

#[test]
fn a_receiver_that_is_away_costs_records_and_no_waiting_at_the_stop() {
    local(async {
        // Port 9 of this host is nobody's.
        let outlet = outlet("http://127.0.0.1:9/v1/logs".to_owned(), false);
        let began = crate::sys::clock::monotonic();
        assert_eq!(run(outlet, 6, async {}).await, (0, 6));
        let took = crate::sys::clock::monotonic().since(began);
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn errors_name_no_header_and_no_query() {
    local(async {
        let outlet = outlet("http://127.0.0.1:9/v1/logs?key=s3cret".to_owned(), false);
        let refusal = outlet.send(Vec::new()).await.unwrap_err();
        assert!(!refusal.reason.contains("s3cret"), "{}", refusal.reason);
        assert!(
            refusal.reason.contains("http://127.0.0.1:9/v1/logs"),
            "{}",
            refusal.reason
        );
    });
}
