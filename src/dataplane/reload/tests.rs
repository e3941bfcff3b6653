//! The whole plane on real files, sockets and a scripted endpoint: what a reload touches, and books that close.

use std::path::Path;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::*;
use crate::dataplane::book::Reason;
use crate::dataplane::config::FILE_NAME;
use crate::dataplane::health::Health;
use crate::dataplane::load::testing::put;
use crate::dataplane::upload::tests::{Endpoint, reply};

async fn plane(dir: &Path) -> Plane {
    let host = Host {
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
    assert_eq!(report.parts.len(), 1);
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
        "collect.yaml:1:23: sources.app.kind: not supported in this version: sources of kind \"kafka\" (supported: host_metrics, unix_socket)"
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
