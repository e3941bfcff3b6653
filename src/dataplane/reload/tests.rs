//! The whole plane on real files, sockets and a scripted endpoint: what a reload touches, and books that close.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::dataplane::book::Reason;
use crate::dataplane::config::FILE_NAME;
use crate::dataplane::health::Health;
use crate::dataplane::load::testing::put;
use crate::dataplane::upload::tests::{Endpoint, reply};

async fn plane(dir: &Path) -> Plane {
    let host = Host {
        supervised: false,
        name: "h1".to_owned(),
        instance_id: "i1".to_owned(),
    };
    Plane::start(Some(dir.to_owned()), host, Arc::default())
        .await
        .unwrap()
}

/// Turns the plane until a condition holds.
async fn until(plane: &mut Plane, what: &str, mut holds: impl FnMut(&Plane) -> bool) {
    let turning = async {
        while !holds(plane) {
            let again = tokio::time::timeout(Duration::from_millis(20), plane.next()).await;
            if let Ok(event) = again {
                plane.handle(event).await;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), turning)
        .await
        .is_err()
    {
        panic!("{what}: {:#?}", plane.report());
    }
}

fn totals(plane: &Plane, part: &str) -> crate::dataplane::book::Totals {
    let parts = plane.pipeline.parts();
    let found = parts.iter().find(|found| found.name == part);
    let totals = found
        .unwrap_or_else(|| panic!("no {part} in {parts:#?}"))
        .totals;
    assert!(totals.closed(), "{part}: {totals}");
    totals
}

fn app_and(socket: &Path, rest: &str) -> String {
    let socket = socket.display();
    format!("sources:\n  app: {{kind: unix_socket, path: {socket}}}\n{rest}")
}

#[tokio::test]
async fn records_that_nobody_takes_are_counted_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let host = "sources: {host: {kind: host_metrics, collectors: [memory]}}\nuploads: {}\n";
    put(dir.path(), FILE_NAME, host);
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "the first sample", |plane| {
        totals(plane, "source.host").dropped(Reason::NoUpload) > 0
    })
    .await;
    let totals = totals(&plane, "source.host");
    assert_eq!(totals.received, totals.dropped(Reason::NoUpload));
    assert_eq!(plane.report().summary, "running; no upload takes from host");
    plane.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_built_in_default_waits_for_a_config() {
    let plane = Plane::start(None, Host::default(), Arc::default())
        .await
        .unwrap();
    let report = plane.report();
    assert_eq!(report.summary, "waiting for config");
    assert_eq!(report.parts.len(), 2);
}

#[tokio::test]
async fn a_reload_touches_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let mut endpoint = Endpoint::start(|_, _| reply(204, "")).await;
    let address = endpoint.address;
    let config = |interval: &str| {
        app_and(
            &socket,
            &format!(
                "  host: {{kind: host_metrics, collectors: [memory], interval: {interval}}}\nuploads:\n  vm: {{kind: victoria_metrics, endpoint: 'http://{address}', from: [host], interval: 100ms}}\n"
            ),
        )
    };
    put(dir.path(), FILE_NAME, &config("1h"));
    let mut plane = plane(dir.path()).await;
    let mut writer = UnixStream::connect(&socket).await.unwrap();
    writer.write_all(b"one\n").await.unwrap();
    until(&mut plane, "the first line", |plane| {
        totals(plane, "source.app").received == 1
    })
    .await;
    until(&mut plane, "the first upload", |plane| {
        totals(plane, "upload.vm").delivered == 6
    })
    .await;
    assert!(endpoint.next().await.head.contains("x-device-id: i1"));

    put(dir.path(), FILE_NAME, &config("2h"));
    let before = plane.running.revision;
    plane.reload().await;
    assert_ne!(plane.running.revision, before);
    assert_eq!(plane.status, ConfigStatus::Applied(plane.running.revision));
    // The same connection, and the same books: the socket source was not touched.
    writer.write_all(b"two\n").await.unwrap();
    until(&mut plane, "the second line", |plane| {
        totals(plane, "source.app").received == 2
    })
    .await;
    // The host source was started anew; the upload was not, so its books go on.
    until(&mut plane, "the second upload", |plane| {
        totals(plane, "upload.vm").delivered == 12
    })
    .await;
    assert_eq!(totals(&plane, "source.host").received, 6);

    plane.reload().await;
    writer.write_all(b"three\n").await.unwrap();
    until(&mut plane, "the third line", |plane| {
        totals(plane, "source.app").received == 3
    })
    .await;
    assert_eq!(
        totals(&plane, "source.host").received,
        6,
        "nothing changed, nothing restarted"
    );
    plane.stop(Duration::from_secs(5)).await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_config_that_is_refused_changes_nothing_and_is_failed_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    put(dir.path(), FILE_NAME, &app_and(&socket, ""));
    let mut plane = plane(dir.path()).await;
    let mut writer = UnixStream::connect(&socket).await.unwrap();
    put(dir.path(), FILE_NAME, "sources: {app: {kind: kafka}}\n");
    plane.reload().await;
    let ConfigStatus::Failed(Some(revision), why) = &plane.status else {
        panic!("{:?}", plane.status)
    };
    assert_ne!(*revision, plane.running.revision);
    assert_eq!(
        why,
        "collect.yaml:1:23: sources.app.kind: not supported in this version: sources of kind \"kafka\" (supported: host_metrics, unix_socket, otlp, kernel)"
    );
    writer.write_all(b"still here\n").await.unwrap();
    until(&mut plane, "a line", |plane| {
        totals(plane, "source.app").received == 1
    })
    .await;
    plane.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_changed_upload_inherits_the_queue_of_its_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let mut endpoint = Endpoint::start(|_, _| reply(204, "")).await;
    // Accepts and never answers.
    let stalled = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = |address: std::net::SocketAddr| {
        format!(
            "sources: {{host: {{kind: host_metrics, collectors: [memory], interval: 1h}}}}\nuploads: {{vm: {{kind: victoria_metrics, endpoint: 'http://{address}', from: [host], interval: 100ms}}}}\n"
        )
    };
    put(
        dir.path(),
        FILE_NAME,
        &config(stalled.local_addr().unwrap()),
    );
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "the first sample", |plane| {
        totals(plane, "upload.vm").pending == 6
    })
    .await;
    put(dir.path(), FILE_NAME, &config(endpoint.address));
    plane.reload().await;
    until(&mut plane, "delivery", |plane| {
        totals(plane, "upload.vm").delivered == 6
    })
    .await;
    let count: usize = endpoint.next().await.lines.len();
    assert_eq!(count, 6);
    plane.stop(Duration::from_secs(5)).await;
    assert_eq!(plane.pipeline.delivery_totals().received, 6);
}

#[tokio::test]
async fn a_vanished_upload_is_drained_and_its_books_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut endpoint = Endpoint::start(|_, _| reply(204, "")).await;
    let address = endpoint.address;
    let source = "sources: {host: {kind: host_metrics, collectors: [memory], interval: 1h}}\n";
    let upload = format!(
        "uploads: {{vm: {{kind: victoria_metrics, endpoint: 'http://{address}', from: [host], interval: 1h}}}}\n"
    );
    put(dir.path(), FILE_NAME, &format!("{source}{upload}"));
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "the first sample", |plane| {
        totals(plane, "upload.vm").pending == 6
    })
    .await;
    put(dir.path(), FILE_NAME, source);
    plane.reload().await;
    until(&mut plane, "the drain", |plane| {
        plane.pipeline.delivery_totals().pending == 0
    })
    .await;
    let totals = plane.pipeline.delivery_totals();
    assert!(totals.closed());
    assert_eq!(totals.delivered, 6);
    assert_eq!(endpoint.next().await.lines.len(), 6);
}

#[tokio::test]
async fn one_source_that_cannot_start_does_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("taken");
    put(dir.path(), "taken", "a file, not a socket");
    let rest = "  host: {kind: host_metrics, collectors: [memory], interval: 1h}\n";
    put(dir.path(), FILE_NAME, &app_and(&socket, rest));
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "host metrics", |plane| {
        totals(plane, "source.host").received == 6
    })
    .await;
    let parts = plane.pipeline.parts();
    let Health::Down(why) = &parts[0].health else {
        panic!("{parts:#?}")
    };
    assert!(why.contains("holds something that is no socket"), "{why}");
    // Tried again by itself once the way is free.
    std::fs::remove_file(&socket).unwrap();
    until(&mut plane, "the restart", |plane| {
        plane.pipeline.parts()[0].health.is_ok()
    })
    .await;
    plane.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_stop_flushes_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let mut endpoint = Endpoint::start(|_, _| reply(204, "")).await;
    let address = endpoint.address;
    put(
        dir.path(),
        FILE_NAME,
        &format!(
            "sources: {{host: {{kind: host_metrics, collectors: [memory], interval: 1h}}}}\nuploads: {{vm: {{kind: victoria_metrics, endpoint: 'http://{address}', from: [host], interval: 1h}}}}\n"
        ),
    );
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "the first sample", |plane| {
        totals(plane, "upload.vm").pending == 6
    })
    .await;
    plane.stop(Duration::from_secs(5)).await;
    let totals = plane.pipeline.delivery_totals();
    assert!(totals.closed());
    assert_eq!((totals.delivered, totals.pending), (6, 0));
    assert_eq!(endpoint.next().await.lines.len(), 6);
}

/// A port that nobody listens on; asked for once more if somebody else got it meanwhile.
fn free_address() -> std::net::SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

/// Sends one log record on a connection that stays open; the status of the answer.
async fn send_log(stream: &mut TcpStream) -> u16 {
    let body = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"x"}]}]}]}"#;
    let length = body.len();
    let request = format!(
        "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test]
async fn a_receiver_keeps_its_connections_over_a_reload_and_its_port_over_its_own_change() {
    let dir = tempfile::tempdir().unwrap();
    let at = free_address();
    let config = |interval: &str, body: &str| {
        format!(
            "sources:\n  host: {{kind: host_metrics, collectors: [memory], interval: {interval}}}\n  otlp: {{kind: otlp, listen: '{at}', max_body: {body}}}\nuploads: {{out: {{kind: console, from: [otlp], interval: 1h}}}}\n"
        )
    };
    put(dir.path(), FILE_NAME, &config("1h", "1MiB"));
    let mut plane = plane(dir.path()).await;
    let mut sender = TcpStream::connect(at).await.unwrap();
    assert_eq!(send_log(&mut sender).await, 200);
    put(dir.path(), FILE_NAME, &config("2h", "1MiB"));
    plane.reload().await;
    assert_eq!(send_log(&mut sender).await, 200, "the same connection");

    put(dir.path(), FILE_NAME, &config("2h", "2MiB"));
    let knocking = async {
        let mut count = 0;
        for _ in 0..200 {
            drop(TcpStream::connect(at).await.expect("nobody is refused"));
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    };
    let (count, ()) = tokio::join!(knocking, plane.reload());
    assert_eq!(count, 200);
    let mut sender = TcpStream::connect(at).await.unwrap();
    assert_eq!(send_log(&mut sender).await, 200);
    until(&mut plane, "the third record", |plane| {
        totals(plane, "upload.out").received == 3
    })
    .await;
    // Nobody wants it any more: the port is free.
    put(dir.path(), FILE_NAME, "sources: {}\n");
    plane.reload().await;
    drop(std::net::TcpListener::bind(at).unwrap());
}

#[tokio::test]
async fn senders_wait_for_a_stalled_endpoint_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let at = free_address();
    // Accepts and never answers.
    let stalled = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = |upload: &str| {
        format!(
            "sources: {{otlp: {{kind: otlp, listen: '{at}'}}}}\nuploads: {{out: {{{upload}, from: [otlp], interval: 100ms, queue: {{records: 4}}}}}}\n"
        )
    };
    let endpoint = stalled.local_addr().unwrap();
    put(
        dir.path(),
        FILE_NAME,
        &config(&format!("kind: otlp_http, endpoint: 'http://{endpoint}'")),
    );
    let mut plane = plane(dir.path()).await;
    let mut sender = TcpStream::connect(at).await.unwrap();
    for count in 1..=4 {
        assert_eq!(send_log(&mut sender).await, 200, "{count}");
    }
    assert_eq!(send_log(&mut sender).await, 503);
    until(&mut plane, "four records wait", |plane| {
        totals(plane, "upload.out").pending == 4
    })
    .await;
    assert_eq!(send_log(&mut sender).await, 503);
    assert_eq!(totals(&plane, "source.otlp").received, 4);
    // Another endpoint takes them, and there is room again.
    put(dir.path(), FILE_NAME, &config("kind: console"));
    plane.reload().await;
    until(&mut plane, "all are delivered", |plane| {
        totals(plane, "upload.out").delivered == 4
    })
    .await;
    assert_eq!(send_log(&mut sender).await, 200);
    until(&mut plane, "the last one too", |plane| {
        totals(plane, "upload.out").delivered == 5
    })
    .await;
    let totals = totals(&plane, "upload.out");
    assert_eq!((totals.received, totals.dropped_total()), (5, 0));
    plane.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_receiver_whose_port_is_taken_degrades_and_the_rest_runs() {
    let dir = tempfile::tempdir().unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let config = format!(
        "sources:\n  otlp: {{kind: otlp, listen: '{at}'}}\n  host: {{kind: host_metrics, collectors: [memory], interval: 1h}}\n"
    );
    put(dir.path(), FILE_NAME, &config);
    let mut plane = plane(dir.path()).await;
    until(&mut plane, "host metrics, and a sentence", |plane| {
        let parts = plane.pipeline.parts();
        totals(plane, "source.host").received == 6
            && matches!(&parts[0].health, Health::Degraded(why) if why.contains("is taken by"))
    })
    .await;
    drop(other);
    until(&mut plane, "the port", |plane| {
        plane.pipeline.parts()[0].health.is_ok()
    })
    .await;
    plane.stop(Duration::from_secs(5)).await;
}
